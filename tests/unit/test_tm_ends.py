"""Every request ends: in an answer, or in being forgotten; whatever fails on the way (RFC 3261 §16, §17; 4320; 6026)."""

from __future__ import annotations

import gc

import pytest
from support.receiver import Bench, names, request, response

from serpy.context.context import Context, Target
from serpy.sip.message import Request
from serpy.transaction.transactions import ClientTransaction

CALLEE = ("192.0.2.2", 5060)
HOSTS = ["192.0.2.11", "192.0.2.12", "192.0.2.13"]


def relay_with(**armed):
    def main(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
            return
        for name, route in armed.items():
            getattr(bench.tm, f"t_on_{name}")(ctx, route)
        bench.result = bench.tm.t_relay(ctx)

    return main


def finals(sent):
    return [item.what for item in sent if item.host == "192.0.2.1" and item.what >= "2"]


def gone(bench):
    """Nothing is left once all time is over."""
    bench.advance(1000)
    assert not bench.layer.servers
    assert not bench.layer.clients
    assert len(bench.layer.wheel) == 0


# --- left alone


def test_an_invite_that_the_script_left_alone_is_answered():
    bench = Bench(main=lambda b, ctx: b.tm.t_newtran(ctx))
    assert names(bench.receive(request())) == ["100 192.0.2.1"]
    assert finals(bench.advance(33))[0] == "500"
    gone(bench)


def test_another_request_that_the_script_left_alone_is_forgotten_without_an_answer():
    """Its client has given up by then: RFC 4320 §4.2."""
    bench = Bench(main=lambda b, ctx: b.tm.t_newtran(ctx))
    bench.receive(request("MESSAGE"))
    assert bench.advance(40) == []
    gone(bench)


def test_a_cancelled_invite_whose_lookup_never_succeeds_is_answered_487():
    def main(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
        else:
            bench.tm.t_newtran(ctx)

    bench = Bench(main=main)
    bench.receive(request())
    assert names(bench.receive(request("CANCEL"))) == ["200 192.0.2.1", "487 192.0.2.1"]
    gone(bench)


# --- bugs on the way


class OurBugError(Exception):
    """What nobody expects."""


BUGS = [OSError, AssertionError, RecursionError, OurBugError]


def broken(error):
    def route(_bench, _ctx):
        raise error("a bug of ours")

    return route


@pytest.mark.parametrize("error", BUGS)
@pytest.mark.parametrize("status", [200, 302, 486, 500, 603])
def test_the_caller_gets_the_final_answer_whose_onreply_route_has_a_bug(status, error):
    bench = Bench(main=relay_with(reply="R"), reply_R=broken(error))
    invite = bench.receive(request())[1]
    with pytest.raises(error):
        bench.receive(response(invite, status), CALLEE)
    assert finals(bench.take() + bench.advance(0.1)) == [str(status)]
    gone(bench)


@pytest.mark.parametrize("error", BUGS)
def test_a_provisional_whose_onreply_route_has_a_bug_costs_nothing_but_itself(error):
    bench = Bench(
        main=relay_with(reply="R"), reply_R=lambda b, ctx: broken(error)(b, ctx) if ctx.status < 200 else None
    )
    invite = bench.receive(request())[1]
    with pytest.raises(error):
        bench.receive(response(invite, 180), CALLEE)
    assert finals(bench.receive(response(invite, 200), CALLEE)) == ["200"]
    gone(bench)


@pytest.mark.parametrize("error", BUGS)
def test_the_caller_gets_what_there_is_when_the_failure_route_has_a_bug(error):
    bench = Bench(main=relay_with(failure="F"), failure_F=broken(error))
    invite = bench.receive(request())[1]
    with pytest.raises(error):
        bench.receive(response(invite, 486), CALLEE)
    assert finals(bench.take()) == ["486"]
    gone(bench)


@pytest.mark.parametrize("error", BUGS)
def test_a_failure_route_with_a_bug_after_a_timeout_ends_the_call_all_the_same(error):
    bench = Bench(main=relay_with(failure="F"), failure_F=broken(error))
    bench.receive(request())
    with pytest.raises(error):
        bench.advance(33)
    assert finals(bench.take())[0] == "408"
    gone(bench)


def test_a_failure_route_that_breaks_after_it_has_forked_waits_for_the_new_branch():
    def failed(bench, ctx):
        ctx.branches.append(Target("sip:bob@192.0.2.11"))
        bench.tm.t_relay(ctx)
        raise OurBugError

    bench = Bench(main=relay_with(failure="F"), failure_F=failed)
    invite = bench.receive(request())[1]
    with pytest.raises(OurBugError):
        bench.receive(response(invite, 486), CALLEE)
    second = next(item for item in bench.take() if item.what == "INVITE")
    assert finals(bench.receive(response(second, 200), ("192.0.2.11", 5060))) == ["200"]
    gone(bench)


@pytest.mark.parametrize("error", BUGS)
@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_branch_route_with_a_bug_leaves_nothing_behind(method, error):
    bench = Bench(main=relay_with(branch="B"), branch_B=broken(error))
    text = request(method)
    with pytest.raises(error):
        bench.receive(text)
    bench.pipeline.answer_bug((text.encode(), bench.flow()), 500)  # as the process does with each bug
    assert finals(bench.take()) == ["500"]
    gone(bench)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_bug_in_sending_the_second_of_two_branches_ends_in_one_answer(method):
    def main(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
            return
        ctx.branches.append(Target("sip:bob@192.0.2.11"))
        bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    bench.defects[("192.0.2.11", 5060)] = OSError
    text = request(method)
    with pytest.raises(OSError, match="no such thing"):
        bench.receive(text)
    bench.pipeline.answer_bug((text.encode(), bench.flow()), 500)
    assert finals(bench.take()) == ["500"]
    bench.defects.clear()
    gone(bench)


@pytest.mark.parametrize("method", ["INVITE", "MESSAGE"])
def test_a_bug_in_sending_the_answer_upstream_keeps_nothing(method):
    bench = Bench(main=relay_with())
    sent = next(item for item in bench.receive(request(method)) if item.what == method)
    bench.defects[("192.0.2.1", 5060)] = OSError
    with pytest.raises(OSError, match="no such thing"):
        bench.receive(response(sent, 200), CALLEE)
    bench.defects.clear()
    gone(bench)


def test_a_bug_of_who_watches_answers_keeps_nothing():
    bench = Bench(main=lambda b, ctx: (setattr(ctx, "flags", 2), b.tm.t_relay(ctx)))
    bench.layer.watched_flags = 2
    bench.layer.on_answer.append(lambda *_: broken(OurBugError)(None, None))
    invite = bench.receive(request())[1]
    with pytest.raises(OurBugError):
        bench.receive(response(invite, 200), CALLEE)
    assert finals(bench.take()) == ["200"]
    bench.layer.on_answer.clear()
    gone(bench)


def test_a_bug_of_who_watches_failures_costs_the_caller_nothing():
    bench = Bench(main=lambda b, ctx: (setattr(ctx, "flags", 2), b.tm.t_relay(ctx)))
    bench.layer.watched_flags = 2
    bench.layer.on_failed.append(lambda *_: broken(OurBugError)(None, None))
    invite = bench.receive(request())[1]
    with pytest.raises(OurBugError):
        bench.receive(response(invite, 486), CALLEE)
    assert finals(bench.take()) == ["486"]
    gone(bench)


# --- failover


def by_name(*hosts):
    def main(bench, ctx):
        if ctx.request.method == "CANCEL":
            bench.tm.t_relay_cancel(ctx)
            return
        ctx.request_uri = "sip:bob@several.example.com"
        bench.result = bench.tm.t_relay(ctx)
        if bench.result < 0:
            bench.sl.sl_reply_error(ctx)

    bench = Bench(main=main)
    bench.slow_resolver(0, *[("udp", host, 5060) for host in hosts])
    return bench


@pytest.mark.parametrize("refused", [1, 2])
def test_a_request_that_a_later_address_takes_is_relayed(refused):
    bench = by_name(*HOSTS)
    bench.broken.update((host, 5060) for host in HOSTS[:refused])
    sent = bench.receive(request())
    assert names(sent) == ["100 192.0.2.1", f"INVITE {HOSTS[refused]}"]
    assert bench.result == 1
    there = (HOSTS[refused], 5060)
    assert names(bench.receive(response(sent[1], 180), there)) == ["180 192.0.2.1"]  # and no CANCEL
    assert names(bench.receive(response(sent[1], 200), there)) == ["200 192.0.2.1"]
    gone(bench)


def test_a_request_that_no_address_takes_is_a_server_error_once():
    bench = by_name(*HOSTS)
    bench.broken.update((host, 5060) for host in HOSTS)
    assert names(bench.receive(request())) == ["100 192.0.2.1", "500 192.0.2.1"]
    assert bench.result == -477
    gone(bench)


def test_a_request_whose_connection_fails_later_goes_to_the_next_address_that_takes_it():
    bench = by_name(*HOSTS)
    invite = bench.receive(request())[1]
    bench.broken.add((HOSTS[1], 5060))
    bench.pipeline.not_sent(invite.data)
    sent = bench.advance(0.2)
    assert names(sent) == [f"INVITE {HOSTS[2]}"]
    assert names(bench.receive(response(sent[0], 200), (HOSTS[2], 5060))) == ["200 192.0.2.1"]
    gone(bench)


# --- limits


def rearming(bench, ctx):
    bench.rounds += 1
    bench.tm.t_on_failure(ctx, "F")
    ctx.request_uri = f"sip:bob@192.0.2.{20 + bench.rounds}"
    bench.tm.t_relay(ctx)


def endless():
    bench = Bench(main=relay_with(failure="F"), failure_F=rearming)
    bench.rounds = 0
    return bench


def test_a_failure_route_that_arms_itself_for_ever_ends_at_twelve_branches():
    bench = endless()
    waiting = [item for item in bench.receive(request()) if item.what == "INVITE"]
    asked, answers = [], []
    while waiting and len(asked) < 50:
        invite = waiting.pop()
        asked.append(invite.host)
        sent = bench.receive(response(invite, 486), (invite.host, 5060))
        waiting += [item for item in sent if item.what == "INVITE"]
        answers += finals(sent)
    assert len(asked) == 12
    assert answers == ["486"]
    gone(bench)


def test_it_ends_as_well_when_every_address_refuses_at_once():
    bench = endless()
    invite = bench.receive(request())[1]
    bench.broken.update((f"192.0.2.{number}", 5060) for number in range(20, 256))
    assert finals(bench.receive(response(invite, 486), CALLEE)) == ["486"]
    assert bench.rounds <= 12
    gone(bench)


def test_addresses_of_one_name_count_as_branches_too():
    bench = by_name(*[f"192.0.2.{number}" for number in range(20, 60)])
    bench.broken.update((f"192.0.2.{number}", 5060) for number in range(20, 60))
    sent = bench.receive(request())
    assert finals(sent) == ["500"]
    gone(bench)


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        pytest.param("Max-Breadth: 0", ["100 192.0.2.1", "440 192.0.2.1"], id="none left"),
        pytest.param("Max-Breadth: 1", ["100 192.0.2.1", "INVITE 192.0.2.2"], id="enough for one"),
        pytest.param("Max-Breadth: x", ["100 192.0.2.1", "INVITE 192.0.2.2"], id="not a number"),
    ],
)
@pytest.mark.parametrize("armed", [{}, {"branch": "B"}], ids=["plain", "branch route"])
def test_one_target_needs_a_breadth_of_one(header, sent, armed):
    """RFC 5393 §5.3.3."""
    bench = Bench(main=relay_with(**armed), branch_B=lambda b, ctx: None)
    found = bench.receive(request(extra=(header,)))
    assert names(found) == sent
    if found[-1].what == "INVITE":
        assert found[-1].lines("Max-Breadth") == [header]


# --- the last deadline


def test_an_invite_that_rings_on_is_answered_when_its_life_is_over():
    bench = Bench({"max_inv_lifetime": 300000}, main=relay_with())
    invite = bench.receive(request())[1]
    for _ in range(5):
        bench.receive(response(invite, 180), CALLEE)
        bench.advance(58)
    assert names(bench.advance(12))[:2] == ["CANCEL 192.0.2.2", "408 192.0.2.1"]
    gone(bench)


def test_no_branch_begins_after_that():
    bench = Bench({"max_inv_lifetime": 20000}, main=relay_with(failure="F"), failure_F=rearming)
    bench.rounds = 0
    bench.receive(request())
    sent = bench.advance(25)
    assert {item.host for item in sent if item.what == "INVITE"} == {"192.0.2.2"}
    assert finals(sent)[0] == "408"
    gone(bench)


def test_a_transaction_whose_timers_were_lost_is_answered_at_its_last_deadline():
    bench = Bench({"max_inv_lifetime": 200000}, main=relay_with())
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 180), CALLEE)
    for branch in bench.layer.clients.values():  # as a bug might
        bench.layer.wheel.forget(branch)
        branch.gives_up_at = 0.0
    assert finals(bench.advance(202))[0] == "408"
    gone(bench)


# --- 64*T1 after the answer


@pytest.mark.parametrize("status", [200, 404])
def test_a_request_repeated_20_s_after_its_answer_is_answered_from_memory(status):
    bench = Bench(main=relay_with())
    message = bench.receive(request("MESSAGE"))[0]
    first = bench.receive(response(message, status), CALLEE)[0]
    bench.advance(20)
    (again,) = bench.receive(request("MESSAGE"))
    assert again.data == first.data
    bench.advance(13)
    assert names(bench.receive(request("MESSAGE"))) == ["MESSAGE 192.0.2.2"]  # another request by now


def test_an_invite_repeated_20_s_after_its_2xx_does_not_ring_again():
    bench = Bench(main=relay_with())
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 200), CALLEE)
    bench.advance(20)
    assert bench.receive(request()) == []


def test_a_2xx_repeated_20_s_later_is_passed_on_as_the_route_has_left_it():
    bench = Bench(main=relay_with(reply="R"), reply_R=lambda b, ctx: ctx.edits.append("X-Seen: yes"))
    invite = bench.receive(request())[1]
    (first,) = bench.receive(response(invite, 200), CALLEE)
    assert first.lines("X-Seen") == ["X-Seen: yes"]
    bench.advance(20)
    (again,) = bench.receive(response(invite, 200), CALLEE)
    assert again.data == first.data


def test_a_2xx_of_another_callee_behind_the_same_branch_is_passed_on_too():
    bench = Bench(main=relay_with())
    invite = bench.receive(request())[1]
    bench.receive(response(invite, 200), CALLEE)
    bench.advance(20)
    (other,) = bench.receive(response(invite, 200, to_tag="other"), CALLEE)
    assert (other.what, other.host) == ("200", "192.0.2.1")
    assert "tag=other" in other.line("To")
    assert len(other.lines("Via")) == 1


@pytest.mark.parametrize("wait", [1, 20])
def test_a_2xx_after_the_negative_answer_went_up_is_passed_on(wait):
    bench = Bench({"cancel_b_method": 0}, main=relay_with())
    invite = bench.receive(request())[1]
    tag = bench.receive(request("CANCEL"))[1].line("To").partition("tag=")[2]
    bench.receive(request("ACK", to_tag=tag))
    bench.advance(wait)
    assert names(bench.receive(response(invite, 200), CALLEE)) == ["200 192.0.2.1"]


@pytest.mark.parametrize("status", [302, 486, 603])
def test_a_negative_answer_repeated_20_s_later_is_acknowledged_again(status):
    bench = Bench(main=relay_with())
    invite = bench.receive(request())[1]
    (ack, answer) = bench.receive(response(invite, status), CALLEE)
    bench.receive(request("ACK", to_tag="bob"))
    bench.advance(20)
    (again,) = bench.receive(response(invite, status), CALLEE)
    assert again.data == ack.data
    assert answer.what == str(status)


def test_the_peer_of_a_branch_that_was_given_up_is_acknowledged_when_it_comes_round():
    bench = Bench(main=relay_with())
    invite = bench.receive(request())[1]
    assert finals(bench.advance(33))[0] == "408"
    tag = "bob"
    bench.receive(request("ACK", to_tag=tag))
    assert names(bench.receive(response(invite, 486), CALLEE)) == ["ACK 192.0.2.2"]
    gone(bench)


def test_an_answer_that_nobody_acknowledges_is_repeated_for_64_t1():
    bench = Bench(main=lambda b, ctx: b.tm.t_reply(ctx, 486, "Busy"))
    bench.receive(request())
    times = []
    for tenth in range(400):
        times += [tenth / 10 for item in bench.advance(0.1) if item.what == "486"]
    assert len(times) == 10  # 0.5 1.5 3.5 7.5, then every 4 s
    assert 31 <= times[-1] < 32
    assert not bench.layer.servers


def test_completed_timer_is_how_long_that_lasts():
    bench = Bench({"completed_timer": 10000}, main=relay_with())
    message = bench.receive(request("MESSAGE"))[0]
    bench.receive(response(message, 200), CALLEE)
    bench.advance(9)
    assert names(bench.receive(request("MESSAGE"))) == ["200 192.0.2.1"]
    bench.advance(2)
    assert not bench.layer.servers


def test_what_is_left_of_an_answered_request_holds_neither_it_nor_its_branches():
    def in_memory():
        return sum(isinstance(each, (Context, Request, ClientTransaction)) for each in gc.get_objects())

    bench = Bench(main=relay_with(failure="F", reply="R", branch="B"), failure_F=lambda b, ctx: None)
    gc.collect()
    gc.disable()  # nothing may wait for it
    try:
        before = in_memory()
        for method in ("INVITE", "MESSAGE"):
            for status in (200, 486):
                name = f"{method}{status}"
                sent = bench.receive(request(method, branch=f"z9hG4bK{name}", call_id=name))
                bench.receive(response(sent[-1], status), CALLEE)
        assert len(bench.layer.servers) == 4
        del sent
        assert in_memory() == before
    finally:
        gc.enable()
