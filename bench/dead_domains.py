"""Calls to domains whose name servers are silent, or slow, beside registrations and calls to local phones.

    python bench/dead_domains.py [--seconds 60] [--rate 300] [--registers 100]       two silent name servers
    python bench/dead_domains.py slow [--delay 3] [--calls 20]                       one that takes its time

Run it with the Python of an installed serpy. "dead": every INVITE goes to a domain of its own that nobody answers for;
phones register (db_mode 1, SQLite) and call each other all the time. "slow": when do the copies of an INVITE leave whose
domain was found late? Everything listens on loopback. Prints a table and exits with 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import re
import secrets
import select
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from servers import cpu_ns
from slow_database import Probe, Report
from support.dns import NameServer
from support.load import RegisterLoad
from support.phone import Phone
from support.running import Running

CONFIG = Path(__file__).resolve().parent / "serpy/dead_domains.conf"
DOMAIN = "bench.example.com"
P99_S = 0.05
T1 = 0.5
TIMER_B_S = 32.0
USERS = 500
LOOKUP_S = 4.0  # dns_total_time
MUST_BE_ZERO = ("waiting.store_refused", "waiting.database_refused")
INSTANT_S = 0.1  # how exactly the instants of copies are compared


class DeadCalls(threading.Thread):
    """INVITEs at *rate* per second, each to a domain of its own, with the repetitions of timer A, until stopped."""

    def __init__(self, server: tuple[str, int], rate: float) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.rate = rate
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.sent = 0
        self.repeated = 0
        self.gave_up = 0
        self.answers: dict[int, list[float]] = {}  # final status -> seconds from the first copy
        self._open: dict[str, tuple[float, str]] = {}  # Call-ID -> (first sent at, the INVITE)
        self._trying: set[str] = set()  # a provisional has come: not repeated any more
        self._timers: list[tuple[float, int, str, float]] = []
        self._serial = itertools.count()
        self._ended = threading.Event()

    def run(self) -> None:
        next_at = time.monotonic()
        while not self._ended.is_set() or self._open:
            now = time.monotonic()
            while not self._ended.is_set() and next_at <= now:
                self._call()
                next_at += 1 / self.rate
            self._repeat(now)
            ready, _, _ = select.select([self.socket], [], [], 0.002)
            if ready:
                self._drain()

    def finish(self) -> None:
        """Offer no more; return when all are answered or have been given up."""
        self._ended.set()
        self.join(TIMER_B_S + 10)

    def _call(self) -> None:
        self.sent += 1
        call_id = f"{secrets.token_hex(6)}@dead"
        text = (
            f"INVITE sip:x@d{self.sent}.{call_id[:6]}.test SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{secrets.token_hex(6)};rport\r\n"
            f"From: <sip:caller@elsewhere.test>;tag=1\r\nTo: <sip:x@d{self.sent}.test>\r\nCall-ID: {call_id}\r\n"
            f"CSeq: 1 INVITE\r\nContact: <sip:caller@127.0.0.1:{self.port}>\r\nMax-Forwards: 70\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        now = time.monotonic()
        self._open[call_id] = (now, text)
        self.socket.sendto(text.encode(), self.server)
        heapq.heappush(self._timers, (now + T1, next(self._serial), call_id, T1))

    def _repeat(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, call_id, interval = heapq.heappop(self._timers)
            if call_id not in self._open:
                continue
            first, text = self._open[call_id]
            if now - first > TIMER_B_S:
                del self._open[call_id]
                self.gave_up += 1
                continue
            if call_id not in self._trying:
                self.repeated += 1
                self.socket.sendto(text.encode(), self.server)
            heapq.heappush(self._timers, (now + 2 * interval, next(self._serial), call_id, 2 * interval))

    def _drain(self) -> None:
        for _ in range(500):
            try:
                answer = self.socket.recv(65536, socket.MSG_DONTWAIT).decode()
            except BlockingIOError:
                return
            self._answered(answer)

    def _answered(self, answer: str) -> None:
        found = re.search(r"^Call-ID: (.*?)\r$", answer, re.MULTILINE)
        call_id = found[1] if found else ""
        status = int(answer[8:11])
        if status < 200:
            self._trying.add(call_id)
        elif call_id in self._open:
            first, text = self._open.pop(call_id)
            self._trying.discard(call_id)
            self.answers.setdefault(status, []).append(time.monotonic() - first)
            to = re.search(r"^To: (.*?)\r$", answer, re.MULTILINE)[1]
            ack = re.sub(r"^To: .*?\r$", f"To: {to}\r", text, flags=re.MULTILINE)
            self.socket.sendto(ack.replace("INVITE", "ACK").encode(), self.server)


class LocalCalls:
    """alice calls bob, from INVITE to the 200 for BYE; each leg is one latency."""

    def __init__(self, alice: Phone, bob: Phone) -> None:
        self.alice = alice
        self.bob = bob

    def once(self) -> list[float]:
        alice, bob = self.alice, self.bob
        alice.pending.clear()
        bob.pending.clear()
        alice.call_id = f"{time.monotonic_ns()}@local"
        invite = alice.request("INVITE", bob.aor)
        legs = []
        at = time.monotonic()
        alice.send(invite)
        received = bob.expect("INVITE")
        legs.append(time.monotonic() - at)
        at = time.monotonic()
        bob.reply(received, 200)
        answer = alice.expect(200)
        legs.append(time.monotonic() - at)
        alice.send(alice.ack(invite, answer))
        bob.expect("ACK")
        at = time.monotonic()
        alice.send(alice.in_dialog("BYE", invite, answer))
        bob.reply(bob.expect("BYE"), 200)
        alice.expect(200)
        legs.append(time.monotonic() - at)
        return legs


def silent_server() -> socket.socket:
    """A name server that takes questions and never answers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def start(folder: str, first: str, second: str) -> Running:
    defines = {"NAME_SERVER": f'"{first}"', "SECOND_NAME_SERVER": f'"{second}"'}
    url = f"sqlite:///{folder}/serpy.db"
    server = Running(Path(folder), config=CONFIG, defines={"DB_URL": f'"{url}"', **defines})
    server.ctl("db", "create")
    return server.start()


def dead(report: Report, arguments: argparse.Namespace) -> None:
    silent = [silent_server(), silent_server()]
    names = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in silent]
    with tempfile.TemporaryDirectory(prefix="dead-") as folder:
        server = start(folder, *names)
        try:
            dead_phase(server, report, arguments)
            report.line("exit status at the end", str(status := server.stop()), good=status == 0)
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()


def dead_phase(server: Running, report: Report, arguments: argparse.Namespace) -> None:
    alice, bob = (Phone(server.address, name, DOMAIN) for name in ("alice", "bob"))
    assert bob.register().status == 200
    users = [f"u{number}" for number in range(USERS)]
    registers = RegisterLoad(server.address, users, arguments.registers, DOMAIN)
    calls = Probe(LocalCalls(alice, bob).once, 0.1)
    flood = DeadCalls(server.address, arguments.rate)
    pids = server.children()
    registers.start()
    calls.start()
    time.sleep(2)
    flood.start()
    started = time.monotonic()
    used = cpu_ns(server.process.pid)
    time.sleep(arguments.seconds)
    ended = time.monotonic()
    used = cpu_ns(server.process.pid) - used
    stats = server.json("stats")
    flood.finish()
    registers.finish()
    calls.finish()
    report.line(f"INVITEs to dead domains in {arguments.seconds:g} s, repeated", f"{flood.sent}, {flood.repeated}")
    for status, seconds in sorted(flood.answers.items()):
        report.latencies(f"  answered {status}", sorted(seconds))
    report.line("  other answers than 480 and 503", str(len(set(flood.answers) - {480, 503})),
                good=set(flood.answers) <= {480, 503})  # fmt: skip
    slowest = max((max(seconds) for seconds in flood.answers.values()), default=0.0)
    report.line("  slowest answer", f"{slowest:.2f} s", good=slowest < LOOKUP_S + 2.0)
    report.line("  never answered", str(flood.gave_up), good=not flood.gave_up)
    report.line("REGISTER: 200, refused", f"{registers.acknowledged}, {registers.refused}", good=not registers.refused)
    report.latencies("  REGISTER", sorted(registers.latencies), limit=P99_S)
    report.line("  repeated, never answered", f"{registers.retransmissions}, {registers.gave_up}",
                good=not registers.gave_up)  # fmt: skip
    report.latencies("calls to local phones, each leg", calls.between(started, ended), limit=P99_S)
    report.line("  calls, not completed", f"{calls.rounds}, {len(calls.unanswered)}", good=not calls.unanswered)
    report.line("CPU of the server", f"{used / 1e7 / (ended - started):.0f} % of a core")
    for name, value in stats.items():
        if name.startswith("waiting.") and value:
            report.line(f"  {name}", str(value), good=name not in MUST_BE_ZERO)
    report.line("  processes replaced", str(sum(pids[name] != pid for name, pid in server.children().items())),
                good=pids == server.children())  # fmt: skip


def slow(report: Report, arguments: argparse.Namespace) -> None:
    callee = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    callee.bind(("127.0.0.1", 0))
    port = callee.getsockname()[1]
    zone = {(f"c{number}.test.", "A"): ["127.0.0.1"] for number in range(arguments.calls)}
    names = NameServer(zone, delay_s=arguments.delay)
    with tempfile.TemporaryDirectory(prefix="slow-") as folder:
        server = start(folder, names.text, names.text)
        try:
            copies = slow_calls(server, callee, port, arguments)
            judge(copies, report, arguments)
            report.line("exit status at the end", str(status := server.stop()), good=status == 0)
        finally:
            names.stop()
            if server.process is not None and server.process.poll() is None:
                server.kill()


def slow_calls(
    server: Running, callee: socket.socket, port: int, arguments: argparse.Namespace
) -> dict[str, list[float]]:  # fmt: skip
    """User part -> seconds, after its call was offered, at which a copy of the INVITE reached the callee."""
    phone = Phone(server.address, "alice", DOMAIN)
    offered: dict[str, float] = {}
    copies: dict[str, list[float]] = {}
    next_at = time.monotonic()
    end = next_at + arguments.calls * 0.05 + arguments.delay + 4.5
    while (now := time.monotonic()) < end:
        if len(offered) < arguments.calls and now >= next_at:
            name = f"c{len(offered)}"
            offered[name] = now
            copies[name] = []
            phone.send(phone.request("INVITE", f"sip:{name}@{name}.test:{port}", call_id=f"{name}-{phone.call_id}"))
            next_at += 0.05
        ready, _, _ = select.select([callee], [], [], 0.005)
        if ready:
            text = callee.recv(65536).decode()
            found = re.match(r"INVITE sip:(c\d+)@", text)
            if found:
                copies[found[1]].append(time.monotonic() - offered[found[1]])
    return copies


def judge(copies: dict[str, list[float]], report: Report, arguments: argparse.Namespace) -> None:
    """Of each call one copy leaves when the name is known, the next ones T1 and 3*T1 later (RFC 3261 17.1.1.2)."""
    report.line("calls, delivered", f"{len(copies)}, {sum(map(bool, copies.values()))}", good=all(copies.values()))
    wrong = [(name, times) for name, times in copies.items() if times and not _in_time(times)]
    for name, times in wrong[:5]:
        print(f"    {name}: " + " ".join(f"{at:.2f}" for at in times))
    report.line(f"  with copies at other instants than 0, {T1:g} and {3 * T1:g} s", str(len(wrong)), good=not wrong)
    firsts = sorted(times[0] for times in copies.values() if times)
    report.latencies(f"first copy, name known after {arguments.delay:g} s", firsts)


def _in_time(times: list[float]) -> bool:
    after = [at - times[0] for at in times]
    wanted = [0.0, T1, 3 * T1]
    return len(after) >= len(wanted) and all(
        abs(at - due) < INSTANT_S for at, due in zip(after[: len(wanted)], wanted, strict=True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("mode", nargs="?", choices=("dead", "slow"), default="dead")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=300, help="INVITE/s to dead domains")
    parser.add_argument("--registers", type=float, default=100, help="REGISTER/s")
    parser.add_argument("--delay", type=float, default=3)
    parser.add_argument("--calls", type=int, default=20)
    arguments = parser.parse_args()
    report = Report()
    (slow if arguments.mode == "slow" else dead)(report, arguments)
    print("all promises kept" if not report.broken else f"{report.broken} promises broken")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
