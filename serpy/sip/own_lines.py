"""Header lines that we have made ourselves, with their line ends, on their way through attributes of the script.

Any other text loses its line ends where it becomes part of a header: it may come from a peer.

Runs in: every process. Locks: none. RFC: 3261 §7.3.
"""

from __future__ import annotations


class OwnLines(str):
    """Whole header lines. What is cut from it or added to it is text like any other."""

    __slots__ = ()
