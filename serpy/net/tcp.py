"""TCP connections of one process: accept, connect, read, frame, write queues, deadlines. Knows no SIP beyond framing.

Whoever owns the hub is told of whole frames (and may say "not now": then the connection is not read until ``resume``),
of bytes that could not be sent, and of connections that open and close. Reading stops before anything is dropped,
writing never waits: what the peer does not take is queued up to a limit and a deadline.

Runs in: tcp receiver. Locks: none. RFC: 3261 §18; 5626 §3.5.1 (CRLF keep-alives).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections import deque
from typing import Final, Protocol

from serpy.errors import FramingError, TransportError
from serpy.net.loop import Loop
from serpy.net.streams import connection_id
from serpy.sip.flow import Listener
from serpy.sip.framing import Frame, StreamFramer
from serpy.sip.limits import STREAM_MESSAGE_S, STREAM_QUEUE_MAX

log = logging.getLogger(__name__)

READ_BYTES: Final = 65536
ACCEPT_BATCH: Final = 64  # connections per wake-up, before others get their turn
SWEEP_S: Final = 1.0
PAUSE_S: Final = 0.5  # until the next accept when the process has no descriptor left
IP_BIND_ADDRESS_NO_PORT: Final = 24
# What the loop watches a connection for, bits.
PAUSED: Final = 0
READING: Final = 1
WRITING: Final = 2
NEWCOMER_S: Final = 2.0  # a connection this old that has never brought a message makes room for a new one


class StreamSettings:
    """The core's ``tcp_*`` parameters, seconds and counts; 0 = no limit."""

    def __init__(self, lifetime_s: float, connect_s: float, send_s: float, max_connections: int) -> None:
        self.lifetime_s: Final = lifetime_s  # of an idle connection
        self.connect_s: Final = connect_s
        self.send_s: Final = send_s
        self.max_connections: Final = max_connections


class HubUser(Protocol):
    """What the hub tells its owner."""

    def is_full(self) -> bool:
        """True when this server must not have any more connections."""

    def opened(self, connection: Connection) -> None:
        """A connection stands, or is being made."""

    def closed(self, connection: Connection, reason: str) -> None:
        """It is gone."""

    def received(self, connection: Connection, frame: Frame) -> bool:
        """A whole frame has come; False = cannot be taken now: offer it again after ``Connection.resume``."""

    def refused(self, connection: Connection, exc: FramingError) -> bytes:
        """What has come is no message: the answer to send before the connection is closed, b"" for none."""

    def unsent(self, data: bytes, origin: int) -> None:
        """*data* of *origin* did not leave."""


class Pending:
    """Bytes that wait to leave, and the slot they came from."""

    def __init__(self, data: bytes, origin: int) -> None:
        self.data = data  # what is left of it
        self.whole: Final = data
        self.origin: Final = origin


class Connection:
    """One connection. ``id`` names it everywhere; ``aliases`` are further ports of its peer that it leads to."""

    def __init__(
        self, hub: Hub, sock: socket.socket, listener: Listener, host: str, port: int, number: int, *, connecting: bool
    ) -> None:
        self.id: Final = number
        self.listener: Final = listener
        self.host: Final = host
        self.port: Final = port
        self.fd: Final = sock.fileno()
        self.outbound: Final = connecting
        self.connecting = connecting
        self.closed = False
        self.closing = False  # close when all has left
        self.aliases: list[int] = []
        self.messages = 0
        self.opened_at: Final = hub.loop.now()
        self.used_at = self.opened_at
        self.queued = 0  # bytes
        self._hub: Final = hub
        self._sock: Final = sock
        self._framer: Final = StreamFramer()
        self._queue: Final[deque[Pending]] = deque()
        self._held: Frame | None = None  # offered and not taken
        self._inside_since = 0.0  # 0.0 = between two messages
        self._watched = READING | WRITING if connecting else READING
        self._write_by = hub.deadline(hub.settings.connect_s) if connecting else 0.0

    def __repr__(self) -> str:
        return f"<connection {self.id:x} with {self.host}:{self.port}>"

    # --- out

    def send(self, data: bytes, origin: int, *, close: bool = False) -> None:
        """Send *data*, now or as soon as the peer takes it; with *close* as the last thing."""
        hub = self._hub
        if self.closed or self.closing or self.queued + len(data) > STREAM_QUEUE_MAX:
            hub.user.unsent(data, origin)
            return
        self.closing = close
        self.used_at = hub.loop.now()
        self._queue.append(Pending(data, origin))
        self.queued += len(data)
        if len(self._queue) == 1 and not self.connecting:
            self._write_by = hub.deadline(hub.settings.send_s)
            self._flush()

    def finish(self) -> None:
        """Close when everything queued has left."""
        if self._queue:
            self.closing = True
        else:
            self.close("finished")

    def close(self, reason: str) -> None:
        """Close now; what has not left is given back. Harmless when closed."""
        if self.closed:
            return
        self.closed = True
        hub = self._hub
        hub.loop.remove_reader(self.fd)
        self._sock.close()
        hub.forget(self)
        hub.user.closed(self, reason)
        while self._queue:
            pending = self._queue.popleft()
            hub.user.unsent(pending.whole, pending.origin)
        self.queued = 0

    def _flush(self) -> None:
        hub = self._hub
        queue = self._queue
        while queue:
            pending = queue[0]
            try:
                sent = self._sock.send(pending.data)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                self.close(f"write: {exc.strerror}")
                return
            self.queued -= sent
            if sent < len(pending.data):
                pending.data = pending.data[sent:]
                continue
            queue.popleft()
            self._write_by = hub.deadline(hub.settings.send_s)
        if queue:
            self._watch(writable=True)
            return
        self._write_by = 0.0
        if self.closing:
            self.close("finished")
            return
        self._watch(writable=False)

    def _watch(self, *, writable: bool) -> None:
        """Be called for what may be done; a connection that is neither read nor written to is not watched at all,
        else the end of it would wake us again and again.
        """
        readable = self._held is None
        wanted = (READING if readable else PAUSED) | (WRITING if writable else PAUSED)
        if wanted == self._watched:
            return
        self._watched = wanted
        loop = self._hub.loop
        if wanted == PAUSED:
            loop.remove_reader(self.fd)
            return
        loop.add_reader(self.fd, self.ready)
        loop.watch(self.fd, readable=readable, writable=writable)

    # --- in

    def ready(self) -> None:
        """The socket is readable or writable, or its peer is gone."""
        self._hub.loop.current = self  # for the report of a bug
        if self.connecting:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.close(f"connect: {errno.errorcode.get(error, error)}")
                return
            self.connecting = False
            self._write_by = self._hub.deadline(self._hub.settings.send_s)
            self._flush()
            return
        if self._queue:
            self._flush()
        if not self.closed and self._held is None:
            self._read()

    def resume(self) -> None:
        """Offer the frame again that was not taken, and read on."""
        frame = self._held
        if self.closed or frame is None:
            return
        self._held = None
        if self._offer(frame) and self._take():
            self._watch(writable=bool(self._queue))

    def _read(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self.close(f"read: {exc.strerror}")
            return
        if not data:
            self.close("closed by the peer")
            return
        self.used_at = self._hub.loop.now()
        self._framer.feed(data)
        self._take()

    def _take(self) -> bool:
        """Deliver every whole frame; False when the connection is paused or gone."""
        while not self.closing:
            try:
                frame = self._framer.next()
            except FramingError as exc:
                answer = self._hub.user.refused(self, exc)
                if answer:
                    self.send(answer, -1)
                self.finish()
                return False
            if frame is None:
                break
            if not self._offer(frame):
                return False
        if not self._framer.is_inside:
            self._inside_since = 0.0
        elif self._inside_since == 0.0:
            self._inside_since = self._hub.loop.now()
        return not self.closed

    def _offer(self, frame: Frame) -> bool:
        if not self._hub.user.received(self, frame):
            self._held = frame
            self._inside_since = 0.0
            self._watch(writable=bool(self._queue))
            return False
        self._inside_since = 0.0
        return not self.closed

    def refusal(self) -> tuple[int, bytes]:
        """(kind, bytes) of what the framer has refused."""
        return self._framer.refused_kind, self._framer.refused

    def overdue(self, now: float) -> str:
        """Why this connection has to go, "" when it may stay."""
        if self._write_by and now >= self._write_by:
            return "connect timeout" if self.connecting else "send timeout"
        if self._inside_since and now >= self._inside_since + STREAM_MESSAGE_S:
            return "message too slow"
        lifetime = self._hub.settings.lifetime_s
        return "idle" if lifetime and now >= self.used_at + lifetime else ""


class Hub:
    """All connections of this process."""

    def __init__(self, loop: Loop, settings: StreamSettings, user: HubUser, child: int, generation: int) -> None:
        self.loop: Final = loop
        self.settings: Final = settings
        self.user: Final = user
        self.connections: Final[dict[int, Connection]] = {}
        self._child: Final = child
        self._generation: Final = generation
        self._serial = 0
        self._sweeping = False

    def deadline(self, seconds: float) -> float:
        """The instant *seconds* from now, 0.0 (never) for 0."""
        return self.loop.now() + seconds if seconds else 0.0

    def get(self, number: int) -> Connection | None:
        """The connection with this id, None when it is gone or not ours."""
        return self.connections.get(number)

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self.connections.pop(connection.id, None)

    # --- accept

    def listen(self, sock: socket.socket, listener: Listener) -> None:
        """Accept connections on *sock*."""
        self.loop.add_reader(sock.fileno(), lambda: self._accept(sock, listener))

    def _accept(self, listening: socket.socket, listener: Listener) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("no new connections on %r: %s", listener, exc.strerror)
                    self.loop.remove_reader(listening.fileno())
                    self.loop.call_at(self.loop.now() + PAUSE_S, lambda: self.listen(listening, listener))
                    return
                continue  # that one is gone already
            if self.user.is_full() and not self._make_room():
                sock.close()
                continue
            sock.setblocking(False)
            self._add(sock, listener, str(address[0]), int(address[1]), connecting=False)

    def _make_room(self) -> bool:
        """Close the oldest connection that has never brought a message; False when there is none to spare."""
        now = self.loop.now()
        for connection in self.connections.values():  # in the order they were opened
            if not connection.messages and not connection.outbound:
                if now - connection.opened_at < NEWCOMER_S:
                    return False
                connection.close("makes room")
                return True
        return False

    def _add(self, sock: socket.socket, listener: Listener, host: str, port: int, *, connecting: bool) -> Connection:
        self._serial += 1
        number = connection_id(self._child, self._generation, self._serial)
        connection = Connection(self, sock, listener, host, port, number, connecting=connecting)
        self.connections[number] = connection
        self.loop.add_reader(connection.fd, connection.ready)
        if connecting:
            self.loop.watch(connection.fd, readable=True, writable=True)
        self.user.opened(connection)
        if not self._sweeping:
            self._sweeping = True
            self.loop.call_at(self.loop.now() + SWEEP_S, self._sweep)
        return connection

    # --- connect

    def connect(self, listener: Listener, host: str, port: int) -> Connection:
        """A new connection to *host*:*port* from the address of *listener*; what is sent before it stands waits.

        Raises TransportError.
        """
        if self.user.is_full() and not self._make_room():
            raise TransportError("too many connections")
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with contextlib.suppress(OSError):  # the port is chosen when the other end is known: more of them
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((listener.host, 0))
            code = sock.connect_ex((host, port))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, errno.errorcode.get(code, str(code)))
        except OSError as exc:
            if sock is not None:
                sock.close()
            raise TransportError(f"cannot connect to {host}:{port}: {exc.strerror}") from None
        return self._add(sock, listener, host, port, connecting=True)

    # --- time

    def _sweep(self) -> None:
        now = self.loop.now()
        for connection in list(self.connections.values()):
            reason = connection.overdue(now)
            if reason:
                connection.close(reason)
        self._sweeping = bool(self.connections)
        if self._sweeping:
            self.loop.call_at(now + SWEEP_S, self._sweep)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self.connections.values()):
            connection.close("the server stops")

    @property
    def queued(self) -> int:
        """Bytes that wait for slow readers."""
        return sum(connection.queued for connection in self.connections.values())
