"""Two tables compared without sending them: a hash per binding, a sum of hashes per bucket of users.

A hash says who (table, uid, contact) and which registration (Call-ID, CSeq); not when it expires, since clocks differ, nor
what else the REGISTER said, since that goes with it. Sums do not depend on order. Pure.

Runs in: timer, and (hashes) wherever contacts are removed. Locks: none.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

from serpy.shm.record import CALL_ID_MAX, Binding

BUCKETS: Final = 1024
SUM_MASK: Final = 0xFFFFFFFF
PER_DATAGRAM: Final = 300  # sums of 4 bytes

_PART: Final = struct.Struct("!IIHH")  # REGISTERs sent, bindings, first bucket, number of sums


def bucket_of(table: str, uid: str) -> int:
    """The bucket of a user."""
    return int.from_bytes(blake2b(_key(table, uid), digest_size=2).digest(), "little") % BUCKETS


def contact_hash(table: str, uid: str, contact: str) -> int:
    """64 bits that stand for one contact of one user; never 0."""
    return _number(_key(table, uid) + b"\0" + contact.encode("utf-8", "surrogateescape"))


def entry_hash(table: str, binding: Binding) -> int:
    """64 bits that stand for one registration of one contact; never 0."""
    call_id = binding.call_id[:CALL_ID_MAX]
    text = f"{table}\0{binding.uid}\0{binding.contact}\0{call_id}\0{binding.cseq}"
    return _number(text.encode("utf-8", "surrogateescape"))


class Sums:
    """The sums of one scan over a table."""

    def __init__(self) -> None:
        self.bindings = 0
        self.sums: Final = [0] * BUCKETS

    def add(self, bucket: int, entry: int) -> None:
        """Count one binding."""
        self.sums[bucket] = (self.sums[bucket] + entry) & SUM_MASK
        self.bindings += 1

    def datagrams(self, sent: int = 0) -> list[bytes]:
        """The payloads that carry them; *sent*: how many REGISTERs we have multicast, so that others know what they miss."""
        parts: list[bytes] = []
        for first in range(0, BUCKETS, PER_DATAGRAM):
            sums = self.sums[first : first + PER_DATAGRAM]
            head = _PART.pack(sent & SUM_MASK, self.bindings, first, len(sums))
            parts.append(head + struct.pack(f"!{len(sums)}I", *sums))
        return parts

    def differing(self, other: dict[int, int]) -> list[int]:
        """The buckets whose sum in *other* is another one; only those that *other* knows are looked at."""
        return [bucket for bucket, value in other.items() if self.sums[bucket] != value]


def parse_sums(payload: bytes) -> tuple[int, int, dict[int, int]]:
    """(REGISTERs sent, bindings, bucket -> sum) of one datagram. Raises ValueError."""
    try:
        sent, bindings, first, count = _PART.unpack_from(payload)
        if first + count > BUCKETS or len(payload) != _PART.size + 4 * count:
            raise ValueError("a digest that does not fit")
        values = struct.unpack_from(f"!{count}I", payload, _PART.size)
    except struct.error as exc:
        raise ValueError(str(exc)) from None
    return sent, bindings, {first + offset: value for offset, value in enumerate(values)}


def _key(table: str, uid: str) -> bytes:
    return f"{table}\0{uid}".encode("utf-8", "surrogateescape")


def _number(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") or 1
