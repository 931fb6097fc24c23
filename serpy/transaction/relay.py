"""Send a request to its destination set: one branch per target, all at once (parallel forking).

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6; 5393 (loops, Max-Breadth).
"""

from __future__ import annotations

from typing import Final

from serpy.context.context import SOFT, Context, Target
from serpy.errors import BackendError, ProtocolError, ResourceError, TransportError
from serpy.sip.flow import NO_CONNECT, Flow, Listener
from serpy.sip.lines import MAX_BREADTH
from serpy.sip.message import Edits, Request
from serpy.sip.reach import NO_HOST, NOWHERE, kind_of
from serpy.sip.uri import parse_uri
from serpy.transaction.cancelling import cancel_branches
from serpy.transaction.client_side import start
from serpy.transaction.forward import (
    E_BAD_URI,
    E_BUSY,
    E_CANCELLED,
    E_HELD_BACK,
    E_LOOP,
    E_MAX_BREADTH,
    E_OTHER,
    E_RESOLVE,
    E_SEND,
    E_TIMEOUT,
    Forwarder,
)
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.matching import is_loop, loop_value
from serpy.transaction.transactions import NO_FLOWS, ClientTransaction, ServerTransaction

DEFAULT_BREADTH: Final = 60  # RFC 5393 §5.3.3.1
AS_IT_IS: Final = -1  # Max-Breadth of a single branch


def relay(layer: TransactionLayer, forwarder: Forwarder, server: ServerTransaction, ctx: Context) -> int:
    """Start a branch for each target of *ctx*. 1 when at least one was sent, else a negative core error.

    May park while a name is looked up. Raises ResourceError when too many handlers do, and no target could do without. The destination set is used up: later edits of the Request-URI and
    ``append_branch`` make new targets.
    """
    request = server.request
    if server.is_final():
        return E_OTHER
    if server.cancelled:
        return E_CANCELLED
    if layer.now() >= server.expires_at:
        return E_TIMEOUT
    loop = loop_value(request)
    if forwarder.has_been_here(request) and is_loop(request, forwarder.ways.sign, loop):
        return E_LOOP
    # One target and no branch route: nothing to keep apart, so no Target either.
    is_single = not ctx.branches and not ctx.uri_consumed and not ctx.on_branch
    targets = NO_TARGETS if is_single else ctx.targets()
    breadth = share_of_breadth(server, request, 1 if is_single else len(targets))
    if breadth < 0:
        return breadth
    was_held = server.is_held
    server.is_held = True
    sent = 0
    error = E_OTHER
    try:
        if is_single:
            edits = forwarder.received_edits(ctx, request)
            flags = ctx.target_flags
            error = _one_branch(layer, forwarder, server, ctx, ctx.request_uri, ctx.dst_uri, None, flags, loop, edits)
            sent = 1 if error == 0 else 0
        for target in targets:
            share = breadth if len(targets) > 1 else AS_IT_IS
            result = _start_target(layer, forwarder, server, ctx, target, share, loop)
            if result == 0:
                sent += 1
            else:
                error = result
    finally:
        server.is_held = was_held
        ctx.uri_consumed = True
        ctx.branches.clear()
    if sent == 0:
        if error == E_BUSY:
            raise ResourceError("nobody can be asked for the address")
        return error
    if server.cancelled:
        cancel_branches(layer, server)  # the CANCEL came while a name was looked up
    return 1


NO_TARGETS: Final[list[Target]] = []


def share_of_breadth(server: ServerTransaction, request: Request, count: int) -> int:
    """Max-Breadth for each of *count* more copies (RFC 5393 §5.3.3), or the core error that forbids them."""
    if count == 0 or not server.has_room(count):
        return E_OTHER
    breadth = DEFAULT_BREADTH
    if request.may_have(MAX_BREADTH) and request.find("max-breadth") >= 0:
        text = request.get("max-breadth") or ""
        if text.isascii() and text.isdigit() and len(text) < 10:
            breadth = int(text)
    return breadth // count or E_MAX_BREADTH


def _start_target(
    layer: TransactionLayer, forwarder: Forwarder, server: ServerTransaction, ctx: Context, target: Target,
    breadth: int, loop: int,
) -> int:  # fmt: skip
    """One branch of several, or one with a branch route: what the script changes for it stays with it."""
    if not ctx.on_branch:
        edits = _edits(forwarder, server, ctx, breadth)
        return _one_branch(
            layer,
            forwarder,
            server,
            ctx,
            target.request_uri,
            target.dst_uri,
            target.listener,
            target.flags,
            loop,
            edits,
        )
    draft = ctx.begin_branch(target)
    try:
        if not layer.user.on_branch(ctx, len(server.branches)):
            return E_OTHER
        edits = _edits(forwarder, server, ctx, breadth)
        return _one_branch(layer, forwarder, server, ctx, ctx.request_uri, ctx.dst_uri, None, target.flags, loop, edits)
    finally:
        draft.end()


def _edits(forwarder: Forwarder, server: ServerTransaction, ctx: Context, breadth: int) -> Edits:
    """The edits of one branch, with its share of Max-Breadth."""
    edits = forwarder.received_edits(ctx, server.request)
    if breadth != AS_IT_IS:
        edits = edits.copy()
        set_breadth(server.request, edits, breadth)
    return edits


def set_breadth(request: Request, edits: Edits, breadth: int) -> None:
    """Give this branch its share: the header replaced, or added where there was none."""
    line = f"Max-Breadth: {breadth}"
    indexes = request.indexes("max-breadth")
    if indexes:
        edits.replace(indexes[0], line)
    else:
        edits.append(line)


def _one_branch(
    layer: TransactionLayer, forwarder: Forwarder, server: ServerTransaction, ctx: Context, request_uri: str,
    dst_uri: str, listener: Listener | None, flags: int, loop: int, edits: Edits,
) -> int:  # fmt: skip
    """Build and send one branch. 0 when it left, else a negative core error."""
    try:
        flows = forwarder.flows(ctx, dst_uri or request_uri, listener)
        if dst_uri and flows[0].options & NO_CONNECT:
            flows = [flows[0], *_as_written(forwarder, ctx, request_uri, flows[0])]
    except ProtocolError:
        return E_BAD_URI
    except TransportError:
        return E_SEND
    except BackendError:
        return E_RESOLVE
    except ResourceError:
        return E_BUSY
    if server.is_final() or server.cancelled:
        return E_CANCELLED  # while the name was looked up
    if not server.has_room(1):
        return E_OTHER  # other addresses of the targets before have taken it
    flow = flows[0]
    if flags & SOFT and _is_asked(server, flow):
        return E_OTHER
    branch_id = layer.next_branch_id(server, loop)
    data = forwarder.build(ctx, server.request, request_uri, branch_id, flow, edits)
    if forwarder.filter.active and not forwarder.filter.allows(ctx, flow, data):
        return E_OTHER
    branch = ClientTransaction(server, branch_id, request_uri)
    branch.data = data
    layer.keep(server, len(data))
    branch.flow = flow
    branch.on_reply = ctx.on_reply
    branch.flags = flags
    if len(flows) > 1:
        branch.alternatives = same_listener(flows)
    server.append_branch(branch)
    if start(layer, branch):
        return 0
    return E_HELD_BACK if layer.was_held_back else E_SEND


def _is_asked(server: ServerTransaction, flow: Flow) -> bool:
    """True when another branch goes to the same address, which has never answered."""
    for branch in server.branches:
        if branch.flags & SOFT and branch.flow is not None and branch.flow.host == flow.host:
            return True
    return False


def _as_written(forwarder: Forwarder, ctx: Context, request_uri: str, flow: Flow) -> list[Flow]:
    """Where *request_uri* itself leads, by the transport of *flow*: for a phone that has lost its connection."""
    try:
        uri = parse_uri(request_uri)
        if not uri.is_sip or kind_of(uri.host) in (NOWHERE, NO_HOST):
            return NO_FLOWS
        if not uri.transport and uri.scheme == "sip":
            uri = uri.replaced(params=f"{uri.params};transport={flow.transport}".lstrip(";"), headers="")
        return forwarder.flows(ctx, uri.text, flow.listener)
    except (ProtocolError, TransportError, BackendError, ResourceError):
        return NO_FLOWS


def same_listener(flows: list[Flow]) -> list[Flow]:
    """The flows after the first that its Via and Record-Route are right for too."""
    return [flow for flow in flows[1:] if flow.listener is flows[0].listener]
