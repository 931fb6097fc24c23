"""The timers of the transactions: what happens when an instant has come.

A timer may come late, because it waits behind a parked handler of its Call-ID; so each is compared with the present
again, and one that was moved or stopped meanwhile does nothing.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.8, §17; 4320; 6026.
"""

from __future__ import annotations

from serpy.context.context import SOFT
from serpy.transaction import life, states
from serpy.transaction.cancelling import send_cancel
from serpy.transaction.client_side import fail
from serpy.transaction.ending import finish
from serpy.transaction.forking import send_best
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.server_side import apply_step, end_silently, reply
from serpy.transaction.timers import Timed
from serpy.transaction.transactions import (
    NOT_CANCELLED,
    ClientMachine,
    ClientTransaction,
    ServerMachine,
    ServerTransaction,
)


def call_id_of(timed: Timed) -> str:
    """The Call-ID whose order *timed* has to keep."""
    if isinstance(timed, ServerMachine):
        return timed.call_id
    if isinstance(timed, ClientMachine):
        return timed.call_id
    return ""


def fire(layer: TransactionLayer, timed: Timed) -> None:
    """Do what *timed* is due for, if it still is."""
    now = layer.now()
    if not timed.take_turn(now):
        return
    if isinstance(timed, ClientTransaction):
        fire_branch(layer, timed, now)
    elif isinstance(timed, ServerTransaction):
        fire_request(layer, timed, now)
    elif isinstance(timed, ServerMachine):
        fire_server(layer, timed, now)
    elif isinstance(timed, ClientMachine):
        if timed.is_invite:
            if layer.clients.get(timed.branch_id) is timed:
                del layer.clients[timed.branch_id]
        else:
            fire_cancel(layer, timed, now)


def run_due(layer: TransactionLayer) -> None:
    """Fire everything that is due. (The pipeline does the same one by one, to keep the order of each Call-ID.)"""
    wheel = layer.wheel
    wheel.advance(layer.now())
    while wheel.due:
        fire(layer, wheel.due.popleft())


# --- downstream


def fire_branch(layer: TransactionLayer, branch: ClientTransaction, now: float) -> None:
    """A branch: its connection has failed, it is given up (B, F, C), or repeated (A, E)."""
    if branch.state >= states.COMPLETED:
        return
    if branch.unreachable and not branch.replied:
        branch.unreachable = False
        branch.retransmit_at = 0.0
        branch.step(states.TRANSPORT_ERROR)
        fail(layer, branch, 503)
    elif branch.gives_up_at and now >= branch.gives_up_at:
        branch.retransmit_at = 0.0
        branch.timed_out = True
        layer.timeouts += 1
        if branch.step(states.TIMER_GIVE_UP) & states.CANCEL_FIRST and branch.cancelling == NOT_CANCELLED:
            send_cancel(layer, branch, branch.server.cancel_reason)
        fail(layer, branch, 408)
    elif branch.flags & SOFT and is_asked_enough(layer, branch, now):
        branch.retransmit_at = 0.0
        layer.wheel.arm(branch, branch.next_wake())
    elif not repeat(layer, branch, now):
        branch.retransmit_at = 0.0
        branch.step(states.TRANSPORT_ERROR)
        fail(layer, branch, 503)


def is_asked_enough(layer: TransactionLayer, branch: ClientTransaction, now: float) -> bool:
    """True when a branch to an address that never answered anything has been sent and repeated twice."""
    settings = layer.settings
    if branch.replied or branch.retransmit_at == 0.0 or now < branch.retransmit_at:
        return False
    return branch.interval_s >= min(4 * settings.retr_timer1_s, settings.retr_timer2_s)


def fire_cancel(layer: TransactionLayer, cancel: ClientMachine, now: float) -> None:
    """A CANCEL of ours: repeated until it is answered, nobody waits for more."""
    if cancel.state < states.COMPLETED and now < cancel.gives_up_at:
        repeat(layer, cancel, now)


def repeat(layer: TransactionLayer, machine: ClientMachine, now: float) -> bool:
    """Send the request of *machine* again if that is due, and arm its next timer; False when its flow refused it."""
    flow = machine.flow
    is_due = machine.retransmit_at != 0.0 and now >= machine.retransmit_at
    if is_due:
        machine.interval_s *= 2
        if not machine.is_invite and machine.interval_s > layer.settings.retr_timer2_s:
            machine.interval_s = layer.settings.retr_timer2_s
        machine.retransmit_at = following(machine.retransmit_at, machine.interval_s, now)
    wake = machine.next_wake()
    if wake:
        layer.wheel.arm(machine, wake)
    if not is_due or flow is None or not machine.step(states.TIMER_RETRANSMIT) & states.RESEND:
        return True
    layer.retransmissions += 1
    return layer.send(machine.data, flow)


def following(was_due: float, interval_s: float, now: float) -> float:
    """The instant after *was_due*: counted from there, or ticks would add up; what was slept through is not made up for."""
    then = was_due + interval_s
    return then if then > now else now + interval_s


# --- upstream


def fire_server(layer: TransactionLayer, server: ServerMachine, now: float) -> None:
    """What is left of an answered request: G repeats a negative answer, H, I, J and L forget it."""
    if now >= server.ends_at:
        apply_step(layer, server, server.step(states.TIMER_WAIT))
    elif server.resend_at:
        resend(layer, server, now)
    else:
        layer.wheel.arm(server, server.ends_at)


def resend(layer: TransactionLayer, server: ServerMachine, now: float) -> None:
    """G: a negative answer that nobody has acknowledged."""
    if now >= server.resend_at and not server.may_repeat():
        server.resend_at = 0.0
        layer.wheel.arm(server, server.ends_at)
    elif now >= server.resend_at:
        server.interval_s = min(server.interval_s * 2, layer.settings.retr_timer2_s)
        server.resend_at = following(server.resend_at, server.interval_s, now)
        layer.wheel.arm(server, server.next_wake())
        apply_step(layer, server, server.step(states.TIMER_RESEND))
    else:
        layer.wheel.arm(server, server.next_wake())


def fire_request(layer: TransactionLayer, server: ServerTransaction, now: float) -> None:
    """A request we still work on: G, or its last deadline."""
    if server.resend_at and now < server.ends_at:
        resend(layer, server, now)
        return
    server.resend_at = 0.0
    if not server.is_final() and now < server.expires_at:
        layer.wheel.arm(server, server.expires_at)
        return
    wanted = server.verdict(life.DEADLINE)
    server.is_held = False
    if wanted == life.FINISH:
        finish(layer, server)
        return
    if wanted == life.SEND_BEST:
        send_best(layer, server)
    elif wanted != life.LINGER:
        refuse(layer, server, 500 if wanted == life.REFUSE else 408)
    if server.state != states.TERMINATED:
        linger(layer, server, now)


def refuse(layer: TransactionLayer, server: ServerTransaction, status: int) -> None:
    """The time is over: say so to the caller of an INVITE, anybody else has given up by now (RFC 4320 §4.2)."""
    if server.is_copy or not server.is_invite:
        end_silently(layer, server)
    else:
        reply(layer, server, 487 if server.cancelled else status)


def linger(layer: TransactionLayer, server: ServerTransaction, now: float) -> None:
    """Wait for branches that end by themselves, or finish *server* when there is none."""
    latest = 0.0
    for branch in server.branches:
        if branch.status < 200:
            latest = max(latest, branch.gives_up_at)
    if latest > now:
        wake = latest + layer.settings.retr_timer1_s
        layer.wheel.arm(server, min(wake, server.resend_at) if server.resend_at else wake)
    else:
        finish(layer, server)
