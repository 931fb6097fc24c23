"""One epoll loop per process, and the only place that parks a handler (architecture, "no receiver ever waits").

A handler runs straight on the greenlet that leads the loop. When it must wait, that greenlet parks and another one
from the pool takes over the lead; so a message that never waits costs no switch and no greenlet. A parked handler is
resumed from the top of the loop only. After a switch the event list of the last poll is stale: it is thrown away, and
the next (level-triggered) poll reports again whatever is still ready.

A process that sleeps between messages finds its caches cold, which costs more than the message itself. So under load,
and only then, the loop lets arrivals gather for ``coalesce_s`` before it polls again; what gathers runs warm.

Does not catch exceptions of callbacks: the owner replaces ``leader_body`` by a function that calls ``lead()`` again,
and what was due besides the one that raised runs then. Runs in: every child. Locks: none; nothing here is shared between processes.
"""

from __future__ import annotations

import heapq
import math
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from greenlet import getcurrent, greenlet

from serpy.clock import Clock
from serpy.errors import ResourceError, UsageError
from serpy.net.waiters import Waiters

READABLE: Final = 1  # EPOLLIN
WRITABLE: Final = 4  # EPOLLOUT
MAX_EVENTS: Final = 64  # per poll; a small number keeps the kernel's copy and our list small
LONGEST_POLL_S: Final = 60.0
NEVER: Final = math.inf
COMPACT_ABOVE: Final = 1024  # cancelled timers tolerated in the heap before it is rebuilt
COALESCE_WINDOW_S: Final = 0.05  # over which arrivals are counted
COALESCE_FROM: Final = 500.0  # arrivals a second; below, a pause would gather too little to pay for itself


class Timer:
    """A callback at an instant; ``cancel()`` is cheap and may be called at any time."""

    def __init__(self, loop: Loop, when: float, callback: Callable[[], None] | None, ticket: Ticket | None) -> None:
        self.when: Final = when
        self._loop: Final = loop
        self._callback = callback
        self._ticket = ticket
        self.pending = True

    def cancel(self) -> None:
        """Forget the callback; harmless when it has already run."""
        if self.pending:
            self.pending = False
            self._callback = None
            self._ticket = None
            self._loop._timer_cancelled()


class Ticket:
    """One awaited answer. ``id`` travels with the request; whoever gets the answer calls ``loop.resume(id, value)``."""

    def __init__(self, number: int) -> None:
        self.id: Final = number
        self.done = False
        self.value: object = None
        self._greenlet: greenlet | None = None


class Loop(Clock):
    """Readers, timers and parked handlers of one process. Instants are those of *clock*, in seconds."""

    def __init__(self, max_parked: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock(), time.time())
        self._clock: Final = clock
        self.max_parked = max_parked
        self.parked = 0
        self.most_parked = 0
        self.current: object = None  # what is being run: the callback, until it says better; a park keeps it
        self.leader_body: Callable[[], None] = self.lead
        self.coalesce_s = 0.0  # the longest that arrivals may wait to be gathered; 0 = never
        self.arrivals = 0  # counted up by whoever reads messages
        self.backlog = False  # set by a reader that has left messages waiting: then there is nothing to wait for
        self.pause_s = 0.0  # what the arrivals of the last window have decided
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._waits: dict[int, Ticket] = {}
        self._tickets: dict[int, Ticket] = {}
        self._next_ticket = 1
        self._ready: deque[Ticket] = deque()
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._next_timer = 0
        self._cancelled = 0
        self._next_at: Callable[[], float] | None = None
        self._on_timer: Callable[[float], None] | None = None
        self._idle: list[greenlet] = []
        self._home: greenlet | None = None
        self._switches = 0
        self._stopping = False
        self._window_end = self._now + COALESCE_WINDOW_S
        self.waiters: Final = Waiters(self, max_parked)  # who may park for what: less than all for each

    # ------------------------------------------------------------------------------------------------- clocks

    def read_clocks(self) -> None:
        """Read both clocks now: at the start of a process, and once a second by its heartbeat."""
        self._now = self._clock()
        self._wall_offset = time.time() - self._now

    # ------------------------------------------------------------------------------------- readers and timers

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call *callback* whenever *fd* is readable, until ``remove_reader``."""
        known = fd in self._readers
        self._readers[fd] = callback
        if not known:
            self._epoll.register(fd, READABLE)

    def remove_reader(self, fd: int) -> None:
        """Stop watching *fd*; unknown is harmless. Call it before closing the fd."""
        if self._readers.pop(fd, None) is not None:
            self._unregister(fd)

    def watch(self, fd: int, *, readable: bool, writable: bool) -> None:
        """From now on call the callback of the reader *fd* when it is one of these."""
        if fd in self._readers:
            self._epoll.modify(fd, (READABLE if readable else 0) | (WRITABLE if writable else 0))

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* at the monotonic instant *when*, or as soon as the loop runs when that has passed."""
        timer = Timer(self, when, callback, None)
        self._push(timer)
        return timer

    def spawn(self, callback: Callable[[], None]) -> None:
        """Call *callback* from the top of the loop, soon: it may park without holding up the caller."""
        self._soon.append(callback)

    def set_timer_source(self, next_at: Callable[[], float], on_timer: Callable[[float], None]) -> None:
        """Timers kept elsewhere: *next_at* gives their earliest instant (inf = none), *on_timer(now)* runs them."""
        self._next_at = next_at
        self._on_timer = on_timer

    # ---------------------------------------------------------------------------------------------- parking

    def new_ticket(self) -> Ticket:
        """A fresh ticket, alive until ``wait()`` returns or ``drop()``."""
        number = self._next_ticket
        self._next_ticket = number + 1 if number < 0x7FFFFFFF else 1
        ticket = Ticket(number)
        self._tickets[number] = ticket
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Forget a ticket that nobody will wait for."""
        self._tickets.pop(ticket.id, None)

    def resume(self, ticket_id: int, value: object) -> bool:
        """Deliver the answer; False when nobody waits for it (any more)."""
        ticket = self._tickets.get(ticket_id)
        if ticket is None or ticket.done:
            return False
        ticket.done = True
        ticket.value = value
        if ticket._greenlet is not None:
            self._ready.append(ticket)
        return True

    def wait(self, ticket: Ticket, deadline: float) -> object:
        """Park until the ticket's answer is there; None when *deadline* passed first. Raises ResourceError when too
        many handlers are parked, UsageError outside the loop.
        """
        try:
            if not ticket.done:
                self._park(ticket, deadline)
        finally:
            self._tickets.pop(ticket.id, None)
        return ticket.value

    def wait_readable(self, fd: int, deadline: float) -> bool:
        """Park until *fd* is readable; False when *deadline* passed first. Raises ResourceError."""
        return self._wait_fd(fd, READABLE, deadline)

    def wait_writable(self, fd: int, deadline: float) -> bool:
        """Park until *fd* is writable; False when *deadline* passed first. Raises ResourceError."""
        return self._wait_fd(fd, WRITABLE, deadline)

    def sleep(self, seconds: float) -> None:
        """Park for *seconds*. Raises ResourceError."""
        if not self.can_park():
            time.sleep(seconds)
            return
        self._park(Ticket(0), self._clock() + seconds)

    def can_park(self) -> bool:
        """True on a greenlet of the running loop; elsewhere the fd waits block the whole process."""
        return self._home is not None and getcurrent() is not self._home

    def _wait_fd(self, fd: int, mask: int, deadline: float) -> bool:
        if not self.can_park():  # while a process starts there is nobody to hold up
            poller = select.poll()
            poller.register(fd, mask)
            return bool(poller.poll(max(0.0, deadline - self._clock()) * 1000.0))
        if fd in self._waits:
            raise UsageError(f"two handlers wait for fd {fd}")
        ticket = Ticket(0)
        if fd in self._readers:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._waits[fd] = ticket
        try:
            self._park(ticket, deadline)
        finally:
            if self._waits.get(fd) is ticket:
                self._forget_wait(fd)
        return ticket.done

    def _forget_wait(self, fd: int) -> None:
        del self._waits[fd]
        if fd in self._readers:
            self._epoll.modify(fd, READABLE)
        else:
            self._unregister(fd)

    def _unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except OSError:  # closed under us: the kernel has forgotten it already
            return

    def _park(self, ticket: Ticket, deadline: float) -> None:
        """Hand the lead to an idle greenlet and return when the ticket is done or the deadline has passed."""
        if not self.can_park():
            raise UsageError("cannot wait outside the loop")
        if self.parked >= self.max_parked:
            raise ResourceError(f"{self.parked} handlers are waiting already")
        timer = Timer(self, deadline, None, ticket)
        self._push(timer)
        ticket._greenlet = getcurrent()
        current = self.current
        self.parked += 1
        self.most_parked = max(self.most_parked, self.parked)
        self._switches += 1
        self.current = None
        if self._idle:
            self._idle.pop().switch()
        else:
            # The home greenlet makes the new leader: one made here would start as deep in the stack as we are, and a
            # hundred handlers parked by each other would reach the recursion limit.
            assert self._home is not None
            self._home.switch()
        self._now = self._clock()  # the last poll may be older than the one that woke us
        self.parked -= 1
        self.current = current
        ticket._greenlet = None
        timer.cancel()

    # ------------------------------------------------------------------------------------------------ running

    def run(self) -> None:
        """Lead until ``stop()``, at once when that was before. Handlers that are still parked then are abandoned."""
        self._home = getcurrent()
        self.read_clocks()
        try:
            while not self._stopping:  # once, and again whenever a leader parks and no idle one is there
                greenlet(self.leader_body, self._home).switch()
        finally:
            self._home = None

    def stop(self) -> None:
        """Make ``run()`` return after the callback that is running; safe in a signal handler that wakes the loop."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """True once ``stop()`` was called."""
        return self._stopping

    def lead(self) -> None:
        """The loop itself, on the greenlet that leads. Returns when stopped; raises what a callback raises, and may
        then be called again.
        """
        poll = self._epoll.poll
        clock = self._clock
        while not self._stopping:
            while self._ready:
                waiting = self._ready.popleft()._greenlet
                if waiting is not None:
                    self._idle.append(getcurrent())
                    self._switches += 1
                    waiting.switch()
                    if self._stopping:
                        return
            # What is due comes before the poll: a reader that raises each time it is called must not keep us from it.
            # The instant of the last poll may be long ago: a callback may have waited, on this very greenlet.
            if self._soon:
                self._run_soon()
            if self._timers and self._timers[0][0] <= self._now:
                self._run_timers(self._now)
            due = NEVER
            if self._next_at is not None:
                due = self._next_at()
                if due <= self._now:
                    assert self._on_timer is not None
                    self.current = self._on_timer
                    self._now = clock()
                    self._on_timer(self._now)
                    due = self._next_at()
            if self.pause_s > 0.0 and not self._soon and not self._ready and not self.backlog:
                time.sleep(self.pause_s)
            self.backlog = False
            events = poll(self._poll_timeout(due), MAX_EVENTS)
            now = self._now = clock()
            if now >= self._window_end:
                self._close_window(now)
            switches = self._switches
            for fd, _mask in events:
                if self._waits and self._wake_waiter(fd):
                    continue
                callback = self._readers.get(fd)
                if callback is not None:
                    self.current = callback
                    callback()
                    if switches != self._switches:
                        break

    def _close_window(self, now: float) -> None:
        """Decide by what has arrived since the last time whether to let arrivals gather."""
        lasted = now - self._window_end + COALESCE_WINDOW_S
        busy = self.arrivals >= COALESCE_FROM * lasted
        self.pause_s = self.coalesce_s if busy else 0.0
        self.arrivals = 0
        self._window_end = now + COALESCE_WINDOW_S

    def _poll_timeout(self, due: float) -> float:
        """How long to wait when the next timer kept elsewhere is *due* then."""
        if self._ready or self._soon or self._stopping:
            return 0.0
        if self._timers and self._timers[0][0] < due:
            due = self._timers[0][0]
        timeout = due - self._now
        if timeout <= 0.0:
            return 0.0
        return min(LONGEST_POLL_S, timeout)

    def _wake_waiter(self, fd: int) -> bool:
        ticket = self._waits.get(fd)
        if ticket is None:
            return False
        self._forget_wait(fd)
        ticket.done = True
        self._ready.append(ticket)
        return True

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):  # what these add waits for the next round
            if not self._soon:
                return
            callback = self._soon.popleft()
            self.current = callback
            self._now = self._clock()
            callback()

    def _run_timers(self, now: float) -> None:
        """Run what was due at *now*; what these arm at once waits for the next round."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if not timer.pending:
                self._cancelled -= 1
                continue
            timer.pending = False
            ticket = timer._ticket
            if ticket is not None:
                if not ticket.done and ticket._greenlet is not None:
                    ticket_id = ticket.id
                    if ticket_id:
                        self._tickets.pop(ticket_id, None)
                    self._ready.append(ticket)
            elif timer._callback is not None:
                self.current = timer._callback
                self._now = self._clock()
                timer._callback()

    def _push(self, timer: Timer) -> None:
        self._next_timer += 1
        heapq.heappush(self._timers, (timer.when, self._next_timer, timer))

    def _timer_cancelled(self) -> None:
        self._cancelled += 1
        if self._cancelled > COMPACT_ABOVE and self._cancelled * 2 > len(self._timers):
            # In place: _run_timers may be looking at this very list.
            self._timers[:] = [entry for entry in self._timers if entry[2].pending]
            heapq.heapify(self._timers)
            self._cancelled = 0
