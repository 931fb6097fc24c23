"""Who has authenticated: what is found, what makes room, what stays when something else is let go."""

from __future__ import annotations

from serpy.shm.known import NUMBER, Known
from serpy.shm.strangers import WORD, Strangers

NOW = 1000


def table(entries=8):
    return Known(memoryview(bytearray(Known.size(entries))), entries, 77)


def test_of_a_full_set_the_one_that_ends_first_makes_room():
    known = table()
    for key in range(1, 9):
        known.note(key, 100 + (key * 3) % 8, NOW)  # 8 ends first
    known.note(9, 500, NOW)
    assert known.find(8, NOW) < 0
    assert all(known.find(key, NOW) >= 0 for key in (1, 2, 3, 4, 5, 6, 7, 9))


def test_what_is_forgotten_hides_nobody_else_of_its_set():
    known = table()
    for key in range(1, 9):
        known.note(key, 100, NOW)
    for gone in range(1, 8):
        known.forget(gone)
        assert [key for key in range(1, 9) if known.find(key, NOW) >= 0] == list(range(gone + 1, 9))
    for key in range(1, 9):
        known.note(key, 100, NOW)
    assert known.used(NOW) == 8


def test_a_longer_time_counts_and_a_shorter_one_takes_nothing_away():
    known = table()
    known.note(5, 100, NOW, 3)
    known.note(5, 50, NOW, 4)
    known.note(5, 200, NOW, 4)
    at = known.find(5, NOW + 199)
    assert (known.left(at, NOW + 199), known.number(at)) == (1, 3)
    assert known.find(5, NOW + 200) < 0


def test_a_number_is_counted_up_to_its_bound_and_from_one_again_when_its_time_was_over():
    known = table()
    for _ in range(5):
        known.count(5, 100, NOW, 1, 3)
    assert known.number(known.find(5, NOW)) == 3
    known.count(5, 100, NOW, 0, 3)
    assert known.number(known.find(5, NOW)) == 3
    known.count(5, 100, NOW + 200, 1, 3)
    assert known.number(known.find(5, NOW + 200)) == 1


def test_messages_of_a_pair_are_counted_while_the_ticks_go_round():
    known = table()
    now = WORD - 10
    known.note(5, 1000, now, now)
    at = known.find(5, now)
    assert [known.take(at, 4, 3, now) for _ in range(4)] == [True, True, True, False]
    later = (now + 12) & WORD
    assert [known.take(at, 4, 3, later) for _ in range(4)] == [True, True, True, False]
    assert known.left(at, later) == 988
    assert known.number(at) <= NUMBER


def test_who_looks_while_a_place_is_given_to_another_finds_nobody_else():
    known, strangers = table(), Strangers(memoryview(bytearray(Strangers.size(8))), 8, 77)
    for key in range(1, 40):
        known.note(key, key, NOW)
        at = strangers.place(key, str(key), NOW + key)
        assert (strangers.key(at), strangers.text(at), strangers.find(key)) == (key, str(key), at)
    assert {known.find(key, NOW) >= 0 for key in range(32, 40)} == {True}
    assert [strangers.find(key) >= 0 for key in range(1, 40)] == [False] * 31 + [True] * 8
