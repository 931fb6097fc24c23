"""pike: SER's limit of requests from one address, on the shared table of strangers.

Phones that have authenticated, and trusted networks, are never blocked: behind one address there may be many. IPv6 counts by
/64 and /48. Deviations from SER: one table for all processes; who is blocked is let in again as the rate falls, so
``remove_latency`` has no effect.

Runs in: udp receiver. Locks: none. RFC: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serpy.api import CHARGES, FALSE, TRUE, Context, Exports, Function, Param, Routes, Server

if TYPE_CHECKING:
    from serpy.trust.charges import Charges


class Pike:
    """The module."""

    def __init__(self) -> None:
        self.sampling_time_unit = 2
        self.reqs_density_per_unit = 30
        self.remove_latency = 4
        self._charges: Charges  # set by init()

    def init(self, server: Server) -> None:
        """Find the tables."""
        self._charges = server.bind(CHARGES)

    def pike_check_req(self, ctx: Context) -> int:
        """False when the source sends too many requests."""
        count, seconds = self.reqs_density_per_unit, self.sampling_time_unit
        return TRUE if self._charges.allows_pike(ctx, count, seconds) else FALSE


def _positive(value: object) -> str:
    return "" if isinstance(value, int) and 0 < value <= 100_000 else "must be 1 to 100000"


def exports() -> Exports:
    """A fresh instance of the module."""
    module = Pike()
    return Exports(
        name="pike",
        module=module,
        functions=(
            Function(
                "pike_check_req", module.pike_check_req, (), 0, Routes.REQUEST,
                "false when its address sends more than reqs_density_per_unit requests in sampling_time_unit seconds",
            ),
        ),
        params=(
            Param("sampling_time_unit", "int", 2, "seconds", check=_positive),
            Param("reqs_density_per_unit", "int", 30, "requests of one address in that time", check=_positive),
            Param("remove_latency", "int", 4, "accepted for old configurations, no effect"),
        ),
        init=module.init,
    )  # fmt: skip
