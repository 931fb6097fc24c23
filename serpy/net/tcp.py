"""All TCP connections of one process: accept, connect, turns, deadlines, and who makes room when there are too many.

Whoever owns the hub is told of whole frames (and may say "not now": then the connection is not read until ``resume``),
of bytes that could not be sent, and of connections that open and close. Writing never waits: what the peer does not take
is queued up to a limit and a deadline. Room is made at the cost of the source that holds most (``sources.py``).

Runs in: tcp receiver. Locks: none. RFC: 3261 §18.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections import deque
from typing import Final, Protocol

from serpy.errors import FramingError, TransportError
from serpy.limited_log import RateLimit
from serpy.net.connection import SLOW_QUEUE, Connection
from serpy.net.loop import Loop
from serpy.net.sources import Source, Sources, SourceTable
from serpy.net.streams import connection_id
from serpy.sip.flow import Listener
from serpy.sip.framing import Frame
from serpy.sip.limits import STREAM_QUEUE_MAX

log = logging.getLogger(__name__)

ACCEPT_BATCH: Final = 64  # connections per wake-up, before others get their turn
SWEEP_S: Final = 1.0
PAUSE_S: Final = 0.5  # until the next accept when the process has no descriptor left
IP_BIND_ADDRESS_NO_PORT: Final = 24
BUFFERED_MAX: Final = 32 * 1024 * 1024  # bytes of unfinished messages; above it strangers have to be quick …
CHOKED_ABOVE: Final = 4096  # … or short
ASKED: Final = 8  # silent connections that are read once more before one of them goes
TOLD_S: Final = 10.0  # between two lines of the log about sources with too many connections


class StreamSettings:
    """The core's ``tcp_*`` parameters, seconds and counts; 0 = no limit."""

    def __init__(
        self, lifetime_s: float, connect_s: float, send_s: float, max_connections: int, *, max_per_source: int = 0,
        message_s: float = 10.0, queued_max: int = 64 * 1024 * 1024, children: int = 1,
    ) -> None:  # fmt: skip
        self.lifetime_s: Final = lifetime_s  # of an idle connection
        self.connect_s: Final = connect_s
        self.send_s: Final = send_s
        self.message_s: Final = message_s  # from the first byte of a message to its last
        self.max_connections: Final = max_connections
        self.max_per_source: Final = max_per_source
        self.queued_max: Final = queued_max  # bytes that wait for slow readers, all together
        self.children: Final = children  # processes that share the connections


class HubUser(Protocol):
    """What the hub tells its owner."""

    def is_full(self, *, outbound: bool) -> bool:
        """True when this server must not have any more connections; for those of our own (*outbound*) it has more room."""

    def crowded(self) -> None:
        """A source has as many connections as it may."""

    def made_room(self) -> None:
        """A connection is about to be closed for another one."""

    def opened(self, connection: Connection) -> None:
        """A connection stands, or is being made."""

    def left(self, connection: Connection) -> None:
        """Nothing more is read from it: it leads nowhere any more."""

    def closed(self, connection: Connection, reason: str) -> None:
        """It is gone."""

    def received(self, connection: Connection, frame: Frame) -> bool:
        """A whole frame has come; False = cannot be taken now: offer it again after ``Connection.resume``."""

    def refused(self, connection: Connection, exc: FramingError) -> bytes:
        """What has come is no message: the answer to send before the connection is closed, b"" for none."""

    def unsent(self, data: bytes, origin: int) -> None:
        """*data* of *origin* did not leave."""


class Hub:
    """All connections of this process."""

    def __init__(
        self, loop: Loop, settings: StreamSettings, user: HubUser, child: int, generation: int,
        table: SourceTable | None = None,
    ) -> None:  # fmt: skip
        self.loop: Final = loop
        self.settings: Final = settings
        self.user: Final = user
        self.connections: Final[dict[int, Connection]] = {}
        self.sources: Final = Sources(table)
        self.queued = 0  # bytes that wait for slow readers
        self.buffered = 0  # bytes of messages that have not been handed over
        self._turns: Final[deque[Connection]] = deque()
        self._child: Final = child
        self._generation: Final = generation
        self._serial = 0
        self._taking = False
        self._sweeping = False
        self._told: Final = RateLimit(1, TOLD_S)

    def deadline(self, seconds: float) -> float:
        """The instant *seconds* from now, 0.0 (never) for 0."""
        return self.loop.now() + seconds if seconds else 0.0

    def get(self, number: int) -> Connection | None:
        """The connection with this id, None when it is gone or not ours."""
        return self.connections.get(number)

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        if self.connections.pop(connection.id, None) is not None and not connection.outbound:
            self.sources.remove(connection)

    def spoke(self, connection: Connection) -> None:
        """*connection* has brought its first message."""
        if not connection.outbound:
            self.sources.spoke(connection)

    def proved(self, connection: Connection) -> None:
        """The user behind *connection* has proved who they are."""
        if not connection.known:
            connection.known = True
            if not connection.outbound:
                self.sources.proved(connection)

    # --- in turn, and how much may wait

    def queue(self, connection: Connection) -> None:
        """Give *connection* a turn after all others that wait for theirs."""
        self._turns.append(connection)
        if not self._taking:
            self._taking = True
            self.loop.spawn(self._take_turn)

    def _take_turn(self) -> None:
        """One turn; then the loop looks who else has something."""
        if not self._turns:
            self._taking = False
            return
        self.loop.spawn(self._take_turn)  # first, whatever the turn runs into
        self._turns.popleft().turn()

    def has_room(self, queued: int, size: int) -> bool:
        """True when a connection for which *queued* bytes wait may have *size* more wait."""
        if queued + size > STREAM_QUEUE_MAX:
            return False
        return self.queued + size <= self.settings.queued_max or queued + size <= SLOW_QUEUE

    def is_choked(self, connection: Connection, left: int) -> bool:
        """True when *connection* must not keep *left* bytes of an unfinished message here."""
        if self.buffered <= BUFFERED_MAX or left <= CHOKED_ABOVE:
            return False
        return not connection.known and not connection.outbound

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
            host = str(address[0])
            if not self._may_come(host):
                sock.close()
                continue
            sock.setblocking(False)
            self._add(sock, listener, host, int(address[1]), connecting=False)

    def _may_come(self, host: str) -> bool:
        """True when there is room for one more connection from *host*, perhaps made at the cost of another."""
        limit = self.settings.max_per_source
        if limit:
            source = self.sources.of(host)
            count = self.sources.strangers(source)
            if count >= source.allowance(limit, self.settings.children):
                self.user.crowded()
                self._tell(source, count)
                if not self._close_one_of(source):
                    return False
        return not self.user.is_full(outbound=False) or self._make_room()

    def _make_room(self) -> bool:
        """Close a connection of the source that has most strangers here; False when there is none to spare."""
        worst = self.sources.worst()
        return worst is not None and self._close_one_of(worst, busy=True)

    def _close_one_of(self, source: Source, *, busy: bool = False) -> bool:
        """Close the connection of *source* that is missed least; False when none is to go."""
        connection = self._still_silent(source) or source.longest_idle(busy=busy)
        if connection is None:
            return False
        self.user.made_room()
        connection.close("makes room")
        return True

    def _still_silent(self, source: Source) -> Connection | None:
        """The oldest that has brought no message and does not at this moment: what has just come was not read yet."""
        for _ in range(ASKED):
            connection = source.oldest_silent()
            if connection is None:
                return None
            connection.ready()
            if not connection.messages:
                return connection  # perhaps it has gone by itself
        return None

    def _tell(self, source: Source, count: int) -> None:
        """Say it in the log, not too often: behind that address may be an office."""
        if self._told.allows(self.loop.now()):
            log.warning(
                "%s has %d TCP connections whose users have not proved who they are (tcp_max_per_source): the idle ones"
                " make room (%d more times)",
                source.key, count, self._told.take_suppressed(),
            )  # fmt: skip

    def _add(self, sock: socket.socket, listener: Listener, host: str, port: int, *, connecting: bool) -> Connection:
        self._serial += 1
        number = connection_id(self._child, self._generation, self._serial)
        connection = Connection(self, sock, listener, host, port, number, connecting=connecting)
        self.connections[number] = connection
        if not connecting:
            self.sources.add(connection)
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
        if self.user.is_full(outbound=True) and not self._make_room():
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
