"""The datagrams between a StoreClient and the store: ``marshal`` of plain tuples, between processes of one version.

A *batch* is what one sender sent in one datagram: (incarnation, number, sent before?, requests). A *request* is one
``write`` call: (url, somebody waits?, operations), kept as bytes so that it is encoded once however often it is sent.

Runs in: receivers, timer, ctl, store. Locks: none.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from typing import Final, cast

from serpy.db.interface import Operation, Value
from serpy.errors import UsageError

MAX_FRAME: Final = 60_000  # bytes; a channel takes 65,535
# The version before marshal looked for objects that occur twice: both ends of a location row take 2.1 instead of 2.8 µs.
FORMAT: Final = 2

Request = tuple[str, bool, list[Operation]]
Batch = tuple[int, int, bool, list[bytes]]
Ack = tuple[int, int, dict[int, str]]
"""(incarnation, number, error text by index of the request). A text says why that request was refused."""


def encode_request(url: str, operations: Sequence[Operation], *, wait: bool) -> bytes:
    """One ``write`` call. Raises UsageError for values that are not plain."""
    plain = [(kind, table, values if type(values) is dict else _plain(values)) for kind, table, values in operations]
    try:
        return marshal.dumps((url, wait, plain), FORMAT)
    except ValueError:
        raise UsageError("a row for the store holds a value that is not str, int, float, bytes or None") from None


def _plain(values: Mapping[str, Value]) -> dict[str, Value]:
    return dict(values)


def decode_request(data: bytes) -> Request:
    """The inverse of ``encode_request``."""
    return cast("Request", marshal.loads(data))  # noqa: S302 - from our own processes


def encode_batch(incarnation: int, number: int, *, again: bool, requests: list[bytes]) -> bytes:
    """One datagram to the store."""
    return marshal.dumps((incarnation, number, again, requests))


def decode_batch(data: bytes) -> Batch:
    """The inverse of ``encode_batch``."""
    return cast("Batch", marshal.loads(data))  # noqa: S302 - from our own processes


def encode_acks(acks: list[Ack]) -> bytes:
    """One datagram to a sender: what became of its batches."""
    return marshal.dumps(acks)


def decode_acks(data: bytes) -> list[Ack]:
    """The inverse of ``encode_acks``."""
    return cast("list[Ack]", marshal.loads(data))  # noqa: S302 - from our own processes
