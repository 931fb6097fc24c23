"""The timer process: once a second it calls every module's ``hooks.on_tick``.

A tick that waits (a database that is slow) delays the next one, never a message: the receivers do not depend on it.
Runs in: timer. Locks: none of its own.
"""

from __future__ import annotations

from typing import Final

from serpy.workers.base import Worker

TICK_S: Final = 1.0


class TimerWorker(Worker):
    """Contact expiry, preload of the location table, NAT keep-alives, timer routes."""

    role = "timer"

    def after_fork(self) -> None:
        """Start ticking."""
        self.loop.spawn(self._tick)

    def _tick(self) -> None:
        loop = self.loop
        loop.call_at(loop.now() + TICK_S, self._tick)  # first: a bug in one tick does not end them all
        loop.current = "timer tick"
        for on_tick in self.server.hooks.on_tick:
            on_tick(loop.now(), loop.wall_now())
