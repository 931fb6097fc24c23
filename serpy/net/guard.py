"""May this leave for that address? One answer for requests, responses, CANCEL, ACK and keep-alives, on every transport.

Asked with the resolved address, so it does not matter how it was written or which name led to it. From a listener with a
public address only public ones are reached, from one with a private address private ones, too. This machine itself is
reached at addresses and ports that we listen on, and otherwise only from a loopback listener. What goes back to where
something came from, over a connection that stands, or to where a user has registered from, is not held back; what nobody
can have (multicast, broadcast, unspecified) always is. ``private_relay`` lets everything else go.

Runs in: every process. Locks: none. RFC: 6890.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import socket
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from serpy.errors import HeldBackError
from serpy.limited_log import LimitedLog
from serpy.sip.classes import LOOPBACK, NEVER, PRIVATE, PUBLIC, address_class
from serpy.sip.flow import SEEN, Flow, Listener

log = logging.getLogger(__name__)

COUNTER: Final = ("core.held_back", "messages that must not leave for that address: see private_relay")

KEPT: Final = 8192  # addresses whose class is remembered
LOOK_S: Final = 10.0  # how often the addresses of this machine are looked at, at most
OWN: Final = 4  # an address of this machine, in place of its class

SIOCGIFCONF: Final = 0x8912
IFREQ: Final = 16 + 3 * struct.calcsize("P")
IFCONF_MAX: Final = 512  # addresses


class Guard:
    """The guard of one process. ``count`` is called for each message that is held back, ``is_known`` asked whether a user
    has authenticated from there, or the administrator trusts it.
    """

    def __init__(
        self, listeners: Sequence[Listener], *, private_relay: bool, addresses: Callable[[], set[str]] | None = None
    ) -> None:
        self._listeners: Final = listeners
        self._everything: Final = private_relay
        self._addresses: Callable[[], set[str]] = addresses or machine_addresses
        self._sockets: Final = {(each.transport, each.host, each.port) for each in listeners if not each.multicast}
        self._groups: Final = {(each.host, each.port) for each in listeners if each.multicast}
        self._own: set[str] = set()
        self._look_at = 0.0
        self._classes: dict[str, int] = {}
        self._log: Final = LimitedLog(log)
        self.count: Callable[[], None] = _uncounted
        self.is_known: Callable[[Flow], bool] = _unknown

    def check(self, flow: Flow) -> None:
        """Raise HeldBackError when nothing may leave by *flow*."""
        kind = self._classes.get(flow.host)
        if kind is None:
            kind = self._class_of(flow.host)
        if kind != PUBLIC and not self._may(kind, flow):
            self._hold_back(kind, flow)

    def allows(self, flow: Flow) -> bool:
        """True when something may leave by *flow*."""
        kind = self._classes.get(flow.host)
        if kind is None:
            kind = self._class_of(flow.host)
        return kind == PUBLIC or self._may(kind, flow)

    def is_private(self, flow: Flow) -> bool:
        """``to_ip == private``: no public address, or one of this machine at a port that we do not listen on."""
        kind = self._class_of(flow.host)
        return kind != PUBLIC and (kind != OWN or not self._is_ours(flow))

    def _may(self, kind: int, flow: Flow) -> bool:
        if kind == NEVER:
            return (flow.host, flow.port) in self._groups
        if self._everything or flow.options & SEEN or flow.connection:
            return True
        scope = flow.listener.scope
        if scope == LOOPBACK or (kind == PRIVATE and scope == PRIVATE) or self._is_ours(flow):
            return True
        return self.is_known(flow)

    def _is_ours(self, flow: Flow) -> bool:
        return (flow.transport, flow.host, flow.port) in self._sockets

    def _hold_back(self, kind: int, flow: Flow) -> None:
        self.count()
        if kind == NEVER:
            text = f"nothing can be sent to {flow.host!r}"
        else:
            text = f"held back: from {flow.listener!r} to {_WORDS[kind]} {flow!r}"
        hint = "" if kind == NEVER else "; private_relay = yes would let it go"
        self._log.warning(f"guard {kind}", "%s%s", text, hint)
        raise HeldBackError(text)

    def _class_of(self, host: str) -> int:
        kind = self._classes.get(host)
        if kind is not None:
            return kind
        self._look()
        kind = address_class(host)
        if kind in (PUBLIC, PRIVATE) and _plain(host) in self._own:
            kind = OWN
        if len(self._classes) >= KEPT:
            self._classes.clear()
        self._classes[host] = kind
        return kind

    def _look(self) -> None:
        """Find out which addresses this machine has now; they may have changed since the start."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        own = {_plain(each.host) for each in self._listeners if not each.multicast}
        own.update(self._addresses())
        if own != self._own:
            self._own = own
            self._classes.clear()


_WORDS: Final = {
    PRIVATE: "the private address",
    LOOPBACK: "this machine,",
    OWN: "a port of this machine that is not ours,",
}


def _unknown(_flow: Flow) -> bool:
    return False


def _uncounted() -> None:
    """Until somebody counts."""


def _plain(host: str) -> str:
    """*host* in its usual spelling, an IPv4 address inside IPv6 as IPv4, without zone."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if inside is not None:
            return str(inside)
    return str(address)


def machine_addresses() -> set[str]:
    """All addresses of the interfaces of this machine."""
    found: set[str] = set()
    room = array("B", bytes(IFREQ * IFCONF_MAX))
    place, _ = room.buffer_info()
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFCONF, struct.pack("iP", len(room), place))
        size = struct.unpack("iP", answer)[0]
        found.update(socket.inet_ntoa(room[at + 20 : at + 24].tobytes()) for at in range(0, size, IFREQ))
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").split("\n"):
            if line:
                found.add(str(ipaddress.IPv6Address(int(line[:32], 16))))
    return found
