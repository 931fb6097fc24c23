"""nathelper: phones behind NATs, keep-alives for them, and the media proxy.

``nat.py`` tests and repairs messages, ``keepalive.py`` holds the mappings of the NATs open from the timer process,
``rtp.py`` has the functions for media proxies.

Runs in: master (init), udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from serpy.api import Arg, Exports, Function, Param, Routes, Select
from serpy.modules.nathelper.keepalive import KeepAlive, check_method
from serpy.modules.nathelper.nat import NAME, Nat
from serpy.modules.nathelper.rtp import RtpPart, rtp_params

if TYPE_CHECKING:
    from serpy.api import Context, Server


log = logging.getLogger(__name__)


class NatHelper(RtpPart):
    """The module: its parameters, whatever part they belong to, and the parts."""

    def __init__(self) -> None:
        super().__init__()
        self.natping_interval = 0
        self.natping_method = ""
        self.natping_crlf = 1
        self.tcpping_crlf = 1
        self.natping_stateful = 0
        self.ping_nated_only = 0
        self.force_socket = ""
        self.nat = Nat()
        self.keepalive = KeepAlive()

    def init(self, server: Server) -> None:
        """Hand the parameters to the parts; called in the master. Raises ConfigError."""
        self.nat.init(server)
        self.keepalive.init(
            server,
            interval=self.natping_interval,
            method=self.natping_method,
            crlf=self.natping_crlf != 0 and self.tcpping_crlf != 0,
            nated_only=self.ping_nated_only != 0,
            force_socket=self.force_socket,
        )
        self.init_rtp(server)
        if self.natping_stateful:
            log.warning("nathelper: natping_stateful is ignored, keep-alives are sent without a transaction")

    def child_init(self, server: Server) -> None:
        """Start what runs in this process."""
        self.nat.child_init(server)
        if server.role == "timer":
            self.keepalive.start()

    def resolve_rewrite(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """The reader of ``@nathelper.rewrite_contact[n]``."""
        number = parts[0] if parts else 1
        if len(parts) > 1 or not isinstance(number, int) or number < 1:
            raise ValueError("write @nathelper.rewrite_contact[n], n from 1")
        return lambda ctx: self.nat.rewritten_contact(ctx, number)


def _ping_params() -> list[Param]:
    return [
        Param(
            "natping_interval",
            "int",
            0,
            "seconds in which every contact gets one keep-alive, 0 = none",
            check=_check_interval,
        ),
        Param(
            "natping_method",
            "str",
            "",
            "what to send: OPTIONS (or another method), CRLF for two bytes, empty for four",
            check=check_method,
        ),
        Param("natping_crlf", "int", 1, "1: four bytes over TCP and TLS whatever the method; 0: the method there, too"),
        Param("tcpping_crlf", "int", 1, "the older name of natping_crlf: 0 in either of them counts"),
        Param("ping_nated_only", "int", 0, "1: only contacts with the NAT flag"),
        Param("natping_stateful", "int", 0, "ignored: keep-alives are stateless"),
        Param("force_socket", "str", "", "listen address for pings to contacts that came in by none of ours"),
    ]


def _check_interval(value: int) -> str:
    return "" if 0 <= value <= 3600 else "natping_interval is 0 (none) to 3600 seconds"


def _ping_functions(keepalive: KeepAlive) -> list[Function]:
    return [
        Function(
            "ping_contact",
            keepalive.ping_contact,
            (Arg.VALUE,),
            optional=1,
            summary="send one keep-alive to this URI, or to where the request came from",
        ),
    ]


def _nat_functions(nat: Nat) -> list[Function]:
    return [
        Function(
            "nat_uac_test",
            nat.nat_uac_test,
            (Arg.INT,),
            routes=Routes.REQUEST | Routes.ONREPLY | Routes.FAILURE,
            summary="true when a test holds: 1 Contact private or nowhere, 2 source is not Via, 4 Via private, 8 SDP "
            "private, 16 source port is not Via's, 32 nor Contact's, 512 Contact leads nowhere, 1024 reply of a phone that "
            "registered from behind a NAT",
        ),
        Function(
            "fix_nated_contact",
            nat.fix_nated_contact,
            routes=Routes.REQUEST | Routes.ONREPLY,
            summary="write the source address and transport into the first Contact, unless it leads somewhere already",
        ),
        Function(
            "fix_nated_register",
            nat.fix_nated_register,
            routes=Routes.REQUEST,
            summary="add the source address to every Contact as a parameter",
        ),
    ]


def exports() -> Exports:
    """A fresh nathelper module."""
    module = NatHelper()
    return Exports(
        NAME,
        module,
        functions=[*_nat_functions(module.nat), *_ping_functions(module.keepalive), *module.rtp_functions()],
        params=[*_ping_params(), *rtp_params()],
        selects=[
            Select(
                "nathelper.rewrite_contact", module.resolve_rewrite, "Contact value n (from 1) with the source address"
            )
        ],
        rpc=module.rtp_rpc(),
        init=module.init,
        child_init=module.child_init,
    )
