"""Top level, preprocessor, dialects, module parameters: what loading a script does."""

import traceback

import pytest
from support.scripts import World, compile_text, context

from serpy.context.context import REQUEST
from serpy.modules import eval as evaluation
from serpy.script import compile as compiler
from serpy.script import formats
from serpy.script.compile import Environment, ScriptErrors, compile_script
from serpy.script.preprocess import command_line_value


def flags_after(text, defines=None, modules="fake", **parts):
    ctx = context(**parts)
    compile_text(text, modules=modules, defines=defines).run(ctx, REQUEST)
    return ctx.flags


IN_CONDITION = """
route {
    if (src_ip != 127.0.0.1
    #!ifdef NET1
        && src_ip != NET1
    #!endif
        #!ifdef NET2
        && src_ip != NET2
        #!else
        && method == "INVITE"
        #!endif
    ) {
        setflag(1);
    }
}
"""


@pytest.mark.parametrize(
    ("defines", "flags"),
    [({}, 2), ({"NET1": "203.0.113.0/24"}, 0), ({"NET1": "192.0.2.0/255.255.255.0"}, 2), ({"NET2": "203.0.113.7"}, 0)],
    ids=["no define", "network that matches", "other network", "address in place of the else part"],
)
def test_conditional_blocks_may_stand_inside_an_expression(defines, flags):
    assert flags_after(IN_CONDITION, defines) == flags


@pytest.mark.parametrize(
    "text",
    [
        "#!define N 3\nroute { setflag(N); }",
        "#!def N 3  # comment\nroute { setflag(N); }",
        "#!define M 3\n#!define N M\nroute { setflag(N); }",
        "#!trydef N 3\n#!trydef N 4\nroute { setflag(N); }",
        "#!define N 4\n#!redefine N 3\nroute { setflag(N); }",
        "#!define N 2 \\\n + 1\nroute { $x = N; if ($x == 3) setflag(3); }",
        "##!define N 4\n#!ifndef N\nroute { setflag(3); }\n#!else\nroute { }\n#!endif",
        "#!ifdef X\n#!ifdef Y\nnonsense ' here\n#!else\n\" more\n#!endif\n#!else\nroute { setflag(3); }\n#!endif",
        '#!subst "/THREE/3/"\nroute { setflag("THREE"); }',
        '#!substdef "/THREE/3/"\nroute { setflag("THREE"); resetflag(4); setflag(THREE); }',
        "#!define R X\nroute { route(R); }\nroute[X] { setflag(3); }",
        "/* a /* b */ c */ route { setflag(3); } # end",
        "route { setflag(\\\n3); }\n// the end",
        "request_route { setflag(3); };;",
        "route[0] { route(X); } route[X] { setflag(3); } route [ y ] { }",
    ],
)
def test_preprocessor_and_layout_lead_to_flag_three(text):
    assert flags_after(text) == 8


def test_command_line_define_wins_over_the_file():
    assert flags_after("#!define N 1\n#!trydef N 2\nroute { setflag(N); }", {"N": "3"}) == 8


@pytest.mark.parametrize(
    ("value", "text"),
    [("", ""), ("5", "5"), ("yes", "yes"), ("192.168.0.0/16", "192.168.0.0/16"), ("udp:127.0.0.1:5060", "udp:127.0.0.1:5060"),
     ('"q"', '"q"'), ("sqlite:////x", '"sqlite:////x"'), ("secret#1", '"secret#1"'), ("0123", '"0123"'), ('a"b', '"a\\"b"')],
)  # fmt: skip
def test_command_line_value_is_text_unless_it_is_a_literal(value, text):
    assert command_line_value(value) == text


def test_include_and_import_work_relative_to_the_including_file(tmp_path):
    (tmp_path / "main.conf").write_text('include_file "sub/a.conf"\nimport_file "missing.conf"\nroute { route(A); }\n')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.conf").write_text('#!include_file "b.conf"\nroute[A] { setflag(FROM_B); }\n')
    (tmp_path / "sub" / "b.conf").write_text("flags FROM_B : 5;\n")
    ctx = context()
    compile_script(str(tmp_path / "main.conf"), {}, Environment(World().load)).run(ctx, REQUEST)
    assert ctx.flags == 32


def test_settings_are_typed_and_lists_accumulate():
    text = """debug=-1 check_via=no dns_tls_pref = -1 log_facility=LOG_LOCAL0
    listen=127.0.0.1
    listen=udp:224.0.1.75 tls:[::1]:5061 eth0
    listen=tcp:192.0.2.1:5070 advertise 198.51.100.1:5060
    alias=foo.example.com "bar" port = 5070; server_header="Server: x" use_dst_blocklist=on stun_refresh=1"""
    program = compile_text(text)
    last = {assignment.name: assignment.value for assignment in program.settings}
    assert last["debug"] == -1
    assert last["check_via"] == 0
    assert last["log_facility"] == "LOG_LOCAL0"
    assert last["port"] == 5070
    assert last["listen"] == [
        "127.0.0.1", "udp:224.0.1.75", "tls:[::1]:5061", "eth0", "tcp:192.0.2.1:5070 advertise 198.51.100.1:5060",
    ]  # fmt: skip
    assert last["alias"] == ["foo.example.com", "bar"]
    first = program.settings[0]
    assert (first.name, first.value, first.file, first.line, first.column) == ("debug", -1, "test.conf", 2, 1)


def test_module_parameters_reach_every_matching_module():
    world = World()
    compile_text(
        'flags NAT : 4; modparam("tm|sl", "db_url", "sqlite:///x"); modparam("t.", "db_mode", yes)'
        ' modparam("sl", "save_nat_flag", "NAT") modparam("sl", "declare", "a") modparam("sl", "declare", "b") modparam("tm", "limit", "7")',
        world, modules="tm sl",
    )  # fmt: skip
    tm, sl = world.modules["tm"], world.modules["sl"]
    assert (tm.db_url, tm.db_mode, tm.limit) == ("sqlite:///x", 1, 7)
    assert (sl.db_url, sl.save_nat_flag, sl.declare) == ("sqlite:///x", 4, ["a", "b"])


@pytest.mark.parametrize("name", ["tm", "tm.so", "/usr/lib/ser/modules/tm.so"])
def test_module_name_is_the_base_name(name):
    world = World()
    program = compile_text(f'loadmodule "{name}"\nloadmodule "tm"', world, modules="sl")
    assert [exports.name for exports in program.modules] == ["sl", "tm"]
    assert len(program.warnings) == 1


def test_flags_without_a_number_are_given_from_the_top():
    program = compile_text("flags A : 31, B, C; bool D : 2; avpflags dialog_cookie; avpflags other;")
    assert program.flags == {"A": 31, "B": 30, "C": 29, "D": 2}
    assert program.avpflags == {"dialog_cookie": 0, "other": 1}


def test_custom_variables_are_declared_and_read():
    program = compile_text(
        'g.default = "1800" desc "interval"\ng.n = -5\nroute { if (@cfg_get.g.n == "-5") setflag(3); }'
    )
    assert [(v.group, v.name, v.value, v.description) for v in program.variables] == [
        ("g", "default", "1800", "interval"), ("g", "n", -5, ""),
    ]  # fmt: skip
    ctx = context()
    program.run(ctx, REQUEST)
    assert ctx.flags == 8


@pytest.mark.parametrize(
    ("marker", "meaning"),
    [("", "pseudo"), ("#!SER\n", "attribute"), ("#!MAXCOMPAT\n", "pseudo"), ("#!KAMAILIO\n", "pseudo")],
    ids=["default", "SER", "MAXCOMPAT", "KAMAILIO"],
)
def test_marker_decides_what_a_dollar_name_means(marker, meaning):
    text = f'{marker}route {{ if ($ru =~ "^sip:") setflag(3); }}'
    assert flags_after(text) == (8 if meaning == "pseudo" else 0)


def test_default_reply_route_is_known():
    program = compile_text("onreply_route { } onreply_route[X] { } event_route[tm:local-request] { }")
    assert program.has_route("onreply_route")
    assert program.route_names("onreply_route") == ["", "X"]
    assert program.has_route("event_route", "tm:local-request")


def test_force_send_socket_addresses_are_listed_for_the_loader():
    program = compile_text("route { force_send_socket(udp:127.0.0.1); force_send_socket(192.0.2.1:5070); }")
    assert program.send_sockets == [
        ("udp", "127.0.0.1", 0, "test.conf:2:27"), ("", "192.0.2.1", 5070, "test.conf:2:61")]  # fmt: skip


def test_traceback_names_the_script_line():
    program = compile_text('route {\n  setflag(1);\n\n  raises("value");\n}')
    function = program._routes[REQUEST][""]
    with pytest.raises(ValueError, match="broken") as caught:
        function(context())
    assert any((frame.filename, frame.lineno) == ("test.conf", 5) for frame in traceback.extract_tb(caught.tb))
    assert program.place_of(caught.tb) == "test.conf:5"


def test_all_errors_of_a_route_are_found_at_once():
    with pytest.raises(ScriptErrors) as caught:
        compile_text("route {\n a();\n if (x y) { b(); }\n c();\n $z = ;\n d()\n e();\n}\nroute[X] { route(NO); }")
    assert [error.line for error in caught.value.errors] == [3, 4, 5, 6, 7, 7, 8, 10]
    assert str(caught.value).endswith("errors in the configuration")


def test_unused_route_is_checked_as_a_request_route():
    with pytest.raises(ScriptErrors, match="not allowed in onreply_route"):
        compile_text("route[ONLY] { } onreply_route[R] { t_relay(); }", modules="tm")


def test_a_module_resolves_texts_in_the_script_that_has_loaded_it():
    environments = [Environment(lambda _name: evaluation.exports()) for _ in "ab"]
    text = (
        'loadmodule "eval" g.v = "{}" desc "y" route {{ eval_push("x:%@cfg_get.g.v %rm"); eval_push("@cfg_get.g.v"); }}'
    )
    programs = [
        compiler.compile_text(text.format(name), "test.conf", {}, environment)
        for name, environment in zip("ab", environments, strict=True)
    ]
    for program in programs:
        program.run(context(), REQUEST)
    stacks = [program.modules[0].module.stack for program in programs]
    assert stacks == [["a INVITE", "a"], ["b INVITE", "b"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100%%", "100%"), ("%rm|%ci", "INVITE|call-1@203.0.113.7"), ("%fu;tag=%ft", "sip:alice@example.com;tag=f1"),
        ("%si:%sp %Ri:%Rp", "203.0.113.7:5062 192.0.2.1:5060"), ("%{subject}", "<null>"), ("%{cseq[0]}", "1 INVITE"),
        ("%{via[-1]}", "SIP/2.0/UDP 203.0.113.7:5062;branch=z9hG4bKabc"), ("%@ruri.user%|x", "bobx"), ("%$no.", "<null>."),
        ("%ds", "sip:bob@example.com"), ("%Cbx%Cxx", "\x1b[34;49m\x1b[0m"), ("%mb", None),
    ],
)  # fmt: skip
def test_format_expands(text, expected):
    ctx = context()
    result = formats.compile_format(text, Environment())(ctx)
    assert result == (ctx.message.raw.decode() if expected is None else expected)


OUT_OF_BOX = """
#!ifdef WITH_TLS
tls_enable=yes
#!endif
rtp.enabled = "detect" desc "when to relay media"
flags
  TOTAG : 5, # in a dialog
  NAT   : 3;
avpflags
  dialog_cookie;
route
{
    route(START);
    route(PSTN);
    ;
    sl_reply("404", "none");
}
route[START]
{
    if (!mf_process_maxfwd_header("10")) { sl_reply("483","hops"); drop; }
    if (@to.tag) { setflag(TOTAG); }
    if ((proto == UDP && nat_uac_test("19")) ||
        (nat_uac_test("3")) ||
        (@hf_value["contact"] != "" && @contact.uri.params.maddr != ""))
        setflag(NAT);
    if (isflagset(TOTAG) && @hf_value.route[0].params.ftag != @from.tag) { t_reply("500", "turn"); }
    if (!$t.did && !$f.did) force_rtp_proxy('r');
    if (@cfg_get.rtp.enabled == "0") { break; } else if (@cfg_get.rtp.enabled != "detect") { drop; }
    if (@rr.next_route != "") { setavpflag("$f.dialog_id", "dialog_cookie"); }
    eval_push("x:%@cfg_get.rtp.enabled");
    eval_oper(">=", -2);
    if (@eval.pop[-1] == "0") { append_hf_value("Min-SE", "%@cfg_get.rtp.enabled"); }
}
route[PSTN]
{
    if (!uri =~ "^sips?:\\+?[0-9]{3,18}@") { break; }
    sl_reply("403", "x");
    drop;
}
onsend_route
{
    if (defined $g.gw_ip && to_ip==$g.gw_ip && !isflagset(TOTAG)
        && method != "ACK") { log(1, "refused %mb\\n"); drop; }
}
"""


def test_out_of_box_idioms_load_and_run():
    world = World()
    world.results["nat_uac_test"] = -1
    program = compile_text(OUT_OF_BOX, world, modules="tm sl rr maxfwd nathelper textops eval")
    ctx = context()
    program.run(ctx, REQUEST)
    assert world.calls == [
        ("mf_process_maxfwd_header", 10), ("nat_uac_test", 19), ("nat_uac_test", 3), ("force_rtp_proxy", "r"),
        ("eval_push", "x:%@cfg_get.rtp.enabled"), ("eval_oper", ">=", -2), ("append_hf_value", "Min-SE", "detect"),
        ("sl_reply", 404, "none"),
    ]  # fmt: skip


def test_a_define_that_renames_a_route_is_warned_of():
    program = compile_text("#!define NAT no\nroute { route(NAT); }\nroute[NAT] { setflag(3); }")
    assert program.warnings == ["test.conf:4:1: 'NAT' is a define: this is route[no]"]
    assert program.route_names("route") == ["", "no"]


@pytest.mark.parametrize("text", ["#!define NAT NAT\nroute[NAT] { }", "#!define NAT no\nroute[NET] { }"])
def test_a_define_that_leaves_the_routes_their_names_is_not_warned_of(text):
    assert compile_text(text).warnings == []
