"""Measure replication: servers in network namespaces on one switch, REGISTERs at the first, tables of the others.

    python bench/replication.py [spread|loss|restart|nodes]…        (all when none is given; needs root)

spread   10,000 REGISTERs at one server: how long after the last answer the others have them; CPU of the timer processes
loss     the same with 20 % loss, reordering and repetition on every server's way out (tc netem, or user space)
restart  a server is stopped for two minutes and started empty: how long until its table equals the others'
nodes    packets that a server sends for 1,000 REGISTERs and in 30 s of rest, with 2, 3 and 4 servers
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "tests"))

from support.farm import Farm, Member, register, register_all  # noqa: E402 - found through the line above
from support.running import wait_for  # noqa: E402 - likewise

TICK = os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    print(text, flush=True)


def cpu(member: Member, role: str) -> float:
    """CPU seconds of the processes of *member* whose title contains *role*."""
    total = 0
    for title, pid in member.children().items():
        if role in title:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def load(farm: Farm, count: int, window: int) -> float:
    requests = [register(f"u{number}") for number in range(count)]
    with farm.socket() as sock:
        started = time.monotonic()
        answered = register_all(sock, farm.members[0].address, requests, window=window)
        spent = time.monotonic() - started
    assert answered == count, f"{answered} of {count} were answered 200"
    return spent


def lasting(farm: Farm, count: int, timeout: float) -> tuple[float, float]:
    """Seconds until the others have *count* contacts, and until all tables are equal."""
    started = time.monotonic()
    try:
        wait_for(lambda: all(member.count() == count for member in farm.members), timeout=timeout, every=0.1)
    except AssertionError:
        say("\n".join(f"{member.count()} {member.status()}" for member in farm.members))
        raise
    counted = time.monotonic() - started
    farm.wait_equal(timeout, count)
    return counted, time.monotonic() - started


def spread(folder: Path, count: int) -> None:
    with Farm(folder / "spread", 3, defines={"DIGEST_INTERVAL": "5"}) as farm:
        farm.start()
        before = [cpu(member, "timer") for member in farm.members]
        spent = load(farm, count, 60)
        counted, equal = lasting(farm, count, 60)
        used = [cpu(member, "timer") - old for member, old in zip(farm.members, before, strict=True)]
        say(
            f"spread: {count} REGISTERs answered in {spent:.2f} s ({count / spent:.0f}/s), on the others {counted:.2f} s later"
        )
        say(f"        tables compared and equal {equal:.2f} s after the last answer")
        say(f"        CPU of the timer processes: {', '.join(f'{each:.2f} s' for each in used)}")
        say(f"        per replica sent {used[0] / count * 1e6:.0f} us, taken {max(used[1:]) / count * 1e6:.0f} us")
        for member in farm.members:
            say(f"        server {member.number}: {interesting(member)}")


def loss(folder: Path, count: int) -> None:
    with Farm(folder / "loss", 3, bad=True, defines={"DIGEST_INTERVAL": "5"}) as farm:
        farm.start()
        farm.disturb(loss=0.2, duplicate=0.05, reorder=0.25, delay=0.02)
        spent = load(farm, count, 60)
        counted, equal = lasting(farm, count, 120)
        say(f"loss:   {count} REGISTERs in {spent:.1f} s with 20 % loss, 5 % repeated, 25 % reordered"
            f" ({'netem' if farm.has_netem else 'in user space'})")  # fmt: skip
        say(f"        counts equal {counted:.1f} s, tables equal {equal:.1f} s after the last answer")
        for member in farm.members:
            say(f"        server {member.number}: {interesting(member)}")


def restart(folder: Path, count: int, pause: float) -> None:
    with Farm(folder / "restart", 3, defines={"DIGEST_INTERVAL": "5"}) as farm:
        farm.start()
        load(farm, count // 2, 60)
        lasting(farm, count // 2, 30)
        assert farm.members[2].stop() == 0
        load(farm, count, 60)
        time.sleep(pause)
        started = time.monotonic()
        farm.members[2].start()
        ready = time.monotonic() - started
        farm.wait_equal(60, count)
        say(f"restart: down for {pause:.0f} s, empty: ready after {ready:.1f} s, {count} bindings equal after "
            f"{time.monotonic() - started:.1f} s")  # fmt: skip
        say(f"        server 3: {interesting(farm.members[2])}")


def nodes(folder: Path, count: int) -> None:
    for servers in (2, 3, 4):
        with Farm(folder / f"nodes{servers}", servers, defines={"DIGEST_INTERVAL": "5"}) as farm:
            farm.start()
            time.sleep(3)
            first = sent(farm)
            load(farm, count, 60)
            lasting(farm, count, 30)
            loaded = sent(farm)
            time.sleep(30)
            rested = sent(farm)
            say(f"nodes:  {servers} servers: datagrams sent per server for {count} REGISTERs at the first:"
                f" {differences(loaded, first)}; in 30 s of rest: {differences(rested, loaded)}")  # fmt: skip


def sent(farm: Farm) -> list[int]:
    """Datagrams of replication that each server has sent; answers to phones do not count."""
    found = []
    for member in farm.members:
        counters = member.counters()
        found.append(sum(counters[name] for name in ("sent", "digests_sent", "frames_sent")))
    return found


def differences(after: list[int], before: list[int]) -> str:
    return ", ".join(str(new - old) for new, old in zip(after, before, strict=True))


def interesting(member: Member) -> str:
    return ", ".join(f"{name} {count}" for name, count in member.counters().items() if count)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure replication.")
    parser.add_argument("what", nargs="*", help="spread, loss, restart, nodes")
    parser.add_argument("--count", type=int, default=10_000, help="REGISTERs (default 10000)")
    parser.add_argument("--pause", type=float, default=120.0, help="seconds a server is down (default 120)")
    options = parser.parse_args()
    wanted = options.what or ["spread", "loss", "restart", "nodes"]
    with tempfile.TemporaryDirectory(prefix="serpy-bench-") as name:
        folder = Path(name)
        if "spread" in wanted:
            spread(folder, options.count)
        if "loss" in wanted:
            loss(folder, options.count)
        if "restart" in wanted:
            restart(folder, options.count, options.pause)
        if "nodes" in wanted:
            nodes(folder, 1000)


if __name__ == "__main__":
    main()
