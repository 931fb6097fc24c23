"""Attributes into URIs, destinations and header lines, and the functions that edit them."""

import logging

import pytest
from support.contexts import context, function, request_text, sent_values

from serpy.api import UsageError
from serpy.context.avps import FROM_URI, FROM_USER, GLOBAL, TO_USER, parse_avp_name
from serpy.modules import avp
from serpy.modules.avp.edit import name_pattern
from serpy.script.substitution import parse_substitution


def call(name, ctx, *args):
    if name == "subst_attr":
        args = (args[0], parse_substitution(args[1]))
    elif name == "del_attrs":
        args = (name_pattern(*args),)
    return function(avp.exports(), name)(ctx, *args)


def with_attr(value, name="a", uri="sip:bob@example.com:5070;x=1"):
    ctx = context(request_text("X-Old: 1", "X-Old: 2", uri=uri))
    if value is not None:
        ctx.avps.add(FROM_URI, name, value)
    return ctx


A = parse_avp_name("$a")


@pytest.mark.parametrize(
    ("part", "value", "after"),
    [
        ("uri", "sip:new@example.org", "sip:new@example.org"),
        ("uri", '"N" <sip:new@example.org>;q=1', "sip:new@example.org"),
        ("prefix", "00", "sip:00bob@example.com:5070;x=1"),
        ("user", "carol", "sip:carol@example.com:5070;x=1"),
        ("user", "carol@example.org", "sip:carol%40example.org@example.com:5070;x=1"),
        ("user", "a b", "sip:a%20b@example.com:5070;x=1"),
        ("user", "a%40b%4", "sip:a%40b%254@example.com:5070;x=1"),
        ("username", 431, "sip:431@example.com:5070;x=1"),
        ("userpass", "a:b", "sip:a:b@example.com:5070;x=1"),
        ("host", "h.org", "sip:bob@h.org:5070;x=1"),
        ("domain", "h.org", "sip:bob@h.org:5070;x=1"),
        ("hostport", "h.org:99", "sip:bob@h.org:99;x=1"),
        ("domainport", "h.org", "sip:bob@h.org;x=1"),
        ("port", "99", "sip:bob@example.com:99;x=1"),
        ("strip", 1, "sip:ob@example.com:5070;x=1"),
        ("strip_tail", "2", "sip:b@example.com:5070;x=1"),
    ],
)
def test_attr2uri_parts(part, value, after):
    ctx = with_attr(value)
    assert call("attr2uri", ctx, A, part) == 1
    assert ctx.request_uri == after


@pytest.mark.parametrize(
    ("part", "value"),
    [("uri", None), ("uri", "no uri"), ("port", "x"), ("port", 0), ("strip", -1), ("hostport", "a@b"),
     ("host", "a>b")],
)  # fmt: skip
def test_attr2uri_leaves_the_uri_alone_when_the_value_does_not_fit(part, value):
    ctx = with_attr(value)
    assert call("attr2uri", ctx, A, part) == -1
    assert ctx.request_uri == "sip:bob@example.com:5070;x=1"


def test_attr2uri_takes_the_newest_of_several():
    ctx = with_attr("sip:old@x.at")
    ctx.avps.add(FROM_URI, "a", "sip:new@x.at")
    assert call("attr2uri", ctx, A) == 1
    assert ctx.request_uri == "sip:new@x.at"
    call("attr2uri", ctx, parse_avp_name("$a[1]"))
    assert ctx.request_uri == "sip:old@x.at"


def test_an_unknown_part_is_the_scripts_fault():
    with pytest.raises(UsageError):
        call("attr2uri", with_attr("x"), A, "nose")


@pytest.mark.parametrize(
    ("value", "result", "dst_uri"),
    [
        ("sip:h.org;lr", 1, "sip:h.org;lr"),
        ("<sip:h.org>;q=1", 1, "sip:h.org"),
        ("tel:1", -1, ""),
        ("rubbish", -1, ""),
        (None, -1, ""),
    ],
)
def test_attr_destination(value, result, dst_uri):
    ctx = with_attr(value)
    assert call("attr_destination", ctx, A) == result
    assert ctx.dst_uri == dst_uri
    assert not ctx.uri_changed


def test_header_lines_from_attributes():
    ctx = with_attr("v")
    assert call("replace_attr_hf", ctx, "X-Old", A) == 1
    assert call("append_attr_hf", ctx, "X-Last", A) == 1
    assert call("insert_attr_hf", ctx, "X-First", A) == 1
    assert call("attr_to_reply", ctx, "X-Reply", A) == 1
    assert [sent_values(ctx, name) for name in ("X-Old", "X-Last", "X-First")] == [["v"], ["v"], ["v"]]
    assert ctx.reply_headers == ["X-Reply: v"]


NAMES = ["replace_attr_hf", "append_attr_hf", "insert_attr_hf", "attr_to_reply"]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_value_makes_no_header(name):
    ctx = with_attr(None)
    assert call(name, ctx, "X-Old", A) == -1
    assert not ctx.edits
    assert ctx.reply_headers == []


@pytest.mark.parametrize("name", NAMES)
def test_line_ends_in_a_value_become_spaces(name):
    ctx = with_attr("a\r\nEvil: 1\x00\n")
    assert call(name, ctx, "X-Old", A) == 1
    found = ctx.reply_headers or [f"X-Old: {value}" for value in sent_values(ctx, "X-Old")]
    assert "X-Old: a  Evil: 1" in [line.rstrip() for line in found]
    assert sent_values(ctx, "Evil") == []


def test_values_are_added_and_typed():
    ctx = with_attr(None)
    name = parse_avp_name("$tu.n")
    assert call("xlset_attr", ctx, name, "text") == 1
    assert call("set_attr", ctx, name, 5) == 1
    assert call("set_iattr", ctx, name, "-7") == 1
    assert call("set_iattr", ctx, name, "x") == -1
    assert call("set_attr", ctx, name, None) == call("set_iattr", ctx, name, None) == -1
    assert [one.value for one in ctx.avps.get(TO_USER, "n")] == [-7, "5", "text"]


def test_flags_go_into_an_attribute():
    ctx = with_attr(None)
    ctx.flags = 6
    assert call("flags2attr", ctx, A) == 1
    assert ctx.avps.newest(FROM_URI, "a") == 6


def test_attributes_are_deleted_by_name_and_expression():
    ctx = with_attr("1")
    ctx.avps.add(FROM_USER, "ab", 1)
    ctx.avps.add(GLOBAL, "abc", 1)
    assert call("del_attr", ctx, A) == 1
    assert call("del_attr", ctx, A) == -1
    assert call("del_attrs", ctx, "b") == -1
    assert call("del_attrs", ctx, "/^a/") == 1
    assert ctx.avps.get(FROM_USER, "ab") == []
    assert ctx.avps.newest(GLOBAL, "abc") == 1


def test_values_are_substituted():
    ctx = with_attr("0043 0043")
    assert call("subst_attr", ctx, A, r"/^00(..)/+\1/") == 1
    assert ctx.avps.newest(FROM_URI, "a") == "+43 0043"
    assert call("subst_attr", ctx, A, "/none/x/") == -1
    assert call("subst_attr", ctx, parse_avp_name("$none"), "/a/x/") == -1
    with pytest.raises(ValueError, match="not of the form"):
        call("subst_attr", ctx, A, "/a/b")


def test_tests_on_values():
    ctx = with_attr("1")
    ctx.avps.add(FROM_URI, "a", 2)
    assert [call("attr_equals", ctx, A, value) for value in ("1", 2, "3", None)] == [1, 1, -1, -1]
    assert call("attr_equals", ctx, parse_avp_name("$a[1]"), 2) == -1
    assert call("attr_exists", ctx, A) == 1
    assert call("attr_exists", ctx, parse_avp_name("$b")) == -1


def test_an_attribute_can_hold_a_format_string():
    ctx = with_attr("method %rm")
    assert call("xlfix_attr", ctx, A) == 1
    assert ctx.avps.newest(FROM_URI, "a") == "method INVITE"
    assert call("xlfix_attr", ctx, parse_avp_name("$b")) == -1


def test_header_pairs_become_attributes():
    ctx = context(request_text('X-P: a=1;b="two", c'))
    assert call("hdr_body2attrs", ctx, "X-P", "p_") == 1
    assert (ctx.avps.newest(FROM_URI, "p_a"), ctx.avps.newest(FROM_URI, "p_b")) == ("1", "two")
    assert call("hdr_body2attrs", ctx, "X-None") == -1


def test_attributes_can_be_dumped(caplog):
    caplog.set_level(logging.DEBUG, logger="serpy.modules.avp")
    assert call("dump_attrs", with_attr("v")) == 1
    assert "$fr.a = 'v' flags=0" in caplog.text
