"""Bindings and removals that repair brings, into our table: by the same rules as replicas (merge.py).

Runs in: timer. Locks: one stripe at a time inside the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from serpy.errors import BackendError, ProtocolError, ResourceError
from serpy.replication.digest import entry_hash
from serpy.replication.merge import is_newer, is_same
from serpy.shm.record import Binding

if TYPE_CHECKING:
    from serpy.replication.tombstones import Tombstones
    from serpy.shm.table import LocationTable

STORED: Final = 0  # it is here now
KNOWN: Final = 1  # it was here
OLDER: Final = 2  # what is here is newer
BURIED: Final = 3  # it was removed
REREAD_S: Final = 1.0  # the tombstones are read whole; not for every question
FAILED: Final = 4  # no room, or no database

Decision = tuple[list[Binding], list[Binding]]


class LocationTables(Protocol):
    """What replication needs of usrloc's Location."""

    @property
    def table(self) -> LocationTable:
        """The table in shared memory."""

    def table_id(self, table: str) -> int:
        """The number of a table."""

    def bindings(self, table: str, uid: str) -> list[Binding]:
        """All bindings of a user."""

    def update(
        self, table: str, uid: str, decide: Callable[[list[Binding]], Decision], *, persist: bool = True
    ) -> list[Binding]:
        """Change one user's bindings."""


class Store:
    """Stores and removes. *persist*: replicas go to the database, too; those that are ours always do."""

    def __init__(self, location: LocationTables, tombstones: Tombstones, server_id: int, *, persist: bool) -> None:
        self._location: Final = location
        self._tombstones: Final = tombstones
        self._server_id: Final = server_id
        self._persist: Final = persist
        self._removed: dict[int, int] = {}
        self._removed_read_at = 0.0

    def is_loaded(self) -> bool:
        """True when every table has been read from the database."""
        table = self._location.table
        return all(table.is_loaded(self._location.table_id(name)) for name in table.tables())

    def merge(self, table: str, fresh: Binding) -> tuple[int, Binding | None]:
        """(outcome, the binding of this contact that was here before). May park."""
        if table not in self._location.table.tables():
            return FAILED, None
        attempt = _Attempt(self._tombstones, table, fresh)
        # The row of a contact is written by the server that took its last REGISTER.
        persist = self._persist or fresh.server_id == self._server_id
        try:
            self._location.update(table, fresh.uid, attempt.decide, persist=persist)
        except (ResourceError, BackendError, ProtocolError):
            return FAILED, None
        return attempt.outcome, attempt.known

    def remove(self, table: str, uid: str, contact: str, entry: int, when_ms: int) -> Binding | None:
        """Remove the contact if it is still the registration with hash *entry*; what was removed. May park."""
        gone: list[Binding] = []

        def decide(current: list[Binding]) -> Decision:
            gone.clear()
            for binding in current:
                if binding.contact == contact and entry_hash(table, binding) == entry:
                    binding.modified_at = when_ms / 1000.0  # the time on the tombstone
                    gone.append(binding)
            return [], list(gone)

        try:
            self._location.update(table, uid, decide, persist=self._persist)
        except (ResourceError, BackendError, ProtocolError):
            return None
        return gone[0] if gone else None

    def removed_at(self, table: str, uid: str, contact: str) -> int:
        """When a contact was removed last, in ms of Unix time."""
        return self._tombstones.removed_at(table, uid, contact)

    def removed_entries(self, wall_now: float) -> dict[int, int]:
        """Hash -> when, of everything that was removed until about a second ago."""
        if not 0.0 <= wall_now - self._removed_read_at < REREAD_S:
            self._removed = self._tombstones.removed_entries(wall_now)
            self._removed_read_at = wall_now
        return self._removed

    def find(self, table: str, uid: str, entry: int) -> Binding | None:
        """The binding of *uid* with hash *entry*."""
        try:
            for binding in self._location.bindings(table, uid):
                if entry_hash(table, binding) == entry:
                    return binding
        except (ResourceError, BackendError):
            pass
        return None


class _Attempt:
    """The decision about one binding; may be made several times, the last one counts."""

    def __init__(self, tombstones: Tombstones, table: str, fresh: Binding) -> None:
        self._tombstones: Final = tombstones
        self._table: Final = table
        self._fresh: Final = fresh
        self.outcome = FAILED
        self.known: Binding | None = None

    def decide(self, current: list[Binding]) -> Decision:
        fresh = self._fresh
        self.known = next((binding for binding in current if binding.contact == fresh.contact), None)
        if self.known is not None:
            if is_same(fresh, self.known):
                self.outcome = KNOWN
                return [], []
            if not is_newer(fresh.call_id, fresh.cseq, fresh.modified_at, self.known):
                self.outcome = OLDER
                return [], []
        elif self._tombstones.covers(
            self._table, fresh.uid, fresh.contact, fresh.call_id, fresh.cseq, fresh.modified_at
        ):
            self.outcome = BURIED
            return [], []
        self.outcome = STORED
        return [fresh], []
