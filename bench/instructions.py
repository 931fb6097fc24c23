"""Instructions that one receiver executes in user space per operation: call, varied, oob-call, register, options.

usage: bench/instructions.py [--python VENV/bin/python] [--scenario call] [--segments 3] [--operations 2000]

One ``Pipeline`` of an installed serpy in one process under callgrind: no sockets, a clock that moves 20 ms with each
operation, 10,000 callers of whom no two are alike, caches filled, and more than 40 s passed before anything is counted, so
that transactions come and go at the same rate. What the peers do is not counted. Figures of two builds can be compared when
--python names the interpreter of each; the segments of one run show the scatter.

Needs: apt-get install valgrind gcc. Runs in: bench only.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from traffic import CALLEES, DOMAIN, SERVER, call, oob_call, options, register, varied

if TYPE_CHECKING:
    from simulated import Receiver

HERE = Path(__file__).resolve().parent
SCENARIOS = {"call": call, "varied": varied, "oob-call": oob_call, "register": register, "options": options}
STEP_S = 0.02  # of simulated time for each operation
FULL_S = 45.0  # longer than any transaction of an answered request lives: then as many end as begin
USERS = 10_000  # in the database, all different; more than one run takes
SWITCH = """
#include <valgrind/callgrind.h>
void begin(void) { CALLGRIND_START_INSTRUMENTATION; }
void toggle(void) { CALLGRIND_TOGGLE_COLLECT; }
void dump(void) { CALLGRIND_DUMP_STATS; }
"""


# ---------------------------------------------------------------------------------------------- outside: what is asked for


def measured(python: str, scenario: str, segments: int, operations: int, folder: Path) -> list[float]:
    """Instructions per operation in each of *segments* segments."""
    environment = {"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    config = HERE / "serpy/call.conf"
    words = [python, str(HERE / "instructions.py"), "--inside", scenario, str(folder), str(segments), str(operations)]
    if scenario in ("oob-call", "register"):
        config = HERE.parent / "etc/serpy.conf"
        make_database(Path(python).parent / "serpyctl", config, folder)
    library = folder / "switch.so"
    (folder / "switch.c").write_text(SWITCH)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, folder / "switch.c"], check=True)
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-atstart=no", "--combine-dumps=no",
         f"--callgrind-out-file={folder}/out", *words, str(config)],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{scenario} failed:\n{done.stderr[-3000:]}")
    return [_total(folder / f"out.{number}") / operations for number in range(1, segments + 1)]


def make_database(serpyctl: Path, config: Path, folder: Path) -> None:
    """One domain and its users, for every run anew."""
    (folder / "serpy.db").unlink(missing_ok=True)
    listing = folder / "users.txt"
    listing.write_text("".join(f"u{number}@{DOMAIN} p{number}\n" for number in range(USERS)))
    for words in (["db", "create"], ["domain", "add", DOMAIN], ["user", "import", str(listing)]):
        command = [serpyctl, "-f", config, "-Y", folder, "-A", f"DB_URL=sqlite:///{folder}/serpy.db", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _total(dump: Path) -> int:
    for line in dump.read_text(errors="replace").splitlines():
        if line.startswith(("totals:", "summary:")):
            return int(line.split()[1])
    raise SystemExit(f"{dump} has no total")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the serpy to measure")
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="default: all")
    parser.add_argument("--segments", type=int, default=3)
    parser.add_argument("--operations", type=int, default=2000, help="in each segment")
    chosen = parser.parse_args()
    for scenario in chosen.scenario or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="bench-instructions-") as name:
            found = measured(chosen.python, scenario, chosen.segments, chosen.operations, Path(name))
        shown = "  ".join(f"{each:,.0f}" for each in found)
        print(
            f"{scenario:9} {statistics.mean(found):11,.0f} instructions an operation   (segments: {shown})", flush=True
        )
    return 0


# ---------------------------------------------------------------------------------------------- inside, under callgrind


def inside(scenario: str, folder: str, segments: int, operations: int, config: str) -> None:
    """Serve the traffic of *scenario*; callgrind dumps what was counted after each segment."""
    from simulated import Receiver, replace_clocks  # noqa: PLC0415 - needs an installed serpy, which the outside does not

    replace_clocks()
    receiver = Receiver(config, {"CHILDREN": "1", "DB_URL": f"sqlite:///{folder}/serpy.db"}, SERVER)
    switch = ctypes.CDLL(f"{folder}/switch.so")
    receiver.run(plan(receiver, scenario, segments, operations, switch))


def plan(receiver: Receiver, scenario: str, segments: int, operations: int, switch: ctypes.CDLL) -> Iterator[float]:
    """All operations one after the other; yields how much time passes after each.

    Collecting is off whenever this runs: ``receiver.switch`` turns it on around what serpy does.
    """
    number = 0
    if scenario == "oob-call":
        for number in range(CALLEES):
            receiver.serve(register(number))
            yield STEP_S
    for _ in range(int(FULL_S / STEP_S)):
        number += 1
        receiver.serve(SCENARIOS[scenario](number))
        yield STEP_S
    switch.begin()
    receiver.switch = switch.toggle
    for _ in range(segments):
        for _ in range(operations):
            number += 1
            receiver.serve(SCENARIOS[scenario](number))
            yield STEP_S
        switch.dump()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        raise SystemExit(main())
