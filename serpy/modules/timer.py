"""timer: routes of the script that run by themselves, in the timer process.

A route gets a request of our own making, which came from nowhere: there is nobody to answer and nothing to relay, so
functions that do fail, and the process goes on. Attributes are empty but for the global ones. A route may park; its
next run begins after it has ended, so no route overlaps itself, while two routes may be under way together.

Runs in: timer; ``timer_enable`` and the selects in every process; RPC in ctl. Locks: none, a timer's switch is one byte.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from serpy.api import (
    FALSE,
    TRUE,
    Arg,
    ConfigError,
    Context,
    Exports,
    Flow,
    Function,
    Param,
    ProtocolError,
    ResourceError,
    Routes,
    Rpc,
    Select,
    Server,
    UsageError,
)
from serpy.context.context import REQUEST
from serpy.context.hooks import call_all
from serpy.sip.parser import parse_message

if TYPE_CHECKING:
    from serpy.script.compile import Program
    from serpy.sip.message import Request

log = logging.getLogger(__name__)

ROLE: Final = "timer"
NOTE: Final = "timer.executed"
MAX_MS: Final = 2**31 - 1
_NAME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_NOWHERE: Final = "0.0.0.0"  # noqa: S104 - no address to bind: where the request did not come from
_MESSAGE: Final = (
    b"OPTIONS sip:timer@timer.invalid SIP/2.0\r\nVia: SIP/2.0/UDP timer.invalid;branch=z9hG4bKtimer\r\n"
    b"From: <sip:timer@timer.invalid>;tag=timer\r\nTo: <sip:timer@timer.invalid>\r\nCall-ID: timer@timer.invalid\r\n"
    b"CSeq: 1 OPTIONS\r\nMax-Forwards: 0\r\nContent-Length: 0\r\n\r\n"
)


class Declared:
    """One ``declare_timer``: run *route* every *interval_ms*; *index* is the place of its switch."""

    def __init__(self, index: int, name: str, route: str, interval_ms: int, enabled: bool) -> None:
        self.index: Final = index
        self.name: Final = name
        self.route: Final = route
        self.interval_ms: Final = interval_ms
        self.starts_enabled: Final = enabled


class TimerModule:
    """The module: what is declared, the switches, and the runs."""

    def __init__(self) -> None:
        self.declared: list[str] = []  # parameter declare_timer
        self.timers: dict[str, Declared] = {}
        self._server: Server  # set by init()
        self._switches: memoryview = memoryview(bytearray(1))
        self._asked: set[str] = set()  # timers that selects name
        self._request = cast("Request", parse_message(_MESSAGE))

    def init(self, server: Server) -> None:
        """Read the declarations. Raises ConfigError."""
        self._server = server
        program = cast("Program", server.program)
        for text in self.declared:
            timer = parse_declaration(text, len(self.timers))
            if timer.name in self.timers:
                raise ConfigError(f"timer {timer.name} is declared twice", hint="give each its own name")
            if not timer.route or not program.has_route(REQUEST, timer.route):
                raise ConfigError(
                    f"timer {timer.name}: there is no route[{timer.route}]", hint="write it, or mend this"
                )
            self.timers[timer.name] = timer
        unknown = sorted(self._asked - set(self.timers))
        if unknown:
            raise ConfigError(f"@timer.timer.{unknown[0]}: no such timer", hint="declare it with declare_timer")
        if self.timers:
            self._switches = server.segment.allocate("timer.enabled", len(self.timers))
            for timer in self.timers.values():
                self._switches[timer.index] = 1 if timer.starts_enabled else 0

    def child_init(self, server: Server) -> None:
        """In the timer process: start all timers, the disabled ones run empty."""
        self._server = server
        if server.role == ROLE:
            for timer in self.timers.values():
                self._arm(timer, server.loop.now() + timer.interval_ms / 1000)

    # -- runs

    def _arm(self, timer: Declared, when: float) -> None:
        self._server.loop.call_at(when, lambda: self._due(timer, when))

    def _due(self, timer: Declared, when: float) -> None:
        loop = self._server.loop
        try:
            if self._switches[timer.index]:
                self.run(timer)
        finally:  # a bug of one run does not end the timer
            following = when + timer.interval_ms / 1000
            self._arm(timer, following if following > loop.now() else loop.now() + timer.interval_ms / 1000)

    def run(self, timer: Declared) -> None:
        """Run the route once. May park."""
        server = self._server
        loop = server.loop
        loop.current = f"timer {timer.name}"
        ctx = Context(self._request, Flow(server.listeners[0], _NOWHERE, 0), loop, REQUEST)
        ctx.notes[NOTE] = timer.name
        ctx.final_sent = True  # there is nobody to answer
        try:
            for before in server.hooks.pre_script:
                if not before(ctx):
                    return
            try:
                cast("Program", server.program).run(ctx, REQUEST, timer.route)
            finally:
                call_all(server.hooks.post_script, ctx)
        except (ProtocolError, ResourceError) as exc:
            log.warning("timer %s: route[%s] gave up: %s", timer.name, timer.route, exc)

    # -- script

    def timer_enable(self, ctx: Context, name: str, enable: int) -> int:  # noqa: ARG002
        """Switch a timer on or off, in whatever process; its next instant comes within its interval."""
        timer = self.timers.get(name)
        if timer is None:
            log.error("timer_enable: there is no timer %s", name)
            return FALSE
        self._switches[timer.index] = 1 if enable else 0
        return TRUE

    def select(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@timer.executed``: the timer that runs; ``@timer.timer.NAME.enabled``: "0" or "1"."""
        if parts == ("executed",):
            return _executed
        if len(parts) == 3 and parts[0] == "timer" and parts[2] == "enabled":
            name = str(parts[1])
            self._asked.add(name)
            return lambda _ctx: str(self._switches[self.timers[name].index])
        raise ValueError("there are @timer.executed and @timer.timer.NAME.enabled")

    # -- RPC

    def list(self) -> list[dict[str, str | int]]:
        """The declared timers: name, route, interval in milliseconds, and whether each is enabled."""
        return [
            {
                "name": timer.name, "route": timer.route, "interval": timer.interval_ms,
                "enabled": self._switches[timer.index],
            }
            for timer in self.timers.values()
        ]  # fmt: skip

    def enable(self, name: str, enable: int) -> str:
        """Switch timer NAME on (1) or off (0)."""
        timer = self.timers.get(name)
        if timer is None:
            raise UsageError(f"no such timer: {name}")
        self._switches[timer.index] = 1 if enable else 0
        return f"{name} {'enabled' if enable else 'disabled'}"


def _executed(ctx: Context) -> str | None:
    name = ctx.notes.get(NOTE)
    return name if isinstance(name, str) else None


def parse_declaration(text: str, index: int = 0) -> Declared:
    """Read ``[NAME=]ROUTE,MS[,slow|fast[,enable]]``; without a name it is the route's. Raises ConfigError."""
    hint = 'declare_timer = "NAME=ROUTE,MS,slow,enable"'
    name, equals, rest = text.partition("=")
    parts = [part.strip(" \t") for part in (rest if equals else text).split(",")]
    name = name.strip(" \t") if equals else parts[0]
    if not name or not _NAME.issuperset(name):
        raise ConfigError(f"timer {text[:80]!r}: no name", hint=hint)
    if not 2 <= len(parts) <= 4 or not parts[0]:
        raise ConfigError(f"timer {name}: not a route and an interval", hint=hint)
    digits = parts[1]
    if not (digits.isascii() and digits.isdigit()) or not 0 < int(digits[:12]) <= MAX_MS:
        raise ConfigError(f"timer {name}: the interval must be 1 ms to {MAX_MS}", hint=hint)
    options = [part.lower() for part in parts[2:]]
    if options and options[0] not in {"slow", "fast", ""}:
        raise ConfigError(f"timer {name}: neither slow nor fast", hint=hint)
    if len(options) > 1 and options[1] not in {"enable", ""}:
        raise ConfigError(f"timer {name}: the fourth part can be enable only", hint=hint)
    return Declared(index, name, parts[0], int(digits), len(options) > 1 and options[1] == "enable")


def exports() -> Exports:
    """A fresh instance of the module."""
    module = TimerModule()
    return Exports(
        name="timer",
        module=module,
        functions=(
            Function(
                "timer_enable", module.timer_enable, (Arg.STR, Arg.INT), 0, Routes.ALL, "switch a timer on or off"
            ),
        ),
        params=(
            Param(
                "declare_timer", "str", "", "NAME=ROUTE,MS[,slow|fast[,enable]]: run a route every MS milliseconds",
                attribute="declared", repeat=True,
            ),
        ),
        selects=(Select("timer", module.select, "the timer that runs, and which are enabled"),),
        rpc=(Rpc("timer.list", module.list), Rpc("timer.enable", module.enable, write=True)),
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
