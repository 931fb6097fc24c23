"""Which Contacts are repaired, and how: transport and parameters stay with the address, what leads somewhere stays whole
(RFC 3261 §12.1, §19.1.1; 5627 §3.4; 6761).
"""

from __future__ import annotations

import pytest
from support.contexts import (
    LISTENER,
    TLS,
    FakeDomains,
    configure,
    context,
    function,
    reply_text,
    request_text,
    sent_values,
    server,
)

from serpy.api import DOMAINS, Flow, Listener
from serpy.context.context import NATTED, ONREPLY
from serpy.modules import nathelper
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip.reach import is_unreachable

TCP = Listener(3, "tcp", "192.0.2.1", 5060)
SIX = Listener(4, "tcp", "2001:db8::1", 5060)
UDP_FLOW = Flow(LISTENER, "203.0.113.7", 5062)
TCP_FLOW = Flow(TCP, "203.0.113.7", 40000, 9)
TLS_FLOW = Flow(TLS, "203.0.113.7", 40000, 9)
OURS = "Record-Route: <sip:192.0.2.1;lr>"
THEIRS = "Record-Route: <sip:198.51.100.50;lr>"


@pytest.fixture(scope="module")
def module():
    found = server(LISTENER, TCP, TLS, SIX)
    found.counters = Counters(Segment(1 << 20), 1)
    found.provide(DOMAINS, FakeDomains("example.com"))
    exports = configure(nathelper.exports(), found)
    exports.child_init(found)
    return exports


def request(contact, flow=UDP_FLOW, *more):
    return context(request_text(f"Contact: {contact}", *more), flow=flow)


def reply(contact, *more, natted=False, flow=UDP_FLOW):
    ctx = context(reply_text(f"Contact: {contact}", *more), kind=ONREPLY, flow=flow)
    ctx.target_flags = NATTED if natted else 0
    return ctx


def fixed(module, ctx):
    function(module, "fix_nated_contact")(ctx)
    return ", ".join(sent_values(ctx, "contact"))


@pytest.mark.parametrize(
    ("contact", "flow", "sent"),
    [
        pytest.param("<sip:a@10.0.0.5:5060>", TCP_FLOW, "<sip:a@203.0.113.7:40000;transport=tcp>", id="tcp-unsaid"),
        pytest.param("<sip:a@10.0.0.5;ob>", TCP_FLOW, "<sip:a@203.0.113.7:40000;ob;transport=tcp>", id="params-stay"),
        pytest.param("<sip:a@10.0.0.5;Transport=TCP;x=1>", TCP_FLOW, "<sip:a@203.0.113.7:40000;Transport=TCP;x=1>", id="said"),
        pytest.param("<sip:a@10.0.0.5;transport=udp;x=1>", TCP_FLOW, "<sip:a@203.0.113.7:40000;transport=tcp;x=1>", id="wrong"),
        pytest.param("<sip:a@10.0.0.5;x=1;transport=tcp>", UDP_FLOW, "<sip:a@203.0.113.7:5062;x=1;transport=udp>", id="udp-for-tcp"),
        pytest.param("<sip:a@10.0.0.5>", UDP_FLOW, "<sip:a@203.0.113.7:5062>", id="udp-needs-no-word"),
        pytest.param("<sip:a@10.0.0.5>", TLS_FLOW, "<sip:a@203.0.113.7:40000;transport=tls>", id="tls"),
        pytest.param("<sips:a@10.0.0.5>", TLS_FLOW, "<sips:a@203.0.113.7:40000>", id="sips-says-it"),
        pytest.param("<sip:a@10.0.0.5?h=1>;expires=9", TCP_FLOW, "<sip:a@203.0.113.7:40000;transport=tcp?h=1>;expires=9", id="headers-stay"),
        pytest.param("sip:a@10.0.0.5", TCP_FLOW, "<sip:a@203.0.113.7:40000;transport=tcp>", id="a-bare-one-gets-its-brackets"),
        pytest.param("<sip:a@[fd00::9]>", Flow(SIX, "2001:db8::7", 40000, 9), "<sip:a@[2001:db8::7]:40000;transport=tcp>", id="ipv6"),
    ],
)  # fmt: skip
def test_an_address_of_a_connection_says_its_transport(module, contact, flow, sent):
    assert fixed(module, request(contact, flow)) == sent
    assert fixed(module, reply(contact, flow=flow)) == sent


@pytest.mark.parametrize(
    "contact",
    [
        pytest.param("<sip:alice@example.com;gr=urn:uuid:1>", id="gruu-of-a-domain-of-ours"),
        pytest.param("<sip:alice@198.51.100.9;gr=x>", id="gruu-by-address"),
        pytest.param("<sip:alice@10.0.0.9;gr>", id="gruu-without-a-value"),
        pytest.param("<sip:alice@example.com>", id="own-domain"),
        pytest.param("<sip:alice@Example.COM:5060>", id="own-domain-with-a-port"),
        pytest.param("<sip:alice@pc33.example.org>", id="a-name"),
        pytest.param("<sip:alice@pc33.example.org:5070;transport=tcp>", id="a-name-with-everything"),
        pytest.param("<sip:alice@198.51.100.9;ob>", id="outbound-with-a-public-address"),
        pytest.param("<tel:+123>", id="a-number"),
    ],
)
def test_what_leads_somewhere_is_left_alone(module, contact):
    assert fixed(module, request(contact)) == contact
    assert fixed(module, reply(contact)) == contact


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "[::]", "127.0.0.1", "[::1]", "localhost", "LOCALHOST", "a.localhost", "phone.invalid", "pc.local",
     "pc.local.", "10.0.0.1", "192.168.1.1", "100.64.1.1", "169.254.1.1", "[fe80::1]", "[::ffff:10.0.0.1]", "desk",
     "pc.lan", "pc.home.arpa", "host.docker.internal"],
)  # fmt: skip
def test_what_leads_nowhere_is_told_and_repaired(module, host):
    contact = f"<sip:alice@{host}:5060;ob>"
    test = function(module, "nat_uac_test")
    for ctx in (request(contact), reply(contact), reply(contact, OURS)):
        assert test(ctx, 1) == 1
        assert fixed(module, ctx) == "<sip:alice@203.0.113.7:5062;ob>"


@pytest.mark.parametrize(
    ("host", "source", "unreachable"),
    [
        ("127.0.0.9", "127.0.0.1", False), ("localhost", "127.0.0.1", True), ("127.0.0.1", "10.0.0.1", True),
        ("desk", "10.0.0.1", False), ("pc.lan", "192.168.1.1", False), ("pc.lan", "203.0.113.1", True),
        ("0.0.0.0", "10.0.0.1", True), ("10.0.0.1", "10.0.0.1", True), ("192.0.2.1", "10.0.0.1", False),
        ("example.org", "203.0.113.1", False), ("a%b", "203.0.113.1", True), ("224.0.0.1", "203.0.113.1", True),
    ],
)  # fmt: skip
def test_reach_depends_on_who_says_it(host, source, unreachable):
    assert is_unreachable(host, source) is unreachable


@pytest.mark.parametrize(
    ("host", "result"), [("0.0.0.0", 1), ("localhost", 1), ("10.0.0.1", -1), ("192.0.2.9", -1), ("a.example", -1)]
)
def test_a_private_contact_leads_somewhere_for_its_neighbours(module, host, result):
    neighbour = Flow(LISTENER, "10.0.0.7", 5062)
    test = function(module, "nat_uac_test")
    assert test(request(f"<sip:alice@{host}>", neighbour), 512) == result
    assert test(request(f"<sip:alice@192.0.2.9;maddr={host}>", neighbour), 512) == result


def test_what_has_been_repaired_for_its_connection_is_not_repaired_twice(module):
    ctx = request("<sip:a@10.0.0.1:4>;q=1", TCP_FLOW)
    other = "<sip:a@203.0.113.7:40000;transport=tcp>;q=1"
    ctx.edits.replace(ctx.message.find("contact"), f"Contact: {other}")  # record_route() has
    assert fixed(module, ctx) == other


def test_a_hold_in_sdp_is_no_nat(module):
    body = "v=0\r\nc=IN IP4 0.0.0.0\r\n"
    ctx = context(request_text("Contact: <sip:a@203.0.113.7:5062>", body=body))
    assert function(module, "nat_uac_test")(ctx, 8) == -1


@pytest.mark.parametrize(
    ("contact", "sent"),
    [
        ("<sip:bob@phone.example.org>", "<sip:bob@203.0.113.7:5062>"),
        ("<sip:bob@198.51.100.9:5070>", "<sip:bob@203.0.113.7:5062>"),
        ("<sip:bob@example.com;gr=1>", "<sip:bob@example.com;gr=1>"),
        ("<sip:bob@example.com>", "<sip:bob@example.com>"),
    ],
)
def test_a_phone_that_registered_from_behind_a_nat_is_where_it_answers_from(module, contact, sent):
    ctx = reply(contact, OURS, natted=True)
    assert function(module, "nat_uac_test")(ctx, 1024) == 1
    assert fixed(module, ctx) == sent
    assert function(module, "nat_uac_test")(reply(contact), 1024) == -1
    assert function(module, "nat_uac_test")(request(contact), 1024) == -1


def test_a_phone_behind_another_proxy_is_that_ones_business(module):
    contact = "<sip:bob@10.0.0.9>"
    assert fixed(module, request(contact, UDP_FLOW, THEIRS)) == contact
    assert fixed(module, reply(contact, THEIRS, OURS, natted=True)) == contact
    assert fixed(module, reply(contact, OURS, THEIRS, natted=True)) == "<sip:bob@203.0.113.7:5062>"
