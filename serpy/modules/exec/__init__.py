"""exec: programs of the administrator, run by the shell from the script.

``exec_msg`` gives a program the message on its standard input and asks for its exit status; ``exec_dset`` gives it the
Request-URI as its last argument and takes the lines it writes as the destination set. The handler parks meanwhile, the
process goes on.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from serpy.api import (
    FALSE,
    TRUE,
    Arg,
    Context,
    Exports,
    Function,
    Param,
    ParseError,
    ResourceError,
    Routes,
    Server,
    Target,
)
from serpy.context.context import MAX_BRANCHES
from serpy.limited_log import LimitedLog
from serpy.modules.exec.environment import as_bytes, environment_of
from serpy.modules.exec.program import Outcome, run_program
from serpy.sip.uri import parse_uri

log = logging.getLogger(__name__)

LONGEST_S: Final = 86400.0  # time_to_kill 0: nobody waits longer than a day


class Exec:
    """The module: parameters and script functions."""

    def __init__(self) -> None:
        self.setvars = 1
        self.time_to_kill = 0
        self.max_running = 64
        self._server: Server  # set by child_init()
        self._reports: Final = LimitedLog(log)

    def child_init(self, server: Server) -> None:
        """In each child."""
        self._server = server
        server.loop.waiters.program.limit = self.max_running

    def exec_msg(self, ctx: Context, command: str) -> int:
        """Run *command* with the message on its standard input: true when its exit status is 0."""
        request = ctx.request if ctx.request is not None else ctx.message
        outcome = self._run(ctx, command, [], request.raw, wants_output=False)
        return TRUE if outcome is not None and outcome.status == 0 else FALSE

    def exec_dset(self, ctx: Context, command: str) -> int:
        """Run *command* with the Request-URI as last argument; its lines become the Request-URI and branches."""
        outcome = self._run(ctx, f'{command} "$1"', [as_bytes(ctx.request_uri)], b"", wants_output=True)
        if outcome is None or outcome.status != 0:
            return FALSE
        uris = _uris(command, outcome.output)
        if not uris:
            log.warning("exec_dset: no URI from %.80s", command)
            return FALSE
        ctx.request_uri = uris[0]
        for uri in uris[1:]:
            ctx.branches.append(Target(uri, "", ctx.send_listener))
        return TRUE

    def _run(
        self, ctx: Context, command: str, arguments: list[bytes], data: bytes, *, wants_output: bool
    ) -> Outcome | None:  # fmt: skip
        """How the program ended; None when it could not be run or had to be killed, which is logged."""
        environment = environment_of(ctx, with_message=self.setvars != 0)
        deadline = time.monotonic() + (self.time_to_kill or LONGEST_S)
        try:
            with self._server.loop.waiters.program:
                outcome = run_program(
                    self._server.loop, command, arguments, environment, data, deadline, wants_output=wants_output
                )
        except (OSError, ResourceError) as exc:
            self._reports.error(f"exec {command}", "cannot run %.80s: %s", command, exc)
            return None
        if outcome.status is None:
            self._reports.error(
                f"exec {command}", "%.80s was killed after %d s", command, self.time_to_kill or LONGEST_S
            )
            return None
        if outcome.status < 0:
            self._reports.error(f"exec {command}", "%.80s was ended by signal %d", command, -outcome.status)
        return outcome


def _uris(command: str, output: bytes) -> list[str]:
    """The URIs in the lines a program has written; what is none is passed over and logged."""
    found: list[str] = []
    for line in output.decode("utf-8", "surrogateescape").split("\n"):
        text = line.strip(" \t\r")
        if not text:
            continue
        try:
            parse_uri(text)
        except ParseError:
            log.warning("exec_dset: %.80s wrote %.120r, which is no URI", command, text)
            continue
        found.append(text)
    if len(found) > MAX_BRANCHES:
        log.warning("exec_dset: %.80s wrote %d URIs, %d are used", command, len(found), MAX_BRANCHES)
    return found[:MAX_BRANCHES]


def _check_seconds(value: object) -> str:
    return "" if isinstance(value, int) and 0 <= value <= LONGEST_S else "must be 0 to 86400"


def _check_running(value: object) -> str:
    return "" if isinstance(value, int) and 1 <= value <= 1000 else "must be 1 to 1000"


def exports() -> Exports:
    """A fresh instance of the module."""
    module = Exec()
    routes = Routes.REQUEST | Routes.FAILURE
    return Exports(
        name="exec",
        module=module,
        functions=(
            Function("exec_msg", module.exec_msg, (Arg.STR,), 0, routes, "run a shell command, the message as input"),
            Function(
                "exec_dset", module.exec_dset, (Arg.STR,), 0, routes,
                "run a shell command on the Request-URI, its output is the destination set",
            ),
        ),
        params=(
            Param("setvars", "int", 1, "give programs the message in variables SIP_*"),
            Param("time_to_kill", "int", 0, "seconds after which a program is killed; 0 a day", check=_check_seconds),
            Param("max_running", "int", 64, "programs a process runs at once, more fail", check=_check_running),
        ),
        child_init=module.child_init,
    )  # fmt: skip
