"""Record-Route as it leaves, Route sets followed whatever the previous hop was, cookies that only we can make."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.contexts import (
    FLOW,
    LISTENER,
    SECOND,
    TLS,
    FakeDomains,
    configure,
    context,
    function,
    request_text,
    select,
    sent_lines,
    sent_values,
    server,
)  # fmt: skip

from serpy.api import DOMAINS, Avp, Avps, ConfigError, Flow, Listener, ParseError
from serpy.context.avps import FROM_DOMAIN, FROM_URI, FROM_USER, TO_URI, TO_USER
from serpy.modules import rr
from serpy.modules.rr.cookie import DIALOG_COOKIE, MAX_COOKIE, DialogCookies
from serpy.modules.rr.own import head_of, own_of_text, own_of_uri
from serpy.modules.rr.state import RecordRoute
from serpy.script.patterns import compile_pattern
from serpy.sip.uri import parse_uri

ME = "192.0.2.1:5060"


def module(*listeners, domains=(), **parameters):
    one = server(*(listeners or (LISTENER, SECOND)))
    if domains:
        one.provide(DOMAINS, FakeDomains(*domains))
    return configure(rr.exports(), one, **({"cookie_secret": "s3cret", "append_fromtag": 0, "dialogs": 0} | parameters))


def record(ctx, exports=None):
    return function(exports or module(), "record_route")(ctx)


def loose(ctx, exports=None):
    return function(exports or module(), "loose_route")(ctx)


# record_route


@pytest.mark.parametrize(
    ("parameters", "out", "sent"),
    [
        pytest.param({}, LISTENER, ["<sip:192.0.2.1:5060;lr>"], id="one-address"),
        pytest.param({"enable_full_lr": 1}, LISTENER, ["<sip:192.0.2.1:5060;lr=on>"], id="full-lr"),
        pytest.param({"append_fromtag": 1}, LISTENER, ["<sip:192.0.2.1:5060;ftag=f1;lr>"], id="from-tag"),
        pytest.param(
            {}, SECOND, ["<sip:198.51.100.1:5060;r2=on;lr>", "<sip:192.0.2.1:5060;r2=on;lr>"],
            id="two-addresses-outgoing-on-top",
        ),
        pytest.param(
            {"enable_full_lr": 1}, TLS,
            ["<sip:192.0.2.1:5061;transport=tls;r2=on;lr=on>", "<sip:192.0.2.1:5060;r2=on;lr=on>"],
            id="two-protocols",
        ),
        pytest.param({"enable_double_rr": 0}, SECOND, ["<sip:198.51.100.1:5060;lr>"], id="double-switched-off"),
        pytest.param({"add_username": 1}, LISTENER, ["<sip:bob@192.0.2.1:5060;lr>"], id="user-name"),
    ],
)  # fmt: skip
def test_record_route_lines(parameters, out, sent):
    ctx = context(request_text())
    assert record(ctx, module(**parameters)) == 1
    assert sent_values(ctx, "Record-Route", out) == sent
    assert sent_lines(ctx, out)[1].startswith("Record-Route:")


def test_an_advertised_ipv6_address_is_written_in_brackets():
    listener = Listener(5, "udp", "192.0.2.9", 5060, advertised_host="2001:db8::1", advertised_port=5070)
    ctx = context(request_text())
    record(ctx, module(LISTENER, listener, enable_double_rr=0))
    assert sent_values(ctx, "Record-Route", listener) == ["<sip:[2001:db8::1]:5070;lr>"]


def test_a_sips_request_gets_a_sips_record_route():
    ctx = context(request_text(uri="sips:bob@example.com"))
    record(ctx)
    assert sent_values(ctx, "Record-Route") == ["<sips:192.0.2.1:5060;lr>"]


def test_a_second_call_is_false_and_adds_nothing():
    ctx = context(request_text())
    exports = module()
    assert [record(ctx, exports), record(ctx, exports)] == [1, -1]
    assert len(sent_values(ctx, "Record-Route")) == 1


def test_record_route_can_be_taken_back():
    ctx = context(request_text())
    exports = module()
    remove = function(exports, "remove_record_route")
    assert remove(ctx) == -1
    record(ctx, exports)
    assert remove(ctx) == 1
    assert sent_values(ctx, "Record-Route") == []
    assert record(ctx, exports) == 1


def test_preset_addresses_replace_ours():
    ctx = context(request_text())
    assert (
        function(module(), "record_route_preset")(ctx, "edge.example.com:5070;transport=tcp", "core.example.com") == 1
    )
    assert sent_values(ctx, "Record-Route") == [
        "<sip:edge.example.com:5070;transport=tcp;lr>",
        "<sip:core.example.com;lr>",
    ]
    assert function(module(), "record_route_preset")(ctx, "x") == -1


def test_parameters_can_be_added_before_and_after():
    ctx = context(request_text())
    exports = module()
    add = function(exports, "add_rr_param")
    add(ctx, ";a=1")
    function(exports, "record_route")(ctx, "b=2")
    add(ctx, "c=3")
    assert sent_values(ctx, "Record-Route") == ["<sip:192.0.2.1:5060;a=1;b=2;c=3;lr>"]


def test_the_user_part_can_come_from_an_attribute():
    ctx = context(request_text())
    ctx.avps.add(FROM_URI, "who", "carol")
    record(ctx, module(user_part_avp="$who"))
    assert sent_values(ctx, "Record-Route") == ["<sip:carol@192.0.2.1:5060;lr>"]


# loose_route: the six cases of the reference


def test_case_1_without_route_nothing_is_decided():
    ctx = context(request_text(uri="sip:bob@198.51.100.9"))
    assert loose(ctx) == -1
    assert not ctx.edits


@pytest.mark.parametrize(
    ("routes", "result", "dst_uri", "left"),
    [
        pytest.param([f"<sip:{ME};lr>"], -1, "", [], id="only-us-the-script-goes-on"),
        pytest.param([f"<sip:{ME};lr>", f"<sip:{ME};lr>"], -1, "", [], id="only-us-twice"),
        pytest.param([f"<sip:{ME};lr>, <sip:198.51.100.1;lr>, <sip:{ME}>"], -1, "", [], id="only-us-by-all-names"),
        pytest.param(
            [f"<sip:{ME};lr>", f"<sip:{ME};lr>", "<sip:next.example.net;lr>"], 1, "sip:next.example.net;lr",
            ["<sip:next.example.net;lr>"], id="us-twice-and-a-further-one",
        ),
        pytest.param(
            [f"<sip:{ME};lr>", "<sip:next.example.net;lr>"], 1, "sip:next.example.net;lr",
            ["<sip:next.example.net;lr>"], id="further-route-is-followed",
        ),
    ],
)  # fmt: skip
def test_case_3_preloaded_route(routes, result, dst_uri, left):
    ctx = context(request_text(*[f"Route: {value}" for value in routes], uri=f"sip:{ME}"))
    assert loose(ctx) == result
    assert ctx.dst_uri == dst_uri
    assert sent_values(ctx, "Route") == left


@pytest.mark.parametrize(
    ("routes", "uri", "dst_uri", "left"),
    [
        pytest.param(["<sip:bob@198.51.100.9>"], "sip:bob@198.51.100.9", "", [], id="target-is-the-last-route"),
        pytest.param(
            ["<sip:strict.example.net>", "<sip:bob@198.51.100.9>"],
            "sip:strict.example.net", "", ["<sip:bob@198.51.100.9>"], id="next-hop-is-strict-too",
        ),
        pytest.param(
            ["<sip:loose.example.net;lr>", "<sip:bob@198.51.100.9>"],
            "sip:bob@198.51.100.9", "sip:loose.example.net;lr", ["<sip:loose.example.net;lr>"], id="next-hop-is-loose",
        ),
        pytest.param(
            ["<sip:loose.example.net;lr>, <sip:b.example.net;lr>, <sip:bob@198.51.100.9>"],
            "sip:bob@198.51.100.9", "sip:loose.example.net;lr",
            ["<sip:loose.example.net;lr>, <sip:b.example.net;lr>"], id="loose-in-one-header",
        ),
    ],
)  # fmt: skip
def test_case_4_previous_hop_is_a_strict_router(routes, uri, dst_uri, left):
    headers = [f"Route: {value}" for value in routes]
    ctx = context(request_text(*headers, method="BYE", uri=f"sip:{ME};lr", to_tag="t1"))
    assert loose(ctx) == 1
    assert (ctx.request_uri, ctx.dst_uri) == (uri, dst_uri)
    assert sent_values(ctx, "Route") == left


def test_case_4_takes_both_of_our_addresses_off():
    ctx = context(request_text(
        "Route: <sip:198.51.100.1:5060;r2=on;lr>", "Route: <sip:bob@198.51.100.9>",
        method="BYE", uri=f"sip:{ME};r2=on;lr", to_tag="t1",
    ))  # fmt: skip
    assert loose(ctx) == 1
    assert ctx.request_uri == "sip:bob@198.51.100.9"
    assert ctx.send_listener is SECOND
    assert sent_values(ctx, "Route") == []


def test_case_4_needs_a_to_tag():
    ctx = context(request_text("Route: <sip:next.example.net;lr>", uri=f"sip:{ME}"))
    assert loose(ctx) == -1
    assert not ctx.edits


@pytest.mark.parametrize(
    ("routes", "uri", "dst_uri", "listener", "left"),
    [
        pytest.param([f"<sip:{ME};lr>"], "sip:bob@198.51.100.9", "", None, [], id="only-us"),
        pytest.param(
            [f"<sip:{ME};lr=on>", "<sip:b.example.net;lr>"],
            "sip:bob@198.51.100.9", "sip:b.example.net;lr", None, ["<sip:b.example.net;lr>"], id="next-is-loose",
        ),
        pytest.param(
            [f"<sip:{ME};lr>", "<sip:strict.example.net>", "<sip:c.example.net;lr>"],
            "sip:strict.example.net", "", None, ["<sip:c.example.net;lr>", "<sip:bob@198.51.100.9>"],
            id="next-is-strict",
        ),
        pytest.param(
            [f"<sip:{ME};lr>, <sip:strict.example.net>"],
            "sip:strict.example.net", "", None, ["<sip:bob@198.51.100.9>"], id="strict-in-one-header",
        ),
        pytest.param(
            [f"<sip:{ME};r2=on;lr>, <sip:198.51.100.1;r2=on;lr>, <sip:b.example.net;lr>"],
            "sip:bob@198.51.100.9", "sip:b.example.net;lr", SECOND, ["<sip:b.example.net;lr>"], id="double-one-header",
        ),
        pytest.param(
            [f"<sip:{ME};r2=on;lr>", "<sip:198.51.100.1:5060;r2=on;lr>"],
            "sip:bob@198.51.100.9", "", SECOND, [], id="double-two-headers",
        ),
        pytest.param(
            [f"<sip:{ME};r2=on;lr>, <sip:198.51.100.1:5060;r2=on;lr>", "<sip:b.example.net;lr>, <sip:c.example.net;lr>"],
            "sip:bob@198.51.100.9", "sip:b.example.net;lr", SECOND, ["<sip:b.example.net;lr>, <sip:c.example.net;lr>"],
            id="mixed-headers",
        ),
    ],
)  # fmt: skip
def test_case_5_previous_hop_is_a_loose_router(routes, uri, dst_uri, listener, left):
    headers = [f"Route: {value}" for value in routes]
    ctx = context(request_text(*headers, method="BYE", uri="sip:bob@198.51.100.9", to_tag="t1"))
    assert loose(ctx) == 1
    assert (ctx.request_uri, ctx.dst_uri, ctx.send_listener) == (uri, dst_uri, listener)
    assert sent_values(ctx, "Route") == left


@pytest.mark.parametrize("form", ["<sip:{me}>;lr;ftag=f1", "sip:{me};lr;ftag=f1", "<sip:{me};lr>;ftag=f1"])
def test_our_own_route_is_understood_wherever_its_parameters_stand(form):
    ctx = context(request_text(f"Route: {form.format(me=ME)}", uri="sip:bob@198.51.100.9", to_tag="t1"))
    exports = module()
    assert loose(ctx, exports) == 1
    assert function(exports, "check_route_param")(ctx, compile_pattern("ftag=f1")) == 1
    assert sent_values(ctx, "Route") == []


@settings(max_examples=300)
@given(
    st.sampled_from(["", ";transport=tcp", "@192.0.2.9"]),
    st.text(st.sampled_from("aZ09.-=;@?:[]/&%41"), max_size=8),
    st.text(st.sampled_from("aZ09-_=;?@"), max_size=8),
    st.sampled_from([";lr", ";lr=on", ";lr;x", ";LR", ""]),
)
@example("", "f1", "cookie", ";lr")
@example("", "f1@192.0.2.9", "cookie", ";lr")
@example("", "f1", "cookie?a=b", ";lr")
def test_our_own_route_says_the_same_whether_it_is_parsed_or_not(transport, tag, cookie, end):
    text = f"sip:{ME}{transport};ftag={tag};avp={cookie}{end}"
    tcp = Listener(1, "tcp", "192.0.2.1", 5060)
    found = own_of_text(text, [head_of(LISTENER), head_of(tcp)])
    try:
        uri = parse_uri(text)
    except ParseError:
        return  # refused before anybody asks
    if found is not None:
        expected = own_of_uri(uri)
        assert (uri.host, uri.port) == ("192.0.2.1", 5060)
        assert (found.text, found.from_tag, found.cookie) == (expected.text, expected.from_tag, expected.cookie)
        assert (found.is_double, found.is_marked) == (expected.is_double, expected.is_marked)


@pytest.mark.parametrize("listener", [LISTENER, Listener(1, "tcp", "192.0.2.1", 5060)])
def test_what_record_route_writes_for_a_dialog_is_not_parsed(listener):
    line = RecordRoute("<sip:", ";ftag=f1;avp=c00kie-_;lr", double=False).render(
        context(request_text(), flow=Flow(listener, "192.0.2.9", 5060)), Flow(listener, "192.0.2.7", 5060)
    )[0]
    found = own_of_text(line[len("Record-Route: <") : -1], [head_of(listener)])
    assert found is not None
    assert (found.from_tag, found.cookie) == ("f1", "c00kie-_")


def test_a_next_hop_whose_lr_stands_outside_its_brackets_is_a_loose_router():
    routes = (f"Route: <sip:{ME};lr>", "Route: <sip:next.example.net>;lr")
    ctx = context(request_text(*routes, uri="sip:bob@198.51.100.9", to_tag="t1"))
    assert loose(ctx) == 1
    assert (ctx.request_uri, ctx.dst_uri) == ("sip:bob@198.51.100.9", "sip:next.example.net")


def test_case_6_neither_is_ours():
    ctx = context(request_text("Route: <sip:other.example.net;lr>", uri="sip:bob@198.51.100.9", to_tag="t1"))
    assert loose(ctx) == -1
    assert not ctx.edits


def test_a_served_domain_is_ours_on_a_port_we_listen_on():
    text = request_text("Route: <sip:Example.COM;lr>", uri="sip:bob@198.51.100.9", to_tag="t1")
    assert loose(context(text), module(domains=["example.com"])) == 1
    assert loose(context(text), module()) == -1
    other = text.replace("Example.COM", "example.com:5099")
    assert loose(context(other), module(domains=["example.com"])) == -1


def test_the_route_of_a_phone_with_an_outbound_proxy_is_no_dialog_whatever_port_we_listen_on():
    one = Listener(0, "udp", "192.0.2.1", 5070)
    ctx = context(request_text("Route: <sip:192.0.2.1:5070;lr>", uri="sip:bob@example.com"))
    assert loose(ctx, module(one, domains=["example.com"])) == -1
    assert sent_values(ctx, "Route") == []


def test_a_malformed_route_is_not_followed():
    ctx = context(request_text("Route: <sip:", uri="sip:bob@198.51.100.9", to_tag="t1"))
    assert loose(ctx) == -1


def test_forcing_the_second_address_can_be_switched_off():
    headers = [f"Route: <sip:{ME};r2=on;lr>", "Route: <sip:198.51.100.1:5060;r2=on;lr>"]
    ctx = context(request_text(*headers, uri="sip:bob@198.51.100.9", to_tag="t1"))
    assert loose(ctx, module(force_send_socket=0)) == 1
    assert ctx.send_listener is None


def test_what_record_route_writes_brings_the_answering_request_home():
    exports = module(LISTENER, SECOND, TLS)
    for out in (LISTENER, SECOND, TLS):
        first = context(request_text())
        function(exports, "record_route")(first)
        routes = [f"Route: {value}" for value in sent_values(first, "Record-Route", out)]
        back = context(request_text(*routes, method="BYE", uri="sip:alice@203.0.113.7:5062", to_tag="t1"))
        assert loose(back, exports) == 1
        assert sent_values(back, "Route") == []
        assert back.send_listener is (None if out is LISTENER else LISTENER)


# parameters, selects


def test_own_route_parameters_can_be_checked():
    exports = module()
    check = function(exports, "check_route_param")
    ctx = context(request_text(f"Route: <sip:{ME};nat=yes;lr>", uri="sip:bob@198.51.100.9", to_tag="t1"))
    assert check(ctx, compile_pattern("nat=yes")) == -1
    loose(ctx, exports)
    assert check(ctx, compile_pattern("nat=yes")) == 1
    assert check(ctx, compile_pattern("192.0.2.1")) == -1


def test_next_route_is_what_is_left_after_ours():
    exports = module(next_route_avp="$next")
    ctx = context(
        request_text(f"Route: <sip:{ME};lr>, <sip:b.example.net;lr>", uri="sip:bob@198.51.100.9", to_tag="t1")
    )
    read = select(exports, "rr.next_route")
    assert read(ctx) == f"sip:{ME};lr"
    loose(ctx, exports)
    assert read(ctx) == "sip:b.example.net;lr"
    assert ctx.avps.newest(FROM_URI, "next") == "sip:b.example.net;lr"
    only = context(request_text(f"Route: <sip:{ME};lr>", uri="sip:bob@198.51.100.9", to_tag="t1"))
    loose(only, exports)
    assert read(only) is None
    assert read(context(request_text())) is None


def test_selects_have_no_parts():
    for prefix in ("rr.next_route", "rr.dialog_cookie"):
        with pytest.raises(ValueError, match="nothing below"):
            select(module(), prefix, "x")


# cookies


def flagged(ctx, list_id=FROM_URI, name="dialog_id", value="d-1"):
    ctx.avps.add(list_id, name, value, DIALOG_COOKIE)
    return ctx


def round_trip(first, exports, *, from_tag="f1", **changes):
    """A later request of the dialog *first* opened, with its Record-Route as Route."""
    function(exports, "record_route")(first)
    routes = [f"Route: {value}" for value in sent_values(first, "Record-Route")]
    text = request_text(*routes, method="BYE", uri="sip:alice@203.0.113.7", to_tag="t1", from_tag=from_tag)
    for old, new in changes.get("replace", ()):
        text = text.replace(old, new)
    ctx = context(text)
    assert loose(ctx, exports) == 1
    return ctx


def test_flagged_attributes_come_back_flagged():
    exports = module()
    first = flagged(context(request_text()))
    flagged(first, TO_USER, "n", -7)
    flagged(first, FROM_USER, "t", "caf\xe9 \udcff")
    flagged(first, FROM_DOMAIN, "never", "x")
    first.avps.add(FROM_URI, "unflagged", "x")
    ctx = round_trip(first, exports)
    assert ctx.avps.get(FROM_URI, "dialog_id") == [Avp("d-1", DIALOG_COOKIE)]
    assert ctx.avps.newest(TO_USER, "n") == -7
    assert ctx.avps.newest(FROM_USER, "t") == "caf\xe9 \udcff"
    assert ctx.avps.get(FROM_DOMAIN, "never") == ctx.avps.get(FROM_URI, "unflagged") == []
    assert select(exports, "rr.dialog_cookie")(ctx) == select(exports, "rr.dialog_cookie")(first)


def test_several_values_keep_their_order():
    first = flagged(flagged(context(request_text()), value="old"), value="new")
    ctx = round_trip(first, module())
    assert [avp.value for avp in ctx.avps.get(FROM_URI, "dialog_id")] == ["new", "old"]


def test_the_cookie_is_safe_in_a_uri():
    exports = module()
    for number in range(64):
        first = flagged(context(request_text()), value=f"value-{number}\xff>;")
        assert re.fullmatch(r"[A-Za-z0-9_-]+", select(exports, "rr.dialog_cookie")(first))


def test_without_flagged_attributes_there_is_no_cookie():
    ctx = context(request_text())
    ctx.avps.add(FROM_URI, "x", "y")
    exports = module()
    record(ctx, exports)
    assert select(exports, "rr.dialog_cookie")(ctx) is None
    assert "avp=" not in sent_values(ctx, "Record-Route")[0]


def test_the_filter_lets_only_matching_names_back():
    first = flagged(flagged(context(request_text())), name="other")
    ctx = round_trip(first, module(cookie_filter="^(dialog_ID)$"))
    assert ctx.avps.newest(FROM_URI, "dialog_id") == "d-1"
    assert ctx.avps.get(FROM_URI, "other") == []


def test_the_tracks_are_swapped_when_the_callee_sends():
    exports = module(append_fromtag=1)
    same = round_trip(flagged(context(request_text())), exports)
    assert same.avps.newest(FROM_URI, "dialog_id") == "d-1"
    back = round_trip(flagged(context(request_text())), exports, from_tag="t1")
    assert back.avps.newest(TO_URI, "dialog_id") == "d-1"
    assert back.avps.get(FROM_URI, "dialog_id") == []


@pytest.mark.parametrize(
    "replace",
    [
        pytest.param([("avp=", "avp=A")], id="changed"),
        pytest.param([("call-1@", "call-2@")], id="of-another-dialog"),
        pytest.param([("avp=", "avp=!")], id="not-base64"),
        pytest.param([("avp=", "avp=" + "A" * 600)], id="too-long"),
    ],
)
def test_a_cookie_that_is_not_ours_is_ignored_and_the_request_routed(replace):
    ctx = round_trip(flagged(context(request_text())), module(), replace=replace)
    assert ctx.avps.get(FROM_URI, "dialog_id") == []


def test_a_strict_router_brings_the_cookie_in_the_request_uri():
    exports = module()
    first = flagged(context(request_text()))
    record(first, exports)
    own = sent_values(first, "Record-Route")[0][1:-1]
    ctx = context(request_text("Route: <sip:bob@198.51.100.9>", method="BYE", uri=own, to_tag="t1"))
    assert loose(ctx, exports) == 1
    assert ctx.avps.newest(FROM_URI, "dialog_id") == "d-1"


def test_another_secret_does_not_open_the_cookie():
    avps = Avps()
    avps.add(FROM_URI, "a", "b", DIALOG_COOKIE)
    text = DialogCookies(b"one").make(avps, "c")
    assert list(DialogCookies(b"one").open(text, "c").lists[FROM_URI]) == ["a"]
    assert DialogCookies(b"two").open(text, "c") is None


def test_attributes_that_do_not_fit_are_left_out():
    avps = Avps()
    avps.add(FROM_URI, "big", "x" * 600, DIALOG_COOKIE)
    avps.add(FROM_URI, "small", "y", DIALOG_COOKIE)
    avps.add(FROM_URI, "huge", "x" * 70000, DIALOG_COOKIE)
    avps.add(FROM_URI, "n" * 70000, 1, DIALOG_COOKIE)
    text = DialogCookies(b"s").make(avps, "c")
    assert len(text) <= MAX_COOKIE
    assert list(DialogCookies(b"s").open(text, "c").lists[FROM_URI]) == ["small"]


def test_what_is_remembered_of_a_cookie_is_what_is_in_it():
    avps = Avps()
    for list_id, name, value in [
        (FROM_URI, "a", "old"), (FROM_URI, "a", "new"), (TO_URI, "n", 1 << 70), (TO_USER, "n", -(1 << 70)), (FROM_USER, "caf\xe9", "\udcff"),
    ]:  # fmt: skip
        avps.add(list_id, name, value, DIALOG_COOKIE)
    made = DialogCookies(b"s")
    text = made.make(avps, "c")
    opened = DialogCookies(b"s").open(text, "c")
    assert made.open(text, "c").lists == opened.lists
    assert [avp.value for avp in opened.lists[FROM_URI]["a"]] == ["new", "old"]
    assert opened.lists[TO_URI]["n"] == [Avp((1 << 63) - 1, DIALOG_COOKIE)]
    assert made.open(text, "of another dialog") is None


def test_restoring_adds_to_what_is_there_and_leaves_the_cookie_alone():
    avps = Avps()
    for value in ("old", "new"):
        avps.add(FROM_URI, "a", value, DIALOG_COOKIE)
    cookies = DialogCookies(b"s")
    cookie = cookies.open(cookies.make(avps, "c"), "c")
    empty, taken = Avps(), Avps()
    taken.add(FROM_URI, "a", "older")
    for target in (empty, taken):
        cookie.restore(target, swap=False)
        target.add(FROM_URI, "b", "x")
    assert [avp.value for avp in empty.get(FROM_URI, "a")] == ["new", "old"]
    assert [avp.value for avp in taken.get(FROM_URI, "a")] == ["new", "old", "older"]
    assert list(cookie.lists[FROM_URI]) == ["a"]


def test_the_secret_survives_a_restart(tmp_path):
    made = configure(rr.exports(), server(run_dir=str(tmp_path)))
    again = configure(rr.exports(), server(run_dir=str(tmp_path)))
    assert made.module.router.cookies.secret == again.module.router.cookies.secret
    assert (tmp_path / "rr.secret").stat().st_mode & 0o777 == 0o600
    named = configure(rr.exports(), server(), cookie_secret_file=str(tmp_path / "rr.secret"))
    assert named.module.router.cookies.secret == made.module.router.cookies.secret


def test_a_secret_that_others_could_have_written_is_not_used(tmp_path):
    file = tmp_path / "rr.secret"
    file.write_text("0" * 64)
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="may be another's"):
        configure(rr.exports(), server(run_dir=str(tmp_path)), cookie_secret="")


def test_an_unusable_secret_file_or_filter_refuses_to_start(tmp_path):
    (tmp_path / "empty").write_bytes(b"\n")
    with pytest.raises(ConfigError, match="empty"):
        configure(rr.exports(), server(), cookie_secret_file=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="cookie_filter"):
        configure(rr.exports(), server(), cookie_filter="(")
    with pytest.raises(ConfigError, match="not an attribute"):
        configure(rr.exports(), server(), next_route_avp="$a b")


def test_a_run_directory_that_cannot_be_written_still_starts(tmp_path):
    made = configure(rr.exports(), server(run_dir=str(tmp_path / "missing")))
    assert len(made.module.router.cookies.secret) == 32


def test_replies_are_never_route_driven():
    assert FLOW.listener is LISTENER
    ctx = context("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP x\r\nRoute: <sip:192.0.2.1;lr>\r\n\r\n")
    assert loose(ctx) == -1
