"""The handle of one process on MySQL: the statements; the connections are ``serpy.db.pool``'s.

Many rows of one shape are one statement with many rows of values, and a whole write is one transaction sent at once.

Runs in: every process that queries; nothing is shared. Locks: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from serpy.db.interface import DatabaseUrl, Operation, Row, Value
from serpy.db.pool import Pool
from serpy.db.sql import Dialect, row_of, storable
from serpy.errors import BackendError
from serpy.modules.db_mysql.link import Link, connect

MYSQL: Final = Dialect("mysql", "%s", "timestampdiff(second, '1970-01-01 00:00:00', {})")

ROWS_AT_ONCE: Final = 500  # in one statement; far below what a packet may hold
_MARKS_KEPT: Final = 500


class MysqlDatabase(Pool[Link]):
    """See ``serpy.db.interface.Database`` for the methods."""

    def __init__(self, url: DatabaseUrl, *, read_only: bool, timeout_s: float, connections: int) -> None:
        super().__init__(url, timeout_s=timeout_s, connections=connections)
        self.dialect = "mysql"
        self._read_only = read_only

    def open_link(self) -> Link:
        """A new connection."""
        return connect(self.url, read_only=self._read_only, timeout_s=self._timeout_s, loop=self.loop)

    def close_link(self, link: Link) -> None:
        """Close it."""
        link.close()

    def is_closed(self, link: Link) -> bool:
        """True when PyMySQL has given it up."""
        return link.closed

    # -- the interface

    def select(
        self, table: str, columns: Sequence[str], where: Mapping[str, Value], *, order: str = "", limit: int = 0
    ) -> list[Row]:
        """Rows where every condition holds."""
        text, parameters = MYSQL.select(table, columns, where, order, limit)
        return self._run(text, parameters)

    def select_page(
        self, table: str, columns: Sequence[str], key: Sequence[str], after: Sequence[Value], limit: int
    ) -> list[Row]:
        """The next *limit* rows behind *after*."""
        text, parameters = MYSQL.page(table, columns, key, after, limit)
        return self._run(text, parameters)

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Run one statement with ``?`` marks, committed; [] when it has no result."""
        return self._run(marked(sql) if parameters else sql, parameters)

    def write(self, operations: Sequence[Operation]) -> None:
        """Apply all of them in one transaction, in order, in one round trip."""
        if not operations:
            return
        if self._read_only:
            raise BackendError(f"{self.url.redacted()}: this handle is read-only")
        groups = groups_of(operations)
        try:
            self.with_link(_Write(groups))
        except ValueError:  # some peer's bytes were not UTF-8
            for group in groups:
                group.rows = [[storable(value) for value in row] for row in group.rows]
            self.with_link(_Write(groups))

    def _run(self, text: str, parameters: Sequence[Value]) -> list[Row]:
        try:
            return self.with_link(_Query(text, parameters))
        except ValueError:
            return self.with_link(_Query(text, [storable(value) for value in parameters]))


class Group:
    """Neighbouring operations that are one statement: *head*, then *marks* for each row, then *tail*."""

    def __init__(self, shape: tuple[object, ...], head: str, marks: str, tail: str) -> None:
        self.shape = shape
        self.head = head
        self.marks = marks  # "" = every row is a statement of its own
        self.tail = tail
        self.rows: list[list[Value]] = []

    def texts(self, link: Link) -> list[str]:
        """The statements."""
        if not self.marks:
            return [link.filled(self.head, row) for row in self.rows]
        texts: list[str] = []
        for start in range(0, len(self.rows), ROWS_AT_ONCE):
            values = ", ".join([link.filled(self.marks, row) for row in self.rows[start : start + ROWS_AT_ONCE]])
            texts.append(f"{self.head}{values}{self.tail}")
        return texts


def groups_of(operations: Sequence[Operation]) -> list[Group]:
    """The operations in order, neighbours of one shape together. Raises BackendError, UsageError."""
    groups: list[Group] = []
    last: Group | None = None
    for kind, table, values in operations:
        columns = tuple(values)
        nulls = tuple(name for name, value in values.items() if value is None) if kind == "delete" else ()
        shape = (kind, table, columns, nulls)
        if last is None or last.shape != shape:
            last = _group(shape, kind, table, values)
            groups.append(last)
        if kind == "sql":
            last.rows.append(list(values.values()))
        elif kind == "delete":
            last.rows.append(row_of(table, {name: value for name, value in values.items() if value is not None}))
        else:
            last.rows.append(row_of(table, values))
    return groups


def _group(shape: tuple[object, ...], kind: str, table: str, values: Mapping[str, Value]) -> Group:
    columns = tuple(values)
    if kind == "sql":
        return Group(shape, marked(table) if values else table, "", "")
    if kind == "delete":
        return Group(shape, MYSQL.delete(table, values), "", "")
    if kind not in ("insert", "upsert"):
        raise BackendError(f"unknown operation {kind!r}")
    marks = f"({', '.join(['%s'] * len(columns))})"
    text = MYSQL.insert(table, columns) if kind == "insert" else MYSQL.upsert(table, columns)
    head, _, tail = text.partition(marks)
    return Group(shape, head, marks, tail)


class _Query:
    """One statement."""

    def __init__(self, text: str, parameters: Sequence[Value]) -> None:
        self.text = text
        self.parameters = parameters

    def run(self, link: Link, deadline: float) -> list[Row]:
        return link.run(link.filled(self.text, self.parameters), deadline)


class _Write:
    """All groups as one transaction."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups

    def run(self, link: Link, deadline: float) -> list[Row]:
        link.run_all([text for group in self.groups for text in group.texts(link)], deadline)
        return []


_marked: dict[str, str] = {}


def marked(sql: str) -> str:
    """*sql* with ``?`` marks as ``%s`` marks; those inside quotes stay, and percent signs are doubled."""
    text = _marked.get(sql)
    if text is None:
        pieces = sql.split("'")  # even ones are outside of texts
        for index, piece in enumerate(pieces):
            piece = piece.replace("%", "%%")
            pieces[index] = piece if index % 2 else piece.replace("?", "%s")
        text = "'".join(pieces)
        if len(_marked) < _MARKS_KEPT:
            _marked[sql] = text
    return text
