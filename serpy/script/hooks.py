"""What a program has besides the message: what the server lends it, its own variables of this process, its log.

Each program has one. The loader and the pipeline of the process that runs the program lend to it; compiled routes call
its methods, which are in their namespace by name. Until somebody lends something, every hook is harmless.

Runs in: made in the master while loading, used in the udp receiver and timer. Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from serpy.context.context import Context
from serpy.errors import ParseError
from serpy.limited_log import LimitedLog
from serpy.script.exports import FALSE, TRUE
from serpy.script.networks import in_network, parse_network
from serpy.script.patterns import PatternsFromData
from serpy.script.posix import BadExpressionError
from serpy.script.runtime import MAX_DEPTH, is_reply
from serpy.script.scalars import Scalar, to_int, to_str
from serpy.sip.classes import is_private
from serpy.sip.flow import Listener

log = logging.getLogger("serpy.script")

FORWARDED: Final = "forwarded"  # a note of the Context: forward() has sent the request on


class Hooks:
    """One program's ties to the process it runs in."""

    def __init__(self) -> None:
        self.forward: Callable[[Context, str, int, str], int] = _no_forward  # (ctx, host, port, transport) -> code
        self.is_myself: Callable[[str, int], bool] = _never_myself
        self.is_my_address: Callable[[str], bool] = _never_my_address
        self.to_is_private: Callable[[Context], bool] = _to_is_private  # to_ip == private
        self.find_listener: Callable[[str, str, int], Listener | None] = _no_listener
        self.cfg_get: Callable[[str, str], int | str] | None = None
        self.server_id: Callable[[], int] = _zero
        self.resolve: Callable[[str], list[str]] = _no_names
        self.tcp_alias: Callable[[Context, int], int] = _no_alias  # force_tcp_alias: (ctx, port or 0) -> code
        self.max_while_loops = 100
        self.vars: Final[dict[str, int | str]] = {}  # $var(name): survives the message
        self.reports: Final = LimitedLog(log)
        self._patterns: Final = PatternsFromData()

    # ---- operands

    def uri_is_myself(self, ctx: Context) -> bool:
        """``uri == myself``; a reply and an unparsable URI are not."""
        if is_reply(ctx):
            return False
        try:
            uri = ctx.uri
        except ParseError:
            return False
        return self.is_myself(uri.host, uri.port)

    def header_uri_is_myself(self, ctx: Context, from_header: bool) -> bool:
        """``from_uri == myself``, ``to_uri == myself``."""
        try:
            address = ctx.message.from_ if from_header else ctx.message.to
            uri = address.uri
        except ParseError:
            return False
        return self.is_myself(uri.host, uri.port)

    def address_equals(self, host: str, value: Scalar) -> bool:
        """``src_ip == $x``: an address, a network or a name; undefined and integers never match."""
        if value is None or isinstance(value, int) or not value:
            return False
        if value == host:
            return True
        try:
            network, mask, size = parse_network(value)
        except ValueError:
            return host in self.resolve(value)
        return in_network(host, network, mask, size)

    def search_dynamic(self, pattern: Scalar, value: Scalar) -> bool:
        """``=~`` with a pattern that is not a constant; a bad one matches nothing."""
        try:
            return bool(self._patterns.get(to_str(pattern)).search(to_str(value)))
        except BadExpressionError as error:
            self.reports.warning("=~", "bad regular expression made by the script: %.120r: %s", to_str(pattern), error)
            return False

    # ---- functions

    def force_tcp_alias(self, ctx: Context, port: int = 0) -> int:
        """Make the connection serve the Via port, too."""
        return TRUE if ctx.flow.transport == "udp" else self.tcp_alias(ctx, port)

    def force_send_socket(self, ctx: Context, transport: str, host: str, port: int) -> int:
        """Send from this listen address of ours."""
        listener = self.find_listener(transport, host, port)
        if listener is None or listener.multicast:
            where = f"{transport or '*'}:{host}:{port}"
            self.reports.error(where, "force_send_socket: %s is no address to send from", where)
            return FALSE
        ctx.send_listener = listener
        return TRUE

    def forward_to(self, ctx: Context, host: Scalar, port: Scalar, transport: str) -> int:
        """Stateless forward; "" means the Request-URI's host."""
        code = self.forward(ctx, to_str(host), to_int(port), transport)
        if code > 0:
            ctx.notes[FORWARDED] = True
        return code

    # ---- what went wrong at run time

    def backend_failed(self, error: BaseException, function: str, file: str, line: int) -> int:
        """A helper (database, DNS …) failed inside a function: the call is false."""
        self.reports.error(f"{file}:{line}", "%s:%d: %s: %s", file, line, function, error)
        return FALSE

    def too_deep(self, file: str, line: int) -> int:
        """A route calls itself for ever: the call is skipped."""
        self.reports.error(f"{file}:{line}", "%s:%d: more than %d nested route calls", file, line, MAX_DEPTH)
        return FALSE

    def too_many_loops(self, file: str, line: int) -> None:
        """A while loop ran ``max_while_loops`` times: it ends."""
        self.reports.error(
            f"{file}:{line}", "%s:%d: while loop ended after %d rounds", file, line, self.max_while_loops
        )  # fmt: skip


def _no_forward(_ctx: Context, host: str, port: int, transport: str) -> int:
    log.error("cannot forward to %s:%s:%d: this process does not send", transport, host, port)
    return FALSE


def _never_myself(_host: str, _port: int) -> bool:
    return False


def _to_is_private(ctx: Context) -> bool:
    return ctx.out_flow is not None and is_private(ctx.out_flow.host)


def _never_my_address(_host: str) -> bool:
    return False


def _no_listener(_transport: str, _host: str, _port: int) -> Listener | None:
    return None


def _zero() -> int:
    return 0


def _no_names(_name: str) -> list[str]:
    return []


def _no_alias(_ctx: Context, _port: int) -> int:
    return TRUE
