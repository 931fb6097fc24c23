"""The memory of calls at work: records are made when requests leave, learn from answers, and end.

A record is made by ``record_route()`` for INVITE, SUBSCRIBE and REFER outside of a dialog, when the first branch leaves.
Contacts count as they left us, after all repairs. Whether a later request belongs to its dialog says ``rule``.

Runs in: udp receiver (a slab of the table is its own); init in the master. Locks: none.
RFC: 3261 §12, §16.6 item 4; 3515; 4028; 6665.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from serpy.api import AvpName, Avps, Context, Flow, ParseError, Target
from serpy.modules.rr import rule
from serpy.modules.rr.answers import AFTER_S, ANSWERED_S, REFRESHES, Answers
from serpy.modules.rr.cookie import GATEWAY as BY_GATEWAY
from serpy.modules.rr.cookie import NAMED, Cookie, DialogCookies, headed
from serpy.modules.rr.memory import BY_COOKIE, CALLS, CallMemory
from serpy.modules.rr.own import OwnRoute
from serpy.modules.rr.reading import (
    contact_line,
    contact_of,
    endpoint_of_line,
    endpoint_of_text,
    has_more_vias,
    host_as_it_came,
    host_of_text,
    minute_of,
    text_of,
)
from serpy.modules.rr.sides import (
    GATEWAY,
    OVER,
    PROXIED,
    USED,
    branch_to,
    has_open_leg,
    learn_hop,
    leg_of,
    new_leg,
    tagged_leg,
)
from serpy.shm import call_file as layout
from serpy.shm.call_file import stamp
from serpy.shm.calls import TIMED, Call, Side
from serpy.shm.fingerprints import Contact
from serpy.sip.message import Edits, Request, Response
from serpy.sip.uri import Uri
from serpy.transaction.user import DialogWatcher

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

log = logging.getLogger(__name__)

KINDS: Final = {"INVITE": layout.INVITE, "SUBSCRIBE": layout.SUBSCRIBE, "REFER": layout.REFER}
AFTER_REFER_S: Final = 300  # who has transferred a call hangs up, and hears how it went on


class Beginning:
    """The dialog that a request may begin, as it was when ``record_route()`` worked on it.

    *text* is its *cookie*. *line* is the Contact as it would have left, *contact* what it says, *place* the long number of
    the address that the request has come from.
    """

    def __init__(self, text: str, cookie: Cookie, line: str, contact: Contact, place: int) -> None:
        self.text: Final = text
        self.cookie: Final = cookie
        self.line: Final = line
        self.contact: Final = contact
        self.place: Final = place


class Dialogs(DialogWatcher):
    """What one process does with its *memory* of calls."""

    def __init__(self, cookies: DialogCookies, memory: CallMemory, gateway: AvpName | None) -> None:
        super().__init__()
        self.cookies: Final = cookies
        self.memory: Final = memory
        self.prints: Final = memory.prints
        self.checks_source = True
        self._answers: Final = Answers(memory, cookies)
        self._gateway: Final = gateway
        self._serial = int.from_bytes(os.urandom(4), "big")

    def attach(self, slab: int) -> None:
        """Be the writer of *slab*, with the calls that are in it."""
        self._serial = int.from_bytes(os.urandom(4), "big")  # each process has numbers of its own
        self.memory.attach(slab)

    # -- a dialog begins

    def begins(self, ctx: Context, avps: Avps, request: Request) -> Beginning | None:
        """The dialog that *request* may begin, None for a method that begins none."""
        if request.method not in KINDS:
            return None
        tag = request.from_tag
        if not tag:
            return None  # RFC 2543: nothing to tell two calls apart by
        self._serial = self._serial + 1 & 0xFFFFFFFF
        prints = self.prints
        host = ctx.flow.host
        line = contact_line(request, ctx.edits)
        contact = prints.contact(line)
        place = prints.place(host)
        level = NAMED if ctx.authenticated is not None else 0
        if self._is_gateway(ctx, host):
            level |= BY_GATEWAY
        caller = (prints.short(contact.target) if contact.target else 0) << 30 | prints.short(place)
        cookie = Cookie(request.call_id, tag, headed(level, self._serial, minute_of(ctx.wall_now)), caller)
        return Beginning(self.cookies.make_dialog(avps, cookie), cookie, line, contact, place)

    def leaves(self, ctx: Context, begins: Beginning, out: Flow, limits: list[int] | None) -> None:
        """The request that *begins* this dialog leaves by *out*; maybe not its first branch."""
        request = ctx.request
        if request is None:
            return
        cookie = begins.cookie
        now = stamp(ctx.wall_now)
        if ctx.dialog == cookie.key:
            call = self.memory.table.find(cookie.key, now)
            if call is not None:
                self._add_branch(ctx, call, out)
        else:
            ctx.dialog = cookie.key
            self._make(ctx, request, begins, limits, now, out)

    def _make(
        self, ctx: Context, request: Request, begins: Beginning, limits: list[int] | None, now: int, out: Flow
    ) -> None:  # fmt: skip
        prints = self.prints
        cookie = begins.cookie
        place: i64 = begins.place
        flags = USED
        if cookie.level & BY_GATEWAY:
            flags |= GATEWAY
        if has_more_vias(request):
            flags |= PROXIED
        route = 0
        line = request.find("record-route")
        if line >= 0:
            route = endpoint_of_line(prints, request, line)
            flags |= PROXIED
        contact = begins.contact
        leaving = contact_line(request, ctx.edits)
        if leaving != begins.line:
            contact = prints.contact(leaving)
        host = host_as_it_came(prints, request, ctx.edits, contact)
        caller = Side(
            prints.of(cookie.tag),
            contact.target,
            prints.short(place + ctx.flow.port),
            route,
            prints.short(place),
            host,
            flags,
        )
        call = self.memory.remembered(
            cookie, now, layout.RINGING | KINDS[request.method] << 4, caller, self._branch(ctx, out), text_of(request)
        )
        if call is None:
            return
        if limits:
            self.memory.count_for(call, limits)
        self.memory.count(CALLS)
        self.memory.show_count()

    def _branch(self, ctx: Context, out: Flow) -> Side:
        """The branch that leaves by *out*."""
        prints = self.prints
        place: i64 = prints.place(out.host)
        info = USED | GATEWAY if self._is_gateway(ctx, out.host) else USED
        return Side(0, 0, prints.short(place + out.port), 0, prints.short(place), 0, info)

    def _add_branch(self, ctx: Context, call: Call, out: Flow) -> None:
        leg = self._branch(ctx, out)
        if branch_to(call, leg.hop) is None:
            new_leg(self.memory.table, call, leg)

    def _is_gateway(self, ctx: Context, host: str) -> bool:
        return self._gateway is not None and ctx.avps.newest_of(self._gateway) == host

    # -- a request inside one

    def judge(
        self, ctx: Context, request: Request, own: OwnRoute, target: str, route: Uri | None
    ) -> tuple[int, Cookie | None]:
        """May *request*, bound for *target* by the Route below ours, pass? The verdict and what our Route carries."""
        tag = request.from_tag
        cookie = self.cookies.open(own.cookie or "", request.call_id, tag, request.to_tag)
        if cookie is None or request.method in rule.NEVER:
            return rule.STRANGE, None
        if not cookie.head:  # of the version before
            return (
                rule.BELONGS if self.memory.server.loop.wall_now() < self.memory.legacy_until else rule.STRANGE
            ), cookie
        asked = self._asked(ctx, request, cookie.tag == tag, target, route)
        now = stamp(ctx.wall_now)
        call = self.memory.table.find(cookie.key, now)
        if call is None:
            return self._judge_alone(ctx, cookie, asked, target, route), cookie
        verdict = rule.judge(call, asked, now)
        if verdict == rule.BELONGS:
            ctx.dialog = cookie.key
            self._heard(ctx, request, call, asked, now)
        return verdict, cookie

    def _asked(self, ctx: Context, request: Request, is_down: bool, target: str, route: Uri | None) -> rule.Asked:
        prints = self.prints
        flow = ctx.flow
        other_tag = prints.of(request.to_tag if is_down else request.from_tag)
        place = prints.place(flow.host)
        asked = rule.Asked(prints, request.method, other_tag, target, place, flow.port, is_down=is_down)
        asked.is_proven = ctx.authenticated is not None
        asked.is_checked = self.checks_source
        if route is not None:
            asked.hop = rule.next_hop(prints, route)
            asked.hop_is_ours = self.memory.is_mine(route)
        return asked

    def _judge_alone(self, ctx: Context, cookie: Cookie, asked: rule.Asked, target: str, route: Uri | None) -> int:
        prints = self.prints
        host = 0 if route is None else prints.host(route.param("maddr") or route.host)
        minute = minute_of(ctx.wall_now)
        number = prints.short(asked.target) if asked.target else 0
        verdict = rule.judge_alone(cookie, asked, number, host_of_text(prints, target), host, minute)
        if verdict == rule.BELONGS:
            self.memory.count(BY_COOKIE)
        return verdict

    def _heard(self, ctx: Context, request: Request, call: Call, asked: rule.Asked, now: int) -> None:
        """Something of the dialog has come: it lives on, and its side may have moved."""
        table = self.memory.table
        side: Side | None = call.caller
        if not asked.is_down:
            side = asked.leg
            if side is None:
                side = tagged_leg(table, call, asked.other_tag, asked.source)
                if side is None:
                    return
                self._answers.learn_contact(side, request, ctx.edits)
        if side is not None:
            if not asked.is_usual:
                learn_hop(side, asked.source, asked.source_host)
            if side.is_news:
                table.write_side(side)
        if call.meta & (layout.STATE | TIMED | layout.KIND) == layout.ANSWERED | layout.INVITE << 4:
            self.memory.last(call, now, now + ANSWERED_S)
        else:
            self.memory.last(call, now, call.expires)

    def has_used(self, ctx: Context, target: Target) -> bool:
        """True when the side that the request of *ctx* goes to has been heard from where *target* leads."""
        request = ctx.request
        call = self.memory.table.find(ctx.dialog, stamp(ctx.wall_now)) if ctx.dialog else None
        if call is None or request is None:
            return False
        side: Side | None = call.caller
        if call.caller.tag == self.prints.of(request.from_tag):
            side = leg_of(call, self.prints.of(request.to_tag))
        hop = endpoint_of_text(self.prints, target.dst_uri or target.request_uri)
        return side is not None and hop != 0 and side.hop == hop

    def knows_target(self, ctx: Context, edits: Edits) -> bool:
        """True when the Contact of this request, as it leaves with *edits*, is what its sender was asked for before."""
        call = self.memory.table.find(ctx.dialog, stamp(ctx.wall_now))
        request = ctx.request
        if call is None or request is None:
            return False
        tag = self.prints.of(request.from_tag)
        side = call.caller if call.caller.tag == tag else leg_of(call, tag)
        target = contact_of(self.prints, request, edits).target
        return side is not None and target != 0 and target in (side.contact, side.before)

    # -- answers

    def answered(self, dialog: int, ctx: Context | None, response: Response, edits: Edits, flow: Flow | None) -> None:
        """A provisional or 2xx goes upstream. *ctx* is that of the request, None when it has been let go."""
        if response.method not in REFRESHES:
            return  # says nothing new
        now = stamp(self.memory.server.loop.wall_now())
        call = self.memory.table.find(dialog, now)
        if call is None or not response.to_tag:
            return
        try:
            self._answers.learn(call, ctx, response, edits, flow, now)
        except ParseError as exc:
            log.debug("nothing learnt from an answer: %s", exc)

    def passed(self, response: Response, edits: Edits, flow: Flow) -> None:
        """The same for a request without a transaction: our Record-Route in the answer says what call it is."""
        if response.status < 300 and response.has("record-route"):
            try:
                for value in response.record_routes:
                    text = value.route_uri.param("avp")
                    if text and self.memory.is_mine(value.uri):
                        cookie = self.cookies.open(text, response.call_id, response.from_tag, response.to_tag)
                        if cookie is not None and cookie.head:
                            self.answered(cookie.key, None, response, edits, flow)
                        return
            except ParseError as exc:
                log.debug("nothing learnt from an answer: %s", exc)

    # -- the end

    def ended(self, dialog: int, request: Request, status: int) -> None:
        """*request* has its last answer."""
        if request.method != "BYE" and (status < 300 or request.to_tag):
            return
        now = stamp(self.memory.server.loop.wall_now())
        call = self.memory.table.find(dialog, now)
        if call is None:
            return
        if request.method == "BYE":
            from_tag = self.prints.of(request.from_tag)
            leg = leg_of(call, self.prints.of(request.to_tag) if call.caller.tag == from_tag else from_tag)
            if leg is not None:
                leg.info |= OVER
            # While it rings the INVITE has its own end: BYE to a phone that rings leaves the others alone.
            if call.state == layout.RINGING or has_open_leg(call):
                if leg is not None:
                    self.memory.table.write_info(leg)
                return
        elif call.state != layout.RINGING:
            return
        self.memory.uncount(call)
        after = AFTER_REFER_S if call.meta & layout.SUBSCRIBED else AFTER_S
        self.memory.becomes(call, int(call.meta & ~layout.STATE | layout.ENDED), now, now + after)
