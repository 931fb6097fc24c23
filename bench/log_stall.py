"""What a log that nobody takes costs: OPTIONS at a steady rate while every request logs a long line.

    python bench/log_stall.py [--seconds 20] [--rate 100]

Run it with the Python of an installed serpy. Scenes: a syslog daemon that is stopped by SIGSTOP (datagram, stream) and goes
on later, a standard error that is a full pipe, and one that is a full disk. Prints a table and exits with 1 when the p99
of the answers is 50 ms or more, an answer is missing, or a process was replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.probe import OptionsLoad
from support.running import Running, wait_for

CONFIG = """
debug = 3
children = 2
heartbeat_timeout = 5
log_socket = "{path}"
loadmodule "sl"
route {{ log(0, "{text}"); sl_reply("200", "OK"); }}
"""
TEXT = "what a script has to say about each request " * 20
LIMIT_S = 0.05
READER = """
import socket, sys, threading
def read(sock):
    while sock.recv(65536):
        pass
sock = socket.socket(socket.AF_UNIX, getattr(socket, sys.argv[2]))
sock.bind(sys.argv[1])
print("ready", flush=True)
if sys.argv[2] == "SOCK_DGRAM":
    read(sock)
sock.listen(100)
while True:
    threading.Thread(target=read, args=(sock.accept()[0],), daemon=True).start()
"""


class Logging(Running):
    """A server with a standard error of ours; it logs there with *stderr*, else to syslog."""

    def __init__(self, folder: Path, stderr: int | None) -> None:
        config = folder / "log.conf"
        config.write_text(CONFIG.format(path=folder / "syslog", text=TEXT))
        super().__init__(folder, config=config)
        self.stderr = stderr

    def command(self, *extra: str) -> list[str]:
        return [word for word in super().command(*extra) if word != "-E" or self.stderr is not None]

    def start(self, *extra: str) -> Running:
        error = subprocess.DEVNULL if self.stderr is None else self.stderr
        self.log.touch()
        self.process = subprocess.Popen(
            self.command(*extra), stdout=subprocess.DEVNULL, stderr=error, start_new_session=True
        )
        wait_for(self.is_answering, timeout=30)
        return self


def lost(server: Running) -> int:
    return int(server.json("stats")["core.log_lost"])


def measure(server: Logging, seconds: float, rate: float, name: str, back: Callable[[], None] | None) -> bool:
    """Run one scene; True when all was well."""
    wait_for(lambda: len(found := server.children()) == 5 and "serpy: master" not in found)
    before = server.children()
    load = OptionsLoad(server.address, rate)
    load.start()
    time.sleep(seconds)
    missing = load.finish()
    p99 = load.percentile(0.99)
    good = missing == 0 and p99 < LIMIT_S and server.children() == before
    times = " ".join(f"{load.percentile(part) * 1000:6.1f}" for part in (0.5, 0.99, 1.0))
    count = lost(server)
    if back is not None:
        back()
    status = server.stop()
    good = good and status == 0
    print(
        f"{name:<28} {len(load.took):>6} answered {missing:>4} missing   median, p99, max {times} ms   "
        f"{count:>6} lines lost   exit {status}   {'' if good else 'BROKEN'}".rstrip(),
        flush=True,
    )
    return good


@contextlib.contextmanager
def daemon(folder: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(folder / "syslog"), kind], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    try:
        yield reader
    finally:
        reader.kill()
        reader.wait()


def syslog(folder: Path, kind: str, options: argparse.Namespace) -> bool:
    with daemon(folder, kind) as reader:
        server = Logging(folder, None)
        server.start()
        reader.send_signal(signal.SIGSTOP)
        name = "syslog stopped, " + ("datagram" if kind == "SOCK_DGRAM" else "stream")
        try:
            return measure(server, options.seconds, options.rate, name, lambda: reader.send_signal(signal.SIGCONT))
        finally:
            end(server)


def full(folder: Path, options: argparse.Namespace, *, pipe: bool) -> bool:
    reader, error = os.pipe() if pipe else (-1, os.open("/dev/full", os.O_WRONLY))
    server = Logging(folder, error)
    try:
        server.start()
        name = "a pipe that nobody reads" if pipe else "a full disk"
        return measure(server, options.seconds, options.rate, name, None)
    finally:
        end(server)
        os.close(error)
        if reader >= 0:
            os.close(reader)


def end(server: Running) -> None:
    if server.process is not None and server.process.poll() is None:
        server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=100)
    options = parser.parse_args()
    scenes: list[Callable[[Path], bool]] = [
        lambda folder: syslog(folder, "SOCK_DGRAM", options),
        lambda folder: syslog(folder, "SOCK_STREAM", options),
        lambda folder: full(folder, options, pipe=True),
        lambda folder: full(folder, options, pipe=False),
    ]
    good = True
    for scene in scenes:
        with tempfile.TemporaryDirectory(prefix="log-") as folder:
            good = scene(Path(folder)) and good
    print("nobody waited for the log" if good else "somebody waited for the log")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
