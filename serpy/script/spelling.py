r"""A parsed expression written for Python's ``re`` and for RE2.

Letters stand in both cases by themselves in sets; Python's flag for that keeps single letters short. RE2 looks neither
ahead nor back, so ``\<`` and ``\>`` are written as ``\b`` where what stands beside tells which end of a word it is.

Runs in: the master while loading; the udp receiver for expressions made from data. Locks: none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from serpy.script.charset import ALL, EMPTY, WORD, CharSet
from serpy.script.posix import (
    NEWLINE,
    BadExpressionError,
    Chars,
    Concat,
    Expression,
    Group,
    Mark,
    Node,
    Repeat,
)
from serpy.script.weight import first, last, nullable

_DOT: Final = ALL.without(NEWLINE)
_PYTHON: Final = {
    "^": "(?m:^)", "$": "(?m:$)", "<": r"\b(?=\w)", ">": r"\b(?<=\w)", "b": r"\b", "B": r"\B", "`": r"\A", "'": r"\Z",
}  # fmt: skip
_RE2: Final = {"^": "(?m:^)", "$": "(?m:$)", "b": r"\b", "B": r"\B", "`": r"\A", "'": r"\z"}
_TEXT_ENDS: Final = {"^": "`", "$": "'"}  # what they mean where line ends mean nothing


def python_flags(expression: Expression) -> int:
    """The flags for ``python_text``."""
    return int(re.ASCII | (re.IGNORECASE if expression.any_case else 0) | (re.MULTILINE if expression.lines else 0))


def python_text(expression: Expression) -> str:
    """*expression* for ``re``."""
    marks = dict(_PYTHON)
    if expression.lines:
        marks.update({"^": "^", "$": "$"})  # python_flags() has MULTILINE
    return _Speller(expression, marks, re2=False).run()


def re2_text(expression: Expression) -> str:
    """*expression* for RE2. Raises BadExpressionError for what it cannot do."""
    return _Speller(expression, _RE2, re2=True).run()


class _Speller:
    def __init__(self, expression: Expression, marks: dict[str, str], *, re2: bool) -> None:
        self._expression: Final = expression
        self._marks: Final = marks
        self._re2: Final = re2

    def run(self) -> str:
        return self._node(self._expression.root, EMPTY, EMPTY)

    def _node(self, node: Node, before: CharSet | None, after: CharSet | None) -> str:
        """*before* and *after*: what can stand beside; None when that is not known."""
        if isinstance(node, Chars):
            return self._chars(node)
        if isinstance(node, Mark):
            return self._mark(node, before, after)
        if isinstance(node, Group):
            return f"({self._node(node.inside, before, after)})"
        if isinstance(node, Repeat):
            inside = self._node(node.inside, None, None)
            if not isinstance(node.inside, (Chars, Group)):
                inside = f"(?:{inside})"
            return inside + _times(node.least, node.most)
        if isinstance(node, Concat):
            return self._concat(node.parts, before, after)
        return "|".join([self._node(branch, before, after) for branch in node.branches])

    def _concat(self, parts: Sequence[Node], before: CharSet | None, after: CharSet | None) -> str:
        followers: list[CharSet | None] = []
        for part in reversed(parts):
            followers.append(after)
            after = _joined(first(part), after, nullable(part))
        written: list[str] = []
        for part, follower in zip(parts, reversed(followers), strict=True):
            written.append(self._node(part, before, follower))
            before = _joined(last(part), before, nullable(part))
        return "".join(written)

    def _mark(self, node: Mark, before: CharSet | None, after: CharSet | None) -> str:
        kind = node.kind
        if kind in "^$" and not self._expression.lines:
            kind = _TEXT_ENDS[kind]
        if self._re2 and kind in "<>":
            inner, outer = (after, before) if kind == "<" else (before, after)
            is_word = inner is not None and inner is not EMPTY and inner.is_within(WORD)
            is_gap = outer is not None and outer is not EMPTY and not outer.meets(WORD)
            if not is_word and not is_gap:
                raise BadExpressionError(
                    f"'\\{kind}' where a word is not sure to {'begin' if kind == '<' else 'end'}",
                    max(0, self._expression.text.find(f"\\{kind}")),
                    "write \\b, or say which letters stand there",
                )
            kind = "b"
        return self._marks[kind]

    def _chars(self, node: Chars) -> str:
        if node.text and (not self._re2 or not self._expression.any_case or not node.text.isalpha()):
            return self._code(ord(node.text))
        if node.chars.others:
            if _same(node.chars, _DOT):
                return "(?-s:.)"
            if _same(node.chars, ALL):
                return "(?s:.)"
            return f"[^{self._ranges(node.chars.inverted())}]"
        written = self._ranges(node.chars)
        return f"[{written}]" if written else "[^\\x00-\\U0010ffff]" if not self._re2 else "[^\\x{0}-\\x{10ffff}]"

    def _ranges(self, chars: CharSet) -> str:
        return "".join([
            self._code(begin) if begin == end else f"{self._code(begin)}-{self._code(end)}" for begin, end in chars.ranges()
        ])  # fmt: skip

    def _code(self, code: int) -> str:
        char = chr(code)
        if char.isascii() and char.isalnum():
            return char
        if 32 < code < 127:
            return f"\\{char}"
        if self._re2:
            return f"\\x{{{code:x}}}"
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _joined(own: CharSet, beyond: CharSet | None, passes: bool) -> CharSet | None:
    """What can stand there: *own*, and what is *beyond* when nothing need match here."""
    if not passes:
        return own
    return None if beyond is None or beyond is EMPTY else own | beyond


def _same(some: CharSet, other: CharSet) -> bool:
    return (some.mask, some.others, some.extra) == (other.mask, other.others, other.extra)


def _times(least: int, most: int) -> str:
    known = {(0, -1): "*", (1, -1): "+", (0, 1): "?"}.get((least, most))
    if known:
        return known
    return f"{{{least}}}" if least == most else f"{{{least},}}" if most < 0 else f"{{{least},{most}}}"
