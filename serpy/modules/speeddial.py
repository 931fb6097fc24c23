"""speeddial: a caller's short numbers. ``sd_lookup`` replaces the Request-URI by what the caller has stored for it.

Rows are read through a cache; serpyctl makes every process forget what it has kept.

Runs in: udp receiver. Locks: none. RFC: 3261 §19.1.4 (comparison of user parts).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.api import (
    FALSE,
    REPLIES,
    STOP,
    TRUE,
    Arg,
    BackendError,
    Context,
    Exports,
    Function,
    Param,
    ParseError,
    ReplyService,
    Routes,
    Server,
)
from serpy.context.avps import FROM_USER, TRACK_TO
from serpy.db.cache import TtlCache
from serpy.limited_log import LimitedLog
from serpy.script.param_sets import cache_params
from serpy.sip.abnf import ascii_lower
from serpy.sip.uri import parse_uri, unescape

if TYPE_CHECKING:
    from serpy.db.interface import Value

log = logging.getLogger(__name__)

GENERATION: Final = "speed_dial"

Key = tuple[str, str, str, str]
"""(table, uid of the caller, did dialled in, user part dialled)."""


class SpeedDial:
    """The module: parameters, cached lookup, script function."""

    def __init__(self) -> None:
        self.db_url = ""
        self.uid_column = "uid"
        self.dial_username_column = "dial_username"
        self.dial_did_column = "dial_did"
        self.new_uri_column = "new_uri"
        self.cache_ttl = 60
        self.cache_negative_ttl = 5
        self._server: Server  # set by init()
        self._cache: TtlCache[Key, str]  # set by child_init()
        self._replies: ReplyService | None = None
        self._reports: Final = LimitedLog(log)

    def init(self, server: Server) -> None:
        """Make the generation number exist."""
        self._server = server
        server.counters.bump(GENERATION)

    def child_init(self, server: Server) -> None:
        """Make this process's cache and find out who answers for us."""
        self._server = server
        self._replies = server.find(REPLIES)
        self._cache = TtlCache(
            server.loop, server.counters, GENERATION, self._load, ttl_s=float(self.cache_ttl),
            negative_ttl_s=float(self.cache_negative_ttl),
        )  # fmt: skip

    def sd_lookup(self, ctx: Context, table: str) -> int:
        """Replace the Request-URI by the caller's entry for it: 1; -1 none; 0 after answering 400 or 500."""
        request = ctx.request
        if request is None:
            return FALSE
        uid = caller_uid(ctx)
        did = ctx.avps.search("did", TRACK_TO)
        if not uid or did is None:
            return FALSE
        try:
            user = unescape(ctx.uri.user)
        except ParseError:
            return self._refuse(ctx, 400, "Bad Request")
        if not user:
            return FALSE
        try:
            found = self._cache.get((table, uid, str(did), user))
        except BackendError as exc:
            self._reports.error("sd_lookup", "sd_lookup: %s", exc)
            return self._refuse(ctx, 500, "Server Internal Error")
        if not found:
            return FALSE
        try:
            parse_uri(found)
        except ParseError:
            self._reports.error(
                "sd_lookup URI", "the speed dial of %.80r for %.80r is no URI: %.120r", uid, user, found
            )
            return self._refuse(ctx, 500, "Server Internal Error")
        ctx.request_uri = found
        return TRUE

    def _refuse(self, ctx: Context, status: int, reason: str) -> int:
        if self._replies is not None:
            self._replies.reply(ctx, status, reason)
        return STOP

    def _load(self, key: Key) -> str:
        """The URI stored for *key*, "" for none. May park. Raises BackendError."""
        table, uid, did, user = key
        where: dict[str, Value] = {
            self.uid_column: uid, self.dial_did_column: did, self.dial_username_column: user,
        }  # fmt: skip
        for (uri,) in self._server.database(self.db_url).select(table, (self.new_uri_column,), where):
            if isinstance(uri, str) and uri:
                return uri if ascii_lower(uri[:4]) in {"sip:", "sips", "tel:"} else f"sip:{uri}"
        return ""


def caller_uid(ctx: Context) -> str:
    """Who calls: the uid, else the digest username, else the user part of From; "" when there is none."""
    uid = ctx.avps.newest(FROM_USER, "uid")
    if uid is not None:
        return str(uid)
    if ctx.authenticated is not None and ctx.authenticated.username:
        return ctx.authenticated.username
    try:
        return ascii_lower(ctx.message.from_.uri.user)
    except ParseError:
        return ""


def exports() -> Exports:
    """A fresh instance of the module."""
    module = SpeedDial()
    return Exports(
        name="speeddial",
        module=module,
        functions=(
            Function(
                "sd_lookup", module.sd_lookup, (Arg.STR,), 0, Routes.REQUEST,
                "replace the Request-URI by the caller's entry in a table of short numbers",
            ),
        ),
        params=(
            Param("db_url", "str", "", "database with the tables of short numbers"),
            Param("uid_column", "str", "uid", "column: whose entry"),
            Param("dial_username_column", "str", "dial_username", "column: the short number"),
            Param("dial_did_column", "str", "dial_did", "column: domain id the number is dialled in"),
            Param("new_uri_column", "str", "new_uri", "column: where it leads"),
            *cache_params("an entry is", "for numbers without an entry"),
        ),
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
