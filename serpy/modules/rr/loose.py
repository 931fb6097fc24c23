"""loose_route(): follow the Route set of a request, whatever the previous hop was.

The cases are numbered as in the reference. *Mine* is a Route whose host and port are ours, or whose host is a domain
we serve and whose port we listen on. Our own Route values are removed by edits; the next hop goes into ``dst_uri``
(loose router) or the Request-URI (strict router).

Runs in: udp receiver. Locks: none. RFC: 3261 §16.4, §16.6 item 6, §16.12.
"""

from __future__ import annotations

import logging
from typing import Final

from serpy.api import DOMAINS, FALSE, TRUE, AvpName, Context, DomainService, Listener, ParseError, Server
from serpy.modules.rr.cookie import Cookie, DialogCookies
from serpy.modules.rr.dialogs import Dialogs
from serpy.modules.rr.own import OwnRoute, head_of, own_of_text, own_of_uri
from serpy.modules.rr.rule import BELONGS, ELSEWHERE, NOT_ASKED
from serpy.modules.rr.state import Plan, RouteState, state_of
from serpy.sip.address import default_port
from serpy.sip.message import Request
from serpy.sip.nameaddr import NameAddr, split_commas
from serpy.sip.uri import Uri

log = logging.getLogger(__name__)

NOT_DRIVEN: Final = FALSE  # the Route set does not decide where this request goes


class LooseRouter:
    """The routing half of the module. Set up once in the master, then only read."""

    def __init__(self) -> None:
        self.cookies = DialogCookies(b"")
        self.dialogs: Dialogs | None = None
        self.force_send_socket = True
        self.next_route_avp: AvpName | None = None
        self._server: Server | None = None
        self._domains: DomainService | None = None
        self._ports: set[int] = set()
        self._listeners: dict[tuple[str, str, int], Listener] = {}
        self._heads: list[str] = []  # how our own Routes begin as record_route() writes them

    def bind(self, server: Server) -> None:
        """Learn our addresses. Called in the master when all modules are initialised, or on first use."""
        self._server = server
        self._domains = server.find(DOMAINS)
        for listener in server.listeners:
            if listener.multicast:
                continue
            self._ports.add(listener.port)
            host, _, port = listener.sent_by.rpartition(":")
            self._listeners[(listener.transport, listener.host.lower(), listener.port)] = listener
            self._listeners[(listener.transport, host.lower().strip("[]"), int(port))] = listener
            head = head_of(listener)
            if head not in self._heads and server.is_myself(host, int(port)):
                self._heads.append(head)

    def is_mine(self, uri: Uri) -> bool:
        """True when *uri* names this server."""
        server = self._server
        host = uri.host
        if server is None or not host:
            return False
        port = uri.port or (5061 if uri.scheme == "sips" else 5060)
        if server.is_myself(host, port):
            return True
        # A served domain without a port is ours whatever port we listen on: SRV records may say so.
        return self._domains is not None and (not uri.port or port in self._ports) and self._domains.is_local(host)

    def plan(self, ctx: Context, request: Request, state: RouteState) -> Plan | None:
        """What the Route set says, None when it says nothing; found once for each request. Raises ParseError."""
        if state.is_planned:
            return state.plan
        state.is_planned = True
        routes = request.routes
        if not routes:
            return None  # 1.
        top = routes[0]
        own = None if top.params else own_of_text(top.uri_text, self._heads)
        top_is_mine = own is not None
        if own is None:
            uri = top.route_uri
            top_is_mine = self.is_mine(uri)
            own = own_of_uri(uri)
        if self.is_mine(ctx.uri):
            if top_is_mine and not own.is_double:
                state.plan = self._plan_loose(ctx, routes, own, preloaded=True)  # 3.
            elif request.to_tag:
                state.plan = self._plan_strict(ctx, routes, top_is_mine=top_is_mine)  # 4.
        elif top_is_mine:
            state.plan = self._plan_loose(ctx, routes, own, preloaded=False)  # 5.
        else:
            log.debug("neither Request-URI nor first Route is ours: %.120r", routes[0].uri_text)  # 6.
        return state.plan

    def _plan_loose(self, ctx: Context, routes: list[NameAddr], own: OwnRoute, *, preloaded: bool) -> Plan:
        """The previous hop was a loose router, and the first of *routes* is *own*."""
        used = 1
        # A phone that has us as its outbound proxy may put us before the Route set of its dialog, and say so twice. Sent to
        # ourselves the request would lose one after the other (§16.4); it loses them here.
        while used < len(routes) and not own.is_marked and self.is_mine(routes[used].route_uri):
            own = own_of_uri(routes[used].route_uri)
            used += 1
        second: Uri | None = None
        if own.is_double and len(routes) > used and self.is_mine(routes[used].route_uri):
            second = routes[used].route_uri
            used += 1
        following = routes[used] if used < len(routes) else None
        return Plan(own, second, used, following, ctx.request_uri, strict=False, preloaded=preloaded)

    def _plan_strict(self, ctx: Context, routes: list[NameAddr], *, top_is_mine: bool) -> Plan:
        """The previous hop was a strict router: our own Route is the Request-URI, the target the last Route."""
        own = own_of_uri(ctx.uri)
        used = 0
        second: Uri | None = None
        if top_is_mine and own.is_double:
            used = 1
            second = routes[0].route_uri
        following = routes[used] if used < len(routes) else None
        # The last value is where it is bound for; a single one is no Route any more.
        target = routes[-1].uri_text if following is not None else ""
        return Plan(own, second, used, following, target, strict=True, preloaded=False)

    def verdict(self, ctx: Context, request: Request, state: RouteState, plan: Plan) -> int:
        """Does the request belong to the dialog that our Route speaks of? Asked of the memory of calls once."""
        dialogs = self.dialogs
        if dialogs is None or not request.to_tag:
            return BELONGS
        if state.verdict == NOT_ASKED or (state.verdict == ELSEWHERE and ctx.authenticated is not None):
            route = plan.following.route_uri if plan.following is not None else None
            if plan.strict and plan.following is not None and plan.following.uri_text == plan.target:
                route = None
            state.verdict, state.cookie = dialogs.judge(ctx, request, plan.own, plan.target, route)
        return state.verdict

    def route(self, ctx: Context) -> int:
        """True when the Route set says where the request goes; ``ctx`` is changed accordingly."""
        request = ctx.message
        if not isinstance(request, Request):
            return NOT_DRIVEN
        state = state_of(ctx)
        try:
            plan = self.plan(ctx, request, state)
            if plan is None:
                return NOT_DRIVEN
            verdict = self.verdict(ctx, request, state, plan)
            if verdict < 0:
                log.debug("request does not belong to the dialog of its Route (%d)", verdict)
                return verdict
            self._restore(ctx, request, state, plan.own)
            if plan.strict:
                return self._strict(ctx, request, state, plan)
            return self._loose(ctx, request, state, plan)
        except ParseError as exc:
            log.debug("Route set not usable: %s", exc)
            return NOT_DRIVEN

    def _loose(self, ctx: Context, request: Request, state: RouteState, plan: Plan) -> int:
        """Take our Route values off and go on to the next."""
        total = len(request.routes)
        if plan.second is not None:
            self._force_listener(ctx, plan.second)
        state.processed = True
        following = plan.following
        if following is None:
            _remove_first(ctx, request, plan.used, total)
            # A set that only named us says nothing about the next hop when the target is ours, too: the script decides.
            return NOT_DRIVEN if plan.preloaded else TRUE
        self._note_next(ctx, state, following.uri_text)
        if following.route_uri.param("lr") is not None:
            _remove_first(ctx, request, plan.used, total)
            ctx.dst_uri = following.uri_text
            return TRUE
        _remove_first(ctx, request, plan.used + 1, total)
        ctx.edits.insert_after(request.indexes("route")[-1], f"Route: <{ctx.request_uri}>")
        ctx.request_uri = following.uri_text
        return TRUE

    def _strict(self, ctx: Context, request: Request, state: RouteState, plan: Plan) -> int:
        """The Request-URI is our own Route: put the target back."""
        routes = request.routes
        if plan.second is not None:
            self._force_listener(ctx, plan.second)
        following = plan.following
        if following is None:
            log.debug("strict router left no target: %.120r", routes[0].uri_text)
            return NOT_DRIVEN
        used = plan.used
        state.processed = True
        self._note_next(ctx, state, following.uri_text)
        if following.route_uri.param("lr") is None:
            _remove_first(ctx, request, used + 1, len(routes))
            ctx.request_uri = following.uri_text
            return TRUE
        if used == len(routes) - 1:
            _remove_first(ctx, request, len(routes), len(routes))
        else:
            _remove_ends(ctx, request, used)
        ctx.dst_uri = following.uri_text
        ctx.request_uri = plan.target
        return TRUE

    def _restore(self, ctx: Context, request: Request, state: RouteState, own: OwnRoute) -> None:
        """Bring the dialog's attributes back from the parameters of *own*."""
        if state.own_route is not None:
            return
        state.own_route = own
        if self.dialogs is not None:
            found = state.cookie  # None outside of a dialog: a cookie opens nothing there
        else:
            found = self._opened(own, request)
        if found is not None and found.lists:
            found.restore(ctx.avps, swap=bool(own.from_tag) and own.from_tag != request.from_tag)

    def _opened(self, own: OwnRoute, request: Request) -> Cookie | None:
        cookie = own.cookie
        if not cookie:
            return None
        found = self.cookies.open(cookie, request.call_id)
        if found is None:
            log.debug("dialog cookie is not ours, ignored: %.120r", cookie)
        return found

    def _force_listener(self, ctx: Context, uri: Uri) -> None:
        """Leave by the address *uri* names: the other side of a double Record-Route."""
        if not self.force_send_socket:
            return
        transport = (uri.param("transport") or ("tls" if uri.scheme == "sips" else "udp")).lower()
        key = (transport, uri.host.lower().strip("[]"), uri.port or default_port(transport))
        listener = self._listeners.get(key)
        if listener is not None:
            ctx.send_listener = listener

    def _note_next(self, ctx: Context, state: RouteState, uri_text: str) -> None:
        state.next_route = uri_text
        if self.next_route_avp is not None:
            ctx.avps.write(self.next_route_avp, uri_text)


def _remove_first(ctx: Context, request: Request, count: int, total: int) -> None:
    """Take the first *count* of *total* Route values out of what is sent."""
    if count == total:
        for at, name in enumerate(request.names):
            if name == "route":
                ctx.edits.remove(at)
        return
    indexes = request.indexes("route")
    if len(indexes) == total:
        for index in indexes[:count]:
            ctx.edits.remove(index)
        return
    left = count
    for index in indexes:
        values = _values(request, index)
        if len(values) > left:
            if left:
                ctx.edits.replace(index, "Route: " + ", ".join(values[left:]))
            return
        ctx.edits.remove(index)
        left -= len(values)


def _remove_ends(ctx: Context, request: Request, first: int) -> None:
    """Take the *first* leading values and the last one out."""
    indexes = request.indexes("route")
    last = len(indexes) - 1
    left = first
    for place, index in enumerate(indexes):
        values = _values(request, index)
        taken = min(left, len(values))
        left -= taken
        kept = values[taken:-1] if place == last else values[taken:]
        if not kept:
            ctx.edits.remove(index)
        elif len(kept) != len(values):
            ctx.edits.replace(index, "Route: " + ", ".join(kept))


def _values(request: Request, index: int) -> list[str]:
    """The values of one Route line."""
    return split_commas(request.value(index))
