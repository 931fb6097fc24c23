"""Writers of the location table are killed at any instant: no lock stays held, nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import struct

import pytest

from serpy.shm import table as table_module
from serpy.shm.record import Binding
from serpy.shm.segment import Segment
from serpy.shm.table import LocationTable

interpreted = pytest.mark.skipif(
    not str(table_module.__file__).endswith(".py"),
    reason="stopping a change half way needs methods that can be replaced",
)
WRITERS = 4
KILLS = 120
USERS = 60  # of each writer: its own, so that the last acknowledged state is known
ACK = struct.Struct("=qqq")  # user, version, contacts


def bindings_of(writer, user, version, count):
    return [
        Binding(f"w{writer}u{user}", f"sip:{version}.{n}@h", 1 << 40, cseq=version, user_agent="x" * (version % 700))
        for n in range(count)
    ]


def write_forever(table, writer, first_version, pipe):
    rng = random.Random(first_version)
    version = first_version
    while True:
        version += 1
        user = rng.randrange(USERS)
        uid = f"w{writer}u{user}"
        key = table.key(0, uid)
        count = rng.choice((0, 1, 1, 2, 4))
        _, stamp = table.read(key, uid)
        os.write(pipe, ACK.pack(user, -version, count))  # about to
        if table.replace(key, bindings_of(writer, user, version, count), stamp):
            os.write(pipe, ACK.pack(user, version, count))


class Writer:
    """A forked writer and what it has said so far: per user the last acknowledged and the last attempted change."""

    def __init__(self, table, number):
        self.table = table
        self.number = number
        self.acknowledged = {}
        self.attempted = {}
        self.version = 0
        self.pid = 0

    def start(self):
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                write_forever(self.table, self.number, self.version, writer)
            finally:
                os._exit(1)
        os.close(writer)

    def read_some(self):
        data = os.read(self.reader, ACK.size * 500)
        while len(data) % ACK.size:
            data += os.read(self.reader, ACK.size - len(data) % ACK.size)
        for user, version, count in ACK.iter_unpack(data):
            self.version = max(self.version, abs(version))
            if version < 0:
                self.attempted[user] = (-version, count)
            else:
                self.acknowledged[user] = (version, count)
        return bool(data)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        while self.read_some():
            pass
        os.close(self.reader)


def check(table, writer):
    """Each user has the last acknowledged bindings, or those of the change that was under way: these stay, then."""
    for user in range(USERS):
        uid = f"w{writer.number}u{user}"
        found = [b.contact for b in table.read(table.key(0, uid), uid)[0]]
        acknowledged = writer.acknowledged.get(user, (0, 0))
        changes = [acknowledged, writer.attempted.pop(user, acknowledged)]
        allowed = [[b.contact for b in bindings_of(writer.number, user, *change)] for change in changes]
        assert found in allowed, (uid, found, allowed)
        writer.acknowledged[user] = changes[allowed.index(found)]


def test_killed_writers_leave_a_table_the_next_holder_repairs():
    size = 1024 * 1024
    table = LocationTable(Segment(size + 65536), size)
    table.set_loaded(table.table_id("location"), loaded=True)
    rng = random.Random(1)
    writers = [Writer(table, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(KILLS):
            for _ in range(rng.randrange(1, 6)):
                for writer in writers:
                    writer.read_some()
            victim = rng.choice(writers)
            victim.kill()
            check(table, victim)
            victim.start()
    finally:
        for writer in writers:
            writer.kill()
    assert not table.is_lock_held()
    for writer in writers:
        check(table, writer)
    contacts, users, start = 0, 0, 0
    while start >= 0:
        records, start = table.page(start, 4096)
        users += len(records)
        contacts += sum(len(found) for _, _, found in records)
    for stripe in range(table.stripes):
        table._enter(stripe)
        table._lock.release(stripe)
    stats = table.stats()
    assert (stats.users, stats.contacts) == (users, contacts)
    for writer in writers:
        for user in range(USERS):
            uid = f"w{writer.number}u{user}"
            key = table.key(0, uid)
            assert table.replace(key, [], table.read(key, uid)[1])
    stats = table.stats()
    assert (stats.users, stats.contacts, stats.used) == (0, 0, 0)


@interpreted
def test_death_inside_a_change_keeps_the_old_record_whole(monkeypatch):
    size = 1024 * 1024
    table = LocationTable(Segment(size + 65536), size)
    table.set_loaded(table.table_id("location"), loaded=True)
    key = table.key(0, "alice")
    table.replace(key, bindings_of(0, 0, 5, 3), 0)
    _, stamp = table.read(key, "alice")
    used = table.stats().used
    pid = os.fork()
    if pid == 0:
        # dies with the new blocks filled and the old record still linked
        monkeypatch.setattr(LocationTable, "_give_back", lambda *_args: os._exit(1))
        monkeypatch.setattr(LocationTable, "_write", lambda *_args: os.kill(os.getpid(), signal.SIGKILL))
        table.replace(key, bindings_of(0, 0, 6, 1), stamp)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert not table.is_lock_held()
    found, same = table.read(key, "alice")
    assert ([b.cseq for b in found], same) == ([5, 5, 5], stamp)
    stats = table.stats()
    assert (stats.repairs, stats.contacts, stats.used) == (1, 3, used)


@interpreted
def test_death_after_the_swing_keeps_the_new_record_and_loses_no_block(monkeypatch):
    size = 1024 * 1024
    table = LocationTable(Segment(size + 65536), size)
    table.set_loaded(table.table_id("location"), loaded=True)
    key = table.key(0, "alice")
    table.replace(key, bindings_of(0, 0, 5, 3), 0)
    _, stamp = table.read(key, "alice")
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(LocationTable, "_give_back", lambda *_args: os.kill(os.getpid(), signal.SIGKILL))
        table.replace(key, bindings_of(0, 0, 6, 1), stamp)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    found, after = table.read(key, "alice")
    assert [b.cseq for b in found] == [6]
    assert table.replace(key, [], after)
    assert (table.stats().contacts, table.stats().used) == (0, 0)
