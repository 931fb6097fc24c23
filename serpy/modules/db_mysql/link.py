"""One connection to MySQL or MariaDB: the session's settings, texts with their values in, rows and errors out.

The session takes standard SQL: double quotes are names, a backslash is a backslash; its time zone is UTC, and it refuses
what would be cut. Values are written into the text here, the way the session is set; the server has a limit for a
statement a little below ours, so one that waits for a lock is cancelled over there and the connection stays.

Runs in: every process that queries. Locks: none.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import pymysql
from pymysql.constants import CLIENT, CR, FIELD_TYPE

from serpy.db.interface import DatabaseUrl, Row, Value
from serpy.db.pool import LostError
from serpy.errors import BackendError, DatabaseDownError
from serpy.modules.db_mysql import wire
from serpy.modules.db_mysql.tls import TlsWire, context_of

if TYPE_CHECKING:
    from serpy.net.loop import Loop

SQL_MODE: Final = "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"

# Error numbers of the server
_AGAIN: Final = frozenset(
    (1205, 1213, 1317, 1969, 3024, 1021, 1040, 1041, 1114, 1203, 1226, 1290, 1836, 1637, 3572, 4031)
)
"""Lock wait, deadlock, cancelled (three ways), disk full, too many connections, memory, table full, user limits,
read-only server, too many transactions, idle too long: the same statement may succeed later."""
_GONE: Final = frozenset((CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, 1053, 1077, 1079, 1080, 1927, 0))
"""Connection lost, server shutdown, connection killed."""
_MISSING: Final = frozenset((1146, 1054, 1049))

_DECODERS: Final[dict[Any, Any]] = {  # Any: PyMySQL's table holds functions of one argument
    **dict.fromkeys((FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG, FIELD_TYPE.INT24), int),
    **dict.fromkeys((FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE, FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL), float),
    FIELD_TYPE.YEAR: int,
    **dict.fromkeys((FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP), lambda text: text[:19]),
    FIELD_TYPE.BIT: lambda data: int.from_bytes(data, "big") if isinstance(data, bytes) else data,
}


class Link:
    """One connection in autocommit mode; it remembers its socket, which holds the deadline."""

    def __init__(self, connection: Any, socket: wire.Wire) -> None:  # Any: PyMySQL's stubs want a real socket
        self.connection = connection
        self.socket = socket

    @property
    def closed(self) -> bool:
        """True when it cannot be used any more."""
        return not self.connection.open

    def close(self) -> None:
        """Say good-bye, if the socket takes it at once, and close; never raises."""
        self.socket.deadline = time.monotonic()
        with contextlib.suppress(pymysql.Error, OSError):
            self.connection.close()

    def text_of(self, value: Value) -> str:
        """*value* as SQL."""
        if isinstance(value, str):
            return str(self.connection.escape(value))  # as the session wants it: doubled quotes only
        if value is None:
            return "null"
        if isinstance(value, bytes):
            return f"x'{value.hex()}'"
        return repr(value)

    def filled(self, text: str, values: Sequence[Value]) -> str:
        """*text* with its ``%s`` marks replaced; without values it is taken as it is."""
        if not values:
            return text
        try:
            return text % tuple([self.text_of(value) for value in values])
        except TypeError:
            raise BackendError("MySQL: the statement has another number of marks than values") from None

    def run(self, text: str, deadline: float) -> list[Row]:
        """Run one statement and return its rows.

        Raises LostError, DeadlineError, BackendError; ValueError for text that is no UTF-8 (see ``sql.storable``).
        """
        self.socket.deadline = deadline
        try:
            self.connection.query(text.encode())  # here: PyMySQL 1 lets through what is no UTF-8
            return rows_of(self.connection)
        except (pymysql.Error, OSError) as exc:
            raise translated(self, exc) from None

    def run_all(self, texts: Sequence[str], deadline: float) -> None:
        """Run *texts* as one transaction in one round trip. Raises what ``run`` raises; then nothing has changed."""
        self.socket.deadline = deadline
        try:
            self.connection.query("; ".join(("start transaction", *texts, "commit")).encode())
            for _ in range(len(texts) + 1):
                self.connection.next_result()
        except (pymysql.Error, OSError) as exc:
            found = translated(self, exc)
            if not self.closed:
                self.run("rollback", time.monotonic() + max(deadline - time.monotonic(), 0.1))
            raise found from None


def connect(url: DatabaseUrl, *, read_only: bool, timeout_s: float, loop: Loop | None) -> Link:
    """A new connection. Raises LostError (text: why), DeadlineError, ConfigError."""
    deadline = time.monotonic() + timeout_s
    context = context_of(url.options)
    try:
        sock = wire.connect(url.host, url.port, url.options.get("unix_socket", ""), loop, deadline)
        connection: Any = pymysql.connect(  # Any: see Link
            host=url.host or "localhost",
            user=url.user,
            password=url.password.encode(),  # text would be sent as latin-1
            database=url.path,
            charset="utf8mb4",
            conv=_DECODERS,
            sql_mode=SQL_MODE,
            client_flag=0 if read_only else CLIENT.MULTI_STATEMENTS,
            autocommit=True,
            program_name="serpy",
            ssl=context,
            ssl_disabled=context is None,
            defer_connect=True,
        )
        connection._secure = sock.is_local  # then it may send a password that the server wants in clear
        connection.connect(sock)
        if context is not None and not isinstance(connection._sock, TlsWire):  # older PyMySQL goes on without
            connection.close()
            raise LostError("the server does not offer TLS")
        link = Link(connection, sock)
        _set_up(link, read_only=read_only, timeout_s=timeout_s)
    except (pymysql.Error, OSError, RuntimeError) as exc:  # RuntimeError: a login that needs another package
        raise LostError(_text(exc)) from None
    return link


def _set_up(link: Link, *, read_only: bool, timeout_s: float) -> None:
    own = max(timeout_s * 0.75, 0.001)
    link.connection.query("set names utf8mb4 collate utf8mb4_bin")
    words = ["time_zone = '+00:00'", f"innodb_lock_wait_timeout = {max(int(own), 1)}"]
    if "mariadb" in str(link.connection.server_version).lower():
        words.append(f"max_statement_time = {own:.3f}")
    else:
        words.append(f"max_execution_time = {max(int(own * 1000), 1)}")
    link.connection.query(f"set {', '.join(words)}")
    if read_only:
        link.connection.query("set session transaction read only")


def rows_of(connection: Any) -> list[Row]:
    """The rows of the last statement; [] when it has none."""
    rows = connection._result.rows
    return cast("list[Row]", list(rows)) if rows else []


def translated(link: Link, exc: Exception) -> Exception:
    """The exception of ours for one of PyMySQL's."""
    code = exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0
    text = _text(exc)
    if isinstance(exc, OSError) or link.closed or code in _GONE:
        return LostError(text)
    if code in _AGAIN:
        return DatabaseDownError(f"MySQL: {text}")
    if code in _MISSING:
        return BackendError(f"MySQL: {text}; 'serpyctl db check' says what is missing")
    return BackendError(f"MySQL: {text}")


def _text(exc: Exception) -> str:
    words = [str(word) for word in exc.args] or [type(exc).__name__]
    return words[-1].split("\n", 1)[0][:300]
