"""The two sides of a call: find a leg, learn an address or a Contact. Numbers only; nothing is parsed here.

A leg without a tag is a branch that has left and not answered: the next answer from there, with whatever tag, takes it.

Runs in: udp receiver. Locks: none (the slab is ours). RFC: 3261 §12, 6026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.shm import calls
from serpy.shm.calls import Call, CallTable, Side

if TYPE_CHECKING:
    from mypy_extensions import i64

# Flags of a side.
USED: Final = calls.USED
GATEWAY: Final = 2  # the telephone network: only its Contacts may be asked for
PROXIED: Final = 4  # other proxies stand between
CONFIRMED: Final = 8  # a leg with a 2xx
OVER: Final = 16  # a leg with a BYE
MAPPED: Final = 32  # a leg whose Route set has been looked at
MAX_LEGS: Final = 16  # of one call: a record and three more


def leg_of(call: Call, tag: i64) -> Side | None:
    """The leg with *tag*, None when there is none."""
    for leg in call.legs:
        if leg.tag == tag:
            return leg
    return None


def branch_to(call: Call, hop: i64) -> Side | None:
    """A leg whose address is *hop*, one without a tag if there is one; None when nothing was sent there."""
    found: Side | None = None
    for leg in call.legs:
        if leg.hop == hop:
            if not leg.tag:
                return leg
            found = leg
    return found


def new_leg(table: CallTable, call: Call, leg: Side) -> Side | None:
    """*leg* as one more of *call*; None when it has too many or there is no memory."""
    if len(call.legs) >= MAX_LEGS:
        return None
    if table.add_leg(call, leg) or (table.make_room(call) and table.add_leg(call, leg)):
        return leg
    return None


def tagged_leg(table: CallTable, call: Call, tag: i64, hop: i64) -> Side | None:
    """The leg with *tag*, made of the branch to *hop* when it is new; None when there is no room. Is to be written."""
    leg = leg_of(call, tag)
    if leg is not None:
        return leg
    branch = branch_to(call, hop) if hop else None
    if branch is None:
        return new_leg(table, call, Side(tag, 0, 0, 0, 0, 0, USED))
    if not branch.tag:
        branch.tag = tag
        branch.is_news = True
        return branch
    # The proxy there has forked: the same way, another phone.
    info = USED | branch.info & (GATEWAY | PROXIED)
    return new_leg(table, call, Side(tag, 0, branch.hop, branch.route, branch.host, branch.contact_host, info))


def learn_contact(side: Side, contact: i64, host: i64) -> bool:
    """*contact*, with *host* in it, is now asked for, the one before as well; False when it is no news."""
    if not contact or side.contact == contact:
        return False
    if side.contact:
        side.before = side.contact
    side.contact = contact
    side.is_news = True
    if host:
        side.contact_host = host
    return True


def learn_hop(side: Side, hop: i64, host: i64) -> None:
    """The side sends from *hop*, which is on *host*."""
    if side.hop != hop or side.host != host:
        side.hop = hop
        side.host = host
        side.is_news = True


def has_open_leg(call: Call) -> bool:
    """True while a leg with a 2xx has not said BYE."""
    for leg in call.legs:  # noqa: SIM110 - compiled code has no generators to spare
        if leg.info & (CONFIRMED | OVER) == CONFIRMED:
            return True
    return False
