"""Where the head of a message ends and how long its body is, in datagrams and streams alike: the one definition.

A head ends at its first empty line, whose end, as every other, may be CRLF or LF alone. A line that starts with white
space goes on with the one before it. Nothing else is known of headers here.

Runs in: udp receiver, tcp receiver. Locks: none. RFC: 3261 §7.3.1, §7.5, §18.3, §20.14; 9112 §6.3 (HTTP).
"""

from __future__ import annotations

import re
from typing import Final

from serpy.errors import ParseError
from serpy.sip.limits import MESSAGE_MAX

# What bodies are measured by: a number up to this one, or more than any message may have.
LENGTH_MAX: Final = MESSAGE_MAX + 1

# The white space before a colon may be folded, which RFC 3261 §25.1 (HCOLON) does not allow and the parser lets pass.
_FIELD: Final = rb"\n(?:%b)(?:[ \t]|\r?\n[ \t])*:([^\n]*(?:\n[ \t][^\n]*)*)"
_SIP_LENGTH: Final = re.compile(_FIELD % b"content-length|l", re.IGNORECASE)
_HTTP_LENGTH: Final = re.compile(_FIELD % b"content-length", re.IGNORECASE)
_EXPECT: Final = re.compile(_FIELD % b"expect", re.IGNORECASE)
_ENCODING: Final = re.compile(_FIELD % b"transfer-encoding", re.IGNORECASE)
_SPACE: Final = b" \t\r\n"
_DIGITS_MAX: Final = 9  # a length of more digits is nonsense rather than large


def body_start(data: bytes, scanned: int = 0) -> int:
    """Where the body of the message *data* begins, behind the first empty line; -1 when that has not come yet.

    *data* starts with the start line; no empty line ends before the line end at or behind *scanned*.
    """
    end = data.find(b"\n\r\n", scanned)
    bare = data.find(b"\n\n", scanned, end + 2 if end >= 0 else len(data))
    if bare >= 0:
        return bare + 2
    return end + 3 if end >= 0 else -1


def content_length(head: bytes) -> int:
    """What all Content-Length headers of *head* say, in any spelling; -1 when there is none.

    LENGTH_MAX stands for every larger number. Raises ParseError for what is no number, and for two that differ: then
    nobody can say where the body ends, and another one on the way may have thought otherwise.
    """
    return _length(_SIP_LENGTH.findall(head))


def http_content_length(head: bytes) -> int:
    """The same for an HTTP request, which knows no compact form."""
    return _length(_HTTP_LENGTH.findall(head))


def has_transfer_encoding(head: bytes) -> bool:
    """True when the body of an HTTP request comes in pieces, or otherwise encoded."""
    return _ENCODING.search(head) is not None


def expects_continue(head: bytes) -> bool:
    """True when an HTTP client waits for "100 Continue" before it sends the body."""
    found = _EXPECT.search(head)
    return found is not None and found[1].strip(_SPACE).lower() == b"100-continue"


def check_lines(head: bytes) -> None:
    """Raise ParseError for a head that readers may cut into lines differently: a CR without LF, a folded start line."""
    if head.count(b"\r") != head.count(b"\r\n"):
        raise ParseError("CR without LF")
    if head[head.find(b"\n") + 1 :][:1] in {b" ", b"\t"}:
        raise ParseError("folded start line")


def _length(values: list[bytes]) -> int:
    length = -1
    for value in values:
        number = _number(value)
        if length >= 0 and number != length:
            raise ParseError("Content-Length headers that differ", header="Content-Length")
        length = number
    return length


def _number(value: bytes) -> int:
    """Content-Length = ( "Content-Length" / "l" ) HCOLON 1*DIGIT."""
    text = value.strip(_SPACE)
    digits = text.lstrip(b"0")
    if not text.isdigit() or len(digits) > _DIGITS_MAX:
        raise ParseError("bad Content-Length", header="Content-Length", value=text.decode("latin-1"))
    return min(int(digits or b"0"), LENGTH_MAX)
