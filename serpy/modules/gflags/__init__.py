"""Global attributes (``$g.…``) and global flags, the same in every process.

The attributes are loaded before the fork and again on ``global.reload``; every message starts with them. The 32 flags
are bytes in shared memory, so setting one needs no lock; ``flush_gflags`` writes them to the global attribute ``gflags``.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.api import (
    FALSE,
    STORE,
    TRUE,
    Arg,
    BackendError,
    Context,
    Exports,
    Function,
    Param,
    Routes,
    Rpc,
    Server,
    UsageError,
)
from serpy.context.context import ONREPLY
from serpy.db.snapshot import Snapshot
from serpy.modules.gflags.global_list import Attributes, GlobalList
from serpy.script.attribute_rows import attributes_of

if TYPE_CHECKING:
    from serpy.db.interface import Database, Value

log = logging.getLogger(__name__)

GENERATION: Final = "global_attrs"
FLAGS: Final = 32
_ATTRIBUTE: Final = "gflags"
_ROW_FLAGS: Final = 33  # LOAD_SER, FOR_SERWEB


class GlobalFlags:
    """Script functions, RPCs and the table of global attributes."""

    def __init__(self) -> None:
        self.db_url = ""
        self.load_global_attrs = 0
        self.initial = 0
        self.global_attrs_table = "global_attrs"
        self._empty: Attributes = {}
        self._snapshot = Snapshot(GENERATION, self._load, self._empty)
        self._server: Server  # set by init() and child_init()
        self._bits: memoryview = memoryview(bytearray(FLAGS))

    # -- life -----------------------------------------------------------------------------------------------------

    def init(self, server: Server) -> None:
        """Allocate the flags, load the attributes, and ask to see every message first."""
        self._server = server
        self._bits = server.segment.allocate(_ATTRIBUTE, FLAGS)
        if self.load_global_attrs:
            self._snapshot.preload(server.counters, lambda: server.open_database(self.db_url))
            before_script = GlobalList(self._snapshot).before_script
            server.hooks.pre_script.append(before_script)
            has_route = getattr(server.program, "has_route", None)
            if has_route is None or has_route(ONREPLY, ""):  # else a reply needs a Context for nothing else
                server.hooks.pre_reply.append(before_script)
        values = self._snapshot.value.get(_ATTRIBUTE, [])
        stored = values[0].value if values else 0
        self._set_word(self.initial | (stored if isinstance(stored, int) else 0))

    def child_init(self, server: Server) -> None:
        """Remember this process's server."""
        self._server = server
        self._snapshot.attach(server.counters, lambda: server.database(self.db_url))

    def _load(self, database: Database) -> Attributes:
        return attributes_of(database.select(self.global_attrs_table, ("name", "type", "value", "flags"), {}))

    # -- flags ----------------------------------------------------------------------------------------------------

    def set_gflag(self, _ctx: Context, flag: int) -> int:
        """Set global flag *flag*."""
        return self._put(flag, 1)

    def reset_gflag(self, _ctx: Context, flag: int) -> int:
        """Clear global flag *flag*."""
        return self._put(flag, 0)

    def is_gflag(self, _ctx: Context, flag: int) -> int:
        """True when global flag *flag* is set."""
        return TRUE if 0 <= flag < FLAGS and self._bits[flag] else FALSE

    def flush_gflags(self, _ctx: Context) -> int:
        """Write the flags to the database: 1; -1 when it cannot be done."""
        try:
            self._flush()
        except BackendError as exc:
            log.debug("flush_gflags: %s", exc)
            return FALSE
        return TRUE

    def _put(self, flag: int, bit: int) -> int:
        if not 0 <= flag < FLAGS:
            return FALSE
        self._bits[flag] = bit
        return TRUE

    def _word(self) -> int:
        return sum(1 << flag for flag in range(FLAGS) if self._bits[flag])

    def _set_word(self, word: int) -> None:
        for flag in range(FLAGS):
            self._bits[flag] = word >> flag & 1

    def _flush(self) -> None:
        store = self._server.find(STORE)
        if store is None:
            raise BackendError("there is no store process to write through")
        row: dict[str, Value] = {"name": _ATTRIBUTE, "type": 0, "value": str(self._word()), "flags": _ROW_FLAGS}
        table = self.global_attrs_table
        store.write([("delete", table, {"name": _ATTRIBUTE}), ("insert", table, row)], wait=True, url=self.db_url)

    # -- RPC ------------------------------------------------------------------------------------------------------

    def rpc_set(self, flag: int) -> None:
        """Set a global flag (0 to 31)."""
        self._rpc_put(flag, 1)

    def rpc_reset(self, flag: int) -> None:
        """Clear a global flag (0 to 31)."""
        self._rpc_put(flag, 0)

    def _rpc_put(self, flag: int, bit: int) -> None:
        if self._put(flag, bit) < 0:
            raise UsageError(f"flags are 0 to {FLAGS - 1}")

    def rpc_is_set(self, flag: int) -> object:
        """1 when the global flag is set, else 0."""
        return int(0 <= flag < FLAGS and bool(self._bits[flag]))

    def rpc_dump(self) -> object:
        """All 32 flags as one number."""
        return self._word()

    def rpc_flush(self) -> None:
        """Write the flags to the global attribute gflags in the database."""
        self._flush()

    def rpc_reload(self) -> object:
        """Read the global attributes again in all processes; on a database error the old ones stay."""
        return {"attributes": len(self._snapshot.reload())}


def exports() -> Exports:
    """The module's export table."""
    module = GlobalFlags()
    flag = (Arg.INT,)
    return Exports(
        name="gflags",
        module=module,
        functions=(
            Function("set_gflag", module.set_gflag, flag, 0, Routes.ALL, "set a global flag"),
            Function("reset_gflag", module.reset_gflag, flag, 0, Routes.ALL, "clear a global flag"),
            Function("is_gflag", module.is_gflag, flag, 0, Routes.ALL, "true when the global flag is set"),
            Function("flush_gflags", module.flush_gflags, (), 0, Routes.ALL, "write the global flags to the database"),
        ),
        params=(
            Param("db_url", "str", "", "database with the global attributes"),
            Param("load_global_attrs", "int", 0, "1 load the table of global attributes"),
            Param("initial", "int", 0, "flags set at the start, as one number"),
            Param("global_attrs_table", "str", "global_attrs", "table of global attributes"),
        ),
        rpc=(
            Rpc("gflags.set", module.rpc_set, write=True),
            Rpc("gflags.reset", module.rpc_reset, write=True),
            Rpc("gflags.is_set", module.rpc_is_set),
            Rpc("gflags.dump", module.rpc_dump),
            Rpc("gflags.flush", module.rpc_flush, write=True),
            Rpc("global.reload", module.rpc_reload, write=True),
        ),
        init=module.init,
        child_init=module.child_init,
    )
