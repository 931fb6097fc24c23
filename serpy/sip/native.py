"""The head of a message, and an address, read in C (``_head.c``), where that is compiled and not switched off with SERPY_PURE_HEAD=1.

What it is not certain of it leaves to ``parser.py``, which reads the same without it. Header names are those of ``lines.py``.

Runs in: every process. Locks: none. RFC: 3261 §7, §25.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.sip.lines import BITS, CANONICAL

# Start line, names, lines, body; method ("": a response), URI or reason, status (0: a request); seen, twice; Call-ID ("": to
# be looked at), CSeq number (-1: to be looked at) and method, Max-Forwards (-1: absent, or to be looked at), Content-Length
# (-1: absent), where the body ends; of the first line, a Via, transport ("": to be looked at), host, port, branch, rport.
Head = tuple[
    str, list[str], list[str], bytes, str, str, int, int, int, str, int, str, int, int, int, str, str, int, str, int
]  # fmt: skip


Address = tuple[str, str, str]  # display name and tag ("": none), and an ordinary URI between them


def _reader() -> Callable[[bytes], Head | None] | None:
    try:
        from serpy.sip import _head  # noqa: PLC0415 - maybe not compiled
    except ImportError:  # it is also raised for SERPY_PURE_HEAD=1
        return None
    for spelled in sorted({known.lower() for known in CANONICAL}):
        name = CANONICAL[spelled]
        _head.learn(spelled, name, BITS.get(name, 0))
    return _head.read


def _address_reader() -> Callable[[str], Address | None] | None:
    if READ is None:
        return None
    from serpy.sip import _head  # noqa: PLC0415 - it is there

    return _head.address


READ: Final = _reader()
ADDRESS: Final = _address_reader()
