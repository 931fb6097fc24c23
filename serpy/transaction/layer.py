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
from serpy.errors import TransportError
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.message import Request, Response
from serpy.transaction.matching import ServerKey, server_key
from serpy.transaction.settings import TransactionSettings
from serpy.transaction.timers import TimerWheel
from serpy.transaction.transactions import ClientMachine, ClientTransaction, ServerMachine, ServerTransaction
from serpy.transaction.user import DialogWatcher, Outcome, TransactionUser


class TransactionLayer:
    """What the transactions of one process share. A request we work on is a ``ServerTransaction``, else a residue."""

    def __init__(
        self, settings: TransactionSettings, send: Callable[[Outgoing], None], cookie: str,
        make_tag: Callable[[Request], str], clock: Clock,
    ) -> None:  # fmt: skip
        self.settings: Final = settings
        self.send_out: Final = send
        self.cookie: Final = cookie
        self.make_tag: Final = make_tag
        self.clock: Final = clock
        self.user: TransactionUser = TransactionUser()
        self.dialogs: DialogWatcher = DialogWatcher()
        self.watched_flags = 0  # requests with one of these flags are reported to on_answer and on_failed
        self.on_answer: list[Outcome] = []  # a final answer, or 183, has gone upstream
        self.on_failed: list[Outcome] = []  # every branch has failed, before the failure route
        self.signature: list[str] = []  # header lines of every answer of our own: Server
        self.warns = 0  # sip_warning: our process id, 0 = off
        self.reply_to_via = False
        self.servers: dict[ServerKey, ServerMachine] = {}
        self.clients: dict[str, ClientMachine] = {}
        self.wheel: Final = TimerWheel(clock.now())
        self._number = 0
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

    def next_branch_id(self, server: ServerTransaction, loop: int) -> str:
        """The branch parameter of the next branch of *server*."""
        return f"z9hG4bK{self.cookie}n{server.number}.{loop}.{len(server.branches)}"

    def send(self, data: bytes, flow: Flow) -> bool:
        """Send *data*; False when the transport refused it."""
        try:
            self.send_out(Outgoing(data, flow))
        except TransportError:
            return False
        return True

    # --- look-ups

    def find_invite(self, request: Request) -> ServerMachine | None:
        """The INVITE transaction that *request*, an ACK or CANCEL, belongs to."""
        return self.servers.get(server_key(request, "INVITE"))

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
        branch = self.clients.get(response.via.branch)
        if branch is None:
            return None
        method = response.method
        if method == (branch.server.method if isinstance(branch, ClientTransaction) else "INVITE"):
            return branch
        return branch.cancel if method == "CANCEL" else None
