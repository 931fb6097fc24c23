"""Who has authenticated: flows and pairs (network, user) with the instant until which that counts, and pairs of a network.

Written only by successful authentication, so no stranger can make room here. A key is a number that nobody can choose: a
hash with our secret. Of a full set the entry that ends first makes room. No lock: an entry is two words, what is known and
the key, written in this order.

Instants are ticks modulo 2**32, as in ``strangers``; a number has 31 bits. Runs in: every process. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.shm.keys import FULL, WAYS, Keys, words_of
from serpy.shm.strangers import PLAUSIBLE as HOLD_PLAUSIBLE
from serpy.shm.strangers import WORD

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

ENTRY: Final = 16
PLAUSIBLE: Final = 64 * 86400 * 30  # ticks: longer than any registration
NUMBER: Final = 0x7FFFFFFF
_NUMBER_AT: Final = 32  # bits of a word below it: until when


class Known:
    """The table in *area*, of ``Known.size(entries)`` bytes. *secret* decides which set a key is in."""

    def __init__(self, area: memoryview, entries: int, secret: int) -> None:
        self.entries: Final = max(1, entries // WAYS) * WAYS
        self._keys: Final = Keys(area[: self.entries * ENTRY], self.entries, secret, 2)
        self._words: Final = words_of(area[: self.entries * ENTRY])

    @staticmethod
    def size(entries: int) -> int:
        """The bytes that so many entries take."""
        return max(1, entries // WAYS) * WAYS * ENTRY

    def look(self, key: i64, now: i64) -> i64:
        """The entry of *key* if its time is not over; else -1 minus the entry to ``write()`` it to, for which room is made."""
        at = self._keys.look(key)
        if at >= 0:
            return at if self.left(at, now) > 0 else -1 - at
        if at == FULL:
            at = -1 - self._victim(self._keys.first_of(key), now)
            self._keys.free(-1 - at)  # first of all: who dies in between leaves nobody another one's time
        return at

    def find(self, key: i64, now: i64) -> i64:
        """The entry of *key*, -1 when there is none or its time is over."""
        at = self._keys.look(key)
        return at if at >= 0 and self.left(at, now) > 0 else -1

    def left(self, at: i64, now: i64) -> i64:
        """For how many ticks an entry counts still."""
        word: i64 = self._words[at * 2]
        left = (word - now) & WORD
        return left if left <= PLAUSIBLE else 0

    def write(self, at: i64, key: i64, until: i64, number: i64) -> None:
        """*key* is known until then, with this number of the owner's."""
        self._words[at * 2] = (until & WORD) | (number & NUMBER) << _NUMBER_AT
        self._words[at * 2 + 1] = key

    def note(self, key: i64, ticks: i64, now: i64, number: i64 = 0) -> bool:
        """*key* is known for *ticks* more at least; True when it was not before, and then it gets this *number*."""
        at = self.look(key, now)
        if at < 0:
            self.write(-1 - at, key, now + ticks, number)
            return True
        if self.left(at, now) < ticks:
            self.write(at, key, now + ticks, self.number(at))
        return False

    def count(self, key: i64, ticks: i64, now: i64, more: i64, most: i64) -> None:
        """``note()``, and *more* in the number of *key*, up to *most*; the first makes it 1."""
        at = self.look(key, now)
        if at < 0:
            self.write(-1 - at, key, now + ticks, 1)
        else:
            self.write(at, key, now + max(ticks, self.left(at, now)), min(self.number(at) + more, most))

    def forget(self, key: i64) -> None:
        """*key* is known no more."""
        at = self._keys.look(key)
        if at >= 0:
            self._keys.free(at)

    def number(self, at: i64) -> i64:
        """The number of an entry."""
        word: i64 = self._words[at * 2]
        return word >> _NUMBER_AT

    def take(self, at: i64, interval: i64, count: i64, now: i64) -> bool:
        """Count an event in that number, a level that leaks; False when there is no room for it."""
        word: i64 = self._words[at * 2]
        debt = ((word >> _NUMBER_AT) - now) & NUMBER
        if debt > HOLD_PLAUSIBLE:
            debt = 0
        if debt + interval > count * interval:
            return False
        self._words[at * 2] = (word & WORD) | (now + debt + interval & NUMBER) << _NUMBER_AT
        return True

    def used(self, now: int) -> int:
        """How many are known; looks at all."""
        count = 0
        for at in range(self.entries):
            if self._keys.key(at) and self.left(at, now) > 0:
                count += 1
        return count

    def _victim(self, first: i64, now: i64) -> i64:
        """Whose place in the full set from *first* is given away."""
        found, shortest = first, self.left(first, now)
        for at in range(first + 1, first + WAYS):
            left = self.left(at, now)
            if left < shortest:
                found, shortest = at, left
        return found
