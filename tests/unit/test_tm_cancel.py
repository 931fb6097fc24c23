"""CANCEL on every path (RFC 3261 §9, §16.10)."""

from __future__ import annotations

import pytest
from support.receiver import Bench, names, request, response

from serpy.context.context import Target

CALLEE = ("192.0.2.2", 5060)


def main(bench, ctx):
    if ctx.request.method == "CANCEL":
        bench.cancel_result = bench.tm.t_relay_cancel(ctx)
        if bench.cancel_result == 1:
            bench.tm.t_relay(ctx)
        return
    bench.tm.t_relay(ctx)


def cancel(**more):
    return request("CANCEL", **more)


def ringing(**params):
    bench = Bench(params, main=main)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 180), CALLEE)
    return bench, invite


def test_a_ringing_call_is_cancelled():
    bench, invite = ringing()
    sent = bench.receive(cancel())
    assert names(sent) == ["200 192.0.2.1", "CANCEL 192.0.2.2"]
    assert bench.cancel_result == 0
    assert sent[1].line("Via") == invite.lines("Via")[0]
    assert sent[1].line("CSeq") == "CSeq: 1 CANCEL"
    assert bench.receive(response(sent[1], 200), CALLEE) == []
    assert names(bench.receive(response(invite, 487), CALLEE)) == ["ACK 192.0.2.2", "487 192.0.2.1"]


def test_a_cancel_from_another_address_than_its_invite_cancels_nothing():
    bench, invite = ringing()
    sent = bench.receive(cancel(), ("192.0.2.66", 5060))
    assert bench.cancel_result == 1  # as one whose INVITE is not here
    assert "200 192.0.2.66" not in names(sent)
    assert all(
        item.lines("Via")[0] != invite.lines("Via")[0] for item in sent
    )  # nothing that the callee would take for it


def test_before_a_provisional_the_cancel_waits_for_one():
    bench = Bench(main=main)
    invite = bench.receive(request())[1]
    assert names(bench.receive(cancel())) == ["200 192.0.2.1"]
    assert names(bench.advance(0.6)) == ["INVITE 192.0.2.2"]
    assert names(bench.receive(response(invite, 100), CALLEE)) == ["CANCEL 192.0.2.2"]


def test_a_peer_that_never_answers_ends_as_487_when_cancelled():
    bench = Bench(main=main)
    bench.receive(request())
    bench.receive(cancel())
    upstream = [item.what for item in bench.advance(33) if item.host == "192.0.2.1"]
    assert upstream[0] == "487"


def test_cancel_b_method_0_answers_487_at_once():
    bench = Bench({"cancel_b_method": 0}, main=main)
    bench.receive(request())
    assert names(bench.receive(cancel())) == ["200 192.0.2.1", "487 192.0.2.1"]


def test_cancel_b_method_2_cancels_without_a_provisional():
    bench = Bench({"cancel_b_method": 2}, main=main)
    bench.receive(request())
    assert names(bench.receive(cancel())) == ["200 192.0.2.1", "CANCEL 192.0.2.2"]


def test_an_invite_without_branches_is_answered_487():
    def only_newtran(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
        else:
            bench.tm.t_newtran(ctx)

    bench = Bench(main=only_newtran)
    assert names(bench.receive(request())) == ["100 192.0.2.1"]
    assert names(bench.receive(cancel())) == ["200 192.0.2.1", "487 192.0.2.1"]


def test_a_cancel_after_the_final_answer_has_no_effect():
    bench, invite = ringing()
    bench.receive(response(invite, 200), CALLEE)
    assert names(bench.receive(cancel())) == ["200 192.0.2.1"]


def test_a_late_200_after_cancel_is_still_relayed():
    bench, invite = ringing()
    bench.receive(cancel())
    assert names(bench.receive(response(invite, 200), CALLEE)) == ["200 192.0.2.1"]


def test_a_late_200_after_the_487_went_up_is_still_relayed():
    bench = Bench({"cancel_b_method": 0}, main=main)
    invite = bench.receive(request())[1]
    bench.receive(cancel())
    assert names(bench.receive(response(invite, 200), CALLEE)) == ["200 192.0.2.1"]


def test_a_repeated_cancel_gets_its_answer_again_and_cancels_once():
    bench, _ = ringing()
    bench.receive(cancel())
    assert names(bench.receive(cancel())) == ["200 192.0.2.1"]


def test_our_cancel_is_repeated_until_answered():
    bench, invite = ringing()
    sent = bench.receive(cancel())[1]
    assert names(bench.advance(0.6)) == ["CANCEL 192.0.2.2"]
    bench.receive(response(sent, 200), CALLEE)
    assert bench.advance(10) == []
    assert invite.what == "INVITE"


def test_our_cancel_is_repeated_every_t2_after_a_provisional():
    bench, _ = ringing()
    sent = bench.receive(cancel())[1]
    bench.advance(0.2)
    bench.receive(response(sent, 100), CALLEE)
    assert names(bench.advance(4.2)) == ["CANCEL 192.0.2.2"]
    assert names(bench.advance(0.5)) == ["CANCEL 192.0.2.2"]
    assert bench.advance(3.3) == []


def test_a_callee_that_ignores_the_cancel_is_given_up():
    bench, _ = ringing()
    sent = bench.receive(cancel())[1]
    bench.receive(response(sent, 200), CALLEE)
    assert next(item.what for item in bench.advance(33)) == "487"
    bench.advance(60)
    assert not bench.layer.servers


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        pytest.param(0, ["CANCEL 192.0.2.2"], id="stateful"),
        pytest.param(1, ["CANCEL 192.0.2.2"], id="stateless"),
        pytest.param(2, [], id="drop"),
    ],
)
def test_an_unmatched_cancel_follows_the_parameter(mode, expected):
    bench = Bench({"unmatched_cancel": mode}, main=main)
    assert names(bench.receive(cancel())) == expected
    assert bench.cancel_result == 1
    assert len(bench.layer.servers) == (1 if mode == 0 else 0)


def test_t_relay_handles_a_matched_cancel_too():
    bench = Bench(main=lambda b, ctx: b.tm.t_relay(ctx))
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 180), CALLEE)
    assert names(bench.receive(cancel())) == ["200 192.0.2.1", "CANCEL 192.0.2.2"]


def test_relaying_a_cancelled_invite_again_fails():
    def failing(bench, ctx):
        bench.result = bench.tm.t_relay(ctx)

    def arm(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
            return
        bench.tm.t_on_failure(ctx, "F")
        bench.tm.t_relay(ctx)

    def again(bench, ctx):
        ctx.request_uri = "sip:bob@192.0.2.9"
        assert bench.tm.t_is_canceled(ctx) == 1
        failing(bench, ctx)

    bench = Bench(main=arm, failure_F=again)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 180), CALLEE)
    bench.receive(cancel())
    assert names(bench.receive(response(invite, 487), CALLEE)) == ["ACK 192.0.2.2", "487 192.0.2.1"]
    assert bench.result == -487


def forked(bench, ctx):
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    ctx.branches.append(Target("sip:bob@192.0.2.3"))
    bench.tm.t_relay(ctx)


@pytest.mark.parametrize(
    ("params", "status", "expected"),
    [
        pytest.param({}, 200, ['Reason: SIP;cause=200;text="Call completed elsewhere"'], id="2xx"),
        pytest.param({}, 603, ['Reason: SIP;cause=603;text="Decline"'], id="6xx"),
        pytest.param({"local_cancel_reason": 0}, 200, [], id="switched off"),
    ],
)
@pytest.mark.parametrize("early", [True, False], ids=["sent at once", "after a provisional"])
def test_the_other_branches_are_told_why_they_are_cancelled(params, status, expected, early):
    bench = Bench(params, main=forked)
    _, first, second = bench.receive(request())
    if early:
        bench.receive(response(second, 180), ("192.0.2.3", 5060))
    sent = bench.receive(response(first, status), CALLEE)
    sent += bench.receive(response(second, 180), ("192.0.2.3", 5060))
    (cancel_sent,) = [item for item in sent if item.what == "CANCEL"]
    assert cancel_sent.lines("Reason") == expected


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({}, ["Reason: SIP;cause=200", "Reason: Q.850;cause=26"], id="handed on"),
        pytest.param({"e2e_cancel_reason": 0}, [], id="switched off"),
    ],
)
def test_the_reasons_of_a_cancel_are_handed_on(params, expected):
    bench, _ = ringing(**params)
    sent = bench.receive(cancel(extra=("Reason: SIP;cause=200", "Reason: Q.850;cause=26")))
    assert sent[1].what == "CANCEL"
    assert sent[1].lines("Reason") == expected


def test_without_a_reason_our_cancel_has_none():
    bench, _ = ringing()
    assert bench.receive(cancel())[1].lines("Reason") == []


def asked(bench, call_id, cseq):
    """What went out, and the answer to ctl, when ctl asks this receiver to cancel."""
    bench.sent.clear()
    answer = bench.tm._cancel_for_ctl(call_id, cseq)
    return names(bench.take()), answer


def test_an_administrator_cancels_a_call_by_call_id_and_cseq():
    bench, invite = ringing()
    assert asked(bench, "call-1", 2) == ([], -1)
    assert asked(bench, "another", 1) == ([], -1)
    assert asked(bench, "call-1", 1) == (["CANCEL 192.0.2.2"], 1)
    assert names(bench.receive(response(invite, 487), CALLEE)) == ["ACK 192.0.2.2", "487 192.0.2.1"]
    assert asked(bench, "call-1", 1) == ([], -1)
