"""Who may still cost us something: levels of trust, charges, bans, and the early look at what comes in.

The tables are shared by all processes and outlive them. Known flows are never struck: the port of a NAT tells the phone from
the attacker behind the same address. Only who has proved that he receives what we send there is banned; others are at
most *quiet*: a few answers a second. The instant is the clock's; nothing here waits, logs under load or opens a socket.

Runs in: udp and tcp receivers, ctl (for people). Locks: none. RFC: none.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.clock import Clock
from serpy.limited_log import RateLimit
from serpy.shm.known import Known
from serpy.shm.strangers import BANNED, FREE, PLAUSIBLE, QUIET, WORD, Strangers
from serpy.trust import limits as of
from serpy.trust.limits import Limit, Limits
from serpy.trust.places import Names, Place, names_in

if TYPE_CHECKING:
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
BUSY_RATE: Final = 100  # strangers a second that a busy receiver takes all the same

NOTED_S: Final = 60  # an authentication is not noted again, nor credited, for so long
NOTED_MAX: Final = 8192

# Words of the first cache line of the memory, shared by all.
_SECRET: Final = 0  # 64 bit
_HELD: Final = 2  # not 0: somebody is held or we are busy, look at every message
_HELD_UNTIL: Final = 3  # until when at the latest
_NAMES_HELD_UNTIL: Final = 4  # the same for pairs and users
_BUSY_UNTIL: Final = 5
HEADER: Final = 64

_REFUSED: Final = (of.UNKNOWN, of.WRONG)  # over it, who is proven is banned; all else makes quiet
# What passes a quiet source: dialogs go on, and answers belong to what we sent.
_PASSES_QUIET: Final = (b"SIP/2.0", b"ACK sip", b"BYE sip", b"CANCEL ", b"PRACK s")


class Budgets:
    """The budgets of one server. *is_trusted* says whose source is not looked at at all."""

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
        self.known: Final = Known(memory[split : split + Known.size(limits.known)], limits.known)
        self.names: Final = Names(self.secret)
        self.clock: Clock = Clock(0.0, 0.0)
        # statistics of this process
        self.events: Final[list[int]] = [0] * len(of.NAMES)
        self.dropped: Final[list[int]] = [0] * len(DROPS)
        self.bans = 0
        self.refused_calls = 0
        self.rows_left_out = 0
        self.lines_left_out = 0
        self._noted: Final[dict[tuple[str, int, str], int]] = {}
        self._busy_second = -1
        self._busy_taken = 0
        self._told: Final = RateLimit(20, 10.0)

    @staticmethod
    def size(limits: Limits) -> int:
        """The bytes of memory that the tables of *limits* take."""
        return HEADER + Strangers.size(limits.strangers) + Known.size(limits.known)

    def now(self) -> int:
        """The present, in ticks."""
        return int(self.clock.now() * of.TICKS) & WORD

    def tick(self) -> None:
        """Once a second: stop looking at every message when nobody is held any more."""
        words = self.words
        if words[_HELD] and not self._is_any_held():
            words[_HELD] = 0
            if self._is_any_held():
                words[_HELD] = 1  # somebody was held at this very moment

    def _is_any_held(self) -> bool:
        return self._is_ahead(int(self.words[_HELD_UNTIL])) or self._is_ahead(int(self.words[_BUSY_UNTIL]))

    def be_busy(self) -> None:
        """More comes than this receiver can work off. A script without trust may know its peers by other means."""
        if self.mode == ON and self.holds_sources:
            self.words[_BUSY_UNTIL] = (self.now() + BUSY_S * of.TICKS) & WORD or 1
            self.words[_HELD] = 1

    def _is_ahead(self, instant: int) -> bool:
        left = (instant - self.now()) & WORD
        return instant != 0 and 0 < left <= PLAUSIBLE

    # --- the early look

    def admits(self, data: bytes, flow: Flow) -> bool:
        """False: drop *data*, it comes from who is held. Asked only while somebody is."""
        if self.mode == OFF:
            return True
        names, strangers, now = self.names, self.strangers, self.now()
        place = names.place(flow.host)
        at = self._held_source(place, now)
        if at < 0:
            is_busy = self._is_ahead(int(self.words[_BUSY_UNTIL]))
            names_held = self._is_ahead(int(self.words[_NAMES_HELD_UNTIL]))
            if not is_busy and not names_held:
                return True
            if self._is_known_flow(place, flow, now):
                return True
            if names_held and self._is_name_held(data, place, now):
                return False
            return not is_busy or self._has_time_for(data, place, now)
        if self._is_known_flow(place, flow, now) or self._trusts(flow.host):
            return True
        kind = strangers.hold(at, now)
        if kind == QUIET and (data[:7] in _PASSES_QUIET or self._is_emergency_call(data)):
            return True
        pass_limit = self.limits.pair_pass
        for name in names_in(data):
            number = names.number(name)
            pair = self.known.find(names.known_pair(place, number), now)
            if pair >= 0 and not self._is_pair_held(place, number, now):
                if self.known.take(pair, pass_limit.interval, pass_limit.count, now):
                    return True
                break
        answers = self.limits.source[of.ANSWER]
        if kind == QUIET and strangers.take(at, of.ANSWER, answers.interval, answers.count, now):
            return True
        strangers.count_drop(at)
        return self._drop(DROP_BANNED if kind == BANNED else DROP_QUIET)

    def _has_time_for(self, data: bytes, place: Place, now: int) -> bool:
        """While we are behind: True for dialogs, known users, trusted networks, and for some strangers a second."""
        if data[:7] in _PASSES_QUIET or self._trusts(place.host) or self._is_emergency_call(data):
            return True
        names = self.names
        for name in names_in(data):
            if self.known.find(names.known_pair(place, names.number(name)), now) >= 0:
                return True
        second = now // of.TICKS
        if second != self._busy_second:
            self._busy_second = second
            self._busy_taken = 0
        self._busy_taken += 1
        return self._busy_taken <= BUSY_RATE or self._drop(DROP_BUSY)

    def _is_emergency_call(self, data: bytes) -> bool:
        if not self.emergency or data[:7] != b"INVITE ":
            return False
        uri = data[7:80].partition(b" ")[0]
        user = uri.partition(b"@")[0].rpartition(b":")[2]
        return user.decode("ascii", "replace") in self.emergency

    def _held_source(self, place: Place, now: int) -> int:
        """The entry by which *place* is held, -1: it is not."""
        strangers = self.strangers
        at = strangers.find(place.net)
        if at >= 0 and strangers.hold(at, now) != FREE:
            return at
        if place.is_ipv6:
            at = strangers.find(place.wide)
            if at >= 0 and strangers.hold(at, now) != FREE:
                return at
        return -1

    def _is_name_held(self, data: bytes, place: Place, now: int) -> bool:
        """True when the message is of a pair that is silent, or of a user who is, from where he is not known."""
        names, strangers = self.names, self.strangers
        for name in names_in(data):
            number = names.number(name)
            if self._is_pair_held(place, number, now):
                return not self._drop(DROP_PAIR)
            at = strangers.find(names.user(number))
            if at < 0 or strangers.hold(at, now) == FREE:
                continue
            if self.known.find(names.known_pair(place, number), now) < 0 and not self._trusts(place.host):
                strangers.count_drop(at)
                return not self._drop(DROP_USER)
        return False

    def _is_pair_held(self, place: Place, number: int, now: int) -> bool:
        at = self.strangers.find(self.names.pair(place, number))
        if at < 0 or self.strangers.hold(at, now) == FREE:
            return False
        self.strangers.count_drop(at)
        return True

    def _drop(self, why: int) -> bool:
        """Count it; True: it passes all the same, because we only watch."""
        self.dropped[why] += 1
        return self.mode == WATCH

    # --- trust

    def _trusts(self, host: str) -> bool:
        trusted = self.is_trusted
        return trusted is not None and trusted(host)

    def _is_known_flow(self, place: Place, flow: Flow, now: int) -> bool:
        return self.known.find(self.names.flow(place, flow.port, flow.transport), now) >= 0

    def is_known(self, flow: Flow) -> bool:
        """True for a flow that has authenticated, and for networks that are trusted."""
        return self._is_known_flow(self.names.place(flow.host), flow, self.now()) or self._trusts(flow.host)

    def is_proven(self, flow: Flow) -> bool:
        """True when the peer receives what we send to where *flow* comes from."""
        if flow.transport != "udp" or self.mode != ON or self.is_known(flow):
            return True
        at = self.strangers.find(self.names.place(flow.host).net)
        return at >= 0 and self.strangers.is_proven(at, self.now())

    def level(self, flow: Flow, *, named: bool = False) -> int:
        """STRANGER, PROVEN, KNOWN or NAMED."""
        if named:
            return NAMED
        if self.is_known(flow):
            return KNOWN
        return PROVEN if self.is_proven(flow) else STRANGER

    def factor(self, net: int, now: int) -> int:
        """By what the limits of a network are multiplied: the more pairs are known there, the more people there are."""
        at = self.known.find(self.names.known_net(net), now)
        return 1 if at < 0 else min(1 + self.known.number(at) // 10, of.FACTOR_MAX)

    # --- charges

    def charge(self, flow: Flow, reason: int) -> None:
        """An event at the source of *flow*, unless it is known or trusted."""
        self.events[reason] += 1
        if self.mode == OFF or self.is_known(flow):
            return
        self._charge_place(self.names.place(flow.host), reason, proven=flow.transport != "udp")

    def _charge_place(self, place: Place, reason: int, *, proven: bool) -> None:
        now = self.now()
        factor = self.factor(place.net, now)
        self._charge_net(place.net, place.net_text(), reason, factor, now, proven=proven)
        if place.is_ipv6:
            factor = of.WIDE_FACTOR * self.factor(place.wide, now)
            self._charge_net(place.wide, place.wide_text(), reason, factor, now, proven=proven)

    def _charge_net(self, net: int, text: str, reason: int, factor: int, now: int, *, proven: bool) -> None:
        strangers = self.strangers
        at = strangers.place(net, text, now)
        limit = self.limits.source[reason]
        strangers.note(at, reason, now)
        if proven:
            strangers.prove(at, of.PROVEN_S * of.TICKS, now)
        interval = max(1, limit.interval // factor)
        if not strangers.add(at, reason, interval, limit.count * factor, now) or not self.holds_sources:
            return
        kind = strangers.hold(at, now)
        if reason in _REFUSED and strangers.is_proven(at, now):
            if kind != BANNED:
                strangers.lower(at, reason, WORD, now)
                self.ban(at, reason, now)
        elif kind != BANNED:
            self._hold(at, QUIET, reason, of.QUIET_S * of.TICKS, now, names=False)

    def ban(self, at: int, reason: int, now: int, seconds: int = 0) -> None:
        """Ban an entry, for longer each time when *seconds* does not say for how long; one line in the log."""
        strangers = self.strangers
        if not seconds:
            seconds = min(of.BAN_S << min(strangers.offences(at), 10), of.BAN_MAX_S)
        self._hold(at, BANNED, reason, seconds * of.TICKS, now, names=False)
        self.bans += 1
        if self._told.allows(self.clock.now()):
            text = strangers.text(at)
            log.warning(
                "%s %s for %s: %s; known phones there go on (serpyctl ban why %s)",
                text, "would be banned" if self.mode == WATCH else "is banned", spelled(seconds), of.TEXTS[reason], text,
            )  # fmt: skip

    def _hold(self, at: int, kind: int, reason: int, ticks: int, now: int, *, names: bool) -> None:
        self.strangers.set_hold(at, kind, reason, ticks, now)
        until = (now + ticks) & WORD
        for word in (_HELD_UNTIL, _NAMES_HELD_UNTIL):
            if word == _HELD_UNTIL or names:
                known = int(self.words[word])
                if not self._is_ahead(known) or (until - known) & WORD <= PLAUSIBLE:
                    self.words[word] = until or 1
        self.words[_HELD] = 1

    # --- credentials

    def was_noted(self, flow: Flow, name: str) -> bool:
        """True when this process has noted a moment ago that *name* has authenticated over *flow*; else it has now."""
        now = self.now()
        key = (flow.host, flow.port, name)
        since = self._noted.get(key, -1)
        if since >= 0 and (now - since) & WORD < NOTED_S * of.TICKS:
            return True
        if len(self._noted) >= NOTED_MAX:
            self._noted.clear()
        self._noted[key] = now
        return False

    def right_password(self, flow: Flow, names: list[str], seconds: int) -> None:
        """The owner of *names* has authenticated over *flow*, which is known for *seconds* from now on."""
        if self.mode == OFF:
            return
        now = self.now()
        place = self.names.place(flow.host)
        known = self.known
        known.note(self.names.flow(place, flow.port, flow.transport), max(seconds, of.FLOW_S) * of.TICKS, now)
        for name in names:
            if known.note(self.names.known_pair(place, self.names.number(name)), of.PAIR_S * of.TICKS, now, now):
                self._one_more_pair(place.net, now)
                if place.is_ipv6:
                    self._one_more_pair(place.wide, now)
        self._credit(place, now)

    def _one_more_pair(self, net: int, now: int) -> None:
        self.known.count(self.names.known_net(net), of.PAIR_S * of.TICKS, now, 10 * of.FACTOR_MAX)

    def _credit(self, place: Place, now: int) -> None:
        """Ten events less, of each kind."""
        at = self.strangers.find(place.net)
        if at < 0:
            return
        self.strangers.prove(at, of.PROVEN_S * of.TICKS, now)
        for level, instant in enumerate(self.strangers.levels(at)):  # WRONG, UNANSWERED, MALFORMED, UNKNOWN
            if 0 < (instant - now) & WORD <= PLAUSIBLE:
                self.strangers.lower(at, level, of.CREDIT * self.limits.source[level].interval, now)

    def credit(self, flow: Flow) -> None:
        """A call of this source was answered: ten events less."""
        self._credit(self.names.place(flow.host), self.now())

    def wrong_password(self, flow: Flow, name: str) -> None:
        """A wrong password for *name*, with a nonce that was made for this network."""
        self.events[of.WRONG] += 1
        if self.mode == OFF:
            return
        now = self.now()
        names = self.names
        place = names.place(flow.host)
        number = names.number(name)
        is_trusted = self._trusts(flow.host)
        if not is_trusted and not self._is_known_flow(place, flow, now):
            self._charge_place(place, of.WRONG, proven=True)
        if not is_trusted:
            pair_text = f"{name} from {place.wide_text()}"
            if self._charge_name(names.pair(place, number), pair_text, self.limits.pair_wrong, now):
                # Who has a wrong password so often is not the phone that has authenticated there.
                self.known.forget(names.flow(place, flow.port, flow.transport))
                self._noted.clear()
        if self.known.find(names.known_pair(place, number), now) < 0:
            self._charge_name(names.user(number), f"{name} from elsewhere", self.limits.user_wrong, now)

    def _charge_name(self, key: int, text: str, limit: Limit, now: int) -> bool:
        """A wrong password for a pair or user; True when that is one too many."""
        strangers = self.strangers
        at = strangers.place(key, text, now)
        strangers.note(at, of.WRONG, now)
        if not strangers.add(at, of.WRONG, limit.interval, limit.count, now):
            return False
        if strangers.hold(at, now) == FREE and self._told.allows(self.clock.now()):
            log.warning(
                "%s %s for %s: %d wrong passwords; others notice nothing (serpyctl ban why ...)",
                text, "would be silent" if self.mode == WATCH else "is silent", spelled(of.SILENCE_S), limit.count,
            )  # fmt: skip
        strangers.lower(at, of.WRONG, WORD, now)
        self._hold(at, QUIET, of.WRONG, of.SILENCE_S * of.TICKS, now, names=True)
        return True

    # --- what strangers want of our users

    def is_emergency(self, user: str) -> bool:
        """True for a number that passes every limit but bans."""
        return user in self.emergency

    def allows_call(self, flow: Flow, callee: str) -> bool:
        """Count a stranger's request to *callee*; False when the source or the callee has had enough of them."""
        if self.mode == OFF or self.is_known(flow):
            return True
        now = self.now()
        place = self.names.place(flow.host)
        self.events[of.CALL] += 1
        is_fine = self._takes(place, of.CALL, now)
        if is_fine:
            strangers = self.strangers
            limit = self.limits.callee
            at = strangers.place(self.names.callee(self.names.number(callee)), f"calls to {callee}", now)
            is_fine = strangers.take(at, of.CALL, limit.interval, limit.count, now)
        else:  # who goes on all the same is not worth a script for each
            self._charge_place(place, of.UNANSWERED, proven=flow.transport != "udp")
        if not is_fine:
            self.refused_calls += 1
        return is_fine or self.mode == WATCH

    def allows_row(self, flow: Flow, *, named: bool) -> bool:
        """True when a row of accounting may be written for a request that failed and came over *flow*; counted.

        Only where sources are held at all: a script without that may know its callers by other means.
        """
        if named or not self.holds_sources or self.mode == OFF or self.is_known(flow):
            return True
        if self._takes(self.names.place(flow.host), of.ROW, self.now()):
            return True
        self.rows_left_out += 1
        return self.mode == WATCH

    def allows_any(self, flow: Flow, reason: int, count: int, seconds: int) -> bool:
        """Count an event with a limit of the caller's; False when there is no room for it. IPv6 counts by /64."""
        if self.mode == OFF:
            return True
        self.events[reason] += 1
        now = self.now()
        place = self.names.place(flow.host)
        at = self.strangers.place(place.net, place.net_text(), now)
        limit = Limit(count * self.factor(place.net, now), seconds)
        return self.strangers.take(at, reason, limit.interval, limit.count, now) or self.mode == WATCH

    def allows(self, flow: Flow, reason: int) -> bool:
        """True while the source of *flow* has room for one more event of *reason*; nothing is counted."""
        if self.mode != ON or self.is_known(flow):
            return True
        now = self.now()
        place = self.names.place(flow.host)
        at = self.strangers.find(place.net)
        limit = self.limits.source[reason]
        return at < 0 or self.strangers.debt(at, reason, now) <= limit.count * limit.interval

    def _takes(self, place: Place, reason: int, now: int) -> bool:
        """Count an event if the source, and its network for IPv6, have room for it."""
        limit = self.limits.source[reason]
        strangers = self.strangers
        factor = self.factor(place.net, now)
        at = strangers.place(place.net, place.net_text(), now)
        if not strangers.take(at, reason, max(1, limit.interval // factor), limit.count * factor, now):
            return False
        if not place.is_ipv6:
            return True
        factor = of.WIDE_FACTOR * self.factor(place.wide, now)
        at = strangers.place(place.wide, place.wide_text(), now)
        return strangers.take(at, reason, max(1, limit.interval // factor), limit.count * factor, now)


def no_budgets() -> Budgets:
    """Budgets of nobody that limit nothing: for a process outside of a server."""
    limits = Limits("office")
    return Budgets(memoryview(mmap.mmap(-1, Budgets.size(limits))), limits, 1, mode=OFF)


def spelled(seconds: int) -> str:
    """A duration for people."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"
