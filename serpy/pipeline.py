"""One message from bytes to bytes. START READING HERE.

``receive()``: parse → whose is it → keep the order of its Call-ID → check → match → script → forward. Bad input never
travels past this file: a request that can be answered is answered with the status that says what is wrong, everything
else is counted. It owns no socket: what leaves goes through ``server.send``.

Runs in: udp receiver. Locks: none. RFC: 3261 §8.1.3, §8.2, §16.3, §16.7, §18; 3581; 4320; 5393; 6026.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from serpy import __version__
from serpy.api import FORWARDER, STATELESS_REPLIES, TRANSACTION_LAYER, TRANSACTION_SETTINGS, TRANSACTION_USER
from serpy.context.context import DROPPED, FAILED, ONREPLY, ONSEND, REQUEST, RUNNING, Context
from serpy.errors import BackendError, ProtocolError, ResourceError, TransportError
from serpy.net.handoff import MESSAGE, encode_message
from serpy.net.route import source_address
from serpy.net.steering import owner
from serpy.script.hooks import FORWARDED
from serpy.sip.address import is_address
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.limits import KEEPALIVE_MAX
from serpy.sip.message import Edits, Message, Request, Response
from serpy.sip.parser import is_keepalive, parse_for_reply, parse_message
from serpy.sip.uri import Uri, parse_uri
from serpy.sip.via import Via, parse_via
from serpy.sip.writer import build_forwarded_response
from serpy.transaction import statistics
from serpy.transaction.client import NO_EDITS, ClientTransaction
from serpy.transaction.forward import Forwarder, SendFilter
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.matching import is_stateful_branch, server_key
from serpy.transaction.server import ServerTransaction
from serpy.transaction.settings import TransactionSettings
from serpy.transaction.stateless import StatelessReplies
from serpy.transaction.timers import Timed
from serpy.transaction.upstream import ABSORBED
from serpy.transaction.user import TransactionUser

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.config import Settings

MAX_WAITING: Final = 64  # messages of one Call-ID that may queue behind a parked one; a phone sends a handful
RETRY_AFTER_S: Final = 10
PUBLISH_S: Final = 1.0

# Made when the master imports this file, so all children and their successors sign alike: the ACK to a stateless
# final may reach the successor of the child that sent it.
SECRET: Final = os.urandom(32)


class Waiting:
    """Something that must not overtake a parked handler of the same Call-ID: a message, or a timer."""

    def __init__(self, message: Message | None, flow: Flow | None, timed: Timed | None) -> None:
        self.message: Final = message
        self.flow: Final = flow
        self.timed: Final = timed


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
        self._program.run_onsend(ctx)
        dropped = ctx.state == DROPPED
        ctx.kind, ctx.state = kind, state
        ctx.out_flow, ctx.out_data = None, b""
        return not dropped


class Pipeline:
    """Everything that happens to a message in one receiver."""

    def __init__(self, server: Server) -> None:
        self.server: Final = server
        self.loop: Final = server.loop
        self.send: Final = server.send
        program: Any = server.program
        self.program = program
        cookie = os.urandom(4).hex()
        now = self.loop.now()
        self.replies: Final = StatelessReplies(SECRET, self.send)
        self.forwarder: Final = Forwarder(server.listeners, self.send, cookie)
        self.layer: Final = TransactionLayer(
            server.find(TRANSACTION_SETTINGS) or TransactionSettings(), self.send, cookie, self.replies.tag, now
        )
        self.layer.user = server.find(TRANSACTION_USER) or TransactionUser()
        self.layer.watched_flags = server.hooks.watched_flags
        self.layer.on_answer = server.hooks.on_answer
        self.layer.on_failed = server.hooks.on_failed
        server.provide(STATELESS_REPLIES, self.replies)
        server.provide(FORWARDER, self.forwarder)
        server.provide(TRANSACTION_LAYER, self.layer)
        # Call-ID of the handler that was started last and has not ended: found set, it has parked meanwhile.
        self._running = ""
        self._parked: dict[str, deque[Waiting]] = {}
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
        self.overrun = 0  # more messages than may wait behind a parked one
        self.stray_responses = 0
        self.layer.signature = self.replies.signature = signature(server.settings)
        self.layer.warns = self.replies.warns = os.getpid() if server.settings.sip_warning else 0
        self.layer.reply_to_via = self.replies.reply_to_via = bool(server.settings.reply_to_via)
        if server.settings.mhomed:
            self.forwarder.route = source_address
        self._force_rport = bool(server.settings.force_rport)
        self._check_via = bool(server.settings.check_via)
        self._has_reply_route = False
        self.set_program(program)
        self.loop.set_timer_source(self.next_timer_at, self.on_timer)
        self._counters: list[int] = []  # ids, in the order of statistics.ALL
        self._base: list[int] = []  # what a predecessor in this slot had counted
        if server.counters is not None:
            for name, text in statistics.ALL:
                counter = server.counters.declare(name, text)
                self._counters.append(counter)
                self._base.append(0 if name in statistics.GAUGES else server.counters.own(counter))
            self._publish()

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

    # --- from the socket

    def receive(self, data: bytes, flow: Flow) -> None:
        """Take in one datagram. May park; never raises for what a peer sent."""
        if len(data) < KEEPALIVE_MAX and is_keepalive(data):
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
                self.server.channels.send(mine, MESSAGE, payload)
                return
        self._enter(call_id, message, flow)

    def not_sent(self, data: bytes) -> None:
        """*data*, the beginning of a message of ours, could not be sent: fail its transaction if there is one."""
        request = parse_for_reply(data)
        if request is None or request.method == "CANCEL":
            return  # a response, an ACK, or what is repeated by who needs it
        try:
            self.layer.not_sent(request.via.branch, self.loop.now())
        except ProtocolError:
            self.malformed += 1

    def refuse_bug(self, data: bytes, flow: Flow) -> None:
        """Answer 500 to a request whose handler died of a bug of ours, unless it has been answered."""
        request = parse_for_reply(data)
        if request is None:
            return
        try:
            server = self.layer.servers.get(server_key(request, request.method))
        except ProtocolError:
            return
        if server is not None:
            server.in_relay = False
            self.layer.reply(server, 500, "", self.loop.now())
            return
        self._refuse(request, flow, 500, "", [], self.loop.now())

    # --- order: one handler per Call-ID at a time

    def _enter(self, call_id: str, message: Message, flow: Flow) -> None:
        if self._running:
            self._parked[self._running] = deque()
            self._running = ""
        if self._parked:
            queue = self._parked.get(call_id)
            if queue is not None:
                if len(queue) < MAX_WAITING:
                    queue.append(Waiting(message, flow, None))
                else:
                    self.overrun += 1
                return
        self._running = call_id
        try:
            self._handle(message, flow)
        finally:
            if self._parked:
                self._leave(call_id)
            else:
                self._running = ""

    def _leave(self, call_id: str) -> None:
        """The handler of *call_id* has ended: do what has queued behind it, if it parked at all."""
        if self._running == call_id:
            self._running = ""
        queue = self._parked.get(call_id)
        if queue is None:
            return
        try:
            while queue:
                waiting = queue.popleft()
                if waiting.timed is not None:
                    self.layer.fire(waiting.timed, self.loop.now())
                elif waiting.message is not None and waiting.flow is not None:
                    self._handle(waiting.message, waiting.flow)
        finally:
            del self._parked[call_id]

    def next_timer_at(self) -> float:
        """When ``on_timer`` is wanted next; far in the future when nothing waits."""
        return self.layer.next_timer_at()

    def on_timer(self, now: float) -> None:
        """Run the transaction timers that are due, each in the order of its Call-ID. May park."""
        layer = self.layer
        layer.wall_now = self.loop.wall_now()
        layer.wheel.advance(now)
        due = layer.wheel.due
        while due:
            timed = due.popleft()
            call_id = call_id_of(timed)
            if self._running:
                self._parked[self._running] = deque()
                self._running = ""
            queue = self._parked.get(call_id)
            if queue is not None:
                queue.append(Waiting(None, None, timed))
                continue
            self._running = call_id
            try:
                layer.fire(timed, now)
            finally:
                self._leave(call_id)

    # --- one message

    def _handle(self, message: Message, flow: Flow) -> None:
        now = self.loop.now()
        wall_now = self.loop.wall_now()
        self.layer.wall_now = wall_now
        if isinstance(message, Request):
            self.requests += 1
            self._request(message, flow, now, wall_now)
        elif isinstance(message, Response):
            self.responses += 1
            self._response(message, flow, now, wall_now)

    def _request(self, request: Request, flow: Flow, now: float, wall_now: float) -> None:
        try:
            request.check_mandatory()
            if self.layer.match_request(request, now) == ABSORBED:
                return
            check_request(request)
        except ProtocolError as exc:
            self._refuse(request, flow, exc.status, exc.reason, refusal_headers(request, exc), now)
            return
        if request.method == "ACK" and self.replies.absorbs(request, now):
            return
        ctx = Context(request, flow, now, wall_now, REQUEST)
        if self._force_rport:
            ctx.reply_to_source = True
        try:
            self._run_script(ctx)
            if ctx.state == FAILED and not is_under_way(ctx):
                self._answer_failure(ctx, 500, "", [])
        except ProtocolError as exc:
            self._answer_failure(ctx, exc.status, exc.reason, [])
        except ResourceError:
            self._answer_failure(ctx, 503, "", [f"Retry-After: {RETRY_AFTER_S}"])
        server = ctx.transaction
        if server is not None:
            assert isinstance(server, ServerTransaction)
            self.layer.script_ended(server, now)

    def _run_script(self, ctx: Context) -> None:
        hooks = self.server.hooks
        for before in hooks.pre_script:
            if not before(ctx):
                return
        self.program.run(ctx, REQUEST, "")
        for after in hooks.post_script:
            after(ctx)

    def _response(self, response: Response, flow: Flow, now: float, wall_now: float) -> None:
        try:
            response.check_mandatory()
            for prefix, take in self.server.hooks.own_replies:
                if response.via.branch.startswith(prefix):
                    take(response)
                    return
            ctx: Context | None = None
            if self._has_reply_route or self.server.hooks.pre_reply:
                ctx = Context(response, flow, now, wall_now, ONREPLY)
                ctx.status = response.status
                for hook in self.server.hooks.pre_reply:
                    if not hook(ctx):
                        return
                if self._has_reply_route:
                    self.program.run(ctx, ONREPLY, "")
                    if ctx.state == DROPPED:
                        return
                    ctx.state = RUNNING
            branch = self.layer.find_branch(response)
            if branch is not None:
                self.layer.receive_response(branch, response, flow, ctx, now)
            else:
                self._forward_response(response, flow, ctx.edits if ctx is not None else NO_EDITS)
        except ProtocolError:
            self.malformed += 1
        except ResourceError:
            self.overrun += 1

    def _forward_response(self, response: Response, flow: Flow, edits: Edits) -> None:
        """Pass on a response without a transaction by the Via below ours (RFC 3261 §16.7 step 3, §18.2.2).

        A late answer to one of our own transactions ends here, except a 2xx to INVITE, which the caller must
        acknowledge (RFC 4320 §4.2, RFC 6026 §8.7).
        """
        via = response.via
        if is_stateful_branch(via.branch, self.forwarder.cookie) and not (
            response.method == "INVITE" and 200 <= response.status < 300
        ):
            self.stray_responses += 1
            return
        if self._check_via and not self.server.is_myself(via.host, via.port):
            self.stray_responses += 1
            return
        values = response.values("via")
        if len(values) < 2:
            self.stray_responses += 1  # for ourselves, and we ask nothing of anybody
            return
        target = self._response_flow(parse_via(values[1]), flow)
        if target is None:
            self.stray_responses += 1
            return
        try:
            self.send(Outgoing(build_forwarded_response(response, edits), target))
        except TransportError:
            self.stray_responses += 1

    def _response_flow(self, via: Via, flow: Flow) -> Flow | None:
        """Where *via* wants its responses, None when that cannot be found out."""
        transport = via.transport.lower()
        maddr = via.param("maddr")
        host = maddr or via.received or via.address
        port = via.port or 5060
        if via.rport > 0 and not maddr and transport == "udp":
            port = via.rport
        host = host.strip("[]")
        try:
            if is_address(host):
                found = self.forwarder.flow_to(transport, host, port, flow.listener)
                if transport == "udp" or maddr:
                    return found
                return Flow(found.listener, host, port, via.connection)  # back by the connection it came on
            resolve = self.forwarder.resolve
            if resolve is None:
                return None
            for name, address, number in resolve(parse_uri(f"sip:{host}:{port};transport={transport}")):
                return self.forwarder.flow_to(name, address, number, flow.listener)
        except (TransportError, BackendError, ProtocolError):
            return None
        return None

    def script_forward(self, ctx: Context, host: str, port: int, transport: str) -> int:
        """``forward()`` and ``forward_udp()``: 1, or a negative core error. *host* "" = where the request is bound."""
        next_hop = ""
        if host:
            name = f"[{host}]" if ":" in host and host[0] != "[" else host
            next_hop = f"sip:{name}:{port};transport={transport}" if port else f"sip:{name};transport={transport}"
        return 1 if self.forwarder.forward(ctx, next_hop) else ctx.last_error

    def _publish(self) -> None:
        """Copy the statistics to the shared page, once a second."""
        layer, replies = self.layer, self.replies
        values = [
            self.requests, self.responses, self.keepalives, self.malformed, self.refused, self.handed_off,
            self.overrun, self.stray_responses,
            layer.created, len(layer.servers), layer.local_replies, layer.relayed_replies, layer.retransmissions,
            layer.absorbed, layer.timeouts, *layer.finals[2:7],
            replies.sent, replies.failed, replies.acks, *replies.by_class[1:7],
        ]  # fmt: skip
        counters = self.server.counters
        for at, value in enumerate(values):
            counters.set(self._counters[at], self._base[at] + value)
        self.loop.call_at(self.loop.now() + PUBLISH_S, self._publish)

    def run_route(self, name: str, ctx: Context) -> int:
        """Run ``route[name]`` for *ctx*, a synthetic request of a timer or another event."""
        result: int = self.program.run(ctx, REQUEST, name)
        return result

    # --- refusals

    def _refuse_unparsed(self, data: bytes, flow: Flow, exc: ProtocolError) -> None:
        """Answer what ``parse_message`` refused, when enough of it can be read; never a response, never an ACK."""
        self.malformed += 1
        request = parse_for_reply(data)
        if request is not None:
            self._refuse(request, flow, exc.status, exc.reason, [], self.loop.now())

    def _refuse(
        self, request: Request, flow: Flow, status: int, reason: str, headers: list[str], now: float
    ) -> None:  # fmt: skip
        if request.method == "ACK" or "via" not in request.names or "cseq" not in request.names:
            self.malformed += 1  # never answered, or nobody would know what it answers
            return
        self.replies.answer(request, flow, status, reason, headers, b"", to_source=self._force_rport, now=now)
        self.refused += 1

    def _answer_failure(self, ctx: Context, status: int, reason: str, headers: list[str]) -> None:
        """A handler gave up on the request of *ctx*: say so, through its transaction when there is one."""
        self.refused += 1
        request = ctx.request
        server = ctx.transaction
        if isinstance(server, ServerTransaction):
            server.in_relay = False
            self.layer.reply(server, status, reason, ctx.now, headers)
        elif request is not None and request.method != "ACK":
            self.replies.reply(ctx, status, reason, headers)


def signature(settings: Settings) -> list[str]:
    """The header lines that name us in our own answers."""
    if settings.server_header:
        return [settings.server_header]
    return [f"Server: serpy ({__version__})"] if settings.server_signature else []


def is_under_way(ctx: Context) -> bool:
    """True when the request of *ctx* has been answered or sent on, so that its script owes nothing more."""
    server = ctx.transaction
    if ctx.final_sent or FORWARDED in ctx.notes:
        return True
    return isinstance(server, ServerTransaction) and bool(server.branches)


def call_id_of(timed: Timed) -> str:
    """The Call-ID of the transaction *timed* belongs to."""
    if isinstance(timed, ServerTransaction):
        return timed.call_id
    if isinstance(timed, ClientTransaction):
        return timed.server.call_id
    return ""


def check_request(request: Request) -> None:
    """RFC 3261 §16.3 items 1, 2 and 5, which every proxy owes a new request. Raises ProtocolError."""
    uri: Uri = parse_uri(request.request_uri)
    if not uri.is_sip and uri.scheme != "tel":
        raise ProtocolError(f"scheme {uri.scheme!r:.40}", status=416)
    if request.find("proxy-require") >= 0 and request.method not in {"ACK", "CANCEL"}:
        raise ProtocolError("Proxy-Require", status=420)


def refusal_headers(request: Request, exc: ProtocolError) -> list[str]:
    """The headers the answer to *exc* must carry (§8.2.2.3)."""
    if exc.status != 420:
        return []
    return [f"Unsupported: {value}" for value in request.get_all("proxy-require")]
