"""Handlers that take their time, on a clock the test moves: what the loop does with greenlets, without a loop.

``run`` starts a handler; where it calls ``park`` control goes back to whoever runs things, and ``resume_due`` goes on
with it when the clock has come that far. So a test sees what a receiver does while a resolver, a database or a
program keeps one of its handlers waiting.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from greenlet import getcurrent, greenlet

NEVER = float("inf")


class Parking:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._waiting: list[tuple[float, int, greenlet]] = []
        self._count = itertools.count()
        self._outside = getcurrent()

    def run(self, call: Callable[..., object], *arguments: object) -> None:
        """Run *call* until it ends or parks; what it raises comes out here."""
        greenlet(call).switch(*arguments)

    def park(self, seconds: float) -> None:
        """Wait, in a handler, until *seconds* have passed. A test that calls a handler directly goes straight on."""
        me = getcurrent()
        if me is self._outside or seconds <= 0:
            return
        heapq.heappush(self._waiting, (self._now() + seconds, next(self._count), me))
        assert me.parent is not None
        me.parent.switch()

    def next_at(self) -> float:
        """When the next of them goes on."""
        return self._waiting[0][0] if self._waiting else NEVER

    def resume_due(self) -> bool:
        """Go on with the first whose time has come; False when there is none."""
        if self.next_at() > self._now():
            return False
        _, _, waiting = heapq.heappop(self._waiting)
        waiting.parent = getcurrent()
        waiting.switch()
        return True

    def __len__(self) -> int:
        return len(self._waiting)
