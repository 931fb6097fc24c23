"""What the store does, without the process around it: a lane for each database, and the answers to the clients.

Lanes know nothing of each other: a database that is down, hangs or refuses holds up nobody but those who write to it.
Answers to one client leave in the order of their batches, so that what it sends again is always the newest part.

Runs in: store. Locks: none.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.db.backlog import old_requests
from serpy.db.frames import decode_batch, encode_acks, encode_batch
from serpy.db.lane import JOURNAL, REFUSE, Lane
from serpy.db.pending import Pending
from serpy.errors import BackendError

if TYPE_CHECKING:
    from serpy.db.frames import Ack
    from serpy.db.interface import Database

__all__ = ["JOURNAL", "REFUSE", "Answers", "Lane", "Store"]

log = logging.getLogger(__name__)

_PREFIX: Final = "store-"
_SUFFIX: Final = ".journal"
_OLD: Final = "store.journal"  # of all databases together, as an older version made it


class Answers:
    """Acknowledgements by slot, in order; what finds a full socket waits for ``deliver``."""

    def __init__(self, send: Callable[[int, bytes], bool]) -> None:
        self._send: Final = send
        self._waiting: dict[int, list[Ack]] = {}

    def add(self, slot: int, incarnation: int, number: int, errors: dict[int, str]) -> None:
        """Answer a batch; it leaves with the next ``deliver``."""
        if slot >= 0:
            self._waiting.setdefault(slot, []).append((incarnation, number, errors))

    def deliver(self) -> None:
        """Send what is there, one datagram for each slot."""
        if not self._waiting:
            return
        for slot, acks in list(self._waiting.items()):
            if self._send(slot, encode_acks(acks)):
                del self._waiting[slot]


class Store:
    """The lanes. *database_for(url)* gives a handle, *send(slot, payload)* delivers an answer, *folder* is for journals.

    ``receive`` takes STORE_WRITE payloads at any time, also while a lane waits for its database.
    """

    def __init__(
        self,
        database_for: Callable[[str], Database],
        send: Callable[[int, bytes], bool],
        *,
        policy: str = REFUSE,
        folder: str = "",
    ) -> None:
        self.lanes: Final[dict[str, Lane]] = {}
        self.answers: Final = Answers(send)
        self._database_for: Final = database_for
        self._policy: Final = policy
        self._folder: Final = folder

    def recover(self) -> None:
        """Take over the journals of our predecessors. Raises BackendError when one cannot be used."""
        try:
            names = sorted(os.listdir(self._folder))  # noqa: PTH208 - text in, text out
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise BackendError(f"cannot keep journals in {self._folder}: no permission")
        except OSError as exc:
            raise BackendError(f"cannot keep journals in {self._folder}: {exc.strerror}") from None
        for name in names:
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                self._recover(os.path.join(self._folder, name))  # noqa: PTH118 - text in, text out
        if _OLD in names:
            self._take_over(os.path.join(self._folder, _OLD))  # noqa: PTH118 - text in, text out

    def receive(self, payload: bytes, slot: int) -> Lane | None:
        """Take one datagram; the lane that has something new to commit."""
        batch = Pending(decode_batch(payload), slot)
        lane = self.lane(batch.url)
        is_new = lane.receive(batch)
        self.answers.deliver()
        return lane if is_new else None

    def lane(self, url: str) -> Lane:
        """The lane of *url*, made when it is needed first."""
        lane = self.lanes.get(url)
        if lane is None:
            lane = self.lanes[url] = self._lane(url, self._path(url))
        return lane

    def round(self, lane: Lane) -> None:
        """One step of *lane*, and its answers. May park."""
        try:
            lane.round()
        finally:
            self.answers.deliver()

    def tick(self) -> None:
        """Once a second: answers that found a full socket."""
        self.answers.deliver()

    def take_back(self) -> None:
        """The process ends: what abandoned rounds were busy with waits again."""
        for lane in self.lanes.values():
            lane.take_back()

    def by_health(self) -> list[Lane]:
        """The lanes, those whose databases are there first."""
        return sorted(self.lanes.values(), key=_is_down)

    def close(self) -> None:
        """Close the journals."""
        for lane in self.lanes.values():
            lane.backlog.close()

    def _lane(self, url: str, path: str) -> Lane:
        return Lane(url, self._database_for, self.answers.add, policy=self._policy, journal=path)

    def _path(self, url: str) -> str:
        name = hashlib.blake2b(url.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        return os.path.join(self._folder, f"{_PREFIX}{name}{_SUFFIX}")  # noqa: PTH118 - text in, text out

    def _recover(self, path: str) -> None:
        lane = self._lane("", path)
        lane.backlog.recover()
        if not len(lane.backlog):
            lane.backlog.close()
            return
        url = decode_batch(lane.backlog.first(1)[0])[0]
        lane.backlog.close()
        lane = self.lane(url)
        lane.backlog.recover()

    def _take_over(self, path: str) -> None:
        """Move what an older version has left into the lanes' journals."""
        try:
            found = old_requests(path)
        except OSError as exc:
            raise BackendError(f"cannot use the journal {path}: {exc.strerror}") from None
        incarnation = int.from_bytes(os.urandom(8), "big")
        for number, (url, request) in enumerate(found):
            record = encode_batch(url, incarnation, number, oldest=number, again=False, requests=[request])
            self.lane(url).backlog.append([(record, 1, True)])
        os.unlink(path)  # noqa: PTH108 - text in, text out


def _is_down(lane: Lane) -> bool:
    return lane.down
