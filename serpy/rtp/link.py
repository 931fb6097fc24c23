"""One question to a media proxy and its answer, without holding up anybody else.

UDP: one connected socket per proxy and process, always registered with the loop. A question carries a cookie, is
repeated until it is answered, and its handler is parked meanwhile, with a place of ``waiters.media``. A Unix stream
socket is opened for each question. A closed port is noticed at once: the kernel reports it on the connected socket.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.errors import ResourceError

if TYPE_CHECKING:
    from serpy.net.loop import Loop, Ticket, Timer
    from serpy.rtp.nodes import Node

ANSWERED: Final = 0
SILENT: Final = 1  # no answer in time, or nobody listens: the proxy is down
BUSY: Final = 2  # too many questions wait already: says nothing about the proxy

READS_MAX: Final = 64  # answers taken in one go
_LARGEST: Final = 65535
_UNIX_ANSWER_MAX: Final = 4096
_SLACK_S: Final = 0.05  # the last repetition's timer ends the wait, not the deadline of the park


class Answer:
    """How a question ended; *data* is the answer without its cookie."""

    def __init__(self, outcome: int, data: bytes = b"") -> None:
        self.outcome: Final = outcome
        self.data: Final = data


_SILENT: Final = Answer(SILENT)
_BUSY: Final = Answer(BUSY)


class Timeouts:
    """How often a question is sent and how long each time is waited for."""

    def __init__(self, tries: int, each_s: float) -> None:
        self.tries: Final = max(1, tries)
        self.each_s: Final = each_s

    @property
    def total_s(self) -> float:
        """The longest wait for one answer."""
        return self.tries * self.each_s


class Question:
    """One datagram on its way. *ticket* is None when nobody waits for the answer."""

    def __init__(self, cookie: bytes, datagram: bytes, ticket: Ticket | None, tries: int, answers: int) -> None:
        self.cookie: Final = cookie
        self.datagram: Final = datagram
        self.ticket: Final = ticket
        self.tries_left = tries
        self.answers_before: Final = answers  # how many the proxy had given when this was asked
        self.timer: Timer | None = None


class UdpLink:
    """The socket to one proxy. *on_silence(node)* is called when a question has found no answer."""

    def __init__(
        self, loop: Loop, node: Node, timeouts: Timeouts, most: int, on_silence: Callable[[Node], None],
        on_stray: Callable[[], None],
    ) -> None:  # fmt: skip
        self._loop: Final = loop
        self._most: Final = most  # questions that may wait here: one proxy that hangs leaves places for the others
        self._node: Final = node
        self._timeouts: Final = timeouts
        self._on_silence: Final = on_silence
        self._on_stray: Final = on_stray  # an answer nobody waits for: late, or with a wrong cookie
        self._socket: socket.socket | None = None
        self._waiting: Final[dict[bytes, Question]] = {}
        self._prefix: Final = f"{os.getpid()}{secrets.token_hex(3)}_"
        self._number = 0
        self._answers = 0
        self.is_suspect = False  # a question had to be repeated and nothing has been answered since

    def start(self, payload: bytes, *, wanted: bool) -> Question | None:
        """Send *payload*; None when too many questions wait. With *wanted*, ``result()`` must follow."""
        if len(self._waiting) >= self._most:
            return None
        self._number += 1
        cookie = f"{self._prefix}{self._number}".encode("ascii")
        ticket = self._loop.new_ticket() if wanted else None
        question = Question(cookie, cookie + b" " + payload, ticket, self._timeouts.tries, self._answers)
        self._waiting[cookie] = question
        self._send(question)
        return question

    def result(self, question: Question) -> Answer:
        """The answer to *question*, in time or not. Parks: hold a place. Raises ResourceError."""
        ticket = question.ticket
        assert ticket is not None
        try:
            deadline = self._loop.now() + self._timeouts.total_s + _SLACK_S
            answer = self._loop.wait(ticket, deadline)
        finally:
            self._forget(question)
        return answer if isinstance(answer, Answer) else _SILENT

    def abandon(self, question: Question) -> None:
        """Forget a question whose answer is not wanted any more."""
        self._forget(question)
        if question.ticket is not None:
            self._loop.drop(question.ticket)

    def give_up(self) -> None:
        """End all questions that wait: the proxy is known to be down."""
        for question in list(self._waiting.values()):
            self._end(question, _SILENT)

    def close(self) -> None:
        """Give the socket back."""
        self.give_up()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _send(self, question: Question) -> None:
        question.tries_left -= 1
        loop = self._loop
        question.timer = loop.call_at(loop.now() + self._timeouts.each_s, lambda: self._unanswered(question))
        try:
            if self._socket is None:
                self._socket = self._open()
            self._socket.send(question.datagram)
        except ConnectionRefusedError:
            self._refused()
        except OSError:  # full, or no route for the moment: as if lost, the repetition tries again
            return

    def _open(self) -> socket.socket:
        node = self._node
        family, _, _, _, address = socket.getaddrinfo(
            node.host, node.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(address)
            self._loop.add_reader(sock.fileno(), self._read)
        except OSError:
            sock.close()
            raise
        return sock

    def _read(self) -> None:
        sock = self._socket
        if sock is None:
            return
        for _ in range(READS_MAX):
            try:
                data = sock.recv(_LARGEST)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                self._refused()
                return
            except OSError:
                return
            cookie, _, answer = data.partition(b" ")
            question = self._waiting.get(cookie)
            if question is None:
                self._on_stray()
            else:
                self.is_suspect = False
                self._answers += 1
                self._end(question, Answer(ANSWERED, answer))
            if not self._waiting:
                return  # nothing can be there but strays: they may wait for the next poll

    def _unanswered(self, question: Question) -> None:
        question.timer = None
        if question.cookie not in self._waiting:
            return
        self.is_suspect = True
        if question.tries_left > 0:
            self._send(question)
            return
        self._end(question, _SILENT)
        if question.answers_before == self._answers:
            # Else it answers others: it is overloaded, or this one question (a stranger's names) is too much for it.
            self._on_silence(self._node)

    def _refused(self) -> None:
        if self._waiting:
            self.give_up()
            self._on_silence(self._node)

    def _end(self, question: Question, answer: Answer) -> None:
        self._forget(question)
        if question.ticket is not None:
            self._loop.resume(question.ticket.id, answer)

    def _forget(self, question: Question) -> None:
        self._waiting.pop(question.cookie, None)
        if question.timer is not None:
            question.timer.cancel()
            question.timer = None


def ask_unix(loop: Loop, path: str, payload: bytes, deadline: float) -> Answer:
    """Ask once over the stream socket at *path*. Parks until *deadline* at most. Raises ResourceError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
                break
            except BlockingIOError:  # its queue of new connections is full
                if loop.now() + 0.01 >= deadline:
                    return _SILENT
                loop.sleep(0.01)
        sock.sendall(payload + b"\n")  # a fresh socket has room for a command
        received = b""
        while b"\n" not in received and len(received) < _UNIX_ANSWER_MAX:
            if not loop.wait_readable(sock.fileno(), deadline):
                return _SILENT
            more = sock.recv(_UNIX_ANSWER_MAX)
            if not more:
                break
            received += more
        return Answer(ANSWERED, received) if received else _SILENT
    except OSError:
        return _SILENT
    finally:
        with contextlib.suppress(OSError):
            sock.close()


class UnixLink:
    """The questions of one process to a proxy at a Unix socket: they are counted, nothing is kept open."""

    def __init__(
        self, loop: Loop, node: Node, timeouts: Timeouts, most: int, on_silence: Callable[[Node], None]
    ) -> None:  # fmt: skip
        self._loop: Final = loop
        self._most: Final = most
        self._node: Final = node
        self._timeouts: Final = timeouts
        self._on_silence: Final = on_silence
        self._asking = 0

    def ask(self, payload: bytes) -> Answer:
        """The answer to *payload*, in time or not. Parks: hold a place. Raises ResourceError."""
        if self._asking >= self._most:
            return _BUSY
        self._asking += 1
        try:
            answer = ask_unix(self._loop, self._node.path, payload, self._loop.now() + self._timeouts.total_s)
        finally:
            self._asking -= 1
        if answer.outcome == SILENT:
            self._on_silence(self._node)
        return answer

    def tell(self, payload: bytes) -> None:
        """Ask in the background; the answer is not of interest."""

        def later() -> None:
            with contextlib.suppress(ResourceError), self._loop.waiters.media:
                self.ask(payload)

        self._loop.spawn(later)


def ask_all(loop: Loop, link: UdpLink | UnixLink, payloads: list[bytes]) -> list[Answer]:
    """The answers to *payloads*, asked at the same time where the socket allows it. Parks. Raises ResourceError."""
    room = loop.waiters.media
    try:
        room.enter()
    except ResourceError:
        return [_BUSY]
    try:
        answers = _ask_each(link, payloads) if isinstance(link, UnixLink) else _ask_together(link, payloads)
        for answer in answers:
            if answer.outcome == SILENT:
                room.timeouts += 1
                break
        return answers
    finally:
        room.leave()


def _ask_each(link: UnixLink, payloads: list[bytes]) -> list[Answer]:
    answers: list[Answer] = []
    for payload in payloads:
        answers.append(link.ask(payload))
        if answers[-1].outcome != ANSWERED:
            break
    return answers


def _ask_together(link: UdpLink, payloads: list[bytes]) -> list[Answer]:
    questions = [link.start(payload, wanted=True) for payload in payloads]
    try:
        return [_BUSY if question is None else link.result(question) for question in questions]
    except ResourceError:
        for question in questions:
            if question is not None:
                link.abandon(question)
        raise


def tell(link: UdpLink | UnixLink, payload: bytes) -> bool:
    """Send *payload*, repeated until it is answered, without waiting; False when too many questions wait."""
    if isinstance(link, UnixLink):
        link.tell(payload)
        return True
    return link.start(payload, wanted=False) is not None
