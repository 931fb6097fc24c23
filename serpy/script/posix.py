r"""POSIX extended regular expressions as the C library reads them -> a tree.

Of the C library's additions: ``\< \> \b \B \w \W \s \S``, ``\`` and ``\'`` (begin and end of the text), ``{,n}``, repeats
of repeats. In brackets a backslash is a backslash. A ``)`` that closes nothing is itself. Every other letter or digit after
a backslash is itself, too. Refused: back-references (no engine runs them in linear time), counts above 1,000.

Runs in: the master while loading; the udp receiver for expressions made from data. Locks: none. RFC: none; POSIX.1 §9.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serpy.script.charset import ALL, CLASSES, SPACE, WORD, CharSet

MAX_COUNT: Final = 1000
MAX_DEPTH: Final = 50
MAX_LENGTH: Final = 20_000
NEWLINE: Final = 10
UNBOUNDED: Final = -1
MARKS: Final = "<>bB`'"
_QUOTE_HINT: Final = "a bracket or another sign that stands for itself needs a backslash before it"


class BadExpressionError(ValueError):
    """What is wrong at which character of the expression, and a hint."""

    def __init__(self, message: str, at: int, hint: str = _QUOTE_HINT) -> None:
        super().__init__(message)
        self.message: Final = message
        self.at: Final = at
        self.hint: Final = hint


class Chars:
    """One character of a set; *text* when it is one and the same but for its case."""

    def __init__(self, chars: CharSet, text: str = "") -> None:
        self.chars: Final = chars
        self.text: Final = text


class Mark:
    """A place between characters: ``^``, ``$`` or one of MARKS."""

    def __init__(self, kind: str) -> None:
        self.kind: Final = kind


class Group:
    """What stands in parentheses."""

    def __init__(self, inside: Node) -> None:
        self.inside: Final = inside


class Repeat:
    """*least* to *most* times."""

    def __init__(self, inside: Node, least: int, most: int) -> None:
        self.inside: Final = inside
        self.least: Final = least
        self.most: Final = most


class Concat:
    """One after the other."""

    def __init__(self, parts: Sequence[Node]) -> None:
        self.parts: Final = parts


class Alternatives:
    """One of several."""

    def __init__(self, branches: Sequence[Node]) -> None:
        self.branches: Final = branches


Node = Chars | Mark | Group | Repeat | Concat | Alternatives


class Expression:
    """A parsed expression. *remarks* says what a reader may not expect."""

    def __init__(
        self, text: str, root: Node, groups: int, remarks: Sequence[str], *, lines: bool, any_case: bool
    ) -> None:
        self.text: Final = text
        self.root: Final = root
        self.groups: Final = groups
        self.remarks: Final = remarks
        self.lines: Final = lines  # ^ and $ match at line ends, which . and [^…] do not
        self.any_case: Final = any_case


def parse(text: str, *, lines: bool = True, any_case: bool = True) -> Expression:
    """The tree of *text*. Raises BadExpressionError."""
    if len(text) > MAX_LENGTH:
        raise BadExpressionError(f"an expression of {len(text)} characters is too long", 0, "write several")
    return _Parser(text, lines=lines, any_case=any_case).run()


class _Parser:
    def __init__(self, text: str, *, lines: bool, any_case: bool) -> None:
        self._text: Final = text
        self._lines: Final = lines
        self._any_case: Final = any_case
        self._at = 0
        self._depth = 0
        self._groups = 0
        self._remarks: Final[list[str]] = []

    def run(self) -> Expression:
        root = self._alternatives()
        return Expression(
            self._text, root, self._groups, self._remarks, lines=self._lines, any_case=self._any_case
        )  # fmt: skip

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _alternatives(self) -> Node:
        branches = [self._branch()]
        while self._next() == "|":
            self._at += 1
            branches.append(self._branch())
        return branches[0] if len(branches) == 1 else Alternatives(branches)

    def _branch(self) -> Node:
        parts: list[Node] = []
        while (char := self._next()) and char != "|" and not (char == ")" and self._depth):
            if char in "*+?{":
                raise BadExpressionError(f"there is nothing before {char!r} to repeat", self._at)
            atom = self._atom()
            if not isinstance(atom, Mark):
                atom = self._repeated(atom)
            parts.append(atom)
        return parts[0] if len(parts) == 1 else Concat(parts)

    def _atom(self) -> Node:
        begin = self._at
        char = self._next()
        self._at += 1
        if char == "(":
            return self._group(begin)
        if char == "[":
            return Chars(self._bracket(begin))
        if char == ".":
            return Chars(ALL.without(NEWLINE) if self._lines else ALL)
        if char in "^$":
            return Mark(char)
        if char == "\\":
            return self._escape(begin)
        return self._literal(char)

    def _literal(self, char: str) -> Chars:
        code = ord(char)
        chars = CharSet(1 << code) if code < 128 else CharSet(0, frozenset((code,)))
        return Chars(chars.any_case() if self._any_case else chars, char)

    def _group(self, begin: int) -> Node:
        if self._next() == "?" and self._text[self._at + 1 : self._at + 2] in (":", "=", "!", "<", "P", "i"):
            raise BadExpressionError(
                "'(?' is not POSIX", begin, "groups are plain parentheses; nothing looks ahead or back"
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise BadExpressionError(f"more than {MAX_DEPTH} parentheses in each other", begin, "write it flatter")
        self._groups += 1
        inside = self._alternatives()
        if self._next() != ")":
            raise BadExpressionError("this '(' is not closed", begin)
        self._at += 1
        self._depth -= 1
        return Group(inside)

    def _escape(self, begin: int) -> Node:
        char = self._next()
        self._at += 1
        if not char:
            raise BadExpressionError("a backslash stands at the end", begin, "write two for one")
        if char in "123456789":
            raise BadExpressionError(
                f"'\\{char}', what a group has matched, is not available", begin, "compare the parts in the script"
            )
        if char in MARKS:
            return Mark(char)
        if char in "wW":
            return Chars(WORD if char == "w" else WORD.inverted())
        if char in "sS":
            return Chars(SPACE if char == "s" else SPACE.inverted())
        if char in "dD":
            self._remarks.append(f"'\\{char}' is the letter {char}, as in the C library; a digit is [0-9]")
        elif char.isascii() and char.isalnum():
            self._remarks.append(f"'\\{char}' is {char!r}, as in the C library")
        return self._literal(char)

    def _repeated(self, node: Node) -> Node:
        times = 0
        while (char := self._next()) and char in "*+?{":
            times += 1
            if times > MAX_DEPTH:
                raise BadExpressionError("repeated too often", self._at)
            if char == "{":
                least, most = self._count()
            else:
                self._at += 1
                least, most = {"*": (0, UNBOUNDED), "+": (1, UNBOUNDED), "?": (0, 1)}[char]
            node = Repeat(node, least, most)
        return node

    def _count(self) -> tuple[int, int]:
        begin = self._at
        end = self._text.find("}", begin)
        first, comma, second = self._text[begin + 1 : max(end, begin)].partition(",")
        if end < 0 or not all(_is_count(part) or not part for part in (first, second)) or not (first or comma):
            raise BadExpressionError("'{' begins a count such as {2} or {2,5}", begin)
        least = int(first or "0")
        most = int(second) if second else UNBOUNDED if comma else least
        if least > MAX_COUNT or most > MAX_COUNT:
            raise BadExpressionError(f"a count above {MAX_COUNT}", begin, "write * or +")
        if most != UNBOUNDED and most < least:
            raise BadExpressionError(f"{{{least},{most}}} ends before it begins", begin, f"write {{{most},{least}}}")
        self._at = end + 1
        return least, most

    # ---- brackets

    def _bracket(self, begin: int) -> CharSet:
        inverted = self._next() == "^"
        if inverted:
            self._at += 1
        mask, extra = 0, set[int]()
        first = True
        while first or self._next() != "]":
            first = False
            found = self._element(begin)
            if not isinstance(found, int):
                mask |= found.mask
                continue
            last = found
            if self._next() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                last = self._range_end(begin)
                if last < found:
                    raise BadExpressionError(
                        f"the range {chr(found)}-{chr(last)} ends before it begins", begin,
                        "a '-' that stands for itself is the first or the last in the brackets",
                    )  # fmt: skip
            for code in range(found, min(last, 127) + 1):
                mask |= 1 << code
            if last > 127:
                if last - max(found, 128) > 4096:
                    raise BadExpressionError("a range of more than 4,096 characters", begin)
                extra.update(range(max(found, 128), last + 1))
        self._at += 1
        chars = CharSet(mask, frozenset(extra))
        if self._any_case:
            chars = chars.any_case()
        if not inverted:
            return chars
        return chars.inverted().without(NEWLINE) if self._lines else chars.inverted()

    def _range_end(self, begin: int) -> int:
        self._at += 1
        last = self._element(begin)
        if not isinstance(last, int):
            raise BadExpressionError("a range ends at a character", begin)
        return last

    def _element(self, begin: int) -> CharSet | int:
        """A class, or the code of a character."""
        char = self._next()
        if not char:
            raise BadExpressionError("this '[' is not closed", begin)
        self._at += 1
        kind = self._next()
        if char != "[" or kind not in (":", ".", "="):
            return ord(char)
        end = self._text.find(f"{kind}]", self._at + 1)
        if end < 0:
            raise BadExpressionError(f"'[{kind}' is not closed", self._at - 1)
        name = self._text[self._at + 1 : end]
        at, self._at = self._at - 1, end + 2
        if kind == ":":
            if name not in CLASSES:
                raise BadExpressionError(f"there is no class [:{name}:]", at, "there are: " + " ".join(CLASSES))
            return CharSet(CLASSES[name])
        if len(name) != 1:
            raise BadExpressionError(f"[{kind}{name}{kind}] is no single character", at)
        return ord(name)


def _is_count(text: str) -> bool:
    return 0 < len(text) <= 5 and text.isascii() and text.isdigit()
