"""RFC 3261 §10.3 as a pure function: what a REGISTER does to the bindings of its user.

``Registration`` holds what was read from the request; ``decide`` turns the current bindings into (to put, to remove) and
raises ProtocolError with the answer when the request is refused. Contacts are compared byte by byte; an equal
``+sip.instance`` is the same contact, too. docs/differences.md says where that leaves the RFC or SER.

Runs in: udp receiver. Locks: none. RFC: 3261 §10.3, 5626 (instance).
"""

from __future__ import annotations

import math
from typing import Final

from serpy.api import CALL_ID_MAX, Binding
from serpy.errors import ParseError, ProtocolError
from serpy.modules.registrar.replica import Replica
from serpy.sip.abnf import parse_expires, parse_q, unquote
from serpy.sip.nameaddr import NameAddr
from serpy.sip.received import parse_received

MALFORMED_EXPIRES: Final = 3600  # RFC 3261 §20.19
HOUR: Final = 3600  # a registrar may call only shorter intervals too brief (§10.3 step 7)
EXPIRES_MAX: Final = 0xFFFFFFFF
AGENT_MAX: Final = 64


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


class Registration:
    """One REGISTER. *expires* is its Expires header in seconds, None when absent or malformed; *received* is where the
    packet came from, "" when the contact is reachable as written; *trusted* accepts a ``received`` Contact parameter.
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
        self.replica: Replica | None = None
        self.removed: list[Binding] = []  # by the last decision

    def decide(self, current: list[Binding]) -> Decision:
        """Return the bindings to put and those to remove. Raises ProtocolError: then nothing may change."""
        if self.replica is not None:
            return self._decide_replica(self.replica, current)
        if self._is_star():
            for binding in current:
                self._check_order(binding)
            self.removed = current
            return [], current
        working = {binding.contact: binding for binding in current}
        put: dict[str, Binding] = {}
        removed: dict[str, Binding] = {}
        for contact in self.contacts:
            expires = self.lifetime(contact)
            for known in self._matching(contact, working):
                self._check_order(known)
                del working[known.contact]
                put.pop(known.contact, None)
                removed[known.contact] = known
            if expires > 0:
                fresh = self._binding(contact, expires)
                working[fresh.contact] = put[fresh.contact] = fresh
        self._check_count(current, working)
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
            matching = self._matching(contact, working)
            if len(replica.beaten(matching, self.call_id, self.cseq)) < len(matching):
                continue
            # a contact that is here was registered after it was removed last
            is_new = expires > 0 and not matching
            if is_new and replica.is_buried(self.uid, contact.uri_text, self.call_id, self.cseq):
                continue
            for known in matching:
                del working[known.contact]
                put.pop(known.contact, None)
                removed[known.contact] = known
            if expires > 0:
                fresh = self._binding(contact, expires)
                fresh.modified_at = replica.taken_at
                working[fresh.contact] = put[fresh.contact] = fresh
            else:
                replica.bury(self.uid, contact.uri_text, self.call_id, self.cseq)
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
        if star and (len(self.contacts) != 1 or self.expires != 0):
            raise ProtocolError('Contact "*" needs Expires: 0 and no other Contact', reason="Bad Contact")
        return star

    def _check_order(self, known: Binding) -> None:
        """Refuse an older request of the same Call-ID (§10.3 step 7). An equal CSeq is a retransmission: a refresh.

        A binding that has expired orders nothing, though the sweep may not have met it: a phone with a fixed Call-ID
        that was off for long counts from 1 again.
        """
        if not known.is_live(self.wall_now):
            return
        if self.policy.strict_cseq and known.call_id == self.call_id and self.cseq < known.cseq:
            raise ProtocolError("CSeq is lower than that of a binding with this Call-ID", status=500)

    def _matching(self, contact: NameAddr, working: dict[str, Binding]) -> list[Binding]:
        """The bindings *contact* stands for: the same URI, or the same instance."""
        found: list[Binding] = []
        same = working.get(contact.uri_text)
        if same is not None:
            found.append(same)
        instance = instance_of(contact)
        if instance:
            for binding in working.values():
                if binding.instance == instance and binding is not same:
                    found.append(binding)
        return found

    def _binding(self, contact: NameAddr, expires: int) -> Binding:
        q = self.policy.default_q
        text = contact.params.get("q")
        if text is not None:
            q = parse_q(text)
            if q < 0:
                raise ParseError("bad q", header="Contact", value=text)
        contact.uri  # noqa: B018 - parsing is the check; raises ParseError
        uri_text = contact.uri_text
        check_key(uri_text, "Contact")
        return Binding(
            self.uid,
            uri_text,
            math.ceil(self.wall_now) + expires,  # never earlier than the answer says
            aor=self.aor,
            received=self._received(contact),
            q=q,
            call_id=self.call_id,
            cseq=self.cseq,
            flags=Binding.NAT if self.nat else 0,
            user_agent=self.user_agent,
            instance=instance_of(contact),
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

    def _check_count(self, current: list[Binding], working: dict[str, Binding]) -> None:
        limit = self.policy.max_contacts
        if limit <= 0 or len(working) <= limit:
            return
        live = 0
        for binding in working.values():
            if binding.is_live(self.wall_now):
                live += 1
        before = 0
        for binding in current:
            if binding.is_live(self.wall_now):
                before += 1
        # A limit that was lowered does not lock out those who only refresh.
        if live > limit and live > before:
            raise ProtocolError("too many registered contacts", status=503, reason="Too many registered contacts")


def instance_of(contact: NameAddr) -> str:
    """The ``+sip.instance`` of *contact* without its quotes, "" when it has none; one too long to store is ignored."""
    text = contact.params.get("+sip.instance")
    if text is None:
        return ""
    text = unquote(text)
    return text if len(text) <= CALL_ID_MAX and text.isascii() else ""


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
        text = f"<{binding.contact}>"
        if binding.q >= 0:
            text += f";q={render_q(binding.q)}"
        # a binding that lives for less than a second more is not said to be removed
        text += f";expires={max(1, left)}"
        if binding.received:
            text += f';received="{binding.received}"'
        parts.append(text)
    return ", ".join(parts)


def render_q(q: int) -> str:
    """*q* thousandths as a qvalue: ``0.7``, ``1``."""
    if q >= 1000:
        return "1"
    return "0" if q <= 0 else f"0.{q:03d}".rstrip("0")
