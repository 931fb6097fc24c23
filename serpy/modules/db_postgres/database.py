"""The handle of one process: a few connections, and a fuse that blows when the server is away.

    up ──(connect fails, or no answer before the deadline)──> down: every request fails at once
    down ──(after a pause)──> one request at a time tries; the others still fail at once
    its success ──> up; its failure ──> down again, pause doubled up to MAX_PAUSE_S

So a dead server costs one parked handler at a time, not one timeout per message. A connection found broken by a
statement (the server was restarted) is replaced and the statement run again, once.

Runs in: every process that queries; nothing is shared. Locks: none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import psycopg2

from serpy.db.interface import DatabaseUrl, Operation, Row, Value
from serpy.db.sql import storable
from serpy.errors import BackendError, DatabaseDownError
from serpy.modules.db_postgres.link import DeadlineError, Link, LostError, connect, limit_prepared, prepare, run
from serpy.modules.db_postgres.statements import (
    POSTGRES,
    Group,
    array_of,
    groups_of,
    has_null,
    literal_statement,
    prepared_text,
    translated,
    unique_rows,
)

if TYPE_CHECKING:
    from serpy.net.loop import Loop

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.25
MAX_PAUSE_S: Final = 1.0


class PostgresDatabase:
    """See ``serpy.db.interface.Database`` for the methods."""

    def __init__(self, url: DatabaseUrl, *, read_only: bool, timeout_s: float, connections: int) -> None:
        self.dialect = "postgres"
        self.loop: Loop | None = None
        self.url = url
        self._read_only = read_only
        self._timeout_s = timeout_s
        self._size = connections
        self._idle: list[Link] = []
        self._open = 0  # idle, in use and being opened
        self._waiting: deque[int] = deque()  # tickets of handlers that wait for a connection
        self._pid = os.getpid()
        self._inherited: list[Link] = []
        self._down_until = 0.0  # 0 = up
        self._pause_s = FIRST_PAUSE_S
        self._trying = False
        self._reason = ""

    # -- the interface

    def select(
        self, table: str, columns: Sequence[str], where: Mapping[str, Value], *, order: str = "", limit: int = 0
    ) -> list[Row]:
        """Rows where every condition holds."""
        text, parameters = POSTGRES.select(table, columns, where, order, limit)
        return self._run(text, parameters or None)

    def select_page(
        self, table: str, columns: Sequence[str], key: Sequence[str], after: Sequence[Value], limit: int
    ) -> list[Row]:
        """The next *limit* rows behind *after*."""
        text, parameters = POSTGRES.page(table, columns, key, after, limit)
        return self._run(text, parameters)

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Run one statement with ``?`` marks, committed; [] when it has no result."""
        return self._run(translated(sql, marks=bool(parameters)), list(parameters) or None)

    def write(self, operations: Sequence[Operation]) -> None:
        """Apply all of them in one transaction, in order, in one round trip."""
        if not operations:
            return
        groups = groups_of(operations)
        try:
            self._with_link(_Write(groups))
        except ValueError:  # some peer's bytes were not UTF-8, or held NUL
            for group in groups:
                group.rows = [[storable(value) for value in row] for row in group.rows]
            self._with_link(_Write(groups))

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        self._size = 0
        for link in self._idle:
            _close(link)
        self._idle.clear()

    def _run(self, text: str, parameters: list[Value] | None) -> list[Row]:
        try:
            return self._with_link(_Query(text, parameters))
        except ValueError:
            cleaned = [storable(value) for value in parameters or ()]
            return self._with_link(_Query(text, cleaned or None))

    # -- connections

    def _with_link(self, job: _Query | _Write) -> list[Row]:
        deadline = time.monotonic() + self._timeout_s
        for attempt in (1, 2):
            link = self._take(deadline)
            try:
                rows = job.run(link, deadline)
            except LostError as exc:
                self._drop(link)
                self._drop_idle()  # a restarted server has cut them all
                if attempt == 2:
                    self._blow(str(exc))
                    raise DatabaseDownError(f"{self.url.redacted()}: {exc}") from None
                log.info("%s: connection lost, trying again: %s", self.url.redacted(), exc)
            except DeadlineError:
                self._drop(link)
                self._drop_idle()
                self._blow(f"no answer within {self._timeout_s:g} s")
                raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}") from None
            except BaseException:
                self._give(link)
                raise
            else:
                self._give(link)
                return rows
        raise AssertionError  # the second attempt has returned or raised

    def _take(self, deadline: float) -> Link:
        if self._pid != os.getpid():
            self._forget_parent()
        if self._down_until:
            return self._try_again()
        while True:
            if self._idle:
                return self._idle.pop()
            if self._open < self._size:
                return self._connect()
            self._wait_for_one(deadline)
            if self._down_until:
                raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}")

    def _wait_for_one(self, deadline: float) -> None:
        if self.loop is None or not self.loop.can_park() or self._size == 0:
            raise BackendError(f"{self.url.redacted()}: no connection for a handler that cannot wait")
        ticket = self.loop.new_ticket()
        self._waiting.append(ticket.id)
        if self.loop.wait(ticket, deadline) is None:
            with contextlib.suppress(ValueError):
                self._waiting.remove(ticket.id)
            raise DatabaseDownError(f"{self.url.redacted()}: all {self._size} connections are busy")

    def _try_again(self) -> Link:
        if self._trying or time.monotonic() < self._down_until:
            raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}")
        self._trying = True
        try:
            link = self._connect()  # a frozen server accepts connections in its kernel but never greets
        finally:
            self._trying = False
        self._down_until = 0.0
        self._pause_s = FIRST_PAUSE_S
        log.warning("%s: answers again", self.url.redacted())
        return link

    def _connect(self) -> Link:
        self._open += 1
        try:
            return connect(self.url, read_only=self._read_only, timeout_s=self._timeout_s, loop=self.loop)
        except (LostError, DeadlineError) as exc:
            self._blow(str(exc) or f"no answer within {self._timeout_s:g} s")
            self._closed_one()
            raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}") from None
        except BaseException:
            self._closed_one()
            raise

    def _blow(self, reason: str) -> None:
        if not self._down_until:
            log.error("%s: down: %s", self.url.redacted(), reason)
            self._pause_s = FIRST_PAUSE_S
        else:
            self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)
        self._reason = reason
        self._down_until = time.monotonic() + self._pause_s

    def _give(self, link: Link) -> None:
        if link.closed or self._size == 0:
            self._drop(link)
            return
        self._idle.append(link)
        self._wake_one()

    def _drop(self, link: Link) -> None:
        _close(link)
        self._closed_one()

    def _closed_one(self) -> None:
        self._open -= 1
        self._wake_one()

    def _drop_idle(self) -> None:
        while self._idle:
            self._drop(self._idle.pop())

    def _wake_one(self) -> None:
        if self._waiting and self.loop is not None:
            self.loop.resume(self._waiting.popleft(), True)

    def _forget_parent(self) -> None:
        # Closing them would say good-bye to the server in the parent's name; so they are kept, unused.
        self._inherited.extend(self._idle)
        self._idle.clear()
        self._waiting.clear()
        self._open = 0
        self._trying = False
        self._pid = os.getpid()


class _Query:
    """One statement."""

    def __init__(self, text: str, parameters: list[Value] | None) -> None:
        self.text = text
        self.parameters = parameters

    def run(self, link: Link, deadline: float) -> list[Row]:
        return run(link, self.text, self.parameters, deadline)


class _Write:
    """Groups of rows, sent as one string: the server runs a string of statements as one transaction."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups

    def run(self, link: Link, deadline: float) -> list[Row]:
        limit_prepared(link, deadline)
        texts: list[str] = []
        parameters: list[Value] = []
        for group in self.groups:
            prepared = prepared_text(group)
            if prepared and not (group.kind == "delete" and has_null(group.rows)):
                marks = ", ".join(["%s"] * len(group.columns))
                texts.append(f"execute {prepare(link, prepared, deadline)} ({marks})")
                parameters.extend([array_of(column) for column in zip(*unique_rows(group), strict=True)])
            else:
                for row in group.rows:
                    text, values = literal_statement(group, row)
                    texts.append(text)
                    parameters.extend(values)
        if not parameters:  # then a percent sign stays what it is
            return run(link, "; ".join(texts).replace("%%", "%"), None, deadline)
        return run(link, "; ".join(texts), parameters, deadline)


def _close(link: Link) -> None:
    with contextlib.suppress(psycopg2.Error):
        link.close()
