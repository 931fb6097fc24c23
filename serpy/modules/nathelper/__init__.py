"""nathelper: phones behind NATs, keep-alives for them, and the media proxy.

``nat.py`` tests and repairs messages, ``keepalive.py`` holds the mappings of the NATs open from the timer process,
``rtp.py`` has the functions for media proxies.

How the parts come together: parameters are attributes of ``NatHelper``, whatever part they belong to. A part offers
``functions()`` and ``params()`` and takes its values over in its own ``init(server, values)``.

Runs in: master (init), udp receiver, timer. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from serpy.api import Arg, Exports, Function, Routes, Select
from serpy.modules.nathelper.nat import NAME, Nat

if TYPE_CHECKING:
    from serpy.api import Context, Server


class NatHelper:
    """The module: what its parameters were set to, by name."""

    def __init__(self) -> None:
        self.nat = Nat()

    def init(self, server: Server) -> None:
        """Hand the parameters to the parts; called in the master. Raises ConfigError."""

    def child_init(self, server: Server) -> None:
        """Start what runs in this process."""

    def resolve_rewrite(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """The reader of ``@nathelper.rewrite_contact[n]``."""
        number = parts[0] if parts else 1
        if len(parts) > 1 or not isinstance(number, int) or number < 1:
            raise ValueError("write @nathelper.rewrite_contact[n], n from 1")
        return lambda ctx: self.nat.rewritten_contact(ctx, number)


def _nat_functions(nat: Nat) -> list[Function]:
    return [
        Function(
            "nat_uac_test",
            nat.nat_uac_test,
            (Arg.INT,),
            routes=Routes.REQUEST | Routes.ONREPLY | Routes.FAILURE,
            summary="true when a test holds: 1 Contact private, 2 source is not Via, 4 Via private, 8 SDP private, "
            "16 source port is not Via's, 32 nor Contact's",
        ),
        Function(
            "fix_nated_contact",
            nat.fix_nated_contact,
            routes=Routes.REQUEST | Routes.ONREPLY,
            summary="write the source address into the first Contact",
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
        functions=_nat_functions(module.nat),
        params=[],
        selects=[
            Select(
                "nathelper.rewrite_contact", module.resolve_rewrite, "Contact value n (from 1) with the source address"
            )
        ],
        init=module.init,
        child_init=module.child_init,
    )
