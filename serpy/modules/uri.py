"""Small tests on URIs, and edits of the Request-URI.

Runs in: every process that runs the script. Locks: none. RFC: 3261 §19.1.
"""

from __future__ import annotations

from serpy.api import DOMAINS, FALSE, TRUE, Arg, Context, DomainService, Exports, Function, ParseError, Routes, Server
from serpy.sip.abnf import ascii_lower
from serpy.sip.uri import Uri, parse_uri, telephone_number

_CONTEXT = "phone-context"


class UriTests:
    """The module. It keeps nothing of a message."""

    def __init__(self) -> None:
        self._domains: DomainService | None = None

    def child_init(self, server: Server) -> None:
        """Find out who knows the domains."""
        self._domains = server.find(DOMAINS)

    def has_totag(self, ctx: Context) -> int:
        """True when To has a tag: the request belongs to a dialog."""
        try:
            return TRUE if ctx.message.to_tag else FALSE
        except ParseError:
            return FALSE

    def uri_param(self, ctx: Context, name: str, value: str | int | None = "") -> int:
        """True when the Request-URI has parameter *name*, with *value* when one is given."""
        if value is None:
            return FALSE
        try:
            found = ctx.uri.param(ascii_lower(name))
        except ParseError:
            return FALSE
        if found is None:
            return FALSE
        wanted = str(value)
        return TRUE if not wanted or ascii_lower(found) == ascii_lower(wanted) else FALSE

    def add_uri_param(self, ctx: Context, text: str) -> int:
        """Add ``name=value`` to the Request-URI."""
        added = text.lstrip(";")
        try:
            uri = ctx.uri
            if not added or not uri.is_sip:
                return FALSE
            changed = str(uri.replaced(params=f"{uri.params};{added}" if uri.params else added))
            parse_uri(changed)
        except ParseError:
            return FALSE
        ctx.request_uri = changed
        return TRUE

    def tel2sip(self, ctx: Context, host: str | int | None = "") -> int:
        """Rewrite a tel: Request-URI to sip: (RFC 3261 §19.1.6). True as well for a SIP one.

        The host is the phone-context when that is a domain of ours, else *host*, that of From or that of To.
        """
        try:
            uri = ctx.uri
            if uri.is_sip:
                return TRUE
            if uri.scheme != "tel":
                return FALSE
            place, params = self._place_of(uri)
            place = place or str(host or "") or ctx.message.from_.uri.host or ctx.message.to.uri.host
            number = telephone_number(uri.user)
            changed = f"sip:{number};{params}@{place};user=phone" if params else f"sip:{number}@{place};user=phone"
            parse_uri(changed)
        except ParseError:
            return FALSE
        ctx.request_uri = changed
        return TRUE

    def _place_of(self, uri: Uri) -> tuple[str, str]:
        """(domain of ours that the number *uri* belongs to or "", its other parameters)."""
        context = uri.param(_CONTEXT) or ""
        if not context or self._domains is None or not self._domains.is_local(context):
            return "", uri.params
        return context, uri.without_param(_CONTEXT).params

    def is_user(self, ctx: Context, name: str | int | None) -> int:
        """True when the credentials of this request, checked before, are those of user *name*."""
        known = ctx.avps.search("uid")
        return TRUE if name is not None and known is not None and str(known) == str(name) else FALSE


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = UriTests()
    anywhere = Routes.REQUEST | Routes.FAILURE | Routes.BRANCH
    return Exports(
        "uri",
        module,
        functions=(
            Function("has_totag", module.has_totag, routes=Routes.ALL, summary="true when To has a tag"),
            Function(
                "uri_param",
                module.uri_param,
                (Arg.STR, Arg.VALUE),
                optional=1,
                routes=anywhere,
                summary="true when the Request-URI has this parameter, with this value",
            ),
            Function(
                "add_uri_param",
                module.add_uri_param,
                (Arg.FORMAT,),
                routes=anywhere,
                summary="add name=value to the Request-URI",
            ),
            Function(
                "tel2sip",
                module.tel2sip,
                (Arg.VALUE,),
                optional=1,
                routes=anywhere,
                summary="rewrite a tel: Request-URI to sip:, at its phone-context, this host, or that of From or To",
            ),
            Function(
                "is_user",
                module.is_user,
                (Arg.VALUE,),
                routes=anywhere,
                summary="true when this user has been authenticated",
            ),
        ),
        child_init=module.child_init,
    )
