"""The answering side of a repair, and the queue by which repair datagrams leave, a bounded number at a time.

Questions are answered from an index of a few seconds ago. Without one they wait for a look at the table, all for the same.

Runs in: timer. Locks: none of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.replication import messages
from serpy.replication.merge import milliseconds
from serpy.replication.messages import MOST_OFFERED, Range, Told
from serpy.replication.scan import Entry, Index, Scanner, start

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.replication.counters import Tally
    from serpy.replication.store import Store

RECENT_MS: Final = 3000  # younger ones are on their way by multicast
MOST_REMOVED: Final = 20
PER_PULSE: Final = 12
PULSE_S: Final = 0.01
MOST_QUEUED: Final = 8192
INDEX_AGE_S: Final = 5.0  # how old an index may be from which is asked and answered
GATHER_S: Final = 0.01  # more questions come right behind the first
MOST_ASKED: Final = 16384  # ranges that wait for a look at the table; what is dropped is asked again

SendFrame = Callable[[int, bytes, tuple[str, int]], bool]


def answer(
    asked: Range, index: Index, removed: dict[int, int], now_ms: int, delay_ms: int
) -> tuple[Told, list[int]]:  # fmt: skip
    """What to tell about a range somebody *asked* about, and the hashes of the entries to send. *index* holds ours,
    *removed* what was removed here lately.
    """
    ours = index.entries.get(asked.bucket, {})
    theirs = set(asked.hashes)
    missing = [
        entry
        for entry, known in ours.items()
        if asked.low <= entry <= asked.high and entry not in theirs and abs(now_ms - known.modified_ms) > RECENT_MS
    ]
    wanted: list[int] = []
    gone: list[tuple[int, int]] = []
    for entry in asked.hashes:
        if entry in ours:
            continue
        when = removed.get(entry)
        if when is None:
            wanted.append(entry)
        elif len(gone) < MOST_REMOVED:
            gone.append((entry, when))
    offered = missing[:MOST_OFFERED]
    return Told(asked.bucket, asked.low, asked.high, len(missing), delay_ms, wanted, gone), offered


class Outbox:
    """Datagrams to single servers, PER_PULSE every PULSE_S; what does not fit is dropped and asked for again."""

    def __init__(self, send: SendFrame, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._send: Final = send
        self._call_later: Final = call_later
        self._queue: Final[deque[tuple[int, bytes, tuple[str, int]]]] = deque()
        self._beating = False

    def put(self, kind: int, payload: bytes, address: tuple[str, int]) -> None:
        """Send when its turn comes."""
        if len(self._queue) >= MOST_QUEUED:
            return
        self._queue.append((kind, payload, address))
        if not self._beating:
            self._beating = True
            self._call_later(0.0, self._pulse)

    def delay_ms(self) -> int:
        """How long what is put now will wait."""
        return round(len(self._queue) / PER_PULSE * PULSE_S * 1000)

    def _pulse(self) -> None:
        try:
            for _ in range(min(PER_PULSE, len(self._queue))):
                self._send(*self._queue.popleft())
        finally:  # a bug in sending one loses that one
            self._beating = bool(self._queue)
            if self._beating:
                self._call_later(PULSE_S, self._pulse)


class Answers:
    """Answers questions, and sends the bindings that either side of a repair owes the other."""

    def __init__(self, loop: Loop, scanner: Scanner, store: Store, tally: Tally, outbox: Outbox) -> None:
        self._loop: Final = loop
        self._scanner: Final = scanner
        self._store: Final = store
        self._tally: Final = tally
        self._outbox: Final = outbox
        self.index = Index(set(), -INDEX_AGE_S)
        self._asked: Final[dict[tuple[tuple[str, int], int, int, int], Range]] = {}
        self._is_looking = False

    def take(self, payload: bytes, address: tuple[str, int]) -> None:
        """Answer a question, soon. Raises ValueError."""
        number, ranges = messages.parse_ask(payload)
        is_fresh = self._loop.now() - self.index.made_at < INDEX_AGE_S
        if is_fresh and self.index.buckets.issuperset([each.bucket for each in ranges]):
            self._answer(number, ranges, address)
            return
        if len(self._asked) < MOST_ASKED:
            for each in ranges:  # asked again while we were looking: the newest counts
                self._asked[address, number, each.bucket, each.low] = each
        if not self._is_looking:
            self._is_looking = True
            start(self._loop, self._look)

    def _look(self) -> None:
        """Read the table for all who have asked by the end of it."""
        try:
            self._loop.sleep(GATHER_S)
            wanted = {each.bucket for each in self._asked.values()}
            if self._loop.now() - self.index.made_at < 4 * INDEX_AGE_S:
                wanted |= self.index.buckets
            self.index = self._scanner.scan(wanted, soon=True).index
            askers: dict[tuple[tuple[str, int], int], list[Range]] = {}
            for (address, number, bucket, _), each in self._asked.items():
                if bucket in self.index.buckets:
                    askers.setdefault((address, number), []).append(each)
            for (address, number), ranges in askers.items():
                self._answer(number, ranges, address)
        finally:
            self._is_looking = False
            self._asked.clear()

    def _answer(self, number: int, ranges: list[Range], address: tuple[str, int]) -> None:
        wall_now = self._loop.wall_now()
        removed = self._store.removed_entries(wall_now)
        answers: list[Told] = []
        offered: list[tuple[int, Entry]] = []
        for asked in ranges:
            told, entries = answer(asked, self.index, removed, milliseconds(wall_now), self._outbox.delay_ms())
            answers.append(told)
            ours = self.index.entries[asked.bucket] if entries else {}
            offered.extend((entry, ours[entry]) for entry in entries)
        for payload in messages.build_tell(number, answers):
            self.put(messages.TELL, payload, address)
        self.offer(offered, address, messages.SHOWN if number & messages.DRY else messages.BINDINGS)

    def offer(self, entries: list[tuple[int, Entry]], address: tuple[str, int], kind: int) -> None:
        """Send the bindings behind *entries*, as they are now."""
        wall_now = self._loop.wall_now()
        records: list[bytes] = []
        for entry, known in entries:
            binding = self._store.find(known.table, known.uid, entry)
            if binding is not None:
                records.append(messages.build_binding(known.table, binding, wall_now))
        self._tally.add("offered", len(records))
        for payload in messages.batches(record for record in records if record):
            self.put(kind, payload, address)

    def put(self, kind: int, payload: bytes, address: tuple[str, int]) -> None:
        """Send a datagram to one server when its turn comes."""
        self._tally.add("frames_sent")
        self._outbox.put(kind, payload, address)
