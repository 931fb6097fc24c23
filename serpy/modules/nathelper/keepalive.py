"""Keep-alives: a small datagram to every phone behind a NAT before its NAT forgets where it is.

The timer process walks the location table once in each ``natping_interval``, a few buckets at a time, so what is sent is
spread evenly over the interval. A ping leaves by the address the REGISTER came in by (``dstip`` of the received URI),
since a NAT lets in nobody else. It is four bytes that no phone answers, or a request whose answers the receivers
recognise by their branch and drop before the script.

Host names are not resolved here: a contact that was not reached as ``received`` needs a numeric address.

Runs in: timer (the walk), udp receiver (``ping_contact``, answers). Locks: none of its own. RFC: 5626 §3.5, §4.4.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from serpy.api import (
    FALSE,
    LOCATION,
    TRUE,
    Binding,
    ConfigError,
    Context,
    Flow,
    Listener,
    LocationService,
    Outgoing,
    ParseError,
    TransportError,
)
from serpy.sip.abnf import ascii_lower
from serpy.sip.address import bracketed, default_port, pack_address
from serpy.sip.classes import LOOPBACK
from serpy.sip.flow import NO_CONNECT
from serpy.sip.message import Response
from serpy.sip.received import ReceivedUri, parse_received
from serpy.sip.uri import parse_uri

if TYPE_CHECKING:
    from serpy.api import Server

log = logging.getLogger(__name__)

BRANCH: Final = "z9hG4bK-GnIp-"
DATAGRAM: Final = b"\r\n\r\n"  # RFC 5626 section 3.5.1 calls it a ping on connections; over UDP nobody answers it
CRLF: Final = b"\r\n"  # the method that is none: two bytes

SHORTEST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.25
CATCH_UP_PAUSE_S: Final = 0.005
PER_PAUSE: Final = 32.0  # contacts between two pauses, unless that would make the pauses too short
CATCH_UP: Final = 4  # times the usual number, after something has held the process up
LOST_S: Final = 5.0  # further behind than this, the round takes longer instead

_CRLF_METHOD: Final = "CRLF"
_NEVER: Final = ("ACK", "BYE", "CANCEL", "INVITE", "PRACK", "REGISTER")


class KeepAlive:
    """The pings: what to send, where to, and when. Set up by ``init`` in the master."""

    def __init__(self) -> None:
        self.interval = 0
        self.method = ""
        self.crlf = True
        self.nated_only = False
        self.forced = ""
        self.location: LocationService | None = None
        self.cookie = f"{BRANCH}{os.urandom(4).hex()}-"  # the answers to what a former server sent are not ours
        self._server: Server  # set by init; declared only, because a compiled attribute cannot hold None for it
        self._fallback: dict[bool, Listener | None] = {}  # by "is IPv6"
        self._serial = 0
        self._sent_id = 0
        self._failed_id = 0
        self._answers_id = 0
        self._rounds_id = 0
        # the walk
        self._next = 0
        self._round_at = 0.0
        self._pause = LONGEST_PAUSE_S

    def init(
        self, server: Server, *, interval: int, method: str, crlf: bool, nated_only: bool, force_socket: str
    ) -> None:
        """Take the parameters over, in the master. Raises ConfigError."""
        self._server = server
        self.interval = interval
        self.method = method
        self.crlf = crlf
        self.nated_only = nated_only
        forced = self._forced_listener(force_socket)
        for ipv6 in (False, True):
            self._fallback[ipv6] = forced if forced is not None and forced.ipv6 == ipv6 else self._default(ipv6)
        counters = server.counters
        self._sent_id = counters.declare("nathelper.pings", "keep-alives sent to phones")
        self._failed_id = counters.declare("nathelper.pings_failed", "keep-alives that could not be sent")
        self._answers_id = counters.declare("nathelper.ping_replies", "answers to keep-alive requests")
        self._rounds_id = counters.declare("nathelper.ping_rounds", "times that all contacts have been looked at")
        if method and method != _CRLF_METHOD:
            server.hooks.own_replies.append((self.cookie, self.on_reply))

    def _forced_listener(self, text: str) -> Listener | None:
        if not text:
            return None
        wanted = ascii_lower(text)
        for listener in self._server.listeners:
            if listener.transport != "udp" or listener.multicast:
                continue
            host = bracketed(listener.host)
            if wanted in (f"udp:{host}:{listener.port}", f"{host}:{listener.port}", f"udp:{host}", host):
                return listener
        raise ConfigError(f"nathelper: force_socket {text!r} is none of our UDP listen addresses")

    def _default(self, ipv6: bool) -> Listener | None:
        """The first that fits; a loopback one, which reaches every program here, only when there are no others at all."""
        listeners = [listener for listener in self._server.listeners if not listener.multicast]
        is_local = all(listener.scope == LOOPBACK for listener in listeners)
        for listener in listeners:
            if listener.transport == "udp" and listener.ipv6 == ipv6 and (is_local or listener.scope != LOOPBACK):
                return listener
        return None

    # -- the walk --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to walk, in the timer process."""
        self.location = self._server.find(LOCATION)
        if self.interval <= 0 or self.location is None:
            return
        loop = self._server.loop
        self._round_at = loop.now()
        loop.call_at(self._round_at + self._pause, self.walk)

    def walk(self) -> None:
        """Ping the contacts whose turn it is, and come back after a pause."""
        loop = self._server.loop
        now = loop.now()
        behind = False
        try:
            behind = self.step(now, loop.wall_now())
        finally:
            loop.call_at(now + (CATCH_UP_PAUSE_S if behind else self._pause), self.walk)

    def step(self, now: float, wall_now: float) -> bool:
        """Do what is due at *now*; True when more than a fair share is due."""
        location = self.location
        assert location is not None
        buckets, contacts = location.extent()
        interval = float(self.interval)
        pause = min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, PER_PAUSE * interval / max(1, contacts)))
        self._pause = min(pause, interval / 4)
        share = int(buckets * self._pause / interval * CATCH_UP) + 1
        due = min(buckets, int((now - self._round_at) / interval * buckets)) - self._next
        if (now - self._round_at) / interval * buckets - self._next > LOST_S / interval * buckets + share:
            self._round_at = now - (self._next + share) * interval / buckets  # the lost time is not made good
        if due <= 0:
            return False
        start = self._next
        count = min(due, share)
        self._next = start + count  # before anything can fail: a record we stumble over is not met again and again
        if self._next >= buckets:
            self._next = 0
            self._round_at += interval
            self._server.counters.add(self._rounds_id)
        for _, _, bindings in location.page(start, count)[0]:
            for binding in bindings:
                if (binding.is_nat or not self.nated_only) and binding.is_live(wall_now):
                    self.ping(binding)
        return due > share

    # -- one ping --------------------------------------------------------------------------------------------------------

    def ping(self, binding: Binding) -> None:
        """Send one keep-alive to *binding*, if there is a way to it from here."""
        flow = self.flow_to(binding.contact, binding.received, binding.server_id)
        if flow is not None:
            self.send(flow, binding.uri)

    def send(self, flow: Flow, target: str) -> bool:
        """Send what the parameters ask for to *target* (a URI) by *flow*; False when it cannot be sent."""
        data = DATAGRAM
        if flow.transport == "udp":
            if self.method == _CRLF_METHOD:
                data = CRLF
            elif self.method:
                data = self.request(flow, target)
        elif not self.crlf and self.method and self.method != _CRLF_METHOD:
            data = self.request(flow, target)
        try:
            self._server.send(Outgoing(data, flow))
        except TransportError:
            self._server.counters.add(self._failed_id)
            return False
        self._server.counters.add(self._sent_id)
        return True

    def request(self, flow: Flow, target: str) -> bytes:
        """A request as small as one can be (RFC 3261 §8.1.1, compact forms)."""
        self._serial += 1
        listener = flow.listener
        serial = f"{self._serial:x}.{self._server.slot}"
        uri = target.partition("?")[0]
        return (
            f"{self.method} {uri} SIP/2.0\r\nv:SIP/2.0/{listener.via_transport} {listener.sent_by};"
            f"branch={self.cookie}{serial};rport\r\nf:<sip:ping@{listener.sent_by}>;tag=1\r\nt:<{uri}>\r\n"
            f"i:{serial}{self.cookie[len(BRANCH) - 1 :]}\r\nCSeq:1 {self.method}\r\nMax-Forwards:70\r\nl:0\r\n\r\n"
        ).encode("utf-8", "surrogateescape")

    def flow_to(self, contact: str, received: str, server_id: int) -> Flow | None:
        """How a contact is reached: by its received URI, else by its own address; None when it cannot be from here.

        A replica that came in at another server's address is left to that server: its NAT lets in nobody else.
        """
        if received:
            return self._received_flow(received, server_id)
        try:
            uri = parse_uri(contact)
        except ParseError:
            return None
        if not uri.is_sip:
            return None
        maddr = uri.param("maddr")
        transport = uri.transport or ("tls" if uri.scheme == "sips" else "udp")
        host = maddr.strip("[]") if maddr else uri.host_lower
        return self._flow(transport, host, uri.port or default_port(transport), None)

    def _received_flow(self, text: str, server_id: int) -> Flow | None:
        try:
            received = parse_received(text)
        except ParseError:
            return None
        listener: Listener | None = None
        if received.local_port:
            listener = self._server.listener_for(received.transport, received.local_host, received.local_port)
            if listener is None and server_id not in (0, self._server.settings.server_id):
                return None
        return self._flow(received.transport, received.host, received.port, listener)

    def _flow(self, transport: str, host: str, port: int, listener: Listener | None) -> Flow | None:
        ipv6 = ":" in host
        if not pack_address(host):  # a name given to sendto() would be resolved there, while all others wait
            return None
        if listener is None or listener.ipv6 != ipv6:
            listener = self._fallback.get(ipv6) if transport == "udp" else self._server.listener_for(transport)
            if listener is None or listener.ipv6 != ipv6:
                return None
        # Over a connection: only if it is still open, a new one would not be the phone's.
        return Flow(listener, host, port) if transport == "udp" else Flow(listener, host, port, 0, NO_CONNECT)

    # -- script and receivers ----------------------------------------------------------------------------------------------

    def ping_contact(self, ctx: Context, uri: str | int | None = None) -> int:
        """Send one keep-alive now: to *uri*, or to where this request came from."""
        if uri is None:
            source = str(ReceivedUri(ctx.flow.host, ctx.flow.port, ctx.flow.transport))
            return TRUE if self.send(ctx.flow, source) else FALSE
        target = str(uri)
        flow = self.flow_to(target, "", 0)
        return TRUE if flow is not None and self.send(flow, target) else FALSE

    def on_reply(self, _response: Response) -> None:
        """Count an answer to one of our requests; the pipeline drops it."""
        self._server.counters.add(self._answers_id)


def check_method(text: str) -> str:
    """An error text when *text* cannot be the method of a keep-alive."""
    if text in _NEVER:
        return f"a keep-alive cannot be {text}; OPTIONS is usual"
    if text and not (text.isascii() and text.isalpha() and text.isupper() and len(text) <= 32):
        return "natping_method is OPTIONS, another method in upper case, CRLF for two bytes, or empty for four"
    return ""
