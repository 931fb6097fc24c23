"""One connection: waits with a deadline, parks where there is a loop, translates results and errors.

psycopg2 calls ``_wait`` whenever libpq would block; a deadline that passes closes the connection (the protocol is out of
step then). The server has the same limit a little earlier (``statement_timeout``), so a statement that waits for a lock
is cancelled over there and the connection stays.

Runs in: every process that queries. Locks: none.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg2
import psycopg2.extensions

from serpy.db import hosts
from serpy.db.interface import DatabaseUrl, Row, Value
from serpy.db.pool import DeadlineError, LostError
from serpy.errors import BackendError, DatabaseDownError

if TYPE_CHECKING:
    from serpy.net.loop import Loop

MAX_PREPARED: Final = 200

_POLL_OK: Final = psycopg2.extensions.POLL_OK
_POLL_READ: Final = psycopg2.extensions.POLL_READ


class Link(psycopg2.extensions.connection):
    """A psycopg2 connection that knows how to wait."""

    loop: Loop | None = None
    deadline = 0.0
    prepared: dict[str, str]


def _wait(connection: Any) -> None:  # Any: psycopg2's own type lacks our attributes
    loop: Loop | None = getattr(connection, "loop", None)
    deadline = getattr(connection, "deadline", 0.0) or time.monotonic() + 60.0
    while True:
        state = connection.poll()
        if state == _POLL_OK:
            return
        fd = connection.fileno()
        readable = state == _POLL_READ
        if loop is None:
            ready = _block(fd, readable=readable, deadline=deadline)
        else:
            ready = loop.wait_readable(fd, deadline) if readable else loop.wait_writable(fd, deadline)
        if not ready:
            raise DeadlineError


def _block(fd: int, *, readable: bool, deadline: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN if readable else select.POLLOUT)
    remaining = deadline - time.monotonic()
    return bool(poller.poll(max(remaining, 0.0) * 1000.0))


def connect(url: DatabaseUrl, *, read_only: bool, timeout_s: float, loop: Loop | None) -> Link:
    """Return a new connection in autocommit mode. Raises LostError (text: why), DeadlineError."""
    deadline = time.monotonic() + timeout_s
    psycopg2.extensions.set_wait_callback(_wait)
    options = f"-c timezone=UTC -c statement_timeout={max(int(timeout_s * 750), 1)}"
    if read_only:
        options += " -c default_transaction_read_only=on"
    arguments: dict[str, Any] = {  # Any: psycopg2.connect's overloads do not know str
        "dbname": url.path,
        "client_encoding": "UTF8",
        "application_name": "serpy",
        "keepalives_idle": "30",
        "tcp_user_timeout": str(int(timeout_s * 1000)),
        **url.options,
        "options": options,
    }
    login = {"user": url.user, "password": url.password, "host": url.host}
    arguments.update({name: value for name, value in login.items() if value})
    if url.port:
        arguments["port"] = str(url.port)
    if loop is not None and loop.can_park():
        arguments.update(_found(url, loop, deadline))

    def make(dsn: str, **_: object) -> Link:
        link = Link.__new__(Link)
        link.loop = loop
        link.deadline = deadline
        link.prepared = {}
        link.__init__(dsn)  # type: ignore[misc] # this connects, and our attributes must be there before
        return link

    try:
        link = cast("Link", psycopg2.connect(connection_factory=make, **arguments))
        link.autocommit = True
    except psycopg2.Error as exc:
        raise LostError(_first_line(exc)) from None
    for caster in _CASTERS:
        psycopg2.extensions.register_type(caster, link)
    return link


def _found(url: DatabaseUrl, loop: Loop, deadline: float) -> dict[str, str]:
    """Where the host is, for libpq, whose own lookup would hold up the process. Raises LostError, DeadlineError."""
    host = url.host
    if not host or "/" in host or "," in host or "host" in url.options or "hostaddr" in url.options:
        return {}
    try:
        found = hosts.addresses(host, loop, deadline)
    except OSError as exc:
        raise LostError(str(exc)) from None
    return {"host": ",".join([host] * len(found)), "hostaddr": ",".join(found)}


def run(link: Link, text: str, parameters: list[Value] | None, deadline: float) -> list[Row]:
    """Run *text* (``%s`` marks when there are *parameters*) and return its rows.

    Several statements joined by ``;`` are one transaction. Raises LostError, DeadlineError, BackendError; ValueError for
    text PostgreSQL cannot hold (see ``sql.storable``).
    """
    link.deadline = deadline
    try:
        cursor = link.cursor()
        cursor.execute(text, parameters)
        rows = cursor.fetchall() if cursor.description is not None else []
        cursor.close()
    except psycopg2.Error as exc:
        raise _translated(link, exc) from None
    return cast("list[Row]", rows)


def limit_prepared(link: Link, deadline: float) -> None:
    """Forget all prepared statements when there are too many; called between jobs, never inside one."""
    if len(link.prepared) >= MAX_PREPARED:
        run(link, "deallocate all", None, deadline)
        link.prepared.clear()


def prepare(link: Link, text: str, deadline: float) -> str:
    """Return the name under which this connection has *text* (``$1`` marks) prepared."""
    name = link.prepared.get(text)
    if name is None:
        name = f"s{len(link.prepared)}"
        run(link, f"prepare {name} as {text}", None, deadline)
        link.prepared[text] = name
    return name


def _translated(link: Link, exc: psycopg2.Error) -> Exception:
    code = exc.pgcode or ""
    text = _first_line(exc)
    # 57P01-57P03: the server is being shut down or is starting; 08: the connection failed.
    if link.closed or code.startswith(("57P", "08")):
        return LostError(text)
    if code.startswith(("53", "57", "55P03", "40")):  # out of resources, cancelled, lock not available, deadlock
        return DatabaseDownError(f"PostgreSQL: {text}")
    if code in ("42P01", "42703"):
        return BackendError(f"PostgreSQL: {text}; 'serpyctl db check' says what is missing")
    return BackendError(f"PostgreSQL: {text}")


def _first_line(exc: psycopg2.Error) -> str:
    primary = exc.diag.message_primary
    lines = [line for line in str(primary or exc).split("\n") if line]
    return lines[0][:300] if lines else type(exc).__name__


def _as_text(value: str | bytes | None, _cursor: object) -> str | None:
    return None if value is None else str(value)[:19]


def _as_float(value: str | bytes | None, _cursor: object) -> float | None:
    return None if value is None else float(value)


def _as_int(value: str | bytes | None, _cursor: object) -> int | None:
    return None if value is None else int(value == "t")


def _as_bytes(value: str | bytes | None, _cursor: object) -> bytes | None:
    return None if value is None else bytes.fromhex(str(value).removeprefix("\\x"))


_CASTERS: Final = (
    psycopg2.extensions.new_type((1114, 1184, 1082), "SERPY_TIME", _as_text),
    psycopg2.extensions.new_type((1700,), "SERPY_NUMERIC", _as_float),
    psycopg2.extensions.new_type((16,), "SERPY_BOOL", _as_int),
    psycopg2.extensions.new_type((17,), "SERPY_BYTES", _as_bytes),
)
