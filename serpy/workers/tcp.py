"""The TCP receivers: they hold connections and nothing else. No message is looked at here beyond where it ends.

A message goes to the receiver that owns its Call-ID, an HTTP request to any receiver; when that one's hand-off socket
is full the connection is not read until there is room, and those who wait for it have their turn in a queue. What the
others want sent comes as orders (``net/streams.py``); this process sends it over a connection of its own, or passes it on
to the TCP receiver that has one.

Runs in: tcp receiver. Locks: none. RFC: 3261 §18; 5923; 9112 (HTTP).
"""

from __future__ import annotations

import json
import logging
import os
import resource
from collections import deque
from typing import TYPE_CHECKING, Final

from serpy.api import Server, Service
from serpy.errors import FramingError, ParseError, TransportError
from serpy.net import streams
from serpy.net.connection import TOO_SLOW, Connection
from serpy.net.handoff import (
    HTTP,
    MESSAGE,
    STREAM_ALIAS,
    STREAM_FAILED,
    STREAM_HELLO,
    STREAM_HOLD,
    STREAM_LIST,
    STREAM_LISTED,
    STREAM_PROVED,
    STREAM_SEND,
    Outbox,
    decode_hold,
    encode_message,
)
from serpy.net.sources import SourceTable
from serpy.net.steering import owner
from serpy.net.streams import ALIAS_ADD, ALIAS_ADOPT, ALIAS_REMOVE, RELAYED, Directory, Order, home_of
from serpy.net.tcp import Hub, StreamSettings
from serpy.sip import framing
from serpy.sip.flow import CLOSE, NO_CONNECT
from serpy.sip.limits import STREAM_ALIASES_MAX
from serpy.sip.parser import parse_for_reply, quick_call_id
from serpy.sip.status import reason_phrase
from serpy.sip.via import parse_via
from serpy.sip.writer import build_reply
from serpy.workers.base import Worker

if TYPE_CHECKING:
    from serpy.config import Settings
    from serpy.net.handoff import Channels
    from serpy.net.listen import Bound
    from serpy.shm.counters import Counters
    from serpy.sip.framing import Frame

log = logging.getLogger(__name__)

PUBLISH_S: Final = 1.0
LEARNING_S: Final = 0.25  # a successor's wait for the other TCP receivers to say which connections they have
# A receiver's hand-off socket holds thousands of messages, seconds of work. Connections put no more into it than it does
# in a hundredth of a second or two: what waits on them waits in turn, and a newcomer's message does not queue behind it all.
BACKLOG: Final = 32768  # bytes, as the kernel counts them: about 30 messages
LOOK_S: Final = 0.002  # until a receiver with such a backlog is looked at again
LONGEST_WAIT_S: Final = 0.25  # for one turn all the same: others may keep the socket full
LISTED_BYTES: Final = 60_000  # of connections in one answer: it has to fit a hand-off datagram
SPARE_DESCRIPTORS: Final = 200
OWN_PART: Final = 10  # one connection of so many is kept for those that we make
SOURCE_PART: Final = 20  # one of so many is what a source may have, unless tcp_max_per_source says …
SOURCE_LEAST: Final = 64  # … and at least so many: a small office behind one address
# To who says something that is no SIP: there is no Via to copy, and nobody obliges us to say anything (RFC 3261 §8.2.6, §18.3).
NO_SIP: Final = b"SIP/2.0 400 This Is No SIP\r\nContent-Length: 0\r\n\r\n"
TABLE: Final[Service[SourceTable]] = Service("connections of each source")
HTTP_REASONS: Final = {
    404: "Not Found", 411: "Length Required", 413: "Content Too Large", 431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}  # fmt: skip


class Line:
    """The connections that wait for a receiver, in turn; the first of them waits no longer than until *due*."""

    def __init__(self, due: float) -> None:
        self.waiting: Final[deque[Connection]] = deque()
        self.due = due


class TcpWorker(Worker):
    """One TCP receiver."""

    role = "tcp receiver"

    def __init__(self, server: Server, channels: Channels, bound: Bound, slot: int, child: int) -> None:
        super().__init__(server, channels, bound, slot, child)
        table = server.find(TABLE)
        if table is None:  # the first of them, in the master
            table = SourceTable(server.segment.allocate("tcp.sources", SourceTable.size(bound.streams)), bound.streams)
            server.provide(TABLE, table)
        self._table: Final = table

    @property
    def title(self) -> str:
        """With the child's index, as SER words it."""
        return f"tcp receiver child={self.child}"

    def receiver_sockets(self) -> int:
        """None: what leaves by UDP leaves elsewhere."""
        return -1

    def stream_sockets(self) -> int:
        """Its own."""
        return self.child

    def after_fork(self) -> None:
        """Accept on every TCP address, take orders from the others."""
        server = self.server
        core = server.settings
        status = server.counters.status
        self.directory = Directory()
        self._lines: dict[int, Line] = {}  # receiver with too much to do -> who waits for it
        self._turn = (-1, 0)  # (receiver, connection): who may send there though others wait
        self._accept_aliases = bool(core.tcp_accept_aliases)
        self._count = _Counts(server.counters)
        _raise_limit(core.tcp_max_connections + SPARE_DESCRIPTORS)
        self._table.attach(self.child)
        settings = stream_settings(core, self.layout.streams)
        self.hub = Hub(self.loop, settings, self, self.child, status.respawns(self.slot), self._table)
        for kind, handler in (
            (STREAM_SEND, self._on_send),
            (STREAM_ALIAS, self._on_alias),
            (STREAM_HELLO, self._on_hello),
            (STREAM_LIST, self._on_list),
            (STREAM_HOLD, self._on_hold),
            (STREAM_PROVED, self._on_proved),
        ):
            self.channels.on(kind, handler)
        self._outbox = Outbox(self.loop, self.channels)
        self._learning_until = 0.0
        if status.respawns(self.slot):
            self._learning_until = self.loop.now() + LEARNING_S
            for child in range(self.layout.streams):
                if child != self.child:
                    self._outbox.send(self.layout.first_stream + child, STREAM_HELLO, b"")
        for listener, row in zip(server.listeners, self.bound.accepting, strict=True):
            sock = row[self.child]
            if sock is not None:
                self.hub.listen(sock, listener)
        self._publish()

    def before_exit(self) -> None:
        """Let the peers know."""
        self.hub.close()

    def on_bug(self, current: object, status: int) -> None:  # noqa: ARG002 - a connection has no answer to give
        """Close the connection that ran into the bug: what waits on it would run into it again."""
        if isinstance(current, Connection):
            current.close("bug")

    # --- what the hub tells

    def is_full(self, *, outbound: bool) -> bool:
        """True when all TCP receivers together have as many connections as they may; the last ones are our own."""
        limit = self.hub.settings.max_connections
        if not limit:
            return False
        if not outbound:
            limit -= limit // OWN_PART
        if self.server.counters.total(self._count.current) < limit:
            return False
        self._count.add(self._count.turned_away)
        return True

    def crowded(self) -> None:
        """Count it."""
        self._count.add(self._count.crowded)

    def made_room(self) -> None:
        """Count it."""
        self._count.add(self._count.made_room)

    def opened(self, connection: Connection) -> None:
        """Tell the home of the peer."""
        self._count.set_current(len(self.hub.connections))
        self._count.add(self._count.connected if connection.outbound else self._count.accepted)
        self._announce(ALIAS_ADD, connection, connection.port)

    def left(self, connection: Connection) -> None:
        """Tell the home of the peer, and of every alias."""
        for port in (connection.port, *connection.aliases):
            self._announce(ALIAS_REMOVE, connection, port)

    def closed(self, connection: Connection, reason: str) -> None:
        """The same, unless it has been told."""
        log.debug("connection with %s:%d closed: %s", connection.host, connection.port, reason)
        self._count.set_current(len(self.hub.connections))
        if reason == TOO_SLOW:
            self._count.add(self._count.too_slow)
        if not connection.leaving:
            self.left(connection)

    def received(self, connection: Connection, frame: Frame) -> bool:
        """Hand a frame on; False when its receiver has no room."""
        kind = frame.kind
        if kind == framing.PING:
            if not connection.queued:  # who does not read what we send needs no more of it
                connection.send(b"\r\n", -1)
            return True
        if kind == framing.CONTINUE:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n", -1)
            return True
        data = frame.data
        receivers = self.layout.receivers
        if kind == framing.SIP:
            slot = owner(quick_call_id(data), receivers)
            if self._accept_aliases and not connection.messages:
                self._alias_of_via(connection, data)
            letter = MESSAGE
        elif not self.server.hooks.on_http:
            connection.send(_http_answer(404), -1, close=True)
            return True
        else:
            slot = connection.id % receivers
            letter = HTTP
        if self._turn != (slot, connection.id) and (slot in self._lines or self.channels.backlog(slot) >= BACKLOG):
            self._wait_for(slot, connection)
            return False
        payload = encode_message(data, connection.listener.index, connection.host, connection.port, connection.id)
        if not self.channels.send(slot, letter, payload):
            self._wait_for(slot, connection)
            return False
        if not connection.messages:
            self.hub.spoke(connection)
        connection.messages += 1
        if letter == HTTP or not data.startswith((b"SIP/", b"ACK ")):
            connection.owed += 1
        self._count.add(self._count.messages)
        return True

    def refused(self, connection: Connection, exc: FramingError) -> bytes:
        """The answer to what is no message, if it is enough of one."""
        self._count.add(self._count.malformed)
        kind, data = connection.refusal()
        log.debug("from %s:%d: %s: %.120r", connection.host, connection.port, exc, data)
        if kind == framing.HTTP:
            return _http_answer(exc.status)
        if kind != framing.SIP:
            if not framing.is_text(data):
                return b""  # TLS, or another protocol of bytes
            data = framing.request_within(data)
        request = parse_for_reply(data)
        if request is None:
            return b"" if kind == framing.SIP else NO_SIP
        return build_reply(
            request, exc.status, exc.reason or reason_phrase(exc.status), to_tag=os.urandom(4).hex(),
            received=connection.host, rport=connection.port,
        )  # fmt: skip

    def unsent(self, data: bytes, origin: int) -> None:
        """Give a message back to whoever wanted it sent."""
        self._count.add(self._count.failed)
        if 0 <= origin < self.layout.receivers:
            self._outbox.send(origin, STREAM_FAILED, data[: streams.FAILED_MAX])

    # --- back-pressure

    def _wait_for(self, slot: int, connection: Connection) -> None:
        line = self._lines.get(slot)
        if line is not None:
            line.waiting.append(connection)
            return
        line = self._lines[slot] = Line(self.loop.now() + LONGEST_WAIT_S)
        line.waiting.append(connection)
        self._count.add(self._count.paused)
        self.loop.call_at(self.loop.now() + LOOK_S, lambda: self._until_room(slot))

    def _until_room(self, slot: int) -> None:
        """Give those who wait for the receiver in *slot* a turn each, as long as it takes more."""
        line = self._lines[slot]
        again = self.loop.call_at(self.loop.now() + LOOK_S, lambda: self._until_room(slot))  # whatever a turn runs into
        for _ in range(len(line.waiting)):
            if self.loop.now() < line.due and self.channels.backlog(slot) >= BACKLOG:
                break
            line.due = self.loop.now() + LONGEST_WAIT_S
            self._turn = (slot, line.waiting[0].id)
            try:
                line.waiting.popleft().resume()
            finally:
                self._turn = (-1, 0)
        if not line.waiting:
            again.cancel()
            del self._lines[slot]

    def _on_hold(self, payload: bytes, _from_slot: int) -> None:
        number, held = decode_hold(payload)
        connection = self.hub.get(number)
        if connection is None:
            return
        if held:
            self._count.add(self._count.held)
            connection.hold()
        else:
            connection.release()

    def _on_proved(self, payload: bytes, _from_slot: int) -> None:
        connection = self.hub.get(int.from_bytes(payload, "big"))
        if connection is not None:
            self.hub.proved(connection)

    # --- orders

    def _on_send(self, payload: bytes, _from_slot: int) -> None:
        self._carry_out(streams.decode_order(payload))

    def _carry_out(self, order: Order) -> None:
        connection = self.hub.get(order.connection) if order.connection else None
        if connection is not None and connection.host != order.host:
            connection = None  # a forged connection parameter in a Via: not the peer it is meant for
        if connection is None:
            if order.connection and order.options & NO_CONNECT and not order.options & RELAYED:
                self.unsent(order.data, order.origin)
                return
            connection = self._lead_to(order)
        if connection is not None:
            connection.send(order.data, order.origin, close=bool(order.options & CLOSE))

    def _lead_to(self, order: Order) -> Connection | None:
        """A connection of ours to the address of *order*; None when another process, or nobody, has it now."""
        host, port = order.host, order.port
        known = 0
        if not order.options & RELAYED:
            home = home_of(host, port, self.layout.streams)
            if home != self.child:
                self._pass_on(order, home, 0, order.options)
                return None
            known = self.directory.find(host, port)
            if not known and self.loop.now() < self._learning_until:
                # What waited in our predecessor's socket comes before what the others tell us: let them tell first.
                self.loop.call_at(self._learning_until, lambda: self._carry_out(order))
                return None
            if known and streams.child_of(known) != self.child:
                self._pass_on(order, streams.child_of(known), known, order.options | RELAYED)
                return None
        connection = self.hub.get(known) if known else None
        if connection is not None:
            return connection
        if order.options & NO_CONNECT:
            self.unsent(order.data, order.origin)
            return None
        try:
            return self.hub.connect(self.server.listeners[order.listener], host, port)
        except TransportError as exc:
            log.debug("%s", exc)
            self.unsent(order.data, order.origin)
            return None

    def _pass_on(self, order: Order, child: int, connection: int, options: int) -> None:
        passed = Order(order.data, connection, order.listener, order.host, order.port, options, order.origin)
        if not self.channels.send(self.layout.first_stream + child, STREAM_SEND, streams.encode_order(passed)):
            self.unsent(order.data, order.origin)

    # --- which connection leads where

    def _announce(self, operation: int, connection: Connection, port: int) -> None:
        home = home_of(connection.host, port, self.layout.streams)
        if home == self.child:
            self._note(operation, connection.id, connection.host, port)
            return
        slot = self.layout.first_stream + home
        payload = streams.encode_alias(operation, connection.id, connection.host, port)
        if not self._outbox.is_waiting(slot) and self.channels.send(slot, STREAM_ALIAS, payload):
            return
        self._outbox.put(slot, STREAM_ALIAS, payload, (connection.id, connection.host, port))

    def _on_alias(self, payload: bytes, _from_slot: int) -> None:
        operation, number, host, port = streams.decode_alias(payload)
        if operation != ALIAS_ADOPT:
            self._note(operation, number, host, port)
            return
        connection = self.hub.get(number)
        if connection is not None:
            self._adopt(connection, port)

    def _note(self, operation: int, number: int, host: str, port: int) -> None:
        if operation == ALIAS_REMOVE:
            self.directory.remove(host, port, number)
        elif not self.directory.add(host, port, number):
            log.debug("%s:%d leads to another connection already", host, port)

    def _adopt(self, connection: Connection, port: int) -> None:
        if port == connection.port or port in connection.aliases or len(connection.aliases) >= STREAM_ALIASES_MAX:
            return
        connection.aliases.append(port)
        self._announce(ALIAS_ADD, connection, port)

    def _alias_of_via(self, connection: Connection, data: bytes) -> None:
        """``;alias`` in the top Via of a request asks for what ``force_tcp_alias`` does (RFC 5923)."""
        if data[:4].upper() == b"SIP/" or b"alias" not in data:
            return
        request = parse_for_reply(data)
        if request is None:
            return
        try:
            via = parse_via(request.get("via") or "")
        except ParseError:
            return
        if via.param("alias") is not None:
            self._adopt(connection, via.port or 5060)

    def _on_hello(self, _payload: bytes, from_slot: int) -> None:
        """A TCP receiver has been replaced: its connections are gone, and it knows nothing of ours."""
        child = from_slot - self.layout.first_stream
        self.directory.drop_child(child)
        for connection in self.hub.connections.values():
            for port in (connection.port, *connection.aliases):
                if home_of(connection.host, port, self.layout.streams) == child:
                    payload = streams.encode_alias(ALIAS_ADD, connection.id, connection.host, port)
                    self._outbox.put(from_slot, STREAM_ALIAS, payload, (connection.id, connection.host, port))

    # --- what ctl and metrics show

    def _on_list(self, payload: bytes, from_slot: int) -> None:
        rows: list[str] = []
        size = 0
        for connection in self.hub.connections.values():
            row = json.dumps(self._row(connection))
            size += len(row) + 2
            if size > LISTED_BYTES:
                break
            rows.append(row)
        self.channels.send(from_slot, STREAM_LISTED, payload[:4] + f"[{', '.join(rows)}]".encode("ascii"))

    def _row(self, connection: Connection) -> dict[str, object]:
        return {
            "id": connection.id,
            "child": self.child,
            "state": "connecting" if connection.connecting else "closing" if connection.leaving else "open",
            "direction": "out" if connection.outbound else "in",
            "source": f"{connection.host}:{connection.port}",
            "listen": repr(connection.listener),
            "aliases": list(connection.aliases),
            "messages": connection.messages,
            "owed": connection.owed,
            "known": connection.known,
            "idle_s": int(self.loop.now() - connection.used_at),
            "queued": connection.queued,
        }

    def _publish(self) -> None:
        self._count.set_current(len(self.hub.connections))
        self._count.set_queued(self.hub.queued)
        self.loop.call_at(self.loop.now() + PUBLISH_S, self._publish)


class _Counts:
    """The ids of our counters."""

    def __init__(self, counters: Counters) -> None:
        ids = {name: counters.declare(name, text) for name, text in streams.COUNTERS}
        self.current: Final = ids["tcp.connections"]
        self.queued: Final = ids["tcp.queued_bytes"]
        self.accepted: Final = ids["tcp.accepted"]
        self.connected: Final = ids["tcp.connected"]
        self.turned_away: Final = ids["tcp.turned_away"]
        self.messages: Final = ids["tcp.messages"]
        self.malformed: Final = ids["tcp.malformed"]
        self.failed: Final = ids["tcp.failed"]
        self.paused: Final = ids["tcp.paused"]
        self.held: Final = ids["tcp.held"]
        self.crowded: Final = ids["tcp.crowded"]
        self.made_room: Final = ids["tcp.made_room"]
        self.too_slow: Final = ids["tcp.too_slow"]
        self.add: Final = counters.add
        self._put: Final = counters.set

    def set_current(self, count: int) -> None:
        """How many connections there are in this process."""
        self._put(self.current, count)

    def set_queued(self, size: int) -> None:
        """How many bytes wait in this process."""
        self._put(self.queued, size)


def stream_settings(core: Settings, children: int) -> StreamSettings:
    """What the configuration says about connections, for one of *children* processes."""
    per_source = core.tcp_max_per_source
    if per_source < 0:
        most = core.tcp_max_connections
        per_source = max(most // SOURCE_PART, SOURCE_LEAST) if most else 0
    return StreamSettings(
        float(core.tcp_connection_lifetime), float(core.tcp_connect_timeout), float(core.tcp_send_timeout),
        core.tcp_max_connections, max_per_source=per_source, message_s=float(core.tcp_message_timeout),
        queued_max=core.tcp_wq_max, children=children,
    )  # fmt: skip


def _http_answer(status: int) -> bytes:
    reason = HTTP_REASONS.get(status, "Bad Request")
    return f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")


def _raise_limit(wanted: int) -> None:
    """Have as many descriptors as there may be connections, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        soft = ceiling
    if soft != resource.RLIM_INFINITY and soft < wanted:
        log.warning("tcp_max_connections needs %d open files, the limit is %d", wanted, soft)
