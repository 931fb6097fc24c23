"""The memory of calls at work: records are made when requests leave, learn from answers, and end.

A record is made by ``record_route()`` for INVITE, SUBSCRIBE and REFER outside of a dialog, when the first branch leaves.
Contacts count as they left us, after all repairs. Whether a later request belongs to its dialog says ``rule``.

Runs in: udp receiver (a slab of the table is its own); init in the master. Locks: none.
RFC: 3261 §12, §16.6 item 4; 3515; 4028; 6665.
"""

from __future__ import annotations

import logging
import os
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serpy.api import AvpName, Avps, Context, Flow, ParseError, Server, Target
from serpy.limited_log import LimitedLog
from serpy.modules.rr import rule
from serpy.modules.rr.cookie import GATEWAY as BY_GATEWAY
from serpy.modules.rr.cookie import NAMED, Cookie, DialogCookies
from serpy.modules.rr.reading import (
    LONGEST_S,
    contact_host_of,
    contact_of,
    endpoint_of_line,
    endpoint_of_text,
    has_more_vias,
    host_of_text,
    minute_of,
    number_of,
    text_of,
)
from serpy.modules.rr.sides import (
    CONFIRMED,
    GATEWAY,
    MAPPED,
    OVER,
    PROXIED,
    USED,
    branch_to,
    has_open_leg,
    learn_contact,
    learn_hop,
    leg_of,
    new_leg,
    tagged_leg,
)
from serpy.net.steering import owner
from serpy.shm import call_file as layout
from serpy.shm.call_file import CallFile, in_memory, open_file, stamp
from serpy.shm.call_limits import CallLimits
from serpy.shm.calls import TIMED, Call, CallTable, Side
from serpy.shm.fingerprints import Fingerprints
from serpy.sip.message import Edits, Message, Request, Response
from serpy.sip.uri import Uri
from serpy.transaction.user import DialogWatcher

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

KINDS: Final = {"INVITE": layout.INVITE, "SUBSCRIBE": layout.SUBSCRIBE, "REFER": layout.REFER}
REFRESHES: Final = ("INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER")  # their Contacts become targets
RINGING_S: Final = 240
ANSWERED_S: Final = 12 * 3600
AFTER_S: Final = 32  # 64*T1: so long the end of a call is repeated
AFTER_REFER_S: Final = 300  # who has transferred a call hangs up, and hears how it went on
SUBSCRIPTION_S: Final = 3600  # RFC 6665 leaves it to the package; REFER has none
ALARM: Final = 80  # per cent
LEGACY_S: Final = 12 * 3600  # cookies without a head are taken so long after the memory was made

COUNTERS: Final = (
    ("rr.calls", "calls remembered since start"),
    ("rr.current", "calls in memory"),
    ("rr.refused", "requests in a dialog that did not belong to it"),
    ("rr.elsewhere", "requests in a dialog from a host that its side had not used"),
    ("rr.stray_acks", "ACKs that belonged to nothing, dropped"),
    ("rr.no_dialog", "BYE, PRACK and UPDATE without a dialog, answered 481"),
    ("rr.by_cookie", "requests in a dialog let in by their cookie, without a record"),
    ("rr.full", "calls for which there was no record"),
    ("rr.limited", "calls refused by call_limit()"),
)
CALLS, CURRENT, REFUSED, ELSEWHERE, STRAY_ACKS, NO_DIALOG, BY_COOKIE, FULL, LIMITED = range(len(COUNTERS))


class Dialogs(DialogWatcher):
    """The calls of one process. Made in the master, attached in each receiver on first use."""

    def __init__(self, cookies: DialogCookies, secret: bytes, gateway: AvpName | None) -> None:
        super().__init__()
        self.cookies: Final = cookies
        self.prints: Final = Fingerprints(blake2b(secret, digest_size=32, person=b"calls").digest())
        self.file: CallFile
        self.table: CallTable
        self.limits: CallLimits
        self.checks_source = True
        self.is_mine: Callable[[Uri], bool] = _nobody
        self._gateway: Final = gateway
        self._reports: Final = LimitedLog(log)
        self._server: Server
        self._ids: list[int] = []
        self._legacy_until = 0.0
        self._serial = int.from_bytes(os.urandom(4), "big")
        self.is_attached = False

    def open(self, server: Server, slabs: int, records: int) -> None:
        """Make or find the memory; in the master."""
        self._server = server
        now = server.started_wall
        counters = getattr(server, "counters", None)
        if counters is not None:
            self._ids = [counters.declare(name, text) for name, text in COUNTERS]
        self.limits = CallLimits(slabs, records)
        if server.run_dir:
            path = str(Path(server.run_dir) / "calls")
            mark = self.prints.of("mark of the memory of calls")
            try:
                self.file = open_file(path, slabs, records, mark, owner, now)
                self.table = CallTable(self.file)
                self._legacy_until = float(self.file.since + LEGACY_S)
                return
            except OSError as exc:
                log.warning("rr: cannot keep calls in %s (%s): a restart forgets them", path, exc.strerror)
        self.file = in_memory(slabs, records, now)
        self.table = CallTable(self.file)

    def attach(self, slab: int) -> None:
        """Be the writer of *slab*, with the calls that are in it."""
        self.is_attached = True
        self._serial = int.from_bytes(os.urandom(4), "big")  # each process has numbers of its own
        table = self.table
        if not 0 <= slab < self.file.slabs:
            return  # no receiver: it only reads
        self.limits.attach(slab)
        table.on_free = self._uncount
        table.attach(slab, stamp(self._server.loop.wall_now()))
        for call in table.calls():
            if call.state != layout.ENDED:
                for key in (call.limit, call.other_limit):
                    if key:
                        self.limits.add(key)
        self._show_count()

    def count(self, counter: int) -> None:
        """One more."""
        if self._ids:
            self._server.counters.add(self._ids[counter])

    def _show_count(self) -> None:
        if self._ids:
            self._server.counters.set(self._ids[CURRENT], self.table.count)

    # -- a dialog begins

    def cookie(self, ctx: Context, avps: Avps, request: Request) -> tuple[str, Cookie] | None:
        """The cookie of the dialog that *request* may begin, None for a method that begins none."""
        if request.method not in KINDS:
            return None
        tag = request.from_tag
        if not tag:
            return None  # RFC 2543: nothing to tell two calls apart by
        self._serial = self._serial + 1 & 0xFFFFFFFF
        prints = self.prints
        contact = contact_of(prints, request, ctx.edits).target
        level = NAMED if ctx.authenticated is not None else 0
        if self._is_gateway(ctx, ctx.flow.host):
            level |= BY_GATEWAY
        return self.cookies.make_dialog(
            avps, request.call_id, tag, self._serial, minute_of(ctx.wall_now), level,
            (prints.short(contact) if contact else 0) << 30 | prints.host(ctx.flow.host),
        )  # fmt: skip

    def leaves(self, ctx: Context, cookie: Cookie, out: Flow, limits: list[int]) -> None:
        """The request that *cookie* was made for leaves by *out*; maybe not its first branch."""
        request = ctx.request
        if request is None:
            return
        now = stamp(ctx.wall_now)
        if ctx.dialog == cookie.key:
            call = self.table.find(cookie.key, now)
            if call is not None:
                self._add_branch(ctx, call, out)
        else:
            ctx.dialog = cookie.key
            self._make(ctx, request, cookie, limits, now, out)

    def _make(
        self, ctx: Context, request: Request, cookie: Cookie, limits: list[int], now: int, out: Flow
    ) -> None:  # fmt: skip
        prints = self.prints
        flow = ctx.flow
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
        contact = contact_of(prints, request, ctx.edits)
        host = contact.host if ctx.edits.replaced is None else contact_host_of(prints, request)
        place = prints.place(flow.host)
        caller = Side(
            prints.tag(cookie.tag),
            contact.target,
            prints.short(place + flow.port),
            route,
            prints.short(place),
            host,
            flags,
        )
        call = self._remembered(
            cookie, now, layout.RINGING | KINDS[request.method] << 4, caller, self._branch(ctx, out), text_of(request)
        )
        if call is None:
            return
        if limits:
            self._count_for(call, limits)
        self.count(CALLS)
        self._show_count()

    def _remembered(self, cookie: Cookie, now: int, meta: int, caller: Side, leg: Side, text: bytes) -> Call | None:
        """The call of *cookie*, None when there is no room for it."""
        table = self.table
        if cookie.level:
            meta |= layout.NAMED
        key = cookie.key
        call = table.make(key, now, now + RINGING_S, meta, cookie.serial, caller, leg, text)
        if call is None and self.is_attached and table.make_room():
            call = table.make(key, now, now + RINGING_S, meta, cookie.serial, caller, leg, text)
        if call is None:
            self.count(FULL)
            self._reports.warning("full", "the memory of calls is full: new ones live by their cookie (rr max_calls)")
        elif table.fill >= ALARM:
            self._reports.warning("fill", "the memory of calls is full to %d %% (rr max_calls)", table.fill)
        return call

    def _count_for(self, call: Call, limits: list[int]) -> None:
        counted = [key for key in limits[:2] if self.limits.add(key)]
        if counted:
            call.limit = counted[0]
            call.other_limit = counted[1] if len(counted) > 1 else 0
            self.table.write_limits(call)

    def _branch(self, ctx: Context, out: Flow) -> Side:
        """The branch that leaves by *out*."""
        prints = self.prints
        place = prints.place(out.host)
        info = USED | GATEWAY if self._is_gateway(ctx, out.host) else USED
        return Side(0, 0, prints.short(place + out.port), 0, prints.short(place), 0, info)

    def _add_branch(self, ctx: Context, call: Call, out: Flow) -> None:
        leg = self._branch(ctx, out)
        if branch_to(call, leg.hop) is None:
            new_leg(self.table, call, leg)

    def _is_gateway(self, ctx: Context, host: str) -> bool:
        return self._gateway is not None and ctx.avps.newest_of(self._gateway) == host

    # -- a request inside one

    def judge(
        self, ctx: Context, request: Request, own: Uri, target: str, route: Uri | None
    ) -> tuple[int, Cookie | None]:
        """May *request*, bound for *target* by the Route below ours, pass? The verdict and what our Route carries."""
        text = own.param("avp") or ""
        tag = request.from_tag
        cookie = self.cookies.open(text, request.call_id, tag, request.to_tag)
        if cookie is None or request.method in rule.NEVER:
            return rule.STRANGE, None
        if not cookie.head:  # of the version before
            return (rule.BELONGS if self._server.loop.wall_now() < self._legacy_until else rule.STRANGE), cookie
        asked = self._asked(ctx, request, cookie.tag == tag, target, route)
        now = stamp(ctx.wall_now)
        call = self.table.find(cookie.key, now)
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
        other_tag = prints.tag(request.to_tag if is_down else request.from_tag)
        place = prints.place(flow.host)
        asked = rule.Asked(prints, request.method, other_tag, target, place, flow.port, is_down=is_down)
        asked.is_proven = ctx.authenticated is not None
        asked.is_checked = self.checks_source
        if route is not None:
            asked.hop = rule.next_hop(prints, route)
            asked.hop_is_ours = self.is_mine(route)
        return asked

    def _judge_alone(self, ctx: Context, cookie: Cookie, asked: rule.Asked, target: str, route: Uri | None) -> int:
        prints = self.prints
        host = 0 if route is None else prints.host(route.param("maddr") or route.host)
        minute = minute_of(ctx.wall_now)
        number = prints.short(asked.target) if asked.target else 0
        verdict = rule.judge_alone(cookie, asked, number, host_of_text(prints, target), host, minute)
        if verdict == rule.BELONGS:
            self.count(BY_COOKIE)
        return verdict

    def _heard(self, ctx: Context, request: Request, call: Call, asked: rule.Asked, now: int) -> None:
        """Something of the dialog has come: it lives on, and its side may have moved."""
        table = self.table
        is_news = False
        side: Side | None = call.caller
        if not asked.is_down:
            side = asked.leg
            if side is None:
                side = tagged_leg(table, call, asked.other_tag, asked.source)
                if side is None:
                    return
                self._learn_contact(side, request, ctx.edits)
                is_news = True
        if side is not None and not asked.is_usual and learn_hop(side, asked.source, asked.source_host):
            is_news = True
        if is_news and side is not None:
            table.write_side(side)
        if call.meta & (layout.STATE | TIMED | layout.KIND) == layout.ANSWERED | layout.INVITE << 4:
            self._last(call, now, now + ANSWERED_S)
        else:
            self._last(call, now, call.expires)

    def _last(self, call: Call, now: int, expires: int) -> None:
        """A message has come; the call is forgotten at *expires*."""
        call.last = now
        call.expires = min(expires, layout.TIME_MASK)
        self.table.write(call)

    def has_used(self, ctx: Context, target: Target) -> bool:
        """True when the side that the request of *ctx* goes to has been heard from where *target* leads."""
        request = ctx.request
        call = self.table.find(ctx.dialog, stamp(ctx.wall_now)) if ctx.dialog else None
        if call is None or request is None:
            return False
        side: Side | None = call.caller
        if call.caller.tag == self.prints.tag(request.from_tag):
            side = leg_of(call, self.prints.tag(request.to_tag))
        hop = endpoint_of_text(self.prints, target.dst_uri or target.request_uri)
        return side is not None and hop != 0 and side.hop == hop

    # -- answers

    def answered(self, dialog: int, ctx: Context | None, response: Response, edits: Edits, flow: Flow | None) -> None:
        """A provisional or 2xx goes upstream. *ctx* is that of the request, None when it has been let go."""
        if response.method not in REFRESHES:
            return  # says nothing new
        now = stamp(self._server.loop.wall_now())
        call = self.table.find(dialog, now)
        if call is None or not response.to_tag:
            return
        try:
            self._learn(call, ctx, response, edits, flow, now)
        except ParseError as exc:
            log.debug("nothing learnt from an answer: %s", exc)

    def passed(self, response: Response, edits: Edits, flow: Flow) -> None:
        """The same for a request without a transaction: our Record-Route in the answer says what call it is."""
        if response.status < 300 and response.has("record-route"):
            try:
                for value in response.record_routes:
                    text = value.route_uri.param("avp")
                    if text and self.is_mine(value.uri):
                        cookie = self.cookies.open(text, response.call_id, response.from_tag, response.to_tag)
                        if cookie is not None and cookie.head:
                            self.answered(cookie.key, None, response, edits, flow)
                        return
            except ParseError as exc:
                log.debug("nothing learnt from an answer: %s", exc)

    def _learn(
        self, call: Call, ctx: Context | None, response: Response, edits: Edits, flow: Flow | None, now: int
    ) -> None:
        prints = self.prints
        request = None if ctx is None else ctx.request
        is_first = request is None or not request.to_tag
        asker: Side | None = call.caller
        is_down = request is not None and is_first  # it has begun the dialog
        from_tag = 0
        if not is_down:
            from_tag = prints.tag(response.from_tag)
            is_down = call.caller.tag == from_tag
        to_tag = prints.tag(response.to_tag)
        if not is_down:
            side = asker
            asker = leg_of(call, from_tag)
        elif is_first:
            hop = 0 if flow is None else prints.endpoint(flow.host, flow.port)
            side = tagged_leg(self.table, call, to_tag, hop)
        else:
            side = leg_of(call, to_tag)
        if side is None:
            return
        status = response.status
        self._learn_contact(side, response, edits)
        if is_first:
            if not side.info & MAPPED:
                side.info |= self._learn_set(response, side, call)
            if status >= 200:
                side.info |= CONFIRMED
        self.table.write_side(side)
        if status < 200:
            if call.state == layout.RINGING:
                self._last(call, now, now + RINGING_S)
            return
        if is_first or request is None or ctx is None or asker is None:
            pass
        elif self._learn_contact(asker, request, ctx.edits):
            self.table.write_side(asker)
        self._lives(call, request, response, now, is_first=is_first)

    def _learn_contact(self, side: Side, message: Message, edits: Edits) -> bool:
        contact = contact_of(self.prints, message, edits)
        if not contact.target or side.contact == contact.target:
            return False
        return learn_contact(
            side, contact.target, contact.host if edits.replaced is None else contact_host_of(self.prints, message)
        )

    def _learn_set(self, response: Response, side: Side, call: Call) -> int:
        """Where the Route set of the caller goes on behind us: the Record-Route above ours, if any. What flags that gives."""
        at = response.find("record-route")
        if at < 0:
            return 0  # of a provisional, maybe: the 2xx has it
        line = response.lines[at]
        if "," not in line and response.names.count("record-route") == 1:
            return MAPPED  # that is our own
        before: Uri | None = None
        for value in response.record_routes:
            uri = value.uri
            if self.is_mine(uri) and self._is_of(uri, response, call):
                if before is not None and not self.is_mine(before):
                    side.route = self.prints.endpoint_of(before) or side.route
                    return MAPPED | PROXIED
                return MAPPED
            before = uri
        return MAPPED

    def _is_of(self, uri: Uri, response: Response, call: Call) -> bool:
        """True when the Record-Route *uri* is the one of this call: after a spiral there are two of ours."""
        cookie = self.cookies.open(uri.param("avp") or "", response.call_id, response.from_tag, response.to_tag)
        return cookie is not None and cookie.serial == call.serial

    def _lives(self, call: Call, request: Request | None, response: Response, now: int, *, is_first: bool) -> None:
        """A 2xx has come: for how long is the call remembered?"""
        method = response.method
        kind = call.kind
        expires = int(call.expires)
        if is_first and call.state == layout.RINGING:
            call.meta = call.meta & ~layout.STATE | layout.ANSWERED
            call.answered = now
            expires = now + (ANSWERED_S if kind == layout.INVITE else SUBSCRIPTION_S + AFTER_S)
        if call.state != layout.ANSWERED:
            return
        if method in {"INVITE", "UPDATE"}:
            value = response.get("session-expires")
            interval = 0 if value is None else number_of(value)
            call.meta = call.meta | TIMED if interval else call.meta & ~TIMED
            expires = now + (interval + AFTER_S if interval else ANSWERED_S)
        elif kind == layout.INVITE:
            if method in {"SUBSCRIBE", "REFER"}:
                call.meta |= layout.SUBSCRIBED
        elif method == "SUBSCRIBE" and response.expires is not None:
            expires = now + min(response.expires, LONGEST_S) + AFTER_S
        elif method == "NOTIFY" and request is not None:
            state = (request.get("subscription-state") or "").lower()
            if state.startswith("terminated"):
                expires = min(expires, now + AFTER_S)
            elif "expires=" in state:
                expires = now + number_of(state.partition("expires=")[2]) + AFTER_S
        self._last(call, now, expires)

    # -- the end

    def ended(self, dialog: int, request: Request, status: int) -> None:
        """*request* has its last answer."""
        if request.method != "BYE" and (status < 300 or request.to_tag):
            return
        now = stamp(self._server.loop.wall_now())
        call = self.table.find(dialog, now)
        if call is None:
            return
        if request.method == "BYE":
            from_tag = self.prints.tag(request.from_tag)
            leg = leg_of(call, self.prints.tag(request.to_tag) if call.caller.tag == from_tag else from_tag)
            if leg is not None:
                leg.info |= OVER
                self.table.write_side(leg)
            # While it rings the INVITE has its own end: BYE to a phone that rings leaves the others alone.
            if call.state == layout.RINGING or has_open_leg(call):
                return
        elif call.state != layout.RINGING:
            return
        self._uncount(call)
        call.meta = call.meta & ~layout.STATE | layout.ENDED
        self._last(call, now, now + (AFTER_REFER_S if call.meta & layout.SUBSCRIBED else AFTER_S))

    def _uncount(self, call: Call) -> None:
        """The call counts for nothing any more."""
        if not call.limit:
            return
        self.limits.take(int(call.limit))
        if call.other_limit:
            self.limits.take(int(call.other_limit))
        call.limit = call.other_limit = 0
        self.table.write_limits(call)

    def duration(self, dialog: int, wall_now: float) -> int:
        """Seconds since the call was answered; -1 when that is not known."""
        now = stamp(wall_now)
        call = self.table.find(dialog, now) if dialog else None
        return now - call.answered if call is not None and call.answered else -1

    def counts(self, key: int, limit: int, now: float) -> bool:
        """True when fewer than *limit* calls count for *key*."""
        if self.limits.count(key) < limit:
            return True
        self.table.sweep_all(stamp(now))
        return self.limits.count(key) < limit


def _nobody(uri: Uri) -> bool:  # noqa: ARG001 - the interface
    return False
