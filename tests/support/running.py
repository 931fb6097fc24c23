"""A serpy server of its own for a test: free port, own run directory and database, stopped at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from support.patience import PATIENCE_S, free_port, wait_for
from support.phone import Phone

TOP = Path(__file__).resolve().parents[2]
CONFIG = TOP / "etc/serpy.conf"
BIN = Path(sys.executable).parent
DOMAIN = "example.com"


class Running:
    """The server, its command line and its serpyctl."""

    def __init__(self, folder: Path, *, config: Path = CONFIG, url: str = "", defines: dict[str, str] | None = None):
        self.folder = folder
        self.port = free_port()
        self.config = config
        self.defines = {"CHILDREN": "2", "DB_URL": url or f"sqlite:///{folder}/serpy.db", **(defines or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def options(self) -> list[str]:
        words = [word for name, value in self.defines.items() for word in ("-A", f"{name}={value}")]
        return ["-f", str(self.config), "-Y", str(self.folder), *words]

    def command(self, *extra: str) -> list[str]:
        return [
            str(BIN / "serpy"),
            "-D",
            "-D",
            "-E",
            "-m",
            "64",
            "-l",
            f"udp:127.0.0.1:{self.port}",
            *self.options(),
            *extra,
        ]

    def start(self, *extra: str) -> Running:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(*extra), stdout=log, stderr=log, start_new_session=True)
        wait_for(self.is_answering)
        return self

    def is_answering(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        phone = Phone(self.address)
        try:
            phone.send(phone.request("OPTIONS", f"sip:127.0.0.1:{self.port}"))
            return phone.receive(0.3) is not None
        finally:
            phone.close()

    def stop(self) -> int:
        """TERM and wait; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise
        return self.process.returncode

    def kill(self) -> None:
        """kill -9 of the whole process group."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(BIN / "serpyctl"), *self.options(), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def json(self, *words: str):
        return json.loads(self.ctl("--json", *words).stdout)

    def is_whole(self, children: int) -> bool:
        """All *children* are there and ready: whoever is killed now has lived."""
        listing = self.ctl("--json", "ps", check=False)
        states = [row["state"] for row in json.loads(listing.stdout)] if listing.returncode == 0 else []
        return states == ["ready"] * (1 + children)

    def children(self) -> dict[str, int]:
        """Title → pid of the children, from /proc; without those that still bear the name of the master."""
        assert self.process is not None
        found = {}
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for pid in listing.split():
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
            except OSError:
                continue
            if title.startswith("serpy: ") and "master" not in title:
                found[title] = int(pid)
        return found

    def prepare(self, *users: str) -> Running:
        """Database, domain example.com and *users*, whose passwords are their names."""
        self.ctl("db", "create")
        self.ctl("domain", "add", DOMAIN)
        if users:
            listing = self.folder / "users.txt"
            listing.write_text("".join(f"{user}@{DOMAIN} {user}\n" for user in users))
            self.ctl("user", "import", str(listing))  # one program, however many they are
            listing.unlink()
        return self

    def phone(self, user: str, **options) -> Phone:
        return Phone(self.address, user, DOMAIN, options.pop("password", user), **options)
