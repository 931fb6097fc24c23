"""The datagrams between a StoreClient and the store: ``marshal`` of plain tuples, between processes of one version.

A *batch* is what one sender sent in one datagram, all for one database: see ``Batch``. A *request* is one ``write``
call: (somebody waits?, operations), kept as bytes so that it is encoded once however often it is sent; b"" = answered
already. An operation travels as (kind, table, names of the columns in one text, row): few shapes of rows travel again
and again, so their names are taken apart once; they are bytes, which cost nothing to write, and were text in journals of
older versions. A batch is also what a journal keeps.

Runs in: receivers, timer, ctl, store. Locks: none.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

from serpy.db.interface import Operation, Value
from serpy.errors import UsageError

MAX_FRAME: Final = 60_000  # bytes; a channel takes 65,535
# The version before marshal looked for objects that occur twice: both ends of a location row take 2.1 instead of 2.8 µs.
FORMAT: Final = 2

MAX_SHAPES: Final = 1000  # the shapes of rows are few; this bounds a caller who invents new ones
_BETWEEN: Final = "\n"  # two names of columns

UNKNOWN: Final = "?"  # in front of an error text: the rows may be on disk all the same

Request = tuple[bool, list[Operation]]
Batch = tuple[str, int, int, int, bool, list[bytes]]
"""(URL, incarnation of the sender, number, number of the oldest one that is not answered, sent before?, requests). Numbers
are microseconds of Unix time and rise; an incarnation has one URL and is never used again, on any server."""
Ack = tuple[int, int, dict[int, str]]
"""(incarnation, number, error text by index of the request). A text says why that request was refused."""

_texts: Final[dict[tuple[str, ...], bytes]] = {}
_columns: Final[dict[bytes | str, tuple[str, ...]]] = {}


class Shape:
    """The columns that were written last, and their names in one text."""

    def __init__(self) -> None:
        self.columns: tuple[str, ...] = ()
        self.text = b""


_last: Final = Shape()  # a tuple is found again without a look at each of its names


class Fields:
    """The values of an operation as the names of its columns, shared by all rows of one shape, and its row.

    Reads like the Mapping that it stands for.
    """

    __slots__ = ("columns", "row")

    def __init__(self, columns: tuple[str, ...], row: tuple[Value, ...]) -> None:
        self.columns: Final = columns
        self.row: Final = row

    def __getitem__(self, name: str) -> Value:
        columns = self.columns
        if name not in columns:
            raise KeyError(name)
        return self.row[columns.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def keys(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self.columns

    def values(self) -> tuple[Value, ...]:
        """The row."""
        return self.row

    def items(self) -> list[tuple[str, Value]]:
        """(name, value) of each column."""
        return list(zip(self.columns, self.row, strict=True))

    def __repr__(self) -> str:
        return f"Fields({dict(self.items())!r})"


def fields_of(values: Mapping[str, Value]) -> Fields:
    """*values*, columns and row apart."""
    if isinstance(values, Fields):
        return cast("Fields", values)
    return Fields(tuple(values), tuple(values.values()))


def operation(kind: str, table: str, fields: Fields) -> Operation:
    """An operation with these values."""
    return (kind, table, cast("Mapping[str, Value]", fields))


def encode_request(operations: Sequence[Operation], *, wait: bool) -> bytes:
    """One ``write`` call. Raises UsageError for values that are not plain."""
    plain: list[tuple[str, str, bytes, tuple[Value, ...]]] = []
    for kind, table, values in operations:
        fields = fields_of(values)
        plain.append((kind, table, _text_of(fields.columns), fields.row))
    try:
        return marshal.dumps((wait, plain), FORMAT)
    except ValueError:
        raise UsageError("a row for the store holds a value that is not str, int, float, bytes or None") from None


def _text_of(columns: tuple[str, ...]) -> bytes:
    if columns is _last.columns:
        return _last.text
    text = _texts.get(columns)
    if text is None:
        names = _BETWEEN.join(columns)
        if names.count(_BETWEEN) != max(len(columns) - 1, 0):
            raise UsageError("a column's name for the store holds a line feed")
        text = names.encode("utf-8", "surrogatepass")
        if len(_texts) < MAX_SHAPES:
            _texts[columns] = text
    _last.columns, _last.text = columns, text
    return text


def _columns_of(text: bytes | str) -> tuple[str, ...]:
    columns = _columns.get(text)
    if columns is None:
        names = text if isinstance(text, str) else text.decode("utf-8", "surrogatepass")
        columns = tuple(names.split(_BETWEEN)) if names else ()
        if len(_columns) < MAX_SHAPES:
            _columns[text] = columns
    return columns


def decode_request(data: bytes) -> Request:
    """The inverse of ``encode_request``."""
    wait, plain = marshal.loads(data)  # noqa: S302 - from our own processes
    operations: list[Operation] = []
    for kind, table, text, row in plain:
        operations.append(operation(kind, table, Fields(_columns_of(text), row)))
    return wait, operations


def encode_batch(
    url: str, incarnation: int, number: int, *, oldest: int, again: bool, requests: list[bytes]
) -> bytes:  # fmt: skip
    """One datagram to the store."""
    return marshal.dumps((url, incarnation, number, oldest, again, requests))


def decode_batch(data: bytes) -> Batch:
    """The inverse of ``encode_batch``."""
    return cast("Batch", marshal.loads(data))  # noqa: S302 - from our own processes


def encode_acks(acks: list[Ack]) -> bytes:
    """One datagram to a sender: what became of its batches."""
    return marshal.dumps(acks)


def decode_acks(data: bytes) -> list[Ack]:
    """The inverse of ``encode_acks``."""
    return cast("list[Ack]", marshal.loads(data))  # noqa: S302 - from our own processes
