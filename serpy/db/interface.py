"""What a database driver offers and what it may raise.

A driver is a module (``db_sqlite``, ``db_postgres``, ``db_mysql``) whose export table has ``schemes`` and
``open_database(url, *, read_only, loop=None, create=False) -> Database``. Values travel as parameters only; identifiers pass ``schema.quoted``. Columns of
kind ``datetime`` are Unix seconds (int) on this side of the interface and UTC text or timestamps on the other; text
given for them is passed as it is.

Runs in: every process; a handle belongs to the process that opened it. Locks: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from serpy.errors import ConfigError

if TYPE_CHECKING:
    from serpy.net.loop import Loop

Value = str | int | float | bytes | None
Row = tuple[Value, ...]
Operation = tuple[str, str, Mapping[str, Value]]
"""(kind, table, values). *kind*: "insert"; "upsert" (on the table's key, see ``schema.key_of``); "delete" (values are
column = value conditions, all must hold; an empty mapping is refused); "sql" (*table* is one statement with ``?`` marks,
the values in their order)."""


class Database(Protocol):
    """One handle of one process. Every method raises BackendError; DatabaseDownError when the server is gone, ``unknown``
    when a transaction had left by then.
    """

    dialect: str  # "sqlite", "postgres" or "mysql"
    loop: Loop | None  # set in a child: waits park the handler; None: waits block, with the same deadlines

    def select(
        self, table: str, columns: Sequence[str], where: Mapping[str, Value], *, order: str = "", limit: int = 0
    ) -> list[Row]:
        """Rows where every condition holds. A key is ``column`` or ``column op`` (op one of < <= > >= <>); None asks
        for NULL. *order* is "column[ desc][, …]"; *limit* 0 = all.
        """

    def select_page(
        self, table: str, columns: Sequence[str], key: Sequence[str], after: Sequence[Value], limit: int
    ) -> list[Row]:
        """The next *limit* rows in the order of *key* (unique columns) behind the key values *after* (() = start)."""

    def write(self, operations: Sequence[Operation]) -> None:
        """Apply all of them in one transaction, in order; returned = on disk."""

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Run one statement with ``?`` placeholders and commit it; [] when it has no result."""

    def close(self) -> None:
        """Give everything back. Harmless when closed."""


class DatabaseUrl(NamedTuple):
    """The parts of a database URL; ``port`` 0 = the driver's default, ``path`` is the file or database name."""

    scheme: str
    user: str
    password: str
    host: str
    port: int
    path: str
    options: dict[str, str]

    def redacted(self) -> str:
        """The URL without its password, for messages."""
        login = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{login}{self.host}{port}/{self.path}"


def parse_url(url: str) -> DatabaseUrl:
    """Return the parts of *url*; three slashes make a relative sqlite path, four an absolute one.

    Raises ConfigError; its text never holds the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 0
    except ValueError:
        raise ConfigError("malformed database URL", hint=_URL_HINT) from None
    path = unquote(parts.path[1:])
    if not parts.scheme or not path or not url.startswith(f"{parts.scheme}://"):
        raise ConfigError("malformed database URL", hint=_URL_HINT)
    return DatabaseUrl(
        parts.scheme,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        parts.hostname or "",
        port,
        path,
        dict(parse_qsl(parts.query)),
    )


_URL_HINT = "use sqlite:///relative/path, sqlite:////absolute/path or postgres://user:password@host[:port]/database (or mysql://…)"
