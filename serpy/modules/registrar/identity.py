"""Which binding a Contact of a REGISTER stands for, and what keeps two phones apart that say the same of themselves.

An instance with its reg-id is a phone, wherever it is. Without one the URI is, compared as the RFC compares; but an
address behind a NAT means nothing outside: there the address of the NAT counts as well, and the Call-ID, which a phone
keeps when its NAT has become another one.

Pure. Runs in: udp receiver. Locks: none. RFC: 3261 §10.2.4, §10.3, §19.1.4; 5626 §4.1, §4.2, §6.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from serpy.api import CALL_ID_MAX, Binding
from serpy.errors import ParseError
from serpy.shm.record import MARK, MARK_DIGITS
from serpy.sip.abnf import ascii_lower, unquote
from serpy.sip.equality import normal_escapes, texts_equal
from serpy.sip.nameaddr import NameAddr
from serpy.sip.reach import HOST_NAME, PUBLIC, kind_of
from serpy.sip.received import parse_received
from serpy.sip.uri import parse_uri

REG_ID: Final = ";reg-id="
_MARK_NAME: Final = MARK[1:-1]
_REG_ID_DIGITS: Final = 10


class Phone:
    """Who registers *contact*. *received* is where calls to it will go, "" when the URI says it."""

    def __init__(self, contact: NameAddr, received: str, call_id: str) -> None:
        self.uri_text: Final = contact_text(contact)
        self.instance: Final = instance_of(contact)
        self.received: Final = received
        self.place: Final = place_of(received)
        self.call_id: Final = call_id

    def matching(self, bindings: dict[str, Binding]) -> list[Binding]:
        """Those of *bindings* that are this phone's."""
        return [binding for binding in bindings.values() if self.has(binding)]

    def has(self, binding: Binding) -> bool:
        """True when *binding* is one of this phone."""
        ours, theirs = self.instance, binding.instance
        if ours and theirs:
            urn, _, flow = ours.partition(REG_ID)
            other, _, other_flow = theirs.partition(REG_ID)
            if ascii_lower(urn) == ascii_lower(other):
                return flow == other_flow or not flow or not other_flow
        if not (self.uri_text == binding.contact or texts_equal(self.uri_text, binding.uri)):
            return False
        if not is_ambiguous(self.uri_text):
            return True
        theirs_at = "" if binding.flags & Binding.FLOW else binding.received
        if theirs_at == self.received:
            return True
        if ours and theirs:  # two phones; but where the same packets arrive there is one of them
            return False
        return place_of(theirs_at) == self.place or self.call_id == binding.call_id

    def key(self, taken: dict[str, Binding]) -> str:
        """The contact under which its binding is kept beside *taken*, which are other phones'."""
        if self.uri_text not in taken:
            return self.uri_text
        who = self.instance or self.place or self.call_id
        digest = blake2b(who.encode("utf-8", "surrogateescape"), digest_size=MARK_DIGITS // 2).hexdigest()
        head, question, headers = self.uri_text.partition("?")
        return f"{head}{MARK}{digest}{question}{headers}"


def contact_text(contact: NameAddr) -> str:
    """The URI of *contact* as written, but for what is not ASCII, which a URI has to escape; a MARK is ours to make."""
    text = contact.uri_text
    if not text.isascii():
        text = "".join([char if char.isascii() or _is_lone(char) else normal_escapes(char) for char in text])
    if _MARK_NAME not in text:
        return text
    try:
        return parse_uri(text).without_param(_MARK_NAME).text
    except ParseError:
        return text


def _is_lone(char: str) -> bool:
    """True for a byte that is not UTF-8, which the registrar refuses."""
    return 0xD800 <= ord(char) <= 0xDFFF


def instance_of(contact: NameAddr) -> str:
    """The ``+sip.instance`` of *contact* without its quotes and with its reg-id, "" when it has none; one too long to
    store is ignored.
    """
    text = contact.params.get("+sip.instance")
    if text is None:
        return ""
    text = unquote(text)
    reg_id = contact.params.get("reg-id", "")
    if reg_id.isascii() and reg_id.isdigit() and len(reg_id) <= _REG_ID_DIGITS:
        text = f"{text}{REG_ID}{int(reg_id)}"
    return text if len(text) <= CALL_ID_MAX and text.isascii() else ""


def urn_of(instance: str) -> str:
    """The phone of *instance*, whichever of its flows it is."""
    return ascii_lower(instance.partition(REG_ID)[0])


def is_ambiguous(uri_text: str) -> bool:
    """True when the host of a contact is one that many phones have, each in its own network."""
    try:
        uri = parse_uri(uri_text)
    except ParseError:
        return False
    return uri.is_sip and kind_of(uri.host) not in (HOST_NAME, PUBLIC)


def place_of(received: str) -> str:
    """The host of a received URI, "" without one."""
    if not received:
        return ""
    try:
        return parse_received(received).host
    except ParseError:
        return received
