"""Accounting on PostgreSQL that is stopped, killed, refuses values and is cut off; registrations on SQLite meanwhile.

    python bench/two_databases.py [--phase 10] [--registers 500] [--calls 40]

Run it with the Python of an installed serpy. REGISTERs are offered all the time, in write-through mode, and whole calls
with three accounting rows each (INVITE, ACK, BYE). Promises: no REGISTER is refused or unanswered in any phase; in the end
every row of every completed call is in ``acc`` exactly once, but for those that the database refused for their value, which
are counted. The store is killed in two of the phases. Everything listens on loopback. Exits with 1 when a promise is broken.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.calls import CallLoad
from support.load import RegisterLoad
from support.postgres import Postgres
from support.running import Running, wait_for

from serpy.db import schema
from serpy.loader import open_database

USERS = [f"u{number}" for number in range(500)]
METHODS = ("INVITE", "ACK", "BYE")
CONFIG = """
flags FLAG_ACC : 1;
loadmodule "db_sqlite" loadmodule "db_postgres"
loadmodule "tm" loadmodule "sl" loadmodule "rr" loadmodule "maxfwd" loadmodule "usrloc" loadmodule "registrar"
loadmodule "acc_db"
modparam("usrloc", "db_mode", 1)
modparam("usrloc", "db_url", DB_URL)
modparam("acc_db", "db_url", ACC_URL)
modparam("acc_db", "log_flag", "FLAG_ACC")
modparam("acc_db", "report_ack", 1)

route {
    if (method == "OPTIONS") { sl_reply("200", "OK"); exit; }
    if (!mf_process_maxfwd_header("10")) { sl_reply("483", "Too Many Hops"); exit; }
    if (method == "REGISTER") { $tu.uid = @to.uri.user; save_contacts("location"); exit; }
    setflag(FLAG_ACC);
    if (method == "ACK" || method == "BYE") { loose_route(); t_relay(); exit; }
    record_route();
    t_relay();
}
"""


class Report:
    """Lines, and whether all was well."""

    def __init__(self) -> None:
        self.broken = 0

    def line(self, what: str, figure: str, *, good: bool = True) -> None:
        self.broken += not good
        print(f"{what:<44} {figure:<70} {'' if good else 'BROKEN'}".rstrip(), flush=True)


class Trial:
    """The server, its two loads, and the accounting database."""

    def __init__(self, server: Running, postgres: Postgres, report: Report, arguments: argparse.Namespace) -> None:
        self.server = server
        self.postgres = postgres
        self.report = report
        self.seconds = arguments.phase
        self.registers = RegisterLoad(server.address, USERS, arguments.registers)
        self.calls = CallLoad(server.address, ["bob"], arguments.calls)
        self.calls.domain = f"127.0.0.1:{self.calls.port}"

    def phase(self, name: str, *, kill_store: bool = False) -> None:
        """Offer for a while, and say what became of the REGISTERs."""
        before = (self.registers.acknowledged, sum(self.registers.refused.values()), self.calls.completed)
        first = len(self.registers.latencies)
        time.sleep(self.seconds / 2)
        if kill_store:
            os.kill(self.store_pid(), signal.SIGKILL)
        time.sleep(self.seconds / 2)
        accepted = self.registers.acknowledged - before[0]
        refused = sum(self.registers.refused.values()) - before[1]
        times = sorted(self.registers.latencies[first:]) or [0.0]
        self.report.line(
            name + (", store killed" if kill_store else ""),
            f"{accepted} REGISTERs stored, {refused} refused, p99 {times[int(len(times) * 0.99)] * 1000:.0f} ms; "
            f"{self.calls.completed - before[2]} calls",
            good=refused == 0 and accepted > 0,
        )

    def store_pid(self) -> int:
        return wait_for(lambda: next((pid for title, pid in self.server.children().items() if "store" in title), 0))

    def counter(self, name: str) -> int:
        return int(self.server.json("stats")[name])

    def run(self) -> None:
        self.registers.start()
        self.calls.start()
        self.phase("both databases up")
        self.during("accounting stopped", self.postgres.freeze, self.postgres.thaw, kill_store=True)
        self.phase("accounting back")
        self.during("accounting killed", self.postgres.stop, self.postgres.start, kill_store=True)
        self.phase("accounting back")
        refuse = "alter table acc add constraint picky check (sip_method <> 'ACK') not valid"
        self.during(
            "accounting refuses the rows of ACKs",
            lambda: self.postgres.sql(refuse, "ser"),
            lambda: self.postgres.sql("alter table acc drop constraint picky", "ser"),
        )
        for _ in range(5):
            self.postgres.cut()
            time.sleep(0.2)
        self.phase("accounting cut five times, back")
        self.registers.finish()
        self.calls.finish()
        self.conclude()

    def during(
        self, name: str, away: Callable[[], object], back: Callable[[], object], *, kill_store: bool = False
    ) -> None:
        away()
        try:
            self.phase(name, kill_store=kill_store)
        finally:
            back()

    def conclude(self) -> None:
        line = self.report.line
        line("REGISTERs", f"{self.registers.acknowledged} stored, {self.registers.gave_up} without an answer",
             good=not self.registers.gave_up)  # fmt: skip
        line("calls", f"{self.calls.completed} completed, failed {self.calls.failed or 0}", good=not self.calls.failed)
        wait_for(lambda: self.counter("store.backlog") == 0, timeout=60, every=0.5)
        time.sleep(1)
        rows = Counter(self.rows())
        calls = {call_id for call_id, _ in rows}
        doubled = sum(count - 1 for count in rows.values())
        missing = Counter(method for call in calls for method in METHODS if (call, method) not in rows)
        refused = self.counter("store.refused")
        line("accounting rows", f"{sum(rows.values())} of {len(calls)} calls", good=len(calls) == self.calls.completed)
        line("  doubled", str(doubled), good=not doubled)
        line(
            "  missing INVITE, BYE",
            f"{missing['INVITE']}, {missing['BYE']}",
            good=not missing["INVITE"] + missing["BYE"],
        )
        line("  missing ACK, refused for their value", f"{missing['ACK']}, {refused}", good=missing["ACK"] == refused)
        stored = self.bindings()
        line("bindings in the location database", f"{stored} of {len(self.registers.ledger)}",
             good=stored == len(self.registers.ledger))  # fmt: skip

    def rows(self) -> list[tuple[str, str]]:
        database = open_database(self.server.defines["ACC_URL"])
        try:
            found = database.select("acc", ("sip_callid", "sip_method"), {})
        finally:
            database.close()
        return [(str(call_id), str(method)) for call_id, method in found]

    def bindings(self) -> int:
        database = open_database(self.server.defines["DB_URL"])
        try:
            return len(database.select("location", ("uid",), {}))
        finally:
            database.close()


def create(url: str) -> None:
    """Make the tables at *url*."""
    database = open_database(url, create=True)
    try:
        schema.create(database)
    finally:
        database.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--phase", type=float, default=10)
    parser.add_argument("--registers", type=float, default=500)
    parser.add_argument("--calls", type=float, default=40)
    arguments = parser.parse_args()
    report = Report()
    postgres = Postgres()
    with tempfile.TemporaryDirectory(prefix="two-") as folder:
        config = Path(folder) / "two.conf"
        config.write_text(CONFIG)
        server = Running(Path(folder), config=config, defines={"ACC_URL": postgres.url})
        try:
            for url in (server.defines["DB_URL"], postgres.url):
                create(url)
            server.start()
            Trial(server, postgres, report, arguments).run()
            report.line("exit status at the end", str(status := server.stop()), good=status == 0)
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()
            if report.broken:
                print(server.log.read_text()[-3000:])
            postgres.close()
    print("all promises kept" if not report.broken else f"{report.broken} promises broken")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
