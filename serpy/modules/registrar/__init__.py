"""registrar: REGISTER in, answers out; and from a user to the target set of a request.

``save_contacts`` and its variants read the request, have the location service change the bindings (register.py decides)
and answer. ``lookup_contacts`` and ``registered`` only read. Return codes are those of SER.

Runs in: udp receiver. Locks: none. RFC: 3261 §10, §16.5.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from serpy.api import (
    LOCATION,
    REPLIES,
    Arg,
    BackendError,
    Exports,
    Function,
    LocationService,
    Param,
    ParseError,
    ProtocolError,
    ReplyService,
    ResourceError,
    Routes,
)
from serpy.context.avps import TRACK_FROM, TRACK_TO, AvpName, parse_avp_name
from serpy.modules.registrar.contacts import TooManyContactsError
from serpy.modules.registrar.lookup import Targets, is_multihomed, is_request, to_uid
from serpy.modules.registrar.register import IntervalTooBriefError, Policy, Registration, check_key, contact_values
from serpy.modules.registrar.replica import Replica, source_of_replica
from serpy.modules.registrar.unproven import Unproven
from serpy.modules.registrar.wayout import WaysOut
from serpy.replication.settings import REPLICATION_SETTINGS
from serpy.replication.tombstones import TOMBSTONES, Tombstones
from serpy.sip.date import date_line
from serpy.sip.received import received_from

if TYPE_CHECKING:
    from serpy.api import Binding, Server
    from serpy.context.context import Context

_TRUE: Final = 1
_FALSE: Final = -1
_STOP: Final = 0
_ERROR: Final = -2
_NO_RECORD: Final = -3
_BAD_URI: Final = -4
_ALL_EXPIRED: Final = -5

_RETRY_AFTER_S: Final = 60  # a full table gets room by expiry
_RESERVED: Final = 500  # longest text we put into P-Registrar-Error


class Outcome:
    """What a save leads to: the answer, with the Contact value for a 200 and an error text for the others."""

    def __init__(self, status: int, reason: str, contact: str = "", error: str = "", extra: str = "") -> None:
        self.status: Final = status
        self.reason: Final = reason
        self.contact: Final = contact
        self.error: Final = error
        self.extra: Final = extra  # one more header line

    def headers(self) -> list[str]:
        """The header lines of the answer."""
        lines: list[str] = []
        if self.contact:
            lines.append(f"Contact: {self.contact}")
        if self.extra:
            lines.append(self.extra)
        if self.error:
            lines.append(f"P-Registrar-Error: {_header_text(self.error)}")
        return lines


class Registrar:
    """The module: its parameters and its script functions."""

    def __init__(self) -> None:
        self.policy = Policy()
        self.default_expires = 3600
        self.min_expires = 60
        self.max_expires = 0
        self.max_contacts = 0
        self.replace_oldest = 1
        self.contact_length = 1024
        self.total_length = 8192
        self.clamp_expires = 0
        self.strict_cseq = 1
        self.default_q = -1
        self.append_branches = 1
        self.save_nat_flag = 4
        self.load_nat_flag = 4
        self.ask_softly = 1
        self.received_param = "received"
        self.received_to_uri = 0
        self.trust_received_flag = -2
        self.reply_code_attr = "$code"
        self.reply_reason_attr = "$reason"
        self.contact_attr = "$contact"
        self.aor_attr = "$aor"
        self.server_id_attr = "$server_id"
        self._names: list[AvpName] = []  # code, reason, contact
        self._aor_name = "aor"
        self._server_id_name = "server_id"
        self._server_id = 0
        # set by init and child_init; declared only, because a compiled attribute cannot hold None for an object
        self._location: LocationService
        self._reply: ReplyService
        self._tombstones: Tombstones | None = None
        self._store_replicas = False
        self._targets: Targets
        self._ways: WaysOut

    def init(self, server: Server) -> None:
        """Take the parameters over; names of attributes are parsed once."""
        policy = self.policy
        policy.default_expires = self.default_expires
        policy.min_expires = self.min_expires
        policy.max_expires = self.max_expires
        policy.max_contacts = self.max_contacts
        policy.replace_oldest = self.replace_oldest
        policy.contact_length = self.contact_length
        policy.total_length = self.total_length
        policy.is_multihomed = is_multihomed(server.listeners)
        policy.is_myself = server.is_myself
        self._ways = policy.ways = WaysOut(server.listeners)
        policy.clamp_expires = self.clamp_expires
        policy.strict_cseq = self.strict_cseq
        policy.default_q = self.default_q
        policy.received_param = self.received_param.lower()
        self._names = [parse_avp_name(n) for n in (self.reply_code_attr, self.reply_reason_attr, self.contact_attr)]
        self._aor_name = parse_avp_name(self.aor_attr).name
        self._server_id_name = parse_avp_name(self.server_id_attr).name
        self._server_id = server.settings.server_id
        targets = Targets(server, Unproven(server.segment))
        targets.append_branches = self.append_branches
        targets.received_to_uri = self.received_to_uri
        targets.load_nat_flag = self.load_nat_flag
        targets.ask_softly = self.ask_softly
        self._targets = targets
        policy.is_dead = targets.is_dead
        if self.ask_softly:
            server.hooks.on_proven.append(self._on_proven)

    def child_init(self, server: Server) -> None:
        """Find usrloc and sl. Raises ConfigError without them."""
        self._location = server.bind(LOCATION)
        self._reply = server.bind(REPLIES)
        self._tombstones = server.find(TOMBSTONES)
        replication = server.find(REPLICATION_SETTINGS)
        self._store_replicas = replication is not None and replication.store_replicas

    # -- saving --------------------------------------------------------------------------------------------------------

    def save_contacts(self, ctx: Context, table: str, aor: str | int | None = None) -> int:
        """Register and answer: 1, 0 after an error answer, -1 when the answer could not be sent."""
        return self._answer(ctx, self._save(ctx, table, _text(aor), persist=True, replica=False))

    def save_memory(self, ctx: Context, table: str, aor: str | int | None = None) -> int:
        """Like save_contacts, without the database."""
        return self._answer(ctx, self._save(ctx, table, _text(aor), persist=False, replica=False))

    def save_contacts_noreply(self, ctx: Context, table: str, aor: str | int | None = None) -> int:
        """Register without answering: 1 or -2; code, reason and contacts are left in attributes."""
        return self._note(ctx, self._save(ctx, table, _text(aor), persist=True, replica=False))

    def save_mem_nr(self, ctx: Context, table: str, aor: str | int | None = None) -> int:
        """Like save_contacts_noreply for replicas; without the database unless replication's store_replicas is set."""
        return self._note(ctx, self._save(ctx, table, _text(aor), persist=self._store_replicas, replica=True))

    def _save(self, ctx: Context, table: str, aor: str, *, persist: bool, replica: bool) -> Outcome:
        try:
            uid = to_uid(ctx, escaped=replica)
            if not uid:
                return Outcome(400, "Bad Request", error="no user id")
            if replica and self._is_own_replica(ctx):
                return Outcome(200, "OK")
            wanted = is_request(ctx).get_all("require")
            if wanted and not replica:  # RFC 3261 section 10.3 step 2; we know no extension of REGISTER
                extra = f"Unsupported: {', '.join(wanted)}"
                return Outcome(420, "Bad Extension", error="unsupported extension required", extra=extra)
            registration = self._registration(ctx, uid, aor, table if replica else "")
            if registration.contacts:
                bindings = self._location.update(table, uid, registration.decide, persist=persist)
                if registration.removed and self._tombstones is not None:
                    self._bury(self._tombstones, table, registration)
            else:
                bindings = self._location.bindings(table, uid)
        except IntervalTooBriefError as brief:
            return Outcome(brief.status, brief.reason, error=str(brief), extra=f"Min-Expires: {brief.min_expires}")
        except TooManyContactsError as many:
            extra = f"Retry-After: {many.retry_after or _RETRY_AFTER_S}"
            return Outcome(many.status, many.reason, error=str(many), extra=extra)
        except ProtocolError as refused:
            reason = refused.reason or _REASONS.get(refused.status, "Bad Request")
            return Outcome(refused.status, reason, error=str(refused))
        except ResourceError as full:  # one name per type: a compiled variable has one type
            extra = f"Retry-After: {_RETRY_AFTER_S}"
            return Outcome(503, "Service Unavailable", error=str(full).partition(";")[0], extra=extra)
        except BackendError:
            return Outcome(500, "Server Internal Error", error="the binding could not be stored")
        if aor:
            bindings = [binding for binding in bindings if binding.aor == aor]
        now = ctx.wall_now
        # §10.3 step 8: phones set their clocks by it; a script may have added one
        has_date = any(line[:5].lower() == "date:" for line in ctx.reply_headers)
        return Outcome(200, "OK", contact=contact_values(bindings, now), extra="" if has_date else date_line(now))

    def _registration(self, ctx: Context, uid: str, aor: str, replica_of: str) -> Registration:
        """What the REGISTER says; *replica_of* names the table when it is a replica."""
        request = is_request(ctx)
        nat = self.save_nat_flag >= 0 and (ctx.flags >> self.save_nat_flag) & 1 != 0
        trust = self.trust_received_flag
        agent = request.get("user-agent")
        came_from = received_from(ctx.flow)
        if not aor:
            known = ctx.avps.search(self._aor_name, TRACK_TO)
            aor = request.to.uri_text if known is None else str(known)
        check_key(aor, "To")
        try:
            contacts = request.contacts
        except ParseError as exc:
            raise ParseError(str(exc), header="Contact") from None
        if contacts and contacts[0].uri_text == "*" and request.get("contact") != "*":
            raise ProtocolError('Contact "*" stands alone', reason="Bad Contact")
        replica: Replica | None = None
        if replica_of:
            # Only what the timer process has verified comes in by a multicast listener.
            signed = request.get("serpy-replica") if ctx.flow.listener.multicast else None
            replica = Replica(replica_of, signed, ctx.wall_now, self._tombstones)
        registration = Registration(
            self.policy,
            uid,
            contacts,
            request.expires,
            aor=aor,
            call_id=request.call_id,
            cseq=request.cseq.number,
            user_agent=agent or "Unknown",
            nat=nat,
            received=str(came_from) if nat else "",
            trusted=trust == -2 or (trust >= 0 and (ctx.flags >> trust) & 1 != 0),
            server_id=self._owner(ctx, replica),
            wall_now=ctx.wall_now,
            came_from=came_from if replica is None else source_of_replica(request),
        )
        registration.replica = replica
        return registration

    def _bury(self, tombstones: Tombstones, table: str, registration: Registration) -> None:
        """Note which request removed the contacts: refreshes between it and the last one we have seen are older, too."""
        for gone in registration.removed:
            tombstones.add(
                table, gone.uid, gone.contact, registration.call_id, registration.cseq, registration.wall_now,
                float(gone.expires_at),
            )  # fmt: skip

    def _named_owner(self, ctx: Context) -> int:
        """The server id in the attribute, -1 when it is absent or not a number."""
        value = ctx.avps.search(self._server_id_name, TRACK_FROM)
        if isinstance(value, str):
            return int(value) if value.isascii() and value.isdigit() and len(value) <= 9 else -1
        return value if value is not None and 0 <= value < 1 << 31 else -1

    def _owner(self, ctx: Context, replica: Replica | None) -> int:
        """The server id of the binding: the one named by the script, else by the envelope of a replica, else our own."""
        named = self._named_owner(ctx)
        if named < 0 and replica is not None and 0 <= replica.server_id < 1 << 31:
            return replica.server_id
        return named if named >= 0 else self._server_id

    def _is_own_replica(self, ctx: Context) -> bool:
        """True for our own multicast coming back: applying it would take the row away from the database."""
        return self._server_id != 0 and self._named_owner(ctx) == self._server_id

    def _answer(self, ctx: Context, outcome: Outcome) -> int:
        if not self._reply.reply(ctx, outcome.status, outcome.reason, outcome.headers()):
            return _FALSE
        return _TRUE if outcome.status == 200 else _STOP

    def _note(self, ctx: Context, outcome: Outcome) -> int:
        code, reason, contact = self._names
        ctx.avps.write(code, outcome.status)
        ctx.avps.write(reason, outcome.reason)
        if outcome.contact:
            ctx.avps.write(contact, outcome.contact)
        return _TRUE if outcome.status == 200 else _ERROR

    # -- looking up ----------------------------------------------------------------------------------------------------

    def lookup_contacts(self, ctx: Context, table: str, aor: str | int | None = None) -> int:
        """Put the callee's contacts in the target set: 1; -1 no uid, -2 error, -3 no record, -4 bad URI, -5 expired, or none
        that may be asked now, or that we have a way to.
        """
        try:
            uid = to_uid(ctx)
        except ParseError:
            return _BAD_URI
        if not uid:
            return _FALSE
        try:
            bindings = self._location.bindings(table, uid)
        except (BackendError, ResourceError):
            return _ERROR
        wanted = _text(aor)
        if wanted:
            bindings = [binding for binding in bindings if binding.aor == wanted]
        if not bindings:
            return _NO_RECORD
        ways = self._ways
        live: list[Binding] = [each for each in bindings if each.is_live(ctx.wall_now) and ways.reach(each)]
        if not live:
            return _ALL_EXPIRED
        return _TRUE if self._targets.use(ctx, live) else _ALL_EXPIRED

    def _on_proven(self, request_uri: str) -> None:
        self._targets.proven(request_uri, time.time())

    def registered(self, ctx: Context, table: str) -> int:
        """1 when the callee has a live contact, else -1."""
        try:
            uid = to_uid(ctx)
            bindings = self._location.bindings(table, uid) if uid else []
        except (ParseError, BackendError, ResourceError):
            return _FALSE
        for binding in bindings:
            if binding.is_live(ctx.wall_now):
                return _TRUE
        return _FALSE


_REASONS: Final = {400: "Bad Request", 500: "Server Internal Error", 503: "Service Unavailable"}


def _text(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _header_text(text: str) -> str:
    """*text* fit for a header value: printable ASCII, bounded."""
    return "".join([char if " " <= char <= "~" else "?" for char in text[:_RESERVED]])


def _not_negative(value: int) -> str:
    return "" if value >= 0 else "must not be negative"


def _q_range(value: int) -> str:
    return "" if -1 <= value <= 1000 else "default_q is 0 to 1000 (thousandths) or -1"


def _avp(text: str) -> str:
    try:
        parse_avp_name(text)
    except ValueError as exc:
        return str(exc)
    return ""


def _params() -> list[Param]:
    return [
        Param("default_expires", "int", 3600, "lifetime in seconds when the phone names none", check=_not_negative),
        Param("min_expires", "int", 60, "shortest lifetime granted", check=_not_negative),
        Param("max_expires", "int", 0, "longest lifetime granted, 0 = no limit", check=_not_negative),
        Param("clamp_expires", "int", 0, "1: raise a too short lifetime silently; 0: answer 423 with Min-Expires"),
        Param(
            "strict_cseq", "int", 1, "1: refuse a CSeq of the same Call-ID that is not higher (RFC 3261); 0: apply it"
        ),
        Param("max_contacts", "int", 0, "contacts of one user, 0 = no limit", check=_not_negative),
        Param(
            "replace_oldest", "int", 1, "one too many: 1 takes the place of the oldest or deadest, 0 is answered 503"
        ),
        Param("contact_length", "int", 1024, "characters of a contact; longer: 400; 0 = no limit", check=_not_negative),
        Param("total_length", "int", 8192, "characters of all contacts of a user; more: 503", check=_not_negative),
        Param("default_q", "int", -1, "q of contacts without one, in thousandths; -1 = none", check=_q_range),
        Param("append_branches", "int", 1, "1: look up all contacts, 0: the first"),
        Param(
            "ask_softly",
            "int",
            1,
            "1: contacts at a host that is not where they registered from, and never answered, get one transaction at a time"
            " and three packets; 0: they are called like any other",
        ),
        Param("save_nat_flag", "flag", 4, "set by the script: the contact is behind a NAT"),
        Param("load_nat_flag", "flag", 4, "set by lookup: a contact is behind a NAT"),
        Param("received_param", "str", "received", "Contact parameter that carries the source address"),
        Param("received_to_uri", "int", 0, "1: add the source to the Request-URI instead of sending there"),
        Param("trust_received_flag", "flag", -2, "flag that lets us believe the parameter; -2 always, -1 never"),
        Param("reply_code_attr", "avp", "$code", "attribute for the code of a save without reply", check=_avp),
        Param("reply_reason_attr", "avp", "$reason", "attribute for its reason", check=_avp),
        Param("contact_attr", "avp", "$contact", "attribute for the contacts", check=_avp),
        Param("aor_attr", "avp", "$aor", "attribute with the AoR to store", check=_avp),
        Param("server_id_attr", "avp", "$server_id", "attribute with the owner of a replica", check=_avp),
    ]


def exports() -> Exports:
    """A fresh registrar module."""
    module = Registrar()
    routes = Routes.REQUEST | Routes.FAILURE
    functions: list[Function] = []

    def add(names: tuple[str, ...], call: object, summary: str, args: tuple[Arg, ...] = (Arg.STR, Arg.VALUE)) -> None:
        assert callable(call)
        for name in names:
            functions.append(Function(name, call, args, optional=len(args) - 1, routes=routes, summary=summary))

    add(("save_contacts", "save"), module.save_contacts, "register the contacts and answer")
    add(("save_contacts_noreply",), module.save_contacts_noreply, "register the contacts, the script answers")
    add(("save_memory",), module.save_memory, "register in memory only and answer")
    add(("save_mem_nr",), module.save_mem_nr, "register in memory only, without an answer")
    add(("lookup_contacts", "lookup"), module.lookup_contacts, "put the user's contacts in the target set")
    add(("registered",), module.registered, "true when the user has a contact", (Arg.STR,))
    return Exports(
        name="registrar",
        module=module,
        functions=functions,
        params=_params(),
        init=module.init,
        child_init=module.child_init,
    )
