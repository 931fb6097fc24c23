"""Store and clients together, whatever dies, hangs, is refused or gets no answer, in any order.

Every row somebody was told about is in its database exactly once, every row that was refused for good is not, and what
one client writes to one key ends as it wrote it last.
"""

from __future__ import annotations

import shutil
import tempfile
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.stores import acc, upsert

from serpy.db.store import JOURNAL, REFUSE, Store
from serpy.db.writer import StoreClient
from serpy.errors import BackendError, DatabaseDownError, OutcomeUnknownError
from serpy.net.loop import Loop

URLS = ("first", "second")
MODES = ("up", "down", "cut before", "cut after", "killed before", "killed after")
BAD = ("insert", "acc", {"sip_callid": None})


class KilledError(BaseException):
    """The store process is gone, here and now."""


class MemoryDatabase:
    """Transactions on three tables. *mode*: up, down; for the next transaction alone: cut or killed, before or after it."""

    def __init__(self):
        self.mode = "up"
        self.calls = []
        self.contacts = {}
        self.progress = set()

    def write(self, operations):
        mode = self.mode
        if mode == "down":
            raise DatabaseDownError("down")
        self.mode = "up"
        if mode == "cut before":
            raise DatabaseDownError("cut", unknown=True)
        if mode == "killed before":
            raise KilledError
        self._apply(operations)
        if mode == "cut after":
            raise DatabaseDownError("cut", unknown=True)
        if mode == "killed after":
            raise KilledError

    def _apply(self, operations):
        calls, contacts, progress = list(self.calls), dict(self.contacts), set(self.progress)
        for kind, table, values in operations:
            if table == "store_progress" and kind == "insert":
                key = (values["sender"], values["batch"])
                if key in progress:
                    raise BackendError("duplicate key")
                progress.add(key)
            elif table == "store_progress":
                limit = values["batch <"]
                sender = dict(values.items()).get("sender")
                progress = {each for each in progress if each[1] >= limit or sender not in (None, each[0])}
            elif table == "acc":
                if values["sip_callid"] is None:
                    raise BackendError("NULL")
                calls.append(values["sip_callid"])
            elif kind == "upsert":
                contacts[values["uid"]] = values["expires"]
            else:
                contacts.pop(values["uid"], None)
        self.calls, self.contacts, self.progress = calls, contacts, progress

    def select(self, table, columns, where):
        if self.mode == "down":
            raise DatabaseDownError("down")
        return [(sender,) for sender, number in self.progress if number == where["batch"]]


class Client:
    """One process with a StoreClient; *rows* are what it has written and nobody waits for."""

    def __init__(self, world, slot):
        self.loop = Loop()
        channels = SimpleNamespace(send=lambda _slot, _kind, payload: world.carry(slot, payload))
        self.real = StoreClient(self.loop, channels, 9, 2, lambda: world.pid, interval_s=1e-9)
        self.rows = []
        self.last = {}  # (URL, uid) -> expires of its last write, None = deleted

    def run(self, *callbacks):
        """Let the loop do *callbacks* and what is ready, until all of it has ended or waits."""
        self.loop._stopping = False
        for callback in (*callbacks, self.loop.stop):
            self.loop.spawn(callback)
        self.loop.run()

    def write_and_wait(self, url, operation, results, name):
        def body():
            try:
                self.real.write([operation], wait=True, url=url)
                results[name] = "stored"
            except OutcomeUnknownError:
                results[name] = "unknown"
            except BackendError:
                results[name] = "refused"

        self.run(body)


class StoreMachine(RuleBasedStateMachine):
    """Two databases, two clients, one store."""

    @initialize(policy=st.sampled_from([REFUSE, JOURNAL]))
    def start(self, policy):
        self.policy = policy
        self.folder = tempfile.mkdtemp()
        self.databases = {url: MemoryDatabase() for url in URLS}
        self.pid = 1
        self.wire = []
        self.full = False
        self.acks = []
        self.results = {}  # name of a row somebody waited for -> (URL, how it ended)
        self.waited = {}
        self.dead = []  # rows of clients that were killed
        self.count = 0
        self.store = self.new_store()
        self.clients = [Client(self, slot) for slot in range(2)]

    def new_store(self):
        made = Store(self.databases.__getitem__, self.answer, policy=self.policy, folder=self.folder)
        made.recover()
        return made

    def carry(self, slot, payload):
        if self.full:
            return False
        self.wire.append((slot, payload))
        return True

    def answer(self, slot, payload):
        self.acks.append((slot, payload))
        return True

    def name(self):
        self.count += 1
        return f"r{self.count}"

    # -- what happens

    @rule(slot=st.integers(0, 1), url=st.sampled_from(URLS), bad=st.booleans())
    def account(self, slot, url, bad):
        name = self.name()
        self.clients[slot].real.write([acc(name)], wait=False, url=url)
        self.clients[slot].rows.append((url, name))
        if bad:
            self.clients[slot].real.write([BAD], wait=False, url=url)

    @rule(slot=st.integers(0, 1), url=st.sampled_from(URLS), bad=st.booleans())
    def account_and_wait(self, slot, url, bad):
        name = self.name()
        if not bad:  # a journal takes it, and the database gives it up later
            self.waited[name] = url
        self.clients[slot].write_and_wait(url, BAD if bad else acc(name), self.results, name)

    @rule(slot=st.integers(0, 1), url=st.sampled_from(URLS), key=st.integers(0, 1), gone=st.booleans())
    def change(self, slot, url, key, gone):
        uid = f"{slot}-{key}-{id(self.clients[slot])}"
        self.count += 1
        operation = ("delete", "location", {"uid": uid, "contact": "c"}) if gone else upsert(uid, "c", self.count)
        self.clients[slot].real.write([operation], wait=False, url=url)
        self.clients[slot].last[url, uid] = None if gone else self.count

    @rule(
        url=st.sampled_from(URLS),
        mode=st.sampled_from(MODES),
        reads=st.integers(0, 4),
        answers=st.integers(0, 4),
    )
    def serve(self, url, mode, reads, answers):
        self.databases[url].mode = mode
        self.store_reads(reads)
        self.store_works(url)
        self.answers_arrive(answers)

    @rule(reads=st.integers(0, 2))
    def store_dies(self, reads):
        self.store_reads(reads)
        for lane in self.store.lanes.values():
            lane.backlog._fd = -1  # as it is: nothing is tidied up
        self.pid += 1
        self.store = self.new_store()

    @rule(slot=st.integers(0, 1))
    def client_looks(self, slot):
        self.clients[slot].real.flush()

    @rule(slot=st.integers(0, 1))
    def client_dies(self, slot):
        self.dead.extend(self.clients[slot].rows)
        self.clients[slot] = Client(self, slot)

    @rule(full=st.booleans())
    def socket_becomes(self, full):
        self.full = full

    def store_reads(self, count):
        part, self.wire = self.wire[:count], self.wire[count:]
        for slot, payload in part:
            self.store.receive(payload, slot)

    def store_works(self, url):
        lane = self.store.lanes.get(url)
        if lane is not None:
            try:
                self.store.round(lane)
            except KilledError:
                self.store_dies(0)

    def answers_arrive(self, count):
        part, self.acks = self.acks[:count], self.acks[count:]
        for slot, payload in part:
            self.clients[slot].real.on_ack(payload, 9)
            self.clients[slot].run()

    # -- what must hold

    @invariant()
    def nothing_is_there_twice(self):
        for database in getattr(self, "databases", {}).values():
            assert len(database.calls) == len(set(database.calls))

    def teardown(self):
        if not hasattr(self, "databases"):
            return
        try:
            self.settle()
            self.check()
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    def settle(self):
        for database in self.databases.values():
            database.mode = "up"
        self.full = False
        for _ in range(2000):
            for slot in range(2):
                self.client_looks(slot)
            self.store_reads(100)
            for url in URLS:
                self.store_works(url)
            self.answers_arrive(100)
            lanes = self.store.lanes.values()
            quiet = not self.wire and not self.acks and not any(lane.has_work or len(lane.backlog) for lane in lanes)
            if quiet and not any(client.real.waiting for client in self.clients):
                return
        raise AssertionError("it never came to rest")

    def check(self):
        for client in self.clients:
            for url, name in client.rows:
                assert self.databases[url].calls.count(name) == 1, name
            for (url, uid), expires in client.last.items():
                assert self.databases[url].contacts.get(uid) == expires, uid
        for url, name in self.dead:
            assert self.databases[url].calls.count(name) <= 1, name
        for name, url in self.waited.items():
            result = self.results.get(name)  # None: its process was killed
            found = self.databases[url].calls.count(name)
            assert {"stored": found == 1, "refused": found == 0}.get(result, found <= 1), (name, result, found)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(20))
def test_long_walks(seed):
    """Denser than what hypothesis tries: many rows, much trouble."""
    random = Random(seed)
    for _ in range(8):
        machine = StoreMachine()
        machine.start(random.choice([REFUSE, JOURNAL]))
        try:
            for _ in range(60):
                _step(machine, random)
        finally:
            machine.teardown()


def _step(machine, random):
    slot, url, flag = random.randrange(2), random.choice(URLS), random.random() < 0.3
    step = random.randrange(16)
    if step < 3:
        machine.account(slot, url, flag)
    elif step < 5:
        machine.account_and_wait(slot, url, flag)
    elif step < 7:
        machine.change(slot, url, random.randrange(2), flag)
    elif step < 11:
        machine.serve(url, random.choice(MODES), random.randrange(5), random.randrange(5))
    elif step < 12:
        machine.store_dies(random.randrange(3))
    elif step < 14:
        machine.client_looks(slot)
    elif step < 15:
        machine.socket_becomes(flag)
    elif flag:
        machine.client_dies(slot)
