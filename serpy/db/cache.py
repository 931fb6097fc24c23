"""Rows kept in this process for a while, so that a warm server does not ask the database.

An entry is fresh for ``ttl_s`` (``negative_ttl_s`` when the value is empty). Within one more ``ttl_s`` it is still served
while one handler fetches it anew, so nobody waits for a slow database; a fetch that fails keeps the old value. The
whole cache is dropped when its generation number moves (serpyctl changed something). Several handlers that miss the
same key ask once.

Runs in: receivers, ctl; nothing is shared. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from serpy.errors import BackendError, ResourceError
from serpy.net.waiters import Crowd

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.shm.counters import Counters

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

RETRY_S: Final = 1.0  # how long an old value is served before the failed database is asked again
SHARED_WAIT_S: Final = 10.0  # longest wait for another handler's fetch; its own deadline is shorter


class Entry(Generic[V]):
    """One cached value: ``fresh_until`` and ``usable_until`` are monotonic."""

    __slots__ = ("fresh_until", "usable_until", "value")

    def __init__(self, value: V, fresh_until: float, usable_until: float) -> None:
        self.value = value
        self.fresh_until = fresh_until
        self.usable_until = usable_until


class TtlCache(Generic[K, V]):
    """Values by key, fetched with *load*, which may park and raises BackendError.

    *generation* names the number that invalidates (``counters.bump(generation)``). Make it in ``child_init``.
    """

    def __init__(
        self,
        loop: Loop,
        counters: Counters,
        generation: str,
        load: Callable[[K], V],
        *,
        ttl_s: float = 60.0,
        negative_ttl_s: float = 5.0,
        max_entries: int = 100_000,
    ) -> None:
        self.hits = 0
        self.misses = 0
        self._loop = loop
        self._counters = counters
        self._name = generation
        self._load = load
        self._ttl_s = ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._max_entries = max_entries
        self._max_absent = max(max_entries // 10, 1)
        self._entries: dict[K, Entry[V]] = {}
        self._absent: dict[
            K, Entry[V]
        ] = {}  # empty values, bounded apart: a scan for users must not push out the real ones
        if counters.generation(generation) == 0:
            counters.bump(generation)  # a number that exists is found at once, one that does not is searched each time
        self._generation = counters.generation(generation)
        self._checked_at = -1.0
        self._whole_until = 0.0
        self._nothing: V | None = None
        self._waiting: dict[K, Crowd] = {}  # keys being fetched, and who else wants them

    def __len__(self) -> int:
        return len(self._entries) + len(self._absent)

    def get(self, key: K) -> V:
        """The value of *key*, from memory if it can be. Raises BackendError (and ResourceError: too many waiting)."""
        now = self._loop.now()
        if now != self._checked_at:  # once per wake-up: a change is seen before the next message
            self._check_generation(now)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._absent.get(key)
        if entry is not None:
            if now < entry.fresh_until:
                self.hits += 1
                return entry.value
            if now < entry.usable_until:
                self.hits += 1
                self._refresh_soon(key, entry, now)
                return entry.value
        elif now < self._whole_until and self._nothing is not None:
            self.hits += 1
            return self._nothing
        self.misses += 1
        return self._fetch_shared(key, entry)

    def fetch(self, key: K) -> V:
        """The value as the database has it now, whatever is kept; it is kept from here on. Raises as ``get`` does."""
        return self._fetch_shared(key, None)

    def refresh(self, key: K) -> None:
        """Have *key* fetched anew behind the caller's back."""
        if key not in self._waiting:
            self._loop.spawn(_Refresh(self, key).run)

    def drop(self, key: K) -> None:
        """Forget one key."""
        self._entries.pop(key, None)
        self._absent.pop(key, None)
        self._whole_until = 0.0

    def generation(self) -> int:
        """The generation number of now: read it before the rows that ``fill`` is to take."""
        return self._counters.generation(self._name)

    def fill(self, key: K, value: V, generation: int) -> bool:
        """Take a row that was read ahead; False when the generation has moved since."""
        if generation != self._counters.generation(self._name):
            return False
        self._check_generation(self._loop.now())
        self._store(key, value, self._ttl_s)
        return True

    def whole(self, nothing: V, until: float, generation: int) -> None:
        """Every row there is has been filled in: until then a key that is not here has *nothing*."""
        if generation == self._counters.generation(self._name):
            self._check_generation(self._loop.now())
            self._nothing = nothing
            self._whole_until = until

    def clear(self) -> None:
        """Forget everything."""
        self._whole_until = 0.0
        self._entries.clear()
        self._absent.clear()

    def _check_generation(self, now: float) -> None:
        self._checked_at = now
        generation = self._counters.generation(self._name)
        if generation != self._generation:
            self._generation = generation
            self.clear()

    def _refresh_soon(self, key: K, entry: Entry[V], now: float) -> None:
        entry.fresh_until = now + RETRY_S  # the others do not start another fetch meanwhile
        self.refresh(key)

    def _fetch_shared(self, key: K, old: Entry[V] | None) -> V:
        waiting = self._waiting.get(key)
        if waiting is not None and self._loop.can_park():
            room = self._loop.waiters.database
            with room:
                room.shared += 1
                outcome = waiting.wait(self._loop.now() + SHARED_WAIT_S)
            entry = self._entries.get(key) or self._absent.get(key)
            if entry is not None and self._loop.now() < entry.usable_until:
                return entry.value
            if outcome is not True:  # the other one failed, or took too long
                raise BackendError(str(outcome or "another handler's query did not end"))
        return self._fetch(key, old)

    def _fetch(self, key: K, old: Entry[V] | None) -> V:
        owner = key not in self._waiting
        if owner:
            self._waiting[key] = Crowd(self._loop, self._loop.waiters.database)
        outcome: object = True
        generation = self._generation
        try:
            value = self._load(key)
        except (BackendError, ResourceError) as exc:
            outcome = str(exc)
            if old is None or generation != self._counters.generation(self._name):
                raise
            self._store(key, old.value, RETRY_S)
            return old.value
        else:
            if generation == self._counters.generation(self._name):  # else it may have been read before the change
                self._store(key, value, self._ttl_s if value else self._negative_ttl_s)
            return value
        finally:
            if owner:
                self._waiting.pop(key).answer(outcome)

    def _store(self, key: K, value: V, ttl_s: float) -> None:
        self._entries.pop(key, None)  # so that it becomes the youngest
        self._absent.pop(key, None)
        entries, most = (self._entries, self._max_entries) if value else (self._absent, self._max_absent)
        if len(entries) >= most:
            del entries[next(iter(entries))]
            self._whole_until = 0.0
        now = self._loop.now()
        entries[key] = Entry(value, now + ttl_s, now + ttl_s + self._ttl_s)


class _Refresh(Generic[K, V]):
    """One fetch behind the back of whoever got the old value."""

    def __init__(self, cache: TtlCache[K, V], key: K) -> None:
        self._cache = cache
        self._key = key

    def run(self) -> None:
        cache = self._cache
        try:
            cache._fetch(self._key, cache._entries.get(self._key) or cache._absent.get(self._key))
        except (BackendError, ResourceError):
            return  # the generation moved meanwhile; whoever asks next sees the error
