"""Message and edits to bytes: the only encode() of SIP.

Header lines that nobody edited leave as they came. Whatever is written is joined once and encoded once.

Runs in: udp receiver, timer. Locks: none. RFC: 3261 §8.2.6, §9.1, §16.6, §16.7, §17.1.1.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from serpy.errors import ParseError
from serpy.sip.message import Edits, Message, Request, Response
from serpy.sip.nameaddr import NameAddr, split_commas, without_empty_end
from serpy.sip.parser import parse_for_reply, parse_request
from serpy.sip.text import reason_text

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

# Requests whose 101..299 answers carry Record-Route: they make a dialog (RFC 3261 §12.1.1; 6665; 3515)
_DIALOG_FORMING = ("INVITE", "SUBSCRIBE", "REFER", "NOTIFY", "UPDATE")


def render(message: Message) -> bytes:
    """The message put together again from its lines: equal to ``message.raw`` up to the end of the body."""
    if not message.ends:
        return _finish([message.start_line, *message.lines], message.body)
    parts = [message.start_line, message.ends[0]]
    at = 1
    for line in message.lines:
        parts.append(line)
        parts.append(message.ends[at])
        at += 1
    parts.append(message.ends[at])
    return "".join(parts).encode("utf-8", "surrogateescape") + message.body


def _finish(parts: list[str], body: bytes) -> bytes:
    parts.append("")
    parts.append("")
    head = "\r\n".join(parts).encode("utf-8", "surrogateescape")
    return head + body if body else head


def build_request(
    request: Request, request_uri: str, via: str, edits: Edits, on_top: Sequence[str] = (), drop_first_route: int = 0
) -> bytes:
    """*request* as it is forwarded to *request_uri* with the whole line *via* on top.

    *on_top* are header lines written between that Via and all received headers. The first *drop_first_route* Route
    values are left out; they count over all Route lines, split at commas.
    """
    start_line = request.start_line
    if request_uri != request.request_uri or not start_line.endswith(" SIP/2.0"):
        start_line = f"{request.method} {request_uri} SIP/2.0"
    parts = [start_line, via]
    if on_top:
        parts.extend(on_top)
    if request.raw_end and not drop_first_route and edits.body is None:
        return _with_slices(parts, request, edits)
    if not edits.changed and not drop_first_route:
        parts.extend(request.lines)
        return _finish(parts, request.body)
    lines = request.lines
    if drop_first_route:
        lines = _without_values(request, "route", drop_first_route)
    body = request.body
    if edits.changed:
        body = _apply(parts, request.names, lines, edits, body)
    else:
        for line in lines:
            if line:
                parts.append(line)
    return _finish(parts, body)


def _with_slices(parts: list[str], message: Message, edits: Edits) -> bytes:
    """*parts*, then the lines of *message* with *edits*, then its body: what nobody touched leaves as the bytes it came as."""
    raw = message.raw
    chunks: list[bytes] = []
    at: i64 = len(message.start_line) + 2
    start: i64 = at  # of what has not been touched
    if edits.on_top is not None:
        parts.extend(edits.on_top)
    touched = edits.touched
    for index, line in enumerate(message.lines if touched else NO_LINES):
        end: i64 = at + len(line) + 2
        bit = 1 << index
        if touched & bit:
            if at > start:
                chunks.append(_lines(parts))
                chunks.append(raw[start:at])
                parts = []
            _touched_line(parts, line, index, edits)
            start = end
            if touched < bit << 1:
                break  # it was the last
        at = end
    if edits.at_end is not None:
        head_end: i64 = message.raw_end - len(message.body) - 2
        if head_end > start:
            chunks.append(_lines(parts))
            chunks.append(raw[start:head_end])
            parts = []
        parts.extend(edits.at_end)
        start = head_end
    chunks.append(_lines(parts))
    chunks.append(raw[start : message.raw_end])
    return b"".join(chunks)


NO_LINES: Final[list[str]] = []


def _lines(parts: list[str]) -> bytes:
    if not parts:
        return b""
    parts.append("")
    return "\r\n".join(parts).encode("utf-8", "surrogateescape")


def _touched_line(parts: list[str], line: str, index: int, edits: Edits) -> None:
    """Append what *edits* make of *line*, and what they put beside it."""
    before = edits.before
    if before is not None and index in before:
        parts.extend(before[index])
    removed = edits.removed
    if removed is None or index not in removed:
        replaced = edits.replaced
        if replaced is not None and index in replaced:
            line = replaced[index]
        if line:
            parts.append(line)
    after = edits.after
    if after is not None and index in after:
        parts.extend(after[index])


def build_forwarded_response(response: Response, edits: Edits) -> bytes:
    """*response* as it goes back upstream: without its top Via value (RFC 3261 §16.7 step 3)."""
    if response.raw_end and not edits.changed and response.find("via") == 0 and "," not in response.lines[0]:
        start = len(response.start_line) + 2  # nothing else changes: the bytes around that line leave as they came
        return response.raw[:start] + response.raw[start + len(response.lines[0]) + 2 : response.raw_end]
    parts = [response.start_line]
    lines = _without_values(response, "via", 1)
    body = response.body
    if edits.changed:
        body = _apply(parts, response.names, lines, edits, body)
    else:
        for line in lines:
            if line:
                parts.append(line)
    return _finish(parts, body)


def _without_values(message: Message, name: str, count: int) -> list[str]:
    """A copy of the lines where the first *count* values of *name* are gone; a line left empty is ""."""
    lines = message.lines.copy()
    for at, known in enumerate(message.names):
        if known == name:
            line = lines[at]
            if "," not in line:
                lines[at] = ""
                count -= 1
            else:
                count = _drop_values(message, lines, at, count)
            if count <= 0:
                break
    return lines


def _drop_values(message: Message, lines: list[str], at: int, count: int) -> int:
    line = lines[at]
    try:
        values = split_commas(message.value(at))
    except ParseError:
        values = [line]
    if len(values) <= count:
        lines[at] = ""
        return count - len(values)
    lines[at] = f"{line[: line.find(':')]}: {', '.join(values[count:])}"
    return 0


def _apply(parts: list[str], names: list[str], lines: list[str], edits: Edits, body: bytes) -> bytes:
    """Append *lines* with *edits* to *parts*; returns the body to send. A line that is "" is left out."""
    if edits.on_top is not None:
        parts.extend(edits.on_top)
    new_body = edits.body
    removed = edits.removed
    replaced = edits.replaced
    before = edits.before
    after = edits.after
    touched = edits.touched
    has_length = False
    for at, line in enumerate(lines):
        if touched & (1 << at):
            if before is not None and at in before:
                parts.extend(before[at])
            if removed is not None and at in removed:
                line = ""
            elif line and replaced is not None and at in replaced:
                line = replaced[at]
        if line:
            if new_body is not None and names[at] == "content-length":
                has_length = True
                line = f"{line[: line.find(':')]}: {len(new_body)}"
            parts.append(line)
        if after is not None and at in after:
            parts.extend(after[at])
    if edits.at_end is not None:
        parts.extend(edits.at_end)
    if new_body is None:
        return body
    if not has_length:
        parts.append(f"Content-Length: {len(new_body)}")
    return new_body


def build_reply(
    request: Request,
    status: int,
    reason: str,
    *,
    to_tag: str,
    headers: Sequence[str] = (),
    body: bytes = b"",
    received: str = "",
    rport: int = 0,
) -> bytes:
    """The answer *status* to *request* by RFC 3261 §8.2.6. *headers* are whole lines, Content-Type among them.

    *to_tag* is added to To when it has none and *status* is above 100. *received* ("" = none) and *rport* (0 = none)
    go into the top Via. Never raises, so that malformed requests can be answered too.
    """
    parts = [_status_line(status, reason)]
    record_route = 100 < status < 300 and request.method in _DIALOG_FORMING
    first_via = True
    for at, name in enumerate(request.names):
        if name == "via":
            line = request.lines[at]
            if first_via:
                first_via = False
                line = request.annotated_via(line, received, rport)
            parts.append(without_empty_end(line))
        elif name == "to":
            line = without_empty_end(request.lines[at])
            if to_tag and status > 100 and not _has_to_tag(request, line):
                line = f"{_without_bare_tag(request, line)};tag={to_tag}"
            parts.append(line)
        elif name == "from":
            parts.append(without_empty_end(request.lines[at]))
        elif (
            name in ("call-id", "cseq")
            or (name == "record-route" and record_route)
            or (name == "timestamp" and status == 100)
        ):
            parts.append(request.lines[at])
    parts.extend(headers)
    parts.append(f"Content-Length: {len(body)}" if body else "Content-Length: 0")
    return _finish(parts, body)


_STATUS_LINES_MAX: Final = 256
_REASON_MAX: Final = 64  # characters
_status_lines: Final[dict[str, tuple[int, str]]] = {}  # by reason: the status that came with it last, and the line


def _status_line(status: int, reason: str) -> str:
    """The start line of an answer; scripts and the table of phrases say the same few."""
    known = _status_lines.get(reason)
    if known is not None and known[0] == status:
        return known[1]
    line = f"SIP/2.0 {status} {reason_text(reason)}"
    if len(reason) <= _REASON_MAX:
        if len(_status_lines) >= _STATUS_LINES_MAX:
            _status_lines.clear()
        _status_lines[reason] = status, line
    return line


def _has_to_tag(request: Request, line: str) -> bool:
    try:
        return bool(request.to_tag)
    except ParseError:
        return "tag=" in line


def _without_bare_tag(request: Request, line: str) -> str:
    """*line*, a To without a tag, also without a tag parameter that says nothing."""
    try:
        to = request.to
    except ParseError:
        return line
    if "tag" not in to.params:
        return line
    params = {name: text for name, text in to.params.items() if name != "tag"}
    return f"{line[: line.find(':')]}: {NameAddr(to.display, to.uri_text, params)}"


def _sent(sent_request: bytes | Request) -> Request:
    if isinstance(sent_request, Request):
        return sent_request
    try:
        return parse_request(sent_request)
    except ParseError:  # of a large one that waits for its answer only the head is kept
        head = parse_for_reply(sent_request)
        if head is None:
            raise
        return head


def _start_hop_request(request: Request, method: str, to_line: str) -> list[str]:
    """The head of an ACK or CANCEL that takes the way of *request*: only its top Via, and its Route set."""
    parts = [f"{method} {request.request_uri} SIP/2.0"]
    first_via = True
    for at, name in enumerate(request.names):
        line = request.lines[at]
        if name == "via":
            if first_via:
                first_via = False
                parts.append(_first_value(request, at) if "," in line else line)
        elif name == "to":
            parts.append(to_line or line)
        elif name == "cseq":
            parts.append(f"CSeq: {request.cseq.number} {method}")
        elif name in ("from", "call-id", "route"):
            parts.append(line)
    parts.append("Max-Forwards: 70")
    return parts


def _first_value(message: Message, at: int) -> str:
    try:
        values = split_commas(message.value(at))
    except ParseError:
        return message.lines[at]
    return f"Via: {values[0] if values else ''}"


def build_ack(sent_request: bytes | Request, response: Response) -> bytes:
    """The ACK for a non-2xx final *response* to *sent_request*, the INVITE as we sent it (RFC 3261 §17.1.1.3)."""
    to_at = response.find("to")
    parts = _start_hop_request(_sent(sent_request), "ACK", response.lines[to_at] if to_at >= 0 else "")
    parts.append("Content-Length: 0")
    return _finish(parts, b"")


def build_cancel(sent_request: bytes | Request, extra: Sequence[str] = ()) -> bytes:
    """The CANCEL for *sent_request*, the INVITE as we sent it, with the header lines *extra* (RFC 3261 §9.1)."""
    parts = _start_hop_request(_sent(sent_request), "CANCEL", "")
    parts.extend(extra)
    parts.append("Content-Length: 0")
    return _finish(parts, b"")
