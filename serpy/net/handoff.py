"""Datagrams between the processes: one inbound AF_UNIX socket pair per slot, made by the master before the fork.

A datagram is one kind byte, the sender's slot in two bytes, and the payload. Sending never blocks: a full socket
means False, and counted; who sends has a way to go on without it (a deadline, a repeat), or an Outbox, which keeps it.
What waits in the socket of a dead child is read by its successor, because the master keeps it.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from typing import Final

from serpy.errors import ResourceError, SerpyError, UsageError
from serpy.net.loop import Loop

# What a payload is. The receiving end registers a callback per kind.
MESSAGE: Final = 1  # a SIP datagram for its owner, with its flow: encode_message()
STORE_WRITE: Final = 2  # rows for the store process
STORE_ACK: Final = 3  # its answer
RPC_CALL: Final = 4  # ctl asks another process
RPC_RESULT: Final = 5  # its answer
WAKE: Final = 6  # look at the shared page now; no payload
# Connections, see net/streams.py.
STREAM_SEND: Final = 16  # bytes for a connection, or for an address that a connection leads to
STREAM_FAILED: Final = 17  # they could not be sent: the message as it was
STREAM_ALIAS: Final = 18  # which connection leads to an address
STREAM_HELLO: Final = 19  # a TCP receiver has started: its predecessor's connections are gone
STREAM_LIST: Final = 20  # ctl asks for the connections
STREAM_LISTED: Final = 21  # one TCP receiver's answer
STREAM_HOLD: Final = 27  # a receiver has too much of one call from a connection, or takes more again
STREAM_PROVED: Final = 28  # who is behind a connection has proved who they are
HTTP: Final = 22  # an HTTP request that came to a SIP port, with its flow: encode_message()
HTTP_RPC: Final = 23  # the same, which the script allows to call a method: for ctl

# Replication, see replication/agent.py.
REPLICATE: Final = 24  # a REGISTER for a multicast group: replication.agent.encode_outgoing()
REPLICATION_ASK: Final = 25  # ctl asks the timer process about its peers
REPLICATION_TOLD: Final = 26  # its answer

KINDS_MAX: Final = 32
HEADER_SIZE: Final = 3
LARGEST: Final = 65535 + 512  # a whole UDP datagram and its flow
BATCH: Final = 32  # datagrams read per wake-up before other events get their turn
BUFFER_BYTES: Final = 4 * 1024 * 1024
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

OUTBOX_PIECE: Final = 256  # datagrams sent in one turn
OUTBOX_MAX: Final = 200_000  # for one slot: every alias of very many connections
OUTBOX_WAIT_S: Final = 1.0  # for room, then try all the same

Handler = Callable[[bytes, int], None]
Codec = Callable[..., object]
Letter = tuple[int, bytes]


class Layout:
    """Which slot is whose: the receivers come first, so a receiver's slot is its child index; TCP receivers last."""

    def __init__(self, receivers: int, streams: int = 0) -> None:
        self.receivers: Final = receivers
        self.timer: Final = receivers
        self.store: Final = receivers + 1
        self.ctl: Final = receivers + 2
        self.streams: Final = streams  # TCP receivers
        self.first_stream: Final = receivers + 3
        self.slots: Final = receivers + 3 + streams

    def role(self, slot: int) -> str:
        """The role of the process in *slot*."""
        if slot < self.receivers:
            return RECEIVER
        if slot >= self.first_stream:
            return STREAMS
        return (TIMER, STORE, CTL)[slot - self.receivers]


class PayloadError(SerpyError):
    """A payload is not what its kind says: too short, or with something left over. Counted and dropped."""


class Kind:
    """One kind of datagram: who sends it to whom, and how its payload is written and read."""

    def __init__(self, name: str, senders: tuple[str, ...], takers: tuple[str, ...]) -> None:
        self.name: Final = name
        self.senders: Final = senders
        self.takers: Final = takers
        self.write: Codec | None = None  # None: bytes as they are, or their owner's business
        self.read: Codec | None = None  # raises PayloadError


# The roles, as the workers call themselves.
RECEIVER: Final = "udp receiver"
TIMER: Final = "timer"
STORE: Final = "store"
CTL: Final = "ctl"
STREAMS: Final = "tcp receiver"
_ALL: Final = (RECEIVER, TIMER, STORE, CTL, STREAMS)
_ALL_BUT_STORE: Final = (RECEIVER, TIMER, CTL, STREAMS)

KINDS: Final[dict[int, Kind]] = {
    MESSAGE: Kind("message", (RECEIVER, STREAMS), (RECEIVER,)),
    STORE_WRITE: Kind("store write", _ALL_BUT_STORE, (STORE,)),
    STORE_ACK: Kind("store ack", (STORE,), _ALL_BUT_STORE),
    RPC_CALL: Kind("rpc call", (CTL,), (RECEIVER,)),
    RPC_RESULT: Kind("rpc result", (RECEIVER,), (CTL,)),
    WAKE: Kind("wake", _ALL, _ALL),
    STREAM_SEND: Kind("stream send", _ALL, (STREAMS,)),
    STREAM_FAILED: Kind("stream failed", (STREAMS,), (RECEIVER,)),
    STREAM_ALIAS: Kind("stream alias", (RECEIVER, STREAMS), (STREAMS,)),
    STREAM_HELLO: Kind("stream hello", (STREAMS,), (STREAMS,)),
    STREAM_LIST: Kind("stream list", (CTL,), (STREAMS,)),
    STREAM_LISTED: Kind("stream listed", (STREAMS,), (CTL,)),
    STREAM_HOLD: Kind("stream hold", (RECEIVER,), (STREAMS,)),
    STREAM_PROVED: Kind("stream proved", (RECEIVER,), (STREAMS,)),
    HTTP: Kind("http", (STREAMS,), (RECEIVER,)),
    HTTP_RPC: Kind("http rpc", (RECEIVER,), (CTL,)),
    REPLICATE: Kind("replicate", (RECEIVER,), (TIMER,)),
    REPLICATION_ASK: Kind("replication ask", (CTL,), (TIMER,)),
    REPLICATION_TOLD: Kind("replication told", (TIMER,), (CTL,)),
}


def register(kind: int, write: Codec, read: Codec) -> None:
    """Note how the payload of *kind* is written and read, where that is defined."""
    KINDS[kind].write = write
    KINDS[kind].read = read


class Channels:
    """The inbound sockets of all slots. ``dropped`` counts what this process could not deliver.

    With a *layout* a kind goes only where the table says: anything else is a UsageError.
    """

    def __init__(self, slots: int, layout: Layout | None = None) -> None:
        self.slots: Final = slots
        self._layout = layout
        self.slot = -1
        self.dropped = 0
        self._on_drop: Callable[[], None] = _nobody_counts
        self._in: list[socket.socket] = []
        self._out: list[socket.socket] = []
        self._handlers: dict[int, Handler] = {}
        self._heads: list[list[bytes]] = []  # by slot and kind, once attached; empty: not allowed
        for _ in range(slots):
            inbound, outbound = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for end in (inbound, outbound):
                end.setblocking(False)
                set_buffers(end, BUFFER_BYTES)
            self._in.append(inbound)
            self._out.append(outbound)

    def out_fileno(self, slot: int) -> int:
        """The descriptor to wait on until the process in *slot* has room again."""
        return self._out[slot].fileno()

    def backlog(self, slot: int) -> int:
        """Bytes, as the kernel counts them, that the process in *slot* has not read yet, whoever sent them."""
        return int.from_bytes(fcntl.ioctl(self._out[slot].fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def send(self, slot: int, kind: int, payload: bytes) -> bool:
        """Hand *payload* to the process in *slot*; False = its socket is full, dropped and counted."""
        head = self._heads[slot][kind] if self._heads else self._head(slot, kind)
        if not head:
            raise UsageError(f"a process in slot {self.slot} does not send kind {kind} to slot {slot}")
        try:
            self._out[slot].send(head + payload)
        except OSError:  # BlockingIOError, or ENOBUFS and EMSGSIZE of a datagram the kernel will not take
            self.drop()
            return False
        return True

    def count_drops(self, callback: Callable[[], None]) -> None:
        """Call *callback* for each datagram that could not be delivered."""
        self._on_drop = callback

    def drop(self) -> None:
        """Count one datagram that is lost."""
        self.dropped += 1
        self._on_drop()

    def _head(self, to_slot: int, kind: int) -> bytes:
        """The head of a datagram; empty when the table does not know of it."""
        layout = self._layout
        if layout is not None and self.slot >= 0:
            entry = KINDS.get(kind)
            if entry is None or layout.role(self.slot) not in entry.senders or layout.role(to_slot) not in entry.takers:
                return b""
        slot = self.slot & 0xFFFF  # -1, the master, is 65535
        return bytes((kind, slot >> 8, slot & 255))

    def attach(self, slot: int, loop: Loop | None) -> None:
        """In a child: this process is *slot*; read its socket (without a loop: only send) and close the others'."""
        self.slot = slot
        self._heads = [[self._head(to_slot, kind) for kind in range(KINDS_MAX)] for to_slot in range(len(self._out))]
        for index, end in enumerate(self._in):
            if index != slot:
                end.close()
        if loop is not None:
            loop.add_reader(self._in[slot].fileno(), self.read)

    def on(self, kind: int, handler: Handler) -> None:
        """Call *handler(payload, from_slot)* for each datagram of *kind*. Raises UsageError when taken, or not for us."""
        layout = self._layout
        if layout is not None and self.slot >= 0 and layout.role(self.slot) not in KINDS[kind].takers:
            raise UsageError(f"{layout.role(self.slot)} does not take {KINDS[kind].name}")
        if kind in self._handlers:
            raise UsageError(f"hand-off kind {kind} has a handler already")
        self._handlers[kind] = handler

    def read(self) -> None:
        """Deliver what waits, at most BATCH datagrams. A handler may park: the rest is read by the next leader."""
        inbound = self._in[self.slot]
        for _ in range(BATCH):
            try:
                data = inbound.recv(LARGEST)
            except BlockingIOError:
                return
            handler = self._handlers.get(data[0]) if len(data) >= HEADER_SIZE else None
            if handler is None:
                self.drop()
                continue
            try:
                handler(data[HEADER_SIZE:], data[1] << 8 | data[2])
            except PayloadError:
                self.drop()


def _nobody_counts() -> None:
    """Until ``count_drops`` is called."""


class Outbox:
    """Datagrams that have to arrive: what a full socket does not take waits here, in order, until there is room."""

    def __init__(self, loop: Loop, channels: Channels) -> None:
        self._loop: Final = loop
        self._channels: Final = channels
        self._waiting: Final[dict[int, dict[object, Letter]]] = {}  # slot -> what waits, by its subject

    def send(self, slot: int, kind: int, payload: bytes) -> None:
        """Send *payload* now, or after all that waits for that slot."""
        if slot not in self._waiting and self._channels.send(slot, kind, payload):
            return
        self.put(slot, kind, payload, object())

    def put(self, slot: int, kind: int, payload: bytes, subject: object) -> None:
        """Send *payload* soon, in the order of the first about each *subject*: a later one takes the earlier one's place."""
        waiting = self._waiting.get(slot)
        if waiting is None:
            waiting = self._waiting[slot] = {}
            self._loop.spawn(Pump(self, slot).run)
        if len(waiting) >= OUTBOX_MAX and subject not in waiting:
            self._channels.drop()
            return
        waiting[subject] = (kind, payload)

    def is_waiting(self, slot: int) -> bool:
        """True while something waits for *slot*."""
        return slot in self._waiting

    def pump(self, slot: int) -> bool:
        """Send a piece of what waits for *slot*; False when its socket is full. Forgets the slot when nothing is left."""
        waiting = self._waiting[slot]
        for _ in range(OUTBOX_PIECE):
            if not waiting:
                del self._waiting[slot]
                return True
            subject = next(iter(waiting))
            kind, payload = waiting[subject]
            if not self._channels.send(slot, kind, payload):
                return False
            del waiting[subject]
        return True


class Pump:
    """Empties the outbox of one slot, a piece at a time; parks while its socket is full."""

    def __init__(self, outbox: Outbox, slot: int) -> None:
        self._outbox: Final = outbox
        self._slot: Final = slot

    def run(self) -> None:
        """Send a piece; come back while something is left."""
        outbox = self._outbox
        loop = outbox._loop
        if not outbox.pump(self._slot):
            try:
                loop.wait_writable(outbox._channels.out_fileno(self._slot), loop.now() + OUTBOX_WAIT_S)
            except ResourceError:  # too many are parked: look again later
                loop.call_at(loop.now() + OUTBOX_WAIT_S, self.run)
                return
        if outbox.is_waiting(self._slot):
            loop.spawn(self.run)


def set_buffers(sock: socket.socket, size: int) -> None:
    """Give *sock* buffers of *size* bytes, past the system's limit where we may, else up to it."""
    for force, plain in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except OSError:
            sock.setsockopt(socket.SOL_SOCKET, plain, size)


def encode_message(data: bytes, listener_index: int, host: str, port: int, connection: int = 0) -> bytes:
    """A message and where it came from, as the payload of MESSAGE and HTTP."""
    name = host.encode("ascii")
    head = bytes((listener_index >> 8, listener_index & 255, port >> 8, port & 255, len(name)))
    return head + connection.to_bytes(8, "big") + name + data


def decode_message(payload: bytes) -> tuple[bytes, int, str, int, int]:
    """(data, listener index, host, port, connection id) of such a payload. Raises PayloadError."""
    if len(payload) < 13 or len(payload) < (end := 13 + payload[4]):
        raise PayloadError(f"{len(payload)} bytes are no message with a flow")
    return (
        payload[end:],
        payload[0] << 8 | payload[1],
        payload[13:end].decode("ascii"),
        payload[2] << 8 | payload[3],
        int.from_bytes(payload[5:13], "big"),
    )


def encode_hold(connection: int, *, held: bool) -> bytes:
    """The payload of STREAM_HOLD: do not read *connection*, or (not *held*) read on."""
    return bytes((int(held),)) + connection.to_bytes(8, "big")


def decode_hold(payload: bytes) -> tuple[int, bool]:
    """(connection id, held) of such a payload. Raises PayloadError."""
    if len(payload) != 9 or payload[0] > 1:
        raise PayloadError(f"{len(payload)} bytes hold no connection")
    return int.from_bytes(payload[1:], "big"), payload[0] == 1


register(MESSAGE, encode_message, decode_message)
register(STREAM_HOLD, encode_hold, decode_hold)
register(HTTP, encode_message, decode_message)
