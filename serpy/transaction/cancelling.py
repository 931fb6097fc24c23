"""Tell branches of an INVITE to stop: CANCEL, now or as soon as the peer has said anything.

Runs in: udp receiver. Locks: none. RFC: 3261 §9.1, §16.7 step 10; 3326.
"""

from __future__ import annotations

from serpy.sip.status import reason_phrase
from serpy.sip.writer import build_cancel
from serpy.transaction import states
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.transactions import (
    CANCEL_SENT,
    CANCEL_WANTED,
    NOT_CANCELLED,
    ClientMachine,
    ClientTransaction,
    ServerTransaction,
)


def cancel_branches(layer: TransactionLayer, server: ServerTransaction, cause: int = 0) -> None:
    """Cancel every branch of an INVITE that has no final answer yet (§16.7 step 10).

    *cause* is the answer that ended the others, 0 = the caller's own wish.
    """
    if not server.is_invite:
        return
    for branch in server.branches:
        if branch.status < 200:
            if cause and not server.cancel_reason and layer.settings.local_cancel_reason:
                server.cancel_reason = reason_line(cause)
            cancel_branch(layer, branch)


def cancel_branch(layer: TransactionLayer, branch: ClientTransaction) -> None:
    """CANCEL *branch* now or, when the peer has not answered at all, as soon as it does (§9.1)."""
    if branch.cancelling != NOT_CANCELLED or branch.state >= states.COMPLETED:
        return
    method = layer.settings.cancel_b_method
    if branch.replied or method == 2:
        send_cancel(layer, branch, branch.server.cancel_reason)
    elif method == 0:
        branch.retransmit_at = 0.0
        branch.fires_at = 0.0
        branch.cancelling = CANCEL_WANTED
        branch.status = 487
    else:
        branch.cancelling = CANCEL_WANTED


def send_cancel(layer: TransactionLayer, branch: ClientMachine, reason: str) -> None:
    """CANCEL *branch* at once, with the header lines *reason* ("" = none)."""
    flow = branch.flow
    if flow is None:
        return
    settings = layer.settings
    now = layer.now()
    branch.cancelling = CANCEL_SENT
    cancel = ClientMachine(branch.branch_id, branch.call_id, invite=False)
    cancel.data = build_cancel(branch.data, [*settings.cancel_headers, reason] if reason else settings.cancel_headers)
    cancel.flow = flow
    branch.cancel = cancel
    cancel.gives_up_at = now + settings.fr_timer_s
    cancel.interval_s = settings.retr_timer1_s
    if flow.transport == "udp":
        cancel.retransmit_at = now + cancel.interval_s
    layer.wheel.arm(cancel, cancel.next_wake())
    if branch.state < states.COMPLETED:
        # §9.1: a peer that has not ended the INVITE 64*T1 after our CANCEL never will.
        branch.gives_up_at = now + 64 * settings.retr_timer1_s
        layer.wheel.arm(branch, branch.next_wake())
    layer.send(cancel.data, flow)


def reason_line(status: int) -> str:
    """Why the others of a fork are cancelled: one of them has answered *status* (RFC 3326)."""
    text = "Call completed elsewhere" if status < 300 else reason_phrase(status)
    return f'Reason: SIP;cause={status};text="{text}"'
