"""Bencode, the encoding of rtpengine's control protocol: integers, strings, lists, dictionaries.

Strings are bytes when decoded; text is encoded as UTF-8 with what came in undecodable restored. Decoding is strict and
takes one pass; depth and size are limited.

Runs in: udp receiver, timer, ctl. Locks: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from serpy.errors import ParseError

DEPTH_MAX: Final = 32
_DIGITS_MAX: Final = 18
_DIGITS: Final = b"0123456789"

Encodable = int | str | bytes | Sequence["Encodable"] | Mapping[str, "Encodable"]
Decoded = int | bytes | list["Decoded"] | dict[bytes, "Decoded"]


def encode(value: Encodable) -> bytes:
    """*value* as bytes. Dictionaries are written in the order of their keys."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Encodable, parts: list[bytes]) -> None:
    if isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, (str, bytes)):
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        parts.append(b"%d:" % len(data))
        parts.append(data)
    elif isinstance(value, Mapping):
        parts.append(b"d")
        for key in sorted(value):
            _encode(key, parts)
            _encode(value[key], parts)
        parts.append(b"e")
    else:
        parts.append(b"l")
        for item in value:
            _encode(item, parts)
        parts.append(b"e")


def decode(data: bytes) -> Decoded:
    """The one value that *data* is. Raises ParseError."""
    value, at = _decode(data, 0, DEPTH_MAX)
    if at != len(data):
        raise ParseError("bencode: something behind the value", offset=at)
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Decoded, int]:
    head = data[at : at + 1]
    if head == b"i":
        return _integer(data, at)
    if head and head in _DIGITS:
        return _string(data, at)
    if depth == 0:
        raise ParseError("bencode: nested too deep", offset=at)
    if head == b"l":
        items: list[Decoded] = []
        at += 1
        while data[at : at + 1] != b"e":
            item, at = _decode(data, at, depth - 1)
            items.append(item)
        return items, at + 1
    if head == b"d":
        found: dict[bytes, Decoded] = {}
        at += 1
        while data[at : at + 1] != b"e":
            key, at = _string(data, at)
            found[key], at = _decode(data, at, depth - 1)
        return found, at + 1
    raise ParseError("bencode: no value here", offset=at)


def _integer(data: bytes, at: int) -> tuple[int, int]:
    end = data.find(b"e", at, at + _DIGITS_MAX + 3)
    word = data[at + 1 : end] if end > 0 else b""
    digits = word.removeprefix(b"-")
    if not digits or digits.strip(_DIGITS) or len(digits) > _DIGITS_MAX:
        raise ParseError("bencode: bad integer", offset=at)
    return int(word), end + 1


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    colon = data.find(b":", at, at + _DIGITS_MAX + 1)
    word = data[at:colon] if colon > 0 else b""
    if not word or word.strip(_DIGITS):
        raise ParseError("bencode: bad string", offset=at)
    start = colon + 1
    end = start + int(word)
    if end > len(data):
        raise ParseError("bencode: string is cut off", offset=at)
    return data[start:end], end
