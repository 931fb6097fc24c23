"""StoreClient: rows of this process on their way to the ``store``.

Requests of one interval travel in one datagram, and the datagrams of all processes leave at the same ticks of the
monotonic clock, so that the store finds them together and commits them together: at 1,500 registrations/s one commit
takes about 15 rows, which costs a fifth of the CPU of 15 commits. After a quiet interval nothing is held back.

Every request is kept until the store has answered it. A store that was killed is followed by another one, which gets
what was not answered again; ``store`` recognises what it has seen.

    client                                | store
    batch 7 sent                          | received, committed, killed before the answer
    sees that the slot has a new process  |
    batch 7 sent again ("again")          | upserts and deletes: same result; inserts: store_progress has the 7

Runs in: receivers, timer, ctl. Locks: none.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from serpy.db.frames import MAX_FRAME, decode_acks, encode_batch, encode_request
from serpy.db.interface import Operation
from serpy.errors import BackendError

if TYPE_CHECKING:
    from serpy.net.loop import Loop, Ticket, Timer

log = logging.getLogger(__name__)

INTERVAL_S: Final = 0.010  # between two datagrams of one process; adds at most this to an answer, under load only
MAX_IN_FLIGHT: Final = 4  # datagrams; a unix socket may hold as few as 10 of all senders together
MAX_WAITING: Final = 20_000  # requests kept for a store that does not answer
CHECK_S: Final = 0.1  # how often an unanswered batch looks whether there is a new store
RESEND_S: Final = 2.5  # a batch as old as this is sent again in any case
MAX_RESENDS: Final = 100  # then the batch is given up: what is in it makes every store fail
EXIT_WAIT_S: Final = 2.0
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
    __slots__ = ("again", "number", "requests", "resends", "sent_at", "store")

    def __init__(self, number: int, requests: list[_Request]) -> None:
        self.number = number
        self.requests = requests
        self.sent_at = 0.0  # 0 = not yet: the socket was full
        self.again = False
        self.resends = 0
        self.store = 0


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
        self._loop = loop
        self._channels = channels
        self._slot = store_slot
        self._kind = send_kind
        self._store = store_incarnation
        self._timeout_s = timeout_s
        self._interval_s = interval_s
        # Batch numbers rise over the incarnations of this slot too: nobody sends a million batches a second.
        self._incarnation = time.time_ns() // 1000
        self._next_number = self._incarnation
        self._queue: deque[_Request] = deque()
        self._sent: dict[int, _Sent] = {}
        self._waiting = 0
        self._flushed_at = -1e9
        self._flush_timer: Timer | None = None
        self._check_timer: Timer | None = None

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return self._waiting

    def write(self, operations: Sequence[Operation], *, wait: bool, url: str = "") -> None:
        """Hand *operations* over as one transaction's part; with *wait* return after the commit. Raises BackendError."""
        if self._waiting >= MAX_WAITING:
            raise BackendError(f"{self._waiting} requests are waiting for the store already")
        data = encode_request(url, operations, wait=wait)
        if len(data) > MAX_FRAME:
            self._write_halves(operations, wait, url)
            return
        ticket = self._loop.new_ticket() if wait else None
        request = _Request(data, ticket)
        self._queue.append(request)
        self._waiting += 1
        self._flush_when_due()
        if ticket is not None:
            self._await(request, ticket)

    def _write_halves(self, operations: Sequence[Operation], wait: bool, url: str) -> None:
        """More than a datagram holds: in two, so the halves may land in different transactions."""
        if len(operations) == 1:
            raise BackendError(f"a row for table {operations[0][1]} is larger than {MAX_FRAME} bytes")
        middle = len(operations) // 2
        self.write(operations[:middle], wait=wait, url=url)
        self.write(operations[middle:], wait=wait, url=url)

    def _await(self, request: _Request, ticket: Ticket) -> None:
        answer = self._loop.wait(ticket, time.monotonic() + self._timeout_s)
        if answer is None:
            if request in self._queue:  # never sent, and now it shall not be: the peer was told "no"
                self._queue.remove(request)
                self._waiting -= 1
            raise BackendError(f"the store did not answer within {self._timeout_s:g} s")
        if answer != "":
            raise BackendError(str(answer))

    # -- sending

    def _flush_when_due(self) -> None:
        if self._flush_timer is not None or len(self._sent) >= MAX_IN_FLIGHT:
            return  # a timer, or the next answer, will do it
        now = time.monotonic()
        if now - self._flushed_at >= self._interval_s:
            self.flush()
        else:
            tick = (int(now / self._interval_s) + 1) * self._interval_s
            self._flush_timer = self._loop.call_at(tick, self._on_tick)

    def _on_tick(self) -> None:
        self._flush_timer = None
        for sent in self._sent.values():
            if not sent.sent_at:
                self._transmit(sent)
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the bound of unanswered datagrams allows."""
        while self._queue and len(self._sent) < MAX_IN_FLIGHT:
            self._send_next()

    def send_all(self) -> None:
        """Send everything that is queued, without regard for that bound: this process ends. May take EXIT_WAIT_S."""
        while self._queue:
            self._send_next()
        deadline = time.monotonic() + EXIT_WAIT_S
        for sent in self._sent.values():
            while not sent.sent_at and time.monotonic() < deadline:
                time.sleep(0.005)
                self._transmit(sent)

    def _send_next(self) -> None:
        requests: list[_Request] = []
        size = 0
        while self._queue and (not requests or size + len(self._queue[0].data) <= MAX_FRAME):
            request = self._queue.popleft()
            size += len(request.data) + 8
            requests.append(request)
        self._next_number += 1
        sent = self._sent[self._next_number] = _Sent(self._next_number, requests)
        self._transmit(sent)

    def _transmit(self, sent: _Sent) -> None:
        now = self._flushed_at = time.monotonic()
        sent.store = self._store()
        data = encode_batch(
            self._incarnation, sent.number, again=sent.again, requests=[request.data for request in sent.requests]
        )
        if self._channels.send(self._slot, self._kind, data):
            sent.sent_at = now
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_at(now + self._interval_s, self._on_tick)
        if self._check_timer is None:
            self._check_timer = self._loop.call_at(now + CHECK_S, self._check)

    def _check(self) -> None:
        """The check timer has fired."""
        self._check_timer = None
        if self._sent:
            self._send_late_ones()

    def _send_late_ones(self) -> None:
        """Send again what went to a store that is gone, or is very late."""
        now = time.monotonic()
        store = self._store()
        for sent in list(self._sent.values()):
            if sent.sent_at and (sent.store != store or now - sent.sent_at > RESEND_S):
                self._send_again(sent)
        if self._check_timer is None:
            self._check_timer = self._loop.call_at(now + CHECK_S, self._check)

    def _send_again(self, sent: _Sent) -> None:
        sent.again = True
        sent.resends += 1
        self.resent += 1
        if sent.resends <= MAX_RESENDS:
            self._transmit(sent)
            return
        log.error("%d requests given up: no store has answered them", len(sent.requests))
        del self._sent[sent.number]
        self._waiting -= len(sent.requests)

    # -- answers

    def on_ack(self, payload: bytes, _from_slot: int) -> None:
        """Take a STORE_ACK datagram: resume the handlers whose rows are on disk, or were refused."""
        for incarnation, number, errors in decode_acks(payload):
            if incarnation != self._incarnation:
                continue  # meant for our predecessor
            sent = self._sent.pop(number, None)
            if sent is None:
                continue  # the second answer to a batch sent twice
            self._waiting -= len(sent.requests)
            for index, request in enumerate(sent.requests):
                self._answer(request, errors.get(index, "") if errors else "")
        if self._queue:
            self._flush_when_due()

    def _answer(self, request: _Request, error: str) -> None:
        if error:
            self.refused += 1
        if request.ticket is not None:
            self._loop.resume(request.ticket.id, error)
        elif error:
            log.warning("the store refused rows nobody waits for: %s", error)
