"""BINRPC version 1, the protocol of sercmd and kamcmd: bytes to values and back.

Message: ``0xA1``, a byte of type (4 bits), size of the length and of the cookie (2 bits each, minus one), the length, the
cookie, records. Record: one byte ``S(1) size(3) type(4)``; with S clear *size* is the length of the value, with S set the
number of length bytes that follow; S with size 0 ends an array or struct. Integers have 32 bits and a sign, so larger ones
travel as text.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from serpy.errors import FramingError

MAGIC: Final = 0xA1
REQUEST: Final = 0
REPLY: Final = 1
FAULT: Final = 3

INT: Final = 0
STRING: Final = 1
DOUBLE: Final = 2
STRUCT: Final = 3
ARRAY: Final = 4
NAME: Final = 5
BYTES: Final = 6

_END: Final = object()  # the mark that closes an array or struct
_DEPTH: Final = 8
_MAX_INT: Final = 2**31 - 1


class Head(NamedTuple):
    """A message header: *size* of the payload, *total* of the whole message, both in bytes."""

    kind: int
    cookie: bytes
    size: int
    total: int


def parse_head(data: bytes) -> Head | None:
    """The header at the start of *data*, None when more bytes are needed. Raises FramingError."""
    if not data:
        return None
    if data[0] != MAGIC:
        raise FramingError("not a BINRPC message")
    if len(data) < 2:
        return None
    length_size = (data[1] >> 2 & 3) + 1
    cookie_size = (data[1] & 3) + 1
    start = 2 + length_size + cookie_size
    if len(data) < start:
        return None
    size = int.from_bytes(data[2 : 2 + length_size], "big")
    return Head(data[1] >> 4, data[2 + length_size : start], size, start + size)


def parse_payload(data: bytes) -> list[object]:
    """The values of a payload in order. Raises FramingError."""
    values: list[object] = []
    at = 0
    while at < len(data):
        value, at = _parse(data, at, _DEPTH)
        if value is _END:
            raise FramingError("BINRPC: end of nothing")
        values.append(value)
    return values


def _parse(data: bytes, at: int, depth: int) -> tuple[object, int]:
    head = data[at]
    at += 1
    kind = head & 15
    size = head >> 4 & 7
    if kind in (STRUCT, ARRAY):
        if head & 0x80:
            return _END, at
        if not depth:
            raise FramingError("BINRPC: nested too deep")
        return _parse_struct(data, at, depth - 1) if kind == STRUCT else _parse_array(data, at, depth - 1)
    if head & 0x80:
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    else:
        length = size
    if at + length > len(data):
        raise FramingError("BINRPC: a record is cut off")
    return _scalar(kind, data[at : at + length]), at + length


def _scalar(kind: int, value: bytes) -> object:
    if kind in (INT, DOUBLE):
        if len(value) > 8:
            raise FramingError("BINRPC: a number is too long")
        number = int.from_bytes(value, "big")
        if len(value) == 4 and number > _MAX_INT:
            number -= 2**32
        return number if kind == INT else number / 1000
    if kind in (STRING, NAME):
        return value.removesuffix(b"\0").decode("utf-8", "surrogateescape")
    if kind == BYTES:
        return value
    raise FramingError(f"BINRPC: unknown record type {kind}")


def _parse_array(data: bytes, at: int, depth: int) -> tuple[list[object], int]:
    found: list[object] = []
    while at < len(data):
        value, at = _parse(data, at, depth)
        if value is _END:
            return found, at
        found.append(value)
    raise FramingError("BINRPC: an array without end")


def _parse_struct(data: bytes, at: int, depth: int) -> tuple[dict[str, object], int]:
    found: dict[str, object] = {}
    while at < len(data):
        name, at = _parse(data, at, depth)
        if name is _END:
            return found, at
        if at >= len(data):
            break
        value, at = _parse(data, at, depth)
        if value is _END:
            raise FramingError("BINRPC: a struct member without value")
        found[str(name)] = value
    raise FramingError("BINRPC: a struct without end")


def build_message(kind: int, cookie: bytes, values: Iterable[object]) -> bytes:
    """One whole message with *values* as its records; *cookie* has 1 to 4 bytes."""
    payload = b"".join(build_value(value) for value in values)
    length = len(payload).to_bytes(4, "big").lstrip(b"\0") or b"\0"
    return bytes((MAGIC, kind << 4 | (len(length) - 1) << 2 | (len(cookie) - 1))) + length + cookie + payload


def build_value(value: object) -> bytes:
    """One record; None is an empty string, a list an array, a mapping a struct without lists and structs inside."""
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int):
        if not -_MAX_INT - 1 <= value <= _MAX_INT:
            return _string(STRING, str(value))
        return _record(INT, (value & 0xFFFFFFFF).to_bytes(4, "big").lstrip(b"\0"))
    if isinstance(value, float):
        if not math.isfinite(value):
            return _string(STRING, str(value))
        thousandths = round(value * 1000)
        if not -_MAX_INT - 1 <= thousandths <= _MAX_INT:
            return _string(STRING, str(value))
        return _record(DOUBLE, (thousandths & 0xFFFFFFFF).to_bytes(4, "big").lstrip(b"\0"))
    if isinstance(value, bytes):
        return _record(BYTES, value)
    if isinstance(value, Mapping):
        members = b"".join(_string(NAME, name) + build_value(member) for name, member in _flat(value))
        return bytes((STRUCT,)) + members + bytes((0x80 | STRUCT,))
    if isinstance(value, list | tuple):
        return bytes((ARRAY,)) + b"".join(build_value(item) for item in value) + bytes((0x80 | ARRAY,))
    return _string(STRING, "" if value is None else str(value))


def _flat(value: Mapping[object, object]) -> list[tuple[str, object]]:
    """The members of a struct as sercmd can read them: it takes no list and no struct inside a struct."""
    found: list[tuple[str, object]] = []
    for name, member in value.items():
        if isinstance(member, Mapping):
            found.extend((f"{name}.{inner}", item) for inner, item in _flat(member))
        elif isinstance(member, list | tuple):
            found.append((str(name), ", ".join(str(item) for item in member)))
        else:
            found.append((str(name), member))
    return found


def _string(kind: int, text: str) -> bytes:
    return _record(kind, text.encode("utf-8", "surrogateescape").replace(b"\0", b"") + b"\0")


def _record(kind: int, value: bytes) -> bytes:
    size = len(value)
    if size < 8:
        return bytes((size << 4 | kind,)) + value
    length = size.to_bytes(4, "big").lstrip(b"\0")
    return bytes((0x80 | len(length) << 4 | kind,)) + length + value
