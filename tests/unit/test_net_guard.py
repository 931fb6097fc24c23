"""What may leave, from which of our addresses to which; whatever it is and however it is carried."""

from __future__ import annotations

import pytest

from serpy.errors import HeldBackError, TransportError
from serpy.net import guard as guards
from serpy.net.guard import Guard, machine_addresses
from serpy.net.handoff import Channels, Layout
from serpy.net.sender import Sender
from serpy.net.streams import StreamSender
from serpy.sip.flow import SEEN, Flow, Listener, Outgoing

PUBLIC = Listener(0, "udp", "203.0.113.5", 5060)
PRIVATE = Listener(1, "udp", "192.168.1.5", 5060)
LOOPBACK = Listener(2, "udp", "127.0.0.1", 5060)
PUBLIC_TCP = Listener(3, "tcp", "203.0.113.5", 5060)
PUBLIC6 = Listener(4, "udp", "2001:db8::5", 5060)
PRIVATE6 = Listener(5, "udp", "fd00::5", 5060)
LOOPBACK6 = Listener(6, "udp", "::1", 5060)
GROUP = Listener(7, "udp", "224.0.1.75", 5060, multicast=True)
ALL = [PUBLIC, PRIVATE, LOOPBACK, PUBLIC_TCP, PUBLIC6, PRIVATE6, LOOPBACK6, GROUP]
OWN = {"203.0.113.5", "203.0.113.6", "192.168.1.5", "127.0.0.1", "2001:db8::5", "fd00::5", "::1"}


def guard(*listeners, private_relay=False, known=(), own=OWN):
    made = Guard(listeners or ALL, private_relay=private_relay, addresses=lambda: own)
    made.is_known = lambda flow: (flow.transport, flow.host, flow.port) in known
    return made


REACHED = [
    (PUBLIC, "198.51.100.1"), (PUBLIC_TCP, "198.51.100.1"), (PUBLIC6, "2001:db8:1::1"), (PUBLIC6, "64:ff9b::c633:6401"),
    (PRIVATE, "198.51.100.1"), (PRIVATE, "192.168.1.9"), (PRIVATE, "10.9.9.9"), (PRIVATE, "100.64.1.1"), (PRIVATE, "169.254.1.1"),
    (PRIVATE6, "fd01::9"), (PRIVATE6, "fe80::9%eth0"), (LOOPBACK, "198.51.100.1"), (LOOPBACK, "192.168.1.9"),
    (LOOPBACK, "127.0.0.2"), (LOOPBACK, "192.168.1.5"), (LOOPBACK, "203.0.113.6"), (LOOPBACK6, "::1"),
]  # fmt: skip
PRIVATE_FROM_PUBLIC = [
    (PUBLIC, "10.0.0.1"), (PUBLIC, "172.16.0.1"), (PUBLIC, "192.168.1.9"), (PUBLIC, "100.64.1.1"), (PUBLIC, "169.254.169.254"),
    (PUBLIC, "198.18.0.1"), (PUBLIC_TCP, "10.0.0.1"), (PUBLIC6, "fd00::9"), (PUBLIC6, "fe80::9"), (PUBLIC6, "::ffff:10.0.0.1"),
    (PUBLIC6, "64:ff9b::a00:1"), (PUBLIC6, "2002:a00:1::1"),
]  # fmt: skip
THIS_MACHINE = [
    (PUBLIC, "127.0.0.1"), (PUBLIC, "127.9.9.9"), (PUBLIC, "203.0.113.5"), (PUBLIC, "203.0.113.6"), (PUBLIC_TCP, "127.0.0.1"),
    (PUBLIC_TCP, "203.0.113.5"), (PUBLIC6, "::1"), (PUBLIC6, "2001:db8::5"), (PUBLIC6, "2001:DB8:0::5"), (PRIVATE, "127.0.0.1"),
    (PRIVATE, "192.168.1.5"), (PRIVATE, "203.0.113.5"), (PRIVATE6, "::1"), (PRIVATE6, "fd00::5"), (PUBLIC6, "::ffff:127.0.0.1"),
    (PUBLIC6, "64:ff9b::7f00:1"), (PUBLIC6, "::ffff:203.0.113.5"), (PUBLIC6, "2002:cb00:7105::1"),
]  # fmt: skip
NEVER = [
    (PUBLIC, "0.0.0.0"), (PUBLIC, "255.255.255.255"), (PUBLIC, "224.0.0.1"), (PUBLIC, "240.0.0.1"), (PUBLIC, "192.0.0.8"),
    (PRIVATE, "0.0.0.0"), (PRIVATE, "239.1.1.1"), (LOOPBACK, "0.0.0.0"), (LOOPBACK, "224.0.0.1"), (PUBLIC6, "::"),
    (PUBLIC6, "ff02::1"), (LOOPBACK6, "::"), (LOOPBACK6, "::ffff:0.0.0.0"), (PUBLIC, "localhost"), (PUBLIC, "127.1"),
    (LOOPBACK, "example.com"), (PUBLIC, ""),
]  # fmt: skip


@pytest.mark.parametrize(("listener", "host"), REACHED)
def test_what_may_leave(listener, host):
    made = guard()
    for _ in range(2):  # seen before or not
        assert made.allows(Flow(listener, host, 5070))
        made.check(Flow(listener, host, 5070))


@pytest.mark.parametrize(("listener", "host"), [*PRIVATE_FROM_PUBLIC, *THIS_MACHINE, *NEVER])
def test_what_is_held_back(listener, host):
    made = guard()
    counted = []
    made.count = lambda: counted.append(1)
    for _ in range(2):
        assert not made.allows(Flow(listener, host, 5070))
        with pytest.raises(HeldBackError):
            made.check(Flow(listener, host, 5070))
    assert len(counted) == 2


@pytest.mark.parametrize(("listener", "host"), [*PRIVATE_FROM_PUBLIC, *THIS_MACHINE])
def test_what_came_from_there_is_answered_there(listener, host):
    made = guard()
    assert made.allows(Flow(listener, host, 5070, 0, SEEN))
    assert made.allows(Flow(listener, host, 5070, 1 << 48 | 3))


@pytest.mark.parametrize(("listener", "host"), [*PRIVATE_FROM_PUBLIC, *THIS_MACHINE])
def test_a_known_flow_is_reached_at_its_port_alone(listener, host):
    made = guard(known={(listener.transport, host, 5070)})
    assert made.allows(Flow(listener, host, 5070))
    assert not made.allows(Flow(listener, host, 5071))


@pytest.mark.parametrize(("listener", "host"), [*PRIVATE_FROM_PUBLIC, *THIS_MACHINE])
def test_private_relay_lets_it_go(listener, host):
    assert guard(private_relay=True).allows(Flow(listener, host, 5070))


@pytest.mark.parametrize(("listener", "host"), NEVER)
def test_what_nobody_has_is_never_reached(listener, host):
    made = guard(private_relay=True, known={(listener.transport, host, 5070)})
    assert not made.allows(Flow(listener, host, 5070, 0, SEEN))
    assert not made.allows(Flow(listener, host, 5070, 1 << 48 | 3))


def test_a_spiral_reaches_our_own_ports():
    made = guard()
    for listener in (PUBLIC, PRIVATE, PUBLIC_TCP):
        assert made.allows(Flow(listener, "203.0.113.5", 5060))
    assert made.allows(Flow(PUBLIC, "192.168.1.5", 5060))
    assert not made.allows(Flow(PUBLIC_TCP, "192.168.1.5", 5060)), "there we listen over UDP only"
    assert not made.allows(Flow(PUBLIC, "203.0.113.6", 5060)), "nor do we listen on the other address"


def test_groups_that_we_listen_on_are_reached_at_their_port():
    made = guard()
    assert made.allows(Flow(PUBLIC, "224.0.1.75", 5060))
    assert not made.allows(Flow(PUBLIC, "224.0.1.75", 5061))
    assert not made.allows(Flow(PUBLIC, "224.0.1.76", 5060))
    assert not guard(PUBLIC).allows(Flow(PUBLIC, "224.0.1.75", 5060))


def test_addresses_that_this_machine_gets_later_are_noticed():
    own = set(OWN)
    made = guard(PUBLIC, own=own)
    assert made.allows(Flow(PUBLIC, "198.51.100.77", 22))
    own.add("198.51.100.77")
    made._look_at = 0.0
    assert made.allows(Flow(PUBLIC, "198.51.100.78", 22)), "whoever asks for a new address has us look"
    assert not made.allows(Flow(PUBLIC, "198.51.100.77", 22))


def test_what_is_remembered_is_bounded():
    made = guard(PUBLIC)
    for number in range(guards.KEPT + 10):
        made.allows(Flow(PUBLIC, f"198.51.{number >> 8}.{number & 255}", 5060))
    assert len(made._classes) <= guards.KEPT


@pytest.mark.parametrize(
    ("listener", "host", "port", "private"),
    [
        (PUBLIC, "198.51.100.1", 5060, False), (PUBLIC, "10.0.0.1", 5060, True), (PRIVATE, "10.0.0.1", 5060, True),
        (PUBLIC, "203.0.113.5", 5060, False), (PUBLIC, "203.0.113.5", 22, True), (PUBLIC, "127.0.0.1", 5060, True),
        (PUBLIC, "0.0.0.0", 5060, True),
    ],
)  # fmt: skip
def test_scripts_may_ask_whether_a_target_is_private(listener, host, port, private):
    assert guard().is_private(Flow(listener, host, port)) is private


def test_the_log_says_what_was_held_back_and_what_would_let_it_go(caplog):
    made = guard()
    for port in range(5070, 5075):
        with pytest.raises(
            HeldBackError, match=r"held back: from udp:203\.0\.113\.5:5060 to the private address udp:10\.0\.0\.1"
        ):
            made.check(Flow(PUBLIC, "10.0.0.1", port))
    assert len(caplog.messages) == 1, "however many there are"
    assert "private_relay" in caplog.messages[0]


@pytest.mark.parametrize("data", [b"INVITE sip:a", b"CANCEL sip:a", b"ACK sip:a", b"SIP/2.0 200 OK", b"\r\n\r\n"])
@pytest.mark.parametrize("listener", [PUBLIC, PUBLIC_TCP])
def test_the_sender_asks_for_everything_it_sends(data, listener):
    layout = Layout(1, 1)
    streams = StreamSender(Channels(layout.slots), layout, lambda _slot: 0)
    sender = Sender([None] * len(ALL), guard(), streams)
    with pytest.raises(HeldBackError):
        sender.send(Outgoing(data, Flow(listener, "127.0.0.1", 25)))
    assert streams.sent == 0
    if listener is PUBLIC_TCP:
        sender.send(Outgoing(data, Flow(listener, "198.51.100.1", 25)))
        assert streams.sent == 1
    assert issubclass(HeldBackError, TransportError), "for transactions it is a destination that failed"


def test_the_addresses_of_this_machine_are_found():
    assert "127.0.0.1" in machine_addresses()
