"""Contacts that nobody has proved to be the user's, asked softly: they name another host than their REGISTER came from.

A host that has never answered is asked by one transaction at a time, however many contacts name it, and that one repeats
itself twice (``transaction/deadlines.py``): ten contacts at a stranger's address are three packets, not a hundred. Who
answered is asked like everybody else for a day. After three transactions without an answer a host is left out where there
are others to be called.

What is known stands in shared memory, in sets of four entries; what is not asked any more goes first. No lock: a lost
store is one question too many. An entry: hash of the host, then instant (seconds, 32 bit), times without an answer, state.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6; 5626 §1 (who may ask for packets).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serpy.shm.segment import Segment

SETS: Final = 1024
WAYS: Final = 4
PROVEN_S: Final = 86400
ASKED_S: Final = 32  # as long as a transaction waits for an answer (64*T1)
DEAD: Final = 3  # transactions without an answer

ASKED: Final = 1
PROVEN: Final = 2
_STAMP: Final = 16  # bits below it
_MISSED_MAX: Final = 255


class Unproven:
    """The table, made by the master in *segment*."""

    def __init__(self, segment: Segment) -> None:
        self._quads: Final = segment.allocate("unproven contacts", SETS * WAYS * 16).cast("q")

    def may_ask(self, host: str, wall_now: float) -> bool:
        """True when *host* may be asked at all now: it has answered, or no transaction is waiting for it."""
        at = self._find(host)
        if at < 0:
            return True
        value: int = self._quads[at + 1]
        return value & 255 == PROVEN or value >> _STAMP <= wall_now

    def is_proven(self, host: str, wall_now: float) -> bool:
        """True when *host* has answered within a day."""
        at = self._find(host)
        if at < 0:
            return False
        value: int = self._quads[at + 1]
        return value & 255 == PROVEN and value >> _STAMP > wall_now

    def is_dead(self, host: str) -> bool:
        """True when *host* has left three transactions without an answer, and answered none since."""
        at = self._find(host)
        return at >= 0 and int(self._quads[at + 1]) >> 8 & 255 >= DEAD

    def asked(self, host: str, wall_now: float) -> None:
        """A transaction goes there now. One that went before and was not answered is counted as missed."""
        at = self._find(host)
        missed = 0
        if at >= 0:
            value: int = self._quads[at + 1]
            missed = value >> 8 & 255
            if value & 255 == ASKED:
                missed = min(_MISSED_MAX, missed + 1)
        self._store(at, host, int(wall_now) + ASKED_S, missed, ASKED, wall_now)

    def answered(self, host: str, wall_now: float) -> None:
        """Something came back from there."""
        self._store(self._find(host), host, int(wall_now) + PROVEN_S, 0, PROVEN, wall_now)

    def _find(self, host: str) -> int:
        """Where the entry of *host* is, -1 when there is none."""
        key = hash(host)
        first = key % SETS * WAYS * 2
        for at in range(first, first + WAYS * 2, 2):
            if self._quads[at] == key:
                return at
        return -1

    def _store(self, at: int, host: str, until: int, missed: int, state: int, wall_now: float) -> None:
        key = hash(host)
        if at < 0:
            at = self._victim(key % SETS * WAYS * 2, int(wall_now))
        self._quads[at] = key
        self._quads[at + 1] = until << _STAMP | missed << 8 | state

    def _victim(self, first: int, now: int) -> int:
        """The entry that goes: one that waits for nothing, the oldest; who has answered goes last."""
        victim, least = first, -1
        for at in range(first, first + WAYS * 2, 2):
            value: int = self._quads[at + 1]
            until = value >> _STAMP
            worth = until + (PROVEN_S if value & 255 == PROVEN and until > now else 0)
            if least < 0 or worth < least:
                victim, least = at, worth
        return victim
