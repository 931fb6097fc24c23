"""One call, one OPTIONS: the whole way through the pipeline."""

from __future__ import annotations

from support.receiver import CALLER, Bench, names, request, response


def relay(bench, ctx):
    if ctx.request.method == "CANCEL":
        bench.tm.t_relay_cancel(ctx)
        return
    bench.tm.t_relay(ctx)


def test_options_is_answered_statelessly():
    bench = Bench(main=lambda b, ctx: b.sl.sl_reply(ctx, 200, "OK"))
    sent = bench.receive(request("OPTIONS"))
    assert names(sent) == ["200 192.0.2.1"]
    assert ";tag=" in sent[0].line("To")
    assert not bench.layer.servers


def test_a_call_is_relayed_message_by_message():
    bench = Bench(main=relay)
    trying, invite = bench.receive(request())
    assert (trying.what, invite.what, invite.host) == ("100", "INVITE", "192.0.2.2")
    assert len(invite.lines("Via")) == 2
    assert bench.receive(response(invite, 100), ("192.0.2.2", 5060)) == []
    assert names(bench.receive(response(invite, 180), ("192.0.2.2", 5060))) == ["180 192.0.2.1"]
    ok = bench.receive(response(invite, 200), ("192.0.2.2", 5060))
    assert names(ok) == ["200 192.0.2.1"]
    assert len(ok[0].lines("Via")) == 1
    ack = bench.receive(request("ACK", branch="z9hG4bKack", to_tag="bob"))
    assert names(ack) == ["ACK 192.0.2.2"]
    bye = bench.receive(request("BYE", branch="z9hG4bKbye", to_tag="bob", cseq=2))
    assert names(bye) == ["BYE 192.0.2.2"]
    assert names(bench.receive(response(bye[0], 200), ("192.0.2.2", 5060))) == ["200 192.0.2.1"]
    assert bench.advance(33) == []  # 64*T1: what is repeated until then is absorbed
    assert not bench.layer.servers
    assert not bench.layer.clients
    assert CALLER == ("192.0.2.1", 5060)
