"""What leaves: forwarded requests and responses, answers, ACK and CANCEL."""

from __future__ import annotations

import random

import pytest

from serpy.sip.message import Edits, Request
from serpy.sip.parser import parse_message
from serpy.sip.writer import build_ack, build_cancel, build_forwarded_response, build_reply, build_request, render


def _request(extra="", method="INVITE", body=""):
    text = (
        f"{method} sip:b@h SIP/2.0\nVia: SIP/2.0/UDP a;branch=z9hG4bK1;rport\nVia: SIP/2.0/UDP z;branch=z9hG4bK0\n"
        f"Max-Forwards: 70\nFrom: <sip:a@h>;tag=1\nTo: <sip:b@h>\nCall-ID: c\nCSeq: 7 {method}\n{extra}\n{body}"
    )
    message = parse_message(text.replace("\n", "\r\n").encode())
    assert isinstance(message, Request)
    return message


def _lines(data):
    return data.decode().split("\r\n")


VIA = "Via: SIP/2.0/UDP p;branch=z9hG4bKp"


def test_a_forwarded_request_differs_in_start_line_and_top_only():
    request = _request("Subject: x\n")
    sent = build_request(request, "sip:b@next", VIA, Edits(), ["Record-Route: <sip:p;lr>"])
    assert _lines(sent)[:3] == ["INVITE sip:b@next SIP/2.0", VIA, "Record-Route: <sip:p;lr>"]
    assert _lines(sent)[3:-2] == request.lines


@pytest.mark.parametrize(
    ("routes", "drop", "left"),
    [
        pytest.param(["<sip:1>"], 1, [], id="the-only-value"),
        pytest.param(["<sip:1>, <sip:2>"], 1, ["Route: <sip:2>"], id="first-of-a-line"),
        pytest.param(["<sip:1>", "<sip:2>"], 1, ["Route: <sip:2>"], id="first-line"),
        pytest.param(["<sip:1>,<sip:2>", "<sip:3>, <sip:4>"], 3, ["Route: <sip:4>"], id="over-two-lines"),
        pytest.param(["<sip:1>"], 5, [], id="more-than-there-are"),
        pytest.param(['"a,b" <sip:1,x>, <sip:2>'], 1, ["Route: <sip:2>"], id="commas-inside"),
    ],
)
def test_route_values_are_dropped_from_the_top(routes, drop, left):
    request = _request("".join(f"Route: {route}\n" for route in routes))
    sent = build_request(request, "sip:x", VIA, Edits(), (), drop)
    assert [line for line in _lines(sent) if line.startswith("Route")] == left


def test_edits_are_applied_in_their_places():
    request = _request("Xa: 1\nXb: 2\nXc: 3\n")
    edits = Edits()
    assert not edits
    a, b, c = request.find("xa"), request.find("xb"), request.find("xc")
    edits.remove(b)
    edits.remove(b)
    edits.replace(b, "Xb: never")
    edits.replace(a, "Xa: one")
    edits.replace(request.find("max-forwards"), "Max-Forwards: 69")
    edits.insert_before(a, "X: before")
    edits.insert_after(b, "Y: after removed")
    edits.insert_after(c, "Z: after")
    edits.prepend("T2: top")
    edits.prepend("T1: top")
    edits.append("E1: end")
    edits.append("E2: end")
    assert edits
    assert edits.is_removed(b)
    sent = _lines(build_request(request, "sip:x", VIA, edits))
    assert sent[1:4] == [VIA, "T1: top", "T2: top"]
    assert sent[-9:-2] == ["X: before", "Xa: one", "Y: after removed", "Xc: 3", "Z: after", "E1: end", "E2: end"]
    assert "Max-Forwards: 69" in sent


def test_a_copy_of_edits_is_independent():
    edits = Edits()
    edits.insert_before(1, "A: 1")
    edits.replace(2, "B: 2")
    edits.remove(3)
    edits.append("C: 3")
    edits.prepend("D: 4")
    copy = edits.copy()
    copy.insert_before(1, "A: 2")
    copy.remove(4)
    copy.append("C: 4")
    copy.body = b"x"
    assert edits.before == {1: ["A: 1"]}
    assert edits.removed == {3}
    assert edits.at_end == ["C: 3"]
    assert edits.body is None
    assert copy.body == b"x"
    assert not Edits().copy()


@pytest.mark.parametrize("extra", ["Content-Length: 3\n", "l: 3\n", ""])
def test_a_new_body_brings_its_length(extra):
    request = _request(extra, body="abc")
    edits = Edits()
    edits.body = b"12345"
    sent = parse_message(build_request(request, "sip:x", VIA, edits))
    assert sent.body == b"12345"
    assert sent.content_length == 5
    assert sent.names.count("content-length") == 1


def test_edits_and_dropped_routes_together_keep_the_indexes():
    request = _request("Route: <sip:1>\nXa: 1\n")
    edits = Edits()
    edits.replace(request.find("xa"), "Xa: one")
    edits.insert_before(request.find("route"), "B: 2")
    sent = _lines(build_request(request, "sip:x", VIA, edits, (), 1))
    assert sent[-4:-2] == ["B: 2", "Xa: one"]
    assert not [line for line in sent if line.startswith("Route")]


@pytest.mark.parametrize(
    ("vias", "left"),
    [
        (["SIP/2.0/UDP p", "SIP/2.0/UDP a"], ["Via: SIP/2.0/UDP a"]),
        (["SIP/2.0/UDP p, SIP/2.0/UDP a,SIP/2.0/UDP b"], ["Via: SIP/2.0/UDP a, SIP/2.0/UDP b"]),
        (["SIP/2.0/UDP p"], []),
    ],
)
def test_a_forwarded_response_loses_its_top_via(vias, left):
    head = "SIP/2.0 200 Fine\r\n" + "".join(f"Via: {via}\r\n" for via in vias) + "Call-ID: c\r\n\r\nbody"
    response = parse_message(head.encode())
    edits = Edits()
    sent = build_forwarded_response(response, edits)
    assert sent.endswith(b"Call-ID: c\r\n\r\nbody")
    assert [line for line in _lines(sent) if line.startswith("Via")] == left
    edits.append("X: 1")
    assert b"Call-ID: c\r\nX: 1\r\n" in build_forwarded_response(response, edits)


@pytest.mark.parametrize(
    ("to", "answered"),
    [
        ("<sip:b@h>;", "To: <sip:b@h>;tag=t"),
        ("sip:b@h ; ", "To: sip:b@h;tag=t"),
        ("<sip:b@h>;x=y;", "To: <sip:b@h>;x=y;tag=t"),
        ("<sip:b@h;>", "To: <sip:b@h;>;tag=t"),
        ('"a;" <sip:b@h>;x=";"', 'To: "a;" <sip:b@h>;x=";";tag=t'),
        ("<sip:b@h>;tag=", "To: <sip:b@h>;tag=t"),
        ("B <sip:b@h>;tag;x=y", "To: B <sip:b@h>;x=y;tag=t"),
        ("<sip:b@h>;tag=old;", "To: <sip:b@h>;tag=old"),
        ("<sip:b@h>\n ;", "To: <sip:b@h>;tag=t"),
    ],
)
def test_an_answer_is_well_formed_however_to_ended(to, answered):
    request = _request()
    text = request.raw.decode().replace("To: <sip:b@h>", "To: " + to.replace("\n", "\r\n"))
    request = parse_message(text.encode())
    assert answered in _lines(build_reply(request, 200, "OK", to_tag="t"))


def test_so_it_is_however_from_and_via_ended():
    text = _request().raw.decode().replace("tag=1", "tag=1; ").replace(";rport", ";rport ;").replace("bK0", "bK0;")
    lines = _lines(build_reply(parse_message(text.encode()), 200, "OK", to_tag="t", received="9.9.9.9", rport=4))
    assert lines[1:4] == [
        "Via: SIP/2.0/UDP a;branch=z9hG4bK1;rport=4;received=9.9.9.9", "Via: SIP/2.0/UDP z;branch=z9hG4bK0",
        "From: <sip:a@h>;tag=1",
    ]  # fmt: skip


def test_an_answer_copies_what_the_rfc_says():
    request = _request("Record-Route: <sip:r>\nTimestamp: 5\nContact: <sip:x>\n")
    reply = parse_message(
        build_reply(request, 200, "OK", to_tag="t", headers=["Contact: <sip:me>"], received="9.9.9.9", rport=4)
    )
    assert reply.names == ["via", "via", "from", "to", "call-id", "cseq", "record-route", "contact", "content-length"]
    assert reply.to_tag == "t"
    assert (reply.via.received, reply.via.rport) == ("9.9.9.9", 4)
    assert parse_message(build_reply(request, 486, "Busy", to_tag="t")).has("record-route") is False
    trying = parse_message(build_reply(request, 100, "Trying", to_tag="t"))
    assert (trying.to_tag, trying.has("timestamp"), trying.has("record-route")) == ("", True, False)


def test_a_to_tag_that_is_there_stays():
    request = parse_message(render(_request()).replace(b"To: <sip:b@h>", b"To: <sip:b@h> ; Tag = old"))
    assert isinstance(request, Request)
    assert parse_message(build_reply(request, 200, "OK", to_tag="new")).to_tag == "old"


def test_an_answer_with_a_body_has_its_length():
    reply = parse_message(build_reply(_request(), 200, "OK", to_tag="t", headers=["Content-Type: a/b"], body=b"xyz"))
    assert (reply.content_length, reply.body) == (3, b"xyz")


def test_a_malformed_to_does_not_stop_the_answer():
    request = parse_message(render(_request()).replace(b"To: <sip:b@h>", b'To: "x <sip:b@h>'))
    assert isinstance(request, Request)
    assert b";tag=t\r\n" in build_reply(request, 400, "Bad Request", to_tag="t")


@pytest.mark.parametrize("as_bytes", [True, False])
def test_ack_and_cancel_take_the_way_of_the_invite(as_bytes):
    data = build_request(
        _request("Route: <sip:p1>\nRequire: x\nContent-Length: 3\n", body="abc"), "sip:b@next", VIA, Edits()
    )
    sent = data if as_bytes else parse_message(data)
    assert isinstance(sent, bytes | Request)
    response = parse_message(build_reply(parse_message(data), 486, "Busy", to_tag="far"))
    ack = parse_message(build_ack(sent, response))
    cancel = parse_message(build_cancel(sent, ["Reason: SIP;cause=200"]))
    for made, method, to_tag in ((ack, "ACK", "far"), (cancel, "CANCEL", "")):
        made.check_mandatory()
        assert (made.method, made.request_uri) == (method, "sip:b@next")
        assert made.get_all("via") == [VIA.partition(": ")[2]]
        assert (made.cseq.number, made.to_tag, made.from_tag, made.call_id) == (7, to_tag, "1", "c")
        assert made.get_all("route") == ["<sip:p1>"]
        assert not made.has("require")
        assert made.body == b""
    assert cancel.get("reason") == "SIP;cause=200"


def test_ack_and_cancel_keep_a_via_that_cannot_be_split():
    sent = render(_request()).replace(b"Via: SIP/2.0/UDP a;", b"Via: SIP/2.0/UDP <a, b;")
    response = parse_message(build_reply(_request(), 486, "Busy", to_tag="far"))
    for made in (build_ack(sent, response), build_cancel(sent)):
        assert b"\r\nVia: SIP/2.0/UDP <a, b;branch=z9hG4bK1;rport\r\n" in made


@pytest.mark.parametrize(
    "rest", ["\nabc", "Content-Length: 3\n\nabc", "Content-Length: 3\n\nabc and more", "X: ä\n\nabc"]
)
@pytest.mark.parametrize(
    "via", ["Via: SIP/2.0/UDP p;branch=1\n", "v:SIP/2.0/UDP p\n", "Via: SIP/2.0/UDP p, SIP/2.0/UDP q\n", ""]
)
@pytest.mark.parametrize("start", ["SIP/2.0 200 OK\n", "SIP/2.0 200 Ö\n", "SIP/2.0 200 OK\nServer: x\n"])
def test_a_forwarded_response_lacks_its_first_via_and_nothing_else(start, via, rest):
    below = "Via: SIP/2.0/UDP r\nFrom: <sip:a@h>;tag=1\n"
    response = parse_message((start + via + below + rest).replace("\n", "\r\n").encode())
    left = "Via: SIP/2.0/UDP q\n" if "q" in via else ""
    body_at = rest.rfind("abc")
    expected = start + (left + below if via else below.partition("\n")[2]) + rest[: body_at + 3]
    if "Length" not in rest:
        expected = start + (left + below if via else below.partition("\n")[2]) + rest
    assert build_forwarded_response(response, Edits()) == expected.replace("\n", "\r\n").encode()


def test_edits_hit_their_lines_also_beyond_the_sixtieth():
    request = _request("".join(f"X-{number}: a\n" for number in range(80)))
    edits = Edits()
    for number in (0, 40, 55, 56, 57, 79):
        at = request.find(f"x-{number}")
        edits.replace(at, f"X-{number}: b")
        edits.insert_before(at, f"Y-{number}: before")
        edits.insert_after(at, f"Y-{number}: after")
    edits.remove(request.find("x-41"))
    made = parse_message(build_request(request, "sip:n@h", VIA, edits.copy()))
    for number in range(80):
        changed = number in (0, 40, 55, 56, 57, 79)
        assert made.get(f"x-{number}") == (None if number == 41 else "b" if changed else "a")
        assert made.get_all(f"y-{number}") == (["before", "after"] if changed else [])


@pytest.mark.parametrize("body", ["", "v=0\r\n"])
def test_what_leaves_in_slices_is_what_leaves_line_by_line(body):
    """Random edits of a head in ASCII, and of the same with one character that is not (which is rendered line by line)."""
    head = "".join(f"X{number}: {number}\r\n" for number in range(70))
    text = (
        "INVITE sip:b@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nMax-Forwards: 70\r\nFrom: <sip:a@a>;tag=1\r\n"
        f"To: <sip:b@b>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
    )
    plain = parse_message(text.encode())
    other = parse_message(text.replace("X69: 69", "X69: ä").encode())
    assert plain.raw_end
    assert not other.raw_end
    rng = random.Random(9)
    for _ in range(200):
        edits = Edits()
        for _ in range(rng.randint(0, 6)):
            index = rng.randrange(len(plain.lines)) if rng.random() < 0.7 else rng.randrange(3)
            change = rng.choice((edits.replace, edits.insert_before, edits.insert_after, edits.remove))
            if change == edits.remove:
                edits.remove(index)
            else:
                change(index, rng.choice(("New: 1", "New: ö", "Other: 2")))
        if rng.random() < 0.3:
            edits.append("End: 1")
        if rng.random() < 0.3:
            edits.prepend("Top: 1")
        on_top = ["Record-Route: <sip:h;lr>"] if rng.random() < 0.5 else []
        expected = build_request(other, "sip:x", VIA, edits, on_top).replace("X69: ä".encode(), b"X69: 69")
        assert build_request(plain, "sip:x", VIA, edits, on_top) == expected
