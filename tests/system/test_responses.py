"""Answers find their way back whatever happens to the server meanwhile; those of strangers find none."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket

import pytest
from support.phone import Message, Phone
from support.running import DOMAIN, Running, wait_for

pytestmark = pytest.mark.system


@pytest.fixture
def server(tmp_path):
    running = Running(tmp_path)
    running.prepare("alice", "bob")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def phones(server):
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(contextlib.closing(server.phone(user))) for user in ("alice", "bob")]
        assert pair[1].register().status == 200
        yield pair


def ringing(alice, bob):
    """The INVITE as bob has it, after his 180 has arrived."""
    text = alice.request("INVITE", f"sip:bob@{DOMAIN}")
    alice.send(text)
    challenge = alice.final()
    alice.send(alice.ack(text, challenge))
    line = alice.authorization(challenge, "INVITE", f"sip:bob@{DOMAIN}")
    alice.send(alice.request("INVITE", f"sip:bob@{DOMAIN}", headers=(line,)))
    invite = bob.expect("INVITE")
    bob.reply(invite, 180, "Ringing")
    alice.expect(180)
    return invite


def test_a_call_that_rings_while_the_server_is_restarted_is_answered(server, phones):
    alice, bob = phones
    invite = ringing(alice, bob)
    assert server.stop() == 0
    server.start()
    bob.reply(invite, 200)
    assert alice.final().status == 200


def test_a_call_that_rings_while_its_receiver_dies_is_answered(server, phones):
    alice, bob = phones
    invite = ringing(alice, bob)
    before = {title: pid for title, pid in server.children().items() if "udp receiver" in title}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not set(before.values()) & set(server.children().values()) and server.is_answering())
    bob.reply(invite, 200)
    assert alice.final().status == 200


def test_nobody_has_the_server_send_a_response_elsewhere(server, phones):
    invite = ringing(*phones)
    with contextlib.closing(Phone(server.address)) as victim, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        top, _ = invite.all("Via")
        ours = f"SIP/2.0/UDP 127.0.0.1:{server.port};branch=z9hG4bKx"
        for first in (ours, top, top.replace("branch=z9hG4bK", "branch=z9hG4bK0")):
            for second in (
                f"SIP/2.0/UDP 127.0.0.1:{victim.port}",
                f"SIP/2.0/TCP 127.0.0.1:{listening.getsockname()[1]}",
            ):
                for call_id in (invite.get("Call-ID"), "other"):
                    text = response(first, f"{second};branch=z9hG4bKy", invite, call_id)
                    victim.send(text)
        assert victim.ask(victim.request("OPTIONS", f"sip:127.0.0.1:{server.port}")).status == 200
        assert victim.receive(0.0) is None
        assert not select.select([listening], [], [], 0)[0]
    wait_for(lambda: has_counted(server))


def has_counted(server):
    """True once the receivers have said what they dropped; they do so once a second."""
    counters = server.json("stats")
    return counters["core.stray_foreign"] >= 4 and counters["core.stray_forged"] >= 2


def response(first, second, invite, call_id):
    """A 183 to *invite* as somebody likes it."""
    lines = [
        "SIP/2.0 183 X", f"Via: {first}", f"Via: {second}", f"From: {invite.get('From')}", f"To: {invite.get('To')};tag=x",
        f"Call-ID: {call_id}", f"CSeq: {invite.get('CSeq')}", "Content-Length: 0", "", "",
    ]  # fmt: skip
    return Message("\r\n".join(lines))
