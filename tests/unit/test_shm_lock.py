"""Striped locks."""

from __future__ import annotations

import os
import signal

from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment


def holder(lock, stripe):
    """Fork a process that holds *stripe* until it is killed; return its pid once it does."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        with lock.hold(stripe):
            os.write(writable, b"x")
            signal.pause()
    assert os.read(readable, 1) == b"x"
    os.close(readable)
    os.close(writable)
    return pid


def test_a_killed_holder_gives_its_lock_back():
    lock = StripedLock(Segment(8192), "test", 4)
    pid = holder(lock, 2)
    assert lock.is_held(2)
    assert not lock.is_held(1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not lock.is_held(2)
    with lock.hold(2):
        pass


def test_a_lock_is_given_back_after_an_exception():
    lock = StripedLock(Segment(8192), "test", 1)
    try:
        with lock.hold(0):
            raise KeyError
    except KeyError:
        pass
    pid = holder(lock, 0)  # would never get it if we still held it
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not lock.is_held(0)


def test_a_process_never_blocks_on_its_own_lock():
    lock = StripedLock(Segment(8192), "test", 1)
    with lock.hold(0), lock.hold(0):
        assert lock.stripes == 1
