"""Side by side with Debian's Kamailio: alternating runs, a table, a JSON file with the ratios.

usage: make bench [BENCH="--scenario call --rate 1000 --seconds 20 --rounds 3 --children 2"]

CPU is that of the whole server process tree per call (or registration) in microseconds; the database server's CPU is
shown beside it and counts for whoever uses it. Only ratios from one run mean anything: absolute figures drift.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from servers import DOMAIN, HERE, REPO, Kamailio, Postgres, Program, Serpy, cpu_ns, free_port, pss_kb

USERS = 10_000
# What issue and architecture ask for: serpy's total over Kamailio's.
TARGETS = {"call": 1.2, "options": 1.2, "register-postgres": 0.6, "register-sqlite": 0.6, "oob-call": 0.7}
RATES = {"call": 1000, "oob-call": 500}  # calls a second; the others 1500
CALLEES = 100  # registered users that oob-call calls


def sipp(
    scenario: str, port: int, calls: int, rate: int, *words: str, folder: Path, own_port: int = 0
) -> dict[str, int]:
    """Run one SIPp client to its end and return its final counters."""
    stats = folder / f"stats-{time.time_ns()}.csv"
    subprocess.run(
        [
            "sipp", f"127.0.0.1:{port}", "-sf", str(HERE / "sipp" / scenario), "-i", "127.0.0.1",
            "-p", str(own_port or free_port()), "-m", str(calls), "-r", str(rate), "-l", "100000", "-nostdin", "-timeout", str(calls // rate + 60),
            "-trace_stat", "-stf", str(stats), "-fd", "5", "-buff_size", "4194304", *words,
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, cwd=folder,
    )  # fmt: skip
    lines = stats.read_text().splitlines()
    last = dict(zip(lines[0].split(";"), lines[-1].split(";"), strict=False))
    return {
        "ok": int(last["SuccessfulCall(C)"]),
        "failed": int(last["FailedCall(C)"]),
        "retransmissions": int(last["Retransmissions(C)"]),
    }


def measure(server: Program, drive, calls: int, database: Postgres | None) -> dict[str, float]:
    """Warm up, run *drive(calls)*, and return what one call cost."""
    drive(200)
    before, db_before = cpu_ns(server.pid), cpu_ns(database.pid) if database else 0
    counters = drive(calls)
    time.sleep(0.3)  # let the last timers and commits finish
    after, db_after = cpu_ns(server.pid), cpu_ns(database.pid) if database else 0
    return {
        "server_us": (after - before) / 1000 / calls,
        "database_us": (db_after - db_before) / 1000 / calls,
        "pss_mb": pss_kb(server.pid) / 1024,
        **counters,
    }


def run_call(server: Program, rate: int, seconds: int) -> dict[str, float]:
    port = free_port()
    callee = start_callee(server, port)
    try:
        return measure(
            server,
            lambda calls: sipp("call_uac.xml", server.port, calls, rate, "-key", "callee", f"127.0.0.1:{port}",
                               folder=server.folder),
            rate * seconds, None,
        )  # fmt: skip
    finally:
        callee.kill()
        callee.wait()


def run_options(server: Program, rate: int, seconds: int) -> dict[str, float]:
    return measure(
        server, lambda calls: sipp("options.xml", server.port, calls, rate, folder=server.folder), rate * seconds, None
    )


def run_register(server: Program, rate: int, seconds: int, database: Postgres | None) -> dict[str, float]:
    users = server.folder / "users.csv"
    users.write_text(
        "SEQUENTIAL\n" + "".join(f"u{n};[authentication username=u{n} password=p{n}]\n" for n in range(USERS))
    )
    return measure(
        server,
        lambda calls: sipp("register.xml", server.port, calls, rate, "-inf", str(users), "-key", "domain", DOMAIN,
                           folder=server.folder),
        rate * seconds, database,
    )  # fmt: skip


def run_oob_call(server: Program, rate: int, seconds: int, database: Postgres | None) -> dict[str, float]:
    """Callees register from the port that then answers their calls; every caller is challenged."""
    port = free_port()
    phones = server.folder / "phones.csv"
    phones.write_text(
        "SEQUENTIAL\n" + "".join(f"u{n};[authentication username=u{n} password=p{n}]\n" for n in range(CALLEES))
    )
    done = sipp("register.xml", server.port, CALLEES, 200, "-inf", str(phones), "-key", "domain", DOMAIN,
                folder=server.folder, own_port=port)  # fmt: skip
    if done["ok"] != CALLEES:
        raise SystemExit(f"{CALLEES - done['ok']} callees could not register")
    callers = server.folder / "callers.csv"
    callers.write_text(
        "SEQUENTIAL\n"
        + "".join(f"u{n};[authentication username=u{n} password=p{n}];u{n % CALLEES}\n" for n in range(CALLEES, USERS))
    )
    callee = start_callee(server, port)
    try:
        return measure(
            server,
            lambda calls: sipp("oob_call.xml", server.port, calls, rate, "-inf", str(callers), "-key", "domain", DOMAIN,
                               folder=server.folder),
            rate * seconds, database,
        )  # fmt: skip
    finally:
        callee.kill()
        callee.wait()


def start_callee(server: Program, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sipp", "-sf", str(HERE / "sipp/call_uas.xml"), "-i", "127.0.0.1", "-p", str(port), "-nostdin",
         "-buff_size", "4194304"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=server.folder,
    )  # fmt: skip


def ha1(user: str, password: str) -> str:
    return hashlib.md5(f"{user}:{DOMAIN}:{password}".encode()).hexdigest()


def kamailio_database(database: Postgres) -> str:
    url = database.create("kamailio")
    for name in ("standard", "auth_db", "usrloc", "acc"):
        database.sql("kamailio", file=f"/usr/share/kamailio/postgres/{name}-create.sql")
    rows = ",".join(f"('u{n}','{DOMAIN}','{ha1(f'u{n}', f'p{n}')}')" for n in range(USERS))
    database.sql_file("kamailio", f"insert into subscriber (username, domain, ha1) values {rows};")
    return url


def serpy_database(server: Serpy) -> None:
    """The schema and 10,000 users in the database of *server*."""
    from serpy.api import Server  # noqa: PLC0415, F401 - fails early when serpy is not installed

    server.ctl("db", "create")
    server.ctl("domain", "add", DOMAIN)
    listing = server.folder / "users.txt"
    listing.write_text("".join(f"u{n}@{DOMAIN} p{n}\n" for n in range(USERS)))
    server.ctl("user", "import", str(listing))


def make(name: str, scenario: str, children: int, database: Postgres | None) -> Program:
    if scenario in ("call", "options"):
        config = HERE / "serpy/call.conf"
        return Kamailio("call.cfg", children) if name == "kamailio" else Serpy(config, {"CHILDREN": str(children)})
    if name == "kamailio":
        assert database is not None
        config_name = "oob.cfg" if scenario == "oob-call" else "register.cfg"
        return Kamailio(config_name, children, kamailio_database(database))
    server = Serpy(REPO / "etc/serpy.conf", {"CHILDREN": str(children)})
    if scenario == "register-sqlite":
        server.defines["DB_URL"] = f"sqlite:///{server.folder}/serpy.db"
    else:
        assert database is not None
        server.defines["DB_URL"] = database.create("serpy")
    serpy_database(server)
    return server


def one_run(
    name: str, scenario: str, rate: int, seconds: int, children: int, database: Postgres | None
) -> dict[str, float]:
    server = make(name, scenario, children, database)
    try:
        server.start()
        if scenario == "call":
            return run_call(server, rate, seconds)
        if scenario == "options":
            return run_options(server, rate, seconds)
        if scenario == "oob-call":
            return run_oob_call(server, rate, seconds, database)
        return run_register(server, rate, seconds, database)
    finally:
        server.stop()


def compare(scenario: str, rate: int, seconds: int, rounds: int, children: int) -> dict[str, object]:
    database = Postgres() if scenario not in ("call", "options") else None
    runs: dict[str, list[dict[str, float]]] = {"serpy": [], "kamailio": []}
    try:
        for round_number in range(rounds):
            for name in ("serpy", "kamailio"):
                result = one_run(name, scenario, rate, seconds, children, database)
                runs[name].append(result)
                print(
                    f"{scenario:18} {rate:5}/s round {round_number + 1} {name:9}"
                    f" server {result['server_us']:7.1f} µs  database {result['database_us']:7.1f} µs"
                    f"  failed {result['failed']:.0f}  retransmissions {result['retransmissions']:.0f}"
                    f"  {result['pss_mb']:.0f} MB",
                    flush=True,
                )
    finally:
        if database:
            database.stop()
    total = {
        name: statistics.median(run["server_us"] + run["database_us"] for run in results)
        for name, results in runs.items()
    }
    return {"scenario": scenario, "rate": rate, "children": children, "runs": runs, "total_us": total,
            "ratio": total["serpy"] / total["kamailio"], "target": TARGETS.get(scenario)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=sorted(TARGETS), help="default: all")
    parser.add_argument("--rate", type=int, default=0, help="calls a second (default: 1000; oob-call 500; others 1500)")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--children", type=int, default=2, help="receiver processes of either server")
    options = parser.parse_args()
    for program in ("kamailio", "sipp", "psql"):
        if not shutil.which(program):
            print(
                "make bench needs: apt-get install kamailio kamailio-postgres-modules sip-tester postgresql",
                file=sys.stderr,
            )
            return 1
    results = []
    for scenario in options.scenario or sorted(TARGETS):
        rate = options.rate or RATES.get(scenario, 1500)
        results.append(compare(scenario, rate, options.seconds, options.rounds, options.children))
    print(f"\n{'scenario':18} {'rate':>6} {'serpy µs':>9} {'kamailio µs':>12} {'ratio':>6} {'target':>7}")
    for row in results:
        total = row["total_us"]
        print(
            f"{row['scenario']:18} {row['rate']:5}/s {total['serpy']:9.1f} {total['kamailio']:12.1f}"
            f" {row['ratio']:6.2f} {row['target']:7.2f}{'' if row['ratio'] <= row['target'] else '  MISSED'}"
        )
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(results, indent=1))
    print(f"\nwritten to {path.relative_to(REPO)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
