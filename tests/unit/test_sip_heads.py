"""Where heads end and what Content-Length says (RFC 3261 §7.3.1, §18.3, §20.14): the same for datagrams and streams."""

from __future__ import annotations

import pytest

from serpy.errors import FramingError, ParseError, ProtocolError
from serpy.sip.framing import StreamFramer
from serpy.sip.heads import LENGTH_MAX, body_start, content_length, expects_continue, has_transfer_encoding
from serpy.sip.limits import HEAD_MAX, HEADERS_MAX
from serpy.sip.parser import parse_message
from serpy.sip.writer import render

START = (
    b"OPTIONS sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n"
    b"Call-ID: 1\r\nCSeq: 1 OPTIONS\r\n"
)


@pytest.mark.parametrize(
    ("data", "start"),
    [
        pytest.param(b"A\r\nB: c\r\n\r\nbody\r\n\r\n", 11, id="crlf"),
        pytest.param(b"A\nB: c\n\nbody\n\n", 8, id="lf"),
        pytest.param(b"A\r\nB: c\n\r\nbody", 10, id="lf-then-crlf"),
        pytest.param(b"A\r\nB: c\r\n\nbody\r\n\r\n", 10, id="crlf-then-lf"),
        pytest.param(b"A\nB: c\n\n\r\n", 8, id="the-first-of-two-empty-lines"),
        pytest.param(b"A\r\nB: c\r\n \r\n\r\n", 14, id="a-line-of-white-space-is-a-fold"),
        pytest.param(b"A\r\nB: c\r\n\r", -1, id="half-an-empty-line"),
        pytest.param(b"A\r\nB: c\r\n", -1, id="none"),
    ],
)
def test_a_head_ends_at_its_first_empty_line(data, start):
    assert body_start(data) == start


LENGTHS = [
    pytest.param(b"Content-Length: 5", 5, id="plain"),
    pytest.param(b"content-length:5", 5, id="lower-case"),
    pytest.param(b"CONTENT-LENGTH\t : \t5 \t", 5, id="white-space-around"),
    pytest.param(b"l: 5", 5, id="compact"),
    pytest.param(b"L:5", 5, id="compact-upper-case"),
    pytest.param(b"Content-Length:\r\n 5", 5, id="folded"),
    pytest.param(b"l:\r\n\t5", 5, id="compact-folded"),
    pytest.param(b"Content-Length: 5\r\n ", 5, id="folded-behind"),
    pytest.param(b"Content-Length:\r\n \r\n 5", 5, id="folded-twice"),
    pytest.param(b"Content-Length:\n 5", 5, id="folded-with-lf-alone"),
    pytest.param(b"Content-Length: 0000000000000000005", 5, id="zeros-before"),
    pytest.param(b"Content-Length: 5\r\nl: 5", 5, id="twice-the-same"),
    pytest.param(b"l: 05\r\nX: y\r\nContent-Length:\r\n 5", 5, id="twice-the-same-in-other-words"),
    pytest.param(b"X: y\r\n Content-Length: 9\r\nl: 5", 5, id="one-in-a-folded-line-is-none"),
    pytest.param(b"X-Content-Length: 9\r\nl: 5", 5, id="another-header"),
    pytest.param(b"Content-Length: 5\r\nl: 0", None, id="compact-differs"),
    pytest.param(b"Content-Length: 0\r\nContent-Length: 5", None, id="second-differs"),
    pytest.param(b"CONTENT-LENGTH: 5\r\nX: y\r\ncontent-length:\r\n 6", None, id="folded-differs"),
    pytest.param(b"l: 5\r\nl: x", None, id="second-is-bad"),
    pytest.param(b"Content-Length:", None, id="empty"),
    pytest.param(b"Content-Length: -1", None, id="negative"),
    pytest.param(b"Content-Length: +5", None, id="plus"),
    pytest.param(b"Content-Length: 5, 5", None, id="list"),
    pytest.param(b"Content-Length: 5;x=y", None, id="parameter"),
    pytest.param(b"Content-Length: 1\r\n 2", None, id="two-numbers-on-folded-lines"),
    pytest.param(b"Content-Length: 0x5", None, id="hexadecimal"),
    pytest.param(b"Content-Length: 5.0", None, id="decimal-point"),
    pytest.param(b"Content-Length: 1_0", None, id="underscore"),
    pytest.param("Content-Length: \u0665".encode(), None, id="digits-of-another-script"),
    pytest.param(b"Content-Length: 99999999999999", None, id="absurd"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "length"), LENGTHS)
def test_all_content_lengths_of_a_head_count_as_one(lines, length):
    head = START + lines + b"\r\n\r\n"
    if length is not None:
        assert content_length(head) == length
        return
    with pytest.raises(ParseError) as caught:
        content_length(head)
    assert (caught.value.status, caught.value.reason) == (400, "Bad Content-Length")


@pytest.mark.parametrize(("lines", "length"), LENGTHS)
def test_a_datagram_and_a_stream_agree_on_the_length(lines, length):
    data = START + lines + b"\r\n\r\nhello"
    framer = StreamFramer()
    framer.feed(data + START)
    if length is None:
        with pytest.raises(ParseError):
            parse_message(data)
        with pytest.raises(FramingError) as caught:
            framer.next()
        assert caught.value.status == 400
        assert framer.next() is None  # nothing behind it is read
        return
    assert parse_message(data).body == b"hello"
    assert framer.next().data == data


def test_a_message_without_content_length_has_none_and_a_large_one_is_larger_than_any_message():
    assert content_length(START + b"\r\n") == -1
    assert content_length(START + b"l: 999999999\r\n\r\n") == LENGTH_MAX


def test_content_length_that_stood_twice_goes_on_once():
    message = parse_message(START + b"l: 5\r\nX: y\r\nContent-Length: 5\r\n\r\nhello")
    message.check_mandatory()
    assert message.names.count("content-length") == 1
    assert render(message) == START + b"l: 5\r\nX: y\r\n\r\nhello"
    bare = parse_message((START + b"l: 5\r\nX: y\r\n").replace(b"\r\n", b"\n") + b"Content-Length: 5\r\n\nhello")
    assert render(bare) == (START + b"l: 5\r\nX: y\r\n").replace(b"\r\n", b"\n") + b"\nhello"


@pytest.mark.parametrize("ending", [b"", b"\r\n", b"\r\n\r\n", b"\n\n"])
@pytest.mark.parametrize("length", [b"Content-Length: %d\r\n", b"Content-Length:\r\n %d\r\n", b""])
def test_lines_of_the_body_are_no_header_lines(length, ending):
    body = b"a line of the body\r\n" * (HEADERS_MAX + 50) + b"\r\nContent-Length: 1\r\n" + ending
    head = START + (length % len(body) if length else b"")
    message = parse_message(head + b"\r\n" + body)
    assert message.body == body
    message.check_mandatory()


def test_too_many_header_lines_are_refused_whatever_the_body_is():
    with pytest.raises(Exception, match="too many headers") as caught:
        parse_message(START + b"X: y\r\n" * HEADERS_MAX + b"\r\n\r\n")
    assert caught.value.status == 513


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_head_has_an_end_for_datagrams_and_streams_alike(end):
    lines = [b"X: " + b"y" * 16000, b"Z: " + b"z" * 16000]
    for size, fits in ((HEAD_MAX, True), (HEAD_MAX + 1, False)):
        head = START + b"l: 5\r\n" + b"".join(line + b"\r\n" for line in lines)
        head = (head + b"F: \r\n\r\n").replace(b"\r\n", end)
        head = head.replace(b"F: ", b"F: " + b"f" * (size - len(head)))
        framer = StreamFramer()
        framer.feed(head + b"hello")
        if fits:
            assert (parse_message(head + b"hello").body, len(framer.next().data)) == (b"hello", size + 5)
            continue
        for refuse in (framer.next, lambda head=head: parse_message(head + b"hello")):
            with pytest.raises(ProtocolError) as caught:
                refuse()
            assert caught.value.status == 513


def test_headers_of_http_are_found_on_folded_lines():
    assert has_transfer_encoding(b"POST / HTTP/1.1\r\nTRANSFER-encoding\r\n :\r\n chunked\r\n\r\n")
    assert not has_transfer_encoding(b"POST / HTTP/1.1\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n")
    assert expects_continue(b"POST / HTTP/1.1\r\nExpect:\r\n 100-Continue\r\n\r\n")
    assert not expects_continue(b"POST / HTTP/1.1\r\nExpect: 200\r\n\r\n")
