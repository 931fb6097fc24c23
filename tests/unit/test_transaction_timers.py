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
            timed.fires_at = 0.0
            wanted.pop(timed, None)
        else:
            wanted[timed] = now + choose.choice([0.2, 0.5, 4.0, 30.0, 500.0])
            wheel.arm(timed, wanted[timed])
        now += choose.random() * 0.3
        for each in fired(wheel, now):
            assert wanted.pop(each) <= now
        assert all(at > now - 2 * TICK_S for at in wanted.values())
