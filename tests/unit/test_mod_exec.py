"""exec: real programs run from a loop: what they get, what their end means, and that they cannot hold anything up."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from support.contexts import configure, context, function, request_text, server
from support.running import wait_for

from serpy.modules import exec as exec_module
from serpy.modules.exec.program import run_program
from serpy.net.loop import Loop


class World:
    """The module in a loop of its own."""

    def __init__(self, **parameters):
        self.server = server()
        self.loop = self.server.loop = Loop()
        self.exports = configure(exec_module.exports(), self.server, **parameters)
        self.exports.child_init(self.server)
        self.ticks = 0

    def call(self, name, ctx, command, function=function):
        """Run one function in the loop; its result."""
        outcome = []

        def run():
            outcome.append(function(self.exports, name)(ctx, command))
            self.loop.stop()

        def tick():
            self.ticks += 1
            self.loop.call_at(self.loop.now() + 0.01, tick)

        self.loop.spawn(run)
        self.loop.spawn(tick)
        self.loop.call_at(time.monotonic() + 20, self.loop.stop)
        self.loop.run()
        return outcome[0]


def call(name, command, ctx=None, **parameters):
    return World(**parameters).call(name, ctx or context(request_text()), command)


@pytest.mark.parametrize(
    ("command", "result"),
    [
        pytest.param("true", 1, id="status-0"),
        pytest.param("exit 3", -1, id="status-3"),
        pytest.param("kill -9 $$", -1, id="killed"),
        pytest.param("/no/such/program 2>/dev/null", -1, id="no-such-program"),
        pytest.param("exec 0<&-; exit 0", 1, id="does-not-read"),
        pytest.param("cat >/dev/null; echo said", 1, id="what-it-says-is-not-looked-at"),
    ],
)
def test_the_exit_status_is_the_result(command, result):
    assert call("exec_msg", command) == result


def test_the_message_is_on_the_standard_input(tmp_path):
    ctx = context(request_text("X-Bytes: \udcff"))
    assert call("exec_msg", f"cat > {tmp_path}/out", ctx) == 1
    assert (tmp_path / "out").read_bytes() == ctx.request.raw


def test_more_than_a_pipe_holds_is_written_while_the_loop_goes_on(tmp_path):
    world = World()
    data = b"x" * 500_000

    def run(_exports, _name):
        return lambda *_: run_program(
            world.loop, f"sleep 0.1; cat > {tmp_path}/out", [], os.environb, data, time.monotonic() + 10,
            wants_output=False,
        ).status  # fmt: skip

    assert world.call("exec_msg", None, "", function=run) == 0
    assert (tmp_path / "out").read_bytes() == data
    assert world.ticks >= 3


def test_the_loop_goes_on_while_a_program_runs():
    world = World()
    assert world.call("exec_msg", context(request_text()), "sleep 0.2") == 1
    assert world.ticks >= 5


def test_a_program_is_killed_with_its_children_when_its_time_is_up(tmp_path):
    command = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    assert call("exec_msg", command, time_to_kill=1) == -1
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: state_of(pid) in {"", "Z", "X"})  # whoever adopted it may not have looked yet
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # and it left none to us


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_more_programs_than_allowed_fail_at_once():
    world = World(max_running=2)
    results = []

    def run():
        results.append(function(world.exports, "exec_msg")(context(request_text()), "sleep 0.1"))
        if len(results) == 3:
            world.loop.stop()

    for _ in range(3):
        world.loop.spawn(run)
    world.loop.run()
    assert results == [-1, 1, 1]
    program = world.loop.waiters.program
    assert (program.waiting, program.most, program.refused) == (0, 2, 1)


def test_when_no_more_handlers_may_wait_the_program_is_killed_and_leaves_no_zombie():
    world = World()
    world.loop.max_parked = 0
    assert world.call("exec_msg", context(request_text()), "sleep 60") == -1
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        time.sleep(0.02)
    pytest.fail("a program is left")


VARIABLES = {
    "SIP_SRCIP": "203.0.113.7",
    "SIP_RURI": "sip:new@example.org",
    "SIP_USER": "new",
    "SIP_ORURI": "sip:bob@example.com",
    "SIP_OUSER": "bob",
    "SIP_DID": "t1",
    "SIP_HF_CALL_ID": "call-1@203.0.113.7",
    "SIP_HF_X_TWO": "a,b",
    "SIP_HF_SUBJECT": "$(touch broken) `id` ; \"'",
}


def read_variables(path):
    lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def changed_call():
    ctx = context(request_text("X-Two: a", "x-two: b", "s: $(touch broken) `id` ; \"'", to_tag="t1"))
    ctx.request_uri = "sip:new@example.org"
    return ctx


def test_the_message_is_in_variables(tmp_path):
    assert call("exec_msg", f"cat /proc/self/environ > {tmp_path}/out", changed_call()) == 1
    found = read_variables(tmp_path / "out")
    assert {name: found[name] for name in VARIABLES} == VARIABLES
    assert len(found["SIP_TID"]) == 32
    assert found["PATH"] == os.environ["PATH"]


def test_without_setvars_there_are_none(tmp_path):
    assert call("exec_msg", f"cat /proc/self/environ > {tmp_path}/out", changed_call(), setvars=0) == 1
    assert not any(name.startswith("SIP_") for name in read_variables(tmp_path / "out"))


def test_a_program_gets_no_socket_of_ours(tmp_path):
    with socket.socket() as ours:
        assert call("exec_msg", f"ls -l /proc/self/fd > {tmp_path}/out") == 1
        listed = (tmp_path / "out").read_text()
        assert f"socket:[{os.fstat(ours.fileno()).st_ino}]" not in listed
        assert str(tmp_path / "out") in listed


@pytest.mark.parametrize(
    ("command", "uris"),
    [
        pytest.param("echo sip:a@example.org; true", ["sip:a@example.org"], id="one"),
        pytest.param(r"printf 'sip:a@x.org\r\n\n  sip:b@x.org\nsips:c@x.org'; true",
                     ["sip:a@x.org", "sip:b@x.org", "sips:c@x.org"], id="several"),
        pytest.param("echo '<nonsense'; echo sip:a@x.org; true", ["sip:a@x.org"], id="what-is-no-uri-is-passed-over"),
        pytest.param("true", None, id="nothing"),
        pytest.param("echo sip:a@x.org; false", None, id="failure"),
        pytest.param("echo", ["sip:bob@example.com"], id="the-request-uri-is-the-argument"),
        pytest.param("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do echo sip:u$i@x.org; done; true",
                     [f"sip:u{i}@x.org" for i in range(1, 13)], id="twelve-at-most"),
    ],
)  # fmt: skip
def test_lines_become_the_destination_set(command, uris):
    ctx = context(request_text())
    assert call("exec_dset", command, ctx) == (1 if uris else -1)
    assert [ctx.request_uri, *(branch.request_uri for branch in ctx.branches)] == (uris or ["sip:bob@example.com"])


@pytest.mark.parametrize(
    "uri",
    [
        "sip:bob@example.com;touch=broken",
        "sip:b;touch${IFS}broken;@example.com",
        "sip:$(touch${IFS}broken)@example.com",
        "sip:b'\"`touch`@example.com",
        "sip:b&touch|broken@example.com",
    ],
)
def test_a_request_uri_is_never_a_command(tmp_path, uri):
    ctx = context(request_text())
    ctx.request_uri = uri
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        call("exec_dset", "printf '%s' > got", ctx)
        assert call("exec_dset", "cat >/dev/null; printf '%s' >> got", ctx) == -1
    finally:
        os.chdir(here)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got"]
    assert (tmp_path / "got").read_text() == uri * 2


def test_a_program_that_writes_without_end_is_cut_and_killed():
    assert call("exec_dset", "yes sip:a@example.org; true", time_to_kill=1) == -1


@pytest.mark.parametrize(
    ("name", "value", "ok"),
    [("time_to_kill", 0, True), ("time_to_kill", -1, False), ("max_running", 0, False), ("max_running", 5, True)],
)
def test_parameters_are_checked(name, value, ok):
    param = next(param for param in exec_module.exports().params if param.name == name)
    assert (param.check(value) == "") is ok
