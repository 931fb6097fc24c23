"""Numeric hosts: what is one, its bytes, its plain spelling, and the port that a transport means.

The one owner of these questions. Answers are remembered, since the same few addresses come back in every message; the
memory is bounded and longer texts do not get into it.

Runs in: every process. Locks: none. RFC: 3261 §19.1.2, §25.1 (host); 4291 §2.2; 6874 (zones).
"""

from __future__ import annotations

import ipaddress
from _socket import AF_INET, inet_pton  # a function of texts: nothing here opens a socket
from typing import Final

ADDRESS_MAX: Final = 64  # characters: more than any IPv6 address in brackets
_KEPT: Final = 4096

_packed: Final[dict[str, bytes]] = {}


def pack_address(text: str) -> bytes:
    """4 or 16 bytes of a numeric address, brackets allowed; b"" for anything else, zones included."""
    found = _packed.get(text)
    if found is not None:
        return found
    if len(text) > ADDRESS_MAX:
        return b""
    bare = text.strip("[]")
    packed = _pack_ipv6(bare) if ":" in bare else _pack_ipv4(bare)
    if len(_packed) >= _KEPT:
        _packed.clear()
    _packed[text] = packed
    return packed


def _pack_ipv4(text: str) -> bytes:
    """The bytes of four decimals without leading zeros, b"" for anything else."""
    if not text[-1:].isdigit():
        return b""  # a name, as a rule: that shall not cost an exception
    try:
        return inet_pton(AF_INET, text)
    except (OSError, ValueError):
        return b""


def _pack_ipv6(text: str) -> bytes:
    if "%" in text:
        return b""
    try:
        return ipaddress.ip_address(text).packed
    except ValueError:
        return b""


def is_address(host: str) -> bool:
    """True for an IPv4 or (with or without brackets) IPv6 address, with a zone or not."""
    if host and host[0] not in "0123456789[" and ":" not in host:
        return False
    return pack_address(host) != b"" if "%" not in host else plain_address(host) != ""


def plain_address(host: str) -> str:
    """*host* without brackets in its usual spelling (RFC 5952) when it is an address, else ""."""
    if len(host) > ADDRESS_MAX:
        return ""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return ""


def bracketed(host: str) -> str:
    """*host* as it stands in a URI or Via: an IPv6 address in brackets (RFC 3261 §25.1)."""
    return f"[{host}]" if ":" in host else host


def default_port(transport: str) -> int:
    """The port that a URI or Via without one means (RFC 3261 §19.1.2)."""
    return 5061 if transport == "tls" else 5060
