"""The handle of one process on a database server: a few connections, and a fuse that blows when the server is away.

    up ──(connect fails, or no answer before the deadline)──> down: every request fails at once
    down ──(after a pause)──> one request at a time tries; the others still fail at once
    its success ──> up; its failure ──> down again, pause doubled up to MAX_PAUSE_S

So a dead server costs one parked handler at a time, not one timeout per message. Whoever may park here holds a place
for the database in ``loop.waiters``. A connection found broken by a statement (the server was restarted) is replaced
and the statement run again, once. A driver says how a connection is made and closed and what a job does with it.

Runs in: every process that queries; nothing is shared. Locks: none.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from serpy.db.interface import DatabaseUrl, Row
from serpy.errors import BackendError, DatabaseDownError, ResourceError
from serpy.net.waiters import Crowd, Fuse

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
        self._waiting: Crowd | None = None  # for a connection
        self._pid = os.getpid()
        self._inherited: list[L] = []
        self._fuse = Fuse(FIRST_PAUSE_S, MAX_PAUSE_S, timeout_s)

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
        """Do *job* with a connection. Raises BackendError, DatabaseDownError; ResourceError: too many wait already."""
        loop = self.loop
        if loop is None or not loop.can_park():
            return self._work(job)
        with loop.waiters.database:
            return self._work(job)

    def _work(self, job: Job[L]) -> list[Row]:
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
                self._late()
                self._drop(link)
                self._drop_idle()
                self._blow(f"no answer within {self._timeout_s:g} s")
                raise self._down(unknown=True) from None
            except ResourceError:  # it could not wait for the answer, so the connection is out of step
                self._drop(link)
                raise
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
        if self._fuse.reason:
            return self._try_again()
        while True:
            if self._idle:
                return self._idle.pop()
            if self._open < self._size:
                return self._connect()
            self._wait_for_one(deadline)
            if self._fuse.reason:
                raise self._down()

    def _wait_for_one(self, deadline: float) -> None:
        if self.loop is None or not self.loop.can_park() or self._size == 0:
            raise BackendError(f"{self.url.redacted()}: no connection for a handler that cannot wait")
        if self._waiting is None:
            self._waiting = Crowd(self.loop, self.loop.waiters.database)
        if self._waiting.wait(deadline) is None:
            raise DatabaseDownError(f"{self.url.redacted()}: all {self._size} connections are busy")

    def _try_again(self) -> L:
        if not self._fuse.allows(time.monotonic()):
            raise self._down()
        link = self._connect()  # a frozen server accepts connections in its kernel but never greets
        self._fuse.mend()
        log.warning("%s: answers again", self.url.redacted())
        return link

    def _connect(self) -> L:
        self._open += 1
        try:
            return self.open_link()
        except (LostError, DeadlineError) as exc:
            if isinstance(exc, DeadlineError):
                self._late()
            self._blow(str(exc) or f"no answer within {self._timeout_s:g} s")
            self._closed_one()
            raise self._down() from None
        except BaseException:
            self._closed_one()
            raise

    def _blow(self, reason: str) -> None:
        if self._fuse.blow(time.monotonic(), reason):
            log.error("%s: down: %s", self.url.redacted(), reason)

    def _down(self, *, unknown: bool = False) -> DatabaseDownError:
        return DatabaseDownError(f"{self.url.redacted()}: {self._fuse.reason}", unknown=unknown)

    def _late(self) -> None:
        if self.loop is not None:
            self.loop.waiters.database.timeouts += 1

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
        if self._waiting is not None:
            self._waiting.wake(True)

    def _forget_parent(self) -> None:
        # Closing them would say good-bye to the server in the parent's name; so they are kept, unused.
        self._inherited.extend(self._idle)
        self._idle.clear()
        self._waiting = None
        self._open = 0
        self._pid = os.getpid()
