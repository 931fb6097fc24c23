"""Does the time of a 401 tell whether a user exists? A wrong password against an unknown user, interleaved.

    python bench/unknown_user.py [--count 2000] [--postgres] [--cache-all-rows N]

Run it with the Python of an installed serpy. Every name is tried once ("first"), then once more right away ("again"):
what is cached about a name must not show either. The REGISTERs carry a valid nonce and a wrong response, one at a time,
known and unknown in turn. Prints median and p95 of both, and exits with 1 when the medians differ by more than 5 %.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.phone import Phone
from support.postgres import Postgres
from support.running import CONFIG, Running

ALLOWED = 0.05  # of the median
CHUNK = 100  # names of each kind tried before they are tried again: the negative cache keeps them for 5 s


def measure(server: Running, names: list[str]) -> dict[str, float]:
    """Seconds until the 401 to a wrong password, by name."""
    found = {}
    probe = Phone(server.address, "probe")
    uri = f"sip:{probe.domain}"
    challenge = probe.ask(probe.request("REGISTER", uri, to=f"<{probe.aor}>"))
    assert challenge.status == 401, challenge
    for name in names:
        probe.user = name
        probe.call_id = f"{name}-{time.monotonic_ns()}@time"
        line = probe.authorization(challenge, "REGISTER", uri, "not the password")
        text = probe.request("REGISTER", uri, to=f"<{probe.aor}>", headers=(line,))
        start = time.perf_counter()
        probe.send(text)
        answer = probe.final()
        found[name] = time.perf_counter() - start
        assert answer.status == 401, answer
    probe.close()
    return found


def report(title: str, known: list[float], unknown: list[float]) -> bool:
    """Print one line; True when the medians are alike."""
    medians = [statistics.median(values) * 1e6 for values in (known, unknown)]
    p95s = [sorted(values)[int(len(values) * 0.95)] * 1e6 for values in (known, unknown)]
    difference = abs(medians[0] - medians[1]) / min(medians)
    print(
        f"{title:6}  wrong password: median {medians[0]:5.0f} us, p95 {p95s[0]:5.0f} us   "
        f"unknown user: median {medians[1]:5.0f} us, p95 {p95s[1]:5.0f} us   difference {difference:.1%}"
    )
    return difference <= ALLOWED


def run(count: int, url: str, cached_rows: int) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = CONFIG
        if cached_rows >= 0:
            config = folder / "serpy.conf"
            config.write_text(
                CONFIG.read_text().replace(
                    "route[REGISTRAR]", f'modparam("auth_db", "cache_all_rows", {cached_rows})\nroute[REGISTRAR]', 1
                )
            )
        server = Running(
            folder, url=url, config=config, defines={"TRUSTED": "127.0.0.0/8"}
        ).prepare()  # it guesses a lot
        listing = folder / "users"
        listing.write_text("".join(f"u{number}@example.com secret{number}\n" for number in range(count)))
        server.ctl("user", "import", str(listing))
        server.start()
        try:
            measure(server, ["nobody"] * 20)
            time.sleep(2)  # the tables are read ahead by now
            first: dict[str, float] = {}
            again: dict[str, float] = {}
            for at in range(0, count, CHUNK):
                names = [f"{kind}{number}" for number in range(at, min(at + CHUNK, count)) for kind in "ux"]
                random.Random(at).shuffle(names)
                first.update(measure(server, names))
                again.update(measure(server, names))
        finally:
            server.stop()
    alike = True
    for title, times in (("first", first), ("again", again)):
        known = [seconds for name, seconds in times.items() if name[0] == "u"]
        unknown = [seconds for name, seconds in times.items() if name[0] == "x"]
        alike &= report(title, known, unknown)
    return alike


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--cache-all-rows", type=int, default=-1, help="0: as with a table too large to be read ahead")
    options = parser.parse_args()
    if not options.postgres:
        return 0 if run(options.count, "", options.cache_all_rows) else 1
    postgres = Postgres()
    try:
        return 0 if run(options.count, postgres.url, options.cache_all_rows) else 1
    finally:
        postgres.close()


if __name__ == "__main__":
    sys.exit(main())
