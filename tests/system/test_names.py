"""Calls to domains: what the DNS does to a call, and what it cannot do to the others."""

from __future__ import annotations

import pytest
from support.dns import NameServer
from support.phone import Phone
from support.running import Running, free_port, wait_for

pytestmark = pytest.mark.system

CONFIG = """
loadmodule "sl" loadmodule "tm" loadmodule "ctl"
dns_servers = NAME_SERVER

route {
    if (method == "OPTIONS") { sl_reply("200", "OK"); exit; }
    if (!t_relay()) { sl_reply_error(); }
}
"""
PORT = free_port()
ZONE = {
    ("_sip._udp.mixed.test.", "SRV"): [f"10 0 {PORT} six.mixed.test.", f"20 0 {PORT} four.mixed.test."],
    ("six.mixed.test.", "AAAA"): ["::1"],
    ("four.mixed.test.", "A"): ["127.0.0.1"],
    ("slow.test.", "A"): ["127.0.0.1"],
}


@pytest.fixture(scope="module")
def names():
    found = NameServer(ZONE)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def server(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    config = folder / "names.conf"
    config.write_text(CONFIG)
    running = Running(folder, config=config, defines={"NAME_SERVER": f'"{names.text}"'})
    running.start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def alice(server):
    phone = server.phone("alice")
    yield phone
    phone.close()


@pytest.fixture
def bob(server):
    phone = Phone(server.address, "bob", port=PORT)
    yield phone
    phone.close()


def call(phone, domain):
    """Send an INVITE to *domain* with a Call-ID of its own."""
    phone.send(phone.request("INVITE", f"sip:bob@{domain}", call_id=f"{domain}-{phone.call_id}"))


def test_a_target_we_cannot_reach_does_not_spoil_the_next(alice, bob):
    call(alice, "mixed.test")
    bob.reply(bob.expect("INVITE"), 486, "Busy Here")
    assert alice.final().status == 486


def test_a_name_server_that_takes_three_seconds_is_waited_for(alice, bob, names):
    names.delay_s = 3.0
    try:
        call(alice, f"slow.test:{PORT}")
        bob.reply(bob.expect("INVITE"), 486, "Busy Here")
        assert alice.final().status == 486
    finally:
        names.delay_s = 0.0


def test_a_call_to_a_domain_whose_name_servers_are_silent_is_answered_and_the_next_one_at_once(alice, server, names):
    names.silent = True
    try:
        call(alice, "dead.test")
        assert alice.final(timeout=10).status == 480
        asked = len(names.asked)
        call(alice, "dead.test")
        assert alice.final(timeout=10).status == 480
        assert len(names.asked) == asked
    finally:
        names.silent = False
    assert wait_for(lambda: server.json("stats")["waiting.dns_timeouts"])  # published once a second
