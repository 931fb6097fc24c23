"""The part of the timer process that replicates: the only one that sends to the group and receives from it.

Receivers hand over the REGISTERs that the script forwards to a multicast address; they are signed and sent. What comes
from the group is verified, and a REGISTER then runs through the script's main route like any request, with the multicast
listener as ``dst_ip``; nothing is ever answered to a group. Digests and repair are repair.py's.

Runs in: timer. Locks: none.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from serpy.api import LOCATION
from serpy.errors import ConfigError, ParseError, ResourceError, SerpyError
from serpy.net.handoff import REPLICATE, REPLICATION_ASK, REPLICATION_TOLD
from serpy.replication import handover, sockets
from serpy.replication.counters import Tally
from serpy.replication.envelope import (
    FOREIGN,
    FORGED,
    MAGIC,
    MALFORMED,
    OWN,
    PREFIX,
    REASONS,
    STREAM_FRAME,
    STREAM_REGISTER,
    UNSIGNED,
    DroppedError,
    Frame,
    Sealer,
)
from serpy.replication.merge import milliseconds
from serpy.replication.repair import Repair
from serpy.replication.settings import REPLICATION_SETTINGS
from serpy.replication.store import LocationTables, Store
from serpy.replication.tombstones import TOMBSTONES
from serpy.replication.window import Life, Senders
from serpy.sip.address import plain_address
from serpy.sip.flow import Flow
from serpy.sip.via import parse_via

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.sip.flow import Listener

log = logging.getLogger(__name__)

LARGEST: Final = 65535
DEFAULT_PORT: Final = 5060
BATCH: Final = 32  # datagrams per wake-up, before timers and the other sockets get their turn
TICK_S: Final = 1.0
REPORT_S: Final = 60.0
SUSPICIOUS: Final = {
    OWN: "other servers use our server_id; every server of a farm needs its own",
    FOREIGN: "another farm uses this group, or a server has another replication key",
    FORGED: "signatures are wrong",
    UNSIGNED: "unsigned replicas; trusted_source lets those of SER servers in",
}

Receive = Callable[[bytes, Flow], None]


def _signed_source(data: bytes, flow: Flow) -> Flow:
    """Where the script sees a signed replica come from: the SIP address that its sender has put into Via, as SER, which
    sends from there. The port it really came from would make every replica look like a phone behind a NAT.
    """
    start = data.find(b"\r\nVia: ") + 7
    end = data.find(b"\r\n", start)
    if start < 7 or end < 0:
        return flow
    try:
        via = parse_via(data[start:end].decode("ascii", "replace"))
    except ParseError:
        return flow
    host = plain_address(via.host)
    if not host:
        return flow  # a name: nothing to compare with
    return Flow(flow.listener, host, via.port or DEFAULT_PORT)


class Group:
    """One multicast listener, its socket and who is heard there."""

    def __init__(self, listener: Listener, sock: socket.socket, sealer: Sealer, senders: Senders) -> None:
        self.listener: Final = listener
        self.sock: Final = sock
        self.sealer: Final = sealer
        self.senders: Final = senders
        self.address: Final = (listener.host, listener.port)


class Agent:
    """Sends and receives for all groups; *receive* takes a verified REGISTER in as if from the network."""

    def __init__(self, server: Server, groups: list[tuple[Listener, socket.socket]], receive: Receive) -> None:
        self._server: Final = server
        self._loop: Final = server.loop
        self._settings: Final = server.bind(REPLICATION_SETTINGS)
        self._receive: Final = receive
        self.tally: Final = Tally(server.counters)
        self.boot: Final = time.time_ns() // 1000
        self.server_id: Final = server.settings.server_id & 0xFFFFFFFF
        self._senders_by: Final[dict[str, socket.socket]] = {}
        first = groups[0][0]
        self.address: Final = sockets.administrative_address(self._settings.interface, first, server.listeners)
        self._own: Final = self._sender(self.address, self._settings.port)
        self.groups: Final = [self._group(listener, sock) for listener, sock in groups]
        self._reported: Final = dict.fromkeys(REASONS, 0)
        self._report_at = 0.0
        self.repair: Repair | None = None

    def start(self) -> None:
        """Read from now on."""
        loop = self._loop
        for group in self.groups:
            loop.add_reader(group.sock.fileno(), _Reader(self, group, group.sock).read)
        self._watch(self._own)
        self._server.channels.on(REPLICATE, self._outgoing)
        self._server.channels.on(REPLICATION_ASK, self._asked)
        if self.server_id == 0:
            log.warning("server_id is 0: give every server of the farm its own, else nothing is replicated")
        # usrloc's own, which has more than the service promises
        location = cast("LocationTables | None", self._server.find(LOCATION))
        tombstones = self._server.find(TOMBSTONES)
        if self._settings.digest_interval_s > 0 and location is not None and tombstones is not None:
            store = Store(location, tombstones, self.server_id, persist=self._settings.store_replicas)
            interval = self._settings.digest_interval_s
            self.repair = Repair(
                loop, location, store, self.tally, interval, self.multicast_frame, self.send_frame,
                lambda: self.groups[0].sealer.sent(STREAM_REGISTER),
            )  # fmt: skip
            self.repair.start()
        self._tick()
        log.info("replication: group %s:%d by %s, server id %d", *self.groups[0].address, self.address, self.server_id)

    # -- out -----------------------------------------------------------------------------------------------------------

    def _outgoing(self, payload: bytes, _from_slot: int) -> None:
        """Multicast a REGISTER that a receiver has handed over."""
        data, listener, host, port, taken_ms = handover.decode(payload)
        group = self._group_of(host, port)
        if group is None:
            log.debug("a REGISTER for %s:%d, which is not listened on", host, port)
            self.tally.add("send_failed")
            return
        # An interface that was chosen is the only one; else the script's force_send_socket says it.
        source = self.address if self._settings.interface else self._server.listeners[listener].host
        try:
            sock = self._sender(source, 0) if source != self.address else self._own
            sock.sendto(group.sealer.seal_register(data, taken_ms), group.address)
        except (OSError, SerpyError) as exc:
            log.debug("REGISTER not multicast: %s", exc)
            self.tally.add("send_failed")
            return
        self.tally.add("sent")

    def multicast_frame(self, kind: int, payload: bytes) -> bool:
        """Send a frame to the first group; False when it could not be sent."""
        return self._send_frame(kind, payload, self.groups[0].address)

    def send_frame(self, kind: int, payload: bytes, address: tuple[str, int]) -> bool:
        """Send a frame to one server."""
        return self._send_frame(kind, payload, address)

    def _send_frame(self, kind: int, payload: bytes, address: tuple[str, int]) -> bool:
        data = self.groups[0].sealer.seal_frame(kind, payload, milliseconds(self._loop.wall_now()))
        try:
            self._own.sendto(data, address)
        except OSError as exc:
            log.debug("frame %d not sent to %s: %s", kind, address, exc)
            self.tally.add("send_failed")
            return False
        return True

    def _sender(self, host: str, port: int) -> socket.socket:
        sock = self._senders_by.get(host)
        if sock is None:
            sock = self._senders_by[host] = sockets.open_sender(host, port, self._server.settings)
        return sock

    # -- in ------------------------------------------------------------------------------------------------------------

    def _watch(self, sock: socket.socket) -> None:
        self._loop.add_reader(sock.fileno(), _Reader(self, None, sock).read)

    def take(self, data: bytes, host: str, port: int, group: Group | None) -> None:
        """One datagram from *group*, or (None) sent to us alone. May park; never raises for what a peer sent."""
        self.tally.add("received")
        try:
            if data.startswith(MAGIC):
                self._take_frame(data, host, port, group)
            elif group is not None:
                self._take_register(data, host, port, group)
            else:
                raise DroppedError(MALFORMED)
        except DroppedError as dropped:
            self.tally.add(f"dropped_{dropped.reason}")

    def _take_register(self, data: bytes, host: str, port: int, group: Group) -> None:
        flow = Flow(group.listener, host, port)
        try:
            stamp = group.sealer.open_register(data)
        except DroppedError as dropped:
            if dropped.reason != UNSIGNED or not self._settings.trusts(host):
                raise
            # Whatever says it is signed must be.
            if not data.startswith(b"REGISTER ") or PREFIX[:-2].lower() in data.lower():
                raise DroppedError(MALFORMED) from None
            self.tally.add("bare")
        else:
            group.senders.admit(stamp, STREAM_REGISTER, self._loop.wall_now())
            if not data.startswith(b"REGISTER "):
                raise DroppedError(MALFORMED)
            flow = _signed_source(data, flow)
        self.tally.add("taken")
        self._loop.current = (data, flow)  # for the report of a bug
        self._receive(data, flow)

    def _take_frame(self, data: bytes, host: str, port: int, group: Group | None) -> None:
        of = group or self.groups[0]
        frame: Frame = of.sealer.open_frame(data)
        life: Life = of.senders.admit(frame.stamp, STREAM_FRAME, self._loop.wall_now())
        if self.repair is not None and of is self.groups[0]:
            self._loop.current = f"replication frame {frame.kind}"
            try:
                self.repair.take(frame.kind, frame.payload, life, (host, port))
            except ValueError:  # of a newer version
                raise DroppedError(MALFORMED) from None

    # -- housekeeping and questions ------------------------------------------------------------------------------------

    def _tick(self) -> None:
        loop = self._loop
        loop.call_at(loop.now() + TICK_S, self._tick)
        for group in self.groups:
            group.senders.forget(loop.wall_now())
        if loop.now() >= self._report_at:
            self._report_at = loop.now() + REPORT_S
            self._report()

    def _report(self) -> None:
        totals = self.tally.totals()
        for reason, text in SUSPICIOUS.items():
            count = totals[f"dropped_{reason}"]
            more, self._reported[reason] = count - self._reported[reason], count
            if more > 0:
                log.warning("replication: %d datagrams dropped in the last minute: %s", more, text)

    def _asked(self, payload: bytes, from_slot: int) -> None:
        """Answer a question of ctl, where that may park."""
        self._loop.spawn(_Question(self, json.loads(payload), from_slot).answer)

    def answer(self, question: str, peer: int) -> object:
        """The answer to a question of ctl; may park."""
        if question == "diff" and self.repair is not None:
            return self.repair.diff(peer)
        return self.status() if question == "status" else []

    def status(self) -> dict[str, object]:
        """What ``replication.status`` returns."""
        group = self.groups[0]
        peers: list[dict[str, object]] = []
        newest: dict[int, Life] = {}
        for life in sorted(group.senders.lives.values(), key=lambda item: item.heard_at):
            newest[life.server_id] = life  # its earlier lives are of no interest
        for _, life in sorted(newest.items()):
            registers = life.windows.get(STREAM_REGISTER)
            row: dict[str, object] = {
                "server_id": life.server_id,
                "heard_s_ago": round(max(0.0, self._loop.wall_now() - life.heard_at), 1),
                "lag_ms": round(life.lag * 1000),
                "sequence": registers.highest if registers else 0,
                "received": registers.received if registers else 0,
                "missing": registers.missing if registers else 0,
                "boot": life.boot,
            }
            if self.repair is not None:
                row.update(self.repair.peer_status(life))
            peers.append(row)
        tombstones = self._server.find(TOMBSTONES)
        return {
            "server_id": self.server_id,
            "boot": self.boot,
            "group": f"{group.address[0]}:{group.address[1]}",
            "interface": self.address,
            "key": f"{group.sealer.group:08x}",
            "sequence": group.sealer.sent(STREAM_REGISTER),
            "tombstones": tombstones.count(self._loop.wall_now()) if tombstones is not None else 0,
            "counters": self.tally.totals(),
            "peers": peers,
        }

    def _group(self, listener: Listener, sock: socket.socket) -> Group:
        settings = self._settings
        own = [each.host for each in self._server.listeners if not each.multicast and each.ipv6 == listener.ipv6]
        failed: list[ConfigError] = []
        addresses = list(dict.fromkeys([self.address] if settings.interface else [self.address, *own]))
        for address in addresses:
            try:
                sockets.join(sock, listener, address)
            except ConfigError as exc:
                failed.append(exc)
        if len(failed) == len(addresses):
            raise failed[0]
        for failure in failed:  # there may be more addresses than a socket may join on, and interfaces that cannot
            log.warning("replication: %s", failure)
        name = f"{listener.host}:{listener.port}"
        sealer = Sealer(settings.key, name, self.server_id, self.boot)
        return Group(listener, sock, sealer, Senders(self.server_id, float(settings.max_age_s)))

    def _group_of(self, host: str, port: int) -> Group | None:
        for group in self.groups:
            if group.address == (host, port):
                return group
        return None


class _Reader:
    """Drains one socket, a batch at a time."""

    def __init__(self, agent: Agent, group: Group | None, sock: socket.socket) -> None:
        self._agent: Final = agent
        self._group: Final = group
        self._recvfrom: Final = sock.recvfrom

    def read(self) -> None:
        for _ in range(BATCH):
            try:
                data, address = self._recvfrom(LARGEST)
            except OSError:  # empty; other errors are about an earlier send
                return
            self._agent.take(data, address[0], address[1], self._group)


class _Question:
    """One question of ctl on its way to the answer."""

    def __init__(self, agent: Agent, asked: dict[str, object], slot: int) -> None:
        self._agent: Final = agent
        self._asked: Final = asked
        self._slot: Final = slot

    def answer(self) -> None:
        peer = self._asked.get("peer")
        told: dict[str, object] = {"id": self._asked.get("id")}
        try:
            told["answer"] = self._agent.answer(str(self._asked.get("question")), peer if isinstance(peer, int) else -1)
        except ResourceError as exc:
            told["error"] = str(exc)
        self._agent._server.channels.send(self._slot, REPLICATION_TOLD, json.dumps(told).encode("ascii"))
