"""Logging holds nobody up and loses nothing without saying so; what a stranger sends stays within its line."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpy import log as serpy_log
from serpy.log import Lines, SerFormatter
from serpy.log_sinks import PIECE, SYSLOG_PIECE, Stderr, Syslog

DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
MANY = 3000  # more than any of the buffers here takes


@pytest.fixture
def losses():
    """Counts the records that were lost."""
    counted = []
    serpy_log.count_losses(lambda: counted.append(1))
    yield counted
    serpy_log.count_losses(lambda: None)


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):  # a test has closed it
            os.close(end)


def drain(reader):
    data = b""
    while True:
        try:
            piece = os.read(reader, 1 << 16)
        except BlockingIOError:
            return data.decode()
        if not piece:
            return data.decode()
        data += piece


def fill(lines, count=MANY):
    for number in range(count):
        lines.write(f"line {number:04d} " + "x" * 90)


def test_a_pipe_that_nobody_reads_takes_what_it_holds_and_the_rest_is_counted(pipe, losses):
    lines = Lines(Stderr(pipe[1]))
    fill(lines)
    written = drain(pipe[0]).splitlines()
    assert written[0].startswith("line 0000")
    assert len(written) + len(losses) == MANY
    assert lines.lost == len(losses) > 0


def test_what_was_lost_is_said_by_the_first_line_that_can_be_written_again(pipe, losses):
    lines = Lines(Stderr(pipe[1]))
    fill(lines)
    drain(pipe[0])
    lines.write("at last")
    lines.write("as ever")
    told, *others = drain(pipe[0]).splitlines()
    assert told.endswith(f"WARNING: log [log.py]: {len(losses)} lines could not be written")
    assert others == ["at last", "as ever"]


def test_the_mode_of_an_inherited_standard_error_is_left_alone(pipe):
    Lines(Stderr(pipe[1])).write("hello")
    assert os.get_blocking(pipe[1])
    assert not fcntl.fcntl(pipe[1], fcntl.F_GETFL) & os.O_APPEND


def test_a_pipe_that_may_not_be_opened_again_is_asked_before_each_write(pipe, losses, monkeypatch):
    def refused(*_arguments):
        raise PermissionError

    monkeypatch.setattr(os, "open", refused)
    lines = Lines(Stderr(pipe[1]))
    fill(lines)
    assert len(drain(pipe[0]).splitlines()) + len(losses) == MANY


def test_a_disk_that_is_full_costs_lines_and_nothing_else(losses):
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 - a device
        lines = Lines(Stderr(full.fileno()))
        fill(lines, 10)
    assert len(losses) == 10


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe, losses):
    lines = Lines(Stderr(pipe[1]))
    os.close(pipe[0])
    fill(lines, 10)
    assert len(losses) == 10


def test_a_file_is_written_behind_what_others_have_written(tmp_path):
    name = tmp_path / "log"
    with name.open("wb", buffering=0) as file:
        file.write(b"the shell's\n")
        lines = Lines(Stderr(file.fileno()))
        lines.write("ours")
        file.write(b"the shell's again\n")
        lines.write("ours again")
    assert name.read_text() == "the shell's\nours\nthe shell's again\nours again\n"


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, 3 * PIECE + 7])
def test_a_long_record_reaches_a_pipe_whole(pipe, size):
    lines = Lines(Stderr(pipe[1]))
    lines.write("y" * size)
    lines.write("next")
    assert drain(pipe[0]) == "y" * size + "\nnext\n"


def test_a_socket_as_standard_error_is_not_waited_for_and_its_lines_stay_whole(losses):
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        lines = Lines(Stderr(ours.fileno()))
        fill(lines)
        assert losses
        first = drain(theirs.fileno())
        lines.write("at last")
        written = (first + drain(theirs.fileno())).splitlines()
        lost = len(losses)
    assert written[-2:] == [written[-2], "at last"]
    assert f"{lost} lines could not be written" in written[-2]
    assert written[:-2] == [f"line {number:04d} " + "x" * 90 for number in range(len(written) - 2)]
    assert len(written) - 2 + lost == MANY


# ------------------------------------------------------------------------------------------------------- syslog


class Daemon:
    """A syslog daemon that reads when it is told to."""

    def __init__(self, path, kind):
        self.path = path
        self.kind = kind
        self.open()

    def open(self):
        self.socket = socket.socket(socket.AF_UNIX, self.kind)
        self.socket.bind(str(self.path))
        self.connection = None
        if self.kind == socket.SOCK_STREAM:
            self.socket.listen()

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.socket.close()
        self.path.unlink()

    def read(self):
        """The messages that have come, without their ends."""
        if self.kind == socket.SOCK_DGRAM:
            self.socket.setblocking(False)
            found = []
            while True:
                try:
                    found.append(self.socket.recv(1 << 16).decode().rstrip("\0"))
                except BlockingIOError:
                    return found
        if self.connection is None:
            self.connection, _ = self.socket.accept()
            self.connection.setblocking(False)
        return drain(self.connection.fileno()).split("\0")[:-1]


@pytest.fixture(params=[socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["datagram", "stream"])
def daemon(request, tmp_path):
    made = Daemon(tmp_path / "syslog", request.param)
    yield made
    made.close()


def test_a_record_has_the_priority_of_its_level(daemon):
    lines = Lines(Syslog(str(daemon.path), "local0", "serpy"))
    lines.level = logging.ERROR
    lines.write("text")
    assert daemon.read() == ["<131>serpy: text"]  # 16 * 8 + 3


def test_a_syslog_that_nobody_reads_takes_what_it_holds_and_the_rest_is_counted_and_said(daemon, losses):
    lines = Lines(Syslog(str(daemon.path), "daemon", "serpy"))
    fill(lines)
    lost = len(losses)
    assert lost > 0
    first = daemon.read()
    lines.write("at last")
    *earlier, told, last = first + daemon.read()
    assert last == "<28>serpy: at last"
    assert f"{lost} lines could not be written" in told
    assert earlier == [f"<28>serpy: line {number:04d} " + "x" * 90 for number in range(MANY - lost)]


def test_a_daemon_that_was_started_anew_is_found_again(daemon, losses):
    lines = Lines(Syslog(str(daemon.path), "daemon", "serpy"))
    lines.write("before")
    assert daemon.read() == ["<28>serpy: before"]
    daemon.close()
    lines.write("between")
    daemon.open()
    deadline = time.monotonic() + 10
    while lines.lost:
        assert time.monotonic() < deadline
        lines.write("after")
    told, last = daemon.read()
    assert f"{len(losses)} lines could not be written" in told
    assert last == "<28>serpy: after"


def test_looking_for_a_daemon_that_is_gone_is_not_done_for_each_line(daemon, losses, monkeypatch):
    sink = Syslog(str(daemon.path), "daemon", "serpy")
    lines = Lines(sink)
    lines.write("before")
    daemon.read()
    daemon.close()
    made = []
    real = socket.socket
    monkeypatch.setattr(socket, "socket", lambda *kind: made.append(kind) or real(*kind))
    fill(lines, 500)
    monkeypatch.undo()
    daemon.open()
    assert len(losses) == 500
    assert len(made) <= 4  # two looks of two kinds


def test_a_long_traceback_comes_in_pieces_that_fit(daemon):
    lines = Lines(Syslog(str(daemon.path), "daemon", "serpy"))
    text = "\n".join(f"\tFile {number} " + "ä" * 40 for number in range(200))
    lines.write(text)
    pieces = [message.removeprefix("<28>serpy: ") for message in daemon.read()]
    assert "\n".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= SYSLOG_PIECE


def test_a_child_has_a_connection_of_its_own(daemon):
    sink = Syslog(str(daemon.path), "daemon", "serpy")
    lines = Lines(sink)
    lines.write("parent")
    daemon.read()
    shared = sink._socket
    sink.after_fork()
    assert sink._socket is not shared
    assert shared.fileno() == -1


def test_without_a_daemon_the_syslog_is_not_there(tmp_path):
    assert not Syslog(str(tmp_path / "none"), "daemon", "serpy").is_there()


# ---------------------------------------------------------------------------------------------------- formatter


def formatted(text, *values, **more):
    record = logging.LogRecord("serpy.x", logging.WARNING, "x.py", 7, text, values, more.pop("exc_info", None))
    vars(record).update(more)
    return SerFormatter().format(record).partition("x [x.py:7]: ")[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain äöü €", "plain äöü €", id="text"),
        pytest.param("a\r\n 0(1) ALERT: forged", "a\\r\\n 0(1) ALERT: forged", id="no-second-line"),
        pytest.param("\x1b[2J\x07\x00", "\\x1b[2J\\x07\\x00", id="no-terminal-commands"),
        pytest.param("\x7f\x9b31m", "\\x7f\\x9b31m", id="no-8-bit-ones-either"),
        pytest.param("a\u2028b\u202ec", "a\\u2028b\\u202ec", id="no-unicode-line-and-direction"),
        pytest.param("a\u200fb\u061cc\ufeff", "a\\u200fb\\u061cc\\ufeff", id="no-marks-of-direction-and-order"),
        pytest.param("lone \udc9b", "lone \\udc9b", id="no-bytes-that-are-no-text"),
        pytest.param("a\tb", "a\tb", id="a-tab-is-harmless"),
    ],
)
def test_what_a_stranger_sends_stays_within_its_line(text, shown):
    assert formatted("%s", text) == shown


@given(st.text(st.characters()))
def test_no_text_makes_a_second_line_or_a_command(text):
    line = formatted("%s", text)
    assert line.splitlines() in ([line], [])
    assert line.replace("\t", "").isprintable() or not any(
        unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in DIRECTIONS
        for char in line.replace("\t", "")
    )


def test_a_line_holds_so_much_and_says_what_is_left_out():
    assert formatted("%s", "x" * 3000) == "x" * 2048 + " (952 more characters)"


def test_what_the_script_writes_is_as_long_as_its_module_allows():
    record = logging.LogRecord("serpy.script", logging.WARNING, "x.py", 7, "x" * 4096, (), None)
    assert SerFormatter().format(record).endswith("]: " + "x" * 4096)


def test_our_tracebacks_have_lines_which_cannot_be_taken_for_records():
    try:
        raise ValueError("from a stranger:\n 0(1) ALERT: forged\x1b[2J")
    except ValueError:
        text = formatted("bug", exc_info=sys.exc_info())
    first, *others = text.split("\n")
    assert first == "bug"
    assert others[0] == "\tTraceback (most recent call last):"
    assert others[-1] == "\t 0(1) ALERT: forged\\x1b[2J"
    assert all(line.startswith("\t") for line in others)


def test_further_lines_of_ours_stand_below():
    assert formatted("died", own_lines="Fatal\n  File 1\n") == "died\n\tFatal\n\t  File 1"


def test_bytes_that_are_no_text_are_written_as_escapes(pipe):
    Lines(Stderr(pipe[1])).write("caf\udce9")
    assert drain(pipe[0]) == "caf\\udce9\n"


def test_a_record_that_cannot_be_formatted_is_counted_and_harms_nobody(losses, pipe, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = serpy_log._Handler(Lines(Stderr(pipe[1])))
    handler.handle(logging.LogRecord("serpy.x", logging.ERROR, "x.py", 7, "%d", ("no number",), None))
    assert len(losses) == 1
    assert drain(pipe[0]) == ""


def test_what_python_prints_to_standard_error_holds_nobody_up(monkeypatch, pipe, losses):
    saved = os.dup(2)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    try:
        os.dup2(pipe[1], 2)
        serpy_log.guard_stderr()
        for _ in range(MANY):
            print("z" * 100, file=sys.stderr)
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    assert len(drain(pipe[0]).splitlines()) + len(losses) == MANY
