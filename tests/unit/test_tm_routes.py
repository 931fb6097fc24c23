"""Failure, onreply, branch and onsend routes, and the answers scripts give."""

from __future__ import annotations

import pytest
from support.receiver import Bench, names, request, response

from serpy.context.context import Target
from serpy.script.patterns import compile_pattern

CALLEE = ("192.0.2.2", 5060)
SECOND = ("192.0.2.9", 5060)


def relay_with(**armed):
    def main(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
            return
        for name, route in armed.items():
            getattr(bench.tm, f"t_on_{name}")(ctx, route)
        bench.tm.t_relay(ctx)

    return main


def test_a_failure_route_sees_the_status_and_the_answer_goes_on():
    seen = []

    def failed(bench, ctx):
        seen.append((ctx.status, bench.tm.t_check_status(ctx, compile_pattern("486|408"))))

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    assert names(bench.receive(response(invite, 486), CALLEE)) == ["ACK 192.0.2.2", "486 192.0.2.1"]
    assert seen == [(486, 1)]


def test_a_failure_route_may_try_somewhere_else_and_is_disarmed():
    runs = []

    def failed(bench, ctx):
        runs.append(ctx.status)
        ctx.branches.append(Target("sip:bob@192.0.2.9"))
        assert bench.tm.t_relay(ctx) == 1

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    _ack, second = bench.receive(response(invite, 486), CALLEE)
    assert (second.what, second.host) == ("INVITE", "192.0.2.9")
    assert second.line("Via") != invite.line("Via")
    # the earlier 486 stays a candidate and beats a 503
    assert names(bench.receive(response(second, 503), SECOND)) == ["ACK 192.0.2.9", "486 192.0.2.1"]
    assert runs == [486]


def test_a_rearmed_failure_route_runs_again():
    runs = []

    def failed(bench, ctx):
        runs.append(ctx.status)
        if len(runs) < 3:
            bench.tm.t_on_failure(ctx, "F")
            ctx.request_uri = f"sip:bob@192.0.2.{50 + len(runs)}"
            bench.tm.t_relay(ctx)

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    for _ in range(2):
        invite = bench.receive(response(invite, 486), CALLEE)[1]
    assert names(bench.receive(response(invite, 404), CALLEE))[1:] == ["404 192.0.2.1"]
    assert runs == [486, 486, 404]


def test_an_unchanged_request_uri_is_not_tried_twice():
    results = []
    bench = Bench(main=relay_with(failure="F"), failure_F=lambda b, ctx: results.append(b.tm.t_relay(ctx)))
    invite = bench.receive(request())[1]
    assert names(bench.receive(response(invite, 486), CALLEE)) == ["ACK 192.0.2.2", "486 192.0.2.1"]
    assert results[0] < 0


def test_t_reply_in_a_failure_route_ends_the_call():
    bench = Bench(main=relay_with(failure="F"), failure_F=lambda b, ctx: b.tm.t_reply(ctx, 480, "Nobody home"))
    invite = bench.receive(request())[1]
    sent = bench.receive(response(invite, 486), CALLEE)
    assert names(sent) == ["ACK 192.0.2.2", "480 192.0.2.1"]
    assert "480 Nobody home" in sent[1].text


def test_a_302_carries_the_destination_set():
    def failed(bench, ctx):
        ctx.request_uri = "sip:voicemail@192.0.2.20"
        ctx.branches.append(Target("sip:other@192.0.2.21", q=500))
        bench.tm.t_reply(ctx, "302", "Redirected")

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    sent = bench.receive(response(invite, 486), CALLEE)[1]
    assert sent.lines("Contact") == [
        "Contact: <sip:voicemail@192.0.2.20>",
        "Contact: <sip:other@192.0.2.21>;q=0.500",
    ]


def test_flags_set_in_a_failure_route_are_seen_in_the_next_one():
    seen = []

    def failed(bench, ctx):
        seen.append(ctx.flags)
        ctx.flags |= 4
        bench.tm.t_on_failure(ctx, "F")
        if len(seen) == 1:
            ctx.request_uri = "sip:bob@192.0.2.9"
            bench.tm.t_relay(ctx)

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    second = bench.receive(response(invite, 486), CALLEE)[1]
    bench.receive(response(second, 486), SECOND)
    assert seen == [0, 4]


def test_t_drop_replies_leaves_only_the_new_ones():
    def failed(bench, ctx):
        bench.tm.t_drop_replies(ctx)
        ctx.request_uri = "sip:bob@192.0.2.9"
        bench.tm.t_relay(ctx)

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    second = bench.receive(response(invite, 486), CALLEE)[1]
    assert names(bench.receive(response(second, 503), SECOND))[1] == "500 192.0.2.1"


@pytest.mark.parametrize(
    ("mode", "relayed"),
    [pytest.param(0, "486 192.0.2.1", id="kept"), pytest.param(3, "500 192.0.2.1", id="dropped")],
)
def test_failure_reply_mode_says_whether_earlier_answers_stay_candidates(mode, relayed):
    def failed(bench, ctx):
        ctx.request_uri = "sip:bob@192.0.2.9"
        bench.tm.t_relay(ctx)

    bench = Bench({"failure_reply_mode": mode}, main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    second = bench.receive(response(invite, 486), CALLEE)[1]
    assert names(bench.receive(response(second, 503), SECOND))[1] == relayed


def test_without_a_new_branch_failure_reply_mode_drops_nothing():
    bench = Bench({"failure_reply_mode": 3}, main=relay_with(failure="F"), failure_F=lambda bench, ctx: None)
    invite = bench.receive(request())[1]
    assert names(bench.receive(response(invite, 486), CALLEE))[1] == "486 192.0.2.1"


def test_a_timeout_runs_the_failure_route_with_408():
    seen = []

    def failed(bench, ctx):
        seen.append((ctx.status, bench.tm.t_any_timeout(ctx), bench.tm.t_branch_timeout(ctx)))

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    bench.receive(request())
    bench.advance(33)
    assert seen == [(408, 1, 1)]


def test_an_onreply_route_sees_every_reply_and_edits_it():
    seen = []

    def reply(bench, ctx):
        seen.append(ctx.status)
        ctx.flags |= 1 << len(seen)
        ctx.edits.append("X-Seen: yes")

    bench = Bench(main=relay_with(reply="R"), reply_R=reply)
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 100), CALLEE)
    sent = bench.receive(response(invite, 180), CALLEE)
    assert sent[0].line("X-Seen") == "X-Seen: yes"
    sent = bench.receive(response(invite, 486), CALLEE)
    assert sent[1].line("X-Seen") == "X-Seen: yes"
    assert seen == [100, 180, 486]


@pytest.mark.parametrize(("status", "relayed"), [(180, []), (200, ["200 192.0.2.1"])])
def test_an_onreply_route_drops_provisionals_only(status, relayed):
    bench = Bench(main=relay_with(reply="R"), reply_R=lambda b, ctx: False)
    invite = bench.receive(request())[1]
    assert names(bench.receive(response(invite, status), CALLEE)) == relayed


def test_the_default_onreply_route_runs_before_matching_and_may_drop_finals():
    verdict = [False]
    bench = Bench(main=relay_with(), reply=lambda b, ctx: verdict[0])
    invite = bench.receive(request())[1]
    assert bench.receive(response(invite, 200), CALLEE) == []
    verdict[0] = True
    assert names(bench.receive(response(invite, 200), CALLEE)) == ["200 192.0.2.1"]


def test_a_branch_route_changes_its_branch_only_and_may_drop_it():
    seen = []

    def branch(bench, ctx):
        seen.append((ctx.branch_index, ctx.request_uri))
        if ctx.request_uri.endswith(".12"):
            return False
        ctx.edits.append(f"X-Branch: {ctx.branch_index}")
        ctx.request_uri += ";user=phone"
        return True

    def main(bench, ctx):
        ctx.branches += [Target("sip:bob@192.0.2.12"), Target("sip:bob@192.0.2.13")]
        bench.tm.t_on_branch(ctx, "B")
        bench.tm.t_relay(ctx)

    bench = Bench(main=main, branch_B=branch)
    _, first, third = bench.receive(request())
    assert [item.host for item in (first, third)] == ["192.0.2.2", "192.0.2.13"]
    assert first.text.startswith("INVITE sip:bob@192.0.2.2;user=phone SIP/2.0")
    assert [item.lines("X-Branch") for item in (first, third)] == [["X-Branch: 0"], ["X-Branch: 1"]]


def test_an_onsend_route_sees_the_buffer_and_may_drop_it():
    seen = []

    def onsend(bench, ctx):
        seen.append((ctx.out_flow.host, ctx.out_data[:6]))
        return ctx.request.method != "MESSAGE"

    bench = Bench(main=relay_with(), onsend=onsend)
    assert names(bench.receive(request())) == ["100 192.0.2.1", "INVITE 192.0.2.2"]
    assert names(bench.receive(request("MESSAGE", branch="z9hG4bKm", call_id="m"))) == ["500 192.0.2.1"]
    assert seen == [("192.0.2.2", b"INVITE"), ("192.0.2.2", b"MESSAG")]


def test_append_to_reply_lines_are_added_to_local_answers():
    def main(bench, ctx):
        ctx.reply_headers.append("Retry-After: 5")
        bench.tm.t_reply(ctx, 503, "Busy")

    bench = Bench(main=main)
    trying, sent = bench.receive(request())
    assert trying.lines("Retry-After") == []
    assert sent.line("Retry-After") == "Retry-After: 5"


def test_t_reply_to_an_ack_is_false():
    results = []
    bench = Bench(main=lambda b, ctx: results.append(b.tm.t_reply(ctx, 200, "OK")))
    assert bench.receive(request("ACK", to_tag="x")) == []
    assert results == [-1]


def test_only_one_final_answer_goes_out():
    results = []

    def main(bench, ctx):
        bench.tm.t_newtran(ctx)
        results.append(bench.sl.sl_reply(ctx, 404, "No"))
        results.append(bench.sl.sl_reply(ctx, 200, "OK"))
        results.append(bench.tm.t_reply(ctx, 500, "No"))

    bench = Bench(main=main)
    assert names(bench.receive(request("MESSAGE"))) == ["404 192.0.2.1"]
    assert results == [1, -1, -1]


def test_a_replicated_copy_is_not_answered_upstream():
    def main(bench, ctx):
        bench.tm.t_replicate(ctx, "sip:192.0.2.9")
        bench.sl.sl_reply(ctx, 200, "OK")

    bench = Bench(main=main)
    copy, answer = bench.receive(request("REGISTER"))
    assert (copy.host, answer.what) == ("192.0.2.9", "200")
    assert bench.receive(response(copy, 500), SECOND) == []


def test_t_release_forgets_the_transaction():
    def main(bench, ctx):
        bench.tm.t_newtran(ctx)
        assert bench.tm.t_release(ctx) == 1

    bench = Bench(main=main)
    bench.receive(request("MESSAGE"))
    assert not bench.layer.servers
