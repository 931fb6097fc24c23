"""A batch on its way through the store, and what is known of the client that sent it.

Runs in: store. Locks: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serpy.db.frames import decode_request, encode_batch

if TYPE_CHECKING:
    from serpy.db.frames import Batch, Request
    from serpy.db.interface import Operation


class Pending:
    """A batch that is not answered yet. *slot* is where the answer goes, -1: nowhere (it comes from the journal)."""

    __slots__ = (
        "again",
        "answer",
        "data",
        "done",
        "incarnation",
        "number",
        "oldest",
        "requests",
        "slot",
        "stored",
        "url",
    )

    def __init__(self, batch: Batch, slot: int) -> None:
        self.url, self.incarnation, self.number, self.oldest, self.again, self.data = batch
        self.slot = slot
        self.requests: list[Request | None] = [decode_request(data) if data else None for data in self.data]
        self.answer: dict[int, str] = {}  # error text by index of the request
        self.stored: set[int] = set()  # committed apart from the others
        self.done = False

    def open(self) -> list[int]:
        """Indexes of the requests that are neither committed nor refused."""
        return [
            index
            for index, request in enumerate(self.requests)
            if request is not None and index not in self.answer and index not in self.stored
        ]

    def waits_only(self) -> bool:
        """True when somebody waits for each of its requests."""
        return all(request is None or request[0] for request in self.requests)

    def operations(self) -> list[Operation]:
        """What is to be done for the open requests."""
        found: list[Operation] = []
        if not self.answer and not self.stored:
            for request in self.requests:
                if request is not None:
                    found.extend(request[1])
            return found
        for index in self.open():
            found.extend(self.request(index)[1])
        return found

    def request(self, index: int) -> Request:
        """The request *index*, which is an open one."""
        request = self.requests[index]
        assert request is not None
        return request

    def record(self) -> tuple[bytes, int, bool]:
        """What a journal keeps of it: the batch with its open requests only, how many, does their order matter?"""
        left = self.open()
        requests = [data if index in left else b"" for index, data in enumerate(self.data)]
        number = self.number
        data = encode_batch(self.url, self.incarnation, number, oldest=number, again=self.again, requests=requests)
        return data, len(left), not all(_inserts(self.request(index)[1]) for index in left)

    @property
    def sender(self) -> str:
        """Who sent it, in ``store_progress``; a request stored apart adds its index."""
        return f"{self.incarnation:x}"


class Sender:
    """What is known of the client in one slot: the incarnation it is in, and how its last batches ended."""

    __slots__ = ("answers", "incarnation", "keyed", "pending")

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.pending: set[int] = set()
        self.answers: dict[int, dict[int, str]] = {}
        self.keyed = 0  # batches with a key since the last removal of old ones


def counts(operations: Sequence[Operation]) -> bool:
    """True when doing them twice is not the same as doing them once."""
    return any(each[0] in ("insert", "sql") for each in operations)


def _inserts(operations: Sequence[Operation]) -> bool:
    """True when they may be overtaken: rows of their own, which nothing changes later."""
    return all(each[0] == "insert" for each in operations)
