"""Every handler may wait for a resolver, a database or a program: time goes on, and what was armed is armed from then."""

from __future__ import annotations

import pytest
from support.receiver import Bench, names, request, response

from serpy.context.context import BRANCH, FAILURE, ONREPLY, ONSEND, REQUEST, Target

CALLEE = ("192.0.2.2", 5060)
SECOND = ("192.0.2.9", 5060)
T1 = 0.5


def relay(bench, ctx):
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    bench.tm.t_relay(ctx)


def everything(bench, ctx):
    """A main route that arms all the others."""
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    if ctx.request.method == "INVITE" and not ctx.request.to_tag:
        bench.tm.t_on_failure(ctx, "F")
        bench.tm.t_on_reply(ctx, "R")
        bench.tm.t_on_branch(ctx, "B")
    bench.tm.t_relay(ctx)


def try_second(bench, ctx):
    ctx.branches.append(Target("sip:bob@192.0.2.9"))
    bench.tm.t_relay(ctx)


def instants(bench, seconds, step=0.05):
    """(seconds since now, message) of what goes out while time passes."""
    found = []
    start = bench.loop.now()
    while bench.loop.now() < start + seconds:
        found += [(bench.loop.now() - start, item) for item in bench.advance(step)]
    return found


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_request_whose_name_was_looked_up_for_3_s_leaves_once_and_is_repeated_from_then(method):
    bench = Bench(main=relay)
    bench.slow_resolver(3.0, ("udp", *CALLEE))
    bench.receive(request(method, uri="sip:bob@example.com"))
    times = [at for at, item in instants(bench, 5.0) if item.what == method]
    assert len(times) == 3
    assert 3.0 <= times[0] < 3.2
    assert T1 - 0.1 < times[1] - times[0] < T1 + 0.2
    assert 2 * T1 - 0.1 < times[2] - times[1] < 2 * T1 + 0.2


def test_after_a_slow_lookup_the_peer_has_all_its_time():
    bench = Bench(main=relay)
    bench.slow_resolver(5.0, ("udp", *CALLEE))
    bench.receive(request(uri="sip:bob@example.com"))
    answered = [at for at, item in instants(bench, 60) if item.what == "408"]
    assert 5 + 64 * T1 <= answered[0] < 5 + 64 * T1 + 0.3


def test_a_negative_answer_after_a_slow_database_is_repeated_from_when_it_left():
    bench = Bench(main=lambda b, ctx: b.tm.t_reply(ctx, 486, "Busy"))
    bench.slow_database(4.0)
    bench.receive(request())
    times = [at for at, item in instants(bench, 6.0) if item.what == "486"]
    assert 4.0 <= times[0] < 4.2
    assert T1 - 0.1 < times[1] - times[0] < T1 + 0.2


HANDLERS = [
    pytest.param((REQUEST, ""), id="main route"),
    pytest.param((FAILURE, "F"), id="failure route"),
    pytest.param((ONREPLY, "R"), id="onreply route"),
    pytest.param((ONREPLY, ""), id="default onreply route"),
    pytest.param((BRANCH, "B"), id="branch route"),
    pytest.param((ONSEND, ""), id="onsend route"),
    pytest.param("database", id="database"),
    pytest.param("resolver", id="resolver"),
]


class Call:
    """A call by a Bench whose handlers are slow: 486 at the first target, 200 at the second, then BYE."""

    def __init__(self, handler, seconds):
        self.bench = Bench(
            main=everything, failure_F=try_second, reply_R=lambda b, c: None, branch_B=lambda b, c: None,
            reply=lambda b, c: None, onsend=lambda b, c: None,
        )  # fmt: skip
        bench = self.bench
        uri = "sip:bob@192.0.2.2"
        if handler == "database":
            bench.slow_database(seconds)
        elif handler == "resolver":
            bench.slow_resolver(seconds, ("udp", *CALLEE))
            uri = "sip:bob@example.com"
        else:
            bench.slow[handler] = seconds
        self.uri = uri
        self.sent = []

    def send(self, text, source=("192.0.2.1", 5060)):
        self.sent += self.bench.receive(text, source)

    def wait_for(self, what, host, limit=40):
        """The first message of that kind not seen yet, after as much time as it takes."""
        for _ in range(limit * 10):
            for item in self.sent:
                if item.what == what and item.host == host:
                    self.sent.remove(item)
                    return item
            self.sent += self.bench.advance(0.1)
        raise AssertionError(f"no {what} for {host}: {names(self.sent)}")


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_call_goes_its_way_whatever_handler_takes_3_s(handler):
    call = Call(handler, 3.0)
    bench = call.bench
    call.send(request(uri=call.uri))
    first = call.wait_for("INVITE", CALLEE[0])
    call.send(response(first, 180), CALLEE)
    call.wait_for("180", "192.0.2.1")
    call.send(response(first, 486), CALLEE)
    call.wait_for("ACK", CALLEE[0])
    second = call.wait_for("INVITE", SECOND[0])
    call.send(response(second, 200, to_tag="second"), SECOND)
    answer = call.wait_for("200", "192.0.2.1")
    assert "tag=second" in answer.line("To")
    call.send(request("ACK", uri=call.uri, branch="z9hG4bKack", to_tag="second"))
    call.wait_for("ACK", CALLEE[0])
    call.send(request("BYE", uri=call.uri, branch="z9hG4bKbye", to_tag="second", cseq=2))
    call.send(response(call.wait_for("BYE", CALLEE[0]), 200, to_tag="second"), CALLEE)
    assert call.wait_for("200", "192.0.2.1").line("CSeq") == "CSeq: 2 BYE"
    finals = [item for item in call.sent + bench.advance(120) if item.host == "192.0.2.1" and item.what >= "2"]
    assert names(finals) == []  # nothing twice
    assert not bench.layer.servers
    assert not bench.layer.clients
    assert len(bench.parking) == 0


@pytest.mark.parametrize("handler", HANDLERS)
def test_another_call_does_not_wait_for_a_slow_handler(handler):
    call = Call(handler, 30.0)
    call.send(request(uri=call.uri))
    call.bench.slow.clear()
    call.bench.server.hooks.pre_script.clear()
    sent = call.bench.receive(request("MESSAGE", branch="z9hG4bKother", call_id="other"))
    assert names(sent) == ["MESSAGE 192.0.2.2"]


def test_a_cancel_waits_for_the_invite_that_is_being_looked_up_and_reaches_the_callee():
    bench = Bench(main=relay)
    bench.slow_resolver(3.0, ("udp", *CALLEE))
    bench.receive(request(uri="sip:bob@example.com"))
    assert bench.receive(request("CANCEL", uri="sip:bob@example.com")) == []
    sent = bench.advance(3.1)
    assert names(sent) == ["INVITE 192.0.2.2", "200 192.0.2.1"]
    assert names(bench.receive(response(sent[0], 180), CALLEE)) == ["CANCEL 192.0.2.2", "180 192.0.2.1"]
    assert names(bench.receive(response(sent[0], 487), CALLEE)) == ["ACK 192.0.2.2", "487 192.0.2.1"]


def test_a_cancel_whose_own_handler_is_slow_still_cancels():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 180), CALLEE)
    bench.slow_database(3.0)
    bench.receive(request("CANCEL"))
    assert names(bench.advance(3.1)) == ["200 192.0.2.1", "CANCEL 192.0.2.2"]
    times = [at for at, item in instants(bench, 1.0) if item.what == "CANCEL"]
    assert len(times) == 1
    assert times[0] >= T1 - 0.1


def test_an_ack_before_the_timer_that_waited_with_it_leaves_the_transaction_its_last_wait():
    """Both wait behind a handler of the same Call-ID: first the ACK, then the timer G it has stopped."""

    def main(bench, ctx):
        if ctx.request.method == "INFO":
            bench.park(1.0)
        elif ctx.request.method == "ACK":
            bench.tm.t_relay(ctx)
        else:
            bench.tm.t_reply(ctx, 486, "Busy")

    bench = Bench(main=main)
    tag = bench.receive(request())[1].line("To").partition("tag=")[2]
    bench.receive(request("INFO", branch="z9hG4bKinfo", cseq=2))
    assert bench.receive(request("ACK", to_tag=tag)) == []
    assert bench.advance(1.5) == []
    assert bench.receive(request("ACK", to_tag=tag)) == []  # absorbed, not sent on to the callee
    bench.advance(6)
    assert not bench.layer.servers


def test_a_timer_that_waited_for_3_s_does_not_make_up_for_what_it_missed():
    def main(bench, ctx):
        if ctx.request.method == "INFO":
            bench.park(3.0)
        else:
            bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    bench.receive(request())
    bench.receive(request("INFO", branch="z9hG4bKinfo", cseq=2))
    times = [at for at, item in instants(bench, 5) if item.what == "INVITE"]
    assert len(times) == 2  # one when its turn came, the next after its whole interval
    assert times[1] - times[0] >= 2 * T1 - 0.1


def test_a_failure_route_that_waits_after_a_timeout_holds_up_no_other_call():
    def waiting(bench, ctx):
        bench.park(10.0)
        bench.tm.t_reply(ctx, 480, "Nobody")

    def main(bench, ctx):
        if ctx.request.call_id == "slow":
            bench.tm.t_on_failure(ctx, "F")
        bench.tm.t_relay(ctx)

    bench = Bench(main=main, failure_F=waiting)
    for call_id in ("slow", "quick"):
        bench.receive(request(call_id=call_id, branch=f"z9hG4bK{call_id}"))
    answers = [(at, item.what) for at, item in instants(bench, 45) if item.host == "192.0.2.1"]
    (quick, slow) = answers[0], next(each for each in answers if each[1] == "480")
    assert quick[1] == "408"
    assert 32 <= quick[0] < 32.3
    assert 42 <= slow[0] < 42.3


def test_a_request_repeated_while_its_handler_waits_runs_once():
    runs = []

    def main(bench, ctx):
        runs.append(ctx.request.call_id)
        bench.park(2.0)
        bench.tm.t_reply(ctx, 200, "OK")

    bench = Bench(main=main)
    bench.receive(request("MESSAGE"))
    bench.receive(request("MESSAGE"))
    assert set(names(bench.advance(3))) == {"200 192.0.2.1"}
    assert runs == ["call-1"]


def test_the_time_a_script_reads_is_the_present_and_that_of_arrival_stays():
    seen = []

    def main(bench, ctx):
        before = ctx.wall_now
        bench.park(4.0)
        seen.append((ctx.wall_now - before, ctx.arrived_at == before))

    bench = Bench(main=main)
    bench.receive(request("MESSAGE"))
    bench.advance(5)
    ((passed, same),) = seen
    assert 4.0 <= passed < 4.1
    assert same
