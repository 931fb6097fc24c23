"""The timer process: once a second it calls every module's ``hooks.on_tick``.

A tick that waits (a database that is slow) delays the next one, never a message: the receivers do not depend on it.
Runs in: timer. Locks: none of its own.
"""

from __future__ import annotations

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
        self.loop.spawn(self._tick)
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

    def _tick(self) -> None:
        loop = self.loop
        loop.call_at(loop.now() + TICK_S, self._tick)  # first: a bug in one tick does not end them all
        loop.current = "timer tick"
        for on_tick in self.server.hooks.on_tick:
            on_tick(loop.now(), loop.wall_now())
