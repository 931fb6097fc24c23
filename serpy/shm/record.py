"""Layout of one AoR record of the location table, and the Binding it is made of.

A record is its key, then per binding a fixed part, then all texts in one UTF-8 run; text lengths are in characters so that
one decode serves all of them. Pure: where the bytes lie and who may touch them is table.py's business.

    key length:u16  bindings:u16  |  key  |  bindings * (expires_at:i64 modified_at:f64 cseq:u32 server_id:i32
    q:i16 flags:u16 lengths of contact, aor, received, call_id, user_agent, instance: u16 each)  |  texts

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import struct
from typing import Final

from serpy.errors import LimitExceededError, ResourceError

MAX_KEY: Final = 200  # a key lies in the first block whole
MAX_BINDINGS: Final = 250  # of one AoR; more is an attack, and a record must stay small enough to copy
MAX_TEXT: Final = 4096  # characters of one field
CALL_ID_MAX: Final = 255  # characters of a Call-ID that are kept, see database.md
MAX_RECORD: Final = 256 * 1024
NEVER: Final = 1 << 62  # expiry of a record with nothing but permanent bindings
FAR_FUTURE: Final = 253402300799  # 9999-12-31 23:59:59 UTC, the expiry stored for a permanent binding
MARK: Final = ";serpy-id="  # and MARK_DIGITS: a parameter of ours in a contact whose text another phone has, too
MARK_DIGITS: Final = 8

_PREFIX: Final = struct.Struct("=HH")
_FIXED: Final = struct.Struct("=qdIihHHHHHHH")
_PREFIX_SIZE: Final = 4
_FIXED_SIZE: Final = 40

KEY_AT: Final = _PREFIX_SIZE  # where the key starts in a record


class Binding:
    """One AOR → contact mapping (RFC 3261 §10): a row of ``location``, whole.

    ``contact`` is its key among those of its user: the URI, with a MARK where two phones behind two NATs have the same
    private one. ``expires_at`` is Unix time in whole seconds; ``q`` is 0..1000 or -1 when unset; ``flags`` are those
    below, whose numbers stand in databases and in RPCs. ``received`` is "" or a received URI (sip/received.py): calls go
    there, or with FLOW only by its socket (UDP) or by its connection first. ``instance`` may carry ``;reg-id=``.
    ``modified_at`` is Unix time of the last change (newest first among equal q).
    """

    NAT: Final = 1  # behind one; like the next two as SER has it
    PERMANENT: Final = 128  # never expires
    MEM: Final = 256  # in memory only, its row is another server's
    FLOW: Final = 512  # reached as its contact says: ``received`` is what it registered over

    def __init__(
        self,
        uid: str,
        contact: str,
        expires_at: int,
        *,
        aor: str = "",
        received: str = "",
        q: int = -1,
        call_id: str = "",
        cseq: int = 0,
        flags: int = 0,
        user_agent: str = "",
        instance: str = "",
        server_id: int = 0,
        modified_at: float = 0.0,
    ) -> None:
        self.uid = uid
        self.contact = contact
        self.expires_at = expires_at
        self.aor = aor
        self.received = received
        self.q = q
        self.call_id = call_id
        self.cseq = cseq
        self.flags = flags
        self.user_agent = user_agent
        self.instance = instance
        self.server_id = server_id
        self.modified_at = modified_at

    def is_live(self, wall_now: float) -> bool:
        """True while the binding has not expired; permanent ones never do."""
        return self.expires_at > wall_now or self.is_permanent

    @property
    def uri(self) -> str:
        """The Contact URI as the phone wrote it."""
        at = self.contact.find(MARK)
        return self.contact if at < 0 else self.contact[:at] + self.contact[at + len(MARK) + MARK_DIGITS :]

    @property
    def is_nat(self) -> bool:
        """True when the phone is behind a NAT."""
        return (self.flags & Binding.NAT) != 0

    @property
    def is_permanent(self) -> bool:
        """True when it never expires."""
        return (self.flags & Binding.PERMANENT) != 0

    @property
    def is_memory_only(self) -> bool:
        """True when this server keeps no row of it: a replica, whose row is written by the server that took it."""
        return (self.flags & Binding.MEM) != 0

    def __repr__(self) -> str:
        return f"Binding({self.uid!r}, {self.contact!r}, {self.expires_at}, flags={self.flags})"


def encode(key: bytes, bindings: list[Binding]) -> bytes:
    """Return the record of *key*. Raises LimitExceededError for a key or text that is too long, ResourceError for too
    many bindings or a record that is too large.
    """
    if len(key) > MAX_KEY:
        raise LimitExceededError(f"the user id is longer than {MAX_KEY} bytes", status=400)
    if len(bindings) > MAX_BINDINGS:
        raise ResourceError(f"more than {MAX_BINDINGS} bindings of one user")
    parts: list[bytes] = [_PREFIX.pack(len(key), len(bindings)), key]
    texts: list[str] = []
    for b in bindings:
        fields = (b.contact, b.aor, b.received, b.call_id, b.user_agent, b.instance)
        for text in fields:
            if len(text) > MAX_TEXT:
                raise LimitExceededError(f"a field of a binding is longer than {MAX_TEXT}", status=400)
            texts.append(text)
        parts.append(
            _FIXED.pack(
                b.expires_at,
                b.modified_at,
                b.cseq & 0xFFFFFFFF,
                b.server_id,
                b.q,
                b.flags & 0xFFFF,
                len(b.contact),
                len(b.aor),
                len(b.received),
                len(b.call_id),
                len(b.user_agent),
                len(b.instance),
            )
        )
    parts.append("".join(texts).encode("utf-8", "surrogateescape"))
    record = b"".join(parts)
    if len(record) > MAX_RECORD:
        raise ResourceError(f"the bindings of one user need {len(record)} bytes")
    return record


def decode(record: bytes, uid: str) -> list[Binding]:
    """Return the bindings of *record*, which belongs to *uid*. Raises ValueError when it is not a record."""
    try:
        key_length, count = _PREFIX.unpack_from(record, 0)
        at: int = _PREFIX_SIZE + key_length
        text_at: int = at + count * _FIXED_SIZE
        texts = record[text_at:].decode("utf-8", "surrogateescape")
        found: list[Binding] = []
        start = 0
        for _ in range(count):
            start = _decode_one(record, at, texts, start, uid, found)
            at += _FIXED_SIZE
    except struct.error as exc:
        raise ValueError(str(exc)) from None
    return found


def _decode_one(record: bytes, at: int, texts: str, start: int, uid: str, found: list[Binding]) -> int:
    """Append the binding whose fixed part is at *at* and whose texts start at *start*; return where the next start."""
    expires_at, modified_at, cseq, server_id, q, flags, n1, n2, n3, n4, n5, n6 = _FIXED.unpack_from(record, at)
    end1: int = start + n1
    end2: int = end1 + n2
    end3: int = end2 + n3
    end4: int = end3 + n4
    end5: int = end4 + n5
    end6: int = end5 + n6
    if end6 > len(texts):
        raise ValueError("texts of a record are cut")
    found.append(
        Binding(
            uid,
            texts[start:end1],
            expires_at,
            aor=texts[end1:end2],
            received=texts[end2:end3],
            q=q,
            call_id=texts[end3:end4],
            cseq=cseq,
            flags=flags,
            user_agent=texts[end4:end5],
            instance=texts[end5:end6],
            server_id=server_id,
            modified_at=modified_at,
        )
    )
    return end6


def key_of(record: bytes) -> bytes:
    """Return the key of *record*. Raises ValueError."""
    if len(record) < _PREFIX_SIZE:
        raise ValueError("record without a prefix")
    length = int.from_bytes(record[:2], "little") if _LITTLE else int.from_bytes(record[:2], "big")
    return record[_PREFIX_SIZE : _PREFIX_SIZE + length]


def earliest(bindings: list[Binding]) -> int:
    """Return when the first of *bindings* expires (Unix time), NEVER without one that does, 0 for an empty list."""
    if not bindings:
        return 0
    first = NEVER
    for binding in bindings:
        if not binding.is_permanent and binding.expires_at < first:
            first = binding.expires_at
    return first


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"
