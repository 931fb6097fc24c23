"""``=~ "^tel:"`` and its like, which are compared and not searched for, hold where the expression does."""

from __future__ import annotations

import pytest

from serpy.script.patterns import Anchored, Prefix, anchored, compile_pattern

SUBJECTS = [
    "",
    "t",
    "tel:",
    "tel:1",
    "TEL:1",
    "TeL:+1",
    "x tel:",
    "x\ntel:1",
    "tel\n:",
    "\u212atel:",
    "tel",
    "486",
    "4",
    "s\n4",
]


@pytest.mark.parametrize("any_case", [True, False])
@pytest.mark.parametrize("text", ["^tel:", "^4", "^TEL:", "^48", "^k", "^sip:"])
def test_a_plain_prefix_holds_where_the_expression_does(text, any_case):
    compiled = compile_pattern(text, any_case=any_case).compiled
    quick = Prefix(compiled, text[1:])
    for subject in [*SUBJECTS, "k", "K", "\u212a", "sip:a", "\u017fip:a"]:
        assert quick.holds(subject) is (compiled.search(subject) is not None), subject


@pytest.mark.parametrize("text", ["^a.c", "^[0-9]", "^a\\.", "^", "^a$", "^(a)", "^a?", "^a+", "^ä"])
def test_whatever_means_more_than_its_letters_stays_an_expression(text):
    compiled = compile_pattern(text).compiled
    holds = anchored(compiled, text)
    assert isinstance(holds.__self__, Anchored)
    for subject in ["abc", "a.c", "a", "", "5", "b\na", "ä", "aa"]:
        assert holds(subject) is (compiled.search(subject) is not None), subject
