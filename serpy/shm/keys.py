"""The keys of a table in shared memory: sets of eight, where a key is mostly found, or found missing, by one look.

A key is a number of 62 bits, not 0. Which set it is in, and where the look begins, depends on a secret. The look
goes round the set until it meets the key or a place that was never taken; what is let go becomes GONE. No lock: a key is one
word, written whole, the last of *stride* words of which the others are the owner's, who writes those before the key.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from struct import calcsize
from typing import TYPE_CHECKING, Final

from serpy.shm.mixing import mixed

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

WAYS: Final = 8
GONE: Final = -1  # the place of a key that was let go
FULL: Final = -(1 << 62)  # no entry has such a number
SIGNED: Final = "l" if calcsize("l") == 8 else "q"  # l is the same as q, and written in half the time


def words_of(area: memoryview) -> memoryview:
    """*area* as signed words of 8 bytes."""
    return area.cast(SIGNED)


class Keys:
    """*entries* keys, a multiple of WAYS, in *area*, of ``entries * stride * 8`` bytes."""

    def __init__(self, area: memoryview, entries: int, secret: int, stride: int = 1) -> None:
        self._words: Final = words_of(area)
        self._stride: i64 = stride
        self._sets: i64 = entries // WAYS
        self._secret: i64 = secret

    def look(self, key: i64) -> i64:
        """The entry of *key*. Else -1 minus the entry that is free for it, FULL when none is."""
        words, stride = self._words, self._stride
        spread = mixed(self._secret, key)
        first = spread % self._sets * WAYS
        way = spread >> 48
        free: i64 = FULL
        for step in range(WAYS):
            at = first + (way + step) % WAYS
            found: i64 = words[(at + 1) * stride - 1]
            if found == key:
                return at
            if found == 0:
                return -1 - at if free == FULL else free
            if found == GONE and free == FULL:
                free = -1 - at
        return free

    def first_of(self, key: i64) -> i64:
        """The first entry of the set that *key* is in."""
        return mixed(self._secret, key) % self._sets * WAYS

    def key(self, at: i64) -> i64:
        """The key of an entry, 0 = free."""
        key: i64 = self._words[(at + 1) * self._stride - 1]
        return 0 if key == GONE else key

    def put(self, at: i64, key: i64) -> None:
        """The entry is of *key* from now on."""
        self._words[(at + 1) * self._stride - 1] = key

    def free(self, at: i64) -> None:
        """The entry is of nobody from now on."""
        self._words[(at + 1) * self._stride - 1] = GONE
