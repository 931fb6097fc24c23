"""Core settings that change how answers and requests leave: sip_warning, reply_to_via, mhomed."""

from __future__ import annotations

import os
import re

import pytest
from support.receiver import Bench, names, request

from serpy.modules import tm
from serpy.net.route import source_address
from serpy.sip.flow import Listener

SOURCE = ("192.0.2.50", 6000)
OTHER = Listener(1, "udp", "198.51.100.7", 5060)


def stateless(bench, ctx):
    ctx.request_uri = "sip:new@example.com"
    bench.sl.sl_reply(ctx, 404, "Not Found")


def stateful(bench, ctx):
    ctx.request_uri = "sip:new@example.com"
    bench.tm.t_reply(ctx, 404, "Not Found")


@pytest.mark.parametrize("main", [stateless, stateful])
def test_our_answers_carry_a_warning_when_asked_to(main):
    bench = Bench(settings={"sip_warning": 1}, main=main)
    sent = bench.receive(request("MESSAGE"), SOURCE)[-1]
    assert sent.line("Warning") == (
        f'Warning: 392 192.0.2.100:5060 "pid={os.getpid()} req_src_ip=192.0.2.50 req_src_port=6000 '
        'in_uri=sip:bob@192.0.2.2 out_uri=sip:new@example.com via_cnt=1"'
    )
    assert Bench(main=main).receive(request("MESSAGE"), SOURCE)[-1].lines("Warning") == []


def test_a_refusal_carries_the_warning_too_and_no_quote_can_end_it():
    bench = Bench(settings={"sip_warning": 1})
    (sent,) = bench.receive(request("MESSAGE", 'sip:a"b\\@192.0.2.2', extra=("Proxy-Require: x",)))
    assert sent.what == "400"
    assert re.fullmatch(r'Warning: 392 192\.0\.2\.100:5060 "[^"\\]*"', sent.line("Warning"))


@pytest.mark.parametrize("main", [stateless, stateful])
@pytest.mark.parametrize(
    ("value", "via", "target"),
    [
        pytest.param(0, "192.0.2.1:5099", ("192.0.2.50", 5099), id="to the source"),
        pytest.param(1, "192.0.2.1:5099", ("192.0.2.1", 5099), id="to Via"),
        pytest.param(1, "192.0.2.1", ("192.0.2.1", 5060), id="to Via without a port"),
        pytest.param(1, "192.0.2.1:5099;rport", SOURCE, id="rport asks for the source"),
        pytest.param(1, "phone.example.com:5099", ("192.0.2.50", 5099), id="a name is not looked up"),
    ],
)
def test_reply_to_via_sends_answers_to_the_address_in_via(main, value, via, target):
    bench = Bench(settings={"reply_to_via": value}, main=main)
    sent = bench.receive(request("MESSAGE", via=f"SIP/2.0/UDP {via};branch=z9hG4bKx"), SOURCE)[-1]
    assert (sent.host, sent.port) == target


@pytest.mark.parametrize(
    ("routes", "forced", "via"),
    [
        pytest.param({"192.0.2.2": OTHER.host}, False, "198.51.100.7:5060", id="by the route"),
        pytest.param({}, False, "192.0.2.100:5060", id="no route"),
        pytest.param({"192.0.2.2": "203.0.113.1"}, False, "192.0.2.100:5060", id="not an address we listen on"),
        pytest.param({"192.0.2.2": "192.0.2.100"}, True, "198.51.100.7:5060", id="the script has chosen"),
    ],
)
@pytest.mark.parametrize("is_stateful", [True, False], ids=["tm", "forward"])
def test_mhomed_leaves_by_the_address_that_the_kernel_would_use(routes, forced, via, is_stateful):
    def main(bench, ctx):
        if forced:
            ctx.send_listener = OTHER
        if is_stateful:
            bench.tm.t_relay(ctx)
        else:
            bench.pipeline.forwarder.forward(ctx)

    bench = Bench(settings={"mhomed": 1}, main=main)
    bench.server.listeners.append(OTHER)
    assert bench.pipeline.forwarder.route is source_address
    bench.pipeline.forwarder.route = lambda host: routes.get(host, "")
    for number in range(2):  # the second time with what was remembered of the first
        (sent,) = bench.receive(request("MESSAGE", branch=f"z9hG4bK{number}", call_id=f"c{number}"))
        assert f" {via};" in sent.lines("Via")[0], names([sent])


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1"), ("::zz", "")], ids=["loopback", "not numeric"]
)
def test_the_kernel_says_which_address_it_would_send_from(host, address):
    assert source_address(host) == address


@pytest.mark.parametrize("name", ["fr_timer", "fr_inv_timer", "completed_timer"])
@pytest.mark.parametrize(
    ("value", "is_right"), [(-1, False), (0, False), (1, True), (86_400_000, True), (86_400_001, False)]
)
def test_a_timer_is_a_time_that_a_request_may_take(name, value, is_right):
    parameter = next(each for each in tm.exports().params if each.name == name)
    assert (parameter.check(value) == "") is is_right
