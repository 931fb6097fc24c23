"""Many dialogs of all kinds through one server, and forgers who know everything but are not in them.

A ``Dialog`` plays both parties, each with a socket of its own. A forged request carries a header X-Forged; whoever
receives one proves that it has passed.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import select
from collections import Counter
from dataclasses import dataclass, field

from support.patience import PATIENCE_S
from support.phone import Message, Phone
from support.running import DOMAIN, Running

from serpy import loader
from serpy.db import schema
from serpy.tools.provision import Provision

KINDS = ("plain", "refresh", "forked", "late-ack", "subscription", "transfer")
MARK = "X-Forged"


class Party(Phone):
    """One end of a dialog."""

    def hear(self, call_id: str, what: int | str, timeout: float = PATIENCE_S) -> Message:
        """The next message of this dialog with this status or method; others are dropped."""
        while True:
            message = self.expect(what, timeout)
            if message.get("Call-ID") == call_id:
                return message

    def forged(self) -> list[str]:
        """What has come, now, that was forged."""
        found = []
        while self.pending or select.select([self.socket], [], [], 0)[0]:
            message = self.receive(0)
            if message is not None and message.get(MARK):
                found.append(message.get(MARK))
        return found


@dataclass
class Leg:
    """The far end as the caller knows it: its tag, its Contact, the Route set."""

    tag: str
    contact: str
    routes: list[str]


@dataclass
class Dialog:
    """A dialog of *caller* with *callee*, of one of KINDS."""

    kind: str
    caller: Party
    callee: Party
    call_id: str = field(default_factory=lambda: f"{secrets.token_hex(6)}@dialogs")
    passed: int = 0
    cseq: int = 100
    legs: list[Leg] = field(default_factory=list)
    caller_contact: str = ""
    invite: Message | None = None

    @property
    def first_method(self) -> str:
        return "SUBSCRIBE" if self.kind == "subscription" else "INVITE"

    # requests in it

    def text(
        self,
        method: str,
        *,
        up: bool,
        leg: int = 0,
        contact: str = "",
        headers: tuple[str, ...] = (),
        cseq: int = 0,
        **changed,
    ) -> str:
        """A request of the callee (*up*) or the caller; *changed*: uri, from_tag, to_tag, call_id, routes are other ones."""
        far = self.legs[leg]
        sender = self.callee if up else self.caller
        tags = (far.tag, self.caller.tag) if up else (self.caller.tag, far.tag)
        uri = changed.get("uri") or (self.caller_contact if up else far.contact)
        routes = changed.get("routes", far.routes[::-1] if up else far.routes)
        if not cseq:
            self.cseq += 1
            cseq = self.cseq
        lines = [
            f"{method} {uri} SIP/2.0", f"Via: {changed.get('via') or sender.via()}", "Max-Forwards: 70",
            f"From: <{sender.aor}>;tag={changed.get('from_tag') or tags[0]}",
            f"To: <{(self.caller if up else self.callee).aor}>;tag={changed.get('to_tag') or tags[1]}",
            f"Call-ID: {changed.get('call_id') or self.call_id}", f"CSeq: {cseq} {method}",
            *[f"Route: {route}" for route in routes], f"Contact: <{contact or sender.contact}>", *headers, "Content-Length: 0",
        ]  # fmt: skip
        return "\r\n".join(lines) + "\r\n\r\n"

    def ask(
        self, method: str, *, up: bool = False, leg: int = 0, contact: str = "", headers: tuple[str, ...] = ()
    ) -> None:
        """Send a request in the dialog; it must arrive and be answered."""
        sender, receiver = (self.callee, self.caller) if up else (self.caller, self.callee)
        text = self.text(method, up=up, leg=leg, contact=contact, headers=headers)
        sender.send(text)
        self._answer(receiver, receiver.hear(self.call_id, method), 202 if method == "REFER" else 200)
        sender.hear(self.call_id, 202 if method == "REFER" else 200)
        if method == "INVITE":
            self._ack(Message(text), up=up, leg=leg)
        self.passed += 1

    def _ack(self, invite: Message, *, up: bool = False, leg: int = 0) -> None:
        sender, receiver = (self.callee, self.caller) if up else (self.caller, self.callee)
        sender.send(self.text("ACK", up=up, leg=leg, cseq=int(invite.get("CSeq").split()[0])))
        receiver.hear(self.call_id, "ACK")
        self.passed += 1

    def _answer(self, who: Party, request: Message, status: int, *, tag: str = "", contact: str = "") -> None:
        text = request.get("To")
        to = text if ";tag=" in text else f"{text};tag={tag}"
        lines = [
            f"SIP/2.0 {status} X", *[f"Via: {value}" for value in request.all("Via")],
            *[f"Record-Route: {value}" for value in request.all("Record-Route")], f"From: {request.get('From')}", f"To: {to}",
            f"Call-ID: {self.call_id}", f"CSeq: {request.get('CSeq')}", f"Contact: <{contact or who.contact}>",
            *(["Expires: 600"] if self.kind == "subscription" else []), "Content-Length: 0",
        ]  # fmt: skip
        who.send("\r\n".join(lines) + "\r\n\r\n")

    # its life

    def begin(self) -> None:
        """Up to the 2xx, with what comes before and shortly after it."""
        request = self._first_request()
        tags = [self.callee.tag, f"{self.callee.tag}x"] if self.kind == "forked" else [self.callee.tag]
        routes = [value for line in request.all("Record-Route") for value in line.split(", ")]
        self.caller_contact = request.get("Contact").strip("<>")
        if self.kind == "subscription":
            self.legs = [Leg(tags[0], self.callee.contact, routes[::-1])]
            self.ask("NOTIFY", up=True, headers=("Event: x", "Subscription-State: active"))  # before its 200
        else:
            self._answer(self.callee, request, 180, tag=tags[0])
            self.caller.hear(self.call_id, 180)
        self.legs = []
        for tag in tags:
            self._answer(self.callee, request, 200, tag=tag)
            answer = self.caller.hear(self.call_id, 200)
            back = [value for line in answer.all("Record-Route") for value in line.split(", ")]
            self.legs.append(Leg(tag, answer.get("Contact").strip("<>"), back[::-1]))
        self.invite = request
        if self.kind in {"plain", "refresh", "forked", "transfer"}:
            for leg in range(len(self.legs)):
                self._ack(request, leg=leg)

    def _first_request(self) -> Message:
        caller, method, uri = self.caller, self.first_method, self.callee.aor
        text = caller.request(method, uri, call_id=self.call_id, headers=("Event: x",))
        caller.send(text)
        challenge = caller.hear(self.call_id, 407)
        if method == "INVITE":
            caller.send(caller.ack(text, challenge))
        caller.send(
            caller.request(
                method, uri, call_id=self.call_id, headers=("Event: x", caller.authorization(challenge, method, uri))
            )
        )
        return self.callee.hear(self.call_id, method)

    def middle(self) -> None:
        """What the kind is about."""
        if self.kind == "plain":
            self.ask("INVITE")
            self.ask("INVITE", up=True)
        elif self.kind == "refresh":
            old = self.caller_contact
            self.caller_contact = f"sip:other@{self.caller.host}:{self.caller.port}"
            self.ask("UPDATE", contact=self.caller_contact)
            self.ask("INFO", up=True)
            self.caller_contact, new = old, self.caller_contact
            self.ask("INFO", up=True)  # the one before is still right
            self.caller_contact = new
        elif self.kind == "forked":
            self.ask("INFO", leg=1)
            self.ask("INFO", leg=0, up=True)
        elif self.kind == "subscription":
            self.ask("SUBSCRIBE", headers=("Event: x", "Expires: 600"))
        elif self.kind == "transfer":
            self.ask("REFER", headers=("Refer-To: <sip:carol@example.com>",))
            self.ask("NOTIFY", up=True, headers=("Event: refer", "Subscription-State: active"))

    def late(self) -> None:
        """What was left to come after a restart."""
        if self.kind == "late-ack":
            assert self.invite is not None
            self._ack(self.invite)
        elif self.kind == "subscription":
            self.ask("NOTIFY", up=True, headers=("Event: x", "Subscription-State: active"))
        else:
            self.ask("INVITE", up=self.kind == "refresh")

    def end(self) -> None:
        """Both legs say goodbye; of a transfer comes one more NOTIFY."""
        if self.kind == "subscription":
            self.ask("NOTIFY", up=True, headers=("Event: x", "Subscription-State: terminated"))
            return
        for leg in range(len(self.legs)):
            self.ask("BYE", leg=leg, up=self.kind in {"refresh", "late-ack"})
        if self.kind == "transfer":
            self.ask("NOTIFY", up=True, headers=("Event: refer", "Subscription-State: terminated"))


class Forgers:
    """Strangers who have overheard everything, and parties who want more than their dialog; nothing of theirs may pass."""

    def __init__(self, running: Running, seed: int):
        self.mallory = Party(running.address, "mallory", host="127.0.0.66")
        self.third = Party(running.address, "third", host="127.0.0.77")
        self.random = random.Random(seed)
        self.sent: Counter[str] = Counter()
        self._number = 0

    def forge(self, dialogs: list[Dialog], count: int) -> None:
        """Send *count* forged requests, of each kind about as many."""
        kinds = (
            self.wrong_tags, self.other_target, self.other_source, self.other_method, self.replayed, self.other_way,
            self.no_cookie, self.stray, self.maddr, self.no_dialog,
        )  # fmt: skip
        for _ in range(count):
            kind = kinds[self._number % len(kinds)]
            self._number += 1
            self.sent[kind.__name__] += 1
            one, other = self.random.sample(dialogs, 2)
            sender, text = kind(one, other)
            sender.send(text.replace("\r\nContact:", f"\r\n{MARK}: {kind.__name__}-{self._number}\r\nContact:", 1))

    def _method(self) -> str:
        return self.random.choice(
            ("INVITE", "BYE", "ACK", "MESSAGE", "INFO", "UPDATE", "NOTIFY", "REFER", "SUBSCRIBE", "OPTIONS")
        )

    def _party(self, dialog: Dialog, *, up: bool) -> Party:
        return dialog.callee if up else dialog.caller

    def wrong_tags(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        up = self.random.random() < 0.5
        changed = {"from_tag" if self.random.random() < 0.5 else "to_tag": "invented"}
        return self.random.choice((self.mallory, self._party(one, up=up))), one.text(self._method(), up=up, **changed)

    def other_target(self, one: Dialog, other: Dialog) -> tuple[Party, str]:
        up = self.random.random() < 0.5
        uri = self.random.choice((self.third.contact, self.mallory.contact, other.callee.contact, other.caller.contact))
        return self.random.choice((self.mallory, self._party(one, up=up))), one.text(self._method(), up=up, uri=uri)

    def other_source(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        up = self.random.random() < 0.5
        return self.mallory, one.text(self._method(), up=up, via=self.mallory.via())

    def other_method(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        up = self.random.random() < 0.5
        return self._party(one, up=up), one.text(self.random.choice(("REGISTER", "PUBLISH")), up=up)

    def replayed(self, one: Dialog, other: Dialog) -> tuple[Party, str]:
        up = self.random.random() < 0.5
        return self._party(one, up=up), one.text(self._method(), up=up, routes=other.legs[0].routes)

    def other_way(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        up = self.random.random() < 0.5
        routes = [*one.legs[0].routes, f"<sip:{self.third.host}:{self.third.port};lr>"]
        return self._party(one, up=up), one.text(self._method(), up=up, routes=routes)

    def no_cookie(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        up = self.random.random() < 0.5
        own = f"<sip:127.0.0.1:{one.caller.server[1]};lr>"
        return self._party(one, up=up), one.text(self._method(), up=up, routes=[own])

    def stray(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        method = self.random.choice(("ACK", "BYE", "PRACK", "UPDATE"))
        text = one.text(method, up=False, routes=[], uri=one.callee.aor)
        return self.mallory, text.replace(f";tag={one.legs[0].tag}", "", 1)

    def maddr(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        uri = f"{one.legs[0].contact};maddr={self.third.host}"
        return one.caller, one.text(self._method(), up=False, uri=uri)

    def no_dialog(self, one: Dialog, _other: Dialog) -> tuple[Party, str]:
        return one.caller, one.text(
            self._method(), up=False, call_id=f"{secrets.token_hex(6)}@forged", uri=self.third.contact
        )


def prepare(running: Running, count: int) -> None:
    """Database, domain and the users of a town with *count* dialogs; in this process, as serpyctl would."""
    database = loader.open_database(running.defines["DB_URL"], create=True)
    schema.create(database)
    provision = Provision(database)
    provision.domain_add(DOMAIN)
    for user in [*[f"a{number}" for number in range(10)], *[f"b{number}" for number in range(count)]]:
        provision.user_add(f"{user}@{DOMAIN}", user)
    database.close()


class Town:
    """*count* dialogs and the forgers around them."""

    def __init__(self, running: Running, count: int, seed: int = 1):
        self.running = running
        self.dialogs = [
            Dialog(
                KINDS[number % len(KINDS)],
                self._party(f"a{number % 10}", number),
                self._party(f"b{number}", number, is_callee=True),
            )
            for number in range(count)
        ]
        self.forgers = Forgers(running, seed)
        self.passed_forged: list[str] = []

    def _party(self, user: str, number: int, *, is_callee: bool = False) -> Party:
        host = f"127.0.{2 if is_callee else 1}.{number % 200 + 1}"
        party = Party(self.running.address, user, DOMAIN, user, host=host)
        if is_callee:
            assert party.register().status == 200
        return party

    def all(self, step: str) -> None:
        for dialog in self.dialogs:
            getattr(dialog, step)()

    def forge(self, count: int) -> None:
        """Send forged requests, and look who has received one."""
        self.forgers.forge(self.dialogs, count)
        probe = Phone(self.running.address, "probe")
        # Behind all of them in the same sockets; what has been held up behind a look-up comes in the meantime.
        for _ in range(3):
            probe.ask(probe.request("OPTIONS", f"sip:127.0.0.1:{self.running.port}"))
        probe.close()
        self.look()

    def look(self) -> None:
        """Who has received something forged?"""
        parties = [party for dialog in self.dialogs for party in (dialog.caller, dialog.callee)]
        for party in [*parties, self.forgers.mallory, self.forgers.third]:
            self.passed_forged.extend(party.forged())

    @property
    def passed(self) -> int:
        return sum(dialog.passed for dialog in self.dialogs)

    def close(self) -> None:
        for party in (
            *[each.caller for each in self.dialogs],
            *[each.callee for each in self.dialogs],
            self.forgers.mallory,
            self.forgers.third,
        ):
            with contextlib.suppress(OSError):
                party.close()
