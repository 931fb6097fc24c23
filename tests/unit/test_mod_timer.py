"""timer: declarations, runs of real routes in a loop, switches, and routes that go wrong."""

from __future__ import annotations

import time

import pytest

from serpy.errors import ConfigError, UsageError
from serpy.loader import load
from serpy.modules.timer import parse_declaration
from serpy.net.loop import Loop

HEAD = """
listen=udp:127.0.0.1:5070
loadmodule "tm" loadmodule "sl" loadmodule "xlog" loadmodule "textops" loadmodule "timer"
"""
TAIL = 'route { sl_reply("200", "OK"); }\n'


class World:
    """A loaded script whose timer process is this one."""

    def __init__(self, folder, declarations, routes, role="timer"):
        params = "".join(f'modparam("timer", "declare_timer", "{text}")\n' for text in declarations)
        path = folder / "timer.conf"
        path.write_text(HEAD + params + TAIL + routes)
        self.server = load(str(path), {}, run_dir=str(folder))
        self.loop = self.server.loop = Loop()
        self.server.role = role
        self.seen = []
        self.enough = 1
        self.server.hooks.post_script.append(self.note)
        self.module = self.server.exports["timer"].module
        self.server.exports["timer"].child_init(self.server)

    def note(self, ctx):
        self.seen.append((ctx.avps.search("ran"), ctx.clock.now()))
        if len(self.seen) >= self.enough:
            self.loop.stop()

    def run(self, enough=1, seconds=5.0):
        """Run until a route has ended *enough* times."""
        self.enough = enough
        self.loop.call_at(time.monotonic() + seconds, self.loop.stop)
        self.loop.run()
        return [name for name, _ in self.seen]


def test_an_enabled_timer_runs_its_route_again_and_again(tmp_path):
    world = World(tmp_path, ["MINUTE=TICK,20,slow,enable"], "route[TICK] { $ran = @timer.executed; }")
    assert world.run(3) == ["MINUTE"] * 3


def test_a_disabled_timer_waits_for_its_switch(tmp_path):
    world = World(tmp_path, ["A=A,10,slow", "B=B,15,fast,enable"], "route[A] { $ran = 1; } route[B] { $ran = 2; }")
    assert world.run(2) == [2, 2]
    assert world.module.enable("A", 1) == "A enabled"
    assert world.module.enable("B", 0) == "B disabled"
    world.seen.clear()
    world.loop = world.server.loop = Loop()
    world.server.exports["timer"].child_init(world.server)
    assert world.run(2) == [1, 1]


def test_the_script_switches_timers_and_sees_which_are_on(tmp_path):
    world = World(
        tmp_path,
        ["A=A,10,slow,enable", "B=B,10,slow"],
        'route[A] { $ran = @timer.timer.B.enabled; timer_enable("A", 0); timer_enable("B", 1); }'
        'route[B] { $ran = "b" ; if (@timer.timer.A.enabled == "0") { $ran = "a is off"; } timer_enable("X", 1); }',
    )
    assert world.run(3)[:2] == ["0", "a is off"]


def test_only_the_timer_process_runs_routes(tmp_path):
    world = World(tmp_path, ["A=A,10,slow,enable"], "route[A] { $ran = 1; }", role="udp receiver")
    assert world.run(seconds=0.1) == []


def test_a_route_that_parks_does_not_overlap_itself_and_holds_up_no_other(tmp_path):
    world = World(
        tmp_path, ["SLOW=S,10,slow,enable", "QUICK=Q,10,slow,enable"], "route[S] { ; } route[Q] { $ran = 1; }"
    )
    inside = []
    most = []

    def quick_runs():
        return [ran for ran, _ in world.seen].count(1)

    def park(ctx):
        if ctx.notes["timer.executed"] == "SLOW":
            inside.append(1)
            most.append(len(inside))
            others = quick_runs()
            while quick_runs() < others + 3:  # each is one more interval, in which this one would be due, too
                world.loop.sleep(0.005)
            inside.pop()
        return True

    world.server.hooks.pre_script.append(park)
    names = world.run(12)
    assert max(most) == 1
    assert names.count(1) > names.count(None) >= 1


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("t_relay();", id="relay"),
        pytest.param('sl_reply("200", "OK");', id="stateless-answer"),
        pytest.param('t_reply("200", "OK");', id="stateful-answer"),
        pytest.param('append_hf("X: y\\r\\n");', id="edit"),
        pytest.param("forward();", id="forward"),
        pytest.param('force_rport(); xlog("L_ERR", "%rm %si %ru\\n");', id="log"),
        pytest.param("drop;", id="drop"),
    ],
)
def test_what_makes_no_sense_there_does_not_end_the_timer(tmp_path, statement):
    world = World(tmp_path, ["A=A,10,slow,enable"], f"route[A] {{ $ran = 1; {statement} }}")
    assert world.run(2) == [1, 1]


def test_a_bug_in_one_run_does_not_end_the_timer(tmp_path):
    world = World(tmp_path, ["A=A,10,slow,enable"], "route[A] { $ran = 1; }")
    failures = []

    def fail(_ctx):
        if not failures:
            failures.append(1)
            raise ZeroDivisionError
        return True

    def lead():
        while not world.loop.stopping:
            try:
                world.loop.lead()
            except ZeroDivisionError:
                failures.append(2)

    world.server.hooks.pre_script.append(fail)
    world.loop.leader_body = lead
    assert world.run(2) == [1, 1]
    assert failures == [1, 2]


def test_the_rpc_lists_and_switches(tmp_path):
    world = World(tmp_path, ["A=A,10,slow,enable", "B=A,60000"], "route[A] { ; }")
    assert world.module.list() == [
        {"name": "A", "route": "A", "interval": 10, "enabled": 1},
        {"name": "B", "route": "A", "interval": 60000, "enabled": 0},
    ]
    with pytest.raises(UsageError, match="no such timer"):
        world.module.enable("C", 1)


@pytest.mark.parametrize(
    ("declarations", "routes", "message"),
    [
        pytest.param(["A=X,10"], "", r"no route\[X\]", id="no-such-route"),
        pytest.param(["A=R,10", "A=R,20"], "route[R] { ; }", "declared twice", id="twice"),
        pytest.param([], "route[R] { $x = @timer.timer.B.enabled; }", "no such timer", id="select-of-no-timer"),
    ],
)
def test_declarations_that_do_not_fit_the_script_are_refused(tmp_path, declarations, routes, message):
    with pytest.raises(ConfigError, match=message):
        World(tmp_path, declarations, routes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MINUTE=TIMER,60000,slow,enable", ("MINUTE", "TIMER", 60000, True)),
        (" a = 3 , 1 , FAST , ENABLE ", ("a", "3", 1, True)),
        ("a=b,5", ("a", "b", 5, False)),
        ("a=b,5,slow", ("a", "b", 5, False)),
        ("MINUTE,60000,slow,enable", ("MINUTE", "MINUTE", 60000, True)),
    ],
)
def test_declarations(text, expected):
    timer = parse_declaration(text)
    assert (timer.name, timer.route, timer.interval_ms, timer.starts_enabled) == expected


@pytest.mark.parametrize("text", ["", "a", "=b,5", "a-b=c,5", "a=b", "a=b,x", "a=b,0", "a=,5", "a=b,5,medium",
                                  "a=b,5,slow,on", "a=b,5,slow,enable,x", "a=b,99999999999"])  # fmt: skip
def test_malformed_declarations_are_refused(text):
    with pytest.raises(ConfigError, match="timer"):
        parse_declaration(text)


def test_hooks_after_the_script_run_also_after_a_bug(tmp_path):
    world = World(tmp_path, ["A=A,10,slow,enable"], "route[A] { $ran = 1; }")

    class Broken:
        def run(self, *_args):
            return 1 // 0

    world.server.program = Broken()
    timer = world.module.timers["A"]
    with pytest.raises(ZeroDivisionError):
        world.module.run(timer)
    assert len(world.seen) == 1
