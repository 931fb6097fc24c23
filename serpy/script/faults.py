"""Errors of a routing script: collected, not thrown one by one, and shown with the line and a caret.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from serpy.errors import ScriptError, ScriptErrors

__all__ = ["Faults", "Position", "ScriptErrors", "did_you_mean"]


class Position:
    """A place in a script file; *line* and *column* count from 1, *width* characters are underlined."""

    __slots__ = ("column", "file", "line", "width")

    def __init__(self, file: str, line: int, column: int, width: int = 1) -> None:
        self.file = file
        self.line = line
        self.column = column
        self.width = width

    def __repr__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Faults:
    """The errors and warnings found so far, and the source lines to show them with."""

    def __init__(self) -> None:
        self.errors: list[ScriptError] = []
        self.warnings: list[str] = []
        self.expressions: list[str] = []  # place, engine and text of each regular expression
        self.sources: dict[str, list[str]] = {}
        self._widths: list[int] = []
        self._seen: set[tuple[str, int, int]] = set()

    def add(self, position: Position, message: str, hint: str = "") -> None:
        """Note one error; a second one at the same place is noise and is left out."""
        key = (position.file, position.line, position.column)
        if key in self._seen:
            return
        self._seen.add(key)
        self.errors.append(
            ScriptError(message, file=position.file, line=position.line, column=position.column, hint=hint)
        )
        self._widths.append(position.width)

    def warn(self, position: Position, message: str) -> None:
        """Note something odd that does not stop the start."""
        self.warnings.append(f"{position!r}: {message}")

    def line(self, position: Position) -> str:
        """The source line of *position*, "" when it is not known."""
        lines = self.sources.get(position.file, [])
        return lines[position.line - 1] if 0 < position.line <= len(lines) else ""

    def raise_if_any(self) -> None:
        """Raise ScriptErrors, in the order of the text, when an error has been noted."""
        if not self.errors:
            return
        order = list(self.sources)
        numbered = sorted(
            zip(self.errors, self._widths, strict=True),
            key=lambda pair: (_place(order, pair[0].file), pair[0].line, pair[0].column),
        )
        raise ScriptErrors([error for error, _ in numbered], [self._render(error, width) for error, width in numbered])

    def _render(self, error: ScriptError, width: int) -> str:
        text = [f"{error.file}:{error.line}:{error.column}: {error.message}"]
        lines = self.sources.get(error.file, [])
        if 0 < error.line <= len(lines):
            line = lines[error.line - 1]
            before = "".join(c if c == "\t" else " " for c in line[: error.column - 1])
            marks = max(1, min(width, len(line) - error.column + 1))
            text.append(f"    {line}")
            text.append(f"    {before}{'^' * marks}")
        if error.hint:
            text.append(f"  hint: {error.hint}")
        return "\n".join(text)


def _place(order: list[str], file: str) -> int:
    return order.index(file) if file in order else len(order)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean …?`` for the closest known name, "" when nothing is close."""
    candidates = sorted(set(known))
    lowered = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return f"did you mean {lowered[close[0]]!r}?" if close else ""
