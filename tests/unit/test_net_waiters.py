"""The bulkheads: each reason to wait has its own places, and what has failed is known for a while."""

from __future__ import annotations

import time

import pytest

from serpy.errors import ResourceError
from serpy.net.loop import Loop
from serpy.net.waiters import COUNTERS, SHARES, Crowd, Failures, Fuse, Room, Waiters
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip.flow import Flow, Listener


def run(loop, *bodies):
    """What each of *bodies*, run as a handler of its own, returned or raised."""
    outcomes = [None] * len(bodies)
    left = [len(bodies)]

    def handler(at, body):
        try:
            outcomes[at] = body()
        except ResourceError as exc:
            outcomes[at] = exc
        finally:
            left[0] -= 1
            if not left[0]:
                loop.stop()

    for at, body in enumerate(bodies):
        loop.spawn(lambda at=at, body=body: handler(at, body))
    loop.call_at(time.monotonic() + 10, loop.stop)
    loop.run()
    assert not left[0], "a handler did not end"
    return outcomes


def sleeper(loop, room, seconds=0.02):
    def body():
        with room:
            loop.sleep(seconds)
        return "done"

    return body


def test_a_full_room_refuses_at_once_and_leaves_the_others_alone():
    loop = Loop()
    loop.waiters.set_limits(dns=2)
    dns, store = loop.waiters.dns, loop.waiters.store
    outcomes = run(loop, *[sleeper(loop, dns)] * 3, sleeper(loop, store))
    assert [type(outcome) for outcome in outcomes] == [str, str, ResourceError, str]
    assert (dns.waiting, dns.most, dns.refused) == (0, 2, 1)
    assert (store.waiting, store.most, store.refused) == (0, 1, 0)


@pytest.mark.parametrize("most", [1, 7, 100, 1000, 5000])
def test_no_reason_can_take_the_places_of_another(most):
    waiters = Waiters(Loop(), most)
    limits = {room.name: room.limit for room in waiters.rooms}
    assert set(limits) == set(SHARES)
    assert min(limits.values()) >= 1
    if most >= len(limits) * 4:
        assert sum(limits.values()) < most
        assert max(limits, key=limits.get) == "store"


def test_a_setting_changes_one_room_only():
    waiters = Waiters(Loop(), 1000)
    before = {room.name: room.limit for room in waiters.rooms}
    waiters.set_limits(dns=7, store=0)
    assert {room.name: room.limit for room in waiters.rooms} == {**before, "dns": 7}


def test_a_refused_wait_leaves_neither_ticket_nor_place():
    loop = Loop()
    room = Room(loop, "store", 0)

    def body():
        room.wait(loop.new_ticket(), loop.now() + 1)

    assert isinstance(run(loop, body)[0], ResourceError)
    assert (room.waiting, len(loop._tickets)) == (0, 0)
    loop = Loop(max_parked=0)
    room = Room(loop, "store", 10)
    assert isinstance(run(loop, body)[0], ResourceError)
    assert (room.waiting, room.refused, len(loop._tickets)) == (0, 1, 0)


def test_a_wait_ends_by_its_deadline_and_is_counted():
    loop = Loop()
    room = Room(loop, "store", 10)
    assert run(loop, lambda: room.wait(loop.new_ticket(), loop.now() + 0.01)) == [None]
    assert (room.waiting, room.timeouts) == (0, 1)


def test_an_answer_goes_to_all_who_wait_for_it_and_a_turn_to_the_first():
    loop = Loop()
    room = Room(loop, "dns", 10)
    crowd = Crowd(loop, room)

    def wait():
        return crowd.wait(loop.now() + 5)

    def answer():
        while len(crowd) < 3:
            loop.sleep(0.001)
        assert crowd.wake("first")
        assert crowd.answer("all") == 2
        assert not crowd.wake("nobody")

    assert run(loop, wait, wait, wait, answer)[:3] == ["first", "all", "all"]


def test_who_gives_up_is_passed_over():
    loop = Loop()
    crowd = Crowd(loop, Room(loop, "dns", 10))

    def wake():
        while len(crowd) != 1:
            loop.sleep(0.005)
        return crowd.wake("turn")

    assert run(loop, lambda: crowd.wait(loop.now() + 0.001), lambda: crowd.wait(loop.now() + 5), wake) == [
        None, "turn", True,
    ]  # fmt: skip


def test_who_may_not_park_does_not_stand_in_the_way_of_who_does():
    loop = Loop(max_parked=1)
    crowd = Crowd(loop, Room(loop, "database", 10))

    def wait():
        return crowd.wait(loop.now() + 5)

    def wake():
        return crowd.wake("turn")

    outcomes = run(loop, wait, wait, wake)
    assert isinstance(outcomes[1], ResourceError)
    assert outcomes[0] == "turn"
    assert len(crowd) == 0


def test_a_fuse_lets_one_try_after_a_pause_that_doubles():
    fuse = Fuse(first_s=1.0, most_s=3.0, trial_s=10.0)
    assert fuse.allows(0.0)
    assert fuse.blow(0.0, "gone")
    assert not fuse.allows(0.9)
    assert fuse.allows(1.0)
    assert not fuse.allows(1.1)  # one is trying
    assert not fuse.blow(2.0, "still gone")
    assert (fuse.allows(3.9), fuse.allows(4.0)) == (False, True)
    fuse.blow(4.0, "")
    fuse.allows(7.0)
    fuse.blow(7.0, "")
    assert (fuse.allows(9.9), fuse.allows(10.0)) == (False, True)  # 3 s at most
    assert fuse.mend()
    assert fuse.allows(10.1)
    assert not fuse.mend()


def test_a_trial_without_an_end_does_not_keep_the_fuse_blown_for_ever():
    fuse = Fuse(first_s=1.0, most_s=1.0, trial_s=2.0)
    fuse.blow(0.0, "gone")
    assert fuse.allows(1.0)
    assert (fuse.allows(2.9), fuse.allows(3.0)) == (False, True)


def test_failures_are_remembered_for_their_time_and_in_a_bounded_number():
    failures = Failures(5.0, 3)
    for number in range(10):
        failures.note(number, 100.0, f"failed {number}")
    assert len(failures) == 3
    assert failures.reason(9, 104.9) == "failed 9"
    assert failures.reason(9, 105.0) == ""
    assert failures.reason(0, 100.0) == ""


def test_the_counters_of_all_rooms_are_published_and_totals_outlive_the_process():
    counters = Counters(Segment(1 << 20), 1)
    for name, text in COUNTERS:
        counters.declare(name, text)
    counters.attach(0)
    for _life in range(2):
        loop = Loop()
        loop.waiters.publish(counters)
        loop.waiters.dns.refused = loop.waiters.dns.most = 3
        loop.waiters.publish(counters)
    shown = counters.snapshot()
    assert (shown["waiting.dns_refused"], shown["waiting.dns_most"], shown["waiting.store"]) == (6, 3, 0)


# --- shares of strangers

LISTENER = Listener(0, "udp", "192.0.2.100", 5060)


def handler(host):
    return (b"", Flow(LISTENER, host, 5060))


def sharing(known=(), places=100):
    loop = Loop(places)
    loop.waiters.share(lambda flow: flow.host in known, places)
    return loop


def enter(loop, current, room=None):
    loop.current = current
    (room or loop.waiters.database).enter()


def test_one_stranger_takes_a_twentieth_of_all_places_and_another_finds_room():
    loop = sharing()
    for _ in range(5):
        enter(loop, handler("203.0.113.7"))
    with pytest.raises(ResourceError):
        enter(loop, handler("203.0.113.7"))
    enter(loop, handler("203.0.113.8"))
    assert loop.waiters.database.refused == 1


def test_of_a_small_room_one_stranger_takes_a_quarter():
    loop = sharing(places=1000)
    for _ in range(16):
        enter(loop, handler("203.0.113.7"), loop.waiters.program)  # 64 places
    with pytest.raises(ResourceError):
        enter(loop, handler("203.0.113.7"), loop.waiters.program)


def test_a_stranger_who_waits_for_names_as_often_as_he_may_still_finds_the_store():
    loop = sharing()
    for _ in range(5):
        enter(loop, handler("203.0.113.7"), loop.waiters.dns)
    with pytest.raises(ResourceError):
        enter(loop, handler("203.0.113.7"), loop.waiters.dns)
    enter(loop, handler("203.0.113.7"), loop.waiters.store)
    assert (loop.waiters.dns.refused, loop.waiters.store.refused) == (1, 0)


def test_all_strangers_take_half_of_a_room():
    loop = sharing(known={"198.51.100.1"})
    for number in range(10):
        enter(loop, handler(f"203.0.113.{number}"))  # of 20 places
    with pytest.raises(ResourceError):
        enter(loop, handler("203.0.113.99"))
    enter(loop, handler("198.51.100.1"))
    enter(loop, handler("203.0.113.99"), loop.waiters.store)


def test_a_place_is_free_again_also_of_who_became_known_meanwhile():
    known = set()
    loop = sharing(known=known)
    current = handler("203.0.113.7")
    for _ in range(20):
        loop.current = current
        with loop.waiters.database:
            known.add("203.0.113.7")
        known.clear()
    assert loop.waiters.database.shares.waiting == 0


def test_timers_have_no_share():
    loop = sharing()
    for _ in range(15):
        enter(loop, "a timer")
    assert loop.waiters.database.shares.waiting == 0
