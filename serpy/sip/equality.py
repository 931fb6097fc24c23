"""When two URIs are the same: the comparison of RFC 3261, its one owner.

Not a relation that keys can be made of: ``sip:a@h;x=1`` and ``sip:a@h;x=2`` both equal ``sip:a@h`` and not each other.

Runs in: every process. Locks: none. RFC: 3261 §19.1.4; 5954 (IPv6); 3966 §4 (tel).
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ParseError
from serpy.sip.abnf import ascii_lower
from serpy.sip.uri import Uri, parse_uri

# "A URI omitting any component with a default value will not match a URI explicitly containing that component"
_NEVER_LEFT_OUT: Final = ("transport", "user", "maddr", "ttl", "method")
# RFC 2396 §2.2 and §2.3: what stands for itself
_UNRESERVED: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~*'()")
_AS_THEY_ARE: Final = _UNRESERVED | frozenset(b";/?:@&=+$,[]")
_HEX: Final = b"0123456789abcdefABCDEF"
_SEPARATORS: Final = "-.()"  # of telephone numbers, for the eye only


def texts_equal(left: str, right: str) -> bool:
    """True when the URIs written as *left* and *right* are the same; what is no URI equals only itself."""
    if left == right:
        return True
    try:
        return uris_equal(parse_uri(left), parse_uri(right))
    except ParseError:
        return False


def uris_equal(left: Uri, right: Uri) -> bool:
    """True when *left* and *right* are the same URI."""
    if left.text == right.text:
        return True
    if left.scheme != right.scheme:  # sip and sips, too
        return False
    if left.is_sip:
        return (
            left.port == right.port
            and _hosts_equal(left, right)
            and _escaped_equal(left.user, right.user)
            and _escaped_equal(left.password, right.password)
            and _params_equal(left, right)
            and _headers_equal(left.headers, right.headers)
        )
    return left.scheme == "tel" and _numbers_equal(left, right)


def normal_escapes(text: str) -> str:
    """*text* in which every character is escaped that has to be, and no other: equal texts for equal parts of URIs."""
    if text.isascii() and text.isalnum():
        return text
    raw = text.encode("utf-8", "surrogateescape")
    parts: list[str] = []
    at = 0
    while at < len(raw):
        byte = raw[at]
        if byte == 0x25 and at + 2 < len(raw) and raw[at + 1] in _HEX and raw[at + 2] in _HEX:
            byte = int(raw[at + 1 : at + 3], 16)
            parts.append(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}")
            at += 3
        else:
            parts.append(chr(byte) if byte in _AS_THEY_ARE else f"%{byte:02X}")
            at += 1
    return "".join(parts)


def _escaped_equal(left: str, right: str) -> bool:
    return left == right or normal_escapes(left) == normal_escapes(right)


def _hosts_equal(left: Uri, right: Uri) -> bool:
    return left.host == right.host or (left.normal_host != "" and left.normal_host == right.normal_host)


def _params_equal(left: Uri, right: Uri) -> bool:
    """Those in both are the same, case ignored; of those in one only some may be there."""
    if ascii_lower(left.params) == ascii_lower(right.params):
        return True
    ours, theirs = _pairs(left.params, ";"), _pairs(right.params, ";")
    for name in _NEVER_LEFT_OUT:
        if (name in ours) != (name in theirs):
            return False
    return all(_values_equal(name, value, theirs[name]) for name, value in ours.items() if name in theirs)


def _values_equal(name: str, left: str, right: str) -> bool:
    if ascii_lower(left) == ascii_lower(right):
        return True
    if name != "maddr":
        return False
    left_host, right_host = Uri("sip", "", "", left, 0), Uri("sip", "", "", right, 0)
    return left_host.normal_host != "" and left_host.normal_host == right_host.normal_host


def _headers_equal(left: str, right: str) -> bool:
    """All of them are in both, with the same values; an order counts only among headers of one name."""
    if left == right:
        return True
    return _all_values(left) == _all_values(right)


def _all_values(headers: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in headers.split("&"):
        name, _, value = part.partition("=")
        if name:
            found.setdefault(ascii_lower(normal_escapes(name)), []).append(normal_escapes(value))
    return found


def _pairs(text: str, separator: str) -> dict[str, str]:
    """Names in lower case and values, both with their normal escapes; the first of two alike counts."""
    found: dict[str, str] = {}
    for part in text.split(separator):
        name, _, value = part.partition("=")
        if name:
            found.setdefault(ascii_lower(normal_escapes(name)), normal_escapes(value))
    return found


def _numbers_equal(left: Uri, right: Uri) -> bool:
    """RFC 3966 §4: the digits are the same, and all parameters."""
    if _digits(left.user) != _digits(right.user):
        return False
    ours, theirs = _pairs(left.params, ";"), _pairs(right.params, ";")
    return len(ours) == len(theirs) and all(
        name in theirs and _number_param(value) == _number_param(theirs[name]) for name, value in ours.items()
    )


def _number_param(value: str) -> str:
    return _digits(value) if value[:1] == "+" else ascii_lower(value)


def _digits(number: str) -> str:
    return ascii_lower("".join([char for char in number if char not in _SEPARATORS]))
