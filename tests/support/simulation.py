"""A whole receiver with its database, store, name servers and neighbours, in a time that only moves when it is told to.

The loop is the real one, so handlers really park. It runs on a greenlet of its own: ``turn()`` lets it go round once. What
waits outside (an answer of the DNS, a commit, a killed store) is an event at an instant. Nobody outside reads a private
name of serpy but ``Simulation.leftovers`` and the marked adapters.
"""

from __future__ import annotations

import heapq
import tempfile
import time
from collections import deque
from contextlib import contextmanager

from greenlet import getcurrent, greenlet

from serpy import api
from serpy.config import Settings
from serpy.db.schema import table_of
from serpy.db.writer import StoreClient
from serpy.errors import BackendError, DatabaseDownError, TransportError
from serpy.loader import load
from serpy.net.handoff import Channels, Layout
from serpy.net.loop import Loop
from serpy.pipeline import Pipeline
from serpy.sip.flow import Flow

try:
    from serpy.db.store import Store
except ImportError:  # a store of one queue
    from serpy.workers.store_core import StoreCore as Store

SERVER = ("192.0.2.100", 5060)
# Never opened: the simulation is the database.
URL = "postgres://nobody@nowhere/serpy"
ACCOUNTING_URL = "postgres://nobody@nowhere/accounting"
DNS_DEADLINE_S = 8.0
DATABASE_DEADLINE_S = 2.0
STEP_S = 0.1


class Database:
    """Rows in memory: what is on disk. ``down`` and ``refusing`` say how it answers."""

    dialect = "postgres"

    def __init__(self):
        self.tables: dict[str, dict[tuple, dict]] = {}
        self.down = False
        self.refusing = False
        self.was_refusing = False
        self._inserted = 0

    def select(self, table, columns, where, *, order="", limit=0):
        self._ask()
        rows = [row for row in self.tables.get(table, {}).values() if _fits(row, where)]
        return [tuple(row.get(name) for name in columns) for row in rows]

    def write(self, operations):
        self._ask()
        if self.refusing and any(table != "store_progress" for _, table, _ in operations):
            self.was_refusing = True
            raise BackendError("a value that nobody wants")
        before = {table: dict(rows) for table, rows in self.tables.items()}
        try:
            for kind, table, values in operations:
                self._apply(kind, self.tables.setdefault(table, {}), table_of(table).key, dict(values.items()))
        except BackendError:  # all or nothing
            self.tables = before
            raise

    def _apply(self, kind, rows, key, values):
        if kind == "delete":
            for name in [name for name, row in rows.items() if _fits(row, values)]:
                del rows[name]
            return
        self._inserted += 1
        name = tuple(values[column] for column in key) or (self._inserted,)
        if kind == "insert" and name in rows:
            raise BackendError("there is such a row")
        rows[name] = {**rows.get(name, {}), **values}

    def contacts(self, uid):
        return {row["contact"] for row in self.tables.get("location", {}).values() if row["uid"] == uid}

    def close(self):
        pass

    def _ask(self):
        if self.down:
            raise DatabaseDownError("gone")


def _fits(row, where):
    operators = {
        "": lambda a, b: a == b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b, ">=": lambda a, b: a >= b, "<>": lambda a, b: a != b,
    }  # fmt: skip
    return all(
        operators[name.partition(" ")[2]](row.get(name.partition(" ")[0]), value) for name, value in where.items()
    )


class Reader:
    """The database as a receiver sees it: a question takes its time, and parks who asks."""

    dialect = "postgres"
    loop = None

    def __init__(self, simulation):
        self._simulation = simulation

    def select(self, table, columns, where, *, order="", limit=0):
        simulation = self._simulation
        if not simulation.takes(simulation.database_s, DATABASE_DEADLINE_S):
            raise DatabaseDownError("no answer in time")
        return simulation.database.select(table, columns, where)

    def close(self):
        pass


class Simulation:
    """One receiver. ``sent`` is called with each message that leaves; what it raises, the sender raises."""

    def __init__(self, config, *, max_parked, sent):
        self.now, self.wall = 1000.0, 1.7e9
        self.database, self.accounting = Database(), Database()
        self.database_s = self.dns_s = self.store_s = self.script_s = 0.0  # how long each takes; inf: no answer
        self.sent = sent
        self.bugs: list[BaseException] = []
        self._events: list[tuple[float, int, object]] = []
        self._count = 0
        self._inbox: deque[object] = deque()
        self._incarnation = 1
        self._folder = tempfile.TemporaryDirectory(prefix="simulation-")
        self._next_second = self.now
        with self.clocks():
            self._build(config, max_parked)
        self._loop_greenlet = greenlet(self.loop.run)
        self._here = self._loop_greenlet
        self.loop.leader_body = self._lead
        self.loop.spawn(self._driver)
        self.turn()

    def _build(self, config, max_parked):
        settings = Settings()
        settings.assign("listen", f"udp:{SERVER[0]}:{SERVER[1]}")
        settings.assign("children", 1)
        settings.assign("shm_mem", 4)
        server = self.server = load(str(config), {"DB_URL": URL, "ACCOUNTING_URL": ACCOUNTING_URL}, settings)
        layout = Layout(1)
        self.loop = server.loop = self.new_loop(max_parked)
        self.loop.read_clocks()
        server.slot, server.role, server.child = 0, "udp receiver", 0
        server.channels = Channels(layout.slots)
        server.channels.attach(0, self.loop)
        server.send = self._send
        server.counters.attach(0)
        server.open_database = lambda _url: Reader(self)
        self.store = self.new_store()
        self.client = StoreClient(self.loop, self, layout.store, 2, lambda: self._incarnation)
        server.provide(getattr(api, "STORE", api.StoreService), self.client)
        for exports in server.exports.values():
            if exports.child_init is not None:
                exports.child_init(server)
        self.pipeline = Pipeline(server)
        self.pipeline.forwarder.resolve = self._resolve
        server.hooks.pre_script.append(self._before_script)

    # ---- adapters: what has another name in another version

    def new_loop(self, max_parked):
        """The loop with our clock."""
        try:
            return Loop(max_parked, lambda: self.now)
        except TypeError:  # one that looks at the clock of the machine
            return Loop(max_parked)

    def new_store(self):
        """A fresh store process over the same databases."""
        databases = {URL: self.database, ACCOUNTING_URL: self.accounting}
        try:
            store = Store(databases.__getitem__, self._answer_of_store, folder=self._folder.name)
        except TypeError:  # one that keeps in memory what nobody waits for
            return Store(databases.__getitem__, self._answer_of_store)
        store.recover()
        return store

    def _commit(self, store):
        if store is not self.store:
            return
        if hasattr(store, "by_health"):
            for lane in store.by_health():
                if lane.is_ready and (lane.has_queue or len(lane.backlog)):
                    store.round(lane)
        elif store.has_work:
            store.commit()

    def leftovers(self):
        """What is still there, by what it is; empty when nothing has stayed."""
        found = {
            "transactions": len(self.pipeline.layer.servers),
            "branches": len(self.pipeline.layer.clients),
            "parked handlers": self.loop.parked,
            "tickets": len(self.loop._tickets),
            "queues behind parked handlers": len(getattr(self.pipeline, "order", self.pipeline)._parked),
            "unanswered rows": self.client.waiting,
        }
        return {name: count for name, count in found.items() if count}

    # ---- time

    @contextmanager
    def clocks(self):
        """Whoever asks for the time in here is told ours."""
        real = time.monotonic, time.time
        time.monotonic, time.time = lambda: self.now, lambda: self.wall
        try:
            yield
        finally:
            time.monotonic, time.time = real

    def at(self, delay_s, call):
        """Have *call* called after *delay_s*; never when that is inf."""
        if delay_s != float("inf"):
            self._count += 1
            heapq.heappush(self._events, (self.now + delay_s, self._count, call))

    def advance(self, seconds, step_s=STEP_S):
        """Let time pass, and everything that happens in it."""
        end = self.now + seconds
        while self.now < end:
            step = min(step_s, end - self.now)
            self.now += step
            self.wall += step
            self._happen()
            self.settle()

    def settle(self, rounds=3):
        """Let the loop go round until what has come is done."""
        for _ in range(rounds):
            self.turn()
        while self._inbox:
            self.turn()

    def _happen(self):
        while self._events and self._events[0][0] <= self.now:
            self._inbox.append(heapq.heappop(self._events)[2])
        if self.now >= self._next_second:
            self._next_second = self.now + 1.0
            self._inbox.append(self._each_second)

    def _each_second(self):
        self.loop.read_clocks()
        for hook in self.server.hooks.on_tick:
            hook(self.now, self.wall)
        self.store.tick()
        self._commit(self.store)

    # ---- the loop, from outside

    def turn(self):
        """One round of the loop."""
        self._outside = getcurrent()
        with self.clocks():
            self._here.switch()

    def _driver(self):
        """Called at the top of each round: back to the test, then do what it has left in the inbox."""
        self.loop.spawn(self._driver)
        self._here = getcurrent()
        self._outside.switch()
        if self._inbox:
            self._inbox.popleft()()

    def _lead(self):
        """The barrier of a worker."""
        while not self.loop.stopping:
            try:
                self.loop.lead()
            except Exception as exc:  # noqa: BLE001 - each is a finding
                self.bugs.append(exc)
                if hasattr(self.pipeline, "answer_bug"):
                    self.pipeline.answer_bug(self.loop.current, 500)
                elif isinstance(self.loop.current, tuple):
                    self.pipeline.refuse_bug(*self.loop.current)

    def close(self):
        """End the loop; who is parked is abandoned."""
        self.loop.stop()
        self.turn()
        for channel in (*self.server.channels._in, *self.server.channels._out):
            channel.close()
        self._folder.cleanup()

    def takes(self, seconds, deadline_s):
        """Park for *seconds* as who waits for an answer; False when *deadline_s* was over first."""
        if seconds <= 0:
            return True
        ticket = self.loop.new_ticket()
        self.at(seconds, lambda: self.loop.resume(ticket.id, True))
        return bool(self.loop.wait(ticket, self.loop.now() + deadline_s))

    # ---- messages

    def deliver(self, data, host, port=5060):
        """A datagram arrives."""
        raw = data.encode() if isinstance(data, str) else data
        flow = Flow(self.server.listeners[0], host, port)

        def receive():
            self.loop.current = (raw, flow)
            self.pipeline.receive(raw, flow)

        self._inbox.append(receive)

    def _send(self, outgoing):
        if not self.sent(outgoing.data.decode(), outgoing.flow.host, outgoing.flow.port):
            raise TransportError("refused")

    def _resolve(self, uri):
        if not self.takes(self.dns_s, DNS_DEADLINE_S):
            raise BackendError(f"no name server answers for {uri.host}")
        return [("udp", f"198.51.100.{number}", 5060) for number in (1, 2)]

    def _before_script(self, _ctx):
        self.takes(self.script_s, DATABASE_DEADLINE_S)
        return True

    # ---- the store

    def send(self, _slot, _kind, payload):
        """What the client sends to the store."""
        self.at(0.0, lambda: self._to_store(payload))
        return True

    def _to_store(self, payload):
        self.store.receive(payload, 0)
        store = self.store
        self.at(self.store_s if self.store_s != float("inf") else 30.0, lambda: self._commit(store))

    def _answer_of_store(self, _slot, payload):
        store = self.store
        self.at(0.05, lambda: store is self.store and self.client.on_ack(payload, 0))
        return True

    def kill_store(self):
        """What it had received is gone, and so are the answers on their way; its successor starts with nothing."""
        self._incarnation += 1
        if hasattr(self.store, "close"):
            self.store.close()
        self.store = self.new_store()
