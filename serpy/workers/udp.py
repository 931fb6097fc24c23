"""The receivers: datagrams in, one pipeline, datagrams out; and what other receivers hand over.

Runs in: udp receiver. Locks: none. RFC: 3261 §18.
"""

from __future__ import annotations

from serpy.net.handoff import MESSAGE, decode_message
from serpy.net.resolve import Resolver
from serpy.net.udp import UdpReader
from serpy.pipeline import Pipeline
from serpy.sip.flow import Flow
from serpy.workers.base import Worker


class UdpWorker(Worker):
    """One receiver: it owns the Call-IDs that hash to its index."""

    role = "udp receiver"

    @property
    def title(self) -> str:
        """With the child's index and addresses, as SER words it."""
        names = ",".join(f"{item.host}:{item.port}" for item in self.server.listeners)
        return f"udp receiver child={self.child} sock={names[:200]}"

    def receiver_sockets(self) -> int:
        """Its own."""
        return self.child

    def after_fork(self) -> None:
        """Read every socket of ours, and the hand-off."""
        server = self.server
        self.loop.coalesce_s = server.settings.coalesce_ms / 1000.0
        self.pipeline = Pipeline(server)
        self.pipeline.set_owner(self.child, self.bound.children)
        self.pipeline.forwarder.resolve = Resolver(self.loop, server.settings).resolve
        self.channels.on(MESSAGE, self._handed_over)
        self.readers = [
            UdpReader(self.loop, sock, listener, self.pipeline.receive)
            for listener, sock in zip(server.listeners, self.bound.of_child(self.child), strict=True)
            if sock is not None
        ]

    def on_bug(self, current: object) -> None:
        """Answer 500 to the request that ran into the bug."""
        if isinstance(current, tuple):
            data, flow = current
            self.pipeline.refuse_bug(data, flow)

    def _handed_over(self, payload: bytes, _from_slot: int) -> None:
        data, index, host, port = decode_message(payload)
        flow = Flow(self.server.listeners[index], host, port)
        self.loop.current = (data, flow)
        self.pipeline.receive(data, flow)
