"""A small SIP user agent for tests: sends text, waits for answers, knows digest. One UDP socket on loopback."""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
import select
import socket
import time

from support.patience import PATIENCE_S

_counter = itertools.count(1)


class Message(str):
    """A received message as text, with just enough parsing for assertions."""

    __slots__ = ()

    @property
    def status(self) -> int:
        first = self.split("\r\n", 1)[0]
        return int(first.split(" ")[1]) if first.startswith("SIP/2.0 ") else 0

    @property
    def method(self) -> str:
        return "" if self.startswith("SIP/2.0 ") else self.split(" ", 1)[0]

    def all(self, name: str) -> list[str]:
        head = self.split("\r\n\r\n", 1)[0]
        return [
            line.split(":", 1)[1].strip(" ")
            for line in head.split("\r\n")[1:]
            if line.split(":", 1)[0].lower() == name.lower()
        ]

    def get(self, name: str) -> str:
        values = self.all(name)
        return values[0] if values else ""


class Phone:
    """User *user* of *domain* at *host*:port, talking to the server at *server* (host, port). *port* 0: a free one."""

    def __init__(
        self, server: tuple[str, int], user: str = "probe", domain: str = "example.com", password: str = "", *,
        host: str = "127.0.0.1", port: int = 0,
    ):  # fmt: skip
        self.host = host
        self.server = server
        self.user = user
        self.domain = domain
        self.password = password
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((host, port))
        self.port = self.socket.getsockname()[1]
        self.tag = secrets.token_hex(4)
        self.cseq = 0
        self.call_id = f"{secrets.token_hex(8)}@test"
        self.pending: list[Message] = []
        self.is_registered = False

    def close(self) -> None:
        self.socket.close()

    @property
    def aor(self) -> str:
        return f"sip:{self.user}@{self.domain}"

    @property
    def contact(self) -> str:
        return f"sip:{self.user}@{self.host}:{self.port}"

    # ---- sending

    def send(self, text: str) -> None:
        self.socket.sendto(text.encode("utf-8", "surrogateescape"), self.server)

    def via(self, branch: str = "") -> str:
        return f"SIP/2.0/UDP {self.host}:{self.port};branch={branch or 'z9hG4bK' + secrets.token_hex(8)};rport"

    def request(
        self, method: str, uri: str, *, to: str = "", headers: tuple[str, ...] = (), body: str = "", cseq: int = 0,
        call_id: str = "", from_: str = "", branch: str = "", max_forwards: int | None = 70,
    ) -> str:  # fmt: skip
        """Build a request; a new CSeq unless *cseq* is given."""
        if not cseq:
            self.cseq += 1
            cseq = self.cseq
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: {self.via(branch)}",
            f"From: <{from_ or self.aor}>;tag={self.tag}",
            f"To: {to or '<' + uri + '>'}",
            f"Call-ID: {call_id or self.call_id}",
            f"CSeq: {cseq} {method}",
            *([f"Max-Forwards: {max_forwards}"] if max_forwards is not None else []),
            f"Contact: <{self.contact}>",
            *headers,
            f"Content-Length: {len(body.encode())}",
        ]
        return "\r\n".join(lines) + "\r\n\r\n" + body

    # ---- receiving

    def receive(self, timeout: float = PATIENCE_S) -> Message | None:
        """The next message, None when none comes in *timeout* seconds."""
        if self.pending:
            return self.pending.pop(0)
        return self._read(timeout)

    def _read(self, timeout: float) -> Message | None:
        ready, _, _ = select.select([self.socket], [], [], timeout)
        if not ready:
            return None
        return Message(self.socket.recv(65536).decode("utf-8", "surrogateescape"))

    def expect(self, what: int | str, timeout: float = PATIENCE_S) -> Message:
        """The next message with this status or method; others are kept for later."""
        for index, message in enumerate(self.pending):
            if what in (message.status, message.method):
                return self.pending.pop(index)
        deadline = time.monotonic() + timeout
        seen = []
        while (left := deadline - time.monotonic()) > 0:
            message = self._read(left)
            if message is None:
                break
            if what in (message.status, message.method):
                return message
            self.pending.append(message)
            seen.append(message.split("\r\n", 1)[0])
        raise AssertionError(f"{self.user} waited for {what}, got {seen or 'nothing'}")

    def final(self, timeout: float = PATIENCE_S) -> Message:
        """The next final response; provisional ones are dropped."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message = self.receive(left)
            if message is not None and message.status >= 200:
                return message
        raise AssertionError(f"{self.user} got no final response")

    def ask(self, text: str, timeout: float = PATIENCE_S, every: float = 0.5) -> Message:
        """Send and return the final response, retransmitting as timer E would."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.send(text)
            try:
                return self.final(every)
            except AssertionError:
                continue
        raise AssertionError(f"no final response to {text.split(chr(13), 1)[0]}")

    # ---- digest

    def authorization(self, challenge: Message, method: str, uri: str, password: str = "") -> str:
        """The header line that answers *challenge* (401 or 407)."""
        proxy = challenge.status == 407
        value = challenge.get("Proxy-Authenticate" if proxy else "WWW-Authenticate")
        fields = dict(re.findall(r'(\w+)="([^"]*)"', value))
        ha1 = _md5(f"{self.user}:{fields['realm']}:{password or self.password}")
        ha2 = _md5(f"{method}:{uri}")
        extra = ""
        if "auth" in fields.get("qop", "").split(","):
            cnonce = secrets.token_hex(4)
            response = _md5(f"{ha1}:{fields['nonce']}:00000001:{cnonce}:auth:{ha2}")
            extra = f', qop=auth, nc=00000001, cnonce="{cnonce}"'
        else:
            response = _md5(f"{ha1}:{fields['nonce']}:{ha2}")
        name = "Proxy-Authorization" if proxy else "Authorization"
        return (
            f'{name}: Digest username="{self.user}", realm="{fields["realm"]}", nonce="{fields["nonce"]}", '
            f'uri="{uri}", response="{response}"{extra}'
        )

    def register(self, expires: int = 600, *, to: str = "", contact: str = "", password: str = "") -> Message:
        """REGISTER with digest; returns the last answer."""
        uri = f"sip:{self.domain}"
        headers: tuple[str, ...] = (f"Expires: {expires}",)

        def build(extra: tuple[str, ...]) -> str:
            text = self.request("REGISTER", uri, to=to or f"<{self.aor}>", headers=headers + extra)
            return text.replace(f"Contact: <{self.contact}>", f"Contact: {contact}") if contact else text

        answer = self.ask(build(()))
        if answer.status == 401:
            answer = self.ask(build((self.authorization(answer, "REGISTER", uri, password),)))
        if answer.status == 200:
            self.is_registered = expires > 0
        return answer

    def invite(self, uri: str, **options) -> tuple[str, Message]:
        """INVITE, answering a 407; returns the request and the last answer (100 dropped). Not ACKed."""
        headers = options.pop("headers", ())
        text = self.request("INVITE", uri, headers=headers, **options)
        self.send(text)
        answer = self._first()
        if answer.status == 407:
            self.send(self.ack(text, answer))
            self.call_id = f"{secrets.token_hex(8)}@test"
            text = self.request("INVITE", uri, headers=(*headers, self.authorization(answer, "INVITE", uri)), **options)
            self.send(text)
            answer = self._first()
        return text, answer

    def _first(self) -> Message:
        while True:
            message = self.receive()
            assert message is not None, f"{self.user}: INVITE was not answered"
            if message.status > 100:
                return message

    def ack(self, invite: str, answer: Message) -> str:
        """ACK for a final: the INVITE's branch for a failure, a new one by the route set for a 2xx."""
        lines = invite.split("\r\n")
        uri = lines[0].split(" ")[1]
        number = Message(invite).get("CSeq").split(" ")[0]
        if answer.status >= 300:
            return "\r\n".join([
                f"ACK {uri} SIP/2.0", f"Via: {Message(invite).get('Via')}", f"From: {Message(invite).get('From')}",
                f"To: {answer.get('To')}", f"Call-ID: {Message(invite).get('Call-ID')}", f"CSeq: {number} ACK",
                "Max-Forwards: 70", "Content-Length: 0", "", "",
            ])  # fmt: skip
        return self.in_dialog("ACK", invite, answer, cseq=int(number))

    def in_dialog(self, method: str, invite: str, answer: Message, *, cseq: int = 0) -> str:
        """A request of the caller inside the dialog that *answer* made."""
        target = answer.get("Contact").strip("<>").split(">")[0]
        routes = [route for line in answer.all("Record-Route") for route in line.split(",")]
        return self.request(
            method, target, to=answer.get("To"), call_id=Message(invite).get("Call-ID"), cseq=cseq,
            headers=tuple(f"Route: {route.strip()}" for route in reversed(routes)),
        )  # fmt: skip

    def reply(self, request: Message, status: int, reason: str = "OK", *, tag: str = "", headers=(), body="") -> None:
        """Answer a received request the way it came."""
        to = request.get("To")
        if status > 100 and ";tag=" not in to:
            to += f";tag={tag or self.tag}"
        lines = [
            f"SIP/2.0 {status} {reason}",
            *(f"Via: {value}" for value in request.all("Via")),
            *(f"Record-Route: {value}" for value in request.all("Record-Route")),
            f"From: {request.get('From')}",
            f"To: {to}",
            f"Call-ID: {request.get('Call-ID')}",
            f"CSeq: {request.get('CSeq')}",
            f"Contact: <{self.contact}>",
            *headers,
            f"Content-Length: {len(body)}",
        ]
        self.send("\r\n".join(lines) + "\r\n\r\n" + body)


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
