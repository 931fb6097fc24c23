"""URIs: RFC 3261 §19.1 and RFC 3966."""

from __future__ import annotations

import pytest

from serpy.errors import ParseError
from serpy.sip.limits import URI_MAX
from serpy.sip.uri import Uri, parse_uri, unescape


@pytest.mark.parametrize(
    ("text", "scheme", "user", "password", "host", "port", "params", "headers"),
    [
        pytest.param("sip:example.com", "sip", "", "", "example.com", 0, "", "", id="host-only"),
        pytest.param("sip:bob@example.com", "sip", "bob", "", "example.com", 0, "", "", id="user-and-host"),
        pytest.param("SIPS:bob@Example.COM:5061", "sips", "bob", "", "Example.COM", 5061, "", "", id="any-case-scheme"),
        pytest.param("sip:a:s@h;x;y=1?Z=2&w=3", "sip", "a", "s", "h", 0, "x;y=1", "Z=2&w=3", id="all-parts"),
        pytest.param("sip:a@[2001:db8::1]:5070", "sip", "a", "", "[2001:db8::1]", 5070, "", "", id="ipv6-and-port"),
        pytest.param("sip:[::ffff:192.0.2.1]", "sip", "", "", "[::ffff:192.0.2.1]", 0, "", "", id="ipv6-alone"),
        pytest.param("sip:a;b=c@h", "sip", "a;b=c", "", "h", 0, "", "", id="semicolon-in-user"),
        pytest.param("sip:a?b@h", "sip", "a?b", "", "h", 0, "", "", id="question-mark-in-user"),
        pytest.param("sip:%00@h", "sip", "%00", "", "h", 0, "", "", id="escape-stays-raw"),
        pytest.param("sip:+1-201@h;user=phone", "sip", "+1-201", "", "h", 0, "user=phone", "", id="phone-user"),
        pytest.param("tel:+1-201-555", "tel", "+1-201-555", "", "", 0, "", "", id="global-tel"),
        pytest.param("tel:7042;phone-context=x.com", "tel", "7042", "", "", 0, "phone-context=x.com", "", id="local"),
        pytest.param("isbn:2983792873", "isbn", "2983792873", "", "", 0, "", "", id="unknown-scheme-is-opaque"),
    ],
)
def test_parts_are_kept_as_written(text, scheme, user, password, host, port, params, headers):
    uri = parse_uri(text)
    assert (uri.scheme, uri.user, uri.password, uri.host, uri.port) == (scheme, user, password, host, port)
    assert (uri.params, uri.headers) == (params, headers)
    assert str(uri) == text
    assert str(Uri(scheme, user, password, host, port, params, headers)).lower() == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "", "sip", "sip:", ":x", "sip:@h", "sip:a@", "sip:a@b@c", "sip:a b@h", "sip:a@h x", "sip:h:", "sip:h:0",
        "sip:h:65536", "sip:h:५", "sip:h:123456", "sip:[::1", "sip:[g]", "sip:[::1]x", "sip:%zz@h", "sip:%4@h",
        "sip:h;a=<", 'sip:h;a="', "sip:h?a=\n", "<sip:h>", "1sip:h", "tel:", "tel:-", "tel:+", "tel:+ab", "tel:abc xyz", "sip:a@127.1", "sip:a..b", "sip:[1::2::3]", "x:a b", "sip:h\x00",
        "sip:hé", "sip:" + "a" * URI_MAX,
    ],
)  # fmt: skip
def test_malformed_uris_are_parse_errors(text):
    with pytest.raises(ParseError):
        parse_uri(text)


def test_parameters_are_found_in_any_case_and_bare_ones_are_empty():
    uri = parse_uri("sip:h;LR;Transport=TCP;lr=no")
    assert uri.param("lr") == ""
    assert uri.param("transport") == "TCP"
    assert uri.transport == "tcp"
    assert uri.param("ttl") is None
    assert parse_uri("sip:h?Route=%3Csip:x%3E").header("route") == "%3Csip:x%3E"


def test_replaced_changes_only_what_is_named():
    uri = parse_uri("sip:a:p@h:5070;x?y=z")
    assert str(uri.replaced(user="b")) == "sip:b:p@h:5070;x?y=z"
    assert str(uri.replaced(user="")) == "sip:h:5070;x?y=z"
    assert str(uri.replaced(host="[::1]", port=0, params="", headers="")) == "sip:a:p@[::1]"
    assert str(uri.replaced(scheme="sips")) == "sips:a:p@h:5070;x?y=z"
    assert str(parse_uri("sip:h;a;maddr=1;b=2").without_param("maddr")) == "sip:h;a;b=2"


@pytest.mark.parametrize(
    ("text", "plain"), [("a%20b", "a b"), ("%C3%A9", "é"), ("%ff", "\udcff"), ("%", "%"), ("%4", "%4"), ("%zz", "%zz")]
)
def test_unescape_never_fails(text, plain):
    assert unescape(text) == plain


def test_many_different_uris_do_not_grow_the_cache_without_end():
    from serpy.sip import limits, uri

    for number in range(limits.URI_CACHE + 10):
        assert parse_uri(f"sip:{number}@h").user == str(number)
    assert len(uri._cache) <= limits.URI_CACHE
