"""Calls from a foreign domain to registered users: INVITE, 180, 200, ACK, BYE, 200, with retransmissions.

One thread, one socket for both ends. A call that loses its receiver is carried on by retransmissions as phones do; one
that is not torn down within the patience counts as failed, with where it was.
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

from support.patience import PATIENCE_S
from support.phone import Message, Phone

T1 = 0.5
GIVE_UP_S = 32.0


class Call:
    """The caller's side of one call; *step* is what it waits for."""

    def __init__(self, call_id: str, callee: str, text: str) -> None:
        self.call_id = call_id
        self.callee = callee
        self.text = text  # what is being sent until it is answered
        self.step = "INVITE"
        self.started = time.monotonic()
        self.interval = T1
        self.is_provisional = False


class CallLoad(threading.Thread):
    """Calls *callees* of *domain* (password = name, registered by ``register``) in turn at *rate* per second."""

    def __init__(self, server: tuple[str, int], callees: list[str], rate: float, domain: str = "example.com") -> None:
        super().__init__(daemon=True)
        self.server = server
        self.callees = callees
        self.rate = rate
        self.domain = domain
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.offered = 0
        self.completed = 0
        self.failed: dict[str, int] = {}  # "INVITE 500", "BYE timeout" … → how often
        self.retransmissions = 0
        self.setup_s: list[float] = []
        self._open: dict[str, Call] = {}
        self._unacked: dict[str, tuple[str, float]] = {}  # the callee's 200 → (text, interval)
        self._timers: list[tuple[float, int, str, str]] = []  # (due, serial, "caller" or "callee", Call-ID)
        self._serial = itertools.count()
        self._stop_offering = threading.Event()

    def register(self) -> None:
        """Bind all callees to our socket."""
        for callee in self.callees:
            phone = Phone(self.server, callee, self.domain, callee)
            answer = phone.register(3600, contact=f"<sip:{callee}@127.0.0.1:{self.port}>")
            assert answer.status == 200, answer
            phone.close()

    def run(self) -> None:
        turn = itertools.cycle(self.callees)
        next_at = time.monotonic()
        while not self._stop_offering.is_set() or self._open:
            now = time.monotonic()
            while not self._stop_offering.is_set() and next_at <= now:
                self._begin(next(turn))
                next_at += 1 / self.rate
            self._retransmit(now)
            ready, _, _ = select.select([self.socket], [], [], min(0.05, max(0.0, next_at - time.monotonic())))
            if ready:
                self._drain()

    def finish(self, timeout: float = 2 * GIVE_UP_S + PATIENCE_S) -> None:
        """Offer no more, wait for what is under way."""
        self._stop_offering.set()
        self.join(timeout)
        assert not self.is_alive(), "the calls did not end"

    def _send(self, text: str) -> None:
        self.socket.sendto(text.encode(), self.server)

    def _begin(self, callee: str) -> None:
        call_id = f"{secrets.token_hex(10)}@calls"
        text = (
            f"INVITE sip:{callee}@{self.domain} SIP/2.0\r\n{self._via()}"
            f"From: <sip:caller@elsewhere.invalid>;tag={secrets.token_hex(4)}\r\nTo: <sip:{callee}@{self.domain}>\r\n"
            f"Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContact: <sip:caller@127.0.0.1:{self.port}>\r\n"
            "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        self.offered += 1
        self._open[call_id] = Call(call_id, callee, text)
        self._send(text)
        self._arm(T1, "caller", call_id)

    def _via(self) -> str:
        return f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{secrets.token_hex(8)};rport\r\n"

    def _arm(self, delay: float, side: str, call_id: str) -> None:
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._serial), side, call_id))

    def _retransmit(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, side, call_id = heapq.heappop(self._timers)
            if side == "callee":
                self._repeat_200(call_id)
            elif (call := self._open.get(call_id)) is not None:
                self._repeat(call, now)

    def _repeat(self, call: Call, now: float) -> None:
        if now - call.started > GIVE_UP_S:
            self._fail(call, "timeout")
            return
        if not call.is_provisional:
            self.retransmissions += 1
            self._send(call.text)
        call.interval = min(call.interval * 2, 4.0)
        self._arm(call.interval, "caller", call.call_id)

    def _repeat_200(self, call_id: str) -> None:
        text, interval = self._unacked.get(call_id, ("", 0.0))
        if not text:
            return
        if interval > 16:
            del self._unacked[call_id]
            return
        self.retransmissions += 1
        self._send(text)
        self._unacked[call_id] = (text, interval * 2)
        self._arm(min(interval * 2, 4.0), "callee", call_id)

    def _drain(self) -> None:
        for _ in range(200):
            try:
                message = Message(self.socket.recv(65536, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return
            if message.status:
                self._response(message)
            else:
                self._request(message)

    # ---- the callee

    def _request(self, request: Message) -> None:
        call_id = request.get("Call-ID")
        if request.method == "ACK":
            self._unacked.pop(call_id, None)
        elif request.method == "INVITE":
            self._send(self._reply(request, "180 Ringing"))
            text = self._reply(request, "200 OK")
            if call_id not in self._unacked:
                self._arm(T1, "callee", call_id)
            self._unacked[call_id] = (text, T1)
            self._send(text)
        else:
            self._send(self._reply(request, "200 OK"))

    def _reply(self, request: Message, status: str) -> str:
        to = request.get("To")
        if ";tag=" not in to:
            to += ";tag=callee"
        callee = request.split(" ", 2)[1].removeprefix("sip:").split("@")[0]
        lines = [f"SIP/2.0 {status}", *(f"Via: {value}" for value in request.all("Via"))]
        lines += [f"Record-Route: {value}" for value in request.all("Record-Route")]
        lines += [f"{name}: {request.get(name)}" for name in ("From", "Call-ID", "CSeq")]
        lines += [f"To: {to}", f"Contact: <sip:{callee}@127.0.0.1:{self.port}>", "Content-Length: 0", "", ""]
        return "\r\n".join(lines)

    # ---- the caller

    def _response(self, response: Message) -> None:
        _, _, method = response.get("CSeq").partition(" ")
        call = self._open.get(response.get("Call-ID"))
        status = response.status
        if method == "INVITE" and 200 <= status < 300:
            self._send(self._in_dialog("ACK", 1, response))
            if call is not None and call.step == "INVITE":
                self.setup_s.append(time.monotonic() - call.started)
                call.step, call.text, call.interval = "BYE", self._in_dialog("BYE", 2, response), T1
                call.is_provisional = False
                call.started = time.monotonic()
                self._send(call.text)
        elif method == "INVITE" and status >= 300:
            self._send(self._ack(response))
            if call is not None and call.step == "INVITE":
                self._fail(call, str(status))
        elif call is None or method != call.step:
            return
        elif status < 200:
            call.is_provisional = method == "INVITE"
        elif status < 300:
            self.completed += 1
            del self._open[call.call_id]
        else:
            self._fail(call, str(status))

    def _fail(self, call: Call, why: str) -> None:
        where = f"{call.step} {why}" + (" after 1xx" if call.is_provisional else "")
        self.failed[where] = self.failed.get(where, 0) + 1
        del self._open[call.call_id]

    def _in_dialog(self, method: str, cseq: int, answer: Message) -> str:
        target = answer.get("Contact").strip("<>")
        routes = [f"Route: {value}\r\n" for value in reversed(answer.all("Record-Route"))]
        return (
            f"{method} {target} SIP/2.0\r\n{self._via()}{''.join(routes)}From: {answer.get('From')}\r\n"
            f"To: {answer.get('To')}\r\nCall-ID: {answer.get('Call-ID')}\r\nCSeq: {cseq} {method}\r\n"
            "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )

    def _ack(self, answer: Message) -> str:
        uri = re.search(r"<(sip:[^>]*)>", answer.get("To"))
        assert uri is not None
        return (
            f"ACK {uri[1]} SIP/2.0\r\nVia: {answer.get('Via')}\r\nFrom: {answer.get('From')}\r\nTo: {answer.get('To')}\r\n"
            f"Call-ID: {answer.get('Call-ID')}\r\nCSeq: 1 ACK\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
