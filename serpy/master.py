"""The master: forks the children, watches them, puts a fresh one into the place of a dead one. Knows no SIP.

It opens no database and never blocks but in its poll. Everything the children share - sockets, hand-off, shared memory -
exists before the first fork and stays open here for life, so a successor drains what its predecessor left in the kernel.
Signal handlers only queue: the wake-up fd carries the number, the loop acts.

Runs in: master. Locks: none.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import setproctitle

from serpy.log import ALERT, NOTICE
from serpy.shm.counters import BOOTING
from serpy.workers.base import EXIT_BOOT, Boot, Worker, child_main, guarded

if TYPE_CHECKING:
    from serpy.api import Server

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
BOOT_TIMEOUT_S: Final = 60.0  # a child that boots may read a whole database
ABORT_GRACE_S: Final = 2.0  # from ABRT, for the traceback, to KILL
THROTTLE_FIRST_S: Final = 0.2
THROTTLE_MAX_S: Final = 30.0
STEADY_S: Final = 10.0  # a life this long clears the record of its slot
SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)


class Slot:
    """One place for a child, and the record of those who filled it."""

    def __init__(self, number: int, worker: Worker) -> None:
        self.number: Final = number
        self.worker: Final = worker
        self.pid = 0
        self.ready = False
        self.started = 0.0
        self.failures = 0  # in a row
        self.start_at = 0.0  # when to fork the next one; meaningful while pid is 0
        self.aborted_at = 0.0
        self.crash_fd = os.memfd_create(f"serpy-crash-{number}", 0)


class Master:
    """Runs *workers*, one per slot in order, until told to stop."""

    def __init__(
        self, server: Server, workers: list[Worker], *, uid: int = -1, gid: int = -1, on_ready: Callable[[], None]
    ) -> None:
        self.server: Final = server
        self.boot_error = ""  # why the first boot failed
        self._slots: Final = [Slot(number, worker) for number, worker in enumerate(workers)]
        self._by_pid: Final[dict[int, Slot]] = {}
        self._uid: Final = uid
        self._gid: Final = gid
        self._on_ready: Final = on_ready
        self._serving = False  # all were ready once
        self._stopping = False
        self._last_ones = False  # of the two steps of a stop, the second
        self._kill_at = 0.0
        self._exit_code = 0
        self._partial = b""

    def run(self) -> int:
        """The whole life of the master; returns the exit code."""
        setproctitle.setproctitle("serpy: master")
        self._wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reports, self._report_writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reports, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda _number, _frame: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        gc.collect()
        gc.freeze()  # so that no collection in a child touches, and thereby copies, our pages
        for slot in self._slots:
            self._start(slot)
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._reports, select.POLLIN)
        while not (self._stopping and not self._by_pid):
            poller.poll(self._poll_ms())
            self._read_reports()
            self._take_signals()
            self._watch(time.monotonic())
        for hook in self.server.hooks.shutdown:
            guarded("a shutdown hook", hook)
        log.log(NOTICE, "stopped, exit code %d", self._exit_code)
        return self._exit_code

    # ------------------------------------------------------------------------------------------------- children

    def _start(self, slot: Slot) -> None:
        now = time.monotonic()
        worker = slot.worker
        slot.ready = False
        slot.started = now
        slot.aborted_at = 0.0
        master_pid = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child unblocks when its own handlers stand
        try:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                title = f"serpy: {worker.title}"
                self.server.counters.status.starting(slot.number, os.getpid(), worker.role, worker.child, title)
                os.close(self._wake)
                os.close(self._reports)
                boot = Boot(self._report_writer, slot.crash_fd, self._uid, self._gid, master_pid)
                child_main(worker, boot)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        slot.pid = pid
        self._by_pid[pid] = slot

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = self._by_pid.pop(pid, None)
            if slot is not None:
                self._bury(slot, pid, status)

    def _bury(self, slot: Slot, pid: int, status: int) -> None:
        now = time.monotonic()
        slot.pid = 0
        self.server.counters.status.died(slot.number)
        code = os.waitstatus_to_exitcode(status)
        cause = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exited with {code}"
        traceback = _take_text(slot.crash_fd)
        if self._stopping:
            if code not in (0, -signal.SIGTERM):
                log.warning("%s (pid %d) %s while stopping", slot.worker.title, pid, cause)
            return
        if not self._serving and not slot.ready:
            self._read_reports()  # its last words
            self.boot_error = self.boot_error or f"{slot.worker.title} (pid {pid}) {cause} while starting"
            log.error("%s", self.boot_error)
            self._stop(EXIT_BOOT)
            return
        log.log(ALERT, "%s (pid %d) %s%s", slot.worker.title, pid, cause, f"\n{traceback}" if traceback else "")
        slot.start_at = now + self._delay(slot, now - slot.started, code)
        if slot.start_at > now:
            log.warning("%s failed %d times: next try in %.1f s", slot.worker.title, slot.failures, slot.start_at - now)

    def _delay(self, slot: Slot, lived_s: float, code: int) -> float:
        """Seconds until the successor starts: none for a first failure, or when somebody killed a healthy child."""
        if lived_s >= STEADY_S or (slot.ready and code == -signal.SIGKILL and not slot.aborted_at):
            slot.failures = 0
            return 0.0
        slot.failures += 1
        if slot.failures == 1:
            return 0.0
        return float(min(THROTTLE_MAX_S, THROTTLE_FIRST_S * 2 ** (slot.failures - 2)))

    # ----------------------------------------------------------------------------------------------------- loop

    def _poll_ms(self) -> float:
        now = time.monotonic()
        waits = [slot.start_at - now for slot in self._slots if slot.pid == 0] if not self._stopping else []
        return max(0.0, min([POLL_S, *waits])) * 1000.0

    def _watch(self, now: float) -> None:
        """What time brings: starts that are due, children that are silent, a stop that takes too long."""
        if self._stopping:
            self._go_on_stopping(now)
            return
        for slot in self._slots:
            if slot.pid == 0 and now >= slot.start_at:
                self._start(slot)
            elif slot.pid:
                self._check_heartbeat(slot, now)

    def _check_heartbeat(self, slot: Slot, now: float) -> None:
        timeout = float(self.server.settings.heartbeat_timeout)
        if not timeout:
            return
        status = self.server.counters.status
        if status.state(slot.number) == BOOTING:
            timeout = max(timeout, BOOT_TIMEOUT_S)
        silent = now - max(status.last_heartbeat(slot.number), slot.started)
        if slot.aborted_at:
            if now - slot.aborted_at >= ABORT_GRACE_S:
                _kill(slot.pid, signal.SIGKILL)
        elif silent >= timeout:
            log.log(ALERT, "%s (pid %d) is silent for %.0f s: aborting it", slot.worker.title, slot.pid, silent)
            slot.aborted_at = now
            _kill(slot.pid, signal.SIGABRT)

    def _read_reports(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self._reports, 65536)
                if not data:
                    return
                *lines, self._partial = (self._partial + data).split(b"\n")
                for line in lines:
                    self._take_report(line.decode("utf-8", "replace"))

    def _take_report(self, line: str) -> None:
        number, _, text = line[1:].partition(" ")
        slot = self._slots[int(number)]
        if line[:1] == "E":
            self.boot_error = self.boot_error or text.replace("\r", "\n")
        elif line[:1] == "R":
            slot.ready = True
            log.info("%s is ready (pid %d)", slot.worker.title, slot.pid)
            if not self._serving and all(item.ready for item in self._slots):
                self._serving = True
                log.log(NOTICE, "all %d processes are ready", len(self._slots))
                self._on_ready()

    # -------------------------------------------------------------------------------------------------- signals

    def _take_signals(self) -> None:
        try:
            numbers = os.read(self._wake, 4096)
        except BlockingIOError:
            return
        for number in dict.fromkeys(numbers):
            if number == signal.SIGCHLD:
                self._reap()
            elif number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                log.log(NOTICE, "stopping on %s", signal.Signals(number).name)
                self._stop(0)
            elif number == signal.SIGUSR1:
                self._log_status()
            else:
                log.debug("%s ignored", signal.Signals(number).name)

    def _stop(self, code: int) -> None:
        """Begin the orderly stop: everybody first, then those who must outlive them (the store)."""
        if self._stopping:
            return
        self._stopping = True
        self._exit_code = code
        timeout = self.server.settings.exit_timeout
        self._kill_at = time.monotonic() + timeout if timeout else float("inf")
        for slot in self._by_pid.values():
            if not slot.worker.stop_last:
                _kill(slot.pid, signal.SIGTERM)

    def _go_on_stopping(self, now: float) -> None:
        if not self._last_ones and all(slot.worker.stop_last for slot in self._by_pid.values()):
            self._last_ones = True
            for slot in self._by_pid.values():
                _kill(slot.pid, signal.SIGTERM)
        if now >= self._kill_at:
            self._kill_at = now + 1.0
            for slot in self._by_pid.values():
                log.error("%s (pid %d) does not stop: killing it", slot.worker.title, slot.pid)
                _kill(slot.pid, signal.SIGKILL)

    def _log_status(self) -> None:
        status = self.server.counters.status
        segment = self.server.segment
        log.log(NOTICE, "shared memory: %d of %d KiB used", segment.used // 1024, segment.size // 1024)
        for slot in self._slots:
            resident = _resident_kib(slot.pid)
            log.log(
                NOTICE, "%s: pid %d, %d KiB resident, %d respawns",
                slot.worker.title, slot.pid, resident, status.respawns(slot.number),
            )  # fmt: skip


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _take_text(fd: int) -> str:
    """What faulthandler has left in *fd*, which is emptied."""
    size = os.lseek(fd, 0, os.SEEK_END)
    text = os.pread(fd, min(size, 16384), 0).decode("utf-8", "replace") if size else ""
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    return text


def _resident_kib(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", encoding="ascii") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return 0
