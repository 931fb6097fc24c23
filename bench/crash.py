"""What kill -9 costs: children one by one, 200 at random, then the whole server, under load; nothing acknowledged is lost.

    python bench/crash.py [--postgres] [--kills 200] [--seconds 60] [--restarts 20] [--only children|random|group|fork]

Run it with the Python of an installed serpy (the programs beside it are started). Everything listens on loopback in a
folder of its own. 200 registrations and 50 calls a second run meanwhile, with a ledger of what was answered 200; at the end
every one of them is looked for by INVITE. ``fork``: children die while the user of the server may have no more processes
(SQLite only; as root the server then runs as a user of its own). Prints a table and exits with 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.calls import CallLoad
from support.load import RegisterLoad
from support.other_user import allow_forks, as_other_user, give_to_other_user
from support.postgres import Postgres
from support.probe import OptionsLoad
from support.running import Running, wait_for

from serpy.policy import FORK_MAX_S
from serpy.rpc.protocol import RpcFault, call

USERS = 2000
CALLEES = 50
REPLACED_S = 1.0
ANSWERED_S = 0.05
KINDS = ("udp receiver child=0", "udp receiver child=1", "timer", "store", "ctl")


class Report:
    """Lines of the table, and whether all was well."""

    def __init__(self) -> None:
        self.broken = 0

    def line(self, what: str, figure: str, *, good: bool = True) -> None:
        self.broken += not good
        print(f"{what:<58} {figure:>26}  {'' if good else 'BROKEN'}".rstrip(), flush=True)


def rpc(server: Running, method: str, *params: object):
    """The result of *method*; waits for the ctl process when it has just been killed."""

    def ask():
        try:
            return [call(str(server.folder / "ctl"), method, params, 5.0)]
        except (OSError, RpcFault):
            return None

    return wait_for(ask)[0]


def started(folder: Path, url: str) -> Running:
    """A server with two receivers, users u0 … and c0 …, whose passwords are their names."""
    server = Running(folder, url=url, defines={"CHILDREN": "2", "TRUSTED": "127.0.0.0/8"}).prepare()
    names = [f"u{number}" for number in range(USERS)] + [f"c{number}" for number in range(CALLEES)]
    listing = folder / "users"
    listing.write_text("".join(f"{name}@example.com {name}\n" for name in names))
    server.ctl("user", "import", str(listing))
    return server.start()


def kill(server: Running, title: str) -> tuple[float, dict[str, int], dict[str, int]]:
    """Kill the child *title*; seconds until another one has its title, and the children before and after."""
    before = server.children()
    at = time.monotonic()
    os.kill(before[title], signal.SIGKILL)
    while server.children().get(title, before[title]) == before[title]:
        time.sleep(0.001)
        if time.monotonic() - at > 30:
            raise SystemExit(f"{title} does not come back:\n{server.log.read_text()[-2000:]}")
    return time.monotonic() - at, before, server.children()


def ready_s(server: Running, pid: int, at: float) -> float:
    """Seconds from *at* until the status page calls *pid* ready."""
    while not any(row["pid"] == pid and row["state"] == "ready" for row in rpc(server, "core.ps")):
        time.sleep(0.005)
    return time.monotonic() - at


def each_kind(server: Running, report: Report) -> None:
    for kind in KINDS:
        title = next(name for name in server.children() if kind in name)
        at = time.monotonic()
        seconds, before, after = kill(server, title)
        ready = ready_s(server, after[title], at)
        others = {name: pid for name, pid in before.items() if name != title}
        same = others == {name: pid for name, pid in after.items() if name != title}
        figure = f"{seconds * 1000:.0f} ms, ready {ready * 1000:.0f} ms"
        report.line(f"{kind} killed: replaced after", figure, good=ready < REPLACED_S and same)
        time.sleep(1)


def at_random(server: Running, report: Report, kills: int, seconds: float) -> None:
    chance = random.Random(20261124)
    times: list[float] = []
    changed = 0
    next_at = time.monotonic()
    for _ in range(kills):
        time.sleep(max(0.0, next_at - time.monotonic()))
        next_at += seconds / kills
        title = chance.choice(sorted(server.children()))
        took, before, after = kill(server, title)
        times.append(took)
        changed += {**before, title: 0} != {**after, title: 0}
    report.line(f"{kills} random kills in {seconds:g} s: replaced, median", f"{statistics.median(times) * 1000:.0f} ms")
    report.line("  slowest", f"{max(times) * 1000:.0f} ms", good=max(times) < REPLACED_S)
    report.line("  other pids changed", str(changed), good=changed == 0)


def at_rest(server: Running, report: Report, load: RegisterLoad, calls: CallLoad) -> None:
    """The load has ended: what must hold now."""
    report.line("registrations answered 200", f"{load.acknowledged}")
    report.line("  refused, given up", f"{load.refused or 0}, {load.gave_up}", good=load.gave_up == 0)
    slowest = sorted(load.latencies)
    report.line(
        "  median, p99, max", " ".join(f"{slowest[int(len(slowest) * p)] * 1000:.0f} ms" for p in (0.5, 0.99, 0.99999))
    )
    report.line("calls offered, completed", f"{calls.offered}, {calls.completed}")
    report.line("  failed (their receiver was killed)", f"{calls.failed or 0}")
    missing = load.missing()
    report.line(f"of {len(load.ledger)} acknowledged bindings not found by INVITE", str(len(missing)), good=not missing)
    for user in missing[:10]:
        print(
            f"    {user}: answered {load.answers[user]}, acknowledged {time.monotonic() - load.ledger[user]:.1f} s ago"
        )
    stats = rpc(server, "usrloc.stats")[0]
    wanted = len(load.users) + len(calls.callees)
    report.line(
        "users in the table", f"{stats['users']} of {wanted}, {stats['repairs']} repairs", good=stats["users"] <= wanted
    )
    dumped = len(rpc(server, "usrloc.dump"))
    report.line("contacts counted, dumped", f"{stats['contacts']}, {dumped}", good=stats["contacts"] == dumped)
    held = held_locks(server)
    report.line("table locks held", str(held), good=held == 0)
    current = wait_until_zero(lambda: rpc(server, "tm.stats")["current"], 45)
    report.line("transactions left", str(current), good=current == 0)
    log = server.log.read_text(errors="replace").splitlines()
    bugs = [number for number, line in enumerate(log) if "Traceback" in line or "bug in" in line]
    report.line("tracebacks in the log", str(len(bugs)), good=not bugs)
    if bugs:
        print("\n".join(f"    {line[:200]}" for line in log[max(0, bugs[0] - 2) : bugs[0] + 30]))


def wait_until_zero(what, patience: float) -> int:
    deadline = time.monotonic() + patience
    while (value := int(what())) and time.monotonic() < deadline:
        time.sleep(0.5)
    return value


def held_locks(server: Running) -> int:
    """How many stripes of the shared table are locked, the least of twenty looks (somebody may be using one)."""
    least = 1 << 30
    for _ in range(20):
        pids = set(server.children().values())
        held = 0
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.replace("->", "").split()
            # an anonymous file (device 00:01) is the table's; others are the database's
            held += words[1] == "POSIX" and int(words[4]) in pids and words[5].startswith("00:01:")
        least = min(least, held)
        time.sleep(0.01)
    return least


def whole_group(server: Running, report: Report, restarts: int) -> None:
    users = [f"u{number}" for number in range(USERS)]
    chance = random.Random(20261125)
    load: RegisterLoad | None = None
    lost = acknowledged = 0
    starts: list[float] = []
    for number in range(restarts):
        load = RegisterLoad(server.address, chance.sample(users, USERS), 500, after=load)
        load.start()
        wait_for(lambda: load.acknowledged > 300, timeout=20)  # noqa: B023 - used at once
        time.sleep(chance.uniform(0.5, 2.0))
        server.kill()
        load.abandon()
        acknowledged += load.acknowledged
        at = time.monotonic()
        server.start()
        starts.append(time.monotonic() - at)
        missing = load.missing()
        lost += len(missing)
        for user in missing[:5]:
            print(f"    restart {number + 1}: {user} answered {load.answers[user]}")
    assert load is not None
    report.line(f"{restarts} kills of the whole group at 500 REGISTER/s: 200s", str(acknowledged))
    report.line("  answering again after, median, slowest", f"{statistics.median(starts):.2f} s, {max(starts):.2f} s")
    report.line(f"  acknowledged bindings missing ({len(load.ledger)} users)", str(lost), good=lost == 0)


def children(server: Running, report: Report, options: argparse.Namespace) -> None:
    load = RegisterLoad(server.address, [f"u{number}" for number in range(USERS)], 200)
    calls = CallLoad(server.address, [f"c{number}" for number in range(CALLEES)], 50)
    calls.register()
    load.start()
    calls.start()
    wait_for(lambda: load.acknowledged > 400, timeout=30)
    if options.only != "random":
        each_kind(server, report)
    if options.only != "children":
        at_random(server, report, options.kills, options.seconds)
    load.finish()
    calls.finish()
    at_rest(server, report, load, calls)


class Unprivileged(Running):
    """A server whose processes are counted."""

    def command(self, *extra: str) -> list[str]:
        return as_other_user(super().command(*extra))


def no_forks(folder: Path, report: Report) -> None:
    """Children die while ``fork`` fails: the others serve, and all are back when it works."""
    folder.parent.chmod(0o755)
    server = Unprivileged(folder, defines={"CHILDREN": "2", "TRUSTED": "127.0.0.0/8"}).prepare()
    server.log.touch()
    give_to_other_user(folder)
    server.start()
    assert server.process is not None
    try:
        before = server.children()
        allow_forks(server.process.pid, allowed=False)
        without_forks(server, report, ("timer", "store", "ctl"), 5.0)
        without_forks(server, report, ("udp receiver child=1",), 3.0)
        allow_forks(server.process.pid, allowed=True)
        at = time.monotonic()
        wait_for(lambda: len(server.children()) == len(before), timeout=10)
        seconds = time.monotonic() - at
        report.line("forks work again: whole after", f"{seconds * 1000:.0f} ms", good=seconds < 2 * FORK_MAX_S)
        load = OptionsLoad(server.address, 50)
        load.start()
        time.sleep(3)
        missing = load.finish()
        report.line("  OPTIONS without an answer", f"{missing} of {missing + len(load.took)}", good=missing == 0)
        tries = sum("cannot fork" in line for line in server.log.read_text().splitlines())
        report.line("  lines about it in the log", str(tries), good=0 < tries < 10)
        report.line("exit status at the end", str(status := server.stop()), good=status == 0)
    finally:
        if server.process.poll() is None:
            server.kill()


def without_forks(server: Running, report: Report, kinds: tuple[str, ...], seconds: float) -> None:
    """Kill the children of *kinds*, none of which comes back, and ask for a while."""
    victims = {title: pid for title, pid in server.children().items() if any(kind in title for kind in kinds)}
    load = OptionsLoad(server.address, 50)
    load.start()
    time.sleep(0.5)
    for pid in victims.values():
        os.kill(pid, signal.SIGKILL)
    time.sleep(seconds)
    missing = load.finish(0.5)
    alone = "receiver" in kinds[0]
    report.line(f"fork fails, {', '.join(kinds)} killed:", "")
    # What belongs to a receiver that is not there waits in the kernel, about a half.
    share = 0.3 if alone else 1.0
    total = missing + len(load.took)
    report.line("  OPTIONS answered", f"{len(load.took)} of {total}", good=len(load.took) >= share * total)
    times = " ".join(f"{load.percentile(part) * 1000:.0f} ms" for part in (0.5, 0.99, 1.0))
    report.line("  median, p99, max", times, good=load.percentile(0.99) < ANSWERED_S)
    report.line("  the master", "lives" if server.process and server.process.poll() is None else "is gone",
                good=server.process is not None and server.process.poll() is None)  # fmt: skip
    back = set(victims) & set(server.children())
    report.line("  of them alive", str(len(back)), good=not back)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL server of our own instead of SQLite")
    parser.add_argument("--url", default="", help="this (empty) database")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--only", choices=("children", "random", "group", "fork"), default="")
    options = parser.parse_args()
    report = Report()
    postgres = Postgres() if options.postgres else None
    with tempfile.TemporaryDirectory(prefix="crash-") as top:
        try:
            if options.only in ("", "fork"):
                (Path(top) / "fork").mkdir()
                no_forks(Path(top) / "fork", report)
            for name in ("children", "group"):
                if options.only == "fork" or (options.only and (options.only == "group") != (name == "group")):
                    continue
                url = options.url
                if postgres is not None:
                    postgres.sql("drop database if exists ser with (force)")
                    postgres.sql("create database ser owner ser")
                    url = postgres.url
                folder = Path(top) / name
                folder.mkdir()
                server = started(folder, url)
                try:
                    if name == "group":
                        whole_group(server, report, options.restarts)
                    else:
                        children(server, report, options)
                    report.line("exit status at the end", str(status := server.stop()), good=status == 0)
                finally:
                    if server.process is not None and server.process.poll() is None:
                        server.kill()
        finally:
            if postgres is not None:
                postgres.close()
    print("all promises kept" if not report.broken else f"{report.broken} promises broken")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
