"""Digest authentication: who sent this request, proved for this request, from there, once and in time.

``nonces.py`` makes and checks nonces, ``counts.py`` knows which uses of them were seen, ``digest_uri.py`` whether
credentials belong to the request, ``reports.py`` tells what came of it. Where HA1 values come from is the business of the
CredentialsService (``auth_db``). An unknown user costs what a wrong password costs and gets the same answer; credentials
with a nonce that is not ours, or was made for another network, are refused before anybody is asked.

Runs in: udp receiver. Locks: a stripe of the nonce counts. RFC: 3261 §22; 7616; 8760; 2069 for clients without qop.
"""

from __future__ import annotations

import logging
import os
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
    Flow,
    Function,
    ParseError,
    Routes,
    Server,
    UsageError,
)
from serpy.context.authenticated import (
    BAD_NONCE,
    MALFORMED,
    NO_CREDENTIALS,
    OK,
    OTHER_NETWORK,
    OTHER_URI,
    REPLAY,
    STALE,
    UNKNOWN_USER,
    WRONG_PASSWORD,
)
from serpy.context.authenticated import ERROR as NO_DATABASE
from serpy.context.avps import FROM_USER, TRACK_FROM, TRACK_TO, parse_avp_name
from serpy.modules.auth import digest_uri, nonces
from serpy.modules.auth.counts import ENTRY_SIZE, FRESH, LAST, SEEN, STRIPES, NonceCounts
from serpy.modules.auth.nonces import Nonces
from serpy.modules.auth.params import PARAMS
from serpy.modules.auth.reports import Reports
from serpy.script.networks import Networks, parse_network
from serpy.shm.kept import Kept
from serpy.shm.lock import StripedLock
from serpy.sip.abnf import ascii_lower
from serpy.sip.authorization import Credentials, parse_credentials
from serpy.sip.digest import MD5, SHA256, ha1_session, known_algorithm, response, same
from serpy.sip.message import Request
from serpy.sip.own_lines import OwnLines
from serpy.sip.text import header_value

log = logging.getLogger(__name__)

ERROR: Final = -2  # database, or no way to build a challenge
BAD_REQUEST: Final = -3  # another challenge would not help

REALMS_KEPT: Final = 256

CHECK_URI: Final = 1
CHECK_CALL_ID: Final = 2
CHECK_FROM_TAG: Final = 4
CHECK_SOURCE: Final = 8

_UNKNOWN: Final[dict[str, list[tuple[str, list[tuple[str, str]]]]]] = {
    MD5: [("0" * 32, [])],
    SHA256: [("0" * 64, [])],
}
NEVER_USED: Final = "00000000"  # the first use of a nonce is 1 (RFC 7616 §3.4)
_HEX: Final = frozenset("0123456789abcdefABCDEF")


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
        self.nonce_count = 1
        self.one_time_nonce = 0
        self.nonce_entries = 65536
        self.nonce_network = 1
        self.qop_required = 0
        self.check_uri = digest_uri.SAME_RESOURCE
        self.trusted_networks = ""
        self.challenge_attr = "$digest_challenge"
        self.www_challenge_header = "WWW-Authenticate"
        self.proxy_challenge_header = "Proxy-Authenticate"
        self._challenge: AvpName = parse_avp_name("$digest_challenge")
        self._algorithms: list[str] = []  # as offered, "" = MD5 without saying so
        self._accepted: set[str] = {MD5}
        self._offered: list[str] = ["auth"]  # qop; where none is offered, one that protects no body is welcome
        self._quoted: Final[dict[str, str]] = {}  # realms as they stand in a challenge
        self._nonces: Nonces  # set by init()
        self._counts: NonceCounts | None = None
        self._reports: Final = Reports()
        self._server: Server  # set by init()
        self._service: CredentialsService | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    def init(self, server: Server) -> None:
        """Check the parameters and derive the keys."""
        self._server = server
        secret = self.secret.encode("utf-8", "surrogateescape") or os.urandom(32)
        self._nonces = Nonces(
            secret, self.nonce_expire, self.nonce_auth_max_drift, self._trusted(), bound=self.nonce_network != 0
        )
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
        self._offered = [qop.strip(" ") for qop in (self.qop or "auth").split(",")]
        if self.qop_required and not self.qop:
            raise ConfigError("auth: qop_required without a qop to offer", hint='set qop to "auth"')

    def share(self, server: Server) -> None:
        """``init()``, and what all processes have in common: counters, and the table of nonces that were used."""
        self.init(server)
        self._reports.declare(server.counters)
        if self.nonce_count or self.one_time_nonce:
            # Nonces outlive a restart, so what is known of their uses has to.
            kept = Kept(server.run_dir, "nonces", "nonces 1", self.nonce_entries * ENTRY_SIZE)
            self._counts = NonceCounts(kept.memory, StripedLock(server.segment, "auth nonces", STRIPES))

    def child_init(self, server: Server) -> None:
        """Find out who knows the credentials, and who wants to know what they are worth."""
        self._service = server.find(CREDENTIALS)
        self._reports.attach(server)
        receivers = max(getattr(server.settings, "children", 1), 1)  # nobody else challenges
        self._nonces.attach(server.child, receivers)

    def _trusted(self) -> Networks | None:
        names = self.trusted_networks.replace(",", " ").split()
        try:
            return Networks([parse_network(name) for name in names]) if names else None
        except ValueError as exc:
            raise ConfigError(f"auth: trusted_networks: {exc}") from None

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
        if method == "ACK" or method == "CANCEL":  # noqa: PLR1714 - cannot be challenged (RFC 3261 §22.1)
            return TRUE
        if not isinstance(realm, str) or not realm:
            ctx.avps.delete(self._challenge.write_list, self._challenge.name)
            return FALSE
        index, credentials, outcome = self._find_credentials(ctx, realm, is_proxy)
        if credentials is not None:
            outcome = self._judge(ctx, credentials, table, realm)
        self._reports.tell(ctx, outcome, realm, credentials)
        if outcome == OK and credentials is not None:
            _note(ctx, credentials.username, realm, index, is_proxy)
            return TRUE
        # Stale says that the user need not be asked: nothing was wrong, or looked at, but the nonce (RFC 7616 §3.3).
        is_stale = outcome in (STALE, REPLAY, OTHER_NETWORK, BAD_NONCE)
        challenge = OwnLines(self.build_challenge(ctx, realm, is_proxy, is_stale))
        ctx.avps.set(self._challenge.write_list, self._challenge.name, challenge)
        if outcome in (MALFORMED, OTHER_URI):
            return BAD_REQUEST
        return ERROR if outcome == NO_DATABASE else FALSE

    def _find_credentials(self, ctx: Context, realm: str, is_proxy: bool) -> tuple[int, Credentials | None, str]:
        """(header index, credentials for *realm*, OK); without any: (-1, None, NO_CREDENTIALS or MALFORMED)."""
        message = ctx.message
        failure = NO_CREDENTIALS
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
            if not _is_usable_qop(credentials) if credentials.qop else self.qop_required:
                failure = MALFORMED
                continue
            if credentials.qop and ascii_lower(credentials.qop) not in self._offered:
                continue
            return index, credentials, OK
        return -1, None, failure

    def _judge(self, ctx: Context, credentials: Credentials, table: str, realm: str) -> str:
        """What *credentials* are worth. A password is looked at for nonces of this peer's network only, and counted."""
        now = int(ctx.wall_now)
        host = _host_of(ctx.flow)
        verdict, since, serial = self._nonces.check(credentials.nonce, now, host, self._parts(ctx))
        if verdict == nonces.INVALID:
            return BAD_NONCE
        if verdict == nonces.ELSEWHERE:
            return OTHER_NETWORK
        rewritten = self._nonces.is_trusted(host)
        if not digest_uri.is_for(credentials.uri, _request_of(ctx), self.check_uri, rewritten=rewritten) and not (
            self.check_uri == digest_uri.SAME_RESOURCE
            and self._server.is_own_host(digest_uri.server_of(credentials.uri))
        ):
            return OTHER_URI
        outcome = self._check_response(ctx, credentials, table, realm)
        if outcome != OK:
            return outcome
        if verdict == nonces.STALE:
            return STALE
        return self._count_use(credentials, since, serial, now)

    def _check_response(self, ctx: Context, credentials: Credentials, table: str, realm: str) -> str:
        """OK and the row's attributes in the from-user list, WRONG_PASSWORD, UNKNOWN_USER, or NO_DATABASE."""
        if self._service is None:
            log.error("no module provides credentials: load auth_db")
            return NO_DATABASE
        algorithm = known_algorithm(credentials.algorithm)
        track = TRACK_TO if _request_of(ctx).method == "REGISTER" else TRACK_FROM
        did = ctx.avps.search("did", track)
        domain = DEFAULT_DID if did is None else str(did)
        try:
            rows = self._service.credentials(table, credentials.username, realm, domain, algorithm)
            if self._try_rows(ctx, credentials, rows or _UNKNOWN[algorithm], algorithm) and rows:
                return OK
            # An unknown user goes the whole way of a wrong password: shorter code shows in the time of the answer.
            newer = self._service.recheck(table, credentials.username, realm, domain, algorithm)
        except BackendError as exc:
            log.debug("credentials: %s", exc)
            return NO_DATABASE
        if self._try_rows(ctx, credentials, newer, algorithm):
            return OK
        return WRONG_PASSWORD if rows or newer else UNKNOWN_USER

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
        qop = credentials.qop
        message = _request_of(ctx)
        expected = response(
            ha1, credentials.nonce, message.method, credentials.uri, qop, credentials.nc, credentials.cnonce,
            algorithm=algorithm, body=message.body if qop and ascii_lower(qop) == "auth-int" else b"",
        )  # fmt: skip
        return same(expected, credentials.response)

    # -- challenges and nonces ------------------------------------------------------------------------------------

    def build_challenge(self, ctx: Context, realm: str, is_proxy: bool, stale: bool) -> str:
        """The challenge header, one line per offered algorithm, strongest first as configured, CRLF included."""
        name = self.proxy_challenge_header if is_proxy else self.www_challenge_header
        quoted = self._quoted.get(realm)
        if quoted is None:
            quoted = header_value(realm).replace("\\", "\\\\").replace('"', '\\"')
            if len(self._quoted) >= REALMS_KEPT:
                self._quoted.clear()
            self._quoted[realm] = quoted
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
        """A nonce of its own for the sender of this request."""
        return self._nonces.make(int(ctx.wall_now), _host_of(ctx.flow), self._parts(ctx))

    def check_nonce(self, ctx: Context, text: str) -> int:
        """VALID, STALE, ELSEWHERE or INVALID: see ``nonces.py``."""
        return self._nonces.check(text, int(ctx.wall_now), _host_of(ctx.flow), self._parts(ctx))[0]

    def _parts(self, ctx: Context) -> bytes:
        """The parts of the request that its nonce is bound to, b"" for none."""
        request = _request_of(ctx)
        if request.method == "REGISTER":
            checks = self.auth_checks_register
        elif not (self.auth_checks_in_dlg or self.auth_checks_no_dlg):
            return b""
        else:
            checks = self.auth_checks_in_dlg if request.to_tag else self.auth_checks_no_dlg
        if not checks:
            return b""
        parts = [
            request.request_uri if checks & CHECK_URI else "",
            request.call_id if checks & CHECK_CALL_ID else "",
            request.from_tag if checks & CHECK_FROM_TAG else "",
            _host_of(ctx.flow) if checks & CHECK_SOURCE else "",
        ]
        return "\n".join(parts).encode("utf-8", "surrogateescape")

    def _count_use(self, credentials: Credentials, since: int, serial: int, now: int) -> str:
        """OK, REPLAY, or STALE when the uses of this nonce are forgotten. The digest was right.

        Without qop there is nothing to count: such a nonce is good once.
        """
        counts = self._counts
        if counts is None:
            return OK
        count = LAST if self.one_time_nonce or not credentials.qop else int(credentials.nc, 16)
        used = counts.use(since, serial, count, self._nonces.latest(now))
        if used == FRESH:
            return OK
        return REPLAY if used == SEEN else STALE


def _note(ctx: Context, username: str, realm: str, index: int, is_proxy: bool) -> None:
    note = ctx.authenticated
    if note is None:
        note = ctx.authenticated = Authenticated()
    note.username = username
    note.realm = realm
    if is_proxy:
        note.proxy_index = index
    else:
        note.www_index = index


def _host_of(flow: Flow | None) -> str:
    """Where a request came from; "" for one that came from nowhere."""
    return "" if flow is None else flow.host


def _request_of(ctx: Context) -> Request:
    request = ctx.request
    if request is None:
        raise UsageError("only a request can be authenticated")
    return request


def _is_usable_qop(credentials: Credentials) -> bool:
    """True when qop is one we know and comes with what it needs (RFC 7616 §3.4)."""
    nc = credentials.nc
    qop = credentials.qop
    if (qop != "auth" and qop.lower() not in ("auth", "auth-int")) or not credentials.cnonce:
        return False
    return len(nc) == 8 and nc != NEVER_USED and ((nc.isascii() and nc.isdigit()) or _HEX.issuperset(nc))


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
        params=PARAMS,
        init=auth.share,
        child_init=auth.child_init,
    )
