"""Segment, counters, status page and generation numbers."""

from __future__ import annotations

import os

import pytest

from serpy.errors import ResourceError, UsageError
from serpy.shm import counters as page
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment


@pytest.fixture
def counters():
    return Counters(Segment(4 * 1024 * 1024), 3)


def in_child(function):
    """Run *function* in a forked process and return its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:  # noqa: BLE001 - the child must not return into pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_areas_do_not_overlap_and_start_zeroed():
    segment = Segment(65536)
    first, second = segment.allocate("a", 100), segment.allocate("b", 5000)
    first[:] = b"x" * 100
    assert bytes(second) == bytes(5000)
    assert segment.areas()["b"][0] % 4096 == 0


def test_a_full_segment_tells_to_raise_m():
    segment = Segment(8192)
    with pytest.raises(ResourceError, match="-m"):
        segment.allocate("big", 9000)


def test_a_name_is_allocated_once():
    segment = Segment(8192)
    segment.allocate("a", 10)
    with pytest.raises(UsageError, match="exists"):
        segment.allocate("a", 10)


def test_what_a_child_writes_is_seen_by_its_parent():
    segment = Segment(8192)
    area = segment.allocate("a", 8)

    def write():
        area[:] = b"12345678"

    assert in_child(write) == 0
    assert bytes(area) == b"12345678"


def test_a_huge_segment_costs_nothing_untouched():
    segment = Segment(64 * 1024**3)
    assert segment.free == segment.size


def test_declaring_a_counter_again_gives_the_same_id(counters):
    assert counters.declare("sl.sent", "replies") == counters.declare("sl.sent", "other words")
    assert counters.help_text("sl.sent") == "replies"


def test_totals_add_all_slots_and_the_master(counters):
    sent, gauge = counters.declare("sent", ""), counters.declare("gauge", "")

    def child(slot):
        counters.attach(slot)
        counters.add(sent)
        counters.add(sent, 4)
        counters.set(gauge, slot)

    for slot in (0, 2):
        assert in_child(lambda slot=slot: child(slot)) == 0
    counters.add(sent, 100)
    assert counters.total(sent) == 110
    assert counters.per_slot(sent) == [5, 0, 5]
    assert counters.snapshot() == {"sent": 110, "gauge": 2}


def test_a_respawned_child_goes_on_counting_where_the_dead_one_stopped(counters):
    sent = counters.declare("sent", "")

    def child():
        counters.attach(1)
        counters.add(sent)

    assert in_child(child) == 0
    assert in_child(child) == 0
    assert counters.per_slot(sent) == [0, 2, 0]


def test_too_many_counters_are_refused(counters):
    for number in range(page.MAX_COUNTERS):
        counters.declare(f"c{number}", "")
    with pytest.raises(ResourceError):
        counters.declare("one more", "")


def test_the_status_page_follows_a_life(counters):
    status = counters.status
    assert status.state(1) == page.EMPTY
    status.starting(1, 4711, "udp receiver", 1, "serpy: udp receiver child=1")
    assert (status.pid(1), status.state(1), status.role(1), status.child(1)) == (4711, page.BOOTING, "udp receiver", 1)
    assert status.title(1) == "serpy: udp receiver child=1"

    def child():
        counters.attach(1)
        status.ready()
        counters.heartbeat(12.5)
        status.seen(7)

    assert in_child(child) == 0
    assert (status.state(1), status.last_heartbeat(1), status.generation(1)) == (page.READY, 12.5, 7)
    status.died(1)
    assert (status.state(1), status.respawns(1)) == (page.DEAD, 0)
    status.starting(1, 4712, "udp receiver", 1, "x")
    assert status.respawns(1) == 1


def test_a_process_without_a_slot_may_not_write_the_page(counters):
    with pytest.raises(UsageError, match="attach"):
        counters.heartbeat(1.0)
    with pytest.raises(UsageError, match="slot 3"):
        counters.attach(3)


def test_a_generation_is_zero_until_bumped_and_shared(counters):
    assert counters.generation("domain") == 0
    assert in_child(lambda: counters.bump("domain")) == 0
    assert counters.generation("domain") == 1
    assert counters.bump("domain") == 2
    assert counters.generation("other") == 0
    assert counters.generations() == {"domain": 2}


def test_bumps_of_several_processes_are_all_counted(counters):
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(500):
                counters.bump("n")
            os._exit(0)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    assert counters.generation("n") == 2000


@pytest.mark.parametrize("name", [pytest.param("", id="empty"), pytest.param("x" * 57, id="too-long")])
def test_a_bad_generation_name_is_refused(counters, name):
    with pytest.raises(UsageError):
        counters.bump(name)
