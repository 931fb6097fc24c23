"""How a script names a header value: ``Name``, ``Name[i]``, ``Name[*]``, ``Name[i].param``.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import UsageError
from serpy.sip.parser import canonical_name

NO_INDEX: Final = 0
ALL_VALUES: Final = 1 << 30


class HeaderRef:
    """A parsed reference. *index*: NO_INDEX, ALL_VALUES, 1 = first …, -1 = last; *param* is lower case or ""."""

    def __init__(self, name: str, index: int, param: str) -> None:
        self.name: Final = name  # as the script wrote it: what a new header line starts with
        self.key: Final = canonical_name(name)  # as in Message.names
        self.index: Final = index
        self.param: Final = param


_cache: Final[dict[str, HeaderRef]] = {}


def header_ref(text: str) -> HeaderRef:
    """The reference written as *text*, cached: scripts hold few of them. Raises UsageError."""
    found = _cache.get(text)
    if found is None:
        found = _cache[text] = _parse(text)
    return found


def _parse(text: str) -> HeaderRef:
    index = NO_INDEX
    param = ""
    name, bracket, rest = text.strip(" \t").partition("[")
    if bracket:
        number, closed, tail = rest.partition("]")
        if not closed:
            raise UsageError(f"header reference without ]: {text!r}")
        index = _parse_index(number.strip(" \t"), text)
        if tail and not tail.startswith("."):
            raise UsageError(f"bad header reference: {text!r}")
        param = tail[1:]
    else:
        name, _, param = name.partition(".")
    name = name.strip(" \t:")
    if not name or not name.isascii() or any(char in name for char in ' \t\r\n:"<>'):
        raise UsageError(f"not a header name: {text!r}")
    return HeaderRef(name, index, _cut_params(param.lower()))


def _cut_params(param: str) -> str:
    """Accept the longer forms of the selects: ``.params.x``, ``.param.x``, ``.p.x``."""
    head, dot, tail = param.partition(".")
    return tail if dot and head in {"params", "param", "p"} else param


def _parse_index(number: str, text: str) -> int:
    if number == "*":
        return ALL_VALUES
    digits = number.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 6:
        raise UsageError(f"bad index in header reference: {text!r}")
    # Index 0 means the first value, as in selects.
    return int(number) or 1
