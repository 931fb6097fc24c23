"""When two URIs are the same (RFC 3261 §19.1.4, 3966 §4)."""

from __future__ import annotations

import pytest

from serpy.sip.equality import normal_escapes, texts_equal, uris_equal
from serpy.sip.uri import parse_uri

SAME = [
    # the examples of RFC 3261 section 19.1.4
    ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
    (
        "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
        "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
    ),
    (
        "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
        "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
    ),
    # spellings
    ("SIP:bob@192.0.2.1", "sip:bob@192.0.2.1"),
    ("sip:bob@[2001:DB8::0:1]:5070", "sip:bob@[2001:db8::1]:5070"),
    ("sip:bob@example.com.", "sip:bob@example.com"),
    ("sip:%2a%3b@h.example", "sip:*%3B@h.example"),
    ("sip:b%c3%b6b@h.example", "sip:b%C3%B6b@h.example"),
    ("sip:bob@h.example;line=A1B2", "sip:bob@h.example;line=a1b2"),
    ("sip:bob@h.example;x=%41", "sip:bob@h.example;X=a"),
    ("sip:bob@h.example;lr;ob", "sip:bob@h.example;ob"),
    ("sip:bob@h.example;maddr=EXAMPLE.org", "sip:bob@h.example;maddr=example.org."),
    ("tel:+1-201-555-0123", "tel:+12015550123"),
    ("tel:7042;phone-context=Example.com", "tel:7042;PHONE-CONTEXT=example.com"),
    ("tel:863-1234;phone-context=+1-914-555", "tel:8631234;phone-context=+1914555"),
    ("mailto:bob@example.com", "mailto:bob@example.com"),
]

DIFFERENT = [
    ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
    ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
    ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
    ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
    ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
    ("sip:bob@h.example", "sips:bob@h.example"),
    ("sip:h.example", "sip:bob@h.example"),
    ("sip:bob@h.example", "sip:bob:secret@h.example"),
    ("sip:bob;x@h.example", "sip:bob%3Bx@h.example"),  # a reserved character is not its escape
    ("sip:a%2561@h.example", "sip:a%61@h.example"),  # an escape is resolved once
    ("sip:bob@h.example;user=phone", "sip:bob@h.example"),
    ("sip:bob@h.example;maddr=192.0.2.1", "sip:bob@h.example"),
    ("sip:bob@h.example;ttl=1", "sip:bob@h.example"),
    ("sip:bob@h.example;method=INVITE", "sip:bob@h.example"),
    ("sip:bob@h.example;gr=1", "sip:bob@h.example;gr=2"),
    ("sip:bob@h.example?a=1&b=2", "sip:bob@h.example?a=1"),
    ("tel:+12015550123", "tel:12015550123;phone-context=+"),
    ("tel:+12015550123", "tel:+12015550123;ext=1"),
    ("mailto:bob@example.com", "mailto:BOB@example.com"),
    ("*", "sip:bob@example.com"),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_two_spellings_of_one_uri_are_equal(left, right):
    assert uris_equal(parse_uri(left), parse_uri(right))
    assert uris_equal(parse_uri(right), parse_uri(left))


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_uris_that_may_lead_elsewhere_are_not_equal(left, right):
    assert not texts_equal(left, right)
    assert not texts_equal(right, left)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("bob", "bob"),
        ("%62ob", "bob"),
        ("%7e", "~"),
        ("100%", "100%25"),
        ("%zz", "%25zz"),
        ("ö", "%C3%B6"),
        ("a b", "a%20b"),
    ],
)
def test_a_text_has_one_form_of_escapes(text, normal):
    assert normal_escapes(text) == normal
    assert normal_escapes(normal) == normal
