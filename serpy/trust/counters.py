"""The counters of the budgets, copied to the shared page once a second.

A name with ``{label=value}`` is one of a family, which ``/metrics`` shows as such.

Runs in: master (declare), udp receiver. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.trust.limits import NAMES
from serpy.trust.standing import DROPS

if TYPE_CHECKING:
    from serpy.shm.counters import Counters
    from serpy.trust.budgets import Budgets

_EVENTS: Final = "events of peers that have proved nothing, by reason"
_DROPS: Final = "messages dropped before they were parsed, by why"
_OTHERS: Final = (
    ("trust.bans_total", "sources banned"),
    ("trust.refused_calls_total", "requests of strangers to our users that were refused"),
    ("trust.rows_left_out_total", "accounting rows of strangers that were not written"),
    ("trust.lines_left_out_total", "lines of script logs about strangers that were not written"),
)


def counter_names() -> list[tuple[str, str]]:
    """(name, help) in the order of ``values``."""
    found = [(f"trust.events_total{{reason={name}}}", _EVENTS) for name in NAMES if name]
    found += [(f"trust.dropped_total{{why={name}}}", _DROPS) for name in DROPS]
    return [*found, *_OTHERS]


def values(budgets: Budgets) -> list[int]:
    """What this process has counted."""
    events = [count for name, count in zip(NAMES, budgets.events, strict=True) if name]
    return [
        *events,
        *budgets.dropped,
        budgets.bans,
        budgets.refused_calls,
        budgets.rows_left_out,
        budgets.lines_left_out,
    ]


def declare_counters(counters: Counters) -> None:
    """In the master, before the fork."""
    for name, text in counter_names():
        counters.declare(name, text)


class PublishedBudgets:
    """The counts of one process; they go on from what a predecessor in its slot had counted."""

    def __init__(self, counters: Counters, budgets: Budgets) -> None:
        self._counters: Final = counters
        self._budgets: Final = budgets
        self._ids: Final = [counters.declare(name, text) for name, text in counter_names()]
        self._base: Final = [counters.own(number) for number in self._ids]

    def publish(self) -> None:
        """Copy what they are now."""
        for number, base, value in zip(self._ids, self._base, values(self._budgets), strict=True):
            self._counters.set(number, base + value)
