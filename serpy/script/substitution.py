r"""``/expression/replacement/flags``, read while loading.

``\0`` … ``\9`` in the replacement are the match and its groups. Flags: ``g`` all matches, ``i`` without case, ``s`` line
ends are characters like others. The match that is replaced is the leftmost, and of those the longest.

Runs in: the master while loading; applied in every process that runs the script. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.script.patterns import Pattern, Piece, compile_pattern
from serpy.script.posix import BadExpressionError

_LETTERS: Final = {"n": "\n", "r": "\r", "t": "\t"}


class Substitution:
    """A pattern, what its matches become, and of how many (0: all)."""

    def __init__(self, pattern: Pattern, pieces: list[Piece], count: int) -> None:
        self.pattern: Final = pattern
        self.pieces: Final = pieces
        self.count: Final = count

    def apply(self, text: str) -> str | None:
        """*text* with the substitution made, None when nothing matches."""
        return self.pattern.replaced(text, self.pieces, self.count)


def parse_substitution(text: str) -> Substitution:
    """The substitution written as *text*. Raises BadExpressionError."""
    parts = _split(text, text[:1])
    if len(parts) != 4 or parts[0]:
        raise BadExpressionError(
            f"not of the form /expression/replacement/flags: {text!r:.80}", 0, "see docs/expressions.md"
        )
    unknown = sorted(set(parts[3]) - set("gis"))
    if unknown:
        raise BadExpressionError(f"unknown flag {unknown[0]!r}", len(text) - len(parts[3]), "the flags are g, i and s")
    try:
        pattern = compile_pattern(parts[1], lines="s" not in parts[3], any_case="i" in parts[3], replaces=True)
    except BadExpressionError as error:
        raise BadExpressionError(error.message, error.at + 1, error.hint) from None
    pieces = _pieces(parts[2])
    for piece in pieces:
        if isinstance(piece, int) and piece > pattern.groups:
            at = text.find(f"\\{piece}", len(parts[1]) + 2)
            raise BadExpressionError(f"\\{piece}: the expression has {pattern.groups} groups", max(0, at), "")
    return Substitution(pattern, pieces, 0 if "g" in parts[3] else 1)


def _split(text: str, separator: str) -> list[str]:
    """*text* at every *separator* that has no backslash before it."""
    if not separator:
        return []
    parts: list[str] = []
    current = ""
    place = 0
    while place < len(text):
        char = text[place]
        if char == "\\" and place + 1 < len(text):
            following = text[place + 1]
            current += following if following == separator else char + following
            place += 2
            continue
        if char == separator:
            parts.append(current)
            current = ""
        else:
            current += char
        place += 1
    parts.append(current)
    return parts


def _pieces(text: str) -> list[Piece]:
    """*text* as texts and numbers of groups."""
    pieces: list[Piece] = []
    literal = ""
    place = 0
    while place < len(text):
        char = text[place]
        place += 1
        if char != "\\" or place == len(text):
            literal += char
            continue
        following = text[place]
        place += 1
        if "0" <= following <= "9":
            if literal:
                pieces.append(literal)
            literal = ""
            pieces.append(int(following))
        else:
            literal += _LETTERS.get(following, following)
    if literal:
        pieces.append(literal)
    return pieces
