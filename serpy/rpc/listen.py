"""Where the RPC server listens, and the sockets for it.

Only file permissions protect a unix socket, and nothing protects the others: they are for the loopback address.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from typing import Final

from serpy.api import Service
from serpy.errors import ConfigError
from serpy.rpc.addresses import Address

log = logging.getLogger(__name__)

BACKLOG: Final = 64


class RpcSettings:
    """What the ``ctl`` module asks of the RPC server; *uid* and *gid* -1 leave the owner alone."""

    def __init__(self) -> None:
        self.addresses: list[Address] = []
        self.metrics: list[Address] = []
        self.mode = 0o600
        self.uid = -1
        self.gid = -1


RPC_SETTINGS: Final[Service[RpcSettings]] = Service("addresses of the RPC server")


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
