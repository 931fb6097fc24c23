"""Database queries from the script: ``db_query``, handles with their rows, and the selects ``@db.query`` and ``@db.fetch``.

A SELECT runs here over this process's own read-only handle and parks. Everything that changes rows goes to the store, the
one writer, and returns after the commit; repeated after a crash of the store it still counts once. What a handle holds
belongs to the message: two messages in one process never see each other's rows, and it is gone when the script ends.

Runs in: receivers, timer. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from serpy.api import (
    FALSE,
    STOP,
    STORE,
    TRUE,
    Arg,
    BackendError,
    ConfigError,
    Context,
    Exports,
    Function,
    Param,
    Routes,
    Select,
    Server,
    UsageError,
)
from serpy.context.context import EVENT, FAILURE, REQUEST
from serpy.modules.db_ops.query import Query, parse_query
from serpy.modules.db_ops.results import Result, number_of, reader, result_of
from serpy.script.environment import Environment
from serpy.script.formats import Format, parse_format

if TYPE_CHECKING:
    from serpy.db.interface import Row

MAX_ROWS: Final = 100_000  # of one result: it is all in memory
_WAITING_KINDS: Final = (REQUEST, FAILURE, EVENT)  # routes that may park
_NOTE: Final = "db_ops"


class DbOps:
    """Parameters, script functions and selects. *declared* queries are parsed when all parameters are there."""

    def __init__(self) -> None:
        self.db_url = ""
        self.declare_query: list[str] = []
        self.declare_handle: list[str] = []
        self._queries: dict[str, Query] = {}
        self._wanted_queries: set[str] = set()  # ids the script uses
        self._wanted_handles: set[str] = set()
        self._uses_handles = False
        self._server: Server  # set by init() and child_init()
        self._environment = Environment()

    # -- life -----------------------------------------------------------------------------------------------------

    def take_environment(self, environment: Environment) -> None:
        """Look names up in the script that has loaded this module."""
        self._environment = environment

    def init(self, server: Server) -> None:
        """Parse the declared queries and look whether all names the script uses are declared. Raises ConfigError."""
        self._server = server
        for text in self.declare_query:
            name, equals, query = text.partition("=")
            name = name.strip(" ")
            if not equals or not name.isidentifier() or not name.isascii():
                raise ConfigError(f"declare_query {text[:60]!r} has no id", hint='write "id=select/table/fields/where"')
            try:
                parsed = parse_query(parse_format(query.strip(" "), self._environment))
            except ValueError as exc:
                raise ConfigError(f"declare_query {name}: {exc}") from None
            if isinstance(parsed, str):
                raise ConfigError(f"declare_query {name}: {parsed!r} is no query")
            self._queries[name] = parsed
        missing = sorted(self._wanted_queries - set(self._queries))
        if missing:
            raise ConfigError(
                f"no query {missing[0]!r} is declared", hint=f'modparam("db_ops", "declare_query", "{missing[0]}=…")'
            )
        missing = sorted(self._wanted_handles - set(self.declare_handle))
        if missing:
            raise ConfigError(
                f"no handle {missing[0]!r} is declared", hint=f'modparam("db_ops", "declare_handle", "{missing[0]}")'
            )
        if (self._queries or self._wanted_handles) and not self.db_url:
            raise ConfigError("db_url is not set", hint='modparam("db_ops", "db_url", …)')
        if self._uses_handles:
            server.hooks.post_script.append(close_all)

    def child_init(self, server: Server) -> None:
        """Remember this process's server."""
        self._server = server

    # -- at load time ---------------------------------------------------------------------------------------------

    def prepare_query(self, template: Format) -> Query | Declared:
        """The argument of ``db_query``. Raises ValueError."""
        parsed = parse_query(template)
        if isinstance(parsed, str):
            self._wanted_queries.add(parsed)
            return Declared(self._queries, parsed)
        return parsed

    def prepare_handle(self, name: str) -> str:
        """The name of a handle; whether it is declared is seen in ``init``. SER's first release numbered them."""
        self._uses_handles = True
        if not (name.isascii() and name.isdigit()):
            self._wanted_handles.add(name)
        return name

    # -- script ---------------------------------------------------------------------------------------------------

    def db_query(self, ctx: Context, query: Query | Declared, handle: str = "") -> int:
        """Run *query*: a SELECT is true when there is a row, anything else when it is done. Raises BackendError."""
        if isinstance(query, Declared):
            query = query.query()
        if not query.reads:
            self._write(ctx, query)
            return TRUE
        rows = self._read(ctx, query)
        if handle:
            _results(ctx)[handle] = Result(rows)
        return TRUE if rows else FALSE

    def db_close(self, ctx: Context, handle: str) -> int:
        """Forget the rows of *handle*; one that is not open is fine too."""
        _results(ctx).pop(handle, None)
        return TRUE

    def db_first(self, ctx: Context, handle: str) -> int:
        """Go to the first row: true when there is one."""
        return self._seek(ctx, handle, 0)

    def db_next(self, ctx: Context, handle: str) -> int:
        """Go to the next row; false, and nothing moves, when this is the last."""
        result = result_of(ctx, handle)
        return FALSE if result is None else self._seek(ctx, handle, result.at + 1)

    def db_seek(self, ctx: Context, handle: str, row: str | int | None) -> int:
        """Go to row *row*, from 0; false, and nothing moves, when there is none."""
        number = number_of(row)
        return FALSE if number is None else self._seek(ctx, handle, number)

    def _seek(self, ctx: Context, handle: str, row: int) -> int:
        result = result_of(ctx, handle)
        if result is None or not 0 <= row < len(result.rows):
            return FALSE
        result.at = row
        return TRUE

    def db_foreach(self, ctx: Context, handle: str, route: str) -> int:
        """Run ``route[route]`` for each row from the first; a false one ends it. The result is that of the last run."""
        result = result_of(ctx, handle)
        if result is None or not result.rows:
            return FALSE
        call: Callable[[Context, str], int] = self._server.program.call  # type: ignore[attr-defined]  # a Program
        code = TRUE
        for row in range(len(result.rows)):
            result.at = row
            code = call(ctx, route)
            if ctx.state:
                return STOP
            if code <= 0 or result_of(ctx, handle) is not result:
                break
        return code or FALSE

    def db_proper(self, _ctx: Context) -> int:
        """True: SER needed this call to make handles work in reply and failure routes."""
        return TRUE

    # -- the database ---------------------------------------------------------------------------------------------

    def _read(self, ctx: Context, query: Query) -> list[Row]:
        if not self.db_url:
            raise BackendError("db_url of db_ops is not set")
        try:
            rows = query.rows(self._server.database(self.db_url), ctx)
        except UsageError as exc:
            raise BackendError(str(exc)) from None
        if len(rows) > MAX_ROWS:
            raise BackendError(f"a result of {len(rows)} rows: the query needs a limit")
        return rows

    def _write(self, ctx: Context, query: Query) -> None:
        store = self._server.find(STORE)
        if store is None or not self.db_url:
            raise BackendError("db_url of db_ops is not set" if store else "there is no store process to write through")
        try:
            operation = query.operation(self._server.database(self.db_url).dialect, ctx)
        except UsageError as exc:
            raise BackendError(str(exc)) from None
        store.write([operation], wait=True, url=self.db_url)

    # -- selects --------------------------------------------------------------------------------------------------

    def select_query(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@db.query.ID…`` and ``@db.query["SQL"]…``: run each time it is read. Raises ValueError."""
        if not parts or not isinstance(parts[0], str):
            raise ValueError('write @db.query.ID.count or @db.query["SQL"].field[0]')
        declared = self.prepare_query(parse_format(parts[0], self._environment))
        if not isinstance(declared, Declared) and not declared.reads:
            raise ValueError("a select cannot change rows: use db_query()")
        read = reader(parts[1:])

        def value(ctx: Context) -> str | None:
            if ctx.kind not in _WAITING_KINDS:  # nothing may wait in a branch or reply route
                return None
            query = declared.query() if isinstance(declared, Declared) else declared
            return read(Result(self._read(ctx, query))) if query.reads else None

        return value

    def select_fetch(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@db.fetch.HANDLE…``: undefined when the handle is not open. Raises ValueError."""
        if not parts or (isinstance(parts[0], int) and parts[0] < 0):
            raise ValueError("write @db.fetch.HANDLE.count or @db.fetch.HANDLE.field[0]")
        handle = self.prepare_handle(str(parts[0]))
        read = reader(parts[1:])

        def value(ctx: Context) -> str | None:
            result = result_of(ctx, handle)
            return None if result is None else read(result)

        return value


class Declared:
    """A query by its id; it is looked up when it runs, since parameters may come after the route."""

    def __init__(self, queries: dict[str, Query], name: str) -> None:
        self._queries = queries
        self._name = name

    def query(self) -> Query:
        """The query itself."""
        return self._queries[self._name]


def _results(ctx: Context) -> dict[str, Result]:
    found = ctx.notes.get(_NOTE)
    if not isinstance(found, dict):
        found = ctx.notes[_NOTE] = {}
    return found


def close_all(ctx: Context) -> None:
    """The script has ended: its handles are closed."""
    ctx.notes.pop(_NOTE, None)


def exports() -> Exports:
    """The module's export table."""
    module = DbOps()
    main = Routes.REQUEST | Routes.FAILURE | Routes.EVENT
    query: dict[int, Callable[[Any], object]] = {0: module.prepare_query, 1: module.prepare_handle}
    handle: dict[int, Callable[[Any], object]] = {0: module.prepare_handle}
    return Exports(
        name="db_ops",
        module=module,
        take_environment=module.take_environment,
        functions=(
            Function(
                "db_query", module.db_query, (Arg.TEMPLATE, Arg.STR), 1, main,
                "run SQL, select/table/…, or a declared query; the rows stay in the handle", prepare=query,
            ),
            Function(
                "db_close", module.db_close, (Arg.STR,), 0, Routes.ALL, "forget the rows of a handle", prepare=handle
            ),
            Function(
                "db_first", module.db_first, (Arg.STR,), 0, Routes.ALL, "go to the first row of a handle",
                prepare=handle,
            ),
            Function(
                "db_next", module.db_next, (Arg.STR,), 0, Routes.ALL, "go to the next row; false at the last one",
                prepare=handle,
            ),
            Function(
                "db_seek", module.db_seek, (Arg.STR, Arg.VALUE), 0, Routes.ALL, "go to a row, counted from 0",
                prepare=handle,
            ),
            Function(
                "db_foreach", module.db_foreach, (Arg.STR, Arg.ROUTE), 0, main, "run a route for each row of a handle",
                route_kind="route", prepare=handle,
            ),
            Function("db_proper", module.db_proper, (), 0, Routes.ALL, "nothing: handles work in all routes"),
        ),
        params=(
            Param("db_url", "str", "", "database to query"),
            Param("declare_query", "str", "", 'ID=QUERY, run with db_query("ID") or @db.query.ID', repeat=True),
            Param("declare_handle", "str", "", "name of a handle for rows", repeat=True),
        ),
        selects=(
            Select("db.query", module.select_query, "the rows of a query: count, is_empty, field[n], row[n].field[n]"),
            Select("db.fetch", module.select_fetch, "the rows of a handle: count, is_empty, row_no, field[n], row[n]"),
        ),
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
