"""From a user to the target set of a request, and who that user is.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.api import Binding
from serpy.context.avps import TO_USER
from serpy.context.context import MAX_BRANCHES, NATTED, SOFT, Context, Target
from serpy.errors import ParseError
from serpy.modules.registrar.identity import REG_ID, urn_of
from serpy.modules.registrar.register import check_key
from serpy.modules.registrar.unproven import Unproven
from serpy.sip.abnf import ascii_lower
from serpy.sip.host import normal_host
from serpy.sip.message import Request
from serpy.sip.reach import is_same_address
from serpy.sip.received import OPEN_CONNECTION, parse_received
from serpy.sip.uri import parse_uri, request_uri_of, unescape

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


def is_multihomed(listeners: list[Listener]) -> bool:
    """True when a phone can be called from more than one of our sockets."""
    seen: set[str] = set()
    for listener in listeners:
        if not listener.multicast:
            kind = f"{listener.transport}{listener.ipv6}"
            if kind in seen:
                return True
            seen.add(kind)
    return False


class Targets:
    """Turns bindings into the target set."""

    def __init__(self, server: Server, unproven: Unproven) -> None:
        self._server: Final = server
        self._unproven: Final = unproven
        self.append_branches = 1
        self.received_to_uri = 0
        self.load_nat_flag = 4
        self.ask_softly = 1

    def use(self, ctx: Context, bindings: list[Binding]) -> bool:
        """Make the first of *bindings* (all live, in order) the Request-URI and the others branches.

        False when none of them may be asked now.
        """
        targets: list[Target] = []
        limit = MAX_BRANCHES - len(ctx.branches) if self.append_branches else 1
        for binding in self._chosen(bindings, ctx.wall_now):
            if len(targets) < limit or not targets:
                targets.append(self._target(binding, ctx.wall_now))
        if not targets:
            return False
        first = targets[0]
        ctx.request_uri = first.request_uri
        ctx.dst_uri = first.dst_uri
        ctx.send_listener = first.listener
        ctx.q = first.q
        ctx.target_flags = first.flags
        nat = 0
        for at, target in enumerate(targets):
            nat |= target.flags & NATTED
            if at:
                ctx.branches.append(target)
        if nat and self.load_nat_flag >= 0:
            ctx.flags |= 1 << self.load_nat_flag
        return True

    def _target(self, binding: Binding, wall_now: float) -> Target:
        flags = binding.flags & Binding.NAT
        if not binding.received:
            return Target(self._request_uri(binding), "", None, binding.q, flags)
        dst_uri = ""
        listener: Listener | None = None
        try:
            received = parse_received(binding.received)
        except ParseError:
            received = None
        if received is not None and received.local_port:
            listener = self._server.listener_for(received.transport, received.local_host, received.local_port)
        if not binding.flags & Binding.FLOW:
            dst_uri = "" if self.received_to_uri else binding.received
        elif received is not None and received.transport != "udp":
            dst_uri = f"{binding.received};{OPEN_CONNECTION}"
        if self.ask_softly:
            host = foreign_host(binding)
            if host and not self._unproven.is_proven(host, wall_now):
                flags |= SOFT
        return Target(self._request_uri(binding), dst_uri, listener, binding.q, flags)

    def _request_uri(self, binding: Binding) -> str:
        uri = request_uri_of(binding.uri)
        if self.received_to_uri and binding.received and not binding.flags & Binding.FLOW:
            return f'{uri};received="{binding.received}"'
        return uri

    # -- who is asked --------------------------------------------------------------------------------------------------

    def _chosen(self, bindings: list[Binding], wall_now: float) -> list[Binding]:
        """*bindings* without those that must not be asked beside the others, or not now."""
        for binding in bindings:
            if binding.flags & Binding.FLOW or REG_ID in binding.instance:
                return self._sifted(bindings, wall_now)
        return bindings

    def _sifted(self, bindings: list[Binding], wall_now: float) -> list[Binding]:
        chosen: list[Binding] = []
        for binding in bindings:
            if REG_ID in binding.instance and not self._is_newest(binding, bindings):
                continue  # RFC 5626 section 6: one flow of a phone at a time
            chosen.append(binding)
        return self._softly(chosen, wall_now) if self.ask_softly else chosen

    def _softly(self, bindings: list[Binding], wall_now: float) -> list[Binding]:
        """*bindings* with one for each unproven host that may be asked now; dead ones only where there are no others."""
        unproven = self._unproven
        soft: list[str] = []
        dead: list[Binding] = []
        asked: list[Binding] = []
        for binding in bindings:
            host = foreign_host(binding)
            if not host or unproven.is_proven(host, wall_now):
                asked.append(binding)
            elif host not in soft and unproven.may_ask(host, wall_now):
                soft.append(host)
                (dead if unproven.is_dead(host) else asked).append(binding)
        for binding in asked or dead:
            host = foreign_host(binding)
            if host in soft:
                unproven.asked(host, wall_now)
        return asked or dead

    def _is_newest(self, binding: Binding, bindings: list[Binding]) -> bool:
        """True for the flow that a phone has refreshed last; the first of equals in *bindings*."""
        urn = urn_of(binding.instance)
        is_before = True
        for other in bindings:
            if other is binding:
                is_before = False
            elif urn_of(other.instance) == urn:
                age = other.modified_at - binding.modified_at
                if age > 0 or (age == 0 and is_before):
                    return False
        return True

    def proven(self, uri_text: str, wall_now: float) -> None:
        """A target at a foreign host, *uri_text*, has answered."""
        host = host_called(uri_text)
        if host:
            self._unproven.answered(host, wall_now)

    def is_dead(self, binding: Binding) -> bool:
        """True for a contact at a foreign host that did not answer when it was asked."""
        host = foreign_host(binding)
        return host != "" and self._unproven.is_dead(host)


def foreign_host(binding: Binding) -> str:
    """The host that calls to *binding* go to over UDP though it registered from another one, else ""."""
    if not binding.flags & Binding.FLOW:
        return ""
    try:
        source = parse_received(binding.received)
        uri = parse_uri(binding.contact)
    except ParseError:
        return ""
    if source.transport != "udp" or not uri.is_sip or uri.scheme == "sips" or uri.transport not in ("", "udp"):
        return ""
    host = uri.param("maddr") or uri.host
    return "" if is_same_address(host, source.host) else normal_host(host)


def host_called(uri_text: str) -> str:
    """The host that *uri_text* leads to, in its normal form."""
    try:
        uri = parse_uri(uri_text)
    except ParseError:
        return ""
    return normal_host(uri.param("maddr") or uri.host) if uri.is_sip else ""


def is_request(ctx: Context) -> Request:
    """The request being worked on. Raises ParseError (a script that saves a reply)."""
    if ctx.request is None:
        raise ParseError("not a request")
    return ctx.request
