"""Parser entry points beside parse_message: keep-alives, quick Call-ID, the salvage for error answers, limits."""

from __future__ import annotations

import pytest

from serpy.errors import LimitExceededError, ParseError
from serpy.sip.limits import MESSAGE_MAX
from serpy.sip.parser import canonical_name, is_keepalive, parse_for_reply, parse_message, parse_request, quick_call_id
from serpy.sip.writer import build_reply

REQUEST = (
    b"OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\n"
    b"Call-ID: c@d\r\nCSeq: 1 OPTIONS\r\n\r\n"
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        b"\r\n",
        b"\x00\x00\x00\x00",
        b"  \n",
        b"\x00",
        b"x",
        b"jaK",
        b"\r\n" * 10,
        b"\x00" * 40,
        b"hello",
    ],
)
def test_what_is_too_short_for_a_message_or_blank_is_a_keepalive(data):
    assert is_keepalive(data)


@pytest.mark.parametrize("data", [b"x" * 10, b"\r\n" * 10 + b"x", REQUEST, b"PING 12345"])
def test_anything_else_is_not_a_keepalive(data):
    assert not is_keepalive(data)


@pytest.mark.parametrize(
    ("data", "call_id"),
    [
        (REQUEST, b"c@d"),
        (b"X\r\ni: short\r\n\r\n", b"short"),
        (b"X\r\nI:x\r\n\r\n", b"x"),
        (b"X\nCALL-id  :  y \nV: z\n\n", b"y"),
        (b"X\r\nCall-ID:z", b"z"),
        (b"X\r\nVia: a\r\n\r\ni: body\r\n", b""),
        (b"X\r\nInfo: a\r\nContact: b\r\n\r\n", b""),
        (b"", b""),
    ],
)
def test_the_call_id_is_found_without_parsing(data, call_id):
    assert quick_call_id(data) == call_id


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("Via", "via"), ("vIA", "via"), ("V", "via"), ("v ", "via"), ("l", "content-length"), ("X-Foo", "x-foo"),
     ("CALL-ID", "call-id"), ("K", "supported"), ("o", "event"), ("u", "allow-events"), ("Y", "identity")],
)  # fmt: skip
def test_names_have_one_canonical_form(spelled, name):
    assert canonical_name(spelled) == name


@pytest.mark.parametrize("spelled", ["", " ", "a b", "a(b)", "é", "a\x00"])
def test_a_name_is_a_token(spelled):
    with pytest.raises(ParseError):
        canonical_name(spelled)


def test_a_message_beyond_a_datagram_is_refused():
    with pytest.raises(LimitExceededError) as caught:
        parse_message(REQUEST + b"x" * MESSAGE_MAX)
    assert caught.value.status == 513


def test_a_response_is_not_a_request():
    with pytest.raises(ParseError):
        parse_request(b"SIP/2.0 200 OK\r\n\r\n")
    assert parse_request(REQUEST).method == "OPTIONS"


def test_accessors_of_an_ordinary_request():
    message = parse_message(
        REQUEST.replace(
            b"\r\n\r\n",
            b"\r\nRoute: <sip:a;lr>, <sip:b;lr>\r\nRoute: <sip:c;lr>\r\nMax-Forwards: 7\r\nExpires: 60\r\n"
            b"Contact: <sip:x@y>;expires=1\r\nRecord-Route: <sip:r>\r\nContent-Length: 0\r\n\r\n",
        )
    )
    message.check_mandatory()
    assert [route.uri.host for route in message.routes] == ["a", "b", "c"]
    assert message.values("route") == ["<sip:a;lr>", "<sip:b;lr>", "<sip:c;lr>"]
    assert message.get_all("route") == ["<sip:a;lr>, <sip:b;lr>", "<sip:c;lr>"]
    assert message.indexes("route") == [5, 6]
    assert (message.max_forwards, message.expires, message.content_length) == (7, 60, 0)
    assert message.contacts[0].param("expires") == "1"
    assert message.record_routes[0].uri_text == "sip:r"
    assert message.get("nothing") is None
    assert message.find("nothing") == -1
    assert not message.has("nothing")
    assert message.via is message.via


def test_optional_headers_are_none_when_absent():
    message = parse_message(REQUEST)
    assert (message.max_forwards, message.expires, message.content_length) == (None, None, None)
    assert (message.contacts, message.routes) == ([], [])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(REQUEST.replace(b"SIP/2.0\r", b"SIP/9.0\r", 1), id="another-version"),
        pytest.param(REQUEST.replace(b"\r\n\r\n", b"\r\nrubbish\r\nb a d: 1\r\n\r\n"), id="bad-header-lines"),
        pytest.param(REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 99\r\n\r\n"), id="content-length-too-long"),
        pytest.param(REQUEST[:-2], id="no-empty-line"),
        pytest.param(REQUEST.replace(b"\r\n", b"\n").replace(b"sip:h", b"sip: h"), id="line-feeds-and-bad-uri"),
    ],
)
def test_what_the_parser_refuses_can_still_be_answered(data):
    request = parse_for_reply(data)
    assert request is not None
    reply = parse_message(build_reply(request, 400, "Bad Request", to_tag="t", received="192.0.2.1", rport=5))
    reply.check_mandatory()
    assert (reply.call_id, reply.to_tag, reply.via.received) == ("c@d", "t", "192.0.2.1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish",
        b"\xff\xfe\x00",
        b"SIP/2.0 200 OK\r\n\r\n",
        REQUEST.replace(b"OPTIONS", b"ACK"),
        b"A b\r\nVia: x\r\n",
        b"A b\r\nCSeq: 1 A\r\n\r\n",
    ],
)
def test_what_cannot_or_must_not_be_answered_is_none(data):
    assert parse_for_reply(data) is None


@pytest.mark.parametrize("length", [b"Content-Length: 3", b"Content-Length:   3", b"l:3", b"Content-Length: 003"])
def test_a_body_is_as_long_as_the_head_says_and_what_follows_is_ignored(length):
    message = parse_message(REQUEST.replace(b"\r\n\r\n", b"\r\n" + length + b"\r\n\r\nabcdef\r\n\r\n"))
    assert message.body == b"abc"
    assert message.content_length == 3
