"""The life of a child process, whatever its role, and the barrier that no bug in a callback gets past.

A role is a subclass: ``after_fork()`` registers what it does with the loop, ``before_exit()`` finishes what must be
finished. Everything else - privileges, signals, heartbeat, the report of bugs - is the same for all and stands here.

After ``crash_limit`` bugs a process makes room for a fresh one, where that can help: one child at a time, and not when
it is fresh itself. What anybody's message can use up (memory, stack, room) is refused, counted and no bug.

Runs in: every child. Locks: none.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import setproctitle

from serpy import log as serpy_log
from serpy.api import BUDGETS, STORE
from serpy.db.writer import StoreClient
from serpy.errors import ResourceError, SerpyError
from serpy.limited_log import RateLimit
from serpy.net.guard import COUNTER as HELD_BACK
from serpy.net.guard import Guard
from serpy.net.handoff import STORE_ACK, STORE_WRITE, Layout
from serpy.net.loop import Loop
from serpy.net.sender import Sender
from serpy.net.streams import StreamSender

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.net.handoff import Channels
    from serpy.net.listen import Bound

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
PR_SET_PDEATHSIG: Final = 1
EXIT_BOOT: Final = 3
EXIT_CRASHED: Final = 4
FRESH_S: Final = 60.0  # the limit reached within this time shows that a fresh process is no better …
STAY_S: Final = 3600.0  # … so it stays so long, whatever happens
LEAVE_APART_S: Final = 10.0  # between two children that leave: the successor of the first serves again
EXHAUSTED: Final = (MemoryError, RecursionError, ResourceError)
GC_YOUNGEST: Final = 100_000  # objects between two looks at the youngest; messages are freed by counting, not by this


class Boot:
    """What the master hands to a child: where to say "ready", where the traceback of a crash goes, who to become."""

    def __init__(self, report_fd: int, crash_fd: int, uid: int, gid: int, master_pid: int) -> None:
        self.report_fd: Final = report_fd
        self.crash_fd: Final = crash_fd
        self.uid: Final = uid  # -1: stay who we are
        self.gid: Final = gid
        self.master_pid: Final = master_pid

    def say(self, kind: str, slot: int, text: str = "") -> None:
        """One line to the master: kind "R" ready, "E" could not boot. Lost when the master does not read: see the page."""
        line = f"{kind}{slot} {text}".replace("\n", "\r").encode("utf-8", "replace")[:2000]
        with contextlib.suppress(OSError):
            os.write(self.report_fd, line + b"\n")


class Worker:
    """One child. *slot* is its place in the status page and the hand-off, *child* its index within its role."""

    role = "worker"
    stop_last = False  # the master stops these after all others have gone

    def __init__(self, server: Server, channels: Channels, bound: Bound, slot: int, child: int) -> None:
        self.server: Final = server
        self.channels: Final = channels
        self.bound: Final = bound
        self.slot: Final = slot
        self.child: Final = child
        self.layout: Final = Layout(bound.children, bound.streams)
        self.loop: Loop
        self.sender: Sender
        self.crashes = 0  # bugs since this process started, or last decided to stay
        self._bugs: Final = server.counters.declare("core.bugs", "handlers that ended by a bug of ours")
        self._exhausted: Final = server.counters.declare(
            "core.exhausted", "handlers that ran out of memory, stack or room"
        )
        self._leaving = False
        self.started = 0.0
        self._stays_until = 0.0
        self._master_pid = 0
        self._store_client: StoreClient | None = None
        self._bug_reports: Final = RateLimit(10, 10.0)
        self._exhausted_reports: Final = RateLimit(1, 10.0)

    @property
    def title(self) -> str:
        """The process title after ``serpy: ``."""
        return self.role

    def after_fork(self) -> None:
        """Register everything this role does with ``self.loop``. Raises SerpyError: then the process does not start."""
        raise NotImplementedError

    def before_exit(self) -> None:
        """Finish what must be finished; called once when the loop has ended in good order."""

    def on_bug(self, current: object, status: int) -> None:
        """Answer *status* if somebody waits for *current*, what the handler that failed was working on."""

    def describe(self, current: object) -> object:
        """What the report of a bug calls *current*."""
        return current

    def receiver_sockets(self) -> int:
        """Which child's sockets this process keeps: its own for a receiver; child 0's, for sending, otherwise."""
        return 0

    def stream_sockets(self) -> int:
        """Which TCP receiver's listening sockets this process keeps; -1: none."""
        return -1

    def run(self, boot: Boot) -> int:
        """The whole life; returns the exit code. Runs right after the fork, on the master's image."""
        self._master_pid = boot.master_pid
        try:
            faulthandler.enable(file=boot.crash_fd, all_threads=False)
            self.bound.close_others(self.receiver_sockets(), self.stream_sockets())
            setproctitle.setproctitle(f"serpy: {self.title}")
            serpy_log.set_slot(self.slot)
            _drop_privileges(boot.uid, boot.gid)
            _leave_with(boot.master_pid)
            settings = self.server.settings
            self.loop = Loop(settings.max_parked)
            self.loop.waiters.set_limits(
                dns=settings.max_parked_dns,
                database=settings.max_parked_database,
                media=settings.max_parked_media,
                store=settings.max_parked_store,
            )
            self.loop.leader_body = self._lead
            self._handle_signals()
            self.channels.attach(self.slot, self.loop)
            self._fill_server()
            for exports in self.server.exports.values():
                if exports.child_init is not None:
                    exports.child_init(self.server)
            self.after_fork()
        except (SerpyError, OSError) as exc:
            log.error("%s cannot start: %s", self.title, exc)  # noqa: TRY400 - the text says it all
            boot.say("E", self.slot, f"{self.title}: {exc}")
            return EXIT_BOOT
        except Exception as exc:
            log.exception("%s cannot start", self.title)
            boot.say("E", self.slot, f"{self.title}: {type(exc).__name__}: {exc}")
            return EXIT_BOOT
        gc.freeze()
        gc.set_threshold(GC_YOUNGEST, 10, 50)
        self.started = self.loop.now()
        self._beat()
        self.server.counters.status.ready()
        boot.say("R", self.slot)
        self.loop.run()
        return self._finish()

    def _fill_server(self) -> None:
        server = self.server
        streams = StreamSender(self.channels, self.layout, server.counters.status.respawns)
        guard = Guard(server.listeners, private_relay=bool(server.settings.private_relay))
        held_back = server.counters.declare(*HELD_BACK)
        guard.count = lambda: server.counters.add(held_back)
        budgets = server.find(BUDGETS)
        if budgets is not None:
            budgets.clock = self.loop
            guard.is_known = budgets.is_known
        self.sender = Sender(
            self.bound.of_child(self.receiver_sockets()), guard, streams if self.layout.streams else None
        )
        server.slot = self.slot
        server.role = self.role
        server.child = self.child
        server.loop = self.loop
        server.channels = self.channels
        server.send = self.sender.send
        server.counters.attach(self.slot)
        if self.slot != self.layout.store:
            status = server.counters.status
            client = StoreClient(
                self.loop, self.channels, self.layout.store, STORE_WRITE, lambda: status.pid(self.layout.store)
            )
            self.channels.on(STORE_ACK, client.on_ack)
            self._store_client = client
            server.provide(STORE, client)

    def _handle_signals(self) -> None:
        """TERM ends the loop, what concerns the master only is ignored. The handler just sets a flag.

        INT and QUIT come from the terminal, to all at once: the master alone acts on them, else the store would go
        before those who still write.
        """
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._wakeup = (reader, writer)  # kept open

        def drain() -> None:
            with contextlib.suppress(BlockingIOError):
                reader.recv(512)

        self.loop.add_reader(reader.fileno(), drain)
        signal.signal(signal.SIGTERM, lambda _number, _frame: self.loop.stop())
        ignored = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _beat(self) -> None:
        """The heartbeat, once a second."""
        loop = self.loop
        loop.read_clocks()
        now = loop.now()
        self.server.counters.heartbeat(now)
        loop.waiters.publish(self.server.counters)
        if os.getppid() != self._master_pid:
            log.warning("the master is gone: leaving")
            loop.stop()
            return
        loop.call_at(now + HEARTBEAT_S, self._beat)
        for limit in (self._bug_reports, self._exhausted_reports):
            if limit.is_over(now):
                self._tell_suppressed(limit)

    def _lead(self) -> None:
        """The body of every greenlet that leads the loop: the one barrier for bugs."""
        loop = self.loop
        while not loop.stopping:
            try:
                loop.lead()
            except Exception as bug:  # noqa: BLE001 - the barrier; _report logs the traceback
                self.caught(bug, loop.current)

    def caught(self, bug: Exception, current: object) -> None:
        """Report *bug*, answer who waits for *current*, perhaps leave. Goes through, also when memory is short."""
        status = 503 if isinstance(bug, (MemoryError, ResourceError)) else 500
        with contextlib.suppress(Exception):  # no memory for a report, perhaps
            self._report(bug, current)
        try:
            self.on_bug(current, status)
        except Exception:
            with contextlib.suppress(Exception):
                log.exception("and the %d for it failed, too", status)
        if not isinstance(bug, EXHAUSTED):
            self.crashes += 1
            limit = self.server.settings.crash_limit
            if limit and self.crashes >= limit:
                self._reached_limit(self.loop.now())

    def _report(self, bug: Exception, current: object) -> None:
        counters = self.server.counters
        now = self.loop.now()
        if isinstance(bug, EXHAUSTED):
            counters.add(self._exhausted)
            if self._exhausted_reports.allows(now):
                self._tell_suppressed(self._exhausted_reports)
                what = f"{type(bug).__name__} {bug}".strip()
                log.warning("%s: %s while handling %.1500r", self.title, what, self.describe(current), exc_info=bug)
            return
        counters.add(self._bugs)
        if self._bug_reports.allows(now):
            self._tell_suppressed(self._bug_reports)
            log.error("bug in %s while handling %.1500r", self.title, self.describe(current), exc_info=bug)

    def _tell_suppressed(self, limit: RateLimit) -> None:
        """Say how many reports *limit* has kept out of the log."""
        count = limit.take_suppressed()
        if count and limit is self._bug_reports:
            log.error("%d more bugs in %s", count, self.title)
        elif count:
            log.warning("%s ran out of memory, stack or room %d more times", self.title, count)

    def _reached_limit(self, now: float) -> None:
        """As many bugs as a process survives: leave, or stay where a fresh process would not help or another leaves."""
        count, self.crashes = self.crashes, 0
        if now < self._stays_until:
            return
        if now - self.started < FRESH_S:
            self._stays_until = now + STAY_S
            log.error("%d bugs in %s, which is fresh: another one would be no better", count, self.title)
        elif self.server.counters.may_leave(now, LEAVE_APART_S):
            log.error("%d bugs in %s: leaving for a fresh one", count, self.title)
            self._leaving = True
            self.loop.stop()

    def _finish(self) -> int:
        try:
            self.before_exit()
            if self._store_client is not None:
                self._store_client.send_all()  # the store leaves after us
        except Exception:
            log.exception("%s did not end in good order", self.title)
            return EXIT_CRASHED
        return EXIT_CRASHED if self._leaving else 0


def child_main(worker: Worker, boot: Boot) -> None:
    """Run *worker* and end this process; never returns into the master's code."""
    code = EXIT_CRASHED
    try:
        code = worker.run(boot)
    except BaseException:
        log.exception("%s ends by a bug", worker.title)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def guarded(what: str, call: Callable[[], object]) -> None:
    """Run *call* where no barrier stands around: a bug in it is logged as one in *what* and goes no further."""
    try:
        call()
    except Exception:
        log.exception("bug in %s", what)


def _drop_privileges(uid: int, gid: int) -> None:
    if gid >= 0 and gid != os.getgid():
        os.setgroups([])
        os.setgid(gid)
    if uid >= 0 and uid != os.getuid():
        os.setuid(uid)


def _leave_with(master_pid: int) -> None:
    """Have the kernel end us when the master dies (a change of user forgets this: call it afterwards)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != master_pid:
        raise OSError("the master is gone already")


def limit_core_files() -> None:
    """Write no core files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
