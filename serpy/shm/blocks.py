"""Blocks and buckets of the location table, with a lock per stripe of the hash; table.py is what others use of it.

A change writes the new record into fresh blocks and then swings one aligned 4-byte link, so a reader or a successor of a
killed writer always finds the old record or the new one whole. What death can leave behind is a wrong free list: each
stripe's sequence number is odd while it is being changed, and the next holder that meets an odd one rebuilds the free
list and the counts from what the buckets reach (``_repair``). A stripe owns its blocks, taken from the pool in chunks,
so an operation needs one lock.

    area:   heads | buckets u32 | chunk owners u16 | table names | blocks of 256 bytes
    block:  next:u32  then, in the first block of a record: next record:u32 tag:u32 size:u32 earliest expiry:i64 stamp:i64

Runs in: every process. Locks: its own stripes; then the pool (the last stripe). Constant time but for ``_repair``.
"""

import os
import struct
from typing import Final

from serpy.errors import ResourceError, UsageError
from serpy.shm import record as layout
from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment

BLOCK: Final = 256  # an ordinary binding with its key takes two
BLOCK_WORDS: Final = 64
HEAD: Final = 32  # header of a first block
HEAD_ROOM: Final = BLOCK - HEAD
MORE_ROOM: Final = BLOCK - 4
CHUNK: Final = 64  # blocks a stripe takes from the pool at once
RESERVE: Final = 16  # free blocks per stripe that new AoRs never get, so that refreshes always find room
MAX_STRIPES: Final = 256
MAX_TABLES: Final = 64
MAX_TABLE_NAME: Final = 48
SMALLEST: Final = 128 * 1024

# words of a stripe's head (8 bytes each)
SEQUENCE: Final = 0
FREE: Final = 1  # first free block
FREE_COUNT: Final = 2
USERS: Final = 3
CONTACTS: Final = 4
EXPIRED: Final = 5  # contacts dropped by expire(), ever
REPAIRS: Final = 6
STAMP: Final = 7
HEAD_WORDS: Final = 8

HASH_BITS: Final = (1 << 62) - 1

_HEADER: Final = struct.Struct("IIIIqq")  # next block, next record, tag, size, earliest, stamp
_RECORD: Final = struct.Struct("IIIIqqHH")  # the same, then what a record starts with: key length, bindings
_STRIPE: Final = struct.Struct("7q")  # the words of a stripe's head after the sequence number

LOADING: Final = 0
LOADED: Final = 1


class Blocks:
    """What lies where, and how a record gets there, made by the master in *segment* with at most *size* bytes."""

    def __init__(self, segment: Segment, size: int, name: str) -> None:
        if size < SMALLEST:
            raise ResourceError(
                f"{size // 1024} KiB are too little for the location table; start with a larger -m (MiB)"
            )
        area = segment.allocate(name, size)
        stripes = MAX_STRIPES
        while stripes > 1 and size // (stripes * CHUNK * BLOCK) < 16:
            stripes //= 2
        buckets = stripes
        while buckets < size // BLOCK // 4:
            buckets *= 2
        self.stripes: Final = stripes
        self.buckets: Final = buckets
        heads_size = _round((stripes + 1) * HEAD_WORDS * 8, BLOCK)
        buckets_size = _round(buckets * 4, BLOCK)
        owners_size = _round(size // (CHUNK * BLOCK) * 2 + 2, BLOCK)
        names_size = MAX_TABLES * 64
        self._buckets_at: Final = heads_size // 4  # in words
        self._owners_at: Final = (heads_size + buckets_size) // 2  # in half words
        self._names_at: Final = heads_size + buckets_size + owners_size  # in bytes
        # Block 0 is never used, 0 means "none"; blocks start at an offset all views can express.
        self._blocks_at: Final = self._names_at + names_size
        self.chunks: Final = (size - self._blocks_at - BLOCK) // (CHUNK * BLOCK)
        if self.chunks < 1:
            raise ResourceError("no room for blocks in the location table; start with a larger -m (MiB)")
        self._area: Final = area
        self._map: Final = segment.map
        self._origin: Final = segment.areas()[name][0]
        self._bytes_at: Final = self._origin + self._blocks_at  # of block 0 in the mapping
        self._words: Final = area[: size // 8 * 8].cast("I")
        self._quads: Final = area[: size // 8 * 8].cast("q")
        self._halves: Final = area[: size // 8 * 8].cast("H")
        self._first_word: Final = self._blocks_at // 4  # word of block 0
        self._shift: Final = (buckets // stripes).bit_length() - 1
        self._mask: Final = buckets - 1
        self._pool: Final = stripes * HEAD_WORDS  # quad: next chunk of the pool
        self._lock: Final = StripedLock(segment, name, stripes + 1)
        self._seed: Final = os.urandom(16)  # inherited by every child: the same hash everywhere, unknown to peers
        self._ids: Final[dict[str, int]] = {}

    # -- table names -------------------------------------------------------------------------------------------------

    def table_id(self, name: str) -> int:
        """Return the number of table *name*, known to every process; a new one starts as LOADING."""
        number = self._ids.get(name)
        if number is not None:
            return number
        wanted = name.encode("utf-8", "surrogateescape")
        if not 0 < len(wanted) <= MAX_TABLE_NAME:
            raise UsageError(f"location table name {name!r}")
        self._lock.acquire(self.stripes)
        try:
            number = self._name_slot(wanted.ljust(MAX_TABLE_NAME, b"\0"))
        finally:
            self._lock.release(self.stripes)
        if number < 0:
            raise ResourceError(f"more than {MAX_TABLES} location tables")
        self._ids[name] = number
        return number

    def _name_slot(self, wanted: bytes) -> int:
        for number in range(MAX_TABLES):
            start = self._names_at + number * 64 + 16
            stored = self._area[start : start + MAX_TABLE_NAME]
            if stored == wanted:
                return number
            if stored[0] == 0:
                stored[:] = wanted
                return number
        return -1

    def tables(self) -> list[str]:
        """The names of all tables, by number."""
        names: list[str] = []
        for number in range(MAX_TABLES):
            start = self._names_at + number * 64 + 16
            stored = self._area[start : start + MAX_TABLE_NAME].tobytes().rstrip(b"\0")
            if not stored:
                break
            names.append(stored.decode("utf-8", "surrogateescape"))
        return names

    def is_loaded(self, table: int) -> bool:
        """False while rows of *table* may be in the database and not here."""
        return self._quads[self._names_at // 8 + table * 8] == LOADED

    def set_loaded(self, table: int, loaded: bool) -> None:
        """Say whether all rows of *table* are here."""
        self._quads[self._names_at // 8 + table * 8] = LOADED if loaded else LOADING

    # -- inside a stripe: the caller holds its lock --------------------------------------------------------------------

    def _enter(self, stripe: int) -> None:
        """Take the lock of *stripe* and repair what a dead holder left half done."""
        self._lock.acquire(stripe)
        if self._quads[stripe * HEAD_WORDS] & 1:
            try:
                self._repair(stripe)
            except BaseException:
                self._lock.release(stripe)
                raise

    def _hash(self, key: bytes) -> int:
        # SipHash under this interpreter's secret, which children inherit; the seed makes up for a PYTHONHASHSEED
        return hash(self._seed + key) & HASH_BITS

    def _find(self, bucket: int, tag: int, key: bytes) -> int:
        """Return the word that links to the record of *key*: the link of the last record when there is none."""
        words = self._words
        link = self._buckets_at + bucket
        head: int = words[link]
        while head != 0:
            at = self._first_word + head * BLOCK_WORDS
            if words[at + 2] == tag and self._key_matches(head, key):
                return link
            link = at + 1
            head = words[link]
        return link

    def _key_matches(self, head: int, key: bytes) -> bool:
        start = self._bytes_at + head * BLOCK + HEAD + layout.KEY_AT
        length = len(key)
        return (
            self._map[start : start + length] == key
            and self._halves[(self._blocks_at + head * BLOCK + HEAD) // 2] == length
        )

    def _stamp_of(self, head: int) -> int:
        return self._quads[(self._first_word + head * BLOCK_WORDS) // 2 + 3] if head != 0 else 0

    def _copy(self, head: int) -> bytes:
        """Return the record that starts in block *head*."""
        words = self._words
        at = self._first_word + head * BLOCK_WORDS
        left: int = words[at + 3]
        start = self._bytes_at + head * BLOCK
        if left <= HEAD_ROOM:
            return self._map[start + HEAD : start + HEAD + left]
        parts: list[bytes] = [self._map[start + HEAD : start + BLOCK]]
        left -= HEAD_ROOM
        block: int = words[at]
        while left > 0 and block != 0:
            start = self._bytes_at + block * BLOCK + 4
            parts.append(self._map[start : start + min(MORE_ROOM, left)])
            left -= MORE_ROOM
            if left > 0:
                block = words[self._first_word + block * BLOCK_WORDS]
        return b"".join(parts)

    def _change(self, stripe: int, link: int, head: int, raw: bytes, tag: int, earliest: int, count: int) -> None:
        """Put *raw* (b"" = nothing) in the place of record *head* (0 = none) that *link* leads to."""
        quads = self._quads
        base = stripe * HEAD_WORDS
        needed = blocks_for(len(raw)) if raw else 0
        had = following = old_count = 0
        if head != 0:
            _, following, _, size, _, _, _, old_count = _RECORD.unpack_from(self._map, self._bytes_at + head * BLOCK)
            had = blocks_for(size)
        sequence: int = quads[base]
        quads[base] = sequence + 1  # odd: from here to the end only a repair could make sense of the free list
        reserve = RESERVE if head == 0 else RESERVE // 2 if needed > had else 0
        if needed and not self._make_room(stripe, needed, reserve):
            quads[base] = sequence + 2
            raise ResourceError("the location table is full; start with a larger -m (MiB)")
        at = self._origin + base * 8 + 8
        free, free_count, users, contacts, expired, repairs, stamp = _STRIPE.unpack_from(self._map, at)
        fresh: int = following
        if needed:
            fresh = free
            stamp += 1
            free = self._write(fresh, raw, needed, following, tag, earliest, stamp)
            free_count -= needed
        self._words[link] = fresh  # one store: before it the old record counts, after it the new one
        if head != 0:
            self._give_back(head, had, free)
            free = head
            free_count += had
        contacts += count - old_count
        users += (1 if count else 0) - (1 if old_count else 0)
        _STRIPE.pack_into(self._map, at, free, free_count, users, contacts, expired, repairs, stamp)
        quads[base] = sequence + 2

    def _write(self, head: int, raw: bytes, needed: int, following: int, tag: int, earliest: int, stamp: int) -> int:
        """Fill *needed* blocks of the free list, which starts with *head*, with *raw*; return the first block behind."""
        words = self._words
        start = self._bytes_at + head * BLOCK
        last = self._first_word + head * BLOCK_WORDS
        block: int = words[last]
        size = len(raw)
        _HEADER.pack_into(self._map, start, block if needed > 1 else 0, following, tag, size, earliest, stamp)
        if needed == 1:
            self._map[start + HEAD : start + HEAD + size] = raw
            return block
        self._map[start + HEAD : start + BLOCK] = raw[:HEAD_ROOM]
        done = HEAD_ROOM
        for _ in range(needed - 1):
            start = self._bytes_at + block * BLOCK + 4
            part = raw[done : done + MORE_ROOM]
            self._map[start : start + len(part)] = part
            done += MORE_ROOM
            last = self._first_word + block * BLOCK_WORDS
            block = words[last]
        words[last] = 0
        return block

    def _give_back(self, head: int, count: int, free: int) -> None:
        """Link the *count* blocks of record *head* in front of the free list that starts with *free*."""
        last = self._first_word + head * BLOCK_WORDS
        for _ in range(count - 1):
            last = self._first_word + self._words[last] * BLOCK_WORDS
        self._words[last] = free

    def _make_room(self, stripe: int, needed: int, reserve: int) -> bool:
        """True when *needed* blocks are free with *reserve* left over, after taking chunks from the pool if need be."""
        base = stripe * HEAD_WORDS
        # new records keep a whole reserve below them, so the pool is asked before the last block is gone
        while self._quads[base + FREE_COUNT] < needed + RESERVE:
            if not self._take_chunk(stripe):
                break
        return bool(self._quads[base + FREE_COUNT] >= needed + reserve)

    def _take_chunk(self, stripe: int) -> bool:
        """Move one chunk from the pool to the free list of *stripe*; False when the pool is empty."""
        self._lock.acquire(self.stripes)
        try:
            chunk: int = self._quads[self._pool]
            if chunk >= self.chunks:
                return False
            # The owner first: who dies between the two stores has taken nothing, see _repair.
            self._halves[self._owners_at + chunk] = stripe + 1
            self._quads[self._pool] = chunk + 1
        finally:
            self._lock.release(self.stripes)
        base = stripe * HEAD_WORDS
        first = 1 + chunk * CHUNK
        following: int = self._quads[base + FREE]
        for block in range(first + CHUNK - 1, first - 1, -1):
            self._words[self._first_word + block * BLOCK_WORDS] = following
            following = block
        self._quads[base + FREE] = first
        self._quads[base + FREE_COUNT] += CHUNK
        return True

    # -- repair ------------------------------------------------------------------------------------------------------

    def _repair(self, stripe: int) -> None:
        """Rebuild free list and counts of *stripe* from the records its buckets reach.

        Links are stored whole and only after what they lead to, so death never breaks one. If one is broken all the
        same, the chain is cut there and every table is marked LOADING: the rows come back from the database.
        """
        owned = self._owned_blocks(stripe)
        users = contacts = 0
        lost = False
        per_stripe = 1 << self._shift
        for bucket in range(stripe * per_stripe, (stripe + 1) * per_stripe):
            link = self._buckets_at + bucket
            head: int = self._words[link]
            while head != 0:
                count = self._claim(head, owned)
                if count < 0:
                    self._words[link] = 0
                    lost = True
                    break
                contacts += count
                users += 1 if count else 0
                link = self._first_word + head * BLOCK_WORDS + 1
                head = self._words[link]
        self._rebuild_free_list(stripe, owned)
        base = stripe * HEAD_WORDS
        self._quads[base + USERS] = users
        self._quads[base + CONTACTS] = contacts
        self._quads[base + REPAIRS] += 1
        # The dead writer may have linked a record with the next stamp: it must never be given to another one.
        self._quads[base + STAMP] += 1
        if lost:
            for number in range(MAX_TABLES):
                self.set_loaded(number, False)
        self._quads[base] += 1

    def _owned_blocks(self, stripe: int) -> set[int]:
        self._lock.acquire(self.stripes)
        try:
            taken: int = self._quads[self._pool]
            owners: list[int] = self._halves[self._owners_at : self._owners_at + taken].tolist()
        finally:
            self._lock.release(self.stripes)
        owned: set[int] = set()
        for chunk, owner in enumerate(owners):
            if owner == stripe + 1:
                owned.update(range(1 + chunk * CHUNK, 1 + (chunk + 1) * CHUNK))
        return owned

    def _claim(self, head: int, free: set[int]) -> int:
        """Take the blocks of record *head* out of *free*; return its number of bindings, -1 when it is not intact."""
        if head not in free:
            return -1
        size: int = self._words[self._first_word + head * BLOCK_WORDS + 3]
        if not 0 < size <= layout.MAX_RECORD:
            return -1
        chain: list[int] = [head]
        for _ in range(blocks_for(size) - 1):
            block: int = self._words[self._first_word + chain[-1] * BLOCK_WORDS]
            if block not in free:
                return -1
            chain.append(block)
        try:
            count = len(layout.decode(self._copy(head), ""))
        except ValueError:
            return -1
        free.difference_update(chain)
        return count

    def _rebuild_free_list(self, stripe: int, free: set[int]) -> None:
        following = 0
        for block in sorted(free, reverse=True):
            self._words[self._first_word + block * BLOCK_WORDS] = following
            following = block
        self._quads[stripe * HEAD_WORDS + FREE] = following
        self._quads[stripe * HEAD_WORDS + FREE_COUNT] = len(free)


def _round(size: int, step: int) -> int:
    return (size + step - 1) // step * step


def blocks_for(size: int) -> int:
    """How many blocks a record of *size* bytes takes."""
    return 1 if size <= HEAD_ROOM else 1 + (size - HEAD_ROOM + MORE_ROOM - 1) // MORE_ROOM
