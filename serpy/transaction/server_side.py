"""The upstream side: matching requests, making their transactions, answering them.

Timers are armed before anything is sent: whatever sending does, the transaction ends.

Runs in: udp receiver. Locks: none. RFC: 3261 §17.2; 4320; 6026.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serpy.context.context import Context
from serpy.sip.message import Request, Response
from serpy.sip.status import reason_phrase
from serpy.sip.writer import build_reply
from serpy.transaction import states
from serpy.transaction.cancelling import cancel_branches
from serpy.transaction.ending import destroy, settle
from serpy.transaction.forward import received_value, reply_flow, rport_value
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.matching import server_key
from serpy.transaction.transactions import ClientTransaction, ServerMachine, ServerTransaction
from serpy.transaction.user import Outcome
from serpy.transaction.warning import warning_line

STRANGERS_REPEATS: Final = 4096  # octets of answers that a stranger gets again without asking: four of a common 200


def absorb(layer: TransactionLayer, request: Request) -> bool:
    """True when *request* belongs to a transaction we have and needs nothing more.

    A retransmission gets the last answer again; an ACK to a negative final ends its repetition (§17.2.1).
    """
    method = request.method
    if method == "ACK":
        server = layer.servers.get(server_key(request, "INVITE"))
        if server is None or server.state not in {states.COMPLETED, states.CONFIRMED}:
            return False
        if server.to_tag and request.to_tag != server.to_tag and not request.via.branch.startswith("z9hG4bK"):
            return False  # RFC 2543 element: the To tag tells which answer is meant
        apply_step(layer, server, server.step(states.RECV_ACK))
        return True
    server = layer.servers.get(server_key(request, method))
    if server is None:
        return False
    layer.absorbed += 1
    apply_step(layer, server, server.step(states.RECV_REQUEST))
    return True


def create(layer: TransactionLayer, ctx: Context, request: Request) -> ServerTransaction:
    """A new server transaction for *request*, with its last deadline; an INVITE is answered 100 at once.

    Raises ResourceError when there is no room for it.
    """
    if layer.max_live:
        layer.make_room(ctx, request)
    flow = reply_flow(request, ctx.flow, to_source=ctx.reply_to_source, to_via=layer.reply_to_via, groups=layer.groups)
    server = ServerTransaction(server_key(request, request.method), request, ctx, flow, layer.next_number())
    layer.servers[server.key] = server
    ctx.transaction = server
    if ctx.flags & layer.watched_flags:
        server.is_watched = True
    layer.created += 1
    layer.live += 1
    layer.keep(server, len(request.raw))
    if ctx.counted:
        server.repeats_left = STRANGERS_REPEATS
        if layer.on_begin is not None:
            layer.on_begin(ctx)
    settings = layer.settings
    server.expires_at = layer.now() + (
        settings.max_inv_lifetime_s if server.is_invite else settings.max_noninv_lifetime_s
    )
    # Branches give up at expires_at at the latest; should that get lost, the request ends all the same.
    layer.wheel.arm(server, server.expires_at + settings.retr_timer1_s)
    if server.is_invite and settings.auto_inv_100:
        reply(layer, server, 100, settings.auto_inv_100_reason)
    return server


# --- answers


def reply(
    layer: TransactionLayer, server: ServerTransaction, status: int, reason: str = "",
    headers: Sequence[str] = (), body: bytes = b"",
) -> bool:  # fmt: skip
    """Answer *server* ourselves; False when it has had a final answer, or is a copy that nobody answers."""
    if server.is_final() or server.is_copy:
        return False
    if status == 408 and not server.is_invite:
        end_silently(layer, server)  # RFC 4320 §4.2: never send 408 to a non-INVITE
        return True
    request, ctx = server.request, server.ctx
    if status != 100 and not server.to_tag:
        server.to_tag = request.to_tag or layer.make_tag(request)
    lines = layer.signature.copy()
    if layer.warns:
        lines.append(warning_line(request, ctx.flow, ctx.request_uri, layer.warns))
    if status >= 200 and ctx.reply_headers:
        lines.extend(ctx.reply_headers)
    lines.extend(headers)
    via = request.via
    data = build_reply(
        request, status, reason or reason_phrase(status), to_tag="" if status == 100 else server.to_tag,
        headers=lines, body=body,
        received=received_value(via, ctx.flow, to_source=ctx.reply_to_source),
        rport=rport_value(via, ctx.flow, to_source=ctx.reply_to_source),
    )  # fmt: skip
    layer.local_replies += 1
    answer(layer, server, status, data)
    if status >= 200 and server.branches:
        cancel_branches(layer, server, status)
        settle(layer, server)
    return True


def answer(
    layer: TransactionLayer, server: ServerTransaction, status: int, data: bytes,
    branch: ClientTransaction | None = None, response: Response | None = None,
) -> None:  # fmt: skip
    """Send *data*, the answer *status* of *branch* or our own, to the caller of *server*, and finish it if that was all."""
    if status < 200:
        event = states.SEND_1XX
    elif status < 300:
        event = states.SEND_2XX
    else:
        event = states.SEND_300_699
    actions = server.step(event)
    if actions == 0:
        return
    is_first_final = status >= 200 and server.status < 200
    server.status = status
    server.last_reply = data
    apply_step(layer, server, actions)
    if is_first_final:
        server.ctx.final_sent = True
        layer.finals[status // 100] += 1
        if server.is_watched:
            report(layer.on_answer, server, status, branch, response)
        settle(layer, server)
    elif status == 183 and server.is_watched:
        report(layer.on_answer, server, status, branch, response)


def end_silently(layer: TransactionLayer, server: ServerTransaction) -> None:
    """End *server* without an answer; what comes again is absorbed."""
    actions = server.step(states.SEND_NOTHING)
    if actions == 0:
        return
    server.status = 408
    server.last_reply = b""
    apply_step(layer, server, actions)
    if server.is_watched and not server.is_copy:
        report(layer.on_answer, server, 408, None, None)
    settle(layer, server)


def report(
    watchers: list[Outcome], server: ServerTransaction, status: int,
    branch: ClientTransaction | None, response: Response | None,
) -> None:  # fmt: skip
    """Tell *watchers* how the request of *server* ended. *branch*: whose answer it was, None for one of our own."""
    ctx = server.ctx
    to_tag = server.to_tag if response is None else response.to_tag
    uri = ctx.request_uri if branch is None else branch.request_uri
    for watcher in watchers:
        watcher(ctx, ctx.arrived_at, status, response, to_tag, uri)


def retransmit_reply(layer: TransactionLayer, server: ServerMachine) -> bool:
    """Send the last answer again; False when there is none."""
    return bool(server.last_reply) and layer.send(server.last_reply, server.flow)


# --- what the tables ask for


def apply_step(layer: TransactionLayer, server: ServerMachine, actions: int) -> None:
    """Carry out *actions* of a server table."""
    if actions & states.START_WAIT:
        settings = layer.settings
        wait_s = settings.wt_timer_s if server.state == states.CONFIRMED else settings.completed_timer_s
        server.resend_at = 0.0
        server.ends_at = layer.now() + wait_s
        if not isinstance(server, ServerTransaction):  # else it has its deadline until it is finished
            layer.wheel.arm(server, server.ends_at)
    elif actions & states.START_RESEND:
        now = layer.now()
        server.interval_s = layer.settings.retr_timer1_s
        server.ends_at = now + layer.settings.completed_timer_s
        if server.flow.transport == "udp":
            server.resend_at = now + server.interval_s
        layer.wheel.arm(server, server.next_wake())
    elif actions & states.DESTROY:
        destroy(layer, server)
        return
    if actions & (states.SEND | states.RESEND) and server.last_reply:
        layer.send(server.last_reply, server.flow)
