"""The servers under test: start, find their CPU time, stop. Everything listens on loopback and stops by itself."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
REPO = HERE.parent
DOMAIN = "bench.example.com"
START_S = 30.0  # a server that does not answer by then has not started


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pid: int) -> list[int]:
    """*pid* and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, []))
    return found


def cpu_ns(pid: int) -> int:
    """CPU time of the process tree in nanoseconds, from schedstat (stat's ticks are too coarse)."""
    total = 0
    for one in tree(pid):
        for task in Path(f"/proc/{one}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:
                continue
    return total


def pss_kb(pid: int) -> int:
    total = 0
    for one in tree(pid):
        try:
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total


def answers(port: int) -> bool:
    """True when an OPTIONS to *port* gets any answer within half a second."""
    probe = (
        f"OPTIONS sip:127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{time.time_ns()};rport\r\n"
        f"From: <sip:p@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1:{port}>\r\nCall-ID: {time.time_ns()}@bench\r\n"
        "CSeq: 1 OPTIONS\r\nMax-Forwards: 9\r\nContent-Length: 0\r\n\r\n"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.sendto(probe.encode(), ("127.0.0.1", port))
        try:
            return bool(sock.recv(65536))
        except OSError:
            return False


class Program:
    """A server program in its own process group."""

    name = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        self.folder.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        while not answers(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Kamailio(Program):
    name = "kamailio"

    def __init__(self, config: str, children: int = 2, url: str = "") -> None:
        super().__init__()
        self.config = config
        self.children = children
        self.url = url

    def command(self) -> list[str]:
        # The default allocator is a debugging one that fragments: -x fm -X fm is the fair setting.
        return [
            "kamailio", "-DD", "-E", "-x", "fm", "-X", "fm", "-m", "512", "-f", str(HERE / "kamailio" / self.config),
            "-l", f"udp:127.0.0.1:{self.port}", "-Y", str(self.folder), "-P", str(self.folder / "pid"),
            "-A", f"CHILDREN={self.children}", *(["-A", f'DBURL="{self.url}"'] if self.url else []),
        ]  # fmt: skip


class Serpy(Program):
    name = "serpy"

    def __init__(self, config: Path, defines: dict[str, str] | None = None, memory: int = 512) -> None:
        super().__init__()
        self.config = config
        self.memory = memory
        self.defines = {"CHILDREN": "2", **(defines or {})}

    def options(self) -> list[str]:
        return [
            "-f", str(self.config), "-Y", str(self.folder),
            *(word for name, value in self.defines.items() for word in ("-A", f"{name}={value}")),
        ]  # fmt: skip

    def command(self) -> list[str]:
        return [
            str(Path(sys.executable).parent / "serpy"), "-D", "-D", "-E", "-m", str(self.memory),
            "-l", f"udp:127.0.0.1:{self.port}", *self.options(),
        ]  # fmt: skip

    def ctl(self, *words: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "serpyctl"), *self.options(), *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"serpyctl {' '.join(words)}: {done.stderr}")
        return done.stdout


class Postgres:
    """A cluster of its own in a temporary folder, with Debian's default settings."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
        self.port = free_port()
        self.bin = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "-E", "UTF8", "--locale=C")
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "start",
            "-o", f"-p {self.port} -k {self.folder} -h 127.0.0.1",
        )  # fmt: skip
        self.pid = int((self.folder / "data/postmaster.pid").read_text().split()[0])

    def _run(self, program: str, *words: str) -> None:
        become = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        subprocess.run([*become, str(self.bin / program), *words], check=True, stdout=subprocess.DEVNULL, cwd="/")

    def create(self, name: str) -> str:
        """Make database *name* and return its URL."""
        self.sql("postgres", f'drop database if exists "{name}"')
        self.sql("postgres", f'create database "{name}"')
        return f"postgres://{self.user}@127.0.0.1:{self.port}/{name}"

    def sql(self, name: str, text: str = "", file: str = "") -> None:
        words = ["psql", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, "-d", name]
        words += ["-f", file] if file else ["-c", text]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def sql_file(self, name: str, text: str) -> None:
        """Run *text*, however long."""
        path = self.folder / "text.sql"
        path.write_text(text)
        self.sql(name, file=str(path))

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)
