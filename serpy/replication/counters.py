"""What replication counts, in order; all are written by the timer process only.

Runs in: master (declared), timer. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.replication.envelope import FOREIGN, FORGED, MALFORMED, OWN, REPLAYED, STALE, UNSIGNED

if TYPE_CHECKING:
    from serpy.shm.counters import Counters

_DROPPED: Final = {
    UNSIGNED: "without a signature",
    FORGED: "with a wrong signature",
    REPLAYED: "seen before",
    STALE: "too old, or from the future",
    OWN: "with our own server id",
    MALFORMED: "not understood",
    FOREIGN: "of another farm or with another key",
}

COUNTERS: Final[tuple[tuple[str, str], ...]] = (
    ("replication.sent", "REGISTERs multicast"),
    ("replication.send_failed", "REGISTERs and frames the kernel would not send"),
    ("replication.received", "datagrams of the group and of its servers"),
    ("replication.taken", "REGISTERs taken from the group"),
    ("replication.bare", "of these, unsigned ones from trusted sources"),
    ("replication.digests_sent", "digest datagrams multicast"),
    ("replication.frames_sent", "repair datagrams sent to one server"),
    ("replication.repaired", "bindings stored or removed by repair"),
    ("replication.offered", "bindings sent for repair"),
    *((f"replication.dropped_{reason}", f"datagrams dropped: {text}") for reason, text in _DROPPED.items()),
)


class Tally:
    """Counts by short name, without ``replication.``."""

    def __init__(self, counters: Counters) -> None:
        self._counters: Final = counters
        self._ids: Final = {name.partition(".")[2]: counters.declare(name, text) for name, text in COUNTERS}

    def add(self, name: str, amount: int = 1) -> None:
        """Count *amount* more."""
        self._counters.add(self._ids[name], amount)

    def totals(self) -> dict[str, int]:
        """All of them."""
        return {name: self._counters.total(number) for name, number in self._ids.items()}
