"""What became of credentials, told to everybody who wants to know: counters, the log, ``Hooks.on_credentials``.

What an administrator can mend, or should see, is a line at INFO with user, source and reason; one a second for each
reason, so a flood of guesses is a line that says how many there were. Expired nonces and first requests without
credentials are everyday and only counted.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.api import Context, Server
from serpy.context.authenticated import (
    BAD_NONCE,
    ERROR,
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
from serpy.limited_log import LimitedLog
from serpy.sip.text import printable

if TYPE_CHECKING:
    from serpy.shm.counters import Counters
    from serpy.sip.authorization import Credentials

log = logging.getLogger(__name__)

COUNTERS: Final = (
    (OK, "auth.ok", "requests with the right credentials"),
    (NO_CREDENTIALS, "auth.challenged", "requests without credentials, challenged"),
    (WRONG_PASSWORD, "auth.wrong_password", "requests with a wrong password"),
    (UNKNOWN_USER, "auth.unknown_user", "requests with credentials of nobody"),
    (BAD_NONCE, "auth.bad_nonce", "credentials made with a nonce that is not ours"),
    (OTHER_NETWORK, "auth.other_network", "credentials made with a nonce for another network or request"),
    (STALE, "auth.stale", "right credentials made with a nonce that was too old"),
    (REPLAY, "auth.replay", "right credentials that were used before"),
    (OTHER_URI, "auth.other_uri", "credentials made for another Request-URI"),
    (MALFORMED, "auth.malformed", "credentials that cannot be read"),
    (ERROR, "auth.error", "credentials that could not be checked: no database"),
)
_REASONS: Final = {
    WRONG_PASSWORD: "wrong password",
    UNKNOWN_USER: "no such user in this realm",
    BAD_NONCE: "its nonce is not ours (another secret?)",
    OTHER_NETWORK: "its nonce was made for another network or request (trusted_networks, nonce_network, auth_checks_...)",
    REPLAY: "this use of its nonce was seen before (nonce_count)",
    OTHER_URI: "made for another Request-URI (check_uri)",
    MALFORMED: "the credentials cannot be read",
}
_SHOWN: Final = 64  # characters of one text of the peer


class Reports:
    """Who is told. Until the loader and the child have said who that is, nobody."""

    def __init__(self) -> None:
        self._log: Final = LimitedLog(log)
        self._ids: Final[dict[str, int]] = {}
        self._counters: Counters | None = None
        self._listeners: list[Callable[[Context, str, str], None]] = []

    def declare(self, counters: Counters) -> None:
        """Make the counters; in the master."""
        for outcome, name, text in COUNTERS:
            self._ids[outcome] = counters.declare(name, text)
        self._counters = counters

    def attach(self, server: Server) -> None:
        """Find out who listens in this process; when all modules are ready."""
        self._listeners = server.hooks.on_credentials

    def tell(self, ctx: Context, outcome: str, realm: str, credentials: Credentials | None) -> None:
        """A check has come to *outcome*."""
        counters = self._counters
        if counters is not None:
            counters.add(self._ids[outcome])
        if self._listeners:
            self._call(ctx, outcome, realm, credentials)
        if outcome in _REASONS:
            self._say(ctx, outcome, realm, credentials)

    def _call(self, ctx: Context, outcome: str, realm: str, credentials: Credentials | None) -> None:
        who = "" if credentials is None else f"{credentials.user}@{realm}"
        for told in self._listeners:
            told(ctx, who, outcome)

    def _say(self, ctx: Context, outcome: str, realm: str, credentials: Credentials | None) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        self._log.info(
            outcome,
            "%s of %s in realm %s from %r refused: %s (%s)",
            "request" if ctx.request is None else printable(ctx.request.method[:_SHOWN]),
            "somebody" if credentials is None else printable(credentials.username[:_SHOWN]),
            printable(realm[:_SHOWN]),
            ctx.flow,
            _REASONS[outcome],
            printable((ctx.message.get("user-agent") or "")[:_SHOWN]),
        )
