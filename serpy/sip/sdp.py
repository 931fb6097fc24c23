"""Session descriptions: where the addresses and ports stand, and a copy with others in their place.

Only what relaying media needs is read: o=, c=, m= and a=rtcp. Whatever is not replaced stays byte for byte, unknown
and odd lines too. Every function takes one pass over its input.

Runs in: udp receiver. Locks: none. RFC: 4566 (§5.2, §5.7, §5.14), 3605 (a=rtcp), 2046 §5.1 (multipart).
"""

from __future__ import annotations

from typing import Final

from serpy.errors import LimitExceededError, ParseError
from serpy.sip.abnf import ascii_lower
from serpy.sip.limits import BODY_PARTS_MAX, PORT_MAX, SDP_MEDIA_MAX

MARK: Final = b"a=nortpproxy:yes"  # says that a media proxy is in the way already

_NEWLINE: Final = b"\n"
_SPACE: Final = b" "
_HOST_CHARACTERS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.:-"
_HOST_MAX: Final = 255
_DIGITS: Final = b"0123456789"


class Address:
    """An address in the text: *start* is where its type (IP4, IP6) begins, *end* is behind it and its /ttl."""

    def __init__(self, start: int, end: int, host: str, ipv6: bool) -> None:
        self.start: Final = start
        self.end: Final = end
        self.host: Final = host
        self.ipv6: Final = ipv6

    @property
    def is_null(self) -> bool:
        """True for 0.0.0.0 and ``::``: the media is on hold (RFC 3264 §8.4)."""
        return not self.host.strip("0:") if self.ipv6 else self.host == "0.0.0.0"  # noqa: S104 - compared, not bound


class Session:
    """The part above the first m= line of one v= section."""

    def __init__(self) -> None:
        self.origin: Address | None = None
        self.connection: Address | None = None


class Media:
    """One m= section. Ports and addresses are kept with the place where they stand."""

    def __init__(self, session: Session, kind: str, port: int, start: int, end: int, transport: str) -> None:
        self.session: Final = session
        self.kind: Final = kind
        self.port: Final = port
        self.port_start: Final = start
        self.port_end: Final = end
        self.transport: Final = transport
        self.formats = ""  # payload types as written
        self.connections: Final[list[Address]] = []
        self.rtcp_port = -1
        self.rtcp_start = 0
        self.rtcp_end = 0
        self.rtcp_address: Address | None = None
        self.insert_at = 0  # a c= line belongs here

    @property
    def connection(self) -> Address | None:
        """The address that counts for this media, None when the text has none."""
        return self.connections[0] if self.connections else self.session.connection

    @property
    def is_relayed(self) -> bool:
        """True when it runs over datagrams and is not switched off (port 0)."""
        return self.port != 0 and _over_datagrams(self.transport)


class Target:
    """Where the media of one m= line shall go."""

    def __init__(self, host: str, port: int, ipv6: bool) -> None:
        self.host: Final = host
        self.port: Final = port
        self.ipv6: Final = ipv6

    def address(self) -> bytes:
        """Type and address as they stand in a c= line."""
        return f"IP6 {self.host}".encode("ascii") if self.ipv6 else f"IP4 {self.host}".encode("ascii")


class Sdp:
    """A description that was read: ``parse_sdp``."""

    def __init__(self, data: bytes) -> None:
        self.data: Final = data
        self.sessions: Final[list[Session]] = []
        self.medias: Final[list[Media]] = []
        self.is_marked = False
        self.line_end = b"\r\n"


def _over_datagrams(transport: str) -> bool:
    return transport.startswith(("RTP/", "UDP")) or transport == "UDPTL"


def parse_sdp(data: bytes) -> Sdp:
    """*data*, read. Raises ParseError when it is no session description, LimitExceededError for too many m= lines."""
    if not data.startswith(b"v="):
        raise ParseError("not a session description", value=data[:40].decode("latin-1"))
    sdp = Sdp(data)
    session = Session()
    media: Media | None = None
    at = 0
    size = len(data)
    after_media = False  # the line before was m= (or its i=): where a c= line may be put
    while at < size:
        newline = data.find(_NEWLINE, at)
        after = size if newline < 0 else newline + 1
        end = size if newline < 0 else newline
        if end > at and data[end - 1] == 13:
            end -= 1
        if end - at >= 2 and data[at + 1] == 61:  # "="
            letter = data[at]
            if letter == 109:  # m
                media = _media(data, at, end, session)
                media.insert_at = after
                if not sdp.medias or sdp.medias[-1].session is not session:
                    sdp.sessions.append(session)
                sdp.medias.append(media)
                if len(sdp.medias) > SDP_MEDIA_MAX:
                    raise LimitExceededError("too many m= lines", status=413)
                after_media = True
            elif letter == 105:  # i
                if after_media and media is not None:
                    media.insert_at = after
            else:
                after_media = False
                if letter == 99:  # c
                    address = _network_address(data, at + 2, end, "c=")
                    if media is not None:
                        media.connections.append(address)
                    elif session.connection is None:
                        session.connection = address
                elif letter == 97:  # a
                    if media is not None and data.startswith(b"a=rtcp:", at):
                        _rtcp(data, at + 7, end, media)
                    elif data.startswith(MARK, at) and end - at == len(MARK):
                        sdp.is_marked = True
                elif letter == 118:  # v
                    session = Session()
                    media = None
                elif letter == 111 and media is None:  # o
                    session.origin = _origin(data, at + 2, end)
        if newline >= 0 and end == newline:
            sdp.line_end = b"\n"
        at = after
    return sdp


def _field(data: bytes, at: int, end: int) -> int:
    """Where the word that starts at *at* ends."""
    space = data.find(_SPACE, at, end)
    return end if space < 0 else space


def _behind(space: int, end: int) -> int:
    """Where the word behind the blank at *space* starts. Never above *end*: compiled slices must not run backwards."""
    return space + 1 if space < end else end


def _media(data: bytes, at: int, end: int, session: Session) -> Media:
    """m= <media> <port>[/<number of ports>] <proto> <fmt> …"""
    kind_end = _field(data, at + 2, end)
    start = _behind(kind_end, end)
    port_end = _field(data, start, end)
    proto_start = _behind(port_end, end)
    proto_end = _field(data, proto_start, end)
    word = data[start:port_end]
    slash = word.find(b"/")
    if slash >= 0:
        word = word[:slash]
    port = _number(word)
    if port < 0 or kind_end == at + 2 or port_end >= end:
        raise ParseError("bad m= line", value=data[at:end].decode("latin-1"))
    kind = data[at + 2 : kind_end].decode("latin-1")
    transport = data[proto_start:proto_end].upper().decode("latin-1")
    media = Media(session, kind, port, start, start + len(word), transport)
    if proto_end < end:
        media.formats = data[proto_end + 1 : end].decode("latin-1")
    return media


def _number(word: bytes) -> int:
    """A port, -1 when it is none."""
    if not 1 <= len(word) <= 5 or word.strip(_DIGITS):
        return -1
    number = int(word)
    return number if number <= PORT_MAX else -1


def _network_address(data: bytes, at: int, end: int, where: str) -> Address:
    """<nettype> <addrtype> <connection-address>; the address may be a name."""
    net_end = _field(data, at, end)
    type_start = _behind(net_end, end)
    type_end = _field(data, type_start, end)
    host_start = _behind(type_end, end)
    stop = _field(data, host_start, end)
    host = data[host_start:stop]
    slash = host.find(b"/")
    if slash >= 0:
        host = host[:slash]
    kind = data[type_start:type_end].upper()
    if (
        data[at:net_end].upper() != b"IN"
        or kind not in {b"IP4", b"IP6"}
        or not 1 <= len(host) <= _HOST_MAX
        or not _is_plain(host)
    ):
        raise ParseError(f"bad address in {where}", value=data[at:end].decode("latin-1"))
    return Address(type_start, stop, host.decode("ascii"), kind == b"IP6")


def _is_plain(host: bytes) -> bool:
    """True when *host* has only characters of names and addresses: it goes into commands to the media proxy."""
    return not host.translate(None, _HOST_CHARACTERS)


def _origin(data: bytes, at: int, end: int) -> Address | None:
    """o=<username> <sess-id> <sess-version> <nettype> <addrtype> <unicast-address>; None when it is not like that."""
    for _ in range(3):
        at = _field(data, at, end) + 1
        if at >= end:
            return None
    try:
        return _network_address(data, at, end, "o=")
    except ParseError:
        return None  # nobody needs it: phones write strange things there


def _rtcp(data: bytes, at: int, end: int, media: Media) -> None:
    """a=rtcp:<port> [<nettype> <addrtype> <connection-address>]"""
    stop = _field(data, at, end)
    port = _number(data[at:stop])
    if port < 0:
        raise ParseError("bad a=rtcp", value=data[at:end].decode("latin-1"))
    media.rtcp_port = port
    media.rtcp_start = at
    media.rtcp_end = stop
    if stop + 1 < end:
        media.rtcp_address = _network_address(data, stop + 1, end, "a=rtcp")


# ---- rewriting -----------------------------------------------------------------------------------------------------


class Changes:
    """Pieces of a text to replace, applied in the order of their places."""

    def __init__(self, data: bytes) -> None:
        self._data: Final = data
        self._pieces: Final[list[tuple[int, int, int, bytes]]] = []

    def replace(self, start: int, end: int, text: bytes) -> None:
        """Put *text* where start to end is; an insertion when they are equal. Those at one place keep their order."""
        self._pieces.append((start, len(self._pieces), end, text))

    def apply(self) -> bytes:
        """The text with its pieces replaced. No two of them overlap."""
        if not self._pieces:
            return self._data
        parts: list[bytes] = []
        at = 0
        for start, _, end, text in sorted(self._pieces):
            parts.append(self._data[at:start])
            parts.append(text)
            at = end
        parts.append(self._data[at:])
        return b"".join(parts)


def rewrite(
    sdp: Sdp, targets: dict[int, Target], *, session_connection: bool = False, origin: bool = False, mark: bool = True
) -> bytes:
    """The description with each media of *targets* (by its index in ``sdp.medias``) sent elsewhere.

    *session_connection*: the c= above the media follows even when every media has its own. *origin*: so does o=.
    *mark*: ``a=nortpproxy:yes`` at the end unless it is there. A null address (hold) stays one.
    Raises ParseError for a media without any c=.
    """
    changes = Changes(sdp.data)
    for session in sdp.sessions:
        _rewrite_session(sdp, session, targets, changes, session_connection, origin)
    if mark and not sdp.is_marked:
        changes.replace(len(sdp.data), len(sdp.data), _new_line(sdp.data, len(sdp.data), MARK, sdp.line_end))
    return changes.apply()


def with_mark(data: bytes) -> bytes:
    """The description *data* with ``a=nortpproxy:yes`` at its end, unless it has that line."""
    at = data.find(b"\n" + MARK)
    while at >= 0:
        end = at + 1 + len(MARK)
        if end == len(data) or data[end] in {10, 13}:
            return data
        at = data.find(b"\n" + MARK, end)
    line_end = b"\n" if data.find(b"\r\n") < 0 and data.find(b"\n") >= 0 else b"\r\n"
    return data + _new_line(data, len(data), MARK, line_end)


def _new_line(data: bytes, at: int, line: bytes, line_end: bytes) -> bytes:
    """*line* so that it can be put at *at*: in a multipart body the line before may have no end, or the half of one."""
    if data.endswith(b"\n", 0, at):
        return line + line_end
    return (b"\n" if data.endswith(b"\r", 0, at) else line_end) + line


def _rewrite_session(
    sdp: Sdp, session: Session, targets: dict[int, Target], changes: Changes, with_connection: bool, with_origin: bool
) -> None:
    shared: Target | None = None  # what the c= of the session becomes
    first: Target | None = None
    for index, media in enumerate(sdp.medias):
        target = targets.get(index)
        if media.session is session and target is not None:
            if media.connection is None:
                raise ParseError("media without c=")
            if first is None:
                first = target
            if shared is None and not media.connections:
                shared = target
    if first is None:
        return
    if shared is None and with_connection:
        shared = first
    connection = session.connection
    if connection is not None and shared is not None:
        _replace_address(changes, connection, shared)
    if with_origin and session.origin is not None:
        changes.replace(session.origin.start, session.origin.end, first.address())
    for index, media in enumerate(sdp.medias):
        if media.session is session:
            _rewrite_media(sdp, media, targets.get(index), shared, changes)


def _rewrite_media(sdp: Sdp, media: Media, target: Target | None, shared: Target | None, changes: Changes) -> None:
    above = media.session.connection
    if target is None:
        if not media.connections and media.port and shared is not None and above is not None and not above.is_null:
            # The line above now speaks of the media proxy, which does not carry this one (a TCP stream).
            old = sdp.data[above.start : above.end]
            changes.replace(media.insert_at, media.insert_at, _connection_line(sdp, media, old))
        return
    changes.replace(media.port_start, media.port_end, str(target.port).encode("ascii"))
    for own in media.connections:
        _replace_address(changes, own, target)
    if not media.connections and shared is not None and above is not None and target.host != shared.host:
        changes.replace(media.insert_at, media.insert_at, _connection_line(sdp, media, target.address()))
    if media.rtcp_port > 0:
        # RFC 5761 muxes RTCP on the port of RTP; else the media proxy uses the next one.
        port = target.port if media.rtcp_port == media.port else target.port + 1
        changes.replace(media.rtcp_start, media.rtcp_end, str(port).encode("ascii"))
        if media.rtcp_address is not None:
            _replace_address(changes, media.rtcp_address, target)


def _replace_address(changes: Changes, old: Address, target: Target) -> None:
    if old.is_null and old.ipv6 == target.ipv6:
        return  # on hold: it must stay so
    changes.replace(old.start, old.end, target.address())


def _connection_line(sdp: Sdp, media: Media, address: bytes) -> bytes:
    return _new_line(sdp.data, media.insert_at, b"c=IN " + address, sdp.line_end)


# ---- where the description is in a body ----------------------------------------------------------------------------


def find_sdp(content_type: str, body: bytes) -> tuple[int, int]:
    """(start, end) of the session description in *body* of *content_type*; (-1, -1) when there is none.

    A body without Content-Type counts as one if it looks like it. Of a multipart body the first application/sdp part
    is taken.
    """
    if not content_type:
        return (0, len(body)) if body.startswith(b"v=") else (-1, -1)
    kind, _, parameters = content_type.partition(";")
    kind = ascii_lower(kind.strip(" \t"))
    if kind == "application/sdp":
        return (0, len(body)) if body else (-1, -1)
    if kind.startswith("multipart/"):
        boundary = _boundary(parameters)
        if boundary:
            return _find_part(body, b"--" + boundary.encode("utf-8", "surrogateescape"))
    return (-1, -1)


def _boundary(parameters: str) -> str:
    """The value of the boundary parameter, "" when there is none."""
    at = 0
    size = len(parameters)
    while at < size:
        equals = parameters.find("=", at)
        if equals < 0:
            return ""
        name = ascii_lower(parameters[at:equals].strip("; \t"))
        start = equals + 1
        if parameters[start : start + 1] == '"':
            end = parameters.find('"', start + 1)
            if end < 0:
                return ""
            value = parameters[start + 1 : end]
            end += 1
        else:
            end = parameters.find(";", start)
            if end < 0:
                end = size
            value = parameters[start:end].strip(" \t")
        if name == "boundary":
            return value
        at = end
    return ""


def _find_part(body: bytes, delimiter: bytes) -> tuple[int, int]:
    at = 0 if body.startswith(delimiter) else body.find(b"\n" + delimiter) + 1
    if at == 0 and not body.startswith(delimiter):
        return (-1, -1)
    for _ in range(BODY_PARTS_MAX):
        line_end = body.find(_NEWLINE, at)
        if line_end < 0 or body.startswith(b"--", at + len(delimiter)):
            return (-1, -1)
        start = line_end + 1
        next_at = body.find(b"\n" + delimiter, line_end)
        end = len(body) if next_at < 0 else next_at
        content = _content(body, start, end)
        if content >= 0:
            if next_at >= 0 and end > content and body[end - 1] == 13:
                end -= 1
            return (content, max(content, end))
        if next_at < 0:
            return (-1, -1)
        at = next_at + 1
    return (-1, -1)


def _content(body: bytes, at: int, end: int) -> int:
    """Where the content of the part from *at* to *end* begins if it is a session description, else -1."""
    is_sdp = False
    while at < end:
        newline = body.find(_NEWLINE, at, end)
        if newline < 0:
            return -1
        line = body[at:newline].rstrip(b"\r")
        at = newline + 1
        if not line:
            return at if is_sdp else -1
        name, _, value = line.partition(b":")
        if name.strip(b" \t").lower() in {b"content-type", b"c"}:
            is_sdp = value.partition(b";")[0].strip(b" \t").lower() == b"application/sdp"
    return -1
