"""Who has authenticated: flows and pairs (network, user) with the instant until which that counts, and pairs of a network.

Written only by successful authentication, so no stranger can make room here. A key is a number of 63 bits, never 0, that
nobody can choose: a hash with our secret. Sets of eight, of which the one that ends first makes room. No lock: an entry is
two words, the key written last.

Instants are ticks modulo 2**32, as in ``strangers``. Runs in: every process. Locks: none.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from serpy.shm.strangers import PLAUSIBLE as HOLD_PLAUSIBLE
from serpy.shm.strangers import SET, WAYS, WORD

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

ENTRY: Final = 16
PLAUSIBLE: Final = 64 * 86400 * 30  # ticks: longer than any registration
_DEBT_PLAUSIBLE: Final = HOLD_PLAUSIBLE
_CELLS: Final = Struct("=II")  # until, number


class Known:
    """The table in *area*, of ``Known.size(entries)`` bytes."""

    def __init__(self, area: memoryview, entries: int) -> None:
        self.sets: Final = max(1, entries // WAYS)
        self.entries: Final = self.sets * WAYS
        self._sets: Final = area[: self.entries * 8]
        self._keys: Final = self._sets.cast("Q")
        self._pairs: Final = area[self.entries * 8 : self.entries * ENTRY]
        self._cells: Final = self._pairs.cast("I")  # until, number

    @staticmethod
    def size(entries: int) -> int:
        """The bytes that so many entries take."""
        return max(1, entries // WAYS) * WAYS * ENTRY

    def find(self, key: int, now: int) -> int:
        """The entry of *key*, -1 when there is none or its time is over."""
        at = self._at(key)
        if at >= 0 and 0 < (int(self._cells[at * 2]) - now) & WORD <= PLAUSIBLE:
            return at
        return -1

    def note(self, key: int, ticks: int, now: int, number: int = 0) -> bool:
        """*key* is known for *ticks* more at least; True when it was not before, and then it gets this *number*."""
        first = self._set_of(key)
        keys: tuple[int, ...] = SET.unpack_from(self._sets, first * 8)
        if key not in keys:
            at = first + keys.index(0) if 0 in keys else self._victim(first, now)
            self._keys[at] = 0
            _CELLS.pack_into(self._pairs, at * 8, (now + ticks) & WORD, number)
            self._keys[at] = key
            return True
        at = first + keys.index(key)
        cells = self._cells
        left = (int(cells[at * 2]) - now) & WORD
        is_news = left == 0 or left > PLAUSIBLE
        if is_news or left < ticks:
            cells[at * 2] = (now + ticks) & WORD
        if is_news:
            cells[at * 2 + 1] = number
        return is_news

    def count(self, key: int, ticks: int, now: int, most: int) -> None:
        """``note()``, and one more in the number of *key*, up to *most*."""
        if self.note(key, ticks, now, 1):
            return
        at = self._at(key)
        number = int(self._cells[at * 2 + 1]) if at >= 0 else most
        if number < most:
            self._cells[at * 2 + 1] = number + 1

    def forget(self, key: int) -> None:
        """*key* is known no more."""
        at = self._at(key)
        if at >= 0:
            self._keys[at] = 0

    def number(self, at: int) -> int:
        """A number of the owner's."""
        return int(self._cells[at * 2 + 1])

    def take(self, at: int, interval: int, count: int, now: int) -> bool:
        """Count an event in that number, a level that leaks; False when there is no room for it."""
        debt = (int(self._cells[at * 2 + 1]) - now) & WORD
        if debt > _DEBT_PLAUSIBLE:
            debt = 0
        if debt + interval > count * interval:
            return False
        self._cells[at * 2 + 1] = (now + debt + interval) & WORD
        return True

    def used(self, now: int) -> int:
        """How many are known; looks at all."""
        cells = self._cells
        count = 0
        for at in range(self.entries):
            if self._keys[at] and 0 < (int(cells[at * 2]) - now) & WORD <= PLAUSIBLE:
                count += 1
        return count

    def _set_of(self, key: int) -> int:
        """The first entry of the set that *key* is in."""
        word: i64 = key
        return (word >> 1) % self.sets * WAYS

    def _at(self, key: int) -> int:
        first = self._set_of(key)
        keys: tuple[int, ...] = SET.unpack_from(self._sets, first * 8)
        return first + keys.index(key) if key in keys else -1

    def _victim(self, first: int, now: int) -> int:
        """Whose place in the full set from *first* is given away."""
        found, shortest = first, WORD + 1
        for at in range(first, first + WAYS):
            left = (int(self._cells[at * 2]) - now) & WORD
            if left > PLAUSIBLE:
                left = 0
            if left < shortest:
                found, shortest = at, left
        return found
