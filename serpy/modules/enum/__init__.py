"""enum: from a telephone number in the Request-URI to SIP addresses, by NAPTR records (RFC 6116).

The question goes through the resolver of the process, so the handler parks and the receiver does not wait. Answers,
also the negative ones, are kept for their TTL. Records are somebody else's data: malformed ones are passed over.

Runs in: udp receiver. Locks: none. RFC: 6116; 3403 (DDDS); 3761's enumservice ``E2U+sip``.
"""

from __future__ import annotations

import logging
from typing import Final

from serpy.api import (
    FALSE,
    TRUE,
    Arg,
    BackendError,
    Context,
    Exports,
    Function,
    Param,
    ParseError,
    Routes,
    Server,
    Target,
)
from serpy.modules.enum.substitution import BadRecordError, substitute
from serpy.sip.abnf import ascii_lower
from serpy.sip.uri import parse_uri

log = logging.getLogger(__name__)

MAX_DIGITS: Final = 15  # E.164
MAX_RESULTS: Final = 12  # what tm forks to at most
MAX_QUERIES: Final = 8  # names asked for one number: non-terminal records lead on
_DIGITS: Final = frozenset("0123456789")

Naptr = tuple[int, int, str, str, str, str]
"""(order, preference, flags, services, regexp, replacement)."""


class Enum:
    """The module: its parameter and its function."""

    def __init__(self) -> None:
        self.domain_suffix = "e164.arpa."
        self._server: Server  # set by child_init()

    def child_init(self, server: Server) -> None:
        """In each child."""
        self._server = server

    def enum_query(self, ctx: Context, suffix: str | int | None = "", service: str | int | None = "") -> int:
        """Replace the Request-URI by the best address of the number in it, the others become branches. 1 or -1."""
        if ctx.request is None or suffix is None or service is None:
            return FALSE
        try:
            user = ctx.uri.user
        except ParseError:
            return FALSE
        if not is_e164(user):
            return FALSE
        wanted = f"{service}:sip" if service else "sip"
        try:
            found = self._addresses(user, str(suffix) or self.domain_suffix, ascii_lower(wanted))
        except BackendError as exc:
            log.info("enum_query: %s", exc)
            return FALSE
        if not found:
            return FALSE
        # Branches are all tried at once; a redirect tells the order by q.
        ctx.request_uri = found[0][0]
        ctx.q = found[0][1]
        for uri, q in found[1:]:
            ctx.branches.append(Target(uri, "", ctx.send_listener, q))
        return TRUE

    def is_from_user_e164(self, ctx: Context) -> int:
        """True when the user part of From is + and 2 to 15 digits."""
        try:
            return TRUE if is_e164(ctx.message.from_.uri.user) else FALSE
        except ParseError:
            return FALSE

    # -- DDDS

    def _addresses(self, number: str, suffix: str, service: str) -> list[tuple[str, int]]:
        """(SIP URI, q) of *number*, best first. May park. Raises BackendError when no name server answers."""
        found: list[tuple[str, int]] = []
        known: set[str] = set()
        asked: set[str] = set()
        waiting = [enum_name(number, suffix)]
        resolver = self._server.resolver()
        while waiting and len(asked) < MAX_QUERIES:
            name = waiting.pop(0)
            if name in asked:
                continue
            asked.add(name)
            for record in sorted(resolver.naptr(name)):
                text = self._apply(record, number, service, waiting)
                if text and text not in known:
                    known.add(text)
                    found.append((text, max(1000 - 50 * len(found), 50)))
            if found:
                break
        return found[:MAX_RESULTS]

    def _apply(self, record: Naptr, number: str, service: str, waiting: list[str]) -> str:
        """The address that *record* gives; "" for none. The name a non-terminal record leads to joins *waiting*."""
        _, _, flags, services, regexp, replacement = record
        flag = ascii_lower(flags)
        try:
            if flag == "u" and serves(services, service):
                return sip_uri(substitute(regexp, number))
            if flag == "":
                name = replacement if replacement not in {"", "."} else substitute(regexp, number)
                if name:
                    waiting.append(ascii_lower(name.rstrip(".")))
        except BadRecordError as exc:
            log.debug("NAPTR record of %.40r passed over: %.120r: %s", number, regexp, exc)
        return ""


def is_e164(user: str) -> bool:
    """True for ``+`` and 2 to 15 digits."""
    return 3 <= len(user) <= MAX_DIGITS + 1 and user[0] == "+" and _DIGITS.issuperset(user[1:])


def enum_name(number: str, suffix: str) -> str:
    """``+4312`` under ``e164.arpa.`` as ``2.1.3.4.e164.arpa``."""
    return f"{'.'.join(reversed(number[1:]))}.{ascii_lower(suffix.strip('.'))}"


def serves(services: str, wanted: str) -> bool:
    """True when the field names the enumservice *wanted*: ``E2U+sip``, ``E2U+voice:sip+sip`` (RFC 6116 §3.4.3)."""
    pieces = ascii_lower(services).split("+")
    return pieces[0] == "e2u" and wanted in pieces[1:]


def sip_uri(text: str) -> str:
    """*text* when it is a sip or sips URI, else ""."""
    if not text or not text.isascii():
        return ""
    try:
        uri = parse_uri(text)
    except ParseError:
        return ""
    return text if uri.scheme in {"sip", "sips"} else ""


def _check_suffix(value: object) -> str:
    return "" if str(value).strip(".") else "must be a domain name"


def exports() -> Exports:
    """A fresh instance of the module."""
    module = Enum()
    return Exports(
        name="enum",
        module=module,
        functions=(
            Function(
                "enum_query", module.enum_query, (Arg.VALUE, Arg.VALUE), 2, Routes.REQUEST,
                "replace a telephone number in the Request-URI by its addresses in the DNS",
            ),
            Function(
                "is_from_user_e164", module.is_from_user_e164, (), 0, Routes.REQUEST,
                "is the user part of From a telephone number",
            ),
        ),
        params=(
            Param("domain_suffix", "str", "e164.arpa.", "domain that numbers are looked up in", check=_check_suffix),
        ),
        child_init=module.child_init,
    )  # fmt: skip
