"""Header and text edits: what leaves, and that reads keep seeing what came."""

import pytest
from support.contexts import context, function, reply_text, request_text, sent_body, sent_lines, sent_values

from serpy.api import UsageError
from serpy.context.context import ONREPLY, ONSEND
from serpy.modules import textops
from serpy.modules.textops.values import split_semicolons, with_param
from serpy.script.patterns import compile_pattern
from serpy.script.substitution import parse_substitution


def call(name, ctx, *args):
    if name.startswith("subst"):
        args = (parse_substitution(*args),)
    return function(textops.exports(), name)(ctx, *args)


def regex(text):
    return compile_pattern(text, replaces=True)


def test_search_matches_at_line_starts():
    ctx = context(request_text("Repl-Marker: nated"))
    assert call("search", ctx, regex("^repl-marker: nated")) == 1
    assert call("search", ctx, regex("^nated")) == -1


def test_search_in_onsend_looks_at_what_is_sent():
    ctx = context(request_text(), kind=ONSEND)
    ctx.out_data = b"OPTIONS sip:x SIP/2.0\r\nX-Out: 1\r\n\r\n"
    assert call("search", ctx, regex("^X-Out")) == 1
    assert call("search", ctx, regex("^Call-ID")) == -1


def test_search_body_ignores_headers():
    ctx = context(request_text(body="m=audio 1 RTP/AVP 0\r\n"))
    assert call("search_body", ctx, regex("^m=audio")) == 1
    assert call("search_body", ctx, regex("Call-ID")) == -1


# header lines


def test_append_hf_adds_after_the_last_header_in_order():
    ctx = context(request_text())
    assert call("append_hf", ctx, "X-A: 1\r\n") == 1
    assert call("append_hf", ctx, "X-B: 2\r\nX-C: 3\r\n") == 1
    assert sent_lines(ctx)[-3:] == ["X-A: 1", "X-B: 2", "X-C: 3"]


def test_append_hf_after_a_named_header():
    ctx = context(request_text("X: 1", "Y: 2"))
    call("append_hf", ctx, "X-New: 1\r\n", "x")
    lines = sent_lines(ctx)
    assert lines[lines.index("X: 1") + 1] == "X-New: 1"


def test_insert_hf_on_top_and_before_a_named_header():
    ctx = context(request_text("Y: 2"))
    call("insert_hf", ctx, "X-Top: 1\r\nX-Next: 2\r\n")
    call("insert_hf", ctx, "X-Before: 1\r\n", "Y")
    lines = sent_lines(ctx)
    assert lines[1:3] == ["X-Top: 1", "X-Next: 2"]
    assert lines[lines.index("Y: 2") - 1] == "X-Before: 1"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("no colon at all\r\n", id="no-colon"),
        pytest.param("<null>", id="undefined-attribute"),
        pytest.param("X: 1\r\nforged", id="second-line-without-colon"),
        pytest.param(" X: 1", id="starts-as-a-folded-line"),
        pytest.param("X y: 1", id="blank-in-the-name"),
        pytest.param("", id="empty"),
    ],
)
@pytest.mark.parametrize("name", ["append_hf", "insert_hf", "append_to_reply"])
def test_text_that_is_no_header_line_is_refused(name, text):
    ctx = context(request_text())
    assert call(name, ctx, text) == -1
    assert not ctx.edits
    assert ctx.reply_headers == []


def test_append_to_reply_keeps_lines_for_all_replies():
    ctx = context(request_text())
    assert call("append_to_reply", ctx, "Expires: 60\r\n") == 1
    assert call("append_time", ctx) == 1
    assert ctx.reply_headers == ["Expires: 60", "Date: Tue, 14 Nov 2023 22:13:20 GMT"]


def test_append_urihf_wraps_the_current_request_uri():
    ctx = context(request_text())
    ctx.request_uri = "sip:new@example.org"
    call("append_urihf", ctx, "X-Uri: <", ">\r\n")
    assert sent_values(ctx, "X-Uri") == ["<sip:new@example.org>"]


def test_remove_hf_removes_all_of_a_name_and_reads_still_see_them():
    ctx = context(request_text("Subject: a", "s: b"))
    assert call("remove_hf", ctx, "subject") == 1
    assert sent_values(ctx, "subject") == sent_values(ctx, "s") == []
    assert call("is_present_hf", ctx, "Subject") == 1
    assert call("remove_hf", ctx, "X-None") == -1
    assert call("is_present_hf", ctx, "X-None") == -1


@pytest.mark.parametrize(
    ("names", "gone", "stays"),
    [
        ("P-Asserted-Identity|Remote-Party-ID", ["P-Asserted-Identity", "Remote-Party-ID"], ["Subject"]),
        ("Remote-Party-ID | Subject", ["Remote-Party-ID", "Subject"], ["P-Asserted-Identity"]),
        ("X-None|s", ["Subject"], ["P-Asserted-Identity", "Remote-Party-ID"]),
    ],
)
def test_remove_hf_takes_several_names(names, gone, stays):
    for unusual in ("", " "):  # the second is a message that is not understood line by line
        lines = ("P-Asserted-Identity: <sip:a@h>", "remote-party-id: <sip:b@h>", "Subject: a", f"X-Odd{unusual}: 1")
        ctx = context(request_text(*lines))
        assert call("remove_hf", ctx, names) == 1
        assert [name for name in gone if sent_values(ctx, name)] == []
        assert [name for name in stays if not sent_values(ctx, name)] == []


def test_remove_hf_of_several_names_is_false_when_there_is_none():
    ctx = context(request_text("Subject: a"))
    assert call("remove_hf", ctx, "P-Asserted-Identity|Remote-Party-ID") == -1
    assert call("remove_hf", ctx, "X-A|X-B") == -1
    assert sent_values(ctx, "Subject") == ["a"]


def test_remove_hf_re_matches_names_only():
    ctx = context(request_text("P-A: 1", "P-B: 2", "X: P-A"))
    assert call("remove_hf_re", ctx, regex("^P-")) == 1
    assert sent_values(ctx, "P-A") == sent_values(ctx, "P-B") == []
    assert sent_values(ctx, "X") == ["P-A"]


# header values


@pytest.mark.parametrize(
    ("steps", "sent"),
    [
        pytest.param([("append_hf_value", "Supported", "z")], ["a, b", "c", "z"], id="append-without-index-is-a-line"),
        pytest.param([("append_hf_value", "Supported[1]", "z")], ["a, z, b", "c"], id="append-after-value-1"),
        pytest.param([("append_hf_value", "Supported[-1]", "z")], ["a, b", "c, z"], id="append-after-the-last"),
        pytest.param([("append_hf_value", "supported[9]", "z")], ["a, b", "c"], id="append-after-none"),
        pytest.param([("insert_hf_value", "Supported", "z")], ["z, a, b", "c"], id="insert-before-the-first"),
        pytest.param([("insert_hf_value", "Supported[3]", "z")], ["a, b", "z, c"], id="insert-before-the-third"),
        pytest.param([("remove_hf_value", "Supported")], ["b", "c"], id="remove-the-first"),
        pytest.param([("remove_hf_value", "Supported[3]")], ["a, b"], id="an-emptied-line-goes"),
        pytest.param([("remove_hf_value", "Supported[*]")], [], id="remove-all"),
        pytest.param([("assign_hf_value", "k[2]", "z")], ["a, z", "c"], id="assign-by-the-compact-name"),
        pytest.param([("assign_hf_value", "Supported", "z")], ["z, b", "c"], id="assign-the-first"),
        pytest.param([("include_hf_value", "Supported", "B")], ["a, b", "c"], id="include-knows-it-without-case"),
        pytest.param([("include_hf_value", "Supported", "z")], ["a, b", "c, z"], id="include-adds"),
        pytest.param([("exclude_hf_value", "Supported", "C")], ["a, b"], id="exclude"),
        pytest.param(
            [("remove_hf_value", "Supported[1]"), ("assign_hf_value", "Supported[2]", "z")],
            ["z", "c"],
            id="indexes-count-what-was-received",
        ),
        pytest.param(
            [("remove_hf_value", "Supported[3]"), ("append_hf_value", "Supported[3]", "z")],
            ["a, b", "z"],
            id="an-emptied-line-comes-back-with-a-new-value",
        ),
        pytest.param(
            [("include_hf_value", "Supported", "z"), ("include_hf_value", "Supported", "Z")],
            ["a, b", "c, z"],
            id="include-twice-adds-once",
        ),
    ],
)
def test_values_of_a_list_header(steps, sent):
    ctx = context(request_text("Supported: a, b", "k: c"))
    for name, *args in steps:
        call(name, ctx, *args)
    lines = [line.partition(":") for line in sent_lines(ctx)[1:]]
    assert [value.strip() for name, _, value in lines if name.lower() in {"supported", "k"}] == sent


def test_missing_headers_are_created_by_append_insert_and_include():
    for name in ("append_hf_value", "insert_hf_value", "include_hf_value"):
        ctx = context(request_text())
        assert call(name, ctx, "X-New", "v") == 1
        assert sent_values(ctx, "X-New") == ["v"]
    ctx = context(request_text())
    assert call("assign_hf_value", ctx, "X-New", "v") == -1
    assert call("remove_hf_value", ctx, "X-New") == -1
    assert call("exclude_hf_value", ctx, "X-New", "v") == 1
    assert not ctx.edits


@pytest.mark.parametrize(
    ("steps", "sent"),
    [
        pytest.param(
            [("assign_hf_value", "Session-Expires[1].refresher", "uac")], "1800;refresher=uac;x", id="replace"
        ),
        pytest.param([("assign_hf_value", "Session-Expires.y", "2")], "1800;refresher=uas;x;y=2", id="add"),
        pytest.param([("assign_hf_value", "Session-Expires.params.x", "2")], "1800;refresher=uas;x=2", id="long-form"),
        pytest.param([("remove_hf_value", "x[1].refresher")], "1800;x", id="remove-by-compact-name"),
        pytest.param([("remove_hf_value", "Session-Expires.nope")], "1800;refresher=uas;x", id="remove-a-missing-one"),
    ],
)
def test_parameters_of_a_value(steps, sent):
    ctx = context(request_text("Session-Expires: 1800;refresher=uas;x"))
    for name, *args in steps:
        call(name, ctx, *args)
    assert sent_values(ctx, "session-expires") == [sent]


def test_hf_value2_does_not_split_at_commas():
    header = 'X-Auth: Digest a="1", b="2"'
    ctx = context(request_text(header, "X-Auth: other"))
    assert call("assign_hf_value2", ctx, "X-Auth[2]", "new") == 1
    assert sent_values(ctx, "X-Auth") == ['Digest a="1", b="2"', "new"]
    assert call("remove_hf_value2", ctx, "X-Auth") == 1
    assert sent_values(ctx, "X-Auth") == ["new"]
    assert call("append_hf_value2", ctx, "X-Auth", "third") == 1
    assert call("insert_hf_value2", ctx, "X-Auth[2]", "y") == 1
    assert sent_values(ctx, "X-Auth") == ["y, new", "third"]


@pytest.mark.parametrize(
    ("value", "result"), [("timer", 1), ("TIMER", 1), ("time", -1), ("100rel", 1), ("replaces", 1), ("<null>", -1)]
)
def test_hf_value_exists_compares_whole_values(value, result):
    ctx = context(request_text("Supported: 100rel,timer", "Supported: replaces"))
    assert call("hf_value_exists", ctx, "Supported", value) == result


def test_a_value_that_would_start_a_new_line_is_refused():
    ctx = context(request_text("Supported: a"))
    for name in ("append_hf_value", "insert_hf_value", "assign_hf_value", "include_hf_value"):
        assert call(name, ctx, "Supported", "x\r\nEvil: 1") == -1
    assert not ctx.edits


def test_values_of_a_reply_are_not_those_of_its_request():
    request = context(request_text("Supported: a"))
    call("append_hf_value", request, "Supported[1]", "b")
    reply = context(reply_text("Supported: r"), kind=ONREPLY)
    reply.notes = request.notes
    call("append_hf_value", reply, "Supported[1]", "s")
    assert sent_values(reply, "Supported") == ["r, s"]


@pytest.mark.parametrize("text", ["", "a b", "Name[", "Name[x]", "Name[1]x", "Name[99999999]", "N:x"])
def test_bad_header_references_are_the_scripts_fault(text):
    with pytest.raises(UsageError):
        call("remove_hf_value", context(request_text()), text)


@pytest.mark.parametrize(
    ("value", "pieces"),
    [
        ('"a;b" <sip:x;y=1>;tag=2', ['"a;b" <sip:x;y=1>', "tag=2"]),
        ('"q\\";" <sip:x>; z', ['"q\\";" <sip:x>', " z"]),
        ("plain", ["plain"]),
    ],
)
def test_semicolons_in_quotes_and_brackets_do_not_split(value, pieces):
    assert split_semicolons(value) == pieces


def test_a_parameter_can_be_set_bare():
    assert with_param("<sip:a>;x=1", "x", "") == "<sip:a>;x"


@pytest.mark.parametrize("value", ["<sip:a>;", "<sip:a> ; ", "<sip:a>;;"])
def test_a_parameter_is_added_to_a_value_that_ends_with_a_semicolon(value):
    assert with_param(value, "x", "1").replace(" ", "") == "<sip:a>;x=1"
    assert with_param(f"{value}x=1;", "x", None).replace(" ", "") == "<sip:a>"


# small tests


@pytest.mark.parametrize(
    ("text", "result"), [("INVITE", 1), ("ACK|INVITE", 1), ("ACK | INVITE", 1), ("ACK|BYE", -1), ("INV", -1)]
)
def test_is_method(text, result):
    assert call("is_method", context(request_text()), text) == result
    assert call("is_method", context(reply_text(), kind=ONREPLY), text) == result


def test_is_request_and_is_reply():
    assert [call(name, context(request_text())) for name in ("is_request", "is_reply")] == [1, -1]
    assert [call(name, context(reply_text())) for name in ("is_request", "is_reply")] == [-1, 1]


@pytest.mark.parametrize(
    ("text", "start", "result"),
    [("00431", "00", 1), ("431", "00", -1), (431, "43", 1), (None, "0", -1), ("0", None, -1)],
)
def test_starts_with(text, start, result):
    assert call("starts_with", context(request_text()), text, start) == result


# substitution


def test_replace_changes_the_first_match_only_and_takes_the_text_as_it_is():
    ctx = context(request_text("X-A: foo foo", "X-B: foo"))
    assert call("replace", ctx, regex("foo"), r"b\1") == 1
    assert sent_values(ctx, "X-A") == [r"b\1 foo"]
    assert sent_values(ctx, "X-B") == ["foo"]


def test_replace_all_reaches_headers_and_body():
    ctx = context(request_text("X-A: foo foo", body="a=foo\r\n"))
    assert call("replace_all", ctx, regex("foo"), "bar") == 1
    assert sent_values(ctx, "X-A") == ["bar bar"]
    assert sent_body(ctx) == b"a=bar\r\n"
    assert call("replace_all", ctx, regex("nowhere"), "x") == -1


def test_replace_body_updates_content_length():
    ctx = context(request_text(body="v=0\r\n"))
    assert call("replace_body", ctx, regex("v=0"), "v=0000") == 1
    assert sent_body(ctx) == b"v=0000\r\n"
    assert sent_values(ctx, "Content-Length") == ["8"]


def test_via_is_never_substituted():
    ctx = context(request_text())
    assert call("replace_all", ctx, regex("z9hG4bKabc"), "x") == -1


def test_subst_knows_groups_and_flags():
    ctx = context(request_text("X-A: b1 b2", "X-B: b3"))
    assert call("subst", ctx, r"/B([0-9])/<\1\0>/gi") == 1
    assert sent_values(ctx, "X-A") == ["<1b1> <2b2>"]
    assert sent_values(ctx, "X-B") == ["<3b3>"]


def test_subst_body_takes_another_separator():
    ctx = context(request_text(body="a/b"))
    assert call("subst_body", ctx, "#a/b#c/d#") == 1
    assert sent_body(ctx) == b"c/d"


def test_subst_uri_and_user():
    ctx = context(request_text(uri="sip:00431@example.com;x=1"))
    assert call("subst_user", ctx, r"/^00(.*)$/+\1/") == 1
    assert ctx.request_uri == "sip:+431@example.com;x=1"
    assert call("subst_uri", ctx, r"/^sip:(.*)@[^;]*/sip:\1@example.org/") == 1
    assert ctx.request_uri == "sip:+431@example.org;x=1"
    assert call("subst_user", ctx, "/none/x/") == -1
    assert call("subst_user", ctx, "/431/a@b/") == -1
