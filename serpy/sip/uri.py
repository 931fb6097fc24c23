"""SIP, SIPS and TEL URIs; every other scheme stays opaque text.

Parts are kept as written: escapes are not resolved, IPv6 references keep their brackets, hosts their case. Uri values
are immutable and shared through a bounded cache.

Runs in: every process. Locks: none. RFC: 3261 §19.1, §25.1; 3966.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import ParseError
from serpy.sip.abnf import IPV6, SCHEME, TEL, URI_TAIL, USERINFO, ascii_lower
from serpy.sip.host import normal_host
from serpy.sip.limits import PORT_MAX, URI_CACHE, URI_MAX
from serpy.sip.plain import host_end, is_plain_params, user_end

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object


class Uri:
    """One URI. *scheme* is lower case; *user*, *password*, *host*, *params* and *headers* are raw, "" when absent.

    *port* is 0 when absent. *params* has no leading ``;`` and *headers* no leading ``?``. Of a tel URI *user* is the
    number and *host* is empty; of an unknown scheme *user* is everything after the colon.
    """

    def __init__(
        self, scheme: str, user: str, password: str, host: str, port: int, params: str = "", headers: str = "",
        text: str = "",
    ) -> None:  # fmt: skip
        self.scheme: Final = scheme
        self.user: Final = user
        self.password: Final = password
        self.host: Final = host
        self.port: Final = port
        self.params: Final = params
        self.headers: Final = headers
        self._text = text
        self._param_map: dict[str, str] | None = None
        self._normal_host: str | None = None

    @property
    def is_sip(self) -> bool:
        """True for sip and sips."""
        return self.scheme == "sip" or self.scheme == "sips"  # noqa: PLR1714 - two compares beat a set

    @property
    def host_lower(self) -> str:
        """The host in lower case, without the brackets of an IPv6 reference."""
        host = ascii_lower(self.host)
        return host[1:-1] if host[:1] == "[" else host

    @property
    def normal_host(self) -> str:
        """The host in its normal form (``sip/host.py``), "" for what is no host."""
        found = self._normal_host
        if found is None:
            found = self._normal_host = normal_host(self.host)
        return found

    def set_normal_host(self, host: str) -> None:
        """What ``normal_host`` is, to whom has found out anyway."""
        self._normal_host = host

    @property
    def param_map(self) -> dict[str, str]:
        """The URI parameters by lower-case name, "" for bare ones; the first of two alike counts. Do not change."""
        found = self._param_map
        if found is None:
            found = self._param_map = _parse_pairs(self.params, ";")
        return found

    @property
    def transport(self) -> str:
        """The transport parameter in lower case, "" when absent."""
        return ascii_lower(self.param_map.get("transport", "")) if self.params else ""

    @property
    def text(self) -> str:
        """The URI as written, or rendered when it was made from parts."""
        text = self._text
        if not text:
            text = self._text = _render(self)
        return text

    def param(self, name: str) -> str | None:
        """The URI parameter *name* (lower case) as written; "" for a bare one, None when absent."""
        if not self.params:
            return None
        return self.param_map.get(name)

    def header(self, name: str) -> str | None:
        """The URI header *name* (lower case), still escaped; None when absent."""
        if not self.headers:
            return None
        return _parse_pairs(self.headers, "&").get(name)

    def replaced(
        self, *, scheme: str | None = None, user: str | None = None, password: str | None = None,
        host: str | None = None, port: int | None = None, params: str | None = None, headers: str | None = None,
    ) -> Uri:  # fmt: skip
        """A copy with the given parts changed; "" (port: 0) removes one. Removing the user removes the password."""
        new_user = self.user if user is None else user
        new_password = self.password if password is None else password
        return Uri(
            self.scheme if scheme is None else scheme,
            new_user,
            new_password if new_user else "",
            self.host if host is None else host,
            self.port if port is None else port,
            self.params if params is None else params,
            self.headers if headers is None else headers,
        )

    def without_param(self, name: str) -> Uri:
        """A copy without the URI parameter *name* (lower case)."""
        if self.param(name) is None:
            return self
        kept = [part for part in self.params.split(";") if ascii_lower(part.partition("=")[0]) != name]
        return self.replaced(params=";".join(kept))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Uri({self.text!r})"


def _render(uri: Uri) -> str:
    parts = [uri.scheme, ":", uri.user]
    if uri.host:
        if uri.user:
            if uri.password:
                parts.append(":")
                parts.append(uri.password)
            parts.append("@")
        parts.append(uri.host)
        if uri.port:
            parts.append(f":{uri.port}")
    if uri.params:
        parts.append(";" + uri.params)
    if uri.headers:
        parts.append("?" + uri.headers)
    return "".join(parts)


def _parse_pairs(text: str, separator: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if not text:
        return found
    for part in text.split(separator):
        equals = part.find("=")
        name = part if equals < 0 else part[:equals]
        if not _has_small_letters_only(name):
            name = ascii_lower(name)
        if name and name not in found:
            found[name] = "" if equals < 0 else part[equals + 1 :]
    return found


def _has_small_letters_only(name: str) -> bool:
    end: i64 = len(name)
    at: i64 = 0
    while at < end:
        letter: i64 = ord(name[at])
        if letter < _SMALL_A or letter > _SMALL_Z:
            return False
        at += 1
    return True


_SMALL_A: Final = 0x61
_SMALL_Z: Final = 0x7A


_cache: Final[dict[str, Uri]] = {}
_PLAIN_MAX: Final = 32  # characters
_PORTS_KEPT: Final = 4096
_ports: Final[dict[str, int]] = {}


def parse_uri(text: str) -> Uri:
    """The URI written as *text*. Any scheme is accepted; sip, sips and tel are checked. Raises ParseError."""
    uri = _cache.get(text)
    if uri is None:
        uri = _plain(text)
        if uri is None:
            uri = _parse(text)
        if len(_cache) >= URI_CACHE:
            _cache.clear()
        _cache[text] = uri
    return uri


_PLAIN_URI: Final = 256  # characters
_START: Final = 4  # behind "sip:"
_PORT_DIGITS: Final = 5
_AT: Final = 0x40
_COLON: Final = 0x3A
_SEMICOLON: Final = 0x3B
_ZERO: Final = 0x30


def _plain(text: str) -> Uri | None:
    """What ``sip:user@host:port;name=value`` says in ordinary characters; None for anything else, well formed or not."""
    if len(text) > _PLAIN_URI or not text.isascii() or not text.startswith("sip:"):
        return None
    data = text.encode("ascii")
    end: i64 = len(data)
    start: i64 = _START
    at: i64 = user_end(data, start, end)
    user = ""
    if at < end and data[at] == _AT:
        if at == start:
            return None
        user = text[start:at]
        start = at + 1
    at = host_end(data, start, end)
    if at <= 0:
        return None
    host = text[start:at]
    port: i64 = 0
    if at < end and data[at] == _COLON:
        at += 1
        most: i64 = at + _PORT_DIGITS
        while at < end and at < most and _ZERO <= data[at] <= _ZERO + 9:
            port = port * 10 + data[at] - _ZERO
            at += 1
        if port == 0 or port > PORT_MAX:
            return None
    params = ""
    if at < end:
        if data[at] != _SEMICOLON or not is_plain_params(data, at, end):
            return None
        params = text[at + 1 :]
    uri = Uri("sip", user, "", host, port, params, "", text)
    uri.set_normal_host(host.lower())
    return uri


def _parse(text: str) -> Uri:
    if len(text) > URI_MAX:
        raise ParseError("URI too long", value=text, status=414)
    colon = text.find(":")
    scheme = text[:colon] if colon > 0 else ""
    if scheme != "sip":
        if SCHEME.fullmatch(scheme) is None:
            raise ParseError("URI without a scheme", value=text)
        scheme = scheme.lower()
    if scheme == "sip" or scheme == "sips":  # noqa: PLR1714 - two compares beat a set
        return _parse_sip(scheme, text, colon + 1)
    if scheme == "tel":
        return _parse_tel(text, colon + 1)
    rest = text[colon + 1 :]
    if not rest or not _is_printable(rest):
        raise ParseError("bad URI", value=text)
    return Uri(scheme, rest, "", "", 0, "", "", text)


def _is_printable(text: str) -> bool:
    return not any(char <= " " or char in '<>"\x7f' for char in text)


def _parse_sip(scheme: str, text: str, start: int) -> Uri:
    user = ""
    password = ""
    at = text.find("@", start)
    if at >= 0:
        userinfo = text[start:at]
        if not (userinfo.isascii() and userinfo.isalnum()) and USERINFO.fullmatch(userinfo) is None:
            raise ParseError("bad user part in URI", value=text)
        user, _, password = userinfo.partition(":")
        if not user:
            raise ParseError("empty user part in URI", value=text)
        start = at + 1
    rest = text[start:]
    headers = ""
    params = ""
    if "?" in rest:
        rest, _, headers = rest.partition("?")
    if ";" in rest:
        rest, _, params = rest.partition(";")
    if params and not _is_plain(params) and URI_TAIL.fullmatch(params) is None:
        raise ParseError("bad parameter in URI", value=text)
    if headers and URI_TAIL.fullmatch(headers) is None:
        raise ParseError("bad parameter in URI", value=text)
    port = 0
    host = rest
    if rest[:1] == "[":
        bracket = rest.find("]")
        if bracket < 0 or IPV6.fullmatch(rest[1:bracket]) is None:
            raise ParseError("bad IPv6 reference in URI", value=text)
        host = rest[: bracket + 1]
        rest = rest[bracket + 1 :]
        if rest:
            if rest[0] != ":":
                raise ParseError("bad host in URI", value=text)
            port = parse_port(rest[1:], text)
    else:
        colon = rest.find(":")
        if colon >= 0:
            host = rest[:colon]
            port = parse_port(rest[colon + 1 :], text)
    if not normal_host(host):
        raise ParseError("bad host in URI", value=text)
    return Uri(scheme, user, password, host, port, params, headers, text)


def _is_plain(params: str) -> bool:
    """True for few parameters of letters and digits: ``transport=udp``, which needs no expression."""
    return len(params) <= _PLAIN_MAX and params.isascii() and params.replace("=", "").replace(";", "").isalnum()


def parse_port(digits: str, text: str) -> int:
    """The port written as *digits*, 1..65535. Raises ParseError naming *text*."""
    port = _ports.get(digits)
    if port is None:
        if not digits.isascii() or not digits.isdigit() or len(digits) > 5:
            raise ParseError("bad port", value=text)
        port = int(digits)
        if not 0 < port <= PORT_MAX:
            raise ParseError("bad port", value=text)
        if len(_ports) >= _PORTS_KEPT:
            _ports.clear()
        _ports[digits] = port
    return port


def _parse_tel(text: str, start: int) -> Uri:
    number, _, params = text[start:].partition(";")
    if TEL.fullmatch(number) is None or (params and URI_TAIL.fullmatch(params) is None):
        raise ParseError("bad telephone number", value=text)
    return Uri("tel", number, "", "", 0, params, "", text)


def telephone_number(user: str) -> str:
    """The number that *user* writes, of a tel URI or of a SIP URI with user=phone, without visual separators; "" for none.

    Parameters behind the number are left out; with a phone-context it is a number of elsewhere (RFC 3966 §5.1.5).
    """
    number, _, params = user.partition(";")
    if "phone-context" in ascii_lower(params) or TEL.fullmatch(number) is None:
        return ""
    for separator in "-.()":
        number = number.replace(separator, "")
    return number


def unescape(text: str) -> str:
    """*text* with its %HH escapes resolved, as UTF-8 with undecodable bytes kept as surrogates.

    A % without two hexadecimal digits stays.
    """
    if "%" not in text:
        return text
    parts = text.split("%")
    out = bytearray(parts[0].encode("utf-8", "surrogateescape"))
    for part in parts[1:]:
        digits = part[:2]
        if len(digits) == 2 and digits.isascii() and _is_hex(digits[0]) and _is_hex(digits[1]):
            out.append(int(digits, 16))
            out += part[2:].encode("utf-8", "surrogateescape")
        else:
            out += b"%" + part.encode("utf-8", "surrogateescape")
    return out.decode("utf-8", "surrogateescape")


def escape_user(text: str) -> str:
    """*text* as the user part of a URI: what may not stand there, "@" above all, becomes %HH; escapes stay as they are."""
    if text.isascii() and text.isalnum():
        return text
    parts: list[str] = []
    for at, char in enumerate(text):
        if char in _USER_CHARACTERS or (char == "%" and _is_escape(text, at)):
            parts.append(char)
        else:
            parts.extend([f"%{byte:02X}" for byte in char.encode("utf-8", "surrogateescape")])
    return "".join(parts)


def request_uri_of(text: str) -> str:
    """The URI *text*, of a contact, as it stands in a request line: without headers and method (RFC 3261 §19.1.1).

    What is no URI stays as it is.
    """
    if "?" not in text and "method" not in ascii_lower(text):
        return text
    try:
        uri = parse_uri(text)
    except ParseError:
        return text
    if not uri.is_sip:
        return text
    if uri.headers:
        uri = uri.replaced(headers="")
    return uri.without_param("method").text


def _is_escape(text: str, at: int) -> bool:
    return len(text) > at + 2 and _is_hex(text[at + 1]) and _is_hex(text[at + 2])


# RFC 3261 §25.1: unreserved and user-unreserved
_USER_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~*'()&=+$,;?/")


def _is_hex(char: str) -> bool:
    return char in "0123456789abcdefABCDEF"
