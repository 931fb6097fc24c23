"""How long may an expression take? Proves those harmless that a backtracking engine runs in linear time.

Harmless is: in each repetition the next character decides whether it goes on, and no repetition can run again and again
over the same characters because the search begins anew within it (it stands behind ``^``, or what the expression begins
with cannot occur in it). A bounded number of wrong tries, as in ``[0-9]{3,18}5``, is fine.

Runs in: the master while loading; the udp receiver for expressions made from data. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.script.charset import EMPTY, CharSet
from serpy.script.posix import NEWLINE, Alternatives, Chars, Concat, Expression, Group, Mark, Node, Repeat

WAYS_MAX: Final = 64  # tries for each character that are still harmless
BOUNDED: Final = 64  # a longer repetition counts as one without end
_HUGE: Final = 1_000_000


class Weight:
    """*ways*: tries at one place; *degree*: 0 linear in the subject, 1 quadratic …; *nested*: exponential."""

    __slots__ = ("degree", "nested", "ways")

    def __init__(self, ways: int = 1, degree: int = 0, *, nested: bool = False) -> None:
        self.ways: Final = min(ways, _HUGE)
        self.degree: Final = degree
        self.nested: Final = nested or ways >= _HUGE

    @property
    def is_harmless(self) -> bool:
        """Linear, whatever the subject."""
        return not self.nested and self.degree == 0 and self.ways <= WAYS_MAX

    @property
    def is_certain(self) -> bool:
        """There is one way to match: the first that is found is the longest."""
        return self.is_harmless and self.ways == 1

    def __mul__(self, other: Weight) -> Weight:
        return Weight(self.ways * other.ways, self.degree + other.degree, nested=self.nested or other.nested)


def weigh(expression: Expression) -> Weight:
    """The weight of searching for *expression*."""
    root = expression.root
    weight = _weight(root, EMPTY)
    for branch in root.branches if isinstance(root, Alternatives) else (root,):
        if _starts_again(_flat(branch), lines=expression.lines):
            weight *= Weight(1, 1)
            break
    return weight


def first(node: Node) -> CharSet:
    """What the match of *node* can begin with."""
    return _edge(node, at_end=False)


def last(node: Node) -> CharSet:
    """What the match of *node* can end with."""
    return _edge(node, at_end=True)


def _edge(node: Node, *, at_end: bool) -> CharSet:
    if isinstance(node, Chars):
        return node.chars
    if isinstance(node, (Group, Repeat)):
        return _edge(node.inside, at_end=at_end)
    if isinstance(node, Mark):
        return EMPTY
    found = EMPTY
    if isinstance(node, Alternatives):
        for branch in node.branches:
            found |= _edge(branch, at_end=at_end)
        return found
    for part in reversed(node.parts) if at_end else node.parts:
        found |= _edge(part, at_end=at_end)
        if not nullable(part):
            break
    return found


def nullable(node: Node) -> bool:
    """True when *node* can match nothing."""
    if isinstance(node, Chars):
        return False
    if isinstance(node, Mark):
        return True
    if isinstance(node, Group):
        return nullable(node.inside)
    if isinstance(node, Repeat):
        return node.least == 0 or nullable(node.inside)
    if isinstance(node, Concat):
        return all(nullable(part) for part in node.parts)
    return any(nullable(branch) for branch in node.branches)


def is_endless(node: Repeat) -> bool:
    """True for a repetition that may go on for long."""
    return node.most < 0 or node.most > BOUNDED


def _weight(node: Node, follow: CharSet) -> Weight:
    """The weight of *node* when a character of *follow* comes behind it."""
    if isinstance(node, (Chars, Mark)):
        return Weight()
    if isinstance(node, Group):
        return _weight(node.inside, follow)
    if isinstance(node, Concat):
        total = Weight()
        for part in reversed(node.parts):
            total *= _weight(part, follow)
            follow = first(part) | follow if nullable(part) else first(part)
        return total
    if isinstance(node, Alternatives):
        return _choice(node, follow)
    return _repetition(node, follow)


def _choice(node: Alternatives, follow: CharSet) -> Weight:
    ways = most = degree = 0
    exclusive, nested = True, False
    seen = EMPTY
    for branch in node.branches:
        begins = first(branch) | follow if nullable(branch) else first(branch)
        # A branch that can match nothing hides longer matches of those behind it.
        exclusive = exclusive and not begins.meets(seen) and not (nullable(branch) and branch is not node.branches[-1])
        seen |= begins
        weight = _weight(branch, follow)
        ways += weight.ways
        most = max(most, weight.ways)
        degree = max(degree, weight.degree)
        nested = nested or weight.nested
    return Weight(most if exclusive else ways, degree, nested=nested)


def _repetition(node: Repeat, follow: CharSet) -> Weight:
    inside = node.inside
    again = first(inside)
    overlaps = again.meets(follow) or nullable(inside)
    weight = _weight(inside, again | follow)
    if is_endless(node):
        if not weight.is_certain or nullable(inside):
            return Weight(nested=True)
        return Weight(1, 1 if overlaps else 0)
    choices = node.most - node.least + 1 if overlaps else 1
    if weight.nested or weight.degree:
        return Weight(weight.ways, weight.degree * max(1, node.most), nested=weight.nested)
    ways = choices
    for _ in range(node.most):
        ways *= weight.ways
        if ways >= _HUGE:
            break
    return Weight(ways)


# ---- the search begins anew at each character


def _flat(node: Node) -> list[Node]:
    """The parts of *node* one after the other."""
    if isinstance(node, Concat):
        return [inner for part in node.parts for inner in _flat(part)]
    if isinstance(node, Group) and not isinstance(node.inside, Alternatives):
        return _flat(node.inside)
    return [node]


def _starts_again(parts: list[Node], *, lines: bool) -> bool:
    """True when a search may go over the same characters again from many starts."""
    parts = _that_can_fail(parts)
    run = EMPTY
    for part in parts:
        run |= _endless_chars(part)
    begin = parts[0] if parts else None
    if isinstance(begin, Mark) and begin.kind in "^`":
        return lines and begin.kind == "^" and run.meets(CharSet(1 << NEWLINE))
    for part in parts:
        if run.meets(first(part)):
            return True
        if not nullable(part):
            return False
    return run.mask != 0 or run.others or bool(run.extra)


def _that_can_fail(parts: list[Node]) -> list[Node]:
    """*parts* without what at the end always matches: its length does not matter, since the search is over."""
    parts = list(parts)
    while parts:
        part = parts[-1]
        if isinstance(part, Repeat) and isinstance(part.inside, Chars):
            if part.least == 0:
                parts.pop()
                continue
            parts[-1] = Repeat(part.inside, part.least, part.least)
        break
    return parts


def _endless_chars(node: Node) -> CharSet:
    """The characters of all repetitions in *node* that may go on for long."""
    if isinstance(node, Group):
        return _endless_chars(node.inside)
    if isinstance(node, Repeat):
        return _all_chars(node.inside) if is_endless(node) or _length(node) > BOUNDED else _endless_chars(node.inside)
    found = EMPTY
    for part in node.parts if isinstance(node, Concat) else node.branches if isinstance(node, Alternatives) else ():
        found |= _endless_chars(part)
    return found


def _length(node: Node) -> int:
    """How many characters *node* matches at most, as far as that is of interest."""
    if isinstance(node, Chars):
        return 1
    if isinstance(node, Mark):
        return 0
    if isinstance(node, Group):
        return _length(node.inside)
    if isinstance(node, Repeat):
        return _HUGE if node.most < 0 else min(_HUGE, node.most * _length(node.inside))
    if isinstance(node, Concat):
        return min(_HUGE, sum(_length(part) for part in node.parts))
    return max(_length(branch) for branch in node.branches)


def _all_chars(node: Node) -> CharSet:
    if isinstance(node, Chars):
        return node.chars
    if isinstance(node, (Group, Repeat)):
        return _all_chars(node.inside)
    found = EMPTY
    for part in node.parts if isinstance(node, Concat) else node.branches if isinstance(node, Alternatives) else ():
        found |= _all_chars(part)
    return found
