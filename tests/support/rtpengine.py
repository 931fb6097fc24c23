"""Debian's rtpengine-daemon on loopback for a test, in user space."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from support.patience import PATIENCE_S

from serpy.rtp.bencode import decode, encode


class RtpEngine:
    """The daemon with its control port on *host*, media on *interface*; stopped by ``close()``."""

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("rtpengine") is not None

    def __init__(
        self, folder: Path, *, interface: str = "127.0.0.1", host: str = "127.0.0.1", prefix: tuple[str, ...] = ()
    ):
        self.log = folder / "rtpengine.log"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = host
        command = [
            *prefix, "rtpengine", "--config-file=none", "--table=-1", "--foreground", "--log-stderr", "--log-level=6",
            f"--interface={interface}", f"--listen-ng={host}:{self.port}", "--port-min=31000", "--port-max=31998",
            "--delete-delay=0", "--num-threads=2",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def address(self) -> str:
        """As ``rtpproxy_sock`` wants it."""
        return f"ng:{self.host}:{self.port}"

    def ask(self, **request) -> dict:
        """One question of the ng protocol, from here; {} when nobody answers."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.3)
            sock.connect((self.host, self.port))
            message = {name.replace("_", "-"): value for name, value in request.items()}
            try:
                sock.send(b"test%d " % time.monotonic_ns() + encode(message))
                answer = decode(sock.recv(65535).partition(b" ")[2])
            except OSError:
                return {}
        assert isinstance(answer, dict)
        return answer

    def wait(self, timeout: float = PATIENCE_S) -> RtpEngine:
        """Return when it answers (only where its control port can be reached from here)."""
        deadline = time.monotonic() + timeout
        while self.ask(command="ping").get(b"result") != b"pong":
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
