"""Keys of transactions, branch parameters, loops, tags of stateless answers, addresses."""

from __future__ import annotations

import pytest

from serpy.sip.address import is_address
from serpy.sip.message import Request
from serpy.sip.parser import parse_message
from serpy.transaction.matching import is_loop, loop_value, server_key, stateless_value
from serpy.transaction.stateless import StatelessReplies


def request(
    method="INVITE", *, branch=";branch=z9hG4bK1", host="a.example.net:5070", uri="sip:b@b.example.net", **also
):
    headers = [f"Via: SIP/2.0/UDP {host}{branch}", *also.get("lines", ())]
    text = (
        f"{method} {uri} SIP/2.0\r\n" + "".join(f"{line}\r\n" for line in headers) + f"From: <sip:a@a>;tag={also.get('tag', 'f')}\r\n"
        f"To: <sip:b@b>\r\nCall-ID: {also.get('call_id', 'c')}\r\nCSeq: {also.get('number', 1)} {method}\r\n\r\n"
    )  # fmt: skip
    message = parse_message(text.encode())
    assert isinstance(message, Request)
    return message


def test_the_key_is_branch_sent_by_and_method():
    key = server_key(request(), "INVITE")
    assert server_key(request(uri="sip:other@b", tag="g"), "INVITE") == key
    assert server_key(request("ACK"), "INVITE") == key
    others = [
        server_key(request(), "CANCEL"),
        server_key(request(branch=";branch=z9hG4bK2"), "INVITE"),
        server_key(request(branch=";branch=z9hG4bk1"), "INVITE"),
        server_key(request(host="a.example.net:5071"), "INVITE"),
        server_key(request(host="b.example.net:5070"), "INVITE"),
    ]
    assert len({key, *others}) == 6


@pytest.mark.parametrize("branch", ["", ";branch=1", ";branch=z9hG4bK"])
def test_without_a_usable_branch_everything_that_must_not_differ_is_the_key(branch):
    key = server_key(request(branch=branch), "INVITE")
    assert server_key(request(branch=branch), "INVITE") == key
    others = [
        server_key(request(branch=branch, **change), "INVITE")
        for change in ({"uri": "sip:o@b"}, {"tag": "g"}, {"call_id": "d"}, {"number": 2}, {"host": "b:5070"})
    ]
    assert len({key, server_key(request(branch=branch), "CANCEL"), *others}) == 7


def test_the_value_of_a_stateless_forward_is_the_same_for_repetition_and_cancel():
    first = stateless_value(request())
    assert stateless_value(request()) == stateless_value(request("CANCEL")) == stateless_value(request("ACK")) == first
    assert stateless_value(request(branch="")) == stateless_value(request(branch=""))
    others = [
        stateless_value(request(branch=";branch=z9hG4bK2")),
        stateless_value(request(host="b:5070")),
        stateless_value(request(branch="")),
    ]
    assert len({first, *others}) == 4


def test_a_loop_has_the_same_request_uri_and_route_set():
    first, second = "Route: <sip:x;lr>", "Route: <sip:y;lr>"
    values = [
        loop_value(request()),
        loop_value(request(uri="sip:o@b")),
        loop_value(request(lines=(first,))),
        loop_value(request(lines=(first, second))),
        loop_value(request(lines=(second, first))),
    ]
    assert len(set(values)) == 5
    assert all(0 <= value < 1 << 32 for value in values)
    assert loop_value(request("BYE", tag="g")) == values[0]
    for value, expected in ((values[0], True), (values[1], False)):
        mine = f"Via: SIP/2.0/UDP me;branch=z9hG4bKc0n7.{value}.0"
        assert is_loop(request(lines=(mine,)), "c0", values[0]) is expected
        assert not is_loop(request(lines=(mine,)), "c1", values[0])


def test_the_tag_of_a_stateless_answer_follows_from_the_request_and_the_secret():
    replies = StatelessReplies(b"one", lambda _: None, lambda: 0.0)
    tag = replies.tag(request())
    assert replies.tag(request("ACK")) == tag == StatelessReplies(b"one", lambda _: None, lambda: 0.0).tag(request())
    others = [
        StatelessReplies(b"two", lambda _: None, lambda: 0.0).tag(request()),
        *(replies.tag(request(**change)) for change in ({"tag": "g"}, {"call_id": "d"}, {"number": 2}, {"branch": ";branch=z9hG4bK2"})),
    ]  # fmt: skip
    assert len({tag, *others}) == 6


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", True), ("[2001:db8::1]", True), ("2001:db8::1", True), ("::ffff:192.0.2.1", True), ("fe80::1%eth0", True),
        ("192.0.2", False), ("192.0.2.01", False), ("192.0.2.256", False), ("1.example.net", False), ("example.net", False),
        ("", False), ("1::2::3", False), ("1" * 100, False), ("192.0.2.1\0", False), ("192.0.2.1%x", False),
    ],
)  # fmt: skip
def test_an_address_is_numeric(host, expected):
    assert is_address(host) is expected
