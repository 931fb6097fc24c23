"""enum: numbers to names, records to addresses, and records that must not do harm."""

from __future__ import annotations

import time

import dns.rcode
import pytest
from support.contexts import context, function, request_text, server
from support.dns import NameServer

from serpy.config import Settings
from serpy.errors import ConfigError
from serpy.modules import enum
from serpy.modules.enum.substitution import BadRecordError, substitute
from serpy.net.loop import Loop
from serpy.net.nameservers import servers_of

NUMBER = "+43123"
NAME = "3.2.1.3.4.e164.arpa."


def naptr(order, preference, regexp, *, flags="u", services="E2U+sip", replacement="."):
    escaped = regexp.replace("\\", "\\\\")
    return f'{order} {preference} "{flags}" "{services}" "{escaped}" {replacement}'


@pytest.fixture
def names():
    found = NameServer({})
    yield found
    found.stop()


def query(names, *arguments, uri=f"sip:{NUMBER}@example.com", times=1, **settings):
    """Run enum_query in a loop; (result, context)."""
    loop = Loop()
    world = server()
    world.loop = loop
    world.settings = Settings({"dns_servers": [names.text], "dns_retr_no": 0, "dns_retr_time": 1, **settings})
    exports = enum.exports()
    exports.child_init(world)
    outcome = []

    def ask():
        for _ in range(times):
            ctx = context(request_text(uri=uri))
            outcome[:] = [function(exports, "enum_query")(ctx, *arguments), ctx]
        loop.stop()

    loop.spawn(ask)
    loop.call_at(time.monotonic() + 10, loop.stop)
    loop.run()
    return outcome


ALL = r"!^.*$!sip:bob@example.org!"


@pytest.mark.parametrize(
    ("records", "arguments", "addresses"),
    [
        pytest.param([naptr(10, 10, ALL)], (), ["sip:bob@example.org"], id="one"),
        pytest.param([naptr(10, 10, r"!^\+43(.*)$!sip:\1@example.org!")], (), ["sip:123@example.org"], id="group"),
        pytest.param(
            [
                naptr(20, 10, "!^.*$!sip:d@x.org!"), naptr(10, 20, "!^.*$!sip:b@x.org!"),
                naptr(10, 10, "!^.*$!sip:a@x.org!"), naptr(10, 30, "!^.*$!sips:c@x.org!"),
            ],
            (), ["sip:a@x.org", "sip:b@x.org", "sips:c@x.org", "sip:d@x.org"], id="order-then-preference",
        ),
        pytest.param([naptr(1, 1, ALL), naptr(2, 2, ALL)], (), ["sip:bob@example.org"], id="twice-the-same"),
        pytest.param([naptr(1, 1, ALL, flags="U", services="e2U+SIP")], (), ["sip:bob@example.org"], id="any-case"),
        pytest.param([naptr(1, 1, ALL, services="E2U+mailto")], (), [], id="another-service"),
        pytest.param([naptr(1, 1, ALL, services="E2U+mailto+sip")], (), ["sip:bob@example.org"], id="among-services"),
        pytest.param([naptr(1, 1, ALL, services="E2U+voice:sip")], (), [], id="a-kind-not-asked-for"),
        pytest.param(
            [naptr(1, 1, ALL, services="E2U+voice:sip")], ("", "voice"), ["sip:bob@example.org"], id="a-kind-asked-for"
        ),
        pytest.param([naptr(1, 1, ALL, flags="s")], (), [], id="another-flag"),
        pytest.param([naptr(1, 1, "!^.*$!mailto:bob@example.org!")], (), [], id="no-sip-uri"),
        pytest.param([naptr(1, 1, "!^.*$!sip:b ob@!")], (), [], id="no-uri-at-all"),
        pytest.param([naptr(1, 1, r"!^\+44!sip:x@y.org!")], (), [], id="no-match"),
        pytest.param(
            [naptr(1, 1, "!^.*$!sip:"), naptr(1, 2, "!(!x!"), naptr(1, 3, r"!^.*$!sip:\1@x.org!"), naptr(2, 1, ALL)],
            (), ["sip:bob@example.org"], id="malformed-ones-are-passed-over",
        ),
        pytest.param([], (), [], id="no-records"),
    ],
)  # fmt: skip
def test_records_lead_to_addresses(names, records, arguments, addresses):
    names.zone[NAME, "NAPTR"] = records
    result, ctx = query(names, *arguments)
    assert result == (1 if addresses else -1)
    found = [ctx.request_uri, *(branch.request_uri for branch in ctx.branches)]
    assert found == (addresses or [f"sip:{NUMBER}@example.com"])
    qs = [ctx.q, *(branch.q for branch in ctx.branches)]
    assert qs == sorted(qs, reverse=True)


def test_another_suffix(names):
    names.zone["3.2.1.3.4.enum.example.", "NAPTR"] = [naptr(1, 1, ALL)]
    assert query(names, "Enum.Example.")[0] == 1


def test_a_record_that_is_not_terminal_leads_on(names):
    names.zone[NAME, "NAPTR"] = [naptr(1, 1, "", flags="", services="", replacement="next.example.org.")]
    names.zone["next.example.org.", "NAPTR"] = [naptr(1, 1, ALL)]
    assert query(names)[0] == 1


def test_records_that_lead_in_a_circle_end(names):
    for at in range(30):
        records = [naptr(1, 1, "", flags="", services="", replacement=f"n{at + 1}.example.org.")]
        names.zone[f"n{at}.example.org.", "NAPTR"] = records
    names.zone[NAME, "NAPTR"] = [
        naptr(1, 1, "", flags="", services="", replacement=NAME),
        naptr(1, 2, "", flags="", services="", replacement="n0.example.org."),
    ]
    assert query(names)[0] == -1
    assert len(names.asked) == enum.MAX_QUERIES


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("sip:43123@example.com", id="no-plus"),
        pytest.param("sip:+4@example.com", id="one-digit"),
        pytest.param("sip:+1234567890123456@example.com", id="sixteen-digits"),
        pytest.param("sip:+43x@example.com", id="not-only-digits"),
        pytest.param("sip:example.com", id="no-user"),
    ],
)
def test_what_is_no_number_is_not_asked_for(names, uri):
    assert query(names, uri=uri)[0] == -1
    assert names.asked == []


def test_an_undefined_argument_is_false(names):
    assert query(names, None)[0] == -1


@pytest.mark.parametrize(
    ("settings", "code"), [pytest.param({}, dns.rcode.SERVFAIL, id="failure"), pytest.param({}, None, id="silence")]
)
def test_name_servers_that_do_not_help_are_false(names, settings, code):
    names.silent = code is None
    names.rcode = code or dns.rcode.NOERROR
    assert query(names, **settings)[0] == -1


def test_answers_are_kept_also_the_negative_ones(names):
    assert query(names, times=3)[0] == -1
    assert len(names.asked) == 1


@pytest.mark.parametrize(("user", "result"), [("+43123", 1), ("alice", -1)])
def test_a_caller_with_a_number(user, result):
    text = request_text().replace("<sip:alice@", f"<sip:{user}@")
    assert function(enum.exports(), "is_from_user_e164")(context(text)) == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param(r"!^\+(43)(1)(23)$!\3\2\1!", "23143", id="groups-in-any-order"),
        pytest.param(r"/^.*$/sip:a@b\/c/", "sip:a@b/c", id="another-delimiter"),
        pytest.param(r"!^\+4[[:digit:]]+$!x!", "x", id="class"),
        pytest.param(r"!^\+4[^-2]23!x!", "", id="bracket-with-a-dash"),
        pytest.param(r"!^[+]43[0-9]{3}$!x!", "x", id="count"),
        pytest.param(r"!^(\+43|\+44)123$!x!", "x", id="alternatives"),
        pytest.param(r"!^.*$!a\\b!", r"a\b", id="escaped-backslash"),
        pytest.param(r"!^.*$!A!i", "A", id="ignore-case"),
        pytest.param(r"|^\+43\|\+44|x|", "", id="the-escaped-delimiter-is-no-operator"),
        pytest.param(r"!^\+43(9)?123$!<\1>!", "<>", id="an-empty-group"),
    ],
)
def test_substitutions(text, result):
    assert substitute(text, NUMBER) == result


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("!a!b", id="no-end"),
        pytest.param("1a1b1", id="a-digit-delimits"),
        pytest.param("!a!b!x", id="unknown-flag"),
        pytest.param("!(a!b!", id="open-group"),
        pytest.param("!a)!b!", id="closed-group"),
        pytest.param("![a!b!", id="open-bracket"),
        pytest.param("!*!b!", id="nothing-to-repeat"),
        pytest.param("!.*?!b!", id="lazy"),
        pytest.param("!(?=a)!b!", id="look-ahead"),
        pytest.param(r"!\d!b!", id="perl-class"),
        pytest.param(r"!(.)\1!b!", id="back-reference-in-the-expression"),
        pytest.param("!a{99}!b!", id="count-too-large"),
        pytest.param("!a{1!b!", id="count-without-end"),
        pytest.param("![[:nothing:]]!b!", id="unknown-class"),
        pytest.param("![z-a]!b!", id="range-backwards"),
        pytest.param(r"!.*!\2!", id="no-such-group"),
        pytest.param("!(.*)*x!b!", id="repetition-of-a-repetition"),
        pytest.param("!(.|.|.)*x!b!", id="repetition-of-alternatives"),
        pytest.param("!.*.*.*.*.*x!b!", id="many-repetitions"),
        pytest.param("!(|)(|)(|)(|)(|)(|)(|)x!b!", id="many-alternatives"),
        pytest.param("!" + "()" * 10 + "!b!", id="many-groups"),
        pytest.param("!" + "a" * 300 + "!b!", id="too-long"),
        pytest.param("!\u00e9!b!", id="not-ascii"),
    ],
)
def test_substitutions_that_are_malformed_or_could_take_long_do_not_run(text):
    with pytest.raises(BadRecordError):
        substitute(text, NUMBER)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        pytest.param("192.0.2.1", ("192.0.2.1", 53), id="ipv4"),
        pytest.param("192.0.2.1:5353", ("192.0.2.1", 5353), id="ipv4-and-port"),
        pytest.param("2001:db8::1", ("2001:db8::1", 53), id="ipv6"),
        pytest.param("[2001:db8::1]:5353", ("2001:db8::1", 5353), id="ipv6-and-port"),
    ],
)
def test_addresses_of_name_servers(text, address):
    assert servers_of(Settings({"dns_servers": [text]})) == [address]


@pytest.mark.parametrize("text", ["ns.example.com", "192.0.2.1:0", "192.0.2.1:x", "[::1]x", "", "192.0.2.1:99999"])
def test_what_is_no_address_of_a_name_server_is_refused(text):
    with pytest.raises(ConfigError, match="dns_servers"):
        Settings({"dns_servers": [text]})
