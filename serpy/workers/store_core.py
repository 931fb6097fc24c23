"""What the store does, without the process around it: collect, coalesce, commit as one transaction, answer.

While the database is away the policy is one of
  refuse   who waits is told so (its script answers 500); rows nobody waits for are kept in memory
  journal  everything is kept in a file, which counts as stored; who waits is told "done"
and what is kept goes first, in order, when the database is back. A request the database refuses for what it holds is
refused alone: its batch is repeated request by request.

Runs in: store. Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from serpy.db.backlog import Backlog
from serpy.db.frames import Ack, Fields, Request, decode_batch, decode_request, encode_acks, fields_of, operation
from serpy.db.interface import Database, Operation, Value
from serpy.db.schema import table_of
from serpy.errors import BackendError, DatabaseDownError, SerpyError

log = logging.getLogger(__name__)

REPLAY_CHUNK: Final = 500  # requests of the backlog in one transaction
REMEMBERED: Final = 64  # batches of each sender whose answers are kept in case they are sent again

PRUNE_EVERY: Final = 256  # batches of a sender between two removals of its old numbers
KEPT: Final = 10_000  # numbers of batches kept; far more than can be unanswered

REFUSE: Final = "refuse"
JOURNAL: Final = "journal"


class _Batch:
    """One datagram that is not answered yet."""

    __slots__ = ("again", "data", "incarnation", "number", "requests", "slot")

    def __init__(self, slot: int, incarnation: int, number: int, again: bool, data: list[bytes]) -> None:
        self.slot = slot
        self.incarnation = incarnation
        self.number = number
        self.again = again
        self.data = data
        self.requests: list[Request] = [decode_request(request) for request in data]


class _Sender:
    """What is known of one slot: the incarnation it is in, and how its last batches ended."""

    __slots__ = ("answers", "incarnation", "pending")

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.pending: set[int] = set()
        self.answers: dict[int, dict[int, str]] = {}


class StoreCore:
    """*database_for(url)* gives the handle ("" = the default database); *send(slot, payload)* delivers an answer.

    ``receive`` takes STORE_WRITE payloads at any time, also while ``commit`` is waiting for the database.
    """

    def __init__(
        self,
        database_for: Callable[[str], Database],
        send: Callable[[int, bytes], bool],
        *,
        policy: str = REFUSE,
        journal_path: str = "",
    ) -> None:
        self.policy = policy
        self.down = False
        self.commits = 0
        self.rows = 0
        self.coalesced = 0
        self.refused = 0
        self.backlog = Backlog(journal_path if policy == JOURNAL else "")
        self._database_for = database_for
        self._send = send
        self._batches: list[_Batch] = []
        self._committing: list[_Batch] = []
        self._senders: dict[int, _Sender] = {}
        self._unsent: list[tuple[int, bytes]] = []  # answers that found the socket full

    # -- in

    def receive(self, payload: bytes, from_slot: int) -> bool:
        """Take one datagram; ``has_work`` then says whether there is something to commit. True when somebody waits for it."""
        incarnation, number, again, data = decode_batch(payload)
        sender = self._senders.get(from_slot)
        if sender is None or sender.incarnation != incarnation:
            sender = self._senders[from_slot] = _Sender(incarnation)
        if number in sender.pending:
            return True
        known = sender.answers.get(number)
        if known is not None:
            self._answer(from_slot, [(incarnation, number, known)])
            return False
        sender.pending.add(number)
        batch = _Batch(from_slot, incarnation, number, again, data)
        self._batches.append(batch)
        return again or any(wait for _url, wait, _operations in batch.requests)

    @property
    def has_work(self) -> bool:
        """True while something waits for ``commit``."""
        return bool(self._batches)

    # -- commit

    def commit(self) -> None:
        """Commit everything received so far and answer it. May park when the databases do."""
        batches = self._batches
        if not batches:
            return
        self._batches = []
        self._committing = batches
        try:
            if self.backlog:
                self._replay()
            pending = [batch for batch in batches if not (batch.again and self._is_done(batch))]
            errors = self._commit_batches(pending)
        except DatabaseDownError as exc:
            self._went_down(exc)
            errors = self._keep_or_refuse(batches, str(exc))
        except BaseException:  # a bug: whoever sent this may try again
            self._forget(batches)
            raise
        else:
            self._came_up()
        self._committing = []
        self._answer_all(batches, errors)

    def take_back(self) -> None:
        """Queue again what an abandoned ``commit`` was busy with (the process is ending while it waited)."""
        for batch in self._committing:
            batch.again = True
        self._batches = self._committing + self._batches
        self._committing = []

    def _forget(self, batches: list[_Batch]) -> None:
        self._committing = []
        for batch in batches:
            sender = self._senders.get(batch.slot)
            if sender is not None and sender.incarnation == batch.incarnation:
                sender.pending.discard(batch.number)

    def tick(self) -> None:
        """Once a second: replay what is kept, send answers that found a full socket."""
        unsent, self._unsent = self._unsent, []
        for slot, payload in unsent:
            self._deliver(slot, payload)
        if self.backlog:
            try:
                self._replay()
            except DatabaseDownError as exc:
                self._went_down(exc)
            else:
                self._came_up()

    def _commit_batches(self, batches: list[_Batch]) -> dict[_Batch, dict[int, str]]:
        """Commit them all; the refusals by batch and request. Raises DatabaseDownError: nothing of it is certain."""
        by_url: dict[str, list[Operation]] = {}
        for batch in batches:
            for url, _wait, operations in batch.requests:
                known = by_url.get(url)
                if known is None:
                    by_url[url] = list(operations)
                else:
                    known.extend(operations)
            self._note_progress(batch, by_url)
        try:
            for url, operations in by_url.items():
                self._write(url, operations)
        except DatabaseDownError:
            raise
        except SerpyError as exc:
            log.warning("a transaction was refused, its requests are repeated one by one: %s", exc)
            return self._one_by_one(batches)
        return {}

    def _one_by_one(self, batches: list[_Batch]) -> dict[_Batch, dict[int, str]]:
        errors: dict[_Batch, dict[int, str]] = {}
        for batch in batches:
            for index, (url, _wait, operations) in enumerate(batch.requests):
                try:
                    self._write(url, operations)
                except DatabaseDownError:
                    raise
                except SerpyError as exc:
                    self.refused += 1
                    errors.setdefault(batch, {})[index] = str(exc)
        return errors

    def _write(self, url: str, operations: Sequence[Operation]) -> None:
        merged = coalesced(operations)
        self._database_for(url).write(merged)
        self.commits += 1
        self.rows += len(merged)
        self.coalesced += len(operations) - len(merged)

    # -- once and only once

    def _note_progress(self, batch: _Batch, by_url: dict[str, list[Operation]]) -> None:
        """Inserts count when they are repeated, so the number of their batch is committed with them.

        Each number has its row: a batch that died with a store may come again after a later one was committed.
        """
        url = _insert_url(batch)
        if url is not None:
            sender = str(batch.slot)
            by_url[url].append(operation("upsert", "store_progress", Fields(_PROGRESS, (sender, batch.number))))
            if batch.number % PRUNE_EVERY == 0:
                by_url[url].append(("delete", "store_progress", {"sender": sender, "batch <": batch.number - KEPT}))

    def _is_done(self, batch: _Batch) -> bool:
        url = _insert_url(batch)
        if url is None:
            return False  # the rest gives the same result again
        where: dict[str, Value] = {"sender": str(batch.slot), "batch": batch.number}
        return bool(self._database_for(url).select("store_progress", ("batch",), where))

    # -- while the database is away

    def _replay(self) -> None:
        """Commit the backlog, oldest first. Raises DatabaseDownError."""
        while self.backlog:
            chunk = self.backlog.first(REPLAY_CHUNK)
            batch = _Batch(-1, 0, 0, again=False, data=chunk)
            by_url: dict[str, list[Operation]] = {}
            for url, _wait, operations in batch.requests:
                by_url.setdefault(url, []).extend(operations)
            try:
                for url, operations in by_url.items():
                    self._write(url, operations)
            except DatabaseDownError:
                raise
            except SerpyError as exc:
                log.warning("kept requests were refused together, they are repeated one by one: %s", exc)
                for index, error in self._one_by_one([batch]).get(batch, {}).items():
                    log.warning("kept request %d given up, the database refuses it: %s", index, error)
            self.backlog.done(len(chunk))

    def _keep_or_refuse(self, batches: list[_Batch], reason: str) -> dict[_Batch, dict[int, str]]:
        errors: dict[_Batch, dict[int, str]] = {}
        for batch in batches:
            refused = [i for i, request in enumerate(batch.requests) if request[1] and self.policy == REFUSE]
            kept = [data for i, data in enumerate(batch.data) if i not in refused]
            answer = dict.fromkeys(refused, reason)
            try:
                self.backlog.append(kept)
            except BackendError as exc:
                answer = dict.fromkeys(range(len(batch.data)), str(exc))
            if answer:
                self.refused += len(answer)
                errors[batch] = answer
        return errors

    def _went_down(self, exc: DatabaseDownError) -> None:
        if not self.down:
            self.down = True
            log.error("the database is down (policy: %s): %s", self.policy, exc)

    def _came_up(self) -> None:
        if self.down:
            self.down = False
            log.warning("the database is back")

    # -- answers

    def _answer_all(self, batches: list[_Batch], errors: dict[_Batch, dict[int, str]]) -> None:
        by_slot: dict[int, list[Ack]] = {}
        for batch in batches:
            refused = errors.get(batch, {})
            sender = self._senders.get(batch.slot)
            if sender is not None and sender.incarnation == batch.incarnation:
                sender.pending.discard(batch.number)
                sender.answers[batch.number] = refused
                if len(sender.answers) > REMEMBERED:
                    del sender.answers[next(iter(sender.answers))]
            by_slot.setdefault(batch.slot, []).append((batch.incarnation, batch.number, refused))
        for slot, acks in by_slot.items():
            self._answer(slot, acks)

    def _answer(self, slot: int, acks: list[Ack]) -> None:
        self._deliver(slot, encode_acks(acks))

    def _deliver(self, slot: int, payload: bytes) -> None:
        if not self._send(slot, payload):
            self._unsent.append((slot, payload))


def _insert_url(batch: _Batch) -> str | None:
    """The URL of the first insert, or statement, of *batch*; None when all of it may be repeated."""
    for url, _wait, operations in batch.requests:
        for each in operations:
            if each[0] in ("insert", "sql"):
                return url
    return None


_PROGRESS: Final = ("sender", "batch")


def coalesced(operations: Sequence[Operation]) -> list[Operation]:
    """The operations with the same final result, as few and as well grouped as can be.

    Of several on one key the last one counts. Rows of different keys do not mind their order, so deletes and upserts are
    put together by table. A delete that does not name exactly the key stays where it is, between what came before and
    what came after. Inserts keep their order.
    """
    if len(operations) == 1:
        return list(operations)
    result: list[Operation] = []
    last: dict[tuple[Value, ...], Operation] = {}
    inserts: list[Operation] = []
    shape_table = ""  # the rows of one shape come one after the other
    shape_columns: tuple[str, ...] = ()
    places: list[int] = []
    for each in operations:
        kind, table, values = each
        if kind == "insert":
            inserts.append(each)
            continue
        if kind == "sql":  # nobody knows what it touches
            _settle(result, last, inserts)
            result.append(each)
            continue
        fields = fields_of(values)
        columns = fields.columns
        if table != shape_table or columns is not shape_columns:
            shape_table = table
            shape_columns = columns
            places = _key_places(table, columns)
        if not places or (kind == "delete" and len(columns) != len(places)):
            _settle(result, last, inserts)
            result.append(each)
            continue
        row = fields.row
        identity = (table, *[row[place] for place in places])
        before = last.get(identity)
        if before is not None and kind == "upsert" and len(before[2]) != len(columns):
            each = _merged(before, each, result, last, inserts)
        last[identity] = each
    _settle(result, last, inserts)
    return result


def _key_places(table: str, columns: tuple[str, ...]) -> list[int]:
    """Where the values of the table's key are in a row of *columns*; [] when they are not all there."""
    key = table_of(table).key
    return [columns.index(name) for name in key] if all(name in columns for name in key) else []


def _merged(
    before: Operation,
    later: Operation,
    result: list[Operation],
    last: dict[tuple[Value, ...], Operation],
    inserts: list[Operation],
) -> Operation:
    """*later* as it must be when *before* on the same key is dropped; or both are kept, in order."""
    kind, table, values = later
    if before[0] == "upsert":
        return (kind, table, {**before[2], **values})
    if len(values) < len(table_of(table).columns):  # what it leaves out must become the default again
        _settle(result, last, inserts)
    return later


def _settle(result: list[Operation], last: dict[tuple[Value, ...], Operation], inserts: list[Operation]) -> None:
    """Move what is collected to *result*: deletes first, by table, then upserts, then inserts."""
    if last:
        kept = list(last.values())
        if len(kept) > 1:
            kept.sort(key=_grouping)
        result.extend(kept)
        last.clear()
    if inserts:
        result.extend(inserts)
        inserts.clear()


def _grouping(each: Operation) -> tuple[str, str, int]:
    return each[0], each[1], len(each[2])
