"""The handle of one process on PostgreSQL: the statements; the connections are ``serpy.db.pool``'s.

Runs in: every process that queries; nothing is shared. Locks: none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import psycopg2

from serpy.db.interface import DatabaseUrl, Operation, Row, Value
from serpy.db.pool import Pool
from serpy.db.sql import storable
from serpy.modules.db_postgres.link import Link, connect, limit_prepared, prepare, run
from serpy.modules.db_postgres.notices import Notices
from serpy.modules.db_postgres.statements import (
    POSTGRES,
    Group,
    arrays_of,
    execute_text,
    groups_of,
    has_null,
    literal_statement,
    prepared_text,
    translated,
)


class PostgresDatabase(Pool[Link]):
    """See ``serpy.db.interface.Database`` for the methods."""

    def __init__(self, url: DatabaseUrl, *, read_only: bool, timeout_s: float, connections: int) -> None:
        super().__init__(url, timeout_s=timeout_s, connections=connections)
        self.dialect = "postgres"
        self._read_only = read_only
        self._notices: Notices | None = None

    def open_link(self) -> Link:
        """A new connection."""
        return connect(self.url, read_only=self._read_only, timeout_s=self._timeout_s, loop=self.loop)

    def close_link(self, link: Link) -> None:
        """Close it."""
        with contextlib.suppress(psycopg2.Error):
            link.close()

    def is_closed(self, link: Link) -> bool:
        """True when libpq has given it up."""
        return bool(link.closed)

    def watch(self, on_change: Callable[[str], None]) -> None:
        """Call *on_change* with the name of each table of the identity model that changes, "" when it may be any."""
        assert self.loop is not None  # in ctl, after the fork
        self._notices = Notices(self.url, self.loop, self._timeout_s, on_change)
        self._notices.start()

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
            self.with_link(_Write(groups))
        except ValueError:  # some peer's bytes were not UTF-8, or held NUL
            for group in groups:
                group.rows = [[storable(value) for value in row] for row in group.rows]
            self.with_link(_Write(groups))

    def _run(self, text: str, parameters: list[Value] | None) -> list[Row]:
        try:
            return self.with_link(_Query(text, parameters))
        except ValueError:
            cleaned = [storable(value) for value in parameters or ()]
            return self.with_link(_Query(text, cleaned or None))


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
        bare: set[int] = set()  # indexes of texts in which a percent sign stands for itself
        parameters: list[Value] = []
        for group in self.groups:
            prepared = prepared_text(group)
            if prepared and not (group.kind == "delete" and has_null(group.rows)):
                name = prepare(link, prepared, deadline)
                arrays = arrays_of(group)
                text = execute_text(name, arrays)
                if text:
                    bare.add(len(texts))
                    texts.append(text)
                else:
                    texts.append(f"execute {name} ({', '.join(['%s'] * len(arrays))})")
                    parameters.extend(arrays)
            else:
                for row in group.rows:
                    text, values = literal_statement(group, row)
                    texts.append(text)
                    parameters.extend(values)
        if parameters:
            texts = [text.replace("%", "%%") if at in bare else text for at, text in enumerate(texts)]
            return run(link, "; ".join(texts), parameters, deadline)
        if len(bare) < len(texts):
            texts = [text if at in bare else text.replace("%%", "%") for at, text in enumerate(texts)]
        return run(link, "; ".join(texts), None, deadline)
