"""The bulkheads of one process: who waits for what, how many may, what is known to be in vain.

A *room* holds the handlers that wait for one kind of thing; it is full long before ``max_parked``, so a name server
that is silent takes no place from those who wait for the store. Whoever may park holds a place in a room meanwhile. A
*crowd* are those who wait for the same thing, a *fuse* remembers one part that failed, *Failures* many.

    refused at once: the room is full (ResourceError), or the thing has failed a moment ago (the user's BackendError)

Runs in: every child; nothing is shared but the counters, copied out once a second. Locks: none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from serpy.errors import ResourceError
from serpy.sip.flow import Flow

if TYPE_CHECKING:
    from serpy.net.loop import Loop, Ticket
    from serpy.shm.counters import Counters

K = TypeVar("K", bound=Hashable)

# Rooms and their shares: places of 1,000. What is left is for those who have no room (an RPC that sleeps).
DNS: Final = "dns"
DATABASE: Final = "database"
MEDIA: Final = "media"
PROGRAM: Final = "program"
STORE: Final = "store"
SHARES: Final = {DNS: 200, DATABASE: 200, MEDIA: 200, PROGRAM: 64, STORE: 300}
_WHOLE: Final = 1000

_MEANINGS: Final = (
    ("", "handlers that wait for the {0} now"),
    ("_most", "most that waited for the {0} at once, of each process"),
    ("_refused", "handlers that could not wait for the {0}: too many did"),
    ("_timeouts", "waits for the {0} that ended by their deadline"),
    ("_shared", "questions to the {0} not asked because another handler had asked them"),
)
COUNTERS: Final = tuple((f"waiting.{name}{end}", text.format(name)) for name in SHARES for end, text in _MEANINGS)
_GAUGES: Final = 2  # the first so many of each room do not go on from what a predecessor has counted


class Shares:
    """Of those who wait in a room, so many may be strangers, and so many of those from one address. *is_known* tells who is none.

    A handler is what ``Loop.current`` names when it begins to wait and when it ends; timers are nobody's.
    """

    def __init__(self, is_known: Callable[[Flow], bool], most: int, most_of_one: int) -> None:
        self._is_known: Final = is_known
        self._most: Final = most
        self._most_of_one: Final = most_of_one
        self.waiting = 0  # strangers
        self.refused = 0
        self._by_host: Final[dict[str, int]] = {}
        self._places: Final[dict[int, int]] = {}  # handler -> the places that it holds

    def enter(self, current: object) -> None:
        """Count a place of the handler of *current*. Raises ResourceError: its share is taken."""
        handler = id(current)  # of this object: compiled code makes a new tuple of one whose length it has seen
        if not isinstance(current, tuple) or len(current) != 2 or not isinstance(current[1], Flow):
            return
        flow: Flow = current[1]
        if self._is_known(flow):
            return
        here = self._by_host.get(flow.host, 0)
        if self.waiting >= self._most or here >= self._most_of_one:
            self.refused += 1
            raise ResourceError(f"{here} handlers of {flow.host} wait already, {self.waiting} of all strangers")
        self.waiting += 1
        self._by_host[flow.host] = here + 1
        self._places[handler] = self._places.get(handler, 0) + 1

    def leave(self, current: object) -> None:
        """Its place is free again."""
        handler = id(current)
        places = self._places.get(handler, 0)
        if not places or not isinstance(current, tuple):
            return
        if places > 1:
            self._places[handler] = places - 1
        else:
            del self._places[handler]
        self.waiting -= 1
        host = current[1].host
        left = self._by_host[host] - 1
        if left:
            self._by_host[host] = left
        else:
            del self._by_host[host]


class Room:
    """The handlers that wait for one kind of thing, at most ``limit`` at once. ``with room:`` holds a place."""

    def __init__(self, loop: Loop, name: str, limit: int) -> None:
        self.name: Final = name
        self.limit = limit
        self.waiting = 0
        self.most = 0
        self.refused = 0
        self.timeouts = 0
        self.shared = 0
        self.shares: Shares | None = None
        self._loop: Final = loop

    def enter(self, leaving: int = 0) -> None:
        """Take a place; ``leave()`` must follow. So many others are *leaving*. Raises ResourceError: there is none."""
        if self.waiting - leaving >= self.limit:
            self.refused += 1
            raise ResourceError(f"{self.waiting} handlers wait for the {self.name} already")
        shares = self.shares
        if shares is not None:
            try:
                shares.enter(self._loop.current)
            except ResourceError:
                self.refused += 1
                raise
        self.waiting += 1
        self.most = max(self.most, self.waiting)

    def leave(self) -> None:
        """Give the place back."""
        self.waiting -= 1
        if self.shares is not None:
            self.shares.leave(self._loop.current)

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_details: object) -> None:
        self.leave()

    def wait(self, ticket: Ticket, deadline: float) -> object:
        """Park with a place of this room until *ticket* is answered; None when *deadline* passed first.

        Raises ResourceError, and then nobody waits for the ticket any more.
        """
        try:
            self.enter()
        except ResourceError:
            self._loop.drop(ticket)
            raise
        try:
            return self.park(ticket, deadline)
        finally:
            self.leave()

    def park(self, ticket: Ticket, deadline: float) -> object:
        """The same for who has a place already."""
        try:
            value = self._loop.wait(ticket, deadline)
        except ResourceError:
            self.refused += 1
            raise
        if not ticket.done:
            self.timeouts += 1
        return value


class Crowd:
    """Handlers that wait for the same thing, each with a place in *room*. None of them outlives its deadline."""

    def __init__(self, loop: Loop, room: Room) -> None:
        self._loop: Final = loop
        self._room: Final = room
        self._tickets: Final[deque[Ticket]] = deque()

    def __len__(self) -> int:
        return len(self._tickets)

    def wait(self, deadline: float) -> object:
        """Park until ``wake()`` or ``answer()``; None when *deadline* passed first. Raises ResourceError."""
        ticket = self._loop.new_ticket()
        self._tickets.append(ticket)
        try:
            return self._room.park(ticket, deadline)
        finally:
            if not ticket.done and ticket in self._tickets:
                self._tickets.remove(ticket)

    def wake(self, value: object) -> bool:
        """Give *value* to the one that waits longest; False when nobody does."""
        while self._tickets:
            if self._loop.resume(self._tickets.popleft().id, value):
                return True
        return False

    def answer(self, value: object) -> int:
        """Give *value* to all; how many got it."""
        count = 0
        while self.wake(value):
            count += 1
        return count


class Fuse:
    """Remembers that one part has failed.

        good ──blow()──> blown: ``allows()`` is False ──(a pause)──> True once: who asked tries, for ``trial_s`` alone
        its mend() ──> good; its blow() ──> blown, the pause doubled up to ``most_s``

    A trial that ends in neither costs its time and nothing else.
    """

    def __init__(self, first_s: float, most_s: float, trial_s: float) -> None:
        self.reason = ""  # "" = good
        self._first_s: Final = first_s
        self._most_s: Final = most_s
        self._trial_s: Final = trial_s
        self._pause_s = first_s
        self._until = 0.0

    def allows(self, now: float) -> bool:
        """True when it may be tried at *now*."""
        if not self.reason:
            return True
        if now < self._until:
            return False
        self._until = now + self._trial_s
        return True

    def blow(self, now: float, reason: str) -> bool:
        """It has failed at *now*; True when that is news."""
        news = not self.reason
        self._pause_s = self._first_s if news else min(self._pause_s * 2.0, self._most_s)
        self._until = now + self._pause_s
        self.reason = reason or "failed"
        return news

    def mend(self) -> bool:
        """It works; True when that is news."""
        news = bool(self.reason)
        self.reason = ""
        return news


class Failures(Generic[K]):
    """What has failed within the last *seconds*, by key: at most *most*, the oldest are forgotten first."""

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds: Final = seconds
        self._most: Final = most
        self._known: Final[dict[K, tuple[float, str]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def reason(self, key: K, now: float) -> str:
        """Why *key* need not be tried at *now*; "" when it may be."""
        found = self._known.get(key)
        if found is None:
            return ""
        if now < found[0]:
            return found[1]
        del self._known[key]
        return ""

    def note(self, key: K, now: float, reason: str) -> None:
        """*key* has failed at *now*."""
        self._known.pop(key, None)
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[key] = (now + self._seconds, reason)


class Waiters:
    """The rooms of one process."""

    def __init__(self, loop: Loop, max_parked: int) -> None:
        places = {name: max(1, max_parked * share // _WHOLE) for name, share in SHARES.items()}
        self.dns: Final = Room(loop, DNS, places[DNS])
        self.database: Final = Room(loop, DATABASE, places[DATABASE])
        self.media: Final = Room(loop, MEDIA, places[MEDIA])
        self.program: Final = Room(loop, PROGRAM, places[PROGRAM])
        self.store: Final = Room(loop, STORE, places[STORE])
        self.rooms: Final = (self.dns, self.database, self.media, self.program, self.store)
        self._ids: list[int] = []
        self._base: list[int] = []  # what a predecessor in this slot had counted

    def set_limits(self, **limits: int) -> None:
        """Places by the name of the room; 0 leaves its share."""
        for room in self.rooms:
            room.limit = limits.get(room.name, 0) or room.limit

    def share(self, is_known: Callable[[Flow], bool], max_parked: int) -> None:
        """From now on strangers have half of each room, one address of theirs a twentieth of *max_parked*, a quarter at most.

        Each room by itself: who waits for name servers in vain takes no place at the store from phones behind the same NAT.
        """
        for room in self.rooms:
            room.shares = Shares(is_known, max(1, room.limit // 2), max(1, min(max_parked // 20, room.limit // 4)))

    def publish(self, counters: Counters) -> None:
        """Copy the counters to the shared page: at the start of a process, and once a second by its heartbeat."""
        if not self._ids:
            for at, (name, text) in enumerate(COUNTERS):
                self._ids.append(counters.declare(name, text))
                self._base.append(0 if at % len(_MEANINGS) < _GAUGES else counters.own(self._ids[at]))
        at = 0
        for room in self.rooms:
            for value in (room.waiting, room.most, room.refused, room.timeouts, room.shared):
                counters.set(self._ids[at], self._base[at] + value)
                at += 1
