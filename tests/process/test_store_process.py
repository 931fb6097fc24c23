"""The store as a process of its own: killed, stopped, and its clients do not notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from support.patience import PATIENCE_S
from support.running import wait_for

from serpy.config import Settings
from serpy.db import schema
from serpy.db.writer import StoreClient
from serpy.errors import BackendError
from serpy.modules.db_mysql import MysqlModule
from serpy.modules.db_postgres import PostgresModule
from serpy.modules.db_sqlite import SqliteModule
from serpy.net.handoff import STORE_ACK, STORE_WRITE, Channels
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.workers.store import StoreWorker

CLIENT, STORE = 0, 1


class Farm:
    """A store process that is started again when told so, and a client in this process."""

    def __init__(self, url, run_dir, policy="refuse"):
        self.url = url
        self.module = self.prepare(url)
        self.segment = Segment(4 << 20)
        self.counters = Counters(self.segment, 2)
        self.channels = Channels(2)
        self.settings = Settings({"store_policy": policy, "max_parked": 100, "crash_limit": 0})
        self.run_dir = str(run_dir)
        self._handles = {}
        bound = SimpleNamespace(children=0, streams=0)
        self.worker = StoreWorker(self, self.channels, bound, STORE, 0)
        self.pid = 0
        self.start()
        self.loop = Loop()
        self._in = self.channels._in[STORE]
        self.channels.slot = CLIENT
        self.loop.add_reader(self.channels._in[CLIENT].fileno(), self.channels.read)
        status = self.counters.status
        self.client = StoreClient(self.loop, self.channels, STORE, STORE_WRITE, lambda: status.pid(STORE))
        self.channels.on(STORE_ACK, self.client.on_ack)

    def prepare(self, url):
        """Make the tables at *url*; its driver."""
        module = driver_of(url)
        setup = module.open(url, read_only=False, create=True)
        schema.create(setup)
        setup.close()
        return module

    def database(self, url):
        handle = self._handles.get(url)
        if handle is None:
            handle = self._handles[url] = driver_of(url).open(url, read_only=False, loop=self.worker.loop)
        return handle

    def start(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until the child can handle it
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._serve()
                code = 0
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        self.counters.status.starting(STORE, self.pid, "store", 0, "store")

    def _serve(self):
        worker = self.worker
        worker.loop = Loop()
        signal.signal(signal.SIGTERM, lambda *_: worker.loop.stop())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.set_wakeup_fd(-1)
        self.channels._handlers.clear()
        self.channels.slot = STORE
        self.channels._heads = []
        worker.loop.add_reader(self.channels._in[STORE].fileno(), self.channels.read)
        self.counters.attach(STORE)
        worker.after_fork()
        worker.loop.call_at(0.0, self._poll)
        worker.loop.run()
        worker.before_exit()

    def _poll(self):
        self.worker.loop.call_at(self.worker.loop.now() + 0.02, self._poll)  # looks whether it was told to stop

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)
        _, status = os.waitpid(self.pid, 0)
        return status

    def close(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def rows(self, table, *columns, url=""):
        handle = driver_of(url or self.url).open(url or self.url, read_only=True)
        try:
            return handle.select(table, columns, {})
        finally:
            handle.close()


def driver_of(url):
    drivers = {"sqlite": SqliteModule, "postgres": PostgresModule, "mysql": MysqlModule}
    return drivers[url.partition(":")[0]]()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("mysql", marks=pytest.mark.mysql),
    ]
)
def farm(request, tmp_path):
    url = (
        f"sqlite:///{tmp_path}/serpy.db"
        if request.param == "sqlite"
        else request.getfixturevalue(f"{request.param}_url")
    )
    made = Farm(url, tmp_path)
    yield made
    made.close()


def location(number, round_number):
    values = {"uid": f"u{number}", "aor": f"sip:u{number}@h", "contact": f"sip:u{number}@192.0.2.1"}
    return ("upsert", "location", {**values, "expires": 2_000_000_000 + round_number})


def account(name):
    return ("insert", "acc", {"sip_callid": name, "request_timestamp": 1, "response_timestamp": 2})


def run_writers(farm, writers, *, between=None, every=0):
    """Run *writers* (generators of operation lists) side by side; the acknowledged lists, and the errors."""
    stored, errors, left = [], [], [len(writers)]

    def body(writer):
        def handler():
            for operations in writer:
                try:
                    farm.client.write(operations, wait=True, url=farm.url)
                except BackendError as exc:
                    errors.append(str(exc))
                else:
                    stored.append(operations)
                if between is not None and every and len(stored) % every == 0:
                    between()
            left[0] -= 1
            if not left[0]:
                farm.loop.stop()

        return handler

    farm.loop._stopping = False  # the previous run stopped it
    for writer in writers:
        farm.loop.spawn(body(writer))
    farm.loop.run()
    return stored, errors


def test_acknowledged_rows_are_stored_and_committed_in_groups(farm):
    writers = [[[location(n, r)] for r in range(5)] for n in range(40)]
    stored, errors = run_writers(farm, writers)
    assert errors == []
    assert len(stored) == 200
    assert sorted(farm.rows("location", "uid", "expires")) == sorted((f"u{n}", 2_000_000_004) for n in range(40))
    wait_for(lambda: farm.counters.snapshot()["store.rows"] == 200)  # they are published after the answer
    assert farm.counters.snapshot()["store.commits"] < 100


def test_killed_store_loses_nothing_fails_nothing_and_doubles_nothing(farm):
    killed = []

    def kill():
        if len(killed) < 6:
            farm.kill()
            killed.append(farm.pid)
            farm.start()

    writers = [[[location(n, r)], [account(f"{n}-{r}")]] for n in range(60) for r in range(2)]
    stored, errors = run_writers(farm, writers, between=kill, every=30)
    assert errors == []
    assert len(stored) == 240
    assert len(killed) == 6
    assert sorted(uid for (uid,) in farm.rows("location", "uid")) == sorted(f"u{n}" for n in range(60))
    assert sorted(name for (name,) in farm.rows("acc", "sip_callid")) == sorted(
        f"{n}-{r}" for n in range(60) for r in range(2)
    )


def test_stopping_store_commits_what_was_sent_before(farm):
    for number in range(20):
        farm.client.write([location(number, 0)], wait=False, url=farm.url)
    farm.client.send_all()
    assert farm.kill(signal.SIGTERM) == 0
    assert len(farm.rows("location", "uid")) == 20


def test_rows_nobody_waits_for_follow_a_killed_store(farm):
    farm.kill(signal.SIGKILL)
    for number in range(50):
        farm.client.write([location(number, 0)], wait=False, url=farm.url)
    farm.start()

    def until_answered():
        while farm.client.waiting:
            farm.loop.sleep(0.005)
        farm.loop.stop()

    farm.loop.spawn(until_answered)
    farm.loop.run()
    assert len(farm.rows("location", "uid")) == 50


@pytest.mark.postgres
@pytest.mark.parametrize("policy", ["refuse", "journal"])
def test_server_away_is_answered_by_the_policy_and_used_again(postgres, postgres_url, tmp_path, policy):
    farm = Farm(postgres_url, tmp_path, policy)
    try:
        assert run_writers(farm, [[[location(1, 0)]]])[1] == []
        postgres.stop()
        stored, errors = run_writers(farm, [[[location(2, r)] for r in range(3)]])
        if policy == "refuse":
            assert (len(stored), len(errors)) == (0, 3)
        else:
            assert (len(stored), len(errors)) == (3, 0)
            farm.kill()
            farm.start()  # the successor finds the journal
        postgres.start()
        deadline = time.monotonic() + PATIENCE_S
        wanted = {"u1", "u3"} if policy == "refuse" else {"u1", "u2", "u3"}
        rows = {}
        while set(rows) != wanted and time.monotonic() < deadline:  # the journal takes a row before the server is back
            run_writers(farm, [[[location(3, 0)]]])
            rows = dict(farm.rows("location", "uid", "expires"))
        assert set(rows) == wanted
        if policy == "journal":
            assert rows["u2"] == 2_000_000_002
    finally:
        farm.close()


# -- two databases: what befalls the one for accounting is nothing to registrations


class LockedFile:
    """An accounting file that another program has for itself."""

    def __init__(self, folder):
        self.url = f"sqlite:///{folder}/acc.db"
        self.path = folder / "acc.db"

    def away(self):
        code = (
            "import sqlite3, sys; file = sqlite3.connect(sys.argv[1], isolation_level=None);"
            "file.execute('begin immediate'); print('has it', flush=True); sys.stdin.read()"
        )
        self.other = subprocess.Popen(
            [sys.executable, "-c", code, str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.other.stdout.readline() == b"has it\n"

    def back(self):
        self.other.kill()
        self.other.wait()


class RemovedFile(LockedFile):
    """An accounting file that is moved away."""

    def away(self):
        self.path.rename(self.path.with_suffix(".away"))

    def back(self):
        self.path.with_suffix(".away").rename(self.path)


class Stopped:
    """A server that takes connections and says nothing."""

    def __init__(self, postgres, url):
        self.postgres = postgres
        self.url = url
        self.away, self.back = postgres.freeze, postgres.thaw


class Down(Stopped):
    """A server that is not there."""

    def __init__(self, postgres, url):
        super().__init__(postgres, url)
        self.away, self.back = postgres.stop, postgres.start


class Cut(Stopped):
    """A server that cuts all connections, again and again."""

    def __init__(self, postgres, url):
        super().__init__(postgres, url)
        self.away = self.cut

    def cut(self):
        self.postgres.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname is not null"
        )

    def back(self):
        self.cut()


@pytest.fixture(
    params=[
        LockedFile,
        RemovedFile,
        *[pytest.param(each, marks=pytest.mark.postgres) for each in (Stopped, Down, Cut)],
    ],
    ids=lambda each: each.__name__,
)
def accounting(request, tmp_path):
    if request.param in (LockedFile, RemovedFile):
        return request.param(tmp_path)
    return request.param(request.getfixturevalue("postgres"), request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize("killed", [False, True], ids=["", "and the store is killed"])
def test_an_accounting_database_in_trouble_costs_no_registration_and_no_row(tmp_path, accounting, killed):
    farm = Farm(f"sqlite:///{tmp_path}/location.db", tmp_path)
    farm.prepare(accounting.url)
    names = []

    def account(count=20):
        for _ in range(count):
            names.append(f"c{len(names)}")
            row = {"sip_callid": names[-1], "request_timestamp": 1, "response_timestamp": 2}
            farm.client.write([("insert", "acc", row)], wait=False, url=accounting.url)

    def register(rounds):
        writers = [[[location(n, r)] for r in rounds] for n in range(20)]
        stored, errors = run_writers(farm, writers, between=account, every=10)
        assert errors == []
        assert len(stored) == 20 * len(rounds)

    try:
        register(range(2))
        accounting.away()
        try:
            register(range(2, 6))
            if killed:
                farm.kill()
                farm.start()
            register(range(6, 8))
        finally:
            accounting.back()
        register(range(8, 10))

        def all_there():
            def settled():
                while farm.client.waiting:
                    farm.loop.sleep(0.01)
                farm.loop.stop()

            farm.loop._stopping = False
            farm.loop.spawn(settled)
            farm.loop.run()
            return len(farm.rows("acc", "sip_callid", url=accounting.url)) >= len(names)

        wait_for(all_there, timeout=30, every=0.1)
        assert sorted(name for (name,) in farm.rows("acc", "sip_callid", url=accounting.url)) == sorted(names)
        assert sorted(farm.rows("location", "uid", "expires")) == sorted((f"u{n}", 2_000_000_009) for n in range(20))
        wait_for(lambda: farm.counters.snapshot()["store.backlog"] == 0)
    finally:
        farm.close()
