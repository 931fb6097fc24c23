"""Regular expressions of the script: POSIX extended ones, case-insensitive, matching line by line.

Runs in: compilation in the master while loading, matching in the udp receiver. Locks: none.
"""

from __future__ import annotations

import re
from typing import Final

REGEX_FLAGS: Final = int(re.IGNORECASE | re.MULTILINE | re.ASCII)
_CLASSES: Final = {
    "alpha": "A-Za-z", "digit": "0-9", "alnum": "A-Za-z0-9", "upper": "A-Z", "lower": "a-z", "space": r"\s",
    "blank": r" \t", "punct": r"!-/:-@\[-`{-~", "xdigit": "0-9A-Fa-f", "cntrl": r"\x00-\x1f\x7f",
    "print": r"\x20-\x7e", "graph": r"\x21-\x7e",
}  # fmt: skip


def posix_pattern(text: str) -> str:
    """A POSIX extended expression in Python's syntax: named classes are the difference that scripts meet."""
    if "[:" in text:
        for name, members in _CLASSES.items():
            text = text.replace(f"[:{name}:]", members)
    return text


def compile_regex(text: str) -> re.Pattern[str]:
    """A script's regular expression: extended, case-insensitive, multi-line. Raises re.error."""
    return re.compile(posix_pattern(text), REGEX_FLAGS)


class Anchored:
    """A pattern that begins with ``^``: on a single line it is tried at the start and nowhere else."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._search: Final = pattern.search
        self._match: Final = pattern.match

    def holds(self, text: str) -> bool:
        """What ``search`` would say."""
        return (self._search(text) if "\n" in text else self._match(text)) is not None
