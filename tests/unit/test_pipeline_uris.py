"""What cannot be understood is not let through as somebody unknown (RFC 3261 §16.3 item 1, §19.1.1, §20.10)."""

from __future__ import annotations

import pytest
from support.receiver import Bench, names, request

SPELLINGS = [
    "<sip:alice@example.com:0>", "<sip:alice@example.com:>", "<sip:alice@example.com:99999>", "alice@example.com",
    "<alice@example.com>", "<sip:alice%@example.com>", "<sip:alice@example.com/>", "<sip:alice@@example.com>",
    '<sip:alice"@example.com>', "sip:alice@example.com>", "<sip:alice@>", "<sip:@example.com>", "<sip:>", "<sips:alice@a..b>",
    "<sip:alice@127.1>", "<sip:alice@0x7f.0.0.1>", "<sip:alice@2130706433>", "<sip:alice@example.com..>",
    "<sip:alice@[::1>", "<sip:alice@::1>", "<sip:alice@[1::2::3]>", "<sip:alice@[192.0.2.1]>", "<sip:alice@ex%61mple.com>",
    "<sip:alice@exämple.com>", "<sip:alice@-example.com>", "<sip:alice@" + "a" * 64 + ".com>", "<tel:>", "<tel:alice>",
    "<tel:()>", "<tel:+()>", "<tel:+12ab>", "<:alice@example.com>", "<sip :alice@example.com>",
]  # fmt: skip
METHODS = ["INVITE", "MESSAGE", "REGISTER", "BYE", "CANCEL", "OPTIONS", "SUBSCRIBE", "PUBLISH", "UNHEARD"]


def bench_with_runs():
    runs = []
    return Bench(main=lambda _bench, ctx: runs.append(ctx.request.method)), runs


def changed(text, name, value):
    """*text* with the value of header *name* replaced and its tag kept."""
    lines = text.split("\r\n")
    for at, line in enumerate(lines):
        if line.startswith(name + ":"):
            lines[at] = f"{name}: {value}{';tag=t' if ';tag=' in line else ''}"
    return "\r\n".join(lines)


def assert_refused(text, method):
    bench, runs = bench_with_runs()
    assert names(bench.receive(text.encode())) == ([] if method == "ACK" else ["400 192.0.2.1"])
    assert runs == []


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["From", "To"])
def test_an_address_that_is_no_uri_is_refused_before_any_script(name, spelling):
    assert_refused(changed(request("MESSAGE"), name, spelling), "MESSAGE")


@pytest.mark.parametrize("method", [*METHODS, "ACK"])
@pytest.mark.parametrize("name", ["From", "To"])
def test_that_holds_for_every_method_and_an_ack_is_dropped(name, method):
    assert_refused(changed(request(method), name, "<sip:alice@example.com:0>"), method)


@pytest.mark.parametrize("name", ["From", "To"])
def test_and_inside_a_dialog(name):
    assert_refused(changed(request("INFO", to_tag="bob"), name, "<sip:alice@127.1>"), "INFO")


@pytest.mark.parametrize("spelling", [s[1:-1] for s in SPELLINGS if s.startswith("<sip") and " " not in s])
def test_a_request_uri_that_is_no_uri_is_refused(spelling):
    assert_refused(request("MESSAGE", uri=spelling), "MESSAGE")


@pytest.mark.parametrize(
    "spelling",
    [
        "<sip:alice@EXAMPLE.com.>", "sip:alice@example.com", "Alice <sips:alice@[2001:DB8::1]:5061>", "<tel:+1-201-555-0123>",
        "<tel:7042;phone-context=example.com>", "<tel:*21#>", "<sip:example.com>", "<http://www.example.com/x?y>",
        "<urn:service:sos>", "<mailto:alice@example.com>", '"a" <im:alice@example.com>', "<sip:%61lice@h_1>",
        "<sip:anonymous@anonymous.invalid>", "<SIP:alice@localhost>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["From", "To"])
def test_what_is_a_uri_passes_whatever_its_scheme(name, spelling):
    bench, runs = bench_with_runs()
    bench.receive(changed(request("MESSAGE"), name, spelling))
    assert runs == ["MESSAGE"]


@pytest.mark.parametrize(
    "value", ["<sip:192.0.2.9:0;lr>", "<sip:127.1;lr>", "<sip:a@b@c>", "a@b", "<sip:x;lr>, <sip:>", '"x']
)
@pytest.mark.parametrize("method", ["INVITE", "BYE", "ACK"])
def test_a_route_that_cannot_be_followed_is_refused(method, value):
    assert_refused(request(method, extra=(f"Route: {value}",)), method)


@pytest.mark.parametrize(
    "value", ["<sip:bob@192.0.2.9:0>", "<sip:bob@127.1>", "bob@192.0.2.9", "*", "<*>", "<sip:bob@>", '"x']
)
@pytest.mark.parametrize("method", ["INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"])
def test_a_contact_that_nobody_could_call_is_refused(method, value):
    assert_refused(request(method, extra=(f"Contact: {value}",)), method)


@pytest.mark.parametrize("value", ["**", "<*>", "sip:bob@192.0.2.9:0", "<sip:b@192.0.2.9>, <sip:b@>"])
def test_nor_can_it_be_registered_or_removed(value):
    assert_refused(request("REGISTER", extra=(f"Contact: {value}", "Expires: 0")), "REGISTER")


def test_a_contact_in_compact_form_behind_a_folded_line_is_no_other():
    text = request("INVITE", extra=("Subject: a\r\n b", "m: <sip:bob@192.0.2.9:0>"))
    assert_refused(text, "INVITE")


def test_the_wildcard_is_only_one_without_brackets():
    bench, runs = bench_with_runs()
    bench.receive(request("REGISTER", extra=("Contact: *", "Expires: 0")))
    assert runs == ["REGISTER"]


@pytest.mark.parametrize(
    "lines", [("<sip:a@192.0.2.1>, <sip:b@192.0.2.1>",), ("<sip:a@192.0.2.1>", "<sip:a@192.0.2.1>")]
)
@pytest.mark.parametrize("method", ["INVITE", "SUBSCRIBE", "REFER", "UPDATE", "NOTIFY"])
def test_who_can_be_reached_at_two_places_has_to_choose(method, lines):
    """RFC 3261 section 8.1.1.8: exactly one."""
    bench, runs = bench_with_runs()
    extra = tuple(f"Contact: {line}" for line in lines)
    sent = bench.receive(request(method, extra=extra).encode())
    assert (names(sent), runs) == (["400 192.0.2.1"], [])
    assert "More Than One Contact" in sent[0].text
    bench.receive(request("REGISTER", extra=extra).encode())
    assert runs == ["REGISTER"]
