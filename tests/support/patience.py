"""How long tests wait for what must happen, and ports that nobody else takes meanwhile.

A test waits for the event, never for time, so a limit costs nothing while all is well: this one is long enough for a
machine that is busy with something else. Nothing here says that something was fast: that is measured in bench/.
"""

from __future__ import annotations

import secrets
import socket
import time

PATIENCE_S = 60.0
# Below what the kernel gives away by itself (net.ipv4.ip_local_port_range): no phone gets such a port by chance.
PORTS = range(10_000, 30_000)

_reserved: list[socket.socket] = []


def wait_for(what, *, timeout: float = PATIENCE_S, every: float = 0.02):
    """Poll *what* until it returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout} s"
        time.sleep(every)


def free_port() -> int:
    """A UDP and TCP port of this machine that no other test gets until this process has ended."""
    while True:
        port = secrets.choice(PORTS)
        if _reserve(port):
            if _is_free(port, socket.SOCK_DGRAM) and _is_free(port, socket.SOCK_STREAM):
                return port
            _reserved.pop().close()


def _reserve(port: int) -> bool:
    """False when another test process has it: the name of a socket, which the kernel frees when its owner ends."""
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0serpy-test-port-{port}")
    except OSError:
        mark.close()
        return False
    _reserved.append(mark)
    return True


def _is_free(port: int, kind: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
