"""The socket under PyMySQL: waits with a deadline, parks where there is a loop.

PyMySQL asks for blocking reads and writes of a socket it is given; this one looks like a socket to it and lets the handler
park instead. A deadline that passes raises, and PyMySQL then drops the connection: the protocol is out of step.

Runs in: every process that queries. Locks: none.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Final

from serpy.db import hosts
from serpy.db.pool import DeadlineError

if TYPE_CHECKING:
    from serpy.net.loop import Loop

LOCAL_SOCKETS: Final = (
    "/run/mysqld/mysqld.sock",
    "/var/run/mysqld/mysqld.sock",
    "/var/lib/mysql/mysql.sock",
    "/tmp/mysql.sock",  # noqa: S108 - the servers' own default
)
DEFAULT_PORT: Final = 3306
_CHUNK: Final = 65_536

_resolved: dict[str, str] = {}


class Wire:
    """A connected, non-blocking socket. *deadline* is the monotonic instant by which the current job must be done."""

    def __init__(self, sock: socket.socket, loop: Loop | None, deadline: float, *, is_local: bool) -> None:
        self.deadline = deadline
        self.is_local = is_local
        self._sock = sock
        self._loop = loop
        self._data = bytearray()
        self._at = 0

    # -- what PyMySQL calls

    def settimeout(self, seconds: float | None) -> None:
        """Nothing: ``deadline`` counts."""

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """As for a socket."""
        self._sock.setsockopt(level, option, value)

    def makefile(self, _mode: str) -> Wire:
        """The reading side."""
        return self

    def fileno(self) -> int:
        """The descriptor."""
        return self._sock.fileno()

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises OSError, DeadlineError."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                self.wait(readable=False)

    def read(self, size: int) -> bytes:
        """Exactly *size* bytes, fewer when the server has closed. Raises OSError, DeadlineError."""
        while len(self._data) - self._at < size:
            part = self.read_some()
            if not part:
                break
            if self._at:
                del self._data[: self._at]
                self._at = 0
            self._data += part
        found = bytes(self._data[self._at : self._at + size])
        self._at += len(found)
        if self._at == len(self._data):
            self._data.clear()
            self._at = 0
        return found

    def read_some(self) -> bytes:
        """What comes next, b"" when the server has closed. Raises OSError, DeadlineError."""
        while True:
            try:
                return self._sock.recv(_CHUNK)
            except BlockingIOError:
                self.wait(readable=True)

    def close(self) -> None:
        """Close."""
        self._sock.close()

    # -- waiting

    def wait(self, *, readable: bool) -> None:
        """Wait for the socket. Raises DeadlineError."""
        fd = self._sock.fileno()
        if self._loop is not None:
            ready = (
                self._loop.wait_readable(fd, self.deadline) if readable else self._loop.wait_writable(fd, self.deadline)
            )
        else:
            poller = select.poll()
            poller.register(fd, select.POLLIN if readable else select.POLLOUT)
            ready = bool(poller.poll(max(self.deadline - time.monotonic(), 0.0) * 1000.0))
        if not ready:
            raise DeadlineError


def connect(host: str, port: int, path: str, loop: Loop | None, deadline: float) -> Wire:
    """A connection to *host*:*port*, or to the unix socket *path*; "localhost" without a port is the local socket.

    Raises OSError, DeadlineError.
    """
    if not path and not port and host in ("", "localhost"):
        path = next((name for name in LOCAL_SOCKETS if os.path.exists(name)), "")  # noqa: PTH110 - a few stats
    if path:
        family: int = socket.AF_UNIX
        target: object = path
    else:
        family, target = _address(host or "127.0.0.1", port or DEFAULT_PORT, loop, deadline)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    wire = Wire(sock, loop, deadline, is_local=bool(path))
    try:
        if not path:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        code = sock.connect_ex(target)  # type: ignore[arg-type]  # a path or a tuple, as the family wants it
        if code in (errno.EINPROGRESS, errno.EAGAIN):
            wire.wait(readable=False)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        _resolved.pop(host, None)
        raise
    return wire


def _address(host: str, port: int, loop: Loop | None, deadline: float) -> tuple[int, tuple[object, ...]]:
    """Family and address of *host*; a name is looked up once and again after a failed connect. Raises OSError,
    DeadlineError.
    """
    address = _resolved.get(host)
    if address is None:
        address = _resolved[host] = hosts.addresses(host, loop, deadline)[0]
    return (socket.AF_INET6 if ":" in address else socket.AF_INET), (address, port)
