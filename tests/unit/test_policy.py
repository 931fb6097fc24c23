"""What the master decides; the clock is a number."""

from __future__ import annotations

import signal

import pytest

from serpy.policy import BOOT_FORKS, BOOT_TIMEOUT_S, CORPSE_S, FORK_MAX_S, Place, Policy, Verdict

KILLED = -signal.SIGKILL
CRASHED = 4
NOW = 1000.0


def policy_of(count=3, *, heartbeat_s=10.0, exit_s=60.0, serving=True):
    places = [Place(stop_last=number == count - 1) for number in range(count)]
    policy = Policy(places, heartbeat_s, exit_s)
    for place in places:
        policy.born(place, NOW)
        place.ready = serving
    assert policy.all_ready() is serving
    return policy


def test_at_the_start_every_place_is_due():
    policy = Policy([Place(), Place()], 10.0, 60.0)
    assert [policy.is_due(place, NOW) for place in policy.places] == [True, True]


def test_the_server_serves_once_when_all_places_are_ready():
    policy = policy_of(serving=False)
    for place in policy.places[1:]:
        place.ready = True
    assert not policy.all_ready()
    policy.places[0].ready = True
    assert policy.all_ready()
    assert not policy.all_ready()


# ------------------------------------------------------------------------------------------------- failed forks


def test_a_failed_fork_holds_up_all_births_and_each_further_one_twice_as_long():
    policy = policy_of()
    for place in policy.places[:2]:
        policy.died(place, KILLED, NOW + 20)
    now = NOW + 20
    waits = []
    for _ in range(8):
        assert policy.is_due(policy.places[0], now)
        assert policy.fork_failed(now)
        assert not policy.is_due(policy.places[1], now)
        waits.append(policy.wait_s(now, 60.0))
        now += waits[-1]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, FORK_MAX_S, FORK_MAX_S, FORK_MAX_S])


def test_a_served_server_never_gives_up_forking():
    policy = policy_of()
    assert all(policy.fork_failed(NOW + number) for number in range(10_000))


def test_a_server_that_has_never_served_gives_up_after_some_tries_in_a_row():
    policy = Policy([Place()], 10.0, 60.0)
    assert [policy.fork_failed(NOW) for _ in range(BOOT_FORKS)] == [True] * (BOOT_FORKS - 1) + [False]


def test_a_fork_that_works_ends_the_record_of_failures():
    policy = policy_of()
    place = policy.places[0]
    policy.died(place, KILLED, NOW + 20)
    for _ in range(5):
        policy.fork_failed(NOW + 20)
    assert policy.born(place, NOW + 30) == 5
    policy.died(place, KILLED, NOW + 50)
    policy.fork_failed(NOW + 50)
    assert policy.wait_s(NOW + 50, 60.0) == pytest.approx(0.1)


def test_a_failed_fork_leaves_no_trace_in_its_place():
    policy = policy_of()
    place = policy.places[0]
    policy.died(place, KILLED, NOW + 20)
    before = dict(vars(place))
    policy.fork_failed(NOW + 21)
    assert vars(place) == before


# ------------------------------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize(
    ("lives", "delay"),
    [
        pytest.param([(0.1, CRASHED)], 0.0, id="the-first-failure-is-replaced-at-once"),
        pytest.param([(0.1, CRASHED)] * 2, 0.2, id="the-second-waits"),
        pytest.param([(0.1, CRASHED)] * 4, 0.8, id="each-further-one-twice-as-long"),
        pytest.param([(0.1, CRASHED)] * 1000, 30.0, id="but-not-longer-than-half-a-minute"),
        pytest.param([(0.1, CRASHED)] * 5 + [(10.0, CRASHED)], 0.0, id="a-steady-life-clears-the-record"),
        pytest.param([(0.1, CRASHED)] * 5 + [(0.1, KILLED)], 0.0, id="and-so-does-the-kill-of-a-healthy-one"),
    ],
)
def test_how_long_the_next_birth_waits(lives, delay):
    policy = policy_of()
    place = policy.places[0]
    now = NOW
    for lived_s, code in lives:
        policy.born(place, now)
        place.ready = True
        now += lived_s
        found = policy.died(place, code, now)
    assert found == pytest.approx(delay)
    assert place.start_at == pytest.approx(now + delay)


def test_a_child_that_dies_before_it_is_ready_is_a_failure_even_when_killed():
    policy = policy_of()
    place = policy.places[0]
    for _ in range(3):
        policy.born(place, NOW)
        policy.died(place, KILLED, NOW)
    assert place.failures == 3


# --------------------------------------------------------------------------------------------------- heartbeats


@pytest.mark.parametrize(
    ("heartbeat_s", "silent_s", "booting", "verdict"),
    [
        pytest.param(10.0, 9.9, False, Verdict.FINE, id="heard-lately"),
        pytest.param(10.0, 10.0, False, Verdict.ABORT, id="silent"),
        pytest.param(10.0, BOOT_TIMEOUT_S - 0.1, True, Verdict.FINE, id="boots-and-may-take-its-time"),
        pytest.param(10.0, BOOT_TIMEOUT_S, True, Verdict.ABORT, id="boots-for-too-long"),
        pytest.param(0.0, 1e6, False, Verdict.FINE, id="0-allows-silence"),
    ],
)
def test_the_verdict_on_silence(heartbeat_s, silent_s, booting, verdict):
    policy = policy_of(heartbeat_s=heartbeat_s)
    place = policy.places[0]
    assert policy.verdict(place, NOW, NOW + silent_s, booting=booting) is verdict


def test_the_signs_of_life_of_a_predecessor_do_not_count():
    policy = policy_of()
    place = policy.places[0]
    policy.died(place, KILLED, NOW + 100)
    policy.born(place, NOW + 100)
    assert policy.verdict(place, NOW, NOW + 109.9, booting=False) is Verdict.FINE
    assert policy.verdict(place, NOW, NOW + 110, booting=False) is Verdict.ABORT


def test_a_silent_child_is_aborted_then_killed_again_and_again_then_given_up():
    policy = policy_of()
    place = policy.places[0]
    steps = []
    now = NOW
    while now < NOW + 30:
        verdict = policy.verdict(place, NOW, now, booting=False)
        if verdict is not Verdict.FINE:
            steps.append((verdict, now - NOW))
        if verdict is Verdict.GIVE_UP:
            break
        now += 0.5
    kills = [(Verdict.KILL, 12.0 + second) for second in range(int(CORPSE_S))]
    assert steps == [(Verdict.ABORT, 10.0), *kills, (Verdict.GIVE_UP, 12.0 + CORPSE_S)]


# --------------------------------------------------------------------------------------------------------- stop


def test_a_stop_tells_all_but_the_last_and_those_when_the_others_have_gone():
    policy = policy_of()
    first, second, store = policy.places
    assert policy.stop(NOW + 1) == [first, second]
    policy.died(first, 0, NOW + 2)
    assert policy.last_ones() == []
    policy.died(second, 0, NOW + 3)
    assert policy.last_ones() == [store]
    assert policy.last_ones() == []
    assert not policy.is_over()
    policy.died(store, 0, NOW + 4)
    assert policy.is_over()


def test_nothing_is_born_once_a_stop_has_begun():
    policy = policy_of()
    policy.stop(NOW + 1)
    policy.died(policy.places[0], KILLED, NOW + 2)
    assert not policy.is_due(policy.places[0], NOW + 1000)
    assert policy.wait_s(NOW + 2, 0.5) == 0.5


def test_a_second_stop_tells_nobody():
    policy = policy_of()
    policy.stop(NOW)
    assert policy.stop(NOW) == []


@pytest.mark.parametrize(
    ("exit_s", "after_s", "verdict"),
    [
        pytest.param(60.0, 59.9, Verdict.FINE, id="in-time"),
        pytest.param(60.0, 60.0, Verdict.KILL, id="overdue"),
        pytest.param(0.0, 1e6, Verdict.FINE, id="0-never-forces"),
    ],
)
def test_a_child_that_does_not_stop_is_killed_when_the_time_is_up(exit_s, after_s, verdict):
    policy = policy_of(exit_s=exit_s)
    policy.stop(NOW)
    assert policy.is_overdue(policy.places[0], NOW + after_s) is verdict


def test_a_stop_does_not_wait_for_ever_for_a_child_that_survives_the_kill():
    policy = policy_of()
    place = policy.places[0]
    policy.stop(NOW)
    assert policy.is_overdue(place, NOW + 60) is Verdict.KILL
    assert policy.is_overdue(place, NOW + 60 + CORPSE_S) is Verdict.GIVE_UP
