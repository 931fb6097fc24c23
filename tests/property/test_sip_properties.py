"""Whatever the bytes: only ProtocolError, and what nobody edited is written back identical."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serpy.errors import ProtocolError
from serpy.sip import abnf, authorization, cseq, nameaddr, received, uri, via
from serpy.sip.message import Edits, Request, Response
from serpy.sip.parser import is_keepalive, parse_for_reply, parse_message, quick_call_id
from serpy.sip.writer import build_ack, build_cancel, build_forwarded_response, build_reply, build_request, render

TOKENS = st.sampled_from(
    ["INVITE", "sip:a@h", "SIP/2.0", "sip", " ", "  ", "\t", ":", ";", ",", "<", ">", '"', "\\", "=", "@", "?", "%", "%41",
     "[", "]", "::1", "/", "2.0", "UDP", "tag", "branch", "z9hG4bK", "*", "0", "1", "99999999999999999999", "\x00", "é",
     "\udcff", "५", "\r\n ", "Digest ", "username", "tel:", "+1", "\u2028", "\x85", "received", "rport"]
)  # fmt: skip
TEXTS = st.lists(TOKENS, max_size=25).map("".join)

NAMES = st.sampled_from(["Via", "v", "From", "f", "To", "t", "Call-ID", "i", "CSeq", "Content-Length", "l", "Route", "Contact",
                         "Max-Forwards", "X-New", "sUbJeCt", "Record-Route", " bad", ""])  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        ["SIP/2.0/UDP h;branch=z9hG4bK1", "<sip:a@h>;tag=1", "1 INVITE", "0", "3", "70", '"a,b" <sip:x>', "a@b"]
    ),
    TEXTS,
)
ENDS = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r\n ", "\r"])


@st.composite
def messages(draw):
    start = draw(st.sampled_from(["INVITE sip:a@h SIP/2.0", "SIP/2.0 200 OK", "ACK tel:1 SIP/2.0", "X y SIP/3.1", ""]))
    end = draw(st.sampled_from(["\r\n", "\n"]))
    out = [start, end]
    if draw(st.booleans()):  # the headers every message needs
        for line in (
            "Via: SIP/2.0/UDP h;branch=z9hG4bK1",
            "From: <sip:a@h>;tag=1",
            "To: <sip:a@h>",
            "i: c",
            "CSeq: 1 INVITE",
        ):
            out += [line, end]
    for _ in range(draw(st.integers(0, 6))):
        out += [draw(NAMES), draw(st.sampled_from([":", ": ", " : "])), draw(VALUES), draw(ENDS)]
    out.append(end)
    body = draw(st.binary(max_size=20))
    return "".join(out).encode("utf-8", "surrogateescape") + body


def _exercise(message):
    for name in ("via", "from_", "to", "cseq", "call_id", "contacts", "routes", "record_routes", "max_forwards", "expires",
                 "content_length", "method", "from_tag", "to_tag"):  # fmt: skip
        try:
            getattr(message, name)
        except ProtocolError:
            continue
    for name in set(message.names):
        assert len(message.get_all(name)) == message.names.count(name)
        try:
            message.values(name)
        except ProtocolError:
            continue


def _outcome(parse, given_value):
    """(the value, 0) or (None, the status of the ProtocolError)."""
    try:
        return parse(given_value), 0
    except ProtocolError as exc:
        return None, exc.status


_LENGTHS = re.compile(rb"(?im)^(?:content-length|l)[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*")


def _with_one_length(data):
    """*data* without all Content-Length lines of its head but the first: they say the same (RFC 3261 §7.3.1)."""
    end = re.search(rb"\n\r?\n", data)
    head = data[: end.start() + 1] if end else data
    first = _LENGTHS.search(head)
    if first is None:
        return data
    return head[: first.end()] + _LENGTHS.sub(b"", head[first.end() :]) + data[len(head) :]


def _check(data):
    assert is_keepalive(data) in {True, False}
    assert quick_call_id(data) in data
    salvaged = parse_for_reply(data)
    if salvaged is not None:
        assert build_reply(salvaged, 400, "Bad", to_tag="t").startswith(b"SIP/2.0 400 Bad\r\n")
    message, status = _outcome(parse_message, data)
    if message is None:
        assert status in {400, 505, 513}
        return
    written = render(message)
    assert _with_one_length(data.lstrip(b"\r\n")).startswith(written)
    again = parse_message(written)
    assert (again.names, again.lines, again.body) == (message.names, message.lines, message.body)
    _exercise(message)
    try:
        message.check_mandatory()
    except ProtocolError:
        checked = False
    else:
        checked = True
    if isinstance(message, Request):
        sent = build_request(message, "sip:x", "Via: SIP/2.0/UDP p", Edits(), (), 1)
        assert sent.endswith(message.body)
        build_reply(message, 180, "Ringing", to_tag="t", received="192.0.2.1", rport=1)
        if checked:
            reply = parse_message(build_reply(message, 486, "Busy", to_tag="t"))
            assert isinstance(reply, Response)
            assert reply.to_tag
            assert build_ack(message, reply).startswith(b"ACK ")
            assert build_cancel(message).startswith(b"CANCEL ")
    else:
        assert build_forwarded_response(message, Edits()).endswith(message.body)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_protocol_errors(data):
    _check(data)


@settings(max_examples=400)
@given(messages())
@example(b"INVITE sip:a@h SIP/2.0\r\nl:0\r\nContent-Length:\r\n 0\r\nX:1\r\n\r\nl:1\r\n")
@example(b"SIP/2.0 200 OK\nContent-Length:1\nX:1\nL : 1\n\nab")
def test_near_messages_survive_every_operation_and_are_written_back_identical(data):
    _check(data)


@settings(max_examples=300)
@given(messages(), st.integers(0, 300), st.binary(max_size=3))
def test_damaged_messages_survive_every_operation(data, at, damage):
    _check(data[:at] + damage + data[at + 1 :])


PARSERS: dict[str, Callable[[str], object]] = {
    "uri": uri.parse_uri,
    "nameaddr": nameaddr.parse_nameaddr,
    "nameaddr-list": nameaddr.parse_nameaddr_list,
    "commas": nameaddr.split_commas,
    "via": via.parse_via,
    "cseq": cseq.parse_cseq,
    "credentials": authorization.parse_credentials,
    "credentials-digest": lambda text: authorization.parse_credentials("Digest " + text),
    "q": abnf.parse_q,
    "expires": abnf.parse_expires,
    "option-tags": abnf.split_option_tags,
    "unquote": abnf.unquote,
    "unescape": uri.unescape,
    "received-uri": received.parse_received,
    "received-uri-tail": lambda text: received.parse_received(f"sip:192.0.2.1:5060;{text}"),
    "received": lambda text: via.via_with_received(text, "192.0.2.1", 5060),
}


@pytest.mark.parametrize("parse", [pytest.param(parse, id=name) for name, parse in PARSERS.items()])
@given(text=st.one_of(TEXTS, st.text(max_size=60)))
def test_no_text_raises_anything_but_protocol_errors(parse, text):
    value, status = _outcome(parse, text)
    assert status in {0, 400, 414}
    assert status or type(parse(text)) is type(value)


def _is_name(host):
    """A host name by RFC 1123 §2.1, whose last label cannot be read as a number (RFC 3696 §2); underscores pass."""
    labels = host.removesuffix(".").lower().split(".")
    plain = all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) and label.strip("-") == label for label in labels)
    return plain and not labels[-1].isdigit() and not labels[-1].startswith("0x")


@given(TEXTS)
@example("0")
@example("a..b")
@example("-a")
def test_a_parsed_uri_keeps_its_parts_and_prints_as_written(text):
    try:
        parsed = uri.parse_uri("sip:" + text)
    except ProtocolError:
        assert set(text) & set(' \t\x00\r\n<>"\\é\udcff५\u2028\x85@:[]%?;,=/*+') or not _is_name(text)
        return
    assert str(parsed) == "sip:" + text
    again = parsed.replaced()
    names = ("scheme", "user", "password", "host", "port", "params", "headers")
    assert [getattr(parsed, name) for name in names] == [getattr(again, name) for name in names]
    assert uri.parse_uri(str(parsed.replaced(port=5070))).port == 5070


@pytest.mark.parametrize(
    ("parse", "unit"),
    [(uri.parse_uri, "sip:%"), (uri.parse_uri, "sip:a@h;a"), (nameaddr.parse_nameaddr, '"\\'), (nameaddr.split_commas, '<",'),
     (via.parse_via, "SIP/2.0/UDP h;,"), (authorization.parse_credentials, 'Digest a="b",')],
)  # fmt: skip
def test_long_hostile_values_end_in_an_answer(parse, unit):
    value, status = _outcome(parse, unit * 20000)
    assert value or status in {400, 414}
