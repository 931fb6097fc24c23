"""Which datagrams of a sender have been seen: each is taken once, late ones too, as long as they are fresh.

A sender is a server in one of its lives (``boot``), a stream of it is numbered. A window remembers the last WIDTH numbers.
A life that has not been heard of for twice the greatest age is forgotten: whatever it sent is stale by then. Pure.

Runs in: timer. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.replication.envelope import OWN, REPLAYED, STALE, DroppedError, Stamp

WIDTH: Final = 8192  # datagrams: four seconds at 2,000 a second, far more than any network reorders
LAG_DRIFT: Final = 0.001  # seconds a second
MAX_SENDERS: Final = 512  # only holders of the key get one


class Window:
    """The numbers seen of one stream. ``missing`` are those below the highest that have not come (yet)."""

    def __init__(self, sequence: int) -> None:
        self.first: Final = sequence
        self.highest = sequence
        self.received = 1
        self._mask = 1  # bit n: highest - n has been seen

    def take(self, sequence: int) -> bool:
        """True when *sequence* is new; False when it was seen or is too old to tell."""
        ahead = sequence - self.highest
        if ahead > 0:
            self._mask = 1 if ahead >= WIDTH else ((self._mask << ahead) | 1) & _FULL
            self.highest = sequence
        else:
            if -ahead >= WIDTH or (self._mask >> -ahead) & 1:
                return False
            self._mask |= 1 << -ahead
        self.received += 1
        return True

    @property
    def missing(self) -> int:
        """Datagrams between the first and the highest that have not come."""
        return self.missing_of(self.highest)

    def missing_of(self, sent: int) -> int:
        """The same when it is known that the sender has got as far as *sent*."""
        return max(0, max(self.highest, sent) - self.first + 1 - self.received)


class Life:
    """One life of one server as we hear it."""

    def __init__(self, server_id: int, boot: int) -> None:
        self.server_id: Final = server_id
        self.boot: Final = boot
        self.heard_at = 0.0  # Unix time
        self.lag = 0.0  # seconds between sending and receiving by our clock, of the last datagram
        self.least_lag = 0.0  # the shortest one lately: how far the clocks are apart
        self.windows: Final[dict[int, Window]] = {}

    def heard(self, lag: float, wall_now: float) -> None:
        """Note one more datagram."""
        # It drifts up slowly, so that a clock that was set is not remembered for ever.
        drift = (wall_now - self.heard_at) * LAG_DRIFT
        self.least_lag = lag if self.heard_at == 0.0 else min(lag, self.least_lag + drift)
        self.lag = lag
        self.heard_at = wall_now

    @property
    def delay(self) -> float:
        """Seconds the last datagram had to wait on its way and in our queue."""
        return self.lag - self.least_lag


class Senders:
    """Everybody we hear. *server_id* is our own, *max_age* the seconds a datagram may be old, or ahead of our clock."""

    def __init__(self, server_id: int, max_age: float) -> None:
        self.server_id: Final = server_id
        self.max_age: Final = max_age
        self.lives: Final[dict[tuple[int, int], Life]] = {}

    def admit(self, stamp: Stamp, stream: int, wall_now: float) -> Life:
        """Take a verified datagram in once. Raises DroppedError: OWN, STALE or REPLAYED."""
        if stamp.server_id == self.server_id:
            raise DroppedError(OWN)
        age = wall_now - stamp.sent_ms / 1000.0
        if not -self.max_age <= age <= self.max_age:
            raise DroppedError(STALE)
        key = (stamp.server_id, stamp.boot)
        life = self.lives.get(key)
        if life is None:
            self.forget(wall_now)
            if len(self.lives) >= MAX_SENDERS:
                raise DroppedError(REPLAYED)  # a flood of made-up lives by somebody with the key
            life = self.lives[key] = Life(stamp.server_id, stamp.boot)
        window = life.windows.get(stream)
        if window is None:
            life.windows[stream] = Window(stamp.sequence)
        elif not window.take(stamp.sequence):
            raise DroppedError(REPLAYED)
        life.heard(age, wall_now)
        return life

    def forget(self, wall_now: float) -> None:
        """Drop the lives whose datagrams are all stale."""
        limit = wall_now - 2 * self.max_age
        for key in [key for key, life in self.lives.items() if life.heard_at < limit]:
            del self.lives[key]


_FULL: Final = (1 << WIDTH) - 1
