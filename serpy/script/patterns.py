"""Regular expressions over what peers send: POSIX meaning, linear time, each by the engine that can give both.

An expression of the script that is proved harmless (``weight``) is run by Python's ``re``: twice as fast on one URI. All
others, and every expression that comes from data, by RE2. Where that is not installed, one that may take long sees
SUBJECT_MAX characters of its subject, and one that takes for ever is refused. For replacing, where the longest match counts,
``re`` is taken only when there is one way to match. docs/expressions.md is the manual.

Runs in: compilation in the master while loading, matching in the udp receiver. Locks: none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from serpy.script import re2_engine
from serpy.script.posix import BadExpressionError, Expression, parse
from serpy.script.re2_engine import Machine, Span, decoded, encoded
from serpy.script.spelling import python_flags, python_text, re2_text
from serpy.script.weight import WAYS_MAX, Weight, weigh

SUBJECT_MAX: Final = 256  # characters that an expression which may take long sees without RE2
RESULT_MAX: Final = 262_144  # characters that a replacement may make
REPLACED_MAX: Final = 5000  # matches: each search for one more may read all of the rest
DATA_MAX: Final = 1024  # characters of an expression that comes from data
_KEPT: Final = 32  # expressions from data, each of up to 8 MB in RE2
_NO_RE2_HINT: Final = "only RE2 runs it in time: pip install 'serpy[re2]', or write it without overlapping repetitions"

Piece = str | int
"""Of a replacement: a text, or the number of a group."""


class Pattern:
    """A compiled expression. ``search`` is true for a text in which it matches; *engine* is ``re``, ``RE2`` or ``cut``."""

    def __init__(self, expression: Expression, compiled: re.Pattern[str] | None, machine: Machine | None) -> None:
        self.text: Final = expression.text
        self.groups: Final = expression.groups
        self.remarks: list[str] = list(expression.remarks)
        self.compiled: Final = compiled
        self.engine = "re" if machine is None else "RE2"
        self._machine: Final = machine
        self.search: Callable[[str], object] = self._never
        if machine is not None:
            self.search = machine.holds
        elif compiled is not None:
            self.search = compiled.search

    def _never(self, _text: str) -> object:
        return None

    def cut(self) -> None:
        """From now on look at the first SUBJECT_MAX characters of a text only."""
        self.engine = "cut"
        self.search = self._search_cut

    def _search_cut(self, text: str) -> object:
        assert self.compiled is not None
        return self.compiled.search(text, 0, SUBJECT_MAX)

    def replaced(self, text: str, pieces: Sequence[Piece], count: int) -> str | None:
        """*text* with *count* matches (0: all) replaced by *pieces*; None when nothing matches or it grows too long."""
        rest = ""
        if self.engine == "cut":
            text, rest = text[:SUBJECT_MAX], text[SUBJECT_MAX:]
        if self._machine is None:
            changed = self._replaced(text, pieces, count)
            return None if changed is None else changed + rest
        # RE2 counts bytes: here each of them is a character for a while.
        made = self._replaced(_as_bytes(text), [_as_bytes(x) if isinstance(x, str) else x for x in pieces], count)
        return None if made is None else decoded(made.encode("latin-1"))

    def _replaced(self, text: str, pieces: Sequence[Piece], count: int) -> str | None:
        data = text.encode("latin-1") if self._machine is not None else b""
        out: list[str] = []
        size = done = at = begin = 0
        while at <= len(text) and (not count or done < count):
            spans = self._spans(text, data, at)
            if spans is None:
                break
            first, last = spans[0]
            made = text[begin:first] + _filled(text, spans, pieces)
            out.append(made)
            size += len(made)
            done += 1
            if size > RESULT_MAX or done > REPLACED_MAX:
                return None
            begin = at = last
            if first == last:  # nothing was matched: on by one character
                at += 1
                while data and at < len(data) and data[at] & 0xC0 == 0x80:
                    at += 1
        return "".join(out) + text[begin:] if done else None

    def _spans(self, text: str, data: bytes, at: int) -> list[Span] | None:
        if self._machine is not None:
            return self._machine.spans(data, at)
        assert self.compiled is not None
        found = self.compiled.search(text, at)
        return None if found is None else [found.span(number) for number in range(self.groups + 1)]


def _as_bytes(text: str) -> str:
    return encoded(text).decode("latin-1")


def _filled(text: str, spans: Sequence[Span], pieces: Sequence[Piece]) -> str:
    out: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            out.append(piece)
        elif piece < len(spans) and spans[piece][0] >= 0:
            out.append(text[spans[piece][0] : spans[piece][1]])
    return "".join(out)


def compile_pattern(
    text: str, *, lines: bool = True, any_case: bool = True, replaces: bool = False, from_data: bool = False
) -> Pattern:
    """The expression *text*; the flags are those of SER: REG_NEWLINE, REG_ICASE. Raises BadExpressionError."""
    expression = parse(text, lines=lines, any_case=any_case)
    weight = weigh(expression)
    suits = weight.is_certain if replaces else weight.is_harmless
    if suits and not from_data:
        return Pattern(expression, _compiled(expression), None)
    if re2_engine.is_installed():
        return Pattern(expression, None, Machine(re2_text(expression)))
    return _without_re2(expression, weight)


def _without_re2(expression: Expression, weight: Weight) -> Pattern:
    if weight.nested or weight.degree > 2 or weight.ways > WAYS_MAX:
        raise BadExpressionError("this expression can take for ever on a long text", 0, _NO_RE2_HINT)
    pattern = Pattern(expression, _compiled(expression), None)
    if not weight.is_harmless:
        pattern.cut()
        pattern.remarks.append(
            f"this expression can take long: without RE2 it sees the first {SUBJECT_MAX} characters only; {_NO_RE2_HINT}"
        )
    elif not weight.is_certain:
        pattern.remarks.append("without RE2 the first alternative that matches is replaced, not the longest match")
    return pattern


def _compiled(expression: Expression) -> re.Pattern[str]:
    return re.compile(python_text(expression), python_flags(expression))


def compile_name_pattern(text: str) -> re.Pattern[str]:
    """*text* for names of our own, such as those of modules. Raises BadExpressionError."""
    return _compiled(parse(text, lines=False, any_case=False))


class PatternsFromData:
    """The expressions that a running script has made, the last ones kept."""

    def __init__(self) -> None:
        self.kept: Final[dict[str, Pattern]] = {}

    def get(self, text: str) -> Pattern:
        """The expression *text*. Raises BadExpressionError."""
        kept = self.kept
        found = kept.pop(text, None)
        if found is None:
            if len(text) > DATA_MAX:
                raise BadExpressionError(f"more than {DATA_MAX} characters", 0)
            found = compile_pattern(text, from_data=True)
            if len(kept) >= _KEPT:
                del kept[next(iter(kept))]
        kept[text] = found  # the newest is the last
        return found


class Anchored:
    """A pattern that begins with ``^``: on a single line it is tried at the start and nowhere else."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._search: Final = pattern.search
        self._match: Final = pattern.match

    def holds(self, text: str) -> bool:
        """What ``search`` would say."""
        return (self._search(text) if "\n" in text else self._match(text)) is not None


_PLAIN_PREFIX: Final = re.compile(r"\^[A-Za-z0-9:]+", re.ASCII)


class Prefix:
    """``^`` and letters or digits, such as ``^tel:``: on a single line a comparison, which takes a third of the time."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._search: Final = pattern.search
        self._any_case: Final = bool(pattern.flags & re.IGNORECASE)
        self._text: Final = text.lower() if self._any_case else text
        self._size: Final = len(text)

    def holds(self, text: str) -> bool:
        """What ``search`` would say."""
        if "\n" in text:
            return self._search(text) is not None
        head = text[: self._size]
        return head == self._text or (self._any_case and head.isascii() and head.lower() == self._text)


def anchored(pattern: re.Pattern[str], text: str) -> Callable[[str], bool]:
    """The quickest way to search for *pattern*, whose *text* begins with ``^`` and has no alternatives."""
    if _PLAIN_PREFIX.fullmatch(text) is not None:
        return Prefix(pattern, text[1:]).holds
    return Anchored(pattern).holds
