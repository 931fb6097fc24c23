"""Fewer operations with the same result: what a transaction of many requests need not write twice.

Pure. Of several operations on one key the last one counts, rows of one shape come together, inserts keep their order.

Runs in: store. Locks: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serpy.db.frames import fields_of
from serpy.db.schema import table_of

if TYPE_CHECKING:
    from serpy.db.interface import Operation, Value


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
