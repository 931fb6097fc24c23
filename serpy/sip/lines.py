"""Header lines that came before, with what they say: each is understood once, not once per message.

A call repeats its From, To and Call-ID in every message, a phone its Contact, User-Agent and Allow, and everybody
"Max-Forwards: 70". Lines also follow each other in the same order, so each remembers the two that came after it last:
where one of them comes again, which costs one comparison, nothing has to be searched, copied or looked up.

Runs in: every process. Locks: none. RFC: 3261 §7.3.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ParseError
from serpy.sip.abnf import is_token
from serpy.sip.cseq import CSeq, parse_cseq
from serpy.sip.limits import LINE_CACHED, LINE_MAX, LINES_CACHED, NAME_MAX
from serpy.sip.nameaddr import NameAddr, parse_nameaddr

# One bit for each header that RFC 3261 §8.1.1 wants once, for Content-Length, and for those whose URIs are checked.
FROM: Final = 1
TO: Final = 2
CALL_ID: Final = 4
CSEQ: Final = 8
MAX_FORWARDS: Final = 16
CONTENT_LENGTH: Final = 32
ROUTE: Final = 64
CONTACT: Final = 128
BITS: Final[dict[str, int]] = {
    "from": FROM, "to": TO, "call-id": CALL_ID, "cseq": CSEQ, "max-forwards": MAX_FORWARDS,
    "content-length": CONTENT_LENGTH, "route": ROUTE, "contact": CONTACT,
}  # fmt: skip

# Lines of these names hardly ever come again.
_UNIQUE: Final = ("via", "authorization", "proxy-authorization")

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


class HeaderLine:
    """A header line; or, for a name whose lines never come again, what all lines that start with ``Name:`` share.

    *text* is what stands in a message: the line with its CRLF; when *unique* only the name with its colon. *name* is
    canonical, *bit* that of BITS or 0. *follower* is the line that came next in the last message with this one, and
    *other* the one before that (requests and answers take turns).
    """

    def __init__(self, name: str, bit: int, line: str, text: str, *, unique: bool) -> None:
        self.name: Final = name
        self.bit: Final = bit
        self.line: Final = line
        self.text: Final = text
        self.size: Final = len(text)
        self.end: Final = text[-1:]
        self.unique: Final = unique
        self.follower: HeaderLine | None = None
        self.other: HeaderLine | None = None
        self.number = -1  # what a Max-Forwards or Content-Length line says, once somebody has found out
        self._address: NameAddr | None = None
        self._cseq: CSeq | None = None
        self._call_id = ""

    def stands_at(self, head: str, at: int) -> bool:
        """True when *head* has *text* at *at*."""
        end = at + self.size
        return end <= len(head) and head[end - 1] == self.end and head[at:end] == self.text

    def followed_by(self, known: HeaderLine) -> None:
        """Remember that *known* came after this line."""
        # Where a Via ends a From may begin that no message had before: that guess would always fail.
        if known.bit != FROM or not self.unique:
            self.other = self.follower
            self.follower = known

    @property
    def value(self) -> str:
        """What stands behind the colon, trimmed."""
        line = self.line
        return line[line.find(":") + 1 :].strip(" \t")

    @property
    def address(self) -> NameAddr:
        """The value of From or To. Raises ParseError."""
        address = self._address
        if address is None:
            address = self._address = parse_nameaddr(self.value)
        return address

    @property
    def cseq(self) -> CSeq:
        """The value of CSeq. Raises ParseError."""
        cseq = self._cseq
        if cseq is None:
            cseq = self._cseq = parse_cseq(self.value)
        return cseq

    @property
    def call_id(self) -> str:
        """The value of Call-ID. Raises ParseError."""
        call_id = self._call_id
        if not call_id:
            call_id = self._call_id = checked_call_id(self.value)
        return call_id


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
_names: Final[dict[str, HeaderLine]] = {
    spelled: HeaderLine(name, BITS.get(name, 0), "", f"{spelled}:", unique=name in _UNIQUE)
    for spelled, name in CANONICAL.items()
}
# What stands before the first header: nearly always a Via follows.
START: Final = HeaderLine("", 0, "", "", unique=True)
START.follower = _names["Via"]

_lines: Final[dict[str, HeaderLine]] = {}


def guessed_line(head: str, at: int, before: HeaderLine) -> HeaderLine | None:
    """The line that *head* has at *at* when it is one that has followed *before*, else None."""
    known = before.follower
    if known is None:
        return None
    if known.stands_at(head, at):
        return known
    known = before.other
    if known is None or not known.stands_at(head, at):
        return None
    before.followed_by(known)
    return known


def known_line(line: str, before: HeaderLine) -> HeaderLine | None:
    """What is known of *line*, which came after *before*; kept when it was new.

    None when it is not a plain ``Name: value``: what is wrong with it, if anything, is not said here.
    """
    known = _lines.get(line)
    if known is None:
        colon = line.find(":")
        if colon <= 0 or not is_plain(line):
            return None
        spelled = line[:colon]
        shared = _names.get(spelled)
        if shared is not None:
            known = shared if shared.unique else HeaderLine(shared.name, shared.bit, line, line + "\r\n", unique=False)
        elif colon <= NAME_MAX and is_token(spelled):
            name = spelled.lower()
            name = CANONICAL.get(name, name)
            known = HeaderLine(name, BITS.get(name, 0), line, line + "\r\n", unique=False)
        else:
            return None
        if not known.unique:
            if len(line) > LINE_CACHED:
                return known
            _keep(known)
    before.followed_by(known)
    return known


def is_plain(line: str) -> bool:
    """True when *line*, which ended with CRLF, is not empty nor too long and holds no CR of its own."""
    return 0 < len(line) <= LINE_MAX and "\r" not in line


def _keep(known: HeaderLine) -> None:
    if len(_lines) >= LINES_CACHED:
        for old in _lines.values():
            old.follower = old.other = None  # or a chain of lines would live on for as long as its first one is in use
        for shared in _names.values():
            shared.follower = shared.other = None
        _lines.clear()
    _lines[known.line] = known
