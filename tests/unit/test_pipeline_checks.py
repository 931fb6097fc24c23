"""What every request and response goes through whatever the script says (RFC 3261 §8.2, §16.3, §18.2)."""

from __future__ import annotations

import pytest
from support.receiver import Bench, names, request, response

from serpy.errors import ProtocolError, ResourceError

CALLEE = ("192.0.2.2", 5060)


def bench_with_runs(**more):
    runs = []

    def main(bench, ctx):
        runs.append(ctx.request.method)
        bench.sl.sl_reply(ctx, 200, "OK")

    return Bench(main=main, **more), runs


def without(text, name):
    return "\r\n".join(line for line in text.split("\r\n") if not line.startswith(name + ":"))


REFUSED = [
    pytest.param(without(request("OPTIONS"), "Max-Forwards") + "", "200", id="no-max-forwards-is-legal"),
    pytest.param(request("OPTIONS", uri="foo:bar"), "416", id="unknown-scheme"),
    pytest.param(request("INVITE", uri="sips:bob@192.0.2.2"), "416", id="sips-without-tls"),
    pytest.param(request("OPTIONS", uri="SIPS:192.0.2.1"), "416", id="sips-in-capitals"),
    pytest.param(request("OPTIONS", extra=("Proxy-Require: nothing",)), "420", id="proxy-require"),
    pytest.param(request("OPTIONS").replace(" SIP/2.0", " SIP/7.0", 1), "505", id="version"),
    pytest.param(request("OPTIONS", cseq_method="INVITE"), "400", id="cseq-method"),
    pytest.param(request("OPTIONS").replace("CSeq: 1", "CSeq: 99999999999"), "400", id="cseq-number"),
    pytest.param(request("OPTIONS").replace("Content-Length: 0", "Content-Length: 9"), "400", id="short-body"),
    pytest.param(request("OPTIONS", extra=("From: <sip:eve@192.0.2.3>;tag=1",)), "400", id="two-from"),
    pytest.param(request("OPTIONS", uri="<sip:bob@192.0.2.2>"), "400", id="uri-in-brackets"),
    pytest.param(without(request("OPTIONS"), "Call-ID"), "400", id="no-call-id"),
]


@pytest.mark.parametrize(("text", "status"), REFUSED)
def test_a_request_gets_the_status_that_says_what_is_wrong(text, status):
    bench, runs = bench_with_runs()
    assert names(bench.receive(text)) == [f"{status} 192.0.2.1"]
    assert bool(runs) is (status == "200")


def test_a_420_says_what_is_not_supported():
    bench, _ = bench_with_runs()
    sent = bench.receive(request("OPTIONS", extra=("Proxy-Require: one, two",)))
    assert sent[0].line("Unsupported") == "Unsupported: one, two"


SILENT = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\r\n\r\n", id="keepalive"),
    pytest.param(b"\x00\x00\x00\x00", id="nat-ping"),
    pytest.param(b"hello", id="noise"),
    pytest.param(without(request("OPTIONS"), "CSeq").encode(), id="no-cseq"),
    pytest.param(without(request("OPTIONS"), "Via").encode(), id="no-via"),
    pytest.param(request("ACK", cseq_method="INVITE").encode(), id="bad-ack"),
    pytest.param(b"SIP/2.0 200 OK\r\nCall-ID: x\r\n\r\n", id="bad-response"),
]


@pytest.mark.parametrize("data", SILENT)
def test_what_cannot_be_answered_is_dropped(data):
    bench, runs = bench_with_runs()
    assert bench.receive(data) == []
    assert runs == []


def test_an_answer_to_rport_goes_to_the_source_port():
    bench, _ = bench_with_runs()
    text = request("OPTIONS", via="SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKx")
    sent = bench.receive(text, ("192.0.2.7", 40000))[0]
    assert (sent.host, sent.port) == ("192.0.2.7", 40000)
    assert "received=192.0.2.7" in sent.line("Via")
    assert "rport=40000" in sent.line("Via")


def test_an_answer_without_rport_goes_to_the_source_address_and_the_port_of_the_via():
    bench, _ = bench_with_runs()
    sent = bench.receive(request("OPTIONS", via="SIP/2.0/UDP phone.example.com:5070;branch=z9hG4bKx"),
                         ("192.0.2.7", 40000))[0]  # fmt: skip
    assert (sent.host, sent.port) == ("192.0.2.7", 5070)
    assert "received=192.0.2.7" in sent.line("Via")


def test_force_rport_answers_to_the_source_port_and_says_so_downstream():
    def main(bench, ctx):
        ctx.reply_to_source = True
        bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    source = ("192.0.2.1", 40000)
    trying, invite = bench.receive(request(), source)
    assert trying.port == 40000
    assert "rport=40000" in invite.lines("Via")[1]
    assert bench.receive(response(invite, 180), CALLEE)[0].port == 40000


def test_a_forwarded_request_carries_received():
    bench = Bench(main=lambda b, ctx: b.tm.t_relay(ctx))
    invite = bench.receive(request(via="SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx"), ("192.0.2.7", 5060))[1]
    assert invite.lines("Via")[1].endswith("received=192.0.2.7")


def test_the_ack_to_a_stateless_final_never_reaches_the_script():
    bench, runs = bench_with_runs()
    sent = bench.receive(request())[0]
    tag = sent.line("To").partition("tag=")[2]
    assert bench.receive(request("ACK", to_tag=tag)) == []
    assert runs == ["INVITE"]
    bench.receive(request("ACK", to_tag="somebody"))
    assert runs == ["INVITE", "ACK"]


def test_a_repeated_stateless_answer_has_the_same_tag():
    bench, _ = bench_with_runs()
    one, two = bench.receive(request())[0], bench.receive(request())[0]
    assert one.line("To") == two.line("To")


def test_a_request_that_loops_is_refused_with_482():
    results = []
    bench = Bench(main=lambda b, ctx: results.append(b.tm.t_relay(ctx)))
    first = bench.receive(request())[1]
    again = bench.receive(first.data, CALLEE)
    assert [item.what for item in again] == ["100", "482"]
    assert results == [1, -482]


def test_a_spiral_with_another_request_uri_is_no_loop():
    bench = Bench(main=lambda b, ctx: b.tm.t_relay(ctx))
    first = bench.receive(request())[1]
    spiral = first.data.replace(b"INVITE sip:bob@192.0.2.2 ", b"INVITE sip:carol@192.0.2.2 ")
    assert [item.what for item in bench.receive(spiral, CALLEE)] == ["100", "INVITE"]


def test_a_stateless_forward_takes_the_same_branch_parameter_each_time_and_for_its_cancel():
    bench = Bench(main=lambda b, ctx: b.pipeline.script_forward(ctx, "", 0, "udp"))
    one, two = bench.receive(request())[0], bench.receive(request())[0]
    assert one.data == two.data
    stop = bench.receive(request("CANCEL"))[0]
    assert stop.lines("Via")[0] == one.lines("Via")[0]
    other = bench.receive(request(branch="z9hG4bKother"))[0]
    assert other.lines("Via")[0] != one.lines("Via")[0]
    assert names(bench.receive(response(one, 486), CALLEE)) == ["486 192.0.2.1"]


def test_forward_with_a_host_goes_there_with_the_request_uri_kept():
    bench = Bench(main=lambda b, ctx: b.pipeline.script_forward(ctx, "192.0.2.8", 5090, "udp"))
    sent = bench.receive(request())[0]
    assert (sent.host, sent.port) == ("192.0.2.8", 5090)
    assert sent.text.startswith("INVITE sip:bob@192.0.2.2 ")


def test_a_response_for_nobody_is_dropped():
    bench, _ = bench_with_runs()
    sent = bench.receive(request("OPTIONS"))[0]
    assert bench.receive(sent.data, CALLEE) == []


@pytest.mark.parametrize(("check", "relayed"), [(0, ["200 192.0.2.1"]), (1, [])])
def test_check_via_forwards_only_what_names_us(check, relayed):
    bench = Bench(settings={"check_via": check}, main=lambda b, ctx: b.pipeline.script_forward(ctx, "", 0, "udp"))
    sent = bench.receive(request())[0]
    answer = response(sent, 200).replace("UDP 192.0.2.100:5060", "UDP 192.0.2.101:5060", 1)
    assert names(bench.receive(answer, CALLEE)) == relayed


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        pytest.param(ProtocolError("no", status=483, reason="Too Many"), "483", [], id="protocol"),
        pytest.param(ResourceError("full"), "503", ["Retry-After: 10"], id="resource"),
    ],
)
@pytest.mark.parametrize("stateful", [False, True])
def test_what_a_handler_gives_up_on_is_answered(error, status, headers, stateful):
    def main(bench, ctx):
        if stateful:
            bench.tm.t_newtran(ctx)
        raise error

    bench = Bench(main=main)
    sent = bench.receive(request("MESSAGE"))
    assert names(sent) == [f"{status} 192.0.2.1"]
    assert sent[0].lines("Retry-After") == headers


def test_a_hook_may_take_a_request_away_from_the_script():
    bench, runs = bench_with_runs()
    after = []
    bench.server.hooks.pre_script.append(lambda ctx: ctx.request.method != "MESSAGE")
    bench.server.hooks.post_script.append(lambda ctx: after.append(ctx.request.method))
    bench.receive(request("MESSAGE"))
    bench.receive(request("OPTIONS"))
    assert runs == ["OPTIONS"]
    assert after == ["OPTIONS"]


def test_an_rfc_2543_client_is_matched_without_a_cookie():
    runs = []

    def main(bench, ctx):
        runs.append(1)
        bench.tm.t_newtran(ctx)
        bench.tm.t_reply(ctx, 404, "No")

    bench = Bench(main=main)
    via = "SIP/2.0/UDP 192.0.2.1:5060"
    answer = bench.receive(request(via=via))[1]
    assert names(bench.receive(request(via=via))) == ["404 192.0.2.1"]
    tag = answer.line("To").partition("tag=")[2]
    assert bench.receive(request("ACK", via=via, to_tag=tag)) == []
    assert bench.advance(3) == []
    assert runs == [1]


def test_nothing_overtakes_a_parked_handler_of_the_same_call_id():
    order = []

    def main(bench, ctx):
        order.append(f"{ctx.request.method} {ctx.request.call_id} begins")
        if len(order) == 1:
            # while this handler is parked the loop goes on reading
            for text in (request("CANCEL"), request(), request("OPTIONS", call_id="other", branch="z9hG4bKo")):
                bench.receive(text)
            bench.loop_ran_meanwhile = True
        order.append(f"{ctx.request.method} {ctx.request.call_id} ends")
        bench.tm.t_newtran(ctx)

    bench = Bench(main=main)
    bench.receive(request())
    assert order == [
        "INVITE call-1 begins",
        "OPTIONS other begins",
        "OPTIONS other ends",
        "INVITE call-1 ends",
        "CANCEL call-1 begins",
        "CANCEL call-1 ends",
    ]
    assert bench.pipeline.order.is_idle()


def test_a_timer_waits_for_the_parked_handler_of_its_call_id():
    seen = []

    def main(bench, ctx):
        if ctx.request.method == "INFO":
            seen.extend(item.what for item in bench.advance(0.7))
        else:
            bench.tm.t_relay(ctx)

    bench = Bench(main=main)
    bench.receive(request())
    sent = bench.receive(request("INFO", branch="z9hG4bKi", cseq=2))
    assert seen == []
    assert [item.what for item in sent] == ["INVITE"]


def test_too_many_messages_behind_a_parked_one_are_refused_at_once_and_counted():
    answers = []

    def main(bench, ctx):
        if ctx.request.method == "INFO":
            for number in range(100):
                answers.extend(bench.receive(request("MESSAGE", branch=f"z9hG4bK{number}")))
            bench.receive(request("ACK", branch="z9hG4bKack"))

    bench = Bench(main=main)
    bench.receive(request("INFO"))
    assert bench.pipeline.order.overrun == 37
    assert [item.what for item in answers] == ["503"] * 36
    assert answers[0].line("Retry-After") == "Retry-After: 10"


def test_the_statistics_reach_the_shared_page_and_go_on_from_a_predecessor():
    bench, _ = bench_with_runs()
    bench.receive(request("OPTIONS"))
    bench.pipeline._publish()
    bench.server.program = bench.pipeline.program
    successor = type(bench.pipeline)(bench.server)
    successor.requests = 2
    successor._publish()
    assert bench.server.counters.snapshot()["core.requests"] == 3
    assert bench.sl.stats()["2xx"] == 1
    assert bench.tm.rpc.stats()["created"] == 0


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        pytest.param({"server_signature": 0}, [], id="off"),
        pytest.param({"server_header": "Server: mine"}, ["Server: mine"], id="own"),
    ],
)
def test_our_answers_are_signed_as_configured(settings, lines):
    bench, _ = bench_with_runs(settings=settings)
    assert bench.receive(request("OPTIONS"))[0].lines("Server") == lines
