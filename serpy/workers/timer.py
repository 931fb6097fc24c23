"""The timer process: once a second it calls every module's ``hooks.on_tick``.

Each hook has a timer of its own: one that waits (a database that is slow) or has a bug takes nothing from the others,
nor from messages: the receivers do not depend on it. Runs in: timer. Locks: none of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.pipeline import Pipeline
from serpy.replication.agent import Agent
from serpy.workers.base import Worker

TICK_S: Final = 1.0


class TimerWorker(Worker):
    """Contact expiry, preload of the location table, NAT keep-alives, timer routes, replication."""

    role = "timer"

    def after_fork(self) -> None:
        """Start ticking, and replicate where a multicast group is listened on."""
        for on_tick in self.server.hooks.on_tick:
            self._start(on_tick)
        self._replicate()

    def _replicate(self) -> None:
        server = self.server
        groups = [
            (listener, sock)
            for listener, sock in zip(server.listeners, self.bound.of_child(0), strict=True)
            if sock is not None and listener.multicast
        ]
        if groups:
            pipeline = Pipeline(server)
            pipeline.set_owner(0, 1)  # what comes from the group is ours, whatever its Call-ID
            pipeline.forwarder.resolve = server.resolver().resolve
            self.agent = Agent(server, groups, pipeline.receive)
            self.agent.start()

    def _start(self, on_tick: Callable[[float, float], None]) -> None:
        loop = self.loop

        def tick() -> None:
            loop.call_at(loop.now() + TICK_S, tick)  # first: neither a bug nor a wait ends the ticks
            loop.current = f"tick of {on_tick!r}"
            on_tick(loop.now(), loop.wall_now())

        loop.spawn(tick)
