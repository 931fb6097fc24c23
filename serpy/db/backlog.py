"""Requests that could not be committed because the database was away, kept in order until it is back.

In memory (bounded), or with a path in a file too: then ``append`` returns when they are on disk, and a new store process
continues with what its predecessor left. A record is length, CRC-32, encoded request; a torn last record was never
acknowledged and is cut off.

Runs in: store. Locks: none.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from typing import Final

from serpy.errors import BackendError

log = logging.getLogger(__name__)

_HEADER: Final = struct.Struct("!II")
MAX_REQUESTS: Final = 200_000  # about 100 MB; beyond that new requests are refused


class Backlog:
    """Encoded requests, oldest first. *path* "" = memory only. Raises BackendError when the file cannot be used."""

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._requests: list[bytes] = []
        self._start = 0  # requests before it are committed
        self._fd = -1
        if path:
            try:
                self._open()
            except OSError as exc:
                raise BackendError(f"cannot use the journal {path}: {exc.strerror}") from None

    def __len__(self) -> int:
        return len(self._requests) - self._start

    @property
    def durable(self) -> bool:
        """True when what was appended survives this process."""
        return self._fd >= 0

    def append(self, requests: list[bytes]) -> None:
        """Keep *requests*. Raises BackendError when full or the disk refuses; then none of them is kept."""
        if len(self) + len(requests) > MAX_REQUESTS:
            raise BackendError(f"the database is down and {len(self)} requests are waiting for it already")
        if self._fd >= 0:
            self._append_file(b"".join([_HEADER.pack(len(data), zlib.crc32(data)) + data for data in requests]))
        self._requests.extend(requests)

    def _append_file(self, data: bytes) -> None:
        end = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError as exc:
            os.ftruncate(self._fd, end)
            raise BackendError(f"the journal {self.path}: {exc.strerror}") from None

    def first(self, count: int) -> list[bytes]:
        """The *count* oldest requests, or fewer."""
        return self._requests[self._start : self._start + count]

    def done(self, count: int) -> None:
        """The *count* oldest are committed (or given up). The file is emptied when all are."""
        self._start += count
        if self._start >= len(self._requests):
            self._requests = []
            self._start = 0
            if self._fd >= 0:
                os.ftruncate(self._fd, 0)
                os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file, keeping what is in it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = b""
        while chunk := os.read(self._fd, 1 << 20):
            data += chunk
        at = 0
        while at + _HEADER.size <= len(data):
            size, crc = _HEADER.unpack_from(data, at)
            record = data[at + _HEADER.size : at + _HEADER.size + size]
            if len(record) != size or zlib.crc32(record) != crc:
                break
            self._requests.append(record)
            at += _HEADER.size + size
        if at < len(data):
            log.warning("journal %s: %d bytes of an unfinished record cut off", self.path, len(data) - at)
            os.ftruncate(self._fd, at)
        if self._requests:
            log.warning("journal %s: %d requests to replay", self.path, len(self._requests))
