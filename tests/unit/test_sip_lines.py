"""Names of header lines: what is guessed is what is there, and what is kept is bounded."""

import pytest

from serpy.errors import ParseError, ProtocolError
from serpy.sip import lines as known
from serpy.sip.limits import NAME_MAX, NAMES_KEPT
from serpy.sip.parser import parse_message

HEAD = (
    "OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h:5060;branch=z9hG4bK{via}\r\nFrom: <sip:a@h>;tag={tag}\r\n"
    "To: <sip:b@h>\r\nCall-ID: {tag}@h\r\nCSeq: {number} OPTIONS\r\n"
)


def parse(extra: str = "", *, via: str = "1", tag: str = "t", number: int = 1, end: str = "\r\n"):
    return parse_message((HEAD.format(via=via, tag=tag, number=number) + extra + end).encode())


def test_lines_in_any_order_come_out_as_they_stand():
    one, two, three = "Max-Forwards: 70\r\n", "Contact: <sip:a@h>\r\n", "Max-Forwards: 7\r\n"
    for extra in (one + two, two + one, three + two, one + two, two, two + three, one, "", two + one):
        for tag in ("t1", "t2"):
            message = parse(extra, tag=tag)
            assert message.lines[5:] == extra.split("\r\n")[:-1]
            assert message.names[:5] == ["via", "from", "to", "call-id", "cseq"]
            assert (message.from_tag, message.call_id) == (tag, f"{tag}@h")
            assert message.max_forwards == (70 if one in extra else 7 if three in extra else None)
            message.check_mandatory()


def test_a_line_that_only_begins_like_a_known_one_is_another():
    assert parse("Subject: hello\r\n").get("subject") == "hello"
    assert parse("Subject: hello world\r\n").get("subject") == "hello world"
    assert parse("Subject: hell\r\n").get("subject") == "hell"
    assert parse("Subject: hello\r\n").lines[5] == "Subject: hello"


@pytest.mark.parametrize(
    "bad", ["Via: a\rb\r\n", "Subject: a\rb\r\n", "Via: a\nb\r\n", "no colon\r\n", "sx\r\n", ": x\r\n"]
)
def test_a_good_guess_hides_no_bad_line(bad):
    for _ in range(3):
        parse("Subject: hello\r\nVia: SIP/2.0/UDP h\r\n")
        with pytest.raises(ProtocolError):
            parse("Subject: hello\r\n" + bad)


@pytest.mark.parametrize("line", ["CALL-id: x@h", "i : x@h", "i: x@h", "cAlL-iD: x@h"])
def test_call_id_is_found_however_its_name_is_written(line):
    text = HEAD.format(via="1", tag="t", number=1).replace("Call-ID: t@h", line)
    for _ in range(2):
        message = parse_message((text + "\r\n").encode())
        message.check_mandatory()
        assert message.call_id == "x@h"


def test_a_bad_value_is_refused_each_time():
    for _ in range(2):
        with pytest.raises(ParseError) as caught:
            parse_message(
                HEAD.format(via="1", tag="t", number=1).replace("<sip:a@h>", "<sip:a@h").encode() + b"\r\n"
            ).check_mandatory()
        assert caught.value.header == "From"


def test_the_first_of_two_lines_counts_and_the_check_sees_both():
    message = parse("Call-ID: other@h\r\n")
    assert message.call_id == "t@h"
    with pytest.raises(ParseError):
        message.check_mandatory()


def test_content_length_cuts_the_body_each_time():
    for body, rest in (("abc", ""), ("abc", "def"), ("abc", ""), ("abc", "\r\n\r\n")):
        message = parse("Content-Length: 3\r\n", end="\r\n" + body + rest)
        assert (message.body, message.length) == (b"abc", 3)
    with pytest.raises(ParseError):
        parse("Content-Length: 3\r\n", end="\r\nab")


def test_what_is_kept_is_bounded_and_no_chain_outlives_it():
    first = known.name_of("X-First: 1", known.START)
    assert first is not None
    before = first
    for number in range(NAMES_KEPT + 10):
        after = known.name_of(f"X-Some-{number}: x", before)
        assert after is not None
        before = after
        assert len(known._others) <= NAMES_KEPT
    assert first.follower is first.other is None
    assert parse().from_tag == "t"


def test_a_name_is_as_long_as_names_may_be():
    name = "X" * NAME_MAX
    assert parse(f"{name}: 1\r\nMax-Forwards: 70\r\n").lines[5:] == [f"{name}: 1", "Max-Forwards: 70"]
    with pytest.raises(ProtocolError):
        parse(f"{name}x: 1\r\n")


@pytest.mark.parametrize(
    ("line", "number", "method"),
    [
        ("CSeq: 1 OPTIONS", 1, "OPTIONS"),
        ("CSeq:1 OPTIONS", 1, "OPTIONS"),
        ("CSeq:  1\tOPTIONS ", 1, "OPTIONS"),
        ("CSeq: 999999999 OPTIONS", 999999999, "OPTIONS"),
        ("CSeq: 2147483647 OPTIONS", 2147483647, "OPTIONS"),
        ("CSeq: 0000000001 OPTIONS", 1, "OPTIONS"),
        ("CSeq: 1 oPTIONS", 1, "oPTIONS"),
    ],
)
def test_cseq_is_read_however_it_is_written(line, number, method):
    text = HEAD.format(via="1", tag="t", number=1).replace("CSeq: 1 OPTIONS", line)
    cseq = parse_message((text + "\r\n").encode()).cseq
    assert (cseq.number, cseq.method) == (number, method)


@pytest.mark.parametrize(
    "line",
    ["CSeq: OPTIONS", "CSeq: 1", "CSeq: 1OPTIONS", "CSeq: 2147483648 OPTIONS", "CSeq: 1 OPT IONS", "CSeq: -1 OPTIONS"],
)
def test_a_bad_cseq_is_refused(line):
    text = HEAD.format(via="1", tag="t", number=1).replace("CSeq: 1 OPTIONS", line)
    with pytest.raises(ParseError):
        parse_message((text + "\r\n").encode()).check_mandatory()


def test_sent_by_is_read_with_all_kinds_of_parameters():
    for sent_by, host in (("192.0.2.5", "192.0.2.5"), ("192.0.2.", "192.0.2."), ("192.0.2.5;rport", "192.0.2.5")):
        for params in ("", ";branch=z9hG4bK1", ";branch=z9hG4bK1;rport", ";x=1, SIP/2.0/UDP b"):
            text = HEAD.format(via="1", tag="t", number=1).replace("h:5060;branch=z9hG4bK1", sent_by + params)
            via = parse_message((text + "\r\n").encode()).via
            assert (via.host, via.branch) == (host, "z9hG4bK1" if "branch" in params else "")
