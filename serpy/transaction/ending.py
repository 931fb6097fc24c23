"""When a transaction has ended for its caller: what is left of it, and for how long.

The request, its Context and its branches go as soon as nobody needs them (``life``); the machines stay for 64*T1. Every
reference between them is cut here, so that nothing waits for the garbage collector.

Runs in: udp receiver. Locks: none. RFC: 3261 §17.1.1.2, §17.2; 6026.
"""

from __future__ import annotations

from serpy.transaction import life, states
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.transactions import ClientTransaction, ServerMachine, ServerTransaction


def settle(layer: TransactionLayer, server: ServerTransaction) -> None:
    """Finish *server* if its life is over; something has just ended."""
    if server.verdict(life.ENDED) == life.FINISH:
        finish(layer, server)


def finish(layer: TransactionLayer, server: ServerTransaction) -> None:
    """Let the request of *server* go; leave what repeats its answer and passes on what comes late."""
    if server.state == states.TERMINATED:
        return
    wheel = layer.wheel
    wheel.forget(server)
    left = server.residue()
    if left.ends_at == 0.0:
        left.ends_at = layer.now() + layer.settings.completed_timer_s
    layer.servers[left.key] = left
    wheel.arm(left, left.next_wake())
    layer.let_go(server)
    server.state = states.TERMINATED
    for branch in server.branches:
        leave_branch(layer, branch, None if server.is_copy else left)
    server.branches.clear()
    ctx = server.ctx
    ctx.transaction = None
    if ctx.dialog and not server.is_copy:
        layer.dialogs.ended(ctx.dialog, server.request, server.status)


def leave_branch(layer: TransactionLayer, branch: ClientTransaction, upstream: ServerMachine | None) -> None:
    """Let *branch* go. Of an INVITE that has left stays what acknowledges and passes on; of others nothing is wanted."""
    layer.wheel.forget(branch)
    was_sent = branch.replied or branch.timed_out or branch.state != states.TERMINATED
    if not branch.is_invite or not was_sent:
        layer.clients.pop(branch.branch_id, None)
        return
    left = branch.residue(upstream)
    left.gives_up_at = layer.now() + layer.settings.completed_timer_s
    layer.clients[left.branch_id] = left
    layer.wheel.arm(left, left.gives_up_at)


def destroy(layer: TransactionLayer, server: ServerMachine) -> None:
    """Forget *server*, and what branches it has."""
    if layer.servers.get(server.key) is server:
        del layer.servers[server.key]
    if isinstance(server, ServerTransaction) and server.state != states.TERMINATED:
        layer.let_go(server)
    server.state = states.TERMINATED
    layer.wheel.forget(server)
    if isinstance(server, ServerTransaction):
        for branch in server.branches:
            layer.clients.pop(branch.branch_id, None)
            layer.wheel.forget(branch)
            branch.cancel = None
        server.branches.clear()
        server.ctx.transaction = None
