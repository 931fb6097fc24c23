"""Where a message comes from, as the tables know it: numbers for an address, its network, and names of users.

IPv4 counts by address, IPv6 by /64 and, more patiently, by /48; a *pair* belongs to the /24 or /48, which a phone that gets
a new address seldom leaves. IPv4 networks, /48s and hashes have numbers that no IPv6 /64 has which is given out; all have 62 bits.

Runs in: every process. Locks: none. RFC: 4291 §2.5.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from serpy.shm.fingerprints import Fingerprints
from serpy.shm.mixing import BITS, mixed
from serpy.sip.address import pack_address

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

_IPV4: Final = 1 << 32
_WIDE: Final = 2 << 48
_NOWHERE: Final = 2  # ::/64, and what is no address
_PAIR: Final = 0x3F01 << 48  # nobody's prefix
_USER: Final = 0x3F02 << 48
_CALLEE: Final = 0x3F03 << 48
_48: Final = (1 << 48) - 1
_ODD: Final = 1  # no key is 0
_TRANSPORTS: Final = {"udp": 0, "tcp": 1, "tls": 2, "ws": 3, "wss": 4}
KEPT: Final = 8192
NAME_MAX: Final = 128  # characters of user@domain that count

# Who a message says it is of, as far as can be seen without parsing it; each looks at one line.
_TO: Final = re.compile(rb"\n(?:to|t)[ \t]*:([^\r\n]{0,320})", re.IGNORECASE)
_FROM: Final = re.compile(rb"\n(?:from|f)[ \t]*:([^\r\n]{0,320})", re.IGNORECASE)
_URI: Final = re.compile(rb"sips?:([^@;>\r\n ]{1,64}@[^;>:\r\n ]{1,64})", re.IGNORECASE)
_DIGEST: Final = re.compile(rb"\n(?:proxy-)?authorization[ \t]*:[ \t]*digest[ \t]([^\r\n]{1,1024})", re.IGNORECASE)
_USERNAME: Final = re.compile(rb'\busername[ \t]*=[ \t]*"([^"]{1,128})"', re.IGNORECASE)
_REALM: Final = re.compile(rb'\brealm[ \t]*=[ \t]*"([^"]{1,64})"', re.IGNORECASE)
HEAD: Final = 4096  # bytes that are looked at


class Place:
    """One source address. *net* is what is charged, *wide* the network of pairs, charged too for IPv6."""

    def __init__(self, host: str) -> None:
        packed = pack_address(host)
        if len(packed) == 16 and packed[:12] == b"\0\0\0\0\0\0\0\0\0\0\xff\xff":
            packed = packed[12:]
        self.host: Final = host
        self.is_ipv6: Final = len(packed) == 16
        self.source: Final = packed[:8].hex() if self.is_ipv6 else host  # another name of *net*
        number = int.from_bytes(packed, "big")
        net, low, wide = _IPV4 | number if packed else _NOWHERE, 0, _WIDE | 1 << 40 | number >> 8
        if self.is_ipv6:
            net, low, wide = number >> 64 & BITS or _NOWHERE, number & 0xFFFFFFFFFFFFFFFF, _WIDE | number >> 80
        self.net: i64 = net
        self.low: i64 = low >> 2
        self.last_bits: i64 = low & 3
        self.wide: i64 = wide

    def net_text(self) -> str:
        """What people call what is charged."""
        return f"{_prefix(int.from_bytes(pack_address(self.host)[:8], 'big'))}/64" if self.is_ipv6 else self.host

    def wide_text(self) -> str:
        """The same for the network around it."""
        if self.is_ipv6:
            return f"{_prefix((self.wide & _48) << 16)}/48"
        return f"{self.host.rpartition('.')[0]}.0/24"


def _prefix(number: int) -> str:
    groups = [f"{number >> shift & 0xFFFF:x}" for shift in (48, 32, 16, 0)]
    while groups and groups[-1] == "0":
        groups.pop()
    return ":".join(groups) + "::"


class Names:
    """Turns places and names into keys of the tables, with the *secret* of this server; remembers the last places."""

    def __init__(self, secret: int) -> None:
        seed: i64 = secret & BITS
        self._texts: Final = Fingerprints(secret.to_bytes(8, "big"))
        self._of_flow: i64 = mixed(seed, 1)
        self._of_known_pair: i64 = mixed(seed, 2)
        self._of_known_net: i64 = mixed(seed, 3)
        self._of_pair: i64 = mixed(seed, 4)
        self._places: Final[dict[str, Place]] = {}
        self._last_name = ""
        self._last_number: i64 = 0

    def place(self, host: str) -> Place:
        """The place of an address."""
        found = self._places.get(host)
        if found is None:
            if len(self._places) >= KEPT:
                self._places.clear()
            found = self._places[host] = Place(host)
        return found

    def number(self, name: str) -> i64:
        """A number for the user *name*, user@domain in any case."""
        if name == self._last_name:
            return self._last_number
        value: i64 = self._texts.of(name[:NAME_MAX].lower())
        self._last_name, self._last_number = name, value
        return value

    def flow(self, place: Place, port: int, transport: str) -> i64:
        """The key of a flow among the known."""
        ends = port << 5 | _TRANSPORTS.get(transport, 7) << 2 | place.last_bits
        return mixed(mixed(mixed(self._of_flow, place.net), place.low), ends) | _ODD

    def known_pair(self, place: Place, name: i64) -> i64:
        """The key of a pair among the known."""
        return mixed(mixed(self._of_known_pair, place.wide), name) | _ODD

    def known_net(self, net: i64) -> i64:
        """The key of a network among the known: how many pairs it has."""
        return mixed(self._of_known_net, net) | _ODD

    def pair(self, place: Place, name: i64) -> i64:
        """The key of a pair among strangers."""
        return _PAIR | mixed(mixed(self._of_pair, place.wide), name) & _48

    def user(self, name: i64) -> i64:
        """The key of a user among strangers."""
        return _USER | mixed(self._of_pair, name) & _48

    def callee(self, name: i64) -> i64:
        """The key of a user who is called by strangers."""
        return _CALLEE | mixed(self._of_pair, name) & _48


def names_in(data: bytes) -> list[str]:
    """Whom a message, not parsed yet, claims to be of: the user of its credentials, else of From and of To."""
    head = data[:HEAD]
    found = _DIGEST.search(head)
    if found is not None:
        username, realm = _USERNAME.search(found[1]), _REALM.search(found[1])
        if username is not None and realm is not None:
            name = username[1]
            return [_text(name if b"@" in name else name + b"@" + realm[1])]
    names: list[str] = []
    for pattern in (_FROM, _TO):
        line = pattern.search(head)
        match = _URI.search(line[1]) if line is not None else None
        if match is not None:
            name_text = _text(match[1])
            if name_text not in names:
                names.append(name_text)
    return names


def _text(name: bytes) -> str:
    return name[:NAME_MAX].decode("utf-8", "surrogateescape").lower()
