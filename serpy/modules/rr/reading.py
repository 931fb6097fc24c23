"""What of a message goes into the record of a call, as numbers; NONE where it says nothing, or nothing that can be read.

Runs in: udp receiver. Locks: none. RFC: 3261 §12.1, 4028.
"""

from __future__ import annotations

from typing import Final

from serpy.api import ParseError
from serpy.shm.call_file import stamp
from serpy.shm.fingerprints import NONE, Contact, Fingerprints
from serpy.sip.message import Edits, Message, Request
from serpy.sip.nameaddr import cached_nameaddr, split_commas
from serpy.sip.uri import Uri, parse_uri

LONGEST_S: Final = 30 * 86400


def contact_line(message: Message, edits: Edits) -> str:
    """The line of the first Contact as it leaves, "" when there is none."""
    at = message.find("contact")
    if at < 0 or (edits.changed and edits.is_removed(at)):
        return ""
    replaced = edits.replaced
    return message.lines[at] if replaced is None else replaced.get(at, message.lines[at])


def contact_of(prints: Fingerprints, message: Message, edits: Edits) -> Contact:
    """The first Contact as it leaves."""
    return prints.contact(contact_line(message, edits))


def host_as_it_came(prints: Fingerprints, message: Message, edits: Edits, contact: Contact) -> int:
    """The short number of the host in the Contact as it came; *contact* is what leaves."""
    if edits.replaced is None:
        return contact.host
    at = message.find("contact")
    if at < 0:
        return NONE
    if at not in edits.replaced and not edits.is_removed(at):
        return contact.host
    return prints.contact(message.lines[at]).host


def endpoint_of_line(prints: Fingerprints, message: Message, at: int) -> int:
    """The number of the first value of the Record-Route line *at*."""
    try:
        first = split_commas(message.value(at))
        return prints.endpoint_of(cached_nameaddr(f"r:{first[0]}").uri) if first else NONE
    except ParseError:
        return NONE


def endpoint_of_text(prints: Fingerprints, uri_text: str) -> int:
    """The number of where a request to the URI *uri_text* is sent."""
    uri = _parsed(uri_text)
    return NONE if uri is None else prints.endpoint_of(uri)


def host_of_text(prints: Fingerprints, uri_text: str) -> int:
    """The number of the host that a request to the URI *uri_text* is sent to."""
    uri = _parsed(uri_text)
    return NONE if uri is None or not uri.host else prints.host(uri.param("maddr") or uri.host)


def _parsed(uri_text: str) -> Uri | None:
    try:
        return parse_uri(uri_text)
    except ParseError:
        return None


def has_more_vias(request: Request) -> bool:
    """True when the request has come through a proxy."""
    count = 0
    for at, name in enumerate(request.names):
        if name == "via":
            count += 1
            if count > 1 or "," in request.lines[at]:
                return True
    return False


def text_of(request: Request) -> bytes:
    """What people see of a call: Call-ID, caller, callee."""
    text = f"{request.call_id[:72]}\0{request.from_.uri_text[:67]}\0{request.to.uri_text[:67]}"
    if text.isascii():
        return text.encode("ascii")
    parts = [request.call_id, request.from_.uri_text, request.to.uri_text]
    room = (72, 67, 67)
    return b"\0".join([part.encode("utf-8", "surrogateescape")[:size] for part, size in zip(parts, room, strict=True)])


def minute_of(wall: float) -> int:
    """*wall* in minutes since 2020, 24 bits."""
    return stamp(wall) // 60 & 0xFFFFFF


def number_of(text: str | None) -> int:
    """The number that *text* begins with, 0 for none; at most LONGEST_S."""
    digits = ""
    for char in (text or "").strip(" \t")[:10]:
        if not "0" <= char <= "9":
            break
        digits += char
    return min(int(digits or "0"), LONGEST_S)
