"""StoreClient: rows of this process on their way to the ``store``, in a queue for each database.

Requests of one interval travel in one datagram, and the datagrams of all processes leave at the same ticks of the
monotonic clock, so that the store finds them together and commits them together: at 1,500 registrations/s one commit
takes about 15 rows, which costs a fifth of the CPU of 15 commits. After a quiet interval nothing is held back.

Every request is kept until the store has it on disk (in the database, or in its journal), or refuses it: the death of a
store loses nothing, ours loses what is in these queues, which is 10 ms of rows, or what came since a database began to
hang. The successor of a killed store gets what was not answered again, the oldest first and before anything newer:

    client                                     | store
    batches 7 and 8 sent                       | 7 received, killed
                                               | its successor reads 8: "7 is not answered", ignores it
    sees that the slot has a new process       |
    7 and 8 sent again ("again")               | upserts, deletes: same result; inserts: store_progress knows the 7

Runs in: receivers, timer, ctl. Locks: none.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from serpy.db.frames import MAX_FRAME, UNKNOWN, decode_acks, encode_batch, encode_request
from serpy.db.interface import Operation
from serpy.errors import BackendError, OutcomeUnknownError, ResourceError

if TYPE_CHECKING:
    from serpy.net.loop import Loop, Ticket, Timer

log = logging.getLogger(__name__)

INTERVAL_S: Final = 0.010  # between two datagrams for one database; adds at most this to an answer, under load only
MAX_IN_FLIGHT: Final = 4  # datagrams; a unix socket may hold as few as 10 of all senders together
MAX_WAITING: Final = 20_000  # requests kept for one database while the store does not answer
CHECK_S: Final = 0.1  # how often an unanswered batch looks whether there is a new store
RESEND_S: Final = 2.5  # a batch as old as this is sent again in any case
MAX_RESENDS: Final = 100  # then the batch is given up: what is in it makes every store fail
EXIT_WAIT_S: Final = 2.0
REPORT_S: Final = 10.0  # between two reports of lost rows
TIMEOUT_S: Final = 5.0  # for the commit; the database's own deadline is shorter


class Sending(Protocol):
    """What is used of ``net.handoff.Channels``."""

    def send(self, slot: int, kind: int, payload: bytes) -> bool:
        """False when the socket is full."""


class _Request:
    __slots__ = ("data", "ticket")

    def __init__(self, data: bytes, ticket: Ticket | None) -> None:
        self.data = data
        self.ticket = ticket


class _Sent:
    """A batch; *sent_at* 0 = not yet, the socket was full."""

    __slots__ = ("again", "number", "requests", "resends", "sent_at")

    def __init__(self, number: int, requests: list[_Request]) -> None:
        self.number = number
        self.requests = requests
        self.sent_at = 0.0
        self.again = False
        self.resends = 0


class StoreClient:
    """Implements ``api.StoreService``. *store_incarnation* tells one store process from its successor (0 = unknown).

    Register ``on_ack`` for STORE_ACK datagrams. *send_kind* is the STORE_WRITE constant of ``net.handoff``.
    """

    def __init__(
        self,
        loop: Loop,
        channels: Sending,
        store_slot: int,
        send_kind: int,
        store_incarnation: Callable[[], int],
        *,
        timeout_s: float = TIMEOUT_S,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.resent = 0
        self.refused = 0
        self.loop: Final = loop
        self.store: Final = store_incarnation
        self.timeout_s: Final = timeout_s
        self.interval_s: Final = interval_s
        self._channels: Final = channels
        self._slot: Final = store_slot
        self._kind: Final = send_kind
        self._queues: dict[str, Queue] = {}  # by URL
        self._by_incarnation: dict[int, Queue] = {}
        self._lost = 0  # requests refused since the last report of it
        self._report_at = 0.0

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return sum([queue.waiting for queue in self._queues.values()])

    def write(self, operations: Sequence[Operation], *, wait: bool, url: str = "") -> None:
        """Hand *operations* over as one transaction's part; with *wait* return after the commit.

        Raises BackendError (OutcomeUnknownError: they may be on disk all the same), and ResourceError when too many
        handlers wait already; then nothing has been handed over.
        """
        queue = self._queues.get(url)
        if queue is None:
            queue = self._queues[url] = Queue(self, url)
            self._by_incarnation[queue.incarnation] = queue
        queue.write(operations, wait)

    def flush(self) -> None:
        """Send what is queued, as far as the bounds of unanswered datagrams allow."""
        for queue in self._queues.values():
            queue.flush()

    def send_all(self) -> None:
        """Send everything that is queued, without regard for those bounds: this process ends. May take EXIT_WAIT_S."""
        deadline = time.monotonic() + EXIT_WAIT_S
        for queue in self._queues.values():
            while not queue.send_all() and time.monotonic() < deadline:
                time.sleep(0.005)

    def on_ack(self, payload: bytes, _from_slot: int) -> None:
        """Take a STORE_ACK datagram: resume the handlers whose rows are on disk, or were refused."""
        for incarnation, number, errors in decode_acks(payload):
            queue = self._by_incarnation.get(incarnation)
            if queue is not None:  # else it is meant for our predecessor
                queue.on_ack(number, errors)

    def transmit(self, data: bytes) -> bool:
        """Hand a datagram to the store; False when its socket is full."""
        return self._channels.send(self._slot, self._kind, data)

    def claim(self) -> Ticket:
        """A ticket, and a place in the room of the store that must be left, for a handler that is going to wait.

        Raises ResourceError: it must not, nothing has left.
        """
        loop = self.loop
        if loop.parked >= loop.max_parked:
            raise ResourceError(f"{loop.parked} handlers wait already")
        loop.waiters.store.enter()
        return loop.new_ticket()

    def report_lost(self, error: str) -> None:
        """Rows nobody waits for are refused: say so, but not each time."""
        self._lost += 1
        now = time.monotonic()
        if now >= self._report_at:
            self._report_at = now + REPORT_S
            log.error("rows nobody waits for are lost (%d since the last report): %s", self._lost, error)
            self._lost = 0


class Queue:
    """The requests of this process for one database, oldest first: those that are sent and not answered, and the rest."""

    def __init__(self, client: StoreClient, url: str) -> None:
        self.incarnation: Final = int.from_bytes(os.urandom(7), "big")  # never used again, on any server
        self.waiting = 0
        self._client: Final = client
        self._loop: Final = client.loop
        self._url: Final = url
        self._last_number = 0
        self._queue: deque[_Request] = deque()
        self._sent: dict[int, _Sent] = {}
        self._store = 0  # the process that got what is in _sent
        self._blocked = False  # the last of _sent found the socket full
        self._flushed_at = -1e9
        self._flush_timer: Timer | None = None
        self._check_timer: Timer | None = None

    def write(self, operations: Sequence[Operation], wait: bool) -> None:
        """See StoreClient."""
        if self.waiting >= MAX_WAITING:
            raise BackendError(f"{self.waiting} requests are waiting for the store already")
        data = encode_request(operations, wait=wait)
        if len(data) > MAX_FRAME:
            self._write_halves(operations, wait)
            return
        if not wait:
            self._append(_Request(data, None))
            return
        ticket = self._client.claim()
        try:
            request = _Request(data, ticket)
            self._append(request)
            self._await(request, ticket)
        finally:
            self._loop.waiters.store.leave()

    def _append(self, request: _Request) -> None:
        self._queue.append(request)
        self.waiting += 1
        self._flush_when_due()

    def _write_halves(self, operations: Sequence[Operation], wait: bool) -> None:
        """More than a datagram holds: in two, so the halves may land in different transactions."""
        if len(operations) == 1:
            raise BackendError(f"a row for table {operations[0][1]} is larger than {MAX_FRAME} bytes")
        middle = len(operations) // 2
        self.write(operations[:middle], wait)
        self.write(operations[middle:], wait)

    def _await(self, request: _Request, ticket: Ticket) -> None:
        try:
            answer = self._loop.waiters.store.park(ticket, time.monotonic() + self._client.timeout_s)
        except ResourceError as exc:
            if self._withdraw(request):
                raise
            raise OutcomeUnknownError(str(exc)) from None
        if answer is None:
            text = f"the store did not answer within {self._client.timeout_s:g} s"
            if self._withdraw(request):
                raise BackendError(text)
            raise OutcomeUnknownError(text)
        if answer != "":
            error = str(answer)
            if error.startswith(UNKNOWN):
                raise OutcomeUnknownError(error[len(UNKNOWN) :])
            raise BackendError(error)

    def _withdraw(self, request: _Request) -> bool:
        """True when *request* has never left, and now it shall not: the peer is told "no"."""
        if request not in self._queue:
            return False
        self._queue.remove(request)
        self.waiting -= 1
        return True

    # -- sending

    def _flush_when_due(self) -> None:
        if self._flush_timer is not None or len(self._sent) >= MAX_IN_FLIGHT:
            return  # a timer, or the next answer, will do it
        now = time.monotonic()
        if now - self._flushed_at >= self._client.interval_s:
            self.flush()
        else:
            self._flush_at_tick(now)

    def _flush_at_tick(self, now: float) -> None:
        if self._flush_timer is None:
            tick = (int(now / self._client.interval_s) + 1) * self._client.interval_s
            self._flush_timer = self._loop.call_at(tick, self._on_tick)

    def _on_tick(self) -> None:
        self._flush_timer = None
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the bound of unanswered datagrams allows."""
        if not self._is_up_to_date() and not self._send_again():
            return
        while self._queue and len(self._sent) < MAX_IN_FLIGHT:
            if not self._send_next():
                return

    def send_all(self) -> bool:
        """Send everything; False when the socket is full."""
        if not self._is_up_to_date() and not self._send_again():
            return False
        while self._queue:
            if not self._send_next():
                return False
        return True

    def _send_next(self) -> bool:
        requests: list[_Request] = []
        size = 0
        while self._queue and (not requests or size + len(self._queue[0].data) <= MAX_FRAME):
            request = self._queue.popleft()
            size += len(request.data) + 8
            requests.append(request)
        # Time, so that what dead senders have left in store_progress can be told; rising, whatever the clock does.
        number = self._last_number = max(self._last_number + 1, time.time_ns() // 1000)
        sent = self._sent[number] = _Sent(number, requests)
        return self._transmit(sent)

    def _transmit(self, sent: _Sent) -> bool:
        now = self._flushed_at = time.monotonic()
        data = encode_batch(
            self._url, self.incarnation, sent.number, oldest=next(iter(self._sent)), again=sent.again,
            requests=[request.data for request in sent.requests],
        )  # fmt: skip
        if self._client.transmit(data):
            sent.sent_at = now
            self._blocked = False
        else:
            self._blocked = True
            self._flush_at_tick(now)
        self._check_at(now + CHECK_S)
        return not self._blocked

    def _check_at(self, when: float) -> None:
        if self._check_timer is None:
            self._check_timer = self._loop.call_at(when, self._check)

    # -- sending again

    def _is_up_to_date(self) -> bool:
        """True when the present store has been sent everything that is in ``_sent``."""
        store = self._client.store()
        if store == self._store:
            return not self._blocked
        is_new = not self._sent
        self._store = store
        if not is_new:
            self._mark_again()
        return is_new

    def _mark_again(self) -> None:
        """All that is not answered has to be sent again."""
        for sent in list(self._sent.values()):
            if sent.sent_at:
                sent.sent_at = 0.0
                sent.again = True
                sent.resends += 1
                self._client.resent += 1
                if sent.resends > MAX_RESENDS:
                    self._give_up(sent)

    def _give_up(self, sent: _Sent) -> None:
        log.error("%d requests given up: no store has answered them", len(sent.requests))
        del self._sent[sent.number]
        self.waiting -= len(sent.requests)

    def _send_again(self) -> bool:
        """Send what has not left, the oldest first; False when the socket is full."""
        self._blocked = False
        late = [sent for sent in self._sent.values() if not sent.sent_at]
        return all(self._transmit(sent) for sent in late)

    def _check(self) -> None:
        """The check timer has fired: is there a new store, or is this one very late?"""
        self._check_timer = None
        if not self._sent:
            return
        now = time.monotonic()
        oldest = next(iter(self._sent.values())).sent_at
        if oldest and now - oldest > RESEND_S:
            self._mark_again()
            self._send_again()
        self.flush()
        self._check_at(now + CHECK_S)

    # -- answers

    def on_ack(self, number: int, errors: dict[int, str]) -> None:
        """A batch is answered."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return  # the second answer to a batch sent twice
        self.waiting -= len(sent.requests)
        for index, request in enumerate(sent.requests):
            error = errors.get(index, "") if errors else ""
            if error and sent.again and not error.startswith(UNKNOWN):
                error = UNKNOWN + error  # one store has refused it, another one may take it yet
            self._answer(request, error)
        if self._queue:
            self._flush_when_due()

    def _answer(self, request: _Request, error: str) -> None:
        if error:
            self._client.refused += 1
        if request.ticket is not None:
            self._loop.resume(request.ticket.id, error)
        elif error:
            self._client.report_lost(error.removeprefix(UNKNOWN))
