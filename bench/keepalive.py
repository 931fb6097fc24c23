"""What keep-alives to many phones behind NATs cost, and how evenly they are spread.

    python bench/keepalive.py [--contacts 100000] [--interval 15] [--method OPTIONS] [--answer] [--rounds 2]

The location table comes from a database: every contact has the NAT flag and a received address, at which this program
counts what arrives (and answers requests, with --answer). CPU time is that of the timer process, and of the receivers.
"""

from __future__ import annotations

import argparse
import collections
import re
import select
import socket
import time
from pathlib import Path

from preload import fill
from servers import HERE, Serpy, cpu_ns

from serpy.loader import open_database
from serpy.modules.nathelper import keepalive

SLOT_S = 0.1


def children(pid: int) -> dict[str, int]:
    """Title → pid of the server's processes."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found[Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").decode()] = int(child)
    return found


def answer(data: bytes) -> bytes:
    """200 to a ping that is a request: its header lines, with a To tag."""
    return b"SIP/2.0 200 OK" + data[data.index(b"\r\n") :].replace(b"\r\ni:", b";tag=2\r\ni:", 1)


def drain(sink: socket.socket, *, answers: bool) -> int:
    """Take what has arrived; how many datagrams."""
    count = 0
    while True:
        try:
            data, source = sink.recvfrom(2048)
        except BlockingIOError:
            return count
        count += 1
        if answers and len(data) > 4:
            sink.sendto(answer(data), source)


def wait_until_loaded(server: Serpy, sink: socket.socket) -> None:
    log = Path(server.folder) / "log"
    while not re.search(r"location table location loaded in .*", log.read_text()):
        drain(sink, answers=False)
        time.sleep(0.2)


def measure(contacts: int, interval: int, method: str, rounds: int, *, answers: bool) -> None:
    server = Serpy(HERE / "serpy" / "keepalive.conf", {"INTERVAL": str(interval), "METHOD": f'"{method}"'}, memory=256)
    url = server.defines["DB_URL"] = f"sqlite:///{server.folder}/serpy.db"
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sink.bind(("127.0.0.1", 0))
    sink.setblocking(False)
    try:
        server.ctl("db", "create")
        fill(url, "sqlite", contacts)
        database = open_database(url)
        received = f"sip:127.0.0.1:{sink.getsockname()[1]};dstip=127.0.0.1;dstport={server.port}"
        database.execute("update location set flags = 1, received = ?", (received,))
        database.close()
        server.start()
        wait_until_loaded(server, sink)
        # a whole round first: it began while the table was loading
        watch(sink, interval + 1.0, answers=answers)
        pids = children(server.pid)
        before = {title: cpu_ns(pid) for title, pid in pids.items()}
        started = time.monotonic()
        slots = watch(sink, float(interval * rounds), answers=answers)
        took = time.monotonic() - started
        used = {title: (cpu_ns(pid) - before[title]) / 1e9 / took for title, pid in pids.items()}
    finally:
        server.stop()
        sink.close()
    total = sum(slots.values())
    counts = sorted(slots.get(number, 0) for number in range(int(took / SLOT_S)))
    kind = "pure Python" if str(keepalive.__file__).endswith(".py") else "compiled"
    what = method or "four bytes"
    print(f"{contacts:,} contacts every {interval} s, {what}{', answered' if answers else ''}, {kind}")
    print(f"arrived: {total:,} in {took:.1f} s = {total / took:,.0f}/s; wanted {contacts / interval:,.0f}/s")
    print(
        f"per {SLOT_S * 1e3:.0f} ms: min {counts[0]}, 1 % {counts[len(counts) // 100]}, median {counts[len(counts) // 2]}, "
        f"99 % {counts[len(counts) * 99 // 100]}, max {counts[-1]}; even would be {contacts / interval * SLOT_S:.0f}"
    )
    for title, share in sorted(used.items()):
        per_ping = f", {share * took / total * 1e6:.1f} µs per ping" if total and "timer" in title else ""
        print(f"CPU of {title.partition(' sock=')[0]}: {share * 100:.1f} % of a core{per_ping}")


def watch(sink: socket.socket, seconds: float, *, answers: bool) -> collections.Counter[int]:
    """Datagrams by slot of time."""
    slots: collections.Counter[int] = collections.Counter()
    started = time.monotonic()
    while (passed := time.monotonic() - started) < seconds:
        select.select([sink], [], [], 0.05)
        slots[int(passed / SLOT_S)] += drain(sink, answers=answers)
    return slots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contacts", type=int, default=100_000)
    parser.add_argument("--interval", type=int, default=15)
    parser.add_argument("--method", default="")
    parser.add_argument("--answer", action="store_true", help="answer the requests, as phones do")
    parser.add_argument("--rounds", type=int, default=2)
    wanted = parser.parse_args()
    measure(wanted.contacts, wanted.interval, wanted.method, wanted.rounds, answers=wanted.answer)


if __name__ == "__main__":
    main()
