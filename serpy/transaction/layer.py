"""All transactions of this process: matching, the actions of the state tables, timers, the answer upstream.

Sans-I/O: messages, instants and a function that sends come in from the pipeline; nothing here reads a clock, draws
a random number or opens a socket. What the script decides is asked of a ``TransactionUser`` (``modules/tm.py``).
All messages of one Call-ID reach one process one after the other, so there is no lock (design: architecture §3).

Runs in: udp receiver. Locks: none. RFC: 3261 §9, §16, §17; 4320; 6026.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from serpy.errors import TransportError
from serpy.script.context import Context
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.message import Edits, Request, Response
from serpy.sip.status import reason_phrase
from serpy.sip.writer import build_ack, build_cancel, build_forwarded_response, build_reply
from serpy.transaction import states
from serpy.transaction.client import CANCEL_SENT, CANCEL_WANTED, NO_EDITS, NOT_CANCELLED, ClientTransaction
from serpy.transaction.forward import received_value, reply_flow, rport_value
from serpy.transaction.matching import server_key
from serpy.transaction.response_context import all_final, challenges, pick
from serpy.transaction.server import ServerTransaction
from serpy.transaction.settings import TransactionSettings
from serpy.transaction.timers import Timed, TimerWheel

# What match_request found.
NEW: Final = 0
ABSORBED: Final = 1


class TransactionUser:
    """What the layer asks of the script. This one lets everything take its course."""

    def __init__(self) -> None:
        self.program: Any = None  # the compiled script, which has no type down here; the pipeline sets it

    def on_reply(
        self, branch: ClientTransaction, response: Response, flow: Flow, ctx: Context | None, now: float  # noqa: ARG002
    ) -> Edits | None:  # fmt: skip
        """Run the armed onreply route; the edits of the response, None when it was dropped."""
        return ctx.edits if ctx is not None else NO_EDITS

    def on_branch(self, ctx: Context, index: int) -> bool:  # noqa: ARG002
        """Run the armed branch route for the branch *index* about to be made; False = the script dropped it."""
        return True

    def on_failure(self, server: ServerTransaction, winner: ClientTransaction, now: float) -> None:
        """Run the armed failure route. It may reply or add branches."""

    def on_final(self, server: ServerTransaction, status: int) -> None:
        """A final answer has gone upstream."""


class TransactionLayer:
    """The transactions of one process."""

    def __init__(
        self, settings: TransactionSettings, send: Callable[[Outgoing], None], cookie: str,
        make_tag: Callable[[Request], str], now: float,
    ) -> None:  # fmt: skip
        self.settings: Final = settings
        self.send: Final = send
        self.cookie: Final = cookie
        self.make_tag: Final = make_tag
        self.user: TransactionUser = TransactionUser()
        self.signature: list[str] = []  # header lines of every answer of our own: Server
        self.servers: dict[str, ServerTransaction] = {}
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

    def create(self, ctx: Context, request: Request, now: float) -> ServerTransaction:
        """A new server transaction for *request*; an INVITE is answered 100 at once."""
        flow = reply_flow(request, ctx.flow, to_source=ctx.reply_to_source)
        self._number += 1
        server = ServerTransaction(server_key(request, request.method), request, ctx, flow, self._number)
        server.to_tag = ""
        self.servers[server.key] = server
        ctx.transaction = server
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
            self.cancel_branches(server, now)
        return True

    def end_silently(self, server: ServerTransaction, now: float) -> None:
        """Finish *server* without an answer."""
        server.state = states.COMPLETED
        server.status = 408
        server.last_reply = b""
        self._apply_server(server, states.START_WAIT, now)

    def retransmit_reply(self, server: ServerTransaction) -> bool:
        """Send the last answer again; False when there is none."""
        if not server.last_reply:
            return False
        self._send(server.last_reply, server.flow)
        return True

    def _answer(self, server: ServerTransaction, status: int, data: bytes, now: float) -> None:
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
            self.user.on_final(server, status)
            if not server.is_invite:
                self._let_go(server)

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

    # --- requests downstream

    def next_branch_id(self, server: ServerTransaction, loop: int) -> str:
        """The branch parameter of the next branch of *server*."""
        return f"z9hG4bK{self.cookie}n{server.number:x}.{loop:x}.{len(server.branches)}"

    def start(self, branch: ClientTransaction, now: float) -> bool:
        """Send *branch* for the first time over its flow, then its alternatives; False when none took it."""
        server = branch.server
        self.clients[branch.branch_id] = branch
        settings = self.settings
        fr_s = server.fr_s or settings.fr_timer_s
        if not branch.is_invite and fr_s > settings.max_noninv_lifetime_s:
            fr_s = settings.max_noninv_lifetime_s
        branch.gives_up_at = now + fr_s
        flow = branch.flow
        if flow is None or not self._send_request(branch, flow):
            self._apply_client(branch, branch.step(states.TRANSPORT_ERROR), None, now)
            return False
        if flow.transport == "udp":
            branch.interval_s = settings.retr_timer1_s
            branch.retransmit_at = now + branch.interval_s
        self.wheel.arm(branch, branch.next_wake())
        return True

    def _send_request(self, branch: ClientTransaction, flow: Flow) -> bool:
        try:
            self.send(Outgoing(branch.data, flow))
        except TransportError:
            return False
        return True

    # --- responses from downstream

    def find_branch(self, response: Response) -> ClientTransaction | None:
        """The client transaction *response* belongs to (§17.1.3), None for a stray one."""
        branch = self.clients.get(response.via.branch)
        if branch is None:
            return None
        method = response.method
        if method == "CANCEL" and branch.server.method != "CANCEL":
            return branch.cancel
        return branch if method == branch.server.method else None

    def receive_response(
        self, branch: ClientTransaction, response: Response, flow: Flow, ctx: Context | None, now: float
    ) -> None:
        """Take in *response* of *branch*. *ctx* is what the default onreply route worked on, if there is one."""
        status = response.status
        if status < 200:
            event = states.RECV_1XX
        elif status < 300:
            event = states.RECV_2XX
        else:
            event = states.RECV_300_699
        actions = branch.step(event)
        if actions == 0:
            return
        if actions & states.STOP_RETRANSMIT:
            branch.retransmit_at = 0.0
        if status < 200:
            self._provisional(branch, actions, now)
        else:
            branch.gives_up_at = 0.0
            branch.fires_at = 0.0
        branch.replied = True
        if branch.is_cancel:
            return
        if actions & states.SEND_ACK:
            if not branch.ack:
                branch.ack = build_ack(branch.data, response)
            if branch.flow is not None:
                self._send(branch.ack, branch.flow)
        if actions & states.PASS_UP:
            if branch.on_reply:
                edits = self.user.on_reply(branch, response, flow, ctx, now)
                if edits is None:
                    return
            else:
                edits = ctx.edits if ctx is not None else NO_EDITS
            self._collect(branch, response, edits, now)

    def _provisional(self, branch: ClientTransaction, actions: int, now: float) -> None:
        if branch.is_invite:
            server = branch.server
            if (
                actions & states.RESTART_GIVE_UP
                and branch.cancelling == NOT_CANCELLED
                and (not branch.replied or self.settings.restart_fr_on_each_reply)
            ):
                gives_up_at = now + (server.fr_inv_s or self.settings.fr_inv_timer_s)
                branch.gives_up_at = min(server.expires_at, gives_up_at)
                if branch.fires_at == 0.0 or branch.gives_up_at < branch.fires_at:
                    self.wheel.arm(branch, branch.gives_up_at)
            if branch.cancelling == CANCEL_WANTED:
                self._send_cancel(branch, now)
        elif branch.interval_s:
            branch.interval_s = self.settings.retr_timer2_s  # §17.1.2.2: E runs at T2 after a provisional

    def _collect(self, branch: ClientTransaction, response: Response, edits: Edits, now: float) -> None:
        """Put the answer of *branch* into the response context (§16.7)."""
        server = branch.server
        status = response.status
        if status < 200:
            branch.status = status
            # RFC 4320 §4.1: no provisional but 100 may answer a non-INVITE, and 100 is hop by hop.
            if status != 100 and server.is_invite and server.status < 200:
                self._relay_response(server, response, edits, now)
            return
        if status < 300:
            branch.status = status
            branch.response = None
            if server.is_invite or server.status < 200:
                self._relay_response(server, response, edits, now)
                self.cancel_branches(server, now)
            return
        branch.status = status
        branch.response = response
        branch.edits = edits
        if status >= 600 and not self.settings.disable_6xx_block:
            self.cancel_branches(server, now)
        self.conclude(server, now)

    def _relay_response(self, server: ServerTransaction, response: Response, edits: Edits, now: float) -> None:
        if server.replicated:
            if response.status >= 200:
                self.end_silently(server, now)
            return
        self.relayed_replies += 1
        self._answer(server, response.status, build_forwarded_response(response, edits), now)

    def conclude(self, server: ServerTransaction, now: float) -> None:
        """When all branches are final and none was 2xx: failure route, then the best answer upstream."""
        if server.in_failure_route or server.in_relay:
            return  # the caller concludes when it is done
        while not server.is_final() and all_final(server.branches):
            winner = pick(server.branches)
            ctx = server.ctx
            if winner is None or ctx is None:
                self.reply(server, self.settings.default_code, self.settings.default_reason, now)
                return
            if not ctx.on_failure:
                self._send_best(server, winner, now)
                return
            count = len(server.branches)
            server.in_failure_route = True
            try:
                self.user.on_failure(server, winner, now)
            finally:
                server.in_failure_route = False
            if server.is_final():
                if not server.is_invite:
                    self._let_go(server)
                return
            if len(server.branches) == count:
                best = pick(server.branches)
                if best is None:
                    self.reply(server, self.settings.default_code, self.settings.default_reason, now)
                else:
                    self._send_best(server, best, now)
                return

    def _send_best(self, server: ServerTransaction, winner: ClientTransaction, now: float) -> None:
        response = winner.response
        if response is None:
            status = winner.status
            if status == 408 and server.cancelled:
                status = 487  # given up because the caller did
            self.reply(server, status, "", now)
            return
        status = winner.status
        if status == 408 and not server.is_invite:
            self.end_silently(server, now)  # RFC 4320 §4.2
            return
        edits = winner.edits
        if status in {401, 407} and self.settings.aggregate_challenges and len(server.branches) > 1:
            lines = challenges(server.branches, response)
            if lines:
                edits = edits.copy()
                for line in lines:
                    edits.append(line)
        self._relay_response(server, response, edits, now)

    # --- cancelling

    def cancel_request(self, server: ServerTransaction, now: float) -> None:
        """The caller has cancelled *server*, an INVITE (§9.2, §16.10). No effect after a final answer."""
        server.cancelled = True
        if server.is_final():
            return
        if not server.branches:
            self.reply(server, 487, "", now)
            return
        self.cancel_branches(server, now)
        self.conclude(server, now)

    def cancel_branches(self, server: ServerTransaction, now: float) -> None:
        """Cancel every branch of an INVITE that has no final answer yet (§16.7 step 10)."""
        if not server.is_invite:
            return
        for branch in server.branches:
            if branch.status < 200:
                self.cancel_branch(branch, now)

    def cancel_branch(self, branch: ClientTransaction, now: float) -> None:
        """CANCEL *branch* now or, when the peer has not answered at all, as soon as it does (§9.1)."""
        if branch.cancelling != NOT_CANCELLED or branch.state >= states.COMPLETED:
            return
        method = self.settings.cancel_b_method
        if branch.replied or method == 2:
            self._send_cancel(branch, now)
        elif method == 0:
            branch.retransmit_at = 0.0
            branch.fires_at = 0.0
            branch.cancelling = CANCEL_WANTED
            branch.status = 487
        else:
            branch.cancelling = CANCEL_WANTED

    def _send_cancel(self, branch: ClientTransaction, now: float) -> None:
        flow = branch.flow
        if flow is None:
            return
        branch.cancelling = CANCEL_SENT
        cancel = ClientTransaction(branch.server, branch.index, branch.branch_id, branch.request_uri, invite=False)
        cancel.is_cancel = True
        cancel.data = build_cancel(branch.data, self.settings.cancel_headers)
        cancel.flow = flow
        branch.cancel = cancel
        cancel.gives_up_at = now + self.settings.fr_timer_s
        cancel.interval_s = self.settings.retr_timer1_s
        if flow.transport == "udp":
            cancel.retransmit_at = now + cancel.interval_s
        self.wheel.arm(cancel, cancel.next_wake())
        self._send(cancel.data, flow)
        if branch.state < states.COMPLETED:
            # §9.1: a peer that has not ended the INVITE 64*T1 after our CANCEL never will.
            branch.gives_up_at = now + 64 * self.settings.retr_timer1_s
            self.wheel.arm(branch, branch.next_wake())

    # --- timers

    def next_timer_at(self) -> float:
        """When ``on_timer`` is wanted next, ``timers.NEVER`` when nothing waits."""
        return self.wheel.next_at()

    def on_timer(self, now: float) -> None:
        """Run everything that is due. (The pipeline does the same one by one, to keep the order of each Call-ID.)"""
        self.wheel.advance(now)
        while self.wheel.due:
            self.fire(self.wheel.due.popleft(), now)

    def fire(self, timed: Timed, now: float) -> None:
        """*timed*'s instant has come."""
        if isinstance(timed, ClientTransaction):
            self._fire_client(timed, now)
        elif isinstance(timed, ServerTransaction):
            self._fire_server(timed, now)

    def _fire_client(self, branch: ClientTransaction, now: float) -> None:
        if branch.state >= states.COMPLETED:
            return
        if branch.gives_up_at and now >= branch.gives_up_at:
            self._apply_client(branch, branch.step(states.TIMER_GIVE_UP), None, now)
            return
        if branch.retransmit_at and now >= branch.retransmit_at:
            branch.interval_s *= 2
            if not branch.is_invite and branch.interval_s > self.settings.retr_timer2_s:
                branch.interval_s = self.settings.retr_timer2_s
            branch.retransmit_at += branch.interval_s  # from the instant it was due: ticks must not add up
            self._apply_client(branch, branch.step(states.TIMER_RETRANSMIT), None, now)
        if branch.state < states.COMPLETED:
            wake = branch.next_wake()
            if wake:
                self.wheel.arm(branch, wake)

    def _apply_client(self, branch: ClientTransaction, actions: int, response: Response | None, now: float) -> None:  # noqa: ARG002
        """Carry out *actions* of a client table that no response asked for."""
        if actions & states.STOP_RETRANSMIT:
            branch.retransmit_at = 0.0
        if actions & states.RESEND:
            self.retransmissions += 1
            flow = branch.flow
            if flow is not None and not self._send_request(branch, flow) and not branch.is_cancel:
                self._apply_client(branch, branch.step(states.TRANSPORT_ERROR), None, now)
            return
        if branch.is_cancel or not actions:
            return
        if actions & states.CANCEL_FIRST and branch.cancelling == NOT_CANCELLED:
            self._send_cancel(branch, now)
        if actions & states.TIMED_OUT:
            self.timeouts += 1
            branch.timed_out = True
            self._give_up(branch, 408, now)
        elif actions & states.FAILED:
            self._give_up(branch, 503, now)

    def _give_up(self, branch: ClientTransaction, status: int, now: float) -> None:
        """Count *branch* as answered with *status* (§16.8, §16.9), or try its next address first."""
        branch.gives_up_at = 0.0
        server = branch.server
        if branch.alternatives and not branch.replied and branch.cancelling == NOT_CANCELLED and not server.is_final():
            self._try_next(branch, now)
            return
        if branch.status < 200:
            branch.status = status
            branch.response = None
        self.conclude(server, now)

    def _try_next(self, branch: ClientTransaction, now: float) -> None:
        """A new transaction to the next address of the same target (RFC 3263 §4.3): new branch parameter, same body."""
        server = branch.server
        flow = branch.alternatives.pop(0)
        following = ClientTransaction(
            server, len(server.branches), f"{branch.branch_id.rpartition('.')[0]}.{len(server.branches)}",
            branch.request_uri, invite=branch.is_invite,
        )  # fmt: skip
        following.alternatives = branch.alternatives
        following.on_reply = branch.on_reply
        following.flags = branch.flags
        following.data = branch.data.replace(branch.branch_id.encode("ascii"), following.branch_id.encode("ascii"), 1)
        following.flow = flow
        branch.alternatives = []
        branch.status = 503
        branch.dropped = True
        server.branches.append(following)
        self.start(following, now)

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
