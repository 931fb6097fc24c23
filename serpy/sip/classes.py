"""Classes of addresses: who can be behind one. Public unicast, a private network, this machine, or nobody.

An IPv4 address inside an IPv6 one (mapped, translated, NAT64, 6to4, Teredo) is of the class of that IPv4 address: whatever carries
the packet takes it there. Addresses for documentation count as public: they are for pretending.

Runs in: every process. Locks: none. RFC: 6890 and the registries it made; 1918, 3056, 3927, 4193, 4291, 4380, 6052, 6598, 8215.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from serpy.sip.address import ADDRESS_MAX, pack_address

PUBLIC: Final = 0
PRIVATE: Final = 1
LOOPBACK: Final = 2
NEVER: Final = 3  # nobody has it: unspecified, multicast, broadcast, reserved, no address at all

Net = tuple[int, int, int]  # (first address, bits that do not count, class)


def _net(text: str, kind: int) -> Net:
    network = ipaddress.ip_network(text)
    return int(network.network_address), network.max_prefixlen - network.prefixlen, kind


_IPV4: Final[list[Net]] = [
    _net("0.0.0.0/8", NEVER),  # "this network": Linux takes 0.0.0.0 for this machine
    _net("10.0.0.0/8", PRIVATE),
    _net("100.64.0.0/10", PRIVATE),  # behind a carrier's NAT
    _net("127.0.0.0/8", LOOPBACK),
    _net("169.254.0.0/16", PRIVATE),  # also: the metadata of clouds
    _net("172.16.0.0/12", PRIVATE),
    _net("192.0.0.0/24", NEVER),
    _net("192.168.0.0/16", PRIVATE),
    _net("198.18.0.0/15", PRIVATE),
    _net("224.0.0.0/3", NEVER),
]
_NO_NETS: Final[list[Net]] = []
# By the first byte of an address: of most there is no network to look at.
_BY_FIRST: Final[list[list[Net]]] = [
    [net for net in _IPV4 if net[0] >> max(24, net[1]) == byte << 24 >> max(24, net[1])] or _NO_NETS
    for byte in range(256)
]
_IPV6: Final[list[Net]] = [
    _net("::1/128", LOOPBACK),
    _net("::/96", NEVER),  # unspecified, and IPv4-compatible, which nobody carries any more
    _net("64:ff9b:1::/48", PRIVATE),  # NAT64 of a private network
    _net("100::/64", NEVER),
    _net("fc00::/7", PRIVATE),
    _net("fe80::/10", PRIVATE),
    _net("fec0::/10", PRIVATE),
    _net("ff00::/8", NEVER),
]
# Where the IPv4 address is: (first address, bits that do not count, offset of its bytes, what to xor them with).
_INSIDE: Final[list[tuple[int, int, int, int]]] = [
    (int(ipaddress.IPv6Address("::ffff:0:0")), 32, 12, 0),
    (int(ipaddress.IPv6Address("::ffff:0:0:0")), 32, 12, 0),
    (int(ipaddress.IPv6Address("64:ff9b::")), 32, 12, 0),
    (int(ipaddress.IPv6Address("2002::")), 112, 2, 0),
    (int(ipaddress.IPv6Address("2001::")), 96, 12, 0xFF),
]


def address_class(host: str) -> int:
    """The class of the numeric *host*, brackets and zone allowed; NEVER for anything else."""
    packed = pack_address(host) or _without_zone(host)
    if len(packed) == 16:
        inside = _ipv4_inside(packed)
        if inside == b"":
            return _look_up(_IPV6, packed)
        packed = inside
    return _look_up(_BY_FIRST[packed[0]], packed) if packed else NEVER


_KEPT: Final = 4096
_private: Final[dict[str, bool]] = {}


def is_private(host: str) -> bool:
    """``src_ip == private``: true for what is no public unicast address."""
    found = _private.get(host)
    if found is None:
        found = address_class(host) != PUBLIC
        if len(host) <= ADDRESS_MAX:
            if len(_private) >= _KEPT:
                _private.clear()
            _private[host] = found
    return found


def _without_zone(host: str) -> bytes:
    if "%" not in host or len(host) > ADDRESS_MAX:
        return b""
    try:
        return ipaddress.IPv6Address(host.strip("[]")).packed
    except ValueError:
        return b""


def _ipv4_inside(packed: bytes) -> bytes:
    value = int.from_bytes(packed, "big")
    for first, bits, at, mask in _INSIDE:
        if value >> bits == first >> bits:
            return bytes(byte ^ mask for byte in packed[at : at + 4])
    return b""


def _look_up(table: list[Net], packed: bytes) -> int:
    if not table:
        return PUBLIC
    value = int.from_bytes(packed, "big")
    for first, bits, kind in table:
        if value >> bits == first >> bits:
            return kind
    return PUBLIC
