"""Values of the script and their coercions: int, str, or None for what is undefined.

The rules are those of script-language §8.2: the left operand's run-time type decides, an undefined value takes the type
of the other side. Everything here is hot.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from typing import Final

Scalar = int | str | None

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1


def wrap(number: int) -> int:
    """*number* as a C int of 32 bits holds it: 2147483647 + 1 is -2147483648."""
    if INT_MIN <= number <= INT_MAX:
        return number
    return ((number - INT_MIN) & 0xFFFFFFFF) + INT_MIN


def to_int(value: Scalar) -> int:
    """Decimal text or a number -> int; anything else, undefined included, is 0. Text beyond 32 bits is the nearest int."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    text = value.strip(" \t")
    digits = text[1:] if text[:1] in ("-", "+") else text
    if digits and len(digits) <= 18 and digits.isascii() and digits.isdigit():
        return max(INT_MIN, min(INT_MAX, int(text)))
    return 0


def to_str(value: Scalar) -> str:
    """A value as text; undefined is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return str(value)


def equal(left: Scalar, right: Scalar) -> bool:
    """``==`` by the left operand's type."""
    if left is None:
        return right is None or right == "" or right == 0  # noqa: PLR1714 - types differ
    if isinstance(left, int):
        return left == to_int(right)
    return left == to_str(right)


def add(left: Scalar, right: Scalar) -> int | str:
    """``+``: a number on the left adds, text joins; undefined takes the type of the right side."""
    if isinstance(left, int):
        return wrap(left + to_int(right))
    if left is None and isinstance(right, int):
        return right
    return to_str(left) + to_str(right)


def divide(left: int, right: int) -> int:
    """``/``, towards zero; dividing by 0 gives 0."""
    if right == 0:
        return 0
    quotient = abs(left) // abs(right)
    return wrap(quotient if (left < 0) == (right < 0) else -quotient)


def modulo(left: int, right: int) -> int:
    """``mod`` with the sign of the left side; by 0 gives 0."""
    return left - divide(left, right) * right if right else 0


def same(value: str, lowered: str) -> bool:
    """Case-insensitive equality of a core operand; *lowered* is the constant in lower case."""
    return value == lowered or (len(value) == len(lowered) and value.lower() == lowered)
