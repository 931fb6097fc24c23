"""usrloc: where users are. The location table in shared memory, its database, its expiry and its RPCs.

Provides LocationService. With a database (``db_mode`` 1 to 3) the table is loaded in the background after the start; a user
that is not there yet is asked for in the database. Which tables exist follows from ``preload`` and from use.

Runs in: master (init), every child. Locks: inside the table only.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.api import LOCATION, STORE, Exports, Param, Rpc
from serpy.errors import BackendError, ConfigError
from serpy.modules.usrloc.location import MEMORY, READ_ONLY, Location
from serpy.modules.usrloc.preload import Preload
from serpy.modules.usrloc.purge import Purge
from serpy.modules.usrloc.rpc import LocationRpc
from serpy.modules.usrloc.storage import COLUMNS
from serpy.shm.table import LocationTable

if TYPE_CHECKING:
    from serpy.api import Server

log = logging.getLogger(__name__)

_PRELOAD_BUDGET_S: Final = 0.85  # of each second, until everything is loaded
_LEAVE: Final = 8  # this part of the free shared memory is left for others
_LEAVE_MIN: Final = 512 * 1024


class Usrloc:
    """The module: its parameters, and the pieces it puts together."""

    def __init__(self) -> None:
        self.db_mode = MEMORY
        self.db_url = ""
        self.timer_interval = 60
        self.desc_time_order = 0
        self.db_skip_delete = 0
        self.preload: list[str] = []
        self.reg_avp_flag = ""
        self.reg_avp_column = ""
        self.uid_column = "uid"  # the eleven others likewise, set by name
        self.rpc = LocationRpc()
        self.location: Location  # set by init; declared only, because a compiled attribute cannot hold None for it
        self.loader: Preload | None = None
        self.purge: Purge | None = None
        self._server: Server  # set by child_init
        self._expired = 0
        self._purged = 0

    def init(self, server: Server) -> None:
        """Make the table from what the segment has left. Raises ConfigError, ResourceError."""
        if self.db_mode != MEMORY and not self.db_url:
            raise ConfigError(
                f"usrloc: db_mode {self.db_mode} needs db_url",
                hint='modparam("usrloc", "db_url", "sqlite:////var/lib/serpy/serpy.db")',
            )
        free = server.segment.free
        table = LocationTable(server.segment, free - max(free // _LEAVE, _LEAVE_MIN))
        self.location = Location(table, server, self.db_mode, self.db_url, bool(self.desc_time_order))
        self.location.server_id = self.rpc.server_id = server.settings.server_id
        self.rpc.location = self.location
        for name in self.preload or ["location"]:
            self.location.table_id(name)
        self._expired = server.counters.declare("usrloc.expired", "bindings dropped because they expired")
        self._purged = server.counters.declare("usrloc.purged", "rows removed that expired while nobody looked")
        server.hooks.on_tick.append(self.on_tick)
        server.provide(LOCATION, self.location)

    def child_init(self, server: Server) -> None:
        """Find the store; in the timer process get ready to load."""
        self._server = server
        self.location.store = server.find(STORE)
        if server.role == "timer" and self.db_mode != MEMORY:
            self.loader = Preload(self.location, server, self.db_url)
            if not self._keeps_rows() and self.location.store is not None:
                self.purge = Purge(self.location, server, self.db_url, self._purged)

    def on_tick(self, now: float, wall_now: float) -> None:
        """Once a second in the timer process: load some more, expire a part of the buckets, look at old rows."""
        self._expire(wall_now)
        if (self.loader is None or self.loader.tick(now, _PRELOAD_BUDGET_S)) and self.purge is not None:
            self.purge.tick(now, wall_now)

    def _keeps_rows(self) -> bool:
        """True when expired rows stay in the database."""
        return bool(self.db_skip_delete) or self.db_mode == READ_ONLY

    def _expire(self, wall_now: float) -> None:
        buckets = self.location.table.buckets // max(1, self.timer_interval) + 1
        try:
            dropped = self.location.expire(wall_now, buckets, self._keeps_rows())
        except BackendError as exc:
            log.warning("expired rows stay in the database: %s", exc)
            return
        if dropped:
            self._server.counters.add(self._expired, dropped)
            log.debug("%d bindings expired", dropped)


def _check_mode(value: int) -> str:
    return (
        "" if 0 <= value <= READ_ONLY else "db_mode is 0 (memory), 1 (write-through), 2 (write-back) or 3 (read-only)"
    )


def _check_interval(value: int) -> str:
    return "" if 1 <= value <= 3600 else "timer_interval is 1 to 3600 seconds"


def _check_unset(value: str) -> str:
    return "not supported: attributes are not stored with contacts" if value else ""


def _column_params() -> list[Param]:
    """The column names of SER, which may only be said again: the schema is one for all drivers."""

    def fixed(name: str) -> Param:
        def check(value: str) -> str:
            return "" if value == name else f"the column is called {name!r}"

        return Param(f"{name}_column", "str", name, f"the column {name} (fixed)", "uid_column", check=check)

    return [fixed(name) for name in (*COLUMNS, "method")]


def exports() -> Exports:
    """A fresh usrloc module."""
    module = Usrloc()
    rpc = module.rpc
    return Exports(
        name="usrloc",
        module=module,
        params=[
            Param("db_mode", "int", MEMORY, "0 memory, 1 write-through, 2 write-back, 3 read-only", check=_check_mode),
            Param("db_url", "str", "", "where location tables are stored"),
            Param(
                "timer_interval", "int", 60, "seconds in which all bindings are looked at once", check=_check_interval
            ),
            Param("desc_time_order", "int", 0, "1: contacts newest first whatever their q"),
            Param("db_skip_delete", "int", 0, "1: expired rows stay in the database"),
            Param("preload", "str", "", "a table to load at start (none: location)", repeat=True),
            Param("reg_avp_flag", "str", "", "not supported", check=_check_unset),
            Param("reg_avp_column", "str", "", "not supported", check=_check_unset),
            *_column_params(),
        ],
        rpc=[
            Rpc("usrloc.stats", rpc.stats),
            Rpc("usrloc.show_contacts", rpc.show_contacts),
            Rpc("usrloc.add_contact", rpc.add_contact, write=True),
            Rpc("usrloc.delete_contact", rpc.delete_contact, write=True),
            Rpc("usrloc.delete_uid", rpc.delete_uid, write=True),
            Rpc("usrloc.flush", rpc.flush, write=True),
            Rpc("usrloc.dump", rpc.dump),
            Rpc("usrloc.dump_file", rpc.dump_file, write=True),
        ],
        init=module.init,
        child_init=module.child_init,
    )
