"""The early look: what comes from who is held is dropped before it is parsed.

Asked only while somebody is held, or a receiver is behind with its work.

Runs in: udp receiver. Locks: none. RFC: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.shm.strangers import BANNED, FREE, QUIET
from serpy.trust import limits as of
from serpy.trust.places import Place, names_in
from serpy.trust.standing import DROP_BANNED, DROP_BUSY, DROP_PAIR, DROP_QUIET, DROP_USER, OFF, WATCH, Standing

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

    from serpy.sip.flow import Flow

BUSY_RATE: Final = 100  # strangers a second that a busy receiver takes all the same
# What passes a quiet source: dialogs go on, and answers belong to what we sent.
_PASSES_QUIET: Final = (b"SIP/2.0", b"ACK sip", b"BYE sip", b"CANCEL ", b"PRACK s")


class EarlyLook:
    """The look of one process at what comes in, on the tables of *standing*."""

    def __init__(self, standing: Standing) -> None:
        self._standing: Final = standing
        self._busy_second = -1
        self._busy_taken = 0

    def admits(self, data: bytes, flow: Flow) -> bool:
        """False: drop *data*, it comes from who is held. Asked only while somebody is."""
        standing = self._standing
        if standing.mode == OFF:
            return True
        names, strangers, known, now = standing.names, standing.strangers, standing.known, standing.now()
        place = names.place(flow.host)
        at = self._held_source(place, now)
        if at < 0:
            is_busy, names_held = standing.is_busy(), standing.are_names_held()
            if not is_busy and not names_held:
                return True
            if standing.is_known_flow(place, flow, now):
                return True
            if names_held and self._is_name_held(data, place, now):
                return False
            return not is_busy or self._has_time_for(data, place, now)
        if standing.is_known_flow(place, flow, now) or standing.trusts(flow.host):
            return True
        kind = strangers.hold(at, now)
        if kind == QUIET and (data[:7] in _PASSES_QUIET or self._is_emergency_call(data)):
            return True
        pass_limit = standing.limits.pair_pass
        for name in names_in(data):
            number = names.number(name)
            pair = known.find(names.known_pair(place, number), now)
            if pair >= 0 and not self._is_pair_held(place, number, now):
                if known.take(pair, pass_limit.interval, pass_limit.count, now):
                    return True
                break
        answers = standing.limits.source[of.ANSWER]
        if kind == QUIET and strangers.take(at, of.ANSWER, answers.interval, answers.count, now):
            return True
        strangers.count_drop(at)
        return self._drop(DROP_BANNED if kind == BANNED else DROP_QUIET)

    def _has_time_for(self, data: bytes, place: Place, now: int) -> bool:
        """While we are behind: True for dialogs, known users, trusted networks, and for some strangers a second."""
        standing = self._standing
        if data[:7] in _PASSES_QUIET or standing.trusts(place.host) or self._is_emergency_call(data):
            return True
        names = standing.names
        for name in names_in(data):
            if standing.known.find(names.known_pair(place, names.number(name)), now) >= 0:
                return True
        second = now // of.TICKS
        if second != self._busy_second:
            self._busy_second = second
            self._busy_taken = 0
        self._busy_taken += 1
        return self._busy_taken <= BUSY_RATE or self._drop(DROP_BUSY)

    def _is_emergency_call(self, data: bytes) -> bool:
        emergency = self._standing.emergency
        if not emergency or data[:7] != b"INVITE ":
            return False
        uri = data[7:80].partition(b" ")[0]
        user = uri.partition(b"@")[0].rpartition(b":")[2]
        return user.decode("ascii", "replace") in emergency

    def _held_source(self, place: Place, now: int) -> int:
        """The entry by which *place* is held, -1: it is not."""
        strangers = self._standing.strangers
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
        standing = self._standing
        names, strangers = standing.names, standing.strangers
        for name in names_in(data):
            number = names.number(name)
            if self._is_pair_held(place, number, now):
                return not self._drop(DROP_PAIR)
            at = strangers.find(names.user(number))
            if at < 0 or strangers.hold(at, now) == FREE:
                continue
            if standing.known.find(names.known_pair(place, number), now) < 0 and not standing.trusts(place.host):
                strangers.count_drop(at)
                return not self._drop(DROP_USER)
        return False

    def _is_pair_held(self, place: Place, number: i64, now: int) -> bool:
        strangers = self._standing.strangers
        at = strangers.find(self._standing.names.pair(place, number))
        if at < 0 or strangers.hold(at, now) == FREE:
            return False
        strangers.count_drop(at)
        return True

    def _drop(self, why: int) -> bool:
        """Count it; True: it passes all the same, because we only watch."""
        self._standing.dropped[why] += 1
        return self._standing.mode == WATCH
