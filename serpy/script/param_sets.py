"""Parameters that several modules have, declared once.

Runs in: the master while loading. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serpy.script.exports import Param


def _between(least: int, most: int) -> Callable[[Any], str]:  # Any: what the script gives, int or str
    def check(value: Any) -> str:
        return "" if isinstance(value, int) and least <= value <= most else f"{least} to {most}"

    return check


def _at_least(least: int) -> Callable[[Any], str]:  # Any: as above
    return lambda value: "" if isinstance(value, int) and value >= least else f"must be at least {least}"


def cache_params(what: str, absent: str, *, read_ahead: bool = False) -> tuple[Param, ...]:
    """``cache_ttl`` and ``cache_negative_ttl`` of a TtlCache, and with *read_ahead* ``cache_all_rows`` of its Sweep.

    *what* is kept ("a URI is"), *absent* is what the shorter time is for ("for unknown URIs").
    """
    params = [
        Param("cache_ttl", "int", 60, f"seconds {what} kept before being read again", check=_at_least(1)),
        Param("cache_negative_ttl", "int", 5, f"the same {absent}", check=_at_least(1)),
    ]
    if read_ahead:
        text = "tables of up to so many rows are read ahead, whole; 0 never"
        params.append(Param("cache_all_rows", "int", 20_000, text, check=_between(0, 100_000)))
    return tuple(params)


def connection_params() -> tuple[Param, ...]:
    """``db_timeout`` and ``connections`` of the driver of a database server."""
    return (
        Param(
            "db_timeout", "int", 2000, "how long a statement or a connect may take, in milliseconds",
            attribute="timeout_ms", check=_at_least(10),
        ),
        Param(
            "connections", "int", 4, "connections of one process, so the number of its handlers that query at the same time",
            check=_between(1, 100),
        ),
    )  # fmt: skip
