"""The memory of calls of one process, and how full it is, how many calls count for whom.

Runs in: udp receiver (a slab of the table is its own); open in the master. Locks: none.
"""

from __future__ import annotations

import logging
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serpy.api import Server
from serpy.limited_log import LimitedLog
from serpy.modules.rr.cookie import Cookie
from serpy.net.steering import owner
from serpy.shm import call_file as layout
from serpy.shm.call_file import CallFile, in_memory, open_file, stamp
from serpy.shm.call_limits import CallLimits
from serpy.shm.calls import Call, CallTable, Side
from serpy.shm.fingerprints import Fingerprints
from serpy.sip.uri import Uri

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

ALARM: Final = 80  # per cent
RINGING_S: Final = 240
COARSE_S: Final = 30  # the file may be so far behind the instants of a call; never behind its state
LEGACY_S: Final = 12 * 3600  # cookies without a head are taken so long after the memory was made

COUNTERS: Final = (
    ("rr.calls", "calls remembered since start"),
    ("rr.current", "calls in memory"),
    ("rr.refused", "requests in a dialog that did not belong to it"),
    ("rr.elsewhere", "requests in a dialog from a host that its side had not used"),
    ("rr.stray_acks", "ACKs that belonged to nothing, dropped"),
    ("rr.no_dialog", "BYE, PRACK and UPDATE without a dialog, answered 481"),
    ("rr.by_cookie", "requests in a dialog let in by their cookie, without a record"),
    ("rr.full", "calls for which there was no record"),
    ("rr.limited", "calls refused by call_limit()"),
)
CALLS, CURRENT, REFUSED, ELSEWHERE, STRAY_ACKS, NO_DIALOG, BY_COOKIE, FULL, LIMITED = range(len(COUNTERS))


class CallMemory:
    """The calls of one process. Made in the master, attached in each receiver on first use."""

    def __init__(self, secret: bytes) -> None:
        self.prints: Final = Fingerprints(blake2b(secret, digest_size=32, person=b"calls").digest())
        self.file: CallFile
        self.table: CallTable
        self.limits: CallLimits
        self.server: Server
        self.is_mine: Callable[[Uri], bool] = _nobody
        self.legacy_until = 0.0
        self.is_attached = False
        self._reports: Final = LimitedLog(log)
        self._ids: list[int] = []

    def open(self, server: Server, slabs: int, records: int) -> None:
        """Make or find the memory; in the master."""
        self.server = server
        now = server.started_wall
        counters = getattr(server, "counters", None)
        if counters is not None:
            self._ids = [counters.declare(name, text) for name, text in COUNTERS]
        self.limits = CallLimits(slabs, records)
        if server.run_dir:
            path = str(Path(server.run_dir) / "calls")
            mark = self.prints.of("mark of the memory of calls")
            try:
                self.file = open_file(path, slabs, records, mark, owner, now)
                self.table = CallTable(self.file)
                self.legacy_until = float(self.file.since + LEGACY_S)
                return
            except OSError as exc:
                log.warning("rr: cannot keep calls in %s (%s): a restart forgets them", path, exc.strerror)
        self.file = in_memory(slabs, records, now)
        self.table = CallTable(self.file)

    def attach(self, slab: int) -> None:
        """Be the writer of *slab*, with the calls that are in it."""
        self.is_attached = True
        table = self.table
        if not 0 <= slab < self.file.slabs:
            return  # no receiver: it only reads
        self.limits.attach(slab)
        table.on_free = self.uncount
        table.attach(slab, stamp(self.server.loop.wall_now()))
        for call in table.calls():
            if call.state != layout.ENDED:
                for key in (call.limit, call.other_limit):
                    if key:
                        self.limits.add(key)
        self.show_count()

    def count(self, counter: int) -> None:
        """One more."""
        if self._ids:
            self.server.counters.add(self._ids[counter])

    def show_count(self) -> None:
        """Tell the counters how many there are."""
        if self._ids:
            self.server.counters.set(self._ids[CURRENT], self.table.count)

    def remembered(self, cookie: Cookie, now: int, meta: int, caller: Side, leg: Side, text: bytes) -> Call | None:
        """The call of *cookie*, None when there is no room for it."""
        table = self.table
        if cookie.level:
            meta |= layout.NAMED
        key = cookie.key
        call = table.make(key, now, now + RINGING_S, meta, cookie.serial, caller, leg, text)
        if call is None and self.is_attached and table.make_room():
            call = table.make(key, now, now + RINGING_S, meta, cookie.serial, caller, leg, text)
        if call is None:
            self.count(FULL)
            self._reports.warning("full", "the memory of calls is full: new ones live by their cookie (rr max_calls)")
        elif table.fill >= ALARM:
            self._reports.warning("fill", "the memory of calls is full to %d %% (rr max_calls)", table.fill)
        return call

    def count_for(self, call: Call, limits: list[int]) -> None:
        """*call* counts for the first two of the keys *limits*."""
        counted = [key for key in limits[:2] if self.limits.add(key)]
        if counted:
            call.limit = counted[0]
            call.other_limit = counted[1] if len(counted) > 1 else 0
            self.table.write_limits(call)

    def last(self, call: Call, now: int, expires: int) -> None:
        """A message has come; the call, whose state is the same, is forgotten at *expires*."""
        expires = min(expires, layout.TIME_MASK)
        call.last = now
        call.expires = expires
        if not -COARSE_S < expires - call.written < COARSE_S:
            self.table.write(call)

    def becomes(self, call: Call, meta: int, now: int, expires: int) -> None:
        """A message has come that makes *meta* of the call, which is forgotten at *expires*."""
        call.meta = meta
        call.last = now
        call.expires = min(expires, layout.TIME_MASK)
        self.table.write(call)

    def uncount(self, call: Call) -> None:
        """The call counts for nothing any more."""
        if not call.limit:
            return
        self.limits.take(int(call.limit))
        if call.other_limit:
            self.limits.take(int(call.other_limit))
        call.limit = call.other_limit = 0
        self.table.write_limits(call)

    def duration(self, dialog: int, wall_now: float) -> int:
        """Seconds since the call was answered; -1 when that is not known."""
        now = stamp(wall_now)
        call = self.table.find(dialog, now) if dialog else None
        return now - call.answered if call is not None and call.answered else -1

    def counts(self, key: int, limit: int, now: float) -> bool:
        """True when fewer than *limit* calls count for *key*."""
        if self.limits.count(key) < limit:
            return True
        self.table.sweep_all(stamp(now))
        return self.limits.count(key) < limit


def _nobody(uri: Uri) -> bool:  # noqa: ARG001 - the interface
    return False
