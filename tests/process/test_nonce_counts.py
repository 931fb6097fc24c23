"""Two receivers get the same response at the same time: one of them accepts it."""

from __future__ import annotations

import mmap
import os

from serpy.modules.auth import NONCE_STRIPES, NonceCounts
from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment

NONCES = 500
ROUNDS = 1


def test_a_nonce_is_accepted_once_by_two_receivers_that_ask_at_once():
    segment = Segment(1 << 20)
    words = segment.allocate("nonces", NONCES * 8).cast("Q")
    counts = NonceCounts(words, 1, StripedLock(segment, "nonces", NONCE_STRIPES))
    numbers = [counts.new_id() for _ in range(NONCES)]
    accepted = [mmap.mmap(-1, 4 * NONCES) for _ in range(2)]  # a byte each: how often this receiver said yes
    at = memoryview(mmap.mmap(-1, 16)).cast("q")  # where each of them is: they walk side by side

    def ask(child, other):
        for turn in range(ROUNDS):
            for place, number in enumerate(numbers):
                at[child] = turn * NONCES + place
                while at[other] < at[child]:
                    os.sched_yield()  # a step behind
                accepted[child][place] += counts.use(number, turn + 1)
        at[child] = ROUNDS * NONCES

    pid = os.fork()
    if pid == 0:
        try:
            ask(0, 1)
        finally:
            os._exit(0)
    ask(1, 0)
    os.waitpid(pid, 0)
    both = [accepted[0][place] + accepted[1][place] for place in range(NONCES)]
    assert both == [ROUNDS] * NONCES
