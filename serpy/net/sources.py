"""Who holds how many connections: counted for each source, an IPv4 address or an IPv6 /64, in constant time.

A connection is *silent* until it brings its first message, a *stranger* until its user has proved who they are, then
*known*. Known ones are not counted and make room for nobody. The worst source, which has most strangers here, is found
without a walk: sources stand in a list for each count, and counts change by one.

Runs in: tcp receiver. Locks: none, each process writes its own row of the shared table. RFC: none.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serpy.net.connection import Connection

BUCKETS: Final = 8192  # for each process; sources that fall into one share their count with it
_CELL: Final = 4  # bytes
LOOKED_AT: Final = 8  # of a source's oldest connections, for the one that was idle longest
KNOWN_FOR_ONE: Final = 10  # known connections of a source that give it as much again as its limit …
FACTOR_MAX: Final = 50  # … up to so many times


def source_of(host: str) -> str:
    """What connections from *host* are counted under: who has an IPv6 address has its whole /64."""
    if ":" not in host:
        return host
    with contextlib.suppress(OSError):
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        if packed[:12] == bytes(10) + b"\xff\xff":
            return socket.inet_ntop(socket.AF_INET, packed[12:])
        return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"
    return host


class SourceTable:
    """How many strangers' connections the sources have in each of *children* processes, in shared *memory*.

    Buckets are chosen by Python's hash, whose key the children inherit and peers do not know.
    """

    def __init__(self, memory: memoryview, children: int) -> None:
        self._cells: Final = memory.cast("I")
        self._children: Final = children
        self._row = 0

    @staticmethod
    def size(children: int) -> int:
        """Bytes of memory for *children*."""
        return children * BUCKETS * _CELL

    def attach(self, child: int) -> None:
        """Be *child*; its predecessor's connections are gone."""
        self._row = child * BUCKETS
        self._cells[self._row : self._row + BUCKETS] = memoryview(bytes(BUCKETS * _CELL)).cast("I")

    def add(self, key: str, change: int) -> None:
        """Count *change* more connections of source *key* in this process."""
        self._cells[self._row + hash(key) % BUCKETS] += change

    def elsewhere(self, key: str) -> int:
        """How many the other processes have."""
        bucket = hash(key) % BUCKETS
        everywhere = sum(self._cells[row * BUCKETS + bucket] for row in range(self._children))
        return everywhere - self._cells[self._row + bucket]


class Source:
    """The connections of one source in this process, each in the order in which they came."""

    def __init__(self, key: str) -> None:
        self.key: Final = key
        self.silent: Final[dict[int, Connection]] = {}
        self.spoken: Final[dict[int, Connection]] = {}
        self.known = 0

    @property
    def strangers(self) -> int:
        """How many connections count."""
        return len(self.silent) + len(self.spoken)

    def allowance(self, limit: int, children: int) -> int:
        """The *limit* of this source: the more of its users are known, the higher."""
        return limit + limit * min(self.known * children // KNOWN_FOR_ONE, FACTOR_MAX - 1)

    def oldest_silent(self) -> Connection | None:
        """The one that has said nothing for longest."""
        for connection in self.silent.values():
            return connection
        return None

    def longest_idle(self, *, busy: bool = False) -> Connection | None:
        """Of the oldest connections that have brought something the one used longest ago; None when all of these wait for
        an answer of ours, which does not help them if *busy* ones count, too.
        """
        found: Connection | None = None
        for looked_at, connection in enumerate(self.spoken.values()):
            if looked_at >= LOOKED_AT:
                break
            if (busy or connection.is_idle) and (found is None or connection.used_at < found.used_at):
                found = connection
        return found


class Sources:
    """All sources with a connection accepted by this process."""

    def __init__(self, table: SourceTable | None) -> None:
        self._table: Final = table
        self._sources: Final[dict[str, Source]] = {}
        self._by_count: Final[dict[int, dict[str, Source]]] = {}  # strangers -> who has so many
        self._most = 0

    def __len__(self) -> int:
        return len(self._sources)

    def of(self, host: str) -> Source:
        """The source of *host*; a new one is not kept before it has a connection."""
        key = source_of(host)
        return self._sources.get(key) or Source(key)

    def strangers(self, source: Source) -> int:
        """How many connections of *source* count, in all processes."""
        return source.strangers + (self._table.elsewhere(source.key) if self._table is not None else 0)

    def worst(self) -> Source | None:
        """The source with most strangers here, the oldest of several."""
        for source in self._by_count.get(self._most, {}).values():
            return source
        return None

    def add(self, connection: Connection) -> None:
        """*connection* has been accepted."""
        source = self.of(connection.host)
        self._sources[source.key] = source
        source.silent[connection.id] = connection
        self._count(source, 1)

    def spoke(self, connection: Connection) -> None:
        """*connection* has brought its first message."""
        source = self.of(connection.host)
        if source.silent.pop(connection.id, None) is not None:
            source.spoken[connection.id] = connection

    def proved(self, connection: Connection) -> None:
        """Who is behind *connection* has shown who they are."""
        source = self.of(connection.host)
        if self._take_out(source, connection):
            source.known += 1
            self._count(source, -1)

    def remove(self, connection: Connection) -> None:
        """*connection* is gone."""
        source = self.of(connection.host)
        if self._take_out(source, connection):
            self._count(source, -1)
        elif source.known:
            source.known -= 1
        if not source.known and not source.strangers:
            self._sources.pop(source.key, None)

    def _take_out(self, source: Source, connection: Connection) -> bool:
        return (source.silent.pop(connection.id, None) or source.spoken.pop(connection.id, None)) is not None

    def _count(self, source: Source, change: int) -> None:
        """*source* has one stranger more, or less."""
        after = source.strangers
        before = after - change
        peers = self._by_count.get(before)
        if peers is not None:
            peers.pop(source.key, None)
            if not peers:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[source.key] = source
        if after > self._most or (before == self._most and before not in self._by_count):
            self._most = after
        if self._table is not None:
            self._table.add(source.key, change)
