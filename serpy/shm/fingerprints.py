"""Texts of peers as numbers of 61 bits that nobody outside can aim at: what a record of a call compares.

The number of a text is that of its bytes, seven at a time, as a polynomial at a secret point modulo 2^61 - 1: two texts of
n bytes that somebody has chosen without knowing the point are equal with a chance below n/2^59 (polynomial hashing). Numbers
are put together by a second secret. It costs a tenth of a keyed BLAKE2, and is the same in every process, after a restart,
and on every member of a farm with the same secret. A number must never be shown to a peer: some would betray the point.

Runs in: every process. Locks: none. RFC: 3261 §19.1.4 for what of a URI is compared.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from serpy.errors import ParseError
from serpy.sip.abnf import ascii_lower
from serpy.sip.address import default_port
from serpy.sip.host import normal_host
from serpy.sip.message import unfold
from serpy.sip.nameaddr import parse_nameaddr, split_commas
from serpy.sip.uri import Uri, parse_uri, unescape

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

NONE: Final = 0  # no number is 0
SHORT: Final = (1 << 30) - 1  # mask of the short numbers, two of which share a word
PRIME: Final = (1 << 61) - 1
_LOW: Final = (1 << 31) - 1
_MIDDLE: Final = (1 << 30) - 1
_WORD: Final = 7  # bytes taken at a time
_ZERO: Final = 0x30
_NINE: Final = 0x39
_SPACE: Final = 0x20
_AT: Final = 0x40
_COLON: Final = 0x3A
_SEMICOLON: Final = 0x3B
_LEFT: Final = 0x3C
_RIGHT: Final = 0x3E
_S: Final = 0x73
_I: Final = 0x69
_P: Final = 0x70
_SCHEME: Final = 4  # "sip:"
_SIP_PORT: Final = 5060
_MOST_PORT: Final = 65535
_LETTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PLAIN_USER: Final = bytes(byte in _LETTERS + b"0123456789-_.!~*'()+=" for byte in range(256))
# Digits and dots are an address as the kernel writes it, or equal to nothing.
_PLAIN_HOST: Final = bytes(byte in b"0123456789." for byte in range(256))
_ANY: Final = b"\1" * 256
_PLAIN_PARAM: Final = bytes(byte in _LETTERS and byte not in b"mM" for byte in range(256))
_KEPT: Final = 4096
_KEPT_LENGTH: Final = 256


class Contact:
    """A Contact line: the number of where its first URI leads, and the short one of the host in it."""

    def __init__(self, target: int, host: int) -> None:
        self.target: Final = target
        self.host: Final = host


NO_CONTACT: Final = Contact(NONE, NONE)


class Fingerprints:
    """The numbers that belong to one *secret*."""

    def __init__(self, secret: bytes) -> None:
        point = _secret_number(b"point", secret)
        factor = _secret_number(b"factor", secret)
        self._high: i64 = point >> 31
        self._low: i64 = point & _LOW
        self._factor_high: i64 = factor >> 31
        self._factor_low: i64 = factor & _LOW
        self._places: Final[dict[str, int]] = {}
        self._place: i64 = NONE  # of the host that _plain() has seen last

    def of(self, text: str) -> int:
        """The number of *text*, never 0."""
        data = encoded(text)
        found: i64 = self._of_bytes(data, 0, len(data), _ANY)
        return found

    def short(self, number: i64) -> int:
        """*number* in 30 bits, never 0. Its own low bits would not do: some of them are those of the text."""
        found: i64 = reduced(times(number, self._factor_high, self._factor_low)) >> 31
        return 1 if found == NONE else found

    def joined(self, one: i64, other: i64) -> int:
        """The number of two numbers in this order, never 0."""
        return self._joined(one, other)

    def _joined(self, one: i64, other: i64) -> i64:
        found: i64 = reduced(times(one, self._factor_high, self._factor_low) + other)
        if found == NONE:
            return 1
        return found

    def target(self, uri_text: str) -> int:
        """The number of where a URI leads: user (unescaped), host, port and maddr; NONE when it cannot be parsed."""
        data = encoded(uri_text)
        end: i64 = len(data)
        if _is_sip(data, 0, end):
            found = self._plain(data, _SCHEME, end)
            if found != NONE:
                return found
        try:
            return self.target_of(parse_uri(uri_text))
        except ParseError:
            return NONE

    def _plain(self, data: bytes, start: i64, end: i64) -> i64:
        """As ``target_of`` for the URI whose user begins at *start*, when it is as nearly all are: a user without escapes or
        none, at an address, with a port or without parameters. NONE for any other: it is to be parsed.
        """
        at: i64 = start
        while at < end and data[at] != _AT:
            at += 1
        if at == start:
            return NONE
        user_end: i64 = at if at < end else start  # many gateways have no user
        user = self._of_bytes(data, start, user_end, _PLAIN_USER)
        if user == NONE:
            return NONE
        at = at + 1 if at < end else start
        stop: i64 = at
        while stop < end and data[stop] != _COLON and data[stop] != _SEMICOLON:
            stop += 1
        place = self._of_bytes(data, at, stop, _PLAIN_HOST)
        if not (at < stop and place):
            return NONE
        port: i64 = _SIP_PORT
        if stop < end:
            port = _plain_port(data, stop, end)
            if port == NONE:
                return NONE
        self._place = place
        return self._joined(user, place + port)

    def _of_bytes(self, data: bytes, at: i64, end: i64, allowed: bytes) -> i64:
        """The number of the bytes from *at* to *end*, never 0 but for NONE when others than *allowed* are among them."""
        high: i64 = self._high
        low: i64 = self._low
        number: i64 = end - at + 1
        word: i64 = 0
        left: i64 = _WORD
        while at < end:
            byte: i64 = data[at]
            if not allowed[byte]:
                return NONE
            word = word << 8 | byte
            at += 1
            left -= 1
            if left == 0:
                number = times(number, high, low) + word
                word = 0
                left = _WORD
        # Once more, so that nobody knows the difference of two numbers either: ports are added to them.
        number = reduced(times(times(number, high, low) + word, high, low))
        if number == NONE:
            return 1
        return number

    def target_of(self, uri: Uri) -> int:
        """The same for a URI that has been parsed."""
        if not uri.is_sip:
            return self.of(uri.text)
        user = uri.user
        number = self.joined(self.of(unescape(user) if "%" in user else user), self.place(uri.host) + _port(uri))
        # maddr is where the request is sent, so it may not be ignored as other parameters are.
        maddr = _maddr(uri)
        return self.joined(number, self.of(maddr)) if maddr else number

    def contact(self, line: str) -> Contact:
        """What the Contact header *line* says, NO_CONTACT when that cannot be read."""
        data = encoded(line)
        number = self._plain_contact(data, len(data))
        if number != NONE:
            return Contact(number, self.short(self._place))
        try:
            uri = first_uri(line)
            if uri is None:
                return NO_CONTACT
            return Contact(self.target_of(uri), self.host(uri.host) if uri.host else NONE)
        except ParseError:
            return NO_CONTACT

    def _plain_contact(self, data: bytes, end: i64) -> i64:
        """The target in the line *data* when that is nothing but a URI as ``_plain`` takes it, in brackets; NONE for any other."""
        at: i64 = 0
        while at < end and data[at] != _COLON:
            at += 1
        at += 1
        if at < end and data[at] == _SPACE:
            at += 1
        if at >= end or data[at] != _LEFT or not _is_sip(data, at + 1, end):
            return NONE  # a display name, maybe
        at += 1 + _SCHEME
        stop: i64 = at
        while stop < end and data[stop] != _RIGHT:
            stop += 1
        if stop == end:
            return NONE
        return self._plain(data, at, stop)

    def endpoint_of(self, uri: Uri) -> int:
        """The short number of the host and port that a request to *uri* is sent to, NONE for none."""
        host = _maddr(uri) or uri.host
        return self.endpoint(host, _port(uri)) if host else NONE

    def endpoint(self, host: str, port: int) -> int:
        """The short number of an address and port, or a name and port."""
        return self.short(self.place(host) + port)

    def host(self, host: str) -> int:
        """The short number of a host."""
        return self.short(self.place(host))

    def place(self, host: str) -> int:
        """The long number of a host; with a port added ``short`` makes that of an endpoint of it."""
        data = encoded(host)
        plain: i64 = self._of_bytes(data, 0, len(data), _PLAIN_HOST)
        if plain != NONE:
            return plain
        found = self._places.get(host)
        if found is None:
            found = self.of(normal_host(host) or ascii_lower(host))
            if len(host) <= _KEPT_LENGTH:
                if len(self._places) >= _KEPT:
                    self._places.clear()
                self._places[host] = found
        return found


def times(number: i64, high: i64, low: i64) -> i64:
    """*number* times (*high* << 31 | *low*) modulo PRIME, but for a small multiple of it: at most PRIME + 4.

    No step exceeds 63 bits: *number* is below 2^61 + 2^57, *high* below 2^29, *low* below 2^31.
    """
    number_high: i64 = number >> 31
    number_low: i64 = number & _LOW
    middle: i64 = number_high * low + number_low * high
    # 2^62 is 2, and 2^61 is 1.
    total: i64 = ((number_high * high) << 1) + (middle >> 30) + ((middle & _MIDDLE) << 31) + number_low * low
    return (total & PRIME) + (total >> 61)


def reduced(number: i64) -> i64:
    """*number*, below 2^62, modulo PRIME."""
    number = (number & PRIME) + (number >> 61)
    return number - PRIME if number >= PRIME else number


def first_uri(line: str) -> Uri | None:
    """The URI of the first value of a header line of addresses, None when there is none. Raises ParseError."""
    start = line.find("<")
    if start > 0 and '"' not in line:
        end = line.find(">", start)
        if end > 0 and line.find(",", 0, start) < 0:
            return parse_uri(line[start + 1 : end])
    text = line[line.find(":") + 1 :].strip(" \t\r\n")
    values = split_commas(unfold(text) if "\n" in text else text)
    return parse_nameaddr(values[0]).uri if values else None


def _maddr(uri: Uri) -> str:
    # Parameters are taken apart only when there may be one.
    params = uri.params
    if not params or "maddr" not in params.lower():
        return ""
    return uri.param("maddr") or ""


def _is_sip(data: bytes, at: i64, end: i64) -> bool:
    """True when ``sip:`` stands at *at*."""
    return (
        at + _SCHEME < end and data[at] == _S and data[at + 1] == _I and data[at + 2] == _P and data[at + 3] == _COLON
    )


def _plain_port(data: bytes, at: i64, end: i64) -> i64:
    """The port of a URI whose host ends at *at*; NONE when that needs a closer look, or where it leads depends on more."""
    if data[at] == _SEMICOLON:
        return NONE  # a transport that has another default port, maybe
    port: i64 = 0
    at += 1
    while at < end and data[at] != _SEMICOLON:
        digit: i64 = data[at]
        if digit < _ZERO or digit > _NINE or port > _MOST_PORT:
            return NONE
        port = port * 10 + digit - _ZERO
        at += 1
    if port == 0 or port > _MOST_PORT:
        return NONE
    while at < end:  # of the parameters maddr counts: none may begin so, or oddly
        if data[at] == _SEMICOLON:
            at += 1
            if at == end or not _PLAIN_PARAM[data[at]]:
                return NONE
        at += 1
    return port


def encoded(text: str) -> bytes:
    """The bytes that came as *text*."""
    try:
        return text.encode("ascii")  # half the time of the general case
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def _port(uri: Uri) -> int:
    if uri.port:
        return uri.port
    return 5061 if uri.scheme == "sips" else default_port(uri.transport or "udp")


def _secret_number(name: bytes, secret: bytes) -> int:
    """60 bits that belong to *secret*."""
    digest = blake2b(b"fingerprints " + name, digest_size=8, key=secret[:64]).digest()
    return int.from_bytes(digest, "big") >> 4 | 1
