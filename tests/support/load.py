"""Registration load with a client-side ledger: what was acknowledged has to be there, whatever was killed meanwhile.

One thread, one socket. Every registration is REGISTER, 401, REGISTER with digest, 200, with RFC 3261 timer E
retransmissions, so a killed receiver costs time and never a registration.
"""

from __future__ import annotations

import heapq
import itertools
import re
import secrets
import select
import socket
import threading
import time
from hashlib import md5

from support.patience import PATIENCE_S

T1 = 0.5
GIVE_UP_S = 32.0


class Registration:
    """One REGISTER transaction pair under way."""

    def __init__(self, user: str, call_id: str, cseq: int) -> None:
        self.user = user
        self.call_id = call_id
        self.cseq = cseq
        self.text = b""
        self.interval = T1
        self.started = time.monotonic()
        self.sent = self.started  # when the request that waits for its answer was sent first
        self.retransmissions = 0


class RegisterLoad(threading.Thread):
    """Registers *users* (password = name) of *domain* in turn at *rate* per second until stopped."""

    def __init__(
        self,
        server: tuple[str, int],
        users: list[str],
        rate: float,
        domain: str = "example.com",
        *,
        after: RegisterLoad | None = None,
    ) -> None:
        """*after*: a load that has ended, whose socket, ledger and CSeq numbers go on (same phones, same server)."""
        super().__init__(daemon=True)
        self.server = server
        self.users = users
        self.rate = rate
        self.domain = domain
        self.socket = after.socket if after else socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if after is None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.ledger: dict[str, float] = after.ledger if after else {}  # user → monotonic instant of the last 200
        self.refused: dict[int, int] = {}  # status → how often
        self.refusal_s: list[tuple[float, float]] = []  # (instant, seconds from the request that was refused)
        self.gave_up = 0
        self.retransmissions = 0
        self.latencies: list[float] = []
        self.acknowledged = 0
        self.answers: dict[str, int] = {}  # user → what missing() was answered last, 0 = nothing
        self._open: dict[str, Registration] = {}
        self._timers: list[tuple[float, int, Registration, bytes]] = []  # due, serial, whose, the request it repeats
        self._serial = itertools.count()
        self._cseq = after._cseq if after else dict.fromkeys(users, 0)
        self._call_ids = after._call_ids if after else {user: f"{secrets.token_hex(8)}@{user}" for user in users}
        self._stop_offering = threading.Event()
        self._abandoned = threading.Event()

    def contact(self, user: str) -> str:
        return f"sip:{user}@127.0.0.1:{self.port}"

    def run(self) -> None:
        turn = itertools.cycle(self.users)
        next_at = time.monotonic()
        while not self._abandoned.is_set() and (not self._stop_offering.is_set() or self._open):
            now = time.monotonic()
            while not self._stop_offering.is_set() and next_at <= now:
                self._begin(next(turn))
                next_at += 1 / self.rate
            self._retransmit(now)
            wake = min(next_at if not self._stop_offering.is_set() else now + 0.05, now + 0.05)
            ready, _, _ = select.select([self.socket], [], [], max(0.0, wake - time.monotonic()))
            if ready:
                self._drain()

    def finish(self, timeout: float = GIVE_UP_S + PATIENCE_S) -> None:
        """Offer no more, wait for what is under way."""
        self._stop_offering.set()
        self.join(timeout)
        assert not self.is_alive(), "the load did not end"

    def abandon(self) -> None:
        """Offer no more and forget what is under way (the server is dead). A 200 that has left it still counts."""
        self._stop_offering.set()
        self._abandoned.set()
        self.join(5)
        assert not self.is_alive(), "the load did not end"
        while self._drain():
            pass
        self._open.clear()
        self._timers.clear()

    def _begin(self, user: str) -> None:
        call_id = self._call_ids[user]
        if call_id in self._open:
            return  # still busy with the last one
        self._cseq[user] += 1
        registration = Registration(user, call_id, self._cseq[user])
        self._open[call_id] = registration
        self._send(registration, "")

    def _send(self, registration: Registration, extra: str) -> None:
        user = registration.user
        registration.text = (
            f"REGISTER sip:{self.domain} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{secrets.token_hex(8)};rport\r\n"
            f"From: <sip:{user}@{self.domain}>;tag=1\r\nTo: <sip:{user}@{self.domain}>\r\n"
            f"Call-ID: {registration.call_id}\r\nCSeq: {registration.cseq} REGISTER\r\n"
            f"Contact: <{self.contact(user)}>\r\nExpires: 600\r\nMax-Forwards: 70\r\n{extra}Content-Length: 0\r\n\r\n"
        ).encode()
        registration.interval = T1
        registration.sent = time.monotonic()
        self.socket.sendto(registration.text, self.server)
        heapq.heappush(self._timers, (time.monotonic() + T1, next(self._serial), registration, registration.text))
        registration.retransmissions = 0

    def _retransmit(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, registration, text = heapq.heappop(self._timers)
            if self._open.get(registration.call_id) is not registration or text is not registration.text:
                continue
            if now - registration.started > GIVE_UP_S:
                del self._open[registration.call_id]
                self.gave_up += 1
                continue
            self.retransmissions += 1
            self.socket.sendto(registration.text, self.server)
            registration.interval = min(registration.interval * 2, 4.0)
            heapq.heappush(self._timers, (now + registration.interval, next(self._serial), registration, text))

    def _drain(self) -> bool:
        """Take up to 200 datagrams; False when there are no more."""
        for _ in range(200):
            try:
                text = self.socket.recv(65536, socket.MSG_DONTWAIT).decode()
            except BlockingIOError:
                return False
            if text.startswith("SIP/2.0 "):
                self._answer(text)
        return True

    def _answer(self, text: str) -> None:
        status = int(text[8:11])
        match = re.search(r"^Call-ID: (.*?)\r$", text, re.MULTILINE)
        registration = self._open.get(match.group(1)) if match else None
        if registration is None or f"CSeq: {registration.cseq} " not in text or status < 200:
            return
        if status == 401:
            registration.cseq += 1
            self._cseq[registration.user] = registration.cseq
            self._send(registration, self._authorization(registration.user, text))
            return
        del self._open[registration.call_id]
        if status == 200:
            self.acknowledged += 1
            self.ledger[registration.user] = time.monotonic()
            self.latencies.append(time.monotonic() - registration.started)
        else:
            self.refused[status] = self.refused.get(status, 0) + 1
            now = time.monotonic()
            self.refusal_s.append((now, now - registration.sent))

    def _authorization(self, user: str, challenge: str) -> str:
        realm = re.search(r'realm="([^"]*)"', challenge)[1]
        nonce = re.search(r'nonce="([^"]*)"', challenge)[1]
        ha1 = md5(f"{user}:{realm}:{user}".encode()).hexdigest()
        uri = f"sip:{self.domain}"
        ha2 = md5(f"REGISTER:{uri}".encode()).hexdigest()
        cnonce = secrets.token_hex(4)
        response = md5(f"{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}".encode()).hexdigest()
        return (
            f'Authorization: Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", '
            f'response="{response}", qop=auth, nc=00000001, cnonce="{cnonce}"\r\n'
        )

    def missing(self, lifetime: float = 590.0, patience: float = PATIENCE_S) -> list[str]:
        """Users whose acknowledged, unexpired binding an INVITE does not find. Call after finish().

        An INVITE that is answered 5xx, or not at all, is sent again for *patience* seconds: a receiver may say so for a
        moment after the database or a child has come back. What the last one was answered is in ``answers``.
        """
        now = time.monotonic()
        wanted = {user for user, at in self.ledger.items() if now - at < lifetime}
        self.answers = {}
        definite = 0  # rounds in which all that is missing was refused for good
        while wanted:
            for chunk in _chunks(wanted):
                wanted -= self._ring(chunk)
            definite += all(400 <= self.answers.get(user, 0) < 500 for user in wanted)
            if definite >= 3 or time.monotonic() - now > patience:
                break
            time.sleep(0.2 if wanted else 0)
        return sorted(wanted)

    def _ring(self, users) -> set[str]:
        """INVITE each of *users* from a foreign domain; those whose phone (this socket) rang."""
        waiting: dict[str, str] = {}
        for user in users:
            branch = f"z9hG4bK{secrets.token_hex(8)}"
            call_id = f"{secrets.token_hex(8)}@check"
            waiting[call_id] = user
            self.answers[user] = 0
            self.socket.sendto(
                (
                    f"INVITE sip:{user}@{self.domain} SIP/2.0\r\n"
                    f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch};rport\r\n"
                    f"From: <sip:checker@elsewhere.invalid>;tag={secrets.token_hex(4)}\r\n"
                    f"To: <sip:{user}@{self.domain}>\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n"
                    f"Contact: <sip:checker@127.0.0.1:{self.port}>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
                ).encode(),
                self.server,
            )
        found: set[str] = set()
        deadline = time.monotonic() + 3
        while waiting and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self.socket], [], [], left)
            if not ready:
                break
            text = self.socket.recv(65536).decode()
            if text.startswith("INVITE "):
                if _call_id(text) in waiting:
                    found.add(text[11 : text.index("@")])
                self._busy(text)
            elif re.match(r"SIP/2.0 [3-6]", text) and (user := waiting.pop(_call_id(text), "")):
                self._ack(text)
                self.answers[user] = int(text[8:11])
        return found

    def _busy(self, invite: str) -> None:
        head = [
            line for line in invite.split("\r\n")
            if line.split(":", 1)[0].lower() in ("via", "from", "to", "call-id", "cseq", "record-route")
        ]  # fmt: skip
        lines = [f"{line};tag=busy" if line.startswith("To:") else line for line in head]
        text = "\r\n".join(["SIP/2.0 486 Busy Here", *lines, "Content-Length: 0", "", ""])
        self.socket.sendto(text.encode(), self.server)

    def _ack(self, answer: str) -> None:
        fields = {line.split(":", 1)[0].lower(): line for line in answer.split("\r\n") if ":" in line}
        uri = re.search(r"<(sip:[^>]*)>", fields["to"])[1]
        text = (
            f"ACK {uri} SIP/2.0\r\n{fields['via']}\r\n{fields['from']}\r\n{fields['to']}\r\n{fields['call-id']}\r\n"
            "CSeq: 1 ACK\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        self.socket.sendto(text.encode(), self.server)


def _call_id(text):
    match = re.search(r"^Call-ID: (.*?)\r$", text, re.MULTILINE)
    return match[1] if match else ""


def _chunks(users):
    ordered = sorted(users)
    return [ordered[start : start + 50] for start in range(0, len(ordered), 50)]
