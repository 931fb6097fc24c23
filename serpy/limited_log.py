"""What may be said or done only so often, so that no stranger fills the log: and how much was left out is said later.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import logging
import time
from typing import Final

_INTERVAL_S: Final = 1.0
_PLACES_KEPT: Final = 1000


class RateLimit:
    """At most *count* events per *seconds*; ``suppressed`` were refused since the last one allowed."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count: Final = count
        self._seconds: Final = seconds
        self._window_end = 0.0
        self._used = 0
        self.suppressed = 0

    def allows(self, now: float) -> bool:
        """True when one more may pass at *now*, a monotonic instant."""
        if now >= self._window_end:
            self._window_end = now + self._seconds
            self._used = 0
        if self._used >= self._count:
            self.suppressed += 1
            return False
        self._used += 1
        return True

    def is_over(self, now: float) -> bool:
        """True when the time of the last event allowed has passed: what was refused with it may be told."""
        return now >= self._window_end

    def take_suppressed(self) -> int:
        """How many were refused since this was last asked."""
        count, self.suppressed = self.suppressed, 0
        return count


class LimitedLog:
    """Says errors, warnings and news to *log*, one a second for each place; the next one says how many were left out.

    Its owner (a program, a module) has one and names the places.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log: Final = log
        self._places: Final[dict[str, RateLimit]] = {}

    def error(self, place: str, text: str, *details: object) -> None:
        """Log an ERROR about *place*."""
        self._say(logging.ERROR, place, text, details)

    def warning(self, place: str, text: str, *details: object) -> None:
        """Log a WARNING about *place*."""
        self._say(logging.WARNING, place, text, details)

    def info(self, place: str, text: str, *details: object) -> None:
        """Log an INFO about *place*."""
        self._say(logging.INFO, place, text, details)

    def _say(self, level: int, place: str, text: str, details: tuple[object, ...]) -> None:
        limit = self._places.get(place)
        if limit is None:
            if len(self._places) >= _PLACES_KEPT:
                self._places.clear()
            limit = self._places[place] = RateLimit(1, _INTERVAL_S)
        if limit.allows(time.monotonic()):
            left_out = limit.take_suppressed()
            self._log.log(
                level,
                f"{text} (%d more like this)" if left_out else text,
                *details,
                *([left_out] if left_out else []),
                stacklevel=3,
            )
