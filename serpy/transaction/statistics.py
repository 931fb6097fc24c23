"""The counters of the SIP side, each declared once: its name, what it counts, and where the number stands.

On the message path they are plain attributes; once a second the receiver copies them to the shared page. Those of the
pipeline itself stand in ``pipeline.py``.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from serpy.transaction.layer import TransactionLayer
    from serpy.transaction.stateless import StatelessReplies

T = TypeVar("T")


class Page(Protocol):
    """What is needed of ``shm.counters.Counters``."""

    def declare(self, name: str, help_text: str) -> int:
        """The id of counter *name*."""

    def own(self, counter: int) -> int:
        """The cell of this process."""

    def set(self, counter: int, value: int) -> None:
        """Write that cell."""


class Statistic(Generic[T]):
    """One number that an object of class T keeps. A gauge says how much there is now, others only grow."""

    def __init__(self, name: str, text: str, read: Callable[[T], int], *, is_gauge: bool = False) -> None:
        self.name: Final = name
        self.text: Final = text
        self.read: Final = read
        self.is_gauge: Final = is_gauge


class Published(Generic[T]):
    """The statistics of *owner* on the shared page; they go on from what a predecessor in this slot had counted."""

    def __init__(self, page: Page, table: Sequence[Statistic[T]], owner: T) -> None:
        self._page: Final = page
        self._owner: Final = owner
        self._cells: Final[list[tuple[Statistic[T], int, int]]] = []
        for each in table:
            counter = page.declare(each.name, each.text)
            self._cells.append((each, counter, 0 if each.is_gauge else page.own(counter)))

    def publish(self) -> None:
        """Copy what they are now."""
        for each, counter, base in self._cells:
            self._page.set(counter, base + each.read(self._owner))


def declare(page: Page, table: Sequence[Statistic[T]]) -> None:
    """Make the counters of *table* known before the first fork."""
    for each in table:
        page.declare(each.name, each.text)


TM: Final[tuple[Statistic[TransactionLayer], ...]] = (
    Statistic("tm.created", "transactions created", lambda layer: layer.created),
    Statistic("tm.current", "transactions in memory", lambda layer: len(layer.servers), is_gauge=True),
    Statistic("tm.working", "requests worked on", lambda layer: layer.live, is_gauge=True),
    Statistic("tm.kept_bytes", "bytes of messages in them", lambda layer: layer.kept, is_gauge=True),
    Statistic("tm.turned_away", "requests refused because too many are worked on", lambda layer: layer.turned_away),
    Statistic("tm.local_replies", "replies made here", lambda layer: layer.local_replies),
    Statistic("tm.relayed_replies", "replies passed on", lambda layer: layer.relayed_replies),
    Statistic("tm.retransmissions", "requests sent again", lambda layer: layer.retransmissions),
    Statistic("tm.absorbed", "requests received again", lambda layer: layer.absorbed),
    Statistic("tm.timeouts", "branches that never answered", lambda layer: layer.timeouts),
    Statistic("tm.final_2xx", "transactions answered 2xx", lambda layer: layer.finals[2]),
    Statistic("tm.final_3xx", "transactions answered 3xx", lambda layer: layer.finals[3]),
    Statistic("tm.final_4xx", "transactions answered 4xx", lambda layer: layer.finals[4]),
    Statistic("tm.final_5xx", "transactions answered 5xx", lambda layer: layer.finals[5]),
    Statistic("tm.final_6xx", "transactions answered 6xx", lambda layer: layer.finals[6]),
)
SL: Final[tuple[Statistic[StatelessReplies], ...]] = (
    Statistic("sl.sent", "stateless replies sent", lambda replies: replies.sent),
    Statistic("sl.failed", "stateless replies that could not be sent", lambda replies: replies.failed),
    Statistic("sl.withheld", "stateless replies too large for their request", lambda replies: replies.withheld),
    Statistic("sl.acks", "ACKs to stateless replies swallowed", lambda replies: replies.acks),
    Statistic("sl.1xx", "stateless provisional replies", lambda replies: replies.by_class[1]),
    Statistic("sl.2xx", "stateless 2xx replies", lambda replies: replies.by_class[2]),
    Statistic("sl.3xx", "stateless 3xx replies", lambda replies: replies.by_class[3]),
    Statistic("sl.4xx", "stateless 4xx replies", lambda replies: replies.by_class[4]),
    Statistic("sl.5xx", "stateless 5xx replies", lambda replies: replies.by_class[5]),
    Statistic("sl.6xx", "stateless 6xx replies", lambda replies: replies.by_class[6]),
)
