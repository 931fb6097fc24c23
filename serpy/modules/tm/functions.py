"""The script functions, parameters and counters of tm; everything they do happens in ``serpy.transaction``.

A retransmission, a CANCEL's INVITE and the ACK to a negative answer are matched by the pipeline before the script
runs, so these functions only ever see what is new.

Runs in: udp receiver; RPC in ctl. Locks: none. RFC: 3261 §9, §16, §17.
"""

from __future__ import annotations

import logging
from typing import Final

from serpy.api import (
    ANSWERS,
    FALSE,
    FORWARDER,
    STOP,
    TRANSACTION_LAYER,
    TRANSACTION_SETTINGS,
    TRANSACTION_USER,
    TRUE,
    Arg,
    AvpName,
    Context,
    Exports,
    Function,
    Param,
    Routes,
    Rpc,
    Server,
)
from serpy.context.avps import parse_avp_name
from serpy.context.context import FAILURE, ONREPLY
from serpy.modules.tm.routes import ScriptRoutes
from serpy.modules.tm.rpc import CANCEL, TmRpc
from serpy.rpc.asked import Answers
from serpy.script.patterns import Pattern
from serpy.sip.address import is_address
from serpy.sip.message import Request
from serpy.transaction import server_side
from serpy.transaction.ending import destroy
from serpy.transaction.forking import cancel_request
from serpy.transaction.forward import E_BAD_REQUEST, Forwarder, outward_status
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.relay import relay
from serpy.transaction.response_context import statuses
from serpy.transaction.settings import DURATIONS, SWITCHES, VALUES, TransactionSettings
from serpy.transaction.stateless import redirect_contacts
from serpy.transaction.transactions import ServerTransaction

log = logging.getLogger(__name__)

NAME: Final = "tm"
FR_NOTE: Final = "tm.fr"  # t_set_fr before there is a transaction: (inv, fr) in seconds
FORWARD_UNMATCHED_CANCEL_STATEFULLY: Final = 0
FORWARD_UNMATCHED_CANCEL_STATELESSLY: Final = 1


class Tm:
    """The module of one process. Parameters are as the administrator wrote them (milliseconds)."""

    def __init__(self) -> None:
        self.fr_timer = 32000
        self.fr_inv_timer = 190000
        self.fr_inv_timer_next = 30000
        self.wt_timer = 5000
        self.completed_timer = 32000
        self.delete_timer = 200
        self.retr_timer1 = 500
        self.retr_timer2 = 4000
        self.max_inv_lifetime = 600000
        self.max_noninv_lifetime = 32000
        self.failure_reply_mode = 0
        self.default_code = 500
        self.default_reason = "Server Internal Error"
        self.disable_6xx_block = 0
        self.pass_503 = 0
        self.auto_inv_100 = 1
        self.auto_inv_100_reason = "Trying"
        self.restart_fr_on_each_reply = 1
        self.noisy_ctimer = 1
        self.aggregate_challenges = 1
        self.unmatched_cancel = 0
        self.reparse_invite = 1
        self.ac_extra_hdrs = ""
        self.ruri_matching = 1
        self.via1_matching = 1
        self.cancel_b_method = 1
        self.local_cancel_reason = 1
        self.e2e_cancel_reason = 1
        self.fr_timer_avp = ""
        self.fr_inv_timer_avp = ""
        self.contacts_avp = ""
        self.settings = TransactionSettings()
        self.routes = ScriptRoutes()
        self.rpc = TmRpc()
        self.server: Server | None = None
        self._fr_avp: AvpName | None = None
        self._fr_inv_avp: AvpName | None = None
        self._layer: TransactionLayer | None = None
        self._forwarder: Forwarder | None = None

    def init(self, server: Server) -> None:
        """In the master: parameters to settings, services, counters."""
        self.server = server
        self.rpc.bind(server)
        settings = self.settings
        for name in DURATIONS:
            setattr(settings, f"{name}_s", getattr(self, name) / 1000)
        for name in SWITCHES:
            setattr(settings, name, getattr(self, name) != 0)
        for name in VALUES:
            setattr(settings, name, getattr(self, name))
        settings.drop_earlier = self.failure_reply_mode != 0
        if self.fr_timer_avp:
            self._fr_avp = parse_avp_name(self.fr_timer_avp)
        if self.fr_inv_timer_avp:
            self._fr_inv_avp = parse_avp_name(self.fr_inv_timer_avp)
        server.provide(TRANSACTION_SETTINGS, settings)
        server.provide(TRANSACTION_USER, self.routes)

    @property
    def layer(self) -> TransactionLayer:
        """The transactions of this process; looked up once, because the pipeline is made after the modules."""
        layer = self._layer
        if layer is None:
            assert self.server is not None
            layer = self._layer = self.server.bind(TRANSACTION_LAYER)
            self._forwarder = self.server.bind(FORWARDER)
            self.routes.layer = layer
        return layer

    @property
    def forwarder(self) -> Forwarder:
        """The way out of this process."""
        if self._forwarder is None:
            self.layer  # noqa: B018 - binds both
        assert self._forwarder is not None
        return self._forwarder

    # --- relaying

    def t_relay(self, ctx: Context) -> int:
        """Forward statefully to the destination set; ACK statelessly, a matched CANCEL hop by hop."""
        request = ctx.request
        if request is None:
            return E_BAD_REQUEST
        method = request.method
        if method == "ACK":
            return TRUE if self.forwarder.forward(ctx) else ctx.last_error
        if method == "CANCEL" and ctx.kind != FAILURE:
            if self._cancel(ctx, request):
                return TRUE
            if self.unmatched_cancel != FORWARD_UNMATCHED_CANCEL_STATEFULLY:
                if self.unmatched_cancel == FORWARD_UNMATCHED_CANCEL_STATELESSLY:
                    return TRUE if self.forwarder.forward(ctx) else ctx.last_error
                return TRUE
        server = self._transaction(ctx, request)
        result = relay(self.layer, self.forwarder, server, ctx)
        if result < 0:
            ctx.last_error = result
            if ctx.kind != FAILURE:
                server.relay_error = outward_status(result)
                log.debug("t_relay: core error %d, answered %d unless the script answers", result, server.relay_error)
        return result

    def t_relay_to_udp(self, ctx: Context, host: str | int | None, port: str | int | None = None) -> int:
        """``t_relay`` to a given next hop; the Request-URI stays."""
        target = hop_uri(host, port)
        if not target:
            ctx.last_error = E_BAD_REQUEST
            return FALSE
        ctx.dst_uri = target
        ctx.target_flags = 0
        ctx.uri_consumed = False
        return self.t_relay(ctx)

    def t_replicate(self, ctx: Context, host: str | int | None, port: str | int | None = None) -> int:
        """Send a stateful copy to another server; what it answers goes nowhere."""
        request = ctx.request
        target = hop_uri(host, port)
        if request is None or not target or request.method in {"ACK", "CANCEL"}:
            return FALSE
        server = self._transaction(ctx, request)
        server.is_copy = True
        kept, branches, flags = ctx.dst_uri, ctx.branches, ctx.target_flags
        ctx.dst_uri, ctx.branches, ctx.uri_consumed, ctx.target_flags = target, [], False, 0
        result = relay(self.layer, self.forwarder, server, ctx)
        ctx.dst_uri, ctx.branches, ctx.uri_consumed, ctx.target_flags = kept, branches, False, flags
        return TRUE if result > 0 else FALSE

    def t_newtran(self, ctx: Context) -> int:
        """Create the transaction without forwarding anything yet."""
        request = ctx.request
        if request is None or request.method == "ACK":
            return E_BAD_REQUEST
        self._transaction(ctx, request)
        return TRUE

    def t_relay_cancel(self, ctx: Context) -> int:
        """A CANCEL whose INVITE is here: answer it, cancel the branches, end the script. True without a match."""
        request = ctx.request
        if request is None or request.method != "CANCEL":
            return E_BAD_REQUEST
        return STOP if self._cancel(ctx, request) else TRUE

    def t_release(self, ctx: Context) -> int:
        """Forget a transaction that sent nothing."""
        server = ctx.transaction
        if server is None or server.branches:
            return FALSE
        destroy(self.layer, server)
        return TRUE

    def _cancel(self, ctx: Context, request: Request) -> bool:
        """Act on a CANCEL: False when its INVITE is not here."""
        layer = self.layer
        invite = layer.find_invite(request, ctx.flow.host)
        if invite is None:
            return False
        # §9.2: the answer carries the To tag of what the INVITE is answered with. It needs no transaction of its
        # own: a repeated CANCEL finds the INVITE again and gets the same answer.
        assert self.server is not None
        replies = self.server.bind(ANSWERS).replies
        replies.reply(ctx, 200, "canceling")
        if ctx.flags & layer.watched_flags and not invite.cancelled:
            for watcher in layer.on_answer:
                watcher(ctx, ctx.arrived_at, 200, None, request.to_tag or replies.tag(request), ctx.request_uri)
        reasons: list[str] = []
        if self.e2e_cancel_reason:
            for index in request.indexes("reason"):
                reasons.append(request.lines[index])
        if isinstance(invite, ServerTransaction):
            cancel_request(layer, invite, reasons)
        invite.cancelled = True
        return True

    def _transaction(self, ctx: Context, request: Request) -> ServerTransaction:
        found = ctx.transaction
        if found is not None:
            return found
        server = server_side.create(self.layer, ctx, request)
        if ctx.notes:
            timers = ctx.notes.get(FR_NOTE)
            if isinstance(timers, tuple):
                server.fr_inv_s, server.fr_s = timers
        if self._fr_avp is not None:
            server.fr_s = seconds(ctx.avps.read(self._fr_avp)) or server.fr_s
        if self._fr_inv_avp is not None:
            server.fr_inv_s = seconds(ctx.avps.read(self._fr_inv_avp)) or server.fr_inv_s
        return server

    # --- arming

    def t_on_failure(self, ctx: Context, name: str) -> int:
        """Run failure_route[name] when every branch has failed; "0" for none."""
        owner(ctx).on_failure = "" if name == "0" else name
        return TRUE

    def t_on_reply(self, ctx: Context, name: str) -> int:
        """Run onreply_route[name] for each reply of the branches made from now on; "0" for none."""
        owner(ctx).on_reply = "" if name == "0" else name
        return TRUE

    def t_on_branch(self, ctx: Context, name: str) -> int:
        """Run branch_route[name] for each branch before it leaves; "0" for none."""
        owner(ctx).on_branch = "" if name == "0" else name
        return TRUE

    def t_set_fr(self, ctx: Context, invite_ms: int, fr_ms: int = 0) -> int:
        """How long this transaction waits: after a provisional, and before one. 0 leaves the module's value."""
        if invite_ms < 0 or fr_ms < 0:
            return FALSE
        server = ctx.transaction
        if server is not None:
            server.fr_inv_s = invite_ms / 1000 or server.fr_inv_s
            server.fr_s = fr_ms / 1000 or server.fr_s
        else:
            ctx.notes[FR_NOTE] = (invite_ms / 1000, fr_ms / 1000)
        return TRUE

    # --- replying

    def t_reply(self, ctx: Context, status: str | int | None, reason: str | int | None) -> int:
        """Answer through the transaction, which is made when there is none yet. A 3xx carries the destination set."""
        request = ctx.request
        code = reply_status(status)
        if request is None or request.method == "ACK" or code == 0:
            return FALSE
        server = self._transaction(ctx, request)
        headers: list[str] = []
        if 300 <= code < 400 and ctx.kind != ONREPLY:
            headers = redirect_contacts(ctx)
        if not server_side.reply(self.layer, server, code, "" if reason is None else str(reason), headers):
            return FALSE
        server.relay_error = 0
        return TRUE

    def t_retransmit_reply(self, ctx: Context) -> int:
        """Send the last answer of the transaction again."""
        server = ctx.transaction
        if server is not None and server_side.retransmit_reply(self.layer, server):
            return TRUE
        return FALSE

    # --- asking

    def t_check_status(self, ctx: Context, expression: Pattern) -> int:
        """Match the current status: the winner's, this reply's, or the last one sent."""
        status = ctx.status
        server = ctx.transaction
        if ctx.kind not in {FAILURE, ONREPLY} and server is not None:
            status = server.status
        return TRUE if status and expression.search(str(status)) else FALSE

    def t_lookup_request(self, ctx: Context) -> int:
        """True when this request has a transaction."""
        return TRUE if ctx.transaction is not None else FALSE

    def t_lookup_cancel(self, ctx: Context) -> int:
        """True for a CANCEL whose INVITE is here."""
        request = ctx.request
        if request is None or request.method != "CANCEL":
            return FALSE
        return TRUE if self.layer.find_invite(request, ctx.flow.host) is not None else FALSE

    def t_check_trans(self, ctx: Context) -> int:
        """True when this request belongs to a transaction: its own, or for CANCEL and ACK the INVITE's."""
        request = ctx.request
        if request is not None and request.method in {"ACK", "CANCEL"}:
            return TRUE if self.layer.find_invite(request, ctx.flow.host) is not None else FALSE
        return TRUE if ctx.transaction is not None else FALSE

    def t_precheck_trans(self, ctx: Context) -> int:  # noqa: ARG002
        """Never true: a repeated request does not come as far as the script."""
        return FALSE

    def t_is_canceled(self, ctx: Context) -> int:
        """True when the caller has sent CANCEL."""
        server = ctx.transaction
        return TRUE if server is not None and server.cancelled else FALSE

    def t_any_timeout(self, ctx: Context) -> int:
        """True when some branch got no answer in time."""
        server = ctx.transaction
        if server is not None:
            for branch in server.branches:
                if branch.timed_out:
                    return TRUE
        return FALSE

    def t_branch_timeout(self, ctx: Context) -> int:
        """In a failure route: true when the chosen branch got no answer in time."""
        server = ctx.transaction
        if server is not None and ctx.branch_index < len(server.branches):
            return TRUE if server.branches[ctx.branch_index].timed_out else FALSE
        return FALSE

    def t_any_replied(self, ctx: Context) -> int:
        """True when some branch has received anything."""
        server = ctx.transaction
        if server is not None:
            for branch in server.branches:
                if branch.replied:
                    return TRUE
        return FALSE

    def t_grep_status(self, ctx: Context, status: int) -> int:
        """True when some branch ended with *status*."""
        server = ctx.transaction
        if server is not None and status in statuses(server.branches):
            return TRUE
        return FALSE

    def t_drop_replies(self, ctx: Context) -> int:
        """In a failure route: let none of the answers so far be chosen any more."""
        server = ctx.transaction
        if server is None:
            return FALSE
        for branch in server.branches:
            if branch.status >= 300:
                branch.dropped = True
        return TRUE

    def t_is_set(self, ctx: Context, what: str) -> int:
        """True when a failure_route, branch_route or onreply_route is armed."""
        script = owner(ctx)
        armed = {"failure_route": script.on_failure, "branch_route": script.on_branch, "onreply_route": script.on_reply}
        return TRUE if armed.get(what) else FALSE

    # --- asked by the ctl process

    def child_init(self, server: Server) -> None:
        """Register what this process answers."""
        if server.role == "udp receiver":
            Answers(server).on(CANCEL, self._cancel_for_ctl)
        elif server.role == "ctl":
            self.rpc.listen(server)

    def _cancel_for_ctl(self, call_id: str, number: int) -> int:
        """Cancel one INVITE; returns how many branches were open, -1 when it is not here."""
        assert self.server is not None
        found = self.layer.find_by_call_id(call_id, number)
        count = -1
        if found is not None:
            count = 0
            for branch in found.branches:
                if branch.status < 200:
                    count += 1
            cancel_request(self.layer, found)
        return count


def owner(ctx: Context) -> Context:
    """The Context routes are armed on: in an onreply route that of the request."""
    if ctx.kind == ONREPLY:
        server = ctx.transaction
        if server is not None and server.ctx is not None:
            return server.ctx
    return ctx


def seconds(value: int | str | None) -> float:
    """A timer attribute in seconds, 0.0 when it is no positive number."""
    if isinstance(value, int):
        return float(value) if value > 0 else 0.0
    if value is not None and value.isascii() and value.isdigit() and len(value) < 7:
        return float(value)
    return 0.0


def reply_status(value: str | int | None) -> int:
    """A status code, 0 when *value* is none."""
    if isinstance(value, int):
        return value if 100 <= value <= 699 else 0
    if value is not None and len(value) == 3 and value.isascii() and value.isdigit() and "100" <= value <= "699":
        return int(value)
    return 0


def hop_uri(host: str | int | None, port: str | int | None) -> str:
    """A next hop as a URI from "uri", or host and port; "" when there is none."""
    if host is None or host == "":
        return ""
    text = str(host)
    if text[:4].lower() in {"sip:", "sips"}:
        return text
    if ":" in text and "[" not in text and is_address(text):
        text = f"[{text}]"
    return f"sip:{text}:{port};transport=udp" if port else f"sip:{text};transport=udp"


_R: Final = Routes.REQUEST
_F: Final = Routes.FAILURE
_O: Final = Routes.ONREPLY
_B: Final = Routes.BRANCH


def exports() -> Exports:
    """A fresh instance of the module."""
    tm = Tm()
    hop = (Arg.VALUE, Arg.VALUE)
    route = (Arg.ROUTE,)
    return Exports(
        name=NAME,
        module=tm,
        functions=(
            Function("t_relay", tm.t_relay, (), 0, _R | _F, "forward statefully to the destination set"),
            Function("t_relay_to_udp", tm.t_relay_to_udp, hop, 1, _R | _F, "forward statefully to a next hop"),
            Function("t_forward_nonack", tm.t_relay_to_udp, hop, 1, _R | _F, "forward statefully to a next hop"),
            Function("t_replicate", tm.t_replicate, hop, 1, _R, "send a copy whose answers are not relayed"),
            Function("t_newtran", tm.t_newtran, (), 0, _R, "create the transaction"),
            Function("t_relay_cancel", tm.t_relay_cancel, (), 0, _R, "act on a CANCEL whose INVITE is here"),
            Function("t_release", tm.t_release, (), 0, _R, "forget the transaction"),
            Function(
                "t_on_failure", tm.t_on_failure, route, 0, _R | _F | _O | _B, "arm a failure route", "failure_route"
            ),
            Function("t_on_reply", tm.t_on_reply, route, 0, _R | _F | _O | _B, "arm an onreply route", "onreply_route"),
            Function("t_on_branch", tm.t_on_branch, route, 0, _R | _F, "arm a branch route", "branch_route"),
            Function("t_set_fr", tm.t_set_fr, (Arg.INT, Arg.INT), 1, _R | _F | _O | _B, "timers of this transaction"),
            Function("t_reply", tm.t_reply, (Arg.STATUS, Arg.REASON), 0, _R | _F | _O, "answer statefully"),
            Function("t_retransmit_reply", tm.t_retransmit_reply, (), 0, _R, "send the last answer again"),
            Function("t_check_status", tm.t_check_status, (Arg.REGEX,), 0, _R | _F | _O, "match the status"),
            Function("t_lookup_request", tm.t_lookup_request, (), 0, _R, "has this request a transaction"),
            Function("t_lookup_cancel", tm.t_lookup_cancel, (), 0, _R, "is the INVITE of this CANCEL here"),
            Function("t_check_trans", tm.t_check_trans, (), 0, _R, "does this request belong to a transaction"),
            Function("t_precheck_trans", tm.t_precheck_trans, (), 0, _R, "is this request being processed already"),
            Function("t_is_canceled", tm.t_is_canceled, (), 0, _R | _F | _O | _B, "has the caller cancelled"),
            Function("t_any_timeout", tm.t_any_timeout, (), 0, _R | _F | _O, "did a branch time out"),
            Function("t_branch_timeout", tm.t_branch_timeout, (), 0, _F, "did the chosen branch time out"),
            Function("t_any_replied", tm.t_any_replied, (), 0, _R | _F | _O, "has a branch answered at all"),
            Function("t_grep_status", tm.t_grep_status, (Arg.INT,), 0, _R | _F | _O, "did a branch end with a code"),
            Function("t_drop_replies", tm.t_drop_replies, (), 0, _F, "choose none of the answers so far"),
            Function("t_is_set", tm.t_is_set, (Arg.STR,), 0, _R | _F | _O | _B, "is such a route armed"),
        ),
        params=PARAMS,
        rpc=(
            Rpc("tm.stats", tm.rpc.stats),
            Rpc("tm.hash_stats", tm.rpc.hash_stats),
            Rpc("tm.cancel", tm.rpc.cancel, write=True),
        ),
        init=tm.init,
        child_init=tm.child_init,
    )


DURATION_MAX_MS: Final = 86_400_000  # a day: nothing that waits for an answer waits longer


def check_duration(value: int) -> str:
    """An error text when *value* milliseconds are no time that a request may take."""
    return "" if 1 <= value <= DURATION_MAX_MS else f"it is a time in milliseconds, 1 to {DURATION_MAX_MS}"


PARAMS: Final = (
    Param(
        "fr_timer",
        "int",
        32000,
        "ms until a branch without any answer has failed (timers B and F: 64*T1)",
        check=check_duration,
    ),
    Param(
        "fr_inv_timer",
        "int",
        190000,
        "ms a ringing INVITE branch is given (timer C: more than three minutes)",
        check=check_duration,
    ),
    Param("fr_inv_timer_next", "int", 30000, "accepted; serial forking arms its timers with t_set_fr"),
    Param("wt_timer", "int", 5000, "ms an acknowledged negative answer to INVITE is remembered (timer I: T4)"),
    Param(
        "completed_timer",
        "int",
        32000,
        "ms an answered request is remembered: its answer is repeated, a late 2xx passed on (timers D, H, J, L, M: 64*T1)",
        check=check_duration,
    ),
    Param("delete_timer", "int", 200, "accepted, no effect"),
    Param("retr_timer1", "int", 500, "ms until the first retransmission (T1)"),
    Param("retr_timer2", "int", 4000, "ms between retransmissions at most (T2)"),
    Param("max_inv_lifetime", "int", 600000, "ms until an INVITE is answered 408 at the latest"),
    Param("max_noninv_lifetime", "int", 32000, "ms until any other request is given up at the latest"),
    Param("auto_inv_100", "int", 1, "answer an INVITE 100 at once"),
    Param("auto_inv_100_reason", "str", "Trying", "reason of that 100"),
    Param(
        "restart_fr_on_each_reply",
        "int",
        1,
        "each 101-199 starts fr_inv_timer again, unless the script has set a time for this request",
    ),
    Param("noisy_ctimer", "int", 1, "accepted: a timeout is always answered"),
    Param("aggregate_challenges", "int", 1, "merge the challenges of all branches into the chosen 401 or 407"),
    Param("unmatched_cancel", "int", 0, "CANCEL without INVITE: 0 forward statefully, 1 statelessly, 2 drop"),
    Param("reparse_invite", "int", 1, "accepted: a CANCEL is always made from the INVITE as sent"),
    Param("ac_extra_hdrs", "str", "", "accepted, no effect"),
    Param("ruri_matching", "int", 1, "accepted: matching follows RFC 3261"),
    Param("via1_matching", "int", 1, "accepted: matching follows RFC 3261"),
    Param("cancel_b_method", "int", 1, "branch without answer: 0 give up, 1 wait for one, 2 CANCEL at once"),
    Param("local_cancel_reason", "int", 1, "say in a Reason header which answer made us cancel the other branches"),
    Param("e2e_cancel_reason", "int", 1, "hand on the Reason headers of a CANCEL"),
    Param("failure_reply_mode", "int", 0, "not 0: when a failure route adds branches, earlier answers are dropped"),
    Param("default_code", "int", 500, "status when no answer is left to choose"),
    Param("default_reason", "str", "Server Internal Error", "its reason"),
    Param("disable_6xx_block", "int", 0, "a 6xx does not cancel the other branches"),
    Param(
        "pass_503", "int", 0, "1: a 503 goes to the caller as it is; 0: as 500, which says nothing about this server"
    ),
    Param("fr_timer_avp", "avp", "", "attribute with this request's fr_timer in seconds"),
    Param("fr_inv_timer_avp", "avp", "", "attribute with this request's fr_inv_timer in seconds"),
    Param("contacts_avp", "avp", "", "accepted, no effect"),
)
