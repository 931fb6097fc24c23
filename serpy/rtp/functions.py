"""The script functions for media proxies, shared by the modules that offer them under their names.

``auto`` finds out what a message's description is; ``offer`` and ``answer`` are told; ``manage`` also ends sessions.

Runs in: udp receiver. Locks: none.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from serpy.api import Service
from serpy.context.context import FAILURE
from serpy.errors import ParseError
from serpy.rtp.flags import Flags, parse_flags
from serpy.rtp.session import ANSWER, NOTHING, OFFER, Directions
from serpy.sip.message import Request, Response
from serpy.sip.sdp import Address, Changes, Target, add_line, find_sdp, parse_sdp, rewrite

if TYPE_CHECKING:
    from serpy.context.context import Context
    from serpy.rtp.relay import RtpRelay

log = logging.getLogger(__name__)

_TRUE: Final = 1
_FALSE: Final = -1

# Bits of fix_nated_sdp.
_ADD_DIRECTION: Final = 1
_FIX_CONNECTION: Final = 2
_ADD_MARK: Final = 4
_FIX_ORIGIN: Final = 8

Value = str | int | None


class RtpFunctions:
    """The functions over one ``RtpRelay``."""

    def __init__(self, relay: RtpRelay) -> None:
        self.relay: Final = relay
        self._directions: Final = Directions()
        self._reported: Final[set[str]] = set()

    def auto(self, ctx: Context, flags: Value = "", media_address: Value = "") -> int:
        """Offer or answer, whichever the message's description is: 1, -1 when nothing was changed."""
        if not _body(ctx):
            return _FALSE
        try:
            direction = self._directions.of(ctx)
        except ParseError:
            return _FALSE
        if direction == NOTHING:
            return _FALSE
        return self._describe(ctx, direction, flags, media_address)

    def offer(self, ctx: Context, flags: Value = "", media_address: Value = "") -> int:
        """The message's description is an offer."""
        return self._describe(ctx, OFFER, flags, media_address)

    def answer(self, ctx: Context, flags: Value = "", media_address: Value = "") -> int:
        """The message's description is an answer."""
        return self._describe(ctx, ANSWER, flags, media_address)

    def end(self, ctx: Context, _flags: Value = "") -> int:
        """The call is over: 1, -1 when no proxy can be told."""
        return _TRUE if self.relay.end(ctx) else _FALSE

    def record(self, ctx: Context, _flags: Value = "") -> int:
        """Have the proxy record the call."""
        return _TRUE if self.relay.record(ctx) else _FALSE

    def manage(self, ctx: Context, flags: Value = "", media_address: Value = "") -> int:
        """Offer, answer or end, by method and status; everything in a failure route ends."""
        message = ctx.message
        if ctx.kind == FAILURE:
            return self.end(ctx)
        if isinstance(message, Request):
            if message.method in {"BYE", "CANCEL"}:
                return self.end(ctx)
        elif isinstance(message, Response) and message.status >= 300:
            return self.end(ctx)
        return self.auto(ctx, flags, media_address)

    def _describe(self, ctx: Context, direction: int, text: Value, media_address: Value) -> int:
        flags = self._flags(text)
        if flags is None:
            return _FALSE
        address = media_address if isinstance(media_address, str) else ""
        done = self.relay.describe(ctx, flags, address, is_offer=direction == OFFER)
        return _TRUE if done else _FALSE

    def _flags(self, text: Value) -> Flags | None:
        flags = parse_flags("" if text is None else str(text))
        if not flags.problem:
            return flags
        if flags.problem not in self._reported and len(self._reported) < 100:
            self._reported.add(flags.problem)
            log.error("flags %.80r of a media function: %s", text, flags.problem)
        return None

    # -- without a proxy ------------------------------------------------------------------------------------------

    @staticmethod
    def fix_nated_sdp(ctx: Context, bits: int, address: Value = "") -> int:
        """Write the source address (or *address*) into the description: 2 every c=, 8 o=; 1 adds
        ``a=direction:active``, 4 adds ``a=nortpproxy:yes``. 1, -1 without a description.
        """
        body = _body(ctx)
        try:
            start, end = find_sdp(ctx.message.get("content-type") or "", body)
            if start < 0:
                return _FALSE
            sdp = parse_sdp(body[start:end])
        except ParseError as exc:
            log.debug("fix_nated_sdp: %s", exc)
            return _FALSE
        host = address if isinstance(address, str) and address else ctx.flow.host
        target = Target(host, 0, ":" in host)
        changes = Changes(sdp.data)
        places: list[Address] = []
        for session in sdp.sessions:
            if bits & _FIX_CONNECTION and session.connection is not None:
                places.append(session.connection)
            if bits & _FIX_ORIGIN and session.origin is not None:
                changes.replace(session.origin.start, session.origin.end, target.address())
        for media in sdp.medias if bits & _FIX_CONNECTION else ():
            places.extend(media.connections)
        for place in places:
            if not place.is_null:
                changes.replace(place.start, place.end, target.address())
        if bits & _ADD_DIRECTION:
            add_line(sdp, changes, b"a=direction:active")
        text = changes.apply()
        if bits & _ADD_MARK:
            text = rewrite(parse_sdp(text), {})
        ctx.edits.body = body[:start] + text + body[end:]
        return _TRUE


def _body(ctx: Context) -> bytes:
    """The body as it would leave now."""
    body = ctx.edits.body
    return ctx.message.body if body is None else body


RTP_FUNCTIONS: Final[Service[RtpFunctions]] = Service("functions for media proxies")
