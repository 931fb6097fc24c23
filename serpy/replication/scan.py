"""Reading the whole location table a little at a time: sums for a digest, and an index of some buckets for repair.

Runs in: timer. Locks: one stripe at a time inside the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.replication.digest import Sums, bucket_of, entry_hash
from serpy.replication.merge import milliseconds
from serpy.shm.record import Binding

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.shm.table import LocationTable

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


Done = Callable[[Sums, Index], None]


class Scanner:
    """Runs one scan at a time; what is asked for meanwhile is one more scan afterwards."""

    def __init__(self, table: LocationTable, loop: Loop) -> None:
        self._table: Final = table
        self._loop: Final = loop
        self._waiting: list[tuple[set[int], Done, bool]] = []
        self._running: list[tuple[set[int], Done, bool]] = []
        self._at = 0
        self._sums = Sums()
        self._index = Index(set(), 0.0)
        self.busy_s = 0.0  # CPU spent, for those who measure

    def scan(self, buckets: set[int], done: Done, *, soon: bool) -> None:
        """Call *done(sums, index of buckets)* after a whole new scan; *soon*: somebody waits for it."""
        self._waiting.append((buckets, done, soon))
        if not self._running:
            self._start()

    def _start(self) -> None:
        self._running, self._waiting = self._waiting, []
        self._at = 0
        self._sums = Sums()
        wanted: set[int] = set()
        for buckets, _, _ in self._running:
            wanted |= buckets
        self._index = Index(wanted, self._loop.now())
        self._loop.spawn(self._slice)

    def _slice(self) -> None:
        started = time.monotonic()
        self._loop.current = "replication scan"
        while self._at >= 0:
            self._page()
            spent = time.monotonic() - started
            if spent >= SLICE_S:
                self.busy_s += spent
                rest = REST_S if any(soon for _, _, soon in self._running) else LONG_REST_S
                self._loop.call_at(self._loop.now() + spent + rest, self._slice)
                return
        self.busy_s += time.monotonic() - started
        finished, self._running = self._running, []
        sums, index = self._sums, self._index
        if self._waiting:
            self._start()
        for _, done, _ in finished:
            done(sums, index)

    def _page(self) -> None:
        wall_now = self._loop.wall_now()
        records, self._at = self._table.page(self._at, PAGE)
        sums, index = self._sums, self._index
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
