"""replication: how REGISTERs are replicated to the other servers of a farm; loaded by itself when a group is listened on.

The work is done by serpy/replication in the timer process; here are its parameters, its counters and its RPCs. The script
sends with ``forward_udp(224.0.1.75, 5060)`` after ``save_contacts`` and stores replicas with ``save_mem_nr``.

Runs in: master (init), ctl (RPC). Locks: none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.api import Exports, Param, Rpc
from serpy.errors import ResourceError, UsageError
from serpy.net.handoff import REPLICATION_ASK, REPLICATION_TOLD, Layout
from serpy.replication.counters import COUNTERS
from serpy.replication.settings import REPLICATION_SETTINGS, ReplicationSettings, networks, read_key
from serpy.replication.tombstones import TOMBSTONES, Tombstones

if TYPE_CHECKING:
    from serpy.api import Server

ANSWER_S: Final = 8.0


class Replication:
    """The module: its parameters, and the questions ctl asks the timer process."""

    def __init__(self) -> None:
        self.key = ""
        self.key_file = ""
        self.interface = ""
        self.port = 0
        self.max_age = 30
        self.digest_interval = 5
        self.store_replicas = 0
        self.trusted_source: list[str] = []
        self._farm_secret = ""
        self._server: Server

    def take_secret(self, secret: str) -> None:
        """Use *secret* when no parameter gives another."""
        self._farm_secret = secret

    def init(self, server: Server) -> None:
        """Provide the settings, make the tombstones and the counters. Raises ConfigError, ResourceError."""
        settings = ReplicationSettings()
        settings.key = read_key(self.key_file) if self.key_file else (self.key or self._farm_secret).encode("utf-8")
        settings.interface = self.interface
        settings.port = self.port
        settings.max_age_s = self.max_age
        settings.digest_interval_s = float(self.digest_interval)
        settings.store_replicas = bool(self.store_replicas)
        settings.trusted = networks(self.trusted_source)
        server.provide(REPLICATION_SETTINGS, settings)
        if any(listener.multicast for listener in server.listeners):
            tombstones = Tombstones(server.segment)
            server.provide(TOMBSTONES, tombstones)
            server.hooks.on_removed.append(tombstones.bury)
            for name, text in COUNTERS:
                server.counters.declare(name, text)

    def child_init(self, server: Server) -> None:
        """In ctl: get ready for the answers of the timer process."""
        self._server = server
        if server.role == "ctl":
            server.channels.on(REPLICATION_TOLD, self._told)

    def status(self) -> object:
        """Our place in the farm, the other servers, and what was sent, taken, dropped and repaired."""
        return self._ask("status")

    def diff(self, peer: int = -1) -> object:
        """What we have and another server (*peer*: its server id; -1: each) has not, and the other way round."""
        return self._ask("diff", peer)

    def _ask(self, question: str, peer: int = -1) -> object:
        server = self._server
        if not any(listener.multicast for listener in server.listeners):
            raise UsageError("no multicast address is listened on, so nothing is replicated")
        ticket = server.loop.new_ticket()
        payload = json.dumps({"id": ticket.id, "question": question, "peer": peer}).encode("ascii")
        timer = Layout(server.settings.children).timer
        if not server.channels.send(timer, REPLICATION_ASK, payload):
            server.loop.drop(ticket)
            raise ResourceError("the timer process has too much to do")
        told = server.loop.wait(ticket, server.loop.now() + ANSWER_S)
        if not isinstance(told, dict):
            raise ResourceError("the timer process does not answer")
        if "error" in told:
            raise ResourceError(told["error"])
        answer: object = told["answer"]
        return answer

    def _told(self, payload: bytes, _from_slot: int) -> None:
        told = json.loads(payload)
        self._server.loop.resume(told["id"], told)


def _within(low: int, high: int) -> Callable[[int], str]:
    def check(value: int) -> str:
        return "" if low <= value <= high else f"must be {low} to {high}"

    return check


def exports() -> Exports:
    """A fresh replication module."""
    module = Replication()
    check_age, check_interval, check_port = _within(1, 3600), _within(0, 3600), _within(0, 65535)
    return Exports(
        name="replication",
        module=module,
        take_secret=module.take_secret,
        params=[
            Param("key", "str", "", "secret of the farm, the same on all its servers; empty: REPLICATION_SECRET of the secrets file"),
            Param("key_file", "str", "", "file with the secret, instead of key"),
            Param("interface", "str", "", "address or name of the interface to the other servers; empty: a private listen address"),
            Param("port", "int", 0, "our own UDP port for replication, 0: any", check=check_port),
            Param("max_age", "int", 30, "seconds after which a replica is stale; clocks may differ by as much", check=check_age),
            Param("digest_interval", "int", 5, "seconds between two digests, 0: none are sent and nothing is repaired", check=check_interval),
            Param("store_replicas", "int", 0, "1: replicas go to our database, too (each server has its own); 0: memory only, as SER"),
            Param("trusted_source", "str", "", "address or network whose unsigned replicas (of SER) are taken", repeat=True),
        ],
        rpc=[Rpc("replication.status", module.status), Rpc("replication.diff", module.diff)],
        init=module.init,
        child_init=module.child_init,
    )  # fmt: skip
