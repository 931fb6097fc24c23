"""Send a request to its destination set: one branch per target, all at once (parallel forking).

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6; 5393 (loops, Max-Breadth).
"""

from __future__ import annotations

from typing import Final

from serpy.context.context import MAX_BRANCHES, Context, Target
from serpy.errors import BackendError, ProtocolError, TransportError
from serpy.sip.flow import Flow, Listener
from serpy.sip.message import Edits, Request
from serpy.transaction.client import ClientTransaction
from serpy.transaction.forward import (
    E_BAD_URI,
    E_CANCELLED,
    E_LOOP,
    E_MAX_BREADTH,
    E_OTHER,
    E_RESOLVE,
    E_SEND,
    E_TOO_MANY_BRANCHES,
    Forwarder,
)
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.matching import is_loop, loop_value
from serpy.transaction.server import ServerTransaction

DEFAULT_BREADTH: Final = 60  # RFC 5393 §5.3.3.1


def relay(layer: TransactionLayer, forwarder: Forwarder, server: ServerTransaction, ctx: Context, now: float) -> int:
    """Start a branch for each target of *ctx*. 1 when at least one was sent, else a negative core error.

    May park while a name is looked up. The destination set is used up: later edits of the Request-URI and
    ``append_branch`` make new targets.
    """
    request = server.request
    if request is None or server.is_final():
        return E_OTHER
    if server.cancelled:
        return E_CANCELLED
    loop = loop_value(request)
    if forwarder.has_been_here(request) and is_loop(request, forwarder.cookie, loop):
        return E_LOOP
    if not ctx.branches and not ctx.uri_consumed and not ctx.on_branch:
        # One target and no branch route: nothing to keep apart, so no Target either.
        server.in_relay = True
        error = _one_branch(
            layer, forwarder, server, ctx, ctx.request_uri, ctx.dst_uri, None, 0, loop,
            forwarder.received_edits(ctx, request), now,
        )  # fmt: skip
        sent = 1 if error == 0 else 0
    else:
        targets = ctx.targets()
        if not targets:
            return E_OTHER
        if len(server.branches) + len(targets) > MAX_BRANCHES:
            return E_TOO_MANY_BRANCHES
        breadth = share_of_breadth(request, len(targets))
        if breadth == 0:
            return E_MAX_BREADTH
        server.in_relay = True
        sent = 0
        error = E_OTHER
        for target in targets:
            result = _start_target(
                layer, forwarder, server, ctx, target, breadth if len(targets) > 1 else -1, loop, now
            )
            if result == 0:
                sent += 1
            else:
                error = result
    server.in_relay = False
    ctx.uri_consumed = True
    ctx.branches.clear()
    if sent == 0:
        return error
    if server.cancelled:
        layer.cancel_branches(server, now)  # the CANCEL came while a name was looked up
    return 1


def share_of_breadth(request: Request, branches: int) -> int:
    """Max-Breadth for each of *branches* copies, 0 when there is not enough for all (RFC 5393 §5.3.3)."""
    text = request.get("max-breadth")
    breadth = DEFAULT_BREADTH
    if text is not None and text.isascii() and text.isdigit() and len(text) < 10:
        breadth = int(text)
    return breadth // branches


def _start_target(
    layer: TransactionLayer, forwarder: Forwarder, server: ServerTransaction, ctx: Context, target: Target,
    breadth: int, loop: int, now: float,
) -> int:  # fmt: skip
    """One branch of several, or one with a branch route: what the script changes for it stays with it."""
    request = server.request
    if request is None:
        return E_OTHER
    request_uri, dst_uri, listener, flags = target.request_uri, target.dst_uri, target.listener, target.flags
    if not ctx.on_branch:
        edits = forwarder.received_edits(ctx, request)
        if breadth >= 0:
            edits = edits.copy()
            set_breadth(request, edits, breadth)
        return _one_branch(layer, forwarder, server, ctx, request_uri, dst_uri, listener, flags, loop, edits, now)
    kept_uri, kept_dst, kept_changed, kept_consumed = ctx.request_uri, ctx.dst_uri, ctx.uri_changed, ctx.uri_consumed
    kept_edits, kept_listener, kept_reply, kept_kind = ctx.edits, ctx.send_listener, ctx.on_reply, ctx.kind
    kept_top = list(ctx.per_branch_headers)
    ctx.edits = ctx.edits.copy()
    ctx.request_uri = request_uri
    ctx.dst_uri = dst_uri
    ctx.send_listener = listener or kept_listener
    try:
        if not layer.user.on_branch(ctx, len(server.branches)):
            return E_OTHER
        edits = forwarder.received_edits(ctx, request)
        if breadth >= 0:
            edits = edits.copy()
            set_breadth(request, edits, breadth)
        return _one_branch(layer, forwarder, server, ctx, ctx.request_uri, ctx.dst_uri, None, flags, loop, edits, now)
    finally:
        ctx.request_uri = kept_uri
        ctx.dst_uri = kept_dst
        ctx.uri_changed = kept_changed
        ctx.uri_consumed = kept_consumed
        ctx.edits = kept_edits
        ctx.send_listener = kept_listener
        ctx.on_reply = kept_reply
        ctx.kind = kept_kind
        ctx.per_branch_headers = kept_top


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
    dst_uri: str, listener: Listener | None, flags: int, loop: int, edits: Edits, now: float,
) -> int:  # fmt: skip
    """Build and send one branch. 0 when it left, else a negative core error."""
    request = server.request
    if request is None:
        return E_OTHER
    try:
        flows = forwarder.flows(ctx, dst_uri or request_uri, listener)
    except ProtocolError:
        return E_BAD_URI
    except TransportError:
        return E_SEND
    except BackendError:
        return E_RESOLVE
    flow = flows[0]
    branch_id = layer.next_branch_id(server, loop)
    data = forwarder.build(ctx, request, request_uri, branch_id, flow, edits)
    if forwarder.filter.active and not forwarder.filter.allows(ctx, flow, data):
        return E_OTHER
    branch = ClientTransaction(server, len(server.branches), branch_id, request_uri, invite=server.is_invite)
    branch.data = data
    branch.flow = flow
    branch.on_reply = ctx.on_reply
    branch.flags = flags
    if len(flows) > 1:
        branch.alternatives = same_listener(flows)
    server.branches.append(branch)
    return 0 if layer.start(branch, now) else E_SEND


def same_listener(flows: list[Flow]) -> list[Flow]:
    """The flows after the first that its Via and Record-Route are right for too."""
    return [flow for flow in flows[1:] if flow.listener is flows[0].listener]
