"""Request and Response as they were received, and the edits made to them on the way out.

A message is never changed: header lines stay as received, values are parsed when first asked for and kept. What a
script or module wants different goes into ``Edits``, which ``writer.py`` applies. Parsing bytes is ``parser.py``.

Runs in: every process. Locks: none. RFC: 3261 §7, §8.1.1, §20.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ParseError, ProtocolError
from serpy.sip.abnf import parse_expires, parse_number
from serpy.sip.cseq import CSeq, parse_cseq
from serpy.sip.limits import MAX_FORWARDS_MAX, MESSAGE_MAX
from serpy.sip.lines import (
    BITS,
    CALL_ID,
    CONTACT,
    CONTENT_LENGTH,
    CSEQ,
    FROM,
    MAX_FORWARDS,
    ROUTE,
    TO,
    after_colon,
    checked_call_id,
)
from serpy.sip.nameaddr import NameAddr, cached_nameaddr, parse_nameaddr, parse_nameaddr_list, split_commas
from serpy.sip.uri import Uri, parse_uri
from serpy.sip.via import Via, parse_via, via_of_line, via_with_received

# Bits of the headers that are needed, and of those that may come only once (RFC 3261 §8.1.1). Max-Forwards may be
# missing (RFC 2543 clients).
_NEEDED: Final = FROM | TO | CALL_ID | CSEQ
_SINGLE: Final = FROM | TO | CALL_ID | CSEQ | MAX_FORWARDS
_NOT_PARSED: Final = -1
_ABSENT: Final = -2  # or malformed
# Methods whose Contact is where requests will be sent.
_TARGETING: Final = ("INVITE", "REGISTER", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER")


class Edits:
    """Deferred changes relative to the received message; indexes are those of ``Message.lines``.

    Removal beats replacement; what was inserted beside a removed line stays. *changed* is True once there is one;
    *touched* has the bit 1 << index of each line that is removed, replaced or has something beside it.
    """

    def __init__(self) -> None:
        self.changed = False
        self.touched = 0
        self._body: bytes | None = None
        self.removed: set[int] | None = None
        self.replaced: dict[int, str] | None = None
        self.before: dict[int, list[str]] | None = None
        self.after: dict[int, list[str]] | None = None
        self.on_top: list[str] | None = None
        self.at_end: list[str] | None = None

    @property
    def body(self) -> bytes | None:
        """The new body, None when it stays. Content-Length follows by itself."""
        return self._body

    @body.setter
    def body(self, value: bytes | None) -> None:
        self._body = value
        if value is not None:
            self.changed = True

    def remove(self, index: int) -> None:
        """Leave out header line *index*. Removing twice is harmless."""
        if self.removed is None:
            self.removed = set()
        self.removed.add(index)
        self.touched |= 1 << index
        self.changed = True

    def is_removed(self, index: int) -> bool:
        """True when line *index* has been removed."""
        return self.removed is not None and index in self.removed

    def replace(self, index: int, line: str) -> None:
        """Write *line* (without its end) instead of header line *index*; the last replacement counts."""
        if self.replaced is None:
            self.replaced = {}
        self.replaced[index] = line
        self.touched |= 1 << index
        self.changed = True

    def insert_before(self, index: int, line: str) -> None:
        """Write *line* before header line *index*, after what was inserted there earlier."""
        if self.before is None:
            self.before = {}
        self.before.setdefault(index, []).append(line)
        self.touched |= 1 << index
        self.changed = True

    def insert_after(self, index: int, line: str) -> None:
        """Write *line* after header line *index*, after what was inserted there earlier."""
        if self.after is None:
            self.after = {}
        self.after.setdefault(index, []).append(line)
        self.touched |= 1 << index
        self.changed = True

    def prepend(self, line: str) -> None:
        """Write *line* above all headers, above what was put there earlier."""
        if self.on_top is None:
            self.on_top = []
        self.on_top.insert(0, line)
        self.changed = True

    def append(self, line: str) -> None:
        """Write *line* after the last header."""
        if self.at_end is None:
            self.at_end = []
        self.at_end.append(line)
        self.changed = True

    def copy(self) -> Edits:
        """An independent copy."""
        new = Edits()
        if not self.changed:
            return new
        new.changed = True
        new.touched = self.touched
        new._body = self._body
        new.removed = None if self.removed is None else set(self.removed)
        new.replaced = None if self.replaced is None else dict(self.replaced)
        new.before = _copy_lists(self.before)
        new.after = _copy_lists(self.after)
        new.on_top = None if self.on_top is None else list(self.on_top)
        new.at_end = None if self.at_end is None else list(self.at_end)
        return new

    def __bool__(self) -> bool:
        return self.changed


def _copy_lists(lists: dict[int, list[str]] | None) -> dict[int, list[str]] | None:
    return None if lists is None else {index: list(lines) for index, lines in lists.items()}


class Message:
    """What Request and Response share. *names* and *lines* run in parallel.

    *names* are canonical lower-case long names; *lines* the headers as received without their line end (a folded one
    keeps its inner line ends). *ends* is empty, or the line end of the start line, of each header and of the empty
    line when one of them was not CRLF. *start_line* has no line end.
    """

    def __init__(
        self, raw: bytes, start_line: str, names: list[str], lines: list[str], body: bytes, ends: list[str]
    ) -> None:
        self.raw: Final = raw
        self.start_line: Final = start_line
        self.names: Final = names
        self.lines: Final = lines
        self.body: Final = body
        self.ends: Final = ends
        self._via: Via | None = None
        self._from: NameAddr | None = None
        self._to: NameAddr | None = None
        self._cseq: CSeq | None = None
        self._call_id: str | None = None
        self._contacts: list[NameAddr] | None = None
        self._routes: list[NameAddr] | None = None
        self._max_forwards = _NOT_PARSED
        self._expires = _NOT_PARSED
        # Which headers of BITS there are, and which twice; the parser fills them in when it has looked anyway.
        self.seen = 0
        self.twice = 0
        self.has_no_fold = False  # certainly
        self.length = -1  # the Content-Length when the parser has checked it, else -1
        self.raw_end = 0  # where the body ends in *raw*, when the head is ASCII and a character a byte; 0: not known

    # -- what the parser has read already

    def set_call_id(self, call_id: str) -> None:
        """The first Call-ID, which is well formed."""
        self._call_id = call_id

    def set_cseq(self, cseq: CSeq) -> None:
        """The first CSeq, which is well formed."""
        self._cseq = cseq

    def set_via(self, via: Via) -> None:
        """The top Via, which is well formed."""
        self._via = via

    def set_max_forwards(self, number: int) -> None:
        """The first Max-Forwards, which is well formed."""
        self._max_forwards = number

    # -- raw access

    def find(self, name: str) -> int:
        """The index of the first header *name* (canonical), -1 when absent."""
        for at, known in enumerate(self.names):
            if known == name:
                return at
        return -1

    def may_have(self, bits: int) -> bool:
        """False when there is certainly no header of *bits* (``lines.BITS``): most questions end here."""
        return not self.seen or self.seen & bits != 0

    def may_have_two(self, bit: int) -> bool:
        """False when there is certainly not more than one line of the header *bit*."""
        return not self.seen or self.twice & bit != 0

    def has(self, name: str) -> bool:
        """True when there is a header *name*."""
        return name in self.names

    def indexes(self, name: str) -> list[int]:
        """The indexes of all headers *name*, top first."""
        found: list[int] = []
        for at, known in enumerate(self.names):
            if known == name:
                found.append(at)
        return found

    def value(self, index: int) -> str:
        """The value of line *index*, unfolded and trimmed."""
        return value_of(self.lines[index])

    def get(self, name: str) -> str | None:
        """The value of the first header *name*, None when absent."""
        at = self.find(name)
        return None if at < 0 else self.value(at)

    def get_all(self, name: str) -> list[str]:
        """The values of all headers *name*, one per line."""
        return [self.value(at) for at in self.indexes(name)]

    def values(self, name: str) -> list[str]:
        """The values of all headers *name*, lists split at their commas. Raises ParseError."""
        found: list[str] = []
        for at, known in enumerate(self.names):
            if known == name:
                found.extend(split_commas(self.value(at)))
        return found

    # -- parsed values; each raises ParseError when missing or malformed

    def _required(self, name: str) -> str:
        at = self.find(name)
        if at < 0:
            raise ParseError(f"no {name} header", header=_TITLES.get(name, name))
        return self.value(at)

    def _address(self, name: str) -> NameAddr:
        at = self.find(name)
        if at < 0:
            raise ParseError(f"no {name} header", header=_TITLES.get(name, name))
        line = self.lines[at]
        return cached_nameaddr(line) if self.has_no_fold or "\n" not in line else parse_nameaddr(self.value(at))

    @property
    def via(self) -> Via:
        """The top Via."""
        via = self._via
        if via is None:
            at = self.find("via")
            if at < 0:
                raise ParseError("no via header", header="Via")
            via = via_of_line(self.lines[at])
            if via is None:
                via = parse_via(self.value(at))
            self._via = via
        return via

    def annotated_via(self, line: str, received: str, rport: int) -> str:
        """*line*, that of the top Via, with what RFC 3261 §18.2.1 and RFC 3581 want in it. Never raises."""
        if not received and not rport:
            return line
        via = self._via
        return via_with_received(line, received, rport) if via is None else via.annotated(line, received, rport)

    @property
    def from_(self) -> NameAddr:
        """The From value."""
        found = self._from
        if found is None:
            found = self._from = self._address("from")
        return found

    @property
    def to(self) -> NameAddr:
        """The To value."""
        found = self._to
        if found is None:
            found = self._to = self._address("to")
        return found

    @property
    def from_tag(self) -> str:
        """The tag of From, "" when it has none."""
        return self.from_.tag

    @property
    def to_tag(self) -> str:
        """The tag of To, "" when it has none."""
        return self.to.tag

    @property
    def cseq(self) -> CSeq:
        """The CSeq value."""
        cseq = self._cseq
        if cseq is None:
            cseq = self._cseq = parse_cseq(self._required("cseq"))
        return cseq

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        call_id = self._call_id
        if call_id is None:
            call_id = self._call_id = checked_call_id(self._required("call-id"))
        return call_id

    def _addresses(self, name: str) -> list[NameAddr]:
        found: list[NameAddr] = []
        for at, known in enumerate(self.names):
            if known == name:
                line = self.lines[at]
                if "," in line or not (self.has_no_fold or "\n" not in line):
                    found.extend(parse_nameaddr_list(self.value(at)))
                else:  # the same line comes in every request of a dialog
                    found.append(cached_nameaddr(line))
        return found

    @property
    def contacts(self) -> list[NameAddr]:
        """All Contact values; [] when there are none."""
        found = self._contacts
        if found is None:
            found = self._contacts = self._addresses("contact")
        return found

    @property
    def routes(self) -> list[NameAddr]:
        """All Route values, top first."""
        found = self._routes
        if found is None:
            found = self._routes = self._addresses("route") if self.may_have(ROUTE) else []
        return found

    @property
    def record_routes(self) -> list[NameAddr]:
        """All Record-Route values, top first."""
        return self._addresses("record-route")

    @property
    def max_forwards(self) -> int | None:
        """The Max-Forwards value, None when absent."""
        number = self._max_forwards
        if number == _NOT_PARSED:
            text = self.get("max-forwards")
            if text is None:
                return None
            number = parse_number(text, MAX_FORWARDS_MAX)
            if number < 0:
                raise ParseError("bad Max-Forwards", header="Max-Forwards", value=text)
            self._max_forwards = number
        return number

    @property
    def expires(self) -> int | None:
        """The Expires value in seconds, None when absent or malformed (RFC 3261 §20.19: then the default holds)."""
        seconds = self._expires
        if seconds == _NOT_PARSED:
            at = self.find("expires")
            found = None if at < 0 else parse_expires(self.value(at))
            seconds = self._expires = _ABSENT if found is None else found
        return None if seconds == _ABSENT else seconds

    @property
    def content_length(self) -> int | None:
        """The Content-Length value, None when absent."""
        at = self.find("content-length")
        if at < 0:
            return None
        text = self.value(at)
        number = parse_number(text, MESSAGE_MAX)
        if number < 0:
            raise ParseError("bad Content-Length", header="Content-Length", value=text)
        return number

    # -- whole-message checks

    def check_mandatory(self) -> None:
        """Raise ParseError (400) unless the headers every message needs are there, single and well formed.

        Via, From, To, Call-ID and CSeq; CSeq method, Max-Forwards and Content-Length when present. Parsed values
        stay cached, so the work is not lost.
        """
        names = self.names
        seen = self.seen
        twice = self.twice
        if not seen:
            for name in names:
                bit = BITS.get(name)
                if bit is not None:
                    twice |= seen & bit
                    seen |= bit
            self.seen = seen
            self.twice = twice
        if seen & _NEEDED != _NEEDED or twice & _SINGLE:
            raise _count_error(names)
        try:
            self.via  # noqa: B018 - parsing is the check
        except ParseError as exc:
            raise _named(exc, "Via") from exc
        try:
            self.from_  # noqa: B018
        except ParseError as exc:
            raise _named(exc, "From") from exc
        try:
            self.to  # noqa: B018
        except ParseError as exc:
            raise _named(exc, "To") from exc
        self.call_id  # noqa: B018
        self._check_cseq()
        if seen & MAX_FORWARDS:
            self.max_forwards  # noqa: B018
        if twice & CONTENT_LENGTH and len(set(self.get_all("content-length"))) > 1:
            raise ParseError("more than one Content-Length", header="Content-Length")
        if seen & CONTENT_LENGTH and self.length < 0:
            self.content_length  # noqa: B018

    def _check_cseq(self) -> None:
        self.cseq  # noqa: B018


def _count_error(names: list[str]) -> ParseError:
    for name in ("from", "to", "call-id", "cseq", "max-forwards"):
        count = names.count(name)
        title = _TITLES[name]
        if count > 1:
            return ParseError(f"more than one {title}", header=title)
        if count == 0 and name != "max-forwards":
            return ParseError(f"no {title}", header=title)
    return ParseError("mandatory headers")


def _named(exc: ParseError, header: str) -> ParseError:
    return ParseError(str(exc), header=header, status=exc.status)


class Request(Message):
    """A request. *method* is as written (case-sensitive), *request_uri* not yet parsed."""

    def __init__(
        self, raw: bytes, start_line: str, names: list[str], lines: list[str], body: bytes, ends: list[str],
        method: str, request_uri: str,
    ) -> None:  # fmt: skip
        super().__init__(raw, start_line, names, lines, body, ends)
        self.method: Final = method
        self.request_uri: Final = request_uri
        self._uri: Uri | None = None

    @property
    def uri(self) -> Uri:
        """The Request-URI, parsed. Raises ParseError."""
        uri = self._uri
        if uri is None:
            uri = self._uri = parse_uri(self.request_uri)
        return uri

    def check_mandatory(self) -> None:
        """As for every message; also the URIs that decide who calls whom and by which way (§16.3 item 1).

        These are the Request-URI, which may hold no headers, From, To, Route, and the Contact of who wants to be reached
        by it, at one place (§8.1.1.8); of a scheme that we do not know only that it is one. Whether we serve the scheme (416) is not judged here.
        """
        if self.uri.headers:
            raise ParseError("headers in the Request-URI", header="Request-URI", value=self.request_uri)
        super().check_mandatory()
        header = "From"
        try:
            self.from_.check_uri()
            header = "To"
            self.to.check_uri()
            if self.seen & ROUTE:
                header = "Route"
                for route in self.routes:
                    route.check_uri()
            if self.seen & CONTACT and self.method in _TARGETING:
                header = "Contact"
                for contact in self.contacts:
                    if contact.uri_text != "*" or self.method != "REGISTER":
                        contact.check_uri()
                if len(self.contacts) > 1 and self.method != "REGISTER":
                    raise ProtocolError("more than one Contact", reason="More Than One Contact")
        except ParseError as exc:
            raise _named(exc, header) from exc

    def _check_cseq(self) -> None:
        if self.cseq.method != self.method:
            raise ParseError("CSeq names another method", header="CSeq", value=str(self.cseq))


class Response(Message):
    """A response. *status* is 100..699, *reason* as written."""

    def __init__(
        self, raw: bytes, start_line: str, names: list[str], lines: list[str], body: bytes, ends: list[str],
        status: int, reason: str,
    ) -> None:  # fmt: skip
        super().__init__(raw, start_line, names, lines, body, ends)
        self.status: Final = status
        self.reason: Final = reason

    @property
    def method(self) -> str:
        """The method of the request this answers, from CSeq. Raises ParseError."""
        return self.cseq.method


_TITLES: Final = {
    "via": "Via",
    "from": "From",
    "to": "To",
    "call-id": "Call-ID",
    "cseq": "CSeq",
    "max-forwards": "Max-Forwards",
}


def value_of(line: str) -> str:
    """What the header line *line* says, unfolded and trimmed."""
    text = after_colon(line)
    return unfold(text) if "\n" in text else text


def unfold(text: str) -> str:
    """*text* with each line end and the white space around it as one space (RFC 3261 §7.3.1)."""
    return " ".join([part.strip(" \t\r") for part in text.split("\n")])
