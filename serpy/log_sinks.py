"""Where log lines go: standard error or a syslog socket, neither of which may hold up the process that logs.

Standard error is shared, with other programs as well (a terminal with the shell): its mode is not ours to change. A pipe
or terminal is opened once more, so that not blocking is ours alone; where that is not allowed it is asked first. A socket
is asked not to wait with each send. A syslog daemon that was started anew is found again, at most one look a second.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import contextlib
import errno
import logging.handlers
import os
import select
import socket
import stat
import time
from collections.abc import Iterator
from typing import Final, Protocol

PIECE: Final = select.PIPE_BUF  # what a pipe takes whole or not at all
SYSLOG_PIECE: Final = 2000  # bytes that every receiver of syslog takes (RFC 5424 §6.1: 2048 with the head)
RECONNECT_S: Final = 1.0

_AT_ONCE: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_TOO_MUCH: Final = (errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM)


class Sink(Protocol):
    """Takes records, or refuses them."""

    def write(self, priority: str, data: bytes, patience_s: float) -> bool:
        """Write *data*, one record; False when (part of) it is lost. Waits for room for *patience_s* at most."""

    def after_fork(self) -> None:
        """In a child: share nothing with the others that they could get stuck in."""

    def close(self) -> None:
        """Give back what this sink has opened."""


class Stderr:
    """The file *fd*, whatever it is. A record that was begun is finished before the next one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._own = False  # _fd is ours to close
        self._blocks = False  # writing may block: ask first
        self._socket: socket.socket | None = None
        self._rest = b""
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            return  # closed: every write will fail
        if stat.S_ISSOCK(mode):
            with contextlib.suppress(OSError):
                self._socket = socket.socket(fileno=os.dup(fd))
        elif not stat.S_ISREG(mode):  # a file never blocks, and opened again it would be written from its beginning
            self._open_again()

    def _open_again(self) -> None:
        try:
            self._fd = os.open(
                f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_APPEND | os.O_CLOEXEC
            )
        except OSError:  # another user's terminal, no /proc here
            self._blocks = True
        else:
            self._own = True

    def write(self, _priority: str, data: bytes, patience_s: float) -> bool:
        """Write one line."""
        if self._rest:
            self._rest = self._rest[self._put(self._rest[:PIECE], 0.0) :]
            if self._rest:
                return False
        data += b"\n"
        at = 0
        while at < len(data):
            piece = data[at : at + PIECE]
            taken = self._put(piece, patience_s)
            at += taken
            if taken < len(piece):
                if at:
                    self._rest = data[at:]
                return at > 0
        return True

    def _put(self, piece: bytes, patience_s: float) -> int:
        """How many bytes of *piece* were taken."""
        try:
            if self._socket is not None:
                return self._socket.send(piece, _AT_ONCE)
            if not self._blocks or _has_room(self._fd, 0.0):
                return os.write(self._fd, piece)
        except BlockingIOError:
            pass
        except OSError:  # the reader is gone, the disk is full
            return 0
        fd = self._fd if self._socket is None else self._socket.fileno()
        if patience_s > 0.0 and _has_room(fd, patience_s):
            return self._put(piece, 0.0)
        return 0

    def after_fork(self) -> None:
        """Each line is one write: it can stay shared. What the parent had begun is its business."""
        self._rest = b""

    def close(self) -> None:
        """Close what was opened again."""
        if self._socket is not None:
            self._socket.close()
        elif self._own:
            os.close(self._fd)
            self._own = False


class Syslog:
    """The daemon behind the unix socket *path*, datagram or stream."""

    def __init__(self, path: str, facility: str, name: str) -> None:
        numbers = logging.handlers.SysLogHandler.facility_names
        self._path: Final = path
        self._facility: Final = numbers.get(facility, numbers["daemon"]) << 3
        self._name: Final = name
        self._socket: socket.socket | None = None
        self._rest = b""  # of a record on a stream
        self._tried_at = -RECONNECT_S

    def is_there(self) -> bool:
        """True when somebody listens."""
        return self._connected() is not None

    def write(self, priority: str, data: bytes, patience_s: float) -> bool:
        """Write one record, in as many messages as it needs."""
        number = self._facility | logging.handlers.SysLogHandler.priority_names[priority]
        head = f"<{number}>{self._name}: ".encode("utf-8", "backslashreplace")
        return all(self._put(head + piece + b"\0", patience_s) for piece in _cut(data))

    def _put(self, message: bytes, patience_s: float) -> bool:
        for _ in range(2):  # the second time with a socket of the daemon that has been started anew
            sock = self._connected()
            if sock is None:
                return False
            try:
                return self._send(sock, message, patience_s)
            except OSError as exc:
                if exc.errno in _TOO_MUCH:
                    return False
                self._drop()
        return False

    def _send(self, sock: socket.socket, message: bytes, patience_s: float) -> bool:
        """False when there is no room. Raises OSError when there is no daemon."""
        while self._rest:
            sent = _send_now(sock, self._rest)
            if not sent:
                return False
            self._rest = self._rest[sent:]
        sent = _send_now(sock, message)
        if not sent and patience_s > 0.0 and _has_room(sock.fileno(), patience_s):
            sent = _send_now(sock, message)
        if sent:
            self._rest = message[sent:]
        return sent > 0

    def _connected(self) -> socket.socket | None:
        now = time.monotonic()
        if self._socket is None and now - self._tried_at >= RECONNECT_S:
            self._tried_at = now
            self._socket = _connect(self._path)
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._rest = b""

    def after_fork(self) -> None:
        """A connection of this process's own, when it can have one: on a stream the records of two would mix."""
        own = _connect(self._path)
        if own is not None:
            self._drop()
            self._socket = own

    def close(self) -> None:
        """Close the connection."""
        self._drop()


def _connect(path: str) -> socket.socket | None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = None
        try:
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.setblocking(False)
            sock.connect(path)
        except OSError:  # also BlockingIOError: it listens, and does not accept
            if sock is not None:
                sock.close()
        else:
            return sock
    return None


def _send_now(sock: socket.socket, data: bytes) -> int:
    try:
        return sock.send(data, _AT_ONCE)
    except BlockingIOError:
        return 0


def _has_room(fd: int, patience_s: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(patience_s * 1000.0))


def _cut(data: bytes) -> Iterator[bytes]:
    """*data* in pieces that fit a syslog message, at line ends where there are some."""
    while len(data) > SYSLOG_PIECE:
        end = data.rfind(b"\n", 1, SYSLOG_PIECE)
        if end < 0:
            end = SYSLOG_PIECE
            while data[end] & 0xC0 == 0x80:  # not within a character
                end -= 1
        yield data[:end]
        data = data[end:].removeprefix(b"\n")
    yield data
