"""Who may run: one handler per Call-ID at a time; what comes for it meanwhile waits, messages and timers in their order.

A handler that never waits costs two calls here. One that parks is noticed by the next that begins, and from then on
what comes for its Call-ID queues. When it has ended, well or by a bug, what queued goes on, each item from the top of
the loop: so a bug in one is reported like any other and takes nothing from those behind it.

Knows nothing of what a message says. Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from serpy.sip.flow import Flow
from serpy.sip.message import Message
from serpy.transaction.deadlines import call_id_of
from serpy.transaction.timers import Timed

MAX_WAITING: Final = 64  # messages of one Call-ID that may queue behind a parked one; a phone sends a handful
PAUSE_FROM: Final = 32  # from so many on, connections are paused that bring more …
GO_ON_AT: Final = 8  # … until so many are left
STREAM_WAITING: Final = 1024  # messages by connections that may queue: what had been handed over before the pause
WAITING_BYTES: Final = 16 * 1024 * 1024  # of all Call-IDs together
PATIENCE_S: Final = 5.0  # that a connection is paused for one call: others share it


class Waiting:
    """A message that waits for its turn, with its bytes and where it came from; or a timer that does."""

    def __init__(self, data: bytes, message: Message | None, flow: Flow | None, timed: Timed | None) -> None:
        self.data: Final = data
        self.message: Final = message
        self.flow: Final = flow
        self.timed: Final = timed


class Pause:
    """A Call-ID with a queue so long that connections are paused for it; or, after a while, what they bring is refused."""

    def __init__(self) -> None:
        self.connections: Final[set[int]] = set()
        self.refuses = False


class CallOrder:
    """The order of one process. *later* runs a callback from the top of the loop, *handle* does a message that has
    waited, *fire* a timer, *refuse* answers a message that will not be handled, *at* runs a callback some seconds from now.
    """

    def __init__(
        self, later: Callable[[Callable[[], None]], None], handle: Callable[[bytes, Message, Flow], None],
        fire: Callable[[Timed], None], refuse: Callable[[Message, Flow], None],
        at: Callable[[float, Callable[[], None]], None],
    ) -> None:  # fmt: skip
        self._later: Final = later
        self._handle: Final = handle
        self._fire: Final = fire
        self._refuse: Final = refuse
        self._at: Final = at
        self.pause: Callable[[int, bool], None] | None = None  # (connection, paused), where there are any
        self._pauses: Final[dict[str, Pause]] = {}
        self._bytes = 0  # that wait
        # Call-ID of the handler that was begun last and has not ended: found set, it has parked meanwhile.
        self._running = ""
        self._parked: Final[dict[str, deque[Waiting]]] = {}
        # statistics
        self.overrun = 0  # more messages than may wait
        self.repeats = 0  # messages that waited already

    def begin(self, call_id: str) -> bool:
        """True when a handler of *call_id* may run now; then ``end()`` follows. False: ``wait()`` for its turn."""
        if self._running:
            self._parked[self._running] = deque()
            self._running = ""
        if self._parked and call_id in self._parked:
            return False
        self._running = call_id
        return True

    def end(self, call_id: str) -> None:
        """The handler of *call_id* has ended: the next that waits behind it may go on."""
        if not self._parked:
            self._running = ""
            return
        if self._running == call_id:
            self._running = ""
        queue = self._parked.get(call_id)
        if queue is None:
            return  # it has not parked, or nothing was begun meanwhile
        if queue:
            self._go_on_later(call_id)
        else:
            del self._parked[call_id]

    def wait(self, call_id: str, data: bytes, message: Message, flow: Flow) -> bool:
        """Queue a message behind the parked handler of its Call-ID. False when too much waits there already.

        One that is there already is taken for what it is, a repetition: one copy waits, and when its turn comes it is
        answered, however long that was.
        """
        queue = self._parked[call_id]
        streamed = flow.connection != 0 and self.pause is not None
        if not streamed:
            for other in queue:
                if other.data == data:
                    self.repeats += 1
                    return True
        if self._bytes + len(data) > WAITING_BYTES or not self._has_room(call_id, len(queue), streamed=streamed):
            self.overrun += 1
            return False
        queue.append(Waiting(data, message, flow, None))
        self._bytes += len(data)
        if streamed and len(queue) >= PAUSE_FROM:
            self._pause(call_id, flow.connection)
        return True

    def _has_room(self, call_id: str, waiting: int, *, streamed: bool) -> bool:
        if not streamed:
            return waiting < MAX_WAITING
        pause = self._pauses.get(call_id)
        return waiting < (PAUSE_FROM if pause is not None and pause.refuses else STREAM_WAITING)

    def _pause(self, call_id: str, connection: int) -> None:
        """Have *connection* wait until less is queued for *call_id*."""
        pause = self._pauses.get(call_id)
        if pause is None:
            pause = self._pauses[call_id] = self._patient(call_id)
        if not pause.refuses and connection not in pause.connections and self.pause is not None:
            pause.connections.add(connection)
            self.pause(connection, True)

    def _patient(self, call_id: str) -> Pause:
        pause = Pause()
        self._at(PATIENCE_S, lambda: self._lose_patience(call_id, pause))
        return pause

    def _lose_patience(self, call_id: str, pause: Pause) -> None:
        """Refuse what queues by connections for *call_id* beyond PAUSE_FROM, and let them bring other things."""
        if self._pauses.get(call_id) is not pause:
            return
        pause.refuses = True
        queue = self._parked[call_id]
        kept: list[Waiting] = []
        while len(queue) > PAUSE_FROM:
            waiting = queue.pop()
            if waiting.message is None or waiting.flow is None or not waiting.flow.connection:
                kept.append(waiting)
                continue
            self._bytes -= len(waiting.data)
            self.overrun += 1
            self._refuse(waiting.message, waiting.flow)
        kept.reverse()
        queue.extend(kept)
        self._let_go(pause)

    def _let_go(self, pause: Pause) -> None:
        if self.pause is not None:
            for connection in pause.connections:
                self.pause(connection, False)
        pause.connections.clear()

    def _end_pause(self, call_id: str) -> None:
        pause = self._pauses.pop(call_id, None)
        if pause is not None:
            self._let_go(pause)

    def run_timers(self, due: deque[Timed]) -> None:
        """Fire what is due, each in the order of its Call-ID: behind a parked handler it waits, there is always room."""
        while due:
            timed = due.popleft()
            call_id = call_id_of(timed)
            if not self.begin(call_id):
                self._parked[call_id].append(Waiting(b"", None, None, timed))
                continue
            try:
                self._fire(timed)
            finally:
                self.end(call_id)

    def is_idle(self) -> bool:
        """True when no handler is parked or running."""
        return not self._running and not self._parked

    def _go_on_later(self, call_id: str) -> None:
        self._later(lambda: self._next(call_id))  # not in end(), whose every call would pay for the closure

    def _next(self, call_id: str) -> None:
        queue = self._parked[call_id]
        waiting = queue.popleft()
        self._bytes -= len(waiting.data)
        if self._pauses and len(queue) <= GO_ON_AT:
            self._end_pause(call_id)
        try:
            if waiting.timed is not None:
                self._fire(waiting.timed)
            elif waiting.message is not None and waiting.flow is not None:
                self._handle(waiting.data, waiting.message, waiting.flow)
        finally:
            self.end(call_id)
