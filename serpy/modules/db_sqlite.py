"""SQLite driver: ``sqlite:///relative/path`` (from where the server was started) or ``sqlite:////absolute/path``.

Write-ahead log, so readers and the one writer never wait for each other; ``synchronous=FULL``, so that what
``write`` returned from is there after a power cut. Reads are a few microseconds from the page cache and do not park; who
waits for another writer does. A handle is opened after the fork and belongs to its process. The file is made by
``serpyctl db create`` only; when it is removed or replaced under us the database counts as down until it is there again.
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
from serpy.errors import BackendError, DatabaseDownError, ResourceError
from serpy.run_dir import make_folder
from serpy.script.exports import Exports, Param

if TYPE_CHECKING:
    from serpy.net.loop import Loop

SQLITE: Final = Dialect("sqlite", "?", "cast(strftime('%s', {}) as integer)")

_DOWN: Final = ("locked", "busy", "unable to open", "disk", "full", "i/o", "readonly", "read-only")
"""Words in SQLite's messages that mean: the same statement may succeed later."""
_BUSY: Final = ("locked", "busy")  # another writer has it
_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05
LOOK_S: Final = 1.0  # how often a reader looks whether the file is still the same; a writer does after each commit


class SqliteDatabase:
    """One connection to one file. See ``serpy.db.interface.Database`` for the methods."""

    def __init__(self, path: str, *, read_only: bool, create: bool, timeout_s: float) -> None:
        self.dialect = "sqlite"
        self.loop: Loop | None = None  # set in a child: who waits for another writer parks
        self.path = path
        self._read_only = read_only
        self._timeout_s = timeout_s
        self._file = (0, 0)  # device and inode of what is open
        self._look_at = 0.0
        if create:
            _make_file(path)
        self._connection: sqlite3.Connection | None = self._open()

    def _open(self) -> sqlite3.Connection:
        """A connection to the file that is there now."""
        self._file = _identity(self.path)
        if self._file == (0, 0):
            raise DatabaseDownError(f"there is no database {self.path}: run 'serpyctl db create' first")
        try:
            connection = sqlite3.connect(
                f"file:{_escaped(self.path)}?mode=rw",
                uri=True,
                timeout=self._timeout_s,
                isolation_level=None,
                cached_statements=200,
            )
            self._prepare(connection)
        except sqlite3.Error as exc:
            raise _backend_error(exc, self.path) from None
        return connection

    def _link(self) -> sqlite3.Connection:
        """The connection, to another file when that has been put in the place of ours."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            if self._is_gone():
                self._drop()
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _is_gone(self) -> bool:
        return _identity(self.path) != self._file

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if self._read_only:
            # Opened for writing all the same: only such a handle may recover the log of a killed writer.
            connection.execute("pragma query_only = on")
        else:
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = full")
            connection.execute("pragma busy_timeout = 0")  # SQLite would hold up the process: we wait, in _patiently
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
            return self._patiently(text, parameters)
        except UnicodeEncodeError:
            return self._rows(text, [storable(value) for value in parameters])
        except (sqlite3.Error, OverflowError, ValueError) as exc:
            raise _backend_error(exc, self.path) from None

    def _patiently(self, text: str, parameters: list[Value]) -> list[Row]:
        """Run the statement, again and again while another writer has the file, until the deadline."""
        deadline = time.monotonic() + self._timeout_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return cast("list[Row]", self._link().execute(text, parameters).fetchall())
            except sqlite3.OperationalError as exc:
                if self._read_only or not _is_busy(exc) or time.monotonic() >= deadline:
                    raise
            self._sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _sleep(self, seconds: float) -> None:
        if self.loop is None:
            time.sleep(seconds)
            return
        try:
            self.loop.sleep(seconds)
        except ResourceError as exc:
            raise DatabaseDownError(f"{self.path}: locked, and {exc}") from None

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
        if self._is_gone():
            self._drop()
            raise DatabaseDownError(
                f"{self.path} was removed or replaced under the running server; put it back, or run 'serpyctl db create'",
                unknown=True,
            )

    def write_batches_escaped(self, batches: list[tuple[str, list[list[Value]]]]) -> None:
        """The same again with every text made storable: some peer's bytes were not UTF-8."""
        escaped = [(text, [[storable(value) for value in row] for row in rows]) for text, rows in batches]
        try:
            self._transaction(escaped)
        except (sqlite3.Error, OverflowError, ValueError) as exc:
            raise _backend_error(exc, self.path) from None

    def _transaction(self, batches: list[tuple[str, list[list[Value]]]]) -> None:
        self._patiently("begin immediate", [])
        connection = self._connection  # nothing waits from here on
        assert connection is not None
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
        self._drop()


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
        make_folder(os.path.dirname(path) or ".")  # noqa: PTH120
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise BackendError(f"cannot make {path}: {exc.strerror}") from None


def _identity(path: str) -> tuple[int, int]:
    """Device and inode of *path*, (0, 0) when there is nothing."""
    try:
        found = os.stat(path)  # noqa: PTH116 - text in, no Path object needed
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _is_busy(exc: sqlite3.OperationalError) -> bool:
    text = str(exc)
    return any(word in text for word in _BUSY)


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
