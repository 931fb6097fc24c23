"""Instructions per operation in the user space of the running server, process by process: real sockets, SIPp's messages.

usage: bench/running.py [--scenario NAME ...] [--operations N] [--keep DIR]      with the Python of an installed serpy

The server is started twice under callgrind, with one receiver, and serves N and 3 N operations; the difference is divided
by 2 N, so loading, forking and the first operations count for nothing; what a process does once a second is spread over few
operations and looks dear. ``bench/instructions.py`` is quicker and finer, but knows one receiver without sockets, and messages
of its own only. With ``--keep`` callgrind's files stay: one for each process, ``few`` and ``many``.

Needs: apt-get install valgrind sip-tester (postgresql for register-postgres and oob-call). Runs in: bench only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import run
import servers

RATE = 40  # operations a second: a server under callgrind is fifty times slower
BOOT_S = 100.0
SCENARIOS = tuple(sorted(run.TARGETS))
PROCESSES = ("master", "udp receiver", "timer", "store", "ctl")  # in the order of their birth


class Watched(servers.Serpy):
    """A serpy that runs under callgrind."""

    out = Path()

    def command(self) -> list[str]:
        return [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={self.out}/out.%p",
            sys.executable,
            *super().command(),
        ]


def counted(scenario: str, operations: int, out: Path) -> list[int]:
    """The instructions of each process of a server that is started, serves *operations* and is stopped."""
    out.mkdir(parents=True)
    Watched.out = out
    database = None if scenario in ("call", "options", "register-sqlite") else run.Postgres()
    try:
        result = run.one_run("serpy", scenario, RATE, max(1, operations // RATE), 1, database)
    finally:
        if database:
            database.stop()
    if result["failed"]:
        raise SystemExit(f"{scenario}: {result['failed']:.0f} of {operations} failed")
    # A child's file begins with what its parent had counted when it was forked; the difference of two servers is without.
    files = sorted(out.iterdir(), key=lambda file: int(file.name.split(".")[1]))
    return [total(file) for file in files[: len(PROCESSES)]]


def total(file: Path) -> int:
    """What one process has counted."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="default: call")
    parser.add_argument("--operations", type=int, default=400)
    parser.add_argument("--keep", type=Path, help="a folder that does not exist: callgrind's files go there")
    chosen = parser.parse_args()
    run.Serpy = Watched
    servers.START_S = BOOT_S
    for scenario in chosen.scenario or ["call"]:
        with tempfile.TemporaryDirectory(prefix="bench-running-") as name:
            folder = (chosen.keep or Path(name)) / scenario
            few = counted(scenario, chosen.operations, folder / "few")
            many = counted(scenario, 3 * chosen.operations, folder / "many")
        each = [(more - less) / (2 * chosen.operations) for less, more in zip(few, many, strict=True)]
        named = "  ".join(f"{name} {count:,.0f}" for name, count in zip(PROCESSES, each, strict=True))
        print(f"{scenario:17} instructions an operation: {named}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
