"""What was removed does not come back by something older."""

import time

import pytest

from serpy.replication.digest import entry_hash
from serpy.replication.tombstones import ALL, WAYS, Tombstones
from serpy.shm.record import Binding
from serpy.shm.segment import Segment

NOW = time.time()  # when the tests were collected: a busy machine reaches them a quarter of an hour later


@pytest.fixture
def tombstones():
    return Tombstones(Segment(1 << 20), 64)


def binding(uid="alice", contact="sip:a@h", cseq=5, life=3600):
    return Binding(uid, contact, int(NOW) + life, call_id="call", cseq=cseq, modified_at=NOW - 10)


@pytest.mark.parametrize(
    ("call_id", "cseq", "when", "covered"),
    [
        pytest.param("call", 5, NOW - 10, True, id="the-removed-one-itself"),
        pytest.param("call", 4, NOW - 1, True, id="lower-cseq"),
        pytest.param("call", 4, NOW + 5, True, id="lower-cseq-of-a-fast-clock"),
        pytest.param("call", 4, NOW + 60, False, id="a-phone-that-counts-from-the-start-again"),
        pytest.param("call", 6, NOW - 1, False, id="higher-cseq"),
        pytest.param("other", 1, NOW - 1, True, id="other-call-earlier"),
        pytest.param("other", 1, NOW + 1, False, id="other-call-later"),
    ],
)
def test_what_a_removal_covers(tombstones, call_id, cseq, when, covered):
    tombstones.bury("location", [binding()], NOW)
    assert tombstones.covers("location", "alice", "sip:a@h", call_id, cseq, when) is covered


def test_it_covers_nobody_else(tombstones):
    tombstones.bury("location", [binding()], NOW)
    for table, uid, contact in (
        ("other", "alice", "sip:a@h"),
        ("location", "bob", "sip:a@h"),
        ("location", "alice", "sip:b@h"),
    ):
        assert not tombstones.covers(table, uid, contact, "call", 5, NOW - 10)


def test_removing_all_contacts_covers_each(tombstones):
    tombstones.add("location", "alice", ALL, "call", 9, NOW, NOW + 3600)
    assert tombstones.covers("location", "alice", "sip:whatever@h", "call", 8, NOW - 1)
    assert not tombstones.covers("location", "alice", "sip:whatever@h", "call", 10, NOW + 1)


def test_an_earlier_removal_does_not_replace_a_later_one(tombstones):
    tombstones.add("location", "alice", "sip:a@h", "late", 1, NOW, NOW + 3600)
    tombstones.add("location", "alice", "sip:a@h", "early", 1, NOW - 9, NOW + 3600)
    assert tombstones.removed_at("location", "alice", "sip:a@h") == round(NOW * 1000)


def test_it_is_forgotten_when_the_registration_would_have_expired(tombstones):
    tombstones.bury("location", [binding(life=-1)], NOW)
    assert not tombstones.covers("location", "alice", "sip:a@h", "call", 5, NOW - 10)
    assert tombstones.count(NOW) == 0


def test_removed_entries_are_found_by_their_hash(tombstones):
    gone = binding()
    tombstones.bury("location", [gone], NOW)
    assert tombstones.removed_entries(NOW) == {entry_hash("location", gone): round(NOW * 1000)}


def test_the_memory_is_bounded_and_what_may_be_forgotten_first_goes_first(tombstones):
    for number in range(1000):
        tombstones.bury("location", [binding(f"u{number}", life=1000 + number)], NOW)
    assert tombstones.count(NOW) <= tombstones.entries
    kept = sum(
        tombstones.covers("location", f"u{number}", "sip:a@h", "call", 5, NOW - 10)
        for number in range(1000 - WAYS, 1000)
    )
    assert kept == WAYS


def test_a_small_segment_gets_a_small_table():
    segment = Segment(1 << 20)
    segment.allocate("others", segment.free - 200_000)
    assert Tombstones(segment).entries * 40 < 100_000
