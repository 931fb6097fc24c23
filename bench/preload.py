"""How long a running server takes to load its location table, and what a caller sees meanwhile.

    python bench/preload.py [--bindings 100000 1000000] [--database sqlite postgres]

Rows go into ``location`` directly; then serpy starts, and while it loads a client asks for random users as fast as it
gets answers. Every one is registered, so each answer must be 200: from the table, or from the database.
"""

from __future__ import annotations

import argparse
import random
import re
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import HERE, Postgres, Serpy, pss_kb

from serpy.loader import open_database
from serpy.modules.usrloc import storage
from serpy.shm.record import Binding

CHUNK = 50_000  # rows per statement: the driver limits how long one may take
FILL = """insert into location ({columns})
{series} select replace(uid, '00000000', {number}), replace(contact, '00000000', {number}),
replace(aor, '00000000', {number}), {rest} from location, series where uid = '00000000'"""
SERIES = {
    "sqlite": ("with recursive series(n) as (select {first} union all select n + 1 from series where n < {last})",
               "printf('%08d', n)"),
    "postgres": ("with series as (select generate_series({first}, {last}) as n)", "lpad(n::text, 8, '0')"),
}  # fmt: skip


def fill(url: str, kind: str, count: int) -> None:
    """*count* bindings of as many users in ``location``."""
    database = open_database(url)
    first = Binding(
        f"{0:08d}", f"sip:user{0:08d}@10.1.2.3:5060;transport=udp", int(time.time()) + 86400,
        aor=f"sip:user{0:08d}@example.com", received="sip:203.0.113.7:40000;dstip=192.0.2.1;dstport=5060",
        call_id="8f2a5d1c7e9b4a60b3c1d2e3f4a5b6c7@10.1.2.3", cseq=1, user_agent="Snom/8.7.5 (SIP phone 370)",
    )  # fmt: skip
    database.write([storage.upsert("location", first)])
    series, number = SERIES[kind]
    columns = storage.COLUMNS
    for start in range(1, count, CHUNK):
        values = series.format(first=start, last=min(count, start + CHUNK) - 1)
        text = FILL.format(columns=", ".join(columns), rest=", ".join(columns[3:]), number=number, series=values)
        database.execute(text)
    database.close()


@contextmanager
def database_of(kind: str) -> Iterator[str]:
    """The URL of an empty database; "" for one in the server's own folder."""
    if kind == "sqlite":
        yield ""
        return
    cluster = Postgres()
    try:
        yield cluster.create("serpy")
    finally:
        cluster.stop()


def ask(sock: socket.socket, port: int, user: str) -> int:
    """The status of an OPTIONS for *user*; 0 without an answer in two seconds."""
    name = f"{time.time_ns()}"
    sock.sendto(
        f"OPTIONS sip:{user}@127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{name};rport\r\n"
        f"From: <sip:p@127.0.0.1>;tag=1\r\nTo: <sip:{user}@127.0.0.1>\r\nCall-ID: {name}@bench\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 9\r\nContent-Length: 0\r\n\r\n".encode(),
        ("127.0.0.1", port),
    )
    try:
        return int(sock.recv(65536).split(b" ", 2)[1])
    except TimeoutError:
        return 0


def measure(kind: str, count: int) -> dict[str, float]:
    with database_of(kind) as url:
        server = Serpy(HERE / "serpy" / "preload.conf", memory=1024)
        server.defines["DB_URL"] = url or f"sqlite:///{server.folder}/serpy.db"
        try:
            server.ctl("db", "create")
            fill(server.defines["DB_URL"], kind, count)
            started = time.monotonic()
            server.start()
            up = time.monotonic() - started
            return {"up, s": up, **watch(server, count)}
        finally:
            server.stop()


def watch(server: Serpy, count: int) -> dict[str, float]:
    """Ask for random users until the log says that all is loaded, then a second more."""
    log = Path(server.folder) / "log"
    waits: list[float] = []
    wrong, told, end = 0, "", float("inf")
    look_at = 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2.0)
        while (now := time.monotonic()) < end:
            if now >= look_at and not told:
                look_at = now + 0.1
                told = "\n".join(re.findall(r"location table location loaded in .*", log.read_text()))
                end = now + 0.2 if told else end
            wrong += ask(sock, server.port, f"{random.randrange(count):08d}") != 200
            waits.append(time.monotonic() - now)
            time.sleep(0.005)
    found = re.search(r"loaded in ([\d.]+) s: (\d+) rows, (\d+) bindings", told)
    assert found is not None, told
    return {
        "load, s": float(found[1]),
        "bindings": float(found[3]),
        "asked": float(len(waits)),
        "not 200": float(wrong),
        "answer p50, ms": statistics.median(waits) * 1e3,
        "answer p99, ms": sorted(waits)[len(waits) * 99 // 100] * 1e3,
        "answer max, ms": max(waits) * 1e3,
        "Pss, MiB": pss_kb(server.pid) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bindings", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--database", nargs="+", choices=list(SERIES), default=list(SERIES))
    wanted = parser.parse_args()
    runs = [(kind, count) for kind in wanted.database for count in wanted.bindings]
    results = [measure(kind, count) for kind, count in runs]
    print(f"{'':16}" + "".join(f"{kind + f' {count:,}':>20}" for kind, count in runs))
    for name in results[0]:
        print(f"{name:16}" + "".join(f"{result[name]:20,.1f}" for result in results))


if __name__ == "__main__":
    main()
