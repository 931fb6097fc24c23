"""XML-RPC on the SIP ports: an HTTP request that comes over TCP is shown to the script, which may let it call an RPC.

Nothing is served unless the script calls ``dispatch_rpc()``; what the script leaves unanswered is refused with 403. The
script sees a request with method ``POST`` or ``GET``, the HTTP headers, and a Via of our making. The call itself runs in
ctl, as over its own socket, and the answer goes from there to the connection: no receiver waits for it.

Runs in: udp receiver; init in the master. Locks: none. RFC: 9110, 9112 (what of HTTP is needed).
"""

from __future__ import annotations

import itertools
import logging
import os
from typing import Final

from serpy.api import (
    FALSE,
    TRUE,
    Arg,
    ConfigError,
    Context,
    Exports,
    Flow,
    Function,
    Outgoing,
    Param,
    ParseError,
    ProtocolError,
    ResourceError,
    Routes,
    Server,
    TransportError,
)
from serpy.context.context import REQUEST
from serpy.context.hooks import call_all
from serpy.net.handoff import HTTP_RPC, Layout
from serpy.rpc.http import encode_call
from serpy.rpc.xmlrpc import build_fault, http_response
from serpy.script.patterns import Pattern, compile_pattern
from serpy.script.posix import BadExpressionError
from serpy.sip.address import bracketed
from serpy.sip.flow import AS_IS, CLOSE
from serpy.sip.limits import HEADERS_MAX
from serpy.sip.message import Request
from serpy.sip.parser import canonical_name
from serpy.sip.text import reason_text

log = logging.getLogger(__name__)

NAME: Final = "xmlrpc"
XML_TYPES: Final = ("text/xml", "application/xml")
DROPPED_HEADERS: Final = frozenset({"via"})  # HTTP has one, too; it means something else


class XmlRpc:
    """The module's parameters and functions."""

    def __init__(self) -> None:
        self.route = ""
        self.autoconversion = 0
        self.escape_cr = 1
        self.mode = 0
        self.url_match = ""
        self.url_skip = ""
        self._match: Pattern | None = None
        self._skip: Pattern | None = None
        self._server: Server
        self._numbers: Final = itertools.count(1)

    def init(self, server: Server) -> None:
        """Check the route and the patterns, and ask for the HTTP requests."""
        self._server = server
        if self.route in ("0", "main"):
            self.route = ""
        program = server.program
        if self.route and program is not None and not program.has_route(REQUEST, self.route):  # type: ignore[attr-defined]  # the compiled script has no type down here
            raise ConfigError(f"there is no route[{self.route}]", hint='name one with modparam("xmlrpc", "route", …)')
        self._match = _pattern("url_match", self.url_match)
        self._skip = _pattern("url_skip", self.url_skip)
        if self.mode == 0:
            server.hooks.on_http.append(self.on_http)
        if not any(listener.transport == "tcp" for listener in server.listeners):
            log.warning("xmlrpc: there is no TCP address to listen on, so no request will come")

    # --- from the connection

    def on_http(self, data: bytes, flow: Flow) -> bool:
        """Run the route for the HTTP request *data*; False when its URL is not ours."""
        try:
            request = parse_http(data, flow, f"{os.getpid():x}.{next(self._numbers)}")
        except ProtocolError as exc:
            log.debug("HTTP request from %r: %s", flow, exc)
            self._send(_with(flow, CLOSE), 400, "Bad Request")
            return True
        url = request.request_uri
        if self._skip is not None and self._skip.search(url):
            return False
        if self._match is not None and not self._match.search(url):
            return False
        if wants_close(request):
            flow = _with(flow, CLOSE)
        server = self._server
        ctx = Context(request, flow, server.loop)
        ctx.notes[NAME] = True
        self._run(ctx)
        return True

    def _run(self, ctx: Context) -> None:
        server = self._server
        status, reason = 500, "Internal Server Error"  # for a route that runs into a bug: the client waits
        try:
            try:
                server.program.run(ctx, REQUEST, self.route)  # type: ignore[attr-defined]  # as above
                status, reason = 403, "Forbidden"
            finally:
                call_all(server.hooks.post_script, ctx)
        except (ProtocolError, ResourceError) as exc:
            log.debug("HTTP request from %r: %s", ctx.flow, exc)
            status, reason = 403, "Forbidden"
        finally:
            if not ctx.final_sent:
                self._send(_with(ctx.flow, CLOSE), status, reason)

    # --- script functions

    def dispatch_rpc(self, ctx: Context) -> int:
        """Have ctl run the call; 1 also when the answer will be a fault, -1 when this is no XML-RPC call."""
        request = ctx.request
        if request is None or NAME not in ctx.notes:
            log.error("dispatch_rpc: this is no HTTP request")
            return FALSE
        if ctx.final_sent:
            return FALSE
        if request.method != "POST":
            return self._refuse(ctx, 405, "Method Not Allowed")
        kind = (request.get("content-type") or "").partition(";")[0].strip(" \t").lower()
        if kind not in XML_TYPES:
            # A browser sends other types to any address a page names, without asking: those must never be calls.
            return self._refuse(ctx, 415, "Unsupported Media Type")
        payload = encode_call(request.body, ctx.flow, escape_cr=bool(self.escape_cr))
        if not self._server.channels.send(Layout(self._server.settings.children).ctl, HTTP_RPC, payload):
            return self._refuse(ctx, 503, "Service Unavailable")
        ctx.final_sent = True
        return TRUE

    def xmlrpc_reply(self, ctx: Context, code: int, reason: str) -> int:
        """Answer with a fault of this code and reason."""
        if NAME not in ctx.notes:
            log.error("xmlrpc_reply: this is no HTTP request")
            return FALSE
        if ctx.final_sent:
            return FALSE
        document = build_fault(code, reason_text(reason), escape_cr=bool(self.escape_cr))
        ctx.final_sent = True
        return TRUE if self._send(ctx.flow, 200, "OK", document) else FALSE

    def _refuse(self, ctx: Context, status: int, reason: str) -> int:
        ctx.final_sent = True
        self._send(_with(ctx.flow, CLOSE), status, reason)
        return FALSE

    def _send(self, flow: Flow, status: int, reason: str, body: bytes = b"") -> bool:
        data = http_response(status, reason, body, close=bool(flow.options & CLOSE))
        options = (flow.options & CLOSE) | AS_IS
        try:
            self._server.send(Outgoing(data, Flow(flow.listener, flow.host, flow.port, flow.connection, options)))
        except TransportError as exc:
            log.debug("HTTP answer: %s", exc)
            return False
        return True


def parse_http(data: bytes, flow: Flow, number: str) -> Request:
    """The HTTP request *data* as the script sees it, with a Via of our making. Raises ProtocolError."""
    head, _, body = data.partition(b"\r\n\r\n")
    if not _:
        head, _, body = data.partition(b"\n\n")
    start_line, *rest = head.decode("utf-8", "surrogateescape").split("\n")
    words = start_line.strip("\r").split(" ")
    if len(words) != 3 or len(rest) > HEADERS_MAX:
        raise ParseError("malformed HTTP request")
    host = bracketed(flow.host)
    names = ["via"]
    lines = [f"Via: SIP/2.0/{flow.transport.upper()} {host}:{flow.port};branch=z9hG4bKhttp{number}"]
    for item in rest:
        line = item.strip("\r")
        colon = line.find(":")
        if colon <= 0 or line[0] in " \t":
            continue  # folded lines went out of HTTP
        name = canonical_name(line[:colon])
        if name not in DROPPED_HEADERS:
            names.append(name)
            lines.append(line)
    return Request(data, start_line.strip("\r"), names, lines, body, [], words[0], words[1])


def wants_close(request: Request) -> bool:
    """True when the client expects the connection to be closed after the answer (RFC 9112 §9.3)."""
    wanted = (request.get("connection") or "").lower()
    if request.start_line.endswith("HTTP/1.0"):
        return "keep-alive" not in wanted
    return "close" in wanted


def _with(flow: Flow, option: int) -> Flow:
    return Flow(flow.listener, flow.host, flow.port, flow.connection, flow.options | option)


def _pattern(name: str, text: str) -> Pattern | None:
    try:
        return compile_pattern(text, any_case=False) if text else None
    except BadExpressionError as exc:
        raise ConfigError(f"{name}: {text!r:.80} is no regular expression: {exc}") from None


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = XmlRpc()
    return Exports(
        NAME,
        module,
        functions=(
            Function("dispatch_rpc", module.dispatch_rpc, routes=Routes.MAIN, summary="run the XML-RPC call"),
            Function(
                "xmlrpc_reply", module.xmlrpc_reply, (Arg.INT, Arg.STR), 0, Routes.MAIN, "answer with an XML-RPC fault"
            ),
        ),
        params=(
            Param("route", "str", "", "route that HTTP requests are shown to; empty: the main route", attribute="route"),
            Param(
                "autoconversion", "int", 0, "no effect: parameters are always converted to what the method wants",
                attribute="autoconversion",
            ),
            Param("escape_cr", "int", 1, "write a carriage return as &#xD;", attribute="escape_cr"),
            Param("mode", "int", 0, "1: take no HTTP requests", attribute="mode"),
            Param("url_match", "str", "", "only URLs that match this regular expression", attribute="url_match"),
            Param("url_skip", "str", "", "not URLs that match this regular expression", attribute="url_skip"),
        ),
        init=module.init,
    )  # fmt: skip
