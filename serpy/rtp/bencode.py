"""Bencode, the encoding of rtpengine's control protocol: integers, strings, lists, dictionaries.

Strings are bytes when decoded; text is encoded as UTF-8 with what came in undecodable restored. Decoding is strict and
takes one pass; depth and size are limited.

Runs in: udp receiver, timer, ctl. Locks: none.
"""

from __future__ import annotations

from typing import Any, Final

from serpy.errors import ParseError

DEPTH_MAX: Final = 32
_DIGITS_MAX: Final = 18
_DIGITS: Final = b"0123456789"
_D: Final = 100
_E: Final = 101
_I: Final = 105
_L: Final = 108

Encodable = int | str | bytes | list[Any] | dict[str, Any]  # Any: Encodable again; lists of such are invariant
Decoded = int | bytes | list[Any] | dict[bytes, Any]  # Any: Decoded again


def encode(value: Encodable) -> bytes:
    """*value* as bytes. Dictionaries are written in the order of their keys."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Encodable, parts: list[bytes]) -> None:
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        parts.append(str(len(data)).encode("ascii") + b":" + data)
    elif isinstance(value, bytes):
        parts.append(str(len(value)).encode("ascii") + b":" + value)
    elif isinstance(value, int):
        parts.append(f"i{int(value)}e".encode("ascii"))
    elif isinstance(value, dict):
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


class _Reader:
    """What is being decoded, and how far."""

    def __init__(self, data: bytes) -> None:
        self.data: Final = data
        self.at = 0

    def value(self, depth: int) -> Decoded:
        """The value at ``at``, which moves behind it. Raises ParseError."""
        head = self._head()
        if head == _I:
            return self._integer()
        if head in (_L, _D):
            if depth == 0:
                raise ParseError("bencode: nested too deep", offset=self.at)
            self.at += 1
            if head == _L:
                return self._list(depth - 1)
            return self._dictionary(depth - 1)
        return self._string()

    def _head(self) -> int:
        if self.at >= len(self.data):
            raise ParseError("bencode: cut off", offset=self.at)
        return self.data[self.at]

    def _list(self, depth: int) -> list[Any]:  # Any: Decoded
        items: list[Any] = []
        while self._head() != _E:
            items.append(self.value(depth))
        self.at += 1
        return items

    def _dictionary(self, depth: int) -> dict[bytes, Any]:  # Any: Decoded
        found: dict[bytes, Any] = {}
        while self._head() != _E:
            key = self._string()
            found[key] = self.value(depth)
        self.at += 1
        return found

    def _integer(self) -> int:
        start = self.at + 1
        end = self.data.find(b"e", start, start + _DIGITS_MAX + 2)
        word = self.data[start:end] if end > start else b""
        digits = word[1:] if word.startswith(b"-") else word
        if not 1 <= len(digits) <= _DIGITS_MAX or digits.strip(_DIGITS):
            raise ParseError("bencode: bad integer", offset=start)
        self.at = end + 1
        return int(word)

    def _string(self) -> bytes:
        at = self.at
        colon = self.data.find(b":", at, at + _DIGITS_MAX + 1)
        word = self.data[at:colon] if colon > at else b""
        if not word or word.strip(_DIGITS):
            raise ParseError("bencode: no value here", offset=at)
        start = colon + 1
        end = start + int(word)
        if end > len(self.data):
            raise ParseError("bencode: string is cut off", offset=at)
        self.at = end
        return self.data[start:end]


def decode(data: bytes) -> Decoded:
    """The one value that *data* is. Raises ParseError."""
    reader = _Reader(data)
    value = reader.value(DEPTH_MAX)
    if reader.at != len(data):
        raise ParseError("bencode: something behind the value", offset=reader.at)
    return value
