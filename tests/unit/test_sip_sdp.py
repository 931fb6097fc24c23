"""Session descriptions: what is read, what is replaced, and that everything else stays byte for byte."""

import pytest

from serpy.errors import LimitExceededError, ParseError
from serpy.sip.sdp import Changes, Target, add_line, find_sdp, parse_sdp, rewrite, with_mark

V4 = Target("203.0.113.9", 40000, False)
V6 = Target("2001:db8::9", 40000, True)


def lines(*parts, end="\r\n"):
    return "".join(part + end for part in parts).encode()


HEAD = ("v=0", "o=alice 1 1 IN IP4 10.0.0.5", "s=-")
SIMPLE = lines(*HEAD, "c=IN IP4 10.0.0.5", "t=0 0", "m=audio 4000 RTP/AVP 0 8", "a=sendrecv")


def changed(before, after):
    """The lines of *after* that *before* does not have."""
    old = before.split(b"\r\n")
    return [line.decode() for line in after.split(b"\r\n") if line not in old]


def test_what_is_read():
    sdp = parse_sdp(
        lines(
            *HEAD, "c=IN IP4 10.0.0.5/127", "m=audio 4000/2 RTP/AVP 0 8", "a=rtcp:4001", "m=video 5000 udp/tls/rtp/savpf 99",
            "i=camera", "c=IN IP6 2001:db8::1", "a=rtcp:5009 IN IP6 2001:db8::2",
        )
    )  # fmt: skip
    audio, video = sdp.medias
    assert (audio.kind, audio.port, audio.transport, audio.formats) == ("audio", 4000, "RTP/AVP", "0 8")
    assert (audio.connection.host, audio.rtcp_port, audio.rtcp_address) == ("10.0.0.5", 4001, None)
    assert (video.transport, video.connection.host, video.connection.ipv6) == ("UDP/TLS/RTP/SAVPF", "2001:db8::1", True)
    assert (video.rtcp_port, video.rtcp_address.host) == (5009, "2001:db8::2")
    assert (sdp.is_marked, sdp.line_end, audio.session.origin.host) == (False, b"\r\n", "10.0.0.5")


@pytest.mark.parametrize(
    ("text", "targets", "options", "expected"),
    [
        pytest.param(SIMPLE, {0: V4}, {}, ["c=IN IP4 203.0.113.9", "m=audio 40000 RTP/AVP 0 8"], id="session-c"),
        pytest.param(SIMPLE, {0: V6}, {}, ["c=IN IP6 2001:db8::9", "m=audio 40000 RTP/AVP 0 8"], id="to-ipv6"),
        pytest.param(
            SIMPLE, {0: V4}, {"origin": True},
            ["o=alice 1 1 IN IP4 203.0.113.9", "c=IN IP4 203.0.113.9", "m=audio 40000 RTP/AVP 0 8"], id="origin",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", "c=IN IP4 10.0.0.6"), {0: V4}, {},
            ["m=audio 40000 RTP/AVP 0", "c=IN IP4 203.0.113.9"], id="own-c-leaves-that-of-the-session",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", "c=IN IP4 10.0.0.6"), {0: V4},
            {"session_connection": True},
            ["c=IN IP4 203.0.113.9", "m=audio 40000 RTP/AVP 0", "c=IN IP4 203.0.113.9"], id="session-c-on-demand",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP4 0.0.0.0", "m=audio 4000 RTP/AVP 0", "a=sendonly"), {0: V4}, {},
            ["m=audio 40000 RTP/AVP 0"], id="hold-keeps-the-null-address",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP6 ::", "m=audio 4000 RTP/AVP 0"), {0: V6}, {},
            ["m=audio 40000 RTP/AVP 0"], id="hold-in-ipv6",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", "a=rtcp:4007", "m=video 5000 RTP/AVP 31",
                  "a=rtcp:5007 IN IP4 10.0.0.5", "m=text 6000 RTP/AVP 98", "a=rtcp:6000"),
            {0: V4, 1: Target("203.0.113.9", 40002, False), 2: Target("203.0.113.9", 40004, False)}, {},
            ["c=IN IP4 203.0.113.9", "m=audio 40000 RTP/AVP 0", "a=rtcp:40001", "m=video 40002 RTP/AVP 31",
             "a=rtcp:40003 IN IP4 203.0.113.9", "m=text 40004 RTP/AVP 98", "a=rtcp:40004"], id="rtcp",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", "m=message 2855 TCP/MSRP *", "i=chat"), {0: V4}, {},
            ["c=IN IP4 203.0.113.9", "m=audio 40000 RTP/AVP 0"], id="a-stream-the-proxy-does-not-carry-keeps-its-address",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", "m=video 5000 RTP/AVP 31"),
            {0: V4, 1: Target("203.0.113.10", 40002, False)}, {},
            ["c=IN IP4 203.0.113.9", "m=audio 40000 RTP/AVP 0", "m=video 40002 RTP/AVP 31", "c=IN IP4 203.0.113.10"],
            id="another-address-for-one-media",
        ),
        pytest.param(
            lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", *HEAD, "c=IN IP4 10.0.0.7", "m=audio 6000 RTP/AVP 0"),
            {0: V4, 1: Target("203.0.113.9", 40002, False)}, {},
            ["c=IN IP4 203.0.113.9", "m=audio 40000 RTP/AVP 0", "c=IN IP4 203.0.113.9", "m=audio 40002 RTP/AVP 0"],
            id="two-sessions",
        ),
    ],
)  # fmt: skip
def test_what_is_replaced(text, targets, options, expected):
    assert changed(text, rewrite(parse_sdp(text), targets, mark=False, **options)) == expected


def test_a_stream_that_is_not_carried_gets_the_old_address_as_its_own():
    text = lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", "m=message 2855 TCP/MSRP *", "i=chat", "a=x")
    new = rewrite(parse_sdp(text), {0: V4}, mark=False)
    assert new.endswith(lines("m=message 2855 TCP/MSRP *", "i=chat", "c=IN IP4 10.0.0.5", "a=x"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(b"v=0\r\nm=audio 1 RTP/AVP 0\r\n", b"\r\na=nortpproxy:yes\r\n", id="crlf"),
        pytest.param(b"v=0\nm=audio 1 RTP/AVP 0\n", b"\na=nortpproxy:yes\n", id="lf"),
        pytest.param(b"v=0\r\nm=audio 1 RTP/AVP 0", b"\r\na=nortpproxy:yes", id="no-line-end"),
    ],
)
def test_the_mark_is_put_at_the_end_once(text, expected):
    marked = rewrite(parse_sdp(text), {})
    assert marked.removeprefix(text.rstrip(b"\r\n")) == expected
    assert parse_sdp(marked).is_marked
    assert rewrite(parse_sdp(marked), {}) == marked == with_mark(text) == with_mark(marked)


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n", b" \r\n", b"\r\n\x00"])
def test_what_is_added_stands_before_empty_lines_at_the_end(blank):
    text = lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0")
    ends = lines("a=nortpproxy:yes") + blank
    assert rewrite(parse_sdp(text + blank), {0: V4}).endswith(lines("m=audio 40000 RTP/AVP 0") + ends)
    assert with_mark(text + blank) == text + ends
    changes = Changes(text + blank)
    add_line(parse_sdp(text + blank), changes, b"a=x")
    assert changes.apply() == text + lines("a=x") + blank


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m=audio  4000  RTP/AVP  0 8", "m=audio  40000  RTP/AVP  0 8"),
        ("m= audio 4000 RTP/AVP 0 ", "m= audio 40000 RTP/AVP 0 "),
        ("c=IN  IP4   10.0.0.7", "c=IN  IP4 203.0.113.9"),
        ("c= IN IP4 10.0.0.7 ", "c= IN IP4 203.0.113.9 "),
        ("a=rtcp: 4001  IN  IP4 10.0.0.5", "a=rtcp: 40001  IN  IP4 203.0.113.9"),
        ("o=-  1  1  IN  IP4  10.0.0.5", "o=-  1  1  IN  IP4 203.0.113.9"),
    ],
)
def test_more_blanks_than_the_grammar_has_do_not_keep_a_call_silent(line, expected):
    kind = line[:2]
    text = [*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0"]
    text = [line if each[:2] == kind else each for each in text] + ([line] if kind == "a=" else [])
    new = rewrite(parse_sdp(lines(*text)), {0: V4}, mark=False, origin=True)
    assert expected.encode() in new.split(b"\r\n")


def test_an_insertion_and_the_mark_at_the_end_keep_their_order():
    text = lines(*HEAD, "c=IN IP4 10.0.0.5", "m=audio 4000 RTP/AVP 0", "m=video 5000 RTP/AVP 31")
    new = rewrite(parse_sdp(text), {0: V4, 1: Target("203.0.113.10", 2, False)})
    assert new.endswith(lines("m=video 2 RTP/AVP 31", "c=IN IP4 203.0.113.10", "a=nortpproxy:yes"))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("m=audio 99999 RTP/AVP 0", id="port-too-large"),
        pytest.param("m=audio x RTP/AVP 0", id="port-is-no-number"),
        pytest.param("m=audio 4000", id="no-transport"),
        pytest.param("m=", id="empty-media"),
        pytest.param("c=IN IP4", id="no-address"),
        pytest.param("c=IN IP5 1.2.3.4", id="unknown-address-type"),
        pytest.param("c=IN IP4 1.2.3.4;x", id="address-with-other-characters"),
        pytest.param("c=IN IP4 " + "a" * 256, id="address-too-long"),
    ],
)
def test_what_cannot_be_read_is_refused(line):
    with pytest.raises(ParseError):
        parse_sdp(lines("v=0", line))


def test_no_description_and_too_many_media_are_refused():
    with pytest.raises(ParseError):
        parse_sdp(b"hello")
    with pytest.raises(LimitExceededError):
        parse_sdp(lines("v=0", *["m=audio 4000 RTP/AVP 0"] * 33))
    with pytest.raises(ParseError, match="without c="):
        rewrite(parse_sdp(lines("v=0", "m=audio 4000 RTP/AVP 0")), {0: V4})


@pytest.mark.parametrize(
    ("transport", "port", "expected"),
    [
        ("RTP/AVP", 4000, True), ("RTP/SAVPF", 4000, True), ("UDP/TLS/RTP/SAVP", 4000, True), ("udptl", 4000, True),
        ("TCP/MSRP", 4000, False), ("TCP/RTP/AVP", 4000, False), ("RTP/AVP", 0, False),
    ],
)  # fmt: skip
def test_what_a_media_proxy_carries(transport, port, expected):
    assert parse_sdp(lines("v=0", f"m=audio {port} {transport} 0")).medias[0].is_relayed is expected


PART = b"--b1\r\nContent-Type: application/sdp\r\n\r\n"
OTHER = b"--b1\r\nContent-Type: text/plain\r\n\r\nv=0\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        pytest.param("application/sdp", SIMPLE, SIMPLE, id="plain"),
        pytest.param("Application/SDP ; charset=x", SIMPLE, SIMPLE, id="with-parameters"),
        pytest.param("", SIMPLE, SIMPLE, id="no-content-type"),
        pytest.param("", b"hello", None, id="no-content-type-and-something-else"),
        pytest.param("text/plain", SIMPLE, None, id="something-else"),
        pytest.param("application/sdp", b"", None, id="empty"),
        pytest.param("multipart/mixed;boundary=b1", OTHER + PART + SIMPLE + b"\r\n--b1--", SIMPLE, id="second-part"),
        pytest.param('multipart/mixed; x="a;b"; boundary="b1"', PART + b"v=0\r\n--b1--", b"v=0", id="quoted-boundary"),
        pytest.param("multipart/mixed;boundary=b1", b"preamble\r\n" + PART + SIMPLE, SIMPLE, id="not-closed"),
        pytest.param("multipart/mixed;boundary=b1", OTHER + b"--b1--", None, id="no-description"),
        pytest.param("multipart/mixed", PART + SIMPLE, None, id="no-boundary"),
    ],
)
def test_where_the_description_is(content_type, body, expected):
    start, end = find_sdp(content_type, body)
    assert (body[start:end] if start >= 0 else None) == expected
