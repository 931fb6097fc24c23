"""The transactions of one process: the tables, the wheel, the clock and the settings that all of them share.

State and look-ups only. What happens to it is said in ``server_side`` (requests from upstream, our answers),
``client_side`` (branches and what comes back), ``forking`` (which answer goes upstream, cancelling a request),
``cancelling``, ``ending`` (what is left), ``deadlines`` (timers), each a module of functions on this one object.
Sans-I/O: a clock that is read and a function that sends are given; nothing here opens a socket.

All messages of one Call-ID reach one process one after the other, so there is no lock (design: architecture §3).

Runs in: udp receiver. Locks: none. RFC: 3261 §17.1.3, §17.2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.clock import Clock
from serpy.context.context import Context
from serpy.errors import HeldBackError, ResourceError, TransportError
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.message import Request, Response
from serpy.transaction.matching import NO_GROUPS, Groups, ServerKey, server_key
from serpy.transaction.settings import TransactionSettings
from serpy.transaction.timers import TimerWheel
from serpy.transaction.transactions import ClientMachine, ClientTransaction, ServerMachine, ServerTransaction
from serpy.transaction.user import DialogWatcher, Outcome, TransactionUser
from serpy.transaction.ways import Ways, folded


class TransactionLayer:
    """What the transactions of one process share. A request we work on is a ``ServerTransaction``, else a residue."""

    def __init__(
        self, settings: TransactionSettings, send: Callable[[Outgoing], None], ways: Ways,
        make_tag: Callable[[Request], str], clock: Clock,
    ) -> None:  # fmt: skip
        self.settings: Final = settings
        self.send_out: Final = send
        self.ways: Final = ways
        self.make_tag: Final = make_tag
        self.clock: Final = clock
        self.user: TransactionUser = TransactionUser()
        self.dialogs: DialogWatcher = DialogWatcher()
        self.watched_flags = 0  # requests with one of these flags are reported to on_answer and on_failed
        self.on_answer: list[Outcome] = []  # a final answer, or 183, has gone upstream
        self.on_failed: list[Outcome] = []  # every branch has failed, before the failure route
        self.on_proven: list[Callable[[str], None]] = []  # a SOFT branch, its Request-URI, was answered
        self.signature: list[str] = []  # header lines of every answer of our own: Server
        self.warns = 0  # sip_warning: our process id, 0 = off
        self.reply_to_via = False
        self.groups: Groups = NO_GROUPS
        self.was_held_back = False  # why ``send`` was refused last
        self.servers: dict[ServerKey, ServerMachine] = {}
        self.clients: dict[str, ClientMachine] = {}
        self.wheel: Final = TimerWheel(clock.now())
        self._number = 0
        # What one process may keep; 0 = no limit. The last quarter is for who is favoured.
        self.max_live = 0
        self.max_kept = 0
        self.is_favoured: Callable[[Context], bool] | None = None
        self.on_begin: Callable[[Context], None] | None = None  # a request that is ``counted`` has its transaction
        self.on_end: Callable[[Context, int], None] | None = None  # and is let go, with its last status
        self.live: int = 0  # requests we work on
        self.kept: int = 0  # bytes of messages in them
        self.turned_away: int = 0  # requests for which there was no room
        # statistics, totals since the start of the process
        self.created: int = 0
        self.local_replies: int = 0
        self.relayed_replies: int = 0
        self.retransmissions: int = 0  # requests sent again
        self.absorbed: int = 0  # requests received again
        self.timeouts: int = 0
        self.finals: Final[list[int]] = [0] * 7  # by class of the answer

    def now(self) -> float:
        """The monotonic instant of this moment: ask again after whatever may have parked."""
        return self.clock.now()

    def next_number(self) -> int:
        """The number of the next server transaction."""
        self._number += 1
        return self._number

    def make_room(self, ctx: Context, request: Request) -> None:
        """Raise ResourceError when there is no room for *request*. What ends a call always has it."""
        if self.live * 4 < self.max_live * 3 and self.kept * 4 < self.max_kept * 3:
            return
        if request.method == "BYE" or request.method == "CANCEL":  # noqa: PLR1714 - faster
            return
        if self.live < self.max_live and self.kept < self.max_kept:
            is_favoured = self.is_favoured
            if is_favoured is None or is_favoured(ctx):
                return
        self.turned_away += 1
        raise ResourceError(f"{self.live} requests are worked on already, {self.kept >> 20} MiB of them are kept")

    def keep(self, server: ServerTransaction, size: int) -> None:
        """Count *size* bytes more that *server* keeps."""
        server.kept += size
        self.kept += size

    def let_go(self, server: ServerTransaction) -> None:
        """*server* keeps nothing any more."""
        if server.ctx.counted and self.on_end is not None:
            self.on_end(server.ctx, server.status)
        self.live -= 1
        self.kept -= server.kept
        server.kept = 0

    def next_branch_id(self, server: ServerTransaction, loop: int) -> str:
        """The branch parameter of the next branch of *server*."""
        return self.ways.branch(
            server.number, loop, len(server.branches), server.flow, server.call_id, self.clock.wall_now()
        )

    def send(self, data: bytes, flow: Flow) -> bool:
        """Send *data*; False when the transport refused it."""
        try:
            self.send_out(Outgoing(data, flow))
        except TransportError as exc:
            self.was_held_back = isinstance(exc, HeldBackError)
            return False
        return True

    # --- look-ups

    def find_invite(self, request: Request, source: str) -> ServerMachine | None:
        """The INVITE transaction that *request*, an ACK or CANCEL from the address *source*, belongs to.

        Nobody can be asked for credentials because of a CANCEL: it has to come from where its INVITE did (§22.1).
        """
        found = self.servers.get(server_key(request, "INVITE"))
        if found is not None and request.method == "CANCEL":
            flow = found.ctx.flow if isinstance(found, ServerTransaction) else found.flow
            if flow.host != source:
                return None
        return found

    def find_by_call_id(self, call_id: str, number: int) -> ServerTransaction | None:
        """The INVITE transaction with this Call-ID and CSeq number that has no final answer yet; looks at all of them."""
        for server in self.servers.values():
            if (
                isinstance(server, ServerTransaction) and server.is_invite and server.call_id == call_id
                and not server.is_final() and server.request.cseq.number == number
            ):  # fmt: skip
                return server
        return None

    def find_branch(self, response: Response) -> ClientMachine | None:
        """The client transaction *response* belongs to (§17.1.3), None for a stray one."""
        name = response.via.branch
        branch = self.clients.get(name)
        if branch is None:
            branch = self.clients.get(folded(name))
            if branch is None:
                return None
        if branch.call_id != response.call_id:
            return None
        method = response.method
        if method == (branch.server.method if isinstance(branch, ClientTransaction) else "INVITE"):
            return branch
        return branch.cancel if method == "CANCEL" else None
