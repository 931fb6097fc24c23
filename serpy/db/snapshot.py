"""A small table held whole in every process: domains and global attributes.

The master loads it before the fork, so a child starts warm and a warm child needs no database. Raising the
generation number makes every process load it again: the first message that notices waits for the new rows, the
others go on with the old ones. A database that is down at the start is no reason not to start: then lookups ask, not
more often than once a second, and while it stays down they work with what there is.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from serpy.errors import BackendError, ResourceError

if TYPE_CHECKING:
    from serpy.db.interface import Database
    from serpy.shm.counters import Counters

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_S: Final = 1.0


class Snapshot(Generic[T]):
    """One table. *name* is its generation number, *load* reads it, *open_database* gives this process's handle.

    The value is replaced as a whole and never changed in place.
    """

    def __init__(self, name: str, load: Callable[[Database], T], empty: T) -> None:
        self.name: Final = name
        self.value: T = empty
        self.is_loaded = False
        self._load: Final = load
        self._seen = -1
        self.is_loading = False
        self._retry_at = 0.0
        self._counters: Counters  # set by preload() and attach()
        self._open: Callable[[], Database] | None = None

    def preload(self, counters: Counters, open_database: Callable[[], Database]) -> None:
        """Load in the master, before the fork, over a handle of its own; a failure is a warning."""
        self._counters = counters
        counters.bump(self.name)  # from here on the number exists, and reading it is one look into a dict
        self._seen = counters.generation(self.name)
        try:
            database = open_database()
            try:
                self.value = self._load(database)
            finally:
                database.close()
        except BackendError as exc:
            log.warning("cannot load %s yet, trying again when it is needed: %s", self.name, exc)
            return
        self.is_loaded = True

    def attach(self, counters: Counters, open_database: Callable[[], Database]) -> None:
        """Say how this child reaches its database."""
        self._counters = counters
        self._open = open_database
        self.is_loading = False
        self._retry_at = 0.0

    def is_current(self) -> bool:
        """False when a look at the value should go through ``get``."""
        return self.is_loaded and self._counters.generation(self.name) == self._seen

    def get(self) -> T:
        """The rows as of the last reload. May park. Raises BackendError when they were never loaded and cannot be."""
        if not self.is_current():
            self._refresh()
        return self.value

    def reload(self) -> T:
        """Load now, in this process, and make all others do it. Raises BackendError, and then nothing changes."""
        self.value = self._load(self._database())
        self.is_loaded = True
        self._seen = self._counters.bump(self.name)
        return self.value

    def _database(self) -> Database:
        if self._open is None:
            raise BackendError(f"no database for {self.name} in this process")
        return self._open()

    def _refresh(self) -> None:
        now = time.monotonic()
        if self.is_loading or now < self._retry_at:
            if not self.is_loaded:
                raise BackendError(f"{self.name} is not loaded yet")
            return
        wanted = self._counters.generation(self.name)
        self.is_loading = True
        try:
            self.value = self._load(self._database())
            self.is_loaded = True
            self._seen = wanted
            log.info("loaded %s", self.name)
        except (BackendError, ResourceError) as exc:
            self._retry_at = time.monotonic() + RETRY_S
            if not self.is_loaded:
                raise BackendError(f"{self.name} cannot be loaded: {exc}") from None
            log.warning("cannot reload %s, working with the old rows: %s", self.name, exc)
        finally:
            self.is_loading = False
