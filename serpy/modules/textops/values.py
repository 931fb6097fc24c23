"""Editing single values of comma separated headers.

All edits of one message work on one view of its values, counted as received: removing value 1 and then replacing
value 2 does what it says. After each edit the touched header line is rendered again as a deferred edit.

Runs in: every process that runs the script. Locks: none. RFC: 3261 §7.3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.context.context import Context
from serpy.errors import ParseError
from serpy.modules.textops.reference import ALL_VALUES, NO_INDEX, HeaderRef
from serpy.sip.abnf import ascii_lower
from serpy.sip.nameaddr import split_commas

NOTES: Final = "textops.values"

Change = Callable[[Context, HeaderRef, str, bool], bool]
"""An edit of one value: (context, which value, text, whole lines)."""


class Cell:
    """One received value, what it became (None = removed), and what was put before and after it."""

    def __init__(self, value: str, line: int) -> None:
        self.received: Final = value
        self.line: Final = line
        self.value: str | None = value
        self.before: list[str] = []
        self.after: list[str] = []

    def texts(self) -> list[str]:
        """What is sent in its place."""
        if self.value is None:
            return self.before + self.after
        return [*self.before, self.value, *self.after]


class HeaderValues:
    """All values of one header name in one message. *whole*: lines are not split at commas."""

    def __init__(self, ctx: Context, key: str, *, whole: bool) -> None:
        self.cells: list[Cell] = []
        message = ctx.message
        for line in message.indexes(key):
            for value in _split(message.value(line), whole=whole):
                self.cells.append(Cell(value, line))
        self._gone: set[int] = set()  # lines we removed because no value was left

    def select(self, index: int) -> list[Cell]:
        """The cells *index* names; empty when there are not that many."""
        cells = self.cells
        if index == ALL_VALUES:
            return cells
        if index == NO_INDEX:
            index = 1
        place = index - 1 if index > 0 else len(cells) + index
        return [cells[place]] if 0 <= place < len(cells) else []

    def render(self, ctx: Context, line: int) -> None:
        """Make the deferred edit of header line *line* say what its cells say."""
        texts: list[str] = []
        for cell in self.cells:
            if cell.line == line:
                texts.extend(cell.texts())
        if texts:
            if line in self._gone and ctx.edits.removed is not None:
                self._gone.discard(line)
                ctx.edits.removed.discard(line)
            original = ctx.message.lines[line]
            name = original[: original.index(":")].rstrip(" \t")
            ctx.edits.replace(line, f"{name}: {', '.join(texts)}")
        elif not ctx.edits.is_removed(line):
            self._gone.add(line)
            ctx.edits.remove(line)


def _split(text: str, *, whole: bool) -> list[str]:
    if whole:
        return [text]
    try:
        return split_commas(text)
    except ParseError:
        return [text]  # not a list we understand: one opaque value


def values_of(ctx: Context, key: str, *, whole: bool = False) -> HeaderValues:
    """The message's view of header *key*, made on first use and shared by all edits of this message."""
    note = NOTES + ("2:" if whole else ":") + key
    found = ctx.notes.get(note)
    # A reply of the same transaction is another message: its view must not be the request's.
    if isinstance(found, _View) and found.owner is ctx.message:
        return found.values
    values = HeaderValues(ctx, key, whole=whole)
    ctx.notes[note] = _View(ctx.message, values)
    return values


class _View:
    def __init__(self, owner: object, values: HeaderValues) -> None:
        self.owner: Final = owner
        self.values: Final = values


def append_value(ctx: Context, ref: HeaderRef, text: str, whole: bool) -> bool:
    """Without an index add a header line at the end, else put *text* after that value."""
    if ref.index == NO_INDEX:
        ctx.edits.append(f"{ref.name}: {text}")
        return True
    values = values_of(ctx, ref.key, whole=whole)
    cells = values.select(ref.index)
    for cell in cells:
        cell.after.append(text)
        values.render(ctx, cell.line)
    return bool(cells)


def insert_value(ctx: Context, ref: HeaderRef, text: str, whole: bool) -> bool:
    """Put *text* before the value (default the first); a new line above all headers when there is no such header."""
    values = values_of(ctx, ref.key, whole=whole)
    if not values.cells:
        ctx.edits.prepend(f"{ref.name}: {text}")
        return True
    cells = values.select(ref.index)
    for cell in cells:
        cell.before.append(text)
        values.render(ctx, cell.line)
    return bool(cells)


def remove_value(ctx: Context, ref: HeaderRef, *, whole: bool) -> bool:
    """Remove the value (default the first), or only its parameter."""
    values = values_of(ctx, ref.key, whole=whole)
    changed = False
    for cell in values.select(ref.index):
        if cell.value is None:
            continue
        if ref.param:
            shorter = with_param(cell.value, ref.param, None)
            if shorter == cell.value:
                continue
            cell.value = shorter
        else:
            cell.value = None
        changed = True
        values.render(ctx, cell.line)
    return changed


def assign_value(ctx: Context, ref: HeaderRef, text: str, whole: bool) -> bool:
    """Replace the value (default the first), or set its parameter."""
    values = values_of(ctx, ref.key, whole=whole)
    changed = False
    for cell in values.select(ref.index):
        if ref.param and cell.value is None:
            continue
        cell.value = with_param(cell.value or "", ref.param, text) if ref.param else text
        changed = True
        values.render(ctx, cell.line)
    return changed


def has_value(ctx: Context, key: str, text: str) -> bool:
    """True when one of the received values is *text*, compared whole and without case."""
    wanted = ascii_lower(text)
    return wanted in [ascii_lower(value) for value in ctx.message.values(key)]


def include_value(ctx: Context, ref: HeaderRef, text: str) -> None:
    """Add *text* to the list unless it is there; a new header line when there is none."""
    values = values_of(ctx, ref.key)
    wanted = ascii_lower(text)
    for cell in values.cells:
        for present in cell.texts():
            if ascii_lower(present) == wanted:
                return
    if not values.cells:
        ctx.edits.append(f"{ref.name}: {text}")
        return
    last = values.cells[-1]
    last.after.append(text)
    values.render(ctx, last.line)


def exclude_value(ctx: Context, ref: HeaderRef, text: str) -> None:
    """Remove every value that is *text*."""
    values = values_of(ctx, ref.key)
    wanted = ascii_lower(text)
    for cell in values.cells:
        if cell.value is not None and ascii_lower(cell.value) == wanted:
            cell.value = None
            values.render(ctx, cell.line)


def with_param(value: str, name: str, text: str | None) -> str:
    """*value* with header parameter *name* set to *text*; None removes it, "" leaves it bare."""
    pieces = split_semicolons(value)
    wanted = name if text is None or not text else f"{name}={text}"
    out = [pieces[0]]
    done = text is None
    for piece in pieces[1:]:
        known = ascii_lower(piece.partition("=")[0].strip(" \t"))
        if not known:
            continue  # some phones end a value with ";"
        if known != name:
            out.append(piece)
        elif not done:
            out.append(wanted)
            done = True
    if not done:
        out.append(wanted)
    return ";".join(out)


def split_semicolons(value: str) -> list[str]:
    """*value* split at semicolons that are neither quoted nor inside <>; nothing is trimmed."""
    pieces: list[str] = []
    start = 0
    quoted = False
    angle = False
    escaped = False
    for place, char in enumerate(value):
        if escaped:
            escaped = False
        elif quoted:
            if char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char == "<":
            angle = True
        elif char == ">":
            angle = False
        elif char == ";" and not angle:
            pieces.append(value[start:place])
            start = place + 1
    pieces.append(value[start:])
    return pieces
