"""Dialog cookies: attributes that travel in the Record-Route URI and come back with every request of the dialog.

Layout, base64url without padding: MAC(8) record*, where record = kind(1) length(2) name value; kind is the list number
in the high nibble and _TEXT_VALUE in the low one; a text value is length(2) and bytes, a number 8 bytes, all in network
order. The MAC is keyed BLAKE2b (RFC 7693, six times faster here than HMAC-SHA256) of 64 bits over the Call-ID and the
records: a cookie is worth nothing in another dialog. Nothing is encrypted.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from typing import Final

from serpy.api import Avp, Avps, Context

DIALOG_COOKIE: Final = 1
"""The AVP flag ``dialog_cookie``: reserved, always the lowest bit."""

MAX_COOKIE: Final = 512  # characters; two Record-Route lines with it still leave room in a UDP datagram
_MAC_SIZE: Final = 8
_KEY_SIZE: Final = 32
_LISTS: Final = 4  # from-URI, to-URI, from-user, to-user: domain and global attributes are looked up anew
_TEXT_NAME: Final = 1
_TEXT_VALUE: Final = 2
_INT64: Final = 1 << 63


class CookieAvp:
    """One attribute out of a cookie."""

    def __init__(self, list_id: int, name: str, value: int | str) -> None:
        self.list_id: Final = list_id
        self.name: Final = name
        self.value: Final = value


# Cookies this process has made or verified, with what is in them: a dialog's requests all bring the same one.
_KNOWN_MAX: Final = 8192
_known: Final[dict[tuple[str, str, bytes], list[CookieAvp]]] = {}


def mac_key(secret: bytes) -> bytes:
    """The key made of a secret of any length."""
    return hashlib.blake2b(secret, digest_size=_KEY_SIZE).digest()


def encode(avps: Avps, call_id: str, secret: bytes) -> str:
    """The cookie for all flagged attributes, "" when there is none. Attributes that do not fit are left out."""
    records = b""
    for list_id in range(_LISTS):
        attrs = avps.attrs(list_id)
        for name in attrs:
            # Oldest first, so that adding them again restores the order.
            for avp in reversed(attrs[name]):
                if avp.flags & DIALOG_COOKIE:
                    record = _record(list_id, name, avp)
                    if (len(records) + len(record) + _MAC_SIZE) * 4 <= MAX_COOKIE * 3:
                        records += record
    if not records:
        return ""
    data = _mac(records, call_id, secret) + records
    text = binascii.b2a_base64(data, newline=False).translate(_TO_URL_SAFE).rstrip(b"=").decode("ascii")
    _remember((text, call_id, secret), _parse_records(records))
    return text


_TO_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")


def _record(list_id: int, name: str, avp: Avp) -> bytes:
    value = avp.value
    key = name.encode("utf-8", "surrogateescape")
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape")
        kind = list_id << 4 | _TEXT_NAME | _TEXT_VALUE
        return b"%c%b%b%b%b" % (kind, len(key).to_bytes(2, "big"), key, len(text).to_bytes(2, "big"), text)
    number = max(-_INT64, min(value, _INT64 - 1))
    return b"%c%b%b%b" % (
        list_id << 4 | _TEXT_NAME,
        len(key).to_bytes(2, "big"),
        key,
        number.to_bytes(8, "big", signed=True),
    )


def _mac(records: bytes, call_id: str, secret: bytes) -> bytes:
    call = call_id.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(call + b"\n" + records, digest_size=_MAC_SIZE, key=secret).digest()


def decode(text: str, call_id: str, secret: bytes) -> list[CookieAvp]:
    """The attributes of *text*; empty when it was not made by us for this dialog."""
    key = (text, call_id, secret)
    known = _known.get(key)
    if known is not None:
        return known
    if not text or len(text) > MAX_COOKIE or not text.isascii():
        return []
    raw = text.encode("ascii").translate(_FROM_URL_SAFE)
    try:
        data = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
    except binascii.Error:
        return []
    records = data[_MAC_SIZE:]
    if not records or not hmac.compare_digest(data[:_MAC_SIZE], _mac(records, call_id, secret)):
        return []
    found = _parse_records(records)
    _remember(key, found)
    return found


def _remember(key: tuple[str, str, bytes], found: list[CookieAvp]) -> None:
    if len(_known) >= _KNOWN_MAX:
        del _known[next(iter(_known))]
    _known[key] = found


def _parse_records(records: bytes) -> list[CookieAvp]:
    """Split what the MAC vouches for; stops at the first record that is cut short."""
    found: list[CookieAvp] = []
    place = 0
    while place + 3 <= len(records):
        kind = records[place]
        start = place + 3
        end = start + int.from_bytes(records[place + 1 : start], "big")
        name = records[start:end].decode("utf-8", "surrogateescape")
        if kind & _TEXT_VALUE:
            start = end + 2
            place = start + int.from_bytes(records[end:start], "big")
            value: int | str = records[start:place].decode("utf-8", "surrogateescape")
        else:
            place = end + 8
            value = int.from_bytes(records[end:place], "big", signed=True)
        if place > len(records) or kind >> 4 >= _LISTS:
            break
        found.append(CookieAvp(kind >> 4, name, value))
    return found


def restore(ctx: Context, found: list[CookieAvp], *, swap: bool) -> None:
    """Add the attributes, flagged again; *swap*: the request travels against the direction of the dialog's first."""
    for avp in found:
        list_id = avp.list_id ^ 1 if swap else avp.list_id
        ctx.avps.add(list_id, avp.name, avp.value, DIALOG_COOKIE)
