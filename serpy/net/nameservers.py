"""One question to the name servers at a time for each name and type, answered to all who want to know.

A question lives by itself: it is repeated, goes from server to server and ends with the records, with an error, or by its
deadline; handlers only wait for it, with a place of ``waiters.dns``. Answers are kept for their TTL, absence for what the
zone says, failure for FAILED_S. A server that has answered nothing since it was asked comes last until a trial succeeds.

A forger has to guess the id and our port (both random, a socket is connected to its server and changed when idle) while
one question is out. An answer that is cut off is asked for again over TCP.

Runs in: udp receiver, timer. Locks: none. RFC: 1035 §4.2; 2308 §5, §7; 5452.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import socket
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serpy.config import name_server
from serpy.errors import BackendError, ResourceError
from serpy.net.dnswire import Answer, Records, parsed, rendered
from serpy.net.waiters import Crowd, Failures, Fuse
from serpy.sip.address import plain_address

if TYPE_CHECKING:
    from serpy.config import Settings
    from serpy.net.loop import Loop, Timer

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S: Final = 2.0
DEFAULT_RETRIES: Final = 2
ENTRY_BYTES: Final = 512  # an answer in memory, roughly: turns dns_cache_mem into a count
MAX_ASKED: Final = 4096  # questions under way; more are not asked ahead
FAILED_S: Final = 5.0  # for which a name that could not be found out is not asked for again
SILENT_S: Final = 5.0  # for which a silent server comes last at first
MAX_SILENT_S: Final = 60.0
SHORTEST_S: Final = 0.5  # for which a handler may wait even when others want its place
GIVE_UP: Final = "give up"
PORT_LIFE_S: Final = 60.0  # after which an idle socket is changed

Key = tuple[str, str]  # (lower-case name, type)

_TCP_CHUNK: Final = 65535


class Server:
    """One name server: our socket to it and the questions out there. *fuse* blows when it is silent."""

    def __init__(self, address: tuple[str, int], trial_s: float) -> None:
        self.address: Final = address
        self.fuse: Final = Fuse(SILENT_S, MAX_SILENT_S, trial_s)
        self.asked: Final[dict[int, Question]] = {}  # by query id
        self.answers = 0
        self.sock: socket.socket | None = None
        self.change_at = 0.0


class Question:
    """One question under way and who waits for its end; then ``records`` or ``error`` is there."""

    def __init__(self, key: Key, wire: bytes, crowd: Crowd, servers: list[Server], tries: int) -> None:
        self.key: Final = key
        self.wire: Final = wire  # without the id
        self.crowd: Final = crowd
        self.servers: Final = servers  # those left to ask, the best first; one that refuses is taken out
        self.tries_left = tries
        self.deadline = 0.0
        self.records: Records | None = None
        self.error = ""
        self.sent: Final[list[tuple[Server, int]]] = []
        self.timer: Timer | None = None
        self.last: Server | None = None
        self.answers_before = 0  # how many the last server had given when it was asked

    @property
    def is_over(self) -> bool:
        """True when nothing more will come."""
        return self.records is not None or self.error != ""


class NameServers:
    """The name servers of one process. *servers* are addresses and ports."""

    def __init__(self, loop: Loop, settings: Settings, servers: list[tuple[str, int]]) -> None:
        self._loop: Final = loop
        self._settings: Final = settings
        self._room: Final = loop.waiters.dns
        self._timeout_s: Final = float(settings.dns_retr_time) if settings.dns_retr_time > 0 else DEFAULT_TIMEOUT_S
        self._tries: Final = 1 + (settings.dns_retr_no if settings.dns_retr_no >= 0 else DEFAULT_RETRIES)
        self.servers: Final = [Server(address, self._timeout_s) for address in servers]
        capacity = max(16, settings.dns_cache_mem * 1024 // ENTRY_BYTES)
        self._capacity: Final = capacity
        self._cache: Final[OrderedDict[Key, tuple[float, Records]]] = OrderedDict()  # (expires at, records)
        self._failures: Final[Failures[Key]] = Failures(FAILED_S, capacity)
        self._asked: Final[dict[Key, Question]] = {}
        self._waited_for: Final[dict[Question, float]] = {}  # since when, the oldest first
        self._leaving = 0  # handlers that have been told to give up and have not got to it yet
        self.queries = 0
        self.strays = 0  # datagrams that answer nothing we have asked

    def lookup(self, name: str, kind: str, deadline: float) -> Records:
        """The records of *kind*, [] when there are none. May park until *deadline*.

        Raises BackendError when nobody answers or has answered a moment ago, ResourceError when too many wait.
        """
        key = (name.lower().rstrip("."), kind)
        known = self._known(key)
        if known is not None:
            return known
        question = self._asked.get(key)
        self._enter()
        try:
            if question is None:
                question = self._start(key)
                if question is None:
                    return []
            elif len(question.crowd):
                self._room.shared += 1
            if not question.is_over:
                self._wait(question, deadline)
        finally:
            self._room.leave()
        if question.records is None:
            raise BackendError(question.error or f"no DNS server has answered for {name!r:.120} in time")
        return question.records

    def _enter(self) -> None:
        """Take a place. In a full room those who wait longest, for a name that is likely dead, give theirs up."""
        if self._room.waiting - self._leaving >= self._room.limit and self._waited_for:
            oldest, since = next(iter(self._waited_for.items()))
            if self._loop.now() - since >= SHORTEST_S:
                del self._waited_for[oldest]
                self._leaving += oldest.crowd.answer(GIVE_UP)
        self._room.enter(self._leaving)

    def _wait(self, question: Question, deadline: float) -> None:
        self._waited_for.setdefault(question, self._loop.now())
        try:
            if question.crowd.wait(deadline) is GIVE_UP:
                self._leaving -= 1
                self._room.timeouts += 1
        finally:
            if not len(question.crowd):
                self._waited_for.pop(question, None)

    def knows(self, name: str, kind: str) -> bool:
        """True when ``lookup`` will not have to wait."""
        cached = self._cache.get((name.lower().rstrip("."), kind))
        return cached is not None and cached[0] > self._loop.now()

    def begin(self, name: str, kind: str) -> None:
        """Ask ahead what ``lookup`` will want, unless that is known or too much is under way."""
        key = (name.lower().rstrip("."), kind)
        if key in self._asked or self._room.waiting >= self._room.limit or len(self._asked) >= MAX_ASKED:
            return
        with contextlib.suppress(BackendError):
            if self._known(key) is None:
                self._start(key)

    def _known(self, key: Key) -> Records | None:
        """What is remembered. Raises BackendError when that is a failure."""
        now = self._loop.now()
        cached = self._cache.get(key)
        if cached is not None and cached[0] > now:
            self._cache.move_to_end(key)
            return cached[1]
        failed = self._failures.reason(key, now)
        if failed:
            raise BackendError(failed)
        return None

    # --------------------------------------------------------------------------------- the life of a question

    def _start(self, key: Key) -> Question | None:
        """Begin to ask; None when no such name can exist."""
        wire = rendered(*key)
        if not wire:
            return None
        now = self._loop.now()
        good: list[Server] = []
        silent: list[Server] = []
        for server in self.servers:
            (good if server.fuse.allows(now) else silent).append(server)
        servers = good + silent
        question = Question(key, wire, Crowd(self._loop, self._room), servers, self._tries * len(servers))
        question.deadline = now + self._settings.dns_total_time
        self._asked[key] = question
        self._go_on(question)
        return question

    def _go_on(self, question: Question) -> None:
        """Ask the next server; without one left, or time, the question has failed."""
        now = self._loop.now()
        servers = question.servers
        while question.tries_left > 0 and servers and now < question.deadline:
            question.tries_left -= 1
            server = servers.pop(0)
            servers.append(server)
            sent = self._send(question, server)
            if sent or all(each.fuse.reason for each in servers):
                until = min(now + self._timeout_s, question.deadline)
                question.timer = self._loop.call_at(until, lambda: self._unanswered(question))
                return
        self._fail(question, f"no DNS server answers for {question.key[0]!r:.120}")

    def _unanswered(self, question: Question) -> None:
        question.timer = None
        server = question.last
        if server is not None and server.answers == question.answers_before:
            # Else it answers others: this one name may be to blame, whose own servers are silent.
            self._silent(server)
        self._go_on(question)

    def _silent(self, server: Server) -> None:
        if server.fuse.blow(self._loop.now(), "silent"):
            log.info("name server %s does not answer: it is asked last for a while", server.address)

    def _refused(self, question: Question, server: Server) -> None:
        """*server* will not help with this question: the others may."""
        if server in question.servers:
            question.servers.remove(server)
        if question.last is server:
            self._stop_timer(question)
            self._go_on(question)

    def _succeed(self, question: Question, records: Records, ttl: int) -> None:
        settings = self._settings
        if records:
            ttl = min(settings.dns_cache_max_ttl, max(settings.dns_cache_min_ttl, ttl))
        if settings.use_dns_cache and ttl > 0:
            self._cache[question.key] = (self._loop.now() + ttl, records)
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        question.records = records
        self._end(question)

    def _fail(self, question: Question, error: str) -> None:
        question.error = error
        self._failures.note(question.key, self._loop.now(), error)
        self._room.timeouts += self._end(question)

    def _end(self, question: Question) -> int:
        """Tell all who wait; how many they are."""
        self._stop_timer(question)
        for server, number in question.sent:
            server.asked.pop(number, None)
        del self._asked[question.key]
        return question.crowd.answer(True)

    def _stop_timer(self, question: Question) -> None:
        if question.timer is not None:
            question.timer.cancel()
            question.timer = None

    # -------------------------------------------------------------------------------------------- datagrams

    def _send(self, question: Question, server: Server) -> bool:
        """Send *question*, with a number of its own each time; False when that cannot be done."""
        number = random.SystemRandom().randrange(65536)
        while number in server.asked:
            number = random.SystemRandom().randrange(65536)
        question.last, question.answers_before = server, server.answers
        try:
            self._socket(server).send(number.to_bytes(2, "big") + question.wire)
        except BlockingIOError:
            return True  # as if lost
        except OSError as exc:
            self._silent(server)
            if not isinstance(exc, ConnectionRefusedError):  # that one may just be starting, there is no way to others
                question.servers.remove(server)
            return False
        server.asked[number] = question
        question.sent.append((server, number))
        self.queries += 1
        return True

    def _socket(self, server: Server) -> socket.socket:
        """The socket to *server*: its port is the kernel's random choice, and another one after a while."""
        now = self._loop.now()
        if server.sock is not None and not server.asked and now >= server.change_at:
            self._close(server)
        if server.sock is None:
            family = socket.AF_INET6 if ":" in server.address[0] else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM)
            try:
                sock.setblocking(False)
                sock.connect(server.address)
            except OSError:
                sock.close()
                raise
            server.sock = sock
            self._loop.add_reader(sock.fileno(), lambda: self._read(server))
            server.change_at = now + PORT_LIFE_S
        return server.sock

    def _close(self, server: Server) -> None:
        if server.sock is not None:
            self._loop.remove_reader(server.sock.fileno())
            server.sock.close()
            server.sock = None

    def close(self) -> None:
        """Give the sockets back."""
        for server in self.servers:
            self._close(server)

    def _read(self, server: Server) -> None:
        while server.sock is not None:
            try:
                data = server.sock.recv(65535)
            except BlockingIOError:
                return
            except OSError:
                self._unreachable(server)
                return
            self._take(server, data)

    def _unreachable(self, server: Server) -> None:
        """Nobody listens there. What has been asked goes to another one that is good, or is asked again in its time."""
        self._silent(server)
        for question in list(server.asked.values()):
            if question.last is server and not question.is_over and not question.servers[0].fuse.reason:
                self._stop_timer(question)
                self._go_on(question)

    def _take(self, server: Server, data: bytes) -> None:
        """A datagram from *server*: the answer to a question of ours, or nothing."""
        number = int.from_bytes(data[:2], "big")
        question = server.asked.get(number)
        answer = None if question is None else parsed(data, question.wire)
        if question is None or answer is None:
            self.strays += 1
            return
        server.answers += 1
        if server.fuse.mend():
            log.info("name server %s answers again", server.address)
        if answer.is_cut_off:
            del server.asked[number]
            self._loop.spawn(lambda: self._ask_in_full(question, server, number))
        else:
            self._answered(question, server, answer)

    def _answered(self, question: Question, server: Server, answer: Answer) -> None:
        if answer.is_refusal:
            self._refused(question, server)
            return
        records, ttl = answer.records(*question.key)
        if not records:
            ttl = min(answer.negative_ttl(question.key[0]), self._settings.dns_cache_negative_ttl)
        self._succeed(question, records, ttl)

    # -------------------------------------------------------------------------------------------------- TCP

    def _ask_in_full(self, question: Question, server: Server, number: int) -> None:
        """The answer to *question* did not fit into a datagram: ask for it over TCP. Parks."""
        if question.is_over:
            return
        wire = number.to_bytes(2, "big") + question.wire
        deadline = min(self._loop.now() + self._timeout_s, question.deadline)
        data = b""
        with contextlib.suppress(OSError, ResourceError), self._room:
            data = ask_over_tcp(self._loop, server.address, wire, deadline)
        if question.is_over:
            return
        answer = parsed(data, question.wire) if data[:2] == wire[:2] else None
        if answer is None:
            self._refused(question, server)
        else:
            self._answered(question, server, answer)


def ask_over_tcp(loop: Loop, address: tuple[str, int], wire: bytes, deadline: float) -> bytes:
    """The answer to the query *wire*, b"" when none comes in time. Parks. Raises OSError, ResourceError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if not loop.wait_writable(sock.fileno(), deadline):
            return b""
        sock.sendall(len(wire).to_bytes(2, "big") + wire)  # a fresh socket has room for a query
        received = b""
        while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2], "big"):
            if not loop.wait_readable(sock.fileno(), deadline):
                return b""
            more = sock.recv(_TCP_CHUNK)
            if not more:
                return b""
            received += more
        return received[2 : 2 + int.from_bytes(received[:2], "big")]


def servers_of(settings: Settings) -> list[tuple[str, int]]:
    """The name servers that ``dns_servers`` names, [] for those of resolv.conf."""
    servers = [name_server(text) for text in settings.dns_servers]
    return [server for server in servers if server is not None]  # all are: the setting has been checked


def read_resolv_conf(path: str = "/etc/resolv.conf") -> tuple[list[tuple[str, int]], list[str]]:
    """(name servers, search list) of *path*; a missing file is an empty one."""
    servers: list[tuple[str, int]] = []
    search: list[str] = []
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and plain_address(words[1]):
                servers.append((words[1], 53))
            elif len(words) > 1 and words[0] in ("search", "domain"):
                search = words[1:]
    return servers, search
