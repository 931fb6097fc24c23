"""The names of header lines, and the values of lines that are written as nearly all are.

Phones write their headers in the same order, so each name remembers the two that came after it last: where one of them
comes again, which costs one comparison, nothing has to be searched or looked up.

Runs in: every process. Locks: none. RFC: 3261 §7.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import ParseError
from serpy.sip.abnf import is_token
from serpy.sip.limits import NAME_MAX, NAMES_KEPT

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

# One bit for each header that RFC 3261 §8.1.1 wants once, for Content-Length, for those whose URIs are checked, for those
# that scripts take out of every message, and for rare ones that every request is looked at for.
FROM: Final = 1
TO: Final = 2
CALL_ID: Final = 4
CSEQ: Final = 8
MAX_FORWARDS: Final = 16
CONTENT_LENGTH: Final = 32
ROUTE: Final = 64
CONTACT: Final = 128
ASSERTED: Final = 256
PREFERRED: Final = 512
REMOTE_PARTY: Final = 1024
PROXY_REQUIRE: Final = 2048
MAX_BREADTH: Final = 4096
VIA: Final = 8192
BITS: Final[dict[str, int]] = {
    "from": FROM, "to": TO, "call-id": CALL_ID, "cseq": CSEQ, "max-forwards": MAX_FORWARDS,
    "content-length": CONTENT_LENGTH, "route": ROUTE, "contact": CONTACT,
    "p-asserted-identity": ASSERTED, "p-preferred-identity": PREFERRED, "remote-party-id": REMOTE_PARTY,
    "proxy-require": PROXY_REQUIRE, "max-breadth": MAX_BREADTH, "via": VIA,
}  # fmt: skip

_SPACE: Final = 0x20
_ZERO: Final = 0x30
_DIGITS: Final = 9  # of a number that is plain

_COMPACT: Final = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}

_USUAL: Final = (
    "Accept", "Accept-Contact", "Accept-Encoding", "Accept-Language", "Alert-Info", "Allow", "Allow-Events",
    "Authorization", "Call-ID", "Call-Info", "Contact", "Content-Disposition", "Content-Encoding",
    "Content-Language", "Content-Length", "Content-Type", "CSeq", "Date", "Diversion", "Event", "Expires", "From",
    "History-Info", "In-Reply-To", "Max-Forwards", "MIME-Version", "Min-Expires", "Min-SE", "Organization",
    "P-Asserted-Identity", "P-Preferred-Identity", "Path", "Priority", "Privacy", "Proxy-Authenticate",
    "Proxy-Authorization", "Proxy-Require", "RAck", "Reason", "Record-Route", "Refer-To", "Referred-By",
    "Reject-Contact", "Remote-Party-ID", "Replaces", "Reply-To", "Request-Disposition", "Require", "Retry-After",
    "Route", "RSeq", "Server", "Service-Route", "Session-Expires", "SIP-ETag", "SIP-If-Match", "Subject",
    "Subscription-State", "Supported", "Timestamp", "To", "Unsupported", "User-Agent", "Via", "Warning",
    "WWW-Authenticate", "Max-Breadth", "Call-Id", "Cseq", "CSEQ", "P-hint", "P-Early-Media",
)  # fmt: skip


class HeaderName:
    """A name as it is spelled: *text* with its colon, *name* canonical, *bit* that of BITS or 0.

    *follower* is the name that came next in the last message with this one, and *other* the one before that: requests
    and answers take turns.
    """

    def __init__(self, spelled: str, name: str) -> None:
        self.text: Final = f"{spelled}:"
        self.size: Final = len(spelled) + 1
        self.name: Final = name
        self.bit: Final = BITS.get(name, 0)
        self.follower: HeaderName | None = None
        self.other: HeaderName | None = None


def after_colon(line: str) -> str:
    """What stands behind the colon of the header line *line*, trimmed; a folded one is not unfolded."""
    at = line.find(":") + 1
    size = len(line)
    if at + 1 < size and line[at] == " " and not (line[at + 1].isspace() or line[size - 1].isspace()):
        return line[at + 1 :]  # as nearly everybody writes it
    return line[at:].strip(" \t\r\n")


def checked_call_id(call_id: str) -> str:
    """*call_id* as it is. Raises ParseError when it is empty or holds white space."""
    if not call_id or " " in call_id or "\t" in call_id:
        raise ParseError("bad Call-ID", header="Call-ID", value=call_id)
    return call_id


def _spellings() -> dict[str, str]:
    found: dict[str, str] = {}
    for short, name in _COMPACT.items():
        found[short] = found[short.upper()] = name
    for name in _USUAL:
        found[name] = found[name.lower()] = found[name.upper()] = name.lower()
    return found


# Header names as they are usually written, with their canonical form: the long one in lower case.
CANONICAL: Final[dict[str, str]] = _spellings()
_usual: Final[dict[str, HeaderName]] = {spelled: HeaderName(spelled, name) for spelled, name in CANONICAL.items()}
_others: Final[dict[str, HeaderName]] = {}  # that came in messages
# What stands before the first header: nearly always a Via follows.
START: Final = HeaderName("", "")
START.follower = _usual["Via"]


def name_of(line: str, before: HeaderName) -> HeaderName | None:
    """The name that *line* begins with, which is not the follower of *before*, the name of the line above; from now on
    it is. None when it is not a token with a colon behind it, or too long: what is wrong with it is not said here.
    """
    known = before.other
    if known is None or not line.startswith(known.text):
        colon = line.find(":")
        if colon <= 0:
            return None
        spelled = line[:colon]
        known = _usual.get(spelled)
        if known is None:
            known = _others.get(spelled)
        if known is None:
            known = _new_name(spelled)
            if known is None:
                return None
    before.other = before.follower
    before.follower = known
    return known


def _new_name(spelled: str) -> HeaderName | None:
    if len(spelled) > NAME_MAX or not is_token(spelled):
        return None
    lower = spelled.lower()
    known = HeaderName(spelled, CANONICAL.get(lower, lower))
    if len(_others) >= NAMES_KEPT:
        for old in [*_others.values(), *_usual.values()]:
            old.follower = old.other = None  # or a chain of names would live on for as long as its first one is in use
        _others.clear()
    _others[spelled] = known
    return known


def plain_start(line: str, at: i64) -> i64:
    """Where the value begins in *line*, whose name with its colon ends at *at*; 0 when there is more white space around
    it than one space in front, or none of it.
    """
    end: i64 = len(line)
    if at < end and ord(line[at]) == _SPACE:
        at += 1
    if at >= end or ord(line[at]) <= _SPACE or ord(line[end - 1]) <= _SPACE:
        return 0
    return at


def plain_number(line: str, at: i64) -> i64:
    """The number that is the value in *line*, whose name with its colon ends at *at*; -1 for anything unusual."""
    end: i64 = len(line)
    while at < end and ord(line[at]) == _SPACE:  # some who fill it in later leave room for three digits
        at += 1
    if at >= end or end - at > _DIGITS:
        return -1
    number: i64 = 0
    while at < end:
        digit: i64 = ord(line[at]) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        number = number * 10 + digit
        at += 1
    return number


def plain_call_id(line: str, at: i64) -> str:
    """The Call-ID in *line*, whose name with its colon ends at *at*; "" when somebody has to look closer."""
    start: i64 = plain_start(line, at)
    if start == 0:
        return ""
    call_id = line[start:]
    return "" if " " in call_id or "\t" in call_id else call_id
