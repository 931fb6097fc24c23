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
BITS: Final[dict[str, int]] = {
    "from": FROM, "to": TO, "call-id": CALL_ID, "cseq": CSEQ, "max-forwards": MAX_FORWARDS,
    "content-length": CONTENT_LENGTH, "route": ROUTE, "contact": CONTACT,
    "p-asserted-identity": ASSERTED, "p-preferred-identity": PREFERRED, "remote-party-id": REMOTE_PARTY,
    "proxy-require": PROXY_REQUIRE, "max-breadth": MAX_BREADTH,
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

    *text* is what stands in a message: the line; when *unique* only the name with its colon. *name* is canonical, *bit*
    that of BITS or 0; *shared* is what all lines of the name share, for a name that is spelled as usual. *follower* is the
    line that came next in the last message with this one, and *other* the one before that (requests and answers take
    turns).
    """

    def __init__(self, name: str, bit: int, text: str, shared: HeaderLine | None, *, unique: bool) -> None:
        self.name: Final = name
        self.bit: Final = bit
        self.text: Final = text
        self.size: Final = len(text)
        self.unique: Final = unique
        self.shared: Final = shared
        self.follower: HeaderLine | None = None
        self.other: HeaderLine | None = None
        self.next_name: HeaderLine | None = None  # of what is shared: the name that came next last, likewise
        self.number = -1  # what a Max-Forwards or Content-Length line says, once somebody has found out
        self._address: NameAddr | None = None
        self._cseq: CSeq | None = None
        self._call_id = ""

    def stands_at(self, head: str, at: int) -> bool:
        """True when *head* has *text* at *at*, and unless that is a name alone the line ends there."""
        end = at + self.size
        if self.unique:
            return end <= len(head) and head[end - 1] == ":" and head[at:end] == self.text
        # The line of text and the one that stands there may differ in length: nearly always this tells.
        return end < len(head) and head[end] == "\r" and head[at:end] == self.text and head[end + 1] == "\n"

    def followed_by(self, known: HeaderLine) -> None:
        """Remember that *known* came after this line."""
        # Where a Via ends a From may begin that no message had before: that guess would always fail.
        if known.bit != FROM or not self.unique:
            self.other = self.follower
            self.follower = known
        shared = self if self.unique else self.shared
        if shared is not None:
            shared.next_name = known if known.unique else known.shared

    @property
    def value(self) -> str:
        """What stands behind the colon, trimmed."""
        return after_colon(self.text)

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
_names: Final[dict[str, HeaderLine]] = {
    spelled: HeaderLine(name, BITS.get(name, 0), f"{spelled}:", None, unique=name in _UNIQUE)
    for spelled, name in CANONICAL.items()
}
# What stands before the first header: nearly always a Via follows.
START: Final = HeaderLine("", 0, "", None, unique=True)
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
        if not is_plain(line):
            return None
        known = _new_line(line, before)
        if known is None:
            return None
        if not known.unique:
            if len(line) > LINE_CACHED:
                return known
            _keep(known)
    before.followed_by(known)
    return known


def _new_line(line: str, before: HeaderLine) -> HeaderLine | None:
    """*line*, which came after *before*, as no message had it; None when its name is none."""
    shared = before if before.unique else before.shared
    if shared is not None:
        shared = shared.next_name  # phones write their headers in the same order
    if shared is None or not line.startswith(shared.text):
        colon = line.find(":")
        if colon <= 0:
            return None
        spelled = line[:colon]
        shared = _names.get(spelled)
        if shared is None:
            if colon > NAME_MAX or not is_token(spelled):
                return None
            name = spelled.lower()
            name = CANONICAL.get(name, name)
            return HeaderLine(name, BITS.get(name, 0), line, None, unique=False)
    return shared if shared.unique else HeaderLine(shared.name, shared.bit, line, shared, unique=False)


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
    _lines[known.text] = known
