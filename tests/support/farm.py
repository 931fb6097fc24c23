"""Several servers of one farm, each in a network namespace of its own, on one bridge; needs root."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from support.netns import Host, Lab
from support.running import BIN, TOP, Running, wait_for
from support.wire import Wires

from serpy.rpc.protocol import call

GROUP = ("224.0.1.75", 5060)
CONFIG = TOP / "tests/support/replication.conf"
NET = "10.99.0."
PHONES = 254
SO_RCVBUFFORCE = 33


class Member(Running):
    """One server of the farm."""

    def __init__(self, farm: Farm, number: int, folder: Path, defines: dict[str, str]):
        super().__init__(folder, config=farm.config, defines={"SERVER_ID": str(number), **defines})
        self.farm = farm
        self.number = number
        make = farm.wires.host if farm.wires else farm.lab.host
        self.place = make(f"s{number}", farm.switch, f"{NET}{number}/24")
        self.host = self.place.address
        self.port = 5060
        self.memory = "32"

    @property
    def address(self) -> tuple[str, int]:
        return (self.host, self.port)

    def command(self, *extra: str) -> list[str]:
        listen = ("-l", f"udp:{self.host}:5060", "-l", f"udp:{GROUP[0]}")
        serpy = (str(BIN / "serpy"), "-D", "-D", "-E", "-m", self.memory, *listen, *self.options(), *extra)
        return self.place.command(*serpy)

    def start(self, *extra: str) -> Member:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(*extra), stdout=log, stderr=log, start_new_session=True)
        wait_for(self.is_answering)
        return self

    def is_answering(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            return bool(self.rpc("core.uptime"))
        return False

    def rpc(self, method: str, *params: object):
        """As serpyctl asks, without starting it."""
        return call(str(self.folder / "ctl"), method, list(params), 10.0)

    def table(self) -> dict[tuple[str, str], tuple[str, int]]:
        """(uid, contact) → (Call-ID, CSeq) of what is registered here."""
        rows = self.rpc("usrloc.dump", "location")
        return {(row["uid"], row["contact"]): (row["callid"], row["cseq"]) for row in rows}

    def count(self) -> int:
        return int(self.rpc("usrloc.stats")[0]["contacts"])

    def packets(self) -> int:
        """Packets sent since the interface came up."""
        return int(self.place.run("cat", "/sys/class/net/eth0/statistics/tx_packets").stdout)

    def status(self):
        return self.rpc("replication.status")

    def counters(self) -> dict[str, int]:
        return self.status()["counters"]


class Farm:
    """*servers* servers on one switch, and a host for the phones. *bad*: ``disturb`` will be called; done by tc netem
    where the kernel has it, else in user space.
    """

    def __init__(
        self, folder: Path, servers: int = 3, *, config: Path = CONFIG, defines: dict[str, str] | None = None,
        bad: bool = False,
    ):  # fmt: skip
        self.folder = folder
        self.servers = servers
        self.config = config
        self.defines = {"REPLICATION_SECRET": "farm secret", **(defines or {})}
        self.lab = Lab("d")
        self.bad = bad
        self.wires: Wires | None = None
        self.members: list[Member] = []

    def __enter__(self) -> Self:
        self.lab.__enter__()
        try:
            self.switch = self.lab.switch("farm")
            self.has_netem = self.bad and self._try_netem()
            if self.bad and not self.has_netem:
                self.wires = Wires(self.lab)
            self.phones = self.lab.host("phones", self.switch, f"{NET}{PHONES}/24")
            self.trusted = self.lab.host("trusted", self.switch, f"{NET}{PHONES - 2}/24")
            for number in range(1, self.servers + 1):
                folder = self.folder / f"s{number}"
                folder.mkdir(parents=True, exist_ok=True)
                self.members.append(Member(self, number, folder, self.defines))
            if self.wires:
                self.wires.start()
        except BaseException:
            self.lab.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    member.stop()
        if self.wires:
            self.wires.stop()
        self.lab.close()

    def start(self) -> Farm:
        for member in self.members:
            with member.log.open("ab") as log:
                member.process = subprocess.Popen(member.command(), stdout=log, stderr=log, start_new_session=True)
        for member in self.members:
            wait_for(member.is_answering)
        return self

    def disturb(self, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, delay: float = 0.0) -> None:
        """What leaves a server is lost, duplicated, delayed (seconds), or overtakes, with these probabilities."""
        if self.wires:
            self.wires.disturb(loss, duplicate, reorder, delay)
            return
        netem = [f"{name} {share:.0%}" for name, share in (("loss", loss), ("duplicate", duplicate)) if share]
        if delay:
            netem.append(f"delay {delay * 1000:.0f}ms {delay * 500:.0f}ms reorder {reorder:.0%}")
        for member in self.members:
            words = " ".join(netem).split(" ") if netem else []
            member.place.run("tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "limit", "100000", *words)

    def _try_netem(self) -> bool:
        host = self.lab.host("netem", self.switch, f"{NET}253/24")
        return host.run("tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "1%", check=False).returncode == 0

    def socket(self, host: Host | None = None, port: int = 0) -> socket.socket:
        """A UDP socket at *host*, else where the phones are."""
        place = host or self.phones
        with place.inside():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((place.address, port))
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        return sock

    def wait_equal(self, timeout: float, count: int | None = None) -> float:
        """Seconds until all tables are equal (and have *count* bindings)."""
        started = time.monotonic()

        def equal() -> bool:
            if count is not None and any(member.count() != count for member in self.members):
                return False
            tables = [member.table() for member in self.members]
            return all(table == tables[0] for table in tables)

        wait_for(equal, timeout=timeout, every=0.1)
        return time.monotonic() - started


def register(
    user: str, cseq: int = 1, *, contact: str = "", expires: int = 3600, call_id: str = "", domain: str = "example.com",
    headers: tuple[str, ...] = (),
) -> bytes:  # fmt: skip
    """A REGISTER of *user*."""
    contact = contact or f"<sip:{user}@192.0.2.9:5070>"
    lines = [
        f"REGISTER sip:{domain} SIP/2.0",
        f"Via: SIP/2.0/UDP {NET}{PHONES}:5070;branch=z9hG4bK{user}{cseq}{expires};rport",
        f"From: <sip:{user}@{domain}>;tag=t{user}",
        f"To: <sip:{user}@{domain}>",
        f"Call-ID: {call_id or 'call-' + user}",
        f"CSeq: {cseq} REGISTER",
        "Max-Forwards: 70",
        f"Contact: {contact}",
        f"Expires: {expires}",
        *headers,
        "Content-Length: 0",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def register_all(sock: socket.socket, server: tuple[str, int], requests: list[bytes], *, window: int = 100) -> int:
    """Send *requests*, *window* at a time on their way, again when unanswered; how many were answered 200."""
    waiting = dict(enumerate(requests))
    by_call = {request.split(b"Call-ID: ", 1)[1].split(b"\r\n", 1)[0]: number for number, request in waiting.items()}
    sock.settimeout(0.3)
    order = list(waiting)
    flying: set[int] = set()
    done = 0
    deadline = time.monotonic() + 60
    while waiting and time.monotonic() < deadline:
        while order and len(flying) < window:
            number = order.pop(0)
            if number in waiting:
                flying.add(number)
                with contextlib.suppress(TimeoutError):  # the way out is full
                    sock.sendto(waiting[number], server)
        try:
            answer = sock.recv(65536)
        except TimeoutError:
            order = sorted(flying) + order
            flying.clear()
            continue
        number = by_call[answer.split(b"Call-ID: ", 1)[1].split(b"\r\n", 1)[0]]
        if waiting.pop(number, None) is not None:
            flying.discard(number)
            done += answer.startswith(b"SIP/2.0 200")
    return done
