"""One branch of a relayed request: the client transaction and what we need to repeat, acknowledge and cancel it.

A CANCEL we send is a client transaction of its own with the branch parameter of the request it cancels
(RFC 3261 §9.1), kept in ``cancel`` of that branch.

Runs in: udp receiver. Locks: none. RFC: 3261 §17.1, 6026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.sip.flow import Flow
from serpy.sip.message import Edits, Response
from serpy.transaction import states
from serpy.transaction.timers import Timed

if TYPE_CHECKING:
    from serpy.transaction.server import ServerTransaction

NO_EDITS: Final = Edits()  # shared and never changed
# How far the cancelling of a branch has come.
NOT_CANCELLED: Final = 0
CANCEL_WANTED: Final = 1  # a provisional has to come first (RFC 3261 §9.1)
CANCEL_SENT: Final = 2


class ClientTransaction(Timed):
    """A request on its way downstream. ``status`` is the last code received or faked, 0 = nothing yet.

    ``alternatives`` are the flows to try when this one fails (RFC 3263 §4.3). ``response`` is kept for answers
    >= 300 only; None for a faked one.
    """

    def __init__(
        self, server: ServerTransaction, index: int, branch_id: str, request_uri: str, *, invite: bool
    ) -> None:
        super().__init__()
        self.server: Final = server
        self.index: Final = index
        self.branch_id: Final = branch_id
        self.request_uri: Final = request_uri
        self.is_invite: Final = invite
        self.is_cancel = False
        self.state = states.TRYING
        self.data = b""
        self.flow: Flow | None = None
        self.alternatives: list[Flow] = []
        self.status = 0
        self.response: Response | None = None
        self.edits = NO_EDITS  # of response
        self.dropped = False
        self.timed_out = False
        self.replied = False  # something was received from the peer
        self.unreachable = False  # the connection it was to leave by failed
        self.retransmit_at = 0.0  # 0.0 = not any more
        self.interval_s = 0.0
        self.gives_up_at = 0.0  # B or F; C once a provisional has come
        self.cancelling = NOT_CANCELLED
        self.cancel: ClientTransaction | None = None
        self.ack = b""
        # what the script armed when this branch was made
        self.on_reply = ""
        self.flags = 0

    def step(self, event: int) -> int:
        """Move to the next state; the actions to take, 0 when *event* changes nothing."""
        steps = states.INVITE_CLIENT_STEPS if self.is_invite else states.NON_INVITE_CLIENT_STEPS
        code = steps[self.state * states.EVENTS + event]
        if code < 0:
            return 0
        self.state = code & 7
        return code >> 3

    def next_wake(self) -> float:
        """When this branch needs its timer next, 0.0 = never."""
        first = self.retransmit_at
        if first == 0.0 or (self.gives_up_at != 0.0 and self.gives_up_at < first):
            return self.gives_up_at
        return first
