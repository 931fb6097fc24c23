"""Loading the location table from the database while SIP is served.

Rows come in pages in the order of (uid, contact) and are inserted one user at a time, whole: a user that the table knows
is left alone, because a receiver has asked the database or changed it since. A lost database is tried again later, from
where we were.

Runs in: timer. Locks: one stripe at a time inside the table.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from serpy.errors import BackendError, LimitExceededError, ResourceError
from serpy.modules.usrloc import storage
from serpy.modules.usrloc.location import Location

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.db.interface import Row, Value

log = logging.getLogger(__name__)

PAGE: Final = 2000
RETRY_S: Final = 5.0
REPORT_S: Final = 5.0
WARN_S: Final = 60.0  # between two warnings that it still does not go on


class Preload:
    """Loads every table that says it is not loaded, a bounded time per tick."""

    def __init__(self, location: Location, server: Server, db_url: str) -> None:
        self._location: Final = location
        self._server: Final = server
        self._db_url: Final = db_url
        self._name = ""  # the table being loaded
        self._after: list[Value] = []
        self._rows = 0
        self._inserted = 0
        self._refused = 0
        self._started = 0.0
        self._report_at = 0.0
        self._retry_at = 0.0
        self._warn_at = 0.0
        self._busy = False  # a tick is waiting for the database; the next one comes in the meantime

    def tick(self, now: float, budget_s: float) -> bool:
        """Load for about *budget_s* seconds; True when all tables are loaded."""
        if self._busy or now < self._retry_at:
            return False
        self._busy = True
        try:
            return self._load(now, budget_s)
        finally:
            self._busy = False

    def _load(self, now: float, budget_s: float) -> bool:
        deadline = time.monotonic() + budget_s
        while time.monotonic() < deadline:
            if not self._name and not self._next_table(now):
                return True
            try:
                self._page()
            except (BackendError, ResourceError) as exc:
                if now >= self._warn_at:
                    self._warn_at = now + WARN_S
                    log.warning(
                        "loading %s stops at row %d, tried every %d s: %s", self._name, self._rows, RETRY_S, exc
                    )
                self._retry_at = now + RETRY_S
                return False
        if now >= self._report_at:
            self._report_at = now + REPORT_S
            log.info("loading %s: %d rows so far", self._name, self._rows)
        return False

    def _next_table(self, now: float) -> bool:
        table = self._location.table
        for name in table.tables():
            if not table.is_loaded(self._location.table_id(name)):
                self._name = name
                self._after = []
                self._rows = self._inserted = self._refused = 0
                self._started = time.monotonic()
                self._report_at = now + REPORT_S
                log.info("loading location table %s", name)
                return True
        return False

    def _page(self) -> None:
        database = self._server.database(self._db_url)
        rows = database.select_page(self._name, storage.COLUMNS, storage.KEY, self._after, PAGE)
        last = len(rows) < PAGE
        users = _by_user(rows)
        if not last and len(users) > 1:
            users.pop()  # the page may end inside this user: it comes again with the next one
        for group in users:
            self._insert(group)
            self._rows += len(group)
            self._after = [group[-1][0], group[-1][1]]
        if last:
            self._finish()

    def _insert(self, rows: list[Row]) -> None:
        uid = str(rows[0][0])
        found = storage.live_rows(rows, self._location.server_id, time.time())
        if not found:
            return
        try:
            if self._location.insert_loaded(self._name, uid, found):
                self._inserted += len(found)
        except (ResourceError, LimitExceededError) as exc:
            if not self._refused:
                log.error("location table %s, user %.64r: %s", self._name, uid, exc)  # noqa: TRY400 - no traceback
            self._refused += len(found)

    def _finish(self) -> None:
        self._location.table.set_loaded(self._location.table_id(self._name), True)
        log.info(
            "location table %s loaded in %.1f s: %d rows, %d bindings, %d refused",
            self._name,
            time.monotonic() - self._started,
            self._rows,
            self._inserted,
            self._refused,
        )
        self._name = ""


def _by_user(rows: list[Row]) -> list[list[Row]]:
    """*rows*, which are sorted by uid, in one list per uid."""
    groups: list[list[Row]] = []
    for row in rows:
        if groups and groups[-1][0][0] == row[0]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
