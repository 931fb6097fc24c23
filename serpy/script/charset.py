"""Sets of characters, as the brackets of a regular expression make them. Letters are ASCII's, as in the C locale.

Runs in: the master while loading; the udp receiver for expressions made from data. Locks: none.
"""

from __future__ import annotations

from typing import Final

ASCII: Final = (1 << 128) - 1
LAST: Final = 0x10FFFF


class CharSet:
    """*mask* has a bit for each ASCII character; of all others those in *extra*, or, with *others*, all but those."""

    __slots__ = ("extra", "mask", "others")

    def __init__(self, mask: int = 0, extra: frozenset[int] = frozenset(), *, others: bool = False) -> None:
        self.mask: Final = mask
        self.extra: Final = extra
        self.others: Final = others

    def __or__(self, other: CharSet) -> CharSet:
        mask = self.mask | other.mask
        if self.others and other.others:
            return CharSet(mask, self.extra & other.extra, others=True)
        if self.others:
            return CharSet(mask, self.extra - other.extra, others=True)
        if other.others:
            return CharSet(mask, other.extra - self.extra, others=True)
        return CharSet(mask, self.extra | other.extra)

    def meets(self, other: CharSet) -> bool:
        """True when some character is in both."""
        if self.mask & other.mask:
            return True
        if self.others and other.others:
            return True
        if self.others:
            return bool(other.extra - self.extra)
        if other.others:
            return bool(self.extra - other.extra)
        return bool(self.extra & other.extra)

    def is_within(self, other: CharSet) -> bool:
        """True when every character is in *other*, too."""
        return not self.meets(other.inverted())

    def inverted(self) -> CharSet:
        """All that is not in this set."""
        return CharSet(~self.mask & ASCII, self.extra, others=not self.others)

    def without(self, code: int) -> CharSet:
        """All in this set but the ASCII character *code*."""
        return CharSet(self.mask & ~(1 << code), self.extra, others=self.others)

    def any_case(self) -> CharSet:
        """The same with the letters of the other case."""
        capitals, smalls = self.mask & CAPITALS, self.mask & SMALLS
        return CharSet(self.mask | capitals << 32 | smalls >> 32, self.extra, others=self.others)

    def ranges(self) -> list[tuple[int, int]]:
        """First and last code of each run of characters."""
        codes = [code for code in range(128) if self.mask >> code & 1]
        runs = [(code, code) for code in codes]
        if not self.others:
            runs += [(code, code) for code in sorted(self.extra)]
        else:
            start = 128
            for code in [*sorted(self.extra), LAST + 1]:
                if code > start:
                    runs.append((start, code - 1))
                start = code + 1
        joined: list[tuple[int, int]] = []
        for first, last in runs:
            if joined and joined[-1][1] == first - 1:
                joined[-1] = (joined[-1][0], last)
            else:
                joined.append((first, last))
        return joined


def mask_of(text: str) -> int:
    """The bits of the ASCII characters in *text*."""
    mask = 0
    for char in text:
        mask |= 1 << ord(char)
    return mask


def _span(first: str, last: str) -> int:
    return mask_of("".join(chr(code) for code in range(ord(first), ord(last) + 1)))


CAPITALS: Final = _span("A", "Z")
SMALLS: Final = _span("a", "z")
DIGITS: Final = _span("0", "9")
_LETTERS: Final = CAPITALS | SMALLS
_GRAPH: Final = _span("!", "~")
CLASSES: Final = {
    "alpha": _LETTERS, "digit": DIGITS, "alnum": _LETTERS | DIGITS, "upper": CAPITALS, "lower": SMALLS,
    "space": mask_of(" \t\n\r\f\v"), "blank": mask_of(" \t"), "punct": _GRAPH & ~(_LETTERS | DIGITS),
    "xdigit": DIGITS | _span("a", "f") | _span("A", "F"), "cntrl": _span("\0", "\x1f") | 1 << 127,
    "print": _GRAPH | 1 << 32, "graph": _GRAPH,
}  # fmt: skip
EMPTY: Final = CharSet()
WORD: Final = CharSet(_LETTERS | DIGITS | 1 << ord("_"))
SPACE: Final = CharSet(CLASSES["space"])
ALL: Final = CharSet(ASCII, others=True)
