"""Which uses of which nonces have been seen: a table of fixed size that all processes share.

An entry is made at the first valid use, so strangers evict nobody. A nonce has one place; what stands there is the
youngest nonce that was used at it. Whose place a younger one took is forgotten, and what is forgotten is refused: no count
is ever good twice. Of one nonce the highest count and the 32 below it are known, since requests of one phone reach two
receivers in any order.

Runs in: udp receiver. Locks: a stripe of the table. RFC: 7616 §3.4 (nc), §5.5.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from serpy.shm.lock import StripedLock

FRESH: Final = 0
SEEN: Final = 1
FORGOTTEN: Final = 2

ENTRY_SIZE: Final = 16
STRIPES: Final = 64
LAST: Final = 0xFFFFFFFF  # the count that leaves none above it
_BEHIND: Final = 32  # counts below the highest that are known one by one
_ENTRY: Final = Struct("=IIII")  # made when, serial, highest count, the counts up to it as bits (bit 0 = the highest)


class NonceCounts:
    """The table in *area*, zeros at first: as many entries of ENTRY_SIZE as fit, a power of two."""

    def __init__(self, area: memoryview, lock: StripedLock) -> None:
        self._area: Final = area
        self._places: Final = 1 << (len(area) // ENTRY_SIZE).bit_length() - 1
        self._lock: Final = lock

    def use(self, since: int, serial: int, count: int, latest: int) -> int:
        """Note use *count* of a nonce of ours: FRESH for the first time, SEEN, FORGOTTEN.

        An entry made after *latest* is from a clock that was set back and stands in nobody's way.
        """
        place = serial % self._places
        stripe = place % STRIPES
        self._lock.acquire(stripe)
        verdict = self._use(place * ENTRY_SIZE, since, serial, count, latest)
        self._lock.release(stripe)
        return verdict

    def _use(self, at: int, since: int, serial: int, count: int, latest: int) -> int:
        entry: tuple[int, int, int, int] = _ENTRY.unpack_from(self._area, at)
        known_since, known_serial, highest, seen = entry
        if known_since != since or known_serial != serial:
            is_younger = known_since > since or (known_since == since and known_serial > serial)
            if is_younger and known_since <= latest:
                return FORGOTTEN
            _ENTRY.pack_into(self._area, at, since, serial, count, 1)
            return FRESH
        above = count - highest
        if above > 0:
            seen = (seen << above | 1) & LAST if above < _BEHIND else 1
            _ENTRY.pack_into(self._area, at, since, serial, count, seen)
            return FRESH
        if above <= -_BEHIND or seen >> -above & 1:
            return SEEN
        _ENTRY.pack_into(self._area, at, since, serial, highest, seen | 1 << -above)
        return FRESH
