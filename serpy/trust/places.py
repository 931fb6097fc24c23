"""Where a message comes from, as the tables know it: numbers for an address, its network, and names of users.

IPv4 counts by address, IPv6 by /64 and, more patiently, by /48; a *pair* belongs to the /24 or /48, which a phone that gets
a new address seldom leaves. IPv4 networks, /48s and hashes have numbers that no global IPv6 /64 has.

Runs in: every process. Locks: none. RFC: 4291 §2.5.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from struct import Struct
from typing import TYPE_CHECKING, Final

from serpy.sip.address import pack_address

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

_IPV4: Final = 1 << 32
_WIDE: Final = 2 << 48
_NOWHERE: Final = 2  # ::/64, and what is no address
_PAIR: Final = 0xFF01 << 48  # a multicast prefix is nobody's source
_USER: Final = 0xFF02 << 48
_CALLEE: Final = 0xFF03 << 48
_48: Final = (1 << 48) - 1
_63: Final = (1 << 63) - 1
_TRANSPORTS: Final = {"udp": 0, "tcp": 1, "tls": 2, "ws": 3, "wss": 4}
_NUMBER: Final = Struct("!Q")
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
        number = int.from_bytes(packed, "big")
        net, low, wide = _IPV4 | number if packed else _NOWHERE, 0, _WIDE | 1 << 40 | number >> 8
        if self.is_ipv6:
            net, low, wide = number >> 64 or _NOWHERE, number & 0xFFFFFFFFFFFFFFFF, _WIDE | number >> 80
        self.net: Final[int] = net
        self.low: Final[int] = low
        self.wide: Final[int] = wide

    def net_text(self) -> str:
        """What people call what is charged."""
        return f"{_prefix(self.net if self.net != _NOWHERE else 0)}/64" if self.is_ipv6 else self.host

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
    """Turns places and names into keys of the tables, with the *secret* of this server; remembers the last ones."""

    def __init__(self, secret: int) -> None:
        self._secret: Final = secret
        self._hash: Final = blake2s(secret.to_bytes(8, "big"), digest_size=8)  # as long for every name, which follows
        self._places: Final[dict[str, Place]] = {}
        self._numbers: Final[dict[str, int]] = {}

    def place(self, host: str) -> Place:
        """The place of an address."""
        found = self._places.get(host)
        if found is None:
            if len(self._places) >= KEPT:
                self._places.clear()
            found = self._places[host] = Place(host)
        return found

    def number(self, name: str) -> int:
        """A number for the user *name*, user@domain in any case."""
        found = self._numbers.get(name)
        if found is None:
            if len(self._numbers) >= KEPT:
                self._numbers.clear()
            hashed = self._hash.copy()
            hashed.update(name[:NAME_MAX].lower().encode("utf-8", "surrogateescape"))
            numbers: tuple[int] = _NUMBER.unpack(hashed.digest())
            found = numbers[0] >> 1
            self._numbers[name[:NAME_MAX]] = found
        return found

    def flow(self, place: Place, port: int, transport: str) -> int:
        """The key of a flow among the known."""
        value: i64 = hash((place.net, place.low, port << 3 | _TRANSPORTS.get(transport, 7), self._secret))
        return value & _63 | 1

    def known_pair(self, place: Place, name: int) -> int:
        """The key of a pair among the known."""
        value: i64 = hash((1, place.wide, name, self._secret))
        return value & _63 | 1

    def known_net(self, net: int) -> int:
        """The key of a network among the known: how many pairs it has."""
        value: i64 = hash((2, net, self._secret))
        return value & _63 | 1

    def pair(self, place: Place, name: int) -> int:
        """The key of a pair among strangers."""
        return _PAIR | hash((3, place.wide, name, self._secret)) & _48

    def user(self, name: int) -> int:
        """The key of a user among strangers."""
        return _USER | name & _48

    def callee(self, name: int) -> int:
        """The key of a user who is called by strangers."""
        return _CALLEE | name & _48


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
