"""Attributes of users and URIs from the database: ``load_attrs``, cached, users without any included.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.api import (
    DEFAULT_DID,
    DOMAINS,
    FALSE,
    TRUE,
    Arg,
    Avp,
    AvpName,
    BackendError,
    Context,
    DomainService,
    Exports,
    Function,
    Param,
    ParseError,
    Routes,
    Server,
)
from serpy.context.avps import CLASS_URI, CLASS_USER, FROM_DOMAIN, TO_DOMAIN, TRACK_TO
from serpy.db.cache import TtlCache
from serpy.db.sweep import Sweep
from serpy.script.attribute_rows import attributes_of
from serpy.script.param_sets import cache_params
from serpy.sip.uri import parse_uri, telephone_number, unescape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serpy.db.interface import Row, Value

log = logging.getLogger(__name__)

USER_GENERATION: Final = "user_attrs"
URI_GENERATION: Final = "uri_attrs"
ERROR: Final = -2

Attributes = dict[str, list[Avp]]
UriKey = tuple[str, str, str]
"""(user, did, scheme)."""


class AvpDb:
    """The module: parameters, cached lookups, the script function."""

    def __init__(self) -> None:
        self.db_url = ""
        self.user_attrs_table = "user_attrs"
        self.uri_attrs_table = "uri_attrs"
        self.uid_column = "uid"
        self.username_column = "username"
        self.did_column = "did"
        self.scheme_column = "scheme"
        self.name_column = "name"
        self.type_column = "type"
        self.val_column = "value"
        self.flags_column = "flags"
        self.cache_ttl = 60
        self.cache_negative_ttl = 5
        self.cache_all_rows = 20_000
        self._domains: DomainService | None = None
        self._server: Server  # set by init() and child_init()
        self._users: TtlCache[str, Attributes]  # set by init() and child_init()
        self._uris: TtlCache[UriKey, Attributes]  # set by init() and child_init()
        self._user_sweep: Sweep[str, Attributes]  # set by child_init()
        self._uri_sweep: Sweep[UriKey, Attributes]  # set by child_init()

    def init(self, server: Server) -> None:
        """Make the generation numbers exist."""
        server.counters.bump(USER_GENERATION)
        server.counters.bump(URI_GENERATION)

    def child_init(self, server: Server) -> None:
        """Make this process's caches and find out who knows the domains."""
        self._server = server
        self._domains = server.find(DOMAINS)
        ttl_s, negative_ttl_s = float(self.cache_ttl), float(self.cache_negative_ttl)
        self._users = TtlCache(
            server.loop, server.counters, USER_GENERATION, self._load_user, ttl_s=ttl_s, negative_ttl_s=negative_ttl_s
        )
        self._uris = TtlCache(
            server.loop, server.counters, URI_GENERATION, self._load_uri, ttl_s=ttl_s, negative_ttl_s=negative_ttl_s
        )
        # Most users have no attributes at all: a table that is here whole says so without being asked.
        self._user_sweep = Sweep(
            server.loop, self._users, self._user_page, _user_entry, width=1, ttl_s=ttl_s, max_rows=self.cache_all_rows,
            nothing={},
        )  # fmt: skip
        self._uri_sweep = Sweep(
            server.loop, self._uris, self._uri_page, _uri_entry, width=3, ttl_s=ttl_s, max_rows=self.cache_all_rows,
            nothing={},
        )  # fmt: skip

    def load_attrs(self, ctx: Context, track: AvpName, key: str | int | None) -> int:
        """Add the attributes of a uid to ``$fu`` or ``$tu``, of a URI to ``$fr`` or ``$tr``: 1; -1 no key, -2 no
        database.
        """
        if not isinstance(key, str) or not key:
            return FALSE
        try:
            attrs = self._attributes(ctx, track, key)
        except BackendError as exc:
            log.debug("load_attrs: %s", exc)
            return ERROR
        if attrs is None:
            return FALSE
        avps = ctx.avps
        list_id = track.write_list
        if not avps.attrs(list_id):
            avps.replace_list(list_id, attrs)  # shared with the cache until somebody writes
            return TRUE
        for name, values in attrs.items():
            avps.set_values(list_id, name, values + avps.get(list_id, name))
        return TRUE

    def _attributes(self, ctx: Context, track: AvpName, key: str) -> Attributes | None:
        if track.cls == CLASS_USER:
            self._user_sweep.start()
            return self._users.get(key)
        if track.cls != CLASS_URI:
            return None
        try:
            uri = parse_uri(key)
        except ParseError:
            return None
        self._uri_sweep.start()
        did = self._domains.did(uri.host) if self._domains is not None and uri.host else ""
        attrs = self._uris.get((unescape(uri.user), did or DEFAULT_DID, uri.scheme))
        if attrs or uri.scheme != "tel":
            return attrs
        # A telephone number is the same one as tel: and in the domain that this request is about.
        here = ctx.avps.newest(TO_DOMAIN if track.track == TRACK_TO else FROM_DOMAIN, "did")
        number = telephone_number(uri.user) if uri.param("phone-context") is None else ""
        return self._uris.get((number, str(here), "sip")) if here and number else attrs

    def _load_user(self, uid: str) -> Attributes:
        return self._select(self.user_attrs_table, {self.uid_column: uid})

    def _load_uri(self, key: UriKey) -> Attributes:
        where: dict[str, Value] = {self.username_column: key[0], self.did_column: key[1], self.scheme_column: key[2]}
        return self._select(self.uri_attrs_table, where)

    def _user_page(self, after: Sequence[Value], limit: int) -> list[Row]:
        return self._page(self.user_attrs_table, (self.uid_column,), after, limit)

    def _uri_page(self, after: Sequence[Value], limit: int) -> list[Row]:
        key = (self.username_column, self.did_column, self.scheme_column)
        return self._page(self.uri_attrs_table, key, after, limit)

    def _page(self, table: str, key: tuple[str, ...], after: Sequence[Value], limit: int) -> list[Row]:
        columns = (*key, self.name_column, self.type_column, self.val_column, self.flags_column)
        return self._server.database(self.db_url).select_page(table, columns, key, after, limit)

    def _select(self, table: str, where: dict[str, Value]) -> Attributes:
        columns = (self.name_column, self.type_column, self.val_column, self.flags_column)
        return attributes_of(self._server.database(self.db_url).select(table, columns, where))


def _user_entry(rows: list[Row]) -> tuple[str, Attributes]:
    return str(rows[0][0]), attributes_of([row[1:] for row in rows])


def _uri_entry(rows: list[Row]) -> tuple[UriKey, Attributes]:
    user, did, scheme = rows[0][:3]
    return (str(user), str(did), str(scheme)), attributes_of([row[3:] for row in rows])


def exports() -> Exports:
    """The module's export table."""
    module = AvpDb()
    return Exports(
        name="avp_db",
        module=module,
        functions=(
            Function(
                "load_attrs", module.load_attrs, (Arg.TRACK, Arg.VALUE), 0,
                Routes.REQUEST | Routes.FAILURE | Routes.EVENT, "add the attributes of a user or URI to a list",
            ),
        ),
        params=(
            Param("db_url", "str", "", "database with the attribute tables"),
            Param("user_attrs_table", "str", "user_attrs", "table of user attributes"),
            Param("uri_attrs_table", "str", "uri_attrs", "table of URI attributes"),
            Param("uid_column", "str", "uid", "column: user id"),
            Param("username_column", "str", "username", "column: user part of a URI"),
            Param("did_column", "str", "did", "column: domain id"),
            Param("scheme_column", "str", "scheme", "column: scheme"),
            Param("name_column", "str", "name", "column: attribute name"),
            Param("type_column", "str", "type", "column: attribute type"),
            Param("val_column", "str", "value", "column: attribute value"),
            Param("flags_column", "str", "flags", "column: flags"),
            *cache_params("attributes are", "where there are none", read_ahead=True),
        ),
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
