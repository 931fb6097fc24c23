"""Responses that belong to no transaction of this process: which of them go on, and where to. All others are dropped.

A response goes on when the branch parameter in its top Via has been sealed by this server for its Call-ID and its
transaction may really be gone: the request was forwarded without one, or by a process that has died or was restarted, or by
another member of the farm, or this is a 2xx to INVITE, which its caller must acknowledge. It goes where the seal says; nothing else in it is read, no
name is resolved and no connection made to another address. What a stranger sends ends here, before any script.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.7 step 3, §16.11, §18.1.2; 4320 §4.2; 6026 §8.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.clock import Clock
from serpy.errors import TransportError
from serpy.sip.flow import Flow, Outgoing
from serpy.sip.message import Edits, Response
from serpy.sip.writer import build_forwarded_response
from serpy.transaction.settings import TransactionSettings
from serpy.transaction.ways import STEADY_S, UNIT_S, Ways

# Why a response was dropped; the index of its counter.
FOREIGN: Final = 0
FORGED: Final = 1
ENDED: Final = 2
EXPIRED: Final = 3
BAD_VIA: Final = 4
UNSENT: Final = 5


class Strays:
    """Passes on, or drops and counts, what ``TransactionLayer.find_branch`` does not know."""

    def __init__(
        self, ways: Ways, settings: TransactionSettings, send: Callable[[Outgoing], None], clock: Clock
    ) -> None:
        self._ways: Final = ways
        self._settings: Final = settings
        self._send: Final = send
        self._clock: Final = clock
        self.is_myself: Callable[[str, int], bool] | None = None  # check_via: whose name the top Via must have
        self.dropped: Final[list[int]] = [0] * 6

    def has_good_via(self, response: Response) -> bool:
        """False, and counted, when there is no Via below the top one, which only our CANCELs are answered with (§16.7 step
        3); and when ``check_via`` wants the top one to name us and it does not.
        """
        vias = 0
        for name in response.names:
            if name == "via":
                vias += 1
                if vias > 1:
                    break
        good = vias > 1 or "," in response.lines[response.find("via")]
        if not good and response.method == "CANCEL":
            good = True
        is_myself = self.is_myself
        if good and is_myself is not None:
            via = response.via
            good = is_myself(via.host, via.port)
        if not good:
            self.dropped[BAD_VIA] += 1
        return good

    def way(self, response: Response) -> Flow | None:
        """Where *response* goes on to; None, and counted, for one that is dropped."""
        branch = response.via.branch
        sealed = self._ways.open(branch, response.call_id)
        if sealed is None:
            self.dropped[FORGED if self._ways.is_ours(branch) else FOREIGN] += 1
            return None
        if sealed.start == self._ways.start and not (response.method == "INVITE" and 200 <= response.status < 300):
            self.dropped[ENDED] += 1  # a late answer ends here, RFC 4320 §4.2
            return None
        settings = self._settings
        lifetime_s = settings.max_inv_lifetime_s + 64 * settings.retr_timer1_s + UNIT_S
        if not sealed.start:
            lifetime_s += STEADY_S
        if abs(self._clock.wall_now() - sealed.since) > lifetime_s:
            self.dropped[EXPIRED] += 1
            return None
        return sealed.flow

    def pass_on(self, response: Response, edits: Edits) -> bool:
        """Send *response* back by its sealed way; False when it was dropped."""
        flow = self.way(response)
        if flow is None:
            return False
        try:
            self._send(Outgoing(build_forwarded_response(response, edits), flow))
        except TransportError:
            self.dropped[UNSENT] += 1
            return False
        return True
