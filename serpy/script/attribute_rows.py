"""Rows of the attribute tables as attributes: the type column, NULL values, and which rows count at all.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serpy.context.avps import Avp

LOAD_SER: Final = 1
DISABLED: Final = 2
TYPE_STRING: Final = 2
_DIGITS: Final = frozenset("0123456789")


def is_usable(flags: object) -> bool:
    """True when a row with this flags word is for the SIP server and switched on."""
    return isinstance(flags, int) and flags & (LOAD_SER | DISABLED) == LOAD_SER


def attribute_value(kind: object, value: object) -> int | str:
    """The value of one row: *kind* 2 is a string ("" for NULL), else an unsigned decimal (0 for NULL or garbage)."""
    if kind == TYPE_STRING:
        return "" if value is None else str(value)
    text = "" if value is None else str(value)
    return int(text) if text and len(text) <= 20 and _DIGITS.issuperset(text) else 0


def attributes_of(rows: Sequence[Sequence[object]]) -> dict[str, list[Avp]]:
    """The usable ones of *rows* (name, type, value, flags) by name, the last row newest as if pushed one by one."""
    found: dict[str, list[Avp]] = {}
    for name, kind, value, flags in rows:
        if is_usable(flags) and isinstance(name, str):
            found.setdefault(name, []).insert(0, Avp(attribute_value(kind, value)))
    return found
