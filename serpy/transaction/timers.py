"""When transactions want to be woken: one wheel, one entry per object.

An object asks for ``fires_at``; the wheel files it under that tick unless an earlier entry of it is already filed.
A popped entry whose object has moved its instant later is filed again, one whose object wants nothing is forgotten.
So moving a timer later and stopping it are assignments; ``forget()`` takes the entry out as well, for what would be kept
in memory by it. Instants are rounded up to the next tick: a timer never fires early and at most one tick late.

What is ``due`` keeps its ``fires_at``: it may have to wait for its turn, and whoever fires it then compares again.

Runs in: udp receiver. Locks: none. RFC: 3261 §17 (T1, T2, T4), values as in SER's tm.
"""

from __future__ import annotations

from collections import deque
from typing import Final

TICK_S: Final = 0.05  # a tenth of T1: finer buys wake-ups, nothing else
TICKS_PER_S: Final = 20
SLOTS: Final = 8192  # 409 s ahead, longer than most; later instants go round again
MASK: Final = 8191

NEVER: Final = 1e18


class Timed:
    """Something with one wake-up instant. ``fires_at`` is monotonic seconds, 0.0 = none."""

    def __init__(self) -> None:
        self.fires_at = 0.0
        self.filed_tick = 0  # the tick this object is filed under, 0 = not filed
        self.place = 0  # where in the slot of that tick

    def take_turn(self, now: float) -> bool:
        """True when the instant has come; it is used up then. False for one that was moved or stopped meanwhile."""
        if self.fires_at == 0.0 or self.fires_at > now:
            return False
        self.fires_at = 0.0
        return True


class TimerWheel:
    """All wake-ups of one process. ``now`` is passed in, the wheel reads no clock."""

    def __init__(self, now: float) -> None:
        self._slots: list[list[Timed]] = [[] for _ in range(SLOTS)]
        self._tick = int(now * TICKS_PER_S)  # every slot up to this one has been emptied
        self._filed = 0
        self._earliest = NEVER  # never later than the first filed instant: the loop asks several times per message
        self.due: deque[Timed] = deque()

    def arm(self, timed: Timed, fires_at: float) -> None:
        """Wake *timed* at *fires_at*, and no longer at the instant asked for before."""
        timed.fires_at = fires_at
        tick = int(fires_at * TICKS_PER_S) + 1
        if timed.filed_tick == 0:
            self._file(timed, tick)
        elif tick < timed.filed_tick:
            self._take_out(timed)
            self._file(timed, tick)

    def forget(self, timed: Timed) -> None:
        """Do not wake *timed*, and keep no reference to it."""
        timed.fires_at = 0.0
        if timed.filed_tick:
            self._take_out(timed)

    def _file(self, timed: Timed, tick: int) -> None:
        if tick <= self._tick:
            tick = self._tick + 1
        timed.filed_tick = tick
        fires_at = tick * TICK_S
        self._earliest = min(self._earliest, fires_at)
        slot = self._slots[tick & MASK]
        timed.place = len(slot)
        slot.append(timed)
        self._filed += 1

    def _take_out(self, timed: Timed) -> None:
        """The last of the slot takes the place of *timed*."""
        slot = self._slots[timed.filed_tick & MASK]
        last = slot.pop()
        if last is not timed:
            slot[timed.place] = last
            last.place = timed.place
        timed.filed_tick = 0
        self._filed -= 1

    def advance(self, now: float) -> None:
        """Move everything whose instant is not after *now* into ``due``, in the order of its ticks."""
        if now < self._earliest:
            return
        last = int(now * TICKS_PER_S)
        # Nothing is filed before the earliest instant, and one round meets every slot: however long nobody asked,
        # there are never more steps than slots.
        self._tick = max(self._tick, int(self._earliest * TICKS_PER_S) - 1 if self._filed else last, last - SLOTS)
        while self._tick < last:
            self._tick += 1
            slot = self._slots[self._tick & MASK]
            if slot:
                self._slots[self._tick & MASK] = []
                self._filed -= len(slot)
                self._sort_out(slot, now)
        self._earliest = self._find_earliest()

    def _sort_out(self, slot: list[Timed], now: float) -> None:
        tick = self._tick
        for timed in slot:
            filed = timed.filed_tick
            if filed > tick:
                self._file(timed, filed)  # a whole round too early
                continue
            timed.filed_tick = 0
            fires_at = timed.fires_at
            if fires_at == 0.0:
                continue
            if fires_at > now:
                self._file(timed, int(fires_at * TICKS_PER_S) + 1)
            else:
                self.due.append(timed)

    def next_at(self) -> float:
        """When to ask again: not after the next instant that is filed. NEVER when none is, 0.0 while something is due."""
        return 0.0 if self.due else self._earliest

    def _find_earliest(self) -> float:
        if self._filed == 0:
            return NEVER
        tick = self._tick + 1
        far = tick + TICKS_PER_S  # to wake up once a second for nothing costs less than to look through all slots
        while tick < far and not self._slots[tick & MASK]:
            tick += 1
        return tick * TICK_S

    def __len__(self) -> int:
        return self._filed
