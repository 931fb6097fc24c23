"""A Contact that leaves otherwise than it came: with the address its message has come from, or with the transport it came by.

A phone on a connection that names no transport says UDP by that (RFC 3261 §19.1.1), and means the connection. ``kept_on_stream``
says so for it: what follows in the dialog goes back by the connection, whose far end the Contact then names; of a request
only when it is named already, of an answer (its phone was called by that connection) in any case. What leads somewhere
else is left alone: GRUUs, names, other hosts than the sender's, and what came by another proxy.

Pure. Runs in: udp receiver. Locks: none. RFC: 3261 §12.1, §18.1.1; 5626 §5.3; 5923.
"""

from __future__ import annotations

from serpy.errors import ParseError
from serpy.sip.abnf import ascii_lower
from serpy.sip.address import bracketed, default_port
from serpy.sip.flow import Flow
from serpy.sip.lines import after_colon
from serpy.sip.message import Edits, Message, Request
from serpy.sip.nameaddr import NameAddr, parse_nameaddr, split_commas
from serpy.sip.reach import is_same_address
from serpy.sip.uri import Uri


def source_contact(uri: Uri, flow: Flow) -> str:
    """*uri* with the address the message came from, and with its transport: without one it would mean UDP."""
    fixed = uri.without_param("maddr")
    if uri.scheme == "sip" and uri.transport != ("" if flow.transport == "udp" else flow.transport):
        fixed = with_transport(fixed, flow.transport)
    return fixed.replaced(host=bracketed(flow.host), port=flow.port).text


def with_transport(uri: Uri, transport: str) -> Uri:
    """*uri* naming *transport*, in the place of the one it names now."""
    said = f"transport={transport}"
    if not uri.transport:
        return uri if transport == "udp" else uri.replaced(params=f"{uri.params};{said}" if uri.params else said)
    parts: list[str] = []
    for part in uri.params.split(";"):
        parts.append(said if ascii_lower(part.partition("=")[0]) == "transport" else part)
    return uri.replaced(params=";".join(parts))


def kept_on_stream(message: Message, edits: Edits, flow: Flow, *, any_port: bool = False) -> Edits:
    """*edits* of *message*, which has come by the connection *flow*, or a copy that has its Contact name that connection.

    With *any_port* also that of a request, whatever port it names. Not called for what came over UDP. The parsed Contacts
    stay as they came.
    """
    at = message.find("contact")
    if at < 0 or edits.is_removed(at):
        return edits
    line = line_as_sent(message, edits, at)
    try:
        values = split_commas(unfolded(line[line.find(":") + 1 :]))
        if not values or not _means_its_connection(message, edits, flow, parse_nameaddr(values[0]), any_port=any_port):
            return edits
        old = parse_nameaddr(values[0])
        fixed = NameAddr(old.display, source_contact(old.uri, flow), old.params)
    except ParseError:
        return edits
    changed = edits.copy()
    changed.replace(at, with_uri(line, old, fixed))
    return changed


def _means_its_connection(message: Message, edits: Edits, flow: Flow, contact: NameAddr, *, any_port: bool) -> bool:
    """True for the address of a phone that is at the other end of *flow* and names no transport. Raises ParseError."""
    uri = contact.uri
    if uri.scheme != "sip" or uri.param("transport") is not None or not is_same_address(uri.host, flow.host):
        return False
    if uri.param("maddr") is not None or uri.param("gr") is not None:
        return False
    if isinstance(message, Request):
        # Over UDP at that address, maybe: a large request changes to TCP and says nothing by that (RFC 3261 §18.1.1).
        if not any_port and (uri.port or default_port("tcp")) != flow.port:
            return False
        vias = message.indexes("via")
        return len(vias) == 1 and "," not in message.lines[vias[0]] and not message.has("record-route")
    # The topmost of an answer is the farthest from us: ours, unless there is a proxy behind us.
    top = message.find("record-route")
    if top < 0:
        return True
    ours = parse_nameaddr(split_commas(unfolded(after_colon(line_as_sent(message, edits, top))))[0]).uri
    return f"{ours.host}:{ours.port or default_port('tcp')}" == flow.listener.sent_by


def first_sent(line: str, before: NameAddr) -> NameAddr:
    """The first value of the header *line* as it would leave now; *before* when that cannot be read."""
    try:
        values = split_commas(unfolded(after_colon(line)))
        return parse_nameaddr(values[0]) if values else before
    except ParseError:
        return before


def line_as_sent(message: Message, edits: Edits, index: int) -> str:
    """Header line *index* as it would leave now."""
    replaced = edits.replaced
    line = message.lines[index]
    return line if replaced is None else replaced.get(index, line)


def unfolded(text: str) -> str:
    """*text* of a header in one line."""
    return " ".join([part.strip(" \t\r") for part in text.split("\n")]) if "\n" in text else text


def with_uri(line: str, old: NameAddr, fixed: NameAddr) -> str:
    """*line* with the URI of its first value replaced; everything else stays as it was written."""
    at = line.find(":") + 1
    if old.display:
        display = line.find(old.display, at)
        at = display + len(old.display) if display >= 0 else len(line)
    found = line.find(old.uri_text, at)
    if found >= 0:
        uri_text = fixed.uri_text
        if line[found - 1 : found] != "<" and ";" in uri_text:
            uri_text = f"<{uri_text}>"  # bare, its parameters would be those of the header
        return line[:found] + uri_text + line[found + len(old.uri_text) :]
    values = split_commas(unfolded(line[line.find(":") + 1 :]))  # changed by the script meanwhile
    return f"{line[: line.find(':')]}: {', '.join([str(fixed), *values[1:]])}"
