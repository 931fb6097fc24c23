"""One receiver of an installed serpy without sockets, in a time that only moves when it is told to.

The real loop runs, and so do timers and parked handlers; the kernel, the clock and the store are stand-ins. It uses what
has the same name in all versions to be compared: ``loader.load``, ``Pipeline.receive``, ``Server``, ``Loop``, ``StoreClient``.

``replace_clocks()`` comes before the first ``Receiver``. Runs in: bench only.
"""

from __future__ import annotations

import functools
import gc
import operator
import time
from collections.abc import Callable, Iterator
from typing import Any

from traffic import Dialogue

from serpy import api
from serpy.config import Settings
from serpy.db.frames import decode_batch, encode_acks
from serpy.db.writer import StoreClient
from serpy.loader import load
from serpy.net.handoff import Channels, Layout
from serpy.net.loop import Loop
from serpy.pipeline import Pipeline
from serpy.sip.flow import Flow
from serpy.workers.base import GC_YOUNGEST

START = 1_000.0
WALL = 1.7e9
clock = [START, WALL]


def replace_clocks() -> None:
    """From now on time stands still. C all the way: reading a clock costs next to nothing, as with the real one."""
    time.monotonic = functools.partial(operator.itemgetter(0), clock)
    time.time = functools.partial(operator.itemgetter(1), clock)


def advance(seconds: float) -> None:
    """Let time pass."""
    clock[0] += seconds
    clock[1] += seconds


def new_loop() -> Loop:
    """A loop with our clock, whether it takes one or looks at the machine's."""
    try:
        return Loop(1000, time.monotonic)
    except TypeError:
        return Loop()


class Store:
    """The other end of ``StoreClient``: everything is on disk a moment after it was sent."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.client: Any = None

    def send(self, _slot: int, _kind: int, payload: bytes) -> bool:
        """Take a batch, answer it from the top of the loop."""
        receiver = self._receiver
        receiver.switch()
        batch = decode_batch(payload)
        incarnation, number = batch[1:3] if isinstance(batch[0], str) else batch[:2]  # a URL comes first, or does not
        ack = encode_acks([(incarnation, number, {})])
        receiver.loop.spawn(lambda: self.client.on_ack(ack, 0))
        receiver.switch()
        return True


class Receiver:
    """Built as a child of the master is. ``switch`` is called at each change between serpy and what stands around it."""

    def __init__(self, config: str, defines: dict[str, str], listen: tuple[str, int]) -> None:
        self.switch: Callable[[], object] = lambda: None
        self.sent: list[bytes] = []
        settings = Settings()
        settings.assign("listen", f"udp:{listen[0]}:{listen[1]}")
        settings.assign("shm_mem", 64)
        server = self.server = load(config, defines, settings)
        layout = Layout(1)
        self.loop = server.loop = new_loop()
        self.loop.read_clocks()
        server.slot, server.role, server.child = 0, "udp receiver", 0
        server.channels = Channels(layout.slots)
        server.channels.attach(0, self.loop)
        server.send = self._send
        server.counters.attach(0)
        store = Store(self)
        store.client = StoreClient(self.loop, store, layout.store, 2, lambda: 1)
        server.provide(getattr(api, "STORE", api.StoreService), store.client)  # a typed key, or the class itself
        for exports in server.exports.values():
            if hasattr(exports.module, "cache_ttl"):
                exports.module.cache_ttl = 100_000  # the tables are read once, before anything is counted
            if exports.child_init is not None:
                exports.child_init(server)
        if "usrloc" in server.exports:
            table = server.exports["usrloc"].module.location
            table.table.set_loaded(table.table_id("location"), True)
        self.pipeline = Pipeline(server)
        self.pipeline.set_owner(0, 1)
        self._flow = functools.partial(Flow, server.listeners[0])
        self.failure: BaseException | None = None

    def _send(self, outgoing: Any) -> None:
        self.sent.append(outgoing.data)

    def serve(self, dialogue: Dialogue) -> None:
        """Everything of one dialogue."""
        data, host, port = next(dialogue)
        while True:
            self.sent.clear()
            flow = self._flow(host, port)
            self.switch()
            self.pipeline.receive(data, flow)
            self.switch()
            try:
                data, host, port = dialogue.send(self.sent[:])
            except StopIteration:
                return

    def run(self, steps: Iterator[float]) -> None:
        """Take one step after the other, each from the top of the loop, and let the time pass that it says."""

        def step() -> None:
            self.switch()
            try:
                advance(next(steps))
            except StopIteration:
                self.loop.stop()
            except BaseException as exc:  # noqa: BLE001 - told to whoever called run()
                self.failure = exc
                self.loop.stop()
            else:
                self.loop.spawn(step)
            self.switch()

        gc.freeze()
        gc.set_threshold(GC_YOUNGEST, 10, 50)
        self.loop.spawn(step)
        self.loop.run()
        if self.failure is not None:
            raise self.failure
