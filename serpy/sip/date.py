"""Date, as SIP writes it.

Runs in: every process. Locks: none. RFC: 3261 §20.17 (rfc1123-date, always GMT).
"""

from __future__ import annotations

from email.utils import formatdate

_last: tuple[int, str] = (-1, "")


def date_line(wall: float) -> str:
    """The header line for the Unix time *wall*; made once for all messages of a second."""
    global _last
    second, line = _last
    if second != int(wall):
        line = f"Date: {formatdate(int(wall), usegmt=True)}"
        _last = (int(wall), line)
    return line
