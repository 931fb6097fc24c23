"""The ``tm.*`` RPCs: counts from shared memory, and cancelling, which the receiver that owns the Call-ID is asked for.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import BackendError, UsageError
from serpy.net.steering import owner
from serpy.rpc.asked import Questions
from serpy.transaction.statistics import TM

if TYPE_CHECKING:
    from serpy.api import Server

CANCEL: Final = "tm.cancel"


class NoTransactionError(UsageError):
    """There is no such transaction."""

    code: Final = 481


class TmRpc:
    """The methods; each docstring is the help text."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._questions: Questions

    def bind(self, server: Server) -> None:
        """In the master: what the counts need."""
        self._server = server

    def listen(self, server: Server) -> None:
        """In the ctl process: take in what receivers answer."""
        self._questions = Questions(server)

    def stats(self) -> dict[str, int]:
        """Transactions of all receivers since the start, and how many are in memory."""
        if self._server is None:
            return {}
        values = self._server.counters.snapshot()
        return {name.removeprefix("tm."): values.get(name, 0) for name in (each.name for each in TM)}

    def hash_stats(self) -> list[dict[str, int]]:
        """Transactions in memory and since the start, of each receiver."""
        server = self._server
        if server is None:
            return []
        numbers = {each.name: server.counters.declare(each.name, each.text) for each in TM}
        current = server.counters.per_slot(numbers["tm.current"])
        created = server.counters.per_slot(numbers["tm.created"])
        return [
            {"receiver": child, "current": current[child], "created": created[child]}
            for child in range(server.settings.children)
        ]

    def cancel(self, callid: str, cseq: int) -> dict[str, int]:
        """Cancel the INVITE with this Call-ID and CSeq number, as if the caller had; says how many branches it had open."""
        server = self._server
        if server is None:
            raise BackendError("not started")
        slot = owner(callid.encode("utf-8", "surrogateescape"), server.settings.children)
        answer = self._questions.ask(slot, CANCEL, [callid, cseq])
        if not isinstance(answer, int):
            raise BackendError("the receiver answers nonsense")
        if answer < 0:
            raise NoTransactionError("no such INVITE transaction")
        return {"branches": answer}
