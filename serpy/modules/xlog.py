"""Log lines of the script, with format strings.

A line is cut to ``buf_size``, its control characters are shown escaped so that no message can forge a log line, and
no process writes more than ``rate`` lines a second: what is over is counted and reported in one line.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.api import CHARGES, TRUE, Arg, Context, Exports, Function, Param, Routes, Server
from serpy.sip.text import one_line

if TYPE_CHECKING:
    from serpy.trust.charges import Charges

log = logging.getLogger("serpy.script")

NOTICE: Final = 25  # between INFO and WARNING, as in syslog
_BY_LETTER: Final[dict[str, int]] = {
    "A": logging.CRITICAL,
    "B": logging.CRITICAL,
    "C": logging.CRITICAL,
    "E": logging.ERROR,
    "W": logging.WARNING,
    "N": NOTICE,
    "I": logging.INFO,
    "D": logging.DEBUG,
}
_BY_NUMBER: Final[dict[str, int]] = {
    "-5": logging.CRITICAL,
    "-4": logging.CRITICAL,
    "-3": logging.CRITICAL,
    "-2": logging.CRITICAL,
    "-1": logging.ERROR,
    "0": logging.WARNING,
    "1": NOTICE,
    "2": logging.INFO,
    "3": logging.DEBUG,
}


def level_of(text: str) -> int:
    """The logging level of ``L_ERR``, ``L_DEBUG``, ``-1`` …: the third letter decides; unknown ones are L_ERR."""
    number = _BY_NUMBER.get(text)
    if number is not None:
        return number
    return _BY_LETTER.get(text[2:3].upper(), logging.ERROR)


def printable(text: str, limit: int) -> str:
    """*text* cut to *limit* characters, on one line and without anything a terminal would act on."""
    return one_line(text[:limit].rstrip("\r\n").replace("\t", "\\t"))


class ScriptLog:
    """The module: settings and this process's rate limit."""

    def __init__(self) -> None:
        self.buf_size = 4096
        self.rate = 1000
        self.prefix = "<script>: "
        self._charges: Charges | None = None
        self._second = 0.0
        self._written = 0
        self._suppressed = 0

    def init(self, server: Server) -> None:
        """Find out whether lines about strangers are counted."""
        self._charges = server.find(CHARGES)

    def write(self, ctx: Context, level: int, text: str) -> None:
        """Log *text* unless the level is off or this second's lines are used up."""
        if not log.isEnabledFor(level):
            return
        charges = self._charges
        if charges is not None:
            if not charges.allows_line(ctx):
                return
            left_out = charges.lines_left_out()
            if left_out:
                log.warning("%s%d more lines about strangers", self.prefix, left_out)
        if not self._may_write(ctx.clock.now()):
            return
        log.log(level, "%s%s", self.prefix, printable(text, self.buf_size))

    def _may_write(self, now: float) -> bool:
        if not self.rate:
            return True
        if now - self._second >= 1.0:
            if self._suppressed:
                log.warning("%d script log lines suppressed, rate is %d a second", self._suppressed, self.rate)
            self._second = now
            self._written = 0
            self._suppressed = 0
        if self._written >= self.rate:
            self._suppressed += 1
            return False
        self._written += 1
        return True

    def xlog(self, ctx: Context, first: str, second: str | None = None) -> int:
        """``xlog(level, text)`` or ``xlog(text)``, which is an error line."""
        if second is None:
            self.write(ctx, logging.ERROR, first)
        else:
            self.write(ctx, level_of(first), second)
        return TRUE

    def at_level(self, level: int) -> Callable[[Context, str], int]:
        """A function that logs at *level*."""

        def write(ctx: Context, text: str) -> int:
            self.write(ctx, level, text)
            return TRUE

        return write


def _positive(value: int) -> str:
    return "" if value > 0 else "must be greater than 0"


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = ScriptLog()
    functions = [
        Function(
            "xlog",
            module.xlog,
            (Arg.FORMAT, Arg.FORMAT),
            optional=1,
            routes=Routes.ALL,
            summary="log a format string at a level (L_ERR, L_INFO …); without a level as an error",
        )
    ]
    for name, level, word in (
        ("xdbg", logging.DEBUG, "debug"),
        ("xinfo", logging.INFO, "info"),
        ("xnotice", NOTICE, "notice"),
        ("xwarn", logging.WARNING, "warning"),
        ("xerr", logging.ERROR, "error"),
        ("xcrit", logging.CRITICAL, "critical"),
        ("xalert", logging.CRITICAL, "alert"),
    ):
        call = module.at_level(level)
        functions.append(
            Function(name, call, (Arg.FORMAT,), routes=Routes.ALL, summary=f"log a format string at level {word}")
        )
    return Exports(
        "xlog",
        module,
        functions=functions,
        params=(
            Param("buf_size", "int", 4096, "longest line in characters", attribute="buf_size", check=_positive),
            Param("rate", "int", 1000, "lines a second each process may write; 0 is no limit", attribute="rate"),
            Param("prefix", "str", "<script>: ", "put before every line", attribute="prefix"),
        ),
        init=module.init,
    )
