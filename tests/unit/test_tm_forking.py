"""Parallel forking and the choice of the answer (RFC 3261 §16.7)."""

from __future__ import annotations

import itertools

import pytest
from support.receiver import Bench, names, request, response

from serpy.context.context import Target
from serpy.errors import ResourceError
from serpy.transaction.forward import outward_status

HOSTS = ["192.0.2.11", "192.0.2.12", "192.0.2.13"]


def fork(count):
    def main(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
            return
        ctx.request_uri = f"sip:bob@{HOSTS[0]}"
        for host in HOSTS[1:count]:
            ctx.branches.append(Target(f"sip:bob@{host}"))
        bench.result = bench.tm.t_relay(ctx)

    return main


def started(count=3, method="INVITE", extra=(), **routes):
    bench = Bench(main=fork(count), **routes)
    sent = bench.receive(request(method, extra=extra))
    return bench, [item for item in sent if item.what == method]


def answer(bench, branch, status, **more):
    return bench.receive(response(branch, status, **more), (branch.host, 5060))


def test_all_branches_start_at_once_with_branch_parameters_of_their_own():
    _, branches = started()
    assert [item.host for item in branches] == HOSTS
    assert len({item.lines("Via")[0] for item in branches}) == 3
    assert [item.line("Max-Breadth") for item in branches] == ["Max-Breadth: 20"] * 3


def test_the_first_2xx_wins_and_the_others_are_cancelled():
    bench, (first, second, third) = started()
    assert names(answer(bench, first, 180)) == ["180 192.0.2.1"]
    assert names(answer(bench, second, 180)) == ["180 192.0.2.1"]
    sent = answer(bench, second, 200)
    # the third has not said anything yet: its CANCEL waits for a provisional (§9.1)
    assert names(sent) == ["200 192.0.2.1", "CANCEL 192.0.2.11"]
    assert names(answer(bench, third, 100)) == ["CANCEL 192.0.2.13"]
    assert names(answer(bench, first, 487)) == ["ACK 192.0.2.11"]
    assert names(answer(bench, third, 487)) == ["ACK 192.0.2.13"]
    bench.advance(40)
    assert not bench.layer.servers
    assert not bench.layer.clients


def test_a_second_2xx_is_relayed_too():
    bench, (first, second, _) = started()
    answer(bench, first, 200)
    assert names(answer(bench, second, 200, to_tag="other")) == ["200 192.0.2.1"]
    assert names(answer(bench, second, 200, to_tag="other")) == ["200 192.0.2.1"]


def test_only_the_first_2xx_of_a_non_invite_is_relayed():
    bench, (first, second) = started(2, "MESSAGE")
    assert names(answer(bench, first, 200)) == ["200 192.0.2.1"]
    assert answer(bench, second, 200) == []


def test_a_6xx_cancels_the_others_at_once_and_is_relayed_when_all_are_final():
    bench, (first, second, third) = started()
    answer(bench, first, 180)
    answer(bench, third, 180)
    assert names(answer(bench, second, 603)) == ["ACK 192.0.2.12", "CANCEL 192.0.2.11", "CANCEL 192.0.2.13"]
    answer(bench, first, 487)
    assert names(answer(bench, third, 487)) == ["ACK 192.0.2.13", "603 192.0.2.1"]


def test_a_2xx_after_a_6xx_is_still_relayed():
    bench, (first, second, _) = started()
    answer(bench, second, 603)
    assert "200 192.0.2.1" in names(answer(bench, first, 200))


def test_challenges_of_all_branches_are_merged():
    bench, (first, second) = started(2)
    answer(bench, first, 407, extra=('Proxy-Authenticate: Digest realm="a"',))
    ack, sent = answer(bench, second, 401, extra=('WWW-Authenticate: Digest realm="b"',))
    assert ack.what == "ACK"
    assert sent.what == "401"
    assert sent.line("WWW-Authenticate") == 'WWW-Authenticate: Digest realm="b"'
    assert sent.line("Proxy-Authenticate") == 'Proxy-Authenticate: Digest realm="a"'


# The published order of SER, best first: 6xx, 3xx, the 4xx that help to try again, other 4xx, 5xx (RFC 3261 §16.7 step 6).
BEST_FIRST = [600, 603, 300, 302, 401, 407, 415, 420, 484, 404, 408, "timeout", 480, 486, 500, 503]


@pytest.mark.parametrize(("one", "two"), list(itertools.product(BEST_FIRST, BEST_FIRST)), ids=str)
def test_the_best_of_two_answers_is_relayed_once(one, two):
    bench, branches = started(2)
    sent = []
    for branch, status in zip(branches, (one, two), strict=True):
        if status != "timeout":
            sent += answer(bench, branch, status)
    upstream = []
    for _ in range(400):  # past every timer, acknowledging what comes as a caller does
        for item in sent:
            if item.host == "192.0.2.1" and item.what >= "200":
                upstream.append(item.what)
                tag = item.line("To").partition("tag=")[2]
                assert bench.receive(request("ACK", to_tag=tag)) == []
        sent = bench.advance(0.2)
    best = min((one, two), key=BEST_FIRST.index)
    assert upstream == [{"timeout": "408", 503: "500"}.get(best, str(best))]


def test_a_timeout_of_every_branch_is_a_408():
    bench, _ = started()
    sent = bench.advance(33)
    assert next(item.what for item in sent if item.host == "192.0.2.1") == "408"


def test_a_non_invite_timeout_sends_nothing():
    bench, _ = started(1, "MESSAGE")
    sent = bench.advance(70)
    assert {item.what for item in sent} == {"MESSAGE"}
    assert not bench.layer.servers


def test_a_received_408_to_a_non_invite_is_not_passed_on():
    bench, (branch,) = started(1, "MESSAGE")
    assert answer(bench, branch, 408) == []


def test_a_provisional_to_a_non_invite_is_not_passed_on():
    bench, (branch,) = started(1, "MESSAGE")
    assert answer(bench, branch, 180) == []


def test_max_breadth_is_divided_and_refused_when_it_does_not_suffice():
    _, branches = started(2, extra=("Max-Breadth: 5",))
    assert [item.line("Max-Breadth") for item in branches] == ["Max-Breadth: 2"] * 2
    bench, none = started(2, extra=("Max-Breadth: 1",))
    assert none == []
    assert bench.result == -440


def test_more_than_twelve_targets_are_refused():
    def main(bench, ctx):
        for number in range(13):
            ctx.branches.append(Target(f"sip:bob@192.0.2.{number + 20}"))
        bench.result = bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    assert names(bench.receive(request())) == ["100 192.0.2.1", "500 192.0.2.1"]
    assert bench.result == -500


def test_a_transport_error_counts_as_503():
    bench = Bench(main=fork(2))
    bench.broken.add((HOSTS[0], 5060))
    sent = bench.receive(request())
    assert names(sent) == ["100 192.0.2.1", f"INVITE {HOSTS[1]}"]
    assert names(answer(bench, sent[1], 404)) == [f"ACK {HOSTS[1]}", "404 192.0.2.1"]


def test_a_request_that_nobody_takes_is_answered_once():
    bench = Bench(main=fork(1))
    bench.broken.add((HOSTS[0], 5060))
    assert names(bench.receive(request())) == ["100 192.0.2.1", "500 192.0.2.1"]


def test_sl_reply_error_goes_through_the_transaction_and_replaces_the_delayed_answer():
    def main(bench, ctx):
        if bench.tm.t_relay(ctx) < 0:
            bench.sl.sl_reply_error(ctx)

    bench = Bench(main=main)
    bench.broken.add(("192.0.2.2", 5060))
    sent = bench.receive(request())
    assert names(sent) == ["100 192.0.2.1", "500 192.0.2.1"]
    assert "477" not in sent[1].text
    assert bench.receive(request("ACK", to_tag=sent[1].line("To").partition("tag=")[2])) == []


def test_an_unresolvable_name_is_unavailable_and_the_script_knows_why():
    def main(bench, ctx):
        ctx.request_uri = "sip:bob@nowhere.invalid"
        bench.result = bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    assert names(bench.receive(request())) == ["100 192.0.2.1", "480 192.0.2.1"]
    assert bench.result == -478


def test_the_next_address_is_tried_when_one_fails():
    def main(bench, ctx):
        ctx.request_uri = "sip:bob@two.example.com"
        bench.result = bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    bench.pipeline.forwarder.resolve = lambda uri: [("udp", HOSTS[0], 5060), ("udp", HOSTS[1], 5070)]
    bench.broken.add((HOSTS[0], 5060))
    sent = bench.receive(request())
    assert bench.result == 1  # somebody has it: the script has nothing to answer for
    assert names(sent) == ["100 192.0.2.1", f"INVITE {HOSTS[1]}"]
    assert names(bench.receive(response(sent[1], 486), (HOSTS[1], 5070))) == [f"ACK {HOSTS[1]}", "486 192.0.2.1"]


@pytest.mark.parametrize("busy", [0, 1], ids=["the first", "the second"])
def test_a_target_that_cannot_be_looked_up_now_costs_the_others_nothing(busy):
    def main(bench, ctx):
        ctx.request_uri = "sip:bob@192.0.2.11"
        ctx.branches.append(Target("sip:bob@example.com"))
        if busy == 0:
            ctx.request_uri, ctx.branches[0].request_uri = ctx.branches[0].request_uri, ctx.request_uri
        bench.result = bench.tm.t_relay(ctx)

    def resolve(_uri):
        raise ResourceError("too many are waiting")

    bench = Bench(main=main)
    bench.pipeline.forwarder.resolve = resolve
    sent = bench.receive(request())
    assert names(sent) == ["100 192.0.2.1", "INVITE 192.0.2.11"]
    assert bench.result == 1
    assert names(bench.receive(response(sent[1], 200), ("192.0.2.11", 5060))) == ["200 192.0.2.1"]


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
@pytest.mark.parametrize(("passes", "status", "retry"), [(0, "500", ""), (1, "503", "Retry-After: 60")])
def test_that_one_server_is_overloaded_does_not_stop_the_caller_from_calling_others(passes, status, retry, method):
    seen = []
    bench = Bench(
        {"pass_503": passes},
        main=lambda b, ctx: (b.tm.t_on_failure(ctx, "F"), b.tm.t_relay(ctx)),
        failure_F=lambda _b, ctx: seen.append(ctx.status),
    )
    sent = next(item for item in bench.receive(request(method)) if item.what == method)
    back = bench.receive(response(sent, 503, extra=("Retry-After: 60",)), ("192.0.2.2", 5060))
    (final,) = [item for item in back if item.host == "192.0.2.1"]
    assert (final.what, next(iter(final.lines("Retry-After")), "")) == (status, retry)
    assert seen == [503]  # the script sees what came


@pytest.mark.parametrize(("error", "status"), [(-477, 500), (-478, 480), (-479, 404), (-482, 482), (-1, 500), (0, 500)])
def test_callers_are_told_what_the_rfcs_know(error, status):
    assert outward_status(error) == status


def test_a_request_nobody_could_be_looked_up_for_is_503():
    def main(bench, ctx):
        ctx.request_uri = "sip:bob@example.com"
        bench.tm.t_relay(ctx)

    def resolve(_uri):
        raise ResourceError("too many are waiting")

    bench = Bench(main=main)
    bench.pipeline.forwarder.resolve = resolve
    sent = bench.receive(request())
    assert names(sent) == ["100 192.0.2.1", "503 192.0.2.1"]
    assert sent[1].line("Retry-After")
