"""Which uses of a nonce count as new."""

import pytest

from serpy.modules.auth.counts import ENTRY_SIZE, FORGOTTEN, FRESH, LAST, SEEN, STRIPES, NonceCounts
from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment

MADE = 1_700_000_000
LATEST = MADE + 3


@pytest.fixture
def counts():
    segment = Segment(1 << 16)
    area = segment.allocate("nonces", 64 * ENTRY_SIZE)
    return NonceCounts(area, StripedLock(segment, "nonces", STRIPES))


def used(counts, *numbers, since=MADE, serial=7, latest=LATEST):
    return [counts.use(since, serial, number, latest) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "verdicts"),
    [
        pytest.param((1, 1), (FRESH, SEEN), id="again"),
        pytest.param((1, 2, 3, 2), (FRESH, FRESH, FRESH, SEEN), id="rising"),
        pytest.param((2, 1, 1), (FRESH, FRESH, SEEN), id="overtaken"),
        pytest.param((40, 9, 9, 8), (FRESH, FRESH, SEEN, SEEN), id="no-further-back-than-the-window"),
        pytest.param((1, 32, 1, 33, 1), (FRESH, FRESH, SEEN, FRESH, SEEN), id="at-the-edge-of-the-window"),
        pytest.param((1, 1000, 999, 1000), (FRESH, FRESH, FRESH, SEEN), id="a-jump"),
        pytest.param((0, 0, 1), (FRESH, SEEN, FRESH), id="from-zero"),
        pytest.param((500, 501), (FRESH, FRESH), id="first-of-a-phone-that-does-not-reset"),
        pytest.param((LAST, LAST, 1), (FRESH, SEEN, SEEN), id="the-last"),
        pytest.param((LAST - 1, LAST, LAST - 1), (FRESH, FRESH, SEEN), id="up-to-the-last"),
    ],
)
def test_a_count_is_new_once(counts, numbers, verdicts):
    assert used(counts, *numbers) == list(verdicts)


def test_no_order_of_counts_lets_one_through_twice(counts):
    numbers = [(number * 17) % 31 for number in range(31)]
    assert used(counts, *numbers) == [FRESH] * 31
    assert used(counts, *numbers) == [SEEN] * 31


def test_what_a_younger_nonce_pushed_out_is_forgotten_and_never_new(counts):
    assert used(counts, 1, serial=7) == [FRESH]
    assert used(counts, 1, serial=7 + 64) == [FRESH]
    assert used(counts, 1, 2, serial=7) == [FORGOTTEN, FORGOTTEN]
    assert used(counts, 1, since=MADE - 1, serial=7 + 128) == [FORGOTTEN]  # never used, but who knows that?
    assert used(counts, 2, serial=7 + 64) == [FRESH]


def test_nonces_at_other_places_push_out_nobody(counts):
    assert used(counts, 1, serial=7) == [FRESH]
    assert [used(counts, 1, serial=serial)[0] for serial in range(8, 60)] == [FRESH] * 52
    assert used(counts, 1, serial=7) == [SEEN]


def test_an_entry_from_before_the_clock_was_set_back_stands_in_nobodys_way(counts):
    assert used(counts, 1, since=MADE + 3600, latest=LATEST + 3600) == [FRESH]
    assert used(counts, 1, 1) == [FRESH, SEEN]
