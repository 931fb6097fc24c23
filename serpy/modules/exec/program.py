"""One program of the administrator: started by the shell, fed, read and waited for without holding up the loop.

The shell command is text from the configuration file and nothing else. What a peer has sent reaches a program on its
standard input, in its environment or as ``$1``, never as part of the command, so no peer can add to it. A program has
its own session; at the deadline the whole of it is killed.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serpy.net.loop import Loop

log = logging.getLogger(__name__)

SHELL: Final = "/bin/sh"
KILL_WAIT_S: Final = 5.0  # a killed process is gone within this, or the kernel holds on to it
MAX_OUTPUT: Final = 65536
_CHUNK: Final = 16384
# A receiver ignores some of these, and what is ignored stays so in a new program.
_DEFAULTS: Final = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGCHLD,
)  # fmt: skip


class Outcome:
    """How a program ended: *status* is its exit status, minus the signal, or None when it did not end in time."""

    def __init__(self, status: int | None, output: bytes) -> None:
        self.status: Final = status
        self.output: Final = output


def run_program(
    loop: Loop, command: str, arguments: list[bytes], environment: Mapping[bytes, bytes], data: bytes,
    deadline: float, *, wants_output: bool,
) -> Outcome:  # fmt: skip
    """Run the shell *command* with *data* on its standard input. May park. Raises OSError when it cannot be started,
    ResourceError when too many handlers wait; the program is killed then.
    """
    program = _Program(loop, deadline)
    try:
        program.start(command, arguments, environment, wants_output=wants_output)
        program.feed(data)
        output = program.read() if wants_output else b""
        return Outcome(program.wait(), output)
    finally:
        program.close()


class _Program:
    def __init__(self, loop: Loop, deadline: float) -> None:
        self._loop: Final = loop
        self._deadline: Final = deadline
        self._pid = 0
        self._pidfd = -1
        self._stdin = -1
        self._stdout = -1

    def start(
        self, command: str, arguments: list[bytes], environment: Mapping[bytes, bytes], *, wants_output: bool
    ) -> None:
        """Start the shell. Everything but 0, 1 and 2 is closed in it: Python's descriptors are not inherited."""
        from_us, self._stdin = os.pipe()
        to_us = -1
        try:
            actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [(os.POSIX_SPAWN_DUP2, from_us, 0)]
            if wants_output:
                self._stdout, to_us = os.pipe()
                actions.append((os.POSIX_SPAWN_DUP2, to_us, 1))
            else:
                actions.append((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0))
            text = command.encode("utf-8", "surrogateescape")
            self._pid = os.posix_spawn(
                SHELL, [b"sh", b"-c", text, b"sh", *arguments], environment, file_actions=actions,
                setsid=True, setsigmask=(), setsigdef=_DEFAULTS,
            )  # fmt: skip
            self._pidfd = os.pidfd_open(self._pid)
        finally:
            os.close(from_us)
            if to_us >= 0:
                os.close(to_us)
        _set_nonblocking(self._stdin)
        if self._stdout >= 0:
            _set_nonblocking(self._stdout)

    def feed(self, data: bytes) -> None:
        """Write *data* as far as the program wants it, and close its input."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                if not self._loop.wait_writable(self._stdin, self._deadline):
                    break
            except OSError as exc:
                if exc.errno != errno.EPIPE:  # EPIPE: it does not read, or has ended
                    raise
                break
        self._close_stdin()

    def read(self) -> bytes:
        """What the program writes until it closes its output, MAX_OUTPUT bytes at most."""
        parts: list[bytes] = []
        size = 0
        while True:
            try:
                part = os.read(self._stdout, _CHUNK)
            except BlockingIOError:
                if not self._loop.wait_readable(self._stdout, self._deadline):
                    break
                continue
            if not part:
                break
            size += len(part)
            if size <= MAX_OUTPUT:
                parts.append(part)
        return b"".join(parts)

    def wait(self) -> int | None:
        """Exit status, minus the signal, or None: the deadline has passed and the program is killed."""
        ended = self._loop.wait_readable(self._pidfd, self._deadline)
        if not ended:
            self._kill()
            self._loop.wait_readable(self._pidfd, time.monotonic() + KILL_WAIT_S)
        status = self._reap()
        return status if ended else None

    def close(self) -> None:
        """Give everything back; a program that still runs is killed."""
        self._close_stdin()
        if self._stdout >= 0:
            os.close(self._stdout)
            self._stdout = -1
        if self._pid:
            self._kill()
            if self._reap() is None:
                self._reap_later(self._pid)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    def _kill(self) -> None:
        """The shell has not been waited for, so its process group is certainly its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)

    def _reap(self) -> int | None:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            return None
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def _reap_later(self, pid: int) -> None:
        """Take the exit status of a killed program as soon as it is there, so that it leaves no zombie."""
        loop = self._loop

        def again() -> None:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    loop.call_at(loop.now() + 1.0, again)

        loop.call_at(loop.now() + 0.05, again)


def _set_nonblocking(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)
