"""nathelper's functions, parameters and RPCs for media proxies; the work is done in ``serpy.rtp``.

Runs in: master (init), udp receiver, timer (tests of the proxies), ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import Arg, Context, Function, Param, Routes, Rpc
from serpy.rtp.functions import RTP_FUNCTIONS, RtpFunctions, Value
from serpy.rtp.link import Timeouts
from serpy.rtp.nodes import RTPPROXY
from serpy.rtp.relay import RelaySettings, RtpRelay

if TYPE_CHECKING:
    from serpy.api import Server

DEFAULT_SOCKET: Final = "unix:/var/run/rtpproxy.sock"

_MESSAGES: Final = Routes.REQUEST | Routes.ONREPLY | Routes.FAILURE | Routes.BRANCH
_ENDS: Final = Routes.REQUEST | Routes.ONREPLY | Routes.FAILURE


class RtpPart:
    """The part of nathelper that knows media proxies: its parameters are attributes, set by the loader."""

    def __init__(self) -> None:
        self.rtpproxy_sock: list[str] = []
        self.rtpproxy_disable = 0
        self.rtpproxy_disable_tout = 60
        self.rtpproxy_retr = 5
        self.rtpproxy_tout = 1
        self.rtpproxy_tout_ms = 0
        self._own: RtpFunctions | None = None
        self._functions: RtpFunctions | None = None  # found at the first use, when all modules are initialised
        self._server: Server | None = None

    def init_rtp(self, server: Server) -> None:
        """Read the addresses of the proxies; in the master. Raises ConfigError."""
        each_s = self.rtpproxy_tout_ms / 1000.0 if self.rtpproxy_tout_ms else float(self.rtpproxy_tout)
        settings = RelaySettings(
            "nathelper",
            RTPPROXY,
            self.rtpproxy_sock or [DEFAULT_SOCKET],
            Timeouts(self.rtpproxy_retr, each_s),
            float(self.rtpproxy_disable_tout),
            disabled=self.rtpproxy_disable != 0,
            # Nobody may want a proxy: the default one is tested when the script first uses it.
            test_at_start=bool(self.rtpproxy_sock),
        )
        self._own = RtpFunctions(RtpRelay(server, settings))
        self._server = server

    @property
    def _rtp(self) -> RtpFunctions:
        """Our proxies; without any, those of the module rtpproxy when it is loaded: it has functions of these names."""
        found = self._functions
        if found is None:
            assert self._own is not None, "init_rtp() runs first"
            assert self._server is not None
            other = None if self.rtpproxy_sock else self._server.find(RTP_FUNCTIONS)
            found = self._functions = other or self._own
        return found

    # -- script ---------------------------------------------------------------------------------------------------

    def force_rtp_proxy(self, ctx: Context, flags: Value = "", address: Value = "") -> int:
        """Offer or answer: see ``RtpFunctions.auto``."""
        return self._rtp.auto(ctx, flags, address)

    def rtpproxy_offer(self, ctx: Context, flags: Value = "", address: Value = "") -> int:
        """See ``RtpFunctions.offer``."""
        return self._rtp.offer(ctx, flags, address)

    def rtpproxy_answer(self, ctx: Context, flags: Value = "", address: Value = "") -> int:
        """See ``RtpFunctions.answer``."""
        return self._rtp.answer(ctx, flags, address)

    def unforce_rtp_proxy(self, ctx: Context) -> int:
        """See ``RtpFunctions.end``."""
        return self._rtp.end(ctx)

    def start_recording(self, ctx: Context) -> int:
        """See ``RtpFunctions.record``."""
        return self._rtp.record(ctx)

    def fix_nated_sdp(self, ctx: Context, bits: int, address: Value = "") -> int:
        """See ``RtpFunctions.fix_nated_sdp``."""
        return self._rtp.fix_nated_sdp(ctx, bits, address)

    def rtp_functions(self) -> list[Function]:
        """What the script may call."""
        flags = (Arg.VALUE, Arg.VALUE)
        return [
            Function(
                "force_rtp_proxy",
                self.force_rtp_proxy,
                flags,
                2,
                _MESSAGES,
                "send the media of the message's SDP through a media proxy (flags, address to announce)",
            ),
            Function(
                "unforce_rtp_proxy", self.unforce_rtp_proxy, (), 0, _ENDS, "tell the media proxy that the call is over"
            ),
            Function("rtpproxy_offer", self.rtpproxy_offer, flags, 2, _MESSAGES, "the same for an SDP offer"),
            Function("rtpproxy_answer", self.rtpproxy_answer, flags, 2, _MESSAGES, "the same for an SDP answer"),
            Function("start_recording", self.start_recording, (), 0, _ENDS, "have the media proxy record the call"),
            Function(
                "fix_nated_sdp",
                self.fix_nated_sdp,
                (Arg.INT, Arg.VALUE),
                1,
                _MESSAGES,
                "change the SDP: 1 add a=direction:active, 2 source address into c=, 4 add a=nortpproxy:yes, 8 into o=",
            ),
        ]

    # -- RPC ------------------------------------------------------------------------------------------------------

    def list_nodes(self) -> list[dict[str, object]]:
        """The media proxies: which are up, down or taken out, their weights."""
        return self._rtp.relay.list_nodes()

    def enable(self, node: str) -> int:
        """Put a media proxy (index, socket or all) back in; gives how many."""
        return self._rtp.relay.enable(node)

    def disable(self, node: str) -> int:
        """Take a media proxy (index, socket or all) out: calls it has stay, new ones go elsewhere; gives how many."""
        return self._rtp.relay.disable(node)

    def rtp_rpc(self) -> list[Rpc]:
        """What an administrator may call."""
        return [
            Rpc("nathelper.rtpproxy_list", self.list_nodes),
            Rpc("nathelper.rtpproxy_enable", self.enable, write=True),
            Rpc("nathelper.rtpproxy_disable", self.disable, write=True),
        ]


def rtp_params() -> list[Param]:
    """The parameters, for ``Exports.params``."""
    return [
        Param(
            "rtpproxy_sock",
            "str",
            DEFAULT_SOCKET,
            "media proxies: udp:HOST:PORT, unix:PATH (rtpproxy) or ng:HOST:PORT (rtpengine), with =WEIGHT behind; several "
            "in one text or one by one",
            repeat=True,
        ),
        Param("rtpproxy_disable", "int", 0, "1: all media proxies are out of use until an RPC puts them in"),
        Param(
            "rtpproxy_disable_tout",
            "int",
            60,
            "seconds after which a media proxy that failed is tested again",
            check=_positive,
        ),
        Param("rtpproxy_retr", "int", 5, "how often a question to a media proxy is sent", check=_positive),
        Param("rtpproxy_tout", "int", 1, "seconds an answer is waited for before it is sent again", check=_positive),
        Param("rtpproxy_tout_ms", "int", 0, "the same in milliseconds; 0: rtpproxy_tout counts", check=_not_negative),
    ]


def _positive(value: object) -> str:
    return "" if isinstance(value, int) and 0 < value <= 86400 else "1 to 86400"


def _not_negative(value: object) -> str:
    return "" if isinstance(value, int) and 0 <= value <= 60000 else "0 to 60000"
