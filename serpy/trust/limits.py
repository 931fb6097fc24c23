"""What strangers may cost: one table for each size of installation, and the names of what is counted.

An event leaks away: *count* of them in *seconds* is the rate that may go on for ever, and as many may come at once.
Values only. Runs in: every process. Locks: none.
"""

from __future__ import annotations

from typing import Final

TICKS: Final = 64  # of the shared tables in a second

# What is counted for a source; the first so many have a level of their own in its entry.
WRONG: Final = 0  # wrong password for a nonce of ours
UNANSWERED: Final = 1  # challenges that nobody answered
MALFORMED: Final = 2
UNKNOWN: Final = 3  # users that are nobody, domains that are not ours
CALL: Final = 4  # requests to our users
ROW: Final = 5  # rows of acc and missed_calls
ANSWER: Final = 6  # what a quiet source still gets
PIKE: Final = 7  # requests, as pike counts them
BY_HAND: Final = 8  # reasons of a ban only
NAMES: Final = (
    "wrong-password", "unanswered", "malformed", "unknown", "call", "row", "answer", "pike", "by-hand",
)  # fmt: skip
TEXTS: Final = (
    "wrong passwords", "challenges nobody answered", "malformed messages", "unknown users or foreign domains",
    "requests to our users", "accounting rows", "answers while quiet", "requests", "ban added by hand",
)  # fmt: skip

SIZES: Final = ("office", "isp", "farm")

BAN_S: Final = 600  # the first; doubled each time
BAN_MAX_S: Final = 86400
QUIET_S: Final = 30  # renewed while it goes on
SILENCE_S: Final = 600  # of a pair or a user
PROVEN_S: Final = 600
FLOW_S: Final = 3600  # at least; longer when the registration is
PAIR_S: Final = 7 * 86400
CREDIT: Final = 10  # events that an authentication takes off
FACTOR_MAX: Final = 50
WIDE_FACTOR: Final = 8  # limits of an IPv6 /48, compared with those of a /64


class Limit:
    """*count* events in *seconds*; ``interval`` is what one costs, in ticks."""

    def __init__(self, count: int, seconds: int) -> None:
        self.count: Final = count
        self.seconds: Final = seconds
        self.interval: Final = max(1, seconds * TICKS // count)


class Limits:
    """All limits of one size of installation, by the names above."""

    def __init__(self, size: str) -> None:
        at = SIZES.index(size)
        self.size: Final = size
        self.source: Final[tuple[Limit, ...]] = (
            Limit((20, 20, 20)[at], 600),
            Limit((60, 200, 200)[at], 60),
            Limit((30, 60, 60)[at], 60),
            Limit((20, 40, 40)[at], 300),
            Limit((10, 30, 30)[at], 60),
            Limit((6, 30, 30)[at], 60),
            Limit(5, 1),
            Limit(1, 1),
        )
        self.pair_wrong: Final = Limit(10, 600)
        self.pair_pass: Final = Limit(4, 4)  # messages of a known pair from a held source: one a second, four at once
        self.user_wrong: Final = Limit((30, 50, 50)[at], 600)
        self.callee: Final = Limit((6, 10, 10)[at], 60)
        self.ringing: Final = (5, 20, 20)[at]
        self.callee_ringing: Final = (3, 5, 5)[at]
        self.transactions: Final = (5_000, 30_000, 30_000)[at]
        self.kept_bytes: Final = (64, 256, 256)[at] << 20
        self.strangers: Final = (16, 64, 256)[at] << 10
        self.known: Final = (16, 256, 256)[at] << 10
