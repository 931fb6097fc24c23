"""Retransmission, timeouts, and how long anything is remembered."""

from __future__ import annotations

from support.receiver import Bench, names, request, response

CALLEE = ("192.0.2.2", 5060)


def relay(bench, ctx):
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    bench.tm.t_relay(ctx)


def times_of(bench, what, seconds, step=0.1):
    found = []
    start = bench.loop.now()
    while bench.loop.now() < start + seconds:
        found += [round(bench.loop.now() - start, 1) for item in bench.advance(step) if item.what == what]
    return found


def close(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert abs(one - other) < 0.35


def test_an_invite_is_repeated_with_doubling_intervals_until_fr():
    bench = Bench(main=relay)
    bench.receive(request())
    close(times_of(bench, "INVITE", 40), [0.5, 1.5, 3.5, 7.5, 15.5, 31.5])


def test_a_non_invite_is_repeated_at_most_every_t2():
    bench = Bench(main=relay)
    bench.receive(request("MESSAGE"))
    close(times_of(bench, "MESSAGE", 40), [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])


def test_a_provisional_ends_the_repetition_of_an_invite():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 100), CALLEE)
    assert bench.advance(20) == []


def test_a_repeated_request_gets_the_last_answer_and_no_script():
    runs = []

    def main(bench, ctx):
        runs.append(1)
        bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    invite = bench.receive(request())[1]
    assert names(bench.receive(request())) == ["100 192.0.2.1"]
    bench.receive(response(invite, 180), CALLEE)
    assert names(bench.receive(request())) == ["180 192.0.2.1"]
    assert runs == [1]


def test_a_repeated_non_invite_gets_its_final_answer_again():
    bench = Bench(main=relay)
    message = bench.receive(request("MESSAGE"))[0]
    assert bench.receive(request("MESSAGE")) == []
    bench.receive(response(message, 200), CALLEE)
    assert names(bench.receive(request("MESSAGE"))) == ["200 192.0.2.1"]


def test_a_negative_final_is_repeated_until_its_ack():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 486), CALLEE)
    assert names(bench.advance(2)) == ["486 192.0.2.1"] * 2
    assert bench.receive(request("ACK", to_tag="bob")) == []
    assert bench.advance(2) == []
    assert bench.receive(request("ACK", to_tag="bob")) == []  # a repeated ACK
    bench.advance(6)
    assert not bench.layer.servers


def test_a_negative_final_nobody_acknowledges_is_given_up():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 486), CALLEE)
    assert len(bench.advance(60)) >= 8
    assert not bench.layer.servers


def test_a_repeated_negative_final_from_downstream_is_acknowledged_again():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 486), CALLEE)
    assert names(bench.receive(response(invite, 486), CALLEE)) == ["ACK 192.0.2.2"]


def test_a_ringing_branch_times_out_after_fr_inv_and_is_cancelled():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 180), CALLEE)
    assert bench.advance(181) == []  # §16.6 item 11: timer C is more than three minutes
    bench.advance(8)
    assert names(bench.advance(1.2))[:2] == ["CANCEL 192.0.2.2", "408 192.0.2.1"]
    # the answer to the INVITE still has to be acknowledged
    assert names(bench.receive(response(invite, 487), CALLEE)) == ["ACK 192.0.2.2"]


def test_each_provisional_restarts_fr_inv_only_when_asked_to():
    for restart, answered in ((1, False), (0, True)):
        bench = Bench({"restart_fr_on_each_reply": restart, "fr_inv_timer": 20000}, main=relay)
        invite = bench.receive(request())[1]
        bench.receive(response(invite, 180), CALLEE)
        bench.advance(15)
        bench.receive(response(invite, 183), CALLEE)
        assert ("408 192.0.2.1" in names(bench.advance(8))) is answered


def test_an_invite_never_outlives_max_inv_lifetime():
    bench = Bench({"max_inv_lifetime": 180000}, main=relay)
    invite = bench.receive(request())[1]
    for _ in range(4):
        bench.receive(response(invite, 180), CALLEE)
        bench.advance(44)
    assert "408 192.0.2.1" in names(bench.advance(6))


def test_t_set_fr_is_for_this_transaction_only():
    def main(bench, ctx):
        if ctx.request.call_id == "short":
            bench.tm.t_set_fr(ctx, 0, 2000)
        bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    bench.receive(request(call_id="short", branch="z9hG4bKshort"))
    bench.receive(request(call_id="long", branch="z9hG4bKlong"))
    answers = [item for item in bench.advance(2.5) if item.what == "408"]
    assert {item.line("Call-ID") for item in answers} == {"Call-ID: short"}


def test_an_accepted_invite_absorbs_repetitions_and_relays_2xx_again():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 200), CALLEE)
    assert bench.receive(request()) == []
    assert names(bench.receive(response(invite, 200), CALLEE)) == ["200 192.0.2.1"]


def test_a_2xx_after_the_transaction_is_gone_is_forwarded_by_its_via():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 200), CALLEE)
    bench.advance(33)
    assert not bench.layer.servers
    assert names(bench.receive(response(invite, 200), CALLEE)) == ["200 192.0.2.1"]


def test_a_late_non_invite_answer_is_discarded():
    bench = Bench(main=relay)
    message = bench.receive(request("MESSAGE"))[0]
    bench.receive(response(message, 200), CALLEE)
    bench.advance(10)
    assert bench.receive(response(message, 200), CALLEE) == []


def test_a_transaction_the_script_left_alone_does_not_live_for_ever():
    """The caller of an INVITE is told; that of another request has given up by then (RFC 4320 §4.2)."""
    bench = Bench(main=lambda b, ctx: b.tm.t_newtran(ctx))
    bench.receive(request())
    bench.receive(request("MESSAGE", branch="z9hG4bKm", call_id="m"))
    assert len(bench.layer.servers) == 2
    sent = bench.advance(33)
    assert {(item.what, item.line("CSeq")) for item in sent} == {("500", "CSeq: 1 INVITE")}
    bench.advance(70)
    assert not bench.layer.servers


def test_timer_c_is_restarted_by_each_101_to_199():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 180), CALLEE)
    for _ in range(4):
        bench.advance(60)
        bench.receive(response(invite, 180), CALLEE)
    assert bench.advance(180) == []
    assert "408 192.0.2.1" in names(bench.advance(15))


def test_timer_c_is_not_restarted_by_a_100():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 100), CALLEE)
    for _ in range(3):
        bench.advance(60)
        bench.receive(response(invite, 100), CALLEE)
    assert "408 192.0.2.1" in names(bench.advance(15))


def test_a_time_the_script_has_set_is_not_stretched_by_provisionals():
    def main(bench, ctx):
        bench.tm.t_set_fr(ctx, 20000)
        bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    invite = bench.receive(request())[1]
    for _ in range(3):
        bench.receive(response(invite, 180), CALLEE)
        bench.advance(6)
    assert "408 192.0.2.1" in names(bench.advance(3))


def test_an_acknowledged_negative_answer_is_remembered_for_wt_timer():
    bench = Bench(main=relay)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 486), CALLEE)
    bench.receive(request("ACK", to_tag="bob"))
    bench.advance(4)
    assert len(bench.layer.servers) == 1
    bench.advance(1.2)
    assert not bench.layer.servers
