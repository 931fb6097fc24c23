"""What the native head accepts, of messages and addresses, the Python code accepts; both read the same out of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serpy.sip.lines import CANONICAL
from serpy.sip.message import Request
from serpy.sip.nameaddr import _plain_line, parse_nameaddr
from serpy.sip.native import ADDRESS, READ
from serpy.sip.parser import parse_plainly
from serpy.sip.via import via_of_line

pytestmark = pytest.mark.skipif(READ is None, reason="not compiled")

CORPUS = Path(__file__).parent.parent / "corpus"
SEEDS = [path.read_bytes() for path in sorted(CORPUS.rglob("*.sip")) if path.stat().st_size < 4000]
USUAL = (
    b"INVITE sip:bob@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5061;branch=z9hG4bK1;rport\r\nMax-Forwards: 70\r\n"
    b'From: "Al" <sip:al@example.com>;tag=a1\r\nTo: <sip:bob@example.com>\r\nCall-ID: c1@192.0.2.1\r\nCSeq: 7 INVITE\r\n'
    b"X-Own: 1\r\nContent-Length: 4\r\n\r\nbody"
)
ANSWER = (
    b"SIP/2.0 183 Session Progress\r\nv: SIP/2.0/TCP proxy.example.com;branch=z9hG4bK2\r\nf: <sip:al@example.com>;tag=a1\r\n"
    b"t: <sip:bob@example.com>;tag=b1\r\ni: c1@192.0.2.1\r\nCSEQ: 7 INVITE\r\nl: 0\r\n\r\n"
)
STARTS = (
    "INVITE sip:a@h SIP/2.0", "SIP/2.0 200 OK", "ACK tel:1 SIP/2.0", "SIP/2.0 699 ", "SIP sip:a SIP/2.0", "SIP/2.0 200 SIP/2.0",
    "SIP/2.0 700 x", "SIP/2.0 099 x", "SIP/2.0 200", "X  SIP/2.0", "A\tx SIP/2.0", "A b c SIP/2.0", "A b SIP/2.1", "a b SIP/2.0",
    "A" * 64 + " b SIP/2.0", "A" * 65 + " b SIP/2.0", "A SIP/2.0", "SIP/2.0  SIP/2.0", "INVITE \x80 SIP/2.0", "SIP/2.0 200 \xe9",
)  # fmt: skip
NAMES = st.one_of(
    st.sampled_from([*CANONICAL, "cSeQ", "X", "x-Y", "Via ", "", "CSeqs", "Content-Lengt", "X" * 128, "X" * 129, "\u017f", " To"]),
    st.text("abcVIATOv-.!%*_+`'~:\x00\x7f\xe9", max_size=6),
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        ["0", "1", "4", "5", " 4", "    4", "  ", "70", "255", "256", "999999999", "1234567890", "007", "-1", "1 INVITE", "1  INVITE", "1 invite",
         "999999999 ACK", "9999999999 ACK", "1 ", "1 INVITE ", "a@b", "a b", "", " ", "\t", "\ta", "a\t", "a\x00b", "a\x7fb", "\xe9",
         "SIP/2.0/UDP h;branch=z9hG4bK1", "SIP/2.0/TLS h:5061;branch=1;rport", "SIP/2.0/TCP h:0;branch=1", "SIP/2.0/UDP h:;branch=1",
         "SIP/2.0/UDP h:65535;branch=1", "SIP/2.0/UDP h:65536;branch=1", "SIP/2.0/UDP h:123456;branch=1", "SIP/2.0/UDP h:05;branch=1",
         "SIP/2.0/UDP h;branch=", "SIP/2.0/UDP h;branch=a,b", 'SIP/2.0/UDP h;branch="a"', "SIP/2.0/UDP h;branch=a;rport=1",
         "SIP/2.0/UDP h;rport;branch=a", "SIP/2.0/UDP h", "SIP/2.0/UDP ;branch=a", "SIP/2.0/SCTP h;branch=a", "SIP/2.0/udp h;branch=a",
         "SIP/2.0/UDP h;branch=a ", "SIP/2.0/UDP h_-.;branch=a;RPORT", "SIP/2.0/UDP [::1]:5060;branch=a"]
    ),
    st.text("SIP/2.0UDP h:;=,branch\t019", max_size=20),
)  # fmt: skip


@st.composite
def heads(draw):
    """Heads near to what is usual, in which the lines that are looked at come in all spellings."""
    lines = [draw(st.sampled_from(STARTS))]
    if draw(st.booleans()):
        lines.append(draw(st.sampled_from(["Via:", "Via: ", "v: ", "Via:  "])) + draw(VALUES))
    for _ in range(draw(st.integers(0, 8))):
        lines.append(draw(NAMES) + draw(st.sampled_from([":", ": ", ":  ", " : "])) + draw(VALUES))
    end = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    body = draw(st.sampled_from([b"", b"body", b"\r\n\r\n", b"a\r\n\r\nb", b"\xff\x00\n\n", b"12345678\r\n\r\n"]))
    return (end.join(lines) + end + end).encode("utf-8", "surrogateescape") + body


def told(data):
    """What the Python code reads, as ``READ`` tells it."""
    message = parse_plainly(data)
    is_request = isinstance(message, Request)
    cseq = message._cseq
    via = via_of_line(message.lines[0]) if message.names[:1] == ["via"] else None
    if via is None or not via._usual or not via.branch:
        via_told = ("", "", 0, "", -1)
    else:
        via_told = (via.transport, via.host, via.port, via.branch, via.rport)
    return (
        message.start_line, message.names, message.lines, message.body, message.method if is_request else "",
        message.request_uri if is_request else message.reason, 0 if is_request else message.status, message.seen, message.twice,
        message._call_id or "", cseq.number if cseq else -1, cseq.method if cseq else "", message._max_forwards, message.length,
        message.raw_end, *via_told,
    )  # fmt: skip


def check(data):
    """True when the native head accepts *data*; then the Python code agrees."""
    head = READ(data)
    if head is None:
        return False
    expected = told(data)
    if head[15] == "" or expected[15] == "":  # a Via that only one of them calls usual is read later, and by Python
        assert head[15] == "", "what C is certain of, Python is"
        head, expected = head[:15], expected[:15]
    assert head == expected
    return True


@pytest.mark.parametrize("data", [USUAL, ANSWER, USUAL.replace(b"Length: 4", b"Length:   4"), USUAL + b"\r\n\r\n"])
def test_what_nearly_everybody_writes_is_accepted_with_its_via(data):
    assert check(data)
    assert (READ(USUAL)[15:], READ(ANSWER)[15:]) == (
        ("UDP", "192.0.2.1", 5061, "z9hG4bK1", 0),
        ("", "", 0, "", -1),  # a compact name
    )


def test_the_corpus_has_enough_messages_that_are_accepted():
    valid = [path.read_bytes() for path in sorted((CORPUS / "valid").rglob("*.sip"))]
    assert sum(check(data) for data in valid) > len(valid) // 3


@pytest.mark.parametrize("data", [USUAL, ANSWER, *SEEDS])
def test_every_prefix_is_read_alike(data):
    for end in range(len(data) + 1):
        check(data[:end])


@settings(max_examples=600, deadline=None)
@given(heads())
def test_heads_in_all_spellings_are_read_alike(data):
    check(data)


@settings(max_examples=300, deadline=None)
@given(heads(), st.integers(0, 300), st.binary(max_size=3))
def test_damaged_heads_are_read_alike(data, at, damage):
    check(data[:at] + damage + data[at + 1 :])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([USUAL, ANSWER, *SEEDS]), st.randoms(use_true_random=False))
def test_damaged_messages_of_the_corpus_are_read_alike(data, rng: random.Random):
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(damaged) + 1)
        if rng.random() < 0.5:
            damaged[at : at + rng.choice((0, 1, 1, 10))] = rng.choice(
                (b"\r\n", b"\n", b"\r", b'"', b"<", b",", b";", b":", b"%", b"\x00", b" ", b"\t", b"\xff", b"\r\n ", b"\r\n\r\n", b"")
            )  # fmt: skip
        else:
            other = rng.choice(SEEDS)
            start = rng.randrange(len(other) + 1)
            damaged[at:at] = other[start : start + rng.randrange(200)]
    check(bytes(damaged))


@settings(deadline=None)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\r\n\r\n")
@example(b"A b SIP/2.0\r\n\r\n")
@example(b"A b SIP/2.0\r\nl:0\r\n\r\n")
@example(b"A b SIP/2.0\r\nl:1\r\n\r\n")
def test_any_bytes_are_read_alike(data):
    check(data)
    check(b"A b SIP/2.0\r\n" + data)


ADDRESSES = st.lists(
    st.sampled_from(
        ["To:", "To: ", "t: ", ": ", '"', '"A b" ', '"a\\"b" ', "Al ", "<", ">", "sip:", "sips:", "a", "a@", "@", "h", "1", "255",
         "256", "0", "01", ".", "-", "_", ":", ":5060", ":0", ":65536", ":050600", ";", "=", ";lr", ";tag=", "t-1", "x" * 63, "x" * 64,
         ";tag=1;x", " ", "\t", "[::1]", "%41", "\xe9", "\x00", "~!*'()+", "<sip:a@h>", "<sip:1.2.3.4>", "sip:a@192.0.2.1:5060", ","]
    ), max_size=9,
).map("".join)  # fmt: skip


def check_address(line):
    """True when the native head accepts *line*; then the Python code agrees."""
    told = ADDRESS(line)
    if told is None:
        return False
    display, uri_text, tag = told
    plain = _plain_line(line)
    assert plain is not None
    assert plain._is_checked
    for found in (plain, parse_nameaddr(line[line.find(":") + 1 :].strip(" \t\r\n"))):
        assert (found.display, found.uri_text, found.params) == (display, uri_text, {"tag": tag} if tag else {})
        found.uri  # noqa: B018 - must not raise
    return True


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("From: <sip:al@example.com>;tag=a-1.b", ("", "sip:al@example.com", "a-1.b")),
        ('t: "Al B." <sip:al@example.com:5061;x=y;lr>', ('"Al B."', "sip:al@example.com:5061;x=y;lr", "")),
        ("Route: <sip:192.0.2.1;lr>", ("", "sip:192.0.2.1;lr", "")),
        ("Route: <sip:" + "a" * 122 + "@h>", ("", "sip:" + "a" * 122 + "@h", "")),
    ],
)
def test_an_ordinary_address_is_accepted(line, told):
    assert check_address(line)
    assert ADDRESS(line) == told


@pytest.mark.parametrize(
    "line", ["", "To: sip:a@h", "To:<sip:a@h>", "To: <sip:a@h>;tag=", "To: <sip:a@h>;tag=a;b", "To: <sip:@h>", "To: <sip:a@1.2.3>",
             'To: "a\\"" <sip:a@h>', 'To: "a"<sip:a@h>', "To: Al <sip:a@h>", "To: <sip:a@h", "To <sip:a@h>", "To: <sip:a@h-.x>",
             "To: <sip:" + "a" * 123 + "@h>", "To: <sip:a@h>\xe9"]
)  # fmt: skip
def test_other_addresses_are_left_to_python(line):
    assert ADDRESS(line) is None


@settings(max_examples=1000, deadline=None)
@given(ADDRESSES)
def test_addresses_are_read_alike(text):
    check_address(text)
    check_address(f"To: <sip:{text}>")
    check_address(f"To: <sip:{text}>;tag=1")
    check_address(f"To: {text}<sip:a@h>{text}")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([USUAL, ANSWER, *SEEDS]), st.integers(0, 100), st.text(max_size=2))
def test_damaged_addresses_of_the_corpus_are_read_alike(data, at, damage):
    for line in data.decode("utf-8", "surrogateescape").split("\r\n"):
        check_address(line)
        check_address(line[:at] + damage + line[at + 1 :])


def test_what_is_too_much_is_left_to_python():
    start, line = b"A b SIP/2.0\r\n", b"X: 1\r\n"
    assert check(start + line * 255 + b"\r\n")
    assert READ(start + line * 256 + b"\r\n") is None
    assert check(b"A b SIP/2.0\r\nX: " + b"x" * 16000 + b"\r\n\r\n")
    assert READ(b"A b SIP/2.0\r\nX: " + b"x" * 17000 + b"\r\n\r\n") is None
    assert check(start + line + b"\r\n" + b"x" * 65000)
    assert READ(start + line + b"\r\n" + b"x" * 65536) is None


@pytest.mark.parametrize("value", [None, "INVITE", 1, bytearray(USUAL)])
def test_only_bytes_can_be_read(value):
    with pytest.raises(TypeError):
        READ(value)
    with pytest.raises(TypeError):
        ADDRESS(USUAL)
