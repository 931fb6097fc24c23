"""Bytes to Request or Response: the only decode() of SIP.

One decode of the head as UTF-8 with surrogateescape, then line by line, each guessed from the one before; a slower
path keeps odd line ends and folded lines byte for byte. Only the structure is checked here:
``Message.check_mandatory()`` looks at the headers.

Runs in: udp receiver. Locks: none. RFC: 3261 §7, §18.3, §25.1.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import LimitExceededError, ParseError, UnsupportedError
from serpy.sip.abnf import ascii_lower, is_token, parse_number
from serpy.sip.heads import body_start, content_length
from serpy.sip.limits import HEAD_MAX, HEADERS_MAX, KEEPALIVE_MAX, LINE_MAX, MESSAGE_MAX, METHOD_MAX, NAME_MAX
from serpy.sip.lines import (
    CALL_ID,
    CANONICAL,
    CONTENT_LENGTH,
    CSEQ,
    FROM,
    MAX_FORWARDS,
    START,
    TO,
    HeaderLine,
    guessed_line,
    is_plain,
    known_line,
)  # fmt: skip
from serpy.sip.message import Message, Request, Response


def canonical_name(spelled: str) -> str:
    """The lower-case long form of the header name *spelled*, which may be compact. Raises ParseError."""
    name = CANONICAL.get(spelled)
    if name is not None:
        return name
    trimmed = spelled.rstrip(" \t\r\n")  # HCOLON = *( SP / HTAB ) ":"
    if not is_token(trimmed):
        raise ParseError("header name is not a token", value=spelled)
    if len(trimmed) > NAME_MAX:
        raise LimitExceededError("header name too long", status=400)
    lower = ascii_lower(trimmed)
    return CANONICAL.get(lower, lower)


def is_keepalive(data: bytes) -> bool:
    """True for what phones send to keep a NAT binding: less than a message of SIP has, or white space and NULs alone."""
    return len(data) < KEEPALIVE_MAX or not data.strip(b"\r\n\x00 \t")


def parse_message(data: bytes) -> Request | Response:
    """The message in the datagram *data*; bytes after its body are ignored (RFC 3261 §18.3).

    Raises ParseError (400), LimitExceededError (413, 513) or UnsupportedError (505); nothing else.
    """
    if len(data) > MESSAGE_MAX:
        raise LimitExceededError("message too large", status=513)
    if data.startswith(b"\r") or data.startswith(b"\n"):  # noqa: PIE810 - a tuple is slower when compiled
        data = data.lstrip(b"\r\n")  # §7.5: line ends before the start line
    if data.endswith(b"\r\n\r\n"):  # most messages have no body: that spares the search
        return _parse(data, len(data) - 4)
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return _parse_slowly(data)
    return _parse(data, head_end)


def _parse(data: bytes, head_end: int) -> Request | Response:
    if head_end > HEAD_MAX - 4:
        return _parse_unusual(data, head_end)
    head = data[: head_end + 2].decode("utf-8", "surrogateescape")  # with the CRLF of its last line
    size = len(head)
    start_line = _line_at(head, 0)
    if not is_plain(start_line):
        return _parse_unusual(data, head_end)
    at = len(start_line) + 2
    names: list[str] = []
    lines: list[str] = []
    from_line: HeaderLine | None = None
    to_line: HeaderLine | None = None
    call_id_line: HeaderLine | None = None
    cseq_line: HeaderLine | None = None
    hops_line: HeaderLine | None = None
    length_line: HeaderLine | None = None
    seen = 0
    twice = 0
    before = START
    while at < size:
        known = guessed_line(head, at, before)
        if known is None:
            line = _line_at(head, at)
            known = known_line(line, before)
            if known is None:
                return _parse_unusual(data, head_end)
        elif known.unique:
            line = _line_at(head, at)
            if not is_plain(line):
                return _parse_unusual(data, head_end)
        else:
            line = known.text
        at += len(line) + 2
        before = known
        names.append(known.name)
        lines.append(line)
        bit = known.bit
        if bit:
            if seen & bit:
                twice |= bit
            elif bit == FROM:
                from_line = known
            elif bit == TO:
                to_line = known
            elif bit == CALL_ID:
                call_id_line = known
            elif bit == CSEQ:
                cseq_line = known
            elif bit == MAX_FORWARDS:
                hops_line = known
            if bit == CONTENT_LENGTH:
                length_line = known
            seen |= bit
    if len(lines) > HEADERS_MAX or twice & CONTENT_LENGTH:
        return _parse_unusual(data, head_end)
    body = data[head_end + 4 :]
    length = -1
    if length_line is not None:
        length = len(body)
        if length_line.number != length:
            # -1 for what is no plain number: that, and a body that is longer or shorter, is looked at with care.
            if parse_number(length_line.value, MESSAGE_MAX) != length:
                body = _cut_body(data, head_end + 4)
                length = len(body)
            length_line.number = length
    built = _build(data, start_line, names, lines, body, [])
    message: Message = built
    message.from_line = from_line
    message.to_line = to_line
    message.call_id_line = call_id_line
    message.cseq_line = cseq_line
    message.hops_line = hops_line
    message.seen = seen
    message.twice = twice
    message.length = length
    if size == head_end + 2:
        message.raw_end = head_end + 4 + len(body)
    return built


def _line_at(head: str, at: int) -> str:
    """The line of *head* that starts at *at*, without its CRLF; "" when it ends with LF alone."""
    end = head.find("\n", at) - 1
    return head[at:end] if head[end] == "\r" else ""


def _parse_unusual(data: bytes, head_end: int) -> Request | Response:
    """As ``_parse``, for what it leaves: this also says what is wrong with a header line."""
    first = data.find(b"\r\n\r\n")
    if first != head_end:  # the body ends with an empty line, too
        return _parse(data, first)
    if head_end > HEAD_MAX - 4:
        raise LimitExceededError("head too long", status=513)
    lines = data[:head_end].decode("utf-8", "surrogateescape").split("\r\n")
    rest = "".join(lines)  # cheaper than counting: what the split has left must hold no line end
    if "\n" in rest or "\r" in rest:
        return _parse_slowly(data)
    if len(lines) - 1 > HEADERS_MAX:
        raise LimitExceededError("too many headers", status=513)
    start_line = lines[0]
    del lines[0]
    names: list[str] = []
    for line in lines:
        if not line or line[0] == " " or line[0] == "\t":  # no start line, or folded
            return _parse_slowly(data)
        names.append(_unusual_name(line))
    body = _cut_body(data, head_end + 4)
    _leave_one_length(names, lines, [])
    return _build(data, start_line, names, lines, body, [])


def _leave_one_length(names: list[str], lines: list[str], ends: list[str]) -> None:
    """Take out all Content-Length headers but the first: they say the same, and go on as one (RFC 3261 §7.3.1)."""
    if names.count("content-length") < 2:
        return
    for at in range(len(names) - 1, names.index("content-length"), -1):
        if names[at] == "content-length":
            del names[at], lines[at]
            if ends:
                del ends[at + 1]  # the first is that of the start line


def _unusual_name(line: str) -> str:
    if len(line) > LINE_MAX:
        raise LimitExceededError("header line too long", status=513)
    colon = line.find(":")
    if colon <= 0:
        raise ParseError("header without a name", value=line)
    return canonical_name(line[:colon])


def _cut_body(data: bytes, start: int) -> bytes:
    """The body of *data*, which begins at *start*, as long as the head says. Raises ParseError when there is less, and
    when what the body is cannot be said: "-999" or "abc" (RFC 4475 ncl), or two lengths.
    """
    length = content_length(data[:start])
    end = start + length
    if end > len(data):
        raise ParseError("Content-Length beyond the message", header="Content-Length", value=str(length))
    return data[start:] if length < 0 else data[start:end]


def _build(
    data: bytes, start_line: str, names: list[str], lines: list[str], body: bytes, ends: list[str]
) -> Request | Response:
    first, _, rest = start_line.partition(" ")
    if first == "SIP/2.0":
        status, reason = _parse_status(rest, start_line)
        return Response(data, start_line, names, lines, body, ends, status, reason)
    request_uri, _, version = rest.partition(" ")
    if version != "SIP/2.0" and (version or first[:4].upper() == "SIP/"):
        if first[:4].upper() == "SIP/":
            if first.upper() != "SIP/2.0":
                raise UnsupportedError("SIP version of the response", status=505)
            status, reason = _parse_status(rest, start_line)
            return Response(data, start_line, names, lines, body, ends, status, reason)
        _check_version(version, start_line)
    if not version or not request_uri:
        raise ParseError("start line is not SIP", value=start_line)
    if not is_token(first):
        raise ParseError("method is not a token", value=start_line)
    if len(first) > METHOD_MAX:
        raise LimitExceededError("method too long", status=400)
    return Request(data, start_line, names, lines, body, ends, first, request_uri)


def _check_version(version: str, start_line: str) -> None:
    # SIP-Version = "SIP" "/" 1*DIGIT "." 1*DIGIT, in any case
    if version.upper() == "SIP/2.0":
        return
    major, dot, minor = version[4:].partition(".")
    if version[:4].upper() == "SIP/" and dot and parse_number(major, 10**9) >= 0 and parse_number(minor, 10**9) >= 0:
        raise UnsupportedError(f"SIP version: {version[:20]!r}", status=505)
    raise ParseError("start line is not SIP", value=start_line)


# "200 OK" and the like, which few texts come with.
_STATUSES_MAX: Final = 256
_STATUS_CACHED: Final = 64  # characters
_statuses: Final[dict[str, tuple[int, str]]] = {}


def _parse_status(text: str, start_line: str) -> tuple[int, str]:
    known = _statuses.get(text)
    if known is not None:
        return known
    digits, _, reason = text.partition(" ")
    if len(digits) != 3 or not digits.isascii() or not digits.isdigit():
        raise ParseError("bad status code", value=start_line)
    status = int(digits)
    if not 100 <= status <= 699:
        raise ParseError("bad status code", value=start_line)
    known = status, reason
    if len(text) <= _STATUS_CACHED:
        if len(_statuses) >= _STATUSES_MAX:
            _statuses.clear()
        _statuses[text] = known
    return known


# -- the slow path: folded lines, LF alone as line end


def _split_head(data: bytes) -> tuple[list[str], list[str], int]:
    """(start line and header lines, their line ends and that of the empty line, where the body starts).

    Folded lines are one. Raises ParseError for a head without end or a CR without LF.
    """
    lines: list[str] = []
    ends: list[str] = []
    at = 0
    while True:
        newline = data.find(b"\n", at)
        if newline < 0:
            raise ParseError("head without end", offset=len(data))
        stop = newline - 1 if newline > at and data[newline - 1] == 13 else newline
        end = "\r\n" if stop < newline else "\n"
        line = data[at:stop].decode("utf-8", "surrogateescape")
        at = newline + 1
        if at > HEAD_MAX:
            raise LimitExceededError("head too long", status=513)
        if not line:
            ends.append(end)
            return lines, ends, at
        if "\r" in line:
            raise ParseError("CR without LF", value=line, offset=at)
        if lines and (line[0] == " " or line[0] == "\t"):
            if len(lines) < 2:
                raise ParseError("folded start line", value=line)
            lines[-1] += ends[-1] + line
            ends[-1] = end
            if len(lines[-1]) > LINE_MAX:
                raise LimitExceededError("header line too long", status=513)
            continue
        if len(lines) > HEADERS_MAX:
            raise LimitExceededError("too many headers", status=513)
        lines.append(line)
        ends.append(end)


def _parse_slowly(data: bytes) -> Request | Response:
    lines, ends, body_at = _split_head(data)
    if not lines:
        raise ParseError("no start line")
    start_line = lines[0]
    del lines[0]
    names = [_unusual_name(line) for line in lines]
    body = _cut_body(data, body_at)
    _leave_one_length(names, lines, ends)
    if "\n" not in ends:
        ends = []
    return _build(data, start_line, names, lines, body, ends)


def parse_for_reply(data: bytes) -> Request | None:
    """As much of the request in *data* as an error answer needs, when ``parse_message`` has refused it.

    Header lines that cannot be understood are left out, the version and the body are ignored. None when it is not a
    request, is an ACK, or lacks Via or CSeq, by which a client recognises the answer. Never raises.
    """
    data = data.lstrip(b"\r\n")[:MESSAGE_MAX]
    names: list[str] = []
    lines: list[str] = []
    end = body_start(data)
    head = (data if end < 0 else data[:end]).decode("utf-8", "surrogateescape")
    pieces = head.split("\n")
    start_line = pieces[0].rstrip("\r")
    method, _, rest = start_line.partition(" ")
    if method == "ACK" or not is_token(method) or not rest:
        return None
    del pieces[0]
    for piece in pieces[:HEADERS_MAX]:
        line = piece.rstrip("\r")
        if not line or "\r" in line:
            continue
        if line[0] == " " or line[0] == "\t":
            if lines:
                lines[-1] += "\r\n" + line
            continue
        colon = line.find(":")
        spelled = line[:colon].rstrip(" \t") if colon > 0 else ""
        names.append(canonical_name(spelled) if is_token(spelled) and len(spelled) <= NAME_MAX else "")
        lines.append(line)
    if "via" not in names or "cseq" not in names:
        return None
    return Request(data, start_line, names, lines, b"", [], method, rest.partition(" ")[0])


def quick_call_id(data: bytes) -> bytes:
    """The Call-ID in *data* without parsing the rest, b"" when there is none: whose message is this?

    Finds ``Call-ID`` in any case and ``i`` at the start of a header line; a value on a folded line is not found.
    """
    at = data.find(b"\nCall-ID:")
    if at >= 0:
        at += 9
    else:
        at = _find_call_id(data)
        if at < 0:
            return b""
    end = data.find(b"\n", at)
    if end < 0:
        end = len(data)
    return data[at:end].strip(b" \t\r")


def _find_call_id(data: bytes) -> int:
    at = data.find(b"\n")
    while at >= 0:
        at += 1
        first = data[at : at + 1]
        if first in b"iIcC" and first:
            colon = data.find(b":", at, at + NAME_MAX)
            if colon > 0 and data[at:colon].rstrip(b" \t").lower() in {b"i", b"call-id"}:
                return colon + 1
        elif first == b"\n" or data[at : at + 2] == b"\r\n":
            return -1
        at = data.find(b"\n", at)
    return -1


def parse_request(data: bytes) -> Request:
    """As ``parse_message`` for what must be a request. Raises ParseError also for a response."""
    message: Message = parse_message(data)
    if not isinstance(message, Request):
        raise ParseError("a response where a request is needed")
    return message
