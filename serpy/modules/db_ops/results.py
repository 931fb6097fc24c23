"""The rows of one query, and what the selects read of them.

Runs in: receivers, timer. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from serpy.api import Context

if TYPE_CHECKING:
    from serpy.db.interface import Row, Value

_MAX_DIGITS: Final = 9
_KNOWN: Final = "count, is_empty, row_no, field[n], row[n], row[n].field[n]"


class Result:
    """All rows, and the one that is current."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.at = 0

    def field(self, row: int, column: int) -> str | None:
        """One value as text: "" for NULL, None when there is no such row or column; from the end when negative."""
        if not -len(self.rows) <= row < len(self.rows):
            return None
        values = self.rows[row]
        return text_of(values[column]) if -len(values) <= column < len(values) else None


def result_of(ctx: Context, handle: str) -> Result | None:
    """The rows of *handle*, None when it is not open."""
    found = ctx.notes.get("db_ops")
    return cast("dict[str, Result]", found).get(handle) if found is not None else None


def text_of(value: Value) -> str:
    """A value as the script sees it."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return repr(value) if isinstance(value, float) else str(value)


def number_of(value: str | int | None) -> int | None:
    """A row number given as number or digits."""
    if isinstance(value, int):
        return value
    if value and len(value) <= _MAX_DIGITS and frozenset("0123456789").issuperset(value):
        return int(value)
    return None


def reader(parts: tuple[str | int, ...]) -> Callable[[Result], str | None]:
    """What reads ``.count`` and so on of a result. Raises ValueError for a part it does not know."""
    if not parts:
        return lambda result: result.field(result.at, 0)
    if parts == ("count",):
        return lambda result: str(len(result.rows))
    if parts == ("is_empty",):
        return lambda result: "0" if result.rows else "1"
    if parts == ("row_no",):
        return lambda result: str(result.at) if result.rows else None
    row: int | None = None
    rest = parts
    if rest[0] == "row" and len(rest) > 1 and isinstance(rest[1], int):
        row, rest = rest[1], rest[2:]
    column: int | str = 0
    if rest[:1] == ("field",):
        column, rest = (rest[1], rest[2:]) if len(rest) > 1 else (0, ())
    if rest or not isinstance(column, int) or (row is None and parts[0] != "field"):
        raise ValueError(f"unknown part {'.'.join(map(str, parts))[:60]!r} of a result; known: {_KNOWN}")
    place = column
    if row is None:
        return lambda result: result.field(result.at, place)
    fixed = row
    return lambda result: result.field(fixed, place)
