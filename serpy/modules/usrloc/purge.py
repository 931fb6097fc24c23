"""Rows whose binding expired while nobody looked (this server was down, or the one that owned them is) leave the database.

What expires in the table takes its row along (``Location.expire``); these rows have nobody. Each table is walked in the
order of its key, one page a second, once after it is loaded and then every few hours; a row goes by its key and the expiry
that was read, so one that is refreshed meanwhile stays, whoever refreshed it. GRACE_S is more than the clocks of the
servers on one database differ.

Runs in: timer. Locks: none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.errors import BackendError, ResourceError
from serpy.modules.usrloc import storage

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.db.interface import Operation, Row, Value
    from serpy.modules.usrloc.location import Location

log = logging.getLogger(__name__)

PAGE: Final = 1000
GRACE_S: Final = 3600
EVERY_S: Final = 6 * 3600.0
RETRY_S: Final = 60.0

_COLUMNS: Final = ("uid", "contact", "expires", "flags")
_PERMANENT: Final = 128


class Purge:
    """The walk over the tables of *location*, which has a store."""

    def __init__(self, location: Location, server: Server, db_url: str, counter: int) -> None:
        self._location: Final = location
        self._server: Final = server
        self._db_url: Final = db_url
        self._counter: Final = counter
        self._tables: list[str] = []  # still to be walked in this round, the present one first
        self._after: list[Value] = []
        self._next_at = 0.0
        self._busy = False  # a tick is waiting for the database; the next one comes in the meantime

    def tick(self, now: float, wall_now: float) -> None:
        """Look at one page, when it is time."""
        if self._busy or now < self._next_at:
            return
        self._busy = True
        try:
            self._page(now, wall_now)
        except (BackendError, ResourceError) as exc:
            log.warning("removing old rows stops, next try in %d s: %s", RETRY_S, exc)
            self._next_at = now + RETRY_S
        finally:
            self._busy = False

    def _page(self, now: float, wall_now: float) -> None:
        if not self._tables:
            self._tables = self._location.table.tables()
        table = self._tables[0]
        database = self._server.database(self._db_url)
        rows = database.select_page(table, _COLUMNS, storage.KEY, self._after, PAGE)
        old = [_deletion(table, row) for row in rows if _is_old(row, wall_now)]
        store = self._location.store
        if old and store is not None:
            store.write(old, wait=True, url=self._db_url)
            self._server.counters.add(self._counter, len(old))
            log.debug("%d rows of %s had expired while nobody looked", len(old), table)
        if len(rows) == PAGE:
            self._after = [rows[-1][0], rows[-1][1]]
            return
        self._after = []
        self._tables.pop(0)
        if not self._tables:
            self._next_at = now + EVERY_S


def _is_old(row: Row, wall_now: float) -> bool:
    expires, flags = row[2], row[3]
    if isinstance(flags, int) and flags & _PERMANENT:
        return False
    return isinstance(expires, (int, float)) and expires < wall_now - GRACE_S


def _deletion(table: str, row: Row) -> Operation:
    return ("delete", table, {"uid": row[0], "contact": row[1], "expires": row[2]})
