"""What is known of sources, pairs and users that have proved nothing: levels that leak, holds, the last events.

Sets of eight (``keys``): when one is full, the entry that was quiet longest makes room, one that is held only when more than
half of its set are. A level is the instant at which it will have leaked away, so nothing has to
be counted down. No lock: what two processes write at the same moment counts once instead of twice.

Instants are ticks modulo 2**32; one further ahead than PLAUSIBLE is long past. Runs in: every process. Locks: none.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from serpy.shm.keys import FULL, WAYS, Keys

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

CELLS: Final = 32  # of 4 bytes, an entry
ENTRY: Final = CELLS * 4 + 8
WORD: Final = 0xFFFFFFFF
PLAUSIBLE: Final = 64 * 86400 * 2  # ticks: twice the longest ban

FREE: Final = 0
QUIET: Final = 1
BANNED: Final = 2

# Cells of an entry.
_STAMP: Final = 0
_UNTIL: Final = 1
_HOLD: Final = 2  # FREE, QUIET or BANNED, the reason << 8, offences << 16
_PROVEN: Final = 3
_DROPPED: Final = 4
_EVENTS: Final = 5  # of all reasons, since the entry was made
_LEVELS: Final = 6  # eight
_HISTORY: Final = 14  # three times (instant, reason), the youngest first
_TEXT: Final = 20  # 48 bytes for people
TEXT_SIZE: Final = 48
_NEW: Final = Struct("=20I48s")  # a whole entry
_FOUR: Final = Struct("=4I")
_EVENT: Final = Struct("=II")


class Strangers:
    """The table in *area*, of ``Strangers.size(entries)`` bytes. *secret* decides which set a key is in."""

    def __init__(self, area: memoryview, entries: int, secret: int) -> None:
        self.entries: Final = max(1, entries // WAYS) * WAYS
        self._keys: Final = Keys(area[: self.entries * 8], self.entries, secret)
        self._bytes: Final = area[self.entries * 8 : self.entries * ENTRY]
        self._cells: Final = self._bytes.cast("I")

    @staticmethod
    def size(entries: int) -> int:
        """The bytes that so many entries take."""
        return max(1, entries // WAYS) * WAYS * ENTRY

    def find(self, key: i64) -> int:
        """The entry of *key*, -1 when there is none."""
        at = self._keys.look(key)
        return at if at >= 0 else -1

    def place(self, key: i64, text: str, now: int) -> int:
        """The entry of *key*, made when there was none; *text* is what people call it."""
        found = self._keys.look(key)
        if found >= 0:
            return found
        at: int = self._victim(self.first_of(key), now) if found == FULL else -1 - found
        if found == FULL:
            self._keys.free(at)
        _NEW.pack_into(
            self._bytes, at * CELLS * 4, now, 0, 0, 0, 0, 0, now, now, now, now, now, now, now, now,
            0, 0, 0, 0, 0, 0, text.encode("utf-8", "replace"),
        )  # fmt: skip
        self._keys.put(at, key)
        return at

    def first_of(self, key: i64) -> int:
        """The first entry of the set that *key* is in."""
        return self._keys.first_of(key)

    def _victim(self, first: int, now: int) -> int:
        """Whose place in the full set from *first* is given away."""
        cells = self._cells
        held = 0
        for at in range(first, first + WAYS):
            if self.hold(at, now) == BANNED:
                held += 1
        found, oldest = first, -1
        for at in range(first, first + WAYS):
            if held * 2 <= WAYS and self.hold(at, now) == BANNED:
                continue
            age = (now - int(cells[at * CELLS + _STAMP])) & WORD
            if age > oldest:
                found, oldest = at, age
        return found

    # --- levels

    def add(self, at: int, level: int, interval: int, count: int, now: int) -> bool:
        """Count an event that leaks away in *interval*; True when more than *count* are there now."""
        cell = at * CELLS + _LEVELS + level
        debt = (int(self._cells[cell]) - now) & WORD
        if debt > PLAUSIBLE:
            debt = 0
        debt += interval
        most = (count + 1) * interval
        is_over = debt > count * interval
        self._cells[cell] = (now + min(debt, most)) & WORD
        self._cells[at * CELLS + _STAMP] = now
        return is_over

    def take(self, at: int, level: int, interval: int, count: int, now: int) -> bool:
        """Count an event if there is room for it; False when there is none."""
        cell = at * CELLS + _LEVELS + level
        debt = (int(self._cells[cell]) - now) & WORD
        if debt > PLAUSIBLE:
            debt = 0
        if debt + interval > count * interval:
            return False
        self._cells[cell] = (now + debt + interval) & WORD
        self._cells[at * CELLS + _STAMP] = now
        return True

    def lower(self, at: int, level: int, ticks: int, now: int) -> None:
        """Let *ticks* of a level leak at once."""
        cell = at * CELLS + _LEVELS + level
        debt = (int(self._cells[cell]) - now) & WORD
        if debt > PLAUSIBLE:
            debt = 0
        self._cells[cell] = (now + max(0, debt - ticks)) & WORD

    def levels(self, at: int) -> tuple[int, int, int, int]:
        """The first four levels as they are: the instants at which they will have leaked away, or did."""
        found: tuple[int, int, int, int] = _FOUR.unpack_from(self._bytes, (at * CELLS + _LEVELS) * 4)
        return found

    def debt(self, at: int, level: int, now: int) -> int:
        """How many ticks a level needs to leak away."""
        debt = (int(self._cells[at * CELLS + _LEVELS + level]) - now) & WORD
        return 0 if debt > PLAUSIBLE else debt

    def note(self, at: int, reason: int, now: int) -> None:
        """Remember an event for people."""
        cells = self._cells
        base = at * CELLS
        cells[base + _EVENTS] = (int(cells[base + _EVENTS]) + 1) & WORD
        last = int(cells[base + _HISTORY + 1])
        first = (base + _HISTORY) * 4
        if last and (last != reason + 1 or int(cells[base + _HISTORY]) != now):
            before = bytes(self._bytes[first : first + 16])
            self._bytes[first + 8 : first + 24] = before
        _EVENT.pack_into(self._bytes, first, now, reason + 1)

    # --- holds

    def hold(self, at: int, now: int) -> int:
        """FREE, QUIET or BANNED."""
        word = int(self._cells[at * CELLS + _HOLD]) & 0xFF
        if word == FREE:
            return FREE
        left = (int(self._cells[at * CELLS + _UNTIL]) - now) & WORD
        return word if 0 < left <= PLAUSIBLE else FREE

    def set_hold(self, at: int, kind: int, reason: int, ticks: int, now: int) -> None:
        """Hold an entry for *ticks*. A ban is one more offence."""
        base = at * CELLS
        offences = self.offences(at)
        if kind == BANNED and offences < 0xFF:
            offences += 1
        self._cells[base + _UNTIL] = (now + ticks) & WORD
        self._cells[base + _HOLD] = kind | reason << 8 | offences << 16
        self._cells[base + _STAMP] = now

    def lift(self, at: int, now: int) -> None:
        """Forget hold, offences and levels."""
        self._cells[at * CELLS + _HOLD] = 0
        self._empty(at, now)

    def _empty(self, at: int, now: int) -> None:
        """All levels have leaked away at *now*: 0 would be an instant like any other."""
        first = at * CELLS + _LEVELS
        for cell in range(first, first + 8):
            self._cells[cell] = now

    def offences(self, at: int) -> int:
        """How often it was banned."""
        return int(self._cells[at * CELLS + _HOLD]) >> 16

    def reason(self, at: int) -> int:
        """Why it is held."""
        return int(self._cells[at * CELLS + _HOLD]) >> 8 & 0xFF

    def left(self, at: int, now: int) -> int:
        """Ticks until the hold ends."""
        left = (int(self._cells[at * CELLS + _UNTIL]) - now) & WORD
        return left if left <= PLAUSIBLE else 0

    def count_drop(self, at: int) -> None:
        """One more message of a held one was dropped."""
        cell = at * CELLS + _DROPPED
        self._cells[cell] = (int(self._cells[cell]) + 1) & WORD

    # --- proofs, people

    def prove(self, at: int, ticks: int, now: int) -> None:
        """It has received what we sent there."""
        self._cells[at * CELLS + _PROVEN] = (now + ticks) & WORD or 1

    def is_proven(self, at: int, now: int) -> bool:
        """True when it has, lately."""
        until = int(self._cells[at * CELLS + _PROVEN])
        return until != 0 and 0 < (until - now) & WORD <= PLAUSIBLE

    def key(self, at: int) -> int:
        """The key of an entry, 0 = free."""
        return self._keys.key(at)

    def text(self, at: int) -> str:
        """What people call it."""
        start = at * CELLS * 4 + _TEXT * 4
        return bytes(self._bytes[start : start + TEXT_SIZE]).rstrip(b"\0").decode("utf-8", "replace")

    def dropped(self, at: int) -> int:
        """Messages of it that were dropped."""
        return int(self._cells[at * CELLS + _DROPPED])

    def events(self, at: int) -> int:
        """Events since the entry was made."""
        return int(self._cells[at * CELLS + _EVENTS])

    def history(self, at: int, now: int) -> list[tuple[int, int]]:
        """(reason, ticks ago) of the last three events, the youngest first."""
        first = at * CELLS + _HISTORY
        found: list[tuple[int, int]] = []
        for cell in range(first, first + 6, 2):
            reason = int(self._cells[cell + 1])
            if reason:
                found.append((reason - 1, (now - int(self._cells[cell])) & WORD))
        return found
