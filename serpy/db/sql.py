"""SQL texts for the drivers: identifiers checked and quoted, values as placeholders, every text made once.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

from serpy.db.interface import Value
from serpy.db.schema import is_datetime, key_of, quoted
from serpy.errors import UsageError

_OPERATORS: Final = frozenset(("=", "<", "<=", ">", ">=", "<>"))
_MAX_TEXTS: Final = 1000  # the shapes of statements are few; this bounds a caller who invents new ones
_LATEST: Final = 253402300799  # 9999-12-31 23:59:59, the last instant both databases write with four digits

_times: dict[int, str] = {}


def time_text(seconds: float) -> str:
    """Unix *seconds* as ``YYYY-MM-DD HH:MM:SS`` UTC. Refreshes of one second share their text."""
    whole = min(max(int(seconds), 0), _LATEST)
    text = _times.get(whole)
    if text is None:
        if len(_times) >= 4096:
            _times.clear()
        text = _times[whole] = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(whole))
    return text


class Dialect:
    """How one database spells things."""

    def __init__(self, name: str, placeholder: str, epoch: str) -> None:
        self.name = name
        self.placeholder = placeholder
        self.epoch = epoch  # with {} for the column
        self._texts: dict[object, str] = {}

    # -- reading

    def select(
        self, table: str, columns: Sequence[str], where: Mapping[str, Value], order: str = "", limit: int = 0
    ) -> tuple[str, list[Value]]:
        """Return the SELECT and its parameters."""
        parameters: list[Value] = []
        nulls = 0
        bit = 1
        for name, value in where.items():
            if value is None:
                nulls |= bit
            elif not isinstance(value, (str, bytes)) and is_datetime(table, name.split(" ", 1)[0]):
                parameters.append(time_text(value))
            else:
                parameters.append(value)
            bit <<= 1
        if limit:
            parameters.append(limit)
        shape = ("s", table, tuple(columns), tuple(where), nulls, order, limit > 0)
        text = self._texts.get(shape)
        if text is None:
            text = f"select {self._columns(table, columns)} from {quoted(table)}"
            if where:
                text += f" where {self.conditions(where)}"
            if order:
                text += f" order by {_order(order)}"
            if limit:
                text += f" limit {self.placeholder}"
            self._keep(shape, text)
        return text, parameters

    def page(
        self, table: str, columns: Sequence[str], key: Sequence[str], after: Sequence[Value], limit: int
    ) -> tuple[str, list[Value]]:
        """Return the SELECT of one page and its parameters."""
        shape = ("p", table, tuple(columns), tuple(key), len(after))
        text = self._texts.get(shape)
        if text is None:
            names = ", ".join(map(quoted, key))
            text = f"select {self._columns(table, columns)} from {quoted(table)}"
            if after:
                if len(after) != len(key):
                    raise UsageError("a page continues after one value for each key column")
                text += f" where {self._behind(key)}"
            text += f" order by {names} limit {self.placeholder}"
            self._keep(shape, text)
        if self.name == "mysql" and after:
            return text, [value for count in range(len(after)) for value in after[: count + 1]] + [limit]
        return text, [*after, limit]

    def _behind(self, key: Sequence[str]) -> str:
        """The condition for rows behind the values of *key*."""
        mark = self.placeholder
        if self.name != "mysql":
            return f"({', '.join(map(quoted, key))}) > ({', '.join([mark] * len(key))})"
        # MySQL compares rows too, but reads the whole index from its start to do so.
        parts: list[str] = []
        for count in range(len(key)):
            equal = [f"{quoted(name)} = {mark}" for name in key[:count]]
            parts.append(f"({' and '.join([*equal, f'{quoted(key[count])} > {mark}'])})")
        return f"({' or '.join(parts)})"

    def _columns(self, table: str, columns: Sequence[str]) -> str:
        parts: list[str] = []
        for column in columns:
            name = quoted(column)
            parts.append(self.epoch.format(name) if is_datetime(table, column) else name)
        return ", ".join(parts)

    def conditions(self, where: Mapping[str, Value]) -> str:
        """The text behind WHERE: all of them hold."""
        parts: list[str] = []
        for key, value in where.items():
            name, _, operator = key.partition(" ")
            operator = operator or "="
            if operator not in _OPERATORS:
                raise UsageError(f"unknown operator in {key!r}")
            if value is None:
                parts.append(f"{quoted(name)} is {'not ' if operator == '<>' else ''}null")
            else:
                parts.append(f"{quoted(name)} {operator} {self.placeholder}")
        return " and ".join(parts)

    # -- writing

    def upsert(self, table: str, columns: tuple[str, ...], values: str = "") -> str:
        """INSERT of *columns* that updates the row of the same key. *values*: what to insert, "" = one row."""
        shape = ("u", table, columns, values)
        text = self._texts.get(shape)
        if text is None:
            text = f"{self._insert(table, columns, values)} {self._on_conflict(key_of(table), columns)}"
            if len(values) < 200:
                self._keep(shape, text)
        return text

    def _on_conflict(self, key: tuple[str, ...], columns: tuple[str, ...]) -> str:
        """What an upsert does with the row that is there."""
        names = [name for name in columns if name not in key]
        if self.name == "mysql":
            changed = [f"{quoted(name)} = values({quoted(name)})" for name in names or key[:1]]
            return f"on duplicate key update {', '.join(changed)}"
        changed = [f"{quoted(name)} = excluded.{quoted(name)}" for name in names]
        action = f"update set {', '.join(changed)}" if changed else "nothing"
        return f"on conflict ({', '.join(map(quoted, key))}) do {action}"

    def insert(self, table: str, columns: tuple[str, ...], values: str = "") -> str:
        """INSERT of *columns*."""
        shape = ("i", table, columns, values)
        text = self._texts.get(shape)
        if text is None:
            text = self._insert(table, columns, values)
            if len(values) < 200:
                self._keep(shape, text)
        return text

    def delete(self, table: str, where: Mapping[str, Value]) -> str:
        """DELETE of the rows where all conditions hold; none is refused, nobody means "delete everything"."""
        if not where:
            raise UsageError("a delete without conditions")
        return f"delete from {quoted(table)} where {self.conditions(where)}"

    def _insert(self, table: str, columns: tuple[str, ...], values: str) -> str:
        names = ", ".join(map(quoted, columns))
        if not values:
            values = f"values ({', '.join([self.placeholder] * len(columns))})"
        return f"insert into {quoted(table)} ({names}) {values}"

    def _keep(self, shape: object, text: str) -> None:
        if len(self._texts) < _MAX_TEXTS:
            self._texts[shape] = text


def row_of(table: str, values: Mapping[str, Value]) -> list[Value]:
    """The values of one operation in their order, times as text, None left out of conditions by the caller."""
    row = list(values.values())
    for index in datetime_positions(table, tuple(values)):
        value = row[index]
        if isinstance(value, (int, float)):
            row[index] = time_text(value)
    return row


_positions: dict[tuple[str, tuple[str, ...]], tuple[int, ...]] = {}


def datetime_positions(table: str, columns: tuple[str, ...]) -> tuple[int, ...]:
    """Which of *columns*, or of conditions on them, are times."""
    found = _positions.get((table, columns))
    if found is None:
        found = tuple(i for i, column in enumerate(columns) if is_datetime(table, column.split(" ", 1)[0]))
        if len(_positions) < _MAX_TEXTS:
            _positions[(table, columns)] = found
    return found


def _order(order: str) -> str:
    parts: list[str] = []
    for item in order.split(","):
        name, _, direction = item.strip(" ").partition(" ")
        if direction not in ("", "asc", "desc"):
            raise UsageError(f"unknown order {order!r}")
        parts.append(f"{quoted(name)} {direction}".rstrip(" "))
    return ", ".join(parts)


def storable(value: Value) -> Value:
    """*value* as every database accepts it: bytes that were not UTF-8, and NUL, become the ``%XX`` of a URI."""
    if isinstance(value, str) and not value.isascii():
        value = "".join(_escaped(char) for char in value)
    return value.replace("\0", "%00") if isinstance(value, str) else value


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: the byte is in the low eight bits
        return f"%{code - 0xDC00:02X}"
    return "?" if 0xD800 <= code <= 0xDFFF else char
