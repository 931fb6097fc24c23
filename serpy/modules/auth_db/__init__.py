"""Digest credentials from the database: the CredentialsService behind ``auth``.

Rows are cached by (table, user, realm, did), so a warm server authenticates without the database; an unknown user is
cached too. A wrong password asks the database as often as an unknown user does: the time of the 401 shows nothing, and
a password changed behind the server's back counts at once. ``password_column`` holds the MD5 HA1, or the SHA-256 one (64 digits) for clients that use that.

Runs in: udp receiver. Locks: none. RFC: 7616 §3.4.2, 8760.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import CREDENTIALS, DEFAULT_DID, ConfigError, Exports, Param, Server
from serpy.db.cache import TtlCache
from serpy.db.sweep import Sweep
from serpy.modules.auth_db.queries import (
    Columns,
    Credential,
    Key,
    candidates,
    page_of_credentials,
    same_secrets,
    select_credentials,
    usable,
)
from serpy.script.param_sets import cache_params

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serpy.db.interface import Database, Row, Value

GENERATION: Final = "credentials"
MAX_REMEMBERED: Final = 10_000  # as many as there are unknown users in the cache
SAME_REQUEST_S: Final = 1.0  # a row read so short ago was read for the request at hand


class _Table:
    """One credentials table being read ahead."""

    def __init__(self, owner: AuthDb, table: str) -> None:
        self._owner: Final = owner
        self._table: Final = table

    def page(self, after: Sequence[Value], limit: int) -> list[Row]:
        """See Sweep."""
        owner = self._owner
        return page_of_credentials(owner._database(), self._table, owner._columns, after, limit)

    def entry(self, rows: list[Row]) -> tuple[Key, list[Credential]]:
        """See Sweep."""
        columns = self._owner._columns
        did = str(rows[0][2]) if columns.use_did else DEFAULT_DID
        return (self._table, str(rows[0][0]), str(rows[0][1]), did), usable(rows, columns, len(columns.key))


class AuthDb:
    """The module: parameters and the cached lookup."""

    def __init__(self) -> None:
        self.db_url = ""
        self.username_column = "auth_username"
        self.realm_column = "realm"
        self.did_column = "did"
        self.password_column = "ha1"  # noqa: S105 - a column name
        self.password_column_2 = "ha1b"  # noqa: S105 - a column name
        self.plain_password_column = "password"  # noqa: S105 - a column name
        self.flags_column = "flags"
        self.calculate_ha1 = 0
        self.use_did = 0
        self.check_all_ha1 = 0
        self.load_credentials = "uid"
        self.cache_ttl = 60
        self.cache_negative_ttl = 5
        self.cache_all_rows = 20_000
        self._columns: Columns  # set by init() and child_init()
        self._server: Server  # set by init() and child_init()
        self._cache: TtlCache[Key, list[Credential]]  # set by init() and child_init()
        self._sweeps: dict[str, Sweep[Key, list[Credential]]] = {}  # by table
        # When the database was asked for one user, oldest first: at all, and because of a wrong password.
        self._loaded: dict[Key, float] = {}
        self._rechecked: dict[Key, float] = {}

    def init(self, server: Server) -> None:
        """Check the parameters and offer the service."""
        self._columns = Columns(
            self.username_column, self.realm_column, self.did_column, self.flags_column,
            self.plain_password_column if self.calculate_ha1 else self.password_column, self.password_column_2,
            self._attributes(), plain=bool(self.calculate_ha1), use_did=bool(self.use_did),
        )  # fmt: skip
        server.counters.bump(GENERATION)  # from here on the number exists, and reading it is one look into a dict
        server.provide(CREDENTIALS, self)

    def child_init(self, server: Server) -> None:
        """Make this process's cache."""
        self._server = server
        self._sweeps = {}
        self._cache = TtlCache(
            server.loop, server.counters, GENERATION, self._load, ttl_s=float(self.cache_ttl),
            negative_ttl_s=float(self.cache_negative_ttl),
        )  # fmt: skip

    def credentials(
        self, table: str, username: str, realm: str, did: str, algorithm: str = "MD5"
    ) -> list[tuple[str, list[tuple[str, str]]]]:
        """(HA1, attributes) of every row to try; see ``serpy.api.CredentialsService``."""
        if table not in self._sweeps:
            self._read_ahead(table)
        return self._candidates(self._cache.get(self._key(table, username, realm, did)), username, realm, algorithm)

    def recheck(
        self, table: str, username: str, realm: str, did: str, algorithm: str = "MD5"
    ) -> list[tuple[str, list[tuple[str, str]]]]:
        """What the database says now, [] when it need not be asked; see ``serpy.api.CredentialsService``.

        It is asked when the cache would ask it for an unknown user: that is what makes the two look alike.
        """
        key = self._key(table, username, realm, did)
        now = self._server.loop.now()
        asked = self._rechecked.get(key, -1e9)
        if now < asked + self.cache_negative_ttl:
            return []
        known = self._cache.get(key)
        rows = known
        if not known:
            pass  # the cache has asked for an unknown user
        elif now < asked + self.cache_negative_ttl + self.cache_ttl:
            self._cache.refresh(key)
        elif now >= self._loaded.get(key, -1e9) + SAME_REQUEST_S:
            rows = self._cache.fetch(key)
        _remember(self._rechecked, key, now)
        return [] if same_secrets(rows, known) else self._candidates(rows, username, realm, algorithm)

    def _key(self, table: str, username: str, realm: str, did: str) -> Key:
        return (table, username.partition("@")[0], realm, did if self.use_did else DEFAULT_DID)

    def _candidates(
        self, rows: list[Credential], username: str, realm: str, algorithm: str
    ) -> list[tuple[str, list[tuple[str, str]]]]:
        if not self.check_all_ha1 and len(rows) > 1:
            rows = rows[:1]
        return candidates(rows, username, realm, algorithm, is_plain=bool(self.calculate_ha1))

    def _read_ahead(self, table: str) -> None:
        rows = _Table(self, table)
        sweep = self._sweeps[table] = Sweep(
            self._server.loop, self._cache, rows.page, rows.entry, width=len(self._columns.key),
            ttl_s=float(self.cache_ttl), max_rows=self.cache_all_rows,
        )  # fmt: skip
        sweep.start()

    def _load(self, key: Key) -> list[Credential]:
        rows = select_credentials(self._database(), self._columns, key)
        _remember(self._loaded, key, self._server.loop.now())
        return rows

    def _database(self) -> Database:
        return self._server.database(self.db_url)

    def _attributes(self) -> list[tuple[str, str]]:
        """(column, attribute) pairs of ``load_credentials``: ``uid``, or ``column = $attribute | column`` …"""
        pairs: list[tuple[str, str]] = []
        for item in self.load_credentials.replace("|", ",").split(","):
            left, equals, right = item.strip(" \t").partition("=")
            left = left.strip(" \t")
            if not left and not equals:
                continue
            column = right.strip(" \t") if equals else left
            name = left.removeprefix("$").removeprefix("fu.").removeprefix("s:")
            if not column or not name:
                raise ConfigError(
                    f"auth_db: load_credentials: cannot read {item!r}", hint='use "uid" or "$attr=column"'
                )
            pairs.append((column, name))
        return pairs


def _remember(instants: dict[Key, float], key: Key, now: float) -> None:
    instants.pop(key, None)  # so that it becomes the youngest
    if len(instants) >= MAX_REMEMBERED:
        del instants[next(iter(instants))]
    instants[key] = now


def exports() -> Exports:
    """The module's export table."""
    module = AuthDb()
    return Exports(
        name="auth_db",
        module=module,
        params=(
            Param("db_url", "str", "", "database with the credentials table"),
            Param("username_column", "str", "auth_username", "column: digest username without a domain"),
            Param("realm_column", "str", "realm", "column: realm"),
            Param("did_column", "str", "did", "column: domain id, used with use_did"),
            Param("password_column", "str", "ha1", "column: HA1 of user:realm:password"),
            Param("password_column_2", "str", "ha1b", "column: HA1 of user@realm:realm:password"),
            Param("plain_password_column", "str", "password", "column: clear-text password, used with calculate_ha1"),
            Param("flags_column", "str", "flags", "column: flags"),
            Param("calculate_ha1", "int", 0, "1 compute HA1 from the clear-text password"),
            Param("use_did", "int", 0, "1 also select by domain id"),
            Param("check_all_ha1", "int", 0, "1 try every matching row, 0 only the first"),
            Param("load_credentials", "str", "uid", "columns to load into from-user attributes: a,b or $attr=column"),
            *cache_params("credentials are", "for unknown users", read_ahead=True),
        ),
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
