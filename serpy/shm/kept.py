"""Memory shared by all processes of a server that outlives them: a file of the run directory, mapped before the fork.

A file of another layout, or from before the machine was started (its instants are monotonic ones), is begun afresh.
What is in it is its owner's business. Without a run directory it is memory only.

Runs in: master (open), every process (the mapping is inherited over fork). Locks: none.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from serpy.errors import ConfigError

HEADER: Final = 4096  # the first page: what the file is; the owner's part begins behind it
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class Kept:
    """*size* bytes that survive a restart, as ``memory``. *layout* says what they are, in words that change with it."""

    def __init__(self, run_dir: str, name: str, layout: str, size: int) -> None:
        self.memory: memoryview
        self.is_fresh = True
        if not run_dir:
            self.memory = memoryview(mmap.mmap(-1, HEADER + size))[HEADER:]
            return
        path = f"{run_dir}/{name}"
        try:
            os.makedirs(run_dir, exist_ok=True)  # noqa: PTH103 - text in, text out
            self._open(path, f"{layout} {size} {_boot_id()}\n".encode(), HEADER + size)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"cannot keep {path}: {exc}", hint="choose another run directory with -Y") from None

    def _open(self, path: str, title: bytes, size: int) -> None:
        self.is_fresh = not _fits(path, title, size)
        if self.is_fresh:
            # Made aside and put into place: a server that has the old one mapped goes on with it.
            draft = f"{path}.{os.getpid()}"
            fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        else:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if self.is_fresh:
                os.ftruncate(fd, size)
                os.pwrite(fd, title, 0)
                os.rename(draft, path)  # noqa: PTH104 - text in, text out
            self.memory = memoryview(mmap.mmap(fd, size))[HEADER:]
        finally:
            os.close(fd)


def _fits(path: str, title: bytes, size: int) -> bool:
    """True when the file is there, ours to write and of this layout."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return os.pread(fd, len(title), 0) == title and os.fstat(fd).st_size == size
    finally:
        os.close(fd)


def _boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:  # noqa: PTH123 - no path of ours
            return file.read().strip(" \n")
    except OSError:
        return "unknown"
