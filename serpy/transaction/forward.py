"""Where a request goes next and what it looks like there: next hop, our Via, forwarding without a transaction.

Also where answers to a request go (RFC 3261 §18.2.2, RFC 3581). Sends through what it is given, resolves through
what it is given; owns no socket.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6, §16.7, §16.11, §18.1.1, §18.2; RFC 3581; 4320; 5393 §5.3; 6026.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.context.context import Context
from serpy.errors import BackendError, HeldBackError, ProtocolError, TransportError
from serpy.sip.address import default_port, is_address, plain_address
from serpy.sip.classes import LOOPBACK
from serpy.sip.flow import NO_CONNECT, Flow, Listener, Outgoing
from serpy.sip.lines import VIA
from serpy.sip.message import Edits, Request
from serpy.sip.received import OPEN_CONNECTION
from serpy.sip.status import PHRASES
from serpy.sip.uri import Uri, parse_uri
from serpy.sip.via import Via
from serpy.sip.writer import build_request
from serpy.transaction.matching import NO_GROUPS, Groups, is_loop, loop_value
from serpy.transaction.ways import Ways

# Core errors a script function leaves in ``ctx.last_error`` and returns; what callers are told is ``outward_status``.
E_SEND: Final = -477
E_RESOLVE: Final = -478
E_BAD_URI: Final = -479
E_BAD_REQUEST: Final = -400
E_HELD_BACK: Final = -403  # by the guard of destinations
E_TIMEOUT: Final = -408
E_BUSY: Final = -503  # too many handlers wait for a name already
E_CANCELLED: Final = -487
E_LOOP: Final = -482
E_MAX_BREADTH: Final = -440
E_OTHER: Final = -500  # also: nothing left to try, more than MAX_BRANCHES

# What no RFC knows stays inside (RFC 3261 §21): a request that cannot be sent counts as answered 503, which is 500 for
# the caller (§16.9, §16.7); an address that leads nowhere, at the moment or at all, has a status of its own.
_OUTWARD: Final = {477: 500, 478: 480, 479: 404}


def outward_status(error: int) -> int:
    """The status that a caller is answered for the core error *error*; 500 for what is none."""
    status = _OUTWARD.get(-error, -error)
    return status if status in PHRASES else 500


MAX_CACHED_HOPS: Final = 4096
FORWARD_OPTIONS: Final = "forward_options"  # note of a Context: Flow.options for what is forwarded

# What only the registrar a phone asked may see, and what only our own envelope may say.
NOT_REPLICATED: Final = ("authorization", "proxy-authorization", "serpy-replica")

Resolve = Callable[[Uri], list[tuple[str, str, int]]]
ToGroup = Callable[[bytes, Flow, float], bool]
"""(REGISTER, flow to a multicast group, Unix time it was taken) -> False when it could not be handed over."""


class SendFilter:
    """Asked before a request leaves: the script's ``onsend_route``. This one lets everything through."""

    active = False

    def allows(self, ctx: Context, flow: Flow, data: bytes) -> bool:  # noqa: ARG002 - the interface
        """False when the script dropped it."""
        return True


def reply_flow(
    request: Request, flow: Flow, *, to_source: bool, to_via: bool = False, groups: Groups = NO_GROUPS
) -> Flow:
    """Where answers to *request*, received over *flow*, go: back to its address, at the port its Via asks for.

    Over a connection they go back by it or, when it is gone, to the port in Via. *to_source*: the script called
    ``force_rport``; with that or ``rport`` the source counts, whatever else Via says. *to_via*: without those, to the
    address in Via. ``maddr`` counts for *groups* that we listen on (RFC 3261 §18.2.2 means multicast): any other address
    would have us send to whom a stranger likes.
    """
    via = request.via
    if flow.connection:
        return Flow(flow.listener, flow.host, via.port or default_port(flow.transport), flow.connection, flow.options)
    if to_source or via.rport >= 0:
        return flow
    port = via.port or 5060
    if groups:
        maddr = via.param("maddr")
        if maddr is not None and (plain_address(maddr), port) in groups:
            return Flow(flow.listener, plain_address(maddr), port)
    if to_via and is_address(via.host):
        return Flow(flow.listener, via.address, port)
    return flow if port == flow.port else Flow(flow.listener, flow.host, port, 0, flow.options)


def received_value(via: Via, flow: Flow, *, to_source: bool) -> str:
    """The ``received`` parameter the top Via needs, "" = none (RFC 3261 §18.2.1, RFC 3581 §4)."""
    if to_source or via.rport >= 0:
        return flow.host
    host = flow.host
    return "" if host == via.host or host == via.address else host  # noqa: PLR1714 - the second is seldom needed


def rport_value(via: Via, flow: Flow, *, to_source: bool) -> int:
    """The value of ``rport`` the top Via needs, 0 = none."""
    return flow.port if to_source or via.rport >= 0 else 0


def is_group(host: str) -> bool:
    """True for a multicast address."""
    head = host[:4]
    return head in _GROUP_HEADS or (head[:2] == "ff" and ":" in host)


_GROUP_HEADS: Final = frozenset(f"{first}." for first in range(224, 240))


def with_options(flow: Flow, ctx: Context) -> Flow:
    """*flow* with what the script wants of its connection (``set_forward_close`` …)."""
    if flow.transport == "udp" or not ctx.notes:
        return flow
    options = ctx.notes.get(FORWARD_OPTIONS)
    if not isinstance(options, int):
        return flow
    return Flow(flow.listener, flow.host, flow.port, flow.connection, options | flow.options)


def stands_in(listener: Listener, wanted: Listener) -> bool:
    """True when *listener* may send what came in, or was to leave, by *wanted*: a loopback address reaches everything
    here, so it does not speak for the others.
    """
    return not listener.multicast and (listener.scope != LOOPBACK or wanted.scope == LOOPBACK or wanted.multicast)


class Forwarder:
    """Next hops and stateless forwarding of one process."""

    def __init__(self, listeners: list[Listener], send: Callable[[Outgoing], None], ways: Ways) -> None:
        self.listeners: Final = listeners
        self.send: Final = send
        self.ways: Final = ways
        self.reply_to_via = False
        self.resolve: Resolve | None = None
        self.filter: SendFilter = SendFilter()
        self.to_group: ToGroup | None = None  # who sends to multicast groups
        self.route: Callable[[str], str] | None = None  # mhomed: which of our addresses reaches a host
        self._hops: dict[str, Flow] = {}  # next-hop text with a numeric host -> its flow

    def flows(self, ctx: Context, next_hop: str, listener: Listener | None) -> list[Flow]:
        """The flows to try in turn for the URI text *next_hop*; never empty. May park while a name is looked up.

        Raises ProtocolError (not a URI we can route), TransportError (no socket for it), BackendError (no such name).
        """
        wanted = listener or ctx.send_listener or ctx.flow.listener
        cached = self._hops.get(next_hop)
        if cached is not None and cached.listener is wanted:
            return [with_options(cached, ctx)]
        uri = parse_uri(next_hop)
        if uri.scheme not in {"sip", "sips"}:
            raise ProtocolError(f"no next hop for {uri.scheme}", status=416)
        maddr = uri.param("maddr")
        host = maddr or uri.host
        if is_address(host):
            transport = (uri.param("transport") or "udp").lower()
            if uri.scheme == "sips":
                transport = "tls"  # §26.2.2; TCP under TLS is written transport=tcp
            host = host.strip("[]")
            if self.route is not None and listener is None and ctx.send_listener is None:
                wanted = self.routed(transport, host, wanted)
            flow = self.flow_to(transport, host, uri.port or default_port(transport), wanted)
            if uri.param(OPEN_CONNECTION) is not None and flow.transport != "udp":
                flow = Flow(flow.listener, flow.host, flow.port, 0, NO_CONNECT)
            if len(self._hops) >= MAX_CACHED_HOPS:
                self._hops.clear()
            self._hops[next_hop] = flow
            return [with_options(flow, ctx)]
        if self.resolve is None:
            raise BackendError(f"no resolver for {host!r:.120}")
        found: list[Flow] = []
        for transport, address, port in self.resolve(uri):
            if self.can_reach(transport, address, wanted):
                if self.route is not None and listener is None and ctx.send_listener is None:
                    wanted = self.routed(transport, address, wanted)
                found.append(with_options(self.flow_to(transport, address, port, wanted), ctx))
        if not found:
            raise BackendError(f"no usable address for {host!r:.120}")
        return found

    def routed(self, transport: str, host: str, wanted: Listener) -> Listener:
        """The listener at the address that the kernel would use for *host*, with the port of *wanted* if there is one."""
        address = self.route(host) if self.route is not None else ""
        found = wanted
        for listener in self.listeners:
            if listener.host == address and listener.transport == transport and stands_in(listener, wanted):
                if listener.port == wanted.port:
                    return listener
                if found is wanted:
                    found = listener
        return found

    def can_reach(self, transport: str, host: str, wanted: Listener) -> bool:
        """True when *wanted*, or some listener in its place, can send there."""
        ipv6 = ":" in host
        return any(
            each.transport == transport and each.ipv6 == ipv6 and stands_in(each, wanted) for each in self.listeners
        )

    def flow_to(self, transport: str, host: str, port: int, wanted: Listener) -> Flow:
        """A flow to *host*:*port* from *wanted* when it fits, else from the first that does, at its address if possible.

        Raises TransportError when none does.
        """
        ipv6 = ":" in host
        if wanted.transport == transport and wanted.ipv6 == ipv6 and not wanted.multicast:
            return Flow(wanted, host, port)
        found: Listener | None = None
        for listener in self.listeners:
            if listener.transport == transport and listener.ipv6 == ipv6 and stands_in(listener, wanted):
                if listener.host == wanted.host:
                    return Flow(listener, host, port)
                if found is None:
                    found = listener
        if found is None:
            raise TransportError(f"no listener for {transport} to {host}")
        return Flow(found, host, port)

    def received_edits(self, ctx: Context, request: Request) -> Edits:
        """The edits of *ctx*, among them what the top Via needs: every copy of the request that leaves has the same."""
        via = request.via
        to_source = ctx.reply_to_source
        received = received_value(via, ctx.flow, to_source=to_source)
        rport = rport_value(via, ctx.flow, to_source=to_source)
        if not received and not rport:
            return ctx.edits
        at = request.find("via")
        ctx.edits.replace(at, request.annotated_via(request.lines[at], received, rport))
        return ctx.edits

    def is_loop(self, request: Request) -> bool:
        """True when *request* has been here with the same routing before (RFC 5393); cheap when it has not."""
        return self.has_been_here(request) and is_loop(request, self.ways.sign, loop_value(request))

    def has_been_here(self, request: Request) -> bool:
        """True when a Via line of *request* holds our sign."""
        sign = self.ways.sign
        lines = request.lines
        if not request.may_have_two(VIA):
            return sign in lines[request.find("via")]
        return any(name == "via" and sign in lines[at] for at, name in enumerate(request.names))

    def headers_on_top(self, ctx: Context, flow: Flow) -> list[str]:
        """What the script asked to put above everything, e.g. Record-Route for this way out."""
        lines: list[str] = []
        for make in ctx.per_branch_headers:
            lines.extend(make(ctx, flow))
        return lines

    def build(
        self, ctx: Context, request: Request, request_uri: str, branch_id: str, flow: Flow, edits: Edits
    ) -> bytes:
        """*request* as it leaves by *flow*."""
        via = flow.listener.via_head + branch_id
        if not ctx.per_branch_headers:
            return build_request(request, request_uri, via, edits)
        return build_request(request, request_uri, via, edits, self.headers_on_top(ctx, flow))

    def forward(self, ctx: Context, next_hop: str = "") -> bool:
        """Forward the request of *ctx* without a transaction to the URI *next_hop* ("" = where it is bound for).

        False when it could not be sent; ``ctx.last_error`` says why. A message the onsend route drops counts as sent.
        """
        request = ctx.request
        if request is None:
            return False
        if self.is_loop(request):
            ctx.last_error = E_LOOP
            return False
        try:
            flows = self.flows(ctx, next_hop or ctx.dst_uri or ctx.request_uri, None)
        except ProtocolError:
            ctx.last_error = E_BAD_URI
            return False
        except TransportError:
            ctx.last_error = E_SEND
            return False
        except BackendError:
            ctx.last_error = E_RESOLVE
            return False
        # §16.11: no state, so no failover either: a repetition has to take the same way.
        flow = flows[0]
        back = reply_flow(request, ctx.flow, to_source=ctx.reply_to_source, to_via=self.reply_to_via)
        branch = self.ways.stateless_branch(request, back, ctx.arrived_at)
        group = is_group(flow.host)
        edits = self._replica_edits(ctx, request) if group else self.received_edits(ctx, request)
        data = self.build(ctx, request, ctx.request_uri, branch, flow, edits)
        if self.filter.active and not self.filter.allows(ctx, flow, data):
            return True
        if group:
            return self._send_to_group(ctx, request, flow, data)
        try:
            self.send(Outgoing(data, flow))
        except HeldBackError:
            ctx.last_error = E_HELD_BACK
            return False
        except TransportError:
            ctx.last_error = E_SEND
            return False
        return True

    def _replica_edits(self, ctx: Context, request: Request) -> Edits:
        edits = self.received_edits(ctx, request).copy()
        for at, name in enumerate(request.names):
            if name in NOT_REPLICATED:
                edits.remove(at)
        return edits

    def _send_to_group(self, ctx: Context, request: Request, flow: Flow, data: bytes) -> bool:
        """Have *data* multicast. Only a REGISTER, and never one that came from a group, or it would go round."""
        to_group = self.to_group
        if to_group is None or request.method != "REGISTER" or ctx.flow.listener.multicast:
            ctx.last_error = E_SEND
            return False
        if not to_group(data, flow, ctx.arrived_at):
            ctx.last_error = E_SEND
            return False
        return True
