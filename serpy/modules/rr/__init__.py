"""Record routing: stay in the path of a dialog, and follow the Route set of its requests.

``record_route()`` only notes that a Record-Route is wanted: the lines are rendered for each branch at send time, when
the outgoing address is known, twice (``r2=on``) when it differs from the incoming one. Flagged attributes travel in
the ``avp`` parameter, see ``cookie``; ``loose_route()`` brings them back, see ``loose``. It does so, and follows the Route
set, only for requests that belong to the dialog: see ``rule`` and the memory of calls in ``dialogs``.

Without ``cookie_secret`` the secret is read from ``cookie_secret_file`` (default ``rr.secret`` in the run directory),
which is written with random bytes when missing, so that dialogs survive a restart. Members of a farm need the same one.

Runs in: udp receiver; init in the master. Locks: none. RFC: 3261 §16.4, §16.6, §16.12; 5658 for the double form.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from serpy.api import (
    CALLS,
    DIALOG_WATCHER,
    FALSE,
    REPLIES,
    STOP,
    TRUE,
    Arg,
    AvpName,
    ConfigError,
    Context,
    Exports,
    Function,
    ParseError,
    Routes,
    Rpc,
    Select,
    Server,
)
from serpy.context.avps import parse_avp_name
from serpy.modules.rr.cookie import DialogCookies, mac_key
from serpy.modules.rr.dialogs import KINDS, Dialogs
from serpy.modules.rr.loose import LooseRouter
from serpy.modules.rr.memory import ELSEWHERE as COUNT_ELSEWHERE
from serpy.modules.rr.memory import LIMITED, NO_DIALOG, REFUSED, STRAY_ACKS, CallMemory
from serpy.modules.rr.parameters import FEWEST_CALLS, MAX_CALLS, params
from serpy.modules.rr.rpc import CallsRpc
from serpy.modules.rr.rule import ELSEWHERE
from serpy.modules.rr.secret import secret_of
from serpy.modules.rr.state import NAME, RecordRoute, RouteState, state_of
from serpy.script.patterns import Pattern, compile_pattern
from serpy.script.posix import BadExpressionError
from serpy.sip.contact import kept_on_stream
from serpy.sip.message import Request

log = logging.getLogger(__name__)

MAX_LIMITS: Final = 2  # that one call may count for
IN_DIALOG: Final = (
    "BYE",
    "PRACK",
    "UPDATE",
)  # without a To tag they mean nothing (RFC 3261 §15.1.1, 3262 §3, 3311 §5.1)


class RecordRouting:
    """The module: parameters, and the script functions around a LooseRouter."""

    def __init__(self) -> None:
        self.append_fromtag = 1
        self.enable_double_rr = 1
        self.enable_full_lr = 0
        self.add_username = 0
        self.cookie_filter = ""
        self.cookie_secret = ""
        self.cookie_secret_file = ""
        self.user_part_avp = ""
        self.next_route_avp = ""
        self.force_send_socket = 1
        self.dialogs = 1
        self.max_calls = MAX_CALLS
        self.source_check = 1
        self.stray_ack = "drop"
        self.gateway_avp = "$g.gw_ip"
        self.calls: Dialogs | None = None
        self.rpc = CallsRpc()
        self.router = LooseRouter()
        self._server: Server | None = None
        self._bound = False
        self._user_part: AvpName | None = None

    def init(self, server: Server) -> None:
        """Check and compile the parameters; called in the master. Raises ConfigError."""
        self._server = server
        router = self.router
        router.force_send_socket = self.force_send_socket != 0
        accepted: Pattern | None = None
        if self.cookie_filter:
            try:
                accepted = compile_pattern(self.cookie_filter)
            except BadExpressionError as exc:
                raise ConfigError(f"rr: cookie_filter is not a regular expression: {exc}") from exc
        secret = mac_key(secret_of(self.cookie_secret, self.cookie_secret_file, server.run_dir))
        router.cookies = DialogCookies(secret, accepted)
        if self.dialogs:
            self._remember_calls(server, secret)
        router.next_route_avp = _attribute(self.next_route_avp)
        self._user_part = _attribute(self.user_part_avp)

    def _remember_calls(self, server: Server, secret: bytes) -> None:
        settings = server.settings
        slabs = settings.children if getattr(settings, "fork", 0) else 1
        memory = CallMemory(secret)
        memory.is_mine = self.router.is_mine
        dialogs = Dialogs(self.router.cookies, memory, _attribute(self.gateway_avp))
        dialogs.checks_source = self.source_check != 0
        memory.open(server, slabs, max(self.max_calls // slabs, FEWEST_CALLS))
        self.calls = self.router.dialogs = dialogs
        self.rpc.file = memory.file
        server.provide(DIALOG_WATCHER, dialogs)
        server.provide(CALLS, memory)
        server.hooks.pre_script.append(self.before)

    def start(self, server: Server) -> None:
        """In a receiver: take over its part of the memory of calls."""
        if self.calls is not None and server.role == "udp receiver":
            self._bind()
            self.calls.attach(server.child)

    # before the script

    def before(self, ctx: Context) -> bool:
        """False for what can only come in a dialog and comes in none: an ACK is dropped, the others are told; and for what
        begins one and does not say where its sender is (RFC 3261 §8.1.1.8). Phones before that RFC have no From tag.
        """
        request = ctx.request
        calls = self.calls
        if request is None or calls is None:
            return True
        method = request.method
        if method == "ACK":
            if self.stray_ack != "drop" or self._belongs(ctx, request):
                return True
            calls.memory.count(STRAY_ACKS)
            return False
        if method in IN_DIALOG and not request.to_tag and self._tells(ctx, 481, ""):
            calls.memory.count(NO_DIALOG)
            return False
        if method in KINDS and request.find("contact") < 0 and request.from_tag and not request.to_tag:
            return not self._tells(ctx, 400, "No Contact")
        return True

    def _tells(self, ctx: Context, status: int, reason: str) -> bool:
        """True when there is somebody to answer the request of *ctx*, and has."""
        replies = self._server.find(REPLIES) if self._server is not None else None
        if replies is None:
            return False
        replies.reply(ctx, status, reason)
        return True

    def _belongs(self, ctx: Context, request: Request) -> bool:
        if not self._bound:
            self._bind()
        if not request.to_tag:
            return False
        state = state_of(ctx)
        try:
            plan = self.router.plan(ctx, request, state)
            return plan is not None and self.router.verdict(ctx, request, state, plan) > 0
        except ParseError:
            return False

    # script functions

    def loose_route(self, ctx: Context) -> int:
        """True when the Route set says where this request goes; STRANGE, ELSEWHERE when it does not belong to its dialog."""
        if not self._bound:
            self._bind()
        found = self.router.route(ctx)
        calls = self.calls
        if ctx.flow.connection:
            self._keep_on_stream(ctx)
        if found < FALSE and calls is not None:
            calls.memory.count(COUNT_ELSEWHERE if found == ELSEWHERE else REFUSED)
            if ctx.message.cseq.method == "ACK" and self.stray_ack == "drop":
                return STOP  # never answered, and never what a script should work on
        return found

    def _keep_on_stream(self, ctx: Context) -> None:
        """A phone that was reached by the connection of this request stays there, though its Contact does not say so."""
        edits = kept_on_stream(ctx.message, ctx.edits, ctx.flow)
        if edits is ctx.edits and self.calls is not None and ctx.dialog:
            other = kept_on_stream(ctx.message, edits, ctx.flow, any_port=True)
            if other is not edits and self.calls.knows_target(ctx, other):
                edits = other
        ctx.edits = edits

    def _bind(self) -> None:
        # Not in init(): the modules loaded after us provide their services only then.
        if self._server is not None:
            self.router.bind(self._server)
            self._bound = True

    def record_route(self, ctx: Context, parameters: str = "") -> int:
        """Put a Record-Route on every branch. False when the message has one already."""
        state = state_of(ctx)
        if state.record is not None:
            return FALSE
        if ctx.flow.connection and ctx.request is not None:
            ctx.edits = kept_on_stream(ctx.message, ctx.edits, ctx.flow)
        record = RecordRoute(self._head(ctx), "", double=self.enable_double_rr != 0)
        record.tail = self._tail(ctx, record, state)
        record.extra = state.extra + _parameters(parameters)
        self._add(ctx, state, record)
        return TRUE

    def record_route_preset(self, ctx: Context, address: str, second: str = "") -> int:
        """Record-Route with *address* (``host:port;params``) instead of our own; *second* goes below it."""
        state = state_of(ctx)
        if state.record is not None:
            return FALSE
        end = ";lr=on" if self.enable_full_lr else ";lr"
        if ctx.flow.connection and ctx.request is not None:
            ctx.edits = kept_on_stream(ctx.message, ctx.edits, ctx.flow)
        head = self._head(ctx)
        record = state.record = RecordRoute(head, "", double=False)
        parameters = self._from_tag(ctx) + (
            self._cookie_parameter(ctx, record, state) if self.calls is not None else ""
        )
        record.preset = _preset(address, parameters, end)
        ctx.per_branch_headers.append(record.render)
        if second:
            below = RecordRoute(head, "", double=False, preset=_preset(second, parameters, end))
            ctx.per_branch_headers.append(below.render)
        return TRUE

    def remove_record_route(self, ctx: Context) -> int:
        """Take back record_route(). False when there was none."""
        state = state_of(ctx)
        if state.record is None:
            return FALSE
        state.record = None
        ctx.per_branch_headers = [render for render in ctx.per_branch_headers if not _is_ours(render)]
        return TRUE

    def add_rr_param(self, ctx: Context, text: str) -> int:
        """Put ``;name=value`` into our Record-Route, before or after record_route() was called."""
        state = state_of(ctx)
        added = _parameters(text)
        if state.record is not None:
            state.record.extra += added
        else:
            state.extra += added
        return TRUE

    def check_route_param(self, ctx: Context, expression: Pattern) -> int:
        """True when the parameters of our own Route, as it came back, match *expression*."""
        own = state_of(ctx).own_route
        if own is None:
            return FALSE
        text = own.text
        return TRUE if expression.search(text[text.find(";") + 1 :] if ";" in text else "") else FALSE

    # building

    def _add(self, ctx: Context, state: RouteState, record: RecordRoute) -> None:
        state.record = record
        ctx.per_branch_headers.append(record.render)

    def _head(self, ctx: Context) -> str:
        # RFC 3261 §16.6 item 4: a SIPS request needs a SIPS Record-Route.
        head = "<sips:" if ctx.request_uri[:5].lower() == "sips:" else "<sip:"
        user = ""
        if self._user_part is not None:
            value = ctx.avps.newest_of(self._user_part)
            user = "" if value is None else str(value)
        elif self.add_username:
            try:
                user = ctx.uri.user
            except ParseError:
                user = ""
        return f"{head}{user}@" if user else head

    def _from_tag(self, ctx: Context) -> str:
        if not self.append_fromtag:
            return ""
        try:
            tag = ctx.message.from_tag
        except ParseError:
            return ""
        return f";ftag={tag}" if tag else ""

    def _tail(self, ctx: Context, record: RecordRoute, state: RouteState) -> str:
        tail = self._from_tag(ctx) + self._cookie_parameter(ctx, record, state)
        return tail + (";lr=on" if self.enable_full_lr else ";lr")

    def _cookie_parameter(self, ctx: Context, record: RecordRoute, state: RouteState) -> str:
        """``;avp=`` and the cookie, "" when there is none; *record* learns what dialog it may begin."""
        calls = self.calls
        request = ctx.request
        if calls is None:
            text = self.cookie(ctx)
        elif request is None:
            return ""
        elif request.to_tag:
            # Route sets never change (RFC 3261 §12.2): the same again, if it was right.
            own = state.own_route
            text = (own.cookie or "") if own is not None and state.cookie is not None else ""
        else:
            begins = calls.begins(ctx, ctx.avps, request)
            if begins is None:
                return ""
            text = begins.text
            record.dialogs = calls
            record.begins = begins
            record.limits = state.limits
        return f";avp={text}" if text else ""

    def cookie(self, ctx: Context) -> str:
        """The cookie of the attributes flagged now, "" when there is none."""
        if not ctx.avps:
            return ""
        return self.router.cookies.make(ctx.avps, ctx.message.call_id)

    def keep_dialog_targets(self, ctx: Context) -> int:
        """Of the targets that were looked up in a dialog only those where the phone is that takes part; False: there is none
        of that kind, and all stay.
        """
        calls = self.calls
        if calls is None:
            return FALSE
        kept = [target for target in ctx.targets() if calls.has_used(ctx, target)]
        if not kept:
            return FALSE
        first = kept[0]
        ctx.request_uri = first.request_uri
        ctx.dst_uri = first.dst_uri
        ctx.send_listener = first.listener or ctx.send_listener
        ctx.branches = kept[1:]
        return TRUE

    def call_limit(self, ctx: Context, kind: str, key: str, most: str | int | None) -> int:
        """True when fewer than *most* calls count for *key*, and this one will until it ends. Always true in a dialog."""
        calls = self.calls
        request = ctx.request
        if calls is None or request is None or request.method != "INVITE" or request.to_tag:
            return TRUE
        number = calls.prints.of(f"{kind}\n{key}")
        state = state_of(ctx)
        limits = state.limits
        if limits is None:
            limits = state.limits = []
            if state.record is not None:
                state.record.limits = limits
        if number in limits or len(limits) >= MAX_LIMITS:
            return TRUE
        limit = _limit(most)
        if limit < 0:
            log.debug("call_limit: %.120r is no number, so there is no limit", most)
            return TRUE
        if calls.memory.counts(number, limit, ctx.wall_now):
            limits.append(number)
            return TRUE
        calls.memory.count(LIMITED)
        return FALSE

    # selects

    def resolve_cookie(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@rr.dialog_cookie``."""
        _no_more(parts)
        return self._read_cookie

    def _read_cookie(self, ctx: Context) -> str | None:
        return self.cookie(ctx) or None

    def resolve_next(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@rr.next_route``."""
        _no_more(parts)
        return _read_next


def _read_next(ctx: Context) -> str | None:
    state = ctx.notes.get(NAME)
    if isinstance(state, RouteState) and state.processed:
        return state.next_route
    message = ctx.message
    if not isinstance(message, Request) or not message.has("route"):
        return None
    return message.routes[0].uri_text


def _no_more(parts: tuple[str | int, ...]) -> None:
    if parts:
        raise ValueError(f"nothing below this select: {parts[0]!r}")


def _is_ours(render: object) -> bool:
    return isinstance(getattr(render, "__self__", None), RecordRoute)


def _limit(most: str | int | None) -> int:
    """The number *most*, -1 for none."""
    text = str(most)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _parameters(text: str) -> str:
    """*text* as URI parameters with a leading semicolon."""
    if not text or text.startswith(";"):
        return text
    return f";{text}"


def _preset(address: str, from_tag: str, end: str) -> str:
    has_lr = any(part == "lr" or part.startswith("lr=") for part in address.split(";")[1:])
    return f"{address}{from_tag}" if has_lr else f"{address}{from_tag}{end}"


def _attribute(text: str) -> AvpName | None:
    if not text:
        return None
    try:
        return parse_avp_name(text)
    except ValueError as exc:
        raise ConfigError(f"rr: {exc}") from exc


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = RecordRouting()
    rpc = module.rpc
    main = Routes.REQUEST | Routes.FAILURE
    return Exports(
        NAME,
        module,
        functions=(
            Function(
                "loose_route", module.loose_route, summary="follow the Route set; true when it decides the next hop"
            ),
            Function(
                "record_route",
                module.record_route,
                (Arg.FORMAT,),
                optional=1,
                routes=main,
                summary="stay in the path of this dialog, with these extra URI parameters",
            ),
            Function(
                "record_route_preset",
                module.record_route_preset,
                (Arg.FORMAT, Arg.FORMAT),
                optional=1,
                routes=main,
                summary="record_route() with a given host:port;params, and a second one below it",
            ),
            Function(
                "remove_record_route", module.remove_record_route, routes=main, summary="take record_route() back"
            ),
            Function(
                "add_rr_param",
                module.add_rr_param,
                (Arg.FORMAT,),
                routes=main,
                summary="put ;name=value into our Record-Route",
            ),
            Function(
                "check_route_param",
                module.check_route_param,
                (Arg.REGEX,),
                routes=main,
                summary="true when the parameters of our own Route match",
            ),
            Function(
                "keep_dialog_targets",
                module.keep_dialog_targets,
                summary="of the contacts looked up in a dialog keep those of the phone that takes part",
            ),
            Function(
                "call_limit",
                module.call_limit,
                (Arg.STR, Arg.FORMAT, Arg.VALUE),
                summary='true when fewer calls than this count for a key of this kind: call_limit("user", "%$fu.uid", 3)',
            ),
        ),
        rpc=(Rpc("calls.list", rpc.list_calls), Rpc("calls.show", rpc.show)),
        params=params(),
        selects=(
            Select("rr.dialog_cookie", module.resolve_cookie, "the cookie of the attributes flagged dialog_cookie"),
            Select("rr.next_route", module.resolve_next, "the next Route URI once ours is removed"),
        ),
        init=module.init,
        child_init=module.start,
    )
