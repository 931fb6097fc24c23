"""Addresses, Via, CSeq, credentials, and the small value parsers."""

from __future__ import annotations

import pytest

from serpy.errors import ParseError
from serpy.sip import digest
from serpy.sip.abnf import ascii_lower, parse_expires, parse_number, parse_q, quote, split_option_tags, unquote
from serpy.sip.authorization import parse_credentials
from serpy.sip.cseq import parse_cseq
from serpy.sip.nameaddr import parse_nameaddr, parse_nameaddr_list, split_commas
from serpy.sip.status import PHRASES, reason_phrase
from serpy.sip.via import parse_via, via_of_line, via_with_received


@pytest.mark.parametrize(
    ("text", "display", "uri", "params"),
    [
        pytest.param("<sip:a@h>", "", "sip:a@h", {}, id="brackets-only"),
        pytest.param("sip:a@h;tag=1", "", "sip:a@h", {"tag": "1"}, id="bare-parameters-are-the-header's"),
        pytest.param("<sip:a@h;x=1>;TAG=2", "", "sip:a@h;x=1", {"tag": "2"}, id="names-in-lower-case"),
        pytest.param('"A, B" <sip:a@h>', '"A, B"', "sip:a@h", {}, id="comma-in-quotes"),
        pytest.param(r'"a \"<x>\"" <sip:a@h>', r'"a \"<x>\""', "sip:a@h", {}, id="quoted-pair-and-brackets"),
        pytest.param("Bob Smith<sip:a@h>", "Bob Smith", "sip:a@h", {}, id="tokens-touching-bracket"),
        pytest.param("<sip:a@h> ; q = 0.5 ;bare", "", "sip:a@h", {"q": "0.5", "bare": ""}, id="spaces"),
        pytest.param('<sip:a@h>;x="a;b,c"', "", "sip:a@h", {"x": '"a;b,c"'}, id="quoted-parameter"),
        pytest.param('sip:a@h;x="<"', "", "sip:a@h", {"x": '"<"'}, id="bracket-in-quoted-parameter"),
        pytest.param("*", "", "*", {}, id="star"),
        pytest.param("<sip:a@h>;tag=1;tag=2", "", "sip:a@h", {"tag": "1"}, id="first-of-two-counts"),
        pytest.param("<sip:a@h>;x;", "", "sip:a@h", {"x": ""}, id="semicolon-at-the-end"),
        pytest.param("Jörg <sip:a@h>", "Jörg", "sip:a@h", {}, id="display-name-beyond-ascii"),
    ],
)
def test_addresses_are_taken_apart(text, display, uri, params):
    value = parse_nameaddr(text)
    assert (value.display, value.uri_text, value.params) == (display, uri, params)
    assert parse_nameaddr(str(value)).params == params
    assert parse_nameaddr_list(text)[0].uri_text == uri


@pytest.mark.parametrize(
    "text",
    [
        "", '"a', '"a"', '"a" sip:a@h', "<sip:a@h", "<>", "< sip:a@h>", "A, B <sip:a@h>", "<sip:a@h>x",
        "<sip:a@h>;;x", "<sip:a@h>;a b=1", "sip:a@h?x=y", "sip:a@h,sip:b@h", "<sip:a@h>;x=1,<sip:b@h>",
        "<sip:a@h>,<sip:b@h>", "sip:a @h", ";tag=1", '<sip:a@h>;x="', "<sip:h>" + ";a" * 100,
    ],
)  # fmt: skip
def test_malformed_addresses_are_parse_errors(text):
    with pytest.raises(ParseError):
        parse_nameaddr(text)


def test_commas_are_split_only_where_they_separate():
    text = '"a,b" <sip:x,y@h>;p="," , sip:c@h,, <sip:d@h>'
    assert split_commas(text) == ['"a,b" <sip:x,y@h>;p=","', "sip:c@h", "<sip:d@h>"]
    assert split_commas("  ") == []
    assert [value.tag for value in parse_nameaddr_list("<sip:a>;tag=1,<sip:b>")] == ["1", ""]
    with pytest.raises(ParseError):
        split_commas("a," * 1000)


@pytest.mark.parametrize(
    ("text", "transport", "host", "port", "branch", "rport", "received"),
    [
        pytest.param("SIP/2.0/UDP h:5070;branch=z9hG4bKx", "UDP", "h", 5070, "z9hG4bKx", -1, "", id="ordinary"),
        pytest.param("SIP/2.0/UDP h;rport;branch=b", "UDP", "h", 0, "b", 0, "", id="rport-asked-for"),
        pytest.param("SIP/2.0/udp h;rport=9;received=1.2.3.4", "UDP", "h", 0, "", 9, "1.2.3.4", id="annotated"),
        pytest.param("sip / 2.0 / TCP  h : 5 ; branch = b", "TCP", "h", 5, "b", -1, "", id="white-space"),
        pytest.param("SIP/2.0/TLS [2001:db8::1]:5061;a", "TLS", "[2001:db8::1]", 5061, "", -1, "", id="ipv6"),
        pytest.param("SIP/2.0/UDP a;branch=1, SIP/2.0/UDP b", "UDP", "a", 0, "1", -1, "", id="first-of-two"),
        pytest.param("SIP/2.0/UDP h;rport=99999", "UDP", "h", 0, "", 0, "", id="rport-beyond-a-port"),
        pytest.param("SIP/2.0/NEW h", "NEW", "h", 0, "", -1, "", id="unknown-transport"),
    ],
)
def test_via_is_taken_apart(text, transport, host, port, branch, rport, received):
    via = parse_via(text)
    assert (via.transport, via.host, via.port) == (transport, host, port)
    assert (via.branch, via.rport, via.received) == (branch, rport, received)
    assert str(parse_via(str(via))) == str(via)


@pytest.mark.parametrize(
    "text",
    ["", ",", "SIP/2.0/UDP", "SIP/2.0/UDP ", "SIP/3.0/UDP h", "HTTP/2.0/UDP h", "SIP/2.0/UDP h:x", "SIP/2.0/UDP h:0",
     "SIP/2.0/UDP h:99999", "SIP/2.0/UDP [::1", "SIP/2.0/UDP [::1]x", "SIP/2.0/UDP a b", "SIP/2.0/UDP h;;,;",
     "SIP/2.0/U<P h", "SIP/2.0/UDP h/x", 'SIP/2.0/UDP h;a="'],
)  # fmt: skip
def test_malformed_via_is_a_parse_error(text):
    with pytest.raises(ParseError):
        parse_via(text)


@pytest.mark.parametrize(
    ("value", "params"),
    [
        ("<sip:p;lr;avp=x>", "lr;avp=x"), ("<sip:p>;lr;avp=x", "lr;avp=x"), ("sip:p;r2=on;lr", "r2=on;lr"),
        ("<sip:p;lr>;avp=x", "lr;avp=x"), ("<sip:p;lr;>;x;", "lr;x"), ("<sip:p>", ""), ("<tel:+1>;lr", ""),
    ],
)  # fmt: skip
def test_parameters_of_a_route_count_wherever_they_stand(value, params):
    assert parse_nameaddr(value).route_uri.params == params


def test_via_helpers():
    via = parse_via("SIP/2.0/UDP [2001:DB8::1]:5060;branch=Z9HG4BKabc")
    assert via.has_cookie
    assert via.address == "2001:db8::1"
    assert via.sent_by == "[2001:db8::1]:5060"
    assert not parse_via("SIP/2.0/UDP h;branch=z9hG4bK").has_cookie


@pytest.mark.parametrize(
    ("via", "received", "rport", "expected"),
    [
        ("Via: SIP/2.0/UDP h", "1.2.3.4", 0, "Via: SIP/2.0/UDP h;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h;rport;a", "1.2.3.4", 7, "Via: SIP/2.0/UDP h;rport=7;a;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h;branch=b;rport", "1.2.3.4", 7, "Via: SIP/2.0/UDP h;branch=b;rport=7;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h;branch=rport;rport", "", 7, "Via: SIP/2.0/UDP h;branch=rport;rport=7"),
        ("Via: SIP/2.0/UDP h;rportx;rport;a", "", 7, "Via: SIP/2.0/UDP h;rportx;rport=7;a"),
        ("Via: SIP/2.0/UDP h;rport=5;a", "", 7, "Via: SIP/2.0/UDP h;rport=7;a"),
        ("Via: SIP/2.0/UDP h;rport;Received=9.9.9.9", "1.2.3.4", 7, "Via: SIP/2.0/UDP h;rport=7;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h;received=9.9.9.9", "1.2.3.4", 0, "Via: SIP/2.0/UDP h;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h, SIP/2.0/UDP g", "1.2.3.4", 7,
         "Via: SIP/2.0/UDP h;received=1.2.3.4;rport=7, SIP/2.0/UDP g"),
        ('Via: SIP/2.0/UDP h;x="a,b",SIP/2.0/UDP g', "1.2.3.4", 0,
         'Via: SIP/2.0/UDP h;x="a,b";received=1.2.3.4,SIP/2.0/UDP g'),
        ('Via: SIP/2.0/UDP h;x="a,b', "1.2.3.4", 0, 'Via: SIP/2.0/UDP h;x="a,b'),
        ("Via: SIP/2.0/UDP h", "", 0, "Via: SIP/2.0/UDP h"),
        ("Via: SIP/2.0/UDP h;branch=b;", "1.2.3.4", 7, "Via: SIP/2.0/UDP h;branch=b;received=1.2.3.4;rport=7"),
        ("Via: SIP/2.0/UDP h;rport; ", "1.2.3.4", 7, "Via: SIP/2.0/UDP h;rport=7;received=1.2.3.4"),
        ("Via: SIP/2.0/UDP h;, SIP/2.0/UDP g;", "1.2.3.4", 0, "Via: SIP/2.0/UDP h;received=1.2.3.4, SIP/2.0/UDP g;"),
    ],
)  # fmt: skip
def test_received_and_rport_go_into_the_first_value(via, received, rport, expected):
    assert via_with_received(via, received, rport) == expected


@pytest.mark.parametrize(
    ("text", "number", "method"),
    [("1 INVITE", 1, "INVITE"), ("0009   INVITE", 9, "INVITE"), ("2147483647\tX", 2**31 - 1, "X"), ("0 a%b", 0, "a%b"),
     ("00000000000000000000001 A", 1, "A")],
)  # fmt: skip
def test_cseq_is_number_and_method(text, number, method):
    cseq = parse_cseq(text)
    assert (cseq.number, cseq.method) == (number, method)


@pytest.mark.parametrize(
    "text", ["", "1", "INVITE", "INVITE 1", "-1 A", "2147483648 A", "9" * 5000 + " A", "1 A B", "१ A"]
)
def test_malformed_cseq_is_a_parse_error(text):
    with pytest.raises(ParseError):
        parse_cseq(text)


@pytest.mark.parametrize(
    ("text", "q"),
    [("0.5", 500), ("1", 1000), ("1.000", 1000), ("0", 0), ("0.123", 123), (".7", 700), ("0.12345", 123), ("1.", 1000),
     ("1.5", -1), ("2", -1), ("", -1), (".", -1), ("-1", -1), ("0.x", -1), ("0.५", -1), ("00.5", -1)],
)  # fmt: skip
def test_q_is_in_thousandths(text, q):
    assert parse_q(text) == q


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3600", 3600), (" 0 ", 0), ("4294967296", 2**32 - 1), ("9" * 9999, 2**32 - 1), ("", None), ("-1", None),
     ("1h", None), ("५", None), ("²", None)],
)  # fmt: skip
def test_expires_is_capped_and_ascii(text, seconds):
    assert parse_expires(text) == seconds


def test_numbers_are_ascii_digits_below_their_limit():
    assert parse_number("0070", 255) == 70
    assert parse_number("256", 255) == -1
    assert parse_number("9" * 5000, 255) == -1
    assert parse_number("0" * 5000 + "7", 255) == 7
    assert parse_number("+1", 255) == -1


def test_quoting_and_option_tags():
    assert unquote(quote('a"b\\c')) == 'a"b\\c'
    assert unquote('"x\\') == '"x\\'
    assert unquote('"x\\"') == "x\\"
    assert split_option_tags("100rel, path ,,") == ["100rel", "path"]
    with pytest.raises(ParseError):
        split_option_tags("a b")
    assert ascii_lower("İA") == "İa"


def test_every_class_of_status_has_a_phrase():
    assert reason_phrase(486) == "Busy Here"
    assert reason_phrase(499) == "Request Failure"
    assert reason_phrase(42) == "Unknown"
    assert all(100 <= code <= 699 for code in PHRASES)


def test_digest_of_the_rfc_2617_example():
    stored = digest.ha1("Mufasa", "testrealm@host.com", "Circle Of Life")
    assert stored == "939e7578ed9e3c518a452acee763bce9"
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    assert (
        digest.response(stored, nonce, "GET", "/dir/index.html", "auth", "00000001", "0a4f113b")
        == "6629fae49393a05397450978507c4ef1"
    )


def test_digest_of_the_rfc_7616_sha_256_example():
    stored = digest.ha1("Mufasa", "http-auth@example.org", "Circle of Life", digest.SHA256)
    answer = digest.response(
        stored, "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "GET", "/dir/index.html", "auth", "00000001",
        "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", algorithm=digest.SHA256,
    )  # fmt: skip
    assert answer == "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    assert digest.same(answer.upper(), answer)


def test_digest_without_qop_and_algorithm_names():
    assert digest.response("a", "n", "M", "u") == digest.digest("a:n:" + digest.digest("M:u"))
    assert digest.known_algorithm("md5") == digest.MD5
    assert digest.known_algorithm("") == digest.MD5
    assert digest.known_algorithm("SHA-256") == digest.SHA256
    assert digest.known_algorithm("SHA-512-256") == ""


def test_credentials_are_taken_apart():
    found = parse_credentials(
        'Digest username="bob@h", realm="a,\\"b", nonce="n", uri="sip:h", response="r", algorithm=MD5, '
        'cnonce="c", opaque="o", qop=auth, nc=00000001'
    )
    assert found.is_digest
    assert (found.user, found.domain, found.realm, found.nonce) == ("bob", "h", 'a,"b', "n")
    assert (found.uri, found.response, found.algorithm) == ("sip:h", "r", "MD5")
    assert (found.cnonce, found.opaque, found.qop, found.nc) == ("c", "o", "auth", "00000001")


def test_another_scheme_keeps_its_name_only():
    found = parse_credentials("NoOneKnowsThisScheme opaque-data=here")
    assert found.scheme == "nooneknowsthisscheme"
    assert not found.is_digest


@pytest.mark.parametrize(
    "text",
    ["", "Digest", "Digest username", 'Digest username="a', "Digest a b=c", 'Digest username="a",username="b"',
     'Digest username="a",realm="r",nonce="n",uri="u"', "<> x"],
)  # fmt: skip
def test_malformed_credentials_are_parse_errors(text):
    with pytest.raises(ParseError):
        parse_credentials(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        pytest.param('realm="a, b=c"', {"realm": "a, b=c"}, id="comma-and-equals-in-quotes"),
        pytest.param('nc=1 , realm="r" ', {"nc": "1", "realm": "r"}, id="blanks-around-values"),
        pytest.param('Nc = 1,REALM= "r",', {"nc": "1", "realm": "r"}, id="other-case-and-a-comma-at-the-end"),
        pytest.param('realm="a\\"b", qop=', {"realm": 'a"b', "qop": ""}, id="escaped-quote-and-nothing"),
        pytest.param('realm=r, x="y"', {"realm": "r"}, id="a-field-we-do-not-know"),
    ],
)
def test_credentials_may_be_written_in_other_ways(text, fields):
    rest = [f'{name}="1"' for name in ("username", "realm", "nonce", "uri", "response") if name not in fields]
    found = parse_credentials(f"Digest {text}{'' if text.endswith(',') else ','}{', '.join(rest)}")
    wanted = {"username": "1", "realm": "1", "nonce": "1", "uri": "1", "response": "1"} | fields
    for credentials in (found, parse_credentials(f"Digest {', '.join(rest)}, {text}")):
        assert {name: getattr(credentials, name) for name in wanted} == wanted


@pytest.mark.parametrize("extra", ["realm", 'realm="r', 'realm="r"x', "realm=r,realm=r", 'realm="r",nonce', "=r"])
def test_a_field_that_cannot_be_understood_spoils_the_credentials(extra):
    with pytest.raises(ParseError):
        parse_credentials(f'Digest username="1", nonce="1", uri="1", response="1", {extra}')


@pytest.mark.parametrize(
    "line",
    [
        "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKabc",
        "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa.b-c",
        "Via: SIP/2.0/UDP pc-1.example.com;branch=z9hG4bKabc;rport",
        "Via: SIP/2.0/UDP 192.0.2.1:5060;rport;branch=z9hG4bKabc",
        "Via: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bKabc;rport",
        "Via: SIP/2.0/TLS h:65535;branch=z9hG4bKabc;alias",
        "Via: SIP/2.0/UDP h;branch=z9hG4bKreceived",
        "Via: SIP/2.0/UDP h;branch=z9hG4bKabc;received=192.0.2.9;rport=7",
    ],
)
def test_a_via_written_as_usual_says_what_any_other_spelling_of_it_says(line):
    usual = via_of_line(line)
    assert usual is not None
    other = parse_via(line[5:].replace("SIP/2.0/", "SIP / 2.0 / "))
    for name in ("transport", "host", "port", "branch", "rport", "received", "params", "identity", "has_cookie"):
        assert getattr(usual, name) == getattr(other, name), name
    assert str(usual) == str(other)
    for received, rport in (("", 0), ("198.51.100.7", 0), ("198.51.100.7", 4711)):
        assert usual.annotated(line, received, rport) == via_with_received(line, received, rport)


@pytest.mark.parametrize(
    "line",
    [
        "Via: SIP/2.0/UDP h:0;branch=z9hG4bK1",
        "Via: SIP/2.0/UDP h:65536;branch=z9hG4bK1",
        "Via: SIP/2.0/UDP h:;branch=z9hG4bK1",
        "Via: SIP/2.0/UDP ;branch=z9hG4bK1",
        "Via: SIP/2.0/UDP hä;branch=z9hG4bK1",
        "Via: SIP/2.0/UDP h",
        "Via: SIP/2.0/UDP h;branch=z9hG4bK1, SIP/2.0/UDP i",
        'Via: SIP/2.0/UDP h;branch="z9hG4bK1',
        "Via: SIP/2.0/UDP h:000080;branch=z9hG4bK1",
        "Via: SIP/2.0/UDP h:05060;branch=z9hG4bK1",
        "v: SIP/2.0/UDP h;branch=z9hG4bK1",
    ],
)
def test_a_via_that_may_be_wrong_or_one_of_several_is_looked_at_closely(line):
    assert via_of_line(line) is None
