"""One message from bytes to bytes. START READING HERE.

``receive()``: parse → whose is it → keep the order of its Call-ID → check → match → script → forward. Bad input never
travels past this file: a request that can be answered is answered with the status that says what is wrong, everything
else is counted. It owns no socket: what leaves goes through ``server.send``. An instant is asked of the loop where it
is used: hooks, script and name lookups may have waited since the message came.

Runs in: udp receiver, timer (replicas). Locks: none. RFC: 3261 §8.1.3, §8.2, §16.3, §16.7, §18; 3581; 4320; 5393; 6026.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from serpy import __version__
from serpy.api import (
    ANSWERS,
    BUDGETS,
    CHARGES,
    DIALOG_WATCHER,
    FORWARDER,
    TRANSACTION_LAYER,
    TRANSACTION_SETTINGS,
    TRANSACTION_USER,
)
from serpy.call_order import CallOrder
from serpy.context.context import DROPPED, FAILED, ONREPLY, ONSEND, REQUEST, RUNNING, Context
from serpy.context.hooks import call_all
from serpy.errors import ProtocolError, ResourceError, TransportError
from serpy.limited_log import RateLimit
from serpy.net.handoff import MESSAGE, encode_message
from serpy.net.route import source_address
from serpy.net.steering import owner
from serpy.script.hooks import FORWARDED
from serpy.sip.contact import kept_on_stream
from serpy.sip.flow import AS_IS, SEEN, Flow, Outgoing
from serpy.sip.limits import KEEPALIVE_MAX
from serpy.sip.message import Message, Request, Response
from serpy.sip.parser import is_keepalive, parse_for_reply, parse_message
from serpy.sip.stun import binding_response, is_stun
from serpy.transaction import strays
from serpy.transaction.answers import Answers
from serpy.transaction.checks import check_request, refusal_headers
from serpy.transaction.client_side import not_sent, receive_response
from serpy.transaction.deadlines import fire
from serpy.transaction.forking import script_ended
from serpy.transaction.forward import Forwarder, SendFilter
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.matching import Groups
from serpy.transaction.server_side import absorb
from serpy.transaction.settings import TransactionSettings
from serpy.transaction.stateless import StatelessReplies
from serpy.transaction.statistics import SL, TM, Published, Statistic, declare
from serpy.transaction.strays import Strays
from serpy.transaction.timers import Timed
from serpy.transaction.transactions import NO_EDITS, ClientMachine
from serpy.transaction.user import DialogWatcher, TransactionUser
from serpy.transaction.ways import Ways
from serpy.trust.budgets import Budgets, no_budgets
from serpy.trust.charges import Charges
from serpy.trust.counters import PublishedBudgets
from serpy.trust.limits import MALFORMED
from serpy.trust.standing import ON

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.config import Settings
    from serpy.shm.counters import Counters

log = logging.getLogger(__name__)

RETRY_LATER: Final = ("Retry-After: 10",)  # seconds; what a 503 of ours says
PUBLISH_S: Final = 1.0
ALARM_S: Final = 60.0
PROBE_MAX: Final = 64  # bytes; what is no SIP and no longer is a keep-alive of some kind
SIP: Final = b"SIP/"

# Made when the master imports this file, so all children and their successors sign alike: the ACK to a stateless
# final may reach the successor of the child that sent it.
SECRET: Final = os.urandom(32)
BOOT: Final = os.urandom(2).hex()  # likewise: whose connections a branch speaks of


class OnSend(SendFilter):
    """Runs the script's ``onsend_route`` for each request about to leave."""

    def __init__(self, program: Any) -> None:  # Any: the compiled script, which has no type down here
        self.active = bool(program.has_onsend)
        self._program = program

    def allows(self, ctx: Context, flow: Flow, data: bytes) -> bool:
        """False when the script said ``drop``; ``exit`` and a run-time error let it go."""
        kind, state = ctx.kind, ctx.state
        ctx.kind, ctx.state = ONSEND, RUNNING
        ctx.out_flow, ctx.out_data = flow, data
        try:
            self._program.run_onsend(ctx)
            return ctx.state != DROPPED
        finally:
            ctx.kind, ctx.state = kind, state
            ctx.out_flow, ctx.out_data = None, b""


class Pipeline:
    """Everything that happens to a message in one receiver."""

    def __init__(self, server: Server) -> None:
        self.server: Final = server
        self.loop: Final = server.loop
        self.send: Final = server.send
        program: Any = server.program
        self.program = program
        self.ways: Final = Ways(server.secret, name_of(server), os.urandom(4).hex(), BOOT, server.listeners)
        self.order: Final = CallOrder(self.loop.spawn, self._go_on, self._fire, self._too_much, self._after)
        self.replies: Final = StatelessReplies(SECRET, self.send, self.loop.now)
        self.forwarder: Final = Forwarder(server.listeners, self.send, self.ways)
        self.layer: Final = TransactionLayer(
            server.find(TRANSACTION_SETTINGS) or TransactionSettings(),
            self.send,
            self.ways,
            self.replies.tag,
            self.loop,
        )
        self.strays: Final = Strays(self.ways, self.layer.settings, self.send, self.loop)
        self.answers: Final = Answers(self.replies, self.layer)
        self.layer.user = server.find(TRANSACTION_USER) or TransactionUser()
        self.layer.dialogs = server.find(DIALOG_WATCHER) or DialogWatcher()
        self.layer.watched_flags = server.hooks.watched_flags
        self.layer.on_answer = server.hooks.on_answer
        self.layer.on_failed = server.hooks.on_failed
        budgets = server.find(BUDGETS) or no_budgets()
        self.budgets: Final[Budgets] = budgets
        self._held: Final = budgets.held
        budgets.clock = self.loop
        self.replies.is_proven = budgets.is_proven
        if budgets.mode == ON:
            self.loop.waiters.share(budgets.is_known, self.loop.max_parked)
        charges = server.find(CHARGES) or Charges(budgets)
        self.layer.is_favoured = charges.is_favoured
        self.layer.on_begin = charges.begin
        self.layer.on_end = charges.end
        self.layer.on_proven = server.hooks.on_proven
        server.provide(ANSWERS, self.answers)
        server.provide(FORWARDER, self.forwarder)
        server.provide(TRANSACTION_LAYER, self.layer)
        # A process outside the group of receivers (a test, fork=no) owns every Call-ID.
        shared = server.channels is not None and bool(server.settings.fork)
        self._children = server.settings.children if shared else 1
        self._child = server.child
        # statistics, totals since the start of the process
        self.requests = 0
        self.responses = 0
        self.keepalives = 0
        self.malformed = 0
        self.refused = 0
        self.handed_off = 0
        self.overrun = 0  # responses for which there was no room
        self._alarm: Final = RateLimit(1, ALARM_S)
        self._force_rport = False
        self._has_tls: Final = any(listener.transport == "tls" for listener in server.listeners)
        self._configure(server.settings)
        self._has_reply_route = False
        self.set_program(program)
        self.loop.set_timer_source(self.next_timer_at, self.on_timer)
        if server.counters is not None:
            self._core: Final = Published(server.counters, CORE, self)
            self._tm: Final = Published(server.counters, TM, self.layer)
            self._sl: Final = Published(server.counters, SL, self.replies)
            self._budgets: Final = PublishedBudgets(server.counters, budgets)
            self._publish()

    def _configure(self, settings: Settings) -> None:
        """Apply what the configuration says about what we send."""
        self.layer.signature = self.replies.signature = signature(settings)
        self.layer.warns = self.replies.warns = os.getpid() if settings.sip_warning else 0
        to_via = bool(settings.reply_to_via)
        self.layer.reply_to_via = self.replies.reply_to_via = self.forwarder.reply_to_via = to_via
        self.layer.groups = self.replies.groups = groups_of(self.server)
        self.answers.to_source = self._force_rport = bool(settings.force_rport)
        if settings.mhomed:
            self.forwarder.route = source_address
        limits = self.budgets.limits
        self.layer.max_live = settings.max_transactions or limits.transactions
        self.layer.max_kept = settings.max_kept << 20 or limits.kept_bytes
        if settings.check_via:
            self.strays.is_myself = self.server.is_myself

    def set_program(self, program: Any) -> None:
        """Use *program* from the next message on."""
        self.program = program
        program.hooks.forward = self.script_forward
        self.layer.user.program = program
        self.forwarder.filter = OnSend(program)
        self._has_reply_route = bool(program.has_route(ONREPLY, ""))

    def set_owner(self, child: int, children: int) -> None:
        """Be receiver *child* of *children*: hand over what belongs to another."""
        self._child = child
        self._children = children

    # --- in: from the socket, and what time brings

    def receive(self, data: bytes, flow: Flow) -> None:
        """Take in one datagram. May park; never raises for what a peer sent."""
        if self._held[0] and not self.budgets.admits(data, flow):
            return
        if len(data) < KEEPALIVE_MAX:  # no message of SIP is so short
            self.keepalives += 1
            return
        try:
            message = parse_message(data)
            call_id = message.call_id
        except ProtocolError as exc:
            self._refuse_unparsed(data, flow, exc)
            return
        if self._children > 1:
            mine = owner(call_id.encode("utf-8", "surrogateescape"), self._children)
            if mine != self._child:
                self.handed_off += 1
                payload = encode_message(data, flow.listener.index, flow.host, flow.port, flow.connection)
                if not self.server.channels.send(mine, MESSAGE, payload) and flow.connection:
                    self._too_much(message, flow)  # nobody repeats it
                return
        order = self.order
        if not order.begin(call_id):
            self._wait(call_id, data, message, flow)
            return
        try:
            self._handle(message, flow)
        finally:
            order.end(call_id)

    def next_timer_at(self) -> float:
        """When ``on_timer`` is wanted next; far in the future when nothing waits."""
        return self.layer.wheel.next_at()

    def on_timer(self, now: float) -> None:
        """Run the transaction timers that are due. May park."""
        wheel = self.layer.wheel
        wheel.advance(now)
        self.order.run_timers(wheel.due)

    def not_sent(self, data: bytes) -> None:
        """*data*, the beginning of a message of ours, could not be sent: fail its transaction if there is one."""
        request = parse_for_reply(data)
        if request is None or request.method == "CANCEL":
            return  # a response, an ACK, or what is repeated by who needs it
        try:
            not_sent(self.layer, request.via.branch)
        except ProtocolError:
            self.malformed += 1

    # --- in its turn

    def _wait(self, call_id: str, data: bytes, message: Message, flow: Flow) -> None:
        """Have *message* wait behind the parked handler of its Call-ID, if there is room."""
        if not self.order.wait(call_id, data, message, flow):
            self._too_much(message, flow)

    def _too_much(self, message: Message, flow: Flow) -> None:
        """There is no room for *message* behind a parked one."""
        if isinstance(message, Request):
            self._refuse(message, flow, 503, "", RETRY_LATER)

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        self.loop.call_at(self.loop.now() + seconds, callback)

    def _go_on(self, data: bytes, message: Message, flow: Flow) -> None:
        """The turn of a message that has waited has come."""
        self.loop.current = (data, flow)
        self._handle(message, flow)

    def _fire(self, timed: Timed) -> None:
        self.loop.current = timed
        fire(self.layer, timed)

    def _handle(self, message: Message, flow: Flow) -> None:
        if isinstance(message, Request):
            self.requests += 1
            self._request(message, flow)
        elif isinstance(message, Response):
            self.responses += 1
            self._response(message, flow)

    # --- requests

    def _request(self, request: Request, flow: Flow) -> None:
        try:
            request.check_mandatory()
            if absorb(self.layer, request):
                return
            check_request(request, has_tls=self._has_tls)
        except ProtocolError as exc:
            if exc.status == 400:
                self.budgets.charge(flow, MALFORMED)
            self._refuse(request, flow, exc.status, exc.reason, refusal_headers(request, exc))
            return
        if request.method == "ACK" and self.replies.absorbs(request):
            return
        ctx = Context(request, flow, self.loop, REQUEST)
        if self._force_rport:
            ctx.reply_to_source = True
        try:
            self._run_script(ctx)
            if ctx.state == FAILED and not is_under_way(ctx):
                self._give_up(ctx, 500, "")
        except ProtocolError as exc:
            self._give_up(ctx, exc.status, exc.reason)
        except ResourceError:
            self._give_up(ctx, 503, "", RETRY_LATER)
        finally:
            server = ctx.transaction
            if server is not None:
                script_ended(self.layer, server)

    def _run_script(self, ctx: Context) -> None:
        hooks = self.server.hooks
        for before in hooks.pre_script:
            if not before(ctx):
                return
        try:
            self.program.run(ctx, REQUEST, "")
        finally:
            if hooks.post_script:
                call_all(hooks.post_script, ctx)

    # --- responses

    def _response(self, response: Response, flow: Flow) -> None:
        try:
            response.check_mandatory()
            for prefix, take in self.server.hooks.own_replies:
                if response.via.branch.startswith(prefix):
                    take(response)
                    return
            branch = self.layer.find_branch(response)
            if branch is None and self.strays.way(response) is None:
                return
            if not self.strays.has_good_via(response):
                return
            if not self._has_reply_route and not self.server.hooks.pre_reply:
                self._pass_on(response, flow, None, branch)
                return
            ctx = Context(response, flow, self.loop, ONREPLY)
            ctx.status = response.status
            goes_on = True
            try:
                goes_on = self._run_reply_route(ctx)
            finally:  # whatever the route ran into: somebody waits for the answer
                if goes_on:  # a transaction may have been let go while a handler waited
                    self._pass_on(response, flow, ctx, self.layer.find_branch(response))
        except ProtocolError:
            self.malformed += 1
        except ResourceError:
            self.overrun += 1

    def _run_reply_route(self, ctx: Context) -> bool:
        """Hooks and the default onreply route; False when one of them wants no more of the response."""
        for hook in self.server.hooks.pre_reply:
            if not hook(ctx):
                return False
        if self._has_reply_route:
            self.program.run(ctx, ONREPLY, "")
            if ctx.state == DROPPED:
                return False
            ctx.state = RUNNING
        return True

    def _pass_on(self, response: Response, flow: Flow, ctx: Context | None, branch: ClientMachine | None) -> None:
        """To the transaction it belongs to, else by the way that is sealed in its branch."""
        if branch is not None:
            receive_response(self.layer, branch, response, flow, ctx)
        else:
            edits = ctx.edits if ctx is not None else NO_EDITS
            if flow.connection and response.status < 300 and response.has("record-route"):
                edits = kept_on_stream(response, edits, flow)
            if self.strays.pass_on(response, edits):
                self.layer.dialogs.passed(response, edits, flow)

    # --- out: what the script forwards, and what is refused

    def script_forward(self, ctx: Context, host: str, port: int, transport: str) -> int:
        """``forward()`` and ``forward_udp()``: 1, or a negative core error. *host* "" = where the request is bound."""
        next_hop = ""
        if host:
            name = f"[{host}]" if ":" in host and host[0] != "[" else host
            next_hop = f"sip:{name}:{port};transport={transport}" if port else f"sip:{name};transport={transport}"
        return 1 if self.forwarder.forward(ctx, next_hop) else ctx.last_error

    def _refuse_unparsed(self, data: bytes, flow: Flow, exc: ProtocolError) -> None:
        """Answer what ``parse_message`` refused, when enough of it can be read; never a response, never an ACK."""
        if is_keepalive(data) or is_stun(data):
            self.keepalives += 1
            self._answer_stun(data, flow)
            return
        self.malformed += 1
        if len(data) > PROBE_MAX or SIP in data:  # what phones and NATs say to keep a flow is no offence
            self.budgets.charge(flow, MALFORMED)
        request = parse_for_reply(data)
        if request is not None:
            self._refuse(request, flow, exc.status, exc.reason)

    def _answer_stun(self, data: bytes, flow: Flow) -> None:
        """A phone asks which address it has (RFC 5626 §4.4.2)."""
        if flow.connection or flow.listener.multicast:
            return
        answer = binding_response(data, flow.host, flow.port)
        if not answer:
            return
        try:
            self.send(Outgoing(answer, Flow(flow.listener, flow.host, flow.port, 0, AS_IS | SEEN)))
        except TransportError:
            self.overrun += 1  # it will ask again

    def _refuse(
        self, request: Request, flow: Flow, status: int, reason: str, headers: Sequence[str] = ()
    ) -> None:  # fmt: skip
        if self.answers.refuse(request, flow, status, reason, headers):
            self.refused += 1
        else:
            self.malformed += 1

    def _give_up(self, ctx: Context, status: int, reason: str, headers: Sequence[str] = ()) -> None:
        """A handler could not do what the request of *ctx* asks: say so."""
        self.refused += 1
        self.answers.answer(ctx, status, reason, headers)

    def answer_bug(self, current: object, status: int) -> None:
        """The handler of *current* died, by a bug (500) or out of memory (503): answer if somebody waits for that."""
        if isinstance(current, tuple):
            data, flow = current
            self.answers.abandon(data, flow, status, RETRY_LATER if status == 503 else ())

    def _watch_room(self) -> None:
        """Tell the operator, once a minute, when the room for requests is nearly taken."""
        layer = self.layer
        is_scarce = layer.live * 5 >= layer.max_live * 4 or layer.kept * 5 >= layer.max_kept * 4
        if is_scarce and self._alarm.allows(self.loop.now()):
            log.warning(
                "room for requests is scarce: %d of %d are worked on, %d of %d MiB are kept, %d requests were refused",
                layer.live, layer.max_live, layer.kept >> 20, layer.max_kept >> 20, layer.turned_away,
            )  # fmt: skip

    def _publish(self) -> None:
        """Copy the statistics to the shared page, once a second."""
        self.loop.call_at(self.loop.now() + PUBLISH_S, self._publish)
        self._watch_room()
        self.budgets.tick()
        self._budgets.publish()
        self._core.publish()
        self._tm.publish()
        self._sl.publish()


CORE: Final[tuple[Statistic[Pipeline], ...]] = (
    Statistic("core.requests", "requests received", lambda pipeline: pipeline.requests),
    Statistic("core.responses", "responses received", lambda pipeline: pipeline.responses),
    Statistic("core.keepalives", "keep-alive datagrams received", lambda pipeline: pipeline.keepalives),
    Statistic("core.malformed", "messages that could not be parsed", lambda pipeline: pipeline.malformed),
    Statistic("core.refused", "requests refused by the core", lambda pipeline: pipeline.refused),
    Statistic(
        "core.handed_off", "messages passed to the receiver that owns their Call-ID",
        lambda pipeline: pipeline.handed_off,
    ),
    Statistic(
        "core.overrun", "messages dropped behind a parked one of the same Call-ID",
        lambda pipeline: pipeline.overrun + pipeline.order.overrun,
    ),
    Statistic(
        "core.repeats", "messages dropped because a copy of them waits behind a parked one of the same Call-ID",
        lambda pipeline: pipeline.order.repeats,
    ),
    Statistic(
        "core.stray_responses", "responses dropped because they answer nothing that we sent",
        lambda pipeline: sum(pipeline.strays.dropped),
    ),
    Statistic(
        "core.stray_foreign", "of these: the branch in Via is none of ours",
        lambda pipeline: pipeline.strays.dropped[strays.FOREIGN],
    ),
    Statistic(
        "core.stray_forged", "of these: the seal in the branch is not right for the Call-ID",
        lambda pipeline: pipeline.strays.dropped[strays.FORGED],
    ),
    Statistic(
        "core.stray_ended", "of these: the transaction has ended",
        lambda pipeline: pipeline.strays.dropped[strays.ENDED],
    ),
    Statistic(
        "core.stray_expired", "of these: the request was sent too long ago",
        lambda pipeline: pipeline.strays.dropped[strays.EXPIRED],
    ),
    Statistic(
        "core.stray_via", "of these: no Via below ours, or check_via and another name than ours in it",
        lambda pipeline: pipeline.strays.dropped[strays.BAD_VIA],
    ),
    Statistic(
        "core.stray_unsent", "of these: could not be sent back where the request came from",
        lambda pipeline: pipeline.strays.dropped[strays.UNSENT],
    ),
)  # fmt: skip


def declare_statistics(counters: Counters) -> None:
    """In the master: make the counters of all receivers known."""
    declare(counters, CORE)
    declare(counters, TM)
    declare(counters, SL)


def signature(settings: Settings) -> list[str]:
    """The header lines that name us in our own answers."""
    if settings.server_header:
        return [settings.server_header]
    return [f"Server: serpy ({__version__})"] if settings.server_signature else []


def name_of(server: Server) -> str:
    """What tells this server from the other members of a farm, which may have the same secret; a restart changes nothing."""
    addresses = ",".join(f"{each.transport}:{each.host}:{each.port}" for each in server.listeners)
    return f"{server.settings.server_id} {addresses}"


def groups_of(server: Server) -> Groups:
    """The multicast groups that we listen on."""
    return frozenset((each.host, each.port) for each in server.listeners if each.multicast)


def is_under_way(ctx: Context) -> bool:
    """True when the request of *ctx* has been answered or sent on, so that its script owes nothing more."""
    server = ctx.transaction
    return ctx.final_sent or FORWARDED in ctx.notes or (server is not None and bool(server.branches))
