"""PostgreSQL driver: ``postgres://user:password@host[:port]/database`` (``postgresql://`` too; ``?sslmode=…`` is passed).

No statement, and no connect, blocks the process: where the handle has a loop, the handler parks until the socket is
ready or the deadline passes. A few connections per process, opened when needed. While the server is away every request
fails at once and one at a time tries again (``database.py``).

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serpy.db.interface import parse_url
from serpy.modules.db_postgres.database import PostgresDatabase
from serpy.script.exports import Exports
from serpy.script.param_sets import connection_params

if TYPE_CHECKING:
    from serpy.net.loop import Loop


class PostgresModule:
    """The driver: makes handles for ``postgres:`` URLs."""

    def __init__(self) -> None:
        self.timeout_ms = 2000
        self.connections = 4

    def open(self, url: str, *, read_only: bool, loop: Loop | None = None, create: bool = False) -> PostgresDatabase:
        """Return a handle of this process; it connects at its first statement, so a server that is down is no error here.

        *create* changes nothing: making a database needs an administrator's ``createdb``. Raises ConfigError (URL).
        """
        del create
        database = PostgresDatabase(
            parse_url(url), read_only=read_only, timeout_s=self.timeout_ms / 1000, connections=self.connections
        )
        database.loop = loop
        return database


def exports() -> Exports:
    """The module's export table."""
    module = PostgresModule()
    return Exports(
        name="db_postgres",
        module=module,
        params=connection_params(),
        schemes=("postgres", "postgresql"),
        open_database=module.open,
    )
