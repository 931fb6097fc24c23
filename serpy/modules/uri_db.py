"""From a URI to the uid it belongs to: the ``uri`` table by (user, did, scheme), cached, unknown URIs included.

User parts are compared after their escapes are resolved (RFC 3261 §19.1.4), else byte by byte with what is stored. A
telephone number is the same one as tel: and as a SIP URI with user=phone, with separators or without.

Runs in: udp receiver. Locks: none. RFC: 3261 §19.1.4, §19.1.6; 3966.
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
from serpy.context.avps import CLASS_ANY, FROM_DOMAIN, TO_DOMAIN, TO_USER, TRACK_TO, parse_avp_name
from serpy.db.cache import TtlCache
from serpy.db.sweep import Sweep
from serpy.script.attribute_rows import is_usable
from serpy.script.param_sets import cache_params
from serpy.sip.abnf import ascii_lower
from serpy.sip.uri import parse_uri, telephone_number, unescape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serpy.db.interface import Row, Value

log = logging.getLogger(__name__)

GENERATION: Final = "uri"
ERROR: Final = -2
CANON: Final = 4
IS_TO: Final = 8
IS_FROM: Final = 16
_SCHEMES: Final = frozenset(("sip", "sips", "tel", "tels"))
_CANONICAL: Final = "ruri_canonical"

Key = tuple[str, str, str]
"""(user, did, scheme)."""
Found = list[tuple[str, int]]
"""Usable rows: uid and flags."""


class UriDb:
    """The module: parameters, cached lookup, script functions."""

    def __init__(self) -> None:
        self.db_url = ""
        self.uri_table = "uri"
        self.uid_column = "uid"
        self.did_column = "did"
        self.username_column = "username"
        self.flags_column = "flags"
        self.scheme_column = "scheme"
        self.cache_ttl = 60
        self.cache_negative_ttl = 5
        self.cache_all_rows = 20_000
        self._domains: DomainService | None = None
        self._server: Server  # set by init() and child_init()
        self._cache: TtlCache[Key, Found]  # set by init() and child_init()
        self._sweep: Sweep[Key, Found]  # set by child_init()
        self._from_uid: Final = parse_avp_name("$fu.uid")
        self._to_uid: Final = parse_avp_name("$tu.uid")

    def init(self, server: Server) -> None:
        """Make the generation number exist."""
        server.counters.bump(GENERATION)

    def child_init(self, server: Server) -> None:
        """Make this process's cache and find out who knows the domains."""
        self._server = server
        self._domains = server.find(DOMAINS)
        self._cache = TtlCache(
            server.loop, server.counters, GENERATION, self._load, ttl_s=float(self.cache_ttl),
            negative_ttl_s=float(self.cache_negative_ttl),
        )  # fmt: skip
        self._sweep = Sweep(
            server.loop, self._cache, self._page, self._entry, width=3, ttl_s=float(self.cache_ttl),
            max_rows=self.cache_all_rows,
        )  # fmt: skip

    # -- script ---------------------------------------------------------------------------------------------------

    def lookup_user(self, ctx: Context, what: AvpName, *uri: str | int | None) -> int:
        """Store the uid of a URI in an attribute: 1; -1 unknown, -2 no database.

        Two arguments: the attribute and the URI. One: ``Request-URI`` or ``To`` (into ``$tu.uid``), ``From``
        (into ``$fu.uid``); these also set ``ruri_canonical`` in the to-user list.
        """
        if uri:
            text = uri[0]
            return self._store(ctx, what, text, False) if isinstance(text, str) else FALSE
        named = _named_uri(ctx, what)
        if named is None:
            return FALSE
        return self._store(ctx, self._from_uid if what.name == "From" else self._to_uid, named, what.name != "From")

    def check_uri(self, ctx: Context, what: AvpName, *uri: str | int | None) -> int:
        """The same as ``lookup_user`` without storing anything."""
        text = uri[0] if uri else _named_uri(ctx, what)
        if not isinstance(text, str):
            return FALSE
        is_to = what.track == TRACK_TO if uri else what.name != "From"
        try:
            return FALSE if self._find(ctx, text, is_to) is None else TRUE
        except BackendError as exc:
            log.debug("check_uri: %s", exc)
            return ERROR

    def _store(self, ctx: Context, target: AvpName, uri: str, with_canonical: bool) -> int:
        try:
            found = self._find(ctx, uri, target.track == TRACK_TO)
        except BackendError as exc:
            log.debug("lookup_user: %s", exc)
            return ERROR
        if found is None:
            return FALSE
        ctx.avps.add(target.write_list, target.name, found[0])
        if with_canonical and found[1] & CANON:
            ctx.avps.set(TO_USER, _CANONICAL, "1")
        return TRUE

    # -- rows -----------------------------------------------------------------------------------------------------

    def _find(self, ctx: Context, text: str, is_to: bool) -> tuple[str, int] | None:
        """(uid, flags) of the first row usable in this direction. May park. Raises BackendError."""
        try:
            uri = parse_uri(text)
        except ParseError:
            return None
        if not uri.user or uri.scheme not in _SCHEMES:
            return None
        self._sweep.start()
        direction = IS_TO if is_to else IS_FROM
        did = self._did(uri.host)
        found = self._usable_row(unescape(uri.user), did, uri.scheme, direction)
        if found is not None or (uri.scheme != "tel" and ascii_lower(uri.param("user") or "") != "phone"):
            return found
        # A telephone number: the same one without separators, and in its other form.
        number = telephone_number(unescape(uri.user))
        if not number:
            return None
        if number != uri.user:
            found = self._usable_row(number, did, uri.scheme, direction)
        if found is None and uri.scheme != "tel":
            return self._usable_row(number, DEFAULT_DID, "tel", direction)
        if found is not None:
            return found
        context = uri.param("phone-context")
        if context is None:  # the domain that this request is about
            here = ctx.avps.newest(TO_DOMAIN if is_to else FROM_DOMAIN, "did")
        else:
            here = self._domains.did(context) if self._domains is not None else ""
        return self._usable_row(number, str(here), "sip", direction) if here else None

    def _did(self, host: str) -> str:
        """The id of the domain *host*, DEFAULT_DID for what is none of ours. May park. Raises BackendError."""
        return (self._domains.did(host) if self._domains is not None and host else "") or DEFAULT_DID

    def _usable_row(self, user: str, did: str, scheme: str, direction: int) -> tuple[str, int] | None:
        for row in self._cache.get((user, did, scheme)):
            if row[1] & direction:
                return row
        return None

    def _load(self, key: Key) -> Found:
        where: dict[str, Value] = {self.username_column: key[0], self.did_column: key[1], self.scheme_column: key[2]}
        rows = self._server.database(self.db_url).select(self.uri_table, (self.uid_column, self.flags_column), where)
        return _usable(rows, 0)

    def _page(self, after: Sequence[Value], limit: int) -> list[Row]:
        """The next rows in the order of the key: user, did, scheme, uid, flags."""
        key = (self.username_column, self.did_column, self.scheme_column)
        columns = (*key, self.uid_column, self.flags_column)
        return self._server.database(self.db_url).select_page(self.uri_table, columns, key, after, limit)

    def _entry(self, rows: list[Row]) -> tuple[Key, Found]:
        user, did, scheme = rows[0][:3]
        return (str(user), str(did), str(scheme)), _usable(rows, 3)


def _usable(rows: list[Row], at: int) -> Found:
    """(uid, flags) of the usable *rows*, which have these at index *at* and behind."""
    found: Found = []
    for row in rows:
        uid, flags = row[at], row[at + 1]
        if isinstance(uid, str) and isinstance(flags, int) and is_usable(flags):
            found.append((uid, flags))
    return found


def _named_uri(ctx: Context, what: AvpName) -> str | None:
    """The URI that the one-argument form names; None for an unknown name or a message without it."""
    if what.cls != CLASS_ANY or ctx.request is None:
        return None
    try:
        if what.name == "Request-URI":
            return ctx.request_uri
        if what.name == "From":
            return ctx.request.from_.uri_text
        if what.name == "To":
            return ctx.request.to.uri_text
    except ParseError:
        return None
    return None


def exports() -> Exports:
    """The module's export table."""
    module = UriDb()
    arguments = (Arg.AVP, Arg.VALUE)
    main = Routes.REQUEST | Routes.FAILURE | Routes.EVENT
    return Exports(
        name="uri_db",
        module=module,
        functions=(
            Function("lookup_user", module.lookup_user, arguments, 1, main, "store the uid of a URI in an attribute"),
            Function("check_uri", module.check_uri, arguments, 1, main, "true when the URI belongs to a user"),
        ),
        params=(
            Param("db_url", "str", "", "database with the uri table"),
            Param("uri_table", "str", "uri", "table of URIs"),
            Param("uid_column", "str", "uid", "column: user id"),
            Param("did_column", "str", "did", "column: domain id"),
            Param("username_column", "str", "username", "column: user part"),
            Param("flags_column", "str", "flags", "column: flags"),
            Param("scheme_column", "str", "scheme", "column: sip, sips, tel or tels"),
            *cache_params("a URI is", "for unknown URIs", read_ahead=True),
        ),
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
