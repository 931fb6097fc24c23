"""Calls through a media proxy: one that works, one that is dead, slow or answers rubbish, and Debian's rtpengine."""

from __future__ import annotations

import socket
import struct

import pytest
from support.phone import Phone
from support.rtpengine import RtpEngine
from support.rtpproxy import FakeRtpEngine, FakeRtpProxy
from support.running import Running, wait_for

pytestmark = pytest.mark.system

SCRIPT = """
fork=yes
children=1
loadmodule "sl"
loadmodule "tm"
loadmodule "rr"
loadmodule "textops"
loadmodule "nathelper"
loadmodule "ctl"
modparam("nathelper", "rtpproxy_sock", "SOCKETS")
modparam("nathelper", "rtpproxy_retr", TRIES)
modparam("nathelper", "rtpproxy_tout_ms", TIMEOUT)
modparam("nathelper", "rtpproxy_disable_tout", 1)
route {
    if (method == "OPTIONS") { sl_reply("200", "OK"); drop; }
    if (method == "INVITE") { record_route(); }
    loose_route();
    if (method == "BYE" || method == "CANCEL") { unforce_rtp_proxy(); }
    if (method == "INVITE" || method == "ACK" || method == "UPDATE") {
        if (force_rtp_proxy("FLAGS")) { append_hf("X-Media: relayed\\r\\n"); }
    }
    t_on_reply("media");
    t_on_failure("media");
    if (!t_relay()) { sl_reply_error(); }
}
onreply_route["media"] {
    if (status =~ "(183|2[0-9][0-9])") { force_rtp_proxy("FLAGS"); }
}
failure_route["media"] { unforce_rtp_proxy(); }
"""
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n"
TYPE = "Content-Type: application/sdp"


@pytest.fixture
def serve(tmp_path):
    """Start a server that uses these media proxies."""
    made = []

    def start(*sockets, timeout_ms=150, tries=10, flags=""):
        text = (
            SCRIPT.replace("SOCKETS", " ".join(sockets))
            .replace("TIMEOUT", str(timeout_ms))
            .replace("FLAGS", flags)
            .replace("TRIES", str(tries))
        )
        (tmp_path / "media.conf").write_text(text)
        made.append(Running(tmp_path, config=tmp_path / "media.conf").start())
        return made[-1]

    yield start
    for running in made:
        assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def pair():
    """alice and bob."""
    made = []

    def make(server):
        made.extend((Phone(server.address, "alice"), Phone(server.address, "bob")))
        return made[-2], made[-1]

    yield make
    for phone in made:
        phone.close()


def call(alice, bob, *, offer="", answer=""):
    """An INVITE of alice up to bob's 200 and the ACK; (INVITE sent, INVITE received, 200 received)."""
    offer = offer or SDP.format(port=4000)
    alice.call_id = f"{alice.call_id}x"
    sent = alice.request("INVITE", bob.contact, headers=(TYPE,), body=offer)
    alice.send(sent)
    got = bob.expect("INVITE")
    bob.reply(got, 200, headers=(TYPE,), body=answer or SDP.format(port=6000))
    ok = alice.final()
    alice.send(alice.in_dialog("ACK", sent, ok, cseq=1_000_000))
    return sent, got, ok


def hang_up(alice, bob, sent, ok):
    alice.send(alice.in_dialog("BYE", sent, ok))
    bob.reply(bob.expect("BYE"), 200)
    alice.expect(200)


def media(message):
    """(address, port) in the description of *message*."""
    body = message.split("\r\n\r\n", 1)[1]
    assert message.get("Content-Length") == str(len(body))
    lines = body.split("\r\n")
    port = next(line for line in lines if line.startswith("m=")).split(" ")[1]
    return next(line for line in lines if line.startswith("c=")).rpartition(" ")[2], int(port)


def state(server, index=0):
    return server.json("rpc", "nathelper.rtpproxy_list")[index]["state"]


@pytest.mark.parametrize("kind", ["rtpproxy", "rtpproxy-unix", "rtpengine"])
def test_a_call_goes_through_the_media_proxy_and_its_end_is_told(serve, pair, tmp_path, kind):
    make = {
        "rtpproxy": FakeRtpProxy,
        "rtpproxy-unix": lambda: FakeRtpProxy(path=tmp_path / "sock"),
        "rtpengine": FakeRtpEngine,
    }[kind]
    with make() as proxy:
        alice, bob = pair(serve(proxy.address))
        sent, got, ok = call(alice, bob)
        assert got.get("X-Media") == "relayed"
        assert media(got) == ("203.0.113.9", 50002)
        assert media(ok) == ("203.0.113.9", 50004)
        hang_up(alice, bob, sent, ok)
        end = "delete" if kind == "rtpengine" else "D"
        wait_for(lambda: proxy.commands(end))


def test_cancel_and_failure_end_the_session(serve, pair):
    with FakeRtpProxy() as proxy:
        alice, bob = pair(serve(proxy.address))
        sent = alice.request("INVITE", bob.contact, headers=(TYPE,), body=SDP.format(port=4000))
        alice.send(sent)
        got = bob.expect("INVITE")
        bob.reply(got, 486, "Busy")
        alice.send(alice.ack(sent, alice.final()))
        wait_for(lambda: proxy.commands(f"D {alice.call_id}"))


def test_an_offer_in_the_200_is_answered_in_the_ack(serve, pair):
    with FakeRtpProxy() as proxy:
        alice, bob = pair(serve(proxy.address))
        sent = alice.request("INVITE", bob.contact)
        alice.send(sent)
        got = bob.expect("INVITE")
        assert got.get("X-Media") == ""
        bob.reply(got, 200, headers=(TYPE,), body=SDP.format(port=6000))
        ok = alice.final()
        assert media(ok) == ("203.0.113.9", 50002)
        ack = alice.in_dialog("ACK", sent, ok, cseq=alice.cseq)
        body = SDP.format(port=4000)
        alice.send(ack.replace("Content-Length: 0\r\n\r\n", f"{TYPE}\r\nContent-Length: {len(body)}\r\n\r\n{body}"))
        assert media(bob.expect("ACK")) == ("203.0.113.9", 50004)
        assert [command[0] for command in proxy.asked if command[0] in "UL"] == ["U", "L"]


@pytest.mark.parametrize("fault", ["dead", "rubbish", "error", "cookie"])
def test_without_a_usable_proxy_the_call_goes_on_directly(serve, pair, fault):
    with FakeRtpProxy() as proxy:
        server = serve(proxy.address, tries=2)
        wait_for(lambda: len(proxy.asked) >= 4)  # it was tested and found up
        proxy.fault = fault
        alice, bob = pair(server)
        sent, got, ok = call(alice, bob)
        assert got.get("X-Media") == ""
        assert (media(got), media(ok)) == (("127.0.0.1", 4000), ("127.0.0.1", 6000))
        hang_up(alice, bob, sent, ok)
        assert state(server) == ("down" if fault in ("dead", "cookie") else "up")


@pytest.mark.parametrize("fault", ["dead", "late"])
def test_other_calls_do_not_wait_for_a_proxy_that_is_silent(serve, pair, fault):
    with FakeRtpProxy() as proxy:
        server = serve(proxy.address, timeout_ms=1000, tries=2)
        wait_for(lambda: len(proxy.asked) >= 4)
        proxy.fault, proxy.delay = fault, 1.2
        alice, bob = pair(server)
        alice.send(alice.request("INVITE", bob.contact, headers=(TYPE,), body=SDP.format(port=4000)))
        others, _ = pair(server)
        for _ in range(5):  # answered while the INVITE is held
            answer = others.ask(others.request("OPTIONS", bob.contact))
            assert answer.status == 200
            others.call_id += "y"
        got = bob.receive(0.0)
        assert got is None, "the INVITE was not held by the media proxy, the test says nothing"
        assert bob.expect("INVITE").get("X-Media") == ("relayed" if fault == "late" else "")


def test_a_proxy_that_comes_back_is_used_again(serve, pair):
    proxy = FakeRtpProxy()
    port = proxy.port
    server = serve(proxy.address)
    wait_for(lambda: len(proxy.asked) >= 4)
    proxy.close()
    alice, bob = pair(server)
    _, got, _ = call(alice, bob)  # the kernel reports the closed port: no time is lost
    assert got.get("X-Media") == ""
    assert state(server) == "down"
    with FakeRtpProxy(port=port):
        wait_for(lambda: state(server) == "up")
        _, got, _ = call(alice, bob)
        assert got.get("X-Media") == "relayed"
    text = server.log.read_text()
    assert text.count("does not answer") == 1
    assert text.count("answers again") == 1


def test_when_one_of_two_proxies_dies_calls_go_through_the_other(serve, pair):
    with FakeRtpProxy() as first, FakeRtpProxy() as second:
        server = serve(first.address, second.address, tries=3)
        wait_for(lambda: len(first.asked) >= 4 and len(second.asked) >= 4)
        first.fault = "dead"
        alice, bob = pair(server)
        for _ in range(4):
            _, got, _ = call(alice, bob)
            assert got.get("X-Media") == "relayed"
        wait_for(lambda: len(second.commands("U")) == 4)
        assert state(server, 1) == "up"
        server.ctl("rpc", "nathelper.rtpproxy_disable", "1")  # no proxy is left for new calls
        _, got, _ = call(alice, bob)
        assert got.get("X-Media") == ""


# ---- rtpengine -----------------------------------------------------------------------------------------------------


def rtp(number, payload):
    return struct.pack("!BBHII", 0x80, 0, number, number * 160, 0x1234) + payload


def exchange(one, one_to, other, other_to):
    """Packets both ways; what each side received."""
    received = {one: set(), other: set()}
    for number in range(1, 40):
        one.sendto(rtp(number, b"from one" * 20), one_to)
        other.sendto(rtp(number, b"from other" * 16), other_to)
        for sock in (one, other):
            try:
                data, source = sock.recvfrom(2048)
            except TimeoutError:
                continue
            received[sock].add((data[12:20], source[1]))
    return received[one], received[other]


@pytest.fixture
def engine(tmp_path):
    if not RtpEngine.is_installed():
        pytest.skip("needs Debian's rtpengine-daemon")
    daemon = RtpEngine(tmp_path).wait()
    yield daemon
    daemon.close()


@pytest.fixture
def ears():
    """Two sockets for RTP, alice's and bob's."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.02)
    yield sockets
    for sock in sockets:
        sock.close()


def sdp_of(sock):
    return SDP.format(port=sock.getsockname()[1])


def assert_rtp_flows(ears, for_alice, for_bob):
    """*for_alice*, *for_bob*: the descriptions they were sent."""
    to_bob, to_alice = media(for_alice), media(for_bob)
    assert {to_bob[1], to_alice[1]}.isdisjoint({sock.getsockname()[1] for sock in ears})
    at_alice, at_bob = exchange(ears[0], to_bob, ears[1], to_alice)
    assert at_alice == {(b"from oth", to_bob[1])}
    assert at_bob == {(b"from one", to_alice[1])}


def with_sdp(request, body):
    """*request* with a description added."""
    return request.replace("Content-Length: 0\r\n\r\n", f"{TYPE}\r\nContent-Length: {len(body)}\r\n\r\n{body}")


def test_rtp_flows_both_ways_through_rtpengine(serve, pair, engine, ears):
    alice, bob = pair(serve(engine.address))
    sent, got, ok = call(alice, bob, offer=sdp_of(ears[0]), answer=sdp_of(ears[1]))
    assert_rtp_flows(ears, ok, got)
    assert engine.ask(command="query", call_id=alice.call_id)[b"result"] == b"ok"
    hang_up(alice, bob, sent, ok)
    wait_for(lambda: engine.ask(command="query", call_id=alice.call_id).get(b"result") == b"error")


def test_rtp_flows_after_an_offer_in_the_200(serve, pair, engine, ears):
    alice, bob = pair(serve(engine.address))
    sent = alice.request("INVITE", bob.contact)
    alice.send(sent)
    got = bob.expect("INVITE")
    bob.reply(got, 200, headers=(TYPE,), body=sdp_of(ears[1]))
    ok = alice.final()
    alice.send(with_sdp(alice.in_dialog("ACK", sent, ok, cseq=alice.cseq), sdp_of(ears[0])))
    ack = bob.expect("ACK")
    assert_rtp_flows(ears, ok, ack)
    hang_up(alice, bob, sent, ok)
    wait_for(lambda: engine.ask(command="query", call_id=alice.call_id).get(b"result") == b"error")


def test_rtp_flows_after_a_reinvite_of_the_callee(serve, pair, engine, ears):
    alice, bob = pair(serve(engine.address))
    sent, got, ok = call(alice, bob, offer=sdp_of(ears[0]), answer=sdp_of(ears[1]))
    bob.expect("ACK")
    routes = tuple(f"Route: {value}" for value in got.all("Record-Route"))
    again = bob.request(
        "INVITE",
        alice.contact,
        to=got.get("From"),
        call_id=alice.call_id,
        headers=(*routes, TYPE),
        body=sdp_of(ears[1]),
    ).replace(f"From: <{bob.aor}>;tag={bob.tag}", f"From: {ok.get('To')}")
    bob.send(again)
    offered = alice.expect("INVITE")
    alice.reply(offered, 200, headers=(TYPE,), body=sdp_of(ears[0]))
    answered = bob.final()
    assert_rtp_flows(ears, offered, answered)
    hang_up(alice, bob, sent, ok)
