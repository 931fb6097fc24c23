"""What the receiver does for strangers: the early look, charges of what is refused, room for transactions."""

from __future__ import annotations

import pytest
from support.receiver import CALLER, Bench, names, request, response

from serpy.context.authenticated import NO_CREDENTIALS, OK, WRONG_PASSWORD
from serpy.trust import limits as of
from serpy.trust.budgets import Budgets
from serpy.trust.limits import Limits

OTHER = ("198.51.100.9", 5060)
CALLEE = ("192.0.2.2", 5060)


def budgets():
    limits = Limits("office")
    made = Budgets(memoryview(bytearray(Budgets.size(limits))), limits, 5)
    made.holds_sources = True
    return made


def answering(status):
    return {"main": lambda bench, ctx: bench.sl.sl_reply(ctx, status, "x")}


def relaying(bench, ctx):
    bench.tm.t_relay(ctx)


def ask(number, method="OPTIONS", uri="sip:bob@192.0.2.2", **more):
    return request(method, uri, call_id=f"call-{number}", branch=f"z9hG4bKb{number}", **more)


def test_a_source_of_404s_is_answered_five_times_a_second_at_most():
    bench = Bench(budgets=budgets(), **answering(404))
    answered = [bool(bench.receive(ask(number))) for number in range(60)]
    assert answered[:21] == [True] * 21
    assert answered[21:].count(True) == 5
    assert bench.receive(ask(100), OTHER)


@pytest.mark.parametrize("status", [200, 302, 480, 486, 500])
def test_other_answers_of_ours_cost_nothing(status):
    bench = Bench(budgets=budgets(), **answering(status))
    assert all(bench.receive(ask(number)) for number in range(100))


def test_malformed_messages_make_their_source_quiet():
    bench = Bench(budgets=budgets(), **answering(200))
    for number in range(40):
        bench.receive(ask(number).replace("CSeq: 1", "CSeq: x"))
    assert [bool(bench.receive(ask(number))) for number in range(50, 60)].count(True) < 10


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n\r\n", b"\x00" * 4, b"jaK", b"hello", b"\x00\x01\x00\x00\x21\x12\xa4\x42" + b"i" * 12],
    ids=["empty", "crlf", "nul", "jak", "hello", "stun"],
)
def test_what_keeps_a_flow_open_feeds_no_budget(data):
    bench = Bench(budgets=budgets(), **answering(200))
    for _ in range(500):
        bench.receive(data)
    assert all(bench.receive(ask(number)) for number in range(50))


def test_garbage_is_not_parsed_for_ever():
    bench = Bench(budgets=budgets(), **answering(200))
    for number in range(100):
        bench.receive(bytes([number, 200]) * 300)
    assert bench.pipeline.budgets.held[0]
    assert bench.pipeline.malformed < 40


def test_who_authenticates_goes_on_whatever_his_neighbours_do():
    bench = Bench(budgets=budgets(), **answering(404))
    phone = (CALLER[0], 6000)

    bench.receive(ask(0), phone)
    bench.pipeline.budgets.right_password(bench.flow(phone), ["alice@192.0.2.1"], 600)
    for number in range(1, 200):
        bench.receive(ask(number))
    assert all(bench.receive(ask(number), phone) for number in range(300, 350))


def test_the_outcome_of_credentials_is_charged():
    seen = []

    def main(bench, ctx):
        outcome = (NO_CREDENTIALS, WRONG_PASSWORD, OK)[len(seen) % 3]
        seen.append(outcome)
        for tell in bench.server.hooks.on_credentials:
            tell(ctx, "alice@192.0.2.1" if outcome != NO_CREDENTIALS else "", outcome)
        bench.sl.sl_reply(ctx, 401, "x")

    bench = Bench(budgets=budgets(), main=main)
    for number in range(3):
        bench.receive(ask(number))
    made = bench.pipeline.budgets
    assert made.events[of.UNANSWERED] == 1
    assert made.events[of.WRONG] == 1
    assert made.is_known(bench.flow())


# --- room for transactions


def test_beyond_the_limit_of_transactions_a_request_is_told_to_come_again():
    bench = Bench(settings={"max_transactions": 8}, main=relaying)
    sent = [names(bench.receive(ask(number))) for number in range(8)]
    assert sent == [["OPTIONS 192.0.2.2"]] * 6 + [["503 192.0.2.1"]] * 2
    assert bench.layer.turned_away == 2


def test_a_503_says_when_to_come_again():
    bench = Bench(settings={"max_transactions": 1}, main=relaying)
    bench.receive(ask(1))
    assert bench.receive(ask(2))[0].line("Retry-After")


def test_the_last_quarter_is_for_who_is_known_and_for_dialogs():
    bench = Bench(settings={"max_transactions": 8}, budgets=budgets(), main=relaying)
    for number in range(6):
        bench.receive(ask(number))
    assert names(bench.receive(ask(10))) == ["503 192.0.2.1"]
    assert names(bench.receive(ask(11, to_tag="b"))) == ["OPTIONS 192.0.2.2"]
    bench.pipeline.budgets.right_password(bench.flow(OTHER), ["alice@192.0.2.1"], 600)
    assert names(bench.receive(ask(12), OTHER)) == ["OPTIONS 192.0.2.2"]
    assert names(bench.receive(ask(13), OTHER)) == [f"503 {OTHER[0]}"]


def test_an_emergency_call_has_the_last_quarter():
    made = budgets()
    made.emergency = frozenset({"112"})
    bench = Bench(settings={"max_transactions": 4}, budgets=made, main=relaying)
    for number in range(3):
        bench.receive(ask(number))
    assert names(bench.receive(ask(4, "INVITE", "sip:112@192.0.2.2")))[-1] == "INVITE 192.0.2.2"


def test_what_ends_a_call_always_has_room():
    bench = Bench(settings={"max_transactions": 2}, main=relaying)
    for number in range(4):
        bench.receive(ask(number))
    assert names(bench.receive(ask(5, "BYE", to_tag="b"))) == ["BYE 192.0.2.2"]


def test_room_is_there_again_when_requests_have_ended():
    bench = Bench(settings={"max_transactions": 1}, main=relaying)
    for number in range(20):
        sent = bench.receive(ask(number))
        assert names(sent) == ["OPTIONS 192.0.2.2"]
        bench.receive(response(sent[0], 200), CALLEE)
    assert (bench.layer.live, bench.layer.kept) == (0, 0)


def test_room_is_there_again_when_nobody_has_answered():
    bench = Bench(settings={"max_transactions": 4}, main=relaying)
    bench.receive(ask(1))
    bench.receive(ask(2, "INVITE"))
    bench.advance(300.0)
    assert (bench.layer.live, bench.layer.kept) == (0, 0)


def test_bytes_are_limited_as_well():
    bench = Bench(settings={"max_kept": 1}, main=relaying)
    body = "x" * 60000
    answers = [names(bench.receive(ask(number, body=body)))[0].split()[0] for number in range(12)]
    assert answers == ["OPTIONS"] * 7 + ["503"] * 5


def test_the_body_of_a_call_that_rings_is_kept_once():
    bench = Bench(main=relaying)
    body = "x" * 60000
    invite = bench.receive(ask(1, "INVITE", body=body))[-1]
    assert invite.text.endswith(body)
    bench.receive(response(invite, 180), CALLEE)
    assert bench.layer.kept < 65000


def test_a_call_with_a_large_body_is_cancelled_and_acknowledged_like_any_other():
    bench = Bench(
        main=lambda bench, ctx: bench.tm.t_relay_cancel(ctx) if ctx.request.method == "CANCEL" else relaying(bench, ctx)
    )
    invite = bench.receive(ask(1, "INVITE", body="x" * 60000))[-1]
    bench.receive(response(invite, 180), CALLEE)
    cancel = next(each for each in bench.receive(ask(1, "CANCEL")) if each.what == "CANCEL")
    assert cancel.line("Via") == invite.line("Via")
    assert cancel.line("Call-ID") == invite.line("Call-ID")
    ack = next(each for each in bench.receive(response(invite, 487), CALLEE) if each.what == "ACK")
    assert ack.line("Via") == invite.line("Via")
    assert ack.line("Content-Length") == "Content-Length: 0"


# --- calls of strangers that ring


def counting(bench, ctx):
    if not bench.charges.allows_call(ctx):
        bench.sl.sl_reply(ctx, 503, "Too Many Calls")
    else:
        bench.tm.t_relay(ctx)


def test_five_calls_of_a_stranger_ring_at_once():
    bench = Bench(budgets=budgets(), main=counting)
    sent = [bench.receive(ask(n, "INVITE", f"sip:user{n}@192.0.2.2"))[-1] for n in range(7)]
    assert [each.what for each in sent] == ["INVITE"] * 5 + ["503"] * 2
    bench.receive(response(sent[0], 200), CALLEE)
    assert bench.receive(ask(20, "INVITE", "sip:user20@192.0.2.2"))[-1].what == "INVITE"


def test_three_calls_of_strangers_ring_at_one_user():
    bench = Bench(budgets=budgets(), main=counting)
    sent = [bench.receive(ask(n, "INVITE"), (f"203.0.113.{n + 1}", 5060))[-1].what for n in range(5)]
    assert sent == ["INVITE"] * 3 + ["503"] * 2


def test_a_call_answered_without_a_transaction_does_not_ring_for_ever():
    def main(bench, ctx):
        assert bench.charges.allows_call(ctx)
        bench.sl.sl_reply(ctx, 480, "x")

    bench = Bench(budgets=budgets(), main=main)
    for n in range(5):
        bench.receive(ask(n, "INVITE", f"sip:user{n}@192.0.2.2"))
    assert bench.charges._ringing == {}


def test_users_of_ours_are_not_counted():
    made = budgets()
    bench = Bench(budgets=made, main=counting)
    made.clock = bench.loop
    made.right_password(bench.flow(), ["alice@192.0.2.1"], 600)
    sent = [bench.receive(ask(n, "INVITE"))[-1].what for n in range(30)]
    assert sent == ["INVITE"] * 30


# --- octets to addresses that may be forged


def lavish(bench, ctx):
    bench.sl.reply(ctx, 302, "x", [f"Contact: <sip:bob@192.0.2.2;n={'9' * 800}>"])


def test_an_answer_has_at_most_twice_the_octets_of_its_request():
    bench = Bench(budgets=budgets(), main=lavish)
    small = ask(1)
    assert bench.receive(small) == []
    large = bench.receive(ask(2, extra=("Subject: " + "x" * 400,)))
    assert names(large) == ["302 192.0.2.1"]


def test_a_small_answer_is_always_sent():
    bench = Bench(budgets=budgets(), **answering(404))
    tiny = "OPTIONS sip:a@b SIP/2.0\r\nv:SIP/2.0/UDP 1;branch=z9hG4bKa\r\nf:<sip:x@e>;tag=1\r\nt:<sip:x@e>\r\ni:1\r\nCSeq:1 OPTIONS\r\n\r\n"
    assert names(bench.receive(tiny)) == ["404 192.0.2.1"]


def test_who_receives_what_we_send_there_gets_any_answer():
    made = budgets()
    bench = Bench(budgets=made, main=lavish)
    made.right_password(bench.flow((CALLER[0], 9)), ["alice@192.0.2.1"], 60)
    made.charge(bench.flow(), of.UNKNOWN)
    made.right_password(bench.flow((CALLER[0], 9)), ["alice@192.0.2.1"], 60)
    assert names(bench.receive(ask(1))) == ["302 192.0.2.1"]


def test_a_stranger_who_does_not_acknowledge_gets_each_answer_once_and_4_kb_of_repetitions():
    bench = Bench(budgets=budgets(), main=counting)
    invite = bench.receive(ask(1, "INVITE"))[-1]
    answer = response(invite, 200, extra=("Subject: " + "x" * 700,))
    got = [bench.receive(answer, CALLEE) for _ in range(11)]
    assert names(got[0]) == ["200 192.0.2.1"]
    assert sum(len(each.data) for sent in got[1:] for each in sent) <= 4096
    assert sum(len(sent) for sent in got[1:]) >= 3


def test_a_refused_call_of_a_stranger_is_repeated_within_the_same_bound():
    bench = Bench(budgets=budgets(), main=counting)
    invite = bench.receive(ask(1, "INVITE"))[-1]
    bench.receive(response(invite, 486, extra=("Subject: " + "x" * 700,)), CALLEE)
    repeated = [each for each in bench.advance(60.0) if each.what == "486"]
    assert 3 <= len(repeated) <= 4
    assert bench.layer.servers == {}


def test_a_user_of_ours_gets_every_repetition():
    made = budgets()
    bench = Bench(budgets=made, main=counting)
    made.right_password(bench.flow(), ["alice@192.0.2.1"], 600)
    invite = bench.receive(ask(1, "INVITE"))[-1]
    bench.receive(response(invite, 486, extra=("Subject: " + "x" * 700,)), CALLEE)
    assert len([each for each in bench.advance(60.0) if each.what == "486"]) == 10


def test_a_phone_that_authenticates_all_the_time_takes_ten_events_off_once_a_minute():
    made = budgets()
    bench = Bench(budgets=made, main=lambda bench, ctx: bench.charges.credentials(ctx, "alice@192.0.2.1", OK))
    place = made.names.place(CALLER[0])
    limit = made.limits.source[of.UNKNOWN].interval

    def owed():
        return made.strangers.debt(made.strangers.find(place.net), of.UNKNOWN, made.now()) // limit

    for _ in range(20):
        made.charge(bench.flow((CALLER[0], 9)), of.UNKNOWN)
    before = owed()
    for number in range(20):
        bench.receive(ask(number), (CALLER[0], 6000 + number % 3))
    assert before - owed() == 10
    bench.advance(61.0)
    bench.receive(ask(30))
    assert owed() < before - 15


def test_a_flow_whose_trust_was_lost_is_known_again_when_it_authenticates():
    made = budgets()
    bench = Bench(budgets=made, main=lambda bench, ctx: bench.charges.credentials(ctx, "alice@192.0.2.1", OK))
    bench.receive(ask(1))
    for _ in range(11):
        made.wrong_password(bench.flow(), "bob@192.0.2.1")
    assert not made.is_known(bench.flow())
    made.strangers.lift(
        made.strangers.find(made.names.pair(made.names.place(CALLER[0]), made.names.number("bob@192.0.2.1"))), 0
    )
    bench.receive(ask(2))
    assert made.is_known(bench.flow())


def test_a_longer_registration_is_known_for_longer_at_once():
    made = budgets()
    bench = Bench(budgets=made, main=lambda bench, ctx: bench.charges.credentials(ctx, "alice@192.0.2.1", OK))
    bench.receive(ask(1))
    bench.receive(ask(2, "REGISTER", extra=("Expires: 7200",)))
    bench.advance(3700.0)
    assert made.is_known(bench.flow())


def test_the_operator_is_told_once_a_minute_that_room_is_scarce(caplog):
    bench = Bench(settings={"max_transactions": 10}, main=relaying)
    for number in range(7):
        bench.receive(ask(number))
    bench.pipeline._publish()
    assert not caplog.records
    for number in range(10, 13):
        bench.receive(ask(number, to_tag="b"))
    bench.pipeline._publish()
    bench.pipeline._publish()
    assert [record.getMessage() for record in caplog.records] == [
        "room for requests is scarce: 10 of 10 are worked on, 0 of 64 MiB are kept, 0 requests were refused"
    ]


def test_a_call_asked_about_when_it_has_its_transaction_takes_no_place_from_others():
    def main(bench, ctx):
        if ctx.request.call_id == "call-2":
            bench.tm.t_newtran(ctx)
        counting(bench, ctx)

    bench = Bench(budgets=budgets(), main=main)
    bench.receive(ask(1, "INVITE"))
    invite = bench.receive(ask(2, "INVITE"))[-1]
    bench.receive(response(invite, 486), CALLEE)
    assert bench.charges._ringing == {CALLER[0]: 1, "bob@192.0.2.2": 1}
