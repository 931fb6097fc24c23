"""A compiled script: its settings, its modules and its routes, ready to run.

Runs in: udp receiver, timer; filled in the master while loading. Locks: none.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from serpy.context.context import BRANCH, DROPPED, EVENT, FAILED, FAILURE, ONREPLY, ONSEND, REQUEST, RUNNING, Context
from serpy.errors import ProtocolError, ResourceError, SerpyError
from serpy.script.exports import Exports
from serpy.script.hooks import Hooks
from serpy.script.runtime import MAX_DEPTH

RouteFunction = Callable[[Context], int]

_KINDS: Final = {
    REQUEST: "route", FAILURE: "failure_route", ONREPLY: "onreply_route", BRANCH: "branch_route",
    ONSEND: "onsend_route", EVENT: "event_route",
}  # fmt: skip
# What may go wrong in a function of a script without the process being in doubt. RuntimeError has RecursionError among
# it; struct.error and re.error have no other base than Exception.
_SCRIPT_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, SerpyError, TypeError,
    ValueError, re.error, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Assignment:
    """One global parameter. *value*: int, str, or the list of all ``listen``/``alias`` values so far."""

    name: str
    value: int | str | list[str]
    file: str
    line: int
    column: int


@dataclass(frozen=True)
class CustomVariable:
    """``group.name = value desc "…"``: a cfg variable of the script."""

    group: str
    name: str
    value: int | str
    description: str
    file: str
    line: int


class Program:
    """A compiled script. Immutable after loading, but for what *hooks* are lent; inherited by every child."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks: Final = hooks
        self.path = ""
        self.dialect = "default"
        self.settings: list[Assignment] = []
        self.modules: list[Exports] = []
        self.variables: list[CustomVariable] = []
        self.flags: dict[str, int] = {}
        self.avpflags: dict[str, int] = {}
        self.warnings: list[str] = []
        self.expressions: list[str] = []  # place, engine and text of each regular expression
        self.send_sockets: list[tuple[str, str, int, str]] = []  # force_send_socket: transport, host, port, place
        self.files: set[str] = set()
        self.listings: dict[str, str] = {}
        self.has_onsend = False
        self._routes: dict[int, dict[str, RouteFunction]] = {kind: {} for kind in _KINDS}

    def add_routes(self, routes: dict[tuple[str, str], RouteFunction]) -> None:
        """Take the compiled routes."""
        numbers = {name: kind for kind, name in _KINDS.items()}
        for (kind, name), function in routes.items():
            self._routes[numbers[kind]][name] = function
        self.has_onsend = "" in self._routes[ONSEND]

    def has_route(self, kind: str | int, name: str = "") -> bool:
        """True when there is a route *name* ("" = the main one) of *kind* ("failure_route" or its number)."""
        for number, title in _KINDS.items():
            if kind in (number, title):
                return name in self._routes[number]
        return False

    def route_names(self, kind: str) -> list[str]:
        """Names of all routes of one kind."""
        return [name for number, title in _KINDS.items() if title == kind for name in self._routes[number]]

    def run(self, ctx: Context, kind: int, name: str = "") -> int:
        """Run one route (no route of that name: 1) and leave ``ctx.state``.

        ProtocolError and ResourceError pass through, they have an answer; a lack of memory becomes one of the latter.
        What else goes wrong in a function is logged with the script's line: -1, and the state is FAILED.
        """
        function = self._routes[kind].get(name)
        ctx.state = RUNNING
        if function is None:
            return 1
        before, depth = ctx.kind, ctx.depth
        ctx.kind = kind
        try:
            return function(ctx)
        except (ProtocolError, ResourceError):
            raise
        except MemoryError:
            raise ResourceError("out of memory") from None
        except _SCRIPT_ERRORS as error:
            ctx.state = FAILED
            self._failed(error)
            return -1
        finally:
            ctx.kind, ctx.depth = before, depth

    def call(self, ctx: Context, name: str) -> int:
        """Run ``route[name]`` in the middle of the script that is running, as ``route(name)`` does; errors pass through.
        ``ctx.state`` says afterwards whether the route has ended the script.
        """
        function = self._routes[REQUEST].get(name)
        if function is None or ctx.depth >= MAX_DEPTH:
            return -1
        ctx.depth += 1
        code = function(ctx)
        ctx.depth -= 1
        return code

    def run_onsend(self, ctx: Context) -> bool:
        """Run the onsend route for ``ctx.out_flow``/``ctx.out_data``. False: the script said drop, do not send.

        ``ctx.state`` is left as that route ended; the caller, in the middle of another script, restores its own.
        """
        retcode = ctx.retcode
        self.run(ctx, ONSEND)
        ctx.retcode = retcode
        return ctx.state != DROPPED

    def _failed(self, error: BaseException) -> None:
        place = self.place_of(error.__traceback__)
        self.hooks.reports.error(place, "%s: the script failed: %s: %.200r", place, type(error).__name__, str(error))

    def place_of(self, traceback: TracebackType | None) -> str:
        """``file:line`` of the innermost script statement in a traceback; the script's path when there is none."""
        place = self.path
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename in self.files:
                place = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
            traceback = traceback.tb_next
        return place
