"""RE2, when it is installed (``pip install serpy[re2]``): every expression in linear time, leftmost and longest.

The only place that knows the package ``google-re2``, which has no types. Text is given as UTF-8 in which bytes that are no
text stand as lone surrogates, so that they are characters like others.

Runs in: the master while loading, the udp receiver. Locks: none.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from serpy.script.posix import BadExpressionError

MAX_MEMORY: Final = 8 << 20  # bytes of one expression
_INSTALL_HINT: Final = "write it shorter, with smaller counts"

Span = tuple[int, int]


def _load() -> Any:  # Any: the package has no types
    try:
        return importlib.import_module("re2")
    except ImportError:
        return None


_re2: Any = _load()


def is_installed() -> bool:
    """True when expressions can be run by RE2."""
    return _re2 is not None


class Machine:
    """One expression."""

    def __init__(self, text: str) -> None:
        options = _re2.Options()
        options.longest_match = True
        options.log_errors = False
        options.max_mem = MAX_MEMORY
        try:
            compiled = _re2.compile(encoded(text), options)
        except _re2.error as exc:
            reason = exc.args[0]
            said = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            raise BadExpressionError(f"RE2 does not take it: {said}", 0, _INSTALL_HINT) from None
        _re2.purge()  # the package keeps the last 128; how many we keep is our affair
        self._search: Final[Any] = compiled.search
        self._groups: Final = int(compiled.groups)

    def holds(self, text: str) -> bool:
        """True when the expression matches somewhere in *text*."""
        return self._search(encoded(text)) is not None

    def spans(self, data: bytes, at: int) -> list[Span] | None:
        """Begin and end of the first match in *data* from *at* on and of its groups, (-1, -1) for those not in it."""
        found = self._search(data, at)
        return None if found is None else [found.span(number) for number in range(self._groups + 1)]


def encoded(text: str) -> bytes:
    """*text* as RE2 sees it."""
    return text.encode("utf-8", "surrogatepass")


def decoded(data: bytes) -> str:
    """The inverse of ``encoded``."""
    return data.decode("utf-8", "surrogatepass")
