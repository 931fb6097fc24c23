"""What serpy.script.optimize may not change: results, the end of a script, ``$?`` and the lines of errors."""

import ast
import dis
import traceback
from pathlib import Path

import pytest
from support.scripts import World, compile_text, context

from serpy.context.context import DROPPED, EXITED, REQUEST, RUNNING
from serpy.script import optimize
from serpy.sip.flow import Flow

FLAGS = "flags A : 1, B : 2, C : 3;"


def run(text, world=None, **parts):
    program = compile_text(f"{FLAGS} {text}", world, **parts)
    ctx = context()
    return program, ctx, program.run(ctx, REQUEST)


def names_used(program):
    return {step.argval for step in dis.get_instructions(program._routes[REQUEST][""])}


def test_a_route_called_once_is_part_of_its_caller():
    program, ctx, result = run("route { route(ONE); setflag(B); } route[ONE] { setflag(A); }")
    assert (ctx.flags, result) == (6, 1)
    assert "route_1" not in names_used(program)
    assert program.call(ctx, "ONE") == 1  # and can still be called by its name


def test_a_short_route_is_part_of_every_caller():
    program, _, _ = run("route { route(ONE); route(ONE); } route[ONE] { f(1); }", world := World())
    assert world.names() == ["f", "f"]
    assert "route_1" not in names_used(program)


def test_a_long_route_that_is_called_twice_stays_a_call():
    program, _, _ = run(f"route {{ route(ONE); route(ONE); }} route[ONE] {{ {'f(1); ' * 100} }}", world := World())
    assert len(world.calls) == 200
    assert "route_1" in names_used(program)


def test_copies_of_copies_end():
    routes = " ".join(f"route[R{n}] {{ route(R{n + 1}); route(R{n + 1}); }}" for n in range(1, 8))
    run(f"route {{ route(R1); }} {routes} route[R8] {{ f(1); }}", world := World())
    assert len(world.calls) == 128


@pytest.mark.parametrize(
    ("body", "flags", "state", "result"),
    [
        ("return; setflag(B);", 2, RUNNING, 1),
        ("return -1; setflag(B);", 0, RUNNING, 1),
        ("if (f(1)) { if (f(-1)) return -1; else return 5; } return -1;", 2, RUNNING, 1),
        ("if (f(1)) { setflag(B); exit; } return -1;", 4, EXITED, 0),
        ("exit(7);", 0, EXITED, 7),
        ("setflag(B); drop;", 4, DROPPED, 0),
        ("f(0); return -1;", 0, EXITED, 0),
        ("while (f(1)) { setflag(B); return -1; }", 4, RUNNING, 1),
        ("switch (2) { case 1: setflag(C); case 2: setflag(B); return; } setflag(C);", 6, RUNNING, 1),
        ("route(INNER); return -1;", 4, EXITED, 0),
    ],
)
def test_an_inlined_route_ends_as_a_called_one(body, flags, state, result):
    text = f"route {{ if (route(ONE)) setflag(A); return 1; }} route[ONE] {{ {body} }} route[INNER] {{ setflag(B); exit; }}"
    _, ctx, code = run(text)
    assert (ctx.flags, ctx.state, code) == (flags, state, result)


def test_temporaries_of_inlined_routes_do_not_meet():
    text = """route { if (f(5) && route(ONE) && f(6)) setflag(A); if ($? == 6) setflag(B); }
        route[ONE] { if (f(-1) || route(TWO)) return 3; return -1; } route[TWO] { if (f(2)) return 4; return -4; }"""
    _, ctx, _ = run(text, world := World())
    assert ctx.flags == 6
    assert [call[1] for call in world.calls] == [5, -1, 2, 6]


def test_deeply_nested_routes_compile():
    routes = " ".join(f"route[R{n}] {{ f({n}); route(R{n + 1}); }}" for n in range(1, 40))
    _, ctx, _ = run(f"route {{ route(R1); setflag(A); }} {routes} route[R40] {{ f(40); }}", world := World())
    assert ctx.flags == 2
    assert [call[1] for call in world.calls] == list(range(1, 41))


def test_routes_that_call_each_other_compile():
    text = "route { route(ONE); } route[ONE] { if (f(-1)) route(TWO); } route[TWO] { route(ONE); }"
    assert run(text)[2] == 1


def test_an_error_in_an_inlined_route_has_its_own_line():
    program = compile_text('route {\n route(ONE);\n}\nroute[ONE] {\n setflag(1);\n raises("value");\n}')
    with pytest.raises(ValueError, match="broken") as caught:
        program._routes[REQUEST][""](context())
    assert ("test.conf", 7) in [(frame.filename, frame.lineno) for frame in traceback.extract_tb(caught.tb)]
    assert program.place_of(caught.tb) == "test.conf:7"


# ---- $?


def stores(program):
    function = program._routes[REQUEST][""]
    return sum(step.opname == "STORE_ATTR" and step.argval == "retcode" for step in dis.get_instructions(function))


def test_a_result_that_nothing_reads_is_not_stored():
    program, _, _ = run("route { f(2); if (!f(-3)) setflag(A); f(1); }")
    assert stores(program) == 0


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("f(-3); if ($? == -3) setflag(A); f(-2); if ($rc == -2) setflag(B);", 6),
        ("f(-3); if (method == INVITE) { setflag(C); } if ($? == -3) setflag(A);", 10),
        ("f(-3); if (method == ACK) { f(5); } if ($? == -3) setflag(A);", 2),
        ("f(-3); if (method == INVITE) { f(5); } if ($? == 5) setflag(A);", 2),
        ("f(4); if (route(ONE) && $? == 9) setflag(A); if ($? == 9) setflag(B);", 6),
        ("f(2); while ($? == 2) { setflag(A); f(3); } if ($? == 3) setflag(B);", 6),
        ("f(2); while (!isflagset(B)) { if ($? == 7) setflag(B); f(7); }", 4),
        ('raises("backend"); if ($? == -1) setflag(A);', 2),
        ("f(3); route(TWO); if ($? == 3) setflag(B); if ($? == 1) setflag(C);", 10),
        ("f(3); f($?); if ($? == 3) setflag(A);", 2),
        ("f(3); $x = $?; f(4); if ($x == 3) setflag(A);", 2),
    ],
)
def test_what_reads_the_result_finds_it(text, flags):
    _, ctx, _ = run(f"route {{ {text} }} route[ONE] {{ f(1); return 9; }} route[TWO] {{ if ($? == 3) setflag(A); }}")
    assert ctx.flags == flags


def test_a_result_is_kept_for_a_route_that_reads_it_first():
    program = compile_text(f"{FLAGS} route {{ f(-4); }} onsend_route {{ if ($? == -4) setflag(A); }}")
    assert stores(program) == 1


@pytest.mark.parametrize("text", ['xlog("L_INFO", "$rc");', 'xlog("L_INFO", "$(retcode{s.len})");'])
def test_a_result_is_kept_for_a_text_that_may_name_it(text):
    program = compile_text(f"#!KAMAILIO\nroute {{ f(-4); {text} }}", modules="fake xlog")
    assert stores(program) == 2


def test_a_transformation_reads_the_result():
    program, ctx, _ = run("route { f(-4); if ($(rc{s.len}) == 2) setflag(A); }")
    assert (ctx.flags, stores(program)) == (2, 1)


# ---- locals


def test_what_a_route_cannot_change_is_read_once():
    text = "route { if (method == ACK) setflag(A); if (method == BYE) setflag(B); if (method == INVITE) setflag(C); }"
    program, ctx, _ = run(text)
    reads = [step for step in dis.get_instructions(program._routes[REQUEST][""]) if step.argval == "message"]
    assert (ctx.flags, len(reads)) == (8, 1)


def test_attributes_written_by_a_route_are_seen_behind_it():
    text = """route { $x = 1; route(ONE); if ($x == 2) setflag(A); $x = 3; if ($x == 3) setflag(B); }
        route[ONE] { if ($x == 1) $x = 2; }"""
    assert run(text)[1].flags == 6


# ---- what the optimizer relies on

SERPY = Path(optimize.__file__).parents[1]


def assignments(attribute):
    """(file, function, target) of every assignment to ``x.<attribute>`` in serpy, in whatever form it is written."""
    found = set()
    for path in SERPY.rglob("*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        owners = {}
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef):
                owners.update(dict.fromkeys(ast.walk(function), function.name))
        for node in ast.walk(module):
            if isinstance(node, ast.Attribute) and node.attr == attribute and not isinstance(node.ctx, ast.Load):
                found.add((str(path.relative_to(SERPY)), owners.get(node, ""), ast.unparse(node)))
            is_set = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr"
            if is_set and isinstance(node.args[1], ast.Constant) and node.args[1].value == attribute:
                found.add((str(path.relative_to(SERPY)), owners.get(node, ""), ast.unparse(node)))
    return found


MADE = {("context/context.py", "__init__", f"self.{name}") for name in ("message", "flow", "avps")}
BETWEEN_ROUTES = {  # of the Context of an answer, before its onreply route runs, and of the request's after it
    ("modules/tm/routes.py", "on_reply", "ctx.avps"), ("modules/tm/routes.py", "on_reply", "owner.avps"),
}  # fmt: skip
OTHER_NOUNS = {
    "branch",
    "cancel",
    "following",
    "left",
    "self",
}  # transactions and messages of our own have such attributes, too


@pytest.mark.parametrize("name", ["message", "flow", "avps"])
def test_what_is_kept_in_a_local_is_never_exchanged_while_a_route_runs(name):
    same_flow = ("script/builtins.py", "_reply_option", "ctx.flow")  # other options, the same addresses: tested below
    allowed = MADE | BETWEEN_ROUTES | {same_flow}
    of_contexts = {
        entry for entry in assignments(name) if entry[2].partition(".")[0] not in OTHER_NOUNS or entry in MADE
    }
    assert of_contexts <= allowed


def test_these_are_all_paths_that_are_kept():
    assert set(optimize._STABLE) == {"ctx.message.method", "ctx.avps", "ctx.flow"}
    assert not [entry for entry in assignments("method") if entry[2] != "self.method"]  # a message keeps its method


@pytest.mark.parametrize("function", ["set_reply_close", "set_reply_no_connect"])
def test_a_flow_with_other_options_has_the_same_addresses(function):
    ctx = context()
    ctx.flow = flow = Flow(ctx.flow.listener, "203.0.113.7", 5062, 77)
    compile_text(f"route {{ {function}(); }}").run(ctx, REQUEST)
    assert ctx.flow is not flow
    assert ctx.flow.options != flow.options
    assert (ctx.flow.listener, ctx.flow.host, ctx.flow.port, ctx.flow.transport) == (
        flow.listener, flow.host, flow.port, flow.transport,
    )  # fmt: skip
