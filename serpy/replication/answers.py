"""The answering side of a repair, and the queue by which repair datagrams leave, a bounded number at a time.

Runs in: timer. Locks: none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from serpy.replication.messages import MOST_OFFERED, Range, Told
from serpy.replication.scan import Index

RECENT_MS: Final = 3000  # younger ones are on their way by multicast
MOST_REMOVED: Final = 20
PER_PULSE: Final = 12
PULSE_S: Final = 0.01
MOST_QUEUED: Final = 8192

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
        self.sent = 0

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
        for _ in range(min(PER_PULSE, len(self._queue))):
            self._send(*self._queue.popleft())
            self.sent += 1
        self._beating = bool(self._queue)
        if self._beating:
            self._call_later(PULSE_S, self._pulse)
