"""MySQL and MariaDB driver: ``mysql://user:password@host[:port]/database`` (``?unix_socket=PATH`` for another socket).

It needs PyMySQL (``pip install 'serpy[mysql]'``). No statement blocks the process: where the handle has a loop, the handler
parks until the socket is ready or the deadline passes. ``localhost`` without a port is the server's unix socket, as for
MySQL's own programs. ``?ssl_mode=required`` or ``verify`` (with ``&ssl_ca=FILE``) encrypts.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serpy.db.interface import parse_url
from serpy.errors import ConfigError
from serpy.modules.db_mysql.tls import context_of
from serpy.script.exports import Exports
from serpy.script.param_sets import connection_params

if TYPE_CHECKING:
    from serpy.modules.db_mysql.database import MysqlDatabase
    from serpy.net.loop import Loop


class MysqlModule:
    """The driver: makes handles for ``mysql:`` URLs."""

    def __init__(self) -> None:
        self.timeout_ms = 2000
        self.connections = 4

    def open(self, url: str, *, read_only: bool, loop: Loop | None = None, create: bool = False) -> MysqlDatabase:
        """Return a handle of this process; it connects at its first statement, so a server that is down is no error here.

        *create* changes nothing: making a database needs an administrator. Raises ConfigError (URL, PyMySQL is missing).
        """
        del create
        try:
            from serpy.modules.db_mysql.database import MysqlDatabase  # noqa: PLC0415 - PyMySQL is an optional package
        except ImportError as exc:
            raise ConfigError(
                f"mysql: URLs need PyMySQL ({exc})",
                hint="pip install 'serpy[mysql]', or apt-get install python3-pymysql",
            ) from None
        parts = parse_url(url)
        context_of(parts.options)  # what is wrong there is said at once
        database = MysqlDatabase(
            parts, read_only=read_only, timeout_s=self.timeout_ms / 1000, connections=self.connections
        )
        database.loop = loop
        return database


def exports() -> Exports:
    """The module's export table."""
    module = MysqlModule()
    return Exports(
        name="db_mysql",
        module=module,
        params=connection_params(),
        schemes=("mysql", "mariadb"),
        open_database=module.open,
    )
