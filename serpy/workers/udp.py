"""The receivers: datagrams in, one pipeline, datagrams out; and what other receivers hand over.

Runs in: udp receiver. Locks: none. RFC: 3261 §18.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from serpy.context.authenticated import OK
from serpy.context.context import Context
from serpy.errors import ParseError, TransportError
from serpy.net.handoff import (
    HTTP,
    MESSAGE,
    STREAM_ALIAS,
    STREAM_FAILED,
    STREAM_HOLD,
    STREAM_PROVED,
    decode_message,
    encode_hold,
)
from serpy.net.streams import ALIAS_ADOPT, child_of, encode_alias
from serpy.net.udp import UdpReader
from serpy.pipeline import Pipeline, declare_statistics
from serpy.replication.handover import Handover
from serpy.script.exports import FALSE, TRUE
from serpy.sip.flow import AS_HTTP, NO_CONNECT, SEEN, Flow, Outgoing
from serpy.transaction.deadlines import call_id_of
from serpy.transaction.timers import Timed
from serpy.workers.base import Worker

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.net.handoff import Channels
    from serpy.net.listen import Bound

TOLD_OF_MAX: Final = 65536
NOT_FOUND: Final = b"SIP/2.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"  # AS_HTTP makes it HTTP


class UdpWorker(Worker):
    """One receiver: it owns the Call-IDs that hash to its index."""

    role = "udp receiver"

    @property
    def title(self) -> str:
        """With the child's index and addresses, as SER words it."""
        names = ",".join(f"{item.host}:{item.port}" for item in self.server.listeners if item.transport == "udp")
        return f"udp receiver child={self.child} sock={names[:200]}"

    def __init__(self, server: Server, channels: Channels, bound: Bound, slot: int, child: int) -> None:
        super().__init__(server, channels, bound, slot, child)
        declare_statistics(server.counters)

    def receiver_sockets(self) -> int:
        """Its own."""
        return self.child

    def after_fork(self) -> None:
        """Read every socket of ours, and the hand-off."""
        server = self.server
        self.loop.coalesce_s = server.settings.coalesce_ms / 1000.0
        self.pipeline = Pipeline(server)
        self.pipeline.set_owner(self.child, self.bound.children)
        self.pipeline.forwarder.resolve = server.resolver().resolve
        self.pipeline.forwarder.to_group = Handover(self.channels, self.layout.timer).send
        self.pipeline.program.hooks.to_is_private = self._to_is_private
        self.channels.on(MESSAGE, self._handed_over)
        if self.layout.streams:
            self.channels.on(STREAM_FAILED, self._not_sent)
            self.channels.on(HTTP, self._http)
            self.pipeline.program.hooks.tcp_alias = self._alias
            self.pipeline.order.pause = self._pause
            self._told_of: set[int] = set()  # connections whose users have proved who they are
            server.hooks.on_credentials.append(self._proved)
        self.readers = [
            UdpReader(self.loop, sock, listener, self.pipeline.receive, self.pipeline.budgets.be_busy)
            for listener, sock in zip(server.listeners, self.bound.of_child(self.child), strict=True)
            if sock is not None and not listener.multicast  # those are read by the timer process
        ]

    def on_bug(self, current: object, status: int) -> None:
        """Answer who waits for what ran into the bug."""
        self.pipeline.answer_bug(current, status)

    def describe(self, current: object) -> object:
        """A timer by the Call-ID it belongs to."""
        return f"a timer of Call-ID {call_id_of(current)}" if isinstance(current, Timed) else current

    def _to_is_private(self, ctx: Context) -> bool:
        return ctx.out_flow is not None and self.sender.guard.is_private(ctx.out_flow)

    def _handed_over(self, payload: bytes, _from_slot: int) -> None:
        data, index, host, port, connection = decode_message(payload)
        flow = Flow(self.server.listeners[index], host, port, connection, SEEN)
        self.loop.current = (data, flow)
        self.pipeline.receive(data, flow)

    def _not_sent(self, payload: bytes, _from_slot: int) -> None:
        """A TCP receiver could not send this message: a request fails, a response is lost."""
        self.pipeline.not_sent(payload)

    def _http(self, payload: bytes, _from_slot: int) -> None:
        data, index, host, port, connection = decode_message(payload)
        flow = Flow(self.server.listeners[index], host, port, connection, AS_HTTP | NO_CONNECT)
        self.loop.current = "HTTP request"
        for handle in self.server.hooks.on_http:
            if handle(data, flow):
                return
        with contextlib.suppress(TransportError):
            self.server.send(Outgoing(NOT_FOUND, Flow(flow.listener, host, port, connection, AS_HTTP | NO_CONNECT)))

    def _pause(self, connection: int, paused: bool) -> None:
        """Too much of one call has come by *connection*, or there is room again. Lost: that has a deadline over there."""
        slot = self.layout.first_stream + child_of(connection)
        if slot < self.layout.slots:
            self.channels.send(slot, STREAM_HOLD, encode_hold(connection, held=paused))

    def _proved(self, ctx: Context, _who: str, outcome: str) -> None:
        """Credentials were checked: a connection they came by whole and right is no stranger's any more."""
        connection = ctx.flow.connection
        if connection and outcome == OK and connection not in self._told_of:
            if len(self._told_of) >= TOLD_OF_MAX:
                self._told_of.clear()
            self._told_of.add(connection)
            slot = self.layout.first_stream + child_of(connection)
            if slot < self.layout.slots:
                self.channels.send(slot, STREAM_PROVED, connection.to_bytes(8, "big"))

    def _alias(self, ctx: Context, port: int) -> int:
        """``force_tcp_alias``: the connection of *ctx* leads to *port* (0 = that of the top Via) of its peer, too."""
        flow = ctx.flow
        request = ctx.request
        if not flow.connection or request is None:
            return FALSE
        try:
            number = port or request.via.port or 5060
        except ParseError:
            return FALSE
        if number == flow.port:
            return TRUE
        slot = self.layout.first_stream + child_of(flow.connection)
        payload = encode_alias(ALIAS_ADOPT, flow.connection, flow.host, number)
        return TRUE if self.channels.send(slot, STREAM_ALIAS, payload) else FALSE
