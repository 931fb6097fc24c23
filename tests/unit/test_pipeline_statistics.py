"""Every counter counts what its name says, whatever the order of declaration."""

from __future__ import annotations

import pytest
from support.receiver import Bench, request, response

from serpy.net.streams import COUNTERS, GAUGES
from serpy.pipeline import CORE, declare_statistics
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.transaction.statistics import SL, TM
from serpy.workers.tcp import _Counts

BOB = ("192.0.2.2", 5060)


def counted(*messages, main):
    """The counters that are not 0 after *messages*."""
    bench = Bench(main=main)
    sent = []
    for text, source in messages:
        sent += bench.receive(text(sent) if callable(text) else text, source)
    bench.pipeline._publish()
    return {name: value for name, value in bench.server.counters.snapshot().items() if value}


def relay(bench, ctx):
    bench.tm.t_relay(ctx)


def test_a_call_is_counted_by_name():
    invite = (request(), ("192.0.2.1", 5060))
    assert counted(
        invite,
        invite,
        (lambda sent: response(sent[1], 180), BOB),
        (lambda sent: response(sent[1], 486), BOB),
        (b"\r\n\r\n", BOB),
        (b"nonsense, and more of it", BOB),
        main=relay,
    ) == {
        "core.requests": 2,
        "core.responses": 2,
        "core.keepalives": 1,
        "core.malformed": 1,
        "tm.created": 1,
        "tm.current": 1,
        "tm.local_replies": 1,
        "tm.relayed_replies": 2,
        "tm.absorbed": 1,
        "tm.final_4xx": 1,
    }


@pytest.mark.parametrize("status", [100, 200, 300, 404, 500, 603])
def test_a_stateless_answer_is_counted_in_its_class(status):
    found = counted((request("OPTIONS"), BOB), main=lambda b, ctx: b.sl.sl_reply(ctx, status, ""))
    assert found == {"core.requests": 1, "sl.sent": 1, f"sl.{status // 100}xx": 1}


def test_a_refused_request_is_counted():
    bad = request("OPTIONS", extra=("Proxy-Require: x",))
    found = counted((bad, BOB), main=relay)
    assert found == {"core.requests": 1, "core.refused": 1, "sl.sent": 1, "sl.4xx": 1}


def test_a_response_for_nobody_is_counted():
    lines = (
        "SIP/2.0 200 OK", "Via: SIP/2.0/UDP 192.0.2.100;branch=z9hG4bKx", "From: <sip:a@b>;tag=1",
        "To: <sip:a@b>;tag=2", "Call-ID: c", "CSeq: 1 OPTIONS", "Content-Length: 0", "", "",
    )  # fmt: skip
    assert counted(("\r\n".join(lines), BOB), main=relay) == {
        "core.responses": 1, "core.stray_responses": 1, "core.stray_foreign": 1,
    }  # fmt: skip


def test_the_master_makes_them_known_before_the_first_child():
    counters = Counters(Segment(1 << 20), 1)
    declare_statistics(counters)
    names = [each.name for each in (*CORE, *TM, *SL)]
    assert list(counters.snapshot()) == names
    assert len(set(names)) == len(names)


def test_tcp_counters_are_bound_by_name():
    counters = Counters(Segment(1 << 20), 1)
    counters.declare("something", "declared before")
    count = _Counts(counters)
    for amount, number in enumerate((count.accepted, count.connected, count.turned_away, count.messages), 1):
        counters.set(number, amount)
    for amount, number in enumerate((count.malformed, count.failed, count.paused), 5):
        counters.set(number, amount)
    count.set_current(8)
    count.set_queued(9)
    for amount, number in enumerate((count.held, count.crowded, count.made_room, count.too_slow), 10):
        counters.set(number, amount)
    found = counters.snapshot()
    assert {name: found[name] for name, _ in COUNTERS} == {
        "tcp.accepted": 1, "tcp.connected": 2, "tcp.turned_away": 3, "tcp.messages": 4, "tcp.malformed": 5,
        "tcp.failed": 6, "tcp.paused": 7, "tcp.connections": 8, "tcp.queued_bytes": 9,
        "tcp.held": 10, "tcp.crowded": 11, "tcp.made_room": 12, "tcp.too_slow": 13,
    }  # fmt: skip
    assert {name for name, _ in COUNTERS} >= GAUGES
