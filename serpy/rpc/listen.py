"""Where the RPC server listens, and the sockets for it.

Addresses are written ``unixs:PATH unixd:PATH udp:HOST:PORT tcp:HOST:PORT``; the port may be left out (2049). Only file
permissions protect a unix socket, and nothing protects the others: they are for the loopback address.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from typing import Final, NamedTuple

from serpy.api import Service
from serpy.errors import ConfigError

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 2049
BACKLOG: Final = 64
_DIGITS: Final = frozenset("0123456789")


class Address(NamedTuple):
    """One place to listen: *kind* is unixs, unixd, udp or tcp; *path* is a file or a host."""

    kind: str
    path: str
    port: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.port}" if self.port else "")

    @property
    def is_stream(self) -> bool:
        """True for unixs and tcp."""
        return self.kind in ("unixs", "tcp")


class RpcSettings:
    """What the ``ctl`` module asks of the RPC server; *uid* and *gid* -1 leave the owner alone."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.metrics: list[Address] = []
        self.mode = 0o600
        self.uid = -1
        self.gid = -1


def parse_address(text: str) -> Address:
    """The address written as *text*; without a protocol it is a path (unixs) or a host (udp). Raises ConfigError."""
    kind, colon, rest = text.partition(":")
    if kind in ("unix", "unixs", "unixd") and colon:
        if not rest:
            raise ConfigError(f"no path in RPC address {text!r}", hint="use unixs:/path")
        return Address("unixd" if kind == "unixd" else "unixs", rest)
    if kind not in ("udp", "tcp") or not colon:
        if text.startswith("/"):
            return Address("unixs", text)
        kind, rest = "udp", text
    host, port = _host_port(rest, text)
    return Address(kind, host, port)


def _host_port(rest: str, text: str) -> tuple[str, int]:
    host, port = rest, ""
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        port = tail.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if (
        not host
        or (":" in host and rest[0] != "[")
        or (port and not (_DIGITS.issuperset(port) and 0 < int(port[:6]) < 65536))
    ):
        raise ConfigError(f"malformed RPC address {text!r}", hint="use udp:127.0.0.1:2049, tcp:[::1]:2049, unixs:/path")
    return ("127.0.0.1" if host == "*" else host), int(port) if port else DEFAULT_PORT


def open_socket(address: Address, settings: RpcSettings) -> socket.socket:
    """A bound, non-blocking socket for *address*. Raises ConfigError with the reason."""
    kind = socket.SOCK_STREAM if address.is_stream else socket.SOCK_DGRAM
    try:
        if address.port:
            return _open_inet(address, kind)
        return _open_unix(address.path, kind, settings)
    except OSError as exc:
        raise ConfigError(f"cannot listen for RPC on {address}: {exc.strerror or exc}") from None


def _open_inet(address: Address, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.path else socket.AF_INET
    if address.path not in ("127.0.0.1", "::1", "localhost"):
        log.warning("RPC on %s is open to everybody who can reach it", address)
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        sock.bind((address.path, address.port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _open_unix(path: str, kind: int, settings: RpcSettings) -> socket.socket:
    _remove_stale(path, kind)
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)  # never open to others, not even for a moment
    try:
        sock.bind(path)
        os.chmod(path, settings.mode)  # noqa: PTH101
        if settings.uid >= 0 or settings.gid >= 0:
            os.chown(path, settings.uid, settings.gid)
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_stale(path: str, kind: int) -> None:
    """Remove a socket that nobody listens on: a predecessor left it. Raises ConfigError when somebody does."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{path} exists and is no socket", hint="remove it, or choose another place")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            return
    raise ConfigError(
        f"another process listens on {path}", hint="is the server running already? -Y chooses another place"
    )


RPC_SETTINGS: Final[Service[RpcSettings]] = Service("addresses of the RPC server")
