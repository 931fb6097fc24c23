"""A whole receiver without sockets: bytes in, bytes out, a clock the test advances.

Any handler may take its time: ``park()`` in a route, ``slow`` for all runs of one, ``slow_resolver``, ``slow_database``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.parking import Parking

from serpy.api import BUDGETS, CHARGES, Server
from serpy.config import Settings
from serpy.context.context import BRANCH, DROPPED, FAILURE, ONREPLY, ONSEND, REQUEST, Context
from serpy.errors import BackendError, TransportError
from serpy.modules import sl, tm
from serpy.net.handoff import Channels
from serpy.net.loop import Loop
from serpy.pipeline import Pipeline
from serpy.script.hooks import Hooks
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip.flow import Flow, Listener, Outgoing
from serpy.trust.budgets import Budgets
from serpy.trust.charges import Charges

CALLER = ("192.0.2.1", 5060)
PROXY = ("192.0.2.100", 5060)


class FakeProgram:
    """Routes as Python callables, by (kind, name)."""

    def __init__(self, **routes: Callable[[Context], object]) -> None:
        kinds = {"main": REQUEST, "reply": ONREPLY, "failure": FAILURE, "branch": BRANCH}
        self.routes: dict[tuple[int, str], Callable[[Context], object]] = {}
        self.onsend = routes.pop("onsend", None)
        for key, call in routes.items():
            kind, _, name = key.partition("_")
            self.routes[kinds[kind], name] = call
        self.has_onsend = self.onsend is not None
        self.hooks = Hooks()
        self.before: Callable[[int, str], None] = lambda _kind, _name: None

    def has_route(self, kind: int, name: str) -> bool:
        return (kind, name) in self.routes

    def run(self, ctx: Context, kind: int, name: str) -> int:
        self.before(kind, name)
        route = self.routes.get((kind, name))
        if route is not None and route(ctx) is False:
            ctx.state = DROPPED
        return 1

    def run_onsend(self, ctx: Context) -> None:
        self.before(ONSEND, "")
        if self.onsend is not None and self.onsend(ctx) is False:
            ctx.state = DROPPED


class Bench:
    def __init__(
        self,
        params: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        budgets: Budgets | None = None,
        **routes: Any,
    ):
        self.loop = Loop()  # not run: the test moves its clock
        self.clock(1000.0)
        self.step_wall_clock(1.7e9)
        self.parking = Parking(self.loop.now)
        self.slow: dict[tuple[int, str], float] = {}  # (kind, name) of a route -> seconds it waits before it runs
        self.sent: list[Outgoing] = []
        self.broken: set[tuple[str, int]] = set()  # addresses that refuse
        self.defects: dict[tuple[str, int], type[Exception]] = {}  # addresses that nothing can be sent to by a bug
        self.listener = Listener(0, "udp", *PROXY)
        config = Settings()
        config.children = 1
        for name, value in (settings or {}).items():
            setattr(config, name, value)
        server = self.server = Server(config)
        server.listeners = [self.listener]
        server.aliases = {PROXY}
        server.loop = self.loop
        server.channels = Channels(1)
        server.counters = Counters(Segment(1 << 20), 1)
        server.counters.attach(0)
        server.send = self._send
        if budgets is not None:
            self.charges = Charges(budgets)
            server.provide(BUDGETS, budgets)
            server.provide(CHARGES, self.charges)
            server.hooks.on_credentials.append(self.charges.credentials)
            server.hooks.on_refused.append(self.charges.refused)
        tm_exports, sl_exports = tm.exports(), sl.exports()
        self.tm: Any = tm_exports.module
        self.sl: Any = sl_exports.module
        for name, value in (params or {}).items():
            setattr(self.tm, name, value)
        self.tm.init(server)
        self.sl.init(server)
        program = FakeProgram(**{name: self._bind(route) for name, route in routes.items()})
        program.before = lambda kind, name: self.park(self.slow.get((kind, name), 0.0))
        server.program = program
        self.pipeline = Pipeline(server)
        self.layer = self.pipeline.layer

    def clock(self, now: float) -> None:
        self.loop._now = now

    def step_wall_clock(self, offset: float) -> None:
        """Unix time is *offset* seconds ahead of the monotonic clock from now on."""
        self.loop._wall_offset = offset

    def park(self, seconds: float) -> None:
        """In a handler: wait, as for a program, while everything else goes on."""
        self.parking.park(seconds)

    def slow_resolver(self, seconds: float, *answers: tuple[str, str, int]) -> None:
        """From now on every name has these addresses, after *seconds*."""

        def resolve(_uri: object) -> list[tuple[str, str, int]]:
            self.park(seconds)
            if not answers:
                raise BackendError("no such name")
            return list(answers)

        self.pipeline.forwarder.resolve = resolve

    def slow_database(self, seconds: float) -> None:
        """From now on each request and each response waits for a database before it comes to the script."""

        def read(_ctx: Context) -> bool:
            self.park(seconds)
            return True

        self.server.hooks.pre_script.append(read)
        self.server.hooks.pre_reply.append(read)

    def _bind(self, route: Callable[..., object]) -> Callable[[Context], object]:
        return lambda ctx: route(self, ctx)

    def flow(self, source: tuple[str, int] = CALLER) -> Flow:
        """How *source* reaches this receiver."""
        return Flow(self.listener, *source)

    def _send(self, outgoing: Outgoing) -> None:
        defect = self.defects.get((outgoing.flow.host, outgoing.flow.port))
        if defect is not None:
            raise defect("no such thing")
        if (outgoing.flow.host, outgoing.flow.port) in self.broken:
            raise TransportError("unreachable")
        self.sent.append(outgoing)

    def receive(self, data: bytes | str, source: tuple[str, int] = CALLER) -> list[Sent]:
        """What went out because of *data*."""
        self.sent.clear()
        raw = data.encode() if isinstance(data, str) else data
        flow = Flow(self.listener, *source)
        self.loop.current = (raw, flow)
        self.parking.run(self.pipeline.receive, raw, flow)
        self.settle()
        return self.take()

    def settle(self) -> None:
        """Run what was put off to the top of the loop."""
        while self.loop._soon:
            self.loop._soon.popleft()()

    def advance(self, seconds: float) -> list[Sent]:
        """What went out while time passed."""
        self.sent.clear()
        end = self.loop.now() + seconds
        while (at := min(self.pipeline.next_timer_at(), self.parking.next_at())) <= end:
            self.clock(max(self.loop.now(), at) + 1e-6)
            if not self.parking.resume_due():
                self.parking.run(self.pipeline.on_timer, self.loop.now())
            self.settle()
        self.clock(end)
        return self.take()

    def take(self) -> list[Sent]:
        found = [Sent(item) for item in self.sent]
        self.sent.clear()
        return found


class Sent:
    """One outgoing message, short to compare: ``INVITE 192.0.2.2`` or ``180 192.0.2.1``."""

    def __init__(self, outgoing: Outgoing) -> None:
        self.data = outgoing.data
        self.text = outgoing.data.decode("utf-8", "surrogateescape")
        self.host, self.port = outgoing.flow.host, outgoing.flow.port
        first, second, _ = (*self.text.split(" ", 2), "", "")[:3]  # an answer to STUN has no words
        self.what = second if first == "SIP/2.0" else first

    def __repr__(self) -> str:
        return f"{self.what} {self.host}"

    def lines(self, name: str) -> list[str]:
        head = self.text.partition("\r\n\r\n")[0].split("\r\n")[1:]
        return [line for line in head if line.lower().startswith(name.lower() + ":")]

    def line(self, name: str) -> str:
        return self.lines(name)[0]


def names(sent: list[Sent]) -> list[str]:
    return [repr(item) for item in sent]


def request(
    method: str = "INVITE", uri: str = "sip:bob@192.0.2.2", *, branch: str = "z9hG4bKcaller1", call_id: str = "call-1",
    cseq: int = 1, to_tag: str = "", extra: tuple[str, ...] = (), via: str = "", body: str = "",
    cseq_method: str = "",
) -> str:  # fmt: skip
    lines = [
        f"{method} {uri} SIP/2.0",
        f"Via: {via or f'SIP/2.0/UDP {CALLER[0]}:{CALLER[1]};branch={branch}'}",
        "From: <sip:alice@192.0.2.1>;tag=alice",
        f"To: <sip:bob@192.0.2.2>{';tag=' + to_tag if to_tag else ''}",
        f"Call-ID: {call_id}",
        f"CSeq: {cseq} {cseq_method or method}",
        "Max-Forwards: 70",
        *extra,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines) + "\r\n\r\n" + body


def response(
    sent: Sent, status: int, reason: str = "Reason", *, to_tag: str = "bob", extra: tuple[str, ...] = ()
) -> str:
    """What the peer answers to *sent*."""
    lines = [f"SIP/2.0 {status} {reason}", *sent.lines("Via"), sent.line("From")]
    to = sent.line("To")
    lines.append(to if ";tag=" in to or status == 100 else f"{to};tag={to_tag}")
    lines += [sent.line("Call-ID"), sent.line("CSeq"), *extra, "Content-Length: 0"]
    return "\r\n".join(lines) + "\r\n\r\n"


__all__ = ["CALLER", "PROXY", "Bench", "Sent", "names", "request", "response"]
