"""What the memory of calls learns from answers: who takes part, from where, for how long.

Runs in: udp receiver. Locks: none. RFC: 3261 §12.1, §12.2.1.2; 4028; 6665.
"""

from __future__ import annotations

from typing import Final

from serpy.api import Context, Flow
from serpy.modules.rr.cookie import DialogCookies
from serpy.modules.rr.memory import RINGING_S, CallMemory
from serpy.modules.rr.reading import LONGEST_S, contact_of, host_as_it_came, number_of
from serpy.modules.rr.sides import CONFIRMED, MAPPED, PROXIED, learn_contact, leg_of, tagged_leg
from serpy.shm import call_file as layout
from serpy.shm.calls import TIMED, Call, Side
from serpy.sip.message import Edits, Message, Request, Response
from serpy.sip.uri import Uri

ANSWERED_S: Final = 12 * 3600
AFTER_S: Final = 32  # 64*T1: so long the end of a call is repeated
SUBSCRIPTION_S: Final = 3600  # RFC 6665 leaves it to the package; REFER has none
REFRESHES: Final = ("INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER")  # their Contacts become targets


class Answers:
    """Learns from the answers to requests of dialogs in *memory*."""

    def __init__(self, memory: CallMemory, cookies: DialogCookies) -> None:
        self._memory: Final = memory
        self._cookies: Final = cookies

    def learn(
        self, call: Call, ctx: Context | None, response: Response, edits: Edits, flow: Flow | None, now: int
    ) -> None:
        """A provisional or 2xx goes upstream; see ``Dialogs.answered``. Raises ParseError."""
        memory = self._memory
        prints = memory.prints
        request = None if ctx is None else ctx.request
        is_first = request is None or not request.to_tag
        asker: Side | None = call.caller
        is_down = request is not None and is_first  # it has begun the dialog
        from_tag = 0
        if not is_down:
            from_tag = prints.of(response.from_tag)
            is_down = call.caller.tag == from_tag
        to_tag = prints.of(response.to_tag)
        if not is_down:
            side = asker
            asker = leg_of(call, from_tag)
        elif is_first:
            side = leg_of(call, to_tag)
            if side is None:
                hop = 0 if flow is None else prints.endpoint(flow.host, flow.port)
                side = tagged_leg(memory.table, call, to_tag, hop)
        else:
            side = leg_of(call, to_tag)
        if side is None:
            return
        status = response.status
        self.learn_contact(side, response, edits)
        info = int(side.info)
        if is_first:
            if not info & MAPPED:
                info |= self._learn_set(response, side, call)
            if status >= 200:
                info |= CONFIRMED
        if side.is_news:
            side.info = info
            memory.table.write_side(side)
        elif info != side.info:
            side.info = info
            memory.table.write_info(side)
        if status < 200:
            if call.state == layout.RINGING:
                self._memory.last(call, now, now + RINGING_S)
            return
        if is_first or request is None or ctx is None or asker is None:
            pass
        elif self.learn_contact(asker, request, ctx.edits):
            memory.table.write_side(asker)
        self._lives(call, request, response, now, is_first=is_first)

    def learn_contact(self, side: Side, message: Message, edits: Edits) -> bool:
        """The Contact of *message* is the target of *side* now; False when it was. The side is to be written."""
        contact = contact_of(self._memory.prints, message, edits)
        if not contact.target or side.contact == contact.target:
            return False
        host = host_as_it_came(self._memory.prints, message, edits, contact)
        return learn_contact(side, contact.target, host)

    def _learn_set(self, response: Response, side: Side, call: Call) -> int:
        """Where the Route set of the caller goes on behind us: the Record-Route above ours, if any. What flags that gives."""
        found = response.indexes("record-route")
        if not found:
            return 0  # of a provisional, maybe: the 2xx has it
        if len(found) == 1 and "," not in response.lines[found[0]]:
            return MAPPED  # that is our own
        before: Uri | None = None
        for value in response.record_routes:
            uri = value.uri
            if self._memory.is_mine(uri) and self._is_of(uri, response, call):
                if before is not None and not self._memory.is_mine(before):
                    side.route = self._memory.prints.endpoint_of(before) or side.route
                    side.is_news = True
                    return MAPPED | PROXIED
                return MAPPED
            before = uri
        return MAPPED

    def _is_of(self, uri: Uri, response: Response, call: Call) -> bool:
        """True when the Record-Route *uri* is the one of this call: after a spiral there are two of ours."""
        cookie = self._cookies.open(uri.param("avp") or "", response.call_id, response.from_tag, response.to_tag)
        return cookie is not None and cookie.serial == call.serial

    def _lives(self, call: Call, request: Request | None, response: Response, now: int, *, is_first: bool) -> None:
        """A 2xx has come: for how long is the call remembered?"""
        method = response.method
        kind = call.kind
        meta = int(call.meta)
        expires = int(call.expires)
        if is_first and meta & layout.STATE == layout.RINGING:
            meta = meta & ~layout.STATE | layout.ANSWERED
            call.answered = now
            expires = now + (ANSWERED_S if kind == layout.INVITE else SUBSCRIPTION_S + AFTER_S)
        if meta & layout.STATE != layout.ANSWERED:
            return
        if method in {"INVITE", "UPDATE"}:
            value = response.get("session-expires")
            interval = 0 if value is None else number_of(value)
            meta = meta | TIMED if interval else meta & ~TIMED
            expires = now + (interval + AFTER_S if interval else ANSWERED_S)
        elif kind == layout.INVITE:
            if method in {"SUBSCRIBE", "REFER"}:
                meta |= layout.SUBSCRIBED
        elif method == "SUBSCRIBE" and response.expires is not None:
            expires = now + min(response.expires, LONGEST_S) + AFTER_S
        elif method == "NOTIFY" and request is not None:
            state = (request.get("subscription-state") or "").lower()
            if state.startswith("terminated"):
                expires = min(expires, now + AFTER_S)
            elif "expires=" in state:
                expires = now + number_of(state.partition("expires=")[2]) + AFTER_S
        if meta == call.meta:
            self._memory.last(call, now, expires)
        else:
            self._memory.becomes(call, meta, now, expires)
