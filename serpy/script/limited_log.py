"""What one place may report at most once a second, so that no stranger fills the log.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import logging
import time
from typing import Final

_INTERVAL_S: Final = 1.0
_PLACES_KEPT: Final = 1000


class LimitedLog:
    """Says errors to *log*. Its owner (a program, a module) has one and names the places."""

    def __init__(self, log: logging.Logger) -> None:
        self._log: Final = log
        self._last: Final[dict[str, float]] = {}  # place -> when it was heard last

    def error(self, place: str, text: str, *details: object) -> None:
        """Log an ERROR about *place*."""
        if self._may_speak(place):
            self._log.error(text, *details)

    def warning(self, place: str, text: str, *details: object) -> None:
        """Log a WARNING about *place*."""
        if self._may_speak(place):
            self._log.warning(text, *details)

    def _may_speak(self, place: str) -> bool:
        now = time.monotonic()
        last = self._last.get(place)
        if last is not None and now - last < _INTERVAL_S:
            return False
        if len(self._last) > _PLACES_KEPT:
            self._last.clear()
        self._last[place] = now
        return True
