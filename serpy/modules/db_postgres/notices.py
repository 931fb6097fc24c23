"""What PostgreSQL tells about changed tables: triggers of ours (``schema.py``) notify, and one connection of ctl listens.

So rows changed by anybody, with any tool, are seen by the next message, not after the time a cache keeps them. A
connection that was lost is made again, and everything counts as changed then; meanwhile the caches' own times hold.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import psycopg2

from serpy.db.interface import DatabaseUrl
from serpy.db.pool import DeadlineError, LostError
from serpy.db.schema import CHANNEL
from serpy.errors import BackendError, ResourceError
from serpy.modules.db_postgres.link import Link, connect, run

if TYPE_CHECKING:
    from serpy.net.loop import Loop

log = logging.getLogger(__name__)

RETRY_S: Final = 2.0


class Notices:
    """Calls *on_change* with the name of a changed table, with "" when it may be any."""

    def __init__(self, url: DatabaseUrl, loop: Loop, timeout_s: float, on_change: Callable[[str], None]) -> None:
        self._url: Final = url
        self._loop: Final = loop
        self._timeout_s: Final = timeout_s
        self._on_change: Final = on_change
        self._link: Link | None = None
        self._fd = -1
        self._was_there = False

    def start(self) -> None:
        """Listen from now on."""
        self._loop.spawn(self._open)

    def _open(self) -> None:
        try:
            link = connect(self._url, read_only=True, timeout_s=self._timeout_s, loop=self._loop)
            run(link, f"listen {CHANNEL}", None, time.monotonic() + self._timeout_s)
        except (LostError, DeadlineError, BackendError, ResourceError) as exc:
            log.debug("%s: cannot listen for changes: %s", self._url.redacted(), exc)
            self._loop.call_at(self._loop.now() + RETRY_S, self._open)
            return
        self._link = link
        self._fd = link.fileno()
        self._loop.add_reader(self._fd, self._read)
        if self._was_there:
            self._on_change("")
        self._was_there = True

    def _read(self) -> None:
        link = self._link
        if link is None:
            return
        try:
            link.poll()
        except psycopg2.Error as exc:
            log.debug("%s: no longer listening for changes: %s", self._url.redacted(), exc)
            self._lost(link)
            return
        tables = dict.fromkeys(notice.payload for notice in link.notifies if notice.channel == CHANNEL)
        link.notifies.clear()
        for table in tables:
            self._on_change(table)
        if link.closed:
            self._lost(link)

    def _lost(self, link: Link) -> None:
        self._link = None
        self._loop.remove_reader(self._fd)
        with contextlib.suppress(psycopg2.Error):
            link.close()
        self._loop.call_at(self._loop.now() + RETRY_S, self._open)
