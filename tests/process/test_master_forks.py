"""The master, with children that do nothing, while the system refuses it forks."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import time

import pytest

from serpy.api import Server
from serpy.config import Settings
from serpy.master import Master
from serpy.policy import BOOT_FORKS
from serpy.shm.counters import READY, Counters
from serpy.shm.segment import Segment
from serpy.workers.base import EXIT_BOOT

WORKS, FAILS, DIES_AT_ONCE = range(3)
CHATTY = 1
AGAIN = OSError(errno.EAGAIN, "Resource temporarily unavailable")


def await_true(what, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.005)


class Idler:
    """A child that is ready at once, beats and waits for TERM."""

    role = "idler"
    stop_last = False

    def __init__(self, server, slot, shared):
        self.server = server
        self.shared = shared
        self.child = self.slot = slot
        self.title = f"idler {slot}"

    def run(self, boot):
        counters = self.server.counters
        counters.attach(self.slot)
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        counters.status.ready()
        boot.say("R", self.slot)
        while True:
            counters.heartbeat(time.monotonic())
            if self.shared[2] == CHATTY:
                for _ in range(10_000):
                    boot.say("E", self.slot, "one more line than a pipe holds")
            time.sleep(0.1)


class Family:
    """A master in a process of its own, and what the test decides about its forks."""

    def __init__(self, count=3, error=AGAIN):
        self.shared = mmap.mmap(-1, 4096)  # [0]: what forks do; [1]: how many were asked for, at most 255; [2]: CHATTY
        self.error = error
        settings = Settings()
        settings.heartbeat_timeout = 2
        self.server = Server(settings)
        self.server.segment = Segment(1 << 20)
        self.server.counters = Counters(self.server.segment, count)
        self.status = self.server.counters.status
        self.count = count
        self.pid = 0

    def start(self, forks=WORKS):
        self.shared[0] = forks
        self.pid = os.fork()
        if self.pid == 0:
            workers = [Idler(self.server, slot, self.shared) for slot in range(self.count)]
            master = Master(self.server, workers, on_ready=lambda: None, fork=self.fork)
            code = 99
            try:
                code = master.run()
            finally:
                os._exit(code)
        return self

    def fork(self):
        self.shared[1] = min(255, self.shared[1] + 1)
        if self.shared[0] == FAILS:
            raise self.error
        pid = os.fork()
        if pid == 0 and self.shared[0] == DIES_AT_ONCE:
            os._exit(7)  # before its first instruction
        return pid

    @property
    def asked(self):
        return self.shared[1]

    def pids(self):
        """Of the children that are ready."""
        return [self.status.pid(slot) for slot in range(self.count) if self.status.state(slot) == READY]

    def is_whole(self):
        return len(self.pids()) == self.count

    def kill(self, *slots):
        for slot in slots:
            os.kill(self.status.pid(slot), signal.SIGKILL)
        await_true(lambda: all(self.status.state(slot) != READY for slot in slots))

    def is_alive(self):
        return os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        return self.end()

    def end(self):
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code


@pytest.fixture
def family():
    made = []

    def make(**options):
        made.append(Family(**options))
        return made[-1]

    yield make
    for each in made:
        if each.pid:
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(AGAIN, id="process-table-full"),
        pytest.param(OSError(errno.ENOMEM, "Cannot allocate memory"), id="no-memory-for-the-kernel"),
        pytest.param(MemoryError(), id="no-memory-for-the-interpreter"),
    ],
)
def test_children_that_die_while_forks_fail_are_replaced_when_forks_work(family, error):
    master = family(error=error).start()
    await_true(master.is_whole)
    first = master.pids()
    master.shared[0] = FAILS
    before = master.asked
    master.kill(0, 1)
    await_true(lambda: master.asked >= before + 3)
    assert master.is_alive()
    assert master.pids() == [first[2]]  # the one that lives is left alone
    master.shared[0] = WORKS
    await_true(master.is_whole)
    assert not set(first[:2]) & set(master.pids())
    assert master.stop() == 0


def test_a_failed_fork_is_no_respawn(family):
    master = family().start()
    await_true(master.is_whole)
    master.shared[0] = FAILS
    before = master.asked
    master.kill(0)
    await_true(lambda: master.asked >= before + 3)
    assert master.status.respawns(0) == 0
    master.shared[0] = WORKS
    await_true(master.is_whole)
    assert master.status.respawns(0) == 1
    assert master.stop() == 0


def test_the_server_can_be_stopped_while_forks_fail(family):
    master = family().start()
    await_true(master.is_whole)
    master.shared[0] = FAILS
    before = master.asked
    master.kill(1)
    await_true(lambda: master.asked > before)
    assert master.stop() == 0


def test_a_server_that_cannot_fork_at_its_start_says_so_and_leaves(family):
    master = family().start(forks=FAILS)
    assert master.end() == EXIT_BOOT
    assert master.asked == BOOT_FORKS


def test_a_server_whose_first_forks_fail_starts_when_one_works(family):
    master = family().start(forks=FAILS)
    await_true(lambda: master.asked >= 3)
    master.shared[0] = WORKS
    await_true(master.is_whole)
    assert master.stop() == 0


def test_children_that_die_before_their_first_instruction_are_replaced(family):
    master = family().start()
    await_true(master.is_whole)
    master.shared[0] = DIES_AT_ONCE
    before = master.asked
    master.kill(0)
    await_true(lambda: master.asked >= before + 3)
    assert master.is_alive()
    master.shared[0] = WORKS
    await_true(master.is_whole)
    assert master.stop() == 0


def test_a_master_that_does_not_read_its_reports_holds_up_no_child(family):
    master = family().start()
    await_true(master.is_whole)
    os.kill(master.pid, signal.SIGSTOP)
    master.shared[2] = CHATTY
    beats = [master.status.last_heartbeat(slot) for slot in range(3)]
    for _ in range(2):
        await_true(lambda: all(master.status.last_heartbeat(slot) > beats[slot] for slot in range(3)))  # noqa: B023
        beats = [master.status.last_heartbeat(slot) for slot in range(3)]
    master.shared[2] = 0
    os.kill(master.pid, signal.SIGCONT)
    assert master.stop() == 0
