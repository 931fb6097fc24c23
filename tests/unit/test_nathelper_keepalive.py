"""Keep-alives go to every phone once per interval, evenly, by the way its REGISTER came, and their answers end here."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from support.contexts import configure, context, function, request_text
from support.receiver import Bench

from serpy.api import LOCATION, Binding, ConfigError, Flow, Listener, Server, TransportError
from serpy.modules import nathelper
from serpy.modules.nathelper.keepalive import BRANCH, check_method
from serpy.modules.usrloc.location import Location
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.shm.table import LocationTable
from serpy.sip.parser import parse_message

WALL = 1_700_000_000.0
ONE = Listener(0, "udp", "192.0.2.1", 5060)
TWO = Listener(1, "udp", "192.0.2.2", 5070)
SIX = Listener(2, "udp", "2001:db8::1", 5060)
TCP = Listener(3, "tcp", "192.0.2.1", 5060)
GROUP = Listener(4, "udp", "224.0.1.75", 5060, multicast=True)


class World:
    """A timer process without sockets: a real table, a clock that the test moves, and what was sent."""

    def __init__(self, *, role="timer", server_id=0, **parameters):
        self.instant = 1000.0
        self.loop = Loop(clock=lambda: self.instant)  # not run: the test moves its clock
        self.now = 1000.0
        self.sent = []
        self.refused = set()
        segment = Segment(12 << 20)
        server = self.server = Server(SimpleNamespace(server_id=server_id))
        server.counters = Counters(segment, 1)
        server.listeners = [GROUP, ONE, TWO, SIX, TCP]
        server.loop = self.loop
        server.send = self.send
        server.role = role
        server.slot = 7
        self.location = Location(LocationTable(segment, 10 << 20), server, 0, "", False)
        server.provide(LOCATION, self.location)
        self.exports = configure(nathelper.exports(), server, **{"natping_interval": 10, **parameters})
        self.exports.child_init(server)

    @property
    def keepalive(self):
        return self.exports.module.keepalive

    @property
    def now(self):
        return self.loop.now()

    @now.setter
    def now(self, instant):
        self.instant = self.loop._now = instant
        self.loop._wall_offset = WALL - instant

    def send(self, outgoing):
        if outgoing.flow.host in self.refused:
            raise TransportError("no route")
        self.sent.append((self.now, outgoing))

    def add(self, uid, *contacts):
        self.location.update("location", uid, lambda _current: (list(contacts), []))

    def run(self, seconds):
        """Let time pass."""
        end = self.now + seconds
        while self.loop._timers and self.loop._timers[0][0] <= end:
            self.now = max(self.now, self.loop._timers[0][0])
            self.loop._run_timers(self.now)
        self.now = end
        return self

    def hosts(self):
        return sorted(out.flow.host for _, out in self.sent)

    def count(self, name):
        return self.server.counters.snapshot()[f"nathelper.{name}"]


def phone(number=7, *, uid="alice", nat=True, received=True, expires=60, **more):
    """A binding behind 203.0.113.*number*."""
    return Binding(
        uid, more.pop("contact", f"sip:{uid}@192.168.1.{number}:5066"), int(WALL) + expires,
        flags=more.pop("flags", 0) | (1 if nat else 0),
        received=more.pop("via", f"sip:203.0.113.{number}:4{number:04d};dstip=192.0.2.2;dstport=5070") if received else "",
        **more,
    )  # fmt: skip


# ---- what is sent, and where


def test_four_bytes_go_to_the_received_address_by_the_socket_the_phone_used():
    world = World()
    world.add("alice", phone())
    world.run(10)
    [(_, out)] = world.sent
    assert (out.data, out.flow.host, out.flow.port, out.flow.listener) == (b"\r\n\r\n", "203.0.113.7", 40007, TWO)
    assert (world.count("pings"), world.count("pings_failed"), world.count("ping_rounds")) == (1, 0, 1)


def test_two_bytes_on_demand():
    world = World(natping_method="CRLF")
    world.add("alice", phone())
    assert [out.data for _, out in world.run(10).sent] == [b"\r\n"]


def test_an_options_request_can_be_parsed_and_answered():
    world = World(natping_method="OPTIONS")
    world.add("alice", phone(contact="sip:alice@192.168.1.7:5066;line=x?Subject=y"))
    world.run(20)
    first, second = (parse_message(out.data) for _, out in world.sent)
    first.check_mandatory()
    assert (first.method, first.request_uri) == ("OPTIONS", "sip:alice@192.168.1.7:5066;line=x")
    assert first.via.branch.startswith(BRANCH)
    assert (first.via.host, first.via.port, first.via.rport) == ("192.0.2.2", 5070, 0)
    assert (first.from_tag, str(first.cseq), first.max_forwards) == ("1", "1 OPTIONS", 70)
    assert first.to.uri_text == first.request_uri
    assert first.via.branch != second.via.branch
    assert first.call_id != second.call_id


def test_a_contact_with_bytes_beyond_ascii_is_sent_as_it_was_written():
    world = World(natping_method="OPTIONS")
    world.add("alice", phone(contact="sip:älice@192.168.1.7"))
    [(_, out)] = world.run(10).sent
    assert out.data.startswith("OPTIONS sip:älice@192.168.1.7 SIP/2.0\r\n".encode())


@pytest.mark.parametrize(
    ("contact", "way"),
    [
        pytest.param(phone(received=False, contact="sip:a@203.0.113.9"), ("203.0.113.9", 5060, ONE), id="contact-itself"),
        pytest.param(
            phone(received=False, contact="sip:a@x.example.com;maddr=203.0.113.9"), ("203.0.113.9", 5060, ONE), id="maddr"
        ),
        pytest.param(phone(received=False, contact="sip:a@phone.example.com"), None, id="names-are-not-resolved"),
        pytest.param(phone(received=False, contact="tel:+4930"), None, id="tel"),
        pytest.param(
            phone(received=False, contact="sip:a@[2001:db8::9]:5070"), ("2001:db8::9", 5070, SIX), id="ipv6-contact"
        ),
        pytest.param(
            phone(via="sip:[2001:db8::9]:5070;dstip=[2001:db8::1];dstport=5060"), ("2001:db8::9", 5070, SIX), id="ipv6"
        ),
        pytest.param(phone(via="sip:203.0.113.7:5066"), ("203.0.113.7", 5066, ONE), id="socket-unknown"),
        pytest.param(phone(via="sip:203.0.113.7"), ("203.0.113.7", 5060, ONE), id="port-unknown"),
        pytest.param(
            phone(via="sip:203.0.113.7:5066;dstip=9.9.9.9;dstport=1"), ("203.0.113.7", 5066, ONE), id="socket-gone"
        ),
        pytest.param(
            phone(via="sip:203.0.113.7:5066;dstip=9.9.9.9;dstport=1", server_id=3), None, id="came-in-at-another-server"
        ),
        pytest.param(phone(server_id=3), ("203.0.113.7", 40007, TWO), id="replica-at-a-shared-address"),
        pytest.param(
            phone(via="sip:203.0.113.7:5066;dstip=224.0.1.75;dstport=5060"), ("203.0.113.7", 5066, ONE), id="group-socket"
        ),
        pytest.param(phone(via="sip:evil.example.com:5066"), None, id="received-name-is-not-resolved"),
        pytest.param(phone(via="sip:1.2.3.4.5:5066"), None, id="received-is-no-address"),
        pytest.param(phone(via="sip:203.0.113.7:99999"), None, id="received-port-is-none"),
        pytest.param(phone(via="sip:u@203.0.113.7:5066"), ("203.0.113.7", 5066, ONE), id="received-with-a-user"),
        pytest.param(
            phone(via="sip:203.0.113.7:5066;transport=tcp;dstip=192.0.2.1;dstport=5060"),
            ("203.0.113.7", 5066, TCP),
            id="tcp",
        ),
        pytest.param(phone(received=False, contact="sips:a@203.0.113.9"), None, id="no-tls-listener"),
    ],
)  # fmt: skip
def test_the_way_to_a_contact(contact, way):
    world = World(server_id=1 if contact.server_id else 0)
    world.add("alice", contact)
    found = [(out.flow.host, out.flow.port, out.flow.listener) for _, out in world.run(10).sent]
    assert found == ([way] if way else [])


def test_over_a_connection_four_bytes_keep_it_open_unless_the_method_is_wanted_there_too():
    for params, start in (({}, b"\r\n\r\n"), ({"natping_crlf": 0}, b"OPTIONS "), ({"tcpping_crlf": 0}, b"OPTIONS ")):
        world = World(natping_method="OPTIONS", **params)
        world.add("alice", phone(via="sip:203.0.113.7:5066;transport=TCP;dstip=192.0.2.1;dstport=5060"))
        [(_, out)] = world.run(10).sent
        assert out.data.startswith(start)
        assert (out.flow.transport, out.flow.options) == ("tcp", 2)


def test_without_a_known_socket_the_forced_one_is_used():
    world = World(force_socket="udp:192.0.2.2:5070")
    world.add("alice", phone(via="sip:203.0.113.7:5066"))
    [(_, out)] = world.run(10).sent
    assert out.flow.listener is TWO


def test_a_forced_socket_must_be_ours():
    with pytest.raises(ConfigError, match="force_socket"):
        World(force_socket="udp:192.0.2.9")


# ---- who gets one


def test_expired_contacts_are_left_alone_and_permanent_ones_are_not():
    world = World()
    world.add("alice", phone(1, expires=-1), phone(2), phone(3, expires=-1, flags=128))
    assert world.run(10).hosts() == ["203.0.113.2", "203.0.113.3"]


@pytest.mark.parametrize(("nated_only", "hosts"), [(0, ["203.0.113.1", "203.0.113.2"]), (1, ["203.0.113.2"])])
def test_only_nated_contacts_when_so_set(nated_only, hosts):
    world = World(ping_nated_only=nated_only)
    world.add("alice", phone(1, nat=False, received=False, contact="sip:a@203.0.113.1"), phone(2))
    assert world.run(10).hosts() == hosts


def test_interval_0_is_off():
    world = World(natping_interval=0)
    world.add("alice", phone())
    assert world.run(100).sent == []


def test_other_processes_send_none():
    world = World(role="udp receiver")
    world.add("alice", phone())
    assert world.run(100).sent == []


def test_an_unreachable_phone_does_not_stop_the_others():
    world = World()
    world.refused.add("203.0.113.1")
    world.add("alice", phone(1), phone(2))
    assert world.run(10).hosts() == ["203.0.113.2"]
    assert (world.count("pings"), world.count("pings_failed")) == (1, 1)


# ---- when


def crowd(world, count):
    for number in range(count):
        uid = f"user{number}"
        world.add(uid, phone(uid=uid, via=f"sip:203.0.113.7:{10000 + number};dstip=192.0.2.2;dstport=5070"))


def test_every_contact_gets_one_per_interval_spread_evenly():
    world = World()
    crowd(world, 3000)
    world.run(30.1)
    times = {}
    for at, out in world.sent:
        times.setdefault(out.flow.port, []).append(at)
    assert len(times) == 3000
    assert all(len(instants) in (3, 4) for instants in times.values())
    gaps = [later - earlier for instants in times.values() for earlier, later in itertools.pairwise(instants)]
    assert min(gaps) > 9.5
    assert max(gaps) < 10.5
    per_second = [sum(1 for at, _ in world.sent if begin < at <= begin + 1) for begin in range(1000, 1030)]
    assert min(per_second) > 150  # an even share is 300
    assert max(per_second) < 450


def test_a_second_of_delay_is_made_good_without_a_burst():
    world = World()
    crowd(world, 2000)
    world.run(2.0)
    world.now += 1.0  # something else had the process
    world.run(7.1)
    assert len({out.flow.port for _, out in world.sent}) == 2000
    slices = {}
    for at, _ in world.sent:
        slices[at] = slices.get(at, 0) + 1
    assert max(slices.values()) < 40 * 4 + 40


def test_a_long_delay_is_not_made_good():
    world = World()
    crowd(world, 1000)
    world.run(2.0)
    world.now += 100.0
    before = len(world.sent)
    world.run(1.0)
    assert len(world.sent) - before < 400  # an even share is 100
    world.run(9.0)
    assert 1000 <= len(world.sent) <= 1400


# ---- answers, and the script


def test_answers_to_our_pings_are_counted_and_never_reach_the_script():
    seen = []
    bench = Bench(reply=lambda _self, ctx: seen.append(ctx.status))
    exports = configure(nathelper.exports(), bench.server, natping_method="OPTIONS")
    keepalive = exports.module.keepalive
    request = parse_message(keepalive.request(Flow(bench.listener, "192.0.2.1", 5060), "sip:alice@192.0.2.1"))

    def answer(branch):
        return (
            f"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.100:5060;branch={branch}\r\nFrom: <sip:p@x>;tag=1\r\n"
            f"To: <sip:a@x>;tag=2\r\nCall-ID: {request.call_id}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        )

    assert bench.receive(answer(request.via.branch)) == []
    assert seen == []
    assert bench.server.counters.snapshot()["nathelper.ping_replies"] == 1
    bench.receive(answer("z9hG4bK-GnIp-someone-elses"))
    assert seen == [], "it answers nothing that we sent"
    assert bench.pipeline.strays.dropped == [1, 0, 0, 0, 0, 0]


def test_ping_contact_sends_one_at_once():
    world = World(natping_method="OPTIONS")
    ping = function(world.exports, "ping_contact")
    ctx = context(request_text(), flow=Flow(TWO, "203.0.113.7", 5062))
    assert ping(ctx) == 1
    assert ping(ctx, "sip:bob@203.0.113.9") == 1
    assert ping(ctx, "sip:bob@phone.example.com") == -1
    assert ping(ctx, "bob") == -1
    first, second = (out for _, out in world.sent)
    assert (first.flow.host, first.flow.port, first.flow.listener) == ("203.0.113.7", 5062, TWO)
    assert parse_message(first.data).request_uri == "sip:203.0.113.7:5062"
    assert (second.flow.host, second.flow.listener) == ("203.0.113.9", ONE)
    world.refused.add("203.0.113.9")
    assert ping(ctx, "sip:bob@203.0.113.9") == -1


@pytest.mark.parametrize(
    ("method", "legal"),
    [("", True), ("OPTIONS", True), ("NOTIFY", True), ("CRLF", True), ("INVITE", False), ("options", False), ("A B", False)],
)  # fmt: skip
def test_only_harmless_methods_are_accepted(method, legal):
    assert (check_method(method) == "") is legal
