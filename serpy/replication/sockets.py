"""The sockets of the timer process for replication: membership of the group, and one of our own to send by.

The group socket was bound in the master, to the group's address, so nothing but the group's datagrams comes in by it. Our
own socket is bound to an address of the chosen interface; multicast leaves by that interface with TTL and loopback set
explicitly, and unicast answers of the neighbours come back to it.

Runs in: timer. Locks: none. RFC: 1112.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Final

from serpy.errors import ConfigError
from serpy.net.handoff import set_buffers
from serpy.net.listen import interface_addresses
from serpy.sip.address import plain_address

if TYPE_CHECKING:
    from serpy.config import Settings
    from serpy.sip.flow import Listener

BUFFER_BYTES: Final = 4 * 1024 * 1024  # for repair; may turn out smaller where we are not root any more
IP_MULTICAST_ALL: Final = 49
DEFAULT_TTL: Final = 1


def administrative_address(interface: str, group: Listener, listeners: list[Listener]) -> str:
    """The address of ours that faces the other servers: of *interface* (an address or a name) when it is given, else
    of the first listener with a private address, else of the first one that is not loopback, else of the first one.

    Raises ConfigError.
    """
    if interface:
        return _address_of(interface, ipv6=group.ipv6)
    found = [each.host for each in listeners if not each.multicast and each.ipv6 == group.ipv6]
    for suits in (_is_private, _is_remote, bool):
        for host in found:
            if suits(host):
                return host
    raise ConfigError(f"no listen address to send to the group {group.host} from", hint="set the interface")


def _is_private(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return address.is_private and not address.is_loopback and not address.is_link_local


def _is_remote(host: str) -> bool:
    return not ipaddress.ip_address(host).is_loopback


def _address_of(interface: str, *, ipv6: bool) -> str:
    if numeric := plain_address(interface):
        return numeric
    with contextlib.suppress(OSError):
        for host in interface_addresses(interface):
            if (":" in host) == ipv6:
                return host
    raise ConfigError(f"replication: interface {interface[:40]!r} has no {'IPv6' if ipv6 else 'IPv4'} address here")


def join(sock: socket.socket, group: Listener, address: str) -> None:
    """Make *sock* receive what comes for *group* on the interface with *address*, and on no other. Harmless twice.

    Raises ConfigError.
    """
    try:
        if group.ipv6:
            member = socket.inet_pton(socket.AF_INET6, group.host) + struct.pack("@I", _index_of(address))
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
        else:
            member = socket.inet_aton(group.host) + socket.inet_aton(address)
            sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:  # a predecessor of this process has joined
            raise ConfigError(f"cannot join {group.host} on {address}: {exc.strerror}") from None


def open_sender(address: str, port: int, settings: Settings) -> socket.socket:
    """A socket at *address*:*port* that multicasts by the interface of *address*. Raises ConfigError."""
    ipv6 = ":" in address
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    ttl = settings.mcast_ttl if settings.mcast_ttl >= 0 else DEFAULT_TTL
    try:
        sock.setblocking(False)
        sock.bind((address, port))
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, _index_of(address))
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, settings.mcast_loopback)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, settings.mcast_loopback)
    except OSError as exc:
        sock.close()
        raise ConfigError(
            f"replication: cannot send from {address}:{port}: {exc.strerror}",
            hint="the interface parameter must name an address of this machine",
        ) from None
    set_buffers(sock, BUFFER_BYTES)
    return sock


def _index_of(address: str) -> int:
    for index, name in socket.if_nameindex():
        if address in interface_addresses(name):
            return index
    return 0
