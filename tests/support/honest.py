"""Honest phones beside an attack: they register and call each other, and note how long they waited.

One thread, a socket for each phone. A transaction is repeated as RFC 3261 says and has failed after GIVE_UP_S. Every
registration and every call answers a challenge of its own. Runs where the caller runs it: a process of its own, best.
"""

from __future__ import annotations

import heapq
import itertools
import re
import secrets
import select
import socket
import time
from hashlib import md5

T1 = 0.5
T2 = 4.0
GIVE_UP_S = 16.0
DOMAIN = "example.com"
_PARAM = re.compile(r'(realm|nonce)="([^"]*)"')


class Work:
    """A registration or a call under way: the text that is repeated until it is answered."""

    def __init__(self, kind: str, phone: Honest, peer: Honest | None, now: float) -> None:
        self.kind = kind
        self.phone = phone
        self.peer = peer
        self.started = now
        self.call_id = f"{secrets.token_hex(8)}@{phone.user}"
        self.cseq = 1
        self.step = ""
        self.text = b""
        self.interval = T1
        self.challenged = False


class Honest:
    """One phone: password = user."""

    def __init__(self, user: str, host: str) -> None:
        self.user = user
        self.host = host
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.port = self.socket.getsockname()[1]
        self.aor = f"sip:{user}@{DOMAIN}"


class HonestTown:
    """*hosts* are given to the phones in turn; results by (kind, host)."""

    def __init__(self, server: tuple[str, int], users: list[str], hosts: list[str]) -> None:
        self.server = server
        self.phones = [Honest(user, hosts[at % len(hosts)]) for at, user in enumerate(users)]
        self.waited: dict[tuple[str, str], list[tuple[float, float]]] = {}  # (started, seconds)
        self.failed: dict[tuple[str, str], list[tuple[float, str]]] = {}
        self._open: dict[str, Work] = {}
        self._timers: list[tuple[float, int, str, int]] = []
        self._serial = itertools.count()
        self._poll = select.epoll()
        self._by_fd = {}
        for phone in self.phones:
            self._poll.register(phone.socket.fileno(), select.EPOLLIN)
            self._by_fd[phone.socket.fileno()] = phone

    def close(self) -> None:
        for phone in self.phones:
            phone.socket.close()
        self._poll.close()

    def register_all(self) -> None:
        for phone in self.phones:
            self._begin(Work("register", phone, None, time.monotonic()))
            self._turn(0.01)
        end = time.monotonic() + GIVE_UP_S
        while self._open and time.monotonic() < end:
            self._turn(0.05)
        assert not self.failed, self.failed
        self.waited.clear()

    def run(self, seconds: float, registrations: float, calls: float) -> None:
        """Go on for *seconds* with so many a second, and until what was begun has ended."""
        start = time.monotonic()
        turn = itertools.cycle(range(len(self.phones)))
        due = [(start, "register", registrations), (start, "call", calls)]
        due = [(at, kind, rate) for at, kind, rate in due if rate > 0]
        heapq.heapify(due)
        while (now := time.monotonic()) < start + seconds:
            while due and due[0][0] <= now:
                at, kind, rate = heapq.heappop(due)
                heapq.heappush(due, (at + 1 / rate, kind, rate))
                phone = self.phones[next(turn)]
                peer = self.phones[next(turn)] if kind == "call" else None
                self._begin(Work(kind, phone, peer, now))
            self._turn(max(0.0, min(0.05, (due[0][0] if due else now + 0.05) - now)))
        while self._open:
            self._turn(0.05)

    # --- transactions

    def _begin(self, work: Work) -> None:
        self._open[work.call_id] = work
        self._next(work, "REGISTER" if work.kind == "register" else "INVITE")

    def _next(
        self, work: Work, method: str, extra: str = "", to_tag: str = "", uri: str = "", routes: str = ""
    ) -> None:
        phone = work.phone
        target = uri or (f"sip:{DOMAIN}" if method == "REGISTER" else work.peer.aor)
        to = phone.aor if method == "REGISTER" else work.peer.aor
        text = (
            f"{method} {target} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {phone.host}:{phone.port};branch=z9hG4bK{secrets.token_hex(8)};rport\r\n"
            f"{routes}From: <{phone.aor}>;tag={work.call_id[:8]}\r\nTo: <{to}>{';tag=' + to_tag if to_tag else ''}\r\n"
            f"Call-ID: {work.call_id}\r\nCSeq: {work.cseq} {method}\r\nMax-Forwards: 70\r\n"
            f"Contact: <sip:{phone.user}@{phone.host}:{phone.port}>\r\n{extra}Content-Length: 0\r\n\r\n"
        )
        data = text.encode()
        phone.socket.sendto(data, self.server)
        if method == "ACK":
            return
        work.step, work.text, work.interval = method, data, T1
        self._arm(work)

    def _arm(self, work: Work) -> None:
        heapq.heappush(self._timers, (time.monotonic() + work.interval, next(self._serial), work.call_id, work.cseq))

    def _turn(self, timeout: float) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, call_id, cseq = heapq.heappop(self._timers)
            work = self._open.get(call_id)
            if work is None or work.cseq != cseq:
                continue
            if now - work.started > GIVE_UP_S:
                self._end(work, f"{work.step} timeout")
                continue
            work.phone.socket.sendto(work.text, self.server)
            work.interval = min(T2, work.interval * 2)
            self._arm(work)
        for fd, _ in self._poll.poll(timeout):
            phone = self._by_fd[fd]
            for _ in range(20):
                try:
                    data = phone.socket.recv(65536)
                except OSError:
                    break
                self._take(phone, data.decode("utf-8", "surrogateescape"))

    def _end(self, work: Work, failure: str = "") -> None:
        del self._open[work.call_id]
        key = (work.kind, work.phone.host)
        if failure:
            self.failed.setdefault(key, []).append((work.started, failure))

    def _answered(self, work: Work) -> None:
        key = (work.kind, work.phone.host)
        self.waited.setdefault(key, []).append((work.started, time.monotonic() - work.started))

    # --- what comes

    def _take(self, phone: Honest, text: str) -> None:
        if not text.startswith("SIP/2.0 "):
            self._serve(phone, text)
            return
        status = int(text[8:11])
        work = self._open.get(_header(text, "Call-ID"))
        cseq = _header(text, "CSeq").split()
        if work is None or work.phone is not phone or cseq != [str(work.cseq), work.step] or status < 200:
            return
        if work.step == "INVITE" and status >= 300:
            self._acknowledge(work, text)
        if status in (401, 407) and not work.challenged:
            work.challenged = True
            work.cseq += 1
            self._next(work, work.step, extra=_credentials(work, text, status))
        elif status >= 300:
            self._end(work, f"{work.step} {status}")
        elif work.step == "INVITE":
            self._answered(work)
            found = re.search(r";tag=([^;\r]+)", _header(text, "To"))
            tag = found[1] if found else ""
            routes = "".join(f"Route: {value}\r\n" for value in reversed(_headers(text, "Record-Route")))
            target = _header(text, "Contact").partition("<")[2].partition(">")[0]
            self._next(work, "ACK", to_tag=tag, uri=target, routes=routes)
            work.cseq += 1
            self._next(work, "BYE", to_tag=tag, uri=target, routes=routes)
        else:
            if work.kind == "register":
                self._answered(work)
            self._end(work)

    def _acknowledge(self, work: Work, answer: str) -> None:
        """The ACK of a negative answer: that of its hop."""
        sent = work.text.decode()
        via = re.search(r"\nVia: ([^\r]*)", sent)
        uri = sent.split(" ", 2)[1]
        text = (
            f"ACK {uri} SIP/2.0\r\nVia: {via[1] if via else ''}\r\nFrom: {_header(answer, 'From')}\r\n"
            f"To: {_header(answer, 'To')}\r\nCall-ID: {work.call_id}\r\nCSeq: {work.cseq} ACK\r\nMax-Forwards: 70\r\n"
            "Content-Length: 0\r\n\r\n"
        )
        work.phone.socket.sendto(text.encode(), self.server)

    def _serve(self, phone: Honest, text: str) -> None:
        """A request to one of our phones: a call is answered at once, everything else is fine, too."""
        method = text.split(" ", 1)[0]
        if method == "ACK":
            return
        lines = ["SIP/2.0 200 OK"]
        for name in ("Via", "Record-Route", "From", "To", "Call-ID", "CSeq"):
            for value in _headers(text, name):
                tag = ";tag=callee" if name == "To" and ";tag=" not in value else ""
                lines.append(f"{name}: {value}{tag}")
        lines += [f"Contact: <sip:{phone.user}@{phone.host}:{phone.port}>", "Content-Length: 0", "", ""]
        phone.socket.sendto("\r\n".join(lines).encode(), self.server)


def _headers(text: str, name: str) -> list[str]:
    head = text.partition("\r\n\r\n")[0]
    return [
        line.partition(":")[2].strip()
        for line in head.split("\r\n")[1:]
        if line.partition(":")[0].lower() == name.lower()
    ]


def _header(text: str, name: str) -> str:
    values = _headers(text, name)
    return values[0] if values else ""


def _credentials(work: Work, answer: str, status: int) -> str:
    name, given = (
        ("WWW-Authenticate", "Authorization") if status == 401 else ("Proxy-Authenticate", "Proxy-Authorization")
    )
    parts = dict(_PARAM.findall(_header(answer, name)))
    user = work.phone.user
    return f"{given}: {digest(user, user, parts, work.step, work.text.decode().split(' ', 2)[1])}\r\n"


def digest(user: str, password: str, parts: dict[str, str], method: str, uri: str, nc: int = 1) -> str:
    """The value of a header that answers the challenge *parts*."""
    ha1 = md5(f"{user}:{parts['realm']}:{password}".encode()).hexdigest()
    ha2 = md5(f"{method}:{uri}".encode()).hexdigest()
    response = md5(f"{ha1}:{parts['nonce']}:{nc:08x}:c0ffee:auth:{ha2}".encode()).hexdigest()
    return (
        f'Digest username="{user}", realm="{parts["realm"]}", nonce="{parts["nonce"]}", uri="{uri}", '
        f'response="{response}", qop=auth, nc={nc:08x}, cnonce="c0ffee"'
    )
