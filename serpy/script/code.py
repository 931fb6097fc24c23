"""A piece of Python that gives one value of the script, and what is known about that value.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from serpy.script.scalars import to_int


class Kind(Enum):
    """What the value is at run time."""

    INT = "int"
    STR = "str"
    OPT = "str or None"  # None: undefined
    VAL = "int, str or None"


@dataclass(frozen=True, slots=True)
class Code:
    """*text* is an expression; *constant* its value when that is known already."""

    text: str
    kind: Kind
    constant: int | str | None = None

    @property
    def may_be_undefined(self) -> bool:
        """True when the value can be None."""
        return self.kind in (Kind.OPT, Kind.VAL)

    def as_int(self) -> str:
        """The value converted to int."""
        if self.kind is Kind.INT:
            return self.text
        return f"to_int({self.text})" if self.constant is None else repr(to_int(self.constant))

    def as_str(self) -> str:
        """The value converted to text."""
        if self.kind is Kind.STR:
            return self.text
        if self.kind is Kind.OPT:
            return f'({self.text} or "")'
        return f"to_str({self.text})" if self.constant is None else repr(str(self.constant))

    def stored(self) -> str:
        """The value as it goes into an attribute: an undefined select stores an empty string."""
        return self.as_str() if self.kind is Kind.OPT else self.text

    # ---- conditions

    def truth(self) -> str:
        """Defined, and neither empty nor 0; of a number: above 0."""
        return f"{self.text} > 0" if self.kind is Kind.INT else self.text

    def is_empty(self) -> str:
        """Undefined or empty."""
        return f"not {self.text}" if self.kind in (Kind.STR, Kind.OPT) else f"not to_str({self.text})"

    def is_defined(self) -> str:
        """Not undefined."""
        return f"{self.text} is not None" if self.may_be_undefined else "True"

    def is_undefined(self) -> str:
        """``== $null``."""
        return f"{self.text} is None" if self.may_be_undefined else "False"

    def equals(self, other: Code) -> str:
        """``==`` by the type of this side (script-language §8.2)."""
        if isinstance(other.constant, str):
            return self._equals_text(other.constant)
        if isinstance(other.constant, int):
            return self._equals_number(other.constant)
        if self.kind is other.kind and not self.may_be_undefined:
            return f"{self.text} == {other.text}"
        return f"equal({self.text}, {other.text})"

    def _equals_text(self, text: str) -> str:
        if self.kind is Kind.INT:
            return f"{self.text} == {to_int(text)}"
        if self.kind is Kind.VAL:
            return self._one_of(text, to_int(text), undefined=not text)
        return f"{self.text} == {text!r}" if text or self.kind is Kind.STR else f"not {self.text}"

    def _equals_number(self, number: int) -> str:
        if self.kind is Kind.INT:
            return f"{self.text} == {number}"
        return self._one_of(number, str(number), undefined=number == 0)

    def _one_of(self, *values: int | str, undefined: bool) -> str:
        """Of any type, and equal to the value of its own type; undefined equals "" and 0."""
        return f"{self.text} in {(*values, None) if undefined else values!r}"


def integer(text: str) -> Code:
    """Code that gives an int."""
    return Code(text, Kind.INT)


def string(text: str) -> Code:
    """Code that gives text."""
    return Code(text, Kind.STR)


def optional(text: str) -> Code:
    """Code that gives text or None."""
    return Code(text, Kind.OPT)


def any_value(text: str) -> Code:
    """Code that gives an int, text or None."""
    return Code(text, Kind.VAL)


def constant(value: int | str) -> Code:
    """Code of a value that is known now."""
    return Code(repr(value), Kind.INT if isinstance(value, int) else Kind.STR, value)


def negated(condition: str) -> str:
    """The opposite of a condition."""
    if (
        condition.startswith("not ")
        and condition.count("(") <= 1
        and " and " not in condition
        and " or " not in condition
    ):
        return condition[4:]
    return f"not ({condition})"
