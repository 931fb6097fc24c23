"""The downstream half of the transactions: branches, their answers, cancelling, timers.

Sans-I/O: messages, instants and a function that sends come in from the pipeline; nothing here reads a clock, draws
a random number or opens a socket. What the script decides is asked of a ``TransactionUser`` (``modules/tm.py``).
All messages of one Call-ID reach one process one after the other, so there is no lock (design: architecture §3).

Runs in: udp receiver. Locks: none. RFC: 3261 §9, §16, §17; 4320; 6026.
"""

from __future__ import annotations

from collections.abc import Sequence

from serpy.context.context import Context
from serpy.errors import TransportError
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.message import Edits, Response
from serpy.sip.status import reason_phrase
from serpy.sip.writer import build_ack, build_cancel, build_forwarded_response
from serpy.transaction import states
from serpy.transaction.client import CANCEL_SENT, CANCEL_WANTED, NO_EDITS, NOT_CANCELLED, ClientTransaction
from serpy.transaction.response_context import all_final, challenges, pick
from serpy.transaction.server import ServerTransaction
from serpy.transaction.timers import Timed
from serpy.transaction.upstream import Upstream


class TransactionLayer(Upstream):
    """The transactions of one process: its server transactions and their branches."""

    # --- requests downstream

    def next_branch_id(self, server: ServerTransaction, loop: int) -> str:
        """The branch parameter of the next branch of *server*."""
        return f"z9hG4bK{self.cookie}n{server.number}.{loop}.{len(server.branches)}"

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

    def not_sent(self, branch_id: str, now: float) -> None:
        """The request of this branch did not leave after all (§18.4): fail it, when the turn of its Call-ID comes."""
        branch = self.clients.get(branch_id)
        if branch is not None and branch.state < states.COMPLETED and not branch.replied:
            branch.unreachable = True
            self.wheel.arm(branch, now)

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
                self._relay_response(branch, response, edits, now)
            return
        if status < 300:
            branch.status = status
            branch.response = None
            if server.is_invite or server.status < 200:
                self._relay_response(branch, response, edits, now)
                self.cancel_branches(server, now, status)
            return
        branch.status = status
        branch.response = response
        branch.edits = edits
        if status >= 600 and not self.settings.disable_6xx_block:
            self.cancel_branches(server, now, status)
        self.conclude(server, now)

    def _relay_response(self, branch: ClientTransaction, response: Response, edits: Edits, now: float) -> None:
        server = branch.server
        if server.replicated:
            if response.status >= 200:
                self.end_silently(server, now)
            return
        self.relayed_replies += 1
        self._answer(server, response.status, build_forwarded_response(response, edits), now, branch, response)

    def conclude(self, server: ServerTransaction, now: float) -> None:
        """When all branches are final and none was 2xx: failure route, then the best answer upstream."""
        if server.in_failure_route or server.in_relay:
            return  # the caller concludes when it is done
        while not server.is_final() and all_final(server.branches):
            winner = pick(server.branches)
            ctx = server.ctx
            if server.replicated:
                self.end_silently(server, now)
                return
            if winner is None or ctx is None:
                self.reply(server, self.settings.default_code, self.settings.default_reason, now)
                return
            if server.watched_at:
                self.report(self.on_failed, server, winner.status, winner, winner.response)
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
            if self.settings.drop_earlier:
                for branch in server.branches[:count]:
                    branch.dropped = True

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
        self._relay_response(winner, response, edits, now)

    # --- cancelling

    def cancel_request(self, server: ServerTransaction, now: float, reasons: Sequence[str] = ()) -> None:
        """The caller has cancelled *server*, an INVITE (§9.2, §16.10). No effect after a final answer.

        *reasons* are the header lines of the CANCEL that tell the branches why (RFC 3326).
        """
        server.cancelled = True
        if server.is_final():
            return
        if reasons and not server.cancel_reason:
            server.cancel_reason = "\r\n".join(reasons)
        if not server.branches:
            self.reply(server, 487, "", now)
            return
        self.cancel_branches(server, now)
        self.conclude(server, now)

    def cancel_branches(self, server: ServerTransaction, now: float, cause: int = 0) -> None:
        """Cancel every branch of an INVITE that has no final answer yet (§16.7 step 10).

        *cause* is the answer that ended the others, 0 = the caller's own wish.
        """
        if not server.is_invite:
            return
        for branch in server.branches:
            if branch.status < 200:
                if cause and not server.cancel_reason and self.settings.local_cancel_reason:
                    server.cancel_reason = reason_line(cause)
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
        extra = self.settings.cancel_headers
        if branch.server.cancel_reason:
            extra = [*extra, branch.server.cancel_reason]
        cancel.data = build_cancel(branch.data, extra)
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
        if branch.unreachable:
            branch.unreachable = False
            if not branch.replied:
                self._apply_client(branch, branch.step(states.TRANSPORT_ERROR), None, now)
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


def reason_line(status: int) -> str:
    """Why the others of a fork are cancelled: one of them has answered *status* (RFC 3326)."""
    text = "Call completed elsewhere" if status < 300 else reason_phrase(status)
    return f'Reason: SIP;cause={status};text="{text}"'
