"""From a binding to a target: by which socket, over which connection, to whom how softly (RFC 3261 §16.5, §16.6, §19.1.1;
5626 §6).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.contexts import LISTENER, SECOND, FakeReplies, configure, context, function, request_text, server

from serpy.api import LOCATION, REPLIES, Flow, Listener
from serpy.context.context import NATTED, SOFT
from serpy.modules import registrar
from serpy.modules import usrloc as usrloc_module
from serpy.modules.registrar.unproven import ASKED_S, PROVEN_S, SETS, WAYS, Unproven
from serpy.shm.counters import Counters
from serpy.shm.record import Binding
from serpy.shm.segment import Segment

NOW = 1_700_000_000.0
TCP = Listener(2, "tcp", "192.0.2.1", 5060)
SIX = Listener(3, "udp", "2001:db8::1", 5060)
SIX_TOO = Listener(4, "udp", "2001:db8::2", 5060)
OTHER_TCP = Listener(5, "tcp", "198.51.100.1", 5060)


class Setup:
    def __init__(self, *listeners, **params):
        self.server = server(*(listeners or (LISTENER, TCP)))
        self.server.settings = SimpleNamespace(server_id=0)
        self.server.segment = Segment(4 * 1024 * 1024)
        self.server.counters = Counters(self.server.segment, 1)
        location = configure(usrloc_module.exports(), self.server)
        self.server.provide(REPLIES, FakeReplies())
        self.exports = configure(registrar.exports(), self.server, **params)
        location.child_init(self.server)
        self.exports.child_init(self.server)
        self.location = self.server.bind(LOCATION)

    def register(self, contact, flow=None, *, nat=False, call_id="call-1", expires=600):
        text = request_text(f"Contact: {contact}", f"Expires: {expires}", method="REGISTER", uri="sip:example.com")
        ctx = context(
            text.replace("call-1@203.0.113.7", call_id), wall_now=NOW, flow=flow or Flow(LISTENER, "203.0.113.7", 5062)
        )
        ctx.flags = 1 << 4 if nat else 0
        assert function(self.exports, "save_contacts")(ctx, "location") == 1

    def call(self, now=NOW):
        """(result, targets) of a call to the user."""
        ctx = context(request_text(uri="sip:bob@example.com"), wall_now=now)
        result = function(self.exports, "lookup_contacts")(ctx, "location")
        return result, ctx.targets() if result == 1 else []


def test_a_phone_is_called_from_the_socket_it_registered_at():
    for listeners, source in (((LISTENER, SECOND), "203.0.113.7"), ((SIX, SIX_TOO), "2001:db8::77")):
        host = f"[{source}]" if ":" in source else source
        for listener in listeners:
            setup = Setup(*listeners)
            setup.register(f"<sip:bob@{host}>", Flow(listener, source, 5060))
            target = setup.call()[1][0]
            assert (target.request_uri, target.dst_uri, target.listener) == (f"sip:bob@{host}", "", listener)


def test_with_one_socket_there_is_nothing_to_remember():
    setup = Setup()
    setup.register("<sip:bob@203.0.113.7>", Flow(LISTENER, "203.0.113.7", 5060))
    assert setup.location.bindings("location", "bob")[0].received == ""
    target = setup.call()[1][0]
    assert (target.dst_uri, target.listener, target.flags) == ("", None, 0)


@pytest.mark.parametrize("contact", ["sip:bob@203.0.113.7:5070", "sip:bob@203.0.113.7;transport=tcp"])
def test_a_phone_on_tcp_is_called_over_its_connection_first(contact):
    setup = Setup(LISTENER, TCP, OTHER_TCP)
    setup.register(f"<{contact}>", Flow(OTHER_TCP, "203.0.113.7", 40000, 7))
    target = setup.call()[1][0]
    assert (target.request_uri, target.listener) == (contact, OTHER_TCP)
    assert target.dst_uri == "sip:203.0.113.7:40000;transport=tcp;dstip=198.51.100.1;dstport=5060;open"


def test_a_phone_behind_a_nat_is_called_by_nothing_but_its_connection():
    setup = Setup()
    setup.register("<sip:bob@10.0.0.1>", Flow(TCP, "203.0.113.7", 40000, 7), nat=True)
    target = setup.call()[1][0]
    assert target.dst_uri == "sip:203.0.113.7:40000;transport=tcp;dstip=192.0.2.1;dstport=5060"
    assert target.flags == NATTED


@pytest.mark.parametrize(
    ("contact", "request_uri"),
    [
        ("sip:bob@203.0.113.7:5062;ob?X-Evil=1", "sip:bob@203.0.113.7:5062;ob"),
        ("sip:bob@203.0.113.7:5062;method=BYE;ob", "sip:bob@203.0.113.7:5062;ob"),
        ("sip:bob@203.0.113.7:5062;ob;METHOD=BYE?Route=%3Csip:evil%3E&a=b", "sip:bob@203.0.113.7:5062;ob"),
        ("sip:method?x@203.0.113.7:5062", "sip:method?x@203.0.113.7:5062"),
        ("sip:bob@203.0.113.7:5062;methods=1", "sip:bob@203.0.113.7:5062;methods=1"),
    ],
)
def test_a_request_uri_has_neither_headers_nor_a_method(contact, request_uri):
    setup = Setup()
    setup.register(f"<{contact}>")
    assert [target.request_uri for target in setup.call()[1]] == [request_uri]


def test_two_phones_of_one_private_address_are_both_called_and_see_their_own_contact():
    setup = Setup()
    for number in (1, 2):
        flow = Flow(LISTENER, f"203.0.113.{number}", 40000)
        setup.register("<sip:bob@192.168.1.2:5060;ob>", flow, nat=True, call_id=f"c{number}")
    targets = setup.call()[1]
    assert [target.request_uri for target in targets] == ["sip:bob@192.168.1.2:5060;ob"] * 2
    assert sorted(target.dst_uri.partition(";")[0] for target in targets) == [
        "sip:203.0.113.1:40000", "sip:203.0.113.2:40000",
    ]  # fmt: skip


def test_of_the_flows_of_one_phone_the_newest_is_called():
    setup = Setup()
    for number in (1, 2):
        flow = Flow(LISTENER, "203.0.113.1", 40000 + number)
        contact = f'<sip:bob@192.168.1.2:5060;ob>;+sip.instance="<urn:uuid:1>";reg-id={number}'
        setup.register(contact, flow, nat=True, call_id=f"c{number}")
    bindings = setup.location.bindings("location", "bob")
    assert len(bindings) == 2
    newest = max(bindings, key=lambda each: each.modified_at)
    assert [target.dst_uri for target in setup.call()[1]] == [newest.received]


# -- softly -------------------------------------------------------------------------------------------------------------------


def at_a_third_host(setup, count=10, host="192.0.2.200"):
    for number in range(count):
        setup.register(f"<sip:x@{host}:{5060 + number}>", call_id=f"c{number}")


def test_many_contacts_at_one_foreign_host_are_one_target():
    setup = Setup()
    at_a_third_host(setup)
    assert len(setup.location.bindings("location", "bob")) == 10
    result, targets = setup.call()
    assert (result, [target.flags for target in targets]) == (1, [SOFT])


def test_one_transaction_at_a_time_asks_a_foreign_host():
    setup = Setup()
    at_a_third_host(setup)
    assert setup.call()[0] == 1
    assert setup.call()[0] == -5
    assert setup.call(NOW + ASKED_S - 1)[0] == -5
    assert setup.call(NOW + ASKED_S)[0] == 1


def test_who_has_answered_is_called_like_everybody_else():
    setup = Setup()
    at_a_third_host(setup)
    first = setup.call()[1][0]
    for hook in setup.server.hooks.on_proven:
        hook(first.request_uri)
    assert [target.flags for target in setup.call()[1]] == [0] * 10


def test_who_never_answers_is_left_out_where_there_are_others():
    setup = Setup()
    at_a_third_host(setup, 1)
    setup.register("<sip:bob@203.0.113.7:5062>", call_id="mine")
    calls = [setup.call(NOW + ASKED_S * number)[1] for number in range(5)]
    assert [len(targets) for targets in calls] == [2, 2, 2, 2, 1]
    assert calls[4][0].request_uri == "sip:bob@203.0.113.7:5062"
    setup.register("<sip:bob@203.0.113.7:5062>", call_id="mine-again", expires=0)
    assert len(setup.call(NOW + ASKED_S * 5)[1]) == 1  # alone, it is asked again


@pytest.mark.parametrize(
    ("contact", "flags"),
    [
        pytest.param("sip:x@192.0.2.200", SOFT, id="another-host"),
        pytest.param("sip:x@phone.example.net", SOFT, id="a-name"),
        pytest.param("sip:x@203.0.113.7:5062;maddr=192.0.2.200", SOFT, id="maddr"),
        pytest.param("sip:x@203.0.113.7:9999", 0, id="another-port-of-its-own"),
        pytest.param("sip:x@192.0.2.200;transport=tcp", 0, id="tcp-proves-itself"),
    ],
)
def test_who_is_asked_softly(contact, flags):
    setup = Setup()
    setup.register(f"<{contact}>")
    assert [target.flags & SOFT for target in setup.call()[1]] == [flags]


def test_it_can_be_switched_off():
    setup = Setup(ask_softly=0)
    at_a_third_host(setup)
    for _ in range(2):
        assert [target.flags for target in setup.call()[1]] == [0] * 10


def test_the_memory_of_hosts_is_bounded_and_who_answered_stays_longest():
    table = Unproven(Segment(1 << 20))
    table.answered("192.0.2.9", NOW)
    for number in range(SETS * WAYS * 4):
        table.asked(f"h{number}", NOW)
    assert table.is_proven("192.0.2.9", NOW + 1)
    assert not table.is_proven("192.0.2.9", NOW + PROVEN_S)
    assert sum(not table.may_ask(f"h{number}", NOW + 1) for number in range(SETS * WAYS * 4)) < SETS * WAYS


def test_a_binding_of_an_earlier_version_is_called_as_ever():
    setup = Setup()
    bindings = [
        Binding("bob", "sip:bob@192.0.2.77", int(NOW) + 60, q=2),
        Binding("bob", "sip:bob@10.1.1.1", int(NOW) + 60, flags=Binding.NAT, received="sip:192.0.2.78:4000", q=1),
        Binding("bob", "sip:bob@proxy.example", int(NOW) + 60, received="sip:192.0.2.79"),
    ]
    setup.location.update("location", "bob", lambda _current: (bindings, []))
    assert [(target.request_uri, target.dst_uri, target.flags) for target in setup.call()[1]] == [
        ("sip:bob@192.0.2.77", "", 0),
        ("sip:bob@10.1.1.1", "sip:192.0.2.78:4000", NATTED),
        ("sip:bob@proxy.example", "sip:192.0.2.79", 0),
    ]
