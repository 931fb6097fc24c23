"""Who answers a request: its transaction when it has one, else the stateless replies. The one place that decides.

``answer()`` is for who has the request's Context, ``refuse()`` for a request that got none, ``abandon()`` for one whose
handler has died of a bug of ours.

Runs in: udp receiver. Locks: none. RFC: 3261 §8.2.6, §16.7, §17.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serpy.context.context import Context
from serpy.errors import ProtocolError
from serpy.sip.flow import Flow
from serpy.sip.message import Request
from serpy.sip.parser import parse_for_reply
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.matching import server_key
from serpy.transaction.server_side import reply
from serpy.transaction.stateless import StatelessReplies
from serpy.transaction.transactions import ServerTransaction


class Answers:
    """The answers of one process."""

    def __init__(self, replies: StatelessReplies, layer: TransactionLayer) -> None:
        self.replies: Final = replies
        self.layer: Final = layer
        self.to_source = False  # force_rport

    def answer(
        self, ctx: Context, status: int, reason: str = "", headers: Sequence[str] = (), body: bytes = b""
    ) -> bool:
        """Answer the request of *ctx*; False for an ACK, after a final answer, and when it could not be sent."""
        server = ctx.transaction
        if server is not None and not server.is_copy:
            return reply(self.layer, server, status, reason, headers, body)
        return self.replies.reply(ctx, status, reason, headers, body)

    def refuse(self, request: Request, flow: Flow, status: int, reason: str = "", headers: Sequence[str] = ()) -> bool:
        """Answer a request that was never handled; False for an ACK, and when nobody would know what it answers."""
        if request.method == "ACK" or "via" not in request.names or "cseq" not in request.names:
            return False
        return self.replies.answer(request, flow, status, reason, headers, b"", to_source=self.to_source)

    def abandon(self, data: bytes, flow: Flow, status: int, headers: Sequence[str] = ()) -> None:
        """The handler of the request *data* has died: answer it, unless it has been answered.

        Of a response or a timer nothing is left to do: what it belongs to concludes by itself (``forking``).
        """
        request = parse_for_reply(data)
        if request is None:
            return
        try:
            server = self.layer.servers.get(server_key(request, request.method))
        except ProtocolError:
            return
        if server is None:
            self.refuse(request, flow, status, "", headers)
        elif isinstance(server, ServerTransaction):
            reply(self.layer, server, status, "", headers)
