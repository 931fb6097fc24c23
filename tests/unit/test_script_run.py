"""Statements, values and conditions as script-language §5, §6 and §8 say."""

import logging
import re
import struct

import pytest
from support.scripts import World, compile_text, context, run

from serpy.context import avps
from serpy.context.context import BRANCH, DROPPED, EVENT, EXITED, FAILED, FAILURE, ONREPLY, ONSEND, REQUEST, RUNNING
from serpy.errors import ParseError, ResourceError, TransportError, UsageError
from serpy.sip.flow import Flow, Listener


def truth(condition, *headers, before=None, flags="flags A : 1, B : 2; avpflags dialog_cookie;", **parts):
    ctx, _ = run(f"if ({condition}) {{ setflag(31); }}", *headers, before=before, flags=flags, **parts)
    return bool(ctx.flags & (1 << 31))


CONDITIONS = [
    ('method == "INVITE"', True), ("method == INVITE", True), ('!method=="REGISTER"', True),
    ('method != "REGISTER" && method != "ACK"', True), ('uri =~ "^SIP:bob@"', True),
    ('!uri =~ "^sips?:\\+?[0-9]{3,18}@"', True), ('uri == "SIP:BOB@example.com"', True),
    ('from_uri =~ "alice"', True), ('to_uri == "sip:bob@example.com"', True),
    ("src_ip == 203.0.113.7", True), ("src_ip != 203.0.113.7", False), ("src_ip == 203.0.113.0/24", True),
    ("src_ip == 203.0.113.0/255.255.255.0", True), ("src_ip == 10.0.0.0/8", False), ("dst_ip == 192.0.2.1", True),
    ('src_ip == "203.0.113.0/24"', True), ("src_ip == $gw_ip", False), ("src_ip != $gw_ip", True),
    ('src_ip =~ "^203"', True), ("src_port == 5062", True), ("proto == UDP", True), ("proto == TCP || proto == TLS", False),
    ("af == inet", True), ("msg:len > 100 && msg:len < max_len", True),
    ('$x == ""', True), ('$x != ""', False), ("$x == 0", True), ("$x", False), ("!$x", True), ('!$x == "1"', True),
    ("defined $x", False), ("!defined $x", True), ("strempty($x)", True), ("strlen(@ruri.user) == 3", True),
    ("@to.tag", False), ('@to.tag == ""', True), ('@to.tag != ""', False), ('@ruri.user == "bob"', True),
    ("@hf_value.subject", False), ('@ruri.user == "BOB"', False), ('@ruri.user eq "bob"', True),
    ("1 + 2 == 3", True), ("2 * 3 > 5", True), ("7 mod 4 == 3", True), ("-7 / 2 == -3", True), ("7 / 0 == 0", True),
    ('"a" + 1 == "a1"', True), ('1 + "2" == 3', True), ("(1 | 4) & 4", True), ("1 << 3 == 8", True), ("~0 == -1", True),
    ('"10" == 10', True), ('10 == "10"', True), ('"010" ieq 10', True), ('"010" == 10', False), ("-1", False),
    ('(int)"5" > 4', True), ('(str)5 == "5"', True), ("0x10 == 16 && 010 == 8 && 101b == 5", True),
    ("yes", True), ("off", False), ("not 0", True), ("1 and 0 or 1", True), ('"a.b" =~ "a\\.b"', True),
    ("isflagset(A)", False), ('!isflagset("A")', True), ("isflagset(1)", False),
    ('@method == "INVITE" && @call_id != "" && @cseq.num == 1', True), ('@via[1].host == "203.0.113.7"', True),
    ('@from.uri.host == "example.com"', True), ('@src.ip == "203.0.113.7"', True), ('@status == ""', True),
    ('@msg.body == "" && @contact.uri == ""', True), ('@hf_value["from"] != ""', True), ('$rm == "INVITE"', True),
    ('$ru == "sip:bob@example.com" && $rU == "bob" && $rd == "example.com"', True), ("$du == $null", True),
    ('$fU == "alice" && $si == "203.0.113.7" && $sp == 5062 && $mt == 1', True), ("$(ru{s.len}) == 19", True),
    ('$(fu{uri.host}{s.toupper}) == "EXAMPLE.COM"', True), ('$hdr(To) =~ "bob"', True), ('$sel(ruri.user) == "bob"', True),
    ('"a\\nb" =~ "^b"', True), ('"ab" =~ "^b"', False), ('"ab" =~ "^b|b$"', True), ('"SIPS:1" =~ "^sips?:[0-9]$"', True),
    ('1 + 1 == "2"', True), ('"2" + "" == 2', True), ('$x + 0 == ""', True), ('$x == "0"', False), ("$x != 1", True),
    ("/* one /* nested */ comment */ 1", True), ('"ab" "cd" == "abcd"', True), ("'a\\n' == \"a\\\\n\"", True),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "expected"), CONDITIONS, ids=[text for text, _ in CONDITIONS])
def test_condition_has_the_truth_of_the_reference(condition, expected):
    assert truth(condition) is expected


AVP_CONDITIONS = [
    ("$f.x", "text", True), ("$x", "0", True), ("$x", 0, False), ("$x", "", False), ("$x", 1, True), ("$x == 1", "1", True),
    ('$x == "1"', 1, True), ("$x == 1", 1, True), ('$x == "yes"', 0, True), ('$x == "yes"', "yes", True),
    ('$x == "YES"', "yes", False), ('!$f.x == "1"', "1", False), ('!$f.x == "1"', "2", True), ("$x[] && $x[1]", "a", True),
    ("$x[2]", "a", False), ("$fr.x && !$fu.x && !$t.x", "a", True), ('$x != ""', "a", True), ("defined $x", "", True),
    ("src_ip == $x", "203.0.113.7", True), ("src_ip == $x", 7, False), ("src_ip != $x", 7, True), ('$x =~ "^T"', "text", True),
    ("$x > 4", "5", True), ("$x == $y", "a", False), ("$x == $f.x", "a", True), ("$x + 1 == 6", 5, True),
    ("isavpflagset($x, dialog_cookie)", "a", False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "value", "expected"), AVP_CONDITIONS, ids=[f"{c} with {v!r}" for c, v, _ in AVP_CONDITIONS]
)
def test_attribute_condition_follows_the_value_type(condition, value, expected):
    assert truth(condition, before=lambda ctx: ctx.avps.set(avps.FROM_URI, "x", value)) is expected


def test_kamailio_dialect_negates_only_the_left_side_of_a_comparison():
    program = compile_text("#!KAMAILIO\nflags A : 1; route { if (!$var(u) == 1) setflag(A); }")
    ctx = context()
    program.run(ctx, REQUEST)
    assert ctx.flags == 2


def test_two_values_make_an_unindexed_read_undefined():
    body = '$x[] = "old"; $x[] = "new"; if (!defined $x) setflag(1); if ($x[1] == "old" && $x[-1] == "new") setflag(2);'
    assert run(body)[0].flags == 6


def test_assigning_an_undefined_attribute_deletes_and_an_undefined_select_stores_an_empty_string():
    ctx, _ = run("$x = 1; $x = $nothing; $y = @hf_value.subject; $tu.uid = @ruri.user;")
    assert ctx.avps.read(avps.parse_avp_name("$x")) is None
    assert ctx.avps.read(avps.parse_avp_name("$y")) == ""
    assert ctx.avps.newest(avps.TO_USER, "uid") == "bob"


def test_uid_falls_through_the_classes_in_order():
    def before(ctx):
        ctx.avps.set(avps.GLOBAL, "gw", "global")
        ctx.avps.set(avps.FROM_DOMAIN, "gw", "domain")

    assert truth('$gw == "domain" && $t.gw == "global" && $g.gw == "global"', before=before)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ('f(0); f("no");', ["f"]),
        ('if (f(0)) { sl_reply("1", "x"); } f("no");', ["f"]),
        ('if (f(-1)) { f("no"); } else { f("yes"); }', ["f", "f"]),
        ('f(-1); f("next");', ["f", "f"]),
        ('if (1 && f(-1) && f("no")) f("no"); f("end");', ["f", "f"]),
        ('if (f(1) || f("no")) f("yes");', ["f", "f"]),
        ('if (!f(-1) && f(-2) || f(3)) f("yes");', ["f", "f", "f", "f"]),
        ('if (f(2) == 2) f("yes");', ["f", "f"]),
    ],
    ids=["zero as a statement", "zero in a condition", "negative is false", "negative goes on", "and stops early",
         "or stops early", "mixed", "compared"],
)  # fmt: skip
def test_function_results_steer_the_script(body, names):
    world = World()
    run(body, world=world, modules="fake sl")
    assert world.names() == names


def test_zero_ends_the_script_from_inside_a_condition():
    ctx, code = run("if (f(0)) { } setflag(A);")
    assert (ctx.state, ctx.flags, code) == (EXITED, 0, 0)


def test_return_code_keeps_the_last_call_and_ignores_flags_and_assignments():
    assert (
        run("if (!f(-3)) { setflag(A); $x = 1; if ($? == -3 && $rc == -3 && $retcode < 0) setflag(B); }")[0].flags == 6
    )


def test_break_inside_an_if_ends_the_route_and_the_caller_goes_on():
    text = "flags A : 1, B : 2; route { route(X); setflag(B); } route[X] { if (1) { break; } setflag(A); }"
    ctx = context()
    compile_text(text).run(ctx, REQUEST)
    assert (ctx.flags, ctx.state) == (4, RUNNING)


@pytest.mark.parametrize(
    ("word", "state"), [("exit", EXITED), ("drop", DROPPED), ("drop()", DROPPED), ("exit -2", EXITED)]
)
def test_exit_and_drop_end_every_level(word, state):
    ctx = context()
    compile_text(
        f"route {{ route(X); setflag(1); }} route[X] {{ if (route(Y)) setflag(2); }} route[Y] {{ {word}; }}"
    ).run(ctx, REQUEST)
    assert (ctx.flags, ctx.state) == (0, state)


def test_route_value_is_what_it_returns():
    text = "route { if (!route(NO) && $? == -5 && route(YES) && $rc == 1) setflag(1); } route[NO] { return -5; } route[YES] { return; }"
    ctx = context()
    compile_text(text).run(ctx, REQUEST)
    assert ctx.flags == 2


def test_endless_recursion_ends_at_the_depth_limit(caplog):
    ctx = context()
    compile_text("route { route(X); setflag(1); } route[X] { route(Y); } route[Y] { $n = $n + 1; route(X); }").run(
        ctx, REQUEST
    )
    assert ctx.flags == 2
    assert ctx.depth == 0
    assert "test.conf:2" in caplog.text


def test_runaway_loop_ends_after_max_while_loops():
    def lend(hooks):
        hooks.max_while_loops = 7

    ctx, _ = run("$n = 0; while (1) { $n = $n + 1; }", lend=lend)
    assert ctx.avps.search("n") == 7


def test_while_break_leaves_only_the_loop():
    ctx, _ = run("$n = 0; while ($n < 10) { $n = $n + 1; if ($n == 3) break; } setflag(A);")
    assert (ctx.avps.search("n"), ctx.flags) == (3, 2)


@pytest.mark.parametrize(
    ("subject", "text"),
    [("1", "one two"), ("2", "two"), ("-3", "minus end"), ("9", "other"), ('"1"', "one two")],
)
def test_switch_falls_through_until_break(subject, text):
    body = f"""$r = ""; switch ({subject}) {{ case 1: $r = $r + "one "; case 2: $r = $r + "two"; break;
        case -3: $r = $r + "minus "; $r = $r + "end"; break; default: $r = $r + "other"; }}"""
    assert run(body)[0].avps.search("r") == text


def test_switch_matches_strings_and_patterns():
    body = 'switch (@ruri.user) { case "alice": setflag(1); break; case /"^BO": setflag(2); }'
    assert run(body)[0].flags == 4


def test_flags_are_set_reset_and_given_by_number_name_or_text():
    assert run('setflag(A); setflag("B"); setflag(5); resetflag(1); if (isflagset(B)) setflag(0);')[0].flags == 0b100101


def test_avp_flag_marks_every_value_and_fails_quietly_without_one():
    body = '$x[] = 1; $x[] = 2; if (setavpflag($x, "dialog_cookie") && isavpflagset("$f.x", "Dialog_Cookie") && !setavpflag($no, dialog_cookie)) setflag(A);'
    ctx, _ = run(body)
    assert ctx.flags == 2
    assert [avp.flags for avp in ctx.avps.get(avps.FROM_URI, "x")] == [1, 1]


@pytest.mark.parametrize(
    ("body", "uri"),
    [
        ('rewritehostport("h.example:5070");', "sip:bob@h.example:5070"), ('sethost("[::1]");', "sip:bob@[::1]"),
        ('setuser("eve"); prefix("00"); strip(1); strip_tail("1");', "sip:0ev@example.com"),
        ('seturi("tel:+123");', "tel:+123"), ('setport("5080"); revert_uri();', "sip:bob@example.com"),
        ("userphone();", "sip:bob@example.com;user=phone"), ('$rU = "x" + 1; $rd = "d.example";', "sip:x1@d.example"),
        ('$ru = "sip:new@n.example"; $rp = 5090;', "sip:new@n.example:5090"),
    ],
)  # fmt: skip
def test_request_uri_edits_add_up(body, uri):
    assert run(body)[0].request_uri == uri


def test_append_branch_consumes_the_current_uri_and_is_bounded():
    ctx, _ = run('append_branch(); append_branch("sip:x@y", "0.5"); append_branch("sip:z@y");')
    assert [(target.request_uri, target.q) for target in ctx.targets()] == [
        ("sip:bob@example.com", -1), ("sip:x@y", 500), ("sip:z@y", -1)]  # fmt: skip
    ctx, _ = run('$n = 0; while ($n < 12) { append_branch("sip:x@y"); $n = $n + 1; } if (!append_branch()) setflag(A);')
    assert (len(ctx.branches), ctx.flags) == (12, 2)


def test_reply_route_sees_the_status_and_the_request_route_the_uri():
    program = compile_text(
        'flags A : 1, B : 2; route { route(X); } onreply_route[R] { if (status=~"(18[03])|(2[0-9][0-9])" && status=="200") setflag(A);'
        ' route(X); } route[X] { if (uri =~ "^sip") setflag(B); }'
    )
    reply, request = context(reply=True), context()
    program.run(reply, ONREPLY, "R")
    program.run(request, REQUEST)
    assert (reply.flags, request.flags) == (2, 4)


def test_onsend_drop_refuses_and_keeps_the_return_code_of_the_sending_script():
    program = compile_text("onsend_route { if (to_ip==10.0.0.0/8 || to_ip==172.16.0.0/12 && msg:len == 3) { drop; } }")
    ctx = context()
    ctx.state, ctx.retcode = EXITED, -4
    listener = Listener(0, "udp", "192.0.2.1", 5060)
    verdicts = []
    for host in ("10.1.2.3", "172.16.0.9", "192.0.2.9"):
        ctx.out_flow, ctx.out_data = Flow(listener, host, 5060), b"abc"
        verdicts.append(program.run_onsend(ctx))
    assert verdicts == [False, False, True]
    assert (ctx.state, ctx.retcode, ctx.kind) == (RUNNING, -4, REQUEST)
    assert program.has_onsend
    assert not program.has_route("onreply_route")


def test_private_is_what_is_no_public_address():
    text = "route { if (src_ip == private) setflag(1); if (dst_ip != private) setflag(2); }"
    flags = []
    for listener, source in (("192.0.2.1", "198.51.100.1"), ("10.0.0.1", "100.64.0.9"), ("2001:db8::1", "fe80::1")):
        ctx = context()
        ctx.flow = Flow(Listener(0, "udp", listener, 5060), source, 5060)
        compile_text(text).run(ctx, REQUEST)
        flags.append(ctx.flags)
    assert flags == [4, 2, 6]


def test_whether_a_target_is_private_is_asked_of_the_guard():
    program = compile_text("onsend_route { if (to_ip == private) drop; }")
    ctx = context()
    verdicts = []
    for host in ("10.1.2.3", "0.0.0.0", "198.51.100.9"):
        ctx.out_flow = Flow(Listener(0, "udp", "192.0.2.1", 5060), host, 5060)
        verdicts.append(program.run_onsend(ctx))
    assert verdicts == [False, False, True]
    program.hooks.to_is_private = lambda ctx: ctx.out_flow.port != 5060  # our own address, a port that is not ours
    assert program.run_onsend(ctx)
    ctx.out_flow = Flow(Listener(0, "udp", "192.0.2.1", 5060), "192.0.2.1", 22)
    assert not program.run_onsend(ctx)


def test_route_of_another_name_does_nothing():
    program = compile_text("failure_route[F] { drop; }")
    ctx = context()
    assert program.run(ctx, FAILURE, "G") == 1
    assert ctx.state == RUNNING
    assert program.has_route("failure_route", "F")
    assert not program.has_route("failure_route", "G")
    assert not program.has_route(ONSEND)


def test_failed_helper_makes_the_call_false_and_the_script_goes_on(caplog):
    ctx, _ = run('if (!raises("backend") && $? == -1) setflag(A);')
    assert ctx.flags == 2
    assert "test.conf:3: raises: broken" in caplog.text


def failing(error):
    """A World in which ``f`` raises *error*."""

    def fail(_ctx):
        raise error

    world = World()
    world.results["f"] = fail
    return world


# What a function may run into without anybody having written a bug into the server: a socket or a file, a number, a
# table, a text of a peer that nests without end.
ORDINARY = [
    OSError(111, "Connection refused"), TimeoutError("slow"), FileNotFoundError("x"), ZeroDivisionError("x"),
    OverflowError("x"), KeyError("x"), IndexError("x"), ValueError("x"), UnicodeError("x"), TypeError("x"),
    AttributeError("x"), RecursionError("too deep"), NotImplementedError("x"), AssertionError("x"), re.error("x"),
    struct.error("x"), UsageError("x"), TransportError("x"),
]  # fmt: skip


@pytest.mark.parametrize("error", ORDINARY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("kind", "head"),
    [
        (REQUEST, "route"),
        (ONREPLY, "onreply_route[X]"),
        (FAILURE, "failure_route[X]"),
        (BRANCH, "branch_route[X]"),
        (ONSEND, "onsend_route"),
        (EVENT, "event_route[X]"),
    ],
)
def test_an_error_in_a_function_ends_that_route_and_names_its_line(kind, head, error, caplog):
    program = compile_text(f'{head} {{\n\n  f("x"); setflag(1);\n}}', failing(error))
    ctx = context(reply=kind == ONREPLY)
    with caplog.at_level(logging.ERROR):
        code = program.run(ctx, kind, "X" if "X" in head else "")
    assert (code, ctx.state, ctx.flags) == (-1, FAILED, 0)
    assert "test.conf:4: the script failed" in caplog.text
    assert (ctx.kind, ctx.depth) == (ONREPLY if kind == ONREPLY else REQUEST, 0)


@pytest.mark.parametrize(
    ("error", "passed"),
    [
        pytest.param(ParseError("bad"), ParseError, id="ProtocolError"),
        pytest.param(ResourceError("full"), ResourceError, id="ResourceError"),
        pytest.param(MemoryError(), ResourceError, id="a lack of memory is a lack of resources"),
    ],
)
def test_errors_that_have_an_answer_pass_through(error, passed):
    with pytest.raises(passed):
        run('f("x");', world=failing(error))


def test_arguments_arrive_as_their_kind_says():
    world = World()
    run(
        '$f.y = 5; f("$f.y"); f("@ruri.user"); f("$none"); f("plain"); f($f.y + 1 == 6); f("\\$lit"); lookup_domain("$fd", "@from.uri.host");'
        ' lookup_user("$tu.uid", "@ruri"); append_hf("P: %$f.y %@ruri.user|%rm %% %{to[0]} %$none\\r\\n"); eval_oper(">=", -2);'
        ' eval_push("x:%@ruri.user"); mf_process_maxfwd_header("10"); t_on_failure("F"); xlog("L_DEBUG", "a%%b");'
        ' t_set_fr("$f.y", "@ruri.user"); append_hf("<sip:%$f.y@%@ruri.host>;screen=yes");',
        world=world, modules="fake domain uri_db textops eval maxfwd tm xlog", flags="failure_route[F] { }",
    )  # fmt: skip
    seen = [tuple(repr(a) if isinstance(a, avps.AvpName) else a for a in call) for call in world.calls]
    assert seen == [
        ("f", 5), ("f", "bob"), ("f", None), ("f", "plain"), ("f", 1), ("f", "$lit"), ("lookup_domain", "$fd", "example.com"),
        ("lookup_user", "$tu.uid", "sip:bob@example.com"),
        ("append_hf", "P: 5 bob|INVITE % <sip:bob@example.com> <null>\r\n"), ("eval_oper", ">=", -2),
        ("eval_push", "x:%@ruri.user"), ("mf_process_maxfwd_header", 10), ("t_on_failure", "F"),
        ("xlog", "L_DEBUG", "a%b"), ("t_set_fr", 5, "bob"), ("append_hf", "<sip:5@example.com>;screen=yes"),
    ]  # fmt: skip


SELECTS = [
    ("@hf_value.route[0].params.ftag", "ab1"), ("@hf_value.session_expires.uri", "1800"),
    ("@hf_value.session_expires.refresher", "uac"), ("@hf_value.p_multi", "a, b,c"), ("@hf_value.p_multi[2]", "b"),
    ("@hf_value.p_multi[-1]", "c"), ("@hf_value.p_multi[0]", "a"), ("@hf_value.p_multi[4]", None),
    ('@msg.header["SER-Server-ID"]', "7"), ("@msg.header.P_Multi[2]", "c"), ("@contact.uri", "sip:alice@192.0.2.9;maddr=1.2.3.4"),
    ("@contact.uri.params.maddr", "1.2.3.4"), ("@contact.uri.params.x", None), ('@hf_value["contact"].uri.host', "192.0.2.9"),
    ("@from.tag", "f1"), ("@to.name", ""), ("@cseq.method", "INVITE"), ("@received.proto", "udp"), ("@dst.ip", "192.0.2.1"),
    ("@dst.port", "5060"), ("@cfg_get.g.v", "90"), ("@sys.server_id", "0"), ("@ruri.port", ""), ("@via.branch", "z9hG4bKabc"),
]  # fmt: skip


@pytest.mark.parametrize(("select", "expected"), SELECTS, ids=[name for name, _ in SELECTS])
def test_select_reads(select, expected):
    world = World()
    headers = (
        "Route: <sip:192.0.2.1;ftag=ab1;lr>, <sip:next>", "Session-Expires: 1800;refresher=uac", "P-Multi: a, b", "P-Multi: c",
        "SER-Server-ID:  7", "Contact: <sip:alice@192.0.2.9;maddr=1.2.3.4>;q=0.5",
    )  # fmt: skip
    run(f"f({select});", *headers, world=world, flags='g.v = "90" desc "text"')
    assert world.calls == [("f", expected)]


def test_unparsable_header_is_undefined_and_not_an_error():
    world = World()
    run("f(@contact.uri); f(@contact.uri.host);", "Contact: <sip:unclosed", world=world)
    assert world.calls == [("f", None), ("f", None)]


def test_sys_unique_never_repeats():
    world = World()
    run("f(@sys.unique); f(@sys.unique);", world=world)
    assert world.calls[0] != world.calls[1]


def test_var_starts_as_zero():
    ctx, _ = run(
        'if ($var(n) == 0) { $var(n) = 5; $var(t) = "a"; } if ($var(n) + 1 == 6 && $var(t) == "a") setflag(A);'
    )
    assert ctx.flags == 2


def test_forward_and_send_socket_use_the_hooks():
    seen = []

    def lend(hooks):
        hooks.forward = lambda _ctx, host, port, transport: seen.append((host, port, transport)) or 1
        hooks.find_listener = lambda *where: Listener(3, *where)

    ctx, _ = run(
        "force_send_socket(udp:127.0.0.1:5064); forward_udp(224.0.1.75,5060); forward_tcp(uri:host, uri:port); forward();",
        lend=lend,
    )
    assert seen == [("224.0.1.75", 5060, "udp"), ("example.com", 0, "tcp"), ("", 0, "")]
    assert ctx.send_listener is not None
    assert ctx.send_listener.port == 5064


def test_myself_asks_the_server():
    def lend(hooks):
        hooks.is_myself = lambda host, port: (host, port) == ("example.com", 0)
        hooks.is_my_address = lambda host: host == "192.0.2.1"

    assert truth(
        "uri == myself && from_uri==myself && dst_ip == myself && src_ip != myself && myself == uri", lend=lend
    )


def test_each_program_has_hooks_and_variables_of_its_own():
    text = "route { $var(n) = $var(n) + 1; if (uri == myself) setflag(1); f($var(n)); }"
    worlds = [World(), World()]
    first, second = (compile_text(text, world) for world in worlds)
    first.hooks.is_myself = lambda _host, _port: True
    contexts = []
    for program in (first, second, first):
        contexts.append(context())
        program.run(contexts[-1], REQUEST)
    assert [ctx.flags for ctx in contexts] == [2, 0, 2]
    assert [[arguments for _, *arguments in world.calls] for world in worlds] == [[[1], [2]], [[1]]]


def test_modern_strings_expand_variables():
    world = World()
    text = '#!KAMAILIO\nroute { append_hf("X-$rU: $(fu{uri.host}) 5% $$ $hdr(Subject)"); f("$rd"); if ($avp(a) == $null) { $avp(s:a) = "v"; } f($avp(a)); }'
    compile_text(text, world, modules="fake textops").run(context(), REQUEST)
    assert world.calls == [("append_hf", "X-bob: example.com 5% $ <null>"), ("f", "example.com"), ("f", "v")]


def test_failure_route_works_on_the_request_although_it_knows_the_reply():
    program = compile_text(
        'flags A : 1; failure_route[F] { if (uri =~ "^sip:bob" && @ruri.user == "bob" && $rU == "bob" && $mt == 1'
        ' && sethost("h.example") && @status == "486") setflag(A); }'
    )
    ctx = context()
    ctx.response = context(reply=True, status=486, reason="Busy").response
    program.run(ctx, FAILURE, "F")
    assert (ctx.flags, ctx.request_uri) == (2, "sip:bob@h.example")
