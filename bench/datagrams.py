"""What it costs one receiver to read a datagram and to send one, without what is done with them, over loopback.

usage: bench/datagrams.py [--rounds 300]      time, the kernel's included
       bench/datagrams.py --instructions      user space, by callgrind

Peers that are known already (100 of them) and strangers (each datagram from another address); so many per wake-up. It uses
what has the same name in all versions: ``UdpReader``, ``Sender``. Needs for --instructions: apt-get install valgrind gcc.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from instructions import SWITCH

from serpy.net.guard import Guard
from serpy.net.loop import Loop
from serpy.net.sender import Sender
from serpy.net.udp import BATCH, UdpReader
from serpy.sip.flow import SEEN, Flow, Listener, Outgoing

SIZE = 600  # bytes
KNOWN = 100
IP_PKTINFO = 8  # linux/in.h
ROUNDS = 300


class Bench:
    """Two sockets: ours with its reader and sender, and the one that all peers share (loopback lets it have any source)."""

    def __init__(self) -> None:
        self.ours, self.theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.ours.bind(("127.0.0.1", 0))
        self.ours.setblocking(False)
        self.theirs.bind(("127.0.0.1", 0))
        listener = Listener(0, "udp", *self.ours.getsockname())
        self.listener = listener
        self.loop = Loop()
        self.loop.set_timer_source(math.inf.__float__, print)
        self._on_datagram: Callable[[bytes, Flow], None] | None = None
        self.reader = UdpReader(self.loop, self.ours, listener, self._receive)
        self.sender = Sender([self.ours], Guard([listener], private_relay=False))
        self.outgoing = Outgoing(b"x" * SIZE, Flow(listener, *self.theirs.getsockname(), 0, SEEN))

    def _receive(self, data: bytes, flow: Flow) -> None:
        if self._on_datagram is not None:
            self._on_datagram(data, flow)

    def fill(self, sources: Iterator[int], number: int) -> None:
        """*number* datagrams from the next *sources*."""
        for _ in range(number):
            source = struct.pack("!I", 0x7F010000 + next(sources))
            told = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, source, bytes(4)))
            self.theirs.sendmsg([b"x" * SIZE], [told], 0, self.ours.getsockname())

    def read(self) -> None:
        """One wake-up."""
        self.reader._queued = True  # it expects more: what a busy receiver does
        self.reader.read()

    def echo(self) -> None:
        """BATCH wake-ups of the loop, with one datagram read and one sent in each."""
        loop = self.loop
        left = BATCH
        to_us = Outgoing(b"x" * SIZE, Flow(self.listener, *self.ours.getsockname(), 0, SEEN))

        def receive(_data: bytes, _flow: Flow) -> None:
            nonlocal left
            left -= 1
            if left:
                self.sender.send(to_us)
            else:
                loop.stop()

        self._on_datagram = receive
        self.sender.send(to_us)
        loop._stopping = False
        loop.run()
        self._on_datagram = None

    def drain(self) -> None:
        """What was sent to the peers goes."""
        for _ in range(BATCH):
            self.theirs.recv(SIZE)


def kinds() -> dict[str, Callable[[], Iterator[int]]]:
    return {"known": lambda: (number % KNOWN for number in count()), "strangers": lambda: count(KNOWN)}


def measure(around: Callable[[str, Callable[[], None], int], None], rounds: int) -> None:
    """Everything once; *around* runs what is to be measured: its name, the function, datagrams in it."""
    bench = Bench()
    for name, sources in kinds().items():
        for per_wake_up in (1, 8, 32):
            source = sources()
            for _ in range(rounds):
                bench.fill(source, per_wake_up)
                around(f"read, {name}, {per_wake_up} per wake-up", bench.read, per_wake_up)

    def send() -> None:
        for _ in range(BATCH):
            bench.sender.send(bench.outgoing)

    for _ in range(rounds):
        around("send", send, BATCH)
        bench.drain()
    for _ in range(rounds):
        around("wake-up, read, send", bench.echo, BATCH)


def times(rounds: int) -> None:
    """Print the median in ns per datagram."""
    taken: dict[str, list[float]] = {}

    def around(name: str, function: Callable[[], None], number: int) -> None:
        start = time.perf_counter_ns()
        function()
        taken.setdefault(name, []).append((time.perf_counter_ns() - start) / number)

    measure(around, rounds)
    for name, values in taken.items():
        print(f"{name:34} {sorted(values)[len(values) // 2]:8.0f} ns")


def inside(folder: Path, rounds: int) -> None:
    """Under callgrind: one dump for each kind, in the order of measure()."""
    switch = ctypes.CDLL(f"{folder}/switch.so")
    now: list[str] = []

    def around(name: str, function: Callable[[], None], number: int) -> None:
        if [name] != now:
            if now:
                switch.dump()
            now[:] = [name]
            print(f"{name}={number}", flush=True)
        switch.toggle()
        function()
        switch.toggle()

    switch.begin()
    measure(around, rounds)
    switch.dump()


def instructions(rounds: int) -> None:
    """Print user-space instructions per datagram."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "switch.c").write_text(SWITCH)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", folder / "switch.so", folder / "switch.c"], check=True)
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no", "--combine-dumps=no",
             f"--callgrind-out-file={folder}/out", sys.executable, __file__, "--inside", name, "--rounds", str(rounds)],
            env=dict(os.environ, PYTHONHASHSEED="0"), capture_output=True, text=True, check=True,
        )  # fmt: skip
        for number, line in enumerate(done.stdout.split("\n")[:-1], 1):
            what, _, datagrams = line.rpartition("=")
            found = re.search(r"^(?:totals|summary): (\d+)", (folder / f"out.{number}").read_text(), re.MULTILINE)
            assert found
            print(f"{what:34} {int(found.group(1)) / rounds / int(datagrams):8.0f} instructions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.inside, options.rounds)
    elif options.instructions:
        instructions(options.rounds)
    else:
        times(options.rounds)


if __name__ == "__main__":
    main()
