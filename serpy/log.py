"""Logging to syslog or standard error in SER's wording, and a limiter for what strangers could make us repeat.

``debug`` is SER's threshold: -1 errors, 0 warnings, 1 notices, 2 lifecycle, 3 per message. A line reads
`` n(pid) LEVEL: module [file:line]: text`` where n is the slot, 0 for the master. A record is one line: control characters
are written as escapes, further lines (our own tracebacks) begin with a tab. Where it goes, see ``log_sinks.py``: logging
never holds up the process. What could not be written is counted, and told by the first line that can be written again.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from serpy.log_sinks import Sink, Stderr, Syslog
from serpy.sip.text import one_line

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

SYSLOG: Final = "/dev/log"
SCRIPT: Final = "serpy.script"  # the logger of what scripts write
LINE_MAX: Final = 2048  # characters of one line, others' text in it
TEXT_MAX: Final = 32_768  # bytes of one record
PATIENCE_S: Final = 0.02  # in each second: a burst may be faster than its reader

_slot = 0
_count_lost: Callable[[], None] = lambda: None  # noqa: E731 - replaced by count_losses()


def _cut(text: str) -> str:
    more = len(text) - LINE_MAX
    return one_line(text) if more <= 0 else f"{one_line(text[:LINE_MAX])} ({more} more characters)"


def _head() -> str:
    return f"{_slot:2d}({os.getpid()})"


class SerFormatter(logging.Formatter):
    """`` n(pid) LEVEL: module [file:line]: text``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of *record*; below it its traceback, and the text of its attribute ``own_lines``, when it has them."""
        name = record.name.removeprefix("serpy.").rpartition(".")[2]
        level = _NAMES.get(record.levelno, record.levelname)
        said = record.getMessage()
        # What the script logs has its own limit: xlog's buf_size.
        said = one_line(said) if record.name == SCRIPT else _cut(said)
        text = f"{_head()} {level}: {name} [{record.filename}:{record.lineno}]: {said}"
        below: str = getattr(record, "own_lines", "")
        if record.exc_info:
            below = f"{self.formatException(record.exc_info)}\n{below}"
        for line in below.rstrip("\n").split("\n") if below else ():
            text += f"\n\t{_cut(line)}"
        return text


class Lines:
    """Writes records to *sink*, which may refuse them."""

    def __init__(self, sink: Sink) -> None:
        self.sink: Final = sink
        self.level = logging.WARNING  # of the next record
        self.lost = 0  # since the last one that could be written
        self._spare_s = PATIENCE_S
        self._second_ends = 0.0

    def write(self, text: str) -> None:
        """Write the record *text*, or count it as lost."""
        data = text.encode("utf-8", "backslashreplace")[:TEXT_MAX]
        begun = time.monotonic()
        if begun >= self._second_ends:
            self._second_ends = begun + 1.0
            self._spare_s = PATIENCE_S
        if self.lost and not self._tell_lost():
            self.lose()
            return
        if not self.sink.write(_SYSLOG_PRIORITY.get(_NAMES.get(self.level, ""), "warning"), data, self._spare_s):
            self.lose()
        self._spare_s = max(0.0, self._spare_s - (time.monotonic() - begun))

    def _tell_lost(self) -> bool:
        text = f"{_head()} WARNING: log [log.py]: {self.lost} lines could not be written"
        if not self.sink.write("warning", text.encode("ascii"), 0.0):
            return False
        self.lost = 0
        return True

    def lose(self) -> None:
        """Count one lost record."""
        self.lost += 1
        _count_lost()

    def flush(self) -> None:
        """Nothing is kept back."""


class _Handler(logging.StreamHandler[Lines]):
    terminator = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream.level = record.levelno
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the base class's spelling
        self.stream.lose()

    def close(self) -> None:
        self.stream.sink.close()
        super().close()


class _Text(io.TextIOBase):
    """``sys.stderr`` of a server: what Python itself has to say does not hold it up either."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines: Final = lines
        self._begun = ""

    def write(self, text: str, /) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._lines.write(line)
        return len(text)

    def fileno(self) -> int:
        return 2


def level_for(debug: int) -> int:
    """The logging level of SER's threshold *debug*."""
    return _THRESHOLDS[max(-5, min(3, debug))]


def set_up(
    debug: int, *, stderr: bool, facility: str = "LOG_DAEMON", name: str = "serpy", socket_path: str = SYSLOG
) -> None:  # fmt: skip
    """Log everything from now on to standard error or to syslog; replaces what was set up before.

    Without a syslog socket on this machine, standard error is used.
    """
    for number, text in _NAMES.items():
        logging.addLevelName(number, text)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    sink: Sink = Stderr(2)
    if not stderr:
        syslog = Syslog(socket_path or SYSLOG, facility.lower().removeprefix("log_"), name)
        if syslog.is_there():
            sink = syslog
    handler = _Handler(Lines(sink))
    handler.setFormatter(SerFormatter())
    root.addHandler(handler)
    root.setLevel(level_for(debug))
    logging.raiseExceptions = False  # a full disk or a closed terminal is no reason to stop serving


def guard_stderr() -> None:
    """From now on nothing that Python prints to standard error blocks this process and its children."""
    sys.stderr = _Text(Lines(Stderr(2)))


def count_losses(callback: Callable[[], None]) -> None:
    """Call *callback* for each record that could not be written."""
    global _count_lost
    _count_lost = callback


def set_slot(slot: int) -> None:
    """The number at the start of each line: 0 the master, 1 the first child. Called in a child: it logs by itself now."""
    global _slot
    _slot = slot + 1
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.stream.sink.after_fork()
