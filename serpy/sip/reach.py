"""What kind of host stands in a message, and whether anybody but its owner could reach it: what tells a phone behind a
NAT from one that is not, and what nobody can be called at.

Addresses are of the classes of ``sip/classes.py``, where the unspecified ones have a kind of their own: phones say them. Names
are not resolved; a few are known to lead nowhere.

Runs in: udp receiver. Locks: none. RFC: 1122 §3.2.1.3, 1918, 3927, 4193, 4291, 6598, 6761, 6762.
"""

from __future__ import annotations

from typing import Final

from serpy.sip import classes
from serpy.sip.address import pack_address
from serpy.sip.host import normal_host

NO_HOST: Final = 0
HOST_NAME: Final = 1
NOWHERE: Final = 2  # a name that is valid on one machine or one link, or never
PUBLIC: Final = 3
PRIVATE: Final = 4
LOOPBACK: Final = 5
WILDCARD: Final = 6  # 0.0.0.0 and ::, "this host": what a phone is bound to, not where it is
NEVER: Final = 7  # multicast, broadcast, reserved: no phone has it

_CACHE_MAX: Final = 4096  # hosts of Contact and Via repeat in every message of a phone
_KEPT: Final = 255
_kinds: Final[dict[str, int]] = {}

_UNSPECIFIED: Final = bytes(16)
_NOWHERE: Final = ("localhost", "invalid", "local", "localdomain")
_AT_HOME: Final = ("lan", "home", "internal", "intranet", "private", "corp", "arpa")  # RFC 6762 appendix G, 8375

_KINDS: Final = {classes.PUBLIC: PUBLIC, classes.PRIVATE: PRIVATE, classes.LOOPBACK: LOOPBACK, classes.NEVER: NEVER}


def kind_of(host: str) -> int:
    """The kind of *host*, as written (brackets allowed)."""
    found = _kinds.get(host)
    if found is None:
        found = _look(host)
        if len(host) <= _KEPT:
            if len(_kinds) >= _CACHE_MAX:
                _kinds.clear()
            _kinds[host] = found
    return found


def _look(host: str) -> int:
    normal = normal_host(host)
    if not normal:
        return NO_HOST
    packed = pack_address(
        normal.partition("%")[0] if "%" in normal else normal
    )  # a zone says which link it is local to
    if not packed:
        return NOWHERE if normal.rpartition(".")[2] in _NOWHERE else HOST_NAME
    if packed == _UNSPECIFIED or (len(packed) == 4 and packed[0] == 0):
        return WILDCARD
    return _KINDS[classes.address_class(normal)]


def is_private(host: str) -> bool:
    """True when *host* is an address that nobody outside its own network reaches."""
    return kind_of(host) == PRIVATE


def is_unreachable(host: str, source: str) -> bool:
    """True when what a packet from *source* says of its sender, *host*, leads nobody to it."""
    kind = kind_of(host)
    if kind == PUBLIC:
        return False
    if kind == HOST_NAME:  # one that only a network of its own knows, from outside of it
        return (host.find(".") < 0 or host.rpartition(".")[2].lower() in _AT_HOME) and kind_of(source) == PUBLIC
    return kind != LOOPBACK or kind_of(source) != LOOPBACK


def leads_nowhere(host: str, source: str) -> bool:
    """The same but for private addresses: whether they lead anywhere depends on who asks."""
    return kind_of(host) != PRIVATE and is_unreachable(host, source)


def is_same_address(written: str, source: str) -> bool:
    """True when *written* (in a message, brackets allowed) is the address *source* of a packet, however it is spelled."""
    if written == source:
        return True
    packed = pack_address(written)
    return packed != b"" and packed == pack_address(source)
