"""The barrier around every handler: what is reported, what is answered, and when a process leaves."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from serpy.errors import ResourceError
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.workers.base import Worker, guarded
from serpy.workers.timer import TICK_S, TimerWorker

LIMIT = 50


class Farm:
    """The children of one server: shared counters, one clock that the test moves."""

    def __init__(self, children=2, limit=LIMIT):
        self.now = 1000.0
        self.counters = Counters(Segment(1 << 20), children)
        self.settings = SimpleNamespace(crash_limit=limit, max_parked=100)
        self.hooks = SimpleNamespace(on_tick=[])
        self.listeners = []
        self.answers = []
        self.children = [self.start(slot) for slot in range(children)]

    def start(self, slot, kind=Worker):
        bound = SimpleNamespace(children=1, streams=0, of_child=lambda _child: [])
        child = kind(self, SimpleNamespace(), bound, slot, slot)
        child.loop = Loop(clock=lambda: self.now)
        child.loop.leader_body = child._lead
        child.loop.read_clocks()
        child.started = self.now
        child.on_bug = lambda current, status=500: self.answers.append((current, status))
        return child

    def count(self, name):
        return self.counters.snapshot()[f"core.{name}"]


@pytest.fixture
def farm():
    return Farm()


def handle(child, *errors):
    """Have *child* run into *errors*, one handler each; False when it left."""
    loop = child.loop

    def failing(error):
        def handler():
            loop.current = "a message"
            raise type(error)(*error.args)

        return handler

    for error in errors:
        loop.spawn(failing(error))
    rest = len(loop._soon)
    loop.spawn(lambda: done.append(1) or loop.stop())
    done = []
    loop.run()
    left = loop.stopping and not done
    loop._stopping = left
    assert left or rest == len(errors)
    return not left


def bugs(count=LIMIT):
    return [ZeroDivisionError("ours")] * count


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(MemoryError(), 503, id="memory"),
        pytest.param(RecursionError("too deep"), 500, id="stack"),
        pytest.param(ResourceError("1000 handlers are waiting already"), 503, id="room"),
    ],
)
def test_what_anybody_can_use_up_is_refused_and_no_reason_to_leave(farm, error, status):
    farm.now += 3600
    assert handle(farm.children[0], *[error] * 4 * LIMIT)
    assert farm.answers == [("a message", status)] * 4 * LIMIT
    assert (farm.count("exhausted"), farm.count("bugs")) == (4 * LIMIT, 0)


def test_a_flood_of_them_writes_one_line_and_a_summary(farm, caplog):
    child = farm.children[0]
    handle(child, *[MemoryError()] * 30)
    farm.now += 11
    handle(child, MemoryError())
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "worker: MemoryError while handling 'a message'"),
        ("WARNING", "worker ran out of memory, stack or room 29 more times"),
        ("WARNING", "worker: MemoryError while handling 'a message'"),
    ]


def test_a_report_shows_the_traceback_and_later_how_many_were_left_out(farm, caplog, monkeypatch):
    child = farm.children[0]
    farm.counters.attach(0)
    monkeypatch.setattr("os.getppid", lambda: child._master_pid)
    handle(child, *bugs(25))
    assert [record.getMessage() for record in caplog.records] == ["bug in worker while handling 'a message'"] * 10
    assert "in handler\n" in caplog.text
    farm.now += 11
    caplog.clear()
    child._beat()
    child._beat()
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "15 more bugs in worker")
    ]
    assert farm.count("bugs") == 25


def test_a_process_with_too_many_bugs_makes_room_for_a_fresh_one(farm):
    farm.now += 3600
    child = farm.children[0]
    assert handle(child, *bugs(LIMIT - 1))
    assert not handle(child, *bugs(1))
    child.before_exit = lambda: None
    assert child._finish() == 4


def test_children_leave_one_at_a_time(farm):
    """A bug that every message finds is found by all children at once."""
    farm.now += 3600
    first, second = farm.children
    assert not handle(first, *bugs())
    assert handle(second, *bugs())
    farm.now += 11
    assert not handle(second, *bugs())


def test_a_fresh_process_stays_since_another_would_be_no_better(farm, caplog):
    child = farm.children[0]
    farm.now += 5
    assert handle(child, *bugs())
    assert "another one would be no better" in caplog.text
    farm.now += 600
    assert handle(child, *bugs(3 * LIMIT))
    farm.now += 3600
    assert not handle(child, *bugs())


def test_no_limit_means_that_nobody_leaves():
    farm = Farm(1, limit=0)
    farm.now += 3600
    assert handle(farm.children[0], *bugs(10 * LIMIT))


def test_a_bug_in_the_answer_to_a_bug_ends_nothing(farm, caplog):
    child = farm.children[0]

    def on_bug(_current, _status=500):
        raise LookupError("again")

    child.on_bug = on_bug
    assert handle(child, *bugs(1))
    assert "failed, too" in caplog.text


def test_a_report_for_which_there_is_no_memory_ends_nothing(farm, monkeypatch):
    """The request is answered all the same."""

    def no_memory(*_args, **_more):
        raise MemoryError

    child = farm.children[0]
    monkeypatch.setattr("serpy.workers.base.log", SimpleNamespace(error=no_memory, warning=no_memory))
    assert handle(child, MemoryError(), ZeroDivisionError())
    assert farm.answers == [("a message", 503), ("a message", 500)]


def test_a_hook_that_runs_outside_the_loop_takes_nothing_from_the_next(caplog):
    ran = []
    for hook in (lambda: ran.append(1), lambda: 1 // 0, lambda: ran.append(3)):
        guarded("a shutdown hook", hook)
    assert ran == [1, 3]
    assert "bug in a shutdown hook" in caplog.text


# --- ticks


def ticks(farm, seconds):
    """The timer process for some *seconds*."""
    child = farm.start(0, TimerWorker)
    loop = child.loop
    child.after_fork()

    def advance(left):
        farm.now += TICK_S
        loop.read_clocks()
        if left:
            loop.call_at(farm.now, lambda: advance(left - 1))
        else:
            loop.stop()

    loop.spawn(lambda: advance(seconds))
    loop.run()
    return child


def test_a_bug_in_one_tick_takes_nothing_from_the_others():
    ran = []
    farm = Farm(1)
    farm.hooks.on_tick = [lambda *_: ran.append("a"), lambda *_: 1 // 0, lambda *_: ran.append("c")]
    ticks(farm, 3)
    assert ran[:6] == ["a", "c", "a", "c", "a", "c"]
    assert farm.count("bugs") >= 3


def test_a_tick_that_waits_holds_up_no_other():
    ran = []
    farm = Farm(1)

    def waiting(*_):
        child.loop.wait(child.loop.new_ticket(), farm.now + 3600)

    farm.hooks.on_tick = [waiting, lambda *_: ran.append(1)]
    child = None

    class Worker(TimerWorker):
        def after_fork(self):
            nonlocal child
            child = self
            super().after_fork()

    farm.start = lambda slot, _kind, start=farm.start: start(slot, Worker)
    ticks(farm, 3)
    assert len(ran) >= 3
