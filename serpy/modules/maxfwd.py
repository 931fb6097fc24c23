"""Max-Forwards: count down, and refuse at zero.

The header is replaced in place, so every copy that leaves carries the lowered value. A value that is not a number is
left alone: legal or not, it is the next hop's business. Answering 483 is up to the script.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.3 item 3, §20.22.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import FALSE, STOP, TRUE, Arg, Context, Exports, Function, Param, ParseError, Server
from serpy.shm.variables import Variables

if TYPE_CHECKING:
    from serpy.shm.counters import Counters

NAME: Final = "maxfwd"
_UNREADABLE: Final = -1
_MISSING: Final = -2
_LARGEST: Final = 255  # RFC 3261 §20.22
_LINES: Final[list[str]] = [f"Max-Forwards: {number}" for number in range(_LARGEST + 1)]
_HELP: Final = "highest Max-Forwards that leaves us, 0 is no limit"


class MaxForwards:
    """The module: one limit, changeable at run time."""

    def __init__(self) -> None:
        self.max_limit = _LARGEST
        self._variables: Variables | None = None
        self._counters: Counters | None = None
        self._limit = _LARGEST
        self._seen = -1

    def init(self, server: Server) -> None:
        """Make the parameter the start value of the run-time variable; called in the master."""
        variables: Variables | None = server.variables
        if variables is not None:
            variables.declare(NAME, "max_limit", "int", self.max_limit, _HELP)
        self._variables = variables
        self._counters = getattr(server, "counters", None)
        self._seen = -1

    def limit(self) -> int:
        """The highest value that leaves us, 0 for no limit."""
        if self._variables is None:
            return self.max_limit
        # Asked for every request: one look at the shared number tells whether the variable may have changed.
        seen = self._counters.generation(Variables.GENERATION) if self._counters is not None else -1
        if seen != self._seen or seen < 0:
            value = self._variables.get(NAME, "max_limit")
            self._limit = value if isinstance(value, int) else self.max_limit
            self._seen = seen
        return self._limit

    def process(self, ctx: Context, start: int) -> int:
        """Lower the header by one, or add it with *start*. False when it was 0 already."""
        value = _current(ctx)
        if value == _UNREADABLE:
            return TRUE
        if value == _MISSING:
            if start <= 0:
                return STOP
            limit = self.limit()
            number = min(start, limit) if limit else start
            ctx.edits.append(f"Max-Forwards: {number}")
            ctx.notes[NAME] = number
            return TRUE
        if value == 0:
            return FALSE
        limit = self.limit()
        if limit and value > limit:
            value = limit
        value -= 1
        line = _LINES[value] if value < len(_LINES) else f"Max-Forwards: {value}"
        ctx.edits.replace(ctx.message.find("max-forwards"), line)
        ctx.notes[NAME] = value
        return TRUE

    def is_below(self, ctx: Context, number: int) -> int:
        """True when the header is there and lower than *number*."""
        value = _current(ctx)
        return TRUE if 0 <= value < number else FALSE


def _current(ctx: Context) -> int:
    """The value as lowered so far; _MISSING or _UNREADABLE."""
    known = ctx.notes.get(NAME)
    if isinstance(known, int):
        return known
    try:
        value = ctx.message.max_forwards
    except ParseError:
        return _UNREADABLE
    return _MISSING if value is None else value


def _check_limit(value: int) -> str:
    return "" if 0 <= value <= _LARGEST else f"must be between 0 (no limit) and {_LARGEST}"


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = MaxForwards()
    summary = "count Max-Forwards down, add it with this value when missing; false when it is used up"
    low = "true when Max-Forwards is lower than this number"
    return Exports(
        NAME,
        module,
        functions=(
            Function("mf_process_maxfwd_header", module.process, (Arg.INT,), summary=summary),
            Function("process_maxfwd", module.process, (Arg.INT,), summary=summary),
            Function("mf_lowlimit", module.is_below, (Arg.INT,), summary=low),
            Function("is_maxfwd_lt", module.is_below, (Arg.INT,), summary=low),
        ),
        params=(
            Param(
                "max_limit",
                "int",
                _LARGEST,
                "higher values are lowered to this one; 0 is no limit",
                attribute="max_limit",
                check=_check_limit,
            ),
        ),
        init=module.init,
        variables={NAME: {"max_limit": ("int", _LARGEST, _HELP)}},
    )
