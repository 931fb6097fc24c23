"""What the transaction layer asks of the script: its reply, failure and branch routes.

All of them work on the Context the request's main route left: flags, attributes, edits and targets change there.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6, §16.7.
"""

from __future__ import annotations

import logging
from typing import Final

from serpy.context.context import BRANCH, DROPPED, FAILURE, ONREPLY, RUNNING, Context
from serpy.errors import ProtocolError, ResourceError
from serpy.sip.flow import Flow
from serpy.sip.message import Edits, Response
from serpy.transaction.layer import TransactionLayer
from serpy.transaction.server_side import reply
from serpy.transaction.transactions import ClientTransaction, ServerTransaction
from serpy.transaction.user import TransactionUser

log: Final = logging.getLogger(__name__)


class ScriptRoutes(TransactionUser):
    """Runs armed routes. ``layer`` is set by the first function of tm that the script calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer: TransactionLayer | None = None

    def on_reply(
        self, branch: ClientTransaction, response: Response, flow: Flow, ctx: Context | None
    ) -> Edits | None:  # fmt: skip
        """Run the branch's onreply route. Only a provisional can be dropped: a final ends a branch in any case."""
        server = branch.server
        owner = server.ctx
        if ctx is None:
            ctx = Context(response, flow, owner.clock, ONREPLY)
        ctx.request = server.request
        ctx.transaction = server
        ctx.flags = owner.flags
        ctx.avps = owner.avps
        ctx.status = response.status
        ctx.branch_index = branch.index
        ctx.target_flags = branch.flags
        if self.program is not None:
            try:
                self.program.run(ctx, ONREPLY, branch.on_reply)
            except (ProtocolError, ResourceError) as exc:
                log.debug("onreply_route[%s] gave up: %s", branch.on_reply, exc)  # the reply goes on all the same
        owner.flags = ctx.flags
        owner.avps = ctx.avps
        if ctx.state == DROPPED and response.status < 200:
            return None
        return ctx.edits

    def on_branch(self, ctx: Context, index: int) -> bool:
        """Run the branch route for one branch; *ctx* shows that branch's Request-URI."""
        ctx.kind = BRANCH
        ctx.state = RUNNING
        ctx.branch_index = index
        if self.program is not None:
            self.program.run(ctx, BRANCH, ctx.on_branch)
        dropped = ctx.state == DROPPED
        ctx.state = RUNNING
        return not dropped

    def on_failure(self, server: ServerTransaction, winner: ClientTransaction) -> None:
        """Run the failure route once: it is disarmed first, and may be armed again by the route itself."""
        if self.layer is None or self.program is None:
            return
        ctx = server.ctx
        name = ctx.on_failure
        ctx.on_failure = ""
        kind = ctx.kind
        ctx.kind = FAILURE
        ctx.state = RUNNING
        ctx.status = winner.status
        ctx.response = winner.response
        ctx.branch_index = winner.index
        ctx.uri_consumed = True
        try:
            self.program.run(ctx, FAILURE, name)
        except ProtocolError as exc:
            reply(self.layer, server, exc.status, exc.reason)
        except ResourceError:
            reply(self.layer, server, 503)
        finally:
            ctx.kind = kind
            ctx.state = RUNNING
            ctx.response = None
