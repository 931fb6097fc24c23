"""A REGISTER that another server has accepted: when it was taken, and what it may still change here.

Runs in: timer. Locks: the tombstones' own.
"""

from __future__ import annotations

from typing import Final

from serpy.api import Binding
from serpy.replication.envelope import register_server, register_time
from serpy.replication.merge import is_newer
from serpy.replication.tombstones import ALL, KEEP_MAX_S, Tombstones
from serpy.sip.abnf import ascii_lower
from serpy.sip.message import Request
from serpy.sip.received import ReceivedUri
from serpy.sip.via import parse_via


class Replica:
    """*signed* is the verified Serpy-Replica header, None for a bare replica of SER, which counts as taken just now."""

    def __init__(self, table: str, signed: str | None, wall_now: float, tombstones: Tombstones | None) -> None:
        self.taken_at: Final = register_time(signed) or wall_now
        self.server_id: Final = register_server(signed)
        self._wall_now: Final = wall_now
        self._table: Final = table
        self._tombstones: Final = tombstones

    def beaten(self, known: list[Binding], call_id: str, cseq: int) -> list[Binding]:
        """Those of *known* that this replica replaces or removes, marked with its time. An expired one orders nothing."""
        found: list[Binding] = []
        for binding in known:
            same = binding.call_id == call_id and binding.cseq == cseq
            if same or not binding.is_live(self._wall_now) or is_newer(call_id, cseq, self.taken_at, binding):
                binding.modified_at = max(binding.modified_at, self.taken_at)  # the time on the tombstone
                found.append(binding)
        return found

    def is_buried(self, uid: str, contact: str, call_id: str, cseq: int) -> bool:
        """True when *contact* was removed after this replica was taken."""
        tombstones = self._tombstones
        return tombstones is not None and tombstones.covers(self._table, uid, contact, call_id, cseq, self.taken_at)

    def bury(self, uid: str, contact: str, call_id: str, cseq: int) -> None:
        """Remember the removal of a contact we have not heard of: what it removes may come later."""
        if self._tombstones is not None:
            keep_until = self.taken_at + KEEP_MAX_S
            self._tombstones.add(self._table, uid, contact, call_id, cseq, self.taken_at, keep_until)

    def bury_all(self, uid: str, call_id: str, cseq: int) -> None:
        """Remember that all contacts of *uid* were removed."""
        self.bury(uid, ALL, call_id, cseq)


def source_of_replica(request: Request) -> ReceivedUri | None:
    """Where the phone's connection to the other server came from, as the Via below that server's says; None over UDP.

    We have no such connection, but know by it which transport a Contact that names none means. Raises ParseError.
    """
    values = request.values("via")
    if len(values) < 2:
        return None
    via = parse_via(values[1])
    transport = ascii_lower(via.transport)
    if transport == "udp":
        return None
    return ReceivedUri(
        (via.received or via.address).strip("[]"), via.rport if via.rport > 0 else via.port or 5060, transport
    )
