"""What modules work with: Server, Context, exports, services, errors.

A module imports this file, values (``errors``, ``context``, ``sip``) and what ``script`` declares functions with. It never
imports another module: it asks the server for a *service* (``server.bind(LOCATION)``) that some loaded module provides.
Only tm and sl touch ``transaction``, only drivers and modules with tables of their own ``db``, only usrloc ``shm``; nobody
touches workers, master, daemon, loader or pipeline. What is lent to whom stands in tests/unit/test_layering.py.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar, cast

from serpy.context.authenticated import Authenticated
from serpy.context.avps import Avp, AvpName, Avps
from serpy.context.context import Context, Target
from serpy.db.schema import DEFAULT_DID
from serpy.errors import (
    BackendError,
    ConfigError,
    LimitExceededError,
    ParseError,
    ProtocolError,
    ResourceError,
    ScriptError,
    SerpyError,
    TransportError,
    UnsupportedError,
    UsageError,
)
from serpy.net.resolve import Resolver
from serpy.script.exports import FALSE, STOP, TRUE, Arg, Exports, Function, Param, Routes, Rpc, Select
from serpy.shm.record import CALL_ID_MAX, Binding
from serpy.shm.variables import Variables
from serpy.sip.address import is_address
from serpy.sip.flow import Flow, Listener, Outgoing
from serpy.sip.host import normal_host
from serpy.transaction.user import Outcome

if TYPE_CHECKING:
    from serpy.config import Settings
    from serpy.db.interface import Database, Value
    from serpy.net.handoff import Channels
    from serpy.net.loop import Loop
    from serpy.shm.counters import Counters
    from serpy.shm.segment import Segment
    from serpy.sip.message import Response
    from serpy.transaction.answers import Answers
    from serpy.transaction.forward import Forwarder
    from serpy.transaction.layer import TransactionLayer
    from serpy.transaction.settings import TransactionSettings
    from serpy.transaction.user import DialogWatcher, TransactionUser
    from serpy.trust.budgets import Budgets
    from serpy.trust.charges import Charges

__all__ = [
    "ANSWERS", "BUDGETS", "CALLS", "CALL_ID_MAX", "CHARGES", "CREDENTIALS", "DEFAULT_DID", "DIALOG_WATCHER", "DOMAINS", "FALSE", "FORWARDER", "LOCATION", "REPLIES", "STOP", "STORE",
    "TRANSACTION_LAYER", "TRANSACTION_SETTINGS", "TRANSACTION_USER", "TRUE", "Arg", "Authenticated", "Avp", "AvpName",
    "Avps", "BackendError", "Binding", "CallService", "ConfigError", "Context", "CredentialsService", "DomainService", "Exports",
    "Flow", "Function", "Hooks", "LimitExceededError", "Listener", "LocationService", "Outcome", "Outgoing", "Param",
    "ParseError", "ProtocolError", "ReplyService", "ResourceError", "Routes", "Rpc", "ScriptError", "Select",
    "SerpyError", "Server", "Service", "StoreService", "Target", "TransportError",
    "UnsupportedError", "UsageError",
]  # fmt: skip

T = TypeVar("T")

HOSTS_KNOWN: Final = 4096  # hosts that is_myself() remembers having looked at
HOST_MAX: Final = 256  # characters of such a host: no name is longer (RFC 1035 §2.3.4)


class LocationService(Protocol):
    """The shared location table with its database behind it (provided by ``usrloc``)."""

    def bindings(self, table: str, uid: str) -> list[Binding]:
        """All bindings of *uid* in lookup order, expired ones included. May park while the table is still loading."""

    def update(
        self, table: str, uid: str, decide: Callable[[list[Binding]], tuple[list[Binding], list[Binding]]],
        *, persist: bool = True,
    ) -> list[Binding]:  # fmt: skip
        """Change one AoR atomically. *decide* gets the current bindings and returns (to insert or replace by
        contact, to remove); the result is the new list in lookup order. In ``db_mode`` 1 with *persist* this
        returns after the rows are on disk. *decide* may raise ProtocolError, then nothing changes.
        Raises ResourceError (table full), BackendError (database refused or timed out).
        """

    def extent(self) -> tuple[int, int]:
        """(buckets of the shared table, contacts in it at about this instant)."""

    def page(self, start: int, max_buckets: int) -> tuple[list[tuple[str, str, list[Binding]]], int]:
        """(table, uid, bindings) of the users in *max_buckets* buckets from *start*, and where to go on (-1 = all seen).
        Expired bindings are among them.
        """


class StoreService(Protocol):
    """Hands rows to the ``store`` process (provided by the core, see serpy/db/writer.py)."""

    def write(self, operations: Sequence[tuple[str, str, Mapping[str, Value]]], *, wait: bool, url: str = "") -> None:
        """*operations* are (kind, table, values): kind "upsert", "delete" (values are the key columns) or
        "insert". With *wait* returns after the commit. Raises BackendError on refusal or deadline (OutcomeUnknownError:
        they may be on disk all the same), ResourceError when too many handlers wait; then nothing has left.
        """


class ReplyService(Protocol):
    """Answer a request: through its transaction when it has one, else statelessly (provided by ``sl``)."""

    def reply(
        self, ctx: Context, status: int, reason: str = "", headers: Sequence[str] = (), body: bytes = b""
    ) -> bool:
        """True when the answer was handed to the sender. ``ctx.reply_headers`` are added. Never answers an ACK."""


class DomainService(Protocol):
    """Which domain names this server serves (provided by ``domain``)."""

    def is_local(self, host: str) -> bool:
        """True when *host*, in any case and without a port, is a served domain name."""

    def did(self, host: str) -> str:
        """The domain id of *host*, "" when it is not served. May park. Raises BackendError."""


class CredentialsService(Protocol):
    """Where digest credentials come from (provided by ``auth_db``)."""

    def credentials(
        self, table: str, username: str, realm: str, did: str, algorithm: str = "MD5"
    ) -> list[tuple[str, list[tuple[str, str]]]]:
        """(HA1 in hexadecimal, attributes to load) of every row to try for the whole digest *username*, cached; [] for
        an unknown user, after the same work. *algorithm* is MD5 or SHA-256. May park. Raises BackendError.
        """

    def recheck(
        self, table: str, username: str, realm: str, did: str, algorithm: str = "MD5"
    ) -> list[tuple[str, list[tuple[str, str]]]]:
        """The rows as the database has them now, for a response that matched none of ``credentials``; [] when they are
        the same, or were read a moment ago. May park. Raises BackendError.
        """


class CallService(Protocol):
    """The memory of calls (provided by ``rr``)."""

    def duration(self, dialog: int, wall_now: float) -> int:
        """Seconds since the call *dialog* (``Context.dialog``) was answered; -1 when that is not known."""


class Service(Generic[T]):
    """The key of something that one module provides and others ask the server for; made once, beside the type."""

    def __init__(self, name: str) -> None:
        self.name: Final = name


LOCATION: Final[Service[LocationService]] = Service("location table")
STORE: Final[Service[StoreService]] = Service("store")
REPLIES: Final[Service[ReplyService]] = Service("replies")
DOMAINS: Final[Service[DomainService]] = Service("domains")
CREDENTIALS: Final[Service[CredentialsService]] = Service("credentials")
CALLS: Final[Service[CallService]] = Service("memory of calls")
RESOLVER: Final[Service[Resolver]] = Service("resolver")  # of this process; ask Server.resolver()
BUDGETS: Final[Service[Budgets]] = Service("budgets")  # of the server, see serpy/trust
CHARGES: Final[Service[Charges]] = Service("charges")  # what requests did, charged to their budgets
# Between tm, sl and the pipeline alone.
TRANSACTION_SETTINGS: Final[Service[TransactionSettings]] = Service("settings of transactions")
TRANSACTION_USER: Final[Service[TransactionUser]] = Service("user of transactions")
DIALOG_WATCHER: Final[Service[DialogWatcher]] = Service("watcher of dialogs")
TRANSACTION_LAYER: Final[Service[TransactionLayer]] = Service("transaction layer")
ANSWERS: Final[Service[Answers]] = Service("answers")
FORWARDER: Final[Service[Forwarder]] = Service("stateless forwarding")


class Hooks:
    """Callbacks of modules around the script. Each list is run in load order."""

    def __init__(self) -> None:
        self.pre_script: list[Callable[[Context], bool]] = []  # requests; False = handled, do not run the script
        self.post_script: list[Callable[[Context], None]] = []  # after the main route, always
        self.pre_reply: list[Callable[[Context], bool]] = []  # responses, before the onreply route
        # Answers to requests a module sends by itself: (how our branch begins, who gets them). The script sees none.
        self.own_replies: list[tuple[str, Callable[[Response], None]]] = []
        # (table, contacts removed before their time, Unix time of the removal or 0.0: each one's modified_at)
        self.on_removed: list[Callable[[str, list[Binding], float], None]] = []
        self.on_tick: list[Callable[[float, float], None]] = []  # timer process, once a second: (now, wall_now)
        self.watched_flags = 0  # bits: a transaction whose request has one of them when it is made is reported to
        self.on_answer: list[Outcome] = []  # its final answer, or a 183, has gone upstream
        self.on_failed: list[Outcome] = []  # all its branches have failed; before the failure route
        # Whoever checked credentials tells, once for each check: (ctx, who, outcome). *who* is user@realm as claimed, "" without
        # credentials; *outcome* is one of serpy/context/authenticated.py. Called before the script goes on; must not park.
        self.on_credentials: list[Callable[[Context, str, str], None]] = []
        self.on_refused: list[Callable[[Context, int], None]] = []  # we have answered 403 or 404
        self.on_proven: list[Callable[[str], None]] = []  # (Request-URI): a SOFT target has answered
        self.on_http: list[Callable[[bytes, Flow], bool]] = []  # a HTTP request on a SIP port; False = not for me
        self.shutdown: list[Callable[[], None]] = []  # master, after all children have left


class Server:
    """What one serpy process knows. Built by the loader in the master, inherited by every child over fork.

    The master fills everything up to ``segment``; ``workers/base.py`` fills the rest in the child.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.listeners: list[Listener] = []
        self._aliases: set[tuple[str, int]] = set()
        self._ports: dict[str, list[int]] = {}  # host as written -> the ports of our aliases with that name
        self.hooks = Hooks()
        self.exports: dict[str, Exports] = {}  # loaded modules by name, in load order
        self.run_dir = ""
        self.secret = os.urandom(32)  # keys are derived from it; the loader puts the lasting one in its place
        self.started_wall = time.time()
        # Declared only: a compiled attribute of a compiled class cannot hold None.
        self.segment: Segment  # shared memory; modules allocate in init()
        self.counters: Counters
        self.variables = Variables()
        self.program: object = None  # serpy.script.compile.Program
        self._services: dict[str, object] = {}
        # per process
        self.slot = -1  # index in the status page and of the inbound channel; -1 = master
        self.role = "master"
        self.child = 0  # index among the processes of this role
        self.loop: Loop  # likewise
        self.channels: Channels
        self.send: Callable[[Outgoing], None] = _not_sending
        self.open_database: Callable[[str], Database] = _no_database
        self._databases: dict[str, Database] = {}

    def provide(self, service: Service[T], implementation: T) -> None:
        """Offer *implementation* to the other modules."""
        self._services[service.name] = implementation

    def bind(self, service: Service[T]) -> T:
        """What *service* stands for. Raises ConfigError when no loaded module provides it."""
        found = self.find(service)
        if found is None:
            raise ConfigError(
                f"no loaded module provides the {service.name}", hint="load the module that does, before this one"
            )
        return found

    def find(self, service: Service[T]) -> T | None:
        """The same, None when nobody provides it."""
        return cast("T | None", self._services.get(service.name))

    def database(self, url: str) -> Database:
        """The handle of this process for *url*, opened on first use and shared by its modules."""
        handle = self._databases.get(url)
        if handle is None:
            handle = self._databases[url] = self.open_database(url)
        return handle

    def resolver(self) -> Resolver:
        """The resolver of this process, made on first use: one cache and one question at a time for all who ask."""
        found = self.find(RESOLVER)
        if found is None:
            found = Resolver(self.loop, self.settings, listeners=self.listeners)
            self.provide(RESOLVER, found)
        return found

    @property
    def has_databases(self) -> bool:
        """True when this process keeps a handle of ``database()``."""
        return bool(self._databases)

    @property
    def aliases(self) -> set[tuple[str, int]]:
        """What counts as ourselves: (lower-case host, port or 0 for any). Replaced as a whole, never changed."""
        return self._aliases

    @aliases.setter
    def aliases(self, names: set[tuple[str, int]]) -> None:
        self._aliases = names
        self._ports.clear()

    def is_myself(self, host: str, port: int = 0) -> bool:
        """True when *host*:*port* (0 = 5060) is a listen address or an alias, however *host* is written."""
        ports = self._ports.get(host)
        if ports is None:
            ports = self._ports_of(host)
        number = port or 5060
        for mine in ports:  # noqa: SIM110 - no generator on the hot path
            if mine in (number, 0):
                return True
        return False

    def is_own_host(self, host: str) -> bool:
        """True when *host* is one of our addresses or names, whatever the port; a loopback address always is."""
        ports = self._ports.get(host)
        if self._ports_of(host) if ports is None else ports:
            return True
        name = normal_host(host)
        return name in ("localhost", "::1") or (name.startswith("127.") and is_address(name))

    def _ports_of(self, host: str) -> list[int]:
        name = normal_host(host)
        ports = [port for alias, port in self._aliases if name and normal_host(alias) == name]
        if len(host) <= HOST_MAX:
            if len(self._ports) >= HOSTS_KNOWN:
                self._ports.clear()
            self._ports[host] = ports
        return ports

    def listener_for(self, transport: str, host: str = "", port: int = 0) -> Listener | None:
        """The first listener that can send over *transport* ("" = any), narrowed to *host* and *port* when given."""
        for listener in self.listeners:
            if (transport and listener.transport != transport) or listener.multicast:
                continue
            if (not host or listener.host == host) and (not port or listener.port == port):
                return listener
        return None


def _not_sending(outgoing: Outgoing) -> None:
    raise UsageError(f"process {os.getpid()} has no SIP sockets to send {outgoing.flow!r}")


def _no_database(url: str) -> Database:
    raise UsageError(f"no database driver loaded for {url.split(':', 1)[0]}")
