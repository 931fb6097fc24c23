"""What those who watch flagged transactions are told: every answer once, with whose it was."""

from __future__ import annotations

import pytest
from support.receiver import Bench, request, response

CALLEE = ("192.0.2.2", 5060)
FLAG = 3


def main(bench, ctx):
    if bench.flagged:
        ctx.flags |= 1 << FLAG
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
    elif bench.reply_with:
        bench.tm.t_reply(ctx, bench.reply_with, "No")
    elif bench.replicate:
        bench.tm.t_replicate(ctx, "sip:192.0.2.2:5060")
    else:
        ctx.request_uri = "sip:bob@192.0.2.2:5060"
        if bench.failure:
            bench.tm.t_on_failure(ctx, "again")
        bench.tm.t_relay(ctx)


def again(bench, ctx):
    bench.events.append(("failure route", ctx.status))
    if bench.failure == "relay":
        ctx.request_uri = "sip:carol@192.0.2.2:5060"
        bench.tm.t_relay(ctx)


def watched(*, flagged=True, reply_with=0, replicate=False, failure="", **params):
    bench = Bench(params, main=main, failure_again=again)
    bench.flagged, bench.reply_with, bench.replicate, bench.failure = flagged, reply_with, replicate, failure
    bench.events = []
    bench.layer.watched_flags = 1 << FLAG

    def note(name):
        def watcher(ctx, arrived, status, answer, to_tag, uri):
            assert ctx.flags & 1 << FLAG
            assert arrived == 1.7e9 + 1000.0
            whose = "ours" if answer is None else "theirs"
            bench.events.append((name, status, whose, to_tag, uri.partition("@")[0]))

        return watcher

    bench.server.hooks.on_answer.append(note("answer"))
    bench.server.hooks.on_failed.append(note("failed"))
    return bench


BOB = "sip:bob"


def answer(status, to_tag="t"):
    return ("answer", status, "theirs", to_tag, BOB)


def begin(bench, method="INVITE"):
    """The request as it left for the callee."""
    return next(item for item in bench.receive(request(method)) if item.what == method)


def test_a_call_is_reported_when_it_is_answered_and_not_when_it_rings():
    bench = watched()
    invite = begin(bench)
    for status in (100, 180, 200, 200):
        bench.receive(response(invite, status, to_tag="t"), CALLEE)
    assert bench.events == [answer(200)]


def test_session_progress_is_reported():
    bench = watched()
    invite = begin(bench)
    bench.receive(response(invite, 183, to_tag="t"), CALLEE)
    assert bench.events == [answer(183)]


@pytest.mark.parametrize("status", [302, 404, 486, 504, 603])
def test_a_failure_is_reported_before_its_answer(status):
    bench = watched()
    invite = begin(bench)
    bench.receive(response(invite, status, to_tag="t"), CALLEE)
    assert bench.events == [("failed", status, "theirs", "t", BOB), answer(status)]


def test_a_failure_is_reported_before_the_failure_route():
    bench = watched(failure="none")
    invite = begin(bench)
    bench.receive(response(invite, 486, to_tag="t"), CALLEE)
    assert [event[:2] for event in bench.events] == [("failed", 486), ("failure route", 486), ("answer", 486)]


def test_a_failure_that_leads_elsewhere_is_reported_with_the_answer_of_there():
    bench = watched(failure="relay")
    invite = begin(bench)
    second = next(item for item in bench.receive(response(invite, 486, to_tag="t"), CALLEE) if item.what == "INVITE")
    bench.receive(response(second, 200, to_tag="u"), CALLEE)
    assert bench.events[0] == ("failed", 486, "theirs", "t", BOB)
    assert bench.events[-1] == ("answer", 200, "theirs", "u", "sip:carol")


def test_silence_is_a_failure_with_408_of_our_own():
    bench = watched()
    begin(bench)
    bench.advance(33)
    assert [event[:3] for event in bench.events] == [("failed", 408, "ours"), ("answer", 408, "ours")]


def test_a_request_that_ends_without_an_answer_is_reported_with_408():
    bench = watched()
    begin(bench, "MESSAGE")
    bench.advance(33)
    assert [event[:2] for event in bench.events] == [("failed", 408), ("answer", 408)]


def test_an_answer_of_our_own_is_reported_with_its_tag():
    bench = watched(reply_with=404)
    sent = bench.receive(request())[-1]
    ((name, status, whose, to_tag, _),) = bench.events
    assert (name, status, whose) == ("answer", 404, "ours")
    assert sent.line("To").endswith(f";tag={to_tag}")


def test_a_cancelled_call_is_reported_and_the_cancel_once():
    bench = watched()
    invite = begin(bench)
    bench.receive(response(invite, 180, to_tag="t"), CALLEE)
    bench.receive(request("CANCEL"))
    bench.receive(request("CANCEL"))
    bench.receive(response(invite, 487, to_tag="t"), CALLEE)
    assert [event[:3] for event in bench.events] == [
        ("answer", 200, "ours"), ("failed", 487, "theirs"), ("answer", 487, "theirs"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options", [pytest.param({"flagged": False}, id="without-the-flag"), pytest.param({"replicate": True}, id="a-copy")]
)
def test_what_is_not_watched_is_not_reported(options):
    bench = watched(**options)
    invite = begin(bench)
    bench.receive(response(invite, 200, to_tag="t"), CALLEE)
    assert bench.events == []
