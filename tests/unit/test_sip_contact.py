"""Which Contacts are made to name the connection their message came by (RFC 3261 §18.1.1, 5626 §5.3)."""

from __future__ import annotations

import pytest
from support.contexts import reply_text, request_text

from serpy.sip.contact import kept_on_stream
from serpy.sip.flow import Flow, Listener
from serpy.sip.message import Edits
from serpy.sip.parser import parse_message

TCP = Listener(1, "tcp", "192.0.2.1", 5060)
SIX = Listener(2, "tcp", "2001:db8::1", 5060)
PHONE = Flow(TCP, "203.0.113.7", 40000, 9)
PHONE6 = Flow(SIX, "2001:db8::7", 40000, 9)
OURS = "Record-Route: <sip:192.0.2.1:5060;transport=tcp;lr>"
THEIRS = "Record-Route: <sip:203.0.113.7;lr>"


def sent(text, flow=PHONE, edits=None):
    """The Contact line of the message *text*, come by *flow*, as it leaves."""
    message = parse_message(text.encode())
    at = message.find("contact")
    edits = kept_on_stream(message, edits if edits is not None else Edits(), flow)
    return (edits.replaced or {}).get(at, message.lines[at] if at >= 0 else "")


@pytest.mark.parametrize(
    ("contact", "expected", "flow"),
    [
        ("<sip:a@203.0.113.7:40000>", "<sip:a@203.0.113.7:40000;transport=tcp>", PHONE),
        ("<sip:a@203.0.113.7>", "<sip:a@203.0.113.7:40000;transport=tcp>", PHONE),
        ("<SIP:a@203.0.113.7:5062;ob>;q=1", "<sip:a@203.0.113.7:40000;ob;transport=tcp>;q=1", PHONE),
        ("sip:a@203.0.113.7:5062;q=1", "<sip:a@203.0.113.7:40000;transport=tcp>;q=1", PHONE),
        ('"A, B" <sip:a@203.0.113.7>', '"A, B" <sip:a@203.0.113.7:40000;transport=tcp>', PHONE),
        ("<sip:a@[2001:DB8:0::7]:5062>", "<sip:a@[2001:db8::7]:40000;transport=tcp>", PHONE6),
    ],
)
def test_a_phone_that_names_no_transport_is_called_back_by_its_connection(contact, expected, flow):
    for name in ("Contact", "m"):
        answer = reply_text(f"{name}: {contact}", f"Record-Route: <sip:{flow.listener.sent_by};lr>")
        assert sent(answer, flow) == f"{name}: {expected}"


@pytest.mark.parametrize(
    ("contact", "expected"),
    [
        ("<sip:a@203.0.113.7:40000>", "<sip:a@203.0.113.7:40000;transport=tcp>"),
        ("sip:a@203.0.113.7:40000;q=1", "<sip:a@203.0.113.7:40000;transport=tcp>;q=1"),
        # Where they listen by UDP: who sends a large request by TCP says nothing else (RFC 3261 §18.1.1).
        ("<sip:a@203.0.113.7>", "<sip:a@203.0.113.7>"),
        ("<sip:a@203.0.113.7:5062;ob>;q=1", "<sip:a@203.0.113.7:5062;ob>;q=1"),
    ],
)
def test_of_a_request_only_the_port_of_its_connection_means_the_connection(contact, expected):
    assert sent(request_text(f"Contact: {contact}")) == f"Contact: {expected}"


@pytest.mark.parametrize(
    "contact",
    [
        pytest.param("<sip:a@203.0.113.7:5062;transport=tcp>", id="says-where-it-listens"),
        pytest.param("<sip:a@203.0.113.7:5062;transport=UDP>", id="wants-udp"),
        pytest.param("<sip:a@203.0.113.8:5062>", id="another-host"),
        pytest.param("<sip:a@phone.example.org>", id="a-name"),
        pytest.param("<sip:a@example.com;gr=urn:uuid:1>", id="gruu"),
        pytest.param("<sip:a@203.0.113.7;gr>", id="gruu-by-address"),
        pytest.param("<sip:a@203.0.113.7;maddr=203.0.113.9>", id="maddr"),
        pytest.param("<sips:a@203.0.113.7>", id="sips"),
        pytest.param("<tel:+1>", id="tel"),
        pytest.param("*", id="star"),
        pytest.param("<sip:a@203.0.113.7", id="malformed"),
    ],
)
def test_what_says_how_it_is_reached_or_is_elsewhere_stays(contact):
    assert sent(request_text(f"Contact: {contact}")) == f"Contact: {contact}"
    assert sent(reply_text(f"Contact: {contact}", OURS)) == f"Contact: {contact}"


def test_behind_another_proxy_it_is_for_that_proxy_to_know_its_phones():
    contact = "Contact: <sip:a@203.0.113.7:5062>"
    assert sent(request_text(contact, THEIRS)) == contact
    assert sent(reply_text(THEIRS, OURS, contact)) == contact
    assert sent(request_text(contact, "Via: SIP/2.0/TCP 203.0.113.7;branch=z9hG4bKx")) == contact
    assert sent(reply_text(OURS, THEIRS, contact)) != contact  # a proxy before us says nothing about the callee


def test_the_edits_of_others_stay_as_they_are_and_what_they_changed_is_kept():
    message = parse_message(request_text("Contact: <sip:a@203.0.113.7:40000>", "X: 1").encode())
    shared = Edits()
    assert kept_on_stream(message, shared, PHONE) is not shared
    assert not shared
    shared.remove(message.find("contact"))
    assert kept_on_stream(message, shared, PHONE) is shared
    edits = Edits()
    edits.replace(message.find("contact"), "Contact: <sip:other@203.0.113.7:40000>")
    changed = kept_on_stream(message, edits, PHONE).replaced
    assert changed[message.find("contact")] == "Contact: <sip:other@203.0.113.7:40000;transport=tcp>"


@pytest.mark.parametrize(
    "top",
    [
        "<sip:1192.0.2.1:5060;lr>", "<sip:203.0.113.7;x=192.0.2.1:5060;lr>", '"192.0.2.1:5060;" <sip:203.0.113.7;lr>',
        "<sip:192.0.2.1:5061;lr>",
    ],
)  # fmt: skip
def test_a_record_route_is_ours_by_its_host_and_port(top):
    contact = "Contact: <sip:a@203.0.113.7:5062>"
    assert sent(reply_text(f"Record-Route: {top}", contact)) == contact


def test_the_uri_is_replaced_where_it_stands_and_not_in_the_name():
    line = 'Contact: "a sip:a@203.0.113.7:40000\r\n x" <sip:a@203.0.113.7:40000>'
    assert sent(request_text(line)).endswith("<sip:a@203.0.113.7:40000;transport=tcp>")
