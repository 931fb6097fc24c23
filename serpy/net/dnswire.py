"""DNS messages as bytes: a question out, an answer in, its records as plain tuples.

A question is written here, which is short; an answer is dnspython's to parse, after it was found to repeat our question.

Runs in: udp receiver, timer. Locks: none. RFC: 1035 §4.1; 6891 (the OPT record); 2308 §5.
"""

from __future__ import annotations

import struct
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

MAX_ANSWER: Final = 4096
MAX_CNAMES: Final = 8
MAX_NAME: Final = 255
MAX_LABEL: Final = 63
FOREVER: Final = 2**31 - 1

Records = list[tuple[str | int, ...]]
"""The rdata of a set of records, each as a tuple of the fields below."""

_TYPES: Final = {"A": 1, "AAAA": 28, "SRV": 33, "NAPTR": 35}
_FIELDS: Final = {
    "A": ("address",),
    "AAAA": ("address",),
    "SRV": ("priority", "weight", "port", "target"),
    "NAPTR": ("order", "preference", "flags", "service", "regexp", "replacement"),
}
_HEADER: Final = struct.pack(">HHHHH", 0x0100, 1, 0, 0, 1)  # recursion desired; one question, one additional record
_CLASS_IN: Final = 1
_OPT: Final = b"\0" + struct.pack(">HHIH", 41, MAX_ANSWER, 0, 0)
_AT_QUESTION: Final = 12  # where the question of a message begins
_ANSWERS: Final = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
_WITHOUT_QUESTION: Final = (dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED)


def rendered(name: str, kind: str) -> bytes:
    """The question for *kind* of *name* without its id; b"" when no such name can exist."""
    try:
        labels = name.encode("ascii").split(b".")
    except UnicodeError:
        return b""
    if len(name) > MAX_NAME - 2 or not all(0 < len(label) <= MAX_LABEL for label in labels):
        return b""
    written = b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"
    return _HEADER + written + struct.pack(">HH", _TYPES[kind], _CLASS_IN) + _OPT


class Answer:
    """A message that answers a question of ours."""

    def __init__(self, message: dns.message.Message) -> None:
        self._message: Final = message
        self.is_cut_off: Final = bool(message.flags & dns.flags.TC)
        self.is_refusal: Final = message.rcode() not in _ANSWERS

    def records(self, name: str, kind: str) -> tuple[Records, int]:
        """The records of *kind* for *name*, aliases followed, and their TTL."""
        wanted = dns.rdatatype.from_text(kind)
        owner = dns.name.from_text(name)
        ttl = FOREVER
        for _ in range(MAX_CNAMES):
            aliases = []
            for rrset in self._message.answer:
                if rrset.name == owner and rrset.rdtype == wanted:
                    return [_plain(rdata, kind) for rdata in rrset], min(ttl, rrset.ttl)
                if rrset.name == owner and rrset.rdtype == dns.rdatatype.CNAME:
                    aliases.append(rrset)
            if not aliases:
                break
            owner = aliases[0][0].target
            ttl = min(ttl, aliases[0].ttl)
        return [], 0

    def negative_ttl(self, name: str) -> int:
        """How long the zone wants this answer, which has no records of *name*, to be kept; FOREVER: it does not say."""
        owner = dns.name.from_text(name)
        for rrset in self._message.authority:
            if rrset.rdtype == dns.rdatatype.SOA and (owner.is_subdomain(rrset.name) or self._message.answer):
                return min(int(rrset.ttl), int(rrset[0].minimum))
        return FOREVER


def parsed(data: bytes, question: bytes) -> Answer | None:
    """*data*, whose id is ours, when it answers *question* (as ``rendered``); else None."""
    if len(data) < _AT_QUESTION or not data[2] & 0x80 or data[2] & 0x78:
        return None  # no response, or not to a query
    asked = question[_AT_QUESTION - 2 : -len(_OPT)]
    repeats = data[4:6] == b"\0\1" and data[_AT_QUESTION : _AT_QUESTION + len(asked)].lower() == asked.lower()
    if not repeats and not (data[4:6] == b"\0\0" and data[3] & 0x0F in _WITHOUT_QUESTION):
        return None
    try:
        return Answer(dns.message.from_wire(data))
    except (dns.exception.DNSException, ValueError):
        return None


def _plain(rdata: object, kind: str) -> tuple[str | int, ...]:
    values: list[str | int] = []
    for field in _FIELDS[kind]:
        value = getattr(rdata, field)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        elif isinstance(value, dns.name.Name):
            value = value.to_text() if value == dns.name.root else value.to_text(omit_final_dot=True)
        values.append(value)
    return tuple(values)
