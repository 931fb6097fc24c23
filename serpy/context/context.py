"""Everything the script may see and change about the one message it is working on.

A Context belongs to one message, is handed through every script function, and is kept by the transaction so that
failure, reply and branch routes find the request's flags, attributes and edits again. ``arrived_at`` says when the
message came and nothing else: a handler may have waited since, so whoever arms or compares asks ``clock``.

Runs in: udp receiver, timer (synthetic requests). Locks: none. RFC: 3261 §16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from serpy.clock import Clock
from serpy.context.avps import Avps
from serpy.sip.message import Edits, Message, Request, Response
from serpy.sip.uri import Uri, parse_uri

if TYPE_CHECKING:
    from serpy.context.authenticated import Authenticated
    from serpy.sip.flow import Flow, Listener
    from serpy.transaction.transactions import ServerTransaction

# Route kinds: the same numbers as serpy.script.exports.Routes, as plain ints for the hot path.
REQUEST: Final = 1
FAILURE: Final = 2
ONREPLY: Final = 4
BRANCH: Final = 8
ONSEND: Final = 16
EVENT: Final = 32

MAX_BRANCHES: Final = 12  # SER's limit: more destinations than this are a configuration error

RUNNING: Final = 0
EXITED: Final = 1  # exit, or a function returned 0
DROPPED: Final = 2  # drop
FAILED: Final = 3  # a run-time error ended the script

# Bits of Target.flags.
NATTED: Final = 1  # the phone is behind a NAT and called where it registered from
SOFT: Final = 2  # its address is another's, and has never answered: see modules/registrar/unproven.py

PerBranchHeaders = Callable[["Context", "Flow"], list[str]]
"""(the request's, where this branch leaves) -> header lines to put on top, e.g. Record-Route."""


class Target:
    """One destination of the target set (RFC 3261 §16.5): the branch's Request-URI and how to get there.

    *dst_uri* is "" or the next-hop URI that overrides the Request-URI; *q* is 0..1000 or -1 when unset; *flags* are
    NATTED and SOFT.
    """

    def __init__(
        self, request_uri: str, dst_uri: str = "", listener: Listener | None = None, q: int = -1, flags: int = 0
    ) -> None:
        self.request_uri = request_uri
        self.dst_uri = dst_uri
        self.listener = listener
        self.q = q
        self.flags = flags


class Context:
    """The script's view of one message.

    In an onreply route ``message`` is the response and ``request`` the transaction's request (None when there is no
    transaction); everywhere else both are the request. ``edits`` belong to ``message``.
    """

    def __init__(self, message: Message, flow: Flow, clock: Clock, kind: int = REQUEST) -> None:
        self.message = message
        self.request: Request | None = message if isinstance(message, Request) else None
        self.response: Response | None = message if isinstance(message, Response) else None
        self.flow = flow
        self.kind = kind
        self.clock: Final = clock
        self.arrived_at: Final = clock.wall_now()  # Unix time; for accounts of the past only
        self.flags = 0
        self.avps = Avps()
        self.edits = Edits()
        self.reply_headers: list[str] = []  # append_to_reply: whole lines without CRLF
        self.per_branch_headers: list[PerBranchHeaders] = []
        # destination set
        self._request_uri = message.request_uri if isinstance(message, Request) else ""
        self._uri: Uri | None = None
        self.uri_changed = False  # differs from what was received
        self.uri_consumed = False  # append_branch() took the current Request-URI: do not try it twice
        self.dst_uri = ""
        self.send_listener: Listener | None = None  # force_send_socket
        self.q = -1
        self.target_flags = 0  # of the Request-URI; see Target
        self.branches: list[Target] = []
        # transaction
        self.transaction: ServerTransaction | None = None  # until it is answered and nothing is left to be done
        self.on_failure = ""
        self.on_reply = ""
        self.on_branch = ""
        self.branch_index = 0
        self.status = 0  # t_check_status: winning code in failure_route, this reply's code in onreply_route
        self.final_sent = False  # a final reply to this request has gone out, stateful or stateless
        self.last_error = 0  # last core error, negative; what sl_reply_error answers for
        self.dialog = 0  # which record of the memory of calls is meant, 0 = none (modules/rr)
        self.reply_to_source = False  # force_rport: answer to the source port (RFC 3581)
        # script run time
        self.retcode = 1  # $?; routes store it only where they may read it (optimize.py)
        self.state = RUNNING
        self.depth = 0  # nested route() calls
        # onsend_route
        self.out_flow: Flow | None = None
        self.out_data = b""
        self.authenticated: Authenticated | None = None
        self.counted = ""  # whom a stranger calls, when that is being counted
        # per-message scratch space of modules, by module name; no module reads another's
        self.notes: dict[str, object] = {}

    @property
    def wall_now(self) -> float:
        """Unix time at this moment, in seconds."""
        return self.clock.wall_now()

    @property
    def request_uri(self) -> str:
        """The current Request-URI after the script's edits."""
        return self._request_uri

    @request_uri.setter
    def request_uri(self, value: str) -> None:
        self._request_uri = value
        self._uri = None
        self.uri_changed = True
        self.uri_consumed = False
        self.target_flags = 0

    @property
    def uri(self) -> Uri:
        """The current Request-URI, parsed. Raises ParseError."""
        uri = self._uri
        if uri is None:
            request, text = self.request, self._request_uri
            uri = request.uri if request is not None and request.request_uri is text else parse_uri(text)
            self._uri = uri
        return uri

    def targets(self) -> list[Target]:
        """The destination set: the current Request-URI unless consumed, then the appended branches."""
        if self.uri_consumed:
            return list(self.branches)
        first = Target(self._request_uri, self.dst_uri, self.send_listener, self.q, self.target_flags)
        return [first, *self.branches]

    def begin_branch(self, target: Target) -> BranchDraft:
        """Show a branch route *target* as its own; what it changes is undone by ``BranchDraft.end``."""
        return BranchDraft(self, target)


class BranchDraft:
    """What a branch route may change of the Context for its branch alone, as it was before."""

    def __init__(self, ctx: Context, target: Target) -> None:
        self._ctx: Final = ctx
        self._request_uri: Final = ctx.request_uri
        self._dst_uri: Final = ctx.dst_uri
        self._uri_changed: Final = ctx.uri_changed
        self._uri_consumed: Final = ctx.uri_consumed
        self._edits: Final = ctx.edits
        self._listener: Final = ctx.send_listener
        self._on_reply: Final = ctx.on_reply
        self._kind: Final = ctx.kind
        self._top: Final = ctx.per_branch_headers
        ctx.edits = ctx.edits.copy()
        ctx.per_branch_headers = list(self._top)
        ctx.request_uri = target.request_uri
        ctx.dst_uri = target.dst_uri
        ctx.send_listener = target.listener or self._listener

    def end(self) -> None:
        """Give the Context back as it was."""
        ctx = self._ctx
        ctx.request_uri = self._request_uri
        ctx.dst_uri = self._dst_uri
        ctx.uri_changed = self._uri_changed
        ctx.uri_consumed = self._uri_consumed
        ctx.edits = self._edits
        ctx.send_listener = self._listener
        ctx.on_reply = self._on_reply
        ctx.kind = self._kind
        ctx.per_branch_headers = self._top
