"""Reading the whole location table a little at a time: sums for a digest, and an index of some buckets for repair.

Runs in: timer. Locks: one stripe at a time inside the table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.errors import ResourceError
from serpy.replication.digest import Sums, bucket_of, entry_hash
from serpy.replication.merge import milliseconds
from serpy.shm.record import Binding

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.shm.table import LocationTable

log = logging.getLogger(__name__)

SCAN_S: Final = 120.0  # at most; two million bindings take half of it
SLICE_S: Final = 0.003  # read at once; then others get their turn
REST_S: Final = 0.003  # between two slices when somebody waits for the result
LONG_REST_S: Final = 0.015  # and when nobody does
PAGE: Final = 64  # buckets of the table between two looks at the clock


class Entry:
    """One binding as the index knows it."""

    def __init__(self, table: str, uid: str, contact: str, modified_ms: int) -> None:
        self.table: Final = table
        self.uid: Final = uid
        self.contact: Final = contact
        self.modified_ms: Final = modified_ms


class Index:
    """The entries of some buckets: bucket -> hash -> Entry. Kept up to date by whoever merges."""

    def __init__(self, buckets: set[int], made_at: float) -> None:
        self.buckets: Final = buckets
        self.made_at = made_at
        self.entries: Final[dict[int, dict[int, Entry]]] = {bucket: {} for bucket in buckets}

    def add(self, table: str, binding: Binding) -> None:
        """Note *binding* when its bucket is ours."""
        found = self.entries.get(bucket_of(table, binding.uid))
        if found is not None:
            entry = Entry(table, binding.uid, binding.contact, milliseconds(binding.modified_at))
            found[entry_hash(table, binding)] = entry

    def remove(self, table: str, binding: Binding) -> None:
        """Forget *binding*."""
        found = self.entries.get(bucket_of(table, binding.uid))
        if found is not None:
            found.pop(entry_hash(table, binding), None)

    def find(self, entry: int) -> Entry | None:
        """The entry with this hash."""
        for found in self.entries.values():
            known = found.get(entry)
            if known is not None:
                return known
        return None

    def hashes(self, bucket: int, low: int, high: int) -> list[int]:
        """The hashes of a range, sorted."""
        return sorted(entry for entry in self.entries.get(bucket, ()) if low <= entry <= high)


class Scan:
    """What one look at the whole table has found."""

    def __init__(self, sums: Sums, index: Index) -> None:
        self.sums: Final = sums
        self.index: Final = index


class Scanner:
    """Reads the table once at a time; those who ask meanwhile share the look that follows."""

    def __init__(self, table: LocationTable, loop: Loop) -> None:
        self._table: Final = table
        self._loop: Final = loop
        self._waiting: list[tuple[int, set[int], bool]] = []  # ticket, buckets, soon
        self._is_running = False
        self.sums: Sums | None = None  # as of the last look, whoever asked for it
        self.busy_s = 0.0  # CPU spent, for those who measure

    def scan(self, buckets: set[int], *, soon: bool, within_s: float = SCAN_S) -> Scan:
        """The sums, and an index of *buckets*, by a look that starts after this call; *soon*: somebody waits for it.
        Parks. Raises ResourceError when it may not, and when it takes longer than *within_s*.
        """
        ticket = self._loop.new_ticket()
        self._waiting.append((ticket.id, buckets, soon))
        if not self._is_running:
            self._is_running = True
            self._loop.spawn(self._run)
        found = self._loop.wait(ticket, self._loop.now() + within_s)
        if not isinstance(found, Scan):
            raise ResourceError("the location table could not be read in time")
        return found

    def _run(self) -> None:
        served: list[tuple[int, set[int], bool]] = []
        try:
            while self._waiting:
                served, self._waiting = self._waiting, []
                found = self._read(served)
                self.sums = found.sums
                for ticket, _, _ in served:
                    self._loop.resume(ticket, found)
        except ResourceError as exc:
            log.debug("the location table is not read: %s", exc)
        finally:  # nobody waits for what does not come
            unserved, self._waiting = [*served, *self._waiting], []
            self._is_running = False
            for ticket, _, _ in unserved:
                self._loop.resume(ticket, None)

    def _read(self, asked: list[tuple[int, set[int], bool]]) -> Scan:
        """One whole look, a slice at a time. Raises ResourceError."""
        sums = Sums()
        index = Index({bucket for _, buckets, _ in asked for bucket in buckets}, 0.0)
        at = 0
        started = time.monotonic()
        self._loop.current = "replication scan"
        while at >= 0:
            at = self._page(at, sums, index)
            spent = time.monotonic() - started
            if spent >= SLICE_S or at < 0:
                self.busy_s += spent
            if spent >= SLICE_S and at >= 0:
                is_urgent = any(soon for _, _, soon in (*asked, *self._waiting))
                self._loop.sleep(spent + (REST_S if is_urgent else LONG_REST_S))
                started = time.monotonic()
        index.made_at = self._loop.now()
        return Scan(sums, index)

    def _page(self, start: int, sums: Sums, index: Index) -> int:
        """Read some buckets of the table from *start*; where to go on, -1 at the end."""
        wall_now = self._loop.wall_now()
        records, at = self._table.page(start, PAGE)
        for table, uid, bindings in records:
            bucket = bucket_of(table, uid)
            indexed = index.entries.get(bucket)
            for binding in bindings:
                if not binding.is_live(wall_now):
                    continue
                entry = entry_hash(table, binding)
                sums.add(bucket, entry)
                if indexed is not None:
                    indexed[entry] = Entry(table, uid, binding.contact, milliseconds(binding.modified_at))
        return at


def start(loop: Loop, life: Callable[[], None]) -> None:
    """Run *life*, which parks, from the top of the loop. When it may not wait it ends: the next digest begins another."""

    def whole() -> None:
        loop.current = "replication"  # for the report of a bug
        try:
            life()
        except ResourceError as exc:
            log.debug("repair: %s", exc)

    loop.spawn(whole)
