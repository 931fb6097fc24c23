"""Which answer of several goes upstream (RFC 3261 §16.7 step 6, SER's order)."""

from __future__ import annotations

import itertools

import pytest

from serpy.transaction.response_context import priority

ORDER = [
    600, 603, 604, 606, 300, 301, 302, 305, 380, 401, 407, 415, 420, 484, 400, 403, 404, 408, 480, 486, 487,
    500, 503, 504,
]  # fmt: skip


@pytest.mark.parametrize(("better", "worse"), list(itertools.pairwise(ORDER)))
def test_the_order_of_answers(better, worse):
    assert priority(better) < priority(worse)


@pytest.mark.parametrize("status", range(300, 700))
def test_every_status_of_a_better_class_wins(status):
    for worse, better in ((300, 600), (400, 300), (500, 400)):
        if worse <= status < worse + 100:
            assert all(priority(other) < priority(status) for other in range(better, better + 100) if other < 700)
