"""A frozen database server delays only what needs it (architecture §1.4): OPTIONS and cached calls go on."""

from __future__ import annotations

import threading
import time

import pytest
from support.load import RegisterLoad
from support.running import Running, wait_for

pytestmark = pytest.mark.system

USERS = [f"u{number}" for number in range(100)]


@pytest.fixture(
    params=[pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mysql", marks=pytest.mark.mysql)]
)
def server(request, tmp_path):
    database = request.getfixturevalue(request.param)
    running = Running(tmp_path, url=database.fresh()).prepare("alice", "bob")
    running.database = database
    listing = tmp_path / "users"
    listing.write_text("".join(f"{user}@example.com {user}\n" for user in USERS))
    running.ctl("user", "import", str(listing))
    running.start()
    yield running
    running.stop()


def ring(alice, bob):
    """One cached call up to 486: auth, location lookup and fork without the database."""
    text, answer = None, None
    uri = bob.aor
    alice.call_id = f"{time.monotonic_ns()}@slow"
    alice.send(alice.request("INVITE", uri))
    challenge = alice.expect(407)
    alice.send(alice.ack(alice.request("INVITE", uri, cseq=alice.cseq), challenge))
    text = alice.request("INVITE", uri, headers=(alice.authorization(challenge, "INVITE", uri),))
    alice.send(text)
    invite = bob.expect("INVITE")
    bob.reply(invite, 486, "Busy Here")
    answer = alice.expect(486)
    alice.send(alice.ack(text, answer))
    bob.expect("ACK")


def test_frozen_database_delays_only_what_needs_it(server):
    alice, bob, probe = server.phone("alice"), server.phone("bob"), server.phone("probe")
    assert bob.register().status == 200
    ring(alice, bob)
    # Both receivers have to know alice and bob: the Call-ID decides which one works.
    for _ in range(12):
        ring(alice, bob)
    load = RegisterLoad(server.address, USERS, 100)
    load.start()
    wait_for(lambda: load.acknowledged > 20)
    server.database.freeze()
    try:
        frozen = threading.Event()
        answered = 0
        for number in range(60):
            probe.call_id = f"{number}-{time.monotonic_ns()}@probe"
            probe.send(probe.request("OPTIONS", f"sip:127.0.0.1:{server.port}"))
            assert probe.expect(200)
            answered += 1
            if number % 10 == 0:
                ring(alice, bob)
            frozen.wait(0.05)
        assert answered == 60
        # What needs the database gets its documented answer in the configured time, never silence.
        load.finish()
        assert load.gave_up == 0
        assert set(load.refused) <= {500, 503}
        assert load.refused
    finally:
        server.database.thaw()
    wait_for(lambda: bob.register().status == 200)
    assert load.missing() == []
    for phone in (alice, bob, probe):
        phone.close()


@pytest.mark.postgres
@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_server_starts_while_the_database_is_down_and_recovers(server):
    server.stop()
    server.database.stop()
    try:
        server.start()
        phone = server.phone("alice")
        assert phone.ask(phone.request("OPTIONS", f"sip:127.0.0.1:{server.port}")).status == 200
        assert phone.register().status in (403, 500)
    finally:
        server.database.start()
    assert wait_for(lambda: phone.register().status == 200)
    phone.close()


def test_a_registration_is_not_acknowledged_while_the_file_of_the_database_is_gone(tmp_path):
    server = Running(tmp_path).prepare("alice")
    server.start()
    phone = server.phone("alice")
    try:
        assert phone.register().status == 200
        (tmp_path / "serpy.db").rename(tmp_path / "away.db")
        assert phone.register().status != 200
        wait_for(lambda: "was removed or replaced" in server.log.read_text())
        (tmp_path / "away.db").rename(tmp_path / "serpy.db")
        assert wait_for(lambda: phone.register().status == 200, timeout=20)
    finally:
        phone.close()
        server.stop()
