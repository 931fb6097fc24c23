"""Counters, the status page and generation numbers: what every process may read without asking another.

Each child writes only its own row, so counting needs no lock; readers add the rows up. A value that is being written is
one aligned 8-byte word and is never seen half. Names are declared by the master before the fork and are the same in every
child, also in one started later.

Runs in: every process. Locks: one, for creating or raising a generation number and for ``may_leave``.
"""

from __future__ import annotations

import time
from typing import Final

from serpy.errors import ResourceError, UsageError
from serpy.shm.keys import SIGNED
from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment

MAX_COUNTERS: Final = 1024  # declared by the core and all modules; one row is 8 KiB and costs only touched pages
MAX_GENERATIONS: Final = 128
_GENERATION_NAME: Final = 56  # bytes; with its number one generation fills a cache line

# States of a slot.
EMPTY: Final = 0
BOOTING: Final = 1
READY: Final = 2
DEAD: Final = 3
STATE_NAMES: Final = ("empty", "booting", "ready", "dead")

_PID: Final = 0
_STATE: Final = 1
_CHILD: Final = 2
_RESPAWNS: Final = 3
_STARTED_US: Final = 4  # Unix time
_HEARTBEAT_US: Final = 5  # monotonic
_SEEN: Final = 6
_TEXT_AT: Final = 64  # role and title follow the eight words
_ROLE_SIZE: Final = 32
_TITLE_SIZE: Final = 96
_SLOT_SIZE: Final = 192
_SLOT_WORDS: Final = _SLOT_SIZE // 8


class StatusPage:
    """Who runs in which slot. The master writes ``starting`` and ``died``; a child the rest of its own slot.

    A child calls ``attach`` first; ``heartbeat``, ``ready`` and ``seen`` then mean its own slot.
    """

    def __init__(self, segment: Segment, slots: int) -> None:
        self.slots: Final = slots
        area = segment.allocate("status", slots * _SLOT_SIZE)
        self._bytes: Final = area
        self._words: Final = area.cast("q")
        self._base = -1  # first word of our own slot

    def attach(self, slot: int) -> None:
        """Make *slot* this process's own. Raises UsageError for a slot that does not exist."""
        self._check(slot)
        self._base = slot * _SLOT_WORDS

    def starting(self, slot: int, pid: int, role: str, child: int, title: str) -> None:
        """Say that *pid* is booting in *slot*; a slot that was used before counts one more respawn."""
        self._check(slot)
        base = slot * _SLOT_WORDS
        words = self._words
        if words[base + _STATE] != EMPTY:
            words[base + _RESPAWNS] += 1
        words[base + _STATE] = BOOTING
        words[base + _PID] = pid
        words[base + _CHILD] = child
        words[base + _STARTED_US] = int(time.time() * 1_000_000)
        words[base + _HEARTBEAT_US] = int(time.monotonic() * 1_000_000)
        self._write_text(slot, 0, _ROLE_SIZE, role)
        self._write_text(slot, _ROLE_SIZE, _TITLE_SIZE, title)

    def died(self, slot: int) -> None:
        """Say that the process of *slot* is gone."""
        self._check(slot)
        self._words[slot * _SLOT_WORDS + _STATE] = DEAD

    def ready(self) -> None:
        """Say that this child has finished booting and serves."""
        self._words[self._own() + _STATE] = READY

    def heartbeat(self, now: float) -> None:
        """Say that this child was alive at *now* (monotonic)."""
        self._words[self._own() + _HEARTBEAT_US] = int(now * 1_000_000)

    def seen(self, generation: int) -> None:
        """Say which configuration *generation* this child works with."""
        self._words[self._own() + _SEEN] = generation

    def pid(self, slot: int) -> int:
        """Process id of the last process in *slot*; 0 when there was none."""
        return self._word(slot, _PID)

    def state(self, slot: int) -> int:
        """EMPTY, BOOTING, READY or DEAD."""
        return self._word(slot, _STATE)

    def child(self, slot: int) -> int:
        """Index among the processes of the same role."""
        return self._word(slot, _CHILD)

    def respawns(self, slot: int) -> int:
        """How often *slot* was filled again."""
        return self._word(slot, _RESPAWNS)

    def started(self, slot: int) -> float:
        """Unix time of the last start in *slot*."""
        return self._word(slot, _STARTED_US) / 1_000_000

    def last_heartbeat(self, slot: int) -> float:
        """Monotonic instant of the last sign of life."""
        return self._word(slot, _HEARTBEAT_US) / 1_000_000

    def generation(self, slot: int) -> int:
        """The configuration generation that child works with (see ``seen``)."""
        return self._word(slot, _SEEN)

    def role(self, slot: int) -> str:
        """``udp receiver``, ``timer`` …; "" for an empty slot."""
        return self._read_text(slot, 0, _ROLE_SIZE)

    def title(self, slot: int) -> str:
        """The process title as ``ps`` shows it."""
        return self._read_text(slot, _ROLE_SIZE, _TITLE_SIZE)

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise UsageError(f"slot {slot} of {self.slots}")

    def _own(self) -> int:
        if self._base < 0:
            raise UsageError("this process has no slot yet: attach() first")
        return self._base

    def _word(self, slot: int, word: int) -> int:
        self._check(slot)
        return int(self._words[slot * _SLOT_WORDS + word])

    def _write_text(self, slot: int, offset: int, size: int, text: str) -> None:
        start = slot * _SLOT_SIZE + _TEXT_AT + offset
        self._bytes[start : start + size] = text.encode("utf-8", "replace")[:size].ljust(size, b"\0")

    def _read_text(self, slot: int, offset: int, size: int) -> str:
        self._check(slot)
        start = slot * _SLOT_SIZE + _TEXT_AT + offset
        return self._bytes[start : start + size].tobytes().rstrip(b"\0").decode("utf-8", "replace")


class Counters:
    """Counters with one row per slot and one for the master, plus ``status`` and the generation numbers."""

    def __init__(self, segment: Segment, slots: int) -> None:
        self.slots: Final = slots
        self.status: Final = StatusPage(segment, slots)
        self._words: Final = segment.allocate("counters", (slots + 1) * MAX_COUNTERS * 8).cast(SIGNED)
        self._ids: Final[dict[str, int]] = {}
        self._help: Final[list[str]] = []
        self._own = self._row(slots)  # until attach() we are the master
        self._generations: Final = segment.allocate("generations", MAX_GENERATIONS * 64)
        self._numbers: Final = self._generations.cast(SIGNED)  # the number is word 0 of each line, its name follows
        self._known: Final[dict[str, int]] = {}  # generation name -> word index
        self._lock: Final = StripedLock(segment, "generations", 1)
        self._left: Final = segment.allocate("leaving", 64).cast("q")  # word 0: when a child was last let go

    def declare(self, name: str, help_text: str) -> int:
        """Return the id of counter *name*, new or declared before; only before the fork."""
        known = self._ids.get(name)
        if known is not None:
            return known
        number = len(self._help)
        if number >= MAX_COUNTERS:
            raise ResourceError(f"more than {MAX_COUNTERS} counters: {name!r} does not fit")
        self._ids[name] = number
        self._help.append(help_text)
        return number

    def attach(self, slot: int) -> None:
        """Make *slot* this process's own, here and on the status page."""
        self.status.attach(slot)
        self._own = self._row(slot)

    def add(self, counter: int, amount: int = 1) -> None:
        """Add *amount* to our own cell of *counter*."""
        self._own[counter] += amount

    def set(self, counter: int, value: int) -> None:
        """Make our own cell of *counter* *value* (a gauge; the total is the sum over all slots)."""
        self._own[counter] = value

    def own(self, counter: int) -> int:
        """Our own cell of *counter*."""
        return int(self._own[counter])

    def total(self, counter: int) -> int:
        """The sum over all slots and the master."""
        return sum(int(self._words[row * MAX_COUNTERS + counter]) for row in range(self.slots + 1))

    def per_slot(self, counter: int) -> list[int]:
        """The cell of each slot, in order, without the master's."""
        return [int(self._words[row * MAX_COUNTERS + counter]) for row in range(self.slots)]

    def snapshot(self) -> dict[str, int]:
        """Name -> total of every counter, in order of declaration."""
        sums = [0] * len(self._help)
        for row in range(self.slots + 1):
            for number, value in enumerate(self._row(row)[: len(sums)].tolist()):
                sums[number] += value
        return {name: sums[number] for name, number in self._ids.items()}

    def help_text(self, name: str) -> str:
        """What counter *name* counts; "" when nobody declared it."""
        number = self._ids.get(name)
        return "" if number is None else self._help[number]

    def heartbeat(self, now: float) -> None:
        """Say that this child was alive at *now* (monotonic)."""
        self.status.heartbeat(now)

    def may_leave(self, now: float, apart_s: float) -> bool:
        """True when no child has been told so in the last *apart_s* seconds: one at a time. *now* is monotonic."""
        microseconds = int(now * 1_000_000)
        with self._lock.hold(0):
            last = int(self._left[0])
            if last and microseconds - last < apart_s * 1_000_000:
                return False
            self._left[0] = microseconds
        return True

    def generation(self, name: str) -> int:
        """The current number *name*; 0 until somebody bumps it. Who asks will ask again: a new name gets its place."""
        at = self._known.get(name)
        if at is None:
            with self._lock.hold(0):
                at = self._find(name)
                if at < 0:
                    at = self._create(name)
        return int(self._numbers[at])

    def bump(self, name: str) -> int:
        """Raise the number *name* by one for every process and return it. Raises ResourceError."""
        with self._lock.hold(0):
            at = self._find(name)
            if at < 0:
                at = self._create(name)
            number = int(self._numbers[at]) + 1
            self._numbers[at] = number
        return number

    def generations(self) -> dict[str, int]:
        """Every generation number that was ever bumped."""
        found: dict[str, int] = {}
        for line in range(MAX_GENERATIONS):
            stored = self._generations[line * 64 + 8 : line * 64 + 64].tobytes().rstrip(b"\0")
            if stored and self._numbers[line * 8]:
                found[stored.decode("utf-8", "replace")] = int(self._numbers[line * 8])
        return found

    def _row(self, row: int) -> memoryview:
        return self._words[row * MAX_COUNTERS : (row + 1) * MAX_COUNTERS]

    def _find(self, name: str) -> int:
        """Word index of generation *name*, -1 when no process has created it. Names are never removed."""
        wanted = _generation_name(name)
        for line in range(MAX_GENERATIONS):
            start = line * 64 + 8
            stored = self._generations[start : start + _GENERATION_NAME]
            if stored == wanted:
                self._known[name] = line * 8
                return line * 8
            if stored[0] == 0:
                break
        return -1

    def _create(self, name: str) -> int:
        for line in range(MAX_GENERATIONS):
            start = line * 64 + 8
            if self._generations[start] == 0:
                self._generations[start : start + _GENERATION_NAME] = _generation_name(name)
                self._known[name] = line * 8
                return line * 8
        raise ResourceError(f"more than {MAX_GENERATIONS} generation numbers: {name!r} does not fit")


def _generation_name(name: str) -> bytes:
    data = name.encode("utf-8", "replace")
    if not 0 < len(data) <= _GENERATION_NAME:
        raise UsageError(f"generation name {name!r} must have 1 to {_GENERATION_NAME} bytes")
    return data.ljust(_GENERATION_NAME, b"\0")
