"""The listen addresses: read from the settings, resolved, and bound in the master before the first fork.

Per UDP address there is one socket per receiver (SO_REUSEPORT, in child order, so that the steering program's index is
the child's), per TCP address one per TCP receiver, among which the kernel spreads new connections. A multicast address
has one UDP socket, receives only, and is never a source. No listen given: every address of this machine, loopback last.
UDP listeners come first: where a script does not say which it wants, the first is taken.

Runs in: master. Locks: none. RFC: 3261 §18.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import logging
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serpy.errors import ConfigError
from serpy.net.handoff import set_buffers
from serpy.net.steering import attach_program
from serpy.sip.flow import Listener

if TYPE_CHECKING:
    from serpy.config import Settings

log = logging.getLogger(__name__)

TRANSPORTS: Final = ("udp", "tcp", "tls", "sctp", "ws", "wss")
RECEIVE_BUFFER: Final = 1048576  # holds what comes while a killed receiver is replaced
GROUP_BUFFER: Final = 8 * 1024 * 1024  # what 2,000 replicas a second need while the timer process loads a table
SIOCGIFADDR: Final = 0x8915
IPV6_LINK_SCOPE: Final = "20"
SO_RCVBUFFORCE: Final = 33
BACKLOG: Final = 1024  # connections that wait while a TCP receiver is replaced; the system's limit may be lower


class Bound:
    """The sockets of all listeners: ``sockets[listener.index][child]``; None where a child has none.

    ``accepting`` is the same for the listening sockets of the *streams* TCP receivers.
    """

    def __init__(self, listeners: list[Listener], children: int, streams: int = 0) -> None:
        self.listeners: Final = listeners
        self.children: Final = children
        self.streams: Final = streams
        self.sockets: Final[list[list[socket.socket | None]]] = [[None] * children for _ in listeners]
        self.accepting: Final[list[list[socket.socket | None]]] = [[None] * streams for _ in listeners]

    def of_child(self, child: int) -> list[socket.socket | None]:
        """The sockets of one receiver, by listener index."""
        return [row[child] for row in self.sockets]

    def close_others(self, child: int, stream: int = -1) -> None:
        """In a child: close the sockets of the other receivers, and of the TCP receivers but the one numbered *stream*."""
        for rows, own in ((self.sockets, child), (self.accepting, stream)):
            for row in rows:
                for index, sock in enumerate(row):
                    if index != own and sock is not None:
                        sock.close()
                        row[index] = None

    def close(self) -> None:
        """Close all."""
        self.close_others(-1)


def listeners_of(settings: Settings) -> list[Listener]:
    """The listeners that the settings ask for. Raises ConfigError."""
    wanted = [entry for text in settings.listen for entry in _split_group(text)]
    found: dict[str, list[tuple[str, int]]] = {"udp": [], "tcp": []}
    if not wanted:
        for host in local_addresses():
            _add(found, "", host, settings.port, settings)
        if not found["udp"]:
            raise ConfigError("this machine has no address to listen on", hint="give one with -l or listen=")
    for text in wanted:
        transport, host, port = parse_address(text)
        if transport not in ("", "udp", "tcp"):
            log.warning("listen %s: %s is not served, ignored", text, transport.upper())
            continue
        if transport == "tcp" and not has_tcp(settings):
            log.warning("listen %s: TCP is off (disable_tcp, or fork=no), ignored", text)
            continue
        for address in _addresses_of(host, text):
            _add(found, transport, address, port or settings.port, settings)
    listeners: list[Listener] = []
    for transport in ("udp", "tcp"):
        for host, port in dict.fromkeys(found[transport]):
            listeners.append(_listener(len(listeners), transport, host, port, settings))
    if not listeners:
        raise ConfigError("no address to listen on", hint="add listen = udp:ADDRESS:PORT")
    return listeners


def has_tcp(settings: Settings) -> bool:
    """True unless TCP is switched off; a server that does not fork has UDP only, as SER."""
    return not settings.disable_tcp and bool(settings.fork)


def stream_children(listeners: list[Listener], settings: Settings) -> int:
    """How many TCP receivers this server has: none without a TCP listener."""
    if not any(listener.transport == "tcp" for listener in listeners):
        return 0
    return settings.tcp_children or settings.children


def _add(found: dict[str, list[tuple[str, int]]], transport: str, host: str, port: int, settings: Settings) -> None:
    """Note one address for *transport*, "" for all that can have it."""
    if transport in ("", "udp"):
        found["udp"].append((host, port))
    if transport == "tcp" or (transport == "" and has_tcp(settings) and not ipaddress.ip_address(host).is_multicast):
        found["tcp"].append((host, port))


def _listener(index: int, transport: str, host: str, port: int, settings: Settings) -> Listener:
    multicast = ipaddress.ip_address(host).is_multicast
    if multicast and transport != "udp":
        raise ConfigError(f"listen {transport}:{host}: a multicast address is for UDP only")
    return Listener(
        index,
        transport,
        host,
        port,
        advertised_host=settings.advertised_address,
        advertised_port=settings.advertised_port,
        multicast=multicast,
    )


def aliases_of(settings: Settings, listeners: list[Listener]) -> set[tuple[str, int]]:
    """What counts as ourselves: (lower-case host, port or 0 for any)."""
    names: set[tuple[str, int]] = set()
    for text in settings.alias:
        for entry in _split_group(text):
            _, host, port = parse_address(entry)
            names.add((host.lower(), port))
    by_address = _hosts_file() if settings.auto_aliases else {}
    for listener in listeners:
        if listener.multicast:
            continue
        names.add((listener.host.lower(), listener.port))
        names.update((name, listener.port) for name in by_address.get(listener.host, ()))
    if settings.advertised_address:
        names.add((settings.advertised_address.lower(), settings.advertised_port or settings.port))
    return names


def parse_address(text: str) -> tuple[str, str, int]:
    """(transport or "", host, port or 0) of ``[proto:]host[:port]``; IPv6 in brackets. Raises ConfigError."""
    rest = text.strip(" \t\"'")
    transport = ""
    head, colon, tail = rest.partition(":")
    if colon and head.lower() in TRANSPORTS:
        transport, rest = head.lower(), tail
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise ConfigError(f"bad address {text!r}", hint="IPv6 is written [2001:db8::1]:5060")
        port_text = tail[1:]
    elif rest.count(":") > 1:
        host, port_text = rest, ""
    else:
        host, _, port_text = rest.partition(":")
    if not host:
        raise ConfigError(f"bad address {text!r}: no host")
    if not port_text:
        return transport, host, 0
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) < 6 and 0 < int(port_text) < 65536):
        raise ConfigError(f"bad port in address {text!r}")
    return transport, host, int(port_text)


def _split_group(text: str) -> list[str]:
    """``(a, b)`` -> its members, anything else as it is."""
    inner = text.strip(" \t\"'")
    if inner.startswith("(") and inner.endswith(")"):
        return [part.strip(" \t") for part in inner[1:-1].split(",") if part.strip(" \t")]
    return [inner]


def _addresses_of(host: str, text: str) -> list[str]:
    """Numeric addresses of a listen host: an address, an interface or a name. Raises ConfigError."""
    if host == "*":
        return local_addresses()
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    if host in {name for _, name in socket.if_nameindex()}:
        addresses = interface_addresses(host)
        if not addresses:
            raise ConfigError(f"listen {text}: interface {host} has no address")
        return addresses
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as exc:
        raise ConfigError(f"listen {text}: cannot resolve {host}: {exc}") from None
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def local_addresses() -> list[str]:
    """Every usable address of this machine, loopback last, link-local ones left out."""
    found = [address for _, name in socket.if_nameindex() for address in interface_addresses(name)]
    return sorted(dict.fromkeys(found), key=lambda address: ipaddress.ip_address(address).is_loopback)


def interface_addresses(name: str) -> list[str]:
    """The IPv4 address of interface *name*, then its IPv6 ones."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        found.append(socket.inet_ntoa(answer[20:24]))
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").split("\n"):
            fields = line.split()
            if len(fields) == 6 and fields[5] == name and fields[3] != IPV6_LINK_SCOPE:
                found.append(str(ipaddress.IPv6Address(int(fields[0], 16))))
    return found


def _hosts_file() -> dict[str, list[str]]:
    """Names by address in /etc/hosts: what reverse DNS would say, without a wait at start."""
    names: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for line in Path("/etc/hosts").read_text(encoding="utf-8", errors="replace").split("\n"):
            fields = line.partition("#")[0].split()
            if len(fields) > 1:
                names.setdefault(fields[0], []).extend(name.lower() for name in fields[1:])
    return names


def bind_all(listeners: list[Listener], children: int, settings: Settings) -> Bound:
    """Bind every listener for *children* receivers and steer. Raises ConfigError with the reason, nothing left open."""
    bound = Bound(listeners, children, stream_children(listeners, settings))
    try:
        for listener in listeners:
            if listener.transport == "tcp":
                _probe(listener)
                bound.accepting[listener.index][:] = [_listen(listener, settings) for _ in range(bound.streams)]
                continue
            if listener.multicast:
                bound.sockets[listener.index][0] = _bind_multicast(listener, settings)
                continue
            _probe(listener)
            row = bound.sockets[listener.index]
            for child in range(children):
                row[child] = _bind(listener, settings)
            first = row[0]
            assert first is not None
            attach_program(first, children)
    except ConfigError:
        bound.close()
        raise
    return bound


def _probe(listener: Listener) -> None:
    """SO_REUSEPORT would let a second server join in silently: without it, the bind tells whether one is there."""
    with _socket(listener) as probe:
        _bind_to(probe, listener)


def _bind(listener: Listener, settings: Settings) -> socket.socket:
    sock = _socket(listener)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _bind_to(sock, listener)
    _set_options(sock, listener, settings)
    return sock


def _listen(listener: Listener, settings: Settings) -> socket.socket:
    """A listening socket. What is set here, its connections inherit."""
    sock = _socket(listener)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    _bind_to(sock, listener)
    sock.setblocking(False)
    set_stream_options(sock, settings)
    sock.listen(BACKLOG)
    return sock


def set_stream_options(sock: socket.socket, settings: Settings) -> None:
    """What a connection of ours needs: no waiting for more to send, and a peer that vanished is found out one day."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, settings.tos)


def _bind_multicast(listener: Listener, settings: Settings) -> socket.socket:
    """Bound to the group; the timer process joins it, see replication/sockets.py."""
    sock = _socket(listener)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind_to(sock, listener)
    _set_options(sock, listener, settings)
    set_buffers(sock, GROUP_BUFFER)
    return sock


def _socket(listener: Listener) -> socket.socket:
    kind = socket.SOCK_STREAM if listener.transport == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET6 if listener.ipv6 else socket.AF_INET, kind)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last server in TIME_WAIT
    if listener.ipv6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind_to(sock: socket.socket, listener: Listener) -> None:
    try:
        sock.bind((listener.host, listener.port))
    except OSError as exc:
        sock.close()
        name = f"{listener.transport}:{listener.host}:{listener.port}"
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(f"{name} is in use by another program{_user_of(listener)}") from None
        if exc.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"{name} is not an address of this machine") from None
        raise ConfigError(f"cannot listen on {name}: {exc.strerror}") from None


def _set_options(sock: socket.socket, listener: Listener, settings: Settings) -> None:
    sock.setblocking(False)
    size = settings.udp_receive_buffer or RECEIVE_BUFFER
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    if listener.ipv6:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, settings.tos)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, settings.mcast_loopback)
    if settings.mcast_ttl >= 0:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, settings.mcast_ttl)


def _user_of(listener: Listener) -> str:
    """`` (pid N, name)`` of whoever holds the port, "" when it cannot be seen."""
    inodes: set[str] = set()
    for table in (f"/proc/net/{listener.transport}", f"/proc/net/{listener.transport}6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").split("\n")[1:]:
                fields = line.split()
                if len(fields) > 9 and int(fields[1].rpartition(":")[2], 16) == listener.port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                if str(fd.readlink()) in inodes:
                    name = (process / "comm").read_text(encoding="utf-8", errors="replace").rstrip("\n")
                    return f" (pid {process.name}, {name!r})"
    return ""
