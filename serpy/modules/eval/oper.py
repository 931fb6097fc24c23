"""The operators of the eval stack machine: pure functions from operands (the top one first) to a result.

Comparisons and logic give 1 or 0. Two texts are compared as text, anything else as numbers. Numbers wrap at 64 bits.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from serpy.errors import ParseError
from serpy.sip.nameaddr import split_commas

Item = int | str

_TOP: Final = 1 << 63
_MASK: Final = (1 << 64) - 1


class Operator:
    """*count* operands and the function that takes them; None as its result means it is not possible."""

    def __init__(self, count: int, run: Callable[[Sequence[Item]], Item | None]) -> None:
        self.count: Final = count
        self.run: Final = run


def to_int(item: Item) -> int:
    """The number an item stands for: texts up to their first other character, 0 when there is none."""
    if isinstance(item, int):
        return item
    text = item.lstrip(" \t")
    sign = -1 if text.startswith("-") else 1
    digits = ""
    for char in text.lstrip("+-")[:18]:
        if not "0" <= char <= "9":
            break
        digits += char
    return sign * int(digits) if digits else 0


def _wrapped(number: int) -> int:
    return (number + _TOP & _MASK) - _TOP


def _numbers(run: Callable[[int, int], int]) -> Operator:
    return Operator(2, lambda items: _wrapped(run(to_int(items[0]), to_int(items[1]))))


def _number(run: Callable[[int], int]) -> Operator:
    return Operator(1, lambda items: _wrapped(run(to_int(items[0]))))


def _compared(run: Callable[[int], bool]) -> Operator:
    """*run* gets -1, 0 or 1: how the first operand stands to the second."""

    def compare(items: Sequence[Item]) -> Item | None:
        left, right = items[0], items[1]
        if isinstance(left, str) and isinstance(right, str):
            order = (left > right) - (left < right)
        else:
            first, second = to_int(left), to_int(right)
            order = (first > second) - (first < second)
        return 1 if run(order) else 0

    return Operator(2, compare)


def _divide(items: Sequence[Item]) -> Item | None:
    left, right = to_int(items[0]), to_int(items[1])
    if not right:
        return None
    quotient = abs(left) // abs(right)  # towards zero, as C does
    return quotient if (left < 0) == (right < 0) else -quotient


def _modulo(items: Sequence[Item]) -> Item | None:
    left, right = to_int(items[0]), to_int(items[1])
    if not right:
        return None
    rest = abs(left) % abs(right)
    return rest if left >= 0 else -rest


def _substr(items: Sequence[Item]) -> Item | None:
    """(text, position, length): a negative position counts from the end, a negative length means the rest."""
    text, start, length = str(items[0]), to_int(items[1]), to_int(items[2])
    if start < 0:
        start = max(0, len(text) + start)
    return text[start:] if length < 0 else text[start : start + length]


def _strdel(items: Sequence[Item]) -> Item | None:
    """(text, position, length): the text without that piece."""
    text, start, length = str(items[0]), to_int(items[1]), to_int(items[2])
    if start < 0:
        start = max(0, len(text) + start)
    return text[:start] + ("" if length < 0 else text[start + length :])


def _strstr(items: Sequence[Item]) -> Item | None:
    return str(items[0]).find(str(items[1]))


def _values(text: str) -> list[str]:
    try:
        return split_commas(text)
    except ParseError:
        return [text]


def _value_at(items: Sequence[Item]) -> Item | None:
    """(list, index): value index of a comma separated list, from 0, negative from the end."""
    values, index = _values(str(items[0])), to_int(items[1])
    if index < 0:
        index += len(values)
    return values[index] if 0 <= index < len(values) else None


def _value_index(items: Sequence[Item]) -> Item | None:
    """(list, value): where the value stands in the list, -1 when it does not."""
    values = [value.lower() for value in _values(str(items[0]))]
    wanted = str(items[1]).lower()
    return values.index(wanted) if wanted in values else -1


OPERATORS: Final[dict[str, Operator]] = {
    "+": _numbers(lambda a, b: a + b),
    "-": _numbers(lambda a, b: a - b),
    "*": _numbers(lambda a, b: a * b),
    "/": Operator(2, _divide),
    "%": Operator(2, _modulo),
    "neg": _number(lambda a: -a),
    "abs": _number(abs),
    "sgn": _number(lambda a: (a > 0) - (a < 0)),
    "dec": _number(lambda a: a - 1),
    "inc": _number(lambda a: a + 1),
    "&": _numbers(lambda a, b: a & b),
    "|": _numbers(lambda a, b: a | b),
    "^": _numbers(lambda a, b: a ^ b),
    "~": _number(lambda a: ~a),
    "&&": _numbers(lambda a, b: int(bool(a) and bool(b))),
    "||": _numbers(lambda a, b: int(bool(a) or bool(b))),
    "!": _number(lambda a: int(not a)),
    "==": _compared(lambda order: order == 0),
    "!=": _compared(lambda order: order != 0),
    ">": _compared(lambda order: order > 0),
    ">=": _compared(lambda order: order >= 0),
    "<": _compared(lambda order: order < 0),
    "<=": _compared(lambda order: order <= 0),
    "concat": Operator(2, lambda items: f"{items[0]}{items[1]}"),
    "substr": Operator(3, _substr),
    "strdel": Operator(3, _strdel),
    "strlen": Operator(1, lambda items: len(str(items[0]))),
    "strstr": Operator(2, _strstr),
    "strupper": Operator(1, lambda items: str(items[0]).upper()),
    "strlower": Operator(1, lambda items: str(items[0]).lower()),
    "value_at": Operator(2, _value_at),
    "value_idx": Operator(2, _value_index),
    "value_count": Operator(1, lambda items: len(_values(str(items[0])))),
    "(int)": Operator(1, lambda items: to_int(items[0])),
    "(str)": Operator(1, lambda items: str(items[0])),
}
