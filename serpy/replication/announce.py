"""What a server tells all others by itself: what it has, and that it has just started.

Each multicasts the sums of its buckets every ``digest_interval``. A server that has just started says HELLO; the first to
answer sends its digest at once, after a random wait, and the others keep still.

Runs in: timer. Locks: none of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.replication import messages
from serpy.replication.digest import BUCKETS, Sums
from serpy.replication.scan import Scanner, start

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.replication.answers import Answers
    from serpy.replication.counters import Tally
    from serpy.replication.peers import Peer, Peers
    from serpy.replication.store import Store

HELLO_BACKOFF_S: Final = 0.3
HELLO_AGAIN_S: Final = 1.5
HELLOS: Final = 5
NOT_LOADED_S: Final = 1.0  # until we look again
MOST_INDEXED: Final = 200_000  # bindings; an index of more is made in parts

Multicast = Callable[[int, bytes], bool]


class Announcer:
    """Digests and greetings. *sequence* tells how many REGISTERs we have multicast."""

    def __init__(
        self, loop: Loop, scanner: Scanner, store: Store, answers: Answers, peers: Peers, tally: Tally, interval_s: float,
        multicast: Multicast, sequence: Callable[[], int],
    ) -> None:  # fmt: skip
        self._loop: Final = loop
        self._scanner: Final = scanner
        self._store: Final = store
        self._answers: Final = answers
        self._peers: Final = peers
        self._tally: Final = tally
        self._interval_s: Final = interval_s
        self._multicast: Final = multicast
        self._sequence: Final = sequence
        self._sent_at = 0.0
        self._hellos = HELLOS

    def start(self) -> None:
        """Say hello and send digests from now on."""
        self._loop.call_at(self._loop.now(), self._hello)
        self._loop.call_at(self._loop.now() + self._interval_s * random.random(), self._digest)

    def _hello(self) -> None:
        """Until somebody's digest has come; a server alone says it a few times only."""
        if self._hellos <= 0 or self._peers.any_digest():
            return
        self._loop.call_at(self._loop.now() + HELLO_AGAIN_S, self._hello)
        self._hellos -= 1
        if self._store.is_loaded():
            self._multicast(messages.HELLO, b"")

    def _digest(self) -> None:
        start(self._loop, self._look_and_send)

    def _look_and_send(self) -> None:
        """Read the table and multicast its sums, then again after the interval."""
        pause = NOT_LOADED_S
        try:
            if self._store.is_loaded():
                pause = self._interval_s * (0.75 + random.random() / 2)  # not all at the same time
                self._send(self._scanner.scan(set(), soon=False).sums)
        finally:  # whatever became of this one
            self._loop.call_at(self._loop.now() + pause, self._digest)

    def _send(self, sums: Sums) -> None:
        self._sent_at = self._loop.now()
        for payload in sums.datagrams(self._sequence()):
            self._multicast(messages.DIGEST, payload)
            self._tally.add("digests_sent")

    def greeted(self, greeter: Peer) -> None:
        """Somebody has started: our digest at once, unless another is quicker."""
        if self._store.is_loaded():
            start(self._loop, lambda: self._answer_hello(greeter))

    def _answer_hello(self, greeter: Peer) -> None:
        asked_at = self._loop.now()
        self._loop.sleep(HELLO_BACKOFF_S * random.random())
        if self._is_answered(greeter, asked_at):
            return
        sums = self._scanner.sums
        is_small = sums is not None and sums.bindings < MOST_INDEXED
        found = self._scanner.scan(set(range(BUCKETS)) if is_small else set(), soon=True)
        if not self._is_answered(greeter, asked_at):
            self._answers.index = found.index  # it will ask
            self._send(found.sums)

    def _is_answered(self, greeter: Peer, asked_at: float) -> bool:
        return max(self._sent_at, self._peers.last_digest(greeter)) > asked_at
