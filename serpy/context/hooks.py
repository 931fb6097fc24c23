"""Calling several who do not know of each other, such that a bug in one takes nothing from the others.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def call_all(calls: Sequence[Callable[..., None]], *args: object) -> None:
    """Call each in turn. What one raises is raised in the end, when all have been called."""
    at = 0
    try:
        while at < len(calls):
            call = calls[at]
            at += 1
            call(*args)
    finally:
        if at < len(calls):
            call_all(calls[at:], *args)
