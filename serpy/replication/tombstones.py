"""Tombstones: what was removed lately, so that an older refresh, or a server that missed the removal, does not bring it back.

A table of fixed size in shared memory, written by whoever removes a contact. A place is found by the contact; four
contacts share one set and the one that may be forgotten first makes room. An entry says which registration was removed
and when; it is kept until that registration would have expired anywhere.

Runs in: master (made), udp receiver, ctl, timer. Locks: its own stripes.
"""

from __future__ import annotations

import struct
import sys
import time
from hashlib import blake2b
from typing import Final

from serpy.api import Service
from serpy.replication.digest import contact_hash, entry_hash
from serpy.replication.merge import milliseconds
from serpy.shm.lock import StripedLock
from serpy.shm.record import Binding
from serpy.shm.segment import Segment

# contact, removed entry, when (ms), keep until (ms), hash of Call-ID, CSeq
_ENTRY: Final = struct.Struct("=QQQQII")
SIZE: Final = 40
WAYS: Final = 4
MOST: Final = 16384
LEAST: Final = 64
STRIPES: Final = 16
KEEP_MAX_S: Final = 7200.0  # also of what we did not know when it was removed
SKEW_MS: Final = 30_000  # how far the clocks of two servers may be apart
ALL: Final = "*"  # in place of a contact: all contacts of the user


class Tombstones:
    """The table, made by the master from a part of what *segment* has left."""

    def __init__(self, segment: Segment, entries: int = MOST) -> None:
        while entries > LEAST and entries * SIZE > segment.free // 3:
            entries //= 2
        self.entries: Final = entries
        self._area: Final = segment.allocate("tombstones", entries * SIZE)
        self._lock: Final = StripedLock(segment, "tombstones", STRIPES)

    def bury(self, table: str, removed: list[Binding], when: float) -> None:
        """Remember that *removed* went away at *when* (Unix time; 0.0: their ``modified_at`` says it)."""
        for binding in removed:
            at = when or binding.modified_at
            keep = at + KEEP_MAX_S if binding.is_permanent else min(binding.expires_at, at + KEEP_MAX_S)
            entry = entry_hash(table, binding)
            self.add(table, binding.uid, binding.contact, binding.call_id, binding.cseq, at, keep, entry)

    def add(
        self, table: str, uid: str, contact: str, call_id: str, cseq: int, when: float, keep_until: float, entry: int = 0
    ) -> None:  # fmt: skip
        """Remember that *contact* (or ALL) was removed by, or last was of, the REGISTER with *call_id* and *cseq*."""
        contact_id = contact_hash(table, uid, contact)
        call = _call_hash(call_id)
        when_ms = milliseconds(when)
        until_ms = max(0, milliseconds(keep_until))
        cseq &= 0xFFFFFFFF
        start, stripe = self._place(contact_id)
        self._lock.acquire(stripe)
        try:
            at, known_ms, known_until_ms, known_call, known_cseq = self._victim(start, contact_id)
            if known_ms and known_call == call:  # one removal is noted for the request, and for what it removed
                cseq = max(cseq, known_cseq)
                when_ms = max(when_ms, known_ms)
                until_ms = max(until_ms, known_until_ms)
                entry = entry or _ENTRY.unpack_from(self._area, at)[1]
            elif known_ms > when_ms:
                return
            _ENTRY.pack_into(self._area, at, contact_id, entry, when_ms, until_ms, call, cseq)
        finally:
            self._lock.release(stripe)

    def _victim(self, start: int, contact_id: int) -> tuple[int, int, int, int, int]:
        """(where to put *contact_id*, and what it has there: when, until, hash of Call-ID, CSeq)."""
        victim, least = start, -1
        for at in range(start, start + WAYS * SIZE, SIZE):
            known, _, known_ms, until_ms, call, cseq = _ENTRY.unpack_from(self._area, at)
            if known == contact_id:
                return at, known_ms, until_ms, call, cseq
            if least < 0 or until_ms < least:
                victim, least = at, until_ms
        return victim, 0, 0, 0, 0

    def covers(self, table: str, uid: str, contact: str, call_id: str, cseq: int, when: float) -> bool:
        """True when a registration taken at *when* is older than the removal of its contact."""
        call = _call_hash(call_id)
        when_ms = milliseconds(when)
        return self._covers(contact_hash(table, uid, contact), call, cseq, when_ms) or self._covers(
            contact_hash(table, uid, ALL), call, cseq, when_ms
        )

    def removed_at(self, table: str, uid: str, contact: str) -> int:
        """When *contact* was removed last, in milliseconds of Unix time; 0 when nobody knows."""
        return max(self._removed_at(contact_hash(table, uid, contact)), self._removed_at(contact_hash(table, uid, ALL)))

    def removed_entries(self, wall_now: float) -> dict[int, int]:
        """Hash of the entry -> when it was removed (ms), of everything that is remembered."""
        now = milliseconds(wall_now)
        entries = _ENTRY.iter_unpack(bytes(self._area))
        return {entry: when_ms for _, entry, when_ms, until_ms, _, _ in entries if entry and until_ms >= now}

    def count(self, wall_now: float) -> int:
        """How many are remembered."""
        now = milliseconds(wall_now)
        return sum(1 for item in _ENTRY.iter_unpack(bytes(self._area)) if item[3] >= now)

    def _find(self, contact_id: int) -> tuple[int, int, int]:
        """(when, hash of Call-ID, CSeq) of *contact_id*, zeros when it is not remembered."""
        start, stripe = self._place(contact_id)
        # Looked at without the lock first: most contacts were never removed. A torn look is right a moment later.
        if bytes(self._area[start : start + WAYS * SIZE]).find(contact_id.to_bytes(8, sys.byteorder)) < 0:
            return 0, 0, 0
        now = milliseconds(time.time())
        self._lock.acquire(stripe)
        try:
            for at in range(start, start + WAYS * SIZE, SIZE):
                known, _, when_ms, until_ms, call, cseq = _ENTRY.unpack_from(self._area, at)
                if known == contact_id and until_ms >= now:
                    return when_ms, call, cseq
        finally:
            self._lock.release(stripe)
        return 0, 0, 0

    def _covers(self, contact_id: int, call: int, cseq: int, when_ms: int) -> bool:
        removed_ms, removed_call, removed_cseq = self._find(contact_id)
        if removed_ms == 0:
            return False
        if call == removed_call:  # much later it is a phone that has forgotten how far it had counted
            return cseq <= removed_cseq and when_ms <= removed_ms + SKEW_MS
        return when_ms <= removed_ms

    def _removed_at(self, contact_id: int) -> int:
        return self._find(contact_id)[0]

    def _place(self, contact_id: int) -> tuple[int, int]:
        """(offset of the set, stripe) of *contact_id*."""
        number = contact_id % (self.entries // WAYS)
        return number * WAYS * SIZE, number % STRIPES


def _call_hash(call_id: str) -> int:
    return int.from_bytes(blake2b(call_id.encode("utf-8", "surrogateescape"), digest_size=4).digest(), "little")


TOMBSTONES: Final[Service[Tombstones]] = Service("tombstones")
