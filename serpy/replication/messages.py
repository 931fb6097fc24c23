"""The payloads of frames: bindings, questions about buckets, and answers to them. Each fits into a datagram of 1400 bytes.

A *range* is a part of a bucket: the entries whose hash lies from ``low`` to ``high``. Remaining lifetimes travel in seconds,
since clocks differ. Everything is parsed with checks: a frame that does not fit is a ValueError. Pure.

Runs in: timer. Locks: none.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Final

from serpy.replication.envelope import FRAME_OVERHEAD
from serpy.replication.merge import milliseconds
from serpy.shm.record import FAR_FUTURE, Binding

# kinds of frames
DIGEST: Final = 1  # multicast: sums of buckets
HELLO: Final = 2  # multicast: we have just started, tell us what you have
ASK: Final = 3  # to one server: these are our entries of these ranges
TELL: Final = 4  # its answer: what you miss follows; what we miss; what was removed
BINDINGS: Final = 5  # to one server: store these
REMOVED: Final = 6  # to one server: these entries of yours were removed
SHOWN: Final = 7  # like BINDINGS, for somebody who only wants to look

DATAGRAM: Final = 1400
ROOM: Final = DATAGRAM - FRAME_OVERHEAD
MAX_HASHES: Final = 140  # of one range in one datagram
MOST_OFFERED: Final = 200  # bindings of one range that follow one answer
ALL: Final = (1 << 64) - 1
DRY: Final = 1 << 31  # bit of a session's number: only show what would be done

_RECORD: Final = struct.Struct("!iQhHiI8H")  # remaining, time, q, flags, server, CSeq, lengths of the texts
_SESSION: Final = struct.Struct("!I")
_RANGE: Final = struct.Struct("!HQQH")  # bucket, low, high, hashes
_TOLD: Final = struct.Struct("!HQQHHHH")  # bucket, low, high, missing, delay in ms, wanted, removed
_GONE: Final = struct.Struct("!QQ")
PERMANENT_REMAINS: Final = -1
_FLAGS: Final = 0xFFFF & ~Binding.MEM


class Range:
    """A part of a bucket, and the hashes somebody has there."""

    def __init__(self, bucket: int, low: int, high: int, hashes: list[int]) -> None:
        self.bucket: Final = bucket
        self.low: Final = low
        self.high: Final = high
        self.hashes: Final = hashes


class Told:
    """The answer about one range: *missing* entries follow, after about *delay_ms*; *wanted* are asked for; *removed*
    says when (in ms of Unix time) entries of the asker were removed.
    """

    def __init__(
        self, bucket: int, low: int, high: int, missing: int, delay_ms: int, wanted: list[int], removed: list[tuple[int, int]]
    ) -> None:  # fmt: skip
        self.bucket: Final = bucket
        self.low: Final = low
        self.high: Final = high
        self.missing: Final = missing
        self.delay_ms: Final = delay_ms
        self.wanted: Final = wanted
        self.removed: Final = removed


def build_binding(table: str, binding: Binding, wall_now: float) -> bytes:
    """The record of *binding*, b"" when it has expired or cannot travel."""
    remains = PERMANENT_REMAINS
    if not binding.is_permanent:
        remains = min(0x7FFFFFFF, math.ceil(binding.expires_at - wall_now))
        if remains <= 0:
            return b""
    texts = [
        text.encode("utf-8", "surrogateescape")
        for text in (
            table, binding.uid, binding.contact, binding.aor, binding.received, binding.call_id, binding.user_agent,
            binding.instance,
        )
    ]  # fmt: skip
    if max(map(len, texts)) > 0xFFFF:
        return b""
    head = _RECORD.pack(
        remains, max(0, milliseconds(binding.modified_at)), binding.q, binding.flags & _FLAGS, binding.server_id,
        binding.cseq & 0xFFFFFFFF, *map(len, texts),
    )  # fmt: skip
    return head + b"".join(texts)


def parse_bindings(payload: bytes, wall_now: float) -> list[tuple[str, Binding]]:
    """(table, binding) of every record in *payload*. Raises ValueError."""
    found: list[tuple[str, Binding]] = []
    at = 0
    while at < len(payload):
        at = _parse_binding(payload, at, wall_now, found)
    return found


def _parse_binding(payload: bytes, at: int, wall_now: float, found: list[tuple[str, Binding]]) -> int:
    if at + _RECORD.size > len(payload):
        raise ValueError("a binding that is cut")
    remains, modified_ms, q, flags, server_id, cseq, *lengths = _RECORD.unpack_from(payload, at)
    at += _RECORD.size
    texts: list[str] = []
    for length in lengths:
        if at + length > len(payload):
            raise ValueError("a binding that is cut")
        texts.append(payload[at : at + length].decode("utf-8", "surrogateescape"))
        at += length
    table, uid, contact, aor, received, call_id, user_agent, instance = texts
    permanent = remains == PERMANENT_REMAINS
    if not table or not uid or not contact or (remains <= 0 and not permanent) or not -1 <= q <= 1000:
        raise ValueError("a binding without sense")
    binding = Binding(
        uid, contact, FAR_FUTURE if permanent else int(wall_now) + remains, aor=aor, received=received, q=q,
        call_id=call_id, cseq=cseq, flags=(flags & _FLAGS & ~Binding.PERMANENT) | (Binding.PERMANENT if permanent else 0),
        user_agent=user_agent, instance=instance, server_id=server_id, modified_at=modified_ms / 1000.0,
    )  # fmt: skip
    found.append((table, binding))
    return at


def build_ask(session: int, ranges: Iterable[Range]) -> list[bytes]:
    """The payloads of the question about *ranges*, of at most MAX_HASHES hashes each."""
    return _join(
        _SESSION.pack(session),
        [
            _RANGE.pack(each.bucket, each.low, each.high, len(each.hashes))
            + struct.pack(f"!{len(each.hashes)}Q", *each.hashes)
            for each in ranges
        ],
    )


def parse_ask(payload: bytes) -> tuple[int, list[Range]]:
    """(session, ranges). Raises ValueError."""
    try:
        (session,) = _SESSION.unpack_from(payload)
        at = _SESSION.size
        found: list[Range] = []
        while at < len(payload):
            bucket, low, high, count = _RANGE.unpack_from(payload, at)
            at += _RANGE.size
            hashes = list(struct.unpack_from(f"!{count}Q", payload, at))
            at += 8 * count
            found.append(Range(bucket, low, high, hashes))
    except struct.error as exc:
        raise ValueError(str(exc)) from None
    return session, found


def build_tell(session: int, answers: Iterable[Told]) -> list[bytes]:
    """The payloads of *answers*."""
    return _join(
        _SESSION.pack(session),
        [
            _TOLD.pack(
                told.bucket, told.low, told.high, min(told.missing, 0xFFFF), min(told.delay_ms, 0xFFFF),
                len(told.wanted), len(told.removed),
            )
            + struct.pack(f"!{len(told.wanted)}Q", *told.wanted)
            + build_removed(told.removed)
            for told in answers
        ],
    )  # fmt: skip


def parse_tell(payload: bytes) -> tuple[int, list[Told]]:
    """(session, answers). Raises ValueError."""
    try:
        (session,) = _SESSION.unpack_from(payload)
        at = _SESSION.size
        found: list[Told] = []
        while at < len(payload):
            bucket, low, high, missing, delay_ms, wanted_count, removed_count = _TOLD.unpack_from(payload, at)
            at += _TOLD.size
            wanted = list(struct.unpack_from(f"!{wanted_count}Q", payload, at))
            at += 8 * wanted_count
            end = at + _GONE.size * removed_count
            found.append(Told(bucket, low, high, missing, delay_ms, wanted, parse_removed(payload[at:end])))
            at = end
    except struct.error as exc:
        raise ValueError(str(exc)) from None
    return session, found


def build_removed(removed: Iterable[tuple[int, int]]) -> bytes:
    """(hash of the entry, when in ms) as bytes."""
    return b"".join([_GONE.pack(entry, when_ms) for entry, when_ms in removed])


def parse_removed(payload: bytes) -> list[tuple[int, int]]:
    """The reverse. Raises ValueError."""
    try:
        return [(entry, when_ms) for entry, when_ms in _GONE.iter_unpack(payload)]
    except struct.error as exc:
        raise ValueError(str(exc)) from None


def batches(records: Iterable[bytes]) -> list[bytes]:
    """*records* in payloads; one that is too large for a datagram goes alone."""
    return _join(b"", list(records))


def _join(head: bytes, parts: list[bytes]) -> list[bytes]:
    found: list[bytes] = []
    current: list[bytes] = []
    size = len(head)
    for part in parts:
        if current and size + len(part) > ROOM:
            found.append(head + b"".join(current))
            current = []
            size = len(head)
        current.append(part)
        size += len(part)
    if current:
        found.append(head + b"".join(current))
    return found
