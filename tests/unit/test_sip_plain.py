"""The short look at a URI: what it takes for well formed is, and it takes what phones write."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serpy.sip.plain import is_plain_uri
from serpy.sip.uri import parse_uri

HOSTS = st.lists(st.text(st.sampled_from("aZ0129-_.x"), max_size=5), min_size=1, max_size=5).map(".".join)
PIECES = st.tuples(
    st.sampled_from(["sip:", "sip:", "sip:", "sips:", "SIP:", "tel:", ""]),
    st.one_of(st.just(""), st.text(st.sampled_from("a0-_.!~*'()%:@;?&é \t<"), max_size=4).map(lambda user: f"{user}@")),
    st.one_of(HOSTS, st.sampled_from(["192.0.2.1", "192.0.2.256", "01.2.3.4", "[2001:db8::1]", "1.2.3", "a.0x7f"])),
    st.sampled_from(["", ":5060", ":", ":0", ":65535", ":65536", ":000001", ":5a"]),
    st.sampled_from(["", ";lr", ";", ";;", ";a=b;c", ";a=%41", ";a b", "?a=b", ";x=<", ";ob;+a=1"]),
)


@settings(max_examples=500)
@given(PIECES)
@example(("sip:", "a@", "1.2.3.4", ":5060", ";transport=udp"))
def test_what_is_plain_is_well_formed(pieces):
    text = "".join(pieces)
    if is_plain_uri(text):
        uri = parse_uri(text)  # no ParseError
        assert uri.is_sip
        assert uri.normal_host
        assert not uri.headers


@pytest.mark.parametrize(
    "text",
    [
        "sip:alice@example.com",
        "sip:+49.30-1234@192.0.2.1:5060;transport=udp",
        "sip:bob@sip-1.Example.COM:65535;ob;lr=on",
        "sip:example.com",
        "sip:192.0.2.1",
        "sip:u_1!~*'()@a1.example",
        "sip:a@0.0.0.0:1",
    ],
)
def test_what_phones_write_is_plain(text):
    assert is_plain_uri(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "sip:", "sip:@example.com", "sip:a@", "sips:a@example.com", "tel:+1", "sip:a%41@example.com", "sip:a:b@example.com",
        "sip:a@1.2.3", "sip:a@1.2.3.256", "sip:a@01.2.3.4", "sip:a@1.2.3.4.5", "sip:a@127.1", "sip:a@0x7f.1", "sip:a@x.0x7f",
        "sip:a@example.com.", "sip:a@.example.com", "sip:a@a..b", "sip:a@-a.example", "sip:a@a-.example", "sip:a@a.example-",
        "sip:a@a.b:0", "sip:a@a.b:", "sip:a@a.b:65536", "sip:a@a.b:99999999999999999999", "sip:a@a.b:1x", "sip:a@[::1]",
        "sip:a@a.b?x=y", "sip:a@a.b;x=%41", 'sip:a@a.b;x="', "sip:a b@a.b", "sip:é@a.b", "sip:a@" + "a" * 64 + ".b",
        "sip:" + "a" * 200 + "@a.b", "sip:a@a.1b",
    ],
)  # fmt: skip
def test_for_anything_else_it_has_to_be_parsed(text):
    assert not is_plain_uri(text)
