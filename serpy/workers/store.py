"""The store process: the one that writes to the database.

A first datagram starts a short gathering time, then everything that has come for its database is one transaction; what
arrives while that database works is the next one. Each database has a lane (``db/lane.py``) with a handler of its own,
so that one that hangs holds up nobody else. Receivers are acknowledged after the commit.

Stopped last: what the others sent before they left is committed, or in the journal, before this process leaves.
Runs in: store. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.db.store import JOURNAL, REFUSE, Store
from serpy.errors import ConfigError, UsageError
from serpy.net.handoff import STORE_ACK, STORE_WRITE
from serpy.workers.base import Worker

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.db.interface import Database
    from serpy.db.lane import Lane
    from serpy.net.handoff import Channels
    from serpy.net.listen import Bound
    from serpy.net.loop import Timer

GATHER_S: Final = 0.0005  # the clients send at the same ticks: half a millisecond brings them together
GATHER_UNWATCHED_S: Final = 0.05  # for rows that nobody waits for, such as accounting; their senders keep them so long
TICK_S: Final = 1.0


class StoreWorker(Worker):
    """Group commit of location, accounting and attribute rows."""

    role = "store"
    stop_last = True

    def __init__(self, server: Server, channels: Channels, bound: Bound, slot: int, child: int) -> None:
        super().__init__(server, channels, bound, slot, child)
        counters = server.counters
        self._commits = counters.declare("store.commits", "transactions committed by the store")
        self._rows = counters.declare("store.rows", "rows written by the store")
        self._coalesced = counters.declare("store.coalesced", "writes that a later one of the same batch replaced")
        self._refused = counters.declare("store.refused", "write requests refused")
        self._down = counters.declare("store.down", "databases that cannot be written")
        self._backlog = counters.declare("store.backlog", "requests in journals until their database is back")
        self._base: list[int] = []  # what a predecessor had counted
        self.store: Store
        self._timers: dict[str, Timer] = {}  # the next round of each lane, by URL

    def after_fork(self) -> None:
        """Take what the previous store left, then serve. Raises BackendError (journals), ConfigError."""
        policy = self.server.settings.store_policy
        if policy not in (REFUSE, JOURNAL):
            raise ConfigError(f"store_policy is {policy!r}", hint=f'use "{REFUSE}" or "{JOURNAL}"')
        self.store = Store(self._database, self._send, policy=policy, folder=self.server.run_dir)
        self.store.recover()
        counters = self.server.counters
        self._base = [counters.own(each) for each in (self._commits, self._rows, self._coalesced, self._refused)]
        self.channels.on(STORE_WRITE, self._on_write)
        self.loop.spawn(self._tick)

    def before_exit(self) -> None:
        """Commit what is still in the socket."""
        self.store.take_back()
        while True:
            self.channels.read()
            waiting = [lane for lane in self.store.by_health() if lane.has_queue]
            if not waiting:
                break
            for lane in waiting:
                self.store.round(lane)
        self._publish()
        self.store.close()

    def _database(self, url: str) -> Database:
        if not url:
            raise UsageError("rows for the store without a database URL")
        return self.server.database(url)

    def _send(self, slot: int, payload: bytes) -> bool:
        return self.channels.send(slot, STORE_ACK, payload)

    def _on_write(self, payload: bytes, from_slot: int) -> None:
        lane = self.store.receive(payload, from_slot)
        if lane is not None and lane.is_ready:  # whoever is busy looks again
            self._arrange(lane, GATHER_S if lane.urgent else GATHER_UNWATCHED_S)

    def _arrange(self, lane: Lane, after_s: float) -> None:
        """See that *lane* has its next round in *after_s* seconds, or earlier."""
        due = self.loop.now() + after_s
        timer = self._timers.get(lane.url)
        if timer is not None:
            if timer.when <= due:
                return
            timer.cancel()
        self._timers[lane.url] = self.loop.call_at(due, self._round_of(lane))

    def _round_of(self, lane: Lane) -> Callable[[], None]:
        def round_() -> None:
            self._timers.pop(lane.url, None)
            self._round(lane)

        return round_

    def _round(self, lane: Lane) -> None:
        """One round; the next one is arranged when there is more, so that others come in between."""
        if not lane.is_ready:
            return
        try:
            self.store.round(lane)
        finally:
            if lane.has_work:
                self._arrange(lane, 0.0)
        self._publish()

    def _tick(self) -> None:
        self.loop.call_at(self.loop.now() + TICK_S, self._tick)  # first: a bug in one tick does not end them all
        self.store.tick()
        for lane in self.store.lanes.values():
            if len(lane.backlog) and not lane.busy:
                self._arrange(lane, 0.0)
        self._publish()

    def _publish(self) -> None:
        counters = self.server.counters
        lanes = self.store.lanes.values()
        commits, rows, coalesced, refused = self._base
        counters.set(self._commits, commits + sum([lane.commits for lane in lanes]))
        counters.set(self._rows, rows + sum([lane.rows for lane in lanes]))
        counters.set(self._coalesced, coalesced + sum([lane.coalesced for lane in lanes]))
        counters.set(self._refused, refused + sum([lane.refused for lane in lanes]))
        counters.set(self._down, sum([lane.down for lane in lanes]))
        counters.set(self._backlog, sum([lane.backlog.requests for lane in lanes]))
