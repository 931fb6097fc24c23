"""Contacts that this server has no way to: refused where the phone hears of it, never called where it has them all the same
(RFC 3261 §10.3, §26.2.2; RFC 3263 §4.1).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.contexts import LISTENER, FakeReplies, configure, context, function, request_text, server

from serpy.api import LOCATION, REPLIES, Flow, Listener
from serpy.modules import registrar
from serpy.modules import usrloc as usrloc_module
from serpy.shm.counters import Counters
from serpy.shm.record import Binding
from serpy.shm.segment import Segment

NOW = 1_700_000_000.0
TCP = Listener(2, "tcp", "192.0.2.1", 5060)
SIX = Listener(3, "udp", "2001:db8::1", 5060)
UDP_FLOW = Flow(LISTENER, "203.0.113.7", 5062)
TCP_FLOW = Flow(TCP, "203.0.113.7", 40000, 7)
ALL_EXPIRED = -5


class Setup:
    def __init__(self, *listeners):
        self.server = server(*(listeners or (LISTENER, TCP)))
        self.server.settings = SimpleNamespace(server_id=0)
        self.server.segment = Segment(4 * 1024 * 1024)
        self.server.counters = Counters(self.server.segment, 1)
        location = configure(usrloc_module.exports(), self.server)
        self.replies = FakeReplies()
        self.server.provide(REPLIES, self.replies)
        self.exports = configure(registrar.exports(), self.server)
        location.child_init(self.server)
        self.exports.child_init(self.server)
        self.location = self.server.bind(LOCATION)

    def register(self, contacts, flow=UDP_FLOW, *, nat=False, expires=600):
        """The answer to a REGISTER: its status, and the reason with what P-Registrar-Error adds to it."""
        text = request_text(f"Contact: {contacts}", f"Expires: {expires}", method="REGISTER", uri="sip:example.com")
        ctx = context(text, wall_now=NOW, flow=flow)
        ctx.flags = 1 << 4 if nat else 0
        function(self.exports, "save_contacts")(ctx, "location")
        sent = self.replies.sent[-1]
        return sent.status, " ".join([sent.reason, *[line for line in sent.headers if line.startswith("P-Reg")]])

    def has(self, *contacts, received="", flags=0):
        """The user has *contacts*, whoever let them in."""
        rows = [Binding("bob", each, int(NOW) + 600, received=received, flags=flags) for each in contacts]
        self.location.update("location", "bob", lambda _: (rows, []))
        return self

    def call(self):
        """(what lookup says, the targets)."""
        ctx = context(request_text(uri="sip:bob@example.com"), wall_now=NOW)
        result = function(self.exports, "lookup_contacts")(ctx, "location")
        return result, [target.request_uri for target in ctx.targets()] if result == 1 else []


NO_WAY = [
    pytest.param("sip:bob@203.0.113.7;transport=tls", id="tls"),
    pytest.param("sip:bob@203.0.113.7;Transport=SCTP", id="sctp"),
    pytest.param("sip:bob@203.0.113.7;transport=ws", id="websocket"),
    pytest.param("sip:bob@203.0.113.7;transport=carrier-pigeon", id="unknown"),
    pytest.param("sips:bob@203.0.113.7", id="sips"),
    pytest.param("SIPS:bob@203.0.113.7;transport=tcp", id="sips-over-tcp-is-tls"),
    pytest.param("sips:bob@phone.example.org", id="sips-at-a-name"),
    pytest.param("sip:bob@phone.example.org;transport=tls", id="tls-at-a-name"),
    pytest.param("sip:bob@[2001:db8::7]:5060", id="ipv6-without-a-listener"),
    pytest.param("sip:bob@[2001:db8::7];transport=tcp", id="ipv6-over-tcp"),
    pytest.param("sip:bob@203.0.113.7;maddr=[2001:db8::7]", id="maddr-counts"),
]
A_WAY = [
    pytest.param("sip:bob@203.0.113.7", id="plain"),
    pytest.param("sip:bob@203.0.113.7:5070;transport=tcp", id="tcp"),
    pytest.param("sip:bob@203.0.113.7;transport=UDP;x=y", id="udp"),
    pytest.param("sip:bob@phone.example.org", id="a-name"),
    pytest.param("sip:bob@[2001:db8::7];maddr=203.0.113.7", id="maddr"),
]


@pytest.mark.parametrize("contact", NO_WAY)
def test_a_contact_that_can_never_be_called_is_refused_and_the_answer_says_why(contact):
    setup = Setup()
    status, why = setup.register(f"<{contact}>")
    assert (status, setup.location.bindings("location", "bob")) == (400, [])
    assert why.startswith("Contact Cannot Be Reached")
    assert "P-Registrar-Error: " in why


@pytest.mark.parametrize("contact", A_WAY)
def test_what_can_be_called_is_registered_and_called(contact):
    setup = Setup()
    assert setup.register(f"<{contact}>")[0] == 200
    assert setup.call() == (1, [contact])


def test_what_a_server_can_reach_depends_on_where_it_listens():
    contact = "sip:bob@[2001:db8::7]:5060"
    assert Setup(LISTENER, SIX).register(f"<{contact}>")[0] == 200
    assert Setup(LISTENER, SIX).register(f"<{contact};transport=tcp>")[0] == 400
    assert Setup(TCP).register("<sip:bob@203.0.113.7:5062>")[0] == 400  # no transport is UDP
    assert Setup(TCP).register("<sip:bob@203.0.113.7:5062>", TCP_FLOW)[0] == 200  # but for a phone on a connection
    assert Setup(TCP).register("<sip:bob@phone.example.org>")[0] == 200  # its SRV records may say TCP


@pytest.mark.parametrize("flow", [UDP_FLOW, TCP_FLOW])
@pytest.mark.parametrize("contact", NO_WAY)
def test_a_phone_behind_a_nat_is_called_where_it_came_from_whatever_its_contact_says(contact, flow):
    setup = Setup()
    assert setup.register(f"<{contact}>", flow, nat=True)[0] == 200
    assert setup.call()[0] == 1


@pytest.mark.parametrize("transport", ["tls", "ws", "wss", "sctp"])
def test_a_phone_behind_something_that_ends_its_tls_is_called_by_the_connection_it_registered_over(transport):
    contact = f"sip:bob@203.0.113.7;transport={transport}"
    setup = Setup()
    assert setup.register(f"<{contact}>", TCP_FLOW)[0] == 200
    assert setup.call() == (1, [contact])
    assert setup.location.bindings("location", "bob")[0].flags & Binding.FLOW


def test_a_sips_contact_is_never_called_over_a_connection_without_tls():
    assert Setup().register("<sips:bob@203.0.113.7>", TCP_FLOW)[0] == 400


def test_a_phone_with_one_contact_that_can_be_called_is_registered_with_all_and_called_there():
    setup = Setup()
    assert setup.register("<sips:bob@203.0.113.7>, <sip:bob@203.0.113.7:5062>, <mailto:bob@example.com>")[0] == 200
    assert len(setup.location.bindings("location", "bob")) == 3
    assert setup.call() == (1, ["sip:bob@203.0.113.7:5062"])


@pytest.mark.parametrize("contact", NO_WAY)
def test_what_cannot_be_called_may_be_removed(contact):
    setup = Setup().has(contact)
    assert setup.register(f"<{contact}>", expires=0)[0] == 200
    assert setup.location.bindings("location", "bob") == []


@pytest.mark.parametrize("contact", [*NO_WAY, "mailto:bob@example.com", "http://example.com/bob", "urn:service:sos"])
def test_a_user_with_nothing_that_can_be_called_is_not_there(contact):
    assert Setup().has(contact).call() == (ALL_EXPIRED, [])


@pytest.mark.parametrize("contact", [*NO_WAY, "mailto:bob@example.com", "http://example.com/bob"])
def test_it_does_not_stand_in_the_way_of_others(contact):
    assert Setup().has(contact, "sip:bob@203.0.113.9:5062").call() == (1, ["sip:bob@203.0.113.9:5062"])


@pytest.mark.parametrize("contact", ["mailto:bob@example.com", "http://example.com/bob", "tel:+1555"])
def test_contacts_of_other_schemes_may_be_registered(contact):
    assert Setup().register(f"<{contact}>")[0] == 200


def test_a_telephone_number_is_for_the_script_to_route():
    assert Setup().has("tel:+1555").call() == (1, ["tel:+1555"])
