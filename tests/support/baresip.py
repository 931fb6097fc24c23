"""Debian's baresip as a real phone: one process with its own folder, driven over its control socket (netstrings of JSON)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

from support.patience import PATIENCE_S, free_port

MODULES = Path("/usr/lib/baresip/modules")
PROGRAM = shutil.which("baresip")
CONFIG = """\
sip_listen 127.0.0.1:{sip}
module_path {modules}
module aubridge.so
module g711.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:{control}
audio_source aubridge,nil
audio_player aubridge,nil
audio_alert aubridge,nil
"""


class Baresip:
    """User *user* of *domain*, which the proxy at *server* serves; registers at once. No audio hardware is used."""

    def __init__(self, folder: Path, server: tuple[str, int], user: str, domain: str, password: str, more: str = ""):
        self.user = user
        self.events: list[dict[str, object]] = []  # not yet waited for
        self.control: socket.socket | None = None
        self._received = b""
        folder.mkdir()
        port = free_port()
        config = CONFIG.format(sip=free_port(), control=port, modules=MODULES)
        (folder / "config").write_text(config)
        (folder / "accounts").write_text(
            f"<sip:{user}@{domain};transport=udp>;auth_pass={password};regint=600"
            f';outbound="sip:{server[0]}:{server[1]};transport=udp"{more}\n'
        )
        (folder / "contacts").write_text("")
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [PROGRAM or "baresip", "-4", "-s", "-f", str(folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
            )  # fmt: skip
        try:
            self.control = self._connect(port)
        except BaseException:
            self.close()
            raise

    def _connect(self, port: int) -> socket.socket:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), 1)
            except OSError:
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                assert time.monotonic() < deadline, "baresip opened no control socket"
                time.sleep(0.02)

    def command(self, name: str, params: str = "") -> str:
        """Have baresip do something; returns what it prints."""
        assert self.control is not None
        text = json.dumps({"command": name, "params": params, "token": name}).encode()
        self.control.sendall(b"%d:%s," % (len(text), text))
        answer = self._next(lambda message: message.get("token") == name and "response" in message, name)
        assert answer["ok"], answer
        return str(answer["data"])

    def expect(self, event: str) -> dict[str, object]:
        """Wait for an event, e.g. CALL_ESTABLISHED; others are kept."""
        return self._next(lambda message: message.get("type") == event, event)

    def wait_registered(self) -> None:
        """Until the server has taken the REGISTER."""
        deadline = time.monotonic() + PATIENCE_S
        while "OK" not in (said := self.command("reginfo")):
            assert time.monotonic() < deadline, said + self.log.read_text()[-3000:]
            time.sleep(0.05)

    def close(self) -> None:
        """End it; it takes back its registration."""
        if self.control is not None:
            self.control.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _next(self, fits, what: str, timeout: float = PATIENCE_S) -> dict[str, object]:
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            for at in range(seen, len(self.events)):
                if fits(self.events[at]):
                    return self.events.pop(at)
            seen = len(self.events)
            left = deadline - time.monotonic()
            assert left > 0, f"{self.user}: no {what}, but {self.events}\n{self.log.read_text()[-3000:]}"
            self._read(left)

    def _read(self, timeout: float) -> None:
        """Take in what has come, at least something unless *timeout* passes."""
        assert self.control is not None
        self.control.settimeout(timeout)
        try:
            data = self.control.recv(65536)
        except TimeoutError:
            return
        assert data, f"{self.user}: baresip is gone\n{self.log.read_text()[-3000:]}"
        self._received += data
        while True:
            size, colon, rest = self._received.partition(b":")
            if not colon or len(rest) <= int(size):
                return
            self.events.append(json.loads(rest[: int(size)]))
            self._received = rest[int(size) + 1 :]
