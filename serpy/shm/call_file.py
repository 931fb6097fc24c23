"""The file of the memory of calls: its layout, how it is opened, how anybody reads it. Who writes it is in ``calls``.

A record is 64 words of 8 bytes: the head, the caller's side and four legs (SIDE words each), text for people. Peers are
kept as numbers (``fingerprints``), so nobody's length costs memory. Word 0 is odd while a record is being made: readers
and the successor of a receiver that died meanwhile skip it. Another number of receivers, or of records, has them sorted
again when the file is opened. A call with more than four legs goes on in further records (kind MORE).

    file:  page (magic, layout, slabs, records, mark, since; from word 64 how many records of each slab were ever used)
           then slabs * records * 512 bytes

Runs in: master (open), udp receiver, ctl (reads). Locks: none.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from typing import Final

from serpy.shm.keys import words_of

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
USED_AT: Final = 64

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

Owner = Callable[[bytes, int], int]
"""(first bytes of a Call-ID, receivers) -> index of the receiver."""


def stamp(wall: float) -> int:
    """*wall*, Unix time, as it is kept."""
    return max(0, min(int(wall) - EPOCH, TIME_MASK))


class CallFile:
    """*slabs* slabs of *records* records in *memory*. ``words`` is all of it; a record is named by its first word."""

    def __init__(self, memory: mmap.mmap, slabs: int, records: int) -> None:
        self.slabs: Final = slabs
        self.records: Final = records
        self.words: Final = words_of(memoryview(memory))
        self.bytes: Final = memoryview(memory)

    @property
    def since(self) -> int:
        """When the memory was made: Unix time."""
        return int(self.words[_SINCE_AT])

    def first(self, slab: int) -> int:
        """The first word of *slab*."""
        return PAGE_WORDS + slab * self.records * WORDS

    def used(self, slab: int) -> int:
        """How many records of *slab* have ever been used: the first so many."""
        return max(0, min(int(self.words[USED_AT + slab]), self.records))

    def all(self) -> Iterator[int]:
        """Every whole record of every slab, except those that others go on in; each is to be read at once."""
        words = self.words
        for slab in range(self.slabs):
            first = self.first(slab)
            for slot in range(self.used(slab)):
                at = first + slot * WORDS
                if words[at + KEY] and not words[at] & 1 and self.kind(at) != MORE:
                    yield at

    def kind(self, at: int) -> int:
        """What *at* is the record of."""
        return int(self.words[at + META]) >> 4 & 15

    def following(self, at: int) -> int:
        """The record that *at* goes on in, -1 = none."""
        slot = int(self.words[at + META]) >> MORE_SHIFT
        first = at - (at - PAGE_WORDS) % (self.records * WORDS)
        return first + (slot - 1) * WORDS if 0 < slot <= self.records else -1

    def expires(self, at: int) -> int:
        """When *at* is forgotten."""
        return int(self.words[at + LASTS]) & TIME_MASK

    def read_text(self, at: int) -> bytes:
        """The text for people in a record."""
        start = (at + TEXT) * 8
        return bytes(self.bytes[start : start + TEXT_SIZE]).rstrip(b"\0")


def in_memory(slabs: int, records: int, now: float) -> CallFile:
    """A table that ends with the server."""
    return _fresh(mmap.mmap(-1, _size(slabs, records)), slabs, records, 0, now)


def open_file(path: str, slabs: int, records: int, mark: int, owner: Owner, now: float) -> CallFile:
    """The table in the file *path*, made or sorted again when it is not as wanted. *mark* is of who may read it: what has
    another one is thrown away. Raises OSError.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(handle).st_size
        if size >= PAGE_WORDS * 8:
            old = mmap.mmap(handle, size)
            if _is_ours(old, size, mark):
                words = words_of(memoryview(old))
                found = int(words[_SLABS_AT]), int(words[_RECORDS_AT])
                if found == (slabs, records):
                    return CallFile(old, slabs, records)
                return _sorted_again(path, CallFile(old, *found), (slabs, records), mark, owner, now)
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


def _fresh(memory: mmap.mmap, slabs: int, records: int, mark: int, now: float) -> CallFile:
    words = words_of(memoryview(memory))
    words[_LAYOUT_AT] = LAYOUT
    words[_SLABS_AT] = slabs
    words[_RECORDS_AT] = records
    words[_MARK_AT] = mark
    words[_SINCE_AT] = int(now)
    words[_MAGIC_AT] = _MAGIC
    return CallFile(memory, slabs, records)


def _is_ours(memory: mmap.mmap, size: int, mark: int) -> bool:
    words = words_of(memoryview(memory))
    if words[_MAGIC_AT] != _MAGIC or words[_LAYOUT_AT] != LAYOUT or words[_MARK_AT] != mark:
        return False
    slabs, records = int(words[_SLABS_AT]), int(words[_RECORDS_AT])
    return 0 < slabs <= MAX_SLABS and 0 < records <= size // RECORD and _size(slabs, records) <= size


def _sorted_again(path: str, old: CallFile, geometry: tuple[int, int], mark: int, owner: Owner, now: float) -> CallFile:
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


def _copy(old: CallFile, at: int, new: CallFile, slab: int) -> None:
    """Copy a record and those it goes on in to *slab*, as far as there is room."""
    before = -1
    while at >= 0:
        used = int(new.words[USED_AT + slab])
        if used >= new.records:
            return
        place = PAGE_WORDS + (slab * new.records + used) * WORDS
        new.words[place : place + WORDS] = old.words[at : at + WORDS]
        new.words[place + META] &= (1 << MORE_SHIFT) - 1
        new.words[USED_AT + slab] = used + 1
        if before >= 0:
            new.words[before + META] |= (used + 1) << MORE_SHIFT
        before = place
        at = old.following(at)
