"""One request we answer for: the server transaction and the Context the script filled for it.

Runs in: udp receiver. Locks: none. RFC: 3261 §17.2, 6026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.context.context import Context
from serpy.sip.flow import Flow
from serpy.sip.message import Request
from serpy.transaction import states
from serpy.transaction.matching import ServerKey
from serpy.transaction.timers import Timed

if TYPE_CHECKING:
    from serpy.transaction.client import ClientTransaction


class ServerTransaction(Timed):
    """The upstream side of one request, and its branches downstream.

    ``ctx`` is the Context of the request: failure, reply and branch routes work on it. It is let go of once nothing
    can need it any more, so that what waits for WAIT is small. Timer lengths are seconds.
    """

    def __init__(self, key: ServerKey, request: Request, ctx: Context, reply_flow: Flow, number: int) -> None:
        super().__init__()
        self.key: Final = key
        self.method: Final = request.method
        self.is_invite: Final = request.method == "INVITE"
        self.call_id: Final = request.call_id
        self.number: Final = number
        self.request: Request | None = request
        self.ctx: Context | None = ctx
        self.flow: Final = reply_flow
        self.state = states.PROCEEDING if self.is_invite else states.TRYING
        self.branches: list[ClientTransaction] = []
        self.status = 0  # last code sent upstream
        self.last_reply = b""
        self.to_tag = ""  # of our own replies
        self.resend_at = 0.0  # G
        self.interval_s = 0.0
        self.ends_at = 0.0  # H in Completed, then WAIT
        self.cancelled = False  # the caller sent CANCEL
        self.in_failure_route = False
        self.in_script = True  # the main route is still running
        self.in_relay = False  # branches are being started: not yet the time to choose
        self.expires_at = 0.0  # max_inv_lifetime, max_noninv_lifetime
        self.delayed_error = 0  # a failed t_relay: answer this at the end of the script unless something else did
        self.watched_at = 0.0  # Unix time of the request when somebody wants to know how it ends, else 0.0
        self.cancel_reason = ""  # header lines that tell the branches why they are cancelled (RFC 3326)
        self.replicated = False  # t_replicate: what the branches answer goes nowhere
        # per-transaction timers, 0.0 = the module's
        self.fr_s = 0.0
        self.fr_inv_s = 0.0

    def step(self, event: int) -> int:
        """Move to the next state; the actions to take, 0 when *event* changes nothing."""
        steps = states.INVITE_SERVER_STEPS if self.is_invite else states.NON_INVITE_SERVER_STEPS
        code = steps[self.state * states.EVENTS + event]
        if code < 0:
            return 0
        self.state = code & 7
        return code >> 3

    def is_final(self) -> bool:
        """True when a final answer has been sent upstream."""
        return self.status >= 200
