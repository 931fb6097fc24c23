"""The TCP receivers: they hold connections and nothing else. No message is looked at here beyond where it ends.

A message goes to the receiver that owns its Call-ID, an HTTP request to any receiver; when that one's hand-off socket
is full the connection is not read until there is room. What the others want sent comes as orders (``net/streams.py``);
this process sends it over a connection of its own, or passes it on to the TCP receiver that has one.

Runs in: tcp receiver. Locks: none. RFC: 3261 §18; 5923; 9112 (HTTP).
"""

from __future__ import annotations

import json
import logging
import os
import resource
from typing import TYPE_CHECKING, Final

from serpy.errors import FramingError, ParseError, ResourceError, TransportError
from serpy.net import streams
from serpy.net.handoff import (
    HTTP,
    MESSAGE,
    STREAM_ALIAS,
    STREAM_FAILED,
    STREAM_HELLO,
    STREAM_LIST,
    STREAM_LISTED,
    STREAM_SEND,
    Outbox,
    encode_message,
)
from serpy.net.steering import owner
from serpy.net.streams import ALIAS_ADD, ALIAS_ADOPT, ALIAS_REMOVE, RELAYED, Directory, Order, home_of
from serpy.net.tcp import Connection, Hub, StreamSettings
from serpy.sip import framing
from serpy.sip.flow import CLOSE, NO_CONNECT
from serpy.sip.limits import STREAM_ALIASES_MAX
from serpy.sip.parser import parse_for_reply, quick_call_id
from serpy.sip.status import reason_phrase
from serpy.sip.via import parse_via
from serpy.sip.writer import build_reply
from serpy.workers.base import Worker

if TYPE_CHECKING:
    from serpy.shm.counters import Counters
    from serpy.sip.framing import Frame

log = logging.getLogger(__name__)

PUBLISH_S: Final = 1.0
LEARNING_S: Final = 0.25  # a successor's wait for the other TCP receivers to say which connections they have
WAIT_S: Final = 1.0  # for a full hand-off socket, then look again
LISTED_BYTES: Final = 60_000  # of connections in one answer: it has to fit a hand-off datagram
SPARE_DESCRIPTORS: Final = 200
HTTP_REASONS: Final = {
    404: "Not Found", 411: "Length Required", 413: "Content Too Large", 431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}  # fmt: skip


class TcpWorker(Worker):
    """One TCP receiver."""

    role = "tcp receiver"

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
        self._blocked: dict[int, list[Connection]] = {}  # full receiver -> who waits for it
        self._accept_aliases = bool(core.tcp_accept_aliases)
        self._count = _Counts(server.counters)
        settings = StreamSettings(
            float(core.tcp_connection_lifetime), float(core.tcp_connect_timeout), float(core.tcp_send_timeout),
            core.tcp_max_connections,
        )  # fmt: skip
        _raise_limit(core.tcp_max_connections + SPARE_DESCRIPTORS)
        self.hub = Hub(self.loop, settings, self, self.child, status.respawns(self.slot))
        for kind, handler in (
            (STREAM_SEND, self._on_send),
            (STREAM_ALIAS, self._on_alias),
            (STREAM_HELLO, self._on_hello),
            (STREAM_LIST, self._on_list),
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

    def is_full(self) -> bool:
        """True when all TCP receivers together have as many connections as they may."""
        limit = self.hub.settings.max_connections
        counters = self.server.counters
        if limit and counters.total(self._count.current) >= limit:
            self._count.add(self._count.turned_away)
            return True
        return False

    def opened(self, connection: Connection) -> None:
        """Tell the home of the peer."""
        self._count.set_current(len(self.hub.connections))
        self._count.add(self._count.connected if connection.outbound else self._count.accepted)
        self._announce(ALIAS_ADD, connection, connection.port)

    def closed(self, connection: Connection, reason: str) -> None:
        """Tell the home of the peer, and of every alias."""
        log.debug("connection with %s:%d closed: %s", connection.host, connection.port, reason)
        self._count.set_current(len(self.hub.connections))
        for port in (connection.port, *connection.aliases):
            self._announce(ALIAS_REMOVE, connection, port)

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
        payload = encode_message(data, connection.listener.index, connection.host, connection.port, connection.id)
        if not self.channels.send(slot, letter, payload):
            self._wait_for(slot, connection)
            return False
        connection.messages += 1
        self._count.add(self._count.messages)
        return True

    def refused(self, connection: Connection, exc: FramingError) -> bytes:
        """The answer to what is no message, if it is enough of one."""
        self._count.add(self._count.malformed)
        kind, data = connection.refusal()
        log.debug("from %s:%d: %s: %.120r", connection.host, connection.port, exc, data)
        if kind == framing.HTTP:
            return _http_answer(exc.status)
        request = parse_for_reply(data) if kind == framing.SIP else None
        if request is None:
            return b""
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
        waiting = self._blocked.get(slot)
        if waiting is not None:
            waiting.append(connection)
            return
        self._blocked[slot] = [connection]
        self._count.add(self._count.paused)
        self.loop.spawn(lambda: self._until_room(slot))

    def _until_room(self, slot: int) -> None:
        """Park until the receiver in *slot* takes more, then let those who wait go on."""
        try:
            room = self.loop.wait_writable(self.channels.out_fileno(slot), self.loop.now() + WAIT_S)
        except ResourceError:
            self.loop.call_at(self.loop.now() + WAIT_S, lambda: self._until_room(slot))
            return
        if not room:
            self.loop.spawn(lambda: self._until_room(slot))
            return
        for connection in self._blocked.pop(slot):
            connection.resume()

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
            "state": "connecting" if connection.connecting else "open",
            "direction": "out" if connection.outbound else "in",
            "source": f"{connection.host}:{connection.port}",
            "listen": repr(connection.listener),
            "aliases": list(connection.aliases),
            "messages": connection.messages,
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
        self.add: Final = counters.add
        self._put: Final = counters.set

    def set_current(self, count: int) -> None:
        """How many connections there are in this process."""
        self._put(self.current, count)

    def set_queued(self, size: int) -> None:
        """How many bytes wait in this process."""
        self._put(self.queued, size)


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
