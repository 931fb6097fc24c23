"""The loop: readers, timers, and handlers that park without holding up the others."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time

import pytest

from serpy.errors import ResourceError
from serpy.net.loop import COALESCE_WINDOW_S, Loop
from serpy.net.udp import BATCH, UdpReader
from serpy.sip.flow import Listener


@pytest.fixture
def loop():
    made = Loop()
    made.call_at(time.monotonic() + 10, made.stop)  # a test that hangs ends
    return made


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_timers_fire_in_order_and_cancelled_ones_never(loop):
    seen = []
    now = time.monotonic()
    loop.call_at(now + 0.02, lambda: (seen.append("second"), loop.stop()))
    loop.call_at(now + 0.01, lambda: seen.append("first"))
    loop.call_at(now + 0.005, lambda: seen.append("never")).cancel()
    loop.run()
    assert seen == ["first", "second"]


def test_many_cancelled_timers_do_not_stay_in_memory(loop):
    far = time.monotonic() + 1000
    for _ in range(5000):
        loop.call_at(far, loop.stop).cancel()
    assert len(loop._timers) < 2500


def test_a_parked_handler_lets_the_others_run(loop, pipe):
    seen = []
    reader, writer = pipe

    def waiting():
        loop.current = "message 1"
        seen.append("parks")
        ready = loop.wait_readable(reader, loop.now() + 5)
        seen.append(("resumed", ready, loop.current))
        loop.stop()

    def other():
        loop.current = "message 2"
        seen.append(("other", loop.parked))
        os.write(writer, b"x")

    loop.spawn(waiting)
    loop.spawn(other)
    loop.run()
    assert seen == ["parks", ("other", 1), ("resumed", True, "message 1")]
    assert loop.parked == 0


def test_a_wait_ends_at_its_deadline(loop, pipe):
    seen = []

    def waiting():
        seen.append(loop.wait_readable(pipe[0], loop.now() + 0.01))
        loop.stop()

    loop.spawn(waiting)
    loop.run()
    assert seen == [False]


def test_a_full_pipe_is_waited_for_until_writable(loop):
    left, right = socket.socketpair()
    left.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            left.send(b"x" * 65536)
    seen = []

    def waiting():
        seen.append(loop.wait_writable(left.fileno(), loop.now() + 5))
        loop.stop()

    def drain():
        right.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while right.recv(1 << 20):
                pass

    loop.spawn(waiting)
    loop.spawn(drain)
    loop.run()
    left.close()
    right.close()
    assert seen == [True]


def test_a_ticket_is_resumed_by_its_number_with_a_value(loop):
    seen = []

    def asking():
        ticket = loop.new_ticket()
        loop.call_at(loop.now() + 0.01, lambda: loop.resume(ticket.id, "answer"))
        seen.append(loop.wait(ticket, loop.now() + 5))
        seen.append(loop.resume(ticket.id, "late"))
        loop.stop()

    loop.spawn(asking)
    loop.run()
    assert seen == ["answer", False]


def test_an_answer_before_the_wait_is_kept(loop):
    seen = []

    def asking():
        ticket = loop.new_ticket()
        loop.resume(ticket.id, 7)
        seen.append(loop.wait(ticket, loop.now() + 5))
        loop.stop()

    loop.spawn(asking)
    loop.run()
    assert seen == [7]


def test_a_ticket_without_an_answer_gives_none(loop):
    seen = []

    def asking():
        seen.append(loop.wait(loop.new_ticket(), loop.now() + 0.01))
        loop.stop()

    loop.spawn(asking)
    loop.run()
    assert seen == [None]
    assert loop._tickets == {}


def test_more_parked_handlers_than_allowed_are_refused(loop):
    loop.max_parked = 2
    outcomes = []

    def asking():
        try:
            loop.sleep(0.02)
            outcomes.append("slept")
        except ResourceError:
            outcomes.append("refused")
        if len(outcomes) == 3:
            loop.stop()

    for _ in range(3):
        loop.spawn(asking)
    loop.run()
    assert outcomes == ["refused", "slept", "slept"]


def test_five_greenlets_serve_a_hundred_waits_beside_immediate_work(loop):
    pairs = [socket.socketpair() for _ in range(5)]
    state = {"immediate": 0, "waited": 0, "free": list(pairs), "todo": 100}

    def query(pair):
        loop.call_at(loop.now() + 0.001, lambda: pair[1].send(b"row"))
        assert loop.wait_readable(pair[0].fileno(), loop.now() + 5)
        pair[0].recv(10)
        state["waited"] += 1
        state["free"].append(pair)
        feed()

    def feed():
        while state["free"] and state["todo"]:
            state["todo"] -= 1
            pair = state["free"].pop()
            loop.spawn(lambda pair=pair: query(pair))
        if state["waited"] == 100:
            loop.stop()

    def immediate():
        state["immediate"] += 1
        if state["immediate"] < 900:
            loop.spawn(immediate)

    loop.spawn(feed)
    loop.spawn(immediate)
    loop.run()
    for pair in pairs:
        pair[0].close()
        pair[1].close()
    assert (state["immediate"], state["waited"]) == (900, 100)
    assert loop.most_parked <= 5
    assert len(loop._idle) <= 6


def test_a_reader_that_parks_makes_the_rest_of_the_event_list_stale_not_lost(loop):
    pairs = [socket.socketpair() for _ in range(4)]
    seen = []

    def reader(index):
        pairs[index][0].recv(10)
        if index == 0:
            loop.sleep(0.01)
        seen.append(index)
        if len(seen) == 4:
            loop.stop()

    for index, pair in enumerate(pairs):
        loop.add_reader(pair[0].fileno(), lambda index=index: reader(index))
        pair[1].send(b"x")
    loop.run()
    for pair in pairs:
        pair[0].close()
        pair[1].close()
    assert sorted(seen) == [0, 1, 2, 3]
    assert seen[-1] == 0


def test_the_timer_source_is_asked_and_run(loop):
    state = {"at": time.monotonic() + 0.01, "ran": 0}

    def on_timer(now):
        assert now >= state["at"]
        state["at"] = float("inf")
        state["ran"] += 1
        loop.stop()

    loop.set_timer_source(lambda: state["at"], on_timer)
    loop.run()
    assert state["ran"] == 1


def test_a_leader_body_that_leads_again_survives_a_bug_in_a_callback(loop):
    caught = []

    def body():
        while not loop.stopping:
            try:
                loop.lead()
            except ZeroDivisionError as exc:
                caught.append((str(exc), loop.current))
                loop.spawn(loop.stop)

    def broken():
        loop.current = "the culprit"
        loop.sleep(0.005)
        return 1 // 0

    loop.leader_body = body
    loop.spawn(broken)
    loop.run()
    assert [current for _, current in caught] == ["the culprit"]


def test_outside_the_loop_a_wait_blocks_and_still_works(pipe):
    loop = Loop()
    os.write(pipe[1], b"x")
    assert loop.wait_readable(pipe[0], time.monotonic() + 1)


def test_a_thousand_handlers_park_at_the_same_time():
    loop = Loop(max_parked=1000)
    done = []

    def handler():
        loop.sleep(0.05)
        done.append(1)
        if len(done) == 1000:
            loop.stop()

    for _ in range(1000):
        loop.spawn(handler)
    loop.run()
    assert len(done) == 1000
    assert loop.most_parked == 1000


def gather(arrivals: int, coalesce_s: float) -> float:
    """The pause a loop takes after it has seen *arrivals* within one window."""
    loop = Loop()
    loop.coalesce_s = coalesce_s

    def count() -> None:
        loop.arrivals += arrivals
        loop.call_at(time.monotonic() + 2 * COALESCE_WINDOW_S, loop.stop)

    loop.spawn(count)
    loop.run()
    return loop.pause_s


@pytest.mark.parametrize(
    ("arrivals", "coalesce_s", "pause_s"),
    [
        pytest.param(100_000, 0.004, 0.004, id="busy"),
        pytest.param(3, 0.004, 0.0, id="quiet"),
        pytest.param(100_000, 0.0, 0.0, id="switched off"),
    ],
)
def test_only_a_busy_loop_lets_arrivals_gather(arrivals: int, coalesce_s: float, pause_s: float) -> None:
    assert gather(arrivals, coalesce_s) == pause_s


def test_nothing_gathers_while_messages_wait(monkeypatch):
    """More datagrams than one batch are read without a pause in between: a flood is not slowed down."""
    loop = Loop()
    loop.pause_s = 60.0
    loop._window_end = math.inf
    received: list[bytes] = []
    paused_after: list[int] = []

    def sleep(_seconds: float) -> None:
        paused_after.append(len(received))
        if received:
            loop.stop()

    monkeypatch.setattr(time, "sleep", sleep)
    here, there = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with here, there:
        here.bind(("127.0.0.1", 0))
        here.setblocking(False)
        count = 2 * BATCH + 5
        for number in range(count):
            there.sendto(b"%d" % number, here.getsockname())
        listener = Listener(0, "udp", *here.getsockname())
        UdpReader(loop, here, listener, lambda data, _flow: received.append(data))
        loop.run()
    assert received == [b"%d" % number for number in range(count)]
    assert paused_after == [0, count]


def test_all_that_has_gathered_is_read_at_once():
    """Also right after reads that found a single datagram: none waits for the next pause."""
    loop = Loop()
    loop.pause_s = 0.004
    received: list[bytes] = []
    here, there = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with here, there:
        here.bind(("127.0.0.1", 0))
        here.setblocking(False)
        reader = UdpReader(
            loop, here, Listener(0, "udp", *here.getsockname()), lambda data, _flow: received.append(data)
        )
        for batch in ([b"1"], [b"2"], [b"3", b"4", b"5"]):
            for data in batch:
                there.sendto(data, here.getsockname())
            reader.read()
    assert received == [b"1", b"2", b"3", b"4", b"5"]


def test_after_a_wait_now_is_the_present(loop):
    """Also when the one who brings the answer has worked for long since the last poll."""
    seen = {}

    def asking():
        ticket = loop.new_ticket()
        seen["ticket"] = ticket.id
        loop.wait(ticket, time.monotonic() + 5)
        seen["resumed"] = loop.now()
        loop.stop()

    def answering():
        time.sleep(0.002)
        seen["answered"] = time.monotonic()
        loop.resume(seen["ticket"], "answer")

    loop.spawn(asking)
    loop.spawn(answering)
    loop.run()
    assert seen["resumed"] >= seen["answered"]


def test_a_timer_run_after_a_callback_that_waited_is_told_the_present(loop):
    state = {"at": math.inf}

    def waiting():
        loop.sleep(0.002)
        state["resumed"] = time.monotonic()
        state["at"] = 0.0

    def on_timer(now):
        state["at"] = math.inf
        state["told"] = now
        loop.stop()

    loop.set_timer_source(lambda: state["at"], on_timer)
    loop.spawn(waiting)
    loop.run()
    assert state["told"] >= state["resumed"]


def late(loop, start):
    """What ``now()`` says to the second of two callbacks when the first takes its time."""
    seen = {}

    def slow():
        time.sleep(0.002)
        seen["ended"] = time.monotonic()

    def following():
        seen["now"] = loop.now()
        loop.stop()

    start(slow)
    start(following)
    loop.run()
    return seen


@pytest.mark.parametrize("how", ["spawn", "call_at"])
def test_a_callback_after_one_that_took_long_sees_the_present(loop, how):
    now = time.monotonic()
    seen = late(loop, loop.spawn if how == "spawn" else lambda callback: loop.call_at(now, callback))
    assert seen["now"] >= seen["ended"]


def run_with_bugs(loop, on_bug):
    """Run *loop*, telling *on_bug* what ran into each bug."""

    def body():
        while not loop.stopping:
            try:
                loop.lead()
            except ZeroDivisionError:
                on_bug(loop.current)

    loop.leader_body = body
    loop.run()


@pytest.mark.parametrize("how", ["spawn", "call_at"])
def test_a_bug_in_one_callback_loses_none_that_are_due_with_it(loop, how):
    seen, bugs = [], []
    now = time.monotonic()
    start = loop.spawn if how == "spawn" else lambda callback: loop.call_at(now, callback)

    def broken():
        return 1 // 0

    start(lambda: seen.append("before"))
    start(broken)
    start(lambda: seen.append("after"))
    start(loop.stop)
    run_with_bugs(loop, bugs.append)
    assert seen == ["before", "after"]
    assert bugs == [broken]


@pytest.mark.parametrize("how", ["timer", "timer source", "spawned", "reader"])
def test_a_bug_is_not_blamed_on_the_message_handled_before(loop, pipe, how):
    bugs = []
    at = [math.inf]

    def broken(*_now):
        loop.stop()
        at[0] = math.inf
        return 1 // 0

    def handler():
        loop.current = "an innocent message"
        if how == "timer":
            loop.call_at(0.0, broken)
        elif how == "timer source":
            at[0] = 0.0
        elif how == "spawned":
            loop.spawn(broken)
        else:
            loop.add_reader(pipe[0], broken)
            os.write(pipe[1], b"x")

    loop.set_timer_source(lambda: at[0], broken)
    loop.spawn(handler)
    run_with_bugs(loop, bugs.append)
    assert bugs == [broken]


def test_a_reader_that_fails_whenever_it_is_called_keeps_no_timer_from_running(loop, pipe):
    """As one that has no memory for what it would read: the heartbeat goes on."""
    seen = []

    def broken():
        seen.append("bug")
        if len(seen) == 100:
            loop.stop()
        return 1 // 0

    def beat():
        seen.append("timer")
        loop.spawn(lambda: seen.append("spawned"))

    loop.add_reader(pipe[0], broken)
    os.write(pipe[1], b"x")
    loop.call_at(time.monotonic(), beat)
    run_with_bugs(loop, lambda _current: None)
    assert {"timer", "spawned"} < set(seen)
