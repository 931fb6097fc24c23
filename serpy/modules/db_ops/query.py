"""What ``db_query`` runs: raw SQL or the slash syntax, cut apart at load time.

    select/table/fields[/where[/ops[/order[/values]]]]     update/table/fields/where/ops/values
    insert/table/fields/values    replace/table/fields/values    delete/table/where/ops/values

No value of a message ever becomes SQL text. What a format specifier stands for travels as a parameter: inside a quoted
text the whole text becomes one, elsewhere the specifier alone. The slash syntax is split before anything is expanded, so
a slash or a comma that a caller sends separates nothing.

Runs in: the master (parsing), receivers and timer (running). Locks: none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from serpy.api import Context, UsageError
from serpy.db.idioms import portable
from serpy.db.schema import TABLES, is_datetime, key_of, quoted
from serpy.db.sql import time_text
from serpy.script.formats import Format

if TYPE_CHECKING:
    from serpy.db.interface import Database, Operation, Row, Value

Part = str | Callable[[Context], "str | int | None"]

_READING: Final = frozenset(("select", "show", "explain", "describe", "values", "with"))
_WRITING: Final = frozenset(
    ("insert", "update", "delete", "replace", "create", "drop", "alter", "truncate", "call", "set", "do")
)
_SLASH: Final = frozenset(("select", "insert", "update", "replace", "delete"))
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_MARKS: Final = frozenset(("=", "<", ">", "<=", ">=", "<>"))
_TYPES: Final = frozenset("isfdtn")


class Piece:
    """One value: constant texts and specifiers. *kind* is the letter of the slash syntax, "'" inside quotes, "" bare."""

    def __init__(self, kind: str, parts: list[Part]) -> None:
        self.kind = kind
        self.parts = parts

    def value(self, ctx: Context) -> Value:
        """What to hand to the database for this message. Raises UsageError for text where a number must be."""
        if self.kind == "n":
            return None
        if len(self.parts) == 1 and not isinstance(self.parts[0], str):
            found = self.parts[0](ctx)
            if found is None:
                return "<null>" if self.kind == "'" else None
            return found if isinstance(found, int) and self.kind in ("", "i", "t") else _typed(str(found), self.kind)
        texts: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
            else:
                found = part(ctx)
                texts.append("<null>" if found is None else str(found))
        return _typed("".join(texts), self.kind)


def _typed(text: str, kind: str) -> Value:
    if kind in ("'", "s"):
        return text
    if kind in ("", "t"):  # a time may be written out
        return int(text) if _NUMBER.fullmatch(text) else text
    try:
        return float(text) if kind in ("f", "d") and len(text) < 40 else int(text if len(text) < 20 else "x")
    except ValueError:
        raise UsageError(f"db_query: {text[:40]!r} is no number") from None


class Query:
    """One query. ``reads`` gives rows; else ``operation`` is for the store."""

    reads = True

    def rows(self, database: Database, ctx: Context) -> list[Row]:
        """The rows for this message. May park. Raises BackendError, UsageError."""
        raise NotImplementedError

    def operation(self, dialect: str, ctx: Context) -> Operation:
        """What the store is to do. Raises UsageError."""
        raise NotImplementedError


class RawQuery(Query):
    """SQL as written, ``?`` where values go."""

    def __init__(self, text: str, pieces: list[Piece], *, reads: bool) -> None:
        self.text = text
        self.pieces = pieces
        self.reads = reads

    def rows(self, database: Database, ctx: Context) -> list[Row]:
        """The rows for this message."""
        return database.execute(portable(self.text, database.dialect), [piece.value(ctx) for piece in self.pieces])

    def operation(self, dialect: str, ctx: Context) -> Operation:
        """What the store is to do."""
        values: dict[str, Value] = {str(place): piece.value(ctx) for place, piece in enumerate(self.pieces)}
        return ("sql", portable(self.text, dialect), values)


class SelectQuery(Query):
    """select/…"""

    def __init__(self, table: str, fields: list[str], where: list[str], order: str, values: list[Piece]) -> None:
        self.table = table
        self.fields = fields
        self.where = where
        self.order = order
        self.values = values

    def rows(self, database: Database, ctx: Context) -> list[Row]:
        """The rows for this message."""
        where: Mapping[str, Value] = {key: piece.value(ctx) for key, piece in zip(self.where, self.values, strict=True)}
        return database.select(self.table, self.fields, where, order=self.order)


class WriteQuery(Query):
    """insert/…, replace/… and delete/…: a row or conditions for the store."""

    reads = False

    def __init__(self, kind: str, table: str, columns: list[str], values: list[Piece]) -> None:
        self.kind = kind
        self.table = table
        self.columns = columns
        self.values = values

    def operation(self, dialect: str, ctx: Context) -> Operation:
        """What the store is to do."""
        del dialect
        row: dict[str, Value] = {name: piece.value(ctx) for name, piece in zip(self.columns, self.values, strict=True)}
        return (self.kind, self.table, row)


class UpdateQuery(Query):
    """update/…"""

    reads = False

    def __init__(self, table: str, fields: list[str], where: list[str], values: list[Piece]) -> None:
        self.table = table
        self.fields = fields
        self.where = where
        self.values = values

    def operation(self, dialect: str, ctx: Context) -> Operation:
        """What the store is to do."""
        del dialect
        columns = [*self.fields, *[key.split(" ", 1)[0] for key in self.where]]
        values: dict[str, Value] = {}
        for place, (column, piece) in enumerate(zip(columns, self.values, strict=True)):
            value = piece.value(ctx)
            if isinstance(value, (int, float)) and is_datetime(self.table, column):
                value = time_text(value)
            values[str(place)] = value
        changes = ", ".join(f"{quoted(name)} = ?" for name in self.fields)
        conditions: list[str] = []
        for place, key in enumerate(self.where, len(self.fields)):
            name, _, mark = key.partition(" ")
            if values[str(place)] is None:
                del values[str(place)]
                conditions.append(f"{quoted(name)} is {'not ' if mark == '<>' else ''}null")
            else:
                conditions.append(f"{quoted(name)} {mark or '='} ?")
        condition = f" where {' and '.join(conditions)}" if conditions else ""
        return ("sql", f"update {quoted(self.table)} set {changes}{condition}", values)


# -- parsing ----------------------------------------------------------------------------------------------------------


def parse_query(template: Format) -> Query | str:
    """The query in *template*, or the id of a declared one. Raises ValueError with what is wrong."""
    parts = _merged(template.parts)
    head = parts[0] if parts and isinstance(parts[0], str) else ""
    match = re.match(r"\s*([A-Za-z_][A-Za-z_0-9]*)\s*(/|\s|\(|$)", head, re.ASCII)
    if match is None:
        raise ValueError("a query begins with constant text: SQL, select/… or the id of a declared query")
    verb, after = match.group(1).lower(), match.group(2)
    if after == "" and len(parts) == 1:
        return match.group(1)
    if after == "/":
        if verb not in _SLASH:
            raise ValueError(f"unknown operation {verb!r}; known: {', '.join(sorted(_SLASH))}")
        parts[0] = head[match.end() :]
        return _parse_slash(verb, parts)
    if verb not in _READING and verb not in _WRITING:
        raise ValueError(f"{verb!r} is no SQL statement")
    return _parse_raw(parts, reads=verb in _READING)


def _parse_raw(parts: list[Part], *, reads: bool) -> RawQuery:
    out: list[str] = []
    pieces: list[Piece] = []
    text: list[Part] | None = None  # inside a quoted text: what it holds
    shut = ""  # inside "names", `names` and comments: what ends them
    for part in parts:
        if not isinstance(part, str):
            if shut:
                raise ValueError(f"a value cannot stand inside {shut!r}: put texts into single quotes")
            if text is not None:
                text.append(part)
            else:
                pieces.append(Piece("", [part]))
                out.append("?")
            continue
        at = 0
        while at < len(part):
            char = part[at]
            if shut:
                if part.startswith(shut, at):
                    at += len(shut) - 1
                    char = shut
                    shut = ""
                out.append(char)
            elif text is not None:
                if char != "'":
                    text.append(char)
                elif part.startswith("''", at):
                    text.append("'")
                    at += 1
                else:
                    _close(text, out, pieces)
                    text = None
            elif char == "'":
                text = []
            elif char == "?":
                raise ValueError("a question mark outside quotes: write a value as %$attribute or %@select")
            elif char == ";" and part[at:].strip("; \t\r\n"):
                raise ValueError("one statement at a time")
            elif char != ";":
                shut = _opens(part, at)
                out.append(char)
            at += 1
    if text is not None:
        raise ValueError("a text in single quotes has no end")
    return RawQuery("".join(out).strip(" \t\r\n"), pieces, reads=reads)


def _opens(part: str, at: int) -> str:
    """What ends the quoted name or comment that opens here, "" when none does."""
    if part[at] in '"`':
        return part[at]
    if part.startswith("--", at):
        return "\n"
    return "*/" if part.startswith("/*", at) else ""


def _close(text: list[Part], out: list[str], pieces: list[Piece]) -> None:
    if all(isinstance(part, str) for part in text):
        out.append("'" + "".join([str(part) for part in text]).replace("'", "''") + "'")
        return
    pieces.append(Piece("'", _merged(text)))
    out.append("?")


def _merged(parts: Sequence[Part]) -> list[Part]:
    """*parts* with neighbouring texts as one."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _parse_slash(verb: str, parts: list[Part]) -> Query:
    sections = _split(parts, "/")
    table = _constant(sections, 0, "the table")
    _checked(table)
    fields = [] if verb == "delete" else _names(sections, 1, "the fields", stars=table if verb == "select" else "")
    if verb in ("insert", "replace"):
        _most(sections, 3, f"{verb}/table/fields/values")
        if verb == "replace":
            _check_key(table, fields)
        return WriteQuery("insert" if verb == "insert" else "upsert", table, fields, _values(sections, 2, len(fields)))
    first = 1 if verb == "delete" else 2
    where = _names(sections, first, "the conditions", optional=verb == "select")
    marks = _marks(sections, first + 1, len(where))
    keys = [name if mark == "=" else f"{name} {mark}" for name, mark in zip(where, marks, strict=True)]
    if len(set(keys)) < len(keys):
        raise ValueError("the same condition stands there twice")
    if verb == "select":
        _most(sections, 6, "select/table/fields/where/ops/order/values")
        order = _order(_constant(sections, 4, "")) if len(sections) > 4 else ""
        return SelectQuery(table, fields, keys, order, _values(sections, 5, len(keys)))
    if verb == "delete":
        _most(sections, 4, "delete/table/where/ops/values")
        return WriteQuery("delete", table, keys, _values(sections, 3, len(keys)))
    _most(sections, 5, "update/table/fields/where/ops/values")
    return UpdateQuery(table, fields, keys, _values(sections, 4, len(fields) + len(keys)))


def _split(parts: list[Part], separator: str) -> list[list[Part]]:
    """*parts* cut at *separator* outside of single quotes; the quotes stay."""
    sections: list[list[Part]] = [[]]
    inside = False
    for part in parts:
        if not isinstance(part, str):
            sections[-1].append(part)
            continue
        word = ""
        for char in part:
            if char == "'":
                inside = not inside
            if char == separator and not inside:
                _add(sections[-1], word)
                sections.append([])
                word = ""
            else:
                word += char
        _add(sections[-1], word)
    if inside:
        raise ValueError("a text in single quotes has no end")
    return sections


def _add(section: list[Part], word: str) -> None:
    if word:
        section.append(word)


def _most(sections: list[list[Part]], most: int, form: str) -> None:
    if len(sections) > most:
        raise ValueError(f"too many parts: it is {form}")


def _constant(sections: list[list[Part]], index: int, what: str) -> str:
    section = sections[index] if index < len(sections) else []
    if any(not isinstance(part, str) for part in section):
        raise ValueError(f"{what or 'this part'} must be constant")
    text = "".join([str(part) for part in section]).strip(" ")
    if not text and what:
        raise ValueError(f"{what} are missing" if what.endswith("s") else f"{what} is missing")
    return text


def _checked(name: str) -> str:
    try:
        quoted(name)
    except UsageError as exc:
        raise ValueError(f"{exc}; raw SQL can do more") from None
    return name


def _names(sections: list[list[Part]], index: int, what: str, *, optional: bool = False, stars: str = "") -> list[str]:
    text = _constant(sections, index, "" if optional else what)
    if stars and text == "*":
        if stars not in TABLES:
            raise ValueError(f"name the fields of {stars}")
        return [column.name for column in TABLES[stars].columns]
    return [_checked(name.strip(" ")) for name in text.split(",")] if text else []


def _marks(sections: list[list[Part]], index: int, count: int) -> list[str]:
    text = _constant(sections, index, "")
    marks = [mark.strip(" ") or "=" for mark in text.split(",")] if text else []
    if len(marks) > count:
        raise ValueError("more comparisons than conditions")
    for mark in marks:
        if mark not in _MARKS:
            raise ValueError(f"unknown comparison {mark!r}; known: {' '.join(sorted(_MARKS))}")
    return marks + ["="] * (count - len(marks))


def _order(text: str) -> str:
    parts: list[str] = []
    for item in text.split(",") if text else []:
        name, _, direction = item.strip(" ").partition(" ")
        if direction.lower() not in ("", "asc", "desc"):
            raise ValueError(f"unknown order {item!r}")
        parts.append(f"{_checked(name)} {direction.lower()}".rstrip(" "))
    return ",".join(parts)


def _values(sections: list[list[Part]], index: int, count: int) -> list[Piece]:
    section = sections[index] if index < len(sections) else []
    items = _split(section, ",") if section else []
    if len(items) != count:
        raise ValueError(f"{count} values are needed, there are {len(items)}")
    return [_piece(item) for item in items]


def _piece(item: list[Part]) -> Piece:
    parts = list(item)
    kind = ""
    if parts and isinstance(parts[0], str):
        text = parts[0].lstrip(" ")
        if text[1:2] == ":" and text[0] in _TYPES:
            kind, text = text[0], text[2:]
        parts[0] = text
    if parts and isinstance(parts[-1], str):
        parts[-1] = parts[-1].rstrip(" ")
    cut: list[Part] = []
    for place, part in enumerate(parts):
        if isinstance(part, str):
            part = _unquoted(part, first=place == 0, last=place == len(parts) - 1)
            if not part:
                continue
        cut.append(part)
    return Piece(kind or "s", cut)


def _unquoted(text: str, *, first: bool, last: bool) -> str:
    if first and text.startswith("'"):
        text = text[1:]
    if last and text.endswith("'"):
        text = text[:-1]
    return text.replace("''", "'")


def _check_key(table: str, fields: list[str]) -> None:
    try:
        key = key_of(table) if table in TABLES else ()
    except UsageError as exc:
        raise ValueError(str(exc)) from None
    if not key or not set(key) <= set(fields):
        needed = ", ".join(key)
        raise ValueError(f"replace needs a table with a key and its columns ({needed or 'this one is unknown'})")
