"""The modules rtpproxy and rtpengine: the functions of the modern dialect under their names."""

import time

import pytest
from support.contexts import configure, context, function, request_text, server
from support.rtpproxy import FakeRtpEngine, FakeRtpProxy

from serpy.modules import nathelper, rtpengine, rtpproxy
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment

SDP = "v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8\r\n"


def invite(method="INVITE", body=SDP, to_tag=""):
    return context(request_text("Content-Type: application/sdp", method=method, body=body, to_tag=to_tag))


def ready(module, **params):
    instance_server = server()
    instance_server.segment = Segment(1 << 20)
    instance_server.counters = Counters(instance_server.segment, 1)
    instance_server.loop = Loop()
    return configure(module.exports(), instance_server, **params), instance_server.loop


def in_loop(loop, body):
    found = []

    def handler():
        try:
            found.append(body())
        finally:
            loop.stop()

    loop.call_at(time.monotonic() + 10, loop.stop)
    loop.spawn(handler)
    loop.run()
    return found[0]


@pytest.mark.parametrize(
    ("module", "fake", "names", "asked"),
    [
        pytest.param(
            rtpproxy, FakeRtpProxy,
            ("rtpproxy_offer", "rtpproxy_answer", "rtpproxy_manage", "rtpproxy_destroy"), ["U", "L", "U", "D"], id="rtpproxy",
        ),
        pytest.param(
            rtpengine, FakeRtpEngine, ("rtpengine_offer", "rtpengine_answer", "rtpengine_manage", "rtpengine_delete"),
            ["offer", "answer", "offer", "delete"], id="rtpengine",
        ),
    ],
)  # fmt: skip
def test_each_module_has_its_names(module, fake, names, asked):
    with fake() as proxy:
        socket = proxy.address.replace("ng:", "udp:")  # what udp: means is the module's
        exports, loop = ready(module, **{f"{module.__name__.rpartition('.')[2]}_sock": [socket]})
        messages = [invite(), invite("ACK", to_tag="t1"), invite(), invite("BYE", "")]

        def call():
            codes = [function(exports, name)(ctx) for name, ctx in zip(names, messages, strict=True)]
            loop.sleep(0.02)
            return codes

        assert in_loop(loop, call) == [1, 1, 1, 1]
        assert [text.split(" ")[0] for text in proxy.asked] == asked


@pytest.mark.parametrize("module", [rtpproxy, rtpengine])
def test_proxies_are_listed_taken_out_and_put_in(module):
    exports, _ = ready(module)
    listed, enable = (entry.call for entry in exports.rpc)
    assert [row["state"] for row in listed()] == ["up"]
    assert enable("0", 0) == 1
    assert [row["state"] for row in listed()] == ["out"]
    assert enable("all") == 1
    assert [row["state"] for row in listed()] == ["up"]


def test_nathelper_without_proxies_uses_those_of_rtpproxy():
    with FakeRtpProxy() as proxy:
        exports, loop = ready(rtpproxy, rtpproxy_sock=[proxy.address])
        other = nathelper.exports()
        other.module.init_rtp(exports.module._rtp.relay._server)
        assert in_loop(loop, lambda: function(other, "rtpproxy_offer")(invite())) == 1
        assert len(proxy.asked) == 1


def test_both_modules_and_nathelper_can_be_loaded_together():
    names = [{entry.name for entry in module.exports().params} for module in (rtpproxy, rtpengine)]
    assert names[0].isdisjoint(names[1])
    assert "rtpengine_sock" in names[1]
