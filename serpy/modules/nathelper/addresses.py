"""Which addresses cannot be reached from outside: what tells a phone behind a NAT from one that is not.

Private means RFC 1918, shared by carriers (RFC 6598), link-local, and unique local in IPv6. Loopback does not count:
whoever talks to us from there is on this machine. Host names do not count either, they are not resolved.

Runs in: udp receiver. Locks: none. RFC: 1918, 3927, 4193, 4291, 6598.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from serpy.sip.address import pack_address

_CACHE_MAX: Final = 4096  # hosts of Contact and Via repeat in every message of a phone
_ADDRESS_MAX: Final = 47  # characters of an IPv6 address with an IPv4 one in it, in brackets; longer ones are names
_known: Final[dict[str, bool]] = {}

_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)


def is_private(host: str) -> bool:
    """True when *host* (as written, brackets allowed) is an address that nobody outside its own network reaches."""
    if len(host) > _ADDRESS_MAX:
        return False
    found = _known.get(host)
    if found is None:
        found = _look(host)
        if len(_known) >= _CACHE_MAX:
            _known.clear()
        _known[host] = found
    return found


def _look(host: str) -> bool:
    packed = pack_address(host.partition("%")[0])  # a zone says which link it is local to
    if not packed:
        return False
    address = ipaddress.ip_address(packed)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in _NETWORKS if network.version == address.version)


def is_same_address(written: str, source: str) -> bool:
    """True when *written* (in a message, brackets allowed) is the address *source* of a packet, however it is spelled."""
    if written == source:
        return True
    packed = pack_address(written)
    return packed != b"" and packed == pack_address(source)
