"""Media proxies for tests: one that speaks rtpproxy's protocol, one that speaks rtpengine's. Both can misbehave.

They answer from a thread of the test, relay no packets, and remember what they were asked.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

from serpy.rtp.bencode import decode, encode

FAULTS = {
    "": "behaves",
    "dead": "answers nothing",
    "rubbish": "answers every question with nonsense",
    "error": "refuses every question",
    "cookie": "answers with a cookie nobody sent",
    "twice": "sends every answer twice",
    "late": "answers after `delay` seconds",
}


class MediaProxy:
    """The socket, the thread and the faults. *path*: a Unix stream socket instead of a UDP port on loopback."""

    kind = "udp"

    def __init__(self, *, path: Path | None = None, port: int = 0, host: str = "127.0.0.1"):
        self.fault = ""
        self.delay = 0.0
        self.deaf_to = "\0"  # questions with this text get no answer
        self.asked: list[str] = []
        self.seen: dict[bytes, bytes] = {}  # answers by cookie, for repetitions
        self.repeated = 0
        self.next_port = 50000
        self.media_host = "203.0.113.9"
        self.path = path
        self.host = host
        if path is not None:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.bind(str(path))
            self.socket.listen(16)
            self.port = 0
        else:
            self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind((host, port))
            self.port = self.socket.getsockname()[1]
        self.socket.settimeout(0.05)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve_unix if path is not None else self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """As the parameter of a module wants it."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"{self.kind}:[{self.host}]:{self.port}" if ":" in self.host else f"{self.kind}:{self.host}:{self.port}"

    def close(self) -> None:
        """Stop, and free the port."""
        self._ends.set()
        self._thread.join(5)
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.close()

    def commands(self, letter: str) -> list[str]:
        """What it was asked that begins with *letter*."""
        return [text for text in list(self.asked) if text.startswith(letter)]

    def answer(self, question: bytes) -> bytes:
        raise NotImplementedError

    def refusal(self) -> bytes:
        raise NotImplementedError

    def _reply_to(self, question: bytes) -> bytes | None:
        if self.fault == "dead" or self.deaf_to.encode() in question:
            self.asked.append(question.decode("utf-8", "replace"))
            return None
        if self.fault == "late":
            time.sleep(self.delay)
        if self.fault == "rubbish":
            return b"\x00what? 17"
        return self.refusal() if self.fault == "error" else self.answer(question)

    def _serve(self) -> None:
        while not self._ends.is_set():
            try:
                data, source = self.socket.recvfrom(65535)
            except TimeoutError:
                continue
            except OSError:
                return
            cookie, _, question = data.partition(b" ")
            reply = self.seen.get(cookie)
            if reply is not None:
                self.repeated += 1
            else:
                reply = self._reply_to(question)
                if reply is None:
                    continue
                self.seen[cookie] = reply
            if self.fault == "cookie":
                cookie = b"4711_1"
            with contextlib.suppress(OSError):
                for _ in range(2 if self.fault == "twice" else 1):
                    self.socket.sendto(cookie + b" " + reply, source)

    def _serve_unix(self) -> None:
        while not self._ends.is_set():
            try:
                connection, _ = self.socket.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                with contextlib.suppress(OSError):
                    question = connection.recv(65535)
                    reply = self._reply_to(question.rstrip(b"\n"))
                    if reply is None:
                        self._ends.wait(0.5)
                    else:
                        connection.sendall(reply + b"\n")


class FakeRtpProxy(MediaProxy):
    """rtpproxy: V VF U L D R."""

    version = b"20040107"
    features = ("20050322", "20071116", "20081102")

    def answer(self, question: bytes) -> bytes:
        text = question.decode("utf-8", "replace")
        self.asked.append(text)
        words = text.split(" ")
        if words[0] == "V":
            return self.version
        if words[0] == "VF":
            return b"1" if words[1] in self.features else b"0"
        if words[0][0] in "UL":
            self.next_port += 2
            host = "2001:db8::9 6" if words[2].count(":") else self.media_host
            return f"{self.next_port} {host}".rstrip().encode()
        return b"0"

    def refusal(self) -> bytes:
        return b"E7"


class FakeRtpEngine(MediaProxy):
    """rtpengine: ping, offer, answer, delete, start recording."""

    kind = "ng"

    def __init__(self, **options):
        super().__init__(**options)
        self.requests: list[dict] = []

    def answer(self, question: bytes) -> bytes:
        request = decode(question)
        assert isinstance(request, dict)
        command = request[b"command"].decode()
        self.requests.append(request)
        self.asked.append(command)
        if command == "ping":
            return encode({"result": "pong"})
        if command in ("offer", "answer"):
            return encode({"result": "ok", "sdp": self._moved(request[b"sdp"])})
        return encode({"result": "ok"})

    def refusal(self) -> bytes:
        return encode({"result": "error", "error-reason": "overloaded"})

    def _moved(self, sdp: bytes) -> bytes:
        lines = []
        for line in sdp.decode().split("\r\n"):
            if line.startswith("c="):
                line = f"c=IN IP4 {self.media_host}"
            elif line.startswith("m="):
                self.next_port += 2
                words = line.split(" ")
                line = " ".join([words[0], str(self.next_port), *words[2:]])
            lines.append(line)
        return "\r\n".join(lines).encode()
