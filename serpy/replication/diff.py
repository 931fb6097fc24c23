"""``replication.diff``: what differs from the other servers, entry by entry, without changing anything.

A conversation like a repair, but a dry one: the other side shows its bindings instead of sending them. As many as are asked
for run at once; what is shown is known by its contact, so that each gets what it waits for.

Runs in: timer. Locks: none of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.replication.peers import Peer, Peers
    from serpy.replication.scan import Scan, Scanner
    from serpy.replication.session import Session
    from serpy.shm.record import Binding

LOOK_S: Final = 6.5  # for all servers together: ctl waits a little longer
EACH_S: Final = 3.0  # for one of them
STEP_S: Final = 0.05
MOST_SHOWN: Final = 500

Row = dict[str, object]


class Diff:
    """All such conversations. *ask* sends what a session has to ask."""

    def __init__(self, loop: Loop, scanner: Scanner, peers: Peers, ask: Callable[[Session], None]) -> None:
        self._loop: Final = loop
        self._scanner: Final = scanner
        self._peers: Final = peers
        self._ask: Final = ask
        self.sessions: Final[dict[int, Session]] = {}

    def diff(self, server_id: int) -> list[Row]:
        """A row for each contact that differs (*server_id* -1: from anybody's). Parks. Raises ResourceError."""
        loop = self._loop
        deadline = loop.now() + LOOK_S
        peers = [peer for peer in self._peers.alive(loop.now()) if server_id in (-1, peer.life.server_id)]
        if not peers:
            return []
        scan = self._scanner.scan({bucket for peer in peers for bucket in peer.sums}, soon=True, within_s=LOOK_S)
        found: list[Row] = []
        for peer in peers:
            found.extend(self._diff(peer, scan, min(deadline, loop.now() + EACH_S)))
        return found[:MOST_SHOWN]

    def _diff(self, peer: Peer, scan: Scan, deadline: float) -> list[Row]:
        loop = self._loop
        buckets = sorted(scan.sums.differing(peer.sums))
        if not buckets:
            return []
        session = peer.session(scan, buckets, loop.now(), dry=True)
        self.sessions[session.number] = session
        try:
            while not session.is_over(loop.now()) and loop.now() < deadline:
                self._ask(session)
                loop.sleep(STEP_S)
            while len(session.shown) < session.missing and loop.now() < deadline:
                loop.sleep(STEP_S)
        finally:
            del self.sessions[session.number]
        return _rows(session)

    def shown(self, found: list[tuple[str, Binding]], address: tuple[str, int]) -> None:
        """Bindings of the server at *address*, for whoever looks there."""
        for session in self.sessions.values():
            if session.address == address:
                for table, binding in found:
                    session.shown[table, binding.uid, binding.contact] = binding.cseq


def _rows(session: Session) -> list[Row]:
    """One row per contact: what is here and there."""
    rows: dict[tuple[str, str, str], Row] = {}

    def row(table: str, uid: str, contact: str) -> Row:
        blank: Row = {
            "server_id": session.server_id, "table": table, "uid": uid, "contact": contact, "here": "-", "there": "-",
        }  # fmt: skip
        return rows.setdefault((table, uid, contact), blank)

    removed = dict(session.removed)
    for entry in [*session.wanted, *removed]:
        known = session.index.find(entry)
        if known is not None:
            line = row(known.table, known.uid, known.contact)
            line["here"] = "registered"
            line["there"] = "removed" if entry in removed else "-"
    for (table, uid, contact), cseq in session.shown.items():
        row(table, uid, contact)["there"] = f"registered, CSeq {cseq}"
    return list(rows.values())
