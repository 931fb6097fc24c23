"""A TCP byte stream -> whole messages: SIP by Content-Length, HTTP requests, and the keep-alives between them.

Pure: bytes in, frames out, however the stream was cut. What cannot be a message raises FramingError with the status
to answer before the connection is closed; ``refused`` is then what there is of the message. Nothing is parsed here
beyond the start line and what says where head and body end, which is found as for a datagram (``heads.py``).

Runs in: tcp receiver; ``with_content_length`` also in those who send. Locks: none.
RFC: 3261 §7.5, §18.3, §18.4; 5626 §3.5.1 (CRLF keep-alives); 9112 §6 (HTTP).
"""

from __future__ import annotations

from typing import Final

from serpy.errors import FramingError, ParseError
from serpy.sip.heads import (
    body_start,
    check_lines,
    content_length,
    expects_continue,
    has_transfer_encoding,
    http_content_length,
)
from serpy.sip.limits import HEAD_MAX, LINE_MAX, MESSAGE_MAX

SIP: Final = 1
HTTP: Final = 2
PING: Final = 3  # a double CRLF: answer with one CRLF
CONTINUE: Final = 4  # the HTTP client waits for "100 Continue" before it sends the body


class Frame:
    """One whole message, or a keep-alive (without data)."""

    def __init__(self, kind: int, data: bytes) -> None:
        self.kind: Final = kind
        self.data: Final = data


LOOKED_AT: Final = 8  # lines behind what is no message, for the request that was meant


class StreamFramer:
    """The inbound side of one connection. ``feed()`` bytes, then take ``next()`` until it is None."""

    def __init__(self) -> None:
        self.refused = b""  # after a FramingError: the message that was refused, as far as it had come
        self.refused_kind = 0  # SIP, HTTP, or 0 when it is neither
        self._data = b""
        self._scanned = 0  # no end of a head before this offset
        self._total = 0  # size of the message at the front once its head is complete, 0 = not yet known
        self._kind = 0
        self._line_ends = 0  # CRLFs in a row before the message that comes next

    @property
    def size(self) -> int:
        """Bytes fed that have not left in a frame."""
        return len(self._data)

    @property
    def is_inside(self) -> bool:
        """True when a message has begun and not ended."""
        return bool(self._data)

    def feed(self, data: bytes) -> None:
        """Take in what has been read."""
        self._data = self._data + data if self._data else data

    def next(self) -> Frame | None:
        """The next frame, None when more has to be read first. Raises FramingError, after which nothing is left."""
        try:
            return self._next()
        except FramingError:
            self.refused = self._data
            self.refused_kind = self._kind
            self._data = b""
            self._reset()
            raise

    def _next(self) -> Frame | None:
        if self._total == 0:
            if self._skip_line_ends():
                return Frame(PING, b"")
            if self._data in {b"", b"\r"} or not self._find_head():
                return None
        data = self._data
        total = self._total
        if len(data) < total:
            if self._kind == HTTP and self._scanned:
                self._scanned = 0  # asked once
                if expects_continue(data[: body_start(data)]):
                    return Frame(CONTINUE, b"")
            return None
        frame = Frame(self._kind, data if len(data) == total else data[:total])
        self._data = data[total:]
        self._reset()
        return frame

    def _reset(self) -> None:
        self._total = 0
        self._scanned = 0
        self._kind = 0
        self._line_ends = 0

    def _skip_line_ends(self) -> bool:
        """Drop what may stand before a start line; True when a double CRLF was among it.

        However many there were, one answer will do: the peer wants to know that we live.
        """
        data = self._data
        at = 0
        ping = False
        while at < len(data):
            byte = data[at]
            if byte == 13:
                if at + 1 == len(data):
                    break  # its LF is still to come
                if data[at + 1] == 10:
                    at += 2
                    self._line_ends += 1
                    if self._line_ends == 2:
                        self._line_ends = 0
                        ping = True
                    continue
                # a CR alone is no line end, and as for a datagram no part of the start line
            elif byte not in (0, 10, 32):  # 0: the four zero bytes that some send to keep a NAT binding
                break
            self._line_ends = 0
            at += 1
        if at:
            self._data = data[at:]
        return ping

    def _find_head(self) -> bool:
        """Find the end of the head and with it the size of the message; False when it has not come yet."""
        data = self._data
        if self._kind == 0:
            line_end = data.find(b"\n")
            if (line_end if line_end >= 0 else len(data)) > LINE_MAX:
                raise FramingError("no start line")
            if line_end < 0:
                if not _may_start(data.rstrip(b"\r")):
                    raise FramingError("no start line")
                return False
            self._kind = _kind_of(data[:line_end].rstrip(b"\r"))
            self._scanned = line_end
        size = body_start(data, self._scanned)
        if size > HEAD_MAX or (size < 0 and len(data) > HEAD_MAX):
            raise FramingError("head too long", status=513 if self._kind == SIP else 431)
        if size < 0:
            self._scanned = max(self._scanned, len(data) - 2)
            return False
        self._total = size + self._body_size(data[:size])
        return True

    def _body_size(self, head: bytes) -> int:
        try:
            check_lines(head)
            length = content_length(head) if self._kind == SIP else http_content_length(head)
        except ParseError as exc:
            raise FramingError(str(exc), status=400, reason=exc.reason) from None
        if self._kind == HTTP:
            if has_transfer_encoding(head):
                raise FramingError("a body without a length", status=411, reason="Length Required")
            length = max(0, length)
        if length < 0:
            raise FramingError("no Content-Length", status=400, reason="Missing Content-Length")
        if len(head) + length > MESSAGE_MAX:
            raise FramingError("message too large", status=513 if self._kind == SIP else 413)
        return length


def with_content_length(data: bytes) -> bytes:
    """The SIP message *data* with the Content-Length it needs on a connection (RFC 3261 §20.14).

    One that has it, and what is no message (a keep-alive), is returned as it is.
    """
    start = body_start(data)
    if start < 0 or data.find(b"\nContent-Length:", 0, start) >= 0:  # nearly always
        return data
    if data.startswith(b"\r") or data.startswith(b"\n") or _says_length(data[:start]):  # noqa: PIE810 - as in parser.py
        return data
    end = data.rfind(b"\n", 0, start - 1) + 1  # where the empty line begins
    return b"%bContent-Length: %d\r\n%b" % (data[:end], len(data) - start, data[end:])


def _says_length(head: bytes) -> bool:
    try:
        return content_length(head) >= 0
    except ParseError:
        return True


def is_text(data: bytes) -> bool:
    """True when *data*, which starts no message, begins with a line of words: its sender can read an answer."""
    line = data[:LINE_MAX].partition(b"\n")[0].rstrip(b"\r")
    return len(line) < len(data) and line.isascii() and line.decode("ascii").isprintable()


def request_within(data: bytes) -> bytes:
    """*data* from the first start line of a SIP request in one of its first lines, b"" when there is none."""
    at = 0
    for _ in range(LOOKED_AT):
        at = data.find(b"\n", at) + 1
        end = data.find(b"\n", at)
        if not at or end < at:
            return b""
        words = data[at:end].rstrip(b"\r").split(b" ")
        if len(words) == 3 and words[2] == b"SIP/2.0":
            return data[at:]
    return b""


def _kind_of(start_line: bytes) -> int:
    """SIP or HTTP. Raises FramingError when *start_line* starts neither."""
    words = start_line.split(b" ")
    last = words[len(words) - 1].upper()
    if len(words) == 3 and last[:7] == b"HTTP/1." and _may_start(start_line):
        return HTTP
    if (len(words) >= 3 and last[:4] == b"SIP/" and _may_start(start_line)) or words[0].upper()[:4] == b"SIP/":
        return SIP
    raise FramingError("neither SIP nor HTTP", status=400)


def _may_start(data: bytes) -> bool:
    """True when *data* can be the start of a start line: its first word is printable."""
    return min(data[:32].partition(b" ")[0], default=32) >= 32
