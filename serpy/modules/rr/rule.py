"""Does a request belong to the dialog its Route speaks of? One look at the record of the call, or at the cookie alone.

*Down* is the direction of the dialog's first request, *up* the other. A request belongs to the dialog when its cookie is
ours and names the caller's tag; the other tag is a leg; it goes to a Contact of the side it goes to, now or before, or by
a hop that this side has used (not to the telephone network: there only the Contact counts); it comes from a host of the
side it comes from, unless other proxies stand between; and its method can be in a dialog.

Runs in: udp receiver. Locks: none. RFC: 3261 §12.2, §16.4, 6665 §4.1.2, 3262, 3311.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.modules.rr.cookie import GATEWAY as BY_GATEWAY
from serpy.modules.rr.cookie import NAMED, Cookie
from serpy.modules.rr.reading import endpoint_of_text
from serpy.modules.rr.sides import GATEWAY, PROXIED, branch_to, leg_of
from serpy.shm import call_file as layout
from serpy.shm.calls import Call, Side
from serpy.shm.fingerprints import SHORT, Fingerprints
from serpy.sip.uri import Uri

if TYPE_CHECKING:
    from mypy_extensions import i64

# Verdicts. The negative ones are what loose_route() returns.
NOT_ASKED: Final = 0
BELONGS: Final = 1
STRANGE: Final = -2  # does not belong to a dialog of ours
ELSEWHERE: Final = -3  # belongs, but comes from a host that its side has never used: the sender may prove who it is

NEVER: Final = ("REGISTER", "PUBLISH")  # have no place in a dialog
# May be the first that is heard of a leg. Never BYE: the callee sends none before its 2xx, which we relay (RFC 3261 §15).
EARLY: Final = ("NOTIFY", "PRACK", "UPDATE")
EARLY_S: Final = 32  # 64*T1: so long after the first 2xx other notifiers may speak up (RFC 6665 §4.4.1)
ALONE_MINUTES: Final = 12 * 60  # so long a cookie counts without a record


class Asked:
    """What is asked about a request: for *target*, from *port* of the host whose long number is *place*. Numbers as in
    ``fingerprints``; *hop* is the next Route below ours, 0 = none. What is seldom needed is a number when it is asked for.
    """

    def __init__(
        self, prints: Fingerprints, method: str, other_tag: int, target: str, place: int, port: int, *, is_down: bool
    ) -> None:
        self._prints: Final = prints
        self._place: Final = place
        self._target: Final = target
        self.method: Final = method
        self.is_down: Final = is_down
        self.other_tag: Final = other_tag
        self.target: Final = prints.target(target)
        self.hop = 0
        self.hop_is_ours = False
        self.source: Final = prints.short(place + port)
        self.is_proven = False  # its sender has proved who they are
        self.is_checked = True  # is the source looked at?
        # what was found
        self.leg: Side | None = None  # the side that is not the caller's; None: not known yet
        self.is_usual = False  # it comes from where its side was heard last

    @property
    def source_host(self) -> int:
        """Of the host that it comes from."""
        return self._prints.short(self._place)

    @property
    def target_hop(self) -> int:
        """Of where it would be sent without a Route."""
        return endpoint_of_text(self._prints, self._target)


def judge(call: Call, asked: Asked, now: int) -> int:
    """The verdict by the record *call*; fills in ``leg``."""
    leg = asked.leg = leg_of(call, asked.other_tag)
    if leg is None:
        if not _may_be_first(call, asked, now):
            return STRANGE
        return BELONGS if _goes_to(call.caller, asked) else STRANGE
    if not _goes_to(leg if asked.is_down else call.caller, asked):
        return STRANGE
    if asked.is_checked and not asked.is_proven and not _comes_from(call.caller if asked.is_down else leg, asked):
        return ELSEWHERE
    return BELONGS


def _may_be_first(call: Call, asked: Asked, now: int) -> bool:
    """True when an unknown tag of the callee may come now, with this method, from there."""
    if asked.is_down or asked.method not in EARLY:
        return False
    answered = call.answered
    if answered and (call.kind == layout.INVITE or asked.method != "NOTIFY" or now - answered > EARLY_S):
        return False
    return branch_to(call, asked.source) is not None


def _goes_to(side: Side, asked: Asked) -> bool:
    """True when the request goes to *side*."""
    target: i64 = asked.target
    is_contact = target != 0 and target in (side.contact, side.before)
    if is_contact and not asked.hop:
        return True
    if side.info & GATEWAY and not is_contact:
        return False
    if asked.hop:
        return asked.hop_is_ours or asked.hop in (side.hop, side.route)
    hop = asked.target_hop
    return hop != 0 and hop == side.hop


def _comes_from(side: Side, asked: Asked) -> bool:
    """True when *side* may send from there."""
    if side.hop == asked.source:
        asked.is_usual = True
        return True
    if side.info & PROXIED:
        return True
    host: i64 = asked.source_host
    return host in (side.host, side.contact_host)


def judge_alone(
    cookie: Cookie, asked: Asked, target: int, target_host: int, hop_host: int, minute: int
) -> int:  # fmt: skip
    """The verdict when there is no record: by what the cookie says about the caller.

    ``cookie.caller`` is Contact << 30 | host, all numbers are short: *target* and *target_host* are those of the Request-URI,
    *hop_host* that of the next Route (0 = none).
    """
    if not 0 <= minute - cookie.minute <= ALONE_MINUTES:
        return STRANGE
    contact = cookie.caller >> 30
    host = cookie.caller & SHORT
    if asked.is_down:
        return BELONGS if cookie.level & NAMED and asked.source_host == host else STRANGE
    is_contact = target != 0 and target == contact
    if cookie.level & BY_GATEWAY:
        return BELONGS if is_contact and not hop_host else STRANGE
    if hop_host:
        return BELONGS if hop_host == host or asked.hop_is_ours else STRANGE
    return BELONGS if is_contact or target_host == host else STRANGE


def next_hop(prints: Fingerprints, route: Uri | None) -> int:
    """The number of the next Route, 0 when there is none."""
    return 0 if route is None else prints.endpoint_of(route) or SHORT
