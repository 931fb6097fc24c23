"""The handle of one process on a database server: a few connections, and a fuse that blows when the server is away.

    up ──(connect fails, or no answer before the deadline)──> down: every request fails at once
    down ──(after a pause)──> one request at a time tries; the others still fail at once
    its success ──> up; its failure ──> down again, pause doubled up to MAX_PAUSE_S

So a dead server costs one parked handler at a time, not one timeout per message. A connection found broken by a
statement (the server was restarted) is replaced and the statement run again, once. A driver says how a connection is
made and closed and what a job does with it.

Runs in: every process that queries; nothing is shared. Locks: none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from serpy.db.interface import DatabaseUrl, Row
from serpy.errors import BackendError, DatabaseDownError

if TYPE_CHECKING:
    from serpy.net.loop import Loop

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.25
MAX_PAUSE_S: Final = 1.0


class LostError(Exception):
    """The connection broke (or was found broken): another one may work."""


class DeadlineError(Exception):
    """The server did not answer in time."""


L = TypeVar("L")
M_contra = TypeVar("M_contra", contravariant=True)


class Job(Protocol[M_contra]):
    """What is done with a connection; it may be done twice."""

    def run(self, link: M_contra, deadline: float) -> list[Row]:
        """The rows. Raises LostError, DeadlineError, BackendError."""


class Pool(Generic[L]):
    """Connections of one process to *url*, at most *connections*, each used by one handler at a time."""

    def __init__(self, url: DatabaseUrl, *, timeout_s: float, connections: int) -> None:
        self.loop: Loop | None = None
        self.url = url
        self._timeout_s = timeout_s
        self._size = connections
        self._idle: list[L] = []
        self._open = 0  # idle, in use and being opened
        self._waiting: deque[int] = deque()  # tickets of handlers that wait for a connection
        self._pid = os.getpid()
        self._inherited: list[L] = []
        self._down_until = 0.0  # 0 = up
        self._pause_s = FIRST_PAUSE_S
        self._trying = False
        self._reason = ""

    # -- what a driver supplies

    def open_link(self) -> L:
        """A new connection. Raises LostError (text: why), DeadlineError."""
        raise NotImplementedError

    def close_link(self, link: L) -> None:
        """Close *link*; never raises."""
        raise NotImplementedError

    def is_closed(self, link: L) -> bool:
        """True when *link* cannot be used any more."""
        raise NotImplementedError

    # -- for the driver

    def with_link(self, job: Job[L]) -> list[Row]:
        """Do *job* with a connection. Raises BackendError, DatabaseDownError."""
        deadline = time.monotonic() + self._timeout_s
        for attempt in (1, 2):
            try:
                link = self._take(deadline)
            except DatabaseDownError as exc:
                raise DatabaseDownError(str(exc), unknown=attempt == 2) from None
            try:
                rows = job.run(link, deadline)
            except LostError as exc:
                self._drop(link)
                self._drop_idle()  # a restarted server has cut them all
                if attempt == 2:
                    self._blow(str(exc))
                    raise DatabaseDownError(f"{self.url.redacted()}: {exc}", unknown=True) from None
                log.info("%s: connection lost, trying again: %s", self.url.redacted(), exc)
            except DeadlineError:
                self._drop(link)
                self._drop_idle()
                self._blow(f"no answer within {self._timeout_s:g} s")
                raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}", unknown=True) from None
            except BaseException:
                self._give(link)
                raise
            else:
                self._give(link)
                return rows
        raise AssertionError  # the second attempt has returned or raised

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        self._size = 0
        for link in self._idle:
            self.close_link(link)
        self._idle.clear()

    # -- connections

    def _take(self, deadline: float) -> L:
        if self._pid != os.getpid():
            self._forget_parent()
        if self._down_until:
            return self._try_again()
        while True:
            if self._idle:
                return self._idle.pop()
            if self._open < self._size:
                return self._connect()
            self._wait_for_one(deadline)
            if self._down_until:
                raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}")

    def _wait_for_one(self, deadline: float) -> None:
        if self.loop is None or not self.loop.can_park() or self._size == 0:
            raise BackendError(f"{self.url.redacted()}: no connection for a handler that cannot wait")
        ticket = self.loop.new_ticket()
        self._waiting.append(ticket.id)
        if self.loop.wait(ticket, deadline) is None:
            with contextlib.suppress(ValueError):
                self._waiting.remove(ticket.id)
            raise DatabaseDownError(f"{self.url.redacted()}: all {self._size} connections are busy")

    def _try_again(self) -> L:
        if self._trying or time.monotonic() < self._down_until:
            raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}")
        self._trying = True
        try:
            link = self._connect()  # a frozen server accepts connections in its kernel but never greets
        finally:
            self._trying = False
        self._down_until = 0.0
        self._pause_s = FIRST_PAUSE_S
        log.warning("%s: answers again", self.url.redacted())
        return link

    def _connect(self) -> L:
        self._open += 1
        try:
            return self.open_link()
        except (LostError, DeadlineError) as exc:
            self._blow(str(exc) or f"no answer within {self._timeout_s:g} s")
            self._closed_one()
            raise DatabaseDownError(f"{self.url.redacted()}: {self._reason}") from None
        except BaseException:
            self._closed_one()
            raise

    def _blow(self, reason: str) -> None:
        if not self._down_until:
            log.error("%s: down: %s", self.url.redacted(), reason)
            self._pause_s = FIRST_PAUSE_S
        else:
            self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S)
        self._reason = reason
        self._down_until = time.monotonic() + self._pause_s

    def _give(self, link: L) -> None:
        if self.is_closed(link) or self._size == 0:
            self._drop(link)
            return
        self._idle.append(link)
        self._wake_one()

    def _drop(self, link: L) -> None:
        self.close_link(link)
        self._closed_one()

    def _closed_one(self) -> None:
        self._open -= 1
        self._wake_one()

    def _drop_idle(self) -> None:
        while self._idle:
            self._drop(self._idle.pop())

    def _wake_one(self) -> None:
        if self._waiting and self.loop is not None:
            self.loop.resume(self._waiting.popleft(), True)

    def _forget_parent(self) -> None:
        # Closing them would say good-bye to the server in the parent's name; so they are kept, unused.
        self._inherited.extend(self._idle)
        self._idle.clear()
        self._waiting.clear()
        self._open = 0
        self._trying = False
        self._pid = os.getpid()
