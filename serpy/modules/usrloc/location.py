"""The location service: the shared table in front, the database behind it.

A change goes into the shared table first (compare and swap on the AoR's record, so nothing is decided under a lock) and is
then written through; only the caller of ``update`` learns that it is on disk. If that is refused, for whatever reason, the
table gets the old bindings back, and where the rows may be on disk all the same they are followed by what the table says.
Tombstones follow the commit. Two processes that change one AoR may reach the database in the wrong order:

    process A                      process B
    table: c expires 100
                                   table: c removed
                                   delete c … on disk
    upsert c … on disk             (the row is back)

so after each acknowledgement the writer looks whether the table has moved on, and writes what it says now.

Runs in: udp receiver, ctl (update, bindings), timer (expire). Locks: one stripe at a time inside the table. RFC: 3261 §10.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.errors import BackendError, LimitExceededError, OutcomeUnknownError, ResourceError
from serpy.limited_log import LimitedLog
from serpy.modules.usrloc import storage
from serpy.shm.record import MAX_KEY, Binding
from serpy.shm.table import LocationTable

if TYPE_CHECKING:
    from serpy.api import Server, StoreService
    from serpy.db.interface import Operation

log = logging.getLogger(__name__)

MEMORY: Final = 0
WRITE_THROUGH: Final = 1
WRITE_BACK: Final = 2
READ_ONLY: Final = 3

_ATTEMPTS: Final = 50  # lost races for one AoR before we call the table overloaded

Decision = tuple[list[Binding], list[Binding]]


class Location:
    """LocationService over *table*. ``store`` is None where nothing can be written (then only memory changes)."""

    def __init__(self, table: LocationTable, server: Server, db_mode: int, db_url: str, newest_first: bool) -> None:
        self.table: Final = table
        self._server: Final = server
        self._db_mode: Final = db_mode
        self._db_url: Final = db_url
        self._newest_first: Final = newest_first
        self.server_id = 0
        self.store: StoreService | None = None
        self._ids: dict[str, int] = {}
        self._reports: Final = LimitedLog(log)

    def bindings(self, table: str, uid: str) -> list[Binding]:
        """All bindings of *uid* in lookup order, expired ones included; asks the database while *table* is loading."""
        key = self._key(table, uid)
        if len(key) > MAX_KEY:
            return []
        found, stamp = self.table.read(key, uid)
        if stamp == 0 and not self.table.is_loaded(key[0]):
            return self._fetch(table, uid, key)[0]
        return found

    def update(
        self,
        table: str,
        uid: str,
        decide: Callable[[list[Binding]], Decision],
        *,
        persist: bool = True,
    ) -> list[Binding]:
        """See LocationService. Without *persist* what is put becomes MEM and the database is not touched."""
        key = self._key(table, uid)
        if len(key) > MAX_KEY:
            raise LimitExceededError("user id too long", status=400)
        for _ in range(_ATTEMPTS):
            current, stamp = self.table.read(key, uid)
            if stamp == 0 and not self.table.is_loaded(key[0]):
                current, stamp = self._fetch(table, uid, key)
            put, removed = decide(current)
            if not put and not removed:
                return current
            for binding in put:
                binding.flags = binding.flags & ~Binding.MEM if persist else binding.flags | Binding.MEM
            after = self._merged(current, put, removed)
            if self.table.replace(key, after, stamp, not self.table.is_loaded(key[0])):
                mark = self.table.last_mark
                removed_at = time.time() if persist and removed else 0.0
                if persist:
                    self._persist(table, key, current, put, removed, mark)
                elif removed:
                    self._forget_rows(table, removed)
                if removed:
                    for hook in self._server.hooks.on_removed:
                        hook(table, removed, removed_at)
                return after
        raise ResourceError("too many processes change the bindings of one user")

    def extent(self) -> tuple[int, int]:
        """(buckets of the table, contacts in it at about this instant)."""
        return self.table.buckets, self.table.contacts()

    def page(self, start: int, max_buckets: int) -> tuple[list[tuple[str, str, list[Binding]]], int]:
        """See LocationService."""
        return self.table.page(start, max_buckets)

    def expire(self, wall_now: float, max_buckets: int, keep_rows: bool) -> int:
        """Drop expired bindings of the next *max_buckets* buckets, here and (unless *keep_rows*) in the database."""
        dropped = self.table.expire(wall_now, max_buckets)
        if not keep_rows and self.store is not None and self._writes():
            rows = [storage.delete_expired(table, binding) for table, binding in dropped if not binding.is_memory_only]
            if rows:
                self.store.write(rows, wait=False, url=self._db_url)
        return len(dropped)

    def flush(self, max_buckets: int = 4096) -> int:
        """Write every binding that is ours to the database again; return how many. Raises BackendError."""
        count = 0
        start = 0
        while start >= 0:
            records, start = self.table.page(start, max_buckets)
            rows: list[Operation] = []
            for table, _, bindings in records:
                rows.extend(storage.upsert(table, binding) for binding in bindings if not binding.is_memory_only)
            if rows and self.store is not None:
                self.store.write(rows, wait=True, url=self._db_url)
                count += len(rows)
        return count

    def insert_loaded(self, table: str, uid: str, bindings: list[Binding]) -> bool:
        """Insert what the database has for *uid*, unless the table knows about *uid* already; True when inserted."""
        key = self._key(table, uid)
        return self.table.replace(key, self._ordered(bindings), 0, True)

    def table_id(self, table: str) -> int:
        """The number of *table*; a new one is loaded at once when there is no database behind it."""
        number = self._ids.get(table)
        if number is None:
            number = self.table.table_id(table)
            if self._db_mode == MEMORY:
                self.table.set_loaded(number, True)
            self._ids[table] = number
        return number

    def _key(self, table: str, uid: str) -> bytes:
        return self.table.key(self.table_id(table), uid)

    def _writes(self) -> bool:
        return self._db_mode in (WRITE_THROUGH, WRITE_BACK)

    def _fetch(self, table: str, uid: str, key: bytes) -> tuple[list[Binding], int]:
        """Bring the rows of *uid* into the table and return what it then has. May park. Raises BackendError."""
        rows = self._server.database(self._db_url).select(table, storage.COLUMNS, {"uid": uid})
        found = storage.live_rows(rows, self.server_id, time.time())
        try:
            # An empty record stays: it says that the database was asked. Somebody faster wins.
            self.table.replace(key, self._ordered(found), 0, True)
        except ResourceError:
            return self._ordered(found), 0
        return self.table.read(key, uid)

    def _merged(self, current: list[Binding], put: list[Binding], removed: list[Binding]) -> list[Binding]:
        gone = {binding.contact for binding in removed}
        gone.update(binding.contact for binding in put)
        return self._ordered([binding for binding in current if binding.contact not in gone] + put)

    def _ordered(self, bindings: list[Binding]) -> list[Binding]:
        """*bindings* in lookup order: by q, the newest first among equals, or by time alone."""
        if len(bindings) > 1:
            bindings.sort(key=_by_time if self._newest_first else _by_q)
        return bindings

    # -- the database ------------------------------------------------------------------------------------------------

    def _persist(
        self,
        table: str,
        key: bytes,
        before: list[Binding],
        put: list[Binding],
        removed: list[Binding],
        mark: int,
    ) -> None:
        if self.store is None or not self._writes():
            return
        rows = storage.operations(table, put, removed)
        kept = {binding.contact for binding in put}
        # Who un-registers here what another server has registered means its row, too: the database may be a shared one.
        for each in removed:
            if each.is_memory_only and each.server_id != self.server_id and each.contact not in kept:
                rows.append(storage.delete(table, each))
        if not rows:
            return
        wanted: dict[str, Binding | None] = {binding.contact: None for binding in removed}
        for binding in put:
            wanted[binding.contact] = binding
        uid = (put or removed)[0].uid
        stored = False
        try:
            self.store.write(rows, wait=self._db_mode == WRITE_THROUGH, url=self._db_url)
            stored = True
            if self._db_mode == WRITE_THROUGH and self.table.change_mark(key) != mark:
                self._settle(table, key, uid, dict(wanted))
        except OutcomeUnknownError:
            self._roll_back(key, uid, before, wanted)
            self._follow(table, key, uid, wanted)
            raise
        except (BackendError, ResourceError):
            self._roll_back(key, uid, before, wanted)
            if stored:
                self._follow(table, key, uid, wanted)
            raise

    def _forget_rows(self, table: str, removed: list[Binding]) -> None:
        """Another server has removed contacts that are ours: delete their rows unless they have been refreshed since."""
        if self.store is None or not self._writes():
            return
        rows = [storage.delete_expired(table, binding) for binding in removed if not binding.is_memory_only]
        if rows:
            try:
                self.store.write(rows, wait=False, url=self._db_url)
            except BackendError as exc:
                self._reports.error("rows", "rows of removed contacts stay in the database until they expire: %s", exc)

    def _follow(self, table: str, key: bytes, uid: str, wanted: dict[str, Binding | None]) -> None:
        """Send what the table says of the contacts in *wanted* behind rows that should not be on disk, but may be."""
        now = {binding.contact: binding for binding in self.table.read(key, uid)[0]}
        rows: list[Operation] = []
        for contact in wanted:
            binding = now.get(contact)
            if binding is None:
                rows.append(storage.delete_contact(table, uid, contact))
            elif not binding.is_memory_only:
                rows.append(storage.upsert(table, binding))
        if rows and self.store is not None:
            with contextlib.suppress(BackendError):  # then the next refresh, or the expiry, puts it right
                self.store.write(rows, wait=False, url=self._db_url)

    def _settle(self, table: str, key: bytes, uid: str, written: dict[str, Binding | None]) -> None:
        """Write again what changed in the table while our rows were on their way, until nothing has."""
        for _ in range(_ATTEMPTS):
            mark = self.table.change_mark(key)
            now = {binding.contact: binding for binding in self.table.read(key, uid)[0]}
            rows: list[Operation] = []
            for contact, ours in written.items():
                theirs = now.get(contact)
                if _same(ours, theirs):
                    continue
                written[contact] = theirs
                if theirs is None:
                    rows.append(storage.delete_contact(table, uid, contact))
                elif not theirs.is_memory_only:
                    rows.append(storage.upsert(table, theirs))
            if rows and self.store is not None:
                self.store.write(rows, wait=True, url=self._db_url)
            if self.table.change_mark(key) == mark:
                return

    def _roll_back(self, key: bytes, uid: str, before: list[Binding], wanted: dict[str, Binding | None]) -> None:
        """Give the contacts of a change the database refused their old bindings back, where nobody changed them since."""
        old = {binding.contact: binding for binding in before}
        for _ in range(_ATTEMPTS):
            current, stamp = self.table.read(key, uid)
            now = {binding.contact: binding for binding in current}
            restored = [b for b in current if b.contact not in wanted or not _same(wanted[b.contact], b)]
            kept = {binding.contact for binding in restored}
            for contact, ours in wanted.items():
                previous = old.get(contact)
                if previous is not None and contact not in kept and _same(ours, now.get(contact)):
                    restored.append(previous)
            try:
                if self.table.replace(key, self._ordered(restored), stamp, not self.table.is_loaded(key[0])):
                    return
            except ResourceError:
                return  # no room for what was removed: it is on disk and comes back at the next start


def _same(left: Binding | None, right: Binding | None) -> bool:
    if left is None or right is None:
        return left is right
    return (
        left.expires_at == right.expires_at
        and left.modified_at == right.modified_at
        and left.cseq == right.cseq
        and left.flags == right.flags
        and left.call_id == right.call_id
    )


def _by_q(binding: Binding) -> tuple[int, float]:
    return (-binding.q, -binding.modified_at)


def _by_time(binding: Binding) -> tuple[int, float]:
    return (0, -binding.modified_at)
