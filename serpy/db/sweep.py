"""Keeps a small table whole in a TtlCache: reads it page by page, again before its entries get old.

A phone registers once an hour and a cache keeps a row for a minute, so rows that are fetched when they are needed are
always fetched. Reading the whole table twice in each ``ttl_s`` costs less than that as long as the table is small: 10,000
rows cost a process 2 ms each second, one row fetched alone 100 to 300 µs. A table of more than ``max_rows`` is left to
be fetched row by row. What the cache promises stays: a change by serpyctl is seen at once, any other after ``ttl_s``.

Starts with ``start()``, which is cheap when it has been called before. Runs in: receivers. Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from serpy.errors import BackendError, ResourceError

if TYPE_CHECKING:
    from serpy.db.cache import TtlCache
    from serpy.db.interface import Row, Value
    from serpy.net.loop import Loop

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PAGE: Final = 200  # rows; about a millisecond of work between two messages
PAUSE_S: Final = 0.002  # between two pages
RETRY_S: Final = 5.0  # after an error, and between two sweeps that changes ask for


class Sweep(Generic[K, V]):
    """*page(after, limit)* reads rows sorted by their first *width* columns, which lie behind the values *after*; *entry*
    makes one cache entry of all rows that share those columns. Both may raise BackendError, *page* may park. With *nothing*,
    a key that has no row at all is answered with that while the whole table is here.
    """

    def __init__(
        self,
        loop: Loop,
        cache: TtlCache[K, V],
        page: Callable[[Sequence[Value], int], list[Row]],
        entry: Callable[[list[Row]], tuple[K, V]],
        *,
        width: int,
        ttl_s: float,
        max_rows: int,
        nothing: V | None = None,
    ) -> None:
        self.rounds = 0  # complete ones
        self._loop: Final = loop
        self._cache: Final = cache
        self._page: Final = page
        self._entry: Final = entry
        self._width: Final = width
        self._period_s: Final = ttl_s / 2
        self._max_rows: Final = max_rows
        self._nothing: Final = nothing
        self._left_out = False  # a key with more rows than a page holds
        self._started = False
        self._after: list[Value] = []
        self._rows = 0
        self._generation = 0
        self._round_at = 0.0

    def start(self) -> None:
        """Begin, once; the first page is read from the top of the loop."""
        if not self._started and self._max_rows > 0:
            self._started = True
            self._loop.spawn(self._begin)

    def _begin(self) -> None:
        self._round_at = self._loop.now()
        self._generation = self._cache.generation()
        self._after = []
        self._rows = 0
        self._left_out = False
        self._step()

    def _step(self) -> None:
        """Read one page, and say when the next one is due."""
        try:
            again_s = self._read()
        except (BackendError, ResourceError) as exc:
            log.debug("reading ahead: %s", exc)
            self._loop.call_at(self._loop.now() + RETRY_S, self._begin)
            return
        if again_s >= 0.0:
            self._loop.call_at(self._loop.now() + again_s, self._step)

    def _read(self) -> float:
        """Seconds until the next page, -1 when there is none in this round: then the next round is arranged."""
        rows = self._page(self._after, PAGE)
        groups = self._groups(rows)
        is_last = len(rows) < PAGE
        if not is_last:
            # The page may end inside a group: that one comes again. One that fills a page is left to be fetched alone.
            self._after = list(rows[0][: self._width]) if len(groups) == 1 else list(groups[-2][0][: self._width])
            self._left_out = self._left_out or len(groups) == 1
            groups.pop()
        for group in groups:
            key, value = self._entry(group)
            if value and not self._cache.fill(key, value, self._generation):
                self._loop.call_at(self._loop.now() + RETRY_S, self._begin)  # something has changed
                return -1.0
        self._rows += len(rows)
        if self._rows > self._max_rows:
            log.info("more than %d rows: they are fetched when they are needed", self._max_rows)
            return -1.0
        if not is_last:
            return PAUSE_S
        self.rounds += 1
        if self._nothing is not None and not self._left_out:
            self._cache.whole(self._nothing, self._round_at + 2 * self._period_s, self._generation)
        self._loop.call_at(self._round_at + RETRY_S, self._watch)
        return -1.0

    def _watch(self) -> None:
        """Between two rounds: begin early when the cache was dropped."""
        now = self._loop.now()
        if now >= self._round_at + self._period_s or self._cache.generation() != self._generation:
            self._begin()
        else:
            self._loop.call_at(min(now + RETRY_S, self._round_at + self._period_s), self._watch)

    def _groups(self, rows: list[Row]) -> list[list[Row]]:
        width = self._width
        groups: list[list[Row]] = []
        last: Row = ()
        for row in rows:
            head = row[:width]
            if groups and head == last:
                groups[-1].append(row)
            else:
                groups.append([row])
                last = head
        return groups
