"""The other servers of the farm as their digests show them, and whether there is something to repair with one of them.

Runs in: timer. Locks: none.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from serpy.replication.answers import RECENT_MS
from serpy.replication.digest import BUCKETS, Sums, parse_sums
from serpy.replication.envelope import STREAM_REGISTER
from serpy.replication.session import Session

if TYPE_CHECKING:
    from serpy.replication.scan import Scan
    from serpy.replication.window import Life

HOLD_S: Final = 15.0  # while registrations go on, tables always differ a little: not more often without a reason
PATIENCE: Final = 2.5  # digest intervals in which a server with fewer bindings than we is left alone
BEHIND_S: Final = RECENT_MS / 2000.0
LATELY_S: Final = 3.0
FORGET_S: Final = 120.0
SILENT: Final = 4.0  # digest intervals after which a server counts as gone

Address = tuple[str, int]


class Peer:
    """Another server in one of its lives. Instants are monotonic."""

    def __init__(self, life: Life, address: Address) -> None:
        self.life: Final = life
        self.address = address
        self.bindings = -1
        self.sums: Final[dict[int, int]] = {}
        self.digest_at = 0.0
        self.differing: set[int] = set()
        self.sent = 0  # REGISTERs, as its digest says
        self._clean_at = -HOLD_S  # when we last found nothing, or repaired all
        self._missing_then = 0
        self._fewer_since = 0.0  # it has had fewer bindings than we since then

    def missing(self) -> int:
        """Its REGISTERs that have not come; those that were repaired since count, too."""
        window = self.life.windows.get(STREAM_REGISTER)
        return window.missing_of(self.sent) if window is not None else self.sent

    def take_digest(self, payload: bytes, ours: Sums | None, now: float) -> None:
        """Note what it has. Without *ours* everything may differ: whoever repairs will look. Raises ValueError."""
        self.sent, self.bindings, sums = parse_sums(payload)
        self.sums.update(sums)
        self.digest_at = now
        self.differing.difference_update(sums)
        self.differing.update(ours.differing(sums) if ours is not None else sums)

    def is_catching_up(self, ours: Sums | None, now: float, interval_s: float) -> bool:
        """True while it has fewer bindings than we and may be asking for the rest: somebody, once, not all at once."""
        if ours is None or self.bindings >= ours.bindings:
            self._fewer_since = 0.0
            return False
        self._fewer_since = self._fewer_since or now
        return now - self._fewer_since < PATIENCE * interval_s

    def is_clean(self, now: float) -> bool:
        """True when we were equal a moment ago and have missed nothing since: what differs is on its way."""
        return now - self._clean_at < HOLD_S and self.missing() <= self._missing_then

    def note_clean(self, at: float, missing: int) -> None:
        """A look at *at*, when *missing* had not come, has found nothing to repair."""
        self._clean_at = at
        self._missing_then = missing

    def session(self, scan: Scan, buckets: list[int], now: float, *, dry: bool = False) -> Session:
        """A conversation with it about *buckets*, of which *scan* is our side."""
        most = max(self.bindings, scan.sums.bindings)
        return Session(
            random.getrandbits(31), self.life.server_id, self.address, buckets, scan.index, now, dry=dry,
            per_bucket=most // BUCKETS,
        )  # fmt: skip

    def status(self, now: float) -> dict[str, object]:
        """What ``replication.status`` shows of its digests."""
        return {
            "address": f"{self.address[0]}:{self.address[1]}",
            "bindings": self.bindings,
            "differing_buckets": len(self.differing),
            "digest_s_ago": round(now - self.digest_at, 1),
        }


_UNKNOWN: Final = {"address": "", "bindings": -1, "differing_buckets": -1, "digest_s_ago": -1.0}


class Peers:
    """All of them, by server and life."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s: Final = interval_s
        self._known: Final[dict[tuple[int, int], Peer]] = {}

    def heard(self, life: Life, address: Address, wall_now: float) -> Peer:
        """Who sent a frame; a new one makes us forget those that have not been heard of for long."""
        peer = self._known.get((life.server_id, life.boot))
        if peer is None:
            for key in [key for key, each in self._known.items() if each.life.heard_at < wall_now - FORGET_S]:
                del self._known[key]
            peer = self._known[life.server_id, life.boot] = Peer(life, address)
        peer.address = address
        return peer

    def any_digest(self) -> bool:
        """True when one has said what it has."""
        return any(peer.bindings >= 0 for peer in self._known.values())

    def last_digest(self, besides: Peer) -> float:
        """When one of them, but for *besides*, has last sent its digest."""
        return max((peer.digest_at for peer in self._known.values() if peer is not besides), default=0.0)

    def are_behind(self, wall_now: float) -> bool:
        """True while datagrams wait in our own queue: what we miss is there."""
        lately = wall_now - LATELY_S
        delays = [peer.life.delay for peer in self._known.values() if peer.life.heard_at >= lately]
        return max(delays, default=0.0) >= BEHIND_S

    def alive(self, now: float) -> list[Peer]:
        """Those whose digests come, by number, each in the newest of its lives."""
        found: dict[int, Peer] = {}
        for peer in sorted(self._known.values(), key=lambda each: each.digest_at):
            if peer.bindings >= 0 and now - peer.digest_at < SILENT * self._interval_s:
                found[peer.life.server_id] = peer
        return [peer for _, peer in sorted(found.items())]

    def status(self, life: Life, now: float) -> dict[str, object]:
        """What ``replication.status`` shows of the digests of *life*."""
        peer = self._known.get((life.server_id, life.boot))
        return peer.status(now) if peer is not None and peer.bindings >= 0 else dict(_UNKNOWN)
