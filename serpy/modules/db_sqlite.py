"""SQLite driver: ``sqlite:///relative/path`` (from where the server was started) or ``sqlite:////absolute/path``.

Write-ahead log, so readers and the one writer never wait for each other; ``synchronous=FULL``, so that what
``write`` returned from is there after a power cut. Reads are a few microseconds from the page cache and do not park.
A handle is opened after the fork and belongs to its process. The file is made by ``serpyctl db create`` only.
Knows nothing of SIP, so that serpyctl can use it too.

Runs in: every process. Locks: SQLite's own file locks, waited for ``db_timeout``.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast

from serpy.db.interface import Operation, Row, Value, parse_url
from serpy.db.sql import Dialect, row_of, storable
from serpy.errors import BackendError, DatabaseDownError
from serpy.script.exports import Exports, Param

if TYPE_CHECKING:
    from serpy.net.loop import Loop

SQLITE: Final = Dialect("sqlite", "?", "cast(strftime('%s', {}) as integer)")

_DOWN: Final = ("locked", "busy", "unable to open", "disk", "full", "i/o", "readonly", "read-only")
"""Words in SQLite's messages that mean: the same statement may succeed later."""


class SqliteDatabase:
    """One connection to one file. See ``serpy.db.interface.Database`` for the methods."""

    def __init__(self, path: str, *, read_only: bool, create: bool, timeout_s: float) -> None:
        self.dialect = "sqlite"
        self.loop: Loop | None = None  # unused: nothing here waits for long
        self.path = path
        if create:
            _make_file(path)
        elif not os.path.exists(path):  # noqa: PTH110 - one stat, no Path object needed
            raise BackendError(f"there is no database {path}: run 'serpyctl db create' first")
        try:
            self._connection = sqlite3.connect(
                f"file:{_escaped(path)}?mode=rw",
                uri=True,
                timeout=timeout_s,
                isolation_level=None,
                cached_statements=200,
            )
            self._prepare(read_only)
        except sqlite3.Error as exc:
            raise _backend_error(exc, path) from None

    def _prepare(self, read_only: bool) -> None:
        connection = self._connection
        if read_only:
            # Opened for writing all the same: only such a handle may recover the log of a killed writer.
            connection.execute("pragma query_only = on")
        else:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
        connection.execute("pragma cache_size = -16000")
        connection.execute("pragma mmap_size = 268435456")
        connection.create_function("utc_timestamp", 0, _utc_timestamp)
        connection.create_function("now", 0, _utc_timestamp)
        connection.create_function("unix_timestamp", -1, _unix_timestamp)

    def select(
        self, table: str, columns: Sequence[str], where: Mapping[str, Value], *, order: str = "", limit: int = 0
    ) -> list[Row]:
        """Rows where every condition holds."""
        text, parameters = SQLITE.select(table, columns, where, order, limit)
        return self._rows(text, parameters)

    def select_page(
        self, table: str, columns: Sequence[str], key: Sequence[str], after: Sequence[Value], limit: int
    ) -> list[Row]:
        """The next *limit* rows behind *after*."""
        text, parameters = SQLITE.page(table, columns, key, after, limit)
        return self._rows(text, parameters)

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Run one statement, committed; [] when it has no result."""
        return self._rows(sql, list(parameters))

    def _rows(self, text: str, parameters: list[Value]) -> list[Row]:
        try:
            return cast("list[Row]", self._connection.execute(text, parameters).fetchall())
        except UnicodeEncodeError:
            return self._rows(text, [storable(value) for value in parameters])
        except (sqlite3.Error, OverflowError, ValueError) as exc:
            raise _backend_error(exc, self.path) from None

    def write(self, operations: Sequence[Operation]) -> None:
        """Apply all of them in one transaction, in order."""
        if not operations:
            return
        batches = batches_of(operations)
        try:
            self._transaction(batches)
        except UnicodeEncodeError:
            self.write_batches_escaped(batches)
        except (sqlite3.Error, OverflowError, ValueError) as exc:
            raise _backend_error(exc, self.path) from None

    def write_batches_escaped(self, batches: list[tuple[str, list[list[Value]]]]) -> None:
        """The same again with every text made storable: some peer's bytes were not UTF-8."""
        escaped = [(text, [[storable(value) for value in row] for row in rows]) for text, rows in batches]
        try:
            self._transaction(escaped)
        except (sqlite3.Error, OverflowError, ValueError) as exc:
            raise _backend_error(exc, self.path) from None

    def _transaction(self, batches: list[tuple[str, list[list[Value]]]]) -> None:
        connection = self._connection
        connection.execute("begin immediate")
        try:
            for text, rows in batches:
                if len(rows) == 1:
                    connection.execute(text, rows[0])
                else:
                    connection.executemany(text, rows)
            connection.execute("commit")
        finally:
            if connection.in_transaction:
                connection.execute("rollback")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def batches_of(operations: Sequence[Operation]) -> list[tuple[str, list[list[Value]]]]:
    """Group neighbours of one statement text, so that each text is run once with many rows."""
    batches: list[tuple[str, list[list[Value]]]] = []
    last_text = ""
    for kind, table, values in operations:
        if kind == "delete":
            text = SQLITE.delete(table, values)
            row = row_of(table, {name: value for name, value in values.items() if value is not None})
        elif kind == "upsert":
            text = SQLITE.upsert(table, tuple(values))
            row = row_of(table, values)
        elif kind == "insert":
            text = SQLITE.insert(table, tuple(values))
            row = row_of(table, values)
        elif kind == "sql":
            text = table
            row = list(values.values())
        else:
            raise BackendError(f"unknown operation {kind!r}")
        if text == last_text:
            batches[-1][1].append(row)
        else:
            batches.append((text, [row]))
            last_text = text
    return batches


def _make_file(path: str) -> None:
    """An empty file only its owner can read: it will hold password hashes."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise BackendError(f"cannot make {path}: {exc.strerror}") from None


def _escaped(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _backend_error(exc: Exception, path: str) -> BackendError:
    text = str(exc)
    if isinstance(exc, sqlite3.OperationalError) and any(word in text for word in _DOWN):
        return DatabaseDownError(f"{path}: {text}")
    if "no such table" in text or "no such column" in text:
        return BackendError(f"{path}: {text}; 'serpyctl db check' says what is missing")
    return BackendError(f"{path}: {text}")


def _utc_timestamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())


def _unix_timestamp(*arguments: Value) -> int | None:
    """MySQL's function: seconds of a UTC text, or now."""
    if not arguments:
        return int(time.time())
    import calendar  # noqa: PLC0415 - only scripts that call this pay for it

    try:
        return calendar.timegm(time.strptime(str(arguments[0])[:19], "%Y-%m-%d %H:%M:%S"))
    except ValueError:
        return None


class SqliteModule:
    """The driver: opens handles for ``sqlite:`` URLs."""

    def __init__(self) -> None:
        self.timeout_ms = 2000
        self._start = os.getcwd()  # noqa: PTH109 - a daemon changes its directory before the children open anything

    def open(self, url: str, *, read_only: bool, loop: Loop | None = None, create: bool = False) -> SqliteDatabase:
        """Return a handle of this process. *create* makes an empty file. Raises BackendError, ConfigError (URL)."""
        path = os.path.join(self._start, parse_url(url).path)  # noqa: PTH118 - keeps an absolute path as it is
        database = SqliteDatabase(path, read_only=read_only, create=create, timeout_s=self.timeout_ms / 1000)
        database.loop = loop
        return database


def exports() -> Exports:
    """The module's export table."""
    module = SqliteModule()
    return Exports(
        name="db_sqlite",
        module=module,
        schemes=("sqlite",),
        open_database=module.open,
        params=(
            Param(
                "db_timeout",
                "int",
                2000,
                "how long a statement waits for another writer, in milliseconds",
                attribute="timeout_ms",
            ),
        ),
    )
