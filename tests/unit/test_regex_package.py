"""The expressions that serpy itself is written with are harmless, too: peers choose what they are matched with."""

import importlib
import pkgutil
import re
from re import _constants as sre
from re import _parser

import pytest

import serpy
from serpy.script.charset import ALL, CLASSES, EMPTY, WORD, CharSet
from serpy.script.posix import Alternatives, Chars, Concat, Expression, Group, Mark, Repeat
from serpy.script.weight import weigh

_CATEGORIES = {
    sre.CATEGORY_DIGIT: CharSet(CLASSES["digit"]), sre.CATEGORY_SPACE: CharSet(CLASSES["space"]), sre.CATEGORY_WORD: WORD,
}  # fmt: skip
_NOT = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT, sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
}  # fmt: skip


def charset(first, last=None):
    codes = range(first, (first if last is None else last) + 1)
    mask = sum(1 << code for code in codes if code < 128)
    return CharSet(mask, frozenset(code for code in codes if 128 <= code < 0x3000))


def members(items):
    found, inverted = EMPTY, False
    for kind, value in items:
        if kind is sre.NEGATE:
            inverted = True
        elif kind is sre.LITERAL:
            found |= charset(value)
        elif kind is sre.RANGE:
            found |= ALL.without(0) if value[1] > 0x3000 and value[0] < 0x80 else charset(*value)
        elif value in _CATEGORIES:
            found |= _CATEGORIES[value]
        else:
            found |= _CATEGORIES[_NOT[value]].inverted()
    return found.inverted() if inverted else found


def node(item):
    """An item of Python's own parser as one of ours. What never gives back what it took counts as one character."""
    kind, value = item
    if kind is sre.LITERAL:
        return Chars(charset(value).any_case())
    if kind is sre.NOT_LITERAL:
        return Chars(charset(value).inverted())
    if kind is sre.ANY:
        return Chars(ALL)
    if kind is sre.IN:
        return Chars(members(value).any_case())
    if kind in (sre.POSSESSIVE_REPEAT, sre.ATOMIC_GROUP):
        return Chars(EMPTY)
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, inside = value
        return Repeat(sequence(inside), least, -1 if most is sre.MAXREPEAT else most)
    if kind is sre.SUBPATTERN:
        return Group(sequence(value[3]))
    if kind is sre.BRANCH:
        return Alternatives([sequence(branch) for branch in value[1]])
    assert kind in (sre.AT, sre.ASSERT, sre.ASSERT_NOT), kind
    return Mark("b")


def sequence(items):
    found = [node(item) for item in items]
    return found[0] if len(found) == 1 else Concat(found)


def package_patterns():
    found = {}
    for info in pkgutil.walk_packages(serpy.__path__, "serpy."):
        if info.name != "serpy.__main__":
            for name, value in vars(importlib.import_module(info.name)).items():
                if isinstance(value, re.Pattern):
                    found[f"{info.name}.{name}"] = value
    return found


# Texts of the administrator: the script, its queries and its format strings.
OF_THE_ADMINISTRATOR = (
    "serpy.db.idioms.", "serpy.script.formats.", "serpy.script.lexer.", "serpy.script.operands.",
    "serpy.script.preprocess.", "serpy.script.compile.", "serpy.tools.",
)  # fmt: skip
# At most 255 characters; each label ends at its dot, wherever one has tried to end it before.
BOUNDED = {"serpy.sip.host._NAME"}
FOUND = {
    name: pattern
    for name, pattern in package_patterns().items()
    if not name.startswith(OF_THE_ADMINISTRATOR) and name not in BOUNDED
}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_an_expression_of_the_package_is_linear(name):
    """Where they are matched is given (match, fullmatch, a scanner), so a search that begins anew is no concern."""
    pattern = FOUND[name]
    root = Concat([Mark("`"), sequence(_parser.parse(pattern.pattern, pattern.flags))])
    weight = weigh(Expression(pattern.pattern, root, 0, [], lines=False, any_case=False))
    assert not weight.nested
    assert weight.degree == 0


def test_there_are_some():
    assert len(FOUND) > 12
