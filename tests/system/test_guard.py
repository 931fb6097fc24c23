"""A server with a public address alone, on a street of public and private hosts: what it can be made to send, and to whom."""

from __future__ import annotations

import contextlib
import select
import socket

import pytest
from support.netns import Lab, needs_namespaces
from support.phone import Phone
from support.running import DOMAIN
from support.town import TownServer

pytestmark = [pytest.mark.system, needs_namespaces]

SERVER, SECOND, STREET, OFFICE = "203.0.113.5", "203.0.113.6", "203.0.113.77", "10.1.1.9"
PROGRAMS = ["0.0.0.0", SERVER, SECOND, "127.0.0.1", "127.9.9.9"]


class Street:
    def __init__(self, lab, folder):
        switch = lab.switch("street")
        self.machine = lab.host("server", switch, f"{SERVER}/24")
        lab._ip("-n", self.machine.namespace, "address", "add", f"{SECOND}/24", "dev", "eth0")
        lab._ip("-n", self.machine.namespace, "route", "add", "10.1.1.0/24", "dev", "eth0")
        self.street = lab.host("street", switch, f"{STREET}/24")
        self.office = lab.host("office", switch, f"{OFFICE}/24")
        lab._ip("-n", self.office.namespace, "route", "add", "203.0.113.0/24", "dev", "eth0")
        self.server = TownServer(folder, self.machine)
        self.server.prepare("alice", "bob", "carol")

    def phone(self, host, user, address):
        with host.inside():
            return Phone(self.server.address, user, DOMAIN, user, host=address)

    def held_back(self):
        return self.server.json("stats")["core.held_back"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with Lab("g") as lab:
        made = Street(lab, tmp_path_factory.mktemp("street"))
        made.server.start("-l", f"tcp:{SERVER}:5060")
        yield made
        assert made.server.stop() == 0, made.server.log.read_text()[-3000:]


@pytest.fixture
def alice(place):
    phone = place.phone(place.street, "alice", STREET)
    yield phone
    phone.close()


def message_to(phone, uri):
    """The final answer to a MESSAGE with credentials."""
    answer = phone.ask(phone.request("MESSAGE", uri))
    if answer.status != 407:
        return answer
    return phone.ask(phone.request("MESSAGE", uri, headers=(phone.authorization(answer, "MESSAGE", uri),)))


def program(host, kind, address):
    """A socket of a program that has nothing to do with the server."""
    with host.inside():
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind((address, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


@pytest.mark.parametrize("address", PROGRAMS)
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_programs_on_the_same_machine_are_not_reached(place, alice, kind, address):
    bound = address if address.startswith("127.9") else "0.0.0.0"
    transport = ";transport=tcp" if kind == socket.SOCK_STREAM else ""
    with contextlib.closing(program(place.machine, kind, bound)) as sock:
        answer = message_to(alice, f"sip:x@{address}:{sock.getsockname()[1]}{transport}")
        assert answer.status == 403
        assert not select.select([sock], [], [], 0)[0]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_private_networks_are_not_reached(place, alice, kind):
    transport = ";transport=tcp" if kind == socket.SOCK_STREAM else ""
    with contextlib.closing(program(place.office, kind, OFFICE)) as sock:
        answer = message_to(alice, f"sip:x@{OFFICE}:{sock.getsockname()[1]}{transport}")
        assert answer.status == 403
        assert not select.select([sock], [], [], 0)[0]


@pytest.mark.parametrize(
    "target", ["224.0.0.1", "239.255.255.250:1900", "255.255.255.255", "240.0.0.1", "192.168.0.1", "100.64.0.1"]
)
def test_nothing_goes_to_such_addresses(alice, target):
    assert message_to(alice, f"sip:x@{target}").status == 403


def test_the_answer_to_a_phone_on_a_private_network_goes_back_there_and_so_do_calls(place, alice):
    with contextlib.closing(place.phone(place.office, "bob", OFFICE)) as bob:
        assert bob.register().status == 200
        alice.send(alice.request("MESSAGE", f"sip:bob@{DOMAIN}"))
        challenge = alice.final()
        line = alice.authorization(challenge, "MESSAGE", f"sip:bob@{DOMAIN}")
        alice.send(alice.request("MESSAGE", f"sip:bob@{DOMAIN}", headers=(line,)))
        bob.reply(bob.expect("MESSAGE"), 202, "Accepted")
        assert alice.final().status == 202
        other = message_to(alice, f"sip:bob@{OFFICE}:{bob.port + 1 if bob.port < 65535 else 1024}")
        assert other.status == 403, "only where he has registered from"


def test_a_phone_on_the_same_machine_is_called_where_it_has_registered(place, alice):
    with contextlib.closing(place.phone(place.machine, "carol", SECOND)) as carol:
        assert carol.register().status == 200
        alice.send(alice.request("MESSAGE", f"sip:carol@{DOMAIN}"))
        line = alice.authorization(alice.final(), "MESSAGE", f"sip:carol@{DOMAIN}")
        alice.send(alice.request("MESSAGE", f"sip:carol@{DOMAIN}", headers=(line,)))
        carol.reply(carol.expect("MESSAGE"), 202, "Accepted")
        assert alice.final().status == 202


def test_what_was_held_back_is_counted_and_told(place, alice):
    before = place.held_back()
    assert message_to(alice, f"sip:x@{OFFICE}:9").status == 403
    assert place.held_back() > before
    assert "private_relay" in place.server.log.read_text()
