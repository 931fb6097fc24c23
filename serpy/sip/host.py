"""One normal form of hosts, so that two spellings of one host are never two hosts.

Everybody who compares hosts asks here: domains, "is it us", the guard of destinations, dialogs, digest, budgets. What
has no normal form is no host: it belongs to nobody and nothing is sent there.

Runs in: every process. Locks: none. RFC: 3261 §19.1.4, §25.1; 1123 §2.1; 4291 §2.2; 5952.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from serpy.sip.abnf import ascii_lower
from serpy.sip.address import ADDRESS_MAX, pack_address

_KEPT: Final = 4096
_KEPT_LENGTH: Final = 255
_NAME_MAX: Final = 255
# Underscores are in no RFC and in many names. A last label that a resolver may read as a number is none (RFC 3696 §2).
_NAME: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*(?![0-9]+\Z|0x)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)

_normal: Final[dict[str, str]] = {}


def normal_host(host: str) -> str:
    """*host* as everybody compares it: lower case, one final dot gone, an address without brackets in its usual spelling
    and IPv4 inside IPv6 as IPv4; "" for what is no host.
    """
    found = _normal.get(host)
    if found is not None:
        return found
    if len(host) > _KEPT_LENGTH + 1:
        return ""
    found = _make(host)
    if len(_normal) >= _KEPT:
        _normal.clear()
    _normal[host] = found
    return found


def _make(host: str) -> str:
    if host[:1].isdigit() and host[-1:].isdigit() and ":" not in host and pack_address(host):
        return host  # there is only one way to write four decimals
    if not host.isascii():
        return ""
    if ":" in host:
        return _ipv6(host)
    text = ascii_lower(host).removesuffix(".")
    if text[:1].isdigit() and text[-1:].isdigit() and pack_address(text):
        return text
    return text if len(text) <= _NAME_MAX and _NAME.fullmatch(text) is not None else ""


def _ipv6(host: str) -> str:
    if len(host) > ADDRESS_MAX:
        return ""
    if host[0] == "[" or host[-1] == "]":
        if not (host[0] == "[" and host[-1] == "]"):
            return ""
        host = host[1:-1]
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return ""
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.scope_id is not None and not address.is_link_local:
        return ""
    return str(address)
