"""How serpyctl shows what it found: a table for people, JSON for programs.

Much of it was sent by strangers: everything that leaves here is printable, so nobody clears the administrator's terminal,
turns its lines round or forges one. sercmd, which is small, asks ``sip/text.py`` itself.

Runs in: serpyctl. Locks: none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table

from serpy.sip.text import printable, printable_lines


def show(data: object, *, as_json: bool, empty: str = "nothing found") -> None:
    """Print *data*: rows as a table, one mapping as two columns, anything else as it is."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, default=str).replace("\x7f", "\\u007f") + "\n")
    elif isinstance(data, Mapping):
        _mapping(data)
    elif isinstance(data, Sequence) and not isinstance(data, str | bytes):
        if not data:
            sys.stdout.write(f"{empty}\n")
        elif all(isinstance(row, Mapping) for row in data):
            _rows([dict(row) for row in data])
        else:
            sys.stdout.write("".join(f"{_cell(item)}\n" for item in data))
    elif data is not None:
        say(_text(data))


def say(text: str, stream: TextIO | None = None) -> None:
    """Print *text*, one line or several of our own, to *stream* or standard output."""
    (stream or sys.stdout).write(f"{printable_lines(text)}\n")


def _cell(value: object) -> str:
    return printable(_text(value))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str)
    return str(value)


def _console() -> Console:
    # A pipe or a narrow terminal must not cut a contact address in half.
    return Console(width=None if sys.stdout.isatty() else 500, highlight=False, markup=False, emoji=False)


def _rows(rows: Sequence[Mapping[str, object]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        numeric = all(isinstance(row.get(name, 0), int | float) for row in rows)
        table.add_column(printable(name.upper()), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    _console().print(table)


def _mapping(data: Mapping[str, object]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in data.items():
        title = _cell(name)
        for line in value if isinstance(value, list | tuple) else [value]:
            table.add_row(title, _line(line))
            title = ""
    _console().print(table)


def _line(value: object) -> str:
    """One of the values of a name; what has names itself in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_cell(name)} {_cell(part)}" for name, part in value.items())
    return _cell(value)
