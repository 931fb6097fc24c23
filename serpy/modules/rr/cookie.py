"""Dialog cookies: what comes back in our Route with every request of a dialog: its record, and attributes of the script.

Layout, base64url without padding: MAC(8) head record*. The head is mark and level(1) serial(4) minute(3) sealed(8): the
key of the record in the memory of calls, when the dialog began, and who called, for the case that there is no record.
A record is kind(1) length(2) name value; kind is the list number in the high nibble and _TEXT_VALUE in the low one; a
text value is length(2) and bytes, a number 8 bytes, all in network order. The MAC is keyed BLAKE2b (RFC 7693) of 64 bits
over Call-ID, tag of the caller, head and records: a cookie is worth nothing in another dialog. *Sealed* are numbers that
nobody may see, added to 60 further bits of that hash: whoever changes them hits another number by chance alone. 60 more
bits are the key of the record. Without dialogs there is no head, and the MAC is over Call-ID and records.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import binascii
import hmac
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from serpy.api import Avp, Avps
from serpy.script.patterns import Pattern
from serpy.shm.fingerprints import encoded

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

DIALOG_COOKIE: Final = 1
"""The AVP flag ``dialog_cookie``: reserved, always the lowest bit."""

MAX_COOKIE: Final = 512  # characters; two Record-Route lines with it still leave room in a UDP datagram
_MAC_SIZE: Final = 8
_MAX_RECORDS: Final = MAX_COOKIE * 3 // 4 - _MAC_SIZE - 16  # the head
_KEY_SIZE: Final = 32
_LISTS: Final = 4  # from-URI, to-URI, from-user, to-user: domain and global attributes are looked up anew
_HEAD: Final = 16
_BEGIN: Final = 8  # of the head: without what is sealed
_SEALED: Final = 8
_HEADED: Final = 1 << 60  # in a Cookie, for the mark: a number below 2^62 is no object
_BEGUN: Final = (1 << 56) - 1  # serial and minute
_PAD_AT: Final = _MAC_SIZE  # of the hash: what follows the MAC
_KEY_AT: Final = _PAD_AT + 8
_UNUSED: Final = 4  # bits of the last byte of either: both have 60
_HEAD_MARK: Final = 0xF0  # no list has this number, so no cookie without a head begins so
_MARKS: Final = [bytes((_HEAD_MARK | level,)) for level in range(16)]
NAMED: Final = 1  # level: the caller had proved who they are
GATEWAY: Final = 2  # level: it was the gateway
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
    """What a cookie of the dialog *call_id* carries. ``lists`` are attributes by list number, all of them flagged.

    *tag* is the caller's, "" in a cookie without a head; *caller* 60 bits about them. *key* is that of the record of the call.
    *head* is what the head begins with, as one number; 0 when there is none.
    """

    def __init__(self, call_id: str, tag: str = "", head: int = 0, caller: int = 0, key: int = 0) -> None:
        self.call_id: Final = call_id
        self.tag: Final = tag
        self.head: Final = head
        self.caller: Final = caller
        self.key = key
        self.lists: dict[int, dict[str, list[Avp]]] | None = None

    @property
    def level(self) -> int:
        """NAMED, GATEWAY."""
        return self.head >> 56 & 15

    @property
    def serial(self) -> int:
        """Tells the records of one Call-ID and tag apart."""
        return self.head >> 24 & 0xFFFFFFFF

    @property
    def minute(self) -> int:
        """When it was made, in minutes since 2020."""
        return self.head & 0xFFFFFF

    def push(self, list_id: int, name: str, value: int | str) -> None:
        """One more value; it is the newest of its *name*."""
        lists = self.lists
        if lists is None:
            lists = self.lists = {}
        attrs = lists.get(list_id)
        if attrs is None:
            attrs = lists[list_id] = {}
        older = attrs.get(name)
        avp = Avp(value, DIALOG_COOKIE)
        attrs[name] = [avp] if older is None else [avp, *older]

    def restore(self, avps: Avps, *, swap: bool) -> None:
        """Add the attributes to *avps*; *swap*: the request travels against the direction of the dialog's first."""
        if self.lists is None:
            return
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
        # The block with the key is worked on once: the byte after it makes the hash do so.
        self._keyed: Final = blake2b(b"\0", digest_size=_MAC_SIZE + 16, key=secret)
        self._accepted: Final = accepted
        self._names: Final[dict[str, bool]] = {}  # what _accepted says to a name of at most MAX_COOKIE bytes
        self._known: Final[dict[str, Cookie]] = {}

    def make(self, avps: Avps, call_id: str) -> str:
        """The cookie for all flagged attributes, "" when there is none. Attributes that do not fit are left out."""
        cookie = Cookie(call_id)
        records = self._records(avps, cookie)
        return self._written(_mac(records, call_id, self.secret) + records, cookie) if records else ""

    def make_dialog(self, avps: Avps, cookie: Cookie) -> str:
        """The text of *cookie*, of a new dialog, which gets its key."""
        begin = _MARKS[cookie.level] + (cookie.head & _BEGUN).to_bytes(7, "big")
        records = self._records(avps, cookie)
        digest = self._digest(begin + records, cookie.call_id, cookie.tag)
        cookie.key = _sixty(digest, _KEY_AT) or 1
        sealed = (cookie.caller ^ _sixty(digest, _PAD_AT)).to_bytes(_SEALED, "big")
        return self._written(digest[:_MAC_SIZE] + begin + sealed + records, cookie)

    def _written(self, data: bytes, cookie: Cookie) -> str:
        line = binascii.b2a_base64(data).translate(_TO_URL_SAFE)
        line = line[:-1] if len(data) % 3 == 0 else line.rstrip(b"=\n")
        text = line.decode("ascii")
        self._remember(text, cookie)
        return text

    def _records(self, avps: Avps, cookie: Cookie) -> bytes:
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
        return records

    def open(self, text: str, call_id: str, tag: str = "", other_tag: str = "") -> Cookie | None:
        """What *text* carries; None when it was not made by us for this dialog. With a head, it was made for a caller with
        one of the two tags.
        """
        known = self._known.get(text)
        if known is not None and known.call_id == call_id:
            if not known.head or known.tag in (tag, other_tag):
                return known
            return None
        if not text or len(text) > MAX_COOKIE or not text.isascii():
            return None
        raw = text.encode("ascii").translate(_FROM_URL_SAFE)
        try:
            data = binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)
        except binascii.Error:
            return None
        cookie = self._verified(data, call_id, tag, other_tag)
        if cookie is not None:
            self._parse(data[_MAC_SIZE + _HEAD if cookie.head else _MAC_SIZE :], cookie)
            self._remember(text, cookie)
        return cookie

    def _verified(self, data: bytes, call_id: str, tag: str, other_tag: str) -> Cookie | None:
        """The cookie that *data* says it is, still empty; None when its MAC is not right."""
        mac = data[:_MAC_SIZE]
        body = data[_MAC_SIZE:]
        if not body:
            return None
        if body[0] < _HEAD_MARK:
            return Cookie(call_id) if hmac.compare_digest(mac, _mac(body, call_id, self.secret)) else None
        if len(body) < _HEAD:
            return None
        begin = body[:_BEGIN]
        for caller in (tag, other_tag):
            if caller:
                digest = self._digest(begin + body[_HEAD:], call_id, caller)
                if hmac.compare_digest(mac, digest[:_MAC_SIZE]):
                    sealed = int.from_bytes(body[_BEGIN:_HEAD], "big")
                    head = int.from_bytes(begin, "big") & (_HEADED - 1) | _HEADED
                    return Cookie(call_id, caller, head, sealed ^ _sixty(digest, _PAD_AT), _sixty(digest, _KEY_AT) or 1)
        return None

    def _digest(self, body: bytes, call_id: str, tag: str) -> bytes:
        """Of a cookie with a head: the MAC, the pad that *sealed* is added to, the key of the record."""
        digest = self._keyed.copy()
        digest.update(encoded(f"{call_id}\n{tag}\n") + body)
        return digest.digest()

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


def headed(level: int, serial: int, minute: int) -> int:
    """What a Cookie keeps of the head of a dialog's."""
    return _HEADED | level << 56 | serial << 24 | minute


def _sixty(data: bytes, at: i64) -> int:
    """60 bits of the eight bytes from *at*."""
    last: i64 = at + 7
    number: i64 = 0
    while at < last:
        number = number << 8 | data[at]
        at += 1
    return number << _UNUSED | data[last] >> _UNUSED


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
