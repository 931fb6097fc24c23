"""Digest authentication: challenges, nonces, and the check of a response against an HA1.

Where HA1 values come from is the business of the CredentialsService (``auth_db``). A nonce is signed, not stored:
``expires | since [| id] | MAC [| MAC over parts of the request]`` in base64; it carries an id only when its uses are
counted (``nonce_count``, ``one_time_nonce``), in shared memory. An unknown user costs what a wrong password costs and
gets the same answer; a nonce that is not ours is refused before anybody is asked. Deviations from SER: keyed
BLAKE2s instead of MD5 over the secret; ``$digest_challenge`` is replaced, never doubled; SHA-256 (RFC 8760) when
``algorithm`` names it.

Runs in: udp receiver. Locks: a stripe of the nonce counts. RFC: 3261 §22; 7616; 8760; 2069 for clients without qop.
"""

from __future__ import annotations

import binascii
import hmac
import logging
import os
import struct
from hashlib import blake2s
from typing import Final

from serpy.api import (
    CREDENTIALS,
    DEFAULT_DID,
    FALSE,
    TRUE,
    Arg,
    Authenticated,
    AvpName,
    BackendError,
    ConfigError,
    Context,
    CredentialsService,
    Exports,
    Function,
    Param,
    ParseError,
    Routes,
    Server,
    UsageError,
)
from serpy.context.avps import FROM_USER, TRACK_FROM, TRACK_TO, parse_avp_name
from serpy.shm.lock import StripedLock
from serpy.sip.authorization import Credentials, parse_credentials
from serpy.sip.digest import MD5, SHA256, ha1_session, known_algorithm, response, same
from serpy.sip.message import Request

log = logging.getLogger(__name__)

ERROR: Final = -2  # database, or no way to build a challenge
MALFORMED: Final = -3  # "Bad Request"

VALID: Final = 0
STALE: Final = 1
INVALID: Final = 2

CHECK_URI: Final = 1
CHECK_CALL_ID: Final = 2
CHECK_FROM_TAG: Final = 4
CHECK_SOURCE: Final = 8

NONCE_STRIPES: Final = 64  # locks of the nonce counts
_MAC: Final = 16  # bytes of each MAC
_MAX_NONCE: Final = 96  # characters; the longest of ours has 60
_MAX_OWN: Final = 512  # a nonce without an id is made once a second and lives for five minutes
_WORD: Final = 0xFFFFFFFF
_UNKNOWN: Final[dict[str, list[tuple[str, list[tuple[str, str]]]]]] = {
    MD5: [("0" * 32, [])],
    SHA256: [("0" * 64, [])],
}
_HEX: Final = frozenset("0123456789abcdefABCDEF")


class NonceCounts:
    """The last nonce count seen for each outstanding nonce, shared by all processes.

    One 8-byte word per nonce: its id in the high half, the count in the low half. Every process hands out ids of its own
    part of the table and checks those of all, so a nonce may be used with another receiver than the one that made it.
    An id whose word was overwritten by a newer nonce is stale. Looking at a word and writing it is one step, under the
    lock of its stripe: of two receivers that get the same response at the same time one accepts it.
    """

    def __init__(self, words: memoryview, slots: int, lock: StripedLock) -> None:
        self._words: Final = words
        self._slots: Final = slots
        self._lock: Final = lock
        self._next = int.from_bytes(os.urandom(3), "big")
        self._slot = 0

    def attach(self, slot: int) -> None:
        """Hand out ids of *slot* from now on. A random start keeps a respawned child off the ids still outstanding."""
        self._slot = max(slot, 0)
        self._next = int.from_bytes(os.urandom(3), "big")

    def new_id(self) -> int:
        """A fresh id that has not been used yet."""
        self._next += 1
        number = (self._next * self._slots + self._slot) & _WORD
        at = number % len(self._words)
        stripe = at % NONCE_STRIPES
        self._lock.acquire(stripe)
        self._words[at] = number << 32
        self._lock.release(stripe)
        return number

    def use(self, number: int, count: int) -> bool:
        """Record use *count* (from 1) of nonce *number*; False when it was seen before or the nonce is forgotten."""
        at = number % len(self._words)
        stripe = at % NONCE_STRIPES
        self._lock.acquire(stripe)
        word = int(self._words[at])
        fresh = word >> 32 == number and count > word & _WORD
        if fresh:
            self._words[at] = number << 32 | count
        self._lock.release(stripe)
        return fresh


class Auth:
    """The module: parameters, nonces, script functions."""

    def __init__(self) -> None:
        self.secret = ""
        self.nonce_expire = 300
        self.nonce_auth_max_drift = 3
        self.qop = "auth"
        self.algorithm = ""
        self.auth_checks_register = 0
        self.auth_checks_no_dlg = 0
        self.auth_checks_in_dlg = 0
        self.nonce_count = 0
        self.one_time_nonce = 0
        self.nonce_entries = 65536
        self.challenge_attr = "$digest_challenge"
        self.www_challenge_header = "WWW-Authenticate"
        self.proxy_challenge_header = "Proxy-Authenticate"
        self._challenge: AvpName = parse_avp_name("$digest_challenge")
        self._algorithms: list[str] = []  # as offered, "" = MD5 without saying so
        self._accepted: set[str] = {MD5}
        self._nonce_key = b""
        self._checks_key = b""
        self._started = 0
        self._counts: NonceCounts | None = None
        self._shared_nonce = ""
        self._shared_since = -1  # the second it was made in
        self._own_nonces: Final[dict[str, tuple[int, int]]] = {}  # nonces whose MAC was right: made when, valid until
        self._service: CredentialsService | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    def init(self, server: Server) -> None:
        """Check the parameters, derive the keys, and allocate the nonce counts when they are wanted."""
        secret = self.secret.encode("utf-8", "surrogateescape") or os.urandom(32)
        self._nonce_key = hmac.digest(secret, b"serpy nonce", "sha256")
        self._checks_key = hmac.digest(secret, b"serpy nonce checks", "sha256")
        self._started = int(server.started_wall)
        try:
            self._challenge = parse_avp_name(self.challenge_attr)
        except ValueError as exc:
            raise ConfigError(f"auth: challenge_attr: {exc}") from None
        names = [name.strip(" ") for name in self.algorithm.split(",")]
        if self.algorithm and any(name not in ("MD5", "SHA-256") for name in names):
            raise ConfigError(f"auth: unknown algorithm {self.algorithm!r}", hint='use "", "MD5", "SHA-256,MD5"')
        self._algorithms = names
        self._accepted = {known_algorithm(name) for name in names}
        if any(qop.strip(" ") not in ("auth", "auth-int") for qop in self.qop.split(",") if self.qop):
            raise ConfigError(f"auth: unknown qop {self.qop!r}", hint='use "", "auth", "auth-int" or "auth,auth-int"')
        if self.nonce_count or self.one_time_nonce:
            slots = server.counters.slots
            area = server.segment.allocate("auth nonces", max(self.nonce_entries, 16) * slots * 8)
            self._counts = NonceCounts(area.cast("Q"), slots, StripedLock(server.segment, "auth nonces", NONCE_STRIPES))

    def child_init(self, server: Server) -> None:
        """Find out who knows the credentials."""
        self._service = server.find(CREDENTIALS)
        if self._counts is not None:
            self._counts.attach(server.slot)

    # -- script ---------------------------------------------------------------------------------------------------

    def www_authenticate(self, ctx: Context, realm: str | int | None, table: str = "credentials") -> int:
        """Authenticate the Authorization header: 1; -1 not, -2 server error, -3 malformed."""
        return self._authenticate(ctx, realm, table, False)

    def proxy_authenticate(self, ctx: Context, realm: str | int | None, table: str = "credentials") -> int:
        """Authenticate the Proxy-Authorization header: 1; -1 not, -2 server error, -3 malformed."""
        return self._authenticate(ctx, realm, table, True)

    def consume_credentials(self, ctx: Context) -> int:
        """Remove the header that was authenticated, Authorization first: 1; -1 when there is none."""
        note = ctx.authenticated
        if note is None:
            return FALSE
        if note.www_index >= 0:
            ctx.edits.remove(note.www_index)
            note.www_index = -1
            return TRUE
        if note.proxy_index >= 0:
            ctx.edits.remove(note.proxy_index)
            note.proxy_index = -1
            return TRUE
        return FALSE

    # -- the check ------------------------------------------------------------------------------------------------

    def _authenticate(self, ctx: Context, realm: str | int | None, table: str, is_proxy: bool) -> int:
        method = _request_of(ctx).method
        if method == "ACK" or method == "CANCEL" or method == "PRACK":  # noqa: PLR1714 - cannot be challenged
            return TRUE
        if not isinstance(realm, str) or not realm:
            ctx.avps.delete(self._challenge.write_list, self._challenge.name)
            return FALSE
        stale = False
        index, credentials, result = self._find_credentials(ctx, realm, is_proxy)
        if credentials is not None:
            verdict = self.check_nonce(ctx, credentials.nonce)
            result = FALSE if verdict == INVALID else self._check_response(ctx, credentials, table, realm)
            if result > 0 and (verdict == STALE or not self._count_use(credentials)):
                stale = True
                result = FALSE
        if result > 0 and credentials is not None:
            note = ctx.authenticated
            if note is None:
                note = ctx.authenticated = Authenticated()
            note.username = credentials.username
            note.realm = realm
            if is_proxy:
                note.proxy_index = index
            else:
                note.www_index = index
            return TRUE
        ctx.avps.set(
            self._challenge.write_list, self._challenge.name, self.build_challenge(ctx, realm, is_proxy, stale)
        )
        return result

    def _find_credentials(self, ctx: Context, realm: str, is_proxy: bool) -> tuple[int, Credentials | None, int]:
        """(header index, credentials for *realm*, 0); without any: (-1, None, FALSE or MALFORMED)."""
        message = ctx.message
        failure = FALSE
        for index in message.indexes("proxy-authorization" if is_proxy else "authorization"):
            try:
                credentials = parse_credentials(message.value(index))
            except ParseError as exc:
                log.debug("%s", exc)
                failure = MALFORMED
                continue
            if not credentials.is_digest or credentials.realm != realm:
                continue
            if known_algorithm(credentials.algorithm) not in self._accepted:
                continue
            if credentials.qop and not _is_usable_qop(credentials):
                failure = MALFORMED
                continue
            return index, credentials, 0
        return -1, None, failure

    def _check_response(self, ctx: Context, credentials: Credentials, table: str, realm: str) -> int:
        """TRUE and the row's attributes in the from-user list, FALSE, or ERROR."""
        if self._service is None:
            log.error("no module provides credentials: load auth_db")
            return ERROR
        algorithm = known_algorithm(credentials.algorithm)
        track = TRACK_TO if _request_of(ctx).method == "REGISTER" else TRACK_FROM
        did = ctx.avps.search("did", track)
        domain = DEFAULT_DID if did is None else str(did)
        try:
            rows = self._service.credentials(table, credentials.username, realm, domain, algorithm)
            if self._try_rows(ctx, credentials, rows or _UNKNOWN[algorithm], algorithm) and rows:
                return TRUE
            # An unknown user goes the whole way of a wrong password: shorter code shows in the time of the answer.
            rows = self._service.recheck(table, credentials.username, realm, domain, algorithm)
        except BackendError as exc:
            log.debug("credentials: %s", exc)
            return ERROR
        return TRUE if self._try_rows(ctx, credentials, rows, algorithm) else FALSE

    def _try_rows(
        self, ctx: Context, credentials: Credentials, rows: list[tuple[str, list[tuple[str, str]]]], algorithm: str
    ) -> bool:
        """True when the response fits one of *rows*, whose attributes are then in the from-user list."""
        for ha1, attributes in rows:
            if self._matches(ctx, credentials, ha1, algorithm):
                for name, value in attributes:
                    ctx.avps.set(FROM_USER, name, value)
                return True
        return False

    def _matches(self, ctx: Context, credentials: Credentials, ha1: str, algorithm: str) -> bool:
        if credentials.algorithm and credentials.algorithm[-5:].upper() == "-SESS":
            ha1 = ha1_session(ha1, credentials.nonce, credentials.cnonce, algorithm)
        qop = credentials.qop.lower() if credentials.qop else ""
        message = _request_of(ctx)
        expected = response(
            ha1, credentials.nonce, message.method, credentials.uri, qop, credentials.nc, credentials.cnonce,
            algorithm=algorithm, body=message.body if qop == "auth-int" else b"",
        )  # fmt: skip
        return same(expected, credentials.response)

    # -- challenges and nonces ------------------------------------------------------------------------------------

    def build_challenge(self, ctx: Context, realm: str, is_proxy: bool, stale: bool) -> str:
        """The challenge header, one line per offered algorithm, strongest first as configured, CRLF included."""
        name = self.proxy_challenge_header if is_proxy else self.www_challenge_header
        quoted = realm.replace("\\", "\\\\").replace('"', '\\"') if '"' in realm or "\\" in realm else realm
        tail = ""
        if self.qop:
            tail = f', qop="{self.qop}"'
        if stale:
            tail += ", stale=true"
        nonce = self.build_nonce(ctx)
        challenge = ""
        for algorithm in self._algorithms:
            said = f", algorithm={algorithm}" if algorithm else ""
            challenge += f'{name}: Digest realm="{quoted}", nonce="{nonce}"{tail}{said}\r\n'
        return challenge

    def build_nonce(self, ctx: Context) -> str:
        """A nonce for the sender of this request. Those that nothing tells apart are the same within a second."""
        now = int(ctx.wall_now)
        checks = self._checks_for(ctx)
        is_shared = not checks and self._counts is None
        if is_shared and now == self._shared_since:
            return self._shared_nonce
        head = struct.pack("!II", (now + self.nonce_expire) & _WORD, now & _WORD)
        if self._counts is not None:
            head += struct.pack("!I", self._counts.new_id())
        nonce = head + _mac(self._nonce_key, head)
        if checks:
            nonce += self._checks_mac(ctx, checks, head)
        text = binascii.b2a_base64(nonce, newline=False).decode("ascii")
        if is_shared:
            self._shared_nonce = text
            self._shared_since = now
        return text

    def check_nonce(self, ctx: Context, text: str) -> int:
        """VALID; STALE: once ours, to be asked again without a password prompt; INVALID: never ours."""
        now = int(ctx.wall_now)
        checks = self._checks_for(ctx)
        if not checks:
            known = self._own_nonces.get(text)
            if known is not None:
                since, expires = known
                if since < self._started or since > now + self.nonce_auth_max_drift or expires <= now:
                    return STALE
                return VALID
        head_size = 12 if self._counts is not None else 8
        if len(text) > _MAX_NONCE or not text.isascii():
            return INVALID
        try:
            nonce = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            return INVALID
        if len(nonce) < head_size + _MAC:
            return INVALID
        head = nonce[:head_size]
        expires = int.from_bytes(head[0:4], "big")
        since = int.from_bytes(head[4:8], "big")
        # A nonce from before our start may be signed with a secret we no longer have.
        if since < self._started or since > now + self.nonce_auth_max_drift:
            return STALE
        mac = nonce[head_size : head_size + _MAC]
        if not hmac.compare_digest(mac, _mac(self._nonce_key, head)):
            return INVALID
        if len(nonce) == 8 + _MAC:
            self._remember(text, since, expires)
        if checks and not hmac.compare_digest(nonce[head_size + _MAC :], self._checks_mac(ctx, checks, head)):
            return STALE
        return STALE if expires <= now else VALID

    def _remember(self, text: str, since: int, expires: int) -> None:
        """Note that *text* is ours: the same nonce comes from all who were challenged in its second."""
        own = self._own_nonces
        if len(own) >= _MAX_OWN:
            del own[next(iter(own))]
        own[text] = (since, expires)

    def _checks_for(self, ctx: Context) -> int:
        """The extra check bits for this kind of request."""
        message = _request_of(ctx)
        if message.method == "REGISTER":
            return self.auth_checks_register
        if not (self.auth_checks_in_dlg or self.auth_checks_no_dlg):
            return 0
        return self.auth_checks_in_dlg if message.to_tag else self.auth_checks_no_dlg

    def _checks_mac(self, ctx: Context, checks: int, head: bytes) -> bytes:
        message = _request_of(ctx)
        parts = [
            message.request_uri if checks & CHECK_URI else "",
            message.call_id if checks & CHECK_CALL_ID else "",
            message.from_tag if checks & CHECK_FROM_TAG else "",
            ctx.flow.host if checks & CHECK_SOURCE else "",
        ]
        text = "\n".join(parts).encode("utf-8", "surrogateescape")
        return _mac(self._checks_key, head + text)

    def _count_use(self, credentials: Credentials) -> bool:
        """Record this use of the nonce; False when it is a replay. The nonce and the response have been checked."""
        counts = self._counts
        if counts is None:
            return True
        number = int.from_bytes(binascii.a2b_base64(credentials.nonce)[8:12], "big")
        if self.one_time_nonce or not credentials.qop:
            return counts.use(number, _WORD)
        return counts.use(number, int(credentials.nc, 16))


def _mac(key: bytes, data: bytes) -> bytes:
    return blake2s(data, key=key, digest_size=_MAC).digest()  # a third of the time of an HMAC over SHA-256


def _request_of(ctx: Context) -> Request:
    request = ctx.request
    if request is None:
        raise UsageError("only a request can be authenticated")
    return request


def _is_usable_qop(credentials: Credentials) -> bool:
    """True when qop is one we know and comes with what it needs (RFC 7616 §3.4)."""
    nc = credentials.nc
    if credentials.qop.lower() not in ("auth", "auth-int") or not credentials.cnonce:
        return False
    return len(nc) == 8 and _HEX.issuperset(nc)


def exports() -> Exports:
    """The module's export table."""
    auth = Auth()
    arguments = (Arg.VALUE, Arg.STR)
    www = "authenticate by Authorization; on failure the challenge is in $digest_challenge"
    proxy = "authenticate by Proxy-Authorization; on failure the challenge is in $digest_challenge"
    return Exports(
        name="auth",
        module=auth,
        functions=(
            Function("www_authenticate", auth.www_authenticate, arguments, 1, Routes.REQUEST, www),
            Function("www_authorize", auth.www_authenticate, arguments, 1, Routes.REQUEST, www),
            Function("proxy_authenticate", auth.proxy_authenticate, arguments, 1, Routes.REQUEST, proxy),
            Function("proxy_authorize", auth.proxy_authenticate, arguments, 1, Routes.REQUEST, proxy),
            Function(
                "consume_credentials",
                auth.consume_credentials,
                (),
                0,
                Routes.REQUEST,
                "remove the authenticated header",
            ),
        ),
        params=(
            Param("secret", "str", "", "signs the nonces; random at each start when empty; equal on all farm members"),
            Param("nonce_expire", "int", 300, "lifetime of a nonce in seconds", check=_positive),
            Param("nonce_auth_max_drift", "int", 3, "seconds a nonce may come from the future (clocks of a farm)"),
            Param("qop", "str", "auth", 'qop to offer: "auth", "auth-int", both with a comma, or "" for none'),
            Param("algorithm", "str", "", 'algorithms to offer, e.g. "SHA-256,MD5"; "" = MD5 without naming it'),
            Param("auth_checks_register", "int", 0, "bind REGISTER nonces to: 1 URI, 2 Call-ID, 4 From tag, 8 source"),
            Param("auth_checks_no_dlg", "int", 0, "the same for requests outside a dialog"),
            Param("auth_checks_in_dlg", "int", 0, "the same for requests inside a dialog"),
            Param("nonce_count", "int", 0, "1 refuse a nonce count that was used before"),
            Param("one_time_nonce", "int", 0, "1 accept each nonce once"),
            Param("nonce_entries", "int", 65536, "nonces remembered per process for the two above"),
            Param("challenge_attr", "avp", "$digest_challenge", "attribute that receives the challenge"),
            Param("www_challenge_header", "str", "WWW-Authenticate", "name of the 401 challenge header"),
            Param("proxy_challenge_header", "str", "Proxy-Authenticate", "name of the 407 challenge header"),
        ),
        init=auth.init,
        child_init=auth.child_init,
    )


def _positive(value: object) -> str:
    return "" if isinstance(value, int) and value > 0 else "must be at least 1"
