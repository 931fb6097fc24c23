"""Logging to syslog or standard error in SER's wording, and a limiter for what strangers could make us repeat.

``debug`` is SER's threshold: -1 errors, 0 warnings, 1 notices, 2 lifecycle, 3 per message. A line reads
`` n(pid) LEVEL: module [file:line]: text`` where n is the slot, 0 for the master.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from typing import Final

ALERT: Final = 55
BUG: Final = 52
NOTICE: Final = 25

_NAMES: Final[dict[int, str]] = {
    ALERT: "ALERT",
    BUG: "BUG",
    logging.CRITICAL: "CRITICAL",
    logging.ERROR: "ERROR",
    logging.WARNING: "WARNING",
    NOTICE: "NOTICE",
    logging.INFO: "INFO",
    logging.DEBUG: "DEBUG",
}
_THRESHOLDS: Final[dict[int, int]] = {
    -5: ALERT, -4: BUG, -3: logging.CRITICAL, -2: logging.CRITICAL, -1: logging.ERROR,
    0: logging.WARNING, 1: NOTICE, 2: logging.INFO, 3: logging.DEBUG,
}  # fmt: skip
_SYSLOG_PRIORITY: Final[dict[str, str]] = {
    "ALERT": "alert", "BUG": "crit", "CRITICAL": "crit", "ERROR": "error", "WARNING": "warning",
    "NOTICE": "notice", "INFO": "info", "DEBUG": "debug",
}  # fmt: skip

_slot = 0


class SerFormatter(logging.Formatter):
    """`` n(pid) LEVEL: module [file:line]: text``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of *record*, with its traceback when it has one."""
        name = record.name.removeprefix("serpy.").rpartition(".")[2]
        level = _NAMES.get(record.levelno, record.levelname)
        text = f"{_slot:2d}({os.getpid()}) {level}: {name} [{record.filename}:{record.lineno}]: {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class _SyslogHandler(logging.handlers.SysLogHandler):
    def mapPriority(self, levelName: str) -> str:  # noqa: N802, N803 - the base class's spelling
        return _SYSLOG_PRIORITY.get(levelName, "warning")


def level_for(debug: int) -> int:
    """The logging level of SER's threshold *debug*."""
    return _THRESHOLDS[max(-5, min(3, debug))]


def set_up(debug: int, *, stderr: bool, facility: str = "LOG_DAEMON", name: str = "serpy") -> None:
    """Log everything from now on to standard error or to syslog; replaces what was set up before.

    Without a syslog socket on this machine, standard error is used.
    """
    for number, text in _NAMES.items():
        logging.addLevelName(number, text)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if not stderr:
        try:
            syslog = _SyslogHandler("/dev/log", facility=facility.lower().removeprefix("log_"))
        except (OSError, ValueError, KeyError):
            pass
        else:
            syslog.ident = f"{name}: "
            handler = syslog
    handler.setFormatter(SerFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level_for(debug))
    logging.raiseExceptions = False  # a full disk or a closed terminal is no reason to stop serving


def set_slot(slot: int) -> None:
    """The number at the start of each line: 0 the master, 1 the first child."""
    global _slot
    _slot = slot + 1


class RateLimit:
    """At most *count* events per *seconds*; ``suppressed`` were refused since the last one allowed."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count: Final = count
        self._seconds: Final = seconds
        self._window_end = 0.0
        self._used = 0
        self.suppressed = 0

    def allows(self, now: float) -> bool:
        """True when one more may pass at *now*, a monotonic instant."""
        if now >= self._window_end:
            self._window_end = now + self._seconds
            self._used = 0
        if self._used >= self._count:
            self.suppressed += 1
            return False
        self._used += 1
        return True

    def is_over(self, now: float) -> bool:
        """True when the time of the last event allowed has passed: what was refused with it may be told."""
        return now >= self._window_end

    def take_suppressed(self) -> int:
        """How many were refused since this was last asked."""
        count, self.suppressed = self.suppressed, 0
        return count
