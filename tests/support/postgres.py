"""A PostgreSQL server of our own: a fresh cluster on a free port, gone with the test.

As root the server runs as user ``postgres`` (PostgreSQL refuses root). ``fsync`` stays on, as an administrator has it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from support.patience import PATIENCE_S, free_port


class UnavailableError(Exception):
    """PostgreSQL cannot be started here; the text says why."""


def binaries() -> Path:
    """The newest directory with ``initdb``. Raises UnavailableError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    if (program := shutil.which("initdb")) is not None:
        return Path(program).resolve().parent
    raise UnavailableError("PostgreSQL's server programs are not installed (apt-get install postgresql)")


class Postgres:
    """One cluster with the database and user ``ser``."""

    def __init__(self) -> None:
        self.bin = binaries()
        self.root = os.geteuid() == 0
        if self.root:
            try:
                owner = pwd.getpwnam("postgres")
            except KeyError:
                raise UnavailableError("there is no user postgres to run the server as") from None
        self.directory = tempfile.mkdtemp(prefix="serpy-pg-")
        if self.root:
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        self.data = f"{self.directory}/data"
        self.port = free_port()
        self.url = f"postgres://ser:ser@127.0.0.1:{self.port}/ser"
        self.server: subprocess.Popen[bytes] | None = None
        try:
            self._as_owner("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8")
            self.start()
            self.sql("create role ser login password 'ser'")
            self.sql("create database ser owner ser")
        except subprocess.CalledProcessError as exc:
            self.stop()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise UnavailableError(f"PostgreSQL does not start: {exc.stderr or exc.stdout!r}") from None

    def _command(self, program: str, *arguments: str) -> list[str]:
        # setpriv replaces itself by the program, so the pid we get is the postmaster's.
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if self.root else []
        return [*prefix, str(self.bin / program), *arguments]

    def _as_owner(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self._command(program, *arguments), check=True, capture_output=True, text=True, cwd=self.directory
        )
        return done.stdout

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ("-k", self.directory, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1")
        with Path(f"{self.directory}/log").open("ab") as log:
            self.server = subprocess.Popen(
                self._command("postgres", "-D", self.data, *options), stdout=log, stderr=log, cwd=self.directory
            )
        deadline = time.monotonic() + PATIENCE_S
        ready = self._command("pg_isready", "-q", "-h", self.directory, "-p", str(self.port))
        while subprocess.run(ready, check=False, cwd=self.directory).returncode != 0:
            if time.monotonic() > deadline or self.server.poll() is not None:
                raise UnavailableError(f"PostgreSQL does not start: {Path(f'{self.directory}/log').read_text()[-500:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server at once (immediate shutdown), as a crash would."""
        if self.server is not None:
            self.server.send_signal(signal.SIGCONT)
            self.server.send_signal(signal.SIGQUIT)
            self.server.wait()
            self.server = None

    def pids(self) -> list[int]:
        """The postmaster and its children."""
        if self.server is None:
            return []
        pids = [self.server.pid]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if int(fields[1]) == self.server.pid:
                    pids.append(int(entry.name))
        return pids

    def freeze(self) -> None:
        """SIGSTOP everything: connections stay open, nothing answers."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):  # one that was ending has ended
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):  # one that was ending has ended
                os.kill(pid, signal.SIGCONT)

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run *text* as superuser, return psql's unaligned output."""
        return self._as_owner(
            "psql", "-X", "-A", "-t", "-h", self.directory, "-p", str(self.port), "-U", "postgres", "-d", database,
            "-v", "ON_ERROR_STOP=1", "-c", text,
        ).strip()  # fmt: skip

    def fresh(self) -> str:
        """The URL of the database, emptied."""
        if self.server is None:
            self.start()
        self.sql("drop database if exists ser with (force)")
        self.sql("create database ser owner ser")
        return self.url

    def cut(self) -> None:
        """End all connections to the database."""
        self.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'ser'")

    def close(self) -> None:
        """Stop and delete everything."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
