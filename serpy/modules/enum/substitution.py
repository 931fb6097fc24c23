"""The substitution of a NAPTR record: ``!extended regular expression!replacement!i`` (RFC 3402 §3.2).

Pure. The record is written by whoever owns the number, so its expression runs only when it cannot take long on a number
of 16 characters: few repetitions and alternatives, none inside another. Published records have one or none.

Runs in: udp receiver. Locks: none. RFC: 3402 §3.2, 6116 §3.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MAX_LENGTH: Final = 255  # a character-string of the DNS
MAX_REPETITIONS: Final = 4  # on 16 characters that is at most 4845 ways to divide them
MAX_ALTERNATIVES: Final = 6
MAX_GROUPS: Final = 9
MAX_COUNT: Final = 16  # in {m,n}
_CLASSES: Final = {
    "digit": "0-9", "alpha": "a-zA-Z", "alnum": "a-zA-Z0-9", "xdigit": "0-9a-fA-F", "lower": "a-z", "upper": "A-Z",
    "punct": "!-/:-@\\[-`{-~", "space": " ", "blank": " ", "print": " -~", "graph": "!-~", "cntrl": "\\x00-\\x1f",
}  # fmt: skip
_SPECIAL: Final = frozenset(".[]{}()*+?|^$\\/-#&~")


class BadRecordError(ValueError):
    """The substitution is malformed, or not one we run."""


@lru_cache(maxsize=1000)
def parse_substitution(text: str) -> tuple[re.Pattern[str], str]:
    """(expression, replacement) of a NAPTR regexp field. Raises BadRecordError."""
    if not text or len(text) > MAX_LENGTH or not text.isascii():
        raise BadRecordError("no substitution")
    delimiter = text[0]
    if delimiter in "123456789i\\":
        raise BadRecordError(f"{delimiter!r} cannot delimit")
    expression, at = _field(text, 1, delimiter)
    replacement, at = _field(text, at, delimiter)
    flags = text[at:]
    if flags not in {"", "i", "I"}:
        raise BadRecordError(f"unknown flags {flags!r}")
    pattern = _Translator(expression).run()
    try:
        return re.compile(pattern, re.ASCII | (re.IGNORECASE if flags else 0)), replacement
    except re.error as exc:
        raise BadRecordError(str(exc)) from None


def substitute(text: str, subject: str) -> str:
    """What the NAPTR regexp field *text* makes of *subject*, "" when it does not match. Raises BadRecordError."""
    pattern, replacement = parse_substitution(text)
    found = pattern.search(subject)
    if found is None:
        return ""
    parts: list[str] = []
    at = 0
    while at < len(replacement):
        char = replacement[at]
        if char != "\\":
            parts.append(char)
            at += 1
            continue
        following = replacement[at + 1 : at + 2]
        if following in "123456789" and following:
            if int(following) > pattern.groups:
                raise BadRecordError(f"there is no group {following}")
            parts.append(found.group(int(following)) or "")
        else:
            parts.append(following)
        at += 2
    return "".join(parts)


def _field(text: str, at: int, delimiter: str) -> tuple[str, int]:
    """The field that begins at *at* up to its delimiter, unless that is escaped; and where the next one begins."""
    parts: list[str] = []
    while at < len(text):
        char = text[at]
        if char == delimiter:
            return "".join(parts), at + 1
        if char == "\\" and text[at + 1 : at + 2] == delimiter:
            # In an expression a plain delimiter could be an operator: it keeps its escape.
            parts.append("\\" + delimiter if delimiter in _SPECIAL else delimiter)
            at += 2
        elif char == "\\":
            parts.append(text[at : at + 2])
            at += 2
        else:
            parts.append(char)
            at += 1
    raise BadRecordError("a delimiter is missing")


class _Translator:
    """One POSIX extended expression on its way to one of ``re``."""

    def __init__(self, text: str) -> None:
        self._text: Final = text
        self._at = 0
        self._parts: list[str] = []
        self._open: list[bool] = []  # for each open group: does it hold a repetition or alternatives?
        self._repetitions = 0
        self._alternatives = 0
        self._groups = 0

    def run(self) -> str:
        """The translated expression. Raises BadRecordError."""
        repeatable = False  # what stands before: may an operator repeat it?
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in "*+?{":
                if not repeatable:
                    raise BadRecordError(f"nothing to repeat before {char!r}")
                self._repeat(char)
                repeatable = False
            elif char == ")":
                repeatable = self._close()
            elif char in "(|^$":
                self._operator(char)
                repeatable = False
            else:
                self._character(char)
                repeatable = True
        if self._open:
            raise BadRecordError("a group is not closed")
        return "".join(self._parts)

    def _operator(self, char: str) -> None:
        self._at += 1
        if char == "(":
            self._groups += 1
            if self._groups > MAX_GROUPS or self._text[self._at : self._at + 1] == "?":
                raise BadRecordError("too many groups, or of an unknown kind")
            self._open.append(False)
        elif char == "|":
            self._alternatives += 1
            if self._alternatives > MAX_ALTERNATIVES:
                raise BadRecordError("too many alternatives")
            self._mark()
        self._parts.append(char if char != "$" else r"\Z")

    def _close(self) -> bool:
        if not self._open:
            raise BadRecordError("a group is closed that was not opened")
        self._at += 1
        self._parts.append(")")
        varies = self._open.pop()
        if varies:
            self._mark()
        return not varies

    def _mark(self) -> None:
        """What is open now may match in several ways, so it must not be repeated."""
        if self._open:
            self._open[-1] = True

    def _repeat(self, char: str) -> None:
        self._repetitions += 1
        if self._repetitions > MAX_REPETITIONS:
            raise BadRecordError("too many repetitions")
        self._mark()
        if char != "{":
            self._at += 1
            self._parts.append(char)
            return
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not _is_count(low) or (high and not _is_count(high)):
            raise BadRecordError("a malformed repetition count")
        self._at = end + 1
        self._parts.append("{" + low + comma + high + "}")

    def _character(self, char: str) -> None:
        if char == "[":
            self._bracket()
            return
        self._at += 1
        if char == ".":
            self._parts.append(".")
            return
        if char == "\\":
            char = self._text[self._at : self._at + 1]
            self._at += 1
            if not char or char.isalnum():
                raise BadRecordError("an escape that POSIX does not know")
        self._parts.append(re.escape(char))

    def _bracket(self) -> None:
        text = self._text
        at = self._at + 1
        inside = "["
        if text[at : at + 1] == "^":
            inside += "^"
            at += 1
        first = at
        while at < len(text) and (text[at] != "]" or at == first):
            if text[at] == "[" and text[at + 1 : at + 2] in {":", ".", "="}:
                end = text.find(":]", at + 2)
                name = text[at + 2 : end] if end > 0 else ""
                if text[at + 1] != ":" or name not in _CLASSES:
                    raise BadRecordError("an unknown class of characters")
                inside += _CLASSES[name]
                at = end + 2
                continue
            is_range = text[at] == "-" and at > first and text[at + 1 : at + 2] != "]"
            if is_range and inside[-1] == "-":
                raise BadRecordError("a range of ranges")
            # Everything else means itself in a POSIX bracket.
            inside += text[at] if is_range or text[at].isalnum() else "\\" + text[at]
            at += 1
        if at >= len(text):
            raise BadRecordError("a bracket is not closed")
        self._at = at + 1
        self._parts.append(inside + "]")


def _is_count(text: str) -> bool:
    return 0 < len(text) <= 2 and text.isascii() and text.isdigit() and int(text) <= MAX_COUNT
