"""The memory of calls: a file of fixed records, one slab for each receiver, written by that receiver alone.

A record is 64 words of 8 bytes: the head, the caller's side and four legs (SIDE words each), text for people. Peers are
kept as numbers (``fingerprints``), so nobody's length costs memory. Word 0 is odd while a record is being made: readers
and the successor of a receiver that died meanwhile skip it. Who takes over a slab makes its index from the records;
another number of receivers, or of records, has them sorted again when the file is opened. A call with more than four legs
goes on in further records (kind MORE).

    file:  page (magic, layout, slabs, records, mark, since; from word 64 how many records of each slab were ever used)
           then slabs * records * 512 bytes

Runs in: master (open), udp receiver (its own slab), ctl (reads). Locks: none.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import Final

RECORD: Final = 512
WORDS: Final = 64
PAGE_WORDS: Final = 512
MAX_SLABS: Final = PAGE_WORDS - 64
LAYOUT: Final = 2
_MAGIC: Final = int.from_bytes(b"sercalls", "little")
_MAGIC_AT: Final = 0
_LAYOUT_AT: Final = 1
_SLABS_AT: Final = 2
_RECORDS_AT: Final = 3
_MARK_AT: Final = 4
_SINCE_AT: Final = 5
_USED_AT: Final = 64

# Words of the head.
SEQUENCE: Final = 0
KEY: Final = 1
BEGAN: Final = 2  # when it was made << 31 | when it was answered, 0 = not yet
LASTS: Final = 3  # when the last message came << 31 | when it is forgotten
META: Final = 4  # state | kind << 4 | flags << 8 | (slot of the next record + 1) << 24
SERIAL: Final = 5
LIMITS: Final = 6  # two numbers of what the call counts for
CALLER: Final = 8  # the sides: the caller, then the legs
SIDE: Final = 6
LEGS: Final = 4
LEG: Final = CALLER + SIDE
TEXT: Final = LEG + LEGS * SIDE
TEXT_SIZE: Final = RECORD - TEXT * 8
CALL_ID_HEAD: Final = 24  # bytes of the Call-ID that say whose it is; they begin the text

# Words of a side.
TAG: Final = 0
CONTACT: Final = 1
BEFORE: Final = 2  # the Contact before this one
HOP: Final = 3  # address << 30 | first Route of its set
HOSTS: Final = 4  # host it sends from << 30 | host in its Contact
INFO: Final = 5  # flags

# Instants are whole seconds since this one, 31 bits.
EPOCH: Final = 1_577_836_800  # 2020-01-01
TIME_BITS: Final = 31
TIME_MASK: Final = (1 << TIME_BITS) - 1

# States.
FREE: Final = 0
RINGING: Final = 1
ANSWERED: Final = 2
ENDED: Final = 3
STATE: Final = 15
# Kinds.
KIND: Final = 15 << 4
INVITE: Final = 1
SUBSCRIBE: Final = 2
REFER: Final = 3
MORE: Final = 15
# Flags of a record, as they stand in META.
NAMED: Final = 1 << 8  # the caller has proved who they are
SUBSCRIBED: Final = 1 << 9  # a subscription lives in the dialog of the call
MORE_SHIFT: Final = 24

SWEEP: Final = 3  # records looked at for each that is made: all are seen before a third of them is new
ROOM: Final = 64  # records looked at to make room in a full slab

_SIDE: Final = struct.Struct("=6Q")
# The head, the caller, the first leg, the other legs, text. What is x becomes 0.
_WHOLE: Final = struct.Struct(f"=6Q16xQQ8x3Q24x3Q{8 * SIDE * (LEGS - 1)}x{TEXT_SIZE}s")
assert _WHOLE.size == RECORD

Owner = Callable[[bytes, int], int]
"""(first bytes of a Call-ID, receivers) -> index of the receiver."""


def stamp(wall: float) -> int:
    """*wall*, Unix time, as it is kept."""
    return max(0, min(int(wall) - EPOCH, TIME_MASK))


class CallTable:
    """*slabs* slabs of *records* records in *memory*. ``words`` is all of it; a record is named by its first word."""

    def __init__(self, memory: mmap.mmap, slabs: int, records: int) -> None:
        self.slabs: Final = slabs
        self.records: Final = records
        self.words: Final = memoryview(memory).cast("Q")
        self._bytes: Final = memoryview(memory)
        self._index: Final[dict[int, int]] = {}
        self._free: Final[list[int]] = []
        self._slab = -1
        self._first = 0  # first word of our own slab
        self._used = 0
        self._hand = 0
        self.on_free: Callable[[int], None] | None = None  # told of a record that is about to go

    @property
    def since(self) -> int:
        """When the memory was made: Unix time."""
        return int(self.words[_SINCE_AT])

    @property
    def count(self) -> int:
        """How many calls this process has in its slab."""
        return len(self._index)

    @property
    def fill(self) -> int:
        """Per cent of our slab that hold something."""
        return (self._used - len(self._free)) * 100 // self.records

    def attach(self, slab: int, now: int) -> int:
        """Be the one who writes *slab*: index what is in it, free what has expired or is torn. How many calls are there."""
        self._slab = slab
        self._first = PAGE_WORDS + slab * self.records * WORDS
        self._index.clear()
        self._free.clear()
        self._used = min(int(self.words[_USED_AT + slab]), self.records)
        linked = self._index_records(now)
        for slot in range(self._used - 1, -1, -1):
            at = self._first + slot * WORDS
            if at not in linked and (not self.words[at + KEY] or self._kind(at) == MORE):
                self._wipe(at)
                self._free.append(slot)
        return len(self._index)

    def _index_records(self, now: int) -> set[int]:
        """Index the whole and living records; the first words of those they go on in."""
        linked: set[int] = set()
        for slot in range(self._used):
            at = self._first + slot * WORDS
            key = int(self.words[at + KEY])
            if not key or self._kind(at) == MORE:
                continue
            if self.words[at] & 1 or self.expires(at) < now or key in self._index:
                self._wipe(at)
                continue
            self._index[key] = at
            following = self.more(at)
            while following >= 0 and following not in linked and self._kind(following) == MORE:
                linked.add(following)
                following = self.more(following)
        return linked

    def is_own(self, at: int) -> bool:
        """True for a record of our slab."""
        return self._slab >= 0 and self._first <= at < self._first + self.records * WORDS

    # -- records

    def find(self, key: int, now: int) -> int:
        """The record of *key*, -1 when there is none or it has expired."""
        at = self._index.get(key, -1)
        if at >= 0 and int(self.words[at + LASTS]) & TIME_MASK < now:
            self.remove(at)
            return -1
        return at

    def make(self, key: int, now: int) -> int:
        """A record for *key*, to be described at once. -1 when there is no room (or *key* is taken)."""
        if self._slab < 0 or key in self._index:
            return -1
        self._sweep(now)
        at = self._take()
        if at >= 0:
            self._index[key] = at
        return at

    def write_side(self, side: int, tag: int, contact: int, hop: int, hosts: int, info: int) -> None:
        """Describe a side that is new."""
        _SIDE.pack_into(self._bytes, side * 8, tag, contact, 0, hop, hosts, info)

    def describe(
        self, at: int, key: int, now: int, expires: int, meta: int, serial: int,
        tag: int, contact: int, hop: int, hosts: int, info: int,
        leg_hop: int, leg_hosts: int, leg_info: int, text: bytes,
    ) -> None:  # fmt: skip
        """Write all of a record: its head, its caller, its first branch, text for people (cut at TEXT_SIZE). It is not
        complete before ``done``.
        """
        moment = now << TIME_BITS
        _WHOLE.pack_into(
            self._bytes, at * 8, 1, key, moment, moment | expires, meta, serial,
            tag, contact, hop, hosts, info, leg_hop, leg_hosts, leg_info, text,
        )  # fmt: skip

    def done(self, at: int) -> None:
        """The record is complete."""
        self.words[at] = 2

    def add_more(self, at: int) -> int:
        """A record that the legs of *at* go on in; -1 when there is no room."""
        following = self._take()
        if following < 0:
            return -1
        words = self.words
        words[following + KEY] = words[at + KEY]
        words[following + META] = MORE << 4
        words[at + META] |= ((following - self._first) // WORDS + 1) << MORE_SHIFT
        return following

    def remove(self, at: int) -> None:
        """Free the record and those it goes on in."""
        if self.on_free is not None:
            self.on_free(at)
        self._index.pop(int(self.words[at + KEY]), None)
        following = at
        while following >= 0:
            gone = following
            following = self.more(gone)
            self._wipe(gone)
            self._free.append((gone - self._first) // WORDS)

    def _take(self) -> int:
        """The first word of a free record, wiped; -1 when there is none."""
        if self._free:
            return self._first + self._free.pop() * WORDS
        if self._used >= self.records:
            return -1
        at = self._first + self._used * WORDS
        self._wipe(at)
        self._used += 1
        self.words[_USED_AT + self._slab] = self._used
        return at

    def _wipe(self, at: int) -> None:
        self._bytes[at * 8 : at * 8 + RECORD] = _EMPTY

    def _sweep(self, now: int) -> None:
        """Free what has expired among the next few records."""
        words = self.words
        for _ in range(SWEEP):
            if self._hand >= self._used:
                self._hand = 0
            at = self._first + self._hand * WORDS
            self._hand += 1
            # Of a free record, and of one that another goes on in, it is 0.
            if 0 < int(words[at + LASTS]) & TIME_MASK < now:
                self.remove(at)

    def sweep_all(self, now: int) -> None:
        """Free everything of ours that has expired."""
        for at in list(self._index.values()):
            if int(self.words[at + LASTS]) & TIME_MASK < now:
                self.remove(at)

    def make_room(self) -> bool:
        """Remove a ringing call of somebody unknown, else one that has ended; False when none is found soon."""
        ended = -1
        for _ in range(min(ROOM, self._used)):
            if self._hand >= self._used:
                self._hand = 0
            at = self._first + self._hand * WORDS
            self._hand += 1
            meta = int(self.words[at + META])
            if meta & STATE == RINGING and not meta & NAMED and not self._is_more(at):
                self.remove(at)
                return True
            if meta & STATE == ENDED:
                ended = at
        if ended >= 0:
            self.remove(ended)
        return ended >= 0

    def _kind(self, at: int) -> int:
        return int(self.words[at + META]) >> 4 & 15

    def _is_more(self, at: int) -> bool:
        return self._kind(at) == MORE

    def more(self, at: int) -> int:
        """The record that *at* goes on in, -1 = none."""
        slot = int(self.words[at + META]) >> MORE_SHIFT
        return self._first + (slot - 1) * WORDS if 0 < slot <= self.records else -1

    def expires(self, at: int) -> int:
        """When *at* is forgotten."""
        return int(self.words[at + LASTS]) & TIME_MASK

    # -- text for people

    def read_text(self, at: int) -> bytes:
        """The text of a record."""
        start = (at + TEXT) * 8
        return bytes(self._bytes[start : start + TEXT_SIZE]).rstrip(b"\0")

    # -- from outside

    def all(self) -> Iterator[int]:
        """Every whole record of every slab, except those that others go on in; each is to be read at once."""
        words = self.words
        for slab in range(self.slabs):
            first = PAGE_WORDS + slab * self.records * WORDS
            for slot in range(min(int(words[_USED_AT + slab]), self.records)):
                at = first + slot * WORDS
                if words[at + KEY] and not words[at] & 1 and not self._is_more(at):
                    yield at

    def following(self, at: int) -> int:
        """As ``more``, for a record of any slab."""
        slot = int(self.words[at + META]) >> MORE_SHIFT
        first = at - (at - PAGE_WORDS) % (self.records * WORDS)
        return first + (slot - 1) * WORDS if 0 < slot <= self.records else -1


_EMPTY: Final = bytes(RECORD)


# -- the file


def in_memory(slabs: int, records: int, now: float) -> CallTable:
    """A table that ends with the server."""
    return _fresh(mmap.mmap(-1, _size(slabs, records)), slabs, records, 0, now)


def open_file(path: str, slabs: int, records: int, mark: int, owner: Owner, now: float) -> CallTable:
    """The table in the file *path*, made or sorted again when it is not as wanted. *mark* is of who may read it: what has
    another one is thrown away. Raises OSError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size >= PAGE_WORDS * 8:
            old = mmap.mmap(handle, size)
            if _is_ours(old, size, mark):
                words = memoryview(old).cast("Q")
                found = int(words[_SLABS_AT]), int(words[_RECORDS_AT])
                if found == (slabs, records):
                    return CallTable(old, slabs, records)
                return _sorted_again(path, CallTable(old, *found), (slabs, records), mark, owner, now)
        return _fresh(_map(handle, slabs, records), slabs, records, mark, now)
    finally:
        os.close(handle)


def _size(slabs: int, records: int) -> int:
    return PAGE_WORDS * 8 + slabs * records * RECORD


def _map(handle: int, slabs: int, records: int) -> mmap.mmap:
    size = _size(slabs, records)
    os.ftruncate(handle, 0)
    # Not only promised: a page that cannot be had when it is touched would kill the process.
    os.posix_fallocate(handle, 0, size)
    return mmap.mmap(handle, size)


def _fresh(memory: mmap.mmap, slabs: int, records: int, mark: int, now: float) -> CallTable:
    words = memoryview(memory).cast("Q")
    words[_LAYOUT_AT] = LAYOUT
    words[_SLABS_AT] = slabs
    words[_RECORDS_AT] = records
    words[_MARK_AT] = mark
    words[_SINCE_AT] = int(now)
    words[_MAGIC_AT] = _MAGIC
    return CallTable(memory, slabs, records)


def _is_ours(memory: mmap.mmap, size: int, mark: int) -> bool:
    words = memoryview(memory).cast("Q")
    if words[_MAGIC_AT] != _MAGIC or words[_LAYOUT_AT] != LAYOUT or words[_MARK_AT] != mark:
        return False
    slabs, records = int(words[_SLABS_AT]), int(words[_RECORDS_AT])
    return 0 < slabs <= MAX_SLABS and 0 < records <= size // RECORD and _size(slabs, records) <= size


def _sorted_again(
    path: str, old: CallTable, geometry: tuple[int, int], mark: int, owner: Owner, now: float
) -> CallTable:
    """A new file with the records of *old* in the slabs of their owners; what does not fit is left out."""
    slabs, records = geometry
    beside = f"{path}.new"
    handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        table = _fresh(_map(handle, slabs, records), slabs, records, mark, float(old.since))
    finally:
        os.close(handle)
    moment = stamp(now)
    for at in old.all():
        if old.expires(at) >= moment:
            call_id = old.read_text(at)[:CALL_ID_HEAD].split(b"\0")[0]
            _copy(old, at, table, owner(call_id, slabs))
    os.replace(beside, path)  # noqa: PTH105 - the file's own functions, as above
    return table


def _copy(old: CallTable, at: int, new: CallTable, slab: int) -> None:
    """Copy a record and those it goes on in to *slab*, as far as there is room."""
    before = -1
    while at >= 0:
        used = int(new.words[_USED_AT + slab])
        if used >= new.records:
            return
        place = PAGE_WORDS + (slab * new.records + used) * WORDS
        new.words[place : place + WORDS] = old.words[at : at + WORDS]
        new.words[place + META] &= (1 << MORE_SHIFT) - 1
        new.words[_USED_AT + slab] = used + 1
        if before >= 0:
            new.words[before + META] |= (used + 1) << MORE_SHIFT
        before = place
        at = old.following(at)
