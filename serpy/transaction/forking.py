"""One request, several branches, one answer: what the branches say goes into the response context, the best of it upstream.

``conclude`` is asked whenever a branch or a route has ended; ``life`` says whether it is time.

Runs in: udp receiver. Locks: none. RFC: 3261 §9.2, §16.7, §16.10; 4320.
"""

from __future__ import annotations

from collections.abc import Sequence

from serpy.sip.contact import kept_on_stream
from serpy.sip.message import Edits, Response
from serpy.sip.writer import build_forwarded_response
from serpy.transaction import life, states
from serpy.transaction.cancelling import cancel_branches
from serpy.transaction.ending import settle
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.response_context import challenges, pick
from serpy.transaction.server_side import answer, end_silently, reply, report
from serpy.transaction.transactions import ClientTransaction, ServerTransaction


def collect(layer: TransactionLayer, branch: ClientTransaction, response: Response, edits: Edits) -> None:
    """Put the answer of *branch* into the response context (§16.7)."""
    server = branch.server
    status = response.status
    if status < 200:
        branch.status = status
        # RFC 4320 §4.1: no provisional but 100 may answer a non-INVITE, and 100 is hop by hop.
        if status != 100 and server.is_invite and server.status < 200:
            relay_response(layer, branch, response, edits)
        return
    branch.status = status
    if status < 300:
        branch.response = None
        if server.is_invite or server.status < 200:
            relay_response(layer, branch, response, edits)
        if server.state != states.TERMINATED:  # else that was the only one
            cancel_branches(layer, server, status)
            settle(layer, server)
        return
    branch.response = response
    branch.edits = edits
    if status >= 600 and not layer.settings.disable_6xx_block:
        cancel_branches(layer, server, status)
    conclude(layer, server)


def relay_response(layer: TransactionLayer, branch: ClientTransaction, response: Response, edits: Edits) -> None:
    """Pass *response* on to the caller of the request, unless the request is a copy."""
    server = branch.server
    if server.is_copy:
        if response.status >= 200:
            end_silently(layer, server)
        return
    layer.relayed_replies += 1
    dialog = server.ctx.dialog
    if dialog and response.status < 300:
        flow = branch.flow
        if flow is not None and flow.transport != "udp":
            edits = kept_on_stream(response, edits, flow)
        layer.dialogs.answered(dialog, server.ctx, response, edits, flow)
    answer(layer, server, response.status, build_forwarded_response(response, edits), branch, response)


def conclude(layer: TransactionLayer, server: ServerTransaction) -> None:
    """When all branches are final and none was 2xx: failure route, then the best answer upstream. May park."""
    is_done = False
    try:
        while (wanted := server.verdict(life.ENDED)) == life.CHOOSE:
            if not may_try_again(layer, server):
                send_best(layer, server)
                break
        if wanted == life.FINISH:
            settle(layer, server)
        is_done = True
    finally:
        if not is_done and server.verdict(life.ENDED) != life.WAIT:
            send_best(layer, server)  # a bug of ours: the caller gets what there is


def may_try_again(layer: TransactionLayer, server: ServerTransaction) -> bool:
    """Run the failure route; True when it has added branches or answered. May park."""
    winner = pick(server.branches)
    if winner is None or server.is_copy:
        return False
    if server.is_watched:
        report(layer.on_failed, server, winner.status, winner, winner.response)
    if not server.ctx.on_failure:
        return False
    count = len(server.branches)
    server.is_held = True
    try:
        layer.user.on_failure(server, winner)
    finally:
        server.is_held = False
    if server.is_final():
        return True
    if len(server.branches) == count:
        return False
    if layer.settings.drop_earlier:
        for branch in server.branches[:count]:
            branch.dropped = True
    return True


def send_best(layer: TransactionLayer, server: ServerTransaction) -> None:
    """Answer *server* with the best its branches have said; nothing for a copy, nothing twice."""
    winner = pick(server.branches)
    if server.is_final():
        settle(layer, server)
    elif server.is_copy:
        end_silently(layer, server)
    elif winner is None:
        reply(layer, server, layer.settings.default_code, layer.settings.default_reason)
    elif winner.response is None:
        # given up because the caller did?
        status = 487 if winner.status == 408 and server.cancelled else winner.status
        reply(layer, server, 500 if status == 503 and not layer.settings.pass_503 else status)
    elif winner.status == 408 and not server.is_invite:
        end_silently(layer, server)  # RFC 4320 §4.2
    elif winner.status == 503 and not layer.settings.pass_503:
        reply(layer, server, 500)  # §16.7 step 6: that one server is overloaded says nothing about us
    else:
        relay_response(layer, winner, winner.response, with_challenges(layer, server, winner, winner.response))


def with_challenges(
    layer: TransactionLayer, server: ServerTransaction, winner: ClientTransaction, response: Response
) -> Edits:
    """The edits of *response*; a 401 or 407 gets the challenges of the other branches too (§16.7 step 7)."""
    edits = winner.edits
    if winner.status in {401, 407} and layer.settings.aggregate_challenges and len(server.branches) > 1:
        lines = challenges(server.branches, response)
        if lines:
            edits = edits.copy()
            for line in lines:
                edits.append(line)
    return edits


# --- asked from above


def cancel_request(layer: TransactionLayer, server: ServerTransaction, reasons: Sequence[str] = ()) -> None:
    """The caller has cancelled *server*, an INVITE (§9.2, §16.10). No effect after a final answer.

    *reasons* are the header lines of the CANCEL that tell the branches why (RFC 3326).
    """
    server.cancelled = True
    if server.is_final():
        return
    if reasons and not server.cancel_reason:
        server.cancel_reason = "\r\n".join(reasons)
    if not server.branches:
        reply(layer, server, 487)
        return
    cancel_branches(layer, server)
    conclude(layer, server)


def script_ended(layer: TransactionLayer, server: ServerTransaction) -> None:
    """After the main route: answer for a failed ``t_relay``, or go on with what was started."""
    server.is_held = False
    wanted = server.verdict(life.ENDED)
    if wanted in {life.CHOOSE, life.LEAVE} and server.relay_error:
        reply(layer, server, server.relay_error)
    elif wanted == life.LEAVE:
        if server.is_copy:
            end_silently(layer, server)  # the script may have answered statelessly
            return
        # Nobody is asked and nobody will be: no longer than a peer that says nothing.
        server.expires_at = min(server.expires_at, layer.now() + layer.settings.fr_timer_s)
        layer.wheel.arm(server, server.expires_at)
    elif wanted != life.WAIT:
        conclude(layer, server)
