"""The asking side of a repair: which ranges of which buckets still differ from one other server, and what to ask next.

A range is asked about with the hashes of our entries; the answer says what we miss (it follows), what the other misses (we
send it) and what was removed there. A range is done when an answer finds nothing, or when all it promised has come. What
gets lost is asked again, as long as the ranges get smaller. Pure: the caller brings the time and sends.

Runs in: timer. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.replication.messages import ALL, DRY, MAX_HASHES, MOST_OFFERED, Range, Told
from serpy.replication.scan import Index

IN_FLIGHT: Final = 4000  # entries in the ranges that are asked about at once
FEWEST: Final = 32  # ranges
RETRY_S: Final = 0.8  # without an answer, at first; the other may have to read its table
SOONEST_S: Final = 0.25  # the same when it is known how quick the other is
SETTLE_S: Final = 0.3  # after the last of the bindings that an answer promised
GIVE_UP_S: Final = 6.0  # without progress
LONGEST_S: Final = 300.0  # a million bindings take half of it; what is left then is found by the next digest


class _Open:
    """One range that is not done."""

    def __init__(self, bucket: int, low: int, high: int) -> None:
        self.bucket: Final = bucket
        self.low: Final = low
        self.high: Final = high
        self.asked = False
        self.asked_at = 0.0
        self.ask_at = 0.0
        self.rest = -1  # entries that either side missed by the last answer, -1: it has not come
        self.promised = 0  # bindings that are to come; when they have come,
        self.is_all = False  # is that all?


class Session:
    """A conversation with the server at *address* about *buckets*. *index* holds our entries of them, kept up to date;
    *per_bucket* is about how many entries either has in a bucket.
    """

    def __init__(
        self, number: int, server_id: int, address: tuple[str, int], buckets: list[int], index: Index, now: float, *,
        dry: bool = False, per_bucket: int = 0,
    ) -> None:  # fmt: skip
        self.number: Final = number | DRY if dry else number
        self.server_id: Final = server_id
        self.address: Final = address
        self.index = index  # a session that lasts gets a fresh one now and then
        self.dry: Final = dry
        self.started: Final = now
        self.progress_at = now
        self.retry_s = RETRY_S
        self.changes = 0  # bindings stored, sent or removed by it
        self._outstanding: Final = max(FEWEST, IN_FLIGHT // (per_bucket + 1))
        # what a dry one has found
        self.shown: Final[dict[tuple[str, str, str], int]] = {}  # table, uid, contact -> CSeq
        self.missing = 0
        self.wanted: Final[list[int]] = []
        self.removed: Final[list[tuple[int, int]]] = []
        self.buckets: Final = set(buckets)
        self._open: Final = {(bucket, 0): _Open(bucket, 0, ALL) for bucket in buckets}
        self._lows: Final = {bucket: [0] for bucket in buckets}

    @property
    def left(self) -> int:
        """Ranges that are not done."""
        return len(self._open)

    def is_over(self, now: float) -> bool:
        """True when everything is done, when nothing has got better for too long, and after LONGEST_S."""
        return not self._open or now - self.progress_at > GIVE_UP_S or now - self.started > LONGEST_S

    def questions(self, now: float) -> list[Range]:
        """What to ask now."""
        due: list[_Open] = []
        flying = 0
        for each in self._open.values():
            if each.asked and now < each.ask_at:
                flying += 1
            else:
                due.append(each)
        asked: list[Range] = []
        for each in due[: max(0, self._outstanding - flying)]:
            asked.extend(self._ask(each, now))
        return asked

    def _ask(self, each: _Open, now: float) -> list[Range]:
        """The questions about *each*, which is split while it has too many entries for one."""
        hashes = self.index.hashes(each.bucket, each.low, each.high)
        if len(hashes) <= MAX_HASHES:
            each.asked = True
            each.asked_at = now
            each.ask_at = now + self.retry_s
            return [Range(each.bucket, each.low, each.high, hashes)]
        middle = hashes[len(hashes) // 2]
        lower = _Open(each.bucket, each.low, middle - 1)
        upper = _Open(each.bucket, middle, each.high)
        self._open[each.bucket, each.low] = lower
        self._open[each.bucket, middle] = upper
        self._lows[each.bucket].append(middle)
        return self._ask(lower, now) + self._ask(upper, now)

    def told(self, answer: Told, now: float, *, done: bool) -> bool:
        """Take an answer in; False when it answers nothing that is open. *done*: the range needs nothing more."""
        each = self._open.get((answer.bucket, answer.low))
        if each is None or each.high != answer.high:
            return False
        rest = answer.missing + len(answer.wanted) + len(answer.removed)
        if done or each.rest < 0 or rest < each.rest:
            self.progress_at = now
            each.rest = rest
        wait = now - each.asked_at
        self.retry_s = max(SOONEST_S, 0.75 * self.retry_s + 0.25 * 3.0 * wait)
        if done or self.dry:
            del self._open[answer.bucket, answer.low]
            self.missing += answer.missing
            self.wanted.extend(answer.wanted)
            self.removed.extend(answer.removed)
        else:
            each.promised = min(answer.missing, MOST_OFFERED)
            each.is_all = answer.missing <= MOST_OFFERED and not answer.wanted and not answer.removed
            each.ask_at = now + answer.delay_ms / 1000.0 + SETTLE_S if each.promised else now + self.retry_s
        return True

    def stored(self, bucket: int, entry: int, now: float) -> None:
        """Note that a binding of *bucket* with hash *entry* has come and was stored."""
        for low in self._lows.get(bucket, ()):
            each = self._open.get((bucket, low))
            if each is None or not each.low <= entry <= each.high or each.promised <= 0:
                continue
            self.progress_at = now
            each.promised -= 1
            each.ask_at = now if not each.promised else max(each.ask_at, now + SETTLE_S)
            if not each.promised and each.is_all:
                del self._open[bucket, low]
            return
