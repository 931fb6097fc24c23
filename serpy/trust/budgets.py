"""Who may still cost us something: what peers do is charged to their source, and what they want is counted.

A challenge costs its source nothing when it is answered: the first that a source is given in a second is only remembered
here, and charged by the next tick if nobody has authenticated over that flow. From the second on all are charged at once, so
nobody has more than his budget.

Runs in: udp receivers, ctl (for people). Locks: none. RFC: none.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.shm.strangers import BANNED, FREE, PLAUSIBLE, QUIET, WORD
from serpy.trust import limits as of
from serpy.trust.limits import Limit, Limits
from serpy.trust.look import EarlyLook
from serpy.trust.places import Place
from serpy.trust.standing import OFF, ON, WATCH, Standing, spelled

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

    from serpy.sip.flow import Flow

log = logging.getLogger(__name__)

NOTED_S: Final = 60  # an authentication is not noted again, nor credited, for so long
CHALLENGED_MAX: Final = 1024  # sources whose first challenge is not charged yet

_REFUSED: Final = (of.UNKNOWN, of.WRONG)  # over it, who is proven is banned; all else makes quiet


class Budgets(Standing):
    """The budgets of one server. *is_trusted* says whose source is not looked at at all."""

    def __init__(
        self, memory: memoryview, limits: Limits, secret: int, *, mode: int = ON,
        is_trusted: Callable[[str], bool] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(memory, limits, secret, mode=mode, is_trusted=is_trusted)
        self._look: Final = EarlyLook(self)
        # The sources that were challenged in this second: the flow of the challenge, None when all are charged.
        self._challenged: Final[dict[str, Flow | None]] = {}

    def admits(self, data: bytes, flow: Flow) -> bool:
        """False: drop *data*, it comes from who is held. Asked only while somebody is."""
        return self._look.admits(data, flow)

    def tick(self) -> None:
        """Once a second: charge challenges that nobody has answered, stop looking at every message when nobody is held."""
        if self._challenged:
            waiting = list(self._challenged.values())
            self._challenged.clear()
            for flow in waiting:
                if flow is not None:
                    self._charge_flow(flow, of.UNANSWERED)
        self.let_go()

    # --- charges

    def charge(self, flow: Flow, reason: int) -> None:
        """An event at the source of *flow*, unless it is known or trusted."""
        self.events[reason] += 1
        if self.mode == OFF or (reason == of.UNANSWERED and self._may_answer(flow)):
            return
        self._charge_flow(flow, reason)

    def _may_answer(self, flow: Flow) -> bool:
        """True when that is the first challenge of its source in this second: it is charged by ``tick()``."""
        challenged = self._challenged
        source = self.names.place(flow.host).source
        if source not in challenged:
            if len(challenged) >= CHALLENGED_MAX:
                return False
            challenged[source] = flow
            return True
        first = challenged[source]
        if first is not None:
            challenged[source] = None
            self._charge_flow(first, of.UNANSWERED)
        return False

    def _has_answered(self, place: Place, flow: Flow) -> None:
        """*flow*, from *place*, has authenticated."""
        first = self._challenged.get(place.source)
        if first is not None and first.port == flow.port and first.transport == flow.transport:
            del self._challenged[place.source]

    def _charge_flow(self, flow: Flow, reason: int) -> None:
        if not self.is_known(flow):
            self._charge_place(self.names.place(flow.host), reason, proven=flow.transport != "udp")

    def _charge_place(self, place: Place, reason: int, *, proven: bool) -> None:
        now = self.now()
        known = self._known_net(place.net, now)
        factor, proof = self.factor(known), self.has_proof(known, now)
        self._charge_net(place.net, place.net_text(), reason, factor, now, proven=proven, proof=proof)
        if place.is_ipv6:
            factor = of.WIDE_FACTOR * self.factor(self._known_net(place.wide, now))
            self._charge_net(place.wide, place.wide_text(), reason, factor, now, proven=proven, proof=False)

    def _known_net(self, net: i64, now: i64) -> i64:
        return self.known.find(self.names.known_net(net), now)

    def _charge_net(
        self, net: i64, text: str, reason: int, factor: int, now: int, *, proven: bool, proof: bool
    ) -> None:  # fmt: skip
        """Charge one network: *proven* by this event, or *proof* of its own."""
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
        if reason in _REFUSED and (proof or strangers.is_proven(at, now)):
            if kind != BANNED:
                strangers.lower(at, reason, WORD, now)
                self.ban(at, reason, now)
        elif kind != BANNED:
            self.hold(at, QUIET, reason, of.QUIET_S * of.TICKS, now, names=False)

    # --- credentials

    def right_password(self, flow: Flow, names: list[str], seconds: int) -> None:
        """The owner of *names*, the first of which is proved, has authenticated over *flow*, known for *seconds* from now.

        What was noted a moment ago is not written again.
        """
        if self.mode == OFF:
            return
        now: i64 = self.now()
        known, place = self.known, self.names.place(flow.host)
        self._has_answered(place, flow)
        ticks: i64 = max(seconds, of.FLOW_S) * of.TICKS
        key = self.names.flow(place, flow.port, flow.transport)
        at = known.look(key, now)
        if at < 0:
            known.write(-1 - at, key, now + ticks, 0)
        elif known.left(at, now) <= ticks - NOTED_S * of.TICKS:
            known.write(at, key, now + ticks, 0)
        if self._note_pair(place, self.names.number(names[0]), now):
            for name in names[1:]:
                known.note(self.names.known_pair(place, self.names.number(name)), of.PAIR_S * of.TICKS, now, now)

    def _note_pair(self, place: Place, number: i64, now: i64) -> bool:
        """The user *number* has authenticated at *place*: that takes events off, once a minute; False: it has already."""
        known, ticks = self.known, of.PAIR_S * of.TICKS
        key = self.names.known_pair(place, number)
        at = known.look(key, now)
        if at < 0:
            known.write(-1 - at, key, now + ticks, now)
        elif known.left(at, now) > ticks - NOTED_S * of.TICKS:
            return False
        else:
            known.write(at, key, now + ticks, known.number(at))
        self._count_pair(place.net, now, is_news=at < 0)
        if place.is_ipv6:
            self._count_pair(place.wide, now, is_news=at < 0)
        self._credit(place, now)
        return True

    def _count_pair(self, net: i64, now: i64, *, is_news: bool) -> None:
        """Somebody of a network has authenticated: it is known for as long as they are, and for one pair more."""
        key = self.names.known_net(net)
        self.known.count(key, of.PAIR_S * of.TICKS, now, 1 if is_news else 0, 10 * of.FACTOR_MAX)

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
        is_trusted = self.trusts(flow.host)
        if not is_trusted and not self.is_known_flow(place, flow, now):
            self._charge_place(place, of.WRONG, proven=True)
        if not is_trusted:
            pair_text = f"{name} from {place.wide_text()}"
            if self._charge_name(names.pair(place, number), pair_text, self.limits.pair_wrong, now):
                # Who has a wrong password so often is not the phone that has authenticated there.
                self.known.forget(names.flow(place, flow.port, flow.transport))
        if self.known.find(names.known_pair(place, number), now) < 0:
            self._charge_name(names.user(number), f"{name} from elsewhere", self.limits.user_wrong, now)

    def _charge_name(self, key: i64, text: str, limit: Limit, now: int) -> bool:
        """A wrong password for a pair or user; True when that is one too many."""
        strangers = self.strangers
        at = strangers.place(key, text, now)
        strangers.note(at, of.WRONG, now)
        if not strangers.add(at, of.WRONG, limit.interval, limit.count, now):
            return False
        if strangers.hold(at, now) == FREE and self.told.allows(self.clock.now()):
            log.warning(
                "%s %s for %s: %d wrong passwords; others notice nothing (serpyctl ban why ...)",
                text, "would be silent" if self.mode == WATCH else "is silent", spelled(of.SILENCE_S), limit.count,
            )  # fmt: skip
        strangers.lower(at, of.WRONG, WORD, now)
        self.hold(at, QUIET, of.WRONG, of.SILENCE_S * of.TICKS, now, names=True)
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
        limit = Limit(count * self.factor(self._known_net(place.net, now)), seconds)
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
        factor = self.factor(self._known_net(place.net, now))
        at = strangers.place(place.net, place.net_text(), now)
        if not strangers.take(at, reason, max(1, limit.interval // factor), limit.count * factor, now):
            return False
        if not place.is_ipv6:
            return True
        factor = of.WIDE_FACTOR * self.factor(self._known_net(place.wide, now))
        at = strangers.place(place.wide, place.wide_text(), now)
        return strangers.take(at, reason, max(1, limit.interval // factor), limit.count * factor, now)


def no_budgets() -> Budgets:
    """Budgets of nobody that limit nothing: for a process outside of a server."""
    limits = Limits("office")
    return Budgets(memoryview(mmap.mmap(-1, Budgets.size(limits))), limits, 1, mode=OFF)
