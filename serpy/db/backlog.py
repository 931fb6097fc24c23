"""The journal of one database: batches that could not be committed because it was away, in order, until it is back.

A file, so that they outlive every process of this server; ``append`` returns when they are on disk. Nothing is kept in
memory but where each one lies. A record is length, CRC-32, how many requests, whether their order matters, the batch; a
torn last record was never acknowledged and is cut off. The head says where the first record begins that is not committed.

    file:   magic | offset of the first record | records

Runs in: store. Locks: none; the file has one owner.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import struct
import zlib
from collections import deque
from typing import Final

from serpy.db.frames import encode_request
from serpy.errors import BackendError, DatabaseDownError

log = logging.getLogger(__name__)

_MAGIC: Final = b"serpyjn2"
_HEAD: Final = struct.Struct("!8sQ")
_RECORD: Final = struct.Struct("!IIH?")
_OLD_RECORD: Final = struct.Struct("!II")
MAX_BYTES: Final = 256 * 1024 * 1024  # about 500,000 accounting rows; beyond that new rows are refused


class Backlog:
    """Encoded batches, oldest first, in the file *path*, which is made when it is needed first."""

    def __init__(self, path: str) -> None:
        self.path: Final = path
        self.requests = 0
        self.ordered = False  # True when one of them must not be overtaken by later writes
        self._places: deque[tuple[int, int, int]] = deque()  # offset, size, requests of each record
        self._end = _HEAD.size
        self._fd = -1

    def __len__(self) -> int:
        return len(self._places)

    def recover(self) -> None:
        """Take over what a predecessor has left. Raises BackendError when the file cannot be used."""
        if os.path.exists(self.path):  # noqa: PTH110 - text in, text out
            self._open()

    def append(self, batches: list[tuple[bytes, int, bool]]) -> None:
        """Keep (batch, requests, does order matter?) of each. Raises BackendError when full or the disk refuses; then none is kept."""
        parts: list[bytes] = []
        places: list[tuple[int, int, int]] = []
        at = self._end
        ordered = False
        for data, requests, matters in batches:
            parts.append(_RECORD.pack(len(data), zlib.crc32(data), requests, matters))
            parts.append(data)
            places.append((at + _RECORD.size, len(data), requests))
            at += _RECORD.size + len(data)
            ordered = ordered or matters
        if at > MAX_BYTES:
            raise BackendError(f"the journal {self.path} is full: {self.requests} requests wait for the database")
        if self._fd < 0:
            self._open()
        self._write(b"".join(parts))
        self._end = at
        self._places.extend(places)
        self.requests += sum([place[2] for place in places])
        self.ordered = self.ordered or ordered

    def first(self, requests: int) -> list[bytes]:
        """The oldest batches with about *requests* requests, at least one. Raises DatabaseDownError: the disk refuses."""
        found: list[bytes] = []
        for offset, size, count in self._places:
            try:
                data = os.pread(self._fd, size, offset)
            except OSError as exc:
                raise DatabaseDownError(f"the journal {self.path}: {exc.strerror}") from None
            if len(data) != size:
                raise DatabaseDownError(f"the journal {self.path} was cut off under us")
            found.append(data)
            requests -= count
            if requests <= 0:
                break
        return found

    def done(self, count: int) -> None:
        """The *count* oldest batches are committed (or given up). The file is emptied when all are."""
        for _ in range(count):
            self.requests -= self._places.popleft()[2]
        try:
            if self._places:
                # Not synced: what a power cut takes back is committed twice, and the second time is recognised.
                os.pwrite(self._fd, _HEAD.pack(_MAGIC, self._places[0][0] - _RECORD.size), 0)
            else:
                self._clear()
        except OSError as exc:
            log.error("the journal %s: %s", self.path, exc.strerror)  # noqa: TRY400 - no traceback

    def close(self) -> None:
        """Close the file, keeping what is in it; an empty one goes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if not self._places:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)  # noqa: PTH108 - text in, text out

    def _clear(self) -> None:
        self._end = _HEAD.size
        self.ordered = False
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, _HEAD.pack(_MAGIC, _HEAD.size), 0)
        os.fdatasync(self._fd)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        at = self._end
        try:
            while view:
                written = os.pwrite(self._fd, view, at)
                view = view[written:]
                at += written
            os.fdatasync(self._fd)
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            raise BackendError(f"the journal {self.path}: {exc.strerror}") from None

    def _open(self) -> None:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            data = _contents(self._fd)
            if not data:
                self._clear()
                _sync_folder(self.path)
                return
        except OSError as exc:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            raise BackendError(f"cannot use the journal {self.path}: {exc.strerror}") from None
        self._read(data)
        if self._places:
            log.warning("journal %s: %d requests to replay", self.path, self.requests)

    def _read(self, data: bytes) -> None:
        magic, at = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0)
        if magic != _MAGIC:
            log.error("journal %s: not a journal of this version, started anew", self.path)
            at = len(data)
            with contextlib.suppress(OSError):
                os.replace(self.path, f"{self.path}.bad")  # noqa: PTH105 - text in, text out
                os.close(self._fd)
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._clear()
            return
        while at + _RECORD.size <= len(data):
            size, crc, requests, matters = _RECORD.unpack_from(data, at)
            start = at + _RECORD.size
            if start + size > len(data) or zlib.crc32(data[start : start + size]) != crc:
                break
            self._places.append((start, size, requests))
            self.requests += requests
            self.ordered = self.ordered or matters
            at = start + size
        self._end = at
        if at < len(data):
            log.warning("journal %s: %d bytes of an unfinished record cut off", self.path, len(data) - at)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, at)


def _contents(fd: int) -> bytes:
    parts: list[bytes] = []
    while chunk := os.read(fd, 1 << 20):
        parts.append(chunk)
    return b"".join(parts)


def _sync_folder(path: str) -> None:
    """Make the new name *path* outlive a power cut."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH120 - text in, text out
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def old_requests(path: str) -> list[tuple[str, bytes]]:
    """(URL, request) of each in the journal that all databases shared once; [] when there is none. Raises OSError."""
    if not os.path.exists(path):  # noqa: PTH110 - text in, text out
        return []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = _contents(fd)
    finally:
        os.close(fd)
    found: list[tuple[str, bytes]] = []
    at = 0
    while at + _OLD_RECORD.size <= len(data):
        size, crc = _OLD_RECORD.unpack_from(data, at)
        record = data[at + _OLD_RECORD.size : at + _OLD_RECORD.size + size]
        if len(record) != size or zlib.crc32(record) != crc:
            break
        url, _wait, plain = marshal.loads(record)  # noqa: S302 - written by ourselves
        operations = [_old_operation(parts) for parts in plain]
        found.append((url, encode_request(operations, wait=False)))
        at += _OLD_RECORD.size + size
    return found


def _old_operation(parts: tuple[object, ...]) -> tuple[str, str, dict[str, str | int | float | bytes | None]]:
    """(kind, table, values) or (kind, table, names of the columns, row) as values by column."""
    kind, table, third = str(parts[0]), str(parts[1]), parts[2]
    if isinstance(third, dict):
        return kind, table, third
    row = parts[3]
    assert isinstance(row, tuple)
    return kind, table, dict(zip(str(third).split("\n") if third else (), row, strict=True))
