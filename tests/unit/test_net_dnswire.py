"""DNS messages: our questions as another library reads them, and what counts as an answer."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rrset
import pytest

from serpy.net.dnswire import FOREVER, parsed, rendered


@pytest.mark.parametrize("kind", ["A", "AAAA", "SRV", "NAPTR"])
@pytest.mark.parametrize("name", ["a", "example.com", "_sip._udp.example.com", "3.2.1.e164.arpa", "x" * 63 + ".test"])
def test_a_question_is_what_another_library_would_ask(name, kind):
    found = dns.message.from_wire(b"\x12\x34" + rendered(name, kind))
    wanted = dns.message.make_query(name, kind, payload=4096)
    wanted.id = 0x1234
    assert found == wanted
    assert found.to_wire() == wanted.to_wire()


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "x" * 64 + ".test", ".".join(["x" * 50] * 5), "bücher.test", "\udcff.test"]
)
def test_a_name_that_cannot_exist_is_no_question(name):
    assert rendered(name, "A") == b""


def answer(name="example.com", *, records=("192.0.2.1",)):
    found = dns.message.make_response(dns.message.from_wire(b"\x12\x34" + rendered(name, "A")))
    found.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", *records))
    return found


QUESTION = rendered("example.com", "A")


def test_an_answer_gives_its_records_and_their_ttl():
    found = parsed(answer().to_wire(), QUESTION)
    assert found.records("example.com", "A") == ([("192.0.2.1",)], 60)
    assert not found.is_refusal
    assert not found.is_cut_off
    assert found.negative_ttl("example.com") == FOREVER


def changed(**changes):
    message = answer()
    for name, value in changes.items():
        setattr(message, name, value)
    return message.to_wire()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x12\x34\x81\x80", id="cut-off-in-the-header"),
        pytest.param(b"\x12\x34" + QUESTION, id="our-question-come-back"),
        pytest.param(answer("example.org").to_wire(), id="another-name"),
        pytest.param(answer("example.com.evil").to_wire(), id="a-longer-name"),
        pytest.param(answer().to_wire()[:-3], id="cut-off"),
        pytest.param(changed(flags=dns.flags.QR | dns.opcode.to_flags(dns.opcode.UPDATE)), id="another-operation"),
        pytest.param(changed(question=[]), id="no-question"),
        pytest.param(b"\x12\x34\x81\x80" + b"\xff" * 60, id="rubbish"),
    ],
)
def test_what_is_no_answer_to_our_question(data):
    assert parsed(data, QUESTION) is None


def test_the_case_of_letters_does_not_matter():
    data = answer().to_wire()
    at = data.index(b"example")
    assert parsed(data[:at] + b"eXaMpLe" + data[at + 7 :], QUESTION) is not None


def test_a_server_that_could_not_read_the_question_may_leave_it_out():
    message = changed(question=[], answer=[], flags=dns.flags.QR | dns.rcode.FORMERR)
    found = parsed(message, QUESTION)
    assert found is not None
    assert found.is_refusal
