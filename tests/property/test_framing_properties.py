"""A stream gives the same messages however it is cut, and nothing in it raises anything but FramingError."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serpy.errors import FramingError
from serpy.sip.framing import HTTP, SIP, StreamFramer, with_content_length
from serpy.sip.limits import MESSAGE_MAX


def sip(body, name, method):
    head = f"{method} sip:x@example.com SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nCall-ID: 1\r\n"
    return (SIP, f"{head}{name}: {len(body)}\r\n\r\n".encode() + body)


def http(body, name, _method):
    return (HTTP, f"POST /RPC2 HTTP/1.1\r\nHost: a\r\n{name}: {len(body)}\r\n\r\n".encode() + body)


messages = st.one_of(
    st.builds(sip, st.binary(max_size=300), st.sampled_from(["Content-Length", "l", "L ", "content-length"]),
              st.sampled_from(["INVITE", "ACK", "M-1"])),
    st.builds(http, st.binary(max_size=300), st.sampled_from(["Content-Length", "CONTENT-LENGTH"]), st.just("")),
)  # fmt: skip
gaps = st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"\r\n\r\n\r\n\r\n", b"\0\0\0\0", b"\n"])


def frames_of(pieces):
    """(kind, data) of every message in the stream that comes in *pieces*."""
    framer = StreamFramer()
    found = []
    for piece in pieces:
        framer.feed(piece)
        while (frame := framer.next()) is not None:
            found.append((frame.kind, frame.data))
    return [frame for frame in found if frame[0] in (SIP, HTTP)], framer


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(gaps, messages), max_size=6), st.lists(st.integers(1, 400), max_size=60), gaps)
def test_any_split_of_a_stream_gives_the_same_messages(stream, sizes, tail):
    data = b"".join(gap + message for gap, (_, message) in stream) + tail
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    found, framer = frames_of([*pieces, data[at:]])
    assert found == [message for _, message in stream]
    assert not framer.is_inside


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(gaps, messages), max_size=3))
def test_a_stream_byte_by_byte_gives_the_same_messages(stream):
    data = b"".join(gap + message for gap, (_, message) in stream)
    assert frames_of([data[at : at + 1] for at in range(len(data))])[0] == [message for _, message in stream]


garbage = st.one_of(
    st.binary(max_size=600),
    st.lists(
        st.sampled_from([
            b"INVITE ", b"sip:a ", b"SIP/2.0", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"Content-Length:", b"l:", b" 5",
            b"-1", b"99999999999", b"Expect: 100-continue", b"Transfer-Encoding: chunked", b"\0", b"\xff\xfe", b"x" * 400,
        ]),
        max_size=40,
    ).map(b"".join),
)  # fmt: skip


def status_of(data, size):
    """The status of the FramingError that *data* in pieces of *size* leads to, 0 when there is none."""
    framer = StreamFramer()
    try:
        for at in range(0, len(data), size):
            framer.feed(data[at : at + size])
            while (frame := framer.next()) is not None:
                assert len(frame.data) <= MESSAGE_MAX
    except FramingError as exc:
        return exc.status
    return 0


@settings(max_examples=500, deadline=None)
@given(garbage, st.integers(1, 50))
def test_garbage_raises_framing_error_or_nothing(data, size):
    assert status_of(data, size) in (0, 400, 411, 413, 431, 513)


@given(garbage)
def test_a_message_gets_its_content_length_once(data):
    once = with_content_length(data)
    assert with_content_length(once) == once
    assert len(once) - len(data) in (0, *range(19, 24))
