"""The master: forks the children, watches them, puts a fresh one into the place of a dead one. Knows no SIP.

It opens no database and never blocks but in its poll. Everything the children share - sockets, hand-off, shared memory -
exists before the first fork and stays open here for life, so a successor drains what its predecessor left in the kernel.
Signal handlers only queue: the wake-up fd carries the number, the loop acts. TERM, INT and QUIT stop the server in order,
USR1 logs the status, HUP and USR2 are ignored: a changed configuration needs a restart. When and whether is decided in
``policy.py``. Once it serves, the master leaves for no error of the system: it warns, waits and tries again.

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
from typing import TYPE_CHECKING, Final, NoReturn

import setproctitle

from serpy.limited_log import RateLimit
from serpy.log import ALERT, NOTICE
from serpy.policy import BOOT_FORKS, Place, Policy, Verdict
from serpy.shm.counters import BOOTING, READY
from serpy.workers.base import EXIT_BOOT, EXIT_CRASHED, Boot, Worker, child_main, guarded

if TYPE_CHECKING:
    from serpy.api import Server

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
TROUBLE_S: Final = 0.2  # after an error of the system, before the next round
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
    """One place for a child and the process that fills it."""

    def __init__(self, number: int, worker: Worker) -> None:
        self.number: Final = number
        self.worker: Final = worker
        self.place: Final = Place(stop_last=worker.stop_last)
        self.pid = 0
        self.corpse = 0  # a process that KILL did not end: it runs no more of our code, but is not gone either
        self.crash_fd: Final = os.memfd_create(f"serpy-crash-{number}", 0)


class Master:
    """Runs *workers*, one per slot in order, until told to stop. *fork* is ``os.fork``, or a test's."""

    def __init__(
        self, server: Server, workers: list[Worker], *, uid: int = -1, gid: int = -1, on_ready: Callable[[], None],
        fork: Callable[[], int] = os.fork,
    ) -> None:  # fmt: skip
        self.server: Final = server
        self.boot_error = ""  # why the first boot failed
        self._slots: Final = [Slot(number, worker) for number, worker in enumerate(workers)]
        self._by_pid: Final[dict[int, Slot]] = {}
        self._policy: Final = Policy(
            [slot.place for slot in self._slots],
            float(server.settings.heartbeat_timeout), float(server.settings.exit_timeout),
        )  # fmt: skip
        self._uid: Final = uid
        self._gid: Final = gid
        self._on_ready: Final = on_ready
        self._fork: Final = fork
        self._exit_code = 0
        self._partial = b""
        self._complaints: Final = RateLimit(1, 10.0)

    def run(self) -> int:
        """The whole life of the master; returns the exit code. Raises OSError only before the first fork."""
        setproctitle.setproctitle("serpy: master")
        self._wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._reports, self._report_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # a child never waits for us
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda _number, _frame: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        gc.collect()
        gc.freeze()  # so that no collection in a child touches, and thereby copies, our pages
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(self._reports, select.POLLIN)
        while not self._policy.is_over():
            try:
                self._round(poller)
            except (OSError, MemoryError) as exc:
                self._complain("trouble in the master", exc)
                time.sleep(TROUBLE_S)
        for hook in self.server.hooks.shutdown:
            guarded("a shutdown hook", hook)
        log.log(NOTICE, "stopped, exit code %d", self._exit_code)
        return self._exit_code

    def _round(self, poller: select.poll) -> None:
        self._watch(time.monotonic())
        poller.poll(self._policy.wait_s(time.monotonic(), POLL_S) * 1000.0)
        self._take_signals()
        self._reap()  # whether or not the signal came through
        self._read_reports()
        self._greet()

    def _complain(self, text: str, exc: BaseException) -> None:
        """Say what the system refuses, once in a while."""
        if self._complaints.allows(time.monotonic()):
            again = self._complaints.take_suppressed()
            more = f" ({again} more times)" if again else ""
            log.warning("%s: %s%s", text, str(exc) or type(exc).__name__, more)

    # ------------------------------------------------------------------------------------------------- births

    def _start(self, slot: Slot) -> None:
        """Fork a child for *slot*; when that fails the slot is as it was, and the policy says when to try again."""
        now = time.monotonic()
        master_pid = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child unblocks when its own handlers stand
        try:
            pid = self._fork()
            if pid == 0:
                self._be_child(slot, master_pid)
        except (OSError, MemoryError) as exc:
            self._not_born(slot, exc, now)
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        slot.pid = pid
        self._by_pid[pid] = slot
        failed = self._policy.born(slot.place, now)
        if failed:
            log.log(NOTICE, "forks work again, after %d that failed", failed)

    def _be_child(self, slot: Slot, master_pid: int) -> NoReturn:
        """In the child, which must never get back into the master's code."""
        try:
            signal.set_wakeup_fd(-1)
            worker = slot.worker
            title = f"serpy: {worker.title}"
            self.server.counters.status.starting(slot.number, os.getpid(), worker.role, worker.child, title)
            os.close(self._wake)
            os.close(self._reports)
            child_main(worker, Boot(self._report_writer, slot.crash_fd, self._uid, self._gid, master_pid))
        finally:
            os._exit(EXIT_CRASHED)

    def _not_born(self, slot: Slot, exc: BaseException, now: float) -> None:
        if self._policy.fork_failed(now):
            self._complain(f"cannot fork {slot.worker.title}, trying again", exc)
            return
        self._boot_failed(f"cannot fork {slot.worker.title} in {BOOT_FORKS} tries: {str(exc) or type(exc).__name__}")

    def _boot_failed(self, text: str) -> None:
        self.boot_error = self.boot_error or text
        headline, _, more = self.boot_error.partition("\n")
        log.error("%s", headline, extra={"own_lines": more})
        self._stop(EXIT_BOOT)

    def _greet(self) -> None:
        """Note who says on the status page that it is ready. The report of it only wakes us up."""
        status = self.server.counters.status
        for slot in self._slots:
            place = slot.place
            if not place.alive or place.ready or status.pid(slot.number) != slot.pid:
                continue
            if status.state(slot.number) == READY:
                place.ready = True
                log.info("%s is ready (pid %d)", slot.worker.title, slot.pid)
        if not self._policy.stopping and self._policy.all_ready():
            log.log(NOTICE, "all %d processes are ready", len(self._slots))
            self._on_ready()

    # ------------------------------------------------------------------------------------------------- deaths

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # Nobody is left: whoever is still in the book was waited for by somebody else.
                for lost in list(self._by_pid):
                    self._bury(lost, EXIT_CRASHED)
                return
            if pid == 0:
                return
            self._bury(pid, os.waitstatus_to_exitcode(status))

    def _bury(self, pid: int, code: int) -> None:
        self._greet()  # it may have been ready without our having looked
        slot = self._by_pid.pop(pid, None)
        if slot is None:
            self._bury_corpse(pid)
            return
        place = slot.place
        was_ready = place.ready
        now = time.monotonic()
        delay = self._policy.died(place, code, now)
        slot.pid = 0
        self.server.counters.status.died(slot.number)
        cause = f"was killed by signal {-code} ({_signal_name(-code)})" if code < 0 else f"exited with {code}"
        traceback = _take_text(slot.crash_fd)
        if self._policy.stopping:
            if code not in (0, -signal.SIGTERM):
                log.warning("%s (pid %d) %s while stopping", slot.worker.title, pid, cause)
            return
        if not self._policy.serving and not was_ready:
            self._read_reports()  # its last words
            self._boot_failed(f"{slot.worker.title} (pid {pid}) {cause} while starting")
            return
        log.log(ALERT, "%s (pid %d) %s", slot.worker.title, pid, cause, extra={"own_lines": traceback})
        if delay:
            log.warning("%s failed %d times: next try in %.1f s", slot.worker.title, place.failures, delay)

    def _bury_corpse(self, pid: int) -> None:
        for slot in self._slots:
            if slot.corpse == pid:
                slot.corpse = 0
                log.log(NOTICE, "pid %d, once %s, is gone at last", pid, slot.worker.title)

    # ----------------------------------------------------------------------------------------------------- loop

    def _watch(self, now: float) -> None:
        """What time brings: starts that are due, children that are silent, a stop that takes too long."""
        policy = self._policy
        if policy.stopping:
            for place in policy.last_ones():
                self._signal_place(place, signal.SIGTERM)
        status = self.server.counters.status
        for slot in self._slots:
            if policy.is_due(slot.place, now):
                self._start(slot)
            elif not slot.place.alive:
                continue
            elif policy.stopping:
                self._carry_out(slot, policy.is_overdue(slot.place, now), "does not stop")
            else:
                booting = status.state(slot.number) == BOOTING
                heard_at = status.last_heartbeat(slot.number)
                silent = now - max(heard_at, slot.place.started)
                verdict = policy.verdict(slot.place, heard_at, now, booting=booting)
                self._carry_out(slot, verdict, f"is silent for {silent:.0f} s")

    def _carry_out(self, slot: Slot, verdict: Verdict, why: str) -> None:
        title, pid = slot.worker.title, slot.pid
        if verdict is Verdict.ABORT:
            log.log(ALERT, "%s (pid %d) %s: aborting it", title, pid, why)
            _kill(pid, signal.SIGABRT)
        elif verdict is Verdict.KILL:
            log.error("%s (pid %d) %s: killing it", title, pid, why)
            _kill(pid, signal.SIGKILL)
        elif verdict is Verdict.GIVE_UP and (not slot.corpse or self._policy.stopping):
            # The kernel holds it: it will run no more of our code, so its place is free.
            log.log(ALERT, "%s (pid %d) does not die of KILL: not waiting for it any more", title, pid)
            del self._by_pid[pid]
            slot.corpse = pid
            slot.pid = 0
            self.server.counters.status.died(slot.number)
            self._policy.died(slot.place, -signal.SIGKILL, time.monotonic())

    def _read_reports(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self._reports, 65536)
                *lines, self._partial = (self._partial + data).split(b"\n")
                for line in lines:
                    self._take_report(line.decode("utf-8", "replace"))

    def _take_report(self, line: str) -> None:
        _, _, text = line.partition(" ")
        if line[:1] == "E":
            self.boot_error = self.boot_error or text.replace("\r", "\n")

    # -------------------------------------------------------------------------------------------------- signals

    def _take_signals(self) -> None:
        try:
            numbers = os.read(self._wake, 4096)
        except BlockingIOError:
            return
        for number in dict.fromkeys(numbers):
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                log.log(NOTICE, "stopping on %s", signal.Signals(number).name)
                self._stop(0)
            elif number == signal.SIGUSR1:
                self._log_status()
            elif number != signal.SIGCHLD:  # _reap looks after every round
                log.debug("%s ignored", signal.Signals(number).name)

    def _stop(self, code: int) -> None:
        """Begin the orderly stop: everybody first, then those who must outlive them (the store)."""
        if not self._policy.stopping:
            self._exit_code = code
        for place in self._policy.stop(time.monotonic()):
            self._signal_place(place, signal.SIGTERM)

    def _signal_place(self, place: Place, number: int) -> None:
        for slot in self._slots:
            if slot.place is place and slot.pid:
                _kill(slot.pid, number)

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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have numbers only
        return "unnamed"


def _take_text(fd: int) -> str:
    """What faulthandler has left in *fd*, which is emptied."""
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        text = os.pread(fd, min(size, 16384), 0).decode("utf-8", "replace") if size else ""
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
    except (OSError, MemoryError):  # the death counts, not its story
        return ""
    return text


def _resident_kib(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", encoding="ascii") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return 0
