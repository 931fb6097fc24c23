"""XML-RPC calls that came over HTTP to a SIP port: the script of a receiver has let them pass, ctl runs them.

The answer goes straight to the TCP receiver that holds the connection, in pieces that fit a hand-off datagram; one that
is too slow delays this answer only.

Runs in: ctl; ``encode_call`` in the udp receiver. Locks: none.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.errors import ResourceError, TransportError
from serpy.net.handoff import HTTP_RPC, decode_message, encode_message
from serpy.rpc.xmlrpc import http_response
from serpy.sip.flow import AS_IS, CLOSE, NO_CONNECT, Flow, Outgoing

if TYPE_CHECKING:
    from serpy.api import Server

log = logging.getLogger(__name__)

PIECE: Final = 32768
RETRY_S: Final = 0.005
GIVE_UP_S: Final = 10.0
QUEUED_MAX: Final = 16  # calls that a client may send without waiting for the answer
_ESCAPE_CR: Final = 128


def encode_call(body: bytes, flow: Flow, *, escape_cr: bool) -> bytes:
    """The payload of HTTP_RPC: the XML *body*, and that its answer leaves by *flow*."""
    head = (flow.options & CLOSE) | (_ESCAPE_CR if escape_cr else 0)
    return bytes((head,)) + encode_message(body, flow.listener.index, flow.host, flow.port, flow.connection)


Answer = Callable[[bytes, bool], bytes]
"""(body, escape_cr) -> the document that answers the call in the body."""


class HttpCalls:
    """Takes the calls of all receivers."""

    def __init__(self, server: Server, answer: Answer) -> None:
        self._server: Final = server
        self._answer: Final = answer
        self._waiting: Final[dict[int, deque[bytes]]] = {}  # connection -> its further calls; in it while one runs

    def start(self) -> None:
        """Listen to the receivers."""
        self._server.channels.on(HTTP_RPC, self._take)

    def _take(self, payload: bytes, _from_slot: int) -> None:
        connection = decode_message(payload[1:])[4]
        queue = self._waiting.get(connection)
        if queue is None:
            self._waiting[connection] = deque((payload,))
            self._server.loop.spawn(lambda: self._serve(connection))
        elif len(queue) < QUEUED_MAX:
            queue.append(payload)

    def _serve(self, connection: int) -> None:
        """Answer the calls of one connection in the order they came; may park."""
        queue = self._waiting[connection]
        try:
            while queue:
                self._run(queue.popleft())
        finally:
            del self._waiting[connection]

    def _run(self, payload: bytes) -> None:
        body, index, host, port, connection = decode_message(payload[1:])
        listener = self._server.listeners[index]
        close = True
        data = http_response(500, "Internal Server Error", b"", close=True)
        try:
            document = self._answer(body, bool(payload[0] & _ESCAPE_CR))
            close = bool(payload[0] & CLOSE)
            data = http_response(200, "OK", document, close=close)
        finally:  # whatever went wrong, the client is told and its connection ends
            self._send_all(data, Flow(listener, host, port, connection, NO_CONNECT | AS_IS), close=close)

    def _send_all(self, data: bytes, flow: Flow, *, close: bool) -> None:
        for at in range(0, len(data), PIECE):
            last = at + PIECE >= len(data)
            options = flow.options | (CLOSE if close and last else 0)
            piece_flow = Flow(flow.listener, flow.host, flow.port, flow.connection, options)
            if not self._send(Outgoing(data[at : at + PIECE], piece_flow)):
                return

    def _send(self, outgoing: Outgoing) -> bool:
        """False when the connection is gone, or nobody takes the answer in time."""
        loop = self._server.loop
        give_up_at = loop.now() + GIVE_UP_S
        while True:
            try:
                self._server.send(outgoing)
            except TransportError as exc:
                if loop.now() >= give_up_at:
                    log.debug("answer to an XML-RPC call: %s", exc)
                    return False
                try:
                    loop.sleep(RETRY_S)
                except ResourceError:
                    return False
            else:
                return True
