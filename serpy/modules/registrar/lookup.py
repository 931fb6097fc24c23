"""From a user to the target set of a request, and who that user is.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import Binding
from serpy.context.avps import TO_USER
from serpy.context.context import MAX_BRANCHES, Context, Target
from serpy.errors import ParseError
from serpy.modules.registrar.register import check_key
from serpy.sip.abnf import ascii_lower
from serpy.sip.message import Request
from serpy.sip.received import parse_received
from serpy.sip.uri import unescape

if TYPE_CHECKING:
    from serpy.api import Server
    from serpy.sip.flow import Listener


def to_uid(ctx: Context, *, escaped: bool = False) -> str:
    """The callee's uid: ``$tu.uid``, else the lower-case user of To (REGISTER) or of the Request-URI, which is then
    made the attribute; "" when there is none. *escaped*: the attribute was taken from a URI (replicas).

    Raises ParseError when it could not be stored.
    """
    value = ctx.avps.newest(TO_USER, "uid")
    if value is not None:
        uid = value if isinstance(value, str) else str(value)
        if escaped and "%" in uid:
            uid = unescape(uid)
        if uid:
            check_key(uid, "To")
        return uid
    request = ctx.request
    if request is None:
        return ""
    uri = request.to.uri if request.method == "REGISTER" else ctx.uri
    uid = ascii_lower(unescape(uri.user))
    if uid:
        check_key(uid, "To")
        ctx.avps.set(TO_USER, "uid", uid)
    return uid


class Targets:
    """Turns bindings into the target set."""

    def __init__(self, server: Server) -> None:
        self._server: Final = server
        self.append_branches = 1
        self.received_to_uri = 0
        self.load_nat_flag = 4

    def use(self, ctx: Context, bindings: list[Binding]) -> None:
        """Make the first of *bindings* (all live, in order) the Request-URI and the others branches."""
        first = bindings[0]
        ctx.request_uri = self._request_uri(first)
        ctx.dst_uri = "" if self.received_to_uri else first.received
        ctx.send_listener = self.listener(first)
        ctx.q = first.q
        nat = first.flags & Binding.NAT
        if self.append_branches:
            for binding in bindings[1 : MAX_BRANCHES - len(ctx.branches)]:
                nat |= binding.flags & Binding.NAT
                dst_uri = "" if self.received_to_uri else binding.received
                ctx.branches.append(
                    Target(
                        self._request_uri(binding),
                        dst_uri,
                        self.listener(binding),
                        binding.q,
                        binding.flags & Binding.NAT,
                    )
                )
        if nat and self.load_nat_flag >= 0:
            ctx.flags |= 1 << self.load_nat_flag

    def listener(self, binding: Binding) -> Listener | None:
        """The socket the binding came in by, when ``received`` names one of ours that can send."""
        if not binding.received:
            return None
        try:
            received = parse_received(binding.received)
        except ParseError:
            return None
        if not received.local_port:
            return None
        return self._server.listener_for(received.transport, received.local_host, received.local_port)

    def _request_uri(self, binding: Binding) -> str:
        if self.received_to_uri and binding.received:
            return f'{binding.contact};received="{binding.received}"'
        return binding.contact


def is_request(ctx: Context) -> Request:
    """The request being worked on. Raises ParseError (a script that saves a reply)."""
    if ctx.request is None:
        raise ParseError("not a request")
    return ctx.request
