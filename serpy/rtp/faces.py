"""What the modules ``rtpproxy`` and ``rtpengine`` have in common: functions of the modern dialect under their names.

Runs in: master (init), udp receiver, timer (tests of the proxies), ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import Arg, Context, Exports, Function, Param, Routes, Rpc
from serpy.rtp.functions import RTP_FUNCTIONS, RtpFunctions, Value
from serpy.rtp.link import Timeouts
from serpy.rtp.nodes import RTPPROXY
from serpy.rtp.relay import RelaySettings, RtpRelay

if TYPE_CHECKING:
    from serpy.api import Server

_MESSAGES: Final = Routes.REQUEST | Routes.ONREPLY | Routes.FAILURE | Routes.BRANCH
_ENDS: Final = Routes.REQUEST | Routes.ONREPLY | Routes.FAILURE


class MediaModule:
    """One such module: its parameters are attributes, set by the loader."""

    def __init__(self, name: str, protocol: str, default_socket: str) -> None:
        self._name: Final = name
        self._protocol: Final = protocol
        self._default: Final = default_socket
        self.sockets: list[str] = []
        self.disable_tout = 60
        self.retr = 5
        self.tout = 1
        self.tout_ms = 0
        self._functions: RtpFunctions | None = None

    def init(self, server: Server) -> None:
        """Read the addresses of the proxies. Raises ConfigError."""
        settings = RelaySettings(
            self._name,
            self._protocol,
            self.sockets or [self._default],
            Timeouts(self.retr, self.tout_ms / 1000.0 if self.tout_ms else float(self.tout)),
            float(self.disable_tout),
            test_at_start=bool(self.sockets),
        )
        self._functions = RtpFunctions(RtpRelay(server, settings))
        if self._protocol == RTPPROXY:
            server.provide(RTP_FUNCTIONS, self._functions)  # nathelper has functions of the same names

    @property
    def _rtp(self) -> RtpFunctions:
        assert self._functions is not None, "init() runs first"
        return self._functions

    def offer(self, ctx: Context, flags: Value = "", address: Value = "") -> int:
        """See ``RtpFunctions.offer``."""
        return self._rtp.offer(ctx, flags, address)

    def answer(self, ctx: Context, flags: Value = "", address: Value = "") -> int:
        """See ``RtpFunctions.answer``."""
        return self._rtp.answer(ctx, flags, address)

    def manage(self, ctx: Context, flags: Value = "", address: Value = "") -> int:
        """See ``RtpFunctions.manage``."""
        return self._rtp.manage(ctx, flags, address)

    def end(self, ctx: Context, flags: Value = "") -> int:
        """See ``RtpFunctions.end``."""
        return self._rtp.end(ctx, flags)

    def record(self, ctx: Context, flags: Value = "") -> int:
        """See ``RtpFunctions.record``."""
        return self._rtp.record(ctx, flags)

    def list_nodes(self) -> list[dict[str, object]]:
        """The media proxies: which are up, down or taken out, their weights."""
        return self._rtp.relay.list_nodes()

    def enable(self, node: str, on: int = 1) -> int:
        """Put a media proxy (index, socket or all) in (1) or take it out (0); gives how many."""
        relay = self._rtp.relay
        return relay.enable(node) if on else relay.disable(node)

    def exports(self, ends: tuple[str, ...], params: list[Param]) -> Exports:
        """The export table; *ends* are the names of the function that ends a session."""
        name = self._name
        flags = (Arg.VALUE, Arg.VALUE)
        functions = [
            Function(
                f"{name}_offer", self.offer, flags, 2, _MESSAGES, "send the media of an SDP offer through a proxy"
            ),
            Function(f"{name}_answer", self.answer, flags, 2, _MESSAGES, "the same for an SDP answer"),
            Function(f"{name}_manage", self.manage, flags, 2, _MESSAGES, "offer, answer or end, by method and status"),
            Function("start_recording", self.record, (Arg.VALUE,), 1, _ENDS, "have the media proxy record the call"),
        ]
        for word in ends:
            functions.append(
                Function(word, self.end, (Arg.VALUE,), 1, _ENDS, "tell the media proxy that the call is over")
            )
        rpc = (Rpc(f"{name}.list", self.list_nodes), Rpc(f"{name}.enable", self.enable, write=True))
        return Exports(name, self, functions=functions, params=params, rpc=rpc, init=self.init)


def media_params(prefix: str, default_socket: str, retry: str) -> list[Param]:
    """The parameters, whose names begin with *prefix*; *retry* is the one that counts."""
    return [
        Param(
            f"{prefix}_sock", "str", default_socket,
            "media proxies with =WEIGHT behind; several in one text or one by one", attribute="sockets", repeat=True,
        ),
        Param(
            f"{prefix}_disable_tout", "int", 60, "seconds after which a media proxy that failed is tested again",
            attribute="disable_tout", check=_positive,
        ),
        Param(
            retry, "int", 5, "how often a question to a media proxy is sent", attribute="retr", check=_positive
        ),
        Param(
            f"{prefix}_tout", "int", 1, "seconds an answer is waited for before it is sent again", attribute="tout",
            check=_positive,
        ),
        Param(
            f"{prefix}_tout_ms", "int", 0, f"the same in milliseconds; 0: {prefix}_tout counts", attribute="tout_ms",
            check=_not_negative,
        ),
    ]  # fmt: skip


def _positive(value: object) -> str:
    return "" if isinstance(value, int) and 0 < value <= 86400 else "1 to 86400"


def _not_negative(value: object) -> str:
    return "" if isinstance(value, int) and 0 <= value <= 60000 else "0 to 60000"
