"""How many calls count for a key: one row for each receiver, written by it alone, added up by who asks.

A row is made of sets of eight entries (number of the key, calls); an entry without calls is free. What finds its set full
is not counted, so at worst a limit is not enforced for it. Whoever takes over a slab of the call table counts anew.

Runs in: master (make), udp receiver. Locks: none.
"""

from __future__ import annotations

import mmap
from typing import Final

WAYS: Final = 8
_SET_WORDS: Final = WAYS * 2
_SPREAD: Final = 0x9E3779B97F4A7C15  # the low bits of similar keys are alike
_WORD: Final = (1 << 64) - 1


class CallLimits:
    """Rows for *slabs* receivers with room for *records* calls each."""

    def __init__(self, slabs: int, records: int) -> None:
        sets = 16
        while sets * WAYS < records * 2:
            sets *= 2
        self._slabs: Final = slabs
        self._mask: Final = sets - 1
        self._row: Final = sets * _SET_WORDS
        self._words: Final = memoryview(mmap.mmap(-1, slabs * self._row * 8)).cast("Q")
        self._own = 0

    def attach(self, slab: int) -> None:
        """Count in the row of *slab* from now on, from zero."""
        self._own = slab * self._row
        self._words[self._own : self._own + self._row] = memoryview(bytes(self._row * 8)).cast("Q")

    def count(self, key: int) -> int:
        """The calls that count for *key* in all receivers."""
        total = 0
        start = self._set_of(key)
        for slab in range(self._slabs):
            at = self._find(slab * self._row + start, key)
            if at >= 0:
                total += int(self._words[at + 1])
        return total

    def add(self, key: int) -> bool:
        """One more; False when there is no room to count it."""
        start = self._own + self._set_of(key)
        at = self._find(start, key)
        if at < 0:
            at = self._vacant(start)
            if at < 0:
                return False
            self._words[at] = key
        self._words[at + 1] += 1
        return True

    def take(self, key: int) -> None:
        """One less."""
        at = self._find(self._own + self._set_of(key), key)
        if at >= 0 and self._words[at + 1]:
            self._words[at + 1] -= 1

    def _set_of(self, key: int) -> int:
        return ((key * _SPREAD & _WORD) >> 40 & self._mask) * _SET_WORDS

    def _find(self, start: int, key: int) -> int:
        words = self._words
        for at in range(start, start + _SET_WORDS, 2):
            if words[at] == key:
                return at
        return -1

    def _vacant(self, start: int) -> int:
        for at in range(start, start + _SET_WORDS, 2):
            if not self._words[at + 1]:
                return at
        return -1
