"""The RPCs that need no module: system.*, core.*, stats.* and cache.*. They look at shared memory and at this process.

Runs in: ctl. Locks: the one of the generation numbers.
"""

from __future__ import annotations

import inspect
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Final

from serpy import __version__
from serpy.errors import UsageError
from serpy.rpc.registry import Registry
from serpy.script.exports import Rpc
from serpy.shm.counters import EMPTY, STATE_NAMES
from serpy.sip import parser

if TYPE_CHECKING:
    from serpy.api import Server

_LAST_SIGNAL: Final = 64


class CoreRpc:
    """The methods; each docstring is the help text."""

    def __init__(self, server: Server, registry: Registry) -> None:
        self._server: Final = server
        self._registry: Final = registry

    def register(self) -> None:
        """Make all of them known."""
        for name, call, write in (
            ("system.listMethods", self.list_methods, False),
            ("system.methodHelp", self.method_help, False),
            ("system.methodSignature", self.method_signature, False),
            ("core.version", self.version, False),
            ("core.info", self.info, False),
            ("core.uptime", self.uptime, False),
            ("core.ps", self.processes, False),
            ("core.pwd", self.pwd, False),
            ("core.arg", self.arguments, False),
            ("core.kill", self.kill, True),
            ("core.shmmem", self.shared_memory, False),
            ("core.echo", self.echo, False),
            ("stats.get", self.stats, False),
            ("cache.bump", self.bump, True),
            ("cache.generations", self.generations, False),
        ):
            self._registry.add(Rpc(name, call, write))

    def list_methods(self) -> list[str]:
        """The names of all methods."""
        return self._registry.names()

    def method_help(self, name: str) -> str:
        """What the method does."""
        return inspect.getdoc(self._registry.find(name).call) or ""

    def method_signature(self, name: str) -> str:
        """The parameters of the method."""
        try:
            signature = inspect.signature(self._registry.find(name).call)
        except (TypeError, ValueError):
            return name
        words = [
            f"[{parameter.name}]" if parameter.default is not inspect.Parameter.empty else parameter.name
            for parameter in signature.parameters.values()
        ]
        return " ".join([name, *words])

    def version(self) -> str:
        """The version of the server."""
        return f"serpy {__version__}"

    def info(self) -> dict[str, object]:
        """Version, Python, and whether the hot code is compiled."""
        compiled = not (getattr(parser, "__file__", "") or "").endswith(".py")
        return {
            "version": __version__,
            "python": platform.python_version(),
            "compiled": "yes" if compiled else "no",
            "master_pid": os.getppid(),
            "run_dir": self._server.run_dir,
        }

    def uptime(self) -> dict[str, object]:
        """Now, the start of the server, and the seconds between them."""
        now = time.time()
        started = self._server.started_wall
        return {"now": time.ctime(now), "up_since": time.ctime(started), "uptime": int(now - started)}

    def processes(self) -> list[dict[str, object]]:
        """All processes of the server: pid, description, state, seconds since its start, respawns."""
        status = self._server.counters.status
        rows: list[dict[str, object]] = [_process(os.getppid(), "master", "ready", self._server.started_wall, 0)]
        for slot in range(status.slots):
            state = status.state(slot)
            if state != EMPTY:
                name = STATE_NAMES[state]
                rows.append(
                    _process(status.pid(slot), status.title(slot), name, status.started(slot), status.respawns(slot))
                )
        return rows

    def pwd(self) -> str:
        """The working directory."""
        return os.getcwd()  # noqa: PTH109 - a text is wanted

    def arguments(self) -> list[str]:
        """The command line of the server."""
        return list(sys.orig_argv)

    def kill(self, signal: int = 15) -> None:
        """Send a signal to the master; 15 stops the server."""
        if not 0 < signal <= _LAST_SIGNAL:
            raise UsageError(f"no signal {signal}")
        os.kill(os.getppid(), signal)

    def shared_memory(self) -> dict[str, object]:
        """Size and use of the shared memory in bytes."""
        segment = self._server.segment
        used = segment.used
        return {
            "total": segment.size, "free": segment.size - used, "used": used, "real_used": used, "max_used": used,
            "fragments": 1,
        }  # fmt: skip

    def echo(self, *values: object) -> list[object]:
        """The parameters again."""
        return list(values)

    def stats(self, prefix: str = "") -> dict[str, object]:
        """All counters, or those whose name starts with a prefix, summed over all processes."""
        return {name: value for name, value in self._server.counters.snapshot().items() if name.startswith(prefix)}

    def bump(self, name: str) -> dict[str, object]:
        """Make every process forget what it caches of a table; 0: nothing of that name is cached here."""
        counters = self._server.counters
        known = name in counters.generations()
        return {"generation": counters.bump(name) if known else 0}

    def generations(self) -> dict[str, object]:
        """The generation numbers of all caches."""
        return dict(self._server.counters.generations())


def _process(pid: int, title: str, state: str, started: float, respawns: int) -> dict[str, object]:
    age = max(0, int(time.time() - started))
    return {"pid": pid, "description": title, "state": state, "up_s": age, "respawns": respawns}
