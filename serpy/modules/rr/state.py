"""What rr remembers of one message, kept in ``Context.notes``.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6 item 4.
"""

from __future__ import annotations

from typing import Final

from serpy.api import Context, Flow, Listener
from serpy.modules.rr.cookie import Cookie
from serpy.modules.rr.dialogs import Beginning, Dialogs
from serpy.modules.rr.own import OwnRoute
from serpy.modules.rr.rule import NOT_ASKED
from serpy.sip.nameaddr import NameAddr
from serpy.sip.uri import Uri

NAME: Final = "rr"


class RecordRoute:
    """The Record-Route lines of one request, rendered for each branch when it is known where the branch leaves.

    *head* is ``<sip:`` or ``<sip:user@``, *tail* everything from the first parameter after ``transport`` and ``r2``
    up to ``lr``. *preset* is used instead of our own address when not "".
    """

    def __init__(self, head: str, tail: str, *, double: bool, preset: str = "") -> None:
        self.head = head
        self.tail = tail
        self.double = double
        self.preset = preset
        self.extra = ""  # add_rr_param
        # Of a request that may begin a dialog.
        self.dialogs: Dialogs | None = None
        self.begins: Beginning | None = None
        self.limits: list[int] | None = None

    def render(self, ctx: Context, flow: Flow) -> list[str]:
        """The header lines for a branch of *ctx* that leaves by *flow*, the topmost first."""
        if self.dialogs is not None and self.begins is not None:
            self.dialogs.leaves(ctx, self.begins, flow, self.limits)
        if self.preset:
            return [f"Record-Route: {self.head}{self.preset}{self.extra}>"]
        out = flow.listener
        came = ctx.flow.listener
        if self.double and came.index != out.index:
            # The next request of the callee finds the outgoing side first, hence it stands on top.
            return [self._line(out, ";r2=on"), self._line(came, ";r2=on")]
        return [self._line(out, "")]

    def _line(self, listener: Listener, mark: str) -> str:
        transport = listener.transport
        if transport != "udp":
            mark = f";transport={transport}{mark}"
        return f"Record-Route: {self.head}{listener.sent_by}{mark}{self.extra}{self.tail}>"


class Plan:
    """What the Route set of a request says.

    *own* is the one with our parameters, *second* the other half of a double one. The first *used* values are ours,
    *following* is the next, None when there is none. *target* is where it is bound for in the end.
    """

    def __init__(
        self, own: OwnRoute, second: Uri | None, used: int, following: NameAddr | None, target: str, *,
        strict: bool, preloaded: bool,
    ) -> None:  # fmt: skip
        self.own: Final = own
        self.second: Final = second
        self.used: Final = used
        self.following: Final = following
        self.target: Final = target
        self.strict: Final = strict
        self.preloaded: Final = preloaded  # the Request-URI is ours


class RouteState:
    """The rr view of one request."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.is_planned = False
        self.verdict: int = NOT_ASKED
        self.cookie: Cookie | None = None  # that the verdict was found by
        self.limits: list[int] | None = None  # what the call will count for: call_limit()
        self.record: RecordRoute | None = None
        self.extra = ""  # parameters added before record_route() was called
        self.next_route: str | None = None
        self.own_route: OwnRoute | None = None  # the URI with our parameters: a Route, or the R-URI of a strict router
        self.processed = False  # loose_route() has worked on this message


def state_of(ctx: Context) -> RouteState:
    """The message's state, made on first use."""
    found = ctx.notes.get(NAME)
    if isinstance(found, RouteState):
        return found
    state = RouteState()
    ctx.notes[NAME] = state
    return state
