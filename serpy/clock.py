"""The two clocks of a process as they were read last: monotonic instants, and Unix time.

Whoever arms, answers or compares asks here at that moment: a handler may have waited since it looked last. This is
a value that is read often and set by the loop (``net/loop.py``) or by a test; it reads no clock itself.

Runs in: every process. Locks: none.
"""

from __future__ import annotations


class Clock:
    """What time it is. ``now()`` stands still within one wake-up of the loop."""

    def __init__(self, now: float, wall_now: float) -> None:
        self._now = now
        self._wall_offset = wall_now - now

    def now(self) -> float:
        """The monotonic instant of this wake-up, in seconds."""
        return self._now

    def wall_now(self) -> float:
        """Unix time of this wake-up; a step of the system clock shows when the clocks are read again."""
        return self._now + self._wall_offset
