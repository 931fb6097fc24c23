"""Whatever a phone or a media proxy sends: only ProtocolError, and what is not replaced stays."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from serpy.errors import ProtocolError
from serpy.rtp.bencode import decode, encode
from serpy.rtp.flags import parse_flags
from serpy.rtp.ng import is_pong, parse_description
from serpy.rtp.rtpproxy import parse_media_answer
from serpy.sip.sdp import Target, find_sdp, parse_sdp, rewrite

ODD = st.sampled_from(
    [b"=", b"", b"x", b"m", b"m=", b"c=IN", b"a=rtcp:", b"a=rtcp:x", b"\xff\x00", b"o=a b c IN IP4", b"i=x", b" "]
)
LINES = st.one_of(
    st.sampled_from(
        [b"v=0", b"o=- 1 1 IN IP4 10.0.0.5", b"s=-", b"c=IN IP4 10.0.0.5", b"c=IN IP6 ::1", b"c=IN IP4 0.0.0.0", b"t=0 0",
         b"m=audio 4000 RTP/AVP 0 8", b"m=video 5000/2 RTP/SAVPF 99", b"m=message 2855 TCP/MSRP *", b"m=audio 0 RTP/AVP 0",
         b"a=rtcp:4001", b"a=rtcp:4001 IN IP4 10.0.0.5", b"a=sendonly", b"i=text", b"a=nortpproxy:yes"]
    ),
    ODD,
    st.binary(max_size=12),
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\n", b""])


@st.composite
def descriptions(draw):
    parts = [b"v=0", draw(ENDS)]
    for _ in range(draw(st.integers(0, 12))):
        parts += [draw(LINES), draw(ENDS)]
    return b"".join(parts)


def read(data):
    try:
        return parse_sdp(data)
    except ProtocolError:
        return None


@given(st.one_of(descriptions(), st.binary(max_size=60)))
@settings(max_examples=400, deadline=None)
def test_reading_raises_only_protocol_errors_and_untouched_is_identical(data):
    sdp = read(data)
    if sdp is not None:
        assert rewrite(sdp, {}, mark=False) == data
        for media in sdp.medias:
            assert data[media.port_start : media.port_end].isdigit()


@given(descriptions(), st.booleans(), st.booleans())
@example(b"v=0\r\nc=IN IP4 10.0.0.5\r", False, False)  # a last line with half an end
@example(b"v=0\r\nc=IN IP4 10.0.0.5\r\nm=audio 4000 RTP/AVP 0 8\r", True, False)
@settings(max_examples=400, deadline=None)
def test_rewriting_changes_the_addresses_of_relayed_media_and_nothing_else(data, session, origin):
    sdp = read(data)
    if sdp is None:
        return
    targets = {
        index: Target("203.0.113.9", 40000 + 2 * index, False)
        for index, media in enumerate(sdp.medias)
        if media.is_relayed and media.connection is not None
    }
    new = read(rewrite(sdp, targets, session_connection=session, origin=origin))
    assert new is not None
    assert new.is_marked
    assert len(new.medias) == len(sdp.medias)
    for index, (before, after) in enumerate(zip(sdp.medias, new.medias, strict=True)):
        assert (after.kind, after.transport, after.formats) == (before.kind, before.transport, before.formats)
        assert after.port == (targets[index].port if index in targets else before.port)
        if index in targets:
            assert after.connection is not None
            assert after.connection.host == "203.0.113.9" or after.connection.is_null
        elif before.port and before.connection is not None:
            assert after.connection is not None
            assert after.connection.host == before.connection.host
    kept = [
        line for line in data.split(b"\n") if line[:2] not in (b"m=", b"c=", b"o=") and not line.startswith(b"a=rtcp:")
    ]
    lines = new.data.split(b"\n")
    at = 0
    for line in kept[:-1]:
        at = lines.index(line, at) + 1


@given(st.sampled_from(["application/sdp", "multipart/mixed;boundary=b", "", "multipart/x", 'multipart/mixed;boundary="', ";"]),
       st.lists(st.sampled_from([b"--b", b"--", b"\r\n", b"\n", b"Content-Type: application/sdp", b"v=0", b"x", b":"]),
                max_size=25).map(b"".join))  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_the_place_of_a_description_lies_within_the_body(content_type, body):
    start, end = find_sdp(content_type, body)
    assert (start, end) == (-1, -1) or 0 <= start <= end <= len(body)


VALUES = st.recursive(
    st.one_of(st.integers(-(10**17), 10**17), st.binary(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abc-", max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def plain(value):
    if isinstance(value, dict):
        return {key.encode(): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_bencode_gives_back_what_it_was_given(value):
    assert decode(encode(value)) == plain(value)


@given(st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(
    [b"d", b"l", b"i", b"e", b"1", b"-", b":", b"0", b"3:sdp", b"6:result2:ok", b"999999999999999999999", b"v=0"]),
    max_size=60).map(b"".join), st.just(b"l" * 100_000)))  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_answers_of_media_proxies_raise_only_protocol_errors(data):
    for call in (decode, parse_description, lambda text: parse_media_answer(text, "192.0.2.1"), is_pong):
        try:
            call(data)
        except ProtocolError:
            continue


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_can_be_given_as_flags(text):
    flags = parse_flags(text)
    assert flags.problem or flags.node <= 9999
