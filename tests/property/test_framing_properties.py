"""A stream gives the same messages however it is cut, and nothing in it raises anything but FramingError."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serpy.errors import FramingError, ProtocolError
from serpy.sip.framing import HTTP, SIP, StreamFramer, with_content_length
from serpy.sip.heads import body_start
from serpy.sip.limits import LINE_MAX, MESSAGE_MAX
from serpy.sip.parser import parse_message


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


# What may stand in a message where readers could disagree: line ends, folds, lengths in every spelling, empty lines.
pieces_of_a_head = st.sampled_from([
    b"Via: SIP/2.0/TCP a;branch=z9hG4bK1", b"Call-ID: 1", b"Content-Length: 5", b"l: 5", b"L : 05", b"content-length:\r\n 5",
    b"Content-Length\n : 5", b"Content-Length: 0", b"l:0", b"Content-Length: 5, 5", b"Content-Length: -1",
    b"Content-Length: +5", b"Content-Length:", b"Content-Length: 70000", b"X: y\r\n Content-Length: 9", b" folded", b"\tfolded",
    b"X: a\rl: 5", b"", b" ", b"no header", b"x" * (LINE_MAX + 1), b"X: " + b"y" * 9000, b": x", b"l", b"Content-Length: 1\r\n 0",
])  # fmt: skip
start_lines = st.sampled_from(
    [b"OPTIONS sip:a SIP/2.0", b"SIP/2.0 200 OK", b"OPTIONS sip:a sip/2.0", b"M sip:a\tb SIP/2.0"]
)
line_ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\r\n"])
bodies = st.lists(
    st.sampled_from(
        [b"hello", b"\r\n", b"\r\n\r\n", b"\n\n", b"Content-Length: 3\r\n", b"OPTIONS sip:b SIP/2.0\r\n", b"\0"]
    ),
    max_size=5,
).map(b"".join)


@st.composite
def odd_messages(draw):
    """A message that may be wrong in every way that concerns its structure."""
    lines = [draw(start_lines), *draw(st.lists(pieces_of_a_head, max_size=8))]
    if draw(st.booleans()):
        lines.append(b"Content-Length: 5")
    head = b"".join(line + draw(line_ends) for line in lines)
    return draw(st.sampled_from([b"", b"\r\n", b"\r", b"\n\r\n"])) + head + draw(line_ends) + draw(bodies)


def outcome(data, sizes):
    """Every message in *data* when it comes in pieces of *sizes*, and with which status the stream ends (0: it goes on)."""
    framer = StreamFramer()
    found = []
    at = 0
    try:
        for size in [*sizes, len(data)]:
            framer.feed(data[at : at + size])
            at += size
            while (frame := framer.next()) is not None:
                if frame.kind in (SIP, HTTP):
                    found.append(frame.data)
    except FramingError as exc:
        return found, exc.status
    return found, 0


def parsed(data):
    """The message in the datagram *data*, None when it is refused."""
    try:
        return parse_message(data)
    except ProtocolError:
        return None


@settings(max_examples=1000, deadline=None)
@given(odd_messages())
def test_a_datagram_and_a_stream_have_the_same_structure(data):
    message = parsed(data)
    frames, status = outcome(data, [])
    if message is not None and "content-length" in message.names:
        assert frames, status
        again = parse_message(frames[0])
        assert (again.start_line, again.names, again.lines) == (message.start_line, message.names, message.lines)
        assert again.body == message.body
    for frame in frames:
        again = parsed(frame)
        if again is not None:
            assert again.body == frame[body_start(frame) :]
    if not frames and status == 400:
        assert message is None or "content-length" not in message.names


@settings(max_examples=1000, deadline=None)
@given(st.lists(odd_messages(), min_size=1, max_size=3).map(b"".join), st.lists(st.integers(1, 60), max_size=40))
def test_where_an_odd_stream_is_cut_does_not_depend_on_its_segments(data, sizes):
    assert outcome(data, sizes) == outcome(data, [])
