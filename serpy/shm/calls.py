"""The calls of one receiver: objects to work with, and their records in its slab of the file, which nobody else writes.

What a call is asked is answered by its object, in a hundredth of the time that words of shared memory take; every change
is written through at once, so whoever takes over the slab, after a death or a restart, makes the same objects from it.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.shm import call_file as layout
from serpy.shm.call_file import CallFile
from serpy.shm.fingerprints import SHORT
from serpy.shm.keys import SIGNED

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

SWEEP: Final = 3  # records looked at for each that is made: all are seen before a third of them is new
ROOM: Final = 64  # records looked at to make room in a full slab
USED: Final = 1  # flag of a side: there is one
TIMED: Final = 1 << 10  # flag of a record: session timers run (RFC 4028)

# All words are aligned, so the machine's own format is the same, and faster.
# The head, the caller, the first leg, the other legs, text. What is x becomes 0.
_WHOLE: Final = struct.Struct(
    "@6Q16x2Q8x3Q2Q8x3Q".replace("Q", SIGNED) + f"{8 * layout.SIDE * (layout.LEGS - 1)}x{layout.TEXT_SIZE}s"
)
_EMPTY: Final = struct.Struct(f"@{layout.RECORD}x")
assert _WHOLE.size == layout.RECORD


class Side:
    """One side of a call, as numbers (``fingerprints``); NONE where nothing is known.

    *tag*, *contact* are long numbers, *before* that of the Contact before this one. *hop* is the address and port that it
    sends from, *route* the first proxy of its Route set, *host* what it sends from, *contact_host* what stands in its
    Contact: short numbers. *place* is where it stands in the file.
    """

    def __init__(self, tag: i64, contact: i64, hop: i64, route: i64, host: i64, contact_host: i64, info: i64) -> None:
        self.tag: i64 = tag
        self.contact: i64 = contact
        self.before: i64 = 0
        self.hop: i64 = hop
        self.route: i64 = route
        self.host: i64 = host
        self.contact_host: i64 = contact_host
        self.info: i64 = info
        self.place: i64 = 0
        self.is_news = False  # more has changed than its flags: to be written


class Call:
    """A call, subscription or transfer. Instants are whole seconds (``call_file.stamp``); *answered* is 0 before a 2xx."""

    def __init__(self, at: i64, key: i64, made: i64, meta: i64, serial: i64, caller: Side) -> None:
        self.at: i64 = at
        self.key: i64 = key
        self.made: i64 = made
        self.serial: i64 = serial
        self.caller: Final = caller
        self.legs: Final[list[Side]] = []
        self.pages: Final[list[int]] = []  # the records that it goes on in
        self.meta: i64 = meta
        self.answered: i64 = 0
        self.last: i64 = made
        self.expires: i64 = 0
        self.written: i64 = 0  # when it is forgotten as the file has it
        self.limit: i64 = 0  # what it counts for
        self.other_limit: i64 = 0

    @property
    def state(self) -> int:
        """RINGING, ANSWERED, ENDED."""
        return self.meta & layout.STATE

    @property
    def kind(self) -> int:
        """INVITE, SUBSCRIBE, REFER."""
        return self.meta >> 4 & 15


class CallTable:
    """What one receiver knows of calls; the *file* has all of them."""

    def __init__(self, file: CallFile) -> None:
        self.file: Final = file
        self.on_free: Callable[[Call], None] | None = None  # told of a call that is about to be forgotten and counts
        self._bytes: Final = file.bytes
        self._index: Final[dict[int, Call]] = {}
        self._slots: Final[list[Call | None]] = []  # all that were ever used
        self._free: Final[list[int]] = []
        self._slab = -1
        self._first = 0  # first word of our own slab
        self._hand = 0

    @property
    def count(self) -> int:
        """How many calls there are."""
        return len(self._index)

    @property
    def fill(self) -> int:
        """Per cent of our slab that hold something."""
        return (len(self._slots) - len(self._free)) * 100 // self.file.records

    def calls(self) -> list[Call]:
        """All of them."""
        return list(self._index.values())

    # -- taking over

    def attach(self, slab: int, now: int) -> int:
        """Be the one who writes *slab*: learn what is in it, free what has expired or is torn. How many calls there are."""
        file = self.file
        self._slab = slab
        self._first = file.first(slab)
        self._index.clear()
        self._free.clear()
        self._slots[:] = [None] * file.used(slab)
        linked: set[int] = set()
        for slot in range(len(self._slots)):
            at = self._first + slot * layout.WORDS
            key = int(file.words[at + layout.KEY])
            if not key or file.kind(at) == layout.MORE:
                continue
            if file.words[at] & 1 or file.expires(at) < now or key in self._index or not self._is_sound(at):
                self._wipe(at)
                continue
            self._index[key] = self._slots[slot] = self._read(at, linked)
        for slot in range(len(self._slots) - 1, -1, -1):
            at = self._first + slot * layout.WORDS
            if self._slots[slot] is None and at not in linked:
                self._wipe(at)
                self._free.append(slot)
        return len(self._index)

    def _read(self, at: int, linked: set[int]) -> Call:
        """The call that stands at *at*; *linked* learns which records it goes on in."""
        file = self.file
        words = file.words
        began, lasts, meta = [int(word) for word in words[at + layout.BEGAN : at + layout.META + 1]]
        caller = self._read_side(at + layout.CALLER)
        call = Call(
            at, int(words[at + layout.KEY]), began >> layout.TIME_BITS, meta, int(words[at + layout.SERIAL]), caller
        )
        call.answered = began & layout.TIME_MASK
        call.last = lasts >> layout.TIME_BITS
        call.expires = call.written = lasts & layout.TIME_MASK
        call.limit = int(words[at + layout.LIMITS])
        call.other_limit = int(words[at + layout.LIMITS + 1])
        record = at
        while True:
            for place in range(record + layout.LEG, record + layout.TEXT, layout.SIDE):
                leg = self._read_side(place)
                if not leg.info & USED:
                    return call
                call.legs.append(leg)
            record = file.following(record)
            if record < 0 or record in linked or file.kind(record) != layout.MORE or not self._is_sound(record):
                return call
            linked.add(record)
            call.pages.append(record)

    def _is_sound(self, at: int) -> bool:
        """True when nothing in the record *at* is larger than what is ever written."""
        words = self.file.words[at : at + layout.TEXT]
        return min(words) >= 0 and max(words) >> 62 == 0

    def _read_side(self, place: int) -> Side:
        tag, contact, before, hops, hosts, info = [int(word) for word in self.file.words[place : place + layout.SIDE]]
        side = Side(tag, contact, hops >> 30, hops & SHORT, hosts >> 30, hosts & SHORT, info)
        side.before = before
        side.place = place
        return side

    # -- calls

    def find(self, key: int, now: int) -> Call | None:
        """The call *key*, None when there is none or it has expired."""
        call = self._index.get(key)
        if call is not None and call.expires < now:
            self.remove(call)
            return None
        return call

    def make(
        self, key: int, now: int, expires: int, meta: int, serial: int, caller: Side, leg: Side, text: bytes
    ) -> Call | None:  # fmt: skip
        """Remember the call *key* with its first branch and *text* for people (cut at TEXT_SIZE). None when there is no room,
        or *key* is taken.
        """
        if self._slab < 0 or key in self._index:
            return None
        self._sweep(now)
        slot = self._take()
        if slot < 0:
            return None
        at = self._first + slot * layout.WORDS
        call = Call(at, key, now, meta, serial, caller)
        call.expires = call.written = expires
        call.legs.append(leg)
        caller.place = at + layout.CALLER
        leg.place = at + layout.LEG
        moment = now << layout.TIME_BITS
        _WHOLE.pack_into(
            self._bytes, at * 8, 1, key, moment, moment | expires, meta, serial,
            caller.tag, caller.contact, caller.hop << 30 | caller.route, caller.host << 30 | caller.contact_host, caller.info,
            leg.tag, leg.contact, leg.hop << 30 | leg.route, leg.host << 30 | leg.contact_host, leg.info, text,
        )  # fmt: skip
        self.file.words[at] = 2
        self._index[key] = self._slots[slot] = call
        return call

    def write(self, call: Call) -> None:
        """Its state and instants have changed."""
        call.written = call.expires
        words = self.file.words
        at = int(call.at)
        # One word after the other is faster than a Struct, up to about ten.
        words[at + layout.BEGAN] = int(call.made << layout.TIME_BITS | call.answered)
        words[at + layout.LASTS] = int(call.last << layout.TIME_BITS | call.expires)
        words[at + layout.META] = int(call.meta)

    def write_side(self, side: Side) -> None:
        """More has changed than its flags."""
        side.is_news = False
        words = self.file.words
        at = int(side.place)
        words[at + layout.TAG] = int(side.tag)
        words[at + layout.CONTACT] = int(side.contact)
        words[at + layout.BEFORE] = int(side.before)
        words[at + layout.HOP] = int(side.hop << 30 | side.route)
        words[at + layout.HOSTS] = int(side.host << 30 | side.contact_host)
        words[at + layout.INFO] = int(side.info)

    def write_info(self, side: Side) -> None:
        """Its flags have changed, nothing else."""
        self.file.words[int(side.place) + layout.INFO] = int(side.info)

    def write_limits(self, call: Call) -> None:
        """What it counts for has changed."""
        self.file.words[int(call.at) + layout.LIMITS] = int(call.limit)
        self.file.words[int(call.at) + layout.LIMITS + 1] = int(call.other_limit)

    def add_leg(self, call: Call, leg: Side) -> bool:
        """One more leg; False when there is no room for it."""
        count = len(call.legs)
        record = int(call.at) if count < layout.LEGS else 0
        number = count % layout.LEGS
        if count >= layout.LEGS:
            if not number and not self._add_page(call):
                return False
            record = call.pages[-1]
        leg.place = record + layout.LEG + number * layout.SIDE
        call.legs.append(leg)
        self.write_side(leg)
        return True

    def _add_page(self, call: Call) -> bool:
        slot = self._take()
        if slot < 0:
            return False
        at = self._first + slot * layout.WORDS
        words = self.file.words
        words[at + layout.META] = layout.MORE << 4
        words[at + layout.KEY] = int(call.key)
        link = slot + 1 << layout.MORE_SHIFT
        if call.pages:
            words[call.pages[-1] + layout.META] |= link
        else:
            call.meta |= link
            self.write(call)
        call.pages.append(at)
        return True

    def remove(self, call: Call) -> None:
        """Forget the call."""
        if call.limit and self.on_free is not None:
            self.on_free(call)
        self._index.pop(int(call.key), None)
        self._give_back(int(call.at))
        for at in call.pages:
            self._give_back(at)

    def _give_back(self, at: int) -> None:
        self._wipe(at)
        slot = (at - self._first) // layout.WORDS
        self._slots[slot] = None
        self._free.append(slot)

    def _take(self) -> int:
        """A free record, -1 when there is none."""
        if self._free:
            return self._free.pop()
        slot = len(self._slots)
        if slot >= self.file.records:
            return -1
        self._wipe(self._first + slot * layout.WORDS)
        self._slots.append(None)
        self.file.words[layout.USED_AT + self._slab] = slot + 1
        return slot

    def _wipe(self, at: int) -> None:
        _EMPTY.pack_into(self._bytes, at * 8)

    # -- ends

    def _next(self) -> Call | None:
        """What is in the record under the hand, which goes on."""
        if self._hand >= len(self._slots):
            self._hand = 0
        call = self._slots[self._hand]
        self._hand += 1
        return call

    def _sweep(self, now: i64) -> None:
        """Forget what has expired among the next few records."""
        if not self._slots:
            return
        for _ in range(SWEEP):
            call = self._next()
            if call is not None and call.expires < now:
                self.remove(call)

    def sweep_all(self, now: int) -> None:
        """Forget everything that has expired."""
        for call in self.calls():
            if call.expires < now:
                self.remove(call)

    def make_room(self, but: Call | None = None) -> bool:
        """Forget a ringing call of somebody unknown, else one that has ended, never *but*; False when none is found soon."""
        ended: Call | None = None
        for _ in range(min(ROOM, len(self._slots))):
            call = self._next()
            if call is None or call is but:
                continue
            if call.state == layout.RINGING and not call.meta & layout.NAMED:
                self.remove(call)
                return True
            if call.state == layout.ENDED:
                ended = call
        if ended is None:
            return False
        self.remove(ended)
        return True
