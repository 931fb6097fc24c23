"""What strangers may want of us: levels of trust, charges and bans of sources, for scripts.

The budgets are the core's (serpy/trust): with this module sources that go over them are quiet, or banned when they have
proved where they are; without it only pairs and users that are guessed at are silenced, and the core keeps its limits.

Runs in: udp receiver. Locks: none. RFC: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import BUDGETS, CHARGES, FALSE, TRUE, Arg, Context, Exports, Function, Param, Routes, Server
from serpy.trust.limits import MALFORMED, NAMES, UNANSWERED, UNKNOWN

if TYPE_CHECKING:
    from serpy.trust.charges import Charges

CALL: Final = "call"
_CHARGED: Final = {NAMES[reason]: reason for reason in (UNANSWERED, MALFORMED, UNKNOWN)}
EMERGENCY: Final = "110 112 911 999 sos"


class Trust:
    """The module."""

    def __init__(self) -> None:
        self.emergency = EMERGENCY
        self._charges: Charges  # set by init()

    def init(self, server: Server) -> None:
        """Have sources held, too."""
        budgets = server.bind(BUDGETS)
        budgets.holds_sources = True
        budgets.emergency = frozenset(self.emergency.split())
        self._charges = server.bind(CHARGES)

    def trust_level(self, ctx: Context) -> int:
        """False for a stranger; 1 proven: receives what we send there; 2 known: has authenticated; 3 named: just did."""
        return self._charges.level(ctx) or FALSE

    def trust_charge(self, ctx: Context, reason: str) -> int:
        """Charge the source of a request."""
        if self._charges.level(ctx) < 2:
            self._charges.budgets.charge(ctx.flow, _CHARGED[reason])
        return TRUE

    def trust_allows(self, ctx: Context, reason: str) -> int:
        """False when the source has had enough of it; "call" counts, the others are only looked at."""
        if reason == CALL:
            return TRUE if self._charges.allows_call(ctx) else FALSE
        if self._charges.level(ctx) >= 2:
            return TRUE
        return TRUE if self._charges.budgets.allows(ctx.flow, _CHARGED[reason]) else FALSE


def _charged(text: str) -> str:
    if text not in _CHARGED:
        raise ValueError(f"is one of {', '.join(_CHARGED)}")
    return text


def _allowed(text: str) -> str:
    return text if text == CALL else _charged(text)


def exports() -> Exports:
    """A fresh instance of the module."""
    module = Trust()
    anywhere = Routes.REQUEST | Routes.FAILURE
    return Exports(
        name="trust",
        module=module,
        functions=(
            Function(
                "trust_level", module.trust_level, (), 0, anywhere,
                "true when the sender is no stranger; $? is 1 proven, 2 known, 3 authenticated",
            ),
            Function(
                "trust_charge", module.trust_charge, (Arg.STR,), 0, anywhere,
                'charge the source: "unknown", "malformed", "unanswered"', prepare={0: _charged},
            ),
            Function(
                "trust_allows", module.trust_allows, (Arg.STR,), 0, anywhere,
                'false when a stranger has had enough: "call" counts a request to one of our users', prepare={0: _allowed},
            ),
        ),
        params=(Param("emergency", "str", EMERGENCY, "users that everybody may call at any time, between spaces"),),
        init=module.init,
    )  # fmt: skip
