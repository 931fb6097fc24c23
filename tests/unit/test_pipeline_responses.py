"""Responses go only back to who asked us, and only for what we sent; whatever their second Via says (RFC 3261 §16.7, §18.1.2)."""

from __future__ import annotations

import pytest
from support.receiver import CALLER, Bench, names, request, response

from serpy.errors import HeldBackError, TransportError
from serpy.pipeline import Pipeline
from serpy.sip.flow import Listener
from serpy.transaction.forward import Forwarder
from serpy.transaction.ways import Ways

CALLEE = ("192.0.2.2", 5060)
STRANGER = ("198.51.100.66", 6666)
VICTIM = "203.0.113.99:9999"


def counted(bench):
    names_ = ("foreign", "forged", "ended", "expired", "via", "unsent")
    return {name: count for name, count in zip(names_, bench.pipeline.strays.dropped, strict=True) if count}


def stateful(**more):
    return Bench(main=lambda b, ctx: b.tm.t_relay(ctx), **more)


def stateless(**more):
    return Bench(main=lambda b, ctx: b.pipeline.script_forward(ctx, "", 0, "udp"), **more)


def respawned(bench):
    """The same receiver after its process died: nothing is remembered but the secret."""
    bench.pipeline = Pipeline(bench.server)
    bench.layer = bench.pipeline.layer
    return bench


def to_victim(answer):
    """The answer with the Via below ours, as the caller wrote it, changed to somebody else."""
    _, second = [line for line in answer.split("\r\n") if line.startswith("Via:")]
    return answer.replace(second, f"Via: SIP/2.0/UDP {VICTIM};branch={second.partition('branch=')[2]}", 1)


FOREIGN = [
    pytest.param("SIP/2.0/UDP 10.9.9.9:5060;branch=z9hG4bKx", id="not-our-address"),
    pytest.param("SIP/2.0/UDP 192.0.2.100:5060;branch=z9hG4bKx", id="our-address"),
    pytest.param("SIP/2.0/UDP 192.0.2.100:5060", id="no-branch"),
    pytest.param("SIP/2.0/UDP 192.0.2.100:5060;branch=1", id="branch-of-rfc-2543"),
]
SECOND = [
    pytest.param(f"SIP/2.0/UDP {VICTIM}", id="udp"),
    pytest.param(f"SIP/2.0/TCP {VICTIM}", id="tcp"),
    pytest.param("SIP/2.0/UDP host.example.com", id="name"),
    pytest.param(f"SIP/2.0/UDP 192.0.2.1;received={VICTIM.partition(':')[0]};rport=9999", id="received"),
    pytest.param("SIP/2.0/UDP 192.0.2.1;maddr=224.0.0.1", id="maddr"),
]


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("top", FOREIGN)
@pytest.mark.parametrize(("status", "method"), [(200, "INVITE"), (180, "INVITE"), (404, "OPTIONS"), (200, "OPTIONS")])
def test_a_response_of_a_stranger_ends_here(top, second, status, method):
    routes = []
    bench = stateful(reply=lambda _b, ctx: routes.append(ctx.status))
    bench.slow_resolver(0.0, ("udp", "203.0.113.99", 9999))
    lines = [
        f"SIP/2.0 {status} X", f"Via: {top}", f"Via: {second};branch=z9hG4bKy", "From: <sip:a@a>;tag=1", "To: <sip:b@b>;tag=2",
        "Call-ID: stranger", f"CSeq: 1 {method}", "Content-Length: 0", "", "",
    ]  # fmt: skip
    assert bench.receive("\r\n".join(lines), STRANGER) == []
    assert counted(bench) == {"foreign": 1}
    assert routes == [], "no script sees it"


def test_no_hook_sees_a_stray_response():
    seen = []
    bench = stateful()
    bench.server.hooks.pre_reply.append(lambda ctx: bool(seen.append(ctx)) or True)
    lines = [
        "SIP/2.0 200 X", "Via: SIP/2.0/UDP 192.0.2.100:5060;branch=z9hG4bKx", "Via: SIP/2.0/UDP 192.0.2.1", "From: <sip:a@a>;tag=1",
        "To: <sip:b@b>;tag=2", "Call-ID: stranger", "CSeq: 1 INVITE", "", "",
    ]  # fmt: skip
    assert bench.receive("\r\n".join(lines), STRANGER) == []
    assert seen == []


def test_an_answer_to_what_was_forwarded_without_a_transaction_goes_to_who_asked():
    bench = stateless()
    source = ("192.0.2.7", 40000)
    sent = bench.receive(request(via="SIP/2.0/UDP 10.0.0.1:5070;rport;branch=z9hG4bKx"), source)[0]
    for status in (180, 200, 404):
        back = bench.receive(to_victim(response(sent, status)), CALLEE)
        assert [(item.what, item.host, item.port) for item in back] == [(str(status), *source)]
    assert counted(bench) == {}


def test_without_rport_it_goes_to_the_port_of_the_via():
    bench = stateless()
    sent = bench.receive(request(via="SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKx"), ("192.0.2.7", 40000))[0]
    back = bench.receive(response(sent, 200), CALLEE)
    assert [(item.host, item.port) for item in back] == [("192.0.2.7", 5070)]


@pytest.mark.parametrize("make", [stateful, stateless])
def test_a_seal_is_good_for_its_call_only(make):
    bench = make()
    sent = bench.receive(request())[-1]
    answer = response(sent, 200).replace("Call-ID: call-1", "Call-ID: call-2")
    assert bench.receive(answer, CALLEE) == []
    assert counted(bench) == {"forged": 1}


@pytest.mark.parametrize(
    ("method", "status"), [("INVITE", 180), ("INVITE", 200), ("INVITE", 486), ("MESSAGE", 200), ("MESSAGE", 404)]
)
def test_answers_to_what_a_dead_process_sent_find_their_way(method, status):
    bench = stateful()
    sent = bench.receive(request(method))[-1]
    back = respawned(bench).receive(to_victim(response(sent, status)), CALLEE)
    assert names(back) == [f"{status} {CALLER[0]}"]


def test_a_late_2xx_to_invite_is_passed_on_and_other_late_answers_are_not():
    bench = stateful()
    invite = bench.receive(request())[-1]
    bench.receive(response(invite, 486), CALLEE)
    bench.advance(100.0)
    assert bench.layer.clients == {}
    assert names(bench.receive(to_victim(response(invite, 200)), CALLEE)) == [f"200 {CALLER[0]}"]
    assert bench.receive(response(invite, 180), CALLEE) == []
    assert bench.receive(response(invite, 486), CALLEE) == []
    message = bench.receive(request("MESSAGE", branch="z9hG4bKm", call_id="call-2"))[-1]
    bench.receive(response(message, 200), CALLEE)
    bench.advance(100.0)
    assert bench.receive(response(message, 200), CALLEE) == []
    assert counted(bench) == {"ended": 3}


def test_a_seal_does_not_last_for_ever():
    bench = stateful()
    invite = bench.receive(request())[-1]
    bench.receive(response(invite, 486), CALLEE)
    lifetime = bench.layer.settings.max_inv_lifetime_s + 32.0
    bench.advance(lifetime - 1.0)
    assert names(bench.receive(response(invite, 200), CALLEE)) == [f"200 {CALLER[0]}"]
    bench.advance(300.0)
    assert bench.receive(response(invite, 200), CALLEE) == []
    assert counted(bench) == {"expired": 1}


@pytest.mark.parametrize("change", [str.upper, str.lower])
def test_peers_that_change_the_case_of_the_branch_are_understood(change):
    bench = stateful()
    invite = bench.receive(request())[-1]
    branch = invite.line("Via").partition("branch=")[2]
    assert names(bench.receive(response(invite, 486).replace(branch, change(branch)), CALLEE)) == [
        "ACK 192.0.2.2", f"486 {CALLER[0]}",
    ]  # fmt: skip
    assert not bench.pipeline.strays.dropped[0]


def test_a_response_for_ourselves_goes_nowhere():
    bench = stateful()
    invite = bench.receive(request())[-1]
    answer = response(invite, 200)
    second = [line for line in answer.split("\r\n") if line.startswith("Via:")][1]
    assert bench.receive(answer.replace(second + "\r\n", ""), CALLEE) == []
    assert counted(bench) == {"via": 1}
    assert names(bench.receive(response(invite, 200), CALLEE)) == [f"200 {CALLER[0]}"]


@pytest.mark.parametrize(("check", "relayed"), [(0, [f"486 {CALLER[0]}"]), (1, [])])
def test_check_via_wants_our_name_with_a_transaction_too(check, relayed):
    bench = stateful(settings={"check_via": check})
    invite = bench.receive(request())[-1]
    answer = response(invite, 486).replace("UDP 192.0.2.100:5060", "UDP 192.0.2.101:5060", 1)
    back = [each for each in names(bench.receive(answer, CALLEE)) if not each.startswith("ACK")]
    assert back == relayed
    assert counted(bench) == ({} if relayed else {"via": 1})


def test_cancel_and_ack_have_the_branch_of_their_invite():
    bench = Bench(main=lambda b, ctx: b.tm.t_relay_cancel(ctx) if ctx.request.method == "CANCEL" else b.tm.t_relay(ctx))
    invite = bench.receive(request())[-1]
    bench.receive(response(invite, 180), CALLEE)
    cancel = next(each for each in bench.receive(request("CANCEL")) if each.what == "CANCEL")
    assert cancel.line("Via") == invite.line("Via")
    assert bench.receive(response(cancel, 200), CALLEE) == [], "its only Via is ours, and that is right"
    assert counted(bench) == {}
    ack = bench.receive(response(invite, 487), CALLEE)[0]
    assert (ack.what, ack.line("Via")) == ("ACK", invite.line("Via"))


def test_the_next_address_of_a_target_gets_a_branch_of_its_own_with_the_same_seal():
    bench = stateful()
    bench.slow_resolver(0.0, ("udp", "192.0.2.11", 5060), ("udp", "192.0.2.12", 5060))
    bench.broken.add(("192.0.2.11", 5060))
    invite = bench.receive(request(uri="sip:bob@several.example.com"))[-1]
    assert invite.host == "192.0.2.12"
    assert names(bench.receive(response(invite, 180), CALLEE)) == [f"180 {CALLER[0]}"]
    assert names(respawned(bench).receive(response(invite, 200), CALLEE)) == [f"200 {CALLER[0]}"]


def test_a_spiral_passes_and_a_loop_does_not():
    bench = stateful()
    first = bench.receive(request())[-1]
    assert names(bench.receive(first.data, CALLEE)) == ["100 192.0.2.2", "482 192.0.2.2"]
    bench = stateful()
    first = bench.receive(request())[-1]
    turned = first.text.replace("INVITE sip:bob@192.0.2.2 ", "INVITE sip:carol@192.0.2.3 ")
    assert names(bench.receive(turned, CALLEE)) == ["100 192.0.2.2", "INVITE 192.0.2.3"]


# --- Via of requests


MADDR = [
    pytest.param("192.0.2.1:5060;maddr=203.0.113.99", id="third-host"),
    pytest.param("192.0.2.1:5060;maddr=127.0.0.1", id="ourselves"),
    pytest.param("192.0.2.1:5060;maddr=224.0.1.76", id="group-that-we-are-not-in"),
    pytest.param("192.0.2.1:5060;maddr=224.0.1.75", id="group-port"),
    pytest.param("192.0.2.1:5060;maddr=[2001:db8::99]", id="other-family"),
    pytest.param("192.0.2.1:5060;maddr=host.example.com", id="name"),
    pytest.param("203.0.113.99:5060", id="sent-by"),
    pytest.param("203.0.113.99:5060;received=203.0.113.99", id="received"),
    pytest.param("192.0.2.1:5060;rport=99;maddr=203.0.113.99", id="rport"),
]


@pytest.mark.parametrize("to_source", [False, True])
@pytest.mark.parametrize("via", MADDR)
@pytest.mark.parametrize("answer", ["sl", "tm", "core"])
def test_an_answer_goes_to_the_source_whatever_via_says(via, answer, to_source):
    def main(bench, ctx):
        if answer == "tm":
            bench.tm.t_newtran(ctx)
        bench.sl.sl_reply(ctx, 404, "Not Found")

    bench = Bench(main=main, settings={"force_rport": int(to_source)})
    bench.server.listeners.append(Listener(1, "udp", "224.0.1.75", 5070, multicast=True))
    bench.pipeline.layer.groups = bench.pipeline.replies.groups = frozenset({("224.0.1.75", 5070)})
    text = request(
        "OPTIONS", via=f"SIP/2.0/UDP {via};branch=z9hG4bKx", extra=("Proxy-Require: x",) * (answer == "core")
    )
    assert {(item.host, item.port) for item in bench.receive(text)} == {CALLER}


@pytest.mark.parametrize(("rport", "host"), [("", "224.0.1.75"), (";rport", CALLER[0])])
def test_maddr_counts_for_a_group_that_we_listen_on_unless_the_source_is_asked_for(rport, host):
    bench = Bench(main=lambda b, ctx: b.sl.sl_reply(ctx, 404, "Not Found"))
    bench.server.listeners.append(Listener(1, "udp", "224.0.1.75", 5070, multicast=True))
    bench.pipeline = Pipeline(bench.server)
    via = f"SIP/2.0/UDP 192.0.2.1:5070;maddr=224.0.1.75;branch=z9hG4bKx{rport}"
    assert [item.host for item in bench.receive(request("OPTIONS", via=via))] == [host]


# --- destinations that are held back


def held_back(bench, host):
    """From now on the guard lets nothing go to *host*."""
    send = bench._send

    def guarded(outgoing):
        if outgoing.flow.host == host:
            raise HeldBackError("private")
        send(outgoing)

    bench.server.send = guarded
    bench.pipeline = Pipeline(bench.server)
    bench.layer = bench.pipeline.layer
    bench.tm.child_init(bench.server)
    return bench


@pytest.mark.parametrize("stateful_", [True, False])
def test_a_request_for_where_nothing_may_go_is_forbidden(stateful_):
    errors = []

    def main(bench, ctx):
        relayed = bench.tm.t_relay(ctx) if stateful_ else bench.pipeline.script_forward(ctx, "", 0, "udp")
        errors.append(relayed)
        bench.sl.sl_reply_error(ctx)

    bench = held_back(Bench(main=main), "192.0.2.2")
    assert names(bench.receive(request("MESSAGE"))) == [f"403 {CALLER[0]}"]
    assert errors == [-403]


def test_the_next_address_of_a_name_is_tried_when_the_first_is_held_back():
    bench = held_back(stateful(), "10.0.0.1")
    bench.slow_resolver(0.0, ("udp", "10.0.0.1", 5060), ("udp", "192.0.2.12", 5060))
    assert names(bench.receive(request("MESSAGE", uri="sip:bob@two.example.com"))) == ["MESSAGE 192.0.2.12"]


def test_a_loopback_listener_speaks_for_no_other():
    public, local = Listener(0, "udp", "203.0.113.5", 5060), Listener(1, "udp", "::1", 5060)
    tcp, group = Listener(2, "tcp", "127.0.0.1", 5060), Listener(3, "udp", "224.0.1.75", 5060, multicast=True)
    forwarder = Forwarder([public, local, tcp, group], lambda _: None, Ways(b"", "", "0" * 8, "0" * 4, []))
    forwarder.route = lambda _host: "127.0.0.1"
    for transport, host in (("udp", "::1"), ("tcp", "127.0.0.1")):
        assert not forwarder.can_reach(transport, host, public)
        with pytest.raises(TransportError):
            forwarder.flow_to(transport, host, 25, public)
        for wanted in (tcp, local, group):
            assert forwarder.can_reach(transport, host, wanted)
            assert forwarder.flow_to(transport, host, 25, wanted).host == host
    assert forwarder.routed("tcp", "127.0.0.1", public) is public, "whatever the kernel would do (mhomed)"
