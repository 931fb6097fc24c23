"""force_rtp_proxy and its relatives against media proxies that work, and that do not."""

import time

import pytest
from support.contexts import FLOW, LISTENER, VIA, context, request_text, server
from support.rtpproxy import FakeRtpEngine, FakeRtpProxy

from serpy.clock import Clock
from serpy.context.context import FAILURE, ONREPLY, Context
from serpy.errors import ConfigError, ResourceError, UsageError
from serpy.modules import nathelper
from serpy.net.loop import Loop
from serpy.rtp import link as links
from serpy.rtp.nodes import call_hash, parse_nodes, pick
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip.flow import Flow
from serpy.sip.parser import parse_message

SDP = "v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\n"
TYPE = "Content-Type: application/sdp"


class Setup:
    """nathelper with these proxies, and a loop that runs one test function."""

    def __init__(self, *addresses, **params):
        self.server = server()
        self.server.segment = Segment(1 << 20)
        self.server.counters = Counters(self.server.segment, 1)
        self.server.counters.attach(0)
        self.exports = nathelper.exports()
        module = self.module = self.exports.module
        module.rtpproxy_sock = list(addresses)
        module.rtpproxy_retr = 20
        module.rtpproxy_tout_ms = 50
        for name, value in params.items():
            setattr(module, name, value)
        module.init_rtp(self.server)
        self.relay = module._rtp.relay
        self.loop = self.server.loop = Loop()

    def run(self, body):
        """What *body* returns when it runs as a handler."""
        found = []

        def handler():
            try:
                found.append(body())
            finally:
                self.loop.stop()

        self.loop.call_at(time.monotonic() + 20, self.loop.stop)
        self.loop.spawn(handler)
        self.loop.run()
        assert found, "the handler did not end"
        for known in self.relay._links.values():
            if isinstance(known, links.UdpLink):
                known.close()
        return found[0]

    def count(self, name):
        return self.server.counters.snapshot()[f"nathelper.rtp_{name}"]


def invite(call_id="call-1@203.0.113.7", *, method="INVITE", body=SDP, to_tag="", headers=(TYPE,), kind=1, flow=FLOW):
    text = request_text(*(headers if body else ()), method=method, body=body, to_tag=to_tag)
    return context(text.replace("call-1@203.0.113.7", call_id), kind=kind, flow=flow)


def reply(invite_ctx=None, *, status=200, method="INVITE", body=SDP):
    lines = [
        f"SIP/2.0 {status} OK", VIA, "Via: SIP/2.0/UDP 203.0.113.7:5062;branch=z9hG4bKabc",
        "From: <sip:alice@example.com>;tag=f1", "To: <sip:bob@example.com>;tag=t1", "Call-ID: call-1@203.0.113.7",
        f"CSeq: 1 {method}", TYPE, f"Content-Length: {len(body)}",
    ]  # fmt: skip
    data = ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
    ctx = Context(parse_message(data), Flow(LISTENER, "198.51.100.7", 5060), Clock(1.0, 1.0), ONREPLY)
    if invite_ctx is not None:
        ctx.request = invite_ctx.request
    return ctx


def media(ctx):
    """(address, ports) that the other side will be told."""
    body = ctx.edits.body.decode()
    assert body.endswith("a=nortpproxy:yes\r\n")
    lines = body.split("\r\n")
    return (
        next(line for line in lines if line.startswith("c="))[9:],
        [int(line.split(" ")[1]) for line in lines if line.startswith("m=")],
    )


# ---- which commands ------------------------------------------------------------------------------------------------


def test_offer_answer_and_end_of_a_call():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        module = setup.module

        def call():
            first = invite()
            second = reply(first)
            bye = invite(method="BYE", body="", to_tag="t1")
            codes = (
                module.force_rtp_proxy(first), module.force_rtp_proxy(second), module.unforce_rtp_proxy(bye),
            )  # fmt: skip
            setup.loop.sleep(0.02)
            return codes, media(first), media(second)

        codes, offered, answered = setup.run(call)
        assert codes == (1, 1, 1)
        assert offered == ("203.0.113.9", [50002])
        assert answered == ("203.0.113.9", [50004])
        assert proxy.asked == [
            "U call-1@203.0.113.7 203.0.113.7 4000 f1;1",
            "L call-1@203.0.113.7 198.51.100.7 4000 f1;1 t1;1",
            "D call-1@203.0.113.7 f1 t1",
        ]
        assert setup.count("requests") == 3
        assert setup.count("timeouts") == 0


@pytest.mark.parametrize(
    ("flags", "command"),
    [
        ("", "U call-1@203.0.113.7 203.0.113.7 4000 f1;1"),
        ("r", "U call-1@203.0.113.7 10.0.0.5 4000 f1;1"),
        ("a", "UA call-1@203.0.113.7 10.0.0.5 4000 f1;1"),
        ("ei", "UEI call-1@203.0.113.7 203.0.113.7 4000 f1;1"),
        ("l", "L call-1@203.0.113.7 203.0.113.7 4000 f1;1"),
        ("rn0", "U call-1@203.0.113.7 10.0.0.5 4000 f1;1"),
        ("trust-address replace-origin", "U call-1@203.0.113.7 10.0.0.5 4000 f1;1"),
    ],
)
def test_flags_of_rtpproxy(flags, command):
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        assert setup.run(lambda: setup.module.force_rtp_proxy(invite(), flags)) == 1
        assert proxy.asked == [command]


def test_features_are_used_when_the_proxy_has_told_them():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)

        def call():
            setup.relay._test(setup.relay.nodes[0])
            return setup.module.force_rtp_proxy(invite(), "z20")

        assert setup.run(call) == 1
        assert proxy.asked[:4] == ["V", "VF 20050322", "VF 20071116", "VF 20081102"]
        assert proxy.asked[4] == "UZ20c0,8 call-1@203.0.113.7 203.0.113.7 4000 f1;1"


def test_several_media_are_asked_for_together_and_port_0_is_not():
    body = SDP + "m=video 0 RTP/AVP 31\r\nm=text 6000 RTP/AVP 98\r\n"
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        ctx = invite(body=body)
        assert setup.run(lambda: setup.module.force_rtp_proxy(ctx)) == 1
        assert [command.split(" ")[3:] for command in proxy.asked] == [["4000", "f1;1"], ["6000", "f1;3"]]
        assert media(ctx) == ("203.0.113.9", [50002, 0, 50004])


@pytest.mark.parametrize("host", ["", "192.0.2.77"])
def test_the_address_is_that_of_the_answer_ours_or_the_one_given(host):
    with FakeRtpProxy() as proxy:
        proxy.media_host = ""
        setup = Setup(proxy.address)
        ctx = invite()
        assert setup.run(lambda: setup.module.force_rtp_proxy(ctx, "", host)) == 1
        assert media(ctx)[0] == (host or LISTENER.host)


def test_ipv6():
    with FakeRtpProxy(host="::1") as proxy:
        setup = Setup(proxy.address)
        ctx = invite(flow=Flow(LISTENER, "2001:db8::7", 5060))
        assert setup.run(lambda: setup.module.force_rtp_proxy(ctx)) == 1
        assert proxy.asked == ["U6 call-1@203.0.113.7 2001:db8::7 4000 f1;1"]
        assert "c=IN IP6 2001:db8::9" in ctx.edits.body.decode()


def test_multipart_bodies_change_in_their_description_only():
    body = f"--b\r\nContent-Type: text/plain\r\n\r\nhi\r\n--b\r\n{TYPE}\r\n\r\n{SDP}\r\n--b--\r\n"
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        ctx = invite(body=body, headers=("Content-Type: multipart/mixed;boundary=b",))
        assert setup.run(lambda: setup.module.force_rtp_proxy(ctx)) == 1
        new = ctx.edits.body.decode()
        assert new.startswith(body[: body.index("v=0")])
        assert new.endswith("a=nortpproxy:yes\r\n\r\n--b--\r\n")


# ---- what is an offer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda: invite(to_tag="t1"), "U f1;1 t1;1", id="re-invite"),
        pytest.param(lambda: invite(method="UPDATE", to_tag="t1"), "U f1;1 t1;1", id="update"),
        pytest.param(lambda: invite(method="PRACK", to_tag="t1"), "U f1;1 t1;1", id="prack"),
        pytest.param(lambda: invite(method="ACK", to_tag="t1"), "L t1;1 f1;1", id="ack"),
        pytest.param(lambda: reply(method="UPDATE"), "L f1;1 t1;1", id="reply-to-update"),
        pytest.param(lambda: reply(invite()), "L f1;1 t1;1", id="reply-to-invite"),
        pytest.param(lambda: reply(invite(body="")), "U t1;1 f1;1", id="reply-to-invite-without-description"),
        pytest.param(lambda: invite(method="INFO", to_tag="t1"), "", id="info"),
        pytest.param(lambda: invite(body=""), "", id="no-body"),
        pytest.param(lambda: invite(headers=("Content-Type: text/plain",)), "", id="no-description"),
        pytest.param(lambda: invite(body=SDP + "a=nortpproxy:yes\r\n"), "", id="proxied-already"),
        pytest.param(lambda: invite(body=SDP.replace("m=audio 4000", "m=audio 0")), "", id="no-media"),
        pytest.param(lambda: invite(body=SDP.replace("c=", "b=")), "", id="no-address"),
        pytest.param(lambda: invite(body="v=0\r\nm=x\r\n"), "", id="malformed"),
    ],
)
def test_offers_and_answers(make, expected):
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        ctx = make()
        assert setup.run(lambda: setup.module.force_rtp_proxy(ctx)) == (1 if expected else -1)
        words = proxy.asked[0].split(" ") if proxy.asked else []
        assert " ".join([*words[:1], *words[4:]]) == expected
        assert (ctx.edits.body is None) == (not expected)


def test_a_prack_answers_the_offer_of_a_reliable_provisional():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)

        def call():
            force = setup.module.force_rtp_proxy
            force(reply(invite(body=""), status=183))
            force(invite(method="PRACK", to_tag="t1"))
            force(invite(method="PRACK", to_tag="t1"))

        setup.run(call)
        assert [command[0] for command in proxy.asked] == ["U", "L", "U"]


def test_f_forces_again_and_a_second_call_does_nothing():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        ctx = invite()
        force = setup.module.force_rtp_proxy
        assert setup.run(lambda: (force(ctx), force(ctx), force(ctx, "f"))) == (1, -1, 1)
        assert len(proxy.asked) == 2
        assert ctx.edits.body.count(b"nortpproxy") == 1


def test_after_the_end_of_a_session_the_next_branch_can_be_offered_again():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        ctx = invite()
        module = setup.module

        def call():
            codes = [module.force_rtp_proxy(ctx), module.unforce_rtp_proxy(ctx)]
            assert ctx.edits.body is None
            return [*codes, module.force_rtp_proxy(ctx)]

        assert setup.run(call) == [1, 1, 1]
        assert media(ctx) == ("203.0.113.9", [50004])


def test_explicit_offer_and_answer():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        module = setup.module
        assert setup.run(lambda: (module.rtpproxy_offer(invite()), module.rtpproxy_answer(reply()))) == (1, 1)
        assert [command[0] for command in proxy.asked] == ["U", "L"]


@pytest.mark.parametrize("flags", ["q", "n", "z", "n12345"])
def test_a_flag_that_is_none_is_refused_and_reported_once(flags, caplog):
    setup = Setup("udp:127.0.0.1:9")
    assert [setup.module.force_rtp_proxy(invite(), flags) for _ in range(2)] == [-1, -1]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("call_id", ["c x", "c;x", "c,1", "c\t1", "c" * 513])
def test_names_that_would_break_a_command_are_never_sent(call_id):
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        ctx = invite()
        ctx.message._call_id = call_id
        assert setup.run(lambda: (setup.module.force_rtp_proxy(ctx), setup.module.unforce_rtp_proxy(ctx))) == (-1, -1)
        assert proxy.asked == []


def test_manage_follows_method_and_status():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        manage = setup.module._rtp.manage

        def call():
            manage(invite())
            manage(reply())
            manage(reply(status=486))
            manage(invite(method="CANCEL", body=""))
            manage(invite(method="BYE", body="", to_tag="t1"))
            manage(invite(kind=FAILURE))
            setup.loop.sleep(0.02)

        setup.run(call)
        assert [command[0] for command in proxy.asked] == ["U", "L", "D", "D", "D", "D"]


def test_recording():
    with FakeRtpProxy() as proxy, FakeRtpEngine() as engine:
        for node in (proxy, engine):
            setup = Setup(node.address)

            def call(setup=setup):
                code = setup.module.start_recording(invite())
                setup.loop.sleep(0.02)
                return code

            assert setup.run(call) == 1
        assert proxy.asked == ["R call-1@203.0.113.7 f1"]
        assert engine.asked == ["start recording"]


# ---- rtpengine -----------------------------------------------------------------------------------------------------


def test_offer_answer_and_end_through_rtpengine():
    with FakeRtpEngine() as engine:
        setup = Setup(engine.address)
        module = setup.module

        def call():
            first = invite()
            second = reply(first)
            codes = (
                module.force_rtp_proxy(first), module.force_rtp_proxy(second),
                module.unforce_rtp_proxy(invite(method="BYE", body="", to_tag="t1")),
            )  # fmt: skip
            setup.loop.sleep(0.02)
            return codes, media(first), media(second)

        assert setup.run(call) == ((1, 1, 1), ("203.0.113.9", [50002]), ("203.0.113.9", [50004]))
        offer, answer, end = engine.requests
        assert (offer[b"command"], offer[b"call-id"], offer[b"from-tag"]) == (b"offer", b"call-1@203.0.113.7", b"f1")
        assert b"to-tag" not in offer
        assert offer[b"received from"] == [b"IP4", b"203.0.113.7"]
        assert offer[b"flags"] == [b"SIP-source-address"]
        assert offer[b"sdp"] == SDP.encode()
        assert (answer[b"command"], answer[b"from-tag"], answer[b"to-tag"]) == (b"answer", b"f1", b"t1")
        assert (end[b"command"], end[b"from-tag"], end[b"to-tag"]) == (b"delete", b"f1", b"t1")


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        ("r", b"flags", [b"trust-address"]),
        ("a", b"flags", [b"trust-address", b"asymmetric"]),
        ("co", b"replace", [b"origin", b"session connection"]),
        ("ie", b"direction", [b"internal", b"external"]),
        ("e", b"direction", [b"external", b"external"]),
        ("z30", b"ptime", 30),
        ("trust-address ICE=remove", b"ICE", b"remove"),
        ("RTP/SAVPF generate-mid", b"transport-protocol", b"RTP/SAVPF"),
        ("RTP/SAVPF generate-mid", b"flags", [b"SIP-source-address", b"generate-mid"]),
        ("rtcp-mux-demux rtcp-mux-offer", b"rtcp-mux", [b"demux", b"offer"]),
        ("replace-origin replace-session-connection", b"replace", [b"origin", b"session connection"]),
        ("direction=priv direction=pub", b"direction", [b"priv", b"pub"]),
    ],
)
def test_flags_of_rtpengine(flags, key, value):
    with FakeRtpEngine() as engine:
        setup = Setup(engine.address)
        assert setup.run(lambda: setup.module.force_rtp_proxy(invite(), flags)) == 1
        assert engine.requests[0][key] == value


# ---- proxies that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FakeRtpProxy, FakeRtpEngine])
@pytest.mark.parametrize(
    ("fault", "counter", "down"),
    [("dead", "timeouts", 1), ("cookie", "timeouts", 1), ("rubbish", "errors", 0), ("error", "errors", 0)],
)
def test_a_proxy_that_fails_leaves_the_message_as_it_is(kind, fault, counter, down, caplog):
    with kind() as proxy:
        proxy.fault = fault
        setup = Setup(proxy.address, rtpproxy_retr=2)
        ctx = invite()
        assert setup.run(lambda: setup.module.force_rtp_proxy(ctx)) == -1
        assert ctx.edits.body is None
        assert setup.count(counter) == 1
        assert setup.count("node_down") == down == len(caplog.records)
        assert setup.count("stray") == (2 if fault == "cookie" else 0)


def test_a_question_is_repeated_with_its_cookie_and_a_second_answer_is_stray():
    with FakeRtpProxy() as proxy:
        proxy.fault, proxy.delay = "late", 0.07  # longer than one wait, shorter than both
        setup = Setup(proxy.address)
        assert setup.run(lambda: setup.module.force_rtp_proxy(invite())) == 1
        assert setup.count("node_down") == setup.count("timeouts") == 0
    with FakeRtpProxy() as proxy:
        proxy.fault = "twice"
        setup = Setup(proxy.address)

        def call():
            code = setup.module.force_rtp_proxy(invite())
            setup.loop.sleep(0.02)
            return code

        assert setup.run(call) == 1
        assert setup.count("stray") == 1


def test_a_closed_port_is_noticed_without_waiting():
    proxy = FakeRtpProxy()
    proxy.close()
    setup = Setup(proxy.address, rtpproxy_tout_ms=8000)
    assert setup.run(lambda: (setup.module.force_rtp_proxy(invite()), setup.module.unforce_rtp_proxy(invite()))) == (
        -1,
        -1,
    )
    assert setup.count("node_down") == 1
    assert setup.count("requests") == 1  # the end was not even tried


def two(setup_options=None):
    first, second = FakeRtpProxy(), FakeRtpProxy()
    return first, second, Setup(first.address, second.address, **(setup_options or {}))


def call_id_for(setup, index, start=0):
    """A Call-ID that belongs to node *index*, the first from number *start*."""
    return next(f"c{n}" for n in range(start, 1000) if pick(setup.relay.nodes, call_hash(f"c{n}")).index == index)


def test_when_one_proxy_dies_the_other_takes_over_and_keeps_the_call():
    first, second, setup = two({"rtpproxy_retr": 4})
    with first, second:
        first.fault = "dead"
        mine, other = call_id_for(setup, 0), call_id_for(setup, 1)
        force = setup.module.force_rtp_proxy

        def call():
            codes = [force(invite(mine)), force(invite(other))]
            first.fault = ""
            setup.relay._test(setup.relay.nodes[0])
            answer = reply()
            answer.message._call_id = mine
            codes.append(force(answer))  # its proxy is up again, but the call is on the other one
            end = invite(mine, method="BYE", body="", to_tag="t1")
            codes.append(setup.module.unforce_rtp_proxy(end))
            codes.append(force(invite(mine)))
            setup.loop.sleep(0.02)
            return codes

        assert setup.run(call) == [1, 1, 1, 1, 1]
        assert [command[0] for command in second.asked] == ["U", "U", "L", "D"]
        assert first.asked[-1][0] == "U"  # a new call is at home again
        assert setup.count("node_down") == setup.count("node_up") == 1


def test_new_calls_avoid_a_proxy_that_has_left_a_question_unanswered():
    first, second, setup = two({"rtpproxy_retr": 8})
    with first, second:
        first.fault = "dead"
        mine = call_id_for(setup, 0)
        codes = []

        def call():
            setup.loop.spawn(lambda: codes.append(setup.module.force_rtp_proxy(invite(mine))))
            while len(first.asked) < 2:
                setup.loop.sleep(0.005)
            codes.append(setup.module.force_rtp_proxy(invite(mine + "x" * 32)))
            assert len(codes) == 1, "the first call still waits"
            while len(codes) < 2:
                setup.loop.sleep(0.01)

        setup.run(call)
        assert codes == [1, 1]
        assert len(set(first.asked)) == 1


def test_an_answer_is_not_given_to_another_proxy():
    first, second, setup = two({"rtpproxy_retr": 4})
    with first, second:
        mine = call_id_for(setup, 0)

        def call():
            setup.module.force_rtp_proxy(invite(mine))
            first.fault = "dead"
            answer = reply()
            answer.message._call_id = mine
            return setup.module.force_rtp_proxy(answer)

        assert setup.run(call) == -1
        assert second.asked == []


def test_a_proxy_that_refuses_passes_the_call_to_the_next():
    first, second, setup = two()
    with first, second:
        first.fault = "error"
        mine = call_id_for(setup, 0)
        assert setup.run(lambda: setup.module.force_rtp_proxy(invite(mine))) == 1
        assert setup.count("node_down") == 0
        assert setup.relay.home(mine).index == 1


def test_many_refusals_in_a_row_are_told_once(caplog):
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)

        def call():
            for fault in ["error"] * 12 + ["", "error", ""]:
                proxy.fault = fault
                setup.module.force_rtp_proxy(invite())

        setup.run(call)
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "takes calls again" in caplog.records[1].getMessage()


def test_a_proxy_named_by_the_script_is_not_waited_for_when_it_is_down():
    first, second, setup = two({"rtpproxy_retr": 2})
    with first, second:
        first.fault = "dead"
        force = setup.module.force_rtp_proxy
        assert setup.run(lambda: [force(invite(f"c{n}"), "n0") for n in range(3)]) == [-1, -1, -1]
        assert len(first.asked) == 2  # one question, twice
        assert second.asked == []


def test_others_do_not_wait_for_a_dead_proxy():
    with FakeRtpProxy() as proxy:
        proxy.fault = "dead"
        setup = Setup(proxy.address, rtpproxy_retr=2, rtpproxy_tout_ms=100)
        order = []

        def call():
            setup.loop.spawn(lambda: order.append(("first", setup.module.force_rtp_proxy(invite("c1")))))
            setup.loop.spawn(lambda: order.append(("same time", setup.module.force_rtp_proxy(invite("c2")))))
            setup.loop.spawn(lambda: order.append(("another call", 1)))
            setup.loop.sleep(0.01)
            assert order == [("another call", 1)]
            while len(order) < 3:
                setup.loop.sleep(0.01)
            asked = len(proxy.asked)
            order.append(("afterwards", setup.module.force_rtp_proxy(invite("c3"))))
            assert len(proxy.asked) == asked

        setup.run(call)
        assert sorted(order[1:]) == [("afterwards", -1), ("first", -1), ("same time", -1)]
        assert setup.count("node_down") == 1


def test_a_question_that_alone_stays_unanswered_does_not_take_the_proxy_down():
    with FakeRtpProxy() as proxy:
        proxy.deaf_to = "poison"
        setup = Setup(proxy.address, rtpproxy_retr=6)
        codes = []

        def call():
            setup.loop.spawn(lambda: codes.append(setup.module.force_rtp_proxy(invite("poison"))))
            setup.loop.sleep(0.01)
            codes.append(setup.module.force_rtp_proxy(invite("c1")))
            while len(codes) < 2:
                setup.loop.sleep(0.01)

        setup.run(call)
        assert codes == [1, -1]
        assert setup.count("node_down") == 0


def test_a_proxy_that_is_found_silent_is_tested_at_once():
    with FakeRtpProxy() as proxy, FakeRtpProxy() as other:
        proxy.deaf_to = "U"
        setup = Setup(proxy.address, other.address, rtpproxy_retr=4)

        def call():
            assert setup.module.force_rtp_proxy(invite(call_id_for(setup, 0))) == 1  # through the other
            assert setup.relay.list_nodes()[0]["state"] == "down"
            while setup.relay.list_nodes()[0]["state"] == "down":
                setup.relay.on_tick(setup.loop.now(), 0.0)
                setup.loop.sleep(0.01)
            return True

        assert setup.run(call)


def test_a_proxy_that_hangs_cannot_take_all_parking_places():
    with FakeRtpProxy() as proxy:
        proxy.fault = "dead"
        setup = Setup(proxy.address, rtpproxy_retr=2)
        many = setup.loop.waiters.media.limit + 1
        codes = []

        def call():
            for number in range(many):
                setup.loop.spawn(lambda n=number: codes.append(setup.module.force_rtp_proxy(invite(f"c{n}"))))
            while len(codes) < many:
                setup.loop.sleep(0.01)

        setup.run(call)
        assert codes == [-1] * many
        assert setup.count("busy") == 1


def test_a_proxy_that_hangs_leaves_half_of_the_places_to_the_others():
    with FakeRtpProxy() as proxy, FakeRtpProxy() as other:
        proxy.fault = "dead"
        setup = Setup(proxy.address, other.address, rtpproxy_retr=2)
        setup.loop.waiters.set_limits(media=6)
        codes = []

        def call():
            for number in range(5):
                name = call_id_for(setup, 0, 10 * number)
                setup.loop.spawn(lambda n=name: codes.append(setup.module.force_rtp_proxy(invite(n))))
            while len(codes) < 2:  # those without a place at the first proxy have gone to the other at once
                setup.loop.sleep(0.001)
            waiting = setup.loop.waiters.media.waiting
            code = setup.module.force_rtp_proxy(invite(call_id_for(setup, 1)))
            while len(codes) < 5:
                setup.loop.sleep(0.01)
            return waiting, code

        assert setup.run(call) == (3, 1)
        assert codes == [1] * 5


def test_too_many_parked_handlers_leave_nothing_behind():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address)
        body = SDP + "m=video 6000 RTP/AVP 31\r\n"

        def call():
            setup.loop.max_parked = 0
            with pytest.raises(ResourceError):
                setup.module.force_rtp_proxy(invite(body=body))
            setup.loop.max_parked = 10
            return len(setup.loop._tickets), len(setup.relay.link(setup.relay.nodes[0])._waiting)

        assert setup.run(call) == (0, 0)


# ---- tests and RPC -------------------------------------------------------------------------------------------------


def test_the_timer_finds_a_proxy_down_and_up_again(caplog):
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address, rtpproxy_retr=1)
        state = lambda: setup.relay.list_nodes()[0]["state"]  # noqa: E731

        def tick_until(wanted):
            while state() != wanted:
                setup.relay.on_tick(setup.loop.now(), 0.0)
                setup.loop.sleep(0.01)
            return True

        def call():
            proxy.fault = "dead"
            assert tick_until("down")
            proxy.fault = ""
            return tick_until("up")

        assert setup.run(call)
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


@pytest.mark.parametrize("version", [b"20030101", b"nonsense"])
def test_a_proxy_with_another_protocol_is_down(version):
    with FakeRtpProxy() as proxy:
        proxy.version = version
        setup = Setup(proxy.address)
        setup.run(lambda: setup.relay._test(setup.relay.nodes[0]))
        assert setup.relay.list_nodes()[0]["state"] == "down"


def test_rtpengine_is_tested_with_a_ping():
    with FakeRtpEngine() as engine:
        setup = Setup(engine.address)
        setup.run(lambda: setup.relay._test(setup.relay.nodes[0]))
        assert setup.relay.list_nodes()[0]["tested"] == "yes"
        engine.fault = "error"
        setup = Setup(engine.address)
        setup.run(lambda: setup.relay._test(setup.relay.nodes[0]))
        assert setup.relay.list_nodes()[0]["state"] == "down"


def test_a_proxy_that_is_taken_out_keeps_its_calls():
    first, second, setup = two()
    with first, second:
        mine = call_id_for(setup, 0)
        rpc = {entry.name: entry.call for entry in setup.exports.rpc}
        force = setup.module.force_rtp_proxy

        def call():
            force(invite(mine))
            assert rpc["nathelper.rtpproxy_disable"]("0") == 1
            force(invite(mine, to_tag="t1"))
            new = call_id_for(setup, 0) + "x" * 32
            assert pick(setup.relay.nodes, call_hash(new)).index == 0
            force(invite(new))
            states = [row["state"] for row in rpc["nathelper.rtpproxy_list"]()]
            assert rpc["nathelper.rtpproxy_enable"]("all") == 2
            force(invite(new + "x" * 32))
            return states

        assert setup.run(call) == ["out", "up"]
        assert [len(first.asked), len(second.asked)] == [3, 1]
        with pytest.raises(UsageError):
            rpc["nathelper.rtpproxy_disable"]("7")


def test_rtpproxy_disable_takes_all_out_at_start():
    with FakeRtpProxy() as proxy:
        setup = Setup(proxy.address, rtpproxy_disable=1)
        assert setup.run(lambda: setup.module.force_rtp_proxy(invite())) == -1
        assert proxy.asked == []


# ---- Unix sockets --------------------------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path):
    with FakeRtpProxy(path=tmp_path / "sock") as proxy:
        setup = Setup(proxy.address)

        def call():
            ctx = invite(body=SDP + "m=video 6000 RTP/AVP 31\r\n")
            code = setup.module.force_rtp_proxy(ctx)
            setup.module.unforce_rtp_proxy(invite(method="BYE", body="", to_tag="t1"))
            while len(proxy.asked) < 3:
                setup.loop.sleep(0.01)
            return code, media(ctx)[1]

        assert setup.run(call) == (1, [50002, 50004])
        assert [command[0] for command in proxy.asked] == ["U", "U", "D"]


def test_a_unix_socket_that_is_not_there_or_does_not_answer(tmp_path):
    setup = Setup(f"unix:{tmp_path}/none")
    assert setup.run(lambda: setup.module.force_rtp_proxy(invite())) == -1
    assert setup.count("node_down") == 1
    with FakeRtpProxy(path=tmp_path / "sock") as proxy:
        proxy.fault = "dead"
        setup = Setup(proxy.address, rtpproxy_retr=2)
        assert setup.run(lambda: setup.module.force_rtp_proxy(invite())) == -1
        assert setup.count("node_down") == setup.count("timeouts") == 1


# ---- addresses -----------------------------------------------------------------------------------------------------


def test_how_proxies_are_written():
    nodes = parse_nodes(
        ["udp:127.0.0.1:7890=3 unix:/run/a.sock /run/b.sock=2", "ng:[::1]:2223 udp:localhost"], "rtpproxy"
    )
    assert [(n.protocol, n.host, n.port, n.path, n.weight) for n in nodes] == [
        ("rtpproxy", "127.0.0.1", 7890, "", 3),
        ("rtpproxy", "", 0, "/run/a.sock", 1),
        ("rtpproxy", "", 0, "/run/b.sock", 2),
        ("ng", "::1", 2223, "", 1),
        ("rtpproxy", "localhost", 22222, "", 1),
    ]
    assert parse_nodes(["udp:127.0.0.1:1"], "ng")[0].protocol == "ng"


@pytest.mark.parametrize(
    "text",
    [
        "tcp:1.2.3.4:5",
        "udp:1.2.3.4:99999",
        "udp::5",
        "udp:1.2.3.4:x",
        "udp:1.2.3.4=0",
        "unix:",
        "udp:a=x",
        "udp:no.invalid:1",
    ],
)
def test_a_proxy_that_cannot_be_is_refused_at_start(text):
    with pytest.raises(ConfigError):
        Setup(text)


def test_calls_are_spread_by_weight():
    nodes = parse_nodes(["udp:127.0.0.1:1=3 udp:127.0.0.1:2"], "rtpproxy")
    assert [pick(nodes, number).index for number in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]


# ---- without a proxy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "address", "expected"),
    [
        (2, "", {"c=IN IP4 203.0.113.7"}),
        (8, "192.0.2.5", {"o=- 1 1 IN IP4 192.0.2.5"}),
        (1, "", {"a=direction:active"}),
        (4, "", {"a=nortpproxy:yes"}),
        (15, "", {"c=IN IP4 203.0.113.7", "o=- 1 1 IN IP4 203.0.113.7", "a=direction:active", "a=nortpproxy:yes"}),
    ],
)
def test_fix_nated_sdp(bits, address, expected):
    setup = Setup("udp:127.0.0.1:9")
    ctx = invite()
    assert setup.module.fix_nated_sdp(ctx, bits, address) == 1
    assert set(ctx.edits.body.decode().split("\r\n")) - set(SDP.split("\r\n")) == expected
    assert setup.module.fix_nated_sdp(invite(body=""), bits) == -1
    assert setup.module.fix_nated_sdp(invite(body="v=0\r\nm=x\r\n"), bits) == -1
