"""The timer wheel."""

from __future__ import annotations

import random

import pytest

from serpy.transaction.timers import NEVER, SLOTS, TICK_S, Timed, TimerWheel


def fired(wheel, now):
    wheel.advance(now)
    found = list(wheel.due)
    wheel.due.clear()
    return found


@pytest.mark.parametrize("delay", [0.01, 0.5, 5.0, 30.0, 120.0, SLOTS * TICK_S + 7.3, 3000.0])
def test_a_timer_never_fires_early_and_at_most_a_tick_late(delay):
    wheel, timed = TimerWheel(100.0), Timed()
    wheel.arm(timed, 100.0 + delay)
    now = 100.0
    while not fired(wheel, now):
        now += 0.025
        assert now < 100.0 + delay + 3 * TICK_S
    assert now >= 100.0 + delay


def test_an_instant_moved_later_waits_for_the_later_one():
    wheel, timed = TimerWheel(0.0), Timed()
    wheel.arm(timed, 1.0)
    wheel.arm(timed, 5.0)
    assert fired(wheel, 2.0) == []
    assert fired(wheel, 5.1) == [timed]


def test_an_instant_moved_earlier_fires_once_at_the_earlier_one():
    wheel, timed = TimerWheel(0.0), Timed()
    wheel.arm(timed, 5.0)
    wheel.arm(timed, 1.0)
    assert fired(wheel, 1.1) == [timed]
    assert fired(wheel, 10.0) == []


def test_a_stopped_timer_is_forgotten():
    wheel, timed = TimerWheel(0.0), Timed()
    wheel.arm(timed, 1.0)
    timed.fires_at = 0.0
    assert fired(wheel, 2.0) == []
    assert len(wheel) == 0
    assert wheel.next_at() == NEVER


def test_an_instant_in_the_past_fires_at_the_next_tick():
    wheel, timed = TimerWheel(10.0), Timed()
    wheel.arm(timed, 3.0)
    assert fired(wheel, 10.0 + 2 * TICK_S) == [timed]


def test_the_wheel_agrees_with_a_sorted_list():
    choose = random.Random(7)
    wheel, now = TimerWheel(0.0), 0.0
    timers = [Timed() for _ in range(200)]
    wanted: dict[Timed, float] = {}
    for _ in range(5000):
        timed = choose.choice(timers)
        if choose.random() < 0.2:
            if choose.random() < 0.5:
                wheel.forget(timed)
            timed.fires_at = 0.0
            wanted.pop(timed, None)
        else:
            wanted[timed] = now + choose.choice([0.2, 0.5, 4.0, 30.0, 500.0])
            wheel.arm(timed, wanted[timed])
        now += choose.random() * 0.3
        for each in fired(wheel, now):
            assert wanted.pop(each) <= now
        assert all(at > now - 2 * TICK_S for at in wanted.values())


def test_a_wheel_that_stood_idle_for_a_thousand_years_goes_on_at_once():
    wheel, timed = TimerWheel(0.0), Timed()
    later = 3.2e10
    wheel.arm(timed, later)
    assert fired(wheel, later - 1.0) == []
    assert fired(wheel, later + 2 * TICK_S) == [timed]
    wheel.arm(timed, 2 * later + 0.3)
    assert fired(wheel, 2 * later) == []
    assert fired(wheel, 2 * later + 0.4) == [timed]


def test_a_process_that_was_stopped_for_days_finds_everything_due_once():
    wheel = TimerWheel(0.0)
    timers = [Timed() for _ in range(100)]
    for at, timed in enumerate(timers):
        wheel.arm(timed, 1.0 + at * 7.0)
    assert set(fired(wheel, 1e9)) == set(timers)
    assert fired(wheel, 2e9) == []
    assert len(wheel) == 0


def test_what_is_forgotten_is_in_memory_no_longer():
    wheel = TimerWheel(0.0)
    timers = [Timed() for _ in range(5)]
    for timed in timers:
        wheel.arm(timed, 600.0)
    for timed in timers[1:4]:
        wheel.forget(timed)
        wheel.forget(timed)
    assert len(wheel) == 2
    assert set(fired(wheel, 601.0)) == {timers[0], timers[4]}


def test_what_is_due_and_moved_before_its_turn_does_not_take_it():
    wheel, timed = TimerWheel(0.0), Timed()
    wheel.arm(timed, 1.0)
    assert fired(wheel, 1.1) == [timed]
    wheel.arm(timed, 5.0)
    assert not timed.take_turn(1.1)
    assert fired(wheel, 5.1) == [timed]
    assert timed.take_turn(5.1)
    assert not timed.take_turn(5.1)
