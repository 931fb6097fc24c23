"""The phone of ``support.phone`` over one TCP connection, which it also takes calls on."""

from __future__ import annotations

import socket
import time

from support.patience import PATIENCE_S
from support.phone import Message, Phone


class TcpPhone(Phone):
    """As Phone; ``data`` is what has come and is no whole message yet."""

    def __init__(
        self, server: tuple[str, int], user: str = "probe", domain: str = "example.com", password: str = "",
        source: str = "127.0.0.1",
    ):  # fmt: skip
        super().__init__(server, user, domain, password)
        self.source = source
        self.socket.close()
        self.data = b""
        self.connect()

    def connect(self) -> None:
        """Open the connection, after ``close()`` another one."""
        self.socket = socket.create_connection(self.server, 5.0, (self.source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = self.socket.getsockname()[1]
        self.data = b""

    @property
    def contact(self) -> str:
        return f"sip:{self.user}@127.0.0.1:{self.port};transport=tcp"

    def via(self, branch: str = "") -> str:
        return super().via(branch).replace("/UDP", "/TCP")

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode("utf-8", "surrogateescape"))

    def _read(self, timeout: float) -> Message | None:
        deadline = time.monotonic() + timeout
        while True:
            message = self._take()
            if message is not None:
                return message
            data = self._some(deadline - time.monotonic())
            if not data:
                return None
            self.data += data

    def _some(self, timeout: float) -> bytes | None:
        """What comes next, None when nothing comes in time, b"" at the end. Not by select(): it knows 1,024 sockets."""
        self.socket.settimeout(max(0.001, timeout))
        try:
            return self.socket.recv(65536)
        except TimeoutError:
            return None
        finally:
            self.socket.settimeout(PATIENCE_S)

    def _take(self) -> Message | None:
        """The first whole message in ``data``."""
        data = self.data.lstrip(b"\r\n")
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return None
        message = Message(head.decode("utf-8", "surrogateescape"))
        length = int(message.get("Content-Length") or message.get("l"))
        if len(rest) < length:
            return None
        self.data = rest[length:]
        return Message((head + end + rest[:length]).decode("utf-8", "surrogateescape"))

    def is_closed(self, timeout: float = PATIENCE_S) -> bool:
        """True when the server closes the connection within *timeout* seconds; what it still sends goes to ``data``."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                data = self._some(left)
            except ConnectionResetError:
                return True
            if data == b"":
                return True
            self.data += data or b""
        return False
