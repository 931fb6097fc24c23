"""Record routing: stay in the path of a dialog, and follow the Route set of its requests.

``record_route()`` only notes that a Record-Route is wanted: the lines are rendered for each branch at send time, when
the outgoing address is known, twice (``r2=on``) when it differs from the incoming one. Flagged attributes travel in
the ``avp`` parameter, see ``cookie``; ``loose_route()`` brings them back, see ``loose``.

Without ``cookie_secret`` the secret is read from ``cookie_secret_file`` (default ``rr.secret`` in the run directory),
which is written with random bytes when missing, so that dialogs survive a restart. Members of a farm need the same one.

Runs in: udp receiver; init in the master. Locks: none. RFC: 3261 §16.4, §16.6, §16.12; 5658 for the double form.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serpy.api import (
    FALSE,
    TRUE,
    Arg,
    AvpName,
    ConfigError,
    Context,
    Exports,
    Function,
    Param,
    ParseError,
    Routes,
    Select,
    Server,
)
from serpy.context.avps import parse_avp_name
from serpy.modules.rr.cookie import DialogCookies, mac_key
from serpy.modules.rr.loose import LooseRouter
from serpy.modules.rr.state import NAME, RecordRoute, RouteState, state_of
from serpy.script.patterns import Pattern, compile_pattern
from serpy.script.posix import BadExpressionError
from serpy.sip.message import Request

log = logging.getLogger(__name__)

_SECRET_SIZE: Final = 32


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
        router.cookies = DialogCookies(mac_key(self._secret(server.run_dir)), accepted)
        router.next_route_avp = _attribute(self.next_route_avp)
        self._user_part = _attribute(self.user_part_avp)

    def _secret(self, run_dir: str) -> bytes:
        """The key of the cookies: given, kept in a file, or (nowhere to keep it) new at each start."""
        if self.cookie_secret:
            return self.cookie_secret.encode("utf-8", "surrogateescape")
        path = self.cookie_secret_file or (str(Path(run_dir) / "rr.secret") if run_dir else "")
        if not path:
            return secrets.token_bytes(_SECRET_SIZE)
        try:
            return _read_or_create(path)
        except OSError as exc:
            if self.cookie_secret_file:
                raise ConfigError(f"rr: cookie_secret_file {path}: {exc.strerror}") from exc
            log.warning("rr: cannot keep a secret in %s (%s): dialog cookies end with this process", path, exc.strerror)
            return secrets.token_bytes(_SECRET_SIZE)

    # script functions

    def loose_route(self, ctx: Context) -> int:
        """True when the Route set says where this request goes."""
        if not self._bound:
            self._bind()
        return self.router.route(ctx)

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
        tail = self._tail(ctx)
        record = RecordRoute(self._head(ctx), tail, double=self.enable_double_rr != 0)
        record.extra = state.extra + _parameters(parameters)
        self._add(ctx, state, record)
        return TRUE

    def record_route_preset(self, ctx: Context, address: str, second: str = "") -> int:
        """Record-Route with *address* (``host:port;params``) instead of our own; *second* goes below it."""
        state = state_of(ctx)
        if state.record is not None:
            return FALSE
        end = ";lr=on" if self.enable_full_lr else ";lr"
        head = self._head(ctx)
        state.record = RecordRoute(head, "", double=False, preset=_preset(address, self._from_tag(ctx), end))
        ctx.per_branch_headers.append(state.record.render)
        if second:
            below = RecordRoute(head, "", double=False, preset=_preset(second, self._from_tag(ctx), end))
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
        text = str(own)
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

    def _tail(self, ctx: Context) -> str:
        tail = self._from_tag(ctx)
        cookie = self.cookie(ctx)
        if cookie:
            tail += f";avp={cookie}"
        return tail + (";lr=on" if self.enable_full_lr else ";lr")

    def cookie(self, ctx: Context) -> str:
        """The cookie of the attributes flagged now, "" when there is none."""
        if not ctx.avps:
            return ""
        return self.router.cookies.make(ctx.avps, ctx.message.call_id)

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


def _read_or_create(path: str) -> bytes:
    """The bytes of *path*; random ones are written first when it does not exist."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = Path(path).read_bytes()[:4096].strip(b" \t\r\n")
        if not found:
            raise OSError(0, "the file is empty", path) from None
        return found
    with os.fdopen(handle, "wb") as file:
        text = secrets.token_hex(_SECRET_SIZE).encode("ascii")
        file.write(text + b"\n")
    return text


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = RecordRouting()
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
        ),
        params=_params(),
        selects=(
            Select("rr.dialog_cookie", module.resolve_cookie, "the cookie of the attributes flagged dialog_cookie"),
            Select("rr.next_route", module.resolve_next, "the next Route URI once ours is removed"),
        ),
        init=module.init,
    )


def _params() -> tuple[Param, ...]:
    return (
        Param("append_fromtag", "int", 1, "put the From tag into Record-Route as ftag", attribute="append_fromtag"),
        Param(
            "enable_double_rr",
            "int",
            1,
            "two Record-Routes when the request leaves by another address than it came in by",
            attribute="enable_double_rr",
        ),
        Param("enable_full_lr", "int", 0, "write lr=on instead of lr", attribute="enable_full_lr"),
        Param("add_username", "int", 0, "put the user of the Request-URI into Record-Route", attribute="add_username"),
        Param(
            "cookie_filter",
            "str",
            "",
            "regular expression: attributes with other names are not taken out of a cookie",
            attribute="cookie_filter",
        ),
        Param(
            "cookie_secret",
            "str",
            "",
            "key of the cookies, the same on all members of a farm; empty: see cookie_secret_file",
            attribute="cookie_secret",
        ),
        Param(
            "cookie_secret_file",
            "str",
            "",
            "file with the key, made when missing; empty: rr.secret in the run directory",
            attribute="cookie_secret_file",
        ),
        Param("user_part_avp", "avp", "", "attribute with the user part of Record-Route", attribute="user_part_avp"),
        Param("next_route_avp", "avp", "", "attribute that gets the next Route URI", attribute="next_route_avp"),
        Param(
            "force_send_socket",
            "int",
            1,
            "leave by the address in the second half of a double Record-Route",
            attribute="force_send_socket",
        ),
    )
