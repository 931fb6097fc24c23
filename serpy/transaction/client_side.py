"""The downstream side: branches leave, are repeated, are answered or given up.

Timers are armed before anything is sent, and what a peer has answered counts whatever a route does with it: so a bug
on the way leaves a branch that still ends.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.7, §16.8, §16.9, §17.1; 3263 §4.3; 6026.
"""

from __future__ import annotations

from typing import Final

from serpy.context.context import SOFT, Context
from serpy.errors import ProtocolError
from serpy.sip.contact import kept_on_stream
from serpy.sip.flow import Flow
from serpy.sip.message import Edits, Response
from serpy.sip.parser import parse_message
from serpy.sip.writer import build_ack, build_forwarded_response
from serpy.transaction import states
from serpy.transaction.cancelling import send_cancel
from serpy.transaction.forking import collect, conclude
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.server_side import apply_step
from serpy.transaction.transactions import (
    CANCEL_WANTED,
    NO_EDITS,
    NO_FLOWS,
    NOT_CANCELLED,
    ClientMachine,
    ClientTransaction,
    ServerMachine,
)

SMALL: Final = 4096  # bytes of a request that may stay whole

# --- requests downstream


def start(layer: TransactionLayer, branch: ClientTransaction) -> bool:
    """Send *branch* for the first time, over its flow or the next that takes it; False when none did."""
    first: ClientTransaction | None = branch
    while first is not None:
        if send_first(layer, first):
            return True
        first.step(states.TRANSPORT_ERROR)
        layer.wheel.forget(first)
        first.status = 503  # §16.9
        first = next_address(first)
    return False


def send_first(layer: TransactionLayer, branch: ClientTransaction) -> bool:
    """Arm the timers of *branch* and send it; False when its flow refused it."""
    server = branch.server
    layer.clients[branch.branch_id] = branch
    settings = layer.settings
    now = layer.now()
    fr_s = server.fr_s or settings.fr_timer_s
    branch.gives_up_at = min(now + fr_s, server.expires_at)
    flow = branch.flow
    if flow is None:
        return False
    if flow.transport == "udp":
        branch.interval_s = settings.retr_timer1_s
        branch.retransmit_at = now + branch.interval_s
    layer.wheel.arm(branch, branch.next_wake())
    return layer.send(branch.data, flow)


def next_address(branch: ClientTransaction) -> ClientTransaction | None:
    """A new transaction to the next address of the same target: new branch parameter, same body. None: there is none."""
    server = branch.server
    if not branch.alternatives or branch.replied or branch.cancelling != NOT_CANCELLED:
        return None
    if server.is_final() or not server.has_room(1):
        return None
    alternatives = branch.alternatives
    head, _, way = branch.branch_id.rpartition(".")
    branch_id = f"{head.rpartition('.')[0]}.{len(server.branches)}.{way}"
    following = ClientTransaction(server, branch_id, branch.request_uri)
    following.flow = alternatives[0]
    following.alternatives = alternatives[1:]
    following.on_reply = branch.on_reply
    following.flags = branch.flags
    following.data = branch.data.replace(branch.branch_id.encode("ascii"), branch_id.encode("ascii"), 1)
    branch.alternatives = NO_FLOWS
    branch.status = 503
    branch.dropped = True
    server.append_branch(following)
    return following


def not_sent(layer: TransactionLayer, branch_id: str) -> None:
    """The request of this branch did not leave after all (§18.4): fail it, when the turn of its Call-ID comes."""
    branch = layer.clients.get(branch_id)
    if isinstance(branch, ClientTransaction) and branch.state < states.COMPLETED and not branch.replied:
        branch.unreachable = True
        layer.wheel.arm(branch, layer.now())


def fail(layer: TransactionLayer, branch: ClientTransaction, status: int) -> None:
    """Count *branch* as answered with *status* (§16.8, §16.9), or try its next addresses first."""
    branch.gives_up_at = 0.0
    following = next_address(branch)
    if following is not None and start(layer, following):
        return
    if branch.status < 200:
        branch.status = status
        branch.response = None
    conclude(layer, branch.server)


# --- responses from downstream


def receive_response(
    layer: TransactionLayer, branch: ClientMachine, response: Response, flow: Flow, ctx: Context | None
) -> None:
    """Take in *response* of *branch*. *ctx* is what the default onreply route worked on, if there is one."""
    status = response.status
    if status < 200:
        event = states.RECV_1XX
    elif status < 300:
        event = states.RECV_2XX
    else:
        event = states.RECV_300_699
    actions = branch.step(event)
    if actions == 0:
        return
    if actions & states.STOP_RETRANSMIT:
        branch.retransmit_at = 0.0
        if len(branch.data) > SMALL:
            keep_head(layer, branch)
    if not isinstance(branch, ClientTransaction):
        late_response(layer, branch, response, actions, ctx)
        return
    if status < 200:
        provisional(layer, branch, actions, status)
    else:
        branch.gives_up_at = 0.0
        branch.fires_at = 0.0
    if branch.flags & SOFT and not branch.replied and branch.flow is not None and branch.flow.host == flow.host:
        for hook in layer.on_proven:
            hook(branch.request_uri)
    branch.replied = True
    if actions & states.SEND_ACK:
        acknowledge(layer, branch, response)
    if actions & states.PASS_UP:
        if branch.on_reply:
            run_reply_route(layer, branch, response, flow, ctx)
        else:
            collect(layer, branch, response, ctx.edits if ctx is not None else NO_EDITS)


def keep_head(layer: TransactionLayer, branch: ClientMachine) -> None:
    """Nothing will be repeated: ACK and CANCEL are made from the head, and the request has its body itself."""
    end = branch.data.find(b"\r\n\r\n") + 4
    if not isinstance(branch, ClientTransaction) or branch.alternatives or len(branch.data) - end < SMALL:
        return
    branch.server.kept -= len(branch.data) - end
    layer.kept -= len(branch.data) - end
    branch.data = branch.data[:end]


def run_reply_route(
    layer: TransactionLayer, branch: ClientTransaction, response: Response, flow: Flow, ctx: Context | None
) -> None:
    """Run the onreply route of *branch* and collect what it leaves of *response*: a final one in any case. May park."""
    server = branch.server
    was_held = server.is_held
    server.is_held = True
    edits: Edits | None = None if response.status < 200 else ctx.edits if ctx is not None else NO_EDITS
    try:
        edits = layer.user.on_reply(branch, response, flow, ctx)
    finally:
        server.is_held = was_held
        if edits is not None:
            collect(layer, branch, response, edits)
        else:
            conclude(layer, server)


def provisional(layer: TransactionLayer, branch: ClientTransaction, actions: int, status: int) -> None:
    """A 1xx: timer C for INVITE, T2 for others; and what waited for it."""
    if not branch.is_invite:
        if branch.interval_s:
            branch.interval_s = layer.settings.retr_timer2_s  # §17.1.2.2: E runs at T2 after a provisional
        return
    if branch.cancelling == CANCEL_WANTED:
        send_cancel(layer, branch, branch.server.cancel_reason)
    elif actions & states.RESTART_GIVE_UP and branch.cancelling == NOT_CANCELLED:
        server = branch.server
        settings = layer.settings
        # §16.7 step 2: 101-199 start timer C again. A time that the script has set for this request is not stretched.
        is_restart = status > 100 and settings.restart_fr_on_each_reply and not server.fr_inv_s
        if not branch.replied or is_restart:
            gives_up_at = layer.now() + (server.fr_inv_s or settings.fr_inv_timer_s)
            branch.gives_up_at = min(server.expires_at, gives_up_at)
            layer.wheel.arm(branch, branch.gives_up_at)


def acknowledge(layer: TransactionLayer, branch: ClientMachine, response: Response) -> None:
    """ACK a negative answer, each time it comes (§17.1.1.3)."""
    if not branch.ack:
        branch.ack = build_ack(branch.data, response)
    if branch.flow is not None:
        layer.send(branch.ack, branch.flow)


# --- after the end


def late_response(
    layer: TransactionLayer, machine: ClientMachine, response: Response, actions: int, ctx: Context | None
) -> None:
    """An answer to a CANCEL of ours, or one that comes when its request has been let go (a residue)."""
    if not machine.is_invite:
        if response.status >= 200:
            layer.wheel.forget(machine)
        else:
            machine.interval_s = layer.settings.retr_timer2_s  # §17.1.2.2, as for any other request
        return
    if machine.cancelling == CANCEL_WANTED and response.status < 200:
        send_cancel(layer, machine, "")
    if actions & states.SEND_ACK:
        acknowledge(layer, machine, response)
    if actions & states.PASS_UP and 200 <= response.status < 300 and machine.upstream is not None:
        edits = ctx.edits if ctx is not None else NO_EDITS
        if machine.upstream.dialog and machine.flow is not None and machine.flow.transport != "udp":
            edits = kept_on_stream(response, edits, machine.flow)
        late_2xx(layer, machine.upstream, response, edits)


def late_2xx(layer: TransactionLayer, server: ServerMachine, response: Response, edits: Edits) -> None:
    """Pass on a 2xx to INVITE: what went upstream for it before, routes and all; else with the edits of the default route."""
    layer.relayed_replies += 1
    if server.dialog:
        layer.dialogs.answered(server.dialog, None, response, edits, None)
    if 200 <= server.status < 300 and to_tag_of(server.last_reply) == response.to_tag:
        if server.may_repeat():
            layer.send(server.last_reply, server.flow)
        return
    server.status = response.status
    server.last_reply = build_forwarded_response(response, edits)
    actions = server.step(states.SEND_2XX)
    if actions:
        apply_step(layer, server, actions)
    else:
        layer.send(server.last_reply, server.flow)


def to_tag_of(data: bytes) -> str:
    """The To tag of a response of ours."""
    try:
        return parse_message(data).to_tag
    except ProtocolError:
        return ""
