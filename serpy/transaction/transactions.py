"""The transactions of one request: its server transaction, and a client transaction for each branch.

A *machine* is what RFC 3261 §17 needs: a state, timers, the bytes to repeat. A transaction is a machine at work, with
the request, its Context and what the branches have answered. When all is said the machine alone is left for 64*T1 (a
residue of a few hundred bytes): it repeats the answer, absorbs what comes again, and passes on a late 2xx.

A CANCEL we send is a machine of its own with the branch parameter of the request it cancels (§9.1), kept in
``cancel`` of that branch. ``branches`` grows in ``append_branch`` alone.

Runs in: udp receiver. Locks: none. RFC: 3261 §9.1, §16.7, §17, 6026.
"""

from __future__ import annotations

from typing import Final

from serpy.context.context import MAX_BRANCHES, Context
from serpy.errors import UsageError
from serpy.sip.flow import Flow
from serpy.sip.message import Edits, Request, Response
from serpy.transaction import life, states
from serpy.transaction.matching import ServerKey
from serpy.transaction.timers import Timed

NO_EDITS: Final = Edits()  # shared and never changed, like the next
NO_FLOWS: Final[list[Flow]] = []
# How far the cancelling of a branch has come.
NOT_CANCELLED: Final = 0
CANCEL_WANTED: Final = 1  # a provisional has to come first (RFC 3261 §9.1)
CANCEL_SENT: Final = 2


class ServerMachine(Timed):
    """Figures 7 and 8 for one request: where its answers go, and the last one. ``call_id`` keeps its timers in order."""

    def __init__(self, key: ServerKey, call_id: str, flow: Flow, *, invite: bool) -> None:
        super().__init__()
        self.key: Final = key
        self.call_id: Final = call_id
        self.is_invite: Final = invite
        self.flow: Final = flow
        self.state = states.PROCEEDING if invite else states.TRYING
        self.status = 0  # last code sent upstream, or what it ended with when nothing was sent
        self.last_reply = b""
        self.to_tag = ""  # of our own replies
        self.cancelled = False  # the caller sent CANCEL
        self.dialog = 0  # of a residue: Context.dialog of its request
        self.resend_at = 0.0  # G, 0.0 = not any more
        self.interval_s = 0.0
        self.ends_at = 0.0  # H, I, J or L
        self.repeats_left = -1  # octets of answers that may be sent again, -1 = any

    def step(self, event: int) -> int:
        """Move to the next state; the actions to take, 0 when *event* is ignored there. Raises UsageError."""
        steps = states.INVITE_SERVER_STEPS if self.is_invite else states.NON_INVITE_SERVER_STEPS
        code = steps[self.state * states.EVENTS + event]
        if code < 0:
            return states.no_step(code, self.state, event)
        self.state = code & 7
        return code >> 3

    def is_final(self) -> bool:
        """True when it has ended for its caller: a final answer, or the end without one."""
        return self.status >= 200

    def may_repeat(self) -> bool:
        """True when the last answer may be sent again unasked: a caller who may be somebody else gets so many octets."""
        left = self.repeats_left
        if left < 0:
            return True
        if len(self.last_reply) > left:
            return False
        self.repeats_left = left - len(self.last_reply)
        return True

    def next_wake(self) -> float:
        """When the timer of an answered request is wanted next."""
        return self.resend_at if 0.0 < self.resend_at < self.ends_at else self.ends_at


class ServerTransaction(ServerMachine):
    """A request we work on, and its branches downstream.

    ``ctx`` is the Context of the request: failure, reply and branch routes work on it. Timer lengths are seconds.
    """

    def __init__(self, key: ServerKey, request: Request, ctx: Context, reply_flow: Flow, number: int) -> None:
        super().__init__(key, request.call_id, reply_flow, invite=request.method == "INVITE")
        self.method: Final = request.method
        self.request: Final = request
        self.ctx: Final = ctx
        self.number: Final = number
        self.branches: list[ClientTransaction] = []
        self.is_held = True  # a route or t_relay is at work on it and asks when it is done; first the main route
        self.expires_at = 0.0  # max_inv_lifetime, max_noninv_lifetime: no branch goes on for longer
        self.relay_error = 0  # a failed t_relay: answer this at the end of the script unless something else did
        self.is_watched = False  # somebody wants to know how it ends
        self.is_copy = False  # t_replicate: what the branches answer goes nowhere
        self.kept = 0  # bytes of messages, as the layer counts them
        self.cancel_reason = ""  # header lines that tell the branches why they are cancelled (RFC 3326)
        # per-transaction timers, 0.0 = the module's
        self.fr_s = 0.0
        self.fr_inv_s = 0.0

    def append_branch(self, branch: ClientTransaction) -> None:
        """Make *branch* one of ours. Raises UsageError when there are too many: ask ``has_room`` first."""
        if not self.has_room(1):
            raise UsageError(f"more than {MAX_BRANCHES} branches")
        self.branches.append(branch)

    def has_room(self, count: int) -> bool:
        """True when *count* more branches are not too many."""
        return len(self.branches) + count <= MAX_BRANCHES

    def progress(self) -> int:
        """How far the branches are, in words of ``life``."""
        branches = self.branches
        if not branches:
            return life.NO_BRANCH
        for branch in branches:
            if branch.status < 200:
                return life.OPEN
        return life.ALL_FINAL

    def verdict(self, event: int) -> int:
        """What is to be done now that *event* has come."""
        row = event + self.progress()
        if self.is_held:
            row += life.HELD
        if self.status >= 200:
            row += life.ANSWERED
        return life.VERDICTS[row]

    def residue(self) -> ServerMachine:
        """What goes on without the request."""
        left = ServerMachine(self.key, self.call_id, self.flow, invite=self.is_invite)
        left.state = self.state
        left.status = self.status
        left.last_reply = self.last_reply
        left.to_tag = self.to_tag
        left.cancelled = self.cancelled
        left.dialog = self.ctx.dialog
        left.resend_at = self.resend_at
        left.interval_s = self.interval_s
        left.ends_at = self.ends_at
        left.repeats_left = self.repeats_left
        return left


class ClientMachine(Timed):
    """Figures 5 and 6 for a request on its way downstream, or for our CANCEL of one."""

    def __init__(self, branch_id: str, call_id: str, *, invite: bool) -> None:
        super().__init__()
        self.branch_id: Final = branch_id
        self.call_id: Final = call_id
        self.is_invite: Final = invite
        self.state = states.TRYING
        self.data = b""
        self.flow: Flow | None = None
        self.ack = b""
        self.retransmit_at = 0.0  # A or E, 0.0 = not any more
        self.interval_s = 0.0
        self.gives_up_at = 0.0  # B or F; C once a provisional has come; D or M when it is over
        self.cancelling = NOT_CANCELLED
        self.cancel: ClientMachine | None = None
        self.upstream: ServerMachine | None = None  # of a residue: who is passed a late 2xx, None = nobody

    def step(self, event: int) -> int:
        """Move to the next state; the actions to take, 0 when *event* is ignored there. Raises UsageError."""
        steps = states.INVITE_CLIENT_STEPS if self.is_invite else states.NON_INVITE_CLIENT_STEPS
        code = steps[self.state * states.EVENTS + event]
        if code < 0:
            return states.no_step(code, self.state, event)
        self.state = code & 7
        return code >> 3

    def next_wake(self) -> float:
        """When this branch needs its timer next, 0.0 = never."""
        first = self.retransmit_at
        if first == 0.0 or (self.gives_up_at != 0.0 and self.gives_up_at < first):
            return self.gives_up_at
        return first


class ClientTransaction(ClientMachine):
    """A branch of *server*. ``status`` is the last code received or faked, 0 = nothing yet.

    ``alternatives`` are the flows to try when this one fails (RFC 3263 §4.3). ``response`` is kept for answers
    >= 300 only; None for a faked one.
    """

    def __init__(self, server: ServerTransaction, branch_id: str, request_uri: str) -> None:
        super().__init__(branch_id, server.call_id, invite=server.is_invite)
        self.server: Final = server
        self.index: Final = len(server.branches)
        self.request_uri: Final = request_uri
        self.alternatives: list[Flow] = NO_FLOWS
        self.status = 0
        self.response: Response | None = None
        self.edits = NO_EDITS  # of response
        self.dropped = False
        self.timed_out = False
        self.replied = False  # something was received from the peer
        self.unreachable = False  # the connection it was to leave by failed
        # what the script armed when this branch was made
        self.on_reply = ""
        self.flags = 0

    def residue(self, upstream: ServerMachine | None) -> ClientMachine:
        """What goes on without the request: acknowledges a repeated negative answer, finds the way of a late 2xx."""
        left = ClientMachine(self.branch_id, self.call_id, invite=self.is_invite)
        left.state = self.state
        left.flow = self.flow
        left.ack = self.ack
        if not self.ack and self.state != states.ACCEPTED:
            left.data = self.data  # its ACK may still have to be made
        left.cancelling = self.cancelling
        left.cancel = self.cancel
        left.upstream = upstream
        return left
