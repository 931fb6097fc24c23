"""What the master decides, apart from how it is done: when a child is born, delayed, aborted, killed, given up.

A failed fork holds up all births for a while that doubles with each failure; it never ends a server that has served.
A life that fails soon after its birth holds up the next one of its place only.

Pure: instants are arguments; nothing here forks, kills, logs or reads a clock.
Runs in: master. Locks: none.
"""

from __future__ import annotations

import enum
import signal
from typing import Final

THROTTLE_FIRST_S: Final = 0.2
THROTTLE_MAX_S: Final = 30.0
STEADY_S: Final = 10.0  # a life this long clears the record of its place

FORK_FIRST_S: Final = 0.1
FORK_MAX_S: Final = 2.0  # asking costs little, and whoever calls meanwhile waits for this
BOOT_FORKS: Final = 8  # tries in a row of a server that has never served, about 8 s

BOOT_TIMEOUT_S: Final = 60.0  # a child that boots may read a whole database
ABORT_GRACE_S: Final = 2.0  # from ABRT, for the traceback, to KILL
KILL_AGAIN_S: Final = 1.0
CORPSE_S: Final = 10.0  # from the first KILL until nobody waits for it any more


class Verdict(enum.Enum):
    """What is to be done with a process that lives."""

    FINE = 0
    ABORT = 1  # ABRT: silent, let it leave a traceback
    KILL = 2
    GIVE_UP = 3  # killed long ago and still there: the kernel holds it, it will run no more of our code


class Place:
    """What is known of one slot: who fills it, and how those before did."""

    def __init__(self, *, stop_last: bool = False) -> None:
        self.stop_last: Final = stop_last
        self.alive = False
        self.ready = False
        self.started = 0.0
        self.failures = 0  # lives in a row that ended too soon
        self.start_at = 0.0  # when the next one may be born; meaningful while nobody lives here
        self.aborted_at = 0.0
        self.killed_at = 0.0  # the first time
        self.kill_at = 0.0  # the next time


class Policy:
    """The decisions for all *places*. *heartbeat_s* 0: silence is allowed; *exit_s* 0: a stop is never forced."""

    def __init__(self, places: list[Place], heartbeat_s: float, exit_s: float) -> None:
        self.places: Final = places
        self.serving = False  # all were ready once
        self.stopping = False
        self.failed_forks = 0  # in a row
        self.fork_at = 0.0  # no birth before this
        self._heartbeat_s: Final = heartbeat_s
        self._exit_s: Final = exit_s
        self._force_at = 0.0
        self._told_last = False  # of the two steps of a stop, the second

    # ------------------------------------------------------------------------------------------------- births

    def is_due(self, place: Place, now: float) -> bool:
        """True when a child is to be forked for *place*."""
        return not (self.stopping or place.alive) and now >= place.start_at and now >= self.fork_at

    def born(self, place: Place, now: float) -> int:
        """A fork went well; returns how many had failed before it."""
        place.alive = True
        place.ready = False
        place.started = now
        place.aborted_at = place.killed_at = place.kill_at = 0.0
        failed, self.failed_forks = self.failed_forks, 0
        return failed

    def fork_failed(self, now: float) -> bool:
        """A fork failed: nothing is born for a while. False when a server that has never served should give up."""
        self.fork_at = now + min(FORK_MAX_S, FORK_FIRST_S * 2.0 ** min(self.failed_forks, 30))
        self.failed_forks += 1
        return self.serving or self.failed_forks < BOOT_FORKS

    def all_ready(self) -> bool:
        """True the first time that every place has a child that is ready."""
        if self.serving or not all(place.ready for place in self.places):
            return False
        self.serving = True
        return True

    # ------------------------------------------------------------------------------------------------- deaths

    def died(self, place: Place, code: int, now: float) -> float:
        """The child of *place* is gone, with exit code *code* (minus the signal); seconds until the next may be born.

        None for a first failure, nor when somebody killed a healthy child.
        """
        lived_s = now - place.started
        killed = place.ready and code == -signal.SIGKILL and not place.aborted_at
        place.alive = place.ready = False
        if lived_s >= STEADY_S or killed:
            place.failures = 0
        else:
            place.failures += 1
        delay = 0.0
        if place.failures > 1:
            delay = min(THROTTLE_MAX_S, THROTTLE_FIRST_S * 2.0 ** min(place.failures - 2, 30))
        place.start_at = now + delay
        return delay

    def verdict(self, place: Place, heard_at: float, now: float, *, booting: bool) -> Verdict:
        """What to do with the child of *place*, whose last sign of life was at *heard_at*."""
        if place.killed_at:
            return self._after_kill(place, now)
        if place.aborted_at:
            return self._kill(place, now) if now - place.aborted_at >= ABORT_GRACE_S else Verdict.FINE
        limit = max(self._heartbeat_s, BOOT_TIMEOUT_S) if booting else self._heartbeat_s
        if not self._heartbeat_s or now - max(heard_at, place.started) < limit:
            return Verdict.FINE
        place.aborted_at = now
        return Verdict.ABORT

    def _kill(self, place: Place, now: float) -> Verdict:
        place.killed_at = place.killed_at or now
        place.kill_at = now + KILL_AGAIN_S
        return Verdict.KILL

    def _after_kill(self, place: Place, now: float) -> Verdict:
        if now - place.killed_at >= CORPSE_S:
            return Verdict.GIVE_UP
        return self._kill(place, now) if now >= place.kill_at else Verdict.FINE

    # --------------------------------------------------------------------------------------------------- stop

    def stop(self, now: float) -> list[Place]:
        """Begin the orderly stop; whom to tell now: everybody but those who must outlive the others (the store)."""
        if self.stopping:
            return []
        self.stopping = True
        self._force_at = now + self._exit_s if self._exit_s else float("inf")
        return [place for place in self.places if place.alive and not place.stop_last]

    def last_ones(self) -> list[Place]:
        """Whom to tell when all others have gone; each is named once."""
        left = [place for place in self.places if place.alive]
        if self._told_last or not all(place.stop_last for place in left):
            return []
        self._told_last = True
        return left

    def is_overdue(self, place: Place, now: float) -> Verdict:
        """What to do with a child that has not stopped yet."""
        if place.killed_at:
            return self._after_kill(place, now)
        return self._kill(place, now) if now >= self._force_at else Verdict.FINE

    def is_over(self) -> bool:
        """True when nothing is left to wait for."""
        return self.stopping and not any(place.alive for place in self.places)

    # --------------------------------------------------------------------------------------------------- time

    def wait_s(self, now: float, at_most: float) -> float:
        """Seconds until something is due, *at_most* that many."""
        if self.stopping:
            return at_most
        waits = [max(place.start_at, self.fork_at) - now for place in self.places if not place.alive]
        return max(0.0, min([at_most, *waits]))
