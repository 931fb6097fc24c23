"""OPTIONS at a steady rate, each with a Call-ID of its own: how long the answers took, and which are missing."""

from __future__ import annotations

import re
import select
import socket
import threading
import time

_CALL_ID = re.compile(rb"\r\nCall-ID: *(\S+)", re.IGNORECASE)


class OptionsLoad(threading.Thread):
    """Asks the server at *address* *rate* times a second until ``finish``; nothing is repeated."""

    def __init__(self, address: tuple[str, int], rate: float) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.rate = rate
        self.asked: dict[bytes, float] = {}  # Call-ID -> when, of those without an answer
        self.took: list[float] = []  # seconds
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self._ending = threading.Event()

    def run(self) -> None:
        next_at = time.monotonic()
        number = 0
        while not self._ending.is_set():
            now = time.monotonic()
            if now >= next_at:
                next_at += 1.0 / self.rate
                number += 1
                self._ask(f"probe-{id(self)}-{number}", now)
            self._read(max(0.0, next_at - time.monotonic()))

    def _ask(self, call_id: str, now: float) -> None:
        host, port = self.address
        self.asked[call_id.encode()] = now
        text = (
            f"OPTIONS sip:{host}:{port} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{call_id};rport\r\n"
            f"From: <sip:probe@example.com>;tag=1\r\nTo: <sip:{host}:{port}>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n"
            "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        self.socket.sendto(text.encode(), self.address)

    def _read(self, seconds: float) -> None:
        ready, _, _ = select.select([self.socket], [], [], seconds)
        if not ready:
            return
        found = _CALL_ID.search(self.socket.recv(65536))
        since = self.asked.pop(found[1], None) if found else None
        if since is not None:
            self.took.append(time.monotonic() - since)

    def finish(self, patience: float = 5.0) -> int:
        """Ask no more, wait for what is missing; returns how many were never answered."""
        self._ending.set()
        self.join()
        deadline = time.monotonic() + patience
        while self.asked and time.monotonic() < deadline:
            self._read(0.1)
        self.socket.close()
        return len(self.asked)

    def percentile(self, share: float) -> float:
        """Seconds within which that share of the answers came."""
        return sorted(self.took)[min(len(self.took) - 1, int(len(self.took) * share))]
