"""Which process holds which connection, and how the others have it send: values and frames, no connection of its own.

A connection id is the TCP receiver's child index, a generation (how often that child was started anew) and a serial
number, so the id of a connection that died with its process is known to be stale without asking. Who wants to send to an
address hands the message to the *home* of that address, a TCP receiver chosen by a hash; it knows which connection,
here or at another TCP receiver, leads there (``Directory``), and opens one when none does.

A new connection is announced to the home of its peer before its first message is handed to a receiver, and a
hand-off socket keeps the order: so the answer, or a call back, always finds it.

Runs in: every process (StreamSender), tcp receiver (the rest). Locks: none. RFC: 3261 §18; 5923 (aliases).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.errors import TransportError
from serpy.net.handoff import LARGEST, STREAM_ALIAS, STREAM_SEND, Channels, Layout, PayloadError, register
from serpy.net.steering import owner
from serpy.sip.flow import AS_HTTP, AS_IS, NO_CONNECT, Outgoing
from serpy.sip.framing import with_content_length

RELAYED: Final = 128  # option of an order: the home has passed it on, do not ask it again
FAILED_MAX: Final = 8192  # bytes of a message that come back when it could not be sent: enough to know it again

# Operations of STREAM_ALIAS.
ALIAS_ADD: Final = 1
ALIAS_REMOVE: Final = 2
ALIAS_ADOPT: Final = 3  # for the holder of the connection: add this one to your own

# What the TCP receivers count: name, meaning.
COUNTERS: Final = (
    ("tcp.connections", "TCP connections open"),
    ("tcp.queued_bytes", "bytes that wait for slow readers"),
    ("tcp.accepted", "TCP connections accepted"),
    ("tcp.connected", "TCP connections made"),
    ("tcp.turned_away", "times a TCP connection was one too many"),
    ("tcp.messages", "messages received over TCP"),
    ("tcp.malformed", "TCP connections closed for what is no message"),
    ("tcp.failed", "messages that could not be sent over TCP"),
    ("tcp.paused", "times a TCP connection had to wait for a receiver"),
    ("tcp.held", "times a TCP connection was not read because too much of one call waited"),
    ("tcp.crowded", "times a source had as many TCP connections as it may"),
    ("tcp.made_room", "TCP connections closed to make room for others"),
    ("tcp.too_slow", "TCP connections closed because a message did not come whole in time"),
)
GAUGES: Final = frozenset({"tcp.connections", "tcp.queued_bytes"})  # how much there is now; the others only grow

_ORDER_HEAD: Final = 16
_SERIAL: Final = 0xFFFFFFFF
_GENERATION: Final = 0xFFFF


def connection_id(child: int, generation: int, serial: int) -> int:
    """The id of a connection; never 0, since serial numbers start at 1."""
    return child << 48 | (generation & _GENERATION) << 32 | (serial & _SERIAL)


def child_of(connection: int) -> int:
    """The child index of the TCP receiver that made this id."""
    return connection >> 48


def generation_of(connection: int) -> int:
    """The generation of the TCP receiver that made this id."""
    return connection >> 32 & _GENERATION


def home_of(host: str, port: int, streams: int) -> int:
    """The child index of the TCP receiver that knows which connection leads to *host*:*port*."""
    return owner(f"{port}:{host}".encode("ascii"), streams)


class Order:
    """Bytes to send over *connection* (0 = any), else to *host*:*port* from *listener* (its index).

    *origin* is the slot to tell of a failure.
    """

    def __init__(
        self, data: bytes, connection: int, listener: int, host: str, port: int, options: int, origin: int
    ) -> None:  # fmt: skip
        self.data: Final = data
        self.connection: Final = connection
        self.listener: Final = listener
        self.host: Final = host
        self.port: Final = port
        self.options: Final = options
        self.origin: Final = origin


def encode_order(order: Order) -> bytes:
    """*order* as the payload of STREAM_SEND."""
    host = order.host.encode("ascii")
    head = (
        order.connection << 64 | order.listener << 48 | order.port << 32 | order.origin << 16 | order.options << 8
    ) | len(host)
    return head.to_bytes(_ORDER_HEAD, "big") + host + order.data


def decode_order(payload: bytes) -> Order:
    """The order in such a payload. Raises PayloadError."""
    head = int.from_bytes(payload[:_ORDER_HEAD], "big")
    end = _ORDER_HEAD + (head & 255)
    if len(payload) < _ORDER_HEAD or len(payload) < end:
        raise PayloadError(f"{len(payload)} bytes are no order")
    return Order(
        payload[end:], head >> 64, head >> 48 & 0xFFFF, payload[_ORDER_HEAD:end].decode("ascii"),
        head >> 32 & 0xFFFF, head >> 8 & 255, head >> 16 & 0xFFFF,
    )  # fmt: skip


def encode_alias(operation: int, connection: int, host: str, port: int) -> bytes:
    """The payload of STREAM_ALIAS: do *operation* with *host*:*port* as an address that *connection* leads to."""
    return (operation << 80 | port << 64 | connection).to_bytes(11, "big") + host.encode("ascii")


def decode_alias(payload: bytes) -> tuple[int, int, str, int]:
    """(operation, connection, host, port) of such a payload. Raises PayloadError."""
    if len(payload) <= 11 or payload[0] not in (ALIAS_ADD, ALIAS_REMOVE, ALIAS_ADOPT):
        raise PayloadError(f"{len(payload)} bytes are no alias")
    head = int.from_bytes(payload[:11], "big")
    return head >> 80, head & 0xFFFFFFFFFFFFFFFF, payload[11:].decode("ascii"), head >> 64 & 0xFFFF


register(STREAM_SEND, encode_order, decode_order)
register(STREAM_ALIAS, encode_alias, decode_alias)


class Directory:
    """Address -> connection id, for the addresses whose home this process is."""

    def __init__(self) -> None:
        self._connections: dict[tuple[str, int], int] = {}

    def add(self, host: str, port: int, connection: int) -> bool:
        """Note that *connection* leads to *host*:*port*; False when another one does: nobody takes over an address."""
        return self._connections.setdefault((host, port), connection) == connection

    def remove(self, host: str, port: int, connection: int) -> None:
        """*connection* does not lead there any more."""
        if self._connections.get((host, port)) == connection:
            del self._connections[host, port]

    def find(self, host: str, port: int) -> int:
        """The connection that leads there, 0 when none does."""
        return self._connections.get((host, port), 0)

    def drop_child(self, child: int) -> None:
        """All connections of the TCP receiver *child* are gone."""
        for key in [key for key, connection in self._connections.items() if child_of(connection) == child]:
            del self._connections[key]

    def __len__(self) -> int:
        return len(self._connections)


class StreamSender:
    """Hands what leaves over TCP to the TCP receivers. *generation(slot)* is how often that slot was filled anew."""

    def __init__(self, channels: Channels, layout: Layout, generation: Callable[[int], int]) -> None:
        self._channels: Final = channels
        self._first: Final = layout.first_stream
        self._streams: Final = layout.streams
        self._generation: Final = generation
        self.sent = 0

    def send(self, outgoing: Outgoing) -> None:
        """Hand over one message. Raises TransportError when it cannot leave; a failure that shows only later comes
        back as STREAM_FAILED.
        """
        flow = outgoing.flow
        if self._streams == 0:
            raise TransportError("there is no TCP here")
        connection = flow.connection
        if connection and not self.is_alive(connection):
            if flow.options & NO_CONNECT:
                raise TransportError(f"the connection from {flow!r} is gone")
            connection = 0
        child = child_of(connection) if connection else home_of(flow.host, flow.port, self._streams)
        data = outgoing.data
        if flow.options & AS_HTTP:
            data = b"HTTP/1.1" + data[7:]
        elif not flow.options & AS_IS:
            data = with_content_length(data)
        order = Order(
            data, connection, flow.listener.index, flow.host, flow.port, flow.options, self._channels.slot & 0xFFFF
        )
        payload = encode_order(order)
        if len(payload) > LARGEST - 16 or not self._channels.send(self._first + child, STREAM_SEND, payload):
            raise TransportError(f"the TCP receiver does not take {len(payload)} bytes for {flow!r}")
        self.sent += 1

    def is_alive(self, connection: int) -> bool:
        """False when the process that held *connection* is gone."""
        child = child_of(connection)
        if child >= self._streams:
            return False
        return self._generation(self._first + child) & _GENERATION == generation_of(connection)
