"""From a TCP stream to whole messages (RFC 3261 §18.3, RFC 5626 §3.5.1)."""

from __future__ import annotations

import pytest

from serpy.errors import FramingError
from serpy.sip import framing
from serpy.sip.framing import CONTINUE, HTTP, PING, SIP, StreamFramer, with_content_length
from serpy.sip.limits import HEAD_MAX, LINE_MAX

OPTIONS = b"OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n"
POST = b"POST /RPC2 HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"


def take(*pieces):
    """Every frame of a stream that comes in *pieces*."""
    framer = StreamFramer()
    found = []
    for piece in pieces:
        framer.feed(piece)
        while (frame := framer.next()) is not None:
            found.append((frame.kind, frame.data))
    return found


@pytest.mark.parametrize(
    ("pieces", "frames"),
    [
        pytest.param([OPTIONS], [(SIP, OPTIONS)], id="one"),
        pytest.param([OPTIONS + OPTIONS], [(SIP, OPTIONS)] * 2, id="two-in-one-read"),
        pytest.param([OPTIONS[:30], OPTIONS[30:]], [(SIP, OPTIONS)], id="cut-in-the-head"),
        pytest.param([POST[:-1], POST[-1:]], [(HTTP, POST)], id="cut-in-the-body"),
        pytest.param([POST + OPTIONS], [(HTTP, POST), (SIP, OPTIONS)], id="http-then-sip"),
        pytest.param([b"\r\n\r\n"], [(PING, b"")], id="ping"),
        pytest.param([b"\r\n", b"\r\n"], [(PING, b"")], id="ping-cut"),
        pytest.param([b"\r", b"\n\r", b"\n"], [(PING, b"")], id="ping-cut-in-a-crlf"),
        pytest.param([b"\r\n"], [], id="pong-is-not-answered"),
        pytest.param([b"\0\0\0\0"], [], id="zero-bytes"),
        pytest.param([b"\r\n\r\n" + OPTIONS], [(PING, b""), (SIP, OPTIONS)], id="ping-and-message"),
        pytest.param([b"\r\n" + OPTIONS + b"\r\n"], [(SIP, OPTIONS)], id="single-crlf-around"),
        pytest.param([b"GET / HTTP/1.0\r\n\r\n"], [(HTTP, b"GET / HTTP/1.0\r\n\r\n")], id="http-without-length"),
        pytest.param(
            [OPTIONS.replace(b"\r\n", b"\n")], [(SIP, OPTIONS.replace(b"\r\n", b"\n"))], id="line-feeds-alone"
        ),
        pytest.param(
            [b"SIP/2.0 200 OK\r\nl : 1\r\n\r\nx"], [(SIP, b"SIP/2.0 200 OK\r\nl : 1\r\n\r\nx")], id="response-compact"
        ),
        pytest.param(
            [b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", b"x"],
            [(CONTINUE, b""), (HTTP, b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx")],
            id="http-continue",
        ),
    ],
)
def test_a_stream_is_cut_where_its_messages_end(pieces, frames):
    assert take(*pieces) == frames


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01", 400, id="tls-hello-at-once"),
        pytest.param(b"hello\r\n", 400, id="no-start-line"),
        pytest.param(b"x" * (LINE_MAX + 1), 400, id="start-line-without-end"),
        pytest.param(b"OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\n\r\n", 400, id="no-content-length"),
        pytest.param(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: -1\r\n\r\n", 400, id="negative-length"),
        pytest.param(b"OPTIONS sip:a SIP/2.0\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n", 400, id="cr-without-lf"),
        pytest.param(b"OPTIONS sip:a SIP/2.0\r\n x\r\nContent-Length: 0\r\n\r\n", 400, id="folded-start-line"),
        pytest.param(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 65530\r\n\r\n", 513, id="message-too-large"),
        pytest.param(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: 99999999999999\r\n\r\n", 400, id="absurd-length"),
        pytest.param(b"OPTIONS sip:a SIP/2.0\r\n" + b"a: b\r\n" * HEAD_MAX, 513, id="head-without-end"),
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411, id="http-chunked"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", 413, id="http-body-too-large"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * HEAD_MAX, 431, id="http-head-without-end"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", 400, id="http-response"),
    ],
)
def test_what_cannot_be_a_message_says_with_which_status(stream, status):
    framer = StreamFramer()
    framer.feed(stream)
    with pytest.raises(FramingError) as caught:
        framer.next()
    assert caught.value.status == status
    assert framer.refused == stream


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(OPTIONS, OPTIONS, id="has-one"),
        pytest.param(
            b"ACK sip:a SIP/2.0\r\nl: 0\r\n\r\n", b"ACK sip:a SIP/2.0\r\nl: 0\r\n\r\n", id="has-the-compact-one"
        ),
        pytest.param(
            b"ACK sip:a SIP/2.0\r\nTo: x\r\n\r\nbody",
            b"ACK sip:a SIP/2.0\r\nTo: x\r\nContent-Length: 4\r\n\r\nbody",
            id="had-none",
        ),
        pytest.param(
            b"ACK sip:a SIP/2.0\r\n\r\n\nContent-Length: 9",
            b"ACK sip:a SIP/2.0\r\nContent-Length: 18\r\n\r\n\nContent-Length: 9",
            id="one-in-the-body-does-not-count",
        ),
        pytest.param(b"\r\n\r\n", b"\r\n\r\n", id="keep-alive"),
        pytest.param(b"\0\0\0\0", b"\0\0\0\0", id="zero-bytes"),
    ],
)
def test_what_leaves_over_a_connection_has_a_content_length(data, expected):
    assert with_content_length(data) == expected


def test_what_http_calls_l_is_no_length():
    assert take(b"GET / HTTP/1.1\r\nl: 5\r\n\r\n") == [(HTTP, b"GET / HTTP/1.1\r\nl: 5\r\n\r\n")]


@pytest.mark.parametrize(
    ("data", "is_words", "within"),
    [
        pytest.param(b"hello server\r\n", True, b"", id="one-line"),
        pytest.param(b"hello\nOPTIONS sip:a SIP/2.0", True, b"", id="a-line-without-end"),
        pytest.param(
            b"hello\r\n\r\nOPTIONS sip:a SIP/2.0\r\n",
            True,
            b"OPTIONS sip:a SIP/2.0\r\n",
            id="a-request-behind-an-empty-line",
        ),
        pytest.param(
            b"hello\r\nOPTIONS sip:a SIP/2.0\r\nVia: x", True, b"OPTIONS sip:a SIP/2.0\r\nVia: x", id="a-request"
        ),
        pytest.param(b"x\n" * 20 + b"OPTIONS sip:a SIP/2.0\n", True, b"", id="too-far-behind"),
        pytest.param(b"\x16\x03\x01\x02\n", False, b"", id="bytes"),
        pytest.param(b"no end", False, b"", id="no-line"),
    ],
)
def test_behind_what_is_no_message_the_request_that_was_meant_is_found(data, is_words, within):
    assert framing.is_text(data) is is_words
    assert framing.request_within(data) == within
