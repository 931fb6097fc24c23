"""A lane of the store: everything of one database. What waits for it, its journal, whether it is down, what it has seen.

``round()`` is one step: a part of the journal, then everything that has come as one transaction; what is refused is
repeated batch by batch, then request by request. Rows that count when they are repeated bring the number of their batch
along, an *insert* into ``store_progress`` in the same transaction: so it is the database that recognises a repetition,
whoever repeats it (a client, the journal, a connection that broke in a commit). While the database is away, who waits is
told so (policy ``refuse``) or told "done" (``journal``), every other row goes into the journal at once, and one
transaction at a time tries. Nothing is acknowledged that is neither committed nor in the journal.

Runs in: store; ``round`` may park. Locks: none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from serpy.db.backlog import Backlog
from serpy.db.coalesce import coalesced
from serpy.db.frames import UNKNOWN, Fields, decode_batch, operation
from serpy.db.interface import parse_url
from serpy.db.pending import Pending, Sender, counts
from serpy.errors import BackendError, ConfigError, DatabaseDownError, ResourceError, SerpyError

if TYPE_CHECKING:
    from serpy.db.interface import Database, Operation

log = logging.getLogger(__name__)

REFUSE: Final = "refuse"
JOURNAL: Final = "journal"

REPLAY_CHUNK: Final = 500  # requests of the journal in one transaction
REMEMBERED: Final = 64  # batches of each sender whose answers are kept in case they are sent again
PRUNE_EVERY: Final = 256  # keyed batches of a sender between two removals of the numbers it will not send again
LEFTOVER_S: Final = 7 * 86400.0  # then the numbers of senders that are gone are removed
LEFTOVERS_EVERY_S: Final = 86400.0
REPORT_S: Final = 10.0  # between two reports of lost requests
KEYLESS_S: Final = 60.0  # a database without our table is asked for it again after this

PROGRESS: Final = "store_progress"
_COLUMNS: Final = ("sender", "batch")


class Lane:
    """The writes to *url*. *answer(slot, incarnation, number, errors)* takes what became of a batch."""

    def __init__(
        self,
        url: str,
        database_for: Callable[[str], Database],
        answer: Callable[[int, int, int, dict[int, str]], None],
        *,
        policy: str,
        journal: str,
    ) -> None:
        self.url: Final = url
        self.down = False
        self.busy = False  # in a round; whoever is there looks again
        self.urgent = False  # somebody waits for what has come
        self.commits = 0
        self.rows = 0
        self.coalesced = 0
        self.refused = 0
        self.backlog: Final = Backlog(journal)
        self._database_for: Final = database_for
        self._answer: Final = answer
        self._policy: Final = policy
        self._queue: list[Pending] = []
        self._committing: list[Pending] = []
        self._senders: dict[int, Sender] = {}
        self._reason = ""  # why it is down
        self._unsaid = 0  # requests lost since the last report
        self._report_at = 0.0  # monotonic
        self._keyless_until = 0.0  # monotonic; the database has no store_progress
        self._leftovers_at = 0.0  # monotonic; when to look for the numbers of senders that are gone

    # -- in

    def receive(self, batch: Pending) -> bool:
        """Take a datagram; True when there is something new to commit.

        One whose predecessors of the same client we have never seen went past them to a new store: it is ignored, the
        client sends all of them again in order.
        """
        sender = self._senders.get(batch.slot)
        if sender is None or sender.incarnation != batch.incarnation:
            sender = self._senders[batch.slot] = Sender(batch.incarnation)
        if batch.number in sender.pending:
            return False
        known = sender.answers.get(batch.number)
        if known is not None:
            self._answer(batch.slot, batch.incarnation, batch.number, known)
            return False
        oldest = batch.oldest
        if oldest != batch.number and oldest not in sender.pending and oldest not in sender.answers:
            return False
        sender.pending.add(batch.number)
        self._queue.append(batch)
        if batch.again or any(request is not None and request[0] for request in batch.requests):
            self.urgent = True
        return True

    @property
    def has_queue(self) -> bool:
        """True while batches wait for a round."""
        return bool(self._queue)

    @property
    def has_work(self) -> bool:
        """True while a round would do something: batches wait, or the journal does and the database is there."""
        return bool(self._queue) or (len(self.backlog) > 0 and not self.down)

    # -- one step

    @property
    def is_ready(self) -> bool:
        """True when a round would not only find another one at work: while the database is away nothing waits for it."""
        return self.down or not self.busy

    def round(self) -> None:
        """Commit a part of the journal and everything received so far, and answer it. May park when the database does."""
        if not self.is_ready:
            return
        self.urgent = False
        batches, self._queue = self._queue, []
        if self.down:
            batches = self._settle_at_once(batches)
        if self.busy or not (batches or len(self.backlog)):
            return
        self.busy = True
        self._committing = batches
        try:
            self._commit(batches)
        except BaseException:  # a bug: whoever sent this may try again
            self._forget(batches)
            raise
        finally:
            self._committing = []
            self.busy = False

    def _commit(self, batches: list[Pending]) -> None:
        try:
            if len(self.backlog):
                self._replay()
            if self.backlog.ordered and self._policy == REFUSE:
                self._queue = batches + self._queue  # what must not overtake the journal waits for it
                batches = []
            elif self.backlog.ordered:
                self._keep(batches)
            else:
                self._store(batches)
        except DatabaseDownError as exc:
            self._went_down(exc)
            self._refuse_who_waits(batches, f"{UNKNOWN}{exc}" if exc.unknown else str(exc))
            self._keep(batches)
        else:
            self._came_up()
        self._finish(batches)

    def _settle_at_once(self, batches: list[Pending]) -> list[Pending]:
        """While the database is away: keep, or refuse, all but what shall try whether it is back."""
        trying: list[Pending] = []
        if self._policy == REFUSE and not self.busy:
            trying = [batch for batch in batches if batch.waits_only()]
        others = [batch for batch in batches if batch not in trying]
        self._refuse_who_waits(others, self._reason)
        self._keep(others)
        self._finish(others)
        return trying

    def take_back(self) -> None:
        """Queue again what an abandoned ``round`` was busy with (the process is ending while it waited)."""
        for batch in self._committing:
            batch.again = True
        self._queue = self._committing + self._queue
        self._committing = []
        self.busy = False

    def _forget(self, batches: list[Pending]) -> None:
        for batch in batches:
            sender = self._senders.get(batch.slot)
            if sender is not None and sender.incarnation == batch.incarnation:
                sender.pending.discard(batch.number)

    def _finish(self, batches: list[Pending]) -> None:
        for batch in batches:
            sender = self._senders.get(batch.slot)
            if sender is not None and sender.incarnation == batch.incarnation:
                sender.pending.discard(batch.number)
                sender.answers[batch.number] = batch.answer
                if len(sender.answers) > REMEMBERED:
                    del sender.answers[next(iter(sender.answers))]
            self._answer(batch.slot, batch.incarnation, batch.number, batch.answer)

    # -- committing

    def _store(self, batches: list[Pending]) -> None:
        """Commit them; what is refused is in their answers. Raises DatabaseDownError: who is not done may be, or not."""
        for batch in batches:
            if batch.again:
                self._look_up(batch)
        left = [batch for batch in batches if not batch.done]
        if not left:
            return
        try:
            self._transaction(left)
        except DatabaseDownError:
            raise
        except SerpyError as exc:
            if len(left) > 1:
                log.info("a transaction was refused, its batches are repeated one by one: %s", exc)
            for batch in left:
                self._store_alone(batch, "" if len(left) > 1 else str(exc))

    def _store_alone(self, batch: Pending, refused: str) -> None:
        """Commit *batch*, which has been refused together with others, or alone with the text *refused*."""
        if not refused:
            try:
                self._transaction([batch])
            except DatabaseDownError:
                raise
            except SerpyError as exc:
                refused = str(exc)
            else:
                return
        if self._key_of(batch) is not None:
            self._look_up(batch)
        if batch.done:
            return
        log.info("a batch was refused, its requests are repeated one by one: %s", refused)
        batch.again = True  # from here on parts of it may be stored
        for index in batch.open():
            self._store_part(batch, index)
        batch.done = True

    def _store_part(self, batch: Pending, index: int) -> None:
        """Commit one request of *batch*, or note why not."""
        operations = list(batch.request(index)[1])
        key = _key(f"{batch.sender}/{index}", batch.number) if counts(operations) and self._has_keys() else None
        try:
            self._write(operations, [key] if key is not None else [])
        except DatabaseDownError:
            raise
        except SerpyError as exc:
            if key is not None:
                self._look_up(batch)
            if index not in batch.stored:
                self.refused += 1
                batch.answer[index] = str(exc)
        else:
            batch.stored.add(index)

    def _transaction(self, batches: Sequence[Pending]) -> None:
        operations: list[Operation] = []
        keys: list[Operation] = []
        for batch in batches:
            operations.extend(batch.operations())
            key = self._key_of(batch)
            if key is not None:
                keys.append(key)
                self._prune(batch, keys)
        self._write(operations, keys)
        for batch in batches:
            batch.done = True

    def _write(self, operations: Sequence[Operation], keys: list[Operation]) -> None:
        if not operations and not keys:
            return
        merged = coalesced(operations)
        try:
            self._database_for(self.url).write(merged + keys if keys else merged)
        except ResourceError as exc:
            raise DatabaseDownError(str(exc)) from None
        self.commits += 1
        self.rows += len(merged)
        self.coalesced += len(operations) - len(merged)

    # -- once and only once

    def _key_of(self, batch: Pending) -> Operation | None:
        """What recognises *batch* when it is repeated; None when all of it may be repeated, or nothing can be recognised."""
        for request in batch.requests:
            if request is not None and counts(request[1]):
                return _key(batch.sender, batch.number) if self._has_keys() else None
        return None

    def _has_keys(self) -> bool:
        if self._keyless_until and time.monotonic() > self._keyless_until:
            self._keyless_until = 0.0
        return not self._keyless_until

    def _look_up(self, batch: Pending) -> None:
        """Ask the database what it has of *batch*. Raises DatabaseDownError."""
        if self._key_of(batch) is None:
            return
        try:
            rows = self._database_for(self.url).select(PROGRESS, ("sender",), {"batch": batch.number})
        except DatabaseDownError:
            raise
        except BackendError as exc:  # somebody else's database: it has no such table
            log.warning("%s: rows that are sent twice are stored twice: %s", self._name(), exc)
            self._keyless_until = time.monotonic() + KEYLESS_S
            return
        for row in rows:
            sender, mark, index = str(row[0]).partition("/")
            if sender == batch.sender and not mark:
                batch.done = True
            elif sender == batch.sender and index.isdigit():
                batch.stored.add(int(index))

    def _prune(self, batch: Pending, keys: list[Operation]) -> None:
        """Now and then remove the numbers that nobody will send again."""
        sender = self._senders.get(batch.slot)
        if sender is not None and sender.incarnation == batch.incarnation:
            sender.keyed += 1
            if sender.keyed >= PRUNE_EVERY:
                sender.keyed = 0
                keys.append(("delete", PROGRESS, {"sender": batch.sender, "batch <": batch.oldest}))
        now = time.monotonic()
        if now >= self._leftovers_at:
            self._leftovers_at = now + LEFTOVERS_EVERY_S
            keys.append(("delete", PROGRESS, {"batch <": int((time.time() - LEFTOVER_S) * 1e6)}))

    # -- while the database is away

    def _replay(self) -> None:
        """Commit the oldest part of the journal. Raises DatabaseDownError."""
        records = self.backlog.first(REPLAY_CHUNK)
        batches = [Pending(decode_batch(data), -1) for data in records]
        self._store(batches)
        refused = [text for batch in batches for text in batch.answer.values()]
        if refused:
            self._lost(f"kept requests are given up, the database refuses them: {refused[0]}", len(refused))
        self.backlog.done(len(records))

    def _refuse_who_waits(self, batches: list[Pending], text: str) -> None:
        if self._policy != REFUSE:
            return
        for batch in batches:
            if batch.done:
                continue
            for index in batch.open():
                if batch.request(index)[0]:
                    self.refused += 1
                    batch.answer[index] = text

    def _keep(self, batches: list[Pending]) -> None:
        """Put what is open into the journal; when that is impossible it is refused."""
        kept = [batch.record() for batch in batches if not batch.done and batch.open()]
        if not kept:
            return
        try:
            self.backlog.append(kept)
        except BackendError as exc:
            before = self.refused
            for batch in batches:
                for index in [] if batch.done else batch.open():
                    self.refused += 1
                    batch.answer[index] = str(exc)
            self._lost(str(exc), self.refused - before)

    def _lost(self, why: str, count: int) -> None:
        """Say that *count* requests are lost, but not each time."""
        self._unsaid += count
        now = time.monotonic()
        if now >= self._report_at:
            self._report_at = now + REPORT_S
            log.error("database %s: %d requests are lost: %s", self._name(), self._unsaid, why)
            self._unsaid = 0

    def _went_down(self, exc: DatabaseDownError) -> None:
        self._reason = str(exc)
        if not self.down:
            self.down = True
            log.error("database %s cannot be written (store_policy %s): %s", self._name(), self._policy, exc)

    def _came_up(self) -> None:
        if self.down:
            self.down = False
            log.warning("database %s is back", self._name())

    def _name(self) -> str:
        try:
            return parse_url(self.url).redacted()
        except ConfigError:
            return "without a usable URL"


def _key(sender: str, number: int) -> Operation:
    return operation("insert", PROGRESS, Fields(_COLUMNS, (sender, number)))
