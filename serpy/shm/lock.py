"""Locks between processes that do not outlive their holder.

Each lock is one byte of an anonymous file, held with ``fcntl.lockf``: the kernel gives it back when the holder dies, at
about 3 µs for a pair of calls. Record locks belong to a process and vanish when it closes *any* descriptor of the
file; the only descriptor is kept here, private, as long as the lock itself: in a server for the life of the process.

Order when two are held: a stripe of a table, then the last stripe of the same StripedLock (its pool). Nothing waits, logs
or calls back under a lock, and a process has one thread, so a holder never meets itself.

Runs in: every process. Locks: these.
"""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import Final

from serpy.errors import UsageError
from serpy.shm.segment import Segment

_lockf: Final = fcntl.lockf
_LOCK: Final = fcntl.LOCK_EX
_UNLOCK: Final = fcntl.LOCK_UN


class StripedLock:
    """*stripes* independent locks, made before the fork. *segment* names the server they belong to."""

    def __init__(self, segment: Segment, name: str, stripes: int) -> None:
        if stripes < 1:
            raise UsageError(f"lock {name!r} needs at least one stripe")
        self.name: Final = name
        self.stripes: Final = stripes
        self.segment: Final = segment
        self._fd: Final = os.memfd_create(f"serpy-{name}", os.MFD_CLOEXEC)
        self._held: Final[list[Hold]] = [Hold(self, stripe) for stripe in range(stripes)]

    def __del__(self) -> None:
        os.close(self._fd)

    def acquire(self, stripe: int) -> None:
        """Take lock *stripe*, waiting for its holder. Not recursive: taking it twice is taking it once."""
        _lockf(self._fd, _LOCK, 1, stripe)

    def release(self, stripe: int) -> None:
        """Give lock *stripe* back; harmless when this process does not hold it."""
        _lockf(self._fd, _UNLOCK, 1, stripe)

    def hold(self, stripe: int) -> Hold:
        """Return the context manager that holds lock *stripe*."""
        return self._held[stripe]

    def fileno(self) -> int:
        """The descriptor that must stay open in every process using the lock."""
        return self._fd

    def is_held(self, stripe: int) -> bool:
        """True when another process holds lock *stripe* at this instant (for tests and RPC)."""
        try:
            fcntl.lockf(self._fd, _LOCK | fcntl.LOCK_NB, 1, stripe)
        except (BlockingIOError, PermissionError):
            return True
        self.release(stripe)
        return False


class Hold:
    """``with lock.hold(stripe):``. Made once per stripe, so entering costs no object."""

    def __init__(self, lock: StripedLock, stripe: int) -> None:
        self._lock: Final = lock
        self._stripe: Final = stripe

    def __enter__(self) -> None:
        self._lock.acquire(self._stripe)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release(self._stripe)
