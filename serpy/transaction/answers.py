"""Who answers a request: its transaction when it has one, else the stateless replies. The one place that decides.

``answer()`` is for who has the request's Context, ``refuse()`` for a request that got none, ``abandon()`` for what a
handler left behind that died of a bug of ours.

Runs in: udp receiver. Locks: none. RFC: 3261 §8.2.6, §16.7, §17.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from serpy.context.context import Context
from serpy.errors import ProtocolError
from serpy.sip.flow import Flow
from serpy.sip.message import Request, Response
from serpy.sip.parser import parse_for_reply, parse_message
from serpy.transaction.client import ClientTransaction
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.matching import server_key
from serpy.transaction.response_context import all_final
from serpy.transaction.server import ServerTransaction
from serpy.transaction.stateless import StatelessReplies
from serpy.transaction.timers import Timed


class Answers:
    """The answers of one process. *clock* gives the present instant."""

    def __init__(self, replies: StatelessReplies, layer: TransactionLayer, clock: Callable[[], float]) -> None:
        self.replies: Final = replies
        self.layer: Final = layer
        self._clock: Final = clock
        self.to_source = False  # force_rport

    def answer(
        self, ctx: Context, status: int, reason: str = "", headers: Sequence[str] = (), body: bytes = b""
    ) -> bool:
        """Answer the request of *ctx*; False for an ACK, after a final answer, and when it could not be sent."""
        server = ctx.transaction
        if isinstance(server, ServerTransaction) and not server.replicated:
            return self.layer.reply(server, status, reason, self._clock(), headers, body)
        return self.replies.reply(ctx, status, reason, headers, body)

    def refuse(self, request: Request, flow: Flow, status: int, reason: str = "", headers: Sequence[str] = ()) -> bool:
        """Answer a request that was never handled; False for an ACK, and when nobody would know what it answers."""
        if request.method == "ACK" or "via" not in request.names or "cseq" not in request.names:
            return False
        return self.replies.answer(request, flow, status, reason, headers, b"", to_source=self.to_source)

    def abandon(self, current: object, status: int, headers: Sequence[str] = ()) -> None:
        """The handler of *current*, a message as (bytes, flow) or a timer, has died: answer where nobody else will."""
        if isinstance(current, tuple):
            data, flow = current
            request = parse_for_reply(data)
            if request is not None:
                self._abandon_request(request, flow, status, headers)
                return
        try:
            server = self._left_alone(current, status)
        except ProtocolError:
            return
        if server is not None and all_final(server.branches):
            self.layer.reply(server, status, "", self._clock(), headers)

    def _abandon_request(self, request: Request, flow: Flow, status: int, headers: Sequence[str]) -> None:
        try:
            server = self.layer.servers.get(server_key(request, request.method))
        except ProtocolError:
            return
        if server is None:
            self.refuse(request, flow, status, "", headers)
        else:
            self.layer.reply(server, status, "", self._clock(), headers)

    def _left_alone(self, current: object, status: int) -> ServerTransaction | None:
        """The transaction whose timer or response *current* is. Raises ProtocolError."""
        if isinstance(current, Timed):
            return server_of(current)
        message = parse_message(current[0]) if isinstance(current, tuple) else None
        if not isinstance(message, Response):
            return None
        branch = self.layer.find_branch(message)
        if branch is None:
            return None
        if message.status >= 200 and branch.status < 200 and not (branch.is_invite and message.status < 300):
            branch.status = status  # nobody repeats this answer; a 2xx to INVITE comes again, and may fare better
        return branch.server


def server_of(timed: Timed) -> ServerTransaction | None:
    """The server transaction that *timed* is, or is a branch of."""
    if isinstance(timed, ServerTransaction):
        return timed
    return timed.server if isinstance(timed, ClientTransaction) else None


def call_id_of(timed: Timed) -> str:
    """The Call-ID whose order *timed* has to keep."""
    server = server_of(timed)
    return "" if server is None else server.call_id
