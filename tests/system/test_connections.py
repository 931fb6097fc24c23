"""Phones that keep one connection and do not say so: their Contact has no ``;transport=tcp`` (RFC 3261 §18.1.1, 5626, 5923).

Whatever is sent to them in a dialog comes by their connection, to callers and callees alike.
"""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from support.oob import AbsentError, Oob
from support.patience import free_port, wait_for
from support.phone import Phone
from support.running import DOMAIN, Running
from support.tcp_phone import TcpPhone

pytestmark = pytest.mark.system

USERS = ("alice", "bob")


class QuietTcpPhone(TcpPhone):
    """Its Contact names no transport. ``said`` is the port in it; nobody listens there."""

    said = 0

    @property
    def contact(self) -> str:
        return f"sip:{self.user}@{self.source}:{self.said or self.port}"


class TcpRunning(Running):
    """The shipped configuration on UDP and TCP."""

    def command(self, *extra: str) -> list[str]:
        return super().command("-l", f"tcp:127.0.0.1:{self.port}", *extra)


@pytest.fixture(scope="module", params=["nat", "no-nat", "sip-router-oob"])
def server(request, tmp_path_factory):
    """The shipped file with and without its NAT block, and a published one as it is."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sip-router-oob":
        try:
            running: Running = Oob(folder, request.param)
        except AbsentError as exc:
            pytest.skip(str(exc))
    else:
        defines = {"TRUSTED": "127.0.0.0/8", "NAT": "yes" if request.param == "nat" else "no"}
        running = TcpRunning(folder, defines=defines)
    running.prepare(*USERS).start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def phones(server):
    """``phones("alice", "tcp")``, closed at the end; with *said* its Contact names another port than the connection has."""
    made = []

    def make(user, transport, *, said=0):
        if transport == "udp":
            made.append(Phone(server.address, user, DOMAIN, user))
        else:
            made.append(QuietTcpPhone(server.address, user, DOMAIN, user))
            made[-1].said = said
        return made[-1]

    yield make
    for phone in made:
        with contextlib.suppress(OSError, AssertionError):
            phone.pending.clear()
            phone.register(expires=0, contact="*")
        phone.close()


class Call:
    """A call that stands: either side can ask the other."""

    def __init__(self, caller, callee):
        self.caller, self.callee = caller, callee
        text, answer = "", None
        uri = callee.aor
        caller.send(caller.request("INVITE", uri))
        challenge = caller.expect(407)
        caller.send(caller.ack(caller.request("INVITE", uri, cseq=caller.cseq), challenge))
        text = caller.request("INVITE", uri, headers=(caller.authorization(challenge, "INVITE", uri),))
        caller.send(text)
        self.invite = callee.expect("INVITE")
        callee.reply(self.invite, 180, "Ringing")
        caller.expect(180)
        callee.reply(self.invite, 200)
        answer = caller.expect(200)
        self.text, self.answer = text, answer
        self.down("ACK", cseq=caller.cseq)
        callee.expect("ACK")

    def down(self, method, *, cseq=0):
        self.caller.send(self.caller.in_dialog(method, self.text, self.answer, cseq=cseq))

    def up(self, method, *, cseq=0):
        invite, callee = self.invite, self.callee
        routes = [route.strip() for line in invite.all("Record-Route") for route in line.split(",")]
        target = invite.get("Contact").strip("<>").split(">")[0]
        callee.send(callee.request(
            method, target, to=invite.get("From"), from_=callee.aor, call_id=invite.get("Call-ID"), cseq=cseq,
            headers=tuple(f"Route: {route}" for route in routes),
        ))  # fmt: skip

    def ask(self, method, *, up):
        """*method* in the dialog arrives and is answered."""
        sender, receiver = (self.callee, self.caller) if up else (self.caller, self.callee)
        (self.up if up else self.down)(method)
        receiver.reply(receiver.expect(method), 200)
        answer = sender.expect(200)
        assert method in answer.get("CSeq")
        if method == "INVITE":
            (self.up if up else self.down)("ACK", cseq=sender.cseq)
            receiver.expect("ACK")


SIDES = [
    pytest.param("tcp", "tcp", id="tcp-to-tcp"),
    pytest.param("udp", "tcp", id="udp-to-tcp"),
    pytest.param("tcp", "udp", id="tcp-to-udp"),
]


@pytest.mark.parametrize("other_port", [False, True], ids=["own-port", "a-port-nobody-listens-at"])
@pytest.mark.parametrize(("from_", "to"), SIDES)
def test_everything_in_a_dialog_comes_by_the_connection_of_a_phone_that_does_not_name_its_transport(
    phones, from_, to, other_port
):
    said = free_port() if other_port else 0
    # What a caller says may be where it listens by UDP: who sends a large INVITE by TCP says nothing by that (§18.1.1).
    alice, bob = phones("alice", from_), phones("bob", to, said=said)
    assert (alice.register().status, bob.register().status) == (200, 200)
    call = Call(alice, bob)
    for method in ("INFO", "INVITE", "INFO"):
        call.ask(method, up=True)
        call.ask(method, up=False)
    call.ask("BYE", up=from_ == "tcp")


def test_a_phone_on_udp_that_sends_its_large_invite_by_tcp_is_still_one_on_udp(phones):
    alice, bob = phones("alice", "udp"), phones("bob", "udp")
    assert (alice.register().status, bob.register().status) == (200, 200)
    by_tcp = phones("alice", "tcp", said=alice.port)
    call = Call(by_tcp, bob)
    by_tcp.socket.close()
    call.up("BYE")
    alice.reply(alice.expect("BYE"), 200)
    assert "BYE" in bob.expect(200).get("CSeq")


def test_a_dialog_outlives_the_receiver_that_made_it_and_keeps_the_connections(server, phones):
    alice, bob = phones("alice", "tcp"), phones("bob", "tcp")
    assert (alice.register().status, bob.register().status) == (200, 200)
    calls = [Call(alice, bob)]
    before = {title: pid for title, pid in server.children().items() if title.startswith("serpy: udp receiver")}
    assert before
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_replaced(server, before))
    for call in calls:
        call.ask("INFO", up=True)
        call.ask("INFO", up=False)
        call.ask("BYE", up=True)


def is_replaced(server, before):
    """True when other processes do the work of *before*, and answer."""
    now = server.children()
    return all(now.get(title, pid) != pid for title, pid in before.items()) and server.is_answering()
