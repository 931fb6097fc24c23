"""What the transaction layer asks of whoever uses it: the script's routes, through ``modules/tm``.

Runs in: udp receiver. Locks: none. RFC: 3261 §5 (transaction user).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serpy.context.context import Context
from serpy.sip.flow import Flow
from serpy.sip.message import Edits, Request, Response
from serpy.transaction.transactions import NO_EDITS, ClientTransaction, ServerTransaction

Outcome = Callable[[Context, float, int, Response | None, str, str], None]
"""(context of the request, its Unix time, status, the response or None for our own answer, To tag, URI it was sent to)."""


class Routes(Protocol):
    """The compiled script, as much of it as is wanted here."""

    def run(self, ctx: Context, kind: int, name: str, /) -> int:
        """Run the route *name* of that kind for *ctx*."""


class TransactionUser:
    """What the layer asks of the script. This one lets everything take its course. Each may park."""

    def __init__(self) -> None:
        self.program: Routes | None = None  # the pipeline sets it

    def on_reply(
        self, branch: ClientTransaction, response: Response, flow: Flow, ctx: Context | None  # noqa: ARG002
    ) -> Edits | None:  # fmt: skip
        """Run the armed onreply route; the edits of the response, None when it was dropped."""
        return ctx.edits if ctx is not None else NO_EDITS

    def on_branch(self, ctx: Context, index: int) -> bool:  # noqa: ARG002
        """Run the armed branch route for the branch *index* about to be made; False = the script dropped it."""
        return True

    def on_failure(self, server: ServerTransaction, winner: ClientTransaction) -> None:
        """Run the armed failure route. It may reply or add branches."""


class DialogWatcher:
    """Who remembers calls: told what becomes of requests whose Context names a ``dialog``. This one remembers none."""

    def answered(
        self, dialog: int, ctx: Context | None, response: Response, edits: Edits, flow: Flow | None
    ) -> None:  # fmt: skip
        """*response*, from *flow*, goes upstream: a provisional or a 2xx. *ctx* is None when the request has been let go."""

    def passed(self, response: Response, edits: Edits, flow: Flow) -> None:
        """*response*, from *flow*, has been forwarded without a transaction."""

    def ended(self, dialog: int, request: Request, status: int) -> None:
        """*request* has got its final answer, from whomever."""
