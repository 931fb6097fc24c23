"""The 49 messages of RFC 4475 against the SIP layer; what a whole server answers is a system test."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from serpy.errors import ParseError, ProtocolError
from serpy.sip.message import Request
from serpy.sip.parser import parse_for_reply, parse_message
from serpy.sip.uri import parse_uri
from serpy.sip.writer import build_reply, render

TORTURE = Path(__file__).parent.parent / "corpus" / "torture"
CASES = [(path.stem, path.read_bytes(), tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8")))
         for path in sorted(TORTURE.glob("*.sip"))]  # fmt: skip
by_name = pytest.mark.parametrize(("data", "expected"), [pytest.param(d, e, id=name) for name, d, e in CASES])


def test_all_messages_of_the_rfc_are_there():
    assert len(CASES) == 49


@by_name
def test_each_message_is_accepted_or_refused_where_the_rfc_says(data, expected):
    found_by = expected.get("found_by", "")
    if found_by == "parser":
        with pytest.raises(ProtocolError) as caught:
            parse_message(data)
        assert expected.get("dropped") or caught.value.status == expected["status"]
        return
    message = parse_message(data)
    if found_by == "headers":
        with pytest.raises(ParseError) as caught:
            message.check_mandatory()
        assert expected.get("dropped") or caught.value.status == expected["status"]
        return
    message.check_mandatory()
    if found_by == "contact":
        with pytest.raises(ParseError):
            message.contacts  # noqa: B018
    else:
        assert isinstance(message.contacts, list)
    if isinstance(message, Request):
        assert parse_uri(message.request_uri).is_sip == (found_by != "scheme")


@by_name
def test_an_accepted_message_is_written_back_identical(data, expected):
    if expected.get("found_by") == "parser":
        assert not data.startswith(b"SIP/") or expected["dropped"]
        return
    message = parse_message(data)
    written = render(message)
    assert data.startswith(written)
    assert len(written) == len(data) or "content-length" in message.names  # cut to its Content-Length


@by_name
def test_a_refused_request_can_be_answered(data, expected):
    status = expected["status"]
    if status < 300 or expected.get("dropped"):
        assert status in {0, 404}
        return
    request = parse_for_reply(data)
    assert request is not None
    reply = parse_message(build_reply(request, status, "No", to_tag="t"))
    assert reply.names.count("via") == request.names.count("via")


def test_short_tortuous_invite_reads_as_meant():
    data = (TORTURE / "wsinv.sip").read_bytes()
    message = parse_message(data)
    assert message.max_forwards == 68
    assert (message.cseq.number, message.cseq.method) == (9, "INVITE")
    assert message.to.uri_text == "sip:vivekg@chair-dnrc.example.com"
    assert message.to_tag == "1918181833n"
    assert message.from_.display_name == 'J Rosenberg \\"'
    assert message.from_tag == "98asjd8"
    assert (message.via.transport, message.via.host, message.via.branch) == ("UDP", "192.0.2.2", "390skdjuw")
    assert message.get("subject") == ""
    assert message.get("newfangledheader") == "newfangled value continued newfangled value"
    assert len(message.values("via")) == 3
    assert message.contacts[0].params == {"newparam": "newvalue", "secondparam": "", "q": "0.33"}
    assert message.routes[0].uri.param("unknown-no-value") == ""


def test_wide_range_of_characters_reads_as_meant():
    message = parse_message((TORTURE / "intmeth.sip").read_bytes())
    assert isinstance(message, Request)
    uri = parse_uri(message.request_uri)
    assert uri.user == "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
    assert uri.password == "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"
    assert uri.host == "example.com"
    assert message.from_tag == "_token~1'+`*%!-."
    assert message.to.display_name == "BEL:\x07 NUL:\x00 DEL:\x7f"


def test_second_message_in_the_datagram_is_not_the_body():
    message = parse_message((TORTURE / "dblreq.sip").read_bytes())
    assert message.body == b""


def test_escaped_contact_is_another_header():
    message = parse_message((TORTURE / "esc02.sip").read_bytes())
    assert len(message.contacts) == 2
    assert message.has("c%6fntact")
