"""Bytes to Request or Response: the only decode() of SIP.

Heads as nearly all write them are read in C (``native.py``). All others, and all without it: one decode of the head as UTF-8
with surrogateescape, then line by line, the name of each guessed from the one before; a slower path keeps odd line ends and
folded lines byte for byte. Only the structure is checked here:
``Message.check_mandatory()`` looks at the headers.

Runs in: udp receiver. Locks: none. RFC: 3261 §7, §18.3, §25.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import LimitExceededError, ParseError, UnsupportedError
from serpy.sip.abnf import ascii_lower, is_token, parse_number
from serpy.sip.cseq import CSeq, plain_cseq
from serpy.sip.heads import body_start, content_length
from serpy.sip.limits import (
    HEAD_MAX,
    HEADERS_MAX,
    KEEPALIVE_MAX,
    LINE_MAX,
    MAX_FORWARDS_MAX,
    MESSAGE_MAX,
    METHOD_MAX,
    NAME_MAX,
)
from serpy.sip.lines import (
    CALL_ID,
    CANONICAL,
    CONTENT_LENGTH,
    CSEQ,
    MAX_FORWARDS,
    START,
    name_of,
    plain_call_id,
    plain_number,
)
from serpy.sip.message import Message, Request, Response
from serpy.sip.native import READ, Head
from serpy.sip.via import Via

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object


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
    return parse_plainly(data) if READ is None else _of_head(data, READ(data))


def _of_head(data: bytes, head: Head | None) -> Request | Response:
    if head is None:
        return parse_plainly(data)
    start_line, names, lines, body, method, rest, status, seen, twice, call_id, number, cseq_method, hops, length, end, \
        transport, host, port, branch, rport = head  # fmt: skip
    built: Request | Response
    if method:
        built = Request(data, start_line, names, lines, body, _NO_ENDS, method, rest)
    else:
        built = Response(data, start_line, names, lines, body, _NO_ENDS, status, rest)
    message: Message = built
    message.has_no_fold = True
    message.seen = seen
    message.twice = twice
    message.length = length
    message.raw_end = end
    if call_id:
        message.set_call_id(call_id)
    if number >= 0:
        message.set_cseq(CSeq(number, cseq_method))
    if hops >= 0:
        message.set_max_forwards(hops)
    if transport:
        message.set_via(Via(transport, host, port, branch, rport, "", None, lines[0]))
    return built


def parse_plainly(data: bytes) -> Request | Response:
    """As ``parse_message``, without C: what that one does when it is not there or not certain."""
    if len(data) > MESSAGE_MAX:
        raise LimitExceededError("message too large", status=513)
    if data.startswith(b"\r") or data.startswith(b"\n"):  # noqa: PIE810 - a tuple is slower when compiled
        data = data.lstrip(b"\r\n")  # §7.5: line ends before the start line
    if data.endswith(b"\r\n\r\n"):  # most messages have no body: that spares the search
        return _parse(data, len(data) - 4)
    head_end = data.rfind(b"\r\n\r\n")  # the body is short; where it holds an empty line, that will be noticed
    if head_end < 0:
        return _parse_slowly(data)
    return _parse(data, head_end)


def _parse(data: bytes, head_end: int) -> Request | Response:
    if head_end > LINE_MAX:  # then no line is too long
        return _parse_unusual(data, head_end)
    head = data[:head_end].decode("utf-8", "surrogateescape")
    lines = head.split("\r\n")
    rest = "".join(lines)  # cheaper than looking at each: what the split has left must hold no line end
    if "\n" in rest or "\r" in rest or len(lines) > HEADERS_MAX:
        return _parse_unusual(data, head_end)
    start_line = lines.pop(0)
    names = [""] * len(lines)
    call_id = ""
    cseq: CSeq | None = None
    hops: i64 = -1
    length: i64 = -1
    seen = 0
    twice = 0
    before = START
    at: i64 = 0
    for line in lines:
        known = before.follower
        if known is None or not line.startswith(known.text):
            known = name_of(line, before)
            if known is None:
                return _parse_unusual(data, head_end)
        names[at] = known.name
        at += 1
        before = known
        bit = known.bit
        if not bit:
            continue
        if seen & bit:
            twice |= bit
        elif bit == CALL_ID:
            call_id = plain_call_id(line, known.size)
        elif bit == CSEQ:
            cseq = plain_cseq(line, known.size)
        elif bit == MAX_FORWARDS:
            hops = plain_number(line, known.size)
        elif bit == CONTENT_LENGTH:
            length = plain_number(line, known.size)
        seen |= bit
    if twice & CONTENT_LENGTH:
        return _parse_unusual(data, head_end)
    body = data[head_end + 4 :]
    if seen & CONTENT_LENGTH and length != len(body):
        # What follows the body is no part of the message (RFC 3261 §18.3): many phones and tools send a line end more.
        # -1 is what is no plain number; that, and a body that is too short, is looked at with care.
        body = body[:length] if 0 <= length < len(body) else _cut_body(data, head_end + 4)
    built = _build(data, start_line, names, lines, body, [])
    message: Message = built
    message.has_no_fold = True
    if call_id:
        message.set_call_id(call_id)
    if cseq is not None:
        message.set_cseq(cseq)
    if 0 <= hops <= MAX_FORWARDS_MAX:
        message.set_max_forwards(hops)
    message.seen = seen
    message.twice = twice
    message.length = len(body) if seen & CONTENT_LENGTH else -1
    if len(head) == head_end:
        message.raw_end = head_end + 4 + len(body)
    return built


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
    if start_line.endswith(" SIP/2.0"):
        space = start_line.find(" ")
        if _is_capitals(start_line, space):
            uri = start_line[space + 1 : -8]
            if uri and " " not in uri:
                return Request(data, start_line, names, lines, body, ends, start_line[:space], uri)
    elif start_line.startswith("SIP/2.0 "):
        code: i64 = plain_status(start_line)
        if code:
            return Response(data, start_line, names, lines, body, ends, code, start_line[12:])
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


def _is_capitals(start_line: str, space: i64) -> bool:
    """True when *start_line* begins with a method of capital letters that ends at *space*."""
    if space <= 0 or space > METHOD_MAX:
        return False
    at: i64 = 0
    while at < space:
        letter: i64 = ord(start_line[at])
        if letter < _A or letter > _Z:
            return False
        at += 1
    return True


def plain_status(start_line: str) -> i64:
    """The status in *start_line*, which begins ``SIP/2.0 ``: three digits and a space follow. 0 for anything else."""
    if len(start_line) < _REASON or ord(start_line[_REASON - 1]) != _SPACE:
        return 0
    status: i64 = 0
    at: i64 = _STATUS
    while at < _REASON - 1:
        digit: i64 = ord(start_line[at]) - _ZERO
        if digit < 0 or digit > 9:
            return 0
        status = status * 10 + digit
        at += 1
    return status if 100 <= status <= 699 else 0


_NO_ENDS: Final[list[str]] = []  # for all messages whose lines end in CRLF
_STATUS: Final = 8  # where it begins, behind "SIP/2.0 "
_REASON: Final = 12
_SPACE: Final = 0x20
_ZERO: Final = 0x30
_A: Final = 0x41
_Z: Final = 0x5A


def _parse_status(text: str, start_line: str) -> tuple[int, str]:
    digits, _, reason = text.partition(" ")
    if len(digits) != 3 or not digits.isascii() or not digits.isdigit():
        raise ParseError("bad status code", value=start_line)
    status = int(digits)
    if not 100 <= status <= 699:
        raise ParseError("bad status code", value=start_line)
    return status, reason


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
