"""The RPCs about TCP: numbers from shared memory, and the list of connections, which the TCP receivers are asked for.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from serpy.errors import BackendError, ResourceError
from serpy.net.handoff import STREAM_LIST, STREAM_LISTED, Layout
from serpy.net.streams import COUNTERS, GAUGES
from serpy.script.exports import Rpc

if TYPE_CHECKING:
    from serpy.api import Server

ANSWER_S: Final = 2.0


class StreamRpc:
    """The methods; each docstring is the help text."""

    def __init__(self, server: Server, streams: int) -> None:
        self._server: Final = server
        self._streams: Final = streams

    def methods(self) -> list[Rpc]:
        """All of them."""
        if self._streams:
            self._server.channels.on(STREAM_LISTED, self._listed)
        return [
            Rpc("core.tcp_info", self.info),
            Rpc("core.tcp_options", self.options),
            Rpc("core.tcp_list", self.connections),
        ]

    def info(self) -> dict[str, object]:
        """TCP processes, connections, messages."""
        counters = self._server.counters
        found = counters.snapshot() if self._streams else {}
        values: dict[str, object] = {
            "readers": self._streams,
            "max_connections": self._server.settings.tcp_max_connections,
            "max_tls_connections": 0,
            "opened_connections": found.get("tcp.connections", 0),
            "opened_tls_connections": 0,
            "write_queued_bytes": found.get("tcp.queued_bytes", 0),
        }
        for name, _ in COUNTERS:
            if name not in GAUGES:
                values[name.partition(".")[2]] = found.get(name, 0)
        return values

    def options(self) -> dict[str, object]:
        """The TCP settings in force."""
        settings = self._server.settings
        return {
            "tcp": "on" if self._streams else "off",
            "children": self._streams,
            "connection_lifetime": settings.tcp_connection_lifetime,
            "connect_timeout": settings.tcp_connect_timeout,
            "send_timeout": settings.tcp_send_timeout,
            "max_connections": settings.tcp_max_connections,
            "max_per_source": settings.tcp_max_per_source,
            "message_timeout": settings.tcp_message_timeout,
            "wq_max": settings.tcp_wq_max,
            "accept_aliases": settings.tcp_accept_aliases,
            "async": 1,
        }

    def connections(self) -> list[object]:
        """The TCP connections; of each TCP process as many as fit one answer, about 250."""
        loop = self._server.loop
        first = Layout(self._server.settings.children, self._streams).first_stream
        asked = []
        for child in range(self._streams):
            ticket = loop.new_ticket()
            asked.append(ticket)
            if not self._server.channels.send(first + child, STREAM_LIST, ticket.id.to_bytes(4, "big")):
                loop.resume(ticket.id, None)  # it has too much to do: no use waiting
        rows: list[object] = []
        silent = 0
        deadline = loop.now() + ANSWER_S
        for ticket in asked:
            try:
                answer = loop.wait(ticket, deadline)
            except ResourceError:
                answer = None
            if isinstance(answer, list):
                rows.extend(answer)
            else:
                silent += 1
        if silent:
            raise BackendError(f"{silent} of {self._streams} TCP processes do not answer")
        return rows

    def _listed(self, payload: bytes, _from_slot: int) -> None:
        self._server.loop.resume(int.from_bytes(payload[:4], "big"), json.loads(payload[4:]))
