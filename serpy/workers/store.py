"""The store process: the one that writes to the database.

A first datagram starts a short gathering time, then everything that has come is one transaction; what arrives while
the database works is the next one. Receivers are acknowledged after the commit (``store_core.py``).

Stopped last: what the others sent before they left is committed before this process leaves.
Runs in: store. Locks: none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from serpy.errors import ConfigError, UsageError
from serpy.net.handoff import STORE_ACK, STORE_WRITE
from serpy.workers.base import Worker
from serpy.workers.store_core import JOURNAL, REFUSE, StoreCore

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.db.interface import Database
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
        self._down = counters.declare("store.down", "1 while the database cannot be written")
        self._backlog = counters.declare("store.backlog", "requests kept until the database is back")
        self._base: list[int] = []  # what a predecessor had counted
        self.core: StoreCore
        self._busy = False
        self._timer: Timer | None = None

    def after_fork(self) -> None:
        """Take what the previous store left, then serve. Raises BackendError (journal), ConfigError."""
        policy = self.server.settings.store_policy
        if policy not in (REFUSE, JOURNAL):
            raise ConfigError(f"store_policy is {policy!r}", hint=f'use "{REFUSE}" or "{JOURNAL}"')
        self.core = StoreCore(
            self._database,
            self._send,
            policy=policy,
            journal_path=os.path.join(self.server.run_dir, "store.journal"),  # noqa: PTH118 - text in, text out
        )
        counters = self.server.counters
        self._base = [counters.own(each) for each in (self._commits, self._rows, self._coalesced, self._refused)]
        self.channels.on(STORE_WRITE, self._on_write)
        self.loop.spawn(self._tick)

    def before_exit(self) -> None:
        """Commit what is still in the socket."""
        self.core.take_back()
        while True:
            self.channels.read()
            if not self.core.has_work:
                break
            self.core.commit()
        self._publish()
        self.core.backlog.close()

    def _database(self, url: str) -> Database:
        if not url:
            raise UsageError("rows for the store without a database URL")
        return self.server.database(url)

    def _send(self, slot: int, payload: bytes) -> bool:
        return self.channels.send(slot, STORE_ACK, payload)

    def _on_write(self, payload: bytes, from_slot: int) -> None:
        waited_for = self.core.receive(payload, from_slot)
        if self._busy:
            return  # whoever commits looks again
        due = self.loop.now() + (GATHER_S if waited_for else GATHER_UNWATCHED_S)
        if self._timer is not None:
            if self._timer.when <= due:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(due, self._commit)

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._busy:
            return
        self._busy = True
        try:
            while self.core.has_work:
                self.core.commit()
        finally:
            self._busy = False
        self._publish()

    def _tick(self) -> None:
        self.loop.call_at(self.loop.now() + TICK_S, self._tick)  # first: a bug in one tick does not end them all
        if self._busy:
            return
        self._busy = True
        try:
            self.core.tick()
        finally:
            self._busy = False
        self._commit()

    def _publish(self) -> None:
        counters = self.server.counters
        core = self.core
        commits, rows, coalesced, refused = self._base
        counters.set(self._commits, commits + core.commits)
        counters.set(self._rows, rows + core.rows)
        counters.set(self._coalesced, coalesced + core.coalesced)
        counters.set(self._refused, refused + core.refused)
        counters.set(self._down, int(core.down))
        counters.set(self._backlog, len(core.backlog))
