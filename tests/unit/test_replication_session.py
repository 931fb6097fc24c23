"""One side asks, the other answers; each step by itself."""

import itertools

import pytest

from serpy.replication.answers import MOST_QUEUED, PER_PULSE, RECENT_MS, Outbox, answer
from serpy.replication.messages import (
    ALL,
    DRY,
    MAX_HASHES,
    ROOM,
    Range,
    Told,
    build_ask,
    build_tell,
    parse_ask,
    parse_tell,
)
from serpy.replication.scan import Entry, Index
from serpy.replication.session import FEWEST, GIVE_UP_S, LONGEST_S, RETRY_S, SETTLE_S, Session
from serpy.replication.window import Life

PEER = ("192.0.2.2", 5000)
NOW_MS = 1_000_000_000


def index(bucket=7, hashes=(), modified_ms=0):
    made = Index({bucket}, 0.0)
    for entry in hashes:
        made.entries[bucket][entry] = Entry("location", f"u{entry}", f"sip:u{entry}@h", modified_ms)
    return made


def session(buckets=(7,), hashes=(), **options):
    return Session(1, 2, PEER, list(buckets), index(buckets[0], hashes), 0.0, **options)


def told(asked, missing=0, wanted=(), removed=(), delay_ms=0):
    return Told(asked.bucket, asked.low, asked.high, missing, delay_ms, list(wanted), list(removed))


def test_a_range_is_asked_again_until_it_is_answered():
    made = session(hashes=[1, 5])
    (asked,) = made.questions(0.0)
    assert (asked.bucket, asked.low, asked.high, asked.hashes) == (7, 0, ALL, [1, 5])
    assert made.questions(RETRY_S / 2) == []
    assert len(made.questions(RETRY_S)) == 1
    assert made.told(told(asked), RETRY_S, done=True)
    assert made.is_over(RETRY_S)
    assert not made.told(told(asked), RETRY_S, done=True)


def test_a_bucket_with_many_entries_is_asked_about_in_parts():
    made = session(hashes=range(1, 1001))
    asked = made.questions(0.0)
    assert all(len(each.hashes) <= MAX_HASHES for each in asked)
    assert sorted(entry for each in asked for entry in each.hashes) == list(range(1, 1001))
    edges = sorted((each.low, each.high) for each in asked)
    assert edges[0][0] == 0
    assert edges[-1][1] == ALL
    assert all(high + 1 == low for (_, high), (low, _) in itertools.pairwise(edges))
    for each in asked:
        made.told(told(each), 0.0, done=True)
    assert made.is_over(0.0)


@pytest.mark.parametrize(("per_bucket", "ranges"), [(0, 500), (39, 100), (10_000, FEWEST)])
def test_the_more_entries_the_fewer_ranges_are_asked_about_at_once(per_bucket, ranges):
    made = Session(1, 2, PEER, list(range(500)), Index(set(range(500)), 0.0), 0.0, per_bucket=per_bucket)
    assert len(made.questions(0.0)) == ranges
    assert made.questions(0.01) == []


def test_a_range_is_done_when_all_that_was_promised_has_come():
    made = session()
    (asked,) = made.questions(0.0)
    made.told(told(asked, missing=2), 0.0, done=False)
    made.stored(7, 11, 0.1)
    assert not made.is_over(0.1)
    made.stored(8, 12, 0.1)  # of another bucket
    assert not made.is_over(0.1)
    made.stored(7, 12, 0.2)
    assert made.is_over(0.2)


def test_what_was_promised_and_got_lost_is_asked_for_again():
    made = session()
    (asked,) = made.questions(0.0)
    made.told(told(asked, missing=2, delay_ms=100), 0.0, done=False)
    assert made.questions(0.1 + SETTLE_S / 2) == []
    assert len(made.questions(0.1 + SETTLE_S)) == 1


def test_a_server_that_falls_silent_ends_the_conversation():
    made = session()
    made.questions(0.0)
    assert not made.is_over(GIVE_UP_S - 0.1)
    assert made.is_over(GIVE_UP_S + 0.1)


def test_answers_that_always_say_the_same_are_no_progress():
    made = session(hashes=[1])
    now = 0.0
    while now < 60 and not made.is_over(now):
        for asked in made.questions(now):
            made.told(told(asked, missing=2, wanted=[1]), now, done=False)
        now += 0.1
    assert now <= GIVE_UP_S + 0.2


def test_a_conversation_goes_on_while_each_answer_asks_for_less():
    made = session(hashes=range(1, 31))
    now = 0.0
    for left in range(29, 0, -1):
        now += GIVE_UP_S / 2
        (asked,) = made.questions(now)
        made.told(told(asked, wanted=range(left)), now, done=False)
        assert not made.is_over(now)
    assert now > 10 * GIVE_UP_S


def test_no_conversation_lasts_for_ever_whatever_comes():
    made = session(hashes=[1])
    (asked,) = made.questions(0.0)
    now = 0.0
    while now < 2 * LONGEST_S and not made.is_over(now):
        now += 1.0
        made.told(told(asked, missing=100), now, done=False)
        made.stored(7, 12, now)
    assert now <= LONGEST_S + 1.0


def test_a_dry_conversation_only_collects():
    made = session(hashes=[5, 6], dry=True)
    assert made.number & DRY
    (asked,) = made.questions(0.0)
    assert made.told(told(asked, missing=3, wanted=[5], removed=[(6, 1)]), 0.0, done=False)
    assert (made.missing, made.wanted, made.removed) == (3, [5], [(6, 1)])
    assert made.is_over(0.0)


def test_an_answer_tells_what_either_side_misses():
    ours = index(hashes=[1, 2, 3])
    found, offered = answer(Range(7, 0, ALL, [2, 8, 9]), ours, {9: 77}, NOW_MS, 50)
    assert (found.missing, found.wanted, found.removed, found.delay_ms) == (2, [8], [(9, 77)], 50)
    assert sorted(offered) == [1, 3]


def test_an_answer_stays_within_its_range():
    found, offered = answer(Range(7, 2, 10, []), index(hashes=[1, 2, 11]), {}, NOW_MS, 0)
    assert (found.missing, offered) == (1, [2])


def test_what_is_on_its_way_by_multicast_is_not_offered():
    found, offered = answer(Range(7, 0, ALL, []), index(hashes=[1], modified_ms=NOW_MS - RECENT_MS + 1), {}, NOW_MS, 0)
    assert (found.missing, offered) == (0, [])


def test_questions_and_answers_survive_the_way_and_fit_into_datagrams():
    ranges = [Range(number, number, ALL, list(range(number, number + 100))) for number in range(1, 40)]
    payloads = build_ask(5, ranges)
    assert all(len(payload) <= ROOM for payload in payloads)
    back = [each for payload in payloads for each in parse_ask(payload)[1]]
    assert [vars(each) for each in back] == [vars(each) for each in ranges]
    answers = [Told(number, 0, ALL, 3, 4, [1, 2], [(number, 6)]) for number in range(60)]
    payloads = build_tell(6, answers)
    assert all(len(payload) <= ROOM for payload in payloads)
    assert {parse_tell(payload)[0] for payload in payloads} == {6}
    assert [vars(each) for payload in payloads for each in parse_tell(payload)[1]] == [vars(each) for each in answers]


def test_repair_leaves_at_a_pace_and_its_queue_is_bounded():
    sent, timers = [], []
    outbox = Outbox(lambda *item: sent.append(item) or True, lambda delay, call: timers.append((delay, call)))
    for number in range(MOST_QUEUED + 10):
        outbox.put(1, b"%d" % number, PEER)
    assert outbox.delay_ms() > 1000
    while timers:
        before = len(sent)
        timers.pop()[1]()
        assert len(sent) - before <= PER_PULSE
    assert len(sent) == MOST_QUEUED
    outbox.put(1, b"", PEER)
    assert len(timers) == 1


def test_a_bug_in_sending_one_frame_loses_that_one_only():
    sent, timers = [], []

    def send(kind, payload, _address):
        if payload == b"1":
            raise ZeroDivisionError
        sent.append(payload)
        return True

    outbox = Outbox(send, lambda _delay, call: timers.append(call))
    for number in range(3):
        outbox.put(1, b"%d" % number, PEER)
    with pytest.raises(ZeroDivisionError):
        timers.pop()()
    timers.pop()()
    assert (sent, timers) == ([b"0", b"2"], [])
    outbox.put(1, b"3", PEER)
    timers.pop()()
    assert sent[-1] == b"3"


@pytest.mark.parametrize("skew", [0.0, 7.0, -7.0])
def test_waiting_is_told_from_clocks_that_differ(skew):
    life = Life(2, 1)
    for at, lag in ((100.0, 0.01), (101.0, 0.02), (102.0, 2.0)):
        life.heard(lag + skew, at)
    assert life.delay == pytest.approx(1.99, abs=0.01)
