"""A farm in memory for unit tests: real tables, tombstones and repair, a clock the test advances, a network that loses."""

from __future__ import annotations

import heapq
import random
import time
from types import SimpleNamespace

from greenlet import getcurrent, greenlet

from serpy.api import Server
from serpy.errors import ResourceError, SerpyError
from serpy.modules.usrloc.location import MEMORY, Location
from serpy.net.loop import Ticket
from serpy.replication.repair import Repair
from serpy.replication.store import Store
from serpy.replication.tombstones import Tombstones
from serpy.replication.window import Life
from serpy.shm.record import Binding
from serpy.shm.segment import Segment
from serpy.shm.table import LocationTable

TABLE = "location"
MIB = 1 << 20


class Clock:
    """What a Loop offers, without descriptors; all nodes of a farm share the callbacks. Who waits parks, as in a Loop."""

    def __init__(self, skew: float = 0.0, shared: Clock | None = None):
        self.skew = skew
        self.shared = shared or self
        self.time = 1000.0
        self.start = time.time()
        self.heap: list = []
        self.count = 0
        self.current: object = None
        self.parked = 0
        self.max_parked = 1000
        self.tickets: dict[int, tuple[Ticket, greenlet | None]] = {}

    def now(self) -> float:
        return self.shared.time

    def wall_now(self) -> float:
        return self.shared.start + self.shared.time - 1000.0 + self.skew

    def call_at(self, when, callback):
        shared = self.shared
        shared.count += 1
        heapq.heappush(shared.heap, (max(when, shared.time), shared.count, callback))

    def spawn(self, callback):
        self.call_at(self.now(), callback)

    def new_ticket(self) -> Ticket:
        self.shared.count += 1
        ticket = Ticket(self.shared.count)
        self.tickets[ticket.id] = (ticket, None)
        return ticket

    def resume(self, ticket_id, value):
        ticket, waiting = self.tickets.get(ticket_id, (None, None))
        if ticket is None or ticket.done:
            return False
        ticket.done = True
        ticket.value = value
        if waiting is not None:
            self.spawn(waiting.switch)
        return True

    def wait(self, ticket, deadline):
        try:
            if not ticket.done:
                self._park(ticket, deadline)
        finally:
            del self.tickets[ticket.id]
        return ticket.value

    def sleep(self, seconds):
        self.wait(self.new_ticket(), self.now() + seconds)

    def _park(self, ticket, deadline):
        if self.parked >= self.max_parked:
            raise ResourceError("enough are waiting")
        self.tickets[ticket.id] = (ticket, getcurrent())
        self.call_at(deadline, lambda: self.resume(ticket.id, None))
        self.parked += 1
        getcurrent().parent.switch()
        self.parked -= 1

    def run(self, seconds: float) -> None:
        end = self.time + seconds
        while self.heap and self.heap[0][0] <= end:
            when, _, callback = heapq.heappop(self.heap)
            self.time = when
            greenlet(callback).switch()
        self.time = end


class Counts(dict):
    def add(self, name: str, amount: int = 1) -> None:
        self[name] = self.get(name, 0) + amount


class Node:
    """One server: its table and its repair."""

    def __init__(self, farm: MemoryFarm, number: int, skew: float = 0.0, interval: float = 5.0):
        self.farm = farm
        self.number = number
        self.address = (f"192.0.2.{number}", 5000 + number)
        self.loop = Clock(skew, farm.clock)
        segment = Segment(4 * MIB)
        self.tombstones = Tombstones(segment, 1024)
        server = Server(SimpleNamespace(server_id=number))
        server.hooks.on_removed.append(self.tombstones.bury)
        self.location = Location(LocationTable(segment, 2 * MIB), server, MEMORY, "", False)
        self.location.server_id = number
        self.location.table_id(TABLE)
        self.counts = Counts()
        self.sent = 0
        self.life = Life(number, 1)
        store = Store(self.location, self.tombstones, number, persist=False)
        self.store = store
        self.repair = Repair(
            self.loop, self.location, store, self.counts, interval, self.multicast, self.send, lambda: 0
        )

    def multicast(self, kind, payload) -> bool:
        self.sent += 1
        for node in self.farm.nodes:
            if node is not self:
                self.farm.carry(self, node, kind, payload)
        return True

    def send(self, kind, payload, address) -> bool:
        self.sent += 1
        for node in self.farm.nodes:
            if node.address == address:
                self.farm.carry(self, node, kind, payload)
        return True

    # ---- what phones do here

    def register(
        self, uid: str, contact: str = "", *, call_id: str = "", cseq: int = 1, age: float = 60.0, life: int = 3600
    ):
        now = self.loop.wall_now()
        binding = Binding(
            uid, contact or f"sip:{uid}@192.0.2.99", int(now) + life, call_id=call_id or f"call-{uid}", cseq=cseq,
            server_id=self.number, modified_at=now - age, aor=f"sip:{uid}", user_agent="test",
        )  # fmt: skip
        self.location.update(TABLE, uid, lambda _current: ([binding], []), persist=False)
        return binding

    def unregister(self, uid: str) -> None:
        now = self.loop.wall_now()

        def decide(current):
            for binding in current:
                binding.modified_at = now
            return [], current

        self.location.update(TABLE, uid, decide, persist=False)

    def table(self) -> dict[tuple[str, str], tuple[str, int]]:
        found = {}
        start = 0
        while start >= 0:
            records, start = self.location.table.page(start, 4096)
            for _, uid, bindings in records:
                found.update({(uid, binding.contact): (binding.call_id, binding.cseq) for binding in bindings})
        return found


class MemoryFarm:
    def __init__(
        self, nodes: int, *, seed: int = 1, loss: float = 0.0, skews: tuple[float, ...] = (), interval: float = 5.0
    ):
        random.seed(seed)  # repair's back-off
        self.random = random.Random(seed)
        self.loss = loss
        self.largest = 0
        self.lost = lambda source, target, kind: False  # what never arrives
        self.clock = Clock()
        self.interval = interval
        offsets = (*skews, *[0.0] * nodes)
        self.nodes = [Node(self, number + 1, offsets[number], interval) for number in range(nodes)]

    def start(self) -> MemoryFarm:
        for node in self.nodes:
            node.repair.start()
        return self

    def replace(self, number: int) -> Node:
        """A fresh, empty server in the place of another."""
        self.nodes[number - 1] = Node(self, number, interval=self.interval)
        self.nodes[number - 1].life = Life(number, 2)
        self.nodes[number - 1].repair.start()
        return self.nodes[number - 1]

    def carry(self, source: Node, target: Node, kind: int, payload: bytes) -> None:
        self.largest = max(self.largest, len(payload))
        if self.lost(source, target, kind):
            return
        copies = 1 + (self.loss > 0 and self.random.random() < 0.1)
        for _ in range(copies):
            if self.random.random() < self.loss:
                continue
            delay = self.random.random() * (0.1 if self.loss else 0.002)
            self.clock.call_at(self.clock.time + delay, lambda: self._arrive(source, target, kind, payload))

    def _arrive(self, source: Node, target: Node, kind: int, payload: bytes) -> None:
        source.life.heard_at = target.loop.wall_now()
        if target in self.nodes:
            target.repair.take(kind, payload, source.life, source.address)

    def run(self, seconds: float) -> None:
        self.clock.run(seconds)

    def ask(self, *calls, seconds: float = 10.0) -> list:
        """What *calls*, all made now, return within *seconds*; an exception when they raise one."""
        answers: list = [None] * len(calls)

        def answer(number, call):
            try:
                answers[number] = call()
            except SerpyError as exc:
                answers[number] = exc

        for number, call in enumerate(calls):
            self.clock.spawn(lambda number=number, call=call: answer(number, call))
        self.run(seconds)
        return answers

    def are_equal(self) -> bool:
        tables = [node.table() for node in self.nodes]
        return all(table == tables[0] for table in tables)
