"""Phones behind NATs: tell them by what they write, and put the address they really have where others need it.

``nat_uac_test`` compares what a message says with where it came from. ``fix_nated_contact`` writes the source, its
transport included, into Contact, so that requests inside the dialog arrive; what leads somewhere as it is stays: GRUUs,
names, our own domains, and what came by another proxy. ``fix_nated_register`` adds the source as a parameter, so that the
registrar keeps both. Names are never resolved. A ``maddr`` in Contact would win over the address beside it: it is tested
like the host, and goes when the address is replaced.

Runs in: udp receiver. Locks: none. RFC: 3261 §18.2.1, §19.1.1, 3581, 5626, 5627 §3.4.
"""

from __future__ import annotations

from typing import Final

from serpy.api import DOMAINS, FALSE, TRUE, Context, DomainService, ParseError, Server
from serpy.context.context import NATTED
from serpy.sip.address import default_port
from serpy.sip.contact import first_sent, line_as_sent, source_contact, unfolded, with_uri
from serpy.sip.flow import Flow
from serpy.sip.nameaddr import NameAddr, parse_nameaddr, render_params, split_commas
from serpy.sip.reach import HOST_NAME, PUBLIC, is_private, is_same_address, is_unreachable, kind_of, leads_nowhere
from serpy.sip.received import received_from
from serpy.sip.uri import Uri

NAME: Final = "nathelper"

CONTACT_PRIVATE: Final = 1
VIA_ADDRESS: Final = 2
VIA_PRIVATE: Final = 4
SDP_PRIVATE: Final = 8
VIA_PORT: Final = 16
CONTACT_PORT: Final = 32
CONTACT_NOWHERE: Final = 512
REGISTERED: Final = 1024
_ON_VIA: Final = VIA_ADDRESS | VIA_PRIVATE | VIA_PORT
_ON_CONTACT: Final = CONTACT_PRIVATE | CONTACT_PORT | CONTACT_NOWHERE
_RECEIVED: Final = "received"


class Nat:
    """The script functions. *server* is given by init."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._domains: DomainService | None = None

    def init(self, server: Server) -> None:
        """Know which hosts are ours."""
        self._server = server

    def child_init(self, server: Server) -> None:
        """Know which domains are served."""
        self._domains = server.find(DOMAINS)

    def nat_uac_test(self, ctx: Context, tests: int) -> int:
        """True when one of *tests* (a sum of bits) holds: 1 Contact has an address that is private or leads nowhere, 2 the
        source address is not that of the top Via, 4 Via has one like that, 8 the session description has a private one,
        16 the source port is not that of Via, 32 nor that of Contact; 512 Contact leads nowhere: it is unspecified,
        loopback from elsewhere, or a name like ``.invalid``; 1024 this is a reply of a phone that registered from behind a
        NAT. In a reply the tests of Via are false: the top one is our own.
        """
        if tests & REGISTERED and ctx.response is not None and ctx.target_flags & NATTED:
            return TRUE
        if tests & _ON_VIA and ctx.response is None and _via_tells(ctx, tests):
            return TRUE
        if tests & _ON_CONTACT and _contact_tells(ctx, tests):
            return TRUE
        if tests & SDP_PRIVATE and has_private_media(ctx.message.body):
            return TRUE
        return FALSE

    def fix_nated_contact(self, ctx: Context) -> int:
        """Replace host, port and transport of the first Contact by the source of the message. False without one, when it
        has been done already, and when it needs no repair. The parsed Contact changes, too.
        """
        message = ctx.message
        if ctx.notes.get(NAME) is message:
            return FALSE
        try:
            contacts = message.contacts
            if not contacts or not contacts[0].uri.is_sip:
                return FALSE
        except ParseError:
            return FALSE
        old = contacts[0]
        if self._leads_somewhere(ctx, old.uri) or _is_beyond(ctx, self._server):
            return FALSE
        fixed = NameAddr(old.display, source_contact(old.uri, ctx.flow), old.params)
        index = message.find("contact")
        line = line_as_sent(message, ctx.edits, index)
        ctx.edits.replace(index, with_uri(line, first_sent(line, old), fixed))
        contacts[0] = fixed
        ctx.notes[NAME] = message
        return TRUE

    def fix_nated_register(self, ctx: Context) -> int:
        """Add ``;received="sip:source;dstip=…;dstport=…"`` to every Contact, in place of one that a phone wrote there.
        The parsed Contacts stay as they are. True also without Contact (a query); false for a malformed one.
        """
        message = ctx.message
        try:
            for index in message.indexes("contact"):
                line = line_as_sent(message, ctx.edits, index)
                colon = line.find(":")
                values = [_with_received(value, ctx.flow) for value in split_commas(unfolded(line[colon + 1 :]))]
                ctx.edits.replace(index, f"{line[:colon]}: {', '.join(values)}")
        except ParseError:
            return FALSE
        return TRUE

    def _leads_somewhere(self, ctx: Context, uri: Uri) -> bool:
        """True for a Contact that others reach as it is."""
        if uri.param("gr") is not None:
            return True
        kind = kind_of(uri.host)
        if uri.param("maddr") is not None or kind != HOST_NAME:
            return uri.param("ob") is not None and kind == PUBLIC
        server, domains = self._server, self._domains
        if (server is not None and server.is_myself(uri.host, uri.port)) or (
            domains is not None and domains.is_local(uri.host)
        ):
            return True
        # The phone that registered from behind a NAT is where its answer came from, whatever it says.
        is_registered = ctx.response is not None and ctx.target_flags & NATTED != 0
        return not is_registered and not is_unreachable(uri.host, ctx.flow.host)

    def rewritten_contact(self, ctx: Context, number: int) -> str | None:
        """Contact value *number* (from 1) with the source address; None when there is no such SIP contact."""
        try:
            contacts = ctx.message.contacts
            if not 0 < number <= len(contacts) or not contacts[number - 1].uri.is_sip:
                return None
            old = contacts[number - 1]
            return str(NameAddr(old.display, source_contact(old.uri, ctx.flow), old.params))
        except ParseError:
            return None


def _via_tells(ctx: Context, tests: int) -> bool:
    via = ctx.message.via
    flow = ctx.flow
    if tests & VIA_PORT and flow.port != (via.port or 5060):
        return True
    if tests & VIA_ADDRESS and not is_same_address(via.host, flow.host):
        return True
    return tests & VIA_PRIVATE != 0 and is_unreachable(via.host, flow.host)


def _contact_tells(ctx: Context, tests: int) -> bool:
    try:
        contacts = ctx.message.contacts
        if not contacts:
            return False
        uri = contacts[0].uri
    except ParseError:
        return False
    if not uri.is_sip:
        return False
    source = ctx.flow.host
    maddr = uri.param("maddr")
    if tests & CONTACT_PRIVATE and (is_unreachable(uri.host, source) or (maddr and is_unreachable(maddr, source))):
        return True
    if tests & CONTACT_NOWHERE and (leads_nowhere(uri.host, source) or (maddr and leads_nowhere(maddr, source))):
        return True
    if tests & CONTACT_PORT:
        default = default_port("tls" if uri.scheme == "sips" else uri.transport)
        return ctx.flow.port != (uri.port or default)
    return False


def has_private_media(body: bytes) -> bool:
    """True when a ``c=`` line of *body* names a private address."""
    at = body.find(b"c=IN IP")
    while at >= 0:
        if at == 0 or body[at - 1] in b"\r\n":
            end = body.find(b"\n", at)
            line = body[at + 8 : end if end >= 0 else len(body)]  # behind "c=IN IP4"
            host = line.strip(b" \t\r").partition(b"/")[0]  # a multicast address has its TTL behind a slash
            if is_private(host.decode("ascii", "replace")):
                return True
        at = body.find(b"c=IN IP", at + 7)
    return False


def _is_beyond(ctx: Context, server: Server | None) -> bool:
    """True when another proxy stands between the sender and us, for which its phone's address may be right."""
    line = ctx.message.get("record-route")
    if line is None:
        return False
    if ctx.response is None:
        return True
    try:
        uri = parse_nameaddr(split_commas(line)[0]).uri
    except (ParseError, IndexError):
        return False
    return server is not None and not server.is_myself(uri.host, uri.port)


def _with_received(value: str, flow: Flow) -> str:
    """Contact *value* with the parameter; ``*`` as it is."""
    if value == "*":
        return value
    contact = parse_nameaddr(value)
    if _RECEIVED in contact.params:
        # Only we know where the packet came from: a phone could send our calls to anybody.
        params = {name: text for name, text in contact.params.items() if name != _RECEIVED}
        head = f"{contact.display} <{contact.uri_text}>" if contact.display else f"<{contact.uri_text}>"
        value = head + render_params(params)
    return f'{value.rstrip("; ")};{_RECEIVED}="{received_from(flow)}"'
