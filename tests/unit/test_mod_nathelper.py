"""Phones behind NATs are told from others, and what they wrote is repaired."""

import pytest
from support.contexts import LISTENER, TLS, context, function, reply_text, request_text, select, sent_values

from serpy.api import Flow, Listener
from serpy.context.context import FAILURE, ONREPLY
from serpy.modules import nathelper
from serpy.sip.reach import is_private, is_same_address

SOURCE = Flow(LISTENER, "203.0.113.7", 5062)  # what request_text() writes into Via
SIX = Listener(3, "udp", "2001:db8::1", 5060)


def call(name, ctx, *arguments):
    return function(nathelper.exports(), name)(ctx, *arguments)


def request(contact="<sip:alice@203.0.113.7:5062>", *more, body="", via="", flow=SOURCE):
    text = request_text(*([f"Contact: {contact}"] if contact else []), *more, body=body)
    if via:
        text = text.replace("Via: SIP/2.0/UDP 203.0.113.7:5062;", f"Via: SIP/2.0/UDP {via};")
    return context(text, flow=flow)


def sdp(*connections):
    return "".join(f"{line}\r\n" for line in ("v=0", "o=- 1 1 IN IP4 10.9.9.9", "s=-", *connections, "t=0 0"))


# ---- addresses


@pytest.mark.parametrize(
    ("host", "private"),
    [
        pytest.param("10.0.0.1", True, id="10/8"),
        pytest.param("11.0.0.1", False, id="above-10/8"),
        pytest.param("172.16.0.1", True, id="172.16/12"),
        pytest.param("172.31.255.255", True, id="last-of-172.16/12"),
        pytest.param("172.32.0.0", False, id="above-172.16/12"),
        pytest.param("192.168.1.1", True, id="192.168/16"),
        pytest.param("100.64.0.1", True, id="carrier-nat"),
        pytest.param("100.128.0.1", False, id="above-carrier-nat"),
        pytest.param("169.254.3.4", True, id="link-local"),
        pytest.param("127.0.0.1", False, id="loopback-is-this-machine"),
        pytest.param("192.0.2.1", False, id="public"),
        pytest.param("[fd00::1]", True, id="unique-local"),
        pytest.param("fe80::1", True, id="ipv6-link-local"),
        pytest.param("[2001:db8::1]", False, id="ipv6-public"),
        pytest.param("[::ffff:10.0.0.1]", True, id="ipv4-in-ipv6"),
        pytest.param("10.0.0", False, id="not-an-address"),
        pytest.param("10.example.com", False, id="name"),
        pytest.param("", False, id="empty"),
    ],
)
def test_private_addresses(host, private):
    assert is_private(host) is private
    assert is_private(host) is private  # from the cache


@pytest.mark.parametrize(
    ("written", "source", "same"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", True, id="equal"),
        pytest.param("192.0.2.1", "192.0.2.2", False, id="other"),
        pytest.param("[2001:DB8:0::1]", "2001:db8::1", True, id="ipv6-spelled-differently"),
        pytest.param("[2001:db8::2]", "2001:db8::1", False, id="other-ipv6"),
        pytest.param("phone.example.com", "192.0.2.1", False, id="name"),
    ],
)
def test_addresses_are_compared_as_addresses(written, source, same):
    assert is_same_address(written, source) is same


# ---- nat_uac_test


@pytest.mark.parametrize(
    ("tests", "ctx", "result"),
    [
        pytest.param(63, request(), -1, id="nothing-is-wrong"),
        pytest.param(1, request("<sip:alice@192.168.0.9>"), 1, id="1-private-contact"),
        pytest.param(1, request("sip:alice@10.0.0.1;q=1"), 1, id="1-contact-without-brackets"),
        pytest.param(1, request("<sip:alice@[fd12::1]:5060>"), 1, id="1-unique-local-contact"),
        pytest.param(1, request("<sip:a@192.0.2.9;maddr=192.168.0.9>"), 1, id="1-private-maddr"),
        pytest.param(1, request("<sip:a@phone.example.com>"), -1, id="1-name"),
        pytest.param(1, request("<tel:+4930>"), -1, id="1-tel"),
        pytest.param(1, request("*"), -1, id="1-star"),
        pytest.param(1, request(""), -1, id="1-no-contact"),
        pytest.param(1, request("<sip:alice@10.0.0.1"), -1, id="1-malformed-contact"),
        pytest.param(30, request("<sip:alice@10.0.0.1:1>"), -1, id="others-do-not-look-at-contact"),
        pytest.param(2, request(via="203.0.113.8:5062"), 1, id="2-other-address-in-via"),
        pytest.param(2, request(via="phone.example.com:5062"), 1, id="2-name-in-via"),
        pytest.param(4, request(via="192.168.7.7:5062"), 1, id="4-private-via"),
        pytest.param(4, request(via="203.0.113.8:5062"), -1, id="4-public-via"),
        pytest.param(8, request(body=sdp("c=IN IP4 172.20.1.1")), 1, id="8-private-media"),
        pytest.param(8, request(body=sdp("c=IN IP4 192.0.2.1")), -1, id="8-public-media-private-origin"),
        pytest.param(8, request(body=sdp("c=IN IP4 192.0.2.1", "c=IN IP4 10.0.0.1/127")), 1, id="8-second-media"),
        pytest.param(8, request(body=sdp("c=IN IP6 fd00::5")), 1, id="8-unique-local-media"),
        pytest.param(8, request(body=sdp("a=x c=IN IP4 10.0.0.1")), -1, id="8-only-at-the-start-of-a-line"),
        pytest.param(8, request(), -1, id="8-no-body"),
        pytest.param(16, request(via="203.0.113.7:5063"), 1, id="16-other-port-in-via"),
        pytest.param(16, request(via="203.0.113.7"), 1, id="16-no-port-is-5060"),
        pytest.param(16, request(via="203.0.113.7", flow=Flow(LISTENER, "203.0.113.7", 5060)), -1, id="16-default"),
        pytest.param(32, request("<sip:alice@203.0.113.7:5099>"), 1, id="32-other-port-in-contact"),
        pytest.param(32, request("<sip:alice@203.0.113.7>"), 1, id="32-no-port-is-5060"),
        pytest.param(
            32, request("<sips:a@203.0.113.7>", flow=Flow(TLS, "203.0.113.7", 5061)), -1, id="32-sips-is-5061"
        ),
        pytest.param(19, request("<sip:alice@192.168.0.9>"), 1, id="19-is-1-or-2-or-16"),
    ],
)
def test_what_each_test_looks_at(tests, ctx, result):
    assert call("nat_uac_test", ctx, tests) == result


def test_in_a_reply_via_is_our_own_and_tells_nothing():
    ctx = context(reply_text("Contact: <sip:bob@203.0.113.7:5062>"), kind=ONREPLY)
    assert call("nat_uac_test", ctx, 63) == -1
    ctx = context(reply_text("Contact: <sip:bob@192.168.0.1:5062>"), kind=ONREPLY)
    assert call("nat_uac_test", ctx, 33) == 1


def test_a_failure_route_looks_at_the_request():
    ctx = request("<sip:alice@192.168.0.9>")
    ctx.kind = FAILURE
    assert call("nat_uac_test", ctx, 1) == 1


# ---- fix_nated_contact


@pytest.mark.parametrize(
    ("contact", "sent"),
    [
        pytest.param("<sip:alice@10.0.0.1:5066>", "<sip:alice@203.0.113.7:5062>", id="host-and-port"),
        pytest.param("<sip:alice@10.0.0.1>", "<sip:alice@203.0.113.7:5062>", id="no-port"),
        pytest.param("sip:10.0.0.1", "sip:203.0.113.7:5062", id="bare-and-no-user"),
        pytest.param(
            '"A, B" <sip:alice@10.0.0.1;transport=udp>;q=0.5',
            '"A, B" <sip:alice@203.0.113.7:5062;transport=udp>;q=0.5',
            id="everything-else-stays",
        ),
        pytest.param(
            '"<sip:a@10.0.0.1>" <sip:a@10.0.0.1>', '"<sip:a@10.0.0.1>" <sip:a@203.0.113.7:5062>', id="same-text-in-name"
        ),
        pytest.param(
            "<sip:a@10.0.0.1;maddr=10.0.0.2;x=1>", "<sip:a@203.0.113.7:5062;x=1>", id="maddr-would-win-and-goes"
        ),
        pytest.param(
            "<sip:a@10.0.0.1>, <sip:a@10.0.0.2>", "<sip:a@203.0.113.7:5062>, <sip:a@10.0.0.2>", id="only-the-first"
        ),
        pytest.param("<sip:a@[fd00::1]:9>", "<sip:a@203.0.113.7:5062>", id="ipv6-contact"),
    ],
)
def test_contact_gets_the_source_address(contact, sent):
    ctx = request(contact)
    assert call("fix_nated_contact", ctx) == 1
    assert ", ".join(sent_values(ctx, "contact")) == sent


def test_ipv6_sources_are_written_in_brackets():
    ctx = request("<sip:a@[fd00::1]>", flow=Flow(SIX, "2001:db8::7", 5070))
    assert call("fix_nated_contact", ctx) == 1
    assert sent_values(ctx, "contact") == ["<sip:a@[2001:db8::7]:5070>"]


def test_the_parsed_contact_changes_too_and_only_once():
    ctx = request("<sip:alice@10.0.0.1>")
    assert call("nat_uac_test", ctx, 33) == 1
    assert call("fix_nated_contact", ctx) == 1
    assert ctx.message.contacts[0].uri.host == "203.0.113.7"
    assert call("nat_uac_test", ctx, 33) == -1
    assert call("fix_nated_contact", ctx) == -1
    assert sent_values(ctx, "contact") == ["<sip:alice@203.0.113.7:5062>"]


def test_the_contact_of_a_reply_is_fixed():
    ctx = context(reply_text("Contact: <sip:bob@192.168.0.1>"), kind=ONREPLY)
    assert call("fix_nated_contact", ctx) == 1
    assert sent_values(ctx, "contact") == ["<sip:bob@203.0.113.7:5062>"]


def test_a_contact_changed_by_the_script_keeps_its_other_changes():
    ctx = request("<sip:alice@10.0.0.1>")
    ctx.edits.replace(ctx.message.find("contact"), "Contact: <sip:alice@10.0.0.1>;added=1")
    assert call("fix_nated_contact", ctx) == 1
    assert sent_values(ctx, "contact") == ["<sip:alice@203.0.113.7:5062>;added=1"]


@pytest.mark.parametrize("contact", ["", "*", "<tel:+4930>", "<sip:alice@10.0.0.1"])
def test_without_a_sip_contact_there_is_nothing_to_fix(contact):
    ctx = request(contact)
    assert call("fix_nated_contact", ctx) == -1
    assert not ctx.edits


# ---- fix_nated_register

RECEIVED = 'received="sip:203.0.113.7:5062;dstip=192.0.2.1;dstport=5060"'


@pytest.mark.parametrize(
    ("contact", "sent"),
    [
        pytest.param("<sip:a@10.0.0.1>", f"<sip:a@10.0.0.1>;{RECEIVED}", id="one"),
        pytest.param("sip:a@10.0.0.1", f"sip:a@10.0.0.1;{RECEIVED}", id="bare"),
        pytest.param('"x;y" <sip:a@10.0.0.1>;q=1;', f'"x;y" <sip:a@10.0.0.1>;q=1;{RECEIVED}', id="parameters-stay"),
        pytest.param(
            "<sip:a@10.0.0.1>,<sip:a@10.0.0.2>",
            f"<sip:a@10.0.0.1>;{RECEIVED}, <sip:a@10.0.0.2>;{RECEIVED}",
            id="every-one",
        ),
        pytest.param(
            '<sip:a@10.0.0.1>;received="sip:6.6.6.6:1";q=1',
            f"<sip:a@10.0.0.1>;q=1;{RECEIVED}",
            id="what-the-phone-says-about-its-source-goes",
        ),
        pytest.param("*", "*", id="star"),
    ],
)
def test_the_source_becomes_a_contact_parameter(contact, sent):
    ctx = request(contact)
    assert call("fix_nated_register", ctx) == 1
    assert sent_values(ctx, "contact") == [sent]
    assert "received" not in ctx.message.contacts[0].params or "6.6.6.6" in contact  # what was parsed stays


def test_the_transport_and_ipv6_sockets_are_written_down():
    ctx = request("<sip:a@10.0.0.1>", flow=Flow(TLS, "203.0.113.7", 40000))
    assert call("fix_nated_register", ctx) == 1
    assert sent_values(ctx, "contact") == [
        '<sip:a@10.0.0.1>;received="sip:203.0.113.7:40000;transport=tls;dstip=192.0.2.1;dstport=5061"'
    ]
    ctx = request("<sip:a@[fd00::1]>", flow=Flow(SIX, "2001:db8::7", 5070))
    assert call("fix_nated_register", ctx) == 1
    assert sent_values(ctx, "contact") == [
        '<sip:a@[fd00::1]>;received="sip:[2001:db8::7]:5070;dstip=[2001:db8::1];dstport=5060"'
    ]


def test_a_query_without_contact_is_no_failure_and_a_malformed_one_is():
    assert call("fix_nated_register", request("")) == 1
    assert call("fix_nated_register", request("<sip:a@10.0.0.1")) == -1


# ---- @nathelper.rewrite_contact


def test_a_contact_can_be_read_with_the_source_address():
    ctx = request("<sip:a@10.0.0.1>, B <sip:b@10.0.0.2;x=1>;q=1")
    exports = nathelper.exports()
    assert select(exports, "nathelper.rewrite_contact", 2)(ctx) == "B <sip:b@203.0.113.7:5062;x=1>;q=1"
    assert select(exports, "nathelper.rewrite_contact")(ctx) == "<sip:a@203.0.113.7:5062>"
    assert select(exports, "nathelper.rewrite_contact", 3)(ctx) is None
    assert not ctx.edits


@pytest.mark.parametrize("parts", [(0,), (-1,), ("x",), (1, "x")])
def test_only_numbers_from_1_are_contacts(parts):
    with pytest.raises(ValueError, match="rewrite_contact"):
        select(nathelper.exports(), "nathelper.rewrite_contact", *parts)
