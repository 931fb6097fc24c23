"""The one piece of memory all processes of a server share, made by the master before the first fork.

Areas are handed out once, in order, and never given back. Pages that nobody touches cost nothing, so a segment may be
much larger than what is used. What an area holds is its owner's business (counters, status page, location table).

Runs in: master (allocate), every process (the views are inherited over fork). Locks: none.
"""

from __future__ import annotations

import mmap
from typing import Final

from serpy.errors import ResourceError, UsageError

_PAGE: Final = 4096
_LINE: Final = 64  # areas start on a cache line, large ones on a page
_MIB: Final = 1024 * 1024
_MAP_NORESERVE: Final = 0x4000  # Linux; mmap exports the name only since 3.13


class Segment:
    """*size* bytes of zeroed memory shared with every process forked later. Raises ResourceError."""

    def __init__(self, size: int) -> None:
        if size < _PAGE:
            raise UsageError(f"a shared memory segment of {size} bytes is of no use")
        self.size: Final = (size + _PAGE - 1) // _PAGE * _PAGE
        try:
            self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except (OSError, ValueError) as exc:
            raise ResourceError(f"cannot map {self.size // _MIB} MiB of shared memory (-m): {exc}") from None
        self._view = memoryview(self._map)
        self._used = 0
        self._areas: dict[str, tuple[int, int]] = {}

    def allocate(self, name: str, size: int) -> memoryview:
        """Return *size* zero bytes under *name*; only before the fork. Raises ResourceError when the segment is full,
        UsageError for a second area of that name.
        """
        if name in self._areas:
            raise UsageError(f"shared memory area {name!r} exists already")
        if size <= 0:
            raise UsageError(f"shared memory area {name!r} of {size} bytes")
        step = _PAGE if size >= _PAGE else _LINE
        start = (self._used + step - 1) // step * step
        if start + size > self.size:
            raise ResourceError(
                f"shared memory is full: {name} needs {size // 1024 + 1} KiB and {self.free // 1024} of "
                f"{self.size // 1024} KiB are left; start with a larger -m (MiB)"
            )
        self._used = start + size
        self._areas[name] = (start, size)
        return self._view[start : start + size]

    @property
    def map(self) -> mmap.mmap:
        """The whole mapping: slices of it are copied without the objects a memoryview slice costs. See ``areas``."""
        return self._map

    @property
    def used(self) -> int:
        """Bytes handed out, gaps included."""
        return self._used

    @property
    def free(self) -> int:
        """Bytes that may still be handed out as one area."""
        start = (self._used + _PAGE - 1) // _PAGE * _PAGE
        return max(0, self.size - start)

    def areas(self) -> dict[str, tuple[int, int]]:
        """Name -> (offset, size) of every area, for ``core.shmmem``."""
        return dict(self._areas)
