"""Two real phones (Debian's baresip) on the Out-of-Box configuration: register, call in both directions, hang up."""

from __future__ import annotations

import pytest
from support.baresip import MODULES, PROGRAM, Baresip
from support.running import DOMAIN, Running

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(PROGRAM is None or not MODULES.is_dir(), reason="apt-get install baresip-core"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("serpy")).prepare("alice", "bob").start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory):
    """alice, and bob who answers by himself; both registered."""
    folder = tmp_path_factory.mktemp("baresip")
    alice = Baresip(folder / "alice", server.address, "alice", DOMAIN, "alice")
    try:
        bob = Baresip(folder / "bob", server.address, "bob", DOMAIN, "bob", ";answermode=auto")
        try:
            alice.wait_registered()
            bob.wait_registered()
            yield alice, bob
        finally:
            bob.close()
    finally:
        alice.close()


def test_both_are_registered_with_one_contact_each(server, pair):
    assert len(pair) == 2
    assert sorted(row["uid"] for row in server.json("usrloc", "show")) == ["alice@example.com", "bob@example.com"]


def test_a_call_is_answered_and_the_caller_hangs_up(pair):
    alice, bob = pair
    alice.command("dial", f"sip:bob@{DOMAIN}")
    alice.expect("CALL_ESTABLISHED")
    bob.expect("CALL_ESTABLISHED")
    alice.command("hangup")
    bob.expect("CALL_CLOSED")
    alice.expect("CALL_CLOSED")


def test_a_call_the_other_way_is_ended_by_the_callee(pair):
    alice, bob = pair
    bob.command("dial", f"sip:alice@{DOMAIN}")
    alice.expect("CALL_INCOMING")
    bob.expect("CALL_RINGING")
    alice.command("accept")
    bob.expect("CALL_ESTABLISHED")
    alice.expect("CALL_ESTABLISHED")
    alice.command("hangup")
    bob.expect("CALL_CLOSED")
    alice.expect("CALL_CLOSED")


def test_a_ringing_call_is_given_up_by_the_caller(pair):
    alice, bob = pair
    bob.command("dial", f"sip:alice@{DOMAIN}")
    alice.expect("CALL_INCOMING")
    bob.expect("CALL_RINGING")
    bob.command("hangup")
    alice.expect("CALL_CLOSED")


def test_a_call_to_nobody_ends_with_the_reason(pair):
    alice, _ = pair
    alice.command("dial", f"sip:nobody@{DOMAIN}")
    assert "404" in str(alice.expect("CALL_CLOSED").get("param"))
