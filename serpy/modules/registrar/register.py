"""RFC 3261 §10.3 as a pure function: what a REGISTER does to the bindings of its user.

``Registration`` holds what was read from the request; ``decide`` turns the current bindings into (to put, to remove) and
raises ProtocolError with the answer when the request is refused. identity.py says which binding a contact is,
contacts.py which contacts there may be; docs/differences.md where that leaves SER.

Runs in: udp receiver. Locks: none. RFC: 3261 §10.3, 5626 (instance, flows).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from serpy.api import CALL_ID_MAX, Binding
from serpy.errors import ParseError, ProtocolError
from serpy.modules.registrar.contacts import (
    IsMyself,
    check_address,
    check_length,
    make_room,
    transport_of,
    transport_port,
)
from serpy.modules.registrar.identity import Phone
from serpy.modules.registrar.replica import Replica
from serpy.modules.registrar.wayout import WaysOut
from serpy.sip.abnf import parse_expires, parse_q, unquote
from serpy.sip.nameaddr import NameAddr
from serpy.sip.reach import is_same_address
from serpy.sip.received import ReceivedUri, parse_received
from serpy.sip.uri import Uri

MALFORMED_EXPIRES: Final = 3600  # RFC 3261 §20.19
HOUR: Final = 3600  # a registrar may call only shorter intervals too brief (§10.3 step 7)
EXPIRES_MAX: Final = 0xFFFFFFFF
AGENT_MAX: Final = 64
FROM_ROW: Final = 1e5  # a binding read from a row does not know when it was made: its number is far below its expiry


Decision = tuple[list[Binding], list[Binding]]


class IntervalTooBriefError(ProtocolError):
    """423; *min_expires* goes into Min-Expires."""

    def __init__(self, min_expires: int) -> None:
        super().__init__(f"expires is below {min_expires}", status=423, reason="Interval Too Brief")
        self.min_expires: Final = min_expires


class Policy:
    """The registrar's parameters that decide about bindings; set before the fork, never changed afterwards."""

    def __init__(self) -> None:
        self.default_expires = 3600
        self.min_expires = 60
        self.max_expires = 0  # 0 = no limit
        self.max_contacts = 0  # 0 = no limit
        self.clamp_expires = 0  # 1: raise too brief intervals silently, as SER does, instead of answering 423
        self.strict_cseq = 1  # 0: a lower CSeq of the same Call-ID is applied like any other
        self.default_q = -1  # in thousandths, -1 = unset
        self.received_param = "received"
        self.replace_oldest = 1  # 0: a user with max_contacts gets 503, as in SER
        self.contact_length = 0  # characters of one contact, 0 = no limit
        self.total_length = 0  # of all contacts of a user
        self.is_multihomed = False  # there is a choice of sockets to call a phone from
        self.is_myself: IsMyself | None = None
        self.ways: WaysOut | None = None
        self.is_dead: Callable[[Binding], bool] | None = None  # a phone that did not answer when it was asked


class Registration:
    """One REGISTER. *expires* is its Expires header in seconds, None when absent or malformed; *received* is where the
    packet came from, "" when the contact is reachable as written; *trusted* accepts a ``received`` Contact parameter.
    *came_from* is the way of the packet; of a replica that of the phone's, as far as it is known, else None.
    """

    def __init__(
        self,
        policy: Policy,
        uid: str,
        contacts: list[NameAddr],
        expires: int | None,
        *,
        aor: str,
        call_id: str,
        cseq: int,
        user_agent: str,
        nat: bool,
        received: str,
        trusted: bool,
        server_id: int,
        wall_now: float,
        came_from: ReceivedUri | None = None,
    ) -> None:
        self.policy: Final = policy
        self.uid: Final = uid
        self.contacts: Final = contacts
        self.expires: Final = expires
        self.aor: Final = aor
        self.call_id: Final = call_id[:CALL_ID_MAX]
        self.cseq: Final = cseq
        self.user_agent: Final = user_agent[:AGENT_MAX]
        self.nat: Final = nat
        self.received: Final = received
        self.trusted: Final = trusted
        self.server_id: Final = server_id
        self.wall_now: Final = wall_now
        self.came_from: Final = came_from
        self.replica: Replica | None = None
        self.removed: list[Binding] = []  # by the last decision
        self.unreached: dict[str, Uri] = {}  # contacts of this request that nobody can call

    def decide(self, current: list[Binding]) -> Decision:
        """Return the bindings to put and those to remove. Raises ProtocolError: then nothing may change."""
        if self.replica is not None:
            return self._decide_replica(self.replica, current)
        if self._is_star():
            for binding in current:
                if self._is_repeated(binding):
                    raise _out_of_order()
            self.removed = current
            return [], current
        working = {binding.contact: binding for binding in current}
        put: dict[str, Binding] = {}
        removed: dict[str, Binding] = {}
        for contact in self.contacts:
            expires = self.lifetime(contact)
            phone = self._phone(contact)
            matching = phone.matching(working)
            repeated = [known for known in matching if known.contact not in put and self._is_repeated(known)]
            if repeated:
                if len(matching) != 1 or not self._says_the_same(contact, phone, expires, repeated[0]):
                    raise _out_of_order()
                if self._came_the_same_way(contact.uri, phone, repeated[0]):
                    continue
            for known in matching:
                del working[known.contact]
                if put.pop(known.contact, None) is None:  # else it stands twice in this request
                    removed[known.contact] = known
            if expires > 0:
                fresh = self._binding(contact, phone, working, expires)
                working[fresh.contact] = put[fresh.contact] = fresh
        self._check_ways(put)
        policy = self.policy
        dead = policy.is_dead
        replace = policy.replace_oldest != 0
        for old in make_room(current, working, put, policy.max_contacts, self.wall_now, dead, replace=replace):
            removed[old.contact] = working.pop(old.contact)
        check_length(current, working, policy.total_length, self.wall_now)
        self.removed = [binding for text, binding in removed.items() if text not in put]
        return list(put.values()), self.removed

    def _decide_replica(self, replica: Replica, current: list[Binding]) -> Decision:
        """The same for what another server has accepted: nothing is refused, what is older than ours is left out."""
        if self._is_star():
            replica.bury_all(self.uid, self.call_id, self.cseq)
            return [], replica.beaten(current, self.call_id, self.cseq)
        working = {binding.contact: binding for binding in current}
        put: dict[str, Binding] = {}
        removed: dict[str, Binding] = {}
        for contact in self.contacts:
            try:
                expires = self.lifetime(contact)
            except IntervalTooBriefError as brief:
                expires = brief.min_expires
            phone = self._phone(contact)
            matching = phone.matching(working)
            if len(replica.beaten(matching, self.call_id, self.cseq)) < len(matching):
                continue
            # a contact that is here was registered after it was removed last
            is_new = expires > 0 and not matching
            if is_new and replica.is_buried(self.uid, phone.key(working), self.call_id, self.cseq):
                continue
            for known in matching:
                del working[known.contact]
                if put.pop(known.contact, None) is None:
                    removed[known.contact] = known
            if expires > 0:
                fresh = self._binding(contact, phone, working, expires)
                fresh.modified_at = replica.taken_at
                working[fresh.contact] = put[fresh.contact] = fresh
            else:
                replica.bury(self.uid, phone.key(working), self.call_id, self.cseq)
        return list(put.values()), [binding for text, binding in removed.items() if text not in put]

    def lifetime(self, contact: NameAddr) -> int:
        """Return the seconds *contact* is granted; 0 means remove.

        Its parameter beats the Expires header, which beats the default (§10.3 step 7). Raises IntervalTooBriefError.
        """
        policy = self.policy
        own = contact.params.get("expires")
        if own is not None:
            parsed = parse_expires(unquote(own))
            wanted = MALFORMED_EXPIRES if parsed is None else parsed
        elif self.expires is not None:
            wanted = self.expires
        else:
            wanted = policy.default_expires
        if wanted == 0:
            return 0
        if wanted < policy.min_expires:
            if not policy.clamp_expires and wanted < HOUR:
                raise IntervalTooBriefError(policy.min_expires)
            wanted = policy.min_expires
        if 0 < policy.max_expires < wanted:
            wanted = policy.max_expires
        return wanted

    def _is_star(self) -> bool:
        star = False
        for contact in self.contacts:
            if contact.uri_text == "*":
                star = True
                if contact.display or contact.params:
                    raise ProtocolError('Contact "*" stands alone', reason="Bad Contact")
        if star and (len(self.contacts) != 1 or self.expires != 0):
            raise ProtocolError('Contact "*" needs Expires: 0 and no other Contact', reason="Bad Contact")
        return star

    def _is_repeated(self, known: Binding) -> bool:
        """True when *known* was made by a request of this Call-ID and CSeq: by this one, unless somebody reuses numbers.
        Raises ProtocolError when it was made by a later one (§10.3 step 7).

        A binding that has expired orders nothing, though the sweep may not have met it: a phone with a fixed Call-ID
        that was off for long counts from 1 again.
        """
        if not self.policy.strict_cseq or known.call_id != self.call_id or not known.is_live(self.wall_now):
            return False
        if self.cseq < known.cseq:
            raise _out_of_order()
        return self.cseq == known.cseq

    def _says_the_same(self, contact: NameAddr, phone: Phone, expires: int, known: Binding) -> bool:
        """True when *contact* would make *known* again: the request is a retransmission, whose answer was lost."""
        if (
            expires == 0
            or phone.uri_text != known.uri
            or phone.instance != known.instance
            or self._q(contact) != known.q
        ):
            return False
        if known.modified_at < known.expires_at / FROM_ROW:
            return known.expires_at - self.wall_now <= expires + 1  # no more than it could have been granted
        return abs(known.expires_at - math.ceil(known.modified_at) - expires) <= 1

    def _came_the_same_way(self, uri: Uri, phone: Phone, known: Binding) -> bool:
        """False for a phone that counts from the start again and is elsewhere now: that is news, whatever its numbers are."""
        if phone.received:
            return phone.received == known.received
        if self.came_from is None or not self._keeps_flow(uri, self.came_from):
            return not known.received
        return known.received == str(self.came_from)

    def _q(self, contact: NameAddr) -> int:
        """The q of *contact*. Raises ParseError."""
        text = contact.params.get("q")
        if text is None:
            return self.policy.default_q
        q = parse_q(text)
        if q < 0:
            raise ParseError("bad q", header="Contact", value=text)
        return q

    def _phone(self, contact: NameAddr) -> Phone:
        """Who registers *contact*."""
        return Phone(contact, self._received(contact), self.call_id)

    def _binding(self, contact: NameAddr, phone: Phone, others: dict[str, Binding], expires: int) -> Binding:
        """The binding of *phone* beside those of *others*. Raises ParseError for a contact we do not take."""
        q = self._q(contact)
        uri = contact.uri
        check_key(phone.uri_text, "Contact")
        received = phone.received
        flags = Binding.NAT if self.nat else 0
        if self.replica is None:
            self._check_contact(uri, phone)
        if not received and self.came_from is not None and self._keeps_flow(uri, self.came_from):
            received = str(self.came_from)
            flags |= Binding.FLOW
        key = phone.key(others)
        if self.replica is None and not phone.received and self._has_no_way(uri):
            self.unreached[key] = uri
        return Binding(
            self.uid,
            key,
            math.ceil(self.wall_now) + expires,  # never earlier than the answer says
            aor=self.aor,
            received=received,
            q=q,
            call_id=self.call_id,
            cseq=self.cseq,
            flags=flags,
            user_agent=self.user_agent,
            instance=phone.instance,
            server_id=self.server_id,
            modified_at=self.wall_now,
        )

    def _received(self, contact: NameAddr) -> str:
        """Where *contact* is reached: its own ``received`` parameter when we believe it, else the packet's source."""
        if self.trusted:
            text = contact.params.get(self.policy.received_param)
            if text:
                text = unquote(text)
                check_key(text, "Contact")
                try:
                    parse_received(text)
                except ParseError:
                    raise ParseError("bad received parameter", header="Contact", value=text) from None
                return text
        return self.received

    def _check_contact(self, uri: Uri, phone: Phone) -> None:
        """Refuse what is too long, and where nobody can be called."""
        policy = self.policy
        if 0 < policy.contact_length < len(phone.uri_text):
            raise ParseError(f"longer than {policy.contact_length} characters", header="Contact")
        source = self.came_from.host if self.came_from is not None else ""
        check_address(uri, source, policy.is_myself, is_reached=phone.received != "")
        if phone.received and phone.received != self.received:  # said by the Contact itself
            said = parse_received(phone.received)
            check_address(Uri("sip", "", "", said.host, said.port), source, policy.is_myself, is_reached=False)

    def _has_no_way(self, uri: Uri) -> bool:
        """True for a SIP contact that cannot be called as it is written, nor over the connection of this request."""
        ways = self.policy.ways
        if ways is None or not uri.is_sip or ways.lead_to(uri):
            return False
        return self.came_from is None or not self._keeps_flow(uri, self.came_from) or self.came_from.transport == "udp"

    def _check_ways(self, put: dict[str, Binding]) -> None:
        """Refuse a phone that cannot be called at any of its contacts: it would wait for calls in vain."""
        unreached = [uri for text, uri in self.unreached.items() if text in put]
        if unreached and len(unreached) == len(put):
            transport = transport_of(unreached[0]) or "udp"
            why = f"no way from here to {unreached[0].host} by {transport}"
            raise ProtocolError(why, status=400, reason="Contact Cannot Be Reached")

    def _keeps_flow(self, uri: Uri, source: ReceivedUri) -> bool:
        """True when *source*, the way of this packet, matters for calls to *uri* though that is where they go."""
        if not uri.is_sip:
            return False
        said = transport_of(uri)
        if source.transport != "udp":  # over its connection, unless the phone wants to be called otherwise
            if said in ("", source.transport):
                return True
            ways = self.policy.ways
            # What ends its TLS or WebSocket before us has only its connection to be called by.
            return uri.scheme == "sip" and ways is not None and not ways.lead_to(uri)
        if self.policy.is_multihomed:
            return True
        host = uri.param("maddr") or uri.host
        port = uri.port or transport_port(uri)
        return port != source.port or not is_same_address(host, source.host)


def _out_of_order() -> ProtocolError:
    why = "CSeq is not higher than that of a binding with this Call-ID"
    return ProtocolError(why, status=500, reason="CSeq Is Not Higher")


def check_key(text: str, header: str) -> None:
    """Raise ParseError unless *text* can be a database key: valid UTF-8 without control characters."""
    if text.isascii() and text.isprintable():
        return
    for char in text:
        code = ord(char)
        if code < 32 or code == 127 or 0xD800 <= code <= 0xDFFF:  # a lone surrogate stands for a byte that is not UTF-8
            raise ParseError("control characters or bytes that are not UTF-8", header=header, value=text)


def contact_values(bindings: list[Binding], wall_now: float) -> str:
    """The Contact header value that lists the live ones of *bindings*; "" when there are none."""
    parts: list[str] = []
    for binding in bindings:
        if not binding.is_live(wall_now):
            continue
        left = EXPIRES_MAX if binding.is_permanent else min(EXPIRES_MAX, int(binding.expires_at - wall_now))
        text = f"<{binding.uri}>"
        if binding.q >= 0:
            text += f";q={render_q(binding.q)}"
        # a binding that lives for less than a second more is not said to be removed
        text += f";expires={max(1, left)}"
        if binding.received and not binding.flags & Binding.FLOW:
            text += f';received="{binding.received}"'
        parts.append(text)
    return ", ".join(parts)


def render_q(q: int) -> str:
    """*q* thousandths as a qvalue: ``0.7``, ``1``."""
    if q >= 1000:
        return "1"
    return "0" if q <= 0 else f"0.{q:03d}".rstrip("0")
