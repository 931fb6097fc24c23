"""Virtual domains: which host names are ours, their id (did) and their attributes.

``db_mode`` 1 holds all of them in every process, loaded before the fork and again on ``domain.reload``; ``db_mode`` 0 asks
the database for every lookup. A domain name must be unique over all dids, as the table's key says.

Names and hosts are compared in their normal form (``sip/host.py``), so no spelling of a served name is a foreign one.

Runs in: every process. Locks: none. RFC: 3261 §19.1.4.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.api import (
    DOMAINS,
    FALSE,
    TRUE,
    Arg,
    Avp,
    AvpName,
    BackendError,
    Context,
    Exports,
    Function,
    Param,
    Routes,
    Rpc,
    Server,
)
from serpy.context.avps import FROM_DOMAIN
from serpy.db.snapshot import Snapshot
from serpy.script.attribute_rows import attributes_of, is_usable
from serpy.sip.host import normal_host

if TYPE_CHECKING:
    from serpy.db.interface import Database, Row

log = logging.getLogger(__name__)

GENERATION: Final = "domain"
_ERROR: Final = -2


class Domains:
    """All served domains: name -> did, did -> its prepared attribute list (shared by all messages), name -> flags."""

    def __init__(self) -> None:
        self.dids: Final[dict[str, str]] = {}
        self.attrs: Final[dict[str, dict[str, list[Avp]]]] = {}
        self.flags: Final[dict[str, int]] = {}


class DomainModule:
    """Script functions, RPCs and the DomainService."""

    def __init__(self) -> None:
        self.db_url = ""
        self.db_mode = 1
        self.load_domain_attrs = 0
        self.domain_table = "domain"
        self.did_col = "did"
        self.domain_col = "domain"
        self.flags_col = "flags"
        self.domattr_table = "domain_attrs"
        self.domattr_did = "did"
        self.domattr_name = "name"
        self.domattr_type = "type"
        self.domattr_value = "value"
        self.domattr_flags = "flags"
        self._snapshot = Snapshot(GENERATION, self._load_all, Domains())
        self._server: Server  # set by init() and child_init()

    # -- life -----------------------------------------------------------------------------------------------------

    def init(self, server: Server) -> None:
        """Load the table before the fork, over a handle that is closed again."""
        self._server = server
        server.provide(DOMAINS, self)
        if self.db_mode:
            self._snapshot.preload(server.counters, lambda: server.open_database(self.db_url))

    def child_init(self, server: Server) -> None:
        """Remember this process's server."""
        self._server = server
        self._snapshot.attach(server.counters, self._database)

    def _database(self) -> Database:
        return self._server.database(self.db_url)

    # -- script ---------------------------------------------------------------------------------------------------

    def lookup_domain(self, ctx: Context, track: AvpName, name: str | int | None) -> int:
        """Replace the track's domain attributes by those of domain *name*: 1; -1 not ours, -2 no database."""
        if not isinstance(name, str) or not name:
            return FALSE
        try:
            attrs = self._find(name)
        except BackendError as exc:
            log.debug("lookup_domain: %s", exc)
            return _ERROR
        if attrs is None:
            return FALSE
        ctx.avps.replace_list(FROM_DOMAIN + track.track, attrs)
        return TRUE

    def is_local_function(self, _ctx: Context, name: str | int | None) -> int:
        """Whether domain *name* is ours: 1; -1 no, -2 no database."""
        if not isinstance(name, str):
            return FALSE
        try:
            return FALSE if self._find(name) is None else TRUE
        except BackendError as exc:
            log.debug("is_local: %s", exc)
            return _ERROR

    def is_own_host(self, _ctx: Context, host: str | int | None) -> int:
        """True when *host* is one of our own addresses or names, whatever the port."""
        return TRUE if isinstance(host, str) and host and self._server.is_own_host(host) else FALSE

    # -- DomainService --------------------------------------------------------------------------------------------

    def is_local(self, host: str) -> bool:
        """True when *host* is a served domain name; False too when nobody can tell (no database yet)."""
        try:
            return self._find(host) is not None
        except BackendError as exc:
            log.debug("is_local: %s", exc)
            return False

    def did(self, host: str) -> str:
        """The id of the domain *host*, "" when it is not served. Raises BackendError when nobody can tell."""
        attrs = self._find(host)
        return "" if attrs is None else str(attrs["did"][0].value)

    # -- rows -----------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> dict[str, list[Avp]] | None:
        """The attribute list of domain *name*, None when it is not served. May park. Raises BackendError."""
        name = normal_host(name)
        if not name:
            return None
        snapshot = self._snapshot
        if self.db_mode and (snapshot.is_loaded or not snapshot.is_loading):
            domains = snapshot.get()
        else:  # somebody else is loading the whole table just now: do not wait for that
            domains = self._load_one(name)
        did = domains.dids.get(name)
        return None if did is None else domains.attrs[did]

    def _load_all(self, database: Database) -> Domains:
        columns = (self.domain_col, self.did_col, self.flags_col)
        rows = database.select(self.domain_table, columns, {})
        attrs: list[Row] = []
        if self.load_domain_attrs:
            attrs = database.select(self.domattr_table, self._attr_columns(), {})
        return _domains(rows, attrs)

    def _load_one(self, name: str) -> Domains:
        database = self._database()
        columns = (self.domain_col, self.did_col, self.flags_col)
        rows = database.select(self.domain_table, columns, {self.domain_col: name})
        if not rows and ":" in name:
            rows = database.select(self.domain_table, columns, {self.domain_col: f"[{name}]"})
        attrs: list[Row] = []
        if rows and self.load_domain_attrs:
            attrs = database.select(self.domattr_table, self._attr_columns(), {self.domattr_did: rows[0][1]})
        return _domains(rows, attrs)

    def _attr_columns(self) -> tuple[str, ...]:
        return (self.domattr_did, self.domattr_name, self.domattr_type, self.domattr_value, self.domattr_flags)

    # -- RPC ------------------------------------------------------------------------------------------------------

    def rpc_reload(self) -> object:
        """Read the domain table again in all processes; on a database error the old rows stay."""
        if not self.db_mode:
            return {"domains": 0}
        return {"domains": len(self._snapshot.reload().dids)}

    def rpc_dump(self) -> object:
        """All served domains: their did, names, flags and attributes."""
        domains = self._snapshot.get() if self.db_mode else self._load_all(self._database())
        return [_dump(domains, did) for did in domains.attrs]


def _domains(rows: list[Row], attr_rows: list[Row]) -> Domains:
    domains = Domains()
    by_did: dict[str, list[tuple[object, ...]]] = {}
    for attr in attr_rows:
        by_did.setdefault(str(attr[0]), []).append(attr[1:])
    for name, did, flags in rows:
        if not is_usable(flags) or name is None or did is None:
            continue
        key = str(did)
        host = normal_host(str(name))
        if not host:
            log.warning("domain: %.80r of %.80r is no host name, nobody can be called there", name, key)
            host = str(name).lower()
        domains.dids[host] = key
        domains.flags[host] = int(flags or 0)
        if key not in domains.attrs:
            attrs = attributes_of(by_did.get(key, []))
            attrs["did"] = [Avp(key)]
            domains.attrs[key] = attrs
    return domains


def _dump(domains: Domains, did: str) -> dict[str, object]:
    names = [name for name, owner in domains.dids.items() if owner == did]
    shown: dict[str, object] = {"did": did, "domains": names, "flags": [domains.flags[name] for name in names]}
    attrs = {name: [avp.value for avp in values] for name, values in domains.attrs[did].items() if name != "did"}
    shown["attributes"] = {name: values[0] if len(values) == 1 else values for name, values in attrs.items()}
    return shown


def exports() -> Exports:
    """The module's export table."""
    module = DomainModule()
    main = Routes.REQUEST | Routes.FAILURE | Routes.EVENT
    return Exports(
        name="domain",
        module=module,
        functions=(
            Function(
                "lookup_domain", module.lookup_domain, (Arg.TRACK, Arg.VALUE), 0, main,
                "load the attributes of a domain into the from or to domain list",
            ),
            Function("is_local", module.is_local_function, (Arg.VALUE,), 0, main, "true when the domain is served here"),
            Function(
                "is_own_host", module.is_own_host, (Arg.VALUE,), 0, main,
                "true when the host is an address or name of this server, whatever the port",
            ),
        ),
        params=(
            Param("db_url", "str", "", "database with the domain tables"),
            Param("db_mode", "int", 1, "1 keep all domains in memory, 0 ask the database each time"),
            Param("load_domain_attrs", "int", 0, "1 also load domain_attrs"),
            Param("domain_table", "str", "domain", "table of domain names"),
            Param("did_col", "str", "did", "column: domain id"),
            Param("domain_col", "str", "domain", "column: domain name"),
            Param("flags_col", "str", "flags", "column: flags"),
            Param("domattr_table", "str", "domain_attrs", "table of domain attributes"),
            Param("domattr_did", "str", "did", "attribute column: domain id"),
            Param("domattr_name", "str", "name", "attribute column: name"),
            Param("domattr_type", "str", "type", "attribute column: type"),
            Param("domattr_value", "str", "value", "attribute column: value"),
            Param("domattr_flags", "str", "flags", "attribute column: flags"),
        ),
        rpc=(
            Rpc("domain.reload", module.rpc_reload, write=True),
            Rpc("domain.dump", module.rpc_dump),
        ),
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
