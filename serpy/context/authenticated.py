"""Who sent a request, as its digest credentials have proved, and what becomes of credentials.

Written by the module that checked them, read by whoever needs to know: accounting, speed dials, budgets.

Runs in: udp receiver. Locks: none. RFC: 3261 §22, 8760.
"""

from __future__ import annotations

from typing import Final

# What a check of credentials came to: what ``Hooks.on_credentials`` gets, and the counters are named after.
OK: Final = "ok"  # named: the first use of this nonce and count, with the right password
NO_CREDENTIALS: Final = "no-credentials"  # none for this realm: challenged; nobody's fault
WRONG_PASSWORD: Final = "wrong-password"  # noqa: S105 - a word; the nonce was made for the network it came from
UNKNOWN_USER: Final = "unknown-user"  # the same for a user who is nobody; the peer sees no difference
BAD_NONCE: Final = "bad-nonce"  # never ours: the password was not looked at
OTHER_NETWORK: Final = "other-network"  # made for another network or request: the password was not looked at
STALE: Final = "stale"  # right, but the nonce's time is over
REPLAY: Final = "replay"  # right, but this use of the nonce was seen before; also when an answer was lost
OTHER_URI: Final = "other-uri"  # made for another Request-URI: the password was not looked at
MALFORMED: Final = "malformed"
ERROR: Final = "error"  # the database did not answer: says nothing about the peer

OUTCOMES: Final = (
    OK, NO_CREDENTIALS, WRONG_PASSWORD, UNKNOWN_USER, BAD_NONCE, OTHER_NETWORK, STALE, REPLAY, OTHER_URI, MALFORMED, ERROR,
)  # fmt: skip


class Authenticated:
    """*www_index* and *proxy_index* are the header lines with the credentials, -1 = none."""

    def __init__(self, username: str = "", realm: str = "") -> None:
        self.username = username
        self.realm = realm
        self.www_index = -1
        self.proxy_index = -1
