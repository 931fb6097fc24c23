"""What a request did, charged to whom it came from: the face of the budgets to hooks, transactions and modules.

Runs in: udp receiver. Locks: none. RFC: 3261 §22.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.context.authenticated import (
    BAD_NONCE,
    NO_CREDENTIALS,
    OK,
    REPLAY,
    STALE,
    UNKNOWN_USER,
    WRONG_PASSWORD,
)
from serpy.context.avps import GLOBAL
from serpy.errors import ProtocolError
from serpy.limited_log import RateLimit
from serpy.trust.budgets import Budgets
from serpy.trust.limits import PIKE, UNANSWERED, UNKNOWN
from serpy.trust.standing import KNOWN, NAMED, ON, WATCH

if TYPE_CHECKING:
    from serpy.context.context import Context

GATEWAY: Final = "gw_ip"  # the global attribute with the address of the gateway, in any configuration
_MOVED_MAX: Final = 86400
LINES: Final = 100  # of script logs about strangers, in each process
LINES_S: Final = 10.0


class Charges:
    """Charges of one process. *receivers* share the calls that ring."""

    def __init__(self, budgets: Budgets, receivers: int = 1) -> None:
        self.budgets: Final = budgets
        limits = budgets.limits
        # Each receiver counts its own; Call-IDs spread evenly, but not exactly.
        self._ringing_most: Final = _share(limits.ringing, receivers)
        self._callee_most: Final = _share(limits.callee_ringing, receivers)
        self._lines: Final = RateLimit(LINES, LINES_S)
        self._left_out = 0
        self._ringing: Final[dict[str, int]] = {}  # strangers' calls without an answer, by source and by callee

    # --- who

    def is_gateway(self, ctx: Context) -> bool:
        """True for the gateway that the global attributes name."""
        return ctx.avps.newest(GLOBAL, GATEWAY) == ctx.flow.host

    def level(self, ctx: Context) -> int:
        """STRANGER, PROVEN, KNOWN or NAMED: how far the sender of *ctx* is believed."""
        if ctx.authenticated is not None or self.is_gateway(ctx):
            return NAMED
        return self.budgets.level(ctx.flow)

    def is_favoured(self, ctx: Context) -> bool:
        """True for whom the last quarter of the room for transactions is kept."""
        request = ctx.request
        if request is None or self.level(ctx) >= KNOWN:
            return True
        try:
            return bool(request.to_tag) or self.budgets.is_emergency(ctx.uri.user)
        except ProtocolError:
            return False

    # --- what happened

    def credentials(self, ctx: Context, who: str, outcome: str) -> None:
        """``Hooks.on_credentials``."""
        if outcome == OK:
            self._right(ctx, who)
        elif self.is_gateway(ctx):
            return
        elif outcome in {WRONG_PASSWORD, UNKNOWN_USER}:
            self.budgets.wrong_password(ctx.flow, who)
        elif outcome in {NO_CREDENTIALS, BAD_NONCE, STALE, REPLAY}:
            self.budgets.charge(ctx.flow, UNANSWERED)

    def _right(self, ctx: Context, who: str) -> None:
        """*who* is known here from now on, as long as they are registered."""
        names = [who]
        seconds = 0
        message = ctx.message
        try:
            if ctx.request is not None and ctx.request.method == "REGISTER":
                seconds = min(message.expires or 0, _MOVED_MAX)
            uri = message.from_.uri
            name = f"{uri.user}@{uri.host}"
            if name != who and uri.user and name.lower() != who.lower():
                names.append(name)
        except ProtocolError:
            pass
        self.budgets.right_password(ctx.flow, names, seconds)

    def refused(self, ctx: Context, status: int) -> None:
        """``Hooks.on_refused``: we have answered 403 or 404."""
        if ctx.authenticated is not None or self.is_gateway(ctx):
            return
        try:
            if status == 404 and ctx.message.to_tag:
                return  # some phones go on with dialogs that we have forgotten
        except ProtocolError:
            pass
        self.budgets.charge(ctx.flow, UNKNOWN)

    # --- what is wanted

    def allows_call(self, ctx: Context) -> bool:
        """Count a request to one of our users; False when its source, or the user, gets too many from strangers."""
        if self.level(ctx) >= KNOWN:
            return True
        try:
            callee = f"{ctx.uri.user}@{ctx.uri.host}".lower()
            if self.budgets.is_emergency(ctx.uri.user):
                return True
        except ProtocolError:
            return True  # the script will see
        budgets = self.budgets
        ringing = self._ringing
        if ringing.get(ctx.flow.host, 0) >= self._ringing_most or ringing.get(callee, 0) >= self._callee_most:
            budgets.refused_calls += 1
            if budgets.mode != WATCH:
                return False
        if not budgets.allows_call(ctx.flow, callee):
            return False
        if ctx.request is not None and ctx.request.method == "INVITE" and ctx.transaction is None:
            ctx.counted = callee
        return True

    def begin(self, ctx: Context) -> None:
        """A stranger's call has its transaction: it rings."""
        for key in (ctx.flow.host, ctx.counted):
            self._ringing[key] = self._ringing.get(key, 0) + 1

    def end(self, ctx: Context, status: int) -> None:
        """It rings no more; an answered call takes events off."""
        for key in (ctx.flow.host, ctx.counted):
            left = self._ringing.get(key, 0) - 1
            if left > 0:
                self._ringing[key] = left
            else:
                self._ringing.pop(key, None)
        if 200 <= status < 300:
            self.budgets.credit(ctx.flow)

    def allows_row(self, ctx: Context) -> bool:
        """True when a row of accounting may be written for *ctx*."""
        named = ctx.authenticated is not None or self.is_gateway(ctx)
        return self.budgets.allows_row(ctx.flow, named=named)

    def allows_line(self, ctx: Context) -> bool:
        """True when the script may write another line to the log about who sent *ctx*."""
        if self.budgets.mode != ON or self.level(ctx) >= KNOWN:
            return True
        if self._lines.allows(ctx.clock.now()):
            self._left_out += self._lines.take_suppressed()
            return True
        self.budgets.lines_left_out += 1
        return False

    def lines_left_out(self) -> int:
        """How many were not written before the last that was, asked once."""
        count, self._left_out = self._left_out, 0
        return count

    def allows_pike(self, ctx: Context, count: int, seconds: int) -> bool:
        """Count any request of a source; False when more than *count* came in *seconds*."""
        if self.level(ctx) >= KNOWN:
            return True
        return self.budgets.allows_any(ctx.flow, PIKE, count, seconds)


def _share(limit: int, receivers: int) -> int:
    return limit if receivers == 1 else max(2, -(-limit * 2 // receivers))
