"""The upstream half of the layer: matching requests, answering them, and when to forget them.

Runs in: udp receiver. Locks: none. RFC: 3261 §17.2; 4320; 6026.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from serpy.context.context import Context
from serpy.errors import TransportError
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.message import Request, Response
from serpy.sip.status import reason_phrase
from serpy.sip.writer import build_reply
from serpy.transaction import states
from serpy.transaction.client import ClientTransaction
from serpy.transaction.forward import received_value, reply_flow, rport_value
from serpy.transaction.matching import ServerKey, server_key
from serpy.transaction.response_context import all_final
from serpy.transaction.server import ServerTransaction
from serpy.transaction.settings import TransactionSettings
from serpy.transaction.timers import TimerWheel
from serpy.transaction.user import Outcome, TransactionUser
from serpy.transaction.warning import warning_line

# What match_request found.
NEW: Final = 0
ABSORBED: Final = 1


class Upstream:
    """Server transactions of one process; ``layer.TransactionLayer`` adds the branches."""

    def __init__(
        self, settings: TransactionSettings, send: Callable[[Outgoing], None], cookie: str,
        make_tag: Callable[[Request], str], now: float,
    ) -> None:  # fmt: skip
        self.settings: Final = settings
        self.send: Final = send
        self.cookie: Final = cookie
        self.make_tag: Final = make_tag
        self.user: TransactionUser = TransactionUser()
        self.watched_flags = 0  # requests with one of these flags are reported to on_answer and on_failed
        self.on_answer: list[Outcome] = []  # a final answer, or 183, has gone upstream
        self.on_failed: list[Outcome] = []  # every branch has failed, before the failure route
        self.signature: list[str] = []  # header lines of every answer of our own: Server
        self.warns = 0  # sip_warning: our process id, 0 = off
        self.reply_to_via = False
        self.servers: dict[ServerKey, ServerTransaction] = {}
        self.clients: dict[str, ClientTransaction] = {}
        self.wheel: Final = TimerWheel(now)
        self.wall_now = 0.0
        self._number = 0
        # statistics, totals since the start of the process
        self.created = 0
        self.local_replies = 0
        self.relayed_replies = 0
        self.retransmissions = 0  # requests sent again
        self.absorbed = 0  # requests received again
        self.timeouts = 0
        self.finals: Final[list[int]] = [0] * 7  # by class of the answer

    # --- requests from upstream

    def match_request(self, request: Request, now: float) -> int:
        """ABSORBED when *request* belongs to a transaction we have and needs nothing more, else NEW.

        A retransmission gets the last answer again; an ACK to a negative final ends its repetition (§17.2.1).
        """
        method = request.method
        if method == "ACK":
            server = self.servers.get(server_key(request, "INVITE"))
            if server is None or server.state not in {states.COMPLETED, states.CONFIRMED}:
                return NEW
            if server.to_tag and request.to_tag != server.to_tag and not request.via.branch.startswith("z9hG4bK"):
                return NEW  # RFC 2543 element: the To tag tells which answer is meant
            self._apply_server(server, server.step(states.RECV_ACK), now)
            return ABSORBED
        server = self.servers.get(server_key(request, method))
        if server is None:
            return NEW
        self.absorbed += 1
        self._apply_server(server, server.step(states.RECV_REQUEST), now)
        return ABSORBED

    def find_invite(self, request: Request) -> ServerTransaction | None:
        """The INVITE transaction that *request*, an ACK or CANCEL, belongs to."""
        return self.servers.get(server_key(request, "INVITE"))

    def find_by_call_id(self, call_id: str, number: int) -> ServerTransaction | None:
        """The INVITE transaction with this Call-ID and CSeq number that has no final answer yet; looks at all of them."""
        for server in self.servers.values():
            request = server.request
            if (
                server.is_invite and server.call_id == call_id and not server.is_final() and request is not None
                and request.cseq.number == number
            ):  # fmt: skip
                return server
        return None

    def create(self, ctx: Context, request: Request, now: float) -> ServerTransaction:
        """A new server transaction for *request*; an INVITE is answered 100 at once."""
        flow = reply_flow(request, ctx.flow, to_source=ctx.reply_to_source, to_via=self.reply_to_via)
        self._number += 1
        server = ServerTransaction(server_key(request, request.method), request, ctx, flow, self._number)
        server.to_tag = ""
        self.servers[server.key] = server
        ctx.transaction = server
        if ctx.flags & self.watched_flags:
            server.watched_at = ctx.wall_now
        self.created += 1
        if server.is_invite:
            limit = self.settings.max_inv_lifetime_s
            server.expires_at = now + limit
            if self.settings.auto_inv_100:
                self.reply(server, 100, self.settings.auto_inv_100_reason, now)
        else:
            server.expires_at = now + self.settings.max_noninv_lifetime_s
        return server

    def script_ended(self, server: ServerTransaction, now: float) -> None:
        """After the main route: answer for a failed ``t_relay``, and let nothing live for ever without a timer."""
        server.in_script = False
        if server.is_final():
            if not server.is_invite:
                self._let_go(server)
            return
        if server.delayed_error and all_final(server.branches):
            self.reply(server, server.delayed_error, "", now)
        elif server.replicated and all_final(server.branches):
            self.end_silently(server, now)
        elif not server.branches and server.fires_at == 0.0:
            self.wheel.arm(server, server.expires_at)

    # --- answers upstream

    def reply(
        self, server: ServerTransaction, status: int, reason: str, now: float,
        headers: Sequence[str] = (), body: bytes = b"",
    ) -> bool:  # fmt: skip
        """Answer *server* ourselves; False when it has had a final answer."""
        request = server.request
        ctx = server.ctx
        if request is None or ctx is None or server.is_final() or server.replicated:
            return False
        if status == 408 and not server.is_invite:
            self.end_silently(server, now)  # RFC 4320 §4.2: never send 408 to a non-INVITE
            return True
        if status != 100 and not server.to_tag:
            server.to_tag = request.to_tag or self.make_tag(request)
        lines = self.signature.copy()
        if self.warns:
            lines.append(warning_line(request, ctx.flow, ctx.request_uri, self.warns))
        if status >= 200 and ctx.reply_headers:
            lines.extend(ctx.reply_headers)
        lines.extend(headers)
        via = request.via
        data = build_reply(
            request, status, reason or reason_phrase(status), to_tag="" if status == 100 else server.to_tag,
            headers=lines, body=body,
            received=received_value(via, ctx.flow, to_source=ctx.reply_to_source),
            rport=rport_value(via, ctx.flow, to_source=ctx.reply_to_source),
        )  # fmt: skip
        self.local_replies += 1
        self._answer(server, status, data, now)
        if status >= 200:
            self.cancel_branches(server, now, status)
        return True

    def end_silently(self, server: ServerTransaction, now: float) -> None:
        """Finish *server* without an answer."""
        server.state = states.COMPLETED
        server.status = 408
        server.last_reply = b""
        self._apply_server(server, states.START_WAIT, now)
        if server.watched_at and not server.replicated:
            self.report(self.on_answer, server, 408, None, None)

    def retransmit_reply(self, server: ServerTransaction) -> bool:
        """Send the last answer again; False when there is none."""
        if not server.last_reply:
            return False
        self._send(server.last_reply, server.flow)
        return True

    def _answer(
        self, server: ServerTransaction, status: int, data: bytes, now: float,
        branch: ClientTransaction | None = None, response: Response | None = None,
    ) -> None:  # fmt: skip
        if status < 200:
            event = states.SEND_1XX
        elif status < 300:
            event = states.SEND_2XX
        else:
            event = states.SEND_300_699
        actions = server.step(event)
        if actions == 0:
            return
        first_final = status >= 200 and server.status < 200
        server.status = status
        server.last_reply = data
        self._apply_server(server, actions, now)
        if first_final:
            ctx = server.ctx
            if ctx is not None:
                ctx.final_sent = True
            self.finals[status // 100] += 1
            if server.watched_at:
                self.report(self.on_answer, server, status, branch, response)
            if not server.is_invite:
                self._let_go(server)
        elif status == 183 and server.watched_at:
            self.report(self.on_answer, server, status, branch, response)

    def report(
        self, watchers: list[Outcome], server: ServerTransaction, status: int,
        branch: ClientTransaction | None, response: Response | None,
    ) -> None:  # fmt: skip
        """Tell *watchers* how the request of *server* ended. *branch*: whose answer it was, None for one of our own."""
        ctx = server.ctx
        if ctx is not None:
            to_tag = server.to_tag if response is None else response.to_tag
            uri = ctx.request_uri if branch is None else branch.request_uri
            for watcher in watchers:
                watcher(ctx, server.watched_at, status, response, to_tag, uri)

    def _let_go(self, server: ServerTransaction) -> None:
        """Forget what a finished non-INVITE cannot need any more: only ``last_reply`` is left to repeat."""
        if server.in_failure_route or server.in_script:
            return
        for branch in server.branches:
            if branch.status < 200:
                return
        for branch in server.branches:
            branch.data = b""
            branch.response = None
        server.request = None
        server.ctx = None

    def _apply_server(self, server: ServerTransaction, actions: int, now: float) -> None:
        """Carry out *actions* of a server table."""
        if actions & (states.SEND | states.RESEND) and server.last_reply:
            self._send(server.last_reply, server.flow)
        if actions & states.START_WAIT:
            server.resend_at = 0.0
            self.wheel.arm(server, now + self.settings.wt_timer_s)
        elif actions & states.START_RESEND:
            server.interval_s = self.settings.retr_timer1_s
            server.ends_at = now + self.settings.fr_timer_s
            if server.flow.transport == "udp":
                server.resend_at = now + server.interval_s
                self.wheel.arm(server, server.resend_at)
            else:
                self.wheel.arm(server, server.ends_at)
        elif actions & states.DESTROY:
            self.destroy(server)

    def destroy(self, server: ServerTransaction) -> None:
        """Forget *server* and its branches. Cycles are cut here so that nothing waits for the garbage collector."""
        if self.servers.get(server.key) is server:
            del self.servers[server.key]
        server.state = states.TERMINATED
        server.fires_at = 0.0
        for branch in server.branches:
            self.clients.pop(branch.branch_id, None)
            branch.fires_at = 0.0
            cancel = branch.cancel
            if cancel is not None:
                cancel.fires_at = 0.0
                branch.cancel = None
        server.branches.clear()
        ctx = server.ctx
        if ctx is not None:
            server.ctx = None

    def cancel_branches(self, server: ServerTransaction, now: float, cause: int = 0) -> None:
        """Cancel what is still open downstream; the other half knows how."""

    # --- timers

    def _fire_server(self, server: ServerTransaction, now: float) -> None:
        if server.resend_at:
            if now < server.ends_at:
                server.interval_s = min(server.interval_s * 2, self.settings.retr_timer2_s)
                server.resend_at += server.interval_s
                self._apply_server(server, server.step(states.TIMER_RESEND), now)
                self.wheel.arm(server, min(server.resend_at, server.ends_at))
                return
            server.resend_at = 0.0  # H: nobody acknowledges, WAIT from here
            self.wheel.arm(server, now + self.settings.wt_timer_s)
            return
        for branch in server.branches:
            if branch.status < 200 and branch.gives_up_at:
                # A cancelled branch has not ended yet: its late answer must find us.
                self.wheel.arm(server, max(branch.gives_up_at, now) + self.settings.wt_timer_s)
                return
        self._apply_server(server, server.step(states.TIMER_WAIT), now)

    def _send(self, data: bytes, flow: Flow) -> None:
        """Send something whose loss the peer's or our own repetition makes good."""
        try:
            self.send(Outgoing(data, flow))
        except TransportError:
            return
