"""Two receivers get the same response at the same time: one of them accepts it."""

from __future__ import annotations

import mmap
import os

from serpy.modules.auth.counts import ENTRY_SIZE, FRESH, STRIPES, NonceCounts
from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment

NONCES = 500
MADE = 1_700_000_000


def test_a_nonce_is_accepted_once_by_two_receivers_that_ask_at_once():
    segment = Segment(1 << 20)
    area = segment.allocate("nonces", NONCES * ENTRY_SIZE)
    counts = NonceCounts(area, StripedLock(segment, "nonces", STRIPES))
    accepted = [mmap.mmap(-1, 4 * NONCES) for _ in range(2)]  # a byte each: how often this receiver said yes
    at = memoryview(mmap.mmap(-1, 16)).cast("q")  # where each of them is: they walk side by side

    def ask(child, other):
        for place in range(NONCES):
            at[child] = place
            while at[other] < at[child]:
                os.sched_yield()  # a step behind
            accepted[child][place] += counts.use(MADE, place, 1, MADE) == FRESH
        at[child] = NONCES

    pid = os.fork()
    if pid == 0:
        try:
            ask(0, 1)
        finally:
            os._exit(0)
    ask(1, 0)
    os.waitpid(pid, 0)
    both = [accepted[0][place] + accepted[1][place] for place in range(NONCES)]
    assert both == [1] * NONCES
