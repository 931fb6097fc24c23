"""Digests and repair: how a server that was down, or lost datagrams, comes to the same table as the others by itself.

Each server multicasts the sums of its buckets every ``digest_interval``. Who finds a difference asks the sender, alone, with
the hashes of its own entries of those buckets (session.py); both then have what either had. One conversation at a time is
started by a server, so traffic grows with the number of servers, not its square. A server that has just started says
HELLO; the first to answer sends its digest at once, after a random wait, and the others keep still.

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
from serpy.replication.answers import RECENT_MS, Outbox, SendFrame, answer
from serpy.replication.digest import BUCKETS, Sums, bucket_of, entry_hash, parse_sums
from serpy.replication.envelope import STREAM_REGISTER
from serpy.replication.merge import milliseconds
from serpy.replication.scan import Entry, Index, Scanner
from serpy.replication.session import Session
from serpy.replication.store import BURIED, OLDER, STORED, LocationTables, Store

if TYPE_CHECKING:
    from serpy.net.loop import Loop
    from serpy.replication.counters import Tally
    from serpy.replication.window import Life
    from serpy.shm.record import Binding

log = logging.getLogger(__name__)

STEP_S: Final = 0.05  # between two looks at a session
BACKOFF_S: Final = 0.4  # who starts first is chosen by chance
BEHIND_S: Final = RECENT_MS / 2000.0
HELLO_BACKOFF_S: Final = 0.3
HELLO_AGAIN_S: Final = 1.5
HELLOS: Final = 5
INDEX_AGE_S: Final = 5.0  # how old an index may be from which is asked and answered
HOLD_S: Final = 15.0  # while registrations go on, tables always differ a little: not more often without a reason
PATIENCE: Final = 2.5  # digest intervals in which a server with fewer bindings than we is left alone
MOST_INDEXED: Final = 200_000  # bindings; an index of more is made in parts
LATELY_S: Final = 3.0
FORGET_S: Final = 120.0
DRY_S: Final = 3.0
MOST_SHOWN: Final = 500
SILENT: Final = 4.0  # digest intervals after which a server counts as gone

Multicast = Callable[[int, bytes], bool]


class Peer:
    """Another server as its digests show it."""

    def missing(self) -> int:
        """Its REGISTERs that have not come; those that were repaired since count, too."""
        window = self.life.windows.get(STREAM_REGISTER)
        return window.missing_of(self.sent) if window is not None else self.sent

    def __init__(self, life: Life, address: tuple[str, int]) -> None:
        self.life: Final = life
        self.address = address
        self.bindings = -1
        self.sums: dict[int, int] = {}
        self.digest_at = 0.0  # monotonic
        self.differing: set[int] = set()
        self.sent = 0  # REGISTERs, as its digest says
        self.clean_at = -HOLD_S  # when we last found nothing, or repaired all
        self.missing_then = 0
        self.fewer_since = 0.0  # monotonic; it has had fewer bindings than we since then


class Repair:
    """Everything about digests and repair in one server."""

    def __init__(
        self, loop: Loop, location: LocationTables, store: Store, tally: Tally, interval_s: float, multicast: Multicast,
        send: SendFrame, sequence: Callable[[], int],
    ) -> None:  # fmt: skip
        self._loop: Final = loop
        self._store: Final = store
        self._tally: Final = tally
        self._interval_s: Final = interval_s
        self._multicast: Final = multicast
        self._sequence: Final = sequence
        self.scanner: Final = Scanner(location.table, loop)
        self.outbox: Final = Outbox(send, lambda delay, call: loop.call_at(loop.now() + delay, call))
        self.peers: Final[dict[tuple[int, int], Peer]] = {}
        self.session: Session | None = None
        self.sessions = 0
        self._when_clean: Callable[[], None] = lambda: None
        self._dry: Session | None = None
        self._shown: list[tuple[str, Binding]] = []
        self._starting = False
        self._sums: Sums | None = None
        self._index = Index(set(), -INDEX_AGE_S)  # for answers
        self._asked: dict[tuple[tuple[str, int], int, int, int], messages.Range] = {}
        self._indexing = False
        self._digest_at = 0.0
        self._hellos = HELLOS

    def start(self) -> None:
        """Say hello and send digests from now on."""
        self._loop.call_at(self._loop.now(), self._hello)
        self._loop.call_at(self._loop.now() + self._interval_s * random.random(), self._digest)

    # -- digests -------------------------------------------------------------------------------------------------------

    def _hello(self) -> None:
        """Until somebody's digest has come; a server alone says it a few times only."""
        if self._hellos <= 0 or any(peer.bindings >= 0 for peer in self.peers.values()):
            return
        self._hellos -= 1
        if self._store.is_loaded():
            self._multicast(messages.HELLO, b"")
        self._loop.call_at(self._loop.now() + HELLO_AGAIN_S, self._hello)

    def _digest(self) -> None:
        """Read the table and multicast its sums, then again after the interval."""
        if self._store.is_loaded():
            self.scanner.scan(set(), self._publish, soon=False)
        else:
            self._loop.call_at(self._loop.now() + 1.0, self._digest)

    def _publish(self, sums: Sums, _index: Index) -> None:
        self._send_sums(sums)
        # not all at the same time
        self._loop.call_at(self._loop.now() + self._interval_s * (0.75 + random.random() / 2), self._digest)

    def _send_sums(self, sums: Sums) -> None:
        self._sums = sums
        self._digest_at = self._loop.now()
        for payload in sums.datagrams(self._sequence()):
            self._multicast(messages.DIGEST, payload)
            self._tally.add("digests_sent")

    def _greeted(self, greeter: Peer) -> None:
        """Somebody has started: our digest at once, unless another is quicker."""
        if not self._store.is_loaded():
            return
        asked_at = self._loop.now()

        def is_answered() -> bool:
            others = (peer.digest_at for peer in self.peers.values() if peer is not greeter)
            return max(self._digest_at, *others, 0.0) > asked_at

        def answer_hello(sums: Sums, index: Index) -> None:
            if not is_answered():
                index.made_at = self._loop.now()
                self._index = index  # it will ask
                self._send_sums(sums)

        def later() -> None:
            if not is_answered():
                small = self._sums is not None and self._sums.bindings < MOST_INDEXED
                self.scanner.scan(set(range(BUCKETS)) if small else set(), answer_hello, soon=True)

        self._loop.call_at(asked_at + HELLO_BACKOFF_S * random.random(), later)

    def _compare(self, peer: Peer, payload: bytes) -> None:
        peer.sent, peer.bindings, sums = parse_sums(payload)
        peer.sums.update(sums)
        peer.digest_at = self._loop.now()
        if self._sums is not None:
            peer.differing.difference_update(sums)
            peer.differing.update(self._sums.differing(sums))
        elif self._store.is_loaded():
            peer.differing.update(sums)  # we have not looked yet; the session will
        if self.session is not None or self._starting or not peer.differing or not self._store.is_loaded():
            return
        if self._is_catching_up(peer) or self._is_clean(peer):
            return
        lately = self._loop.wall_now() - LATELY_S
        delays = [each.life.delay for each in self.peers.values() if each.life.heard_at >= lately]
        if max(delays, default=0.0) < BEHIND_S:  # else: what we miss waits in our own queue
            self._starting = True
            wait = BACKOFF_S * random.random()
            self._loop.call_at(self._loop.now() + wait, lambda: self._begin(peer))

    def _is_catching_up(self, peer: Peer) -> bool:
        """True while *peer* has fewer bindings than we and may be asking for the rest: somebody, once, not all at once."""
        now = self._loop.now()
        if self._sums is None or peer.bindings >= self._sums.bindings:
            peer.fewer_since = 0.0
            return False
        if not peer.fewer_since:
            peer.fewer_since = now
        return now - peer.fewer_since < PATIENCE * self._interval_s

    def _is_clean(self, peer: Peer) -> bool:
        """True when we were equal a moment ago and have missed nothing since: what differs is on its way."""
        return self._loop.now() - peer.clean_at < HOLD_S and peer.missing() <= peer.missing_then

    def _note_clean(self, peer: Peer, at: float, missing: int) -> None:
        """A look at *at*, when *missing* had not come, has found nothing to repair."""
        peer.clean_at = at
        peer.missing_then = missing

    # -- asking --------------------------------------------------------------------------------------------------------

    def _begin(self, peer: Peer) -> None:
        """Look again at the buckets that differ from *peer*'s, then ask about those that still do."""
        buckets = set(peer.differing)
        if not buckets:
            self._starting = False
            return

        begun, missing = self._loop.now(), peer.missing()

        def ready(sums: Sums, index: Index) -> None:
            self._starting = False
            self._sums = sums
            peer.differing = set(sums.differing(peer.sums))
            still = sorted(peer.differing & buckets)
            if still:
                index.made_at = self._loop.now()
                self._when_clean = lambda: self._note_clean(peer, begun, missing)
                self.session = self._session(peer, still, index)
                self._step()
            else:
                self._note_clean(peer, begun, missing)

        self.scanner.scan(buckets, ready, soon=True)

    def _session(self, peer: Peer, buckets: list[int], index: Index, *, dry: bool = False) -> Session:
        self.sessions += 1
        number = random.getrandbits(31)
        most = max(peer.bindings, self._sums.bindings if self._sums is not None else 0)
        return Session(
            number, peer.life.server_id, peer.address, buckets, index, self._loop.now(), dry=dry,
            per_bucket=most // BUCKETS,
        )  # fmt: skip

    def _step(self) -> None:
        session = self.session
        if session is None:
            return
        now = self._loop.now()
        if session.is_over(now):
            log.debug(
                "repair with %s: %d ranges left after %.1f s", session.address, session.left, now - session.started
            )
            self.session = None
            if not session.left and not session.changes:
                self._when_clean()
            return
        if now - session.index.made_at < INDEX_AGE_S:
            self._ask(session)
            self._loop.call_at(now + STEP_S, self._step)
            return

        def ready(_sums: Sums, index: Index) -> None:
            index.made_at = self._loop.now()
            session.index = index
            self._step()

        self.scanner.scan(session.buckets, ready, soon=True)

    def _ask(self, session: Session) -> None:
        for payload in messages.build_ask(session.number, session.questions(self._loop.now())):
            self._put(messages.ASK, payload, session.address)

    def _told(self, payload: bytes, address: tuple[str, int]) -> None:
        number, answers = messages.parse_tell(payload)
        for session in (self.session, self._dry):
            if session is None or session.number != number or session.address != address:
                continue
            for told in answers:
                ripe = self._ripe(session, told)
                done = not told.missing and not told.removed and not ripe
                if session.told(told, self._loop.now(), done=done) and not session.dry:
                    session.changes += len(ripe) + len(told.removed)
                    self._offer(ripe, session.address, messages.BINDINGS)
                    self._remove(session.index, told.removed)
            if not session.is_over(self._loop.now()):
                self._ask(session)

    def _ripe(self, session: Session, told: messages.Told) -> list[tuple[int, Entry]]:
        """What the other misses, but for what is on its way to it by multicast."""
        now_ms = milliseconds(self._loop.wall_now())
        known = session.index.entries.get(told.bucket, {})
        found = [(entry, known[entry]) for entry in told.wanted if entry in known]
        return [(entry, each) for entry, each in found if abs(now_ms - each.modified_ms) > RECENT_MS]

    # -- answering -----------------------------------------------------------------------------------------------------

    def _take_ask(self, payload: bytes, address: tuple[str, int]) -> None:
        number, ranges = messages.parse_ask(payload)
        buckets = {each.bucket for each in ranges}
        if self._loop.now() - self._index.made_at < INDEX_AGE_S and buckets <= self._index.buckets:
            self._answer(number, ranges, address)
            return
        for each in ranges:  # asked again while we were looking: the newest counts
            self._asked[address, number, each.bucket, each.low] = each
        if not self._indexing:
            self._indexing = True
            # a little later: more questions come right behind
            self._loop.call_at(self._loop.now() + 0.01, self._reindex)

    def _reindex(self) -> None:
        wanted = {each.bucket for each in self._asked.values()}
        if self._loop.now() - self._index.made_at < 4 * INDEX_AGE_S:
            wanted |= self._index.buckets

        def ready(_sums: Sums, index: Index) -> None:
            self._indexing = False
            index.made_at = self._loop.now()
            self._index = index
            asked, self._asked = self._asked, {}
            askers: dict[tuple[tuple[str, int], int], list[messages.Range]] = {}
            for (address, number, bucket, _), each in asked.items():
                if bucket in index.buckets:
                    askers.setdefault((address, number), []).append(each)
            for (address, number), ranges in askers.items():
                self._answer(number, ranges, address)

        self.scanner.scan(wanted, ready, soon=True)

    def _answer(self, number: int, ranges: list[messages.Range], address: tuple[str, int]) -> None:
        wall_now = self._loop.wall_now()
        removed = self._store.removed_entries(wall_now)
        answers: list[messages.Told] = []
        offered: list[tuple[int, Entry]] = []
        for asked in ranges:
            told, entries = answer(asked, self._index, removed, milliseconds(wall_now), self.outbox.delay_ms())
            answers.append(told)
            ours = self._index.entries[asked.bucket] if entries else {}
            offered.extend((entry, ours[entry]) for entry in entries)
        for payload in messages.build_tell(number, answers):
            self._put(messages.TELL, payload, address)
        self._offer(offered, address, messages.SHOWN if number & messages.DRY else messages.BINDINGS)

    def _offer(self, entries: list[tuple[int, Entry]], address: tuple[str, int], kind: int) -> None:
        """Send the bindings behind *entries*, as they are now."""
        wall_now = self._loop.wall_now()
        records: list[bytes] = []
        for entry, known in entries:
            binding = self._store.find(known.table, known.uid, entry)
            if binding is not None:
                records.append(messages.build_binding(known.table, binding, wall_now))
        self._tally.add("offered", len(records))
        for payload in messages.batches(record for record in records if record):
            self._put(kind, payload, address)

    def _put(self, kind: int, payload: bytes, address: tuple[str, int]) -> None:
        self._tally.add("frames_sent")
        self.outbox.put(kind, payload, address)

    # -- taking in -----------------------------------------------------------------------------------------------------

    def take(self, kind: int, payload: bytes, life: Life, address: tuple[str, int]) -> None:
        """One verified frame. May park. Raises ValueError when it is not understood."""
        peer = self.peers.get((life.server_id, life.boot))
        if peer is None:
            self._forget()
            peer = self.peers[life.server_id, life.boot] = Peer(life, address)
        peer.address = address
        if kind == messages.DIGEST:
            self._compare(peer, payload)
        elif kind == messages.HELLO:
            self._greeted(peer)
        elif kind == messages.ASK:
            self._take_ask(payload, address)
        elif kind == messages.TELL:
            self._told(payload, address)
        elif kind == messages.BINDINGS:
            self._merge(messages.parse_bindings(payload, self._loop.wall_now()), address)
        elif kind == messages.REMOVED:
            removed = messages.parse_removed(payload)
            for index in self._indexes():
                self._remove(index, removed)
        elif kind == messages.SHOWN:
            self._shown.extend(messages.parse_bindings(payload, self._loop.wall_now()))
        else:
            raise ValueError(f"frame {kind}")

    def _merge(self, found: list[tuple[str, Binding]], address: tuple[str, int]) -> None:
        newer: list[bytes] = []
        buried: list[tuple[int, int]] = []
        wall_now = self._loop.wall_now()
        for table, binding in found:
            outcome, known = self._store.merge(table, binding)
            if outcome == STORED:
                self._tally.add("repaired")
                for index in self._indexes():
                    if known is not None:
                        index.remove(table, known)
                    index.add(table, binding)
                if self.session is not None:
                    bucket = bucket_of(table, binding.uid)
                    self.session.changes += 1
                    self.session.stored(bucket, entry_hash(table, binding), self._loop.now())
            elif outcome == OLDER and known is not None:
                newer.append(messages.build_binding(table, known, wall_now))
            elif outcome == BURIED:
                when = self._store.removed_at(table, binding.uid, binding.contact)
                buried.append((entry_hash(table, binding), when))
        for payload in messages.batches(record for record in newer if record):
            self._put(messages.BINDINGS, payload, address)
        if buried:
            self._put(messages.REMOVED, messages.build_removed(buried), address)

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
        found = [self._index]
        if self.session is not None:
            found.append(self.session.index)
        return found

    def _forget(self) -> None:
        """Drop those that have not been heard of for long."""
        limit = self._loop.wall_now() - FORGET_S
        for key in [key for key, peer in self.peers.items() if peer.life.heard_at < limit]:
            del self.peers[key]

    # -- questions -----------------------------------------------------------------------------------------------------

    def peer_status(self, life: Life) -> dict[str, object]:
        """What ``replication.status`` shows of a peer's digests."""
        peer = self.peers.get((life.server_id, life.boot))
        if peer is None or peer.bindings < 0:
            return {"address": "", "bindings": -1, "differing_buckets": -1, "digest_s_ago": -1.0}
        return {
            "address": f"{peer.address[0]}:{peer.address[1]}",
            "bindings": peer.bindings,
            "differing_buckets": len(peer.differing),
            "digest_s_ago": round(self._loop.now() - peer.digest_at, 1),
        }

    def diff(self, server_id: int) -> list[dict[str, object]]:
        """What differs from the peers' tables (*server_id* -1: each one's), entry by entry; parks until it is known."""
        rows: list[dict[str, object]] = []
        if self._dry is not None:
            return rows
        alive: dict[int, Peer] = {}
        for peer in sorted(self.peers.values(), key=lambda each: each.digest_at):
            if peer.bindings >= 0 and self._loop.now() - peer.digest_at < SILENT * self._interval_s:
                alive[peer.life.server_id] = peer  # the newest of its lives
        for number, peer in sorted(alive.items()):
            if server_id in (-1, number):
                rows.extend(self._diff(peer))
        return rows[:MOST_SHOWN]

    def _diff(self, peer: Peer) -> list[dict[str, object]]:
        loop = self._loop
        ticket = loop.new_ticket()
        self.scanner.scan(set(peer.sums), lambda sums, index: _resume(loop, ticket.id, (sums, index)), soon=True)
        scanned = loop.wait(ticket, loop.now() + DRY_S)
        if not isinstance(scanned, tuple):
            return []
        sums, index = scanned
        buckets = sorted(sums.differing(peer.sums))
        if not buckets:
            return []
        session = self._dry = self._session(peer, buckets, index, dry=True)
        self._shown = []
        deadline = loop.now() + DRY_S
        while not session.is_over(loop.now()) and loop.now() < deadline:
            self._ask(session)
            loop.sleep(STEP_S)
        while len(self._shown) < session.missing and loop.now() < deadline:
            loop.sleep(STEP_S)
        self._dry = None
        return _rows(peer, session, self._shown)


def _resume(loop: Loop, ticket: int, value: object) -> None:
    loop.resume(ticket, value)


def _rows(peer: Peer, session: Session, shown: list[tuple[str, Binding]]) -> list[dict[str, object]]:
    """One row per contact: what is here and there."""
    rows: dict[tuple[str, str, str], dict[str, object]] = {}

    def row(table: str, uid: str, contact: str) -> dict[str, object]:
        blank = {
            "server_id": peer.life.server_id,
            "table": table,
            "uid": uid,
            "contact": contact,
            "here": "-",
            "there": "-",
        }
        return rows.setdefault((table, uid, contact), blank)

    removed = dict(session.removed)
    for entry in [*session.wanted, *removed]:
        known = session.index.find(entry)
        if known is not None:
            line = row(known.table, known.uid, known.contact)
            line["here"] = "registered"
            line["there"] = "removed" if entry in removed else "-"
    for table, binding in shown:
        line = row(table, binding.uid, binding.contact)
        line["there"] = f"registered, CSeq {binding.cseq}"
    return list(rows.values())
