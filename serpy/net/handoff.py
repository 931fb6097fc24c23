"""Datagrams between the processes: one inbound AF_UNIX socket pair per slot, made by the master before the fork.

A datagram is one kind byte, the sender's slot in two bytes, and the payload. Sending never blocks: a full socket
means drop and count. What waits in the socket of a dead child is read by its successor, because the master keeps it.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from serpy.errors import UsageError
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
HTTP: Final = 22  # an HTTP request that came to a SIP port, with its flow: encode_message()
HTTP_RPC: Final = 23  # the same, which the script allows to call a method: for ctl

# Replication, see replication/agent.py.
REPLICATE: Final = 24  # a REGISTER for a multicast group: replication.agent.encode_outgoing()
REPLICATION_ASK: Final = 25  # ctl asks the timer process about its peers
REPLICATION_TOLD: Final = 26  # its answer

HEADER_SIZE: Final = 3
LARGEST: Final = 65535 + 512  # a whole UDP datagram and its flow
BATCH: Final = 32  # datagrams read per wake-up before other events get their turn
BUFFER_BYTES: Final = 4 * 1024 * 1024
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

Handler = Callable[[bytes, int], None]


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


class Channels:
    """The inbound sockets of all slots. ``dropped`` counts what this process could not deliver."""

    def __init__(self, slots: int) -> None:
        self.slots: Final = slots
        self.slot = -1
        self.dropped = 0
        self._in: list[socket.socket] = []
        self._out: list[socket.socket] = []
        self._handlers: dict[int, Handler] = {}
        self._prefixes: list[bytes] = []
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

    def send(self, slot: int, kind: int, payload: bytes) -> bool:
        """Hand *payload* to the process in *slot*; False = its socket is full, dropped and counted."""
        try:
            self._out[slot].send(self._prefix(kind) + payload)
        except OSError:  # BlockingIOError, or ENOBUFS and EMSGSIZE of a datagram the kernel will not take
            self.dropped += 1
            return False
        return True

    def _prefix(self, kind: int) -> bytes:
        if kind < len(self._prefixes):
            return self._prefixes[kind]
        slot = self.slot & 0xFFFF  # -1, the master, is 65535
        return bytes((kind, slot >> 8, slot & 255))

    def attach(self, slot: int, loop: Loop | None) -> None:
        """In a child: this process is *slot*; read its socket (without a loop: only send) and close the others'."""
        self.slot = slot
        self._prefixes = []
        self._prefixes = [self._prefix(kind) for kind in range(32)]
        for index, end in enumerate(self._in):
            if index != slot:
                end.close()
        if loop is not None:
            loop.add_reader(self._in[slot].fileno(), self.read)

    def on(self, kind: int, handler: Handler) -> None:
        """Call *handler(payload, from_slot)* for each datagram of *kind*. Raises UsageError when taken."""
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
            handler = self._handlers.get(data[0])
            if handler is None:
                self.dropped += 1
            else:
                handler(data[HEADER_SIZE:], data[1] << 8 | data[2])


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
    """(data, listener index, host, port, connection id) of such a payload."""
    end = 13 + payload[4]
    return (
        payload[end:],
        payload[0] << 8 | payload[1],
        payload[13:end].decode("ascii"),
        payload[2] << 8 | payload[3],
        int.from_bytes(payload[5:13], "big"),
    )
