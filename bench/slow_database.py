"""PostgreSQL frozen by SIGSTOP under load: what does not need it goes on as if nothing had happened.

    python bench/slow_database.py [--before 10] [--frozen 30] [--after 10] [--rate 100]

Run it with the Python of an installed serpy. 100 REGISTER/s are offered all the time, OPTIONS every 50 ms and a whole
call (407, 200, ACK, BYE) between two users every 100 ms; latencies are measured from the first transmission. Everything
listens on loopback. Prints a table and exits with 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.load import RegisterLoad
from support.phone import Phone
from support.postgres import Postgres
from support.running import Running, wait_for

P99_S = 0.05
ANSWER_S = 5.0  # what the query and the store timeouts add up to is less
USERS = 500


class Probe(threading.Thread):
    """Does *once* (a request and its answers; returns the seconds of each) every *every* seconds until stopped."""

    def __init__(self, once, every: float) -> None:
        super().__init__(daemon=True)
        self.once = once
        self.every = every
        self.samples: list[tuple[float, float]] = []  # (instant of the request, seconds)
        self.unanswered: list[tuple[float, str]] = []
        self.rounds = 0
        self._ended = threading.Event()

    def run(self) -> None:
        next_at = time.monotonic()
        while not self._ended.wait(max(0.0, next_at - time.monotonic())):
            at = time.monotonic()
            try:
                self.samples.extend((at, seconds) for seconds in self.once())
                self.rounds += 1
            except AssertionError as exc:
                self.unanswered.append((at, str(exc)))
            next_at = max(next_at + self.every, time.monotonic() - 1)

    def finish(self) -> None:
        self._ended.set()
        self.join()

    def between(self, start: float, end: float) -> list[float]:
        return sorted(seconds for at, seconds in self.samples if start <= at < end)


class Calls:
    """alice calls bob, from INVITE to the 200 for BYE; each leg is one latency."""

    def __init__(self, alice: Phone, bob: Phone) -> None:
        self.alice = alice
        self.bob = bob

    def once(self) -> list[float]:
        alice, bob = self.alice, self.bob
        alice.pending.clear()
        bob.pending.clear()
        alice.call_id = f"{time.monotonic_ns()}@calls"
        first = alice.request("INVITE", bob.aor)
        legs = [self._leg(alice, first, alice, 407)]
        challenge = self.last
        alice.send(alice.ack(first, challenge))
        second = alice.request("INVITE", bob.aor, headers=(alice.authorization(challenge, "INVITE", bob.aor),))
        legs.append(self._leg(alice, second, bob, "INVITE"))
        at = time.monotonic()
        bob.reply(self.last, 200)
        answer = alice.expect(200)
        legs.append(time.monotonic() - at)
        legs.append(self._leg(alice, alice.ack(second, answer), bob, "ACK"))
        bye = alice.in_dialog("BYE", second, answer)
        legs.append(self._leg(alice, bye, bob, "BYE"))
        at = time.monotonic()
        bob.reply(self.last, 200)
        alice.expect(200)
        legs.append(time.monotonic() - at)
        return legs

    def _leg(self, sender: Phone, text: str, receiver: Phone, what: int | str) -> float:
        at = time.monotonic()
        sender.send(text)
        self.last = receiver.expect(what)
        return time.monotonic() - at


def options(phone: Phone, port: int):
    """One OPTIONS to the server."""

    def once() -> list[float]:
        phone.call_id = f"{time.monotonic_ns()}@options"
        at = time.monotonic()
        phone.send(phone.request("OPTIONS", f"sip:127.0.0.1:{port}"))
        phone.expect(200)
        return [time.monotonic() - at]

    return once


class Report:
    """Lines of the table, and whether all was well."""

    def __init__(self) -> None:
        self.broken = 0

    def line(self, what: str, figure: str, *, good: bool = True) -> None:
        self.broken += not good
        print(f"{what:<58} {figure:>30}  {'' if good else 'BROKEN'}".rstrip(), flush=True)

    def latencies(self, what: str, values: list[float], *, limit: float = 0.0) -> None:
        if not values:
            self.line(what, "nothing", good=False)
            return
        shown = [values[min(len(values) - 1, int(len(values) * part))] for part in (0.5, 0.99, 1.0)]
        text = " ".join(f"{value * 1000:.1f}" for value in shown) + f" ms of {len(values)}"
        self.line(f"{what}: median, p99, max", text, good=not limit or shown[1] < limit)


def freeze(server: Running, postgres: Postgres, report: Report, arguments: argparse.Namespace) -> None:
    alice, bob, other = server.phone("alice"), server.phone("bob"), server.phone("probe")
    assert bob.register().status == 200
    caller = Calls(alice, bob)
    for _ in range(16):  # both receivers have to know alice and bob: the Call-ID decides which one works
        caller.once()
    load = RegisterLoad(server.address, [f"u{number}" for number in range(USERS)], arguments.rate)
    probes = {"OPTIONS": Probe(options(other, server.port), 0.05), "calls, each leg": Probe(caller.once, 0.1)}
    pids = server.children()
    load.start()
    for probe in probes.values():
        probe.start()
    time.sleep(arguments.before)
    served = load.acknowledged
    postgres.freeze()
    frozen = time.monotonic()
    time.sleep(arguments.frozen)
    refused = sum(load.refused.values())
    answered = load.acknowledged - served
    postgres.thaw()
    thawed = time.monotonic()
    seen = load.acknowledged
    wait_for(lambda: load.acknowledged > seen, timeout=30)
    back = time.monotonic() - thawed
    time.sleep(arguments.after)
    late = [seconds for at, seconds in load.refusal_s if at > thawed + 3]
    load.finish()
    for probe in probes.values():
        probe.finish()
    for name, probe in probes.items():
        report.latencies(f"{name} before", probe.between(0, frozen))
        report.latencies(f"{name} while frozen", probe.between(frozen, thawed), limit=P99_S)
        report.latencies(f"{name} after", probe.between(thawed, time.monotonic()))
        report.line("  rounds, not answered", f"{probe.rounds}, {len(probe.unanswered)}", good=not probe.unanswered)
        for at, text in probe.unanswered[:3]:
            print(f"    {at - frozen:.1f} s after the freeze: {text}")
    report.line("REGISTER before: 200", str(served))
    report.line(
        f"REGISTER in {arguments.frozen:g} s frozen: refused, 200",
        f"{refused} {load.refused}, {answered}",
        good=refused > 0,
    )
    refusals = sorted(seconds for _, seconds in load.refusal_s)
    report.latencies("  answered (5xx) after", refusals)
    report.line("  slowest within the timeout", f"{refusals[-1]:.2f} s", good=refusals[-1] < ANSWER_S)
    report.line(
        "  other answers than 500",
        str({k: v for k, v in load.refused.items() if k != 500} or 0),
        good=set(load.refused) <= {500},
    )
    report.line("  never answered", str(load.gave_up), good=load.gave_up == 0)
    report.line("after SIGCONT: first 200 after", f"{back:.2f} s")
    report.line("  refused later than 3 s after it", str(len(late)), good=not late)
    missing = load.missing()
    report.line(f"  of {len(load.ledger)} acknowledged bindings missing", str(len(missing)), good=not missing)
    report.line(
        "  processes replaced",
        str(sum(pids[name] != pid for name, pid in server.children().items())),
        good=pids == server.children(),
    )


def down_at_start(server: Running, postgres: Postgres, report: Report) -> None:
    server.stop()
    postgres.stop()
    at = time.monotonic()
    server.start()
    report.line("started with PostgreSQL down, answers OPTIONS after", f"{time.monotonic() - at:.2f} s")
    phone = server.phone("alice")
    status = phone.register().status
    report.line("  a REGISTER gets", str(status), good=status in (403, 500))
    postgres.start()
    at = time.monotonic()
    wait_for(lambda: phone.register().status == 200, timeout=30)
    report.line("  PostgreSQL started: REGISTER gets 200 after", f"{time.monotonic() - at:.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--before", type=float, default=10)
    parser.add_argument("--frozen", type=float, default=30)
    parser.add_argument("--after", type=float, default=10)
    parser.add_argument("--rate", type=float, default=100)
    arguments = parser.parse_args()
    report = Report()
    postgres = Postgres()
    with tempfile.TemporaryDirectory(prefix="slow-") as folder:
        server = Running(Path(folder), url=postgres.url)
        try:
            server.prepare("alice", "bob")
            listing = Path(folder) / "users"
            listing.write_text("".join(f"u{number}@example.com u{number}\n" for number in range(USERS)))
            server.ctl("user", "import", str(listing))
            server.start()
            freeze(server, postgres, report, arguments)
            down_at_start(server, postgres, report)
            report.line("exit status at the end", str(status := server.stop()), good=status == 0)
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()
            postgres.close()
    print("all promises kept" if not report.broken else f"{report.broken} promises broken")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
