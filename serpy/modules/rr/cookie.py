"""Dialog cookies: attributes that travel in the Record-Route URI and come back with every request of the dialog.

Layout, base64url without padding: MAC(8) record*, where record = kind(1) length(2) name value; kind is the list number
in the high nibble and _TEXT_VALUE in the low one; a text value is length(2) and bytes, a number 8 bytes, all in network
order. The MAC is keyed BLAKE2b (RFC 7693, six times faster here than HMAC-SHA256) of 64 bits over the Call-ID and the
records: a cookie is worth nothing in another dialog. Nothing is encrypted.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import binascii
import hmac
from hashlib import blake2b
from typing import Final

from serpy.api import Avp, Avps
from serpy.script.patterns import Pattern

DIALOG_COOKIE: Final = 1
"""The AVP flag ``dialog_cookie``: reserved, always the lowest bit."""

MAX_COOKIE: Final = 512  # characters; two Record-Route lines with it still leave room in a UDP datagram
_MAC_SIZE: Final = 8
_MAX_RECORDS: Final = MAX_COOKIE * 3 // 4 - _MAC_SIZE
_KEY_SIZE: Final = 32
_LISTS: Final = 4  # from-URI, to-URI, from-user, to-user: domain and global attributes are looked up anew
_TEXT_NAME: Final = 1
_TEXT_VALUE: Final = 2
_INT64: Final = 1 << 63
_TO_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")

# The pieces of a record that repeat: its kind by list number, and each length that fits as two bytes.
_TEXT_KINDS: Final = [bytes((number << 4 | _TEXT_NAME | _TEXT_VALUE,)) for number in range(_LISTS)]
_NUMBER_KINDS: Final = [bytes((number << 4 | _TEXT_NAME,)) for number in range(_LISTS)]
_LENGTHS: Final = [length.to_bytes(2, "big") for length in range(MAX_COOKIE)]

# Cookies this process has made or verified: a dialog's requests all bring the same one.
_KNOWN_MAX: Final = 8192
_CALL_ID_MAX: Final = 256  # characters; of a longer Call-ID nothing is kept: with the number above it bounds the memory
_NAMES_MAX: Final = 1024  # attribute names the filter has been asked about; a script has some dozens


def mac_key(secret: bytes) -> bytes:
    """The key made of a secret of any length."""
    return blake2b(secret, digest_size=_KEY_SIZE).digest()


class Cookie:
    """What a cookie of the dialog *call_id* carries. ``lists`` are attributes by list number, all of them flagged."""

    def __init__(self, call_id: str) -> None:
        self.call_id: Final = call_id
        self.lists: Final[dict[int, dict[str, list[Avp]]]] = {}

    def push(self, list_id: int, name: str, value: int | str) -> None:
        """One more value; it is the newest of its *name*."""
        attrs = self.lists.get(list_id)
        if attrs is None:
            attrs = self.lists[list_id] = {}
        older = attrs.get(name)
        avp = Avp(value, DIALOG_COOKIE)
        attrs[name] = [avp] if older is None else [avp, *older]

    def restore(self, avps: Avps, *, swap: bool) -> None:
        """Add the attributes to *avps*; *swap*: the request travels against the direction of the dialog's first."""
        for number, attrs in self.lists.items():
            list_id = number ^ 1 if swap else number
            if not avps.attrs(list_id):
                avps.replace_list(list_id, attrs)  # shared until somebody writes
                continue
            for name, values in attrs.items():
                for avp in reversed(values):
                    avps.add(list_id, name, avp.value, DIALOG_COOKIE)


class DialogCookies:
    """Makes and opens cookies with the key *secret*. Attributes whose names *accepted* does not match stay inside."""

    def __init__(self, secret: bytes, accepted: Pattern | None = None) -> None:
        self.secret: Final = secret
        self._accepted: Final = accepted
        self._names: Final[dict[str, bool]] = {}  # what _accepted says to a name of at most MAX_COOKIE bytes
        self._known: Final[dict[str, Cookie]] = {}

    def make(self, avps: Avps, call_id: str) -> str:
        """The cookie for all flagged attributes, "" when there is none. Attributes that do not fit are left out."""
        cookie = Cookie(call_id)
        records = b""
        for list_id in range(_LISTS):
            attrs = avps.attrs(list_id)
            if not attrs:
                continue
            for name, values in attrs.items():
                # Oldest first, so that adding them again restores the order.
                for avp in reversed(values):
                    if avp.flags & DIALOG_COOKIE:
                        record = _record(list_id, name, avp.value)
                        if record and len(records) + len(record) <= _MAX_RECORDS:
                            records += record
                            self._take(cookie, list_id, name, avp.value)
        if not records:
            return ""
        data = binascii.b2a_base64(_mac(records, call_id, self.secret) + records)
        text = data.translate(_TO_URL_SAFE).rstrip(b"=\n").decode("ascii")
        self._remember(text, cookie)
        return text

    def open(self, text: str, call_id: str) -> Cookie | None:
        """What *text* carries; None when it was not made by us for this dialog."""
        known = self._known.get(text)
        if known is not None and known.call_id == call_id:
            return known
        if not text or len(text) > MAX_COOKIE or not text.isascii():
            return None
        raw = text.encode("ascii").translate(_FROM_URL_SAFE)
        try:
            data = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
        except binascii.Error:
            return None
        records = data[_MAC_SIZE:]
        if not records or not hmac.compare_digest(data[:_MAC_SIZE], _mac(records, call_id, self.secret)):
            return None
        cookie = Cookie(call_id)
        self._parse(records, cookie)
        self._remember(text, cookie)
        return cookie

    def _remember(self, text: str, cookie: Cookie) -> None:
        if len(cookie.call_id) > _CALL_ID_MAX:
            return
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[text] = cookie

    def _take(self, cookie: Cookie, list_id: int, name: str, value: int | str) -> None:
        if self._accepted is None or self._accepts(self._accepted, name):
            cookie.push(list_id, name, value if isinstance(value, str) else _clamped(value))

    def _accepts(self, accepted: Pattern, name: str) -> bool:
        known = self._names.get(name)
        if known is None:
            known = accepted.search(name) is not None
            if len(self._names) >= _NAMES_MAX:
                self._names.clear()
            self._names[name] = known
        return known

    def _parse(self, records: bytes, cookie: Cookie) -> None:
        """Take apart what the MAC vouches for; stops at the first record that is cut short."""
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
            self._take(cookie, kind >> 4, name, value)


def _record(list_id: int, name: str, value: int | str) -> bytes:
    """One record, b"" for one that does not fit into any cookie."""
    key = name.encode("utf-8", "surrogateescape")
    if len(key) >= MAX_COOKIE:
        return b""
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogateescape")
        if len(text) >= MAX_COOKIE:
            return b""
        return _TEXT_KINDS[list_id] + _LENGTHS[len(key)] + key + _LENGTHS[len(text)] + text
    return _NUMBER_KINDS[list_id] + _LENGTHS[len(key)] + key + _clamped(value).to_bytes(8, "big", signed=True)


def _clamped(number: int) -> int:
    return max(-_INT64, min(number, _INT64 - 1))


def _mac(records: bytes, call_id: str, secret: bytes) -> bytes:
    call = call_id.encode("utf-8", "surrogateescape")
    return blake2b(call + b"\n" + records, digest_size=_MAC_SIZE, key=secret).digest()
