"""A bad network in user space: hosts whose way out loses, delays, reorders and duplicates, where the kernel has no netem.

Each host's eth0 is a TAP; one process carries the frames between it and a second TAP that is plugged into the switch.
"""

from __future__ import annotations

import fcntl
import heapq
import mmap
import os
import random
import select
import struct
import time

from support.netns import Host, Lab, Switch

TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
FRAME = 65536
BATCH = 64


def _tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


class Wires:
    """All such hosts of one lab. ``disturb`` says how bad the way out of them is, from now on."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.pairs: list[tuple[int, int]] = []
        self.shared = mmap.mmap(-1, 64)  # loss, duplicate, reorder: fractions; delay: seconds
        self.pid = 0

    def host(self, name: str, switch: Switch, address: str) -> Host:
        """A host on *switch*, as ``Lab.host``."""
        lab = self.lab
        made = Host(lab, name)
        lab._add_namespace(made.namespace)
        port = f"wire{len(self.pairs)}"
        with made.inside():
            outer = _tap("eth0")
        switches = Host(lab, "switches")
        with switches.inside():
            inner = _tap(port)
        self.pairs.append((outer, inner))
        lab._ip("-n", made.namespace, "link", "set", "lo", "up")
        lab._ip("-n", switches.namespace, "link", "set", port, "master", switch.name, "up")
        lab._ip("-n", made.namespace, "address", "add", address, "dev", "eth0")
        for namespace, interface in ((made.namespace, "eth0"), (switches.namespace, port)):
            lab._ip("-n", namespace, "link", "set", interface, "up", "txqueuelen", "20000")
        made.interfaces.append("eth0")
        made.addresses.append(address)
        return made

    def start(self) -> None:
        self.disturb()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._carry()
            finally:
                os._exit(0)

    def stop(self) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
            self.pid = 0
        for pair in self.pairs:
            for fd in pair:
                os.close(fd)
        self.pairs.clear()

    def disturb(self, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, delay: float = 0.0) -> None:
        self.shared[:32] = struct.pack("dddd", loss, duplicate, reorder, delay)

    def _carry(self) -> None:
        others: dict[int, tuple[int, bool]] = {}
        poll = select.epoll()
        for outer, inner in self.pairs:
            others[outer], others[inner] = (inner, True), (outer, False)
            poll.register(outer, select.EPOLLIN)
            poll.register(inner, select.EPOLLIN)
        later: list[tuple[float, int, int, bytes]] = []
        count = 0
        parent = os.getppid()
        while os.getppid() == parent:
            timeout = min(0.5, max(0.0, later[0][0] - time.monotonic())) if later else 0.5
            for fd, _ in poll.poll(timeout):
                other, is_bad = others[fd]
                loss, duplicate, reorder, delay = struct.unpack("dddd", self.shared[:32])
                for _ in range(BATCH):
                    try:
                        frame = os.read(fd, FRAME)
                    except BlockingIOError:
                        break
                    for _ in range(2 if is_bad and random.random() < duplicate else 1):
                        if is_bad and random.random() < loss:
                            continue
                        if not is_bad or not delay or random.random() < reorder:
                            self._write(other, frame)
                            continue
                        count += 1
                        heapq.heappush(later, (time.monotonic() + delay * (0.5 + random.random()), count, other, frame))
            now = time.monotonic()
            while later and later[0][0] <= now:
                _, _, other, frame = heapq.heappop(later)
                self._write(other, frame)

    @staticmethod
    def _write(fd: int, frame: bytes) -> None:
        try:
            os.write(fd, frame)
        except OSError:
            return  # the other end is full or down: lost
