"""The RPC sockets of the ctl process: JSON frames for serpyctl, BINRPC for sercmd and kamcmd, ``GET /metrics``.

The first byte of a message tells the protocol, so both RPC protocols work on every stream. A connection has one request
in hand at a time, run where it may park, so a slow method or a slow reader holds up nobody else.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from serpy.errors import ConfigError, FramingError, ResourceError
from serpy.net.listen import stream_children
from serpy.rpc import ban, binrpc, metrics, xmlrpc
from serpy.rpc.addresses import Address
from serpy.rpc.core import CoreRpc
from serpy.rpc.http import HttpCalls
from serpy.rpc.listen import RPC_SETTINGS, RpcSettings, open_socket
from serpy.rpc.protocol import HEADER, MAX_REQUEST, RpcFault, decode, frame, frame_size
from serpy.rpc.registry import Registry
from serpy.rpc.streams import StreamRpc
from serpy.script.exports import Rpc

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.net.loop import Loop

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 100
SEND_S: Final = 30.0
_READ: Final = 65536
# What SER returns as a flat list: the members that its tools print, in their order.
_FLAT: Final = {"core.ps": ("pid", "description")}


class RpcServer:
    """All sockets and the registry of this server's methods."""

    def __init__(self, server: Server) -> None:
        self.registry: Final = Registry()
        self.server: Final = server
        self.loop: Loop = server.loop
        self.connections: Final[dict[int, Connection]] = {}
        self._listening: Final[list[tuple[Address, socket.socket]]] = []
        CoreRpc(server, self.registry).register()
        for name, call in (("ctl.who", self.who), ("ctl.connections", self.count), ("ctl.listen", self.listening)):
            self.registry.add(Rpc(name, call))
        streams = StreamRpc(server, stream_children(server.listeners, server.settings))
        for rpc in streams.methods():
            self.registry.add(rpc)
        for rpc in ban.methods(server):
            self.registry.add(rpc)
        for exports in server.exports.values():
            for rpc in exports.rpc:
                self.registry.add(rpc)

    def start(self) -> None:
        """Open the sockets. Raises ConfigError."""
        if stream_children(self.server.listeners, self.server.settings):
            HttpCalls(self.server, self.answer_xmlrpc).start()
        settings = self.server.find(RPC_SETTINGS) or RpcSettings()
        addresses = list(settings.addresses)
        if self.server.run_dir:
            addresses.insert(0, Address("unixs", os.path.join(self.server.run_dir, "ctl")))  # noqa: PTH118
        for address in dict.fromkeys(addresses):
            self._listen(address, settings, is_metrics=False)
        for address in settings.metrics:
            if not address.is_stream:
                raise ConfigError(f"metrics need a stream socket, not {address}", hint="use tcp: or unixs:")
            self._listen(address, settings, is_metrics=True)

    def close(self) -> None:
        """Close everything."""
        for connection in list(self.connections.values()):
            connection.close()
        for _, sock in self._listening:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._listening.clear()

    def _listen(self, address: Address, settings: RpcSettings, *, is_metrics: bool) -> None:
        sock = open_socket(address, settings)
        self._listening.append((address, sock))
        if address.is_stream:
            self.loop.add_reader(sock.fileno(), _Acceptor(self, sock, address, is_metrics).accept)
        else:
            self.loop.add_reader(sock.fileno(), _Datagrams(self, sock).receive)

    def accepted(self, sock: socket.socket, address: Address, *, is_metrics: bool) -> None:
        """Take over one new connection; too many, and the one that was idle longest makes room."""
        if len(self.connections) >= MAX_CONNECTIONS:
            idle = [connection for connection in self.connections.values() if not connection.busy]
            if not idle:
                sock.close()
                return
            min(idle, key=lambda connection: connection.used_at).close()
        connection = Connection(self, sock, address, is_metrics=is_metrics)
        self.connections[sock.fileno()] = connection
        connection.start()

    # -- one request ----------------------------------------------------------------------------------------------

    def answer_json(self, text: bytes) -> bytes:
        """The frame that answers the request in *text*; may park. Raises FramingError."""
        request = decode(text)
        number = request.get("id")
        if not isinstance(number, int | str):
            number = None
        method, params = request.get("method"), request.get("params")
        try:
            if not isinstance(method, str) or not isinstance(params, list):
                raise RpcFault(400, "a request needs a method and a list of params")
            return frame({"id": number, "result": self.registry.call(method, params)})
        except RpcFault as fault:
            return frame({"id": number, "error": {"code": fault.code, "text": fault.text}})

    def answer_binrpc(self, cookie: bytes, payload: bytes) -> bytes:
        """The BINRPC message that answers a request; may park."""
        try:
            try:
                values = binrpc.parse_payload(payload)
            except (FramingError, IndexError):
                raise RpcFault(400, "malformed request") from None
            if not values or not isinstance(values[0], str):
                raise RpcFault(400, "a request starts with the name of the method")
            result = self.registry.call(values[0], values[1:])
            return binrpc.build_message(binrpc.REPLY, cookie, _records(values[0], result))
        except RpcFault as fault:
            return binrpc.build_message(binrpc.FAULT, cookie, (fault.code, fault.text))

    def answer_xmlrpc(self, body: bytes, escape_cr: bool) -> bytes:
        """The XML document that answers the call in *body*; may park."""
        try:
            method, params = xmlrpc.parse_call(body)
            result = self.registry.call(method, params)
            if isinstance(result, list) and method in _FLAT:
                result = _records(method, result)
            return xmlrpc.build_answer(result, escape_cr=escape_cr)
        except RpcFault as fault:
            return xmlrpc.build_fault(fault.code, fault.text, escape_cr=escape_cr)

    # -- RPC ------------------------------------------------------------------------------------------------------

    def who(self) -> list[object]:
        """The open connections: protocol, where it came in, idle seconds."""
        now = time.monotonic()
        return [
            {
                "listen": str(connection.address),
                "protocol": connection.protocol,
                "idle_s": int(now - connection.used_at),
            }
            for connection in self.connections.values()
        ]

    def count(self) -> dict[str, object]:
        """How many connections are open, and how many may be."""
        return {"connections": len(self.connections), "max_connections": MAX_CONNECTIONS}

    def listening(self) -> list[str]:
        """The addresses RPC listens on."""
        return [str(address) for address, _ in self._listening]


def _records(method: str, result: object) -> list[object]:
    """*result* as the records of a BINRPC reply: a list is several of them, nothing is none."""
    if result is None:
        return []
    members = _FLAT.get(method)
    if members is not None and isinstance(result, list):
        return [row[name] for row in result for name in members if isinstance(row, dict)]
    return list(result) if isinstance(result, list | tuple) else [result]


class _Acceptor:
    """Accepts on one stream socket."""

    def __init__(self, rpc: RpcServer, sock: socket.socket, address: Address, is_metrics: bool) -> None:
        self._rpc: Final = rpc
        self._sock: Final = sock
        self._address: Final = address
        self._is_metrics: Final = is_metrics

    def accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as exc:  # gone already, or no descriptor left: it waits in the backlog
            log.debug("accept on %s: %s", self._address, exc)
            return
        sock.setblocking(False)
        self._rpc.accepted(sock, self._address, is_metrics=self._is_metrics)


class _Datagrams:
    """Answers BINRPC datagrams; each is run where it may park."""

    def __init__(self, rpc: RpcServer, sock: socket.socket) -> None:
        self._rpc: Final = rpc
        self._sock: Final = sock

    def receive(self) -> None:
        try:
            data, peer = self._sock.recvfrom(_READ)
        except OSError as exc:
            log.debug("RPC datagram: %s", exc)
            return
        self._rpc.loop.spawn(_Datagram(self._rpc, self._sock, data, peer).run)


class _Datagram:
    """One request in a datagram. An unbound unix client has no address and gets no answer."""

    def __init__(self, rpc: RpcServer, sock: socket.socket, data: bytes, peer: object) -> None:
        self._rpc: Final = rpc
        self._sock: Final = sock
        self._data: Final = data
        self._peer: Final = peer

    def run(self) -> None:
        try:
            head = binrpc.parse_head(self._data)
        except FramingError as exc:
            log.debug("RPC datagram: %s", exc)
            return
        if head is None or head.total != len(self._data) or head.kind != binrpc.REQUEST:
            return
        reply = self._rpc.answer_binrpc(head.cookie, self._data[head.total - head.size :])
        if isinstance(self._peer, str | tuple) and self._peer:
            try:
                self._sock.sendto(reply, self._peer)
            except OSError as exc:
                log.debug("RPC answer: %s", exc)


class Connection:
    """One stream connection. While a request is in hand (``busy``) nothing is read from it."""

    def __init__(self, rpc: RpcServer, sock: socket.socket, address: Address, *, is_metrics: bool) -> None:
        self.address: Final = address
        self.protocol = "http" if is_metrics else "?"
        self.busy = False
        self.used_at = time.monotonic()
        self._rpc: Final = rpc
        self._sock: Final = sock
        self._fd: Final = sock.fileno()
        self._is_metrics: Final = is_metrics
        self._data = b""
        self._closed = False

    def start(self) -> None:
        """Read."""
        self._rpc.loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Close; harmless when closed."""
        if not self._closed:
            self._closed = True
            self._rpc.connections.pop(self._fd, None)
            self._rpc.loop.remove_reader(self._fd)
            self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._data += data
        self._take()

    def _take(self) -> None:
        """Start the next whole request in what has been read, if there is one."""
        self.used_at = time.monotonic()
        try:
            size = self._size()
        except FramingError as exc:
            log.debug("RPC on %s: %s", self.address, exc)
            self.close()
            return
        if size and len(self._data) >= size:
            self.busy = True
            self._rpc.loop.remove_reader(self._fd)
            request, self._data = self._data[:size], self._data[size:]
            self._rpc.loop.spawn(_Request(self, request).run)

    def _size(self) -> int:
        """Size of the first request, 0 when more must be read to know. Raises FramingError."""
        data = self._data
        if self._is_metrics:
            end = data.find(b"\r\n\r\n")
            if end < 0 and len(data) > metrics.MAX_REQUEST:
                raise FramingError("an HTTP request without end")
            return end + 4 if end >= 0 else 0
        if data[:1] == bytes((binrpc.MAGIC,)):
            self.protocol = "binrpc"
            head = binrpc.parse_head(data)
            if head is not None and head.total > MAX_REQUEST:
                raise FramingError("a request over the limit")
            return head.total if head is not None else 0
        self.protocol = "json"
        return HEADER.size + frame_size(data[: HEADER.size], MAX_REQUEST) if len(data) >= HEADER.size else 0

    def handle(self, request: bytes) -> None:
        """Answer one request and read on; may park. Whatever goes wrong closes the connection: nobody waits for ever."""
        reads_on = False
        try:
            self._send(self._answer(request))
            reads_on = not self._is_metrics and not self._closed
        except (OSError, FramingError, ResourceError) as exc:
            log.debug("RPC on %s: %s", self.address, exc)
        finally:
            if not reads_on:
                self.close()
        if reads_on:
            self.busy = False
            self._rpc.loop.add_reader(self._fd, self._read)
            if self._data:
                self._take()

    def _answer(self, request: bytes) -> bytes:
        """What answers *request*; may park. Raises FramingError."""
        if self._is_metrics:
            return metrics.answer(request, self._rpc.server.counters)
        if request[0] != binrpc.MAGIC:
            return self._rpc.answer_json(request[HEADER.size :])
        head = binrpc.parse_head(request)
        assert head is not None  # _size() has seen the whole header
        return self._rpc.answer_binrpc(head.cookie, request[head.total - head.size :])

    def _send(self, data: bytes) -> None:
        """Write all of it, waiting for a slow reader. Raises OSError, ResourceError."""
        rest = memoryview(data)
        deadline = time.monotonic() + SEND_S
        while rest:
            with contextlib.suppress(BlockingIOError):
                rest = rest[self._sock.send(rest) :]
                continue
            if not self._rpc.loop.wait_writable(self._fd, deadline):
                raise TimeoutError("the reader is too slow")


class _Request:
    """One request of a connection, to be run by the loop."""

    def __init__(self, connection: Connection, data: bytes) -> None:
        self._connection: Final = connection
        self._data: Final = data

    def run(self) -> None:
        self._connection.handle(self._data)
