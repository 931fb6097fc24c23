"""What servers of a farm put around what they send each other, so that it can be believed: who, when, which, signature.

A replicated REGISTER stays a SIP message: its first header line is

    Serpy-Replica: grp=GROUP;id=SERVER;boot=START;seq=NUMBER;ts=MILLISECONDS;mac=SIGNATURE

Everything else travels as a *frame*: a fixed head, a payload, a signature. The signature is keyed BLAKE2b over the whole
datagram but itself. ``grp`` is made from key and group address: a datagram of another farm on the same address, or of one
with another key, is told from a forged one. Pure; the caller brings the time.

Runs in: timer. Locks: none. RFC: 7693 (BLAKE2).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

MAC_SIZE: Final = 16
HEADER_NAME: Final = "serpy-replica"  # canonical, as in Message.names
PREFIX: Final = b"Serpy-Replica: "
MAGIC: Final = b"\0SR1"
FRAME_HEAD: Final = struct.Struct("!4sB3xIIQQQ")  # magic, kind, group, server id, boot, sequence, milliseconds
FRAME_OVERHEAD: Final = FRAME_HEAD.size + MAC_SIZE
LONGEST_NUMBER: Final = 20  # digits
LONGEST_START_LINE: Final = 4096

# Why a datagram was dropped; each has a counter.
UNSIGNED: Final = "unsigned"
FORGED: Final = "forged"
REPLAYED: Final = "replayed"
STALE: Final = "stale"
OWN: Final = "own"
MALFORMED: Final = "malformed"
FOREIGN: Final = "foreign"
REASONS: Final = (UNSIGNED, FORGED, REPLAYED, STALE, OWN, MALFORMED, FOREIGN)

STREAM_REGISTER: Final = 0  # the two kinds of datagrams are numbered separately
STREAM_FRAME: Final = 1


class DroppedError(Exception):
    """A datagram that is not to be believed; *reason* is one of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Stamp:
    """Who sent a datagram and when. *boot* tells two lives of one server apart, *sent_ms* is Unix time."""

    def __init__(self, server_id: int, boot: int, sequence: int, sent_ms: int) -> None:
        self.server_id: Final = server_id
        self.boot: Final = boot
        self.sequence: Final = sequence
        self.sent_ms: Final = sent_ms


class Frame:
    """A verified frame."""

    def __init__(self, kind: int, stamp: Stamp, payload: bytes) -> None:
        self.kind: Final = kind
        self.stamp: Final = stamp
        self.payload: Final = payload


class Sealer:
    """Signs and verifies the datagrams of one group. *key* is the farm's secret."""

    def __init__(self, key: bytes, group: str, server_id: int, boot: int) -> None:
        secret = hashlib.blake2b(key, digest_size=32, person=b"serpy-replica").digest()
        self.server_id: Final = server_id
        self.boot: Final = boot
        tag = hashlib.blake2b(group.encode("utf-8", "surrogateescape"), digest_size=4, key=secret).digest()
        self.group: Final = int.from_bytes(tag, "big")
        self._group_field: Final = b"grp=%08x" % self.group
        self._keyed: Final = hashlib.blake2b(digest_size=MAC_SIZE, key=secret)
        self._sequences: Final = [0, 0]

    def next_sequence(self, stream: int) -> int:
        """The number of the next datagram of *stream*."""
        self._sequences[stream] += 1
        return self._sequences[stream]

    def sent(self, stream: int) -> int:
        """How many datagrams of *stream* have been numbered."""
        return self._sequences[stream]

    def seal_register(self, data: bytes, sent_ms: int) -> bytes:
        """The REGISTER *data* with its envelope. Raises ValueError when it has no start line."""
        start = data.index(b"\r\n") + 2
        header = b"%s%s;id=%d;boot=%x;seq=%d;ts=%d" % (
            PREFIX, self._group_field, self.server_id, self.boot, self.next_sequence(STREAM_REGISTER), sent_ms,
        )  # fmt: skip
        mac = self._mac(data[:start] + header + data[start:])
        return b"%s%s;mac=%s\r\n%s" % (data[:start], header, mac.hex().encode("ascii"), data[start:])

    def open_register(self, data: bytes) -> Stamp:
        """Verify a replicated REGISTER. Raises DroppedError: UNSIGNED, MALFORMED, FOREIGN or FORGED."""
        start = data.find(b"\r\n", 0, LONGEST_START_LINE) + 2
        if start < 2:
            raise DroppedError(MALFORMED)
        if not data.startswith(PREFIX, start):
            raise DroppedError(UNSIGNED)
        end = data.find(b"\r\n", start)
        fields = data[start + len(PREFIX) : end].split(b";") if end > 0 else []
        if len(fields) != 6:
            raise DroppedError(MALFORMED)
        group, identity, boot, sequence, sent, mac = fields
        if group != self._group_field:
            raise DroppedError(FOREIGN if group.startswith(b"grp=") else MALFORMED)
        if not mac.startswith(b"mac=") or len(mac) != 4 + 2 * MAC_SIZE:
            raise DroppedError(MALFORMED)
        stamp = Stamp(
            _number(identity, b"id="), _number(boot, b"boot=", 16), _number(sequence, b"seq="), _number(sent, b"ts=")
        )
        expected = self._mac(data[: end - len(mac) - 1] + data[end + 2 :])
        if not hmac.compare_digest(expected.hex().encode("ascii"), mac[4:]):
            raise DroppedError(FORGED)
        return stamp

    def seal_frame(self, kind: int, payload: bytes, sent_ms: int) -> bytes:
        """The frame that carries *payload*."""
        sequence = self.next_sequence(STREAM_FRAME)
        head = FRAME_HEAD.pack(MAGIC, kind, self.group, self.server_id & 0xFFFFFFFF, self.boot, sequence, sent_ms)
        body = head + payload
        return body + self._mac(body)

    def open_frame(self, data: bytes) -> Frame:
        """Verify a frame. Raises DroppedError: MALFORMED, FOREIGN or FORGED."""
        if len(data) < FRAME_OVERHEAD or not data.startswith(MAGIC):
            raise DroppedError(MALFORMED)
        _, kind, group, server_id, boot, sequence, sent_ms = FRAME_HEAD.unpack_from(data)
        if group != self.group:
            raise DroppedError(FOREIGN)
        if not hmac.compare_digest(self._mac(data[:-MAC_SIZE]), data[-MAC_SIZE:]):
            raise DroppedError(FORGED)
        return Frame(kind, Stamp(server_id, boot, sequence, sent_ms), data[FRAME_HEAD.size : -MAC_SIZE])

    def _mac(self, data: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(data)
        return mac.digest()


def register_time(value: str | None) -> float:
    """Unix time in the value of a verified Serpy-Replica header: when the sender took the REGISTER; 0.0 without one."""
    return max(0, _field(value, "ts=")) / 1000.0


def register_server(value: str | None) -> int:
    """The sender's server id in that value; -1 without one."""
    return _field(value, "id=")


def _field(value: str | None, name: str) -> int:
    if value is not None:
        for field in value.split(";"):
            if field.startswith(name):
                digits = field[len(name) :]
                if digits.isascii() and digits.isdigit() and len(digits) <= LONGEST_NUMBER:
                    return int(digits)
    return -1


def _number(field: bytes, name: bytes, base: int = 10) -> int:
    """The number in ``name=number``. Raises DroppedError."""
    digits = field[len(name) :]
    allowed = b"0123456789abcdef" if base == 16 else b"0123456789"
    if not field.startswith(name) or not 0 < len(digits) <= LONGEST_NUMBER or digits.strip(allowed):
        raise DroppedError(MALFORMED)
    return int(digits, base)
