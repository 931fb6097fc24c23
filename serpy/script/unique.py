"""Texts that never come back: ``@sys.unique`` and ``%uq``.

The counter belongs to the process and not to a program, since two programs of one process must not give the same text.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import os
import time
from typing import Final

_UNIQUE_START: Final = f"{int(time.time()) & 0xFFFFFFFF:08x}"


class _Unique:
    """Where ``unique`` stands in this process."""

    def __init__(self) -> None:
        self.pid = 0
        self.head = ""
        self.counter = 0


_UNIQUE: Final = _Unique()


def unique() -> str:
    """``@sys.unique``: pid, start time and a counter in hex."""
    here = _UNIQUE
    pid = os.getpid()
    if pid != here.pid:
        here.pid = pid
        here.head = f"{pid & 0xFFFF:04x}-{_UNIQUE_START}-"
    here.counter = (here.counter + 1) & 0xFFFFFFFF
    return here.head + hex(0x100000000 | here.counter)[3:]  # eight digits; a format string costs seven times as much
