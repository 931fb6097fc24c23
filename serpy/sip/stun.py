"""STUN on a SIP port: a phone asks from which address its packets come, and so keeps its NAT open (outbound, §4.4.2 there).

Only binding requests are answered, from what they say alone: no state, no authentication, no other attributes. An answer
is at most 44 bytes for 20, and never answered itself, so nothing goes round. Classic requests (without the magic cookie)
get the address as it is.

Runs in: udp receiver. Locks: none. RFC: 5389 (§6, §7.3.1, §12.2, §15); 5626 (keep-alives).
"""

from __future__ import annotations

from typing import Final

from serpy.sip.address import pack_address

HEADER: Final = 20
SIZE_MAX: Final = 512  # bytes of a request; those of phones have 20 to 60
_REQUEST: Final = b"\x00\x01"
_RESPONSE: Final = b"\x01\x01"
_ERROR: Final = b"\x01\x11"
_COOKIE: Final = b"\x21\x12\xa4\x42"
_MAPPED: Final = b"\x00\x01"
_XOR_MAPPED: Final = b"\x00\x20"
_OPTIONAL: Final = 0x8000  # attributes from here on may be passed over
# What a phone may say without wanting more than an address: USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, PRIORITY.
_PASSED_OVER: Final = frozenset({0x0006, 0x0008, 0x0014, 0x0015, 0x0024})
_UNKNOWN_MAX: Final = 4  # as many unknown attributes are named in an error


def is_stun(data: bytes) -> bool:
    """True for a STUN message of any kind: two zero bits, and the length that the packet has."""
    size = len(data)
    return size >= HEADER and data[0] < 4 and int.from_bytes(data[2:4], "big") == size - HEADER and size % 4 == 0


def binding_response(data: bytes, host: str, port: int) -> bytes:
    """The answer to the binding request *data* that came from *host*:*port*; b"" for anything else."""
    if len(data) > SIZE_MAX or data[:2] != _REQUEST or not is_stun(data):
        return b""
    unknown = _unknown_attributes(data)
    if unknown is None:
        return b""
    if unknown:
        names = b"".join([kind.to_bytes(2, "big") for kind in unknown])
        padded = names + b"\x00" * (-len(names) % 4)
        body = b"\x00\x09\x00\x04\x00\x00\x04\x14\x00\x0a" + len(names).to_bytes(2, "big") + padded  # 420
        return _message(_ERROR, data, body)
    return _message(_RESPONSE, data, _address(data, host, port))


def _message(kind: bytes, request: bytes, body: bytes) -> bytes:
    return kind + len(body).to_bytes(2, "big") + request[4:HEADER] + body


def _address(request: bytes, host: str, port: int) -> bytes:
    """(XOR-)MAPPED-ADDRESS; xored, so that no NAT rewrites it."""
    packed = pack_address(host)
    family = b"\x00\x02" if len(packed) == 16 else b"\x00\x01"
    number = port.to_bytes(2, "big")
    size = (len(packed) + 4).to_bytes(2, "big")
    if request[4:8] != _COOKIE:
        return _MAPPED + size + family + number + packed
    mask = request[4:HEADER]
    return _XOR_MAPPED + size + family + _xor(number, mask) + _xor(packed, mask)


def _xor(value: bytes, mask: bytes) -> bytes:
    return bytes([byte ^ mask[at] for at, byte in enumerate(value)])


def _unknown_attributes(data: bytes) -> list[int] | None:
    """The attributes that we would have to understand (§7.3.1), None when *data* is malformed."""
    unknown: list[int] = []
    at = HEADER
    while at < len(data):
        kind = int.from_bytes(data[at : at + 2], "big")
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        at += 4 + size + (-size % 4)
        if at > len(data):
            return None
        if kind < _OPTIONAL and kind not in _PASSED_OVER and len(unknown) < _UNKNOWN_MAX:
            unknown.append(kind)
    return unknown
