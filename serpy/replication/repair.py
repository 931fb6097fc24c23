"""Repair: how a server that was down, or lost datagrams, comes to the same table as the others by itself.

Who finds a difference in somebody's digest (announce.py) asks the sender, alone, with the hashes of its own entries of those
buckets (session.py, answers.py); both then have what either had. One conversation at a time is started by a server, so
traffic grows with the number of servers, not its square. Each is one handler that parks, and ends: when nothing is left,
when nothing gets better, and when it may not wait.

    new server                    others
    HELLO (multicast)      ->
                           <-     DIGEST (multicast, one of them)
    ASK, nothing here      ->     (unicast)
                           <-     TELL, BINDINGS …

Runs in: timer. Locks: none of its own.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.replication import messages
from serpy.replication.announce import Announcer, Multicast
from serpy.replication.answers import INDEX_AGE_S, RECENT_MS, Answers, Outbox, SendFrame
from serpy.replication.diff import Diff, Row
from serpy.replication.digest import bucket_of, entry_hash
from serpy.replication.merge import milliseconds
from serpy.replication.peers import Peer, Peers
from serpy.replication.scan import Entry, Index, Scanner, start
from serpy.replication.store import BURIED, OLDER, STORED, LocationTables, Store

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.replication.counters import Tally
    from serpy.replication.session import Session
    from serpy.replication.window import Life
    from serpy.shm.record import Binding

log = logging.getLogger(__name__)

STEP_S: Final = 0.05  # between two looks at a session
BACKOFF_S: Final = 0.4  # who starts first is chosen by chance

Address = tuple[str, int]


class Repair:
    """The repair of one server: what it asks, and what it takes in."""

    def __init__(
        self, loop: Loop, location: LocationTables, store: Store, tally: Tally, interval_s: float, multicast: Multicast,
        send: SendFrame, sequence: Callable[[], int],
    ) -> None:  # fmt: skip
        self._loop: Final = loop
        self._store: Final = store
        self._tally: Final = tally
        self._interval_s: Final = interval_s
        self._scanner: Final = Scanner(location.table, loop)
        self._peers: Final = Peers(interval_s)
        outbox = Outbox(send, lambda delay, call: loop.call_at(loop.now() + delay, call))
        self._answers: Final = Answers(loop, self._scanner, store, tally, outbox)
        self._announcer: Final = Announcer(
            loop, self._scanner, store, self._answers, self._peers, tally, interval_s, multicast, sequence
        )
        self._diff: Final = Diff(loop, self._scanner, self._peers, self._ask)
        self._is_repairing = False
        self._session: Session | None = None

    def start(self) -> None:
        """Say hello, send digests and repair from now on."""
        self._announcer.start()

    def peer_status(self, life: Life) -> dict[str, object]:
        """What ``replication.status`` shows of a peer's digests."""
        return self._peers.status(life, self._loop.now())

    def diff(self, server_id: int) -> list[Row]:
        """What differs from the peers' tables (*server_id* -1: each one's). Parks. Raises ResourceError."""
        return self._diff.diff(server_id)

    def take(self, kind: int, payload: bytes, life: Life, address: Address) -> None:
        """One verified frame. May park. Raises ValueError when it is not understood."""
        peer = self._peers.heard(life, address, self._loop.wall_now())
        if kind == messages.DIGEST:
            peer.take_digest(payload, self._scanner.sums, self._loop.now())
            self._consider(peer)
        elif kind == messages.HELLO:
            self._announcer.greeted(peer)
        elif kind == messages.ASK:
            self._answers.take(payload, address)
        elif kind == messages.TELL:
            self._told(payload, address)
        elif kind == messages.BINDINGS:
            self._merge(messages.parse_bindings(payload, self._loop.wall_now()), address)
        elif kind == messages.REMOVED:
            removed = messages.parse_removed(payload)
            for index in self._indexes():
                self._remove(index, removed)
        elif kind == messages.SHOWN:
            self._diff.shown(messages.parse_bindings(payload, self._loop.wall_now()), address)
        else:
            raise ValueError(f"frame {kind}")

    # -- asking --------------------------------------------------------------------------------------------------------

    def _consider(self, peer: Peer) -> None:
        """Begin to repair with *peer* when its digest differs and it is our turn."""
        now = self._loop.now()
        if self._is_repairing or not peer.differing or not self._store.is_loaded():
            return
        if peer.is_catching_up(self._scanner.sums, now, self._interval_s) or peer.is_clean(now):
            return
        if not self._peers.are_behind(self._loop.wall_now()):
            self._is_repairing = True
            start(self._loop, lambda: self._repair(peer))

    def _repair(self, peer: Peer) -> None:
        try:
            self._loop.sleep(BACKOFF_S * random.random())
            if peer.differing:
                self._look_and_talk(peer)
        finally:
            self._session = None
            self._is_repairing = False

    def _look_and_talk(self, peer: Peer) -> None:
        """Look again at the buckets that differ from *peer*'s, then ask about those that still do."""
        begun, missing = self._loop.now(), peer.missing()
        buckets = set(peer.differing)
        scan = self._scanner.scan(buckets, soon=True)
        peer.differing = set(scan.sums.differing(peer.sums))
        still = sorted(peer.differing & buckets)
        if still:
            session = self._session = peer.session(scan, still, self._loop.now())
            self._talk(session)
            log.debug("repair with %s: %d ranges left, %d changes", session.address, session.left, session.changes)
            if session.left or session.changes:
                return
        peer.note_clean(begun, missing)

    def _talk(self, session: Session) -> None:
        """Ask until it is over; the answers come by ``_told`` and ``_merge``."""
        while not session.is_over(self._loop.now()):
            if self._loop.now() - session.index.made_at >= INDEX_AGE_S:
                session.index = self._scanner.scan(session.buckets, soon=True).index
            self._ask(session)
            self._loop.sleep(STEP_S)

    def _ask(self, session: Session) -> None:
        for payload in messages.build_ask(session.number, session.questions(self._loop.now())):
            self._answers.put(messages.ASK, payload, session.address)

    def _told(self, payload: bytes, address: Address) -> None:
        number, answers = messages.parse_tell(payload)
        session = self._session
        if session is None or session.number != number:
            session = self._diff.sessions.get(number)
        if session is None or session.address != address:
            return
        for told in answers:
            ripe = self._ripe(session, told)
            done = not told.missing and not told.removed and not ripe
            if session.told(told, self._loop.now(), done=done) and not session.dry:
                session.changes += len(ripe) + len(told.removed)
                self._answers.offer(ripe, address, messages.BINDINGS)
                self._remove(session.index, told.removed)
        if not session.is_over(self._loop.now()):
            self._ask(session)

    def _ripe(self, session: Session, told: messages.Told) -> list[tuple[int, Entry]]:
        """What the other misses, but for what is on its way to it by multicast."""
        now_ms = milliseconds(self._loop.wall_now())
        known = session.index.entries.get(told.bucket, {})
        found = [(entry, known[entry]) for entry in told.wanted if entry in known]
        return [(entry, each) for entry, each in found if abs(now_ms - each.modified_ms) > RECENT_MS]

    # -- taking in -----------------------------------------------------------------------------------------------------

    def _merge(self, found: list[tuple[str, Binding]], address: Address) -> None:
        """Store what is newer than what we have; whoever sent what is not is told."""
        newer: list[bytes] = []
        buried: list[tuple[int, int]] = []
        wall_now = self._loop.wall_now()
        for table, binding in found:
            outcome, known = self._store.merge(table, binding)
            if outcome == STORED:
                self._note_stored(table, binding, known)
            elif outcome == OLDER and known is not None:
                newer.append(messages.build_binding(table, known, wall_now))
            elif outcome == BURIED:
                when = self._store.removed_at(table, binding.uid, binding.contact)
                buried.append((entry_hash(table, binding), when))
        for payload in messages.batches(record for record in newer if record):
            self._answers.put(messages.BINDINGS, payload, address)
        if buried:
            self._answers.put(messages.REMOVED, messages.build_removed(buried), address)

    def _note_stored(self, table: str, binding: Binding, known: Binding | None) -> None:
        self._tally.add("repaired")
        for index in self._indexes():
            if known is not None:
                index.remove(table, known)
            index.add(table, binding)
        session = self._session
        if session is not None:
            session.changes += 1
            session.stored(bucket_of(table, binding.uid), entry_hash(table, binding), self._loop.now())

    def _remove(self, index: Index, removed: list[tuple[int, int]]) -> None:
        for entry, when_ms in removed:
            known = index.find(entry)
            if known is None:
                continue
            gone = self._store.remove(known.table, known.uid, known.contact, entry, when_ms)
            if gone is not None:
                self._tally.add("repaired")
                for each in self._indexes():
                    each.remove(known.table, gone)

    def _indexes(self) -> list[Index]:
        """The indexes in use, to be kept up to date."""
        session = self._session
        return [self._answers.index] if session is None else [self._answers.index, session.index]
