"""Networks for tests, made of network namespaces: hosts, switches and NATs that exist while a ``with`` lasts.

    with Lab("a") as lab:
        street = lab.switch("street")
        server = lab.host("server", street, "198.51.100.1/24")
        home = lab.switch("home")
        lab.nat("router", street, "198.51.100.11/24", home, "192.168.1.1/24")
        phone = lab.host("phone", home, "192.168.1.10/24", gateway="192.168.1.1")
        with phone.inside():
            sock = socket.socket(...)  # a socket stays in the namespace it was made in
        process = server.popen("sleep", "60")

Root only (``needs_namespaces``). Everything, processes included, is gone at the end, after a failure as well; what a killed
test run left behind is removed by the next one. Nothing is touched outside the namespaces made here.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from support.patience import PATIENCE_S

CLONE_NEWNET = 0x40000000
SETTLE_S = 5.0

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


def _why_not() -> str:
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nft", "tc") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install iproute2 nftables)"
    probe = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        return "this system does not let us make network namespaces"
    subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return ""


_REASON = _why_not()
needs_namespaces = pytest.mark.skipif(bool(_REASON), reason=_REASON or "namespaces work")


class Switch:
    """A bridge that hosts are plugged into."""

    def __init__(self, name: str):
        self.name = name


class Host:
    """A namespace with loopback up; its interfaces are eth0, eth1, … in the order they were connected."""

    def __init__(self, lab: Lab, name: str):
        self.lab = lab
        self.name = name
        self.namespace = f"{lab.prefix}{name}"
        self.interfaces: list[str] = []
        self.addresses: list[str] = []

    @property
    def address(self) -> str:
        """The first address, without its prefix length."""
        return self.addresses[0].split("/")[0]

    def command(self, *argv: str) -> list[str]:
        """*argv* as a command that runs here."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run a command here and wait for it."""
        done = subprocess.run(
            self.command(*argv), capture_output=True, text=True, check=False, timeout=timeout, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stderr or done.stdout}"
        return done

    def popen(self, *argv: str, **options) -> subprocess.Popen:
        """Start a command here; it is ended with the lab at the latest."""
        process = subprocess.Popen(self.command(*argv), stdin=subprocess.DEVNULL, **options)
        self.lab.processes.append(process)
        return process

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in the namespace: sockets that are made and processes that are started now belong to it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            target = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
            try:
                _setns(target)
            finally:
                os.close(target)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def sysctl(self, key: str, value: int | str) -> None:
        """Set a network parameter of this namespace, for example ``net.ipv4.ip_forward``."""
        with self.inside():
            Path("/proc/sys", *key.split(".")).write_text(f"{value}\n", encoding="ascii")

    def nft(self, rules: str) -> None:
        """Load nftables *rules*."""
        done = subprocess.run(
            self.command("nft", "-f", "-"), input=rules, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert done.returncode == 0, f"{self.name}: nft: {done.stderr}"


class Lab:
    """All namespaces of one test. *letter* begins their names."""

    def __init__(self, letter: str = "t"):
        assert re.fullmatch("[a-z]", letter)
        self.letter = letter
        self.prefix = f"{letter}{os.getpid()}-{next(_numbers)}-"  # the process is looked for when it is gone
        self.processes: list[subprocess.Popen] = []
        self._made: list[str] = []
        self._links = 0

    def __enter__(self) -> Self:
        self._remove_left_over()
        try:
            self._add_namespace(f"{self.prefix}switches")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # ---- building

    def switch(self, name: str) -> Switch:
        """A new bridge. Multicast goes to every port."""
        made = Switch(name)
        self._ip("-n", f"{self.prefix}switches", "link", "add", name, "type", "bridge", "mcast_snooping", "0")
        self._ip("-n", f"{self.prefix}switches", "link", "set", name, "up")
        return made

    def host(self, name: str, switch: Switch, address: str, *, gateway: str = "") -> Host:
        """A host on *switch* with *address* (``192.0.2.1/24``) and, if given, a default route."""
        made = Host(self, name)
        self._add_namespace(made.namespace)
        self._ip("-n", made.namespace, "link", "set", "lo", "up")
        self.connect(made, switch, address)
        if gateway:
            self._ip("-n", made.namespace, "route", "add", "default", "via", gateway)
        return made

    def connect(self, host: Host, switch: Switch, address: str) -> str:
        """Give *host* one more interface; its name."""
        interface = f"eth{len(host.interfaces)}"
        self._links += 1
        port = f"port{self._links}"
        self._ip(
            "link", "add", interface, "netns", host.namespace, "type", "veth",
            "peer", "name", port, "netns", f"{self.prefix}switches",
        )  # fmt: skip
        self._ip("-n", f"{self.prefix}switches", "link", "set", port, "master", switch.name, "up")
        options = ["nodad"] if ":" in address else []
        self._ip("-n", host.namespace, "address", "add", address, "dev", interface, *options)
        self._ip("-n", host.namespace, "link", "set", interface, "up")
        host.interfaces.append(interface)
        host.addresses.append(address)
        return interface

    def nat(
        self, name: str, outside: Switch, outside_address: str, inside: Switch, inside_address: str, *,
        udp_timeout: int = 30, ports: str = "20000-40000",
    ) -> Host:  # fmt: skip
        """A router that hides *inside* behind its outside address, each flow behind a random port of *ports*.

        A mapping is forgotten *udp_timeout* seconds after the last packet, and only who was written to may write back.
        """
        router = self.host(name, outside, outside_address)
        self.connect(router, inside, inside_address)
        router.nft(
            "table ip nat {\n chain post {\n  type nat hook postrouting priority 100;\n"
            f'  oifname "eth0" meta l4proto {{ tcp, udp }} masquerade to :{ports} random\n'
            '  oifname "eth0" masquerade\n }\n}\n'
            "table ip filter {\n chain forward {\n  type filter hook forward priority 0;\n"
            '  iifname "eth0" ct state new drop\n }\n}\n'
        )
        router.sysctl("net.netfilter.nf_conntrack_udp_timeout", udp_timeout)
        router.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", udp_timeout)
        router.sysctl("net.ipv4.ip_forward", 1)
        return router

    # ---- the end

    def close(self) -> None:
        """End the processes and remove the namespaces; harmless when done twice."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + SETTLE_S
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for namespace in reversed(self._made):
            _remove(namespace)
        self._made.clear()

    def _remove_left_over(self) -> None:
        for entry in Path("/run/netns").glob(f"{self.letter}*-*"):
            found = re.fullmatch(rf"{self.letter}([0-9]+)-.+", entry.name)
            if found and not Path(f"/proc/{found[1]}").exists():
                _remove(entry.name)

    def _add_namespace(self, name: str) -> None:
        self._ip("netns", "add", name)
        self._made.append(name)

    def _ip(self, *words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _remove(namespace: str) -> None:
    """End what still runs in *namespace*, then remove it with all its interfaces."""
    listing = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in listing.stdout.split():
        if int(pid) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
