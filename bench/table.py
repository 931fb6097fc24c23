"""The location table at 100,000 and 1,000,000 bindings: bytes per binding and microseconds per operation.

    python bench/table.py [BINDINGS ...]

One process, one binding per user with texts of ordinary length. "save" is a new user, "refresh" reads, decides and
replaces as the registrar does, "lookup" reads and decodes; "service" times go through the location service without a
database. Memory is what the kernel says is resident of the shared segment.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from serpy.api import Server
from serpy.modules.usrloc.location import Location
from serpy.shm import table as table_module
from serpy.shm.record import Binding
from serpy.shm.segment import Segment
from serpy.shm.table import LocationTable

MIB = 1024 * 1024
SAMPLE = 100_000


def binding(number: int, expires_at: int, cseq: int = 1) -> Binding:
    uid = f"{number:08x}-1c6b-4e7a-9d0c-5f2a7e88b1aa"
    return Binding(
        uid,
        f"sip:user{number}@10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:5060;transport=udp",
        expires_at,
        aor=f"sip:user{number}@example.com",
        received=f"sip:203.0.113.{number & 255}:{1024 + number % 60000};dstip=192.0.2.1;dstport=5060",
        call_id=f"{number:032x}@10.0.0.1",
        cseq=cseq,
        user_agent="Snom/8.7.5 (SIP phone 370)",
        modified_at=float(number),
    )


def resident_kib() -> int:
    """KiB of shared memory this process has touched."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssShmem:"):
            return int(line.split()[1])
    return 0


def microseconds(started: float, count: int) -> float:
    return (time.perf_counter() - started) / count * 1e6


def measure(count: int) -> dict[str, float]:
    size = max(64 * MIB, count * 1000)
    segment = Segment(size + MIB)
    before = resident_kib()
    table = LocationTable(segment, size)
    number = table.table_id("location")
    table.set_loaded(number, True)
    location = Location(table, Server(SimpleNamespace(server_id=0)), 0, "", False)  # type: ignore[arg-type]
    result: dict[str, float] = {}

    started = time.perf_counter()
    for n in range(count):
        made = binding(n, 1_000_000)
        table.replace(table.key(number, made.uid), [made], 0)
    filled = microseconds(started, count)
    started = time.perf_counter()
    for n in range(SAMPLE):
        binding(n, 1_000_000)
    result["save"] = filled - microseconds(started, SAMPLE)  # without making the bindings
    result["bytes"] = (resident_kib() - before) * 1024 / count

    numbers = random.Random(1).choices(range(count), k=SAMPLE)
    made_ones = [binding(n, 2_000_000, 2) for n in numbers]
    started = time.perf_counter()
    for made in made_ones:
        table.read(table.key(number, made.uid), made.uid)
    result["lookup"] = microseconds(started, SAMPLE)
    started = time.perf_counter()
    for made in made_ones:
        key = table.key(number, made.uid)
        _, stamp = table.read(key, made.uid)
        table.replace(key, [made], stamp)
    result["refresh"] = microseconds(started, SAMPLE)
    started = time.perf_counter()
    for made in made_ones:
        location.bindings("location", made.uid)
    result["service lookup"] = microseconds(started, SAMPLE)
    started = time.perf_counter()
    for made in made_ones:
        location.update("location", made.uid, lambda _current, made=made: ([made], []))
    result["service update"] = microseconds(started, SAMPLE)
    started = time.perf_counter()
    table.expire(0.0, table.buckets)
    result["walk, ms"] = (time.perf_counter() - started) * 1e3
    removed = [binding(n, 0).uid for n in range(SAMPLE)]
    started = time.perf_counter()
    for uid in removed:
        key = table.key(number, uid)
        table.replace(key, [], table.read(key, uid)[1])
    result["remove"] = microseconds(started, SAMPLE)
    assert table.stats().contacts == count - SAMPLE
    return result


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] or [100_000, 1_000_000]
    results = [measure(count) for count in counts]
    kind = "pure Python" if str(table_module.__file__).endswith(".py") else "compiled"
    print(f"location table, {kind}; microseconds per operation unless said otherwise")
    print(f"{'':16}" + "".join(f"{count:>14,}" for count in counts))
    for name in results[0]:
        print(f"{name:16}" + "".join(f"{result[name]:14.1f}" for result in results))


if __name__ == "__main__":
    main()
