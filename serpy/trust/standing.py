"""Who stands where: levels of trust, who is held and until when, in tables that all processes share and that outlive them.

Known flows are never struck: the port of a NAT tells the phone from the attacker behind the same address. Only who has proved
that he receives what we send there is banned; others are at most *quiet*: a few answers a second. The instant is the
clock's; nothing here waits, logs under load or opens a socket.

Runs in: udp and tcp receivers, ctl (for people). Locks: none. RFC: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.clock import Clock
from serpy.limited_log import RateLimit
from serpy.shm.known import Known
from serpy.shm.strangers import BANNED, PLAUSIBLE, WORD, Strangers
from serpy.trust import limits as of
from serpy.trust.limits import Limits
from serpy.trust.places import Names, Place

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

    from serpy.sip.flow import Flow

log = logging.getLogger(__name__)

# Modes.
OFF: Final = 0
WATCH: Final = 1
ON: Final = 2
MODES: Final = ("off", "watch", "on")

# Levels of trust.
STRANGER: Final = 0
PROVEN: Final = 1
KNOWN: Final = 2
NAMED: Final = 3
LEVEL_NAMES: Final = ("stranger", "proven", "known", "named")

# Why a message was dropped before it was parsed: the counters.
DROP_BANNED: Final = 0
DROP_QUIET: Final = 1
DROP_PAIR: Final = 2
DROP_USER: Final = 3
DROP_BUSY: Final = 4
DROPS: Final = ("banned", "quiet", "pair", "user", "busy")
BUSY_S: Final = 1  # after a receiver was behind: who is known comes first, others as far as there is time

# Words of the first cache line of the memory, shared by all.
_SECRET: Final = 0  # 64 bit
_HELD: Final = 2  # not 0: somebody is held or we are busy, look at every message
_HELD_UNTIL: Final = 3  # until when at the latest
_NAMES_HELD_UNTIL: Final = 4  # the same for pairs and users
_BUSY_UNTIL: Final = 5
HEADER: Final = 64


class Standing:
    """The tables of one server. *is_trusted* says whose source is not looked at at all."""

    def __init__(
        self, memory: memoryview, limits: Limits, secret: int, *, mode: int = ON,
        is_trusted: Callable[[str], bool] | None = None,
    ) -> None:  # fmt: skip
        self.limits: Final = limits
        self.mode = mode
        self.holds_sources = False  # some module wants bans: else only pairs and users are silenced
        self.is_trusted = is_trusted
        self.emergency: frozenset[str] = frozenset()
        head = memory[:HEADER]
        words = head.cast("Q")
        if words[0] == 0:
            words[0] = secret or 1
        self.secret: Final[int] = int(words[0])
        self.words: Final = head.cast("I")
        split = HEADER + Strangers.size(limits.strangers)
        # One word that is not 0 while somebody is held: then each message has to be looked at.
        self.held: Final = self.words[_HELD : _HELD + 1]
        self.strangers: Final = Strangers(memory[HEADER:split], limits.strangers, self.secret)
        self.known: Final = Known(memory[split : split + Known.size(limits.known)], limits.known, self.secret)
        self.names: Final = Names(self.secret)
        self.clock: Clock = Clock(0.0, 0.0)
        # statistics of this process
        self.events: Final[list[int]] = [0] * len(of.NAMES)
        self.dropped: Final[list[int]] = [0] * len(DROPS)
        self.bans = 0
        self.refused_calls = 0
        self.rows_left_out = 0
        self.lines_left_out = 0
        self.told: Final = RateLimit(20, 10.0)

    @staticmethod
    def size(limits: Limits) -> int:
        """The bytes of memory that the tables of *limits* take."""
        return HEADER + Strangers.size(limits.strangers) + Known.size(limits.known)

    def now(self) -> int:
        """The present, in ticks."""
        return int(self.clock.now() * of.TICKS) & WORD

    def let_go(self) -> None:
        """Stop looking at every message when nobody is held any more."""
        words = self.words
        if words[_HELD] and not self._is_any_held():
            words[_HELD] = 0
            if self._is_any_held():
                words[_HELD] = 1  # somebody was held at this very moment

    def _is_any_held(self) -> bool:
        return self.is_ahead(int(self.words[_HELD_UNTIL])) or self.is_busy()

    def is_busy(self) -> bool:
        """True while a receiver is behind."""
        return self.is_ahead(int(self.words[_BUSY_UNTIL]))

    def are_names_held(self) -> bool:
        """True while pairs or users are."""
        return self.is_ahead(int(self.words[_NAMES_HELD_UNTIL]))

    def be_busy(self) -> None:
        """More comes than this receiver can work off. A script without trust may know its peers by other means."""
        if self.mode == ON and self.holds_sources:
            self.words[_BUSY_UNTIL] = (self.now() + BUSY_S * of.TICKS) & WORD or 1
            self.words[_HELD] = 1

    def is_ahead(self, instant: int) -> bool:
        """True when *instant*, in ticks, is still to come."""
        left = (instant - self.now()) & WORD
        return instant != 0 and 0 < left <= PLAUSIBLE

    # --- trust

    def trusts(self, host: str) -> bool:
        """True for a host whose source is not looked at."""
        trusted = self.is_trusted
        return trusted is not None and trusted(host)

    def is_known_flow(self, place: Place, flow: Flow, now: i64) -> bool:
        """True for a flow, from *place*, that has authenticated."""
        return self.known.find(self.names.flow(place, flow.port, flow.transport), now) >= 0

    def is_known(self, flow: Flow) -> bool:
        """True for a flow that has authenticated, and for networks that are trusted."""
        return self.is_known_flow(self.names.place(flow.host), flow, self.now()) or self.trusts(flow.host)

    def is_proven(self, flow: Flow) -> bool:
        """True when the peer receives what we send to where *flow* comes from."""
        if flow.transport != "udp" or self.mode != ON or self.is_known(flow):
            return True
        now = self.now()
        net = self.names.place(flow.host).net
        if self.has_proof(self.known.find(self.names.known_net(net), now), now):
            return True
        at = self.strangers.find(net)
        return at >= 0 and self.strangers.is_proven(at, now)

    def has_proof(self, at: i64, now: i64) -> bool:
        """True when the known network *at*, -1 = none, has answered a challenge of ours lately."""
        return at >= 0 and self.known.left(at, now) > (of.PAIR_S - of.PROVEN_S) * of.TICKS

    def level(self, flow: Flow, *, named: bool = False) -> int:
        """STRANGER, PROVEN, KNOWN or NAMED."""
        if named:
            return NAMED
        if self.is_known(flow):
            return KNOWN
        return PROVEN if self.is_proven(flow) else STRANGER

    def factor(self, at: i64) -> int:
        """By what the limits of the known network *at*, -1 = none, are multiplied: the more pairs, the more people."""
        return 1 if at < 0 else min(1 + self.known.number(at) // 10, of.FACTOR_MAX)

    # --- holds

    def ban(self, at: int, reason: int, now: int, seconds: int = 0) -> None:
        """Ban an entry, for longer each time when *seconds* does not say for how long; one line in the log."""
        strangers = self.strangers
        if not seconds:
            seconds = min(of.BAN_S << min(strangers.offences(at), 10), of.BAN_MAX_S)
        self.hold(at, BANNED, reason, seconds * of.TICKS, now, names=False)
        self.bans += 1
        if self.told.allows(self.clock.now()):
            text = strangers.text(at)
            log.warning(
                "%s %s for %s: %s; known phones there go on (serpyctl ban why %s)",
                text, "would be banned" if self.mode == WATCH else "is banned", spelled(seconds), of.TEXTS[reason], text,
            )  # fmt: skip

    def hold(self, at: int, kind: int, reason: int, ticks: int, now: int, *, names: bool) -> None:
        """Hold an entry for *ticks*, and have every message looked at until then; *names*: not for where it is from."""
        self.strangers.set_hold(at, kind, reason, ticks, now)
        until = (now + ticks) & WORD
        for word in (_HELD_UNTIL, _NAMES_HELD_UNTIL):
            if word == _HELD_UNTIL or names:
                known = int(self.words[word])
                if not self.is_ahead(known) or (until - known) & WORD <= PLAUSIBLE:
                    self.words[word] = until or 1
        self.words[_HELD] = 1


def spelled(seconds: int) -> str:
    """A duration for people."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"
