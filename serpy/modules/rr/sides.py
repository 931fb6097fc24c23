"""The two sides of a call in its record: find a leg, learn an address or a Contact. Numbers only; nothing is parsed here.

A leg without a tag is a branch that has left and not answered: the next answer from there, with whatever tag, takes it.

Runs in: udp receiver. Locks: none (the slab is ours). RFC: 3261 §12, 6026.
"""

from __future__ import annotations

from typing import Final

from serpy.shm import calls as layout
from serpy.shm.calls import CallTable
from serpy.shm.fingerprints import SHORT

# Flags of a side.
USED: Final = 1
GATEWAY: Final = 2  # the telephone network: only its Contacts may be asked for
PROXIED: Final = 4  # other proxies stand between
CONFIRMED: Final = 8  # a leg with a 2xx
OVER: Final = 16  # a leg with a BYE
MAPPED: Final = 32  # a leg whose Route set has been looked at
MAX_LEGS: Final = 16  # of one call: a record and three more


def leg_of(table: CallTable, at: int, tag: int) -> int:
    """The first word of the leg with *tag* in the call *at*, -1 when there is none."""
    words = table.words
    record = at
    while record >= 0:
        for leg in range(record + layout.LEG, record + layout.TEXT, layout.SIDE):
            if words[leg] == tag:
                return leg
        record = table.more(record)
    return -1


def branch_to(table: CallTable, at: int, hop: int) -> int:
    """A leg of *at* whose address is *hop*, one without a tag if there is one; -1 when nothing was sent there."""
    words = table.words
    found = -1
    record = at
    while record >= 0:
        for leg in range(record + layout.LEG, record + layout.TEXT, layout.SIDE):
            if not words[leg + layout.INFO]:
                return found  # legs are used in their order, and stay
            if int(words[leg + layout.HOP]) >> 30 == hop:
                if not words[leg]:
                    return leg
                found = leg
        record = table.more(record)
    return found


def new_leg(table: CallTable, at: int) -> int:
    """Room for one more leg of *at*, marked as used; -1 when it has too many or there is no memory."""
    words = table.words
    record = at
    count = 0
    last = at
    while record >= 0:
        for leg in range(record + layout.LEG, record + layout.TEXT, layout.SIDE):
            if not words[leg + layout.INFO] & USED:
                words[leg + layout.INFO] = USED
                return leg
            count += 1
        last = record
        record = table.more(record)
    if count >= MAX_LEGS:
        return -1
    record = table.add_more(last)
    if record < 0:
        return -1
    words[record + layout.LEG + layout.INFO] = USED
    return record + layout.LEG


def tagged_leg(table: CallTable, at: int, tag: int, hop: int) -> int:
    """The leg with *tag*, made of the branch to *hop* when it is new; -1 when there is no room."""
    words = table.words
    leg = at + layout.LEG
    known = words[leg]
    if known == tag:
        return leg
    if hop and not known and not words[leg + layout.SIDE + layout.INFO] and int(words[leg + layout.HOP]) >> 30 == hop:
        words[leg] = tag  # the only branch, as nearly always
        return leg
    leg = leg_of(table, at, tag)
    if leg >= 0:
        return leg
    branch = branch_to(table, at, hop) if hop else -1
    if branch >= 0 and not words[branch]:
        words[branch] = tag
        return branch
    leg = new_leg(table, at)
    if leg >= 0:
        if branch >= 0:  # the proxy there has forked: the same way, another phone
            words[leg + layout.HOP] = words[branch + layout.HOP]
            words[leg + layout.HOSTS] = words[branch + layout.HOSTS]
            words[leg + layout.INFO] = USED | int(words[branch + layout.INFO]) & (GATEWAY | PROXIED)
        words[leg] = tag
    return leg


def learn_contact(table: CallTable, side: int, contact: int) -> bool:
    """*contact* is now asked for, the one before as well; False when it is no news."""
    words = table.words
    known = words[side + layout.CONTACT]
    if not contact or known == contact:
        return False
    if known:
        words[side + layout.BEFORE] = known
    words[side + layout.CONTACT] = contact
    return True


def learn_hop(table: CallTable, side: int, hop: int, host: int) -> None:
    """The side sends from *hop*, which is on *host*."""
    words = table.words
    known = int(words[side + layout.HOP])
    if known >> 30 != hop:
        words[side + layout.HOP] = hop << 30 | known & SHORT
    known = int(words[side + layout.HOSTS])
    if known >> 30 != host:
        words[side + layout.HOSTS] = host << 30 | known & SHORT


def learn_route(table: CallTable, side: int, route: int) -> int:
    """The first proxy on the way to the side, NONE when there is none. The flags that the side gets by it."""
    words = table.words
    known = int(words[side + layout.HOP])
    if route and known & SHORT != route:
        words[side + layout.HOP] = known & ~SHORT | route
    return PROXIED if route else 0


def learn_contact_host(table: CallTable, side: int, host: int) -> None:
    """The host in the Contact as its sender wrote it."""
    words = table.words
    known = int(words[side + layout.HOSTS])
    if host and known & SHORT != host:
        words[side + layout.HOSTS] = known & ~SHORT | host


def has_open_leg(table: CallTable, at: int) -> bool:
    """True while a leg with a 2xx has not said BYE."""
    words = table.words
    record = at
    while record >= 0:
        for leg in range(record + layout.LEG, record + layout.TEXT, layout.SIDE):
            info = words[leg + layout.INFO]
            if info & (CONFIRMED | OVER) == CONFIRMED:
                return True
            if not info:
                return False
        record = table.more(record)
    return False
