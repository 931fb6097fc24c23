"""The location table: AoR records in shared memory, keyed by bytes: read, replaced, expired, walked. blocks.py says where they lie.

Runs in: every process. Locks: one stripe of its own at a time.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ResourceError
from serpy.shm import record as layout
from serpy.shm.blocks import (
    BLOCK,
    BLOCK_WORDS,
    CHUNK,
    CONTACTS,
    EXPIRED,
    FREE_COUNT,
    HEAD_WORDS,
    REPAIRS,
    USERS,
    Blocks,
)
from serpy.shm.record import Binding
from serpy.shm.segment import Segment


class Stats:
    """Sums over all stripes at about this instant."""

    def __init__(self, users: int, contacts: int, expired: int, repairs: int, used: int, size: int) -> None:
        self.users: Final = users
        self.contacts: Final = contacts
        self.expired: Final = expired  # since start
        self.repairs: Final = repairs  # stripes rebuilt after the death of a writer
        self.used: Final = used  # bytes in blocks that hold records
        self.size: Final = size  # bytes of all blocks


class LocationTable(Blocks):
    """The table, made by the master in *segment* with at most *size* bytes; the views are inherited over fork."""

    def __init__(self, segment: Segment, size: int, name: str = "location") -> None:
        super().__init__(segment, size, name)
        self._cursor = 0  # next bucket of expire(), of this process
        self.last_mark = 0  # change_mark() right after our own last replace()

    # -- operations --------------------------------------------------------------------------------------------------

    def key(self, table: int, uid: str) -> bytes:
        """Return the key of *uid* in *table*."""
        return bytes((table,)) + uid.encode("utf-8", "surrogateescape")

    def read(self, key: bytes, uid: str) -> tuple[list[Binding], int]:
        """Return the bindings of *key* in the order they were written, and the record's stamp (0 = no record)."""
        number = self._hash(key)
        bucket = number & self._mask
        stripe = bucket >> self._shift
        raw = b""
        stamp = 0
        self._enter(stripe)
        try:
            link = self._find(bucket, number >> 32, key)
            head: int = self._words[link]
            if head != 0:
                raw = self._copy(head)
                stamp = self._quads[(self._first_word + head * BLOCK_WORDS) // 2 + 3]
        finally:
            self._lock.release(stripe)
        if stamp == 0:
            return [], 0
        return layout.decode(raw, uid), stamp

    def replace(self, key: bytes, bindings: list[Binding], expected: int, keep_empty: bool = False) -> bool:
        """Make *bindings* all that *key* has, provided its stamp is still *expected*; False (nothing changed) if not.

        Without bindings the record goes, unless *keep_empty*. Raises ResourceError when there is no room (a change
        that needs no more blocks than before always has room), LimitExceededError for oversized values.
        """
        keep = bool(bindings) or keep_empty
        raw = layout.encode(key, bindings) if keep else b""
        number = self._hash(key)
        bucket = number & self._mask
        stripe = bucket >> self._shift
        self._enter(stripe)
        try:
            link = self._find(bucket, number >> 32, key)
            head: int = self._words[link]
            if self._stamp_of(head) != expected:
                return False
            if head == 0 and not keep:
                return True
            self._change(stripe, link, head, raw, number >> 32, layout.earliest(bindings), len(bindings))
        finally:
            self.last_mark = self._quads[stripe * HEAD_WORDS]
            self._lock.release(stripe)
        return True

    def change_mark(self, key: bytes) -> int:
        """A number that is the same only while nothing in the stripe of *key* has changed. Takes no lock."""
        stripe = (self._hash(key) & self._mask) >> self._shift
        return int(self._quads[stripe * HEAD_WORDS])

    # -- walking -----------------------------------------------------------------------------------------------------

    def expire(self, wall_now: float, max_buckets: int) -> list[tuple[str, Binding]]:
        """Drop what has expired in the next *max_buckets* buckets; return (table, binding) of each.

        Buckets are first looked at without a lock: a torn look can only be wrong for one round, and the drop itself
        happens under the lock.
        """
        dropped: list[tuple[str, Binding]] = []
        tables = self.tables()
        left = min(max_buckets, self.buckets)
        while left > 0:
            start = self._cursor
            # never beyond the stripe, so that one look repairs what a dead writer left in it
            stop = min(start + left, ((start >> self._shift) + 1) << self._shift)
            if self._quads[(start >> self._shift) * HEAD_WORDS] & 1:
                self._enter(start >> self._shift)
                self._lock.release(start >> self._shift)
            heads: list[int] = self._words[self._buckets_at + start : self._buckets_at + stop].tolist()
            for offset, head in enumerate(heads):
                if head != 0 and self._looks_due(head, wall_now):
                    self._expire_bucket(start + offset, wall_now, tables, dropped)
            left -= stop - start
            self._cursor = stop & self._mask
        return dropped

    def page(self, start: int, max_buckets: int) -> tuple[list[tuple[str, str, list[Binding]]], int]:
        """Return (table, uid, bindings) of the records in *max_buckets* buckets from *start*, and where to go on (-1 =
        all seen). Each bucket is consistent in itself.
        """
        found: list[tuple[str, str, list[Binding]]] = []
        tables = self.tables()
        stop = min(start + max_buckets, self.buckets)
        for bucket in range(start, stop):
            if self._words[self._buckets_at + bucket] == 0:
                continue
            for raw in self._bucket_records(bucket):
                key = layout.key_of(raw)
                uid = key[1:].decode("utf-8", "surrogateescape")
                found.append((tables[key[0]], uid, layout.decode(raw, uid)))
        return found, stop if stop < self.buckets else -1

    def stats(self) -> Stats:
        """Sums over the stripes, read without locks."""
        users = contacts = expired = repairs = free = 0
        for stripe in range(self.stripes):
            base = stripe * HEAD_WORDS
            users += self._quads[base + USERS]
            contacts += self._quads[base + CONTACTS]
            expired += self._quads[base + EXPIRED]
            repairs += self._quads[base + REPAIRS]
            free += self._quads[base + FREE_COUNT]
        taken = int(self._quads[self._pool]) * CHUNK
        return Stats(users, contacts, expired, repairs, (taken - free) * BLOCK, self.chunks * CHUNK * BLOCK)

    def contacts(self) -> int:
        """How many contacts there are at about this instant, read without locks."""
        total = 0
        for stripe in range(self.stripes):
            total += self._quads[stripe * HEAD_WORDS + CONTACTS]
        return total

    def is_lock_held(self) -> bool:
        """True when another process holds any of our locks at this instant (for tests and RPC)."""
        return any(self._lock.is_held(stripe) for stripe in range(self.stripes + 1))

    # -- expiry and copies ---------------------------------------------------------------------------------------------

    def _looks_due(self, head: int, wall_now: float) -> bool:
        """True when a record of the chain at *head* seems to have something to drop. Called without the lock."""
        limit = self.chunks * CHUNK
        for _ in range(64):
            if not 0 < head <= limit:
                return False
            at = self._first_word + head * BLOCK_WORDS
            if self._quads[at // 2 + 2] <= wall_now:
                return True
            head = self._words[at + 1]
        return True

    def _expire_bucket(
        self, bucket: int, wall_now: float, tables: list[str], dropped: list[tuple[str, Binding]]
    ) -> None:
        stripe = bucket >> self._shift
        before = len(dropped)
        self._enter(stripe)
        try:
            link = self._buckets_at + bucket
            head: int = self._words[link]
            while head != 0:
                at = self._first_word + head * BLOCK_WORDS
                if self._quads[at // 2 + 2] > wall_now or not self._expire_record(
                    stripe, link, head, wall_now, tables, dropped
                ):
                    # the record stays (perhaps rewritten): go on behind it
                    link = self._first_word + self._words[link] * BLOCK_WORDS + 1
                head = self._words[link]
            self._quads[stripe * HEAD_WORDS + EXPIRED] += len(dropped) - before
        finally:
            self._lock.release(stripe)

    def _expire_record(
        self, stripe: int, link: int, head: int, wall_now: float, tables: list[str], dropped: list[tuple[str, Binding]]
    ) -> bool:
        """Drop the expired bindings of record *head*; True when the whole record went."""
        raw = self._copy(head)
        key = layout.key_of(raw)
        bindings = layout.decode(raw, key[1:].decode("utf-8", "surrogateescape"))
        if not bindings and not self.is_loaded(key[0]):
            return False  # says "the database has nothing for this key" until all is loaded
        live: list[Binding] = []
        before = len(dropped)
        for binding in bindings:
            if binding.is_live(wall_now):
                live.append(binding)
            else:
                dropped.append((tables[key[0]], binding))
        tag: int = self._words[self._first_word + head * BLOCK_WORDS + 2]
        keep = bool(live) or not self.is_loaded(key[0])
        fresh = layout.encode(key, live) if keep else b""
        try:
            self._change(stripe, link, head, fresh, tag, layout.earliest(live), len(live))
        except ResourceError:  # no block for the copy: a later round finds some
            del dropped[before:]
            return False
        return not keep

    def _bucket_records(self, bucket: int) -> list[bytes]:
        stripe = bucket >> self._shift
        records: list[bytes] = []
        self._enter(stripe)
        try:
            head: int = self._words[self._buckets_at + bucket]
            while head != 0:
                records.append(self._copy(head))
                head = self._words[self._first_word + head * BLOCK_WORDS + 1]
        finally:
            self._lock.release(stripe)
        return records
