"""What rr remembers of one message, kept in ``Context.notes``.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6 item 4.
"""

from __future__ import annotations

from typing import Final

from serpy.api import Context, Flow, Listener
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

    def render(self, flow: Flow, out: Listener) -> list[str]:
        """The header lines for a branch that came in by *flow* and leaves by *out*, the topmost first."""
        if self.preset:
            return [f"Record-Route: {self.head}{self.preset}{self.extra}>"]
        came = flow.listener
        if self.double and came.index != out.index:
            # The next request of the callee finds the outgoing side first, hence it stands on top.
            return [self._line(out, ";r2=on"), self._line(came, ";r2=on")]
        return [self._line(out, "")]

    def _line(self, listener: Listener, mark: str) -> str:
        transport = listener.transport
        if transport != "udp":
            mark = f";transport={transport}{mark}"
        return f"Record-Route: {self.head}{listener.sent_by}{mark}{self.extra}{self.tail}>"


class RouteState:
    """The rr view of one request."""

    def __init__(self) -> None:
        self.record: RecordRoute | None = None
        self.extra = ""  # parameters added before record_route() was called
        self.next_route: str | None = None
        self.own_route: Uri | None = None  # the URI with our parameters: a Route, or the R-URI of a strict router
        self.processed = False  # loose_route() has worked on this message


def state_of(ctx: Context) -> RouteState:
    """The message's state, made on first use."""
    found = ctx.notes.get(NAME)
    if isinstance(found, RouteState):
        return found
    state = RouteState()
    ctx.notes[NAME] = state
    return state
