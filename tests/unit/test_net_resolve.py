"""RFC 3263 lookups against a name server of the test."""

from __future__ import annotations

import socket
import time

import dns.message
import dns.rrset
import pytest
from support.dns import LoopNameServer

from serpy.config import Settings
from serpy.errors import BackendError, ResourceError
from serpy.net.loop import Loop
from serpy.net.nameservers import FAILED_S, SHORTEST_S
from serpy.net.resolve import Resolver
from serpy.sip.flow import Listener
from serpy.sip.uri import parse_uri

ZONE = {
    ("example.com.", "A"): ["192.0.2.1"],
    ("example.com.", "NAPTR"): ['10 10 "S" "SIP+D2U" "" _sip._udp.far.example.com.'],
    ("_sip._udp.far.example.com.", "SRV"): ["20 0 5080 b.example.com.", "10 0 5070 a.example.com."],
    ("_sip._udp.srv.example.com.", "SRV"): ["10 0 5070 a.example.com.", "20 0 5080 b.example.com."],
    ("a.example.com.", "A"): ["192.0.2.10", "192.0.2.11"],
    ("b.example.com.", "A"): ["192.0.2.20"],
    ("b.example.com.", "AAAA"): ["2001:db8::20"],
    ("www.example.com.", "CNAME"): ["b.example.com."],
}


def listener(host, transport="udp"):
    return Listener(0, transport, host, 5060)


class World:
    """A resolver and *servers* name servers of one zone."""

    def __init__(self, zone=ZONE, servers=1, listeners=None, **settings):
        self.ahead_s = 0.0  # of the clock of the machine
        self.loop = Loop(clock=lambda: time.monotonic() + self.ahead_s)
        self.servers = [LoopNameServer(self.loop, zone) for _ in range(servers)]
        self.server = self.servers[0]
        values = {"use_dns_failover": 1, "dns_retr_no": 0, "dns_retr_time": 1, **settings}
        self.resolver = Resolver(
            self.loop,
            Settings(values),
            servers=[server.address for server in self.servers],
            hosts={"local.example.com": ["127.0.0.9"]},
            **({} if listeners is None else {"listeners": listeners}),
        )

    def pass_time(self, seconds):
        self.ahead_s += seconds
        self.loop.read_clocks()

    def ask(self, text):
        """What ``resolve`` gives, or the error. In a handler."""
        try:
            return self.resolver.resolve(parse_uri(text))
        except (BackendError, ResourceError) as exc:
            return exc

    def run(self, *bodies):
        """What each of *bodies*, run as a handler of its own, returns."""
        outcomes = [None] * len(bodies)
        left = [len(bodies)]

        def handler(at, body):
            outcomes[at] = body()
            left[0] -= 1
            if not left[0]:
                self.loop.stop()

        for at, body in enumerate(bodies):
            self.loop.spawn(lambda at=at, body=body: handler(at, body))
        self.loop.call_at(self.loop.now() + 100, self.loop.stop)  # more than a body passes
        self.loop.run()
        for server in self.servers:
            server.close()
        assert not left[0], "a handler did not end"
        return outcomes

    def resolve(self, text, times=1):
        return self.run(lambda: [self.ask(text) for _ in range(times)])[0][-1]


A = [("udp", "192.0.2.10", 5070), ("udp", "192.0.2.11", 5070)]
B = [("udp", "192.0.2.20", 5080)]
CASES = [
    pytest.param("sip:x@192.0.2.7", {}, [("udp", "192.0.2.7", 5060)], id="an-address-needs-no-question"),
    pytest.param("sip:x@[2001:db8::1]:7000", {}, [("udp", "2001:db8::1", 7000)], id="ipv6-literal"),
    pytest.param("sips:x@192.0.2.7", {}, [("tls", "192.0.2.7", 5061)], id="sips-is-tls-5061"),
    pytest.param("sip:local.example.com", {}, [("udp", "127.0.0.9", 5060)], id="the-hosts-file-goes-first"),
    pytest.param(
        "sip:a.example.com:99", {}, [("udp", "192.0.2.10", 99), ("udp", "192.0.2.11", 99)], id="a-port-means-no-srv"
    ),
    pytest.param("sip:srv.example.com", {"dns_try_ipv6": 0}, A + B, id="srv-in-order-of-priority"),
    pytest.param("sip:srv.example.com", {"use_dns_failover": 0}, A[:1], id="one-target-without-failover"),
    pytest.param("sip:example.com", {}, [("udp", "192.0.2.1", 5060)], id="without-srv-the-host-itself"),
    pytest.param("sip:example.com", {"dns_try_naptr": 1, "dns_try_ipv6": 0}, A + B, id="naptr-first-when-wanted"),
    pytest.param("sip:www.example.com", {"dns_try_ipv6": 0}, [("udp", "192.0.2.20", 5060)], id="an-alias-is-followed"),
    pytest.param(
        "sip:b.example.com:1",
        {"dns_cache_flags": 4},
        [("udp", "2001:db8::20", 1), ("udp", "192.0.2.20", 1)],
        id="ipv6-first",
    ),
]


@pytest.mark.parametrize(("uri", "settings", "expected"), CASES)
def test_a_uri_leads_to(uri, settings, expected):
    found = World(**settings).resolve(uri)
    if len(expected) == 1 and len(found) == 1 and expected[0] in A:
        assert found[0] in A  # a name server shuffles the addresses of one name
    elif expected == A + B or len({hop[2] for hop in expected}) == 1:
        assert [hop[2] for hop in found] == [hop[2] for hop in expected]
        assert sorted(found) == sorted(expected)
    else:
        assert found == expected


def test_a_name_without_addresses_is_a_backend_error_and_remembered():
    world = World(dns_try_ipv6=0)
    assert isinstance(world.resolve("sip:nowhere.example.com:5060", times=3), BackendError)
    assert world.server.asked == [("nowhere.example.com.", "A")]


def test_answers_are_asked_for_once():
    world = World(dns_try_ipv6=0)
    world.resolve("sip:srv.example.com", times=5)
    assert len(world.server.asked) == len(set(world.server.asked))


def test_a_silent_server_ends_in_a_backend_error():
    world = World()
    world.server.silent = True
    assert "no DNS server answers" in str(world.resolve("sip:a.example.com:5060"))


# ---- one question at a time ----------------------------------------------------------------------------------------

PLAIN = {"dns_try_ipv6": 0}


def test_handlers_that_want_the_same_name_ask_once():
    world = World(**PLAIN)
    outcomes = world.run(*[lambda: world.ask("sip:b.example.com:1")] * 20)
    assert outcomes == [[("udp", "192.0.2.20", 1)]] * 20
    assert world.server.asked == [("b.example.com.", "A")]


def test_all_who_wait_for_a_name_learn_that_it_failed_and_it_is_not_asked_for_again():
    world = World(**PLAIN)
    world.server.refuse = {"b.example.com."}
    outcomes = world.run(*[lambda: [world.ask("sip:b.example.com:1") for _ in range(2)]] * 5)
    assert all(isinstance(outcome, BackendError) for both in outcomes for outcome in both)
    assert world.server.asked == [("b.example.com.", "A")]


def test_a_failure_is_forgotten_after_a_while():
    world = World(**PLAIN)
    world.server.refuse = {"b.example.com."}

    def body():
        first = world.ask("sip:b.example.com:1")
        world.server.refuse = set()
        second = world.ask("sip:b.example.com:1")
        world.pass_time(FAILED_S)
        return [first, second, world.ask("sip:b.example.com:1")]

    first, second, third = world.run(body)[0]
    assert isinstance(first, BackendError)
    assert isinstance(second, BackendError)
    assert third == [("udp", "192.0.2.20", 1)]


@pytest.mark.parametrize(
    ("minimum", "setting", "kept_s"),
    [
        pytest.param(3, 60, 3, id="the-zone-says-shorter"),
        pytest.param(600, 60, 60, id="the-setting-is-the-most"),
        pytest.param(0, 60, 0, id="the-zone-says-not-at-all"),
    ],
)
def test_a_name_that_does_not_exist_is_remembered_as_long_as_its_zone_says(minimum, setting, kept_s):
    world = World(**PLAIN, dns_cache_negative_ttl=setting)
    world.server.soa = f"ns.example.com. admin.example.com. 1 2 3 4 {minimum}"

    def body():
        world.ask("sip:nowhere.example.com:1")
        world.pass_time(max(0, kept_s - 0.5))
        world.ask("sip:nowhere.example.com:1")
        before = len(world.server.asked)
        world.pass_time(1.0)
        world.ask("sip:nowhere.example.com:1")
        return before, len(world.server.asked)

    assert world.run(body)[0] == ((1, 2) if kept_s else (2, 3))


def test_a_full_room_is_a_resource_error_at_once_and_asks_nothing():
    world = World(**PLAIN)
    world.server.silent = True
    world.loop.waiters.set_limits(dns=2)
    started = world.loop.waiters.dns
    outcomes = world.run(*[lambda at=at: world.ask(f"sip:n{at}.example.com:1") for at in range(5)])
    assert [type(outcome) for outcome in outcomes] == [BackendError] * 2 + [ResourceError] * 3
    assert world.server.asked == [("n0.example.com.", "A"), ("n1.example.com.", "A")]
    assert (started.waiting, started.most, started.refused, started.timeouts) == (0, 2, 3, 2)


def test_in_a_full_room_who_has_waited_longest_gives_way():
    world = World(**PLAIN)
    world.server.ignore = {f"n{number}.example.com." for number in range(4)}
    world.loop.waiters.set_limits(dns=2)
    ended = []

    def dead(number):
        ended.append((number, type(world.ask(f"sip:n{number}.example.com:1"))))

    def others():
        world.loop.sleep(SHORTEST_S)
        alive = world.ask("sip:b.example.com:1")
        return alive, list(ended), world.loop.waiters.dns.waiting

    outcomes = world.run(lambda: dead(0), lambda: (world.loop.sleep(0.01), dead(1)), others)
    assert outcomes[2] == ([("udp", "192.0.2.20", 1)], [(0, BackendError)], 1)
    assert ended == [(0, BackendError), (1, BackendError)]
    assert world.loop.waiters.dns.refused == 0
    assert world.resolver.names._leaving == 0


# ---- servers that are late, silent or wrong ------------------------------------------------------------------------


def test_an_answer_that_comes_after_the_question_was_repeated_counts():
    world = World(**PLAIN, dns_retr_no=2)
    world.server.delay_s = 1.3
    assert world.resolve("sip:b.example.com:1") == [("udp", "192.0.2.20", 1)]
    assert world.server.asked == [("b.example.com.", "A")] * 2


def test_one_uri_takes_no_longer_than_the_total_time():
    world = World(servers=2, dns_retr_no=5, dns_total_time=1)
    for server in world.servers:
        server.silent = True
    ended = []
    world.loop.call_at(time.monotonic() + 2.5, lambda: ended.append("the time of three questions"))

    def body():
        world.ask("sip:srv.example.com")
        ended.append("resolve")

    world.run(body)
    assert ended == ["resolve"]


def test_questions_that_do_not_depend_on_each_other_are_asked_at_once():
    world = World(**PLAIN, listeners=[listener("192.0.2.1"), listener("192.0.2.1", "tcp")])
    world.server.hold_for = ("example.com.", "A")
    assert world.resolve("sip:example.com") == [("udp", "192.0.2.1", 5060)]
    assert sorted(world.server.asked) == [
        ("_sip._tcp.example.com.", "SRV"), ("_sip._udp.example.com.", "SRV"), ("example.com.", "A"),
    ]  # fmt: skip


def test_a_server_that_was_silent_is_asked_last():
    world = World(servers=2, **PLAIN)
    world.server.silent = True
    outcomes = world.run(lambda: [world.ask("sip:a.example.com:1"), world.ask("sip:b.example.com:1")])[0]
    assert outcomes[1] == [("udp", "192.0.2.20", 1)]
    assert world.server.asked == [("a.example.com.", "A")]
    assert world.servers[1].asked == [("a.example.com.", "A"), ("b.example.com.", "A")]


def test_a_server_that_answers_others_is_not_silent_for_one_dead_domain():
    world = World(servers=2, **PLAIN)
    for server in world.servers:
        server.first = lambda query, _source, server=server: setattr(
            server, "delay_s", 5.0 if "dead" in query.question[0].name.to_text() else 0.0
        )

    def other():
        world.loop.sleep(0.1)
        return world.ask("sip:a.example.com:1")

    world.run(lambda: world.ask("sip:dead.example.com:1"), other)
    assert world.server.asked == [("dead.example.com.", "A"), ("a.example.com.", "A")]
    assert not world.resolver.names.servers[0].fuse.reason


def test_a_server_that_refuses_is_followed_by_the_next_one_at_once():
    world = World(servers=2, **PLAIN)
    world.server.refuse = {"b.example.com."}
    assert world.resolve("sip:b.example.com:1") == [("udp", "192.0.2.20", 1)]
    assert world.server.asked == world.servers[1].asked == [("b.example.com.", "A")]


def test_a_closed_port_is_followed_by_the_next_server_at_once():
    world = World(servers=2, **PLAIN, dns_retr_time=60)
    world.loop.remove_reader(world.server.sock.fileno())
    world.server.sock.close()
    assert world.resolve("sip:b.example.com:1") == [("udp", "192.0.2.20", 1)]


def other_question(server, query, source):
    wrong = dns.message.make_query("evil.example.com", "A")
    wrong.id = query.id
    answer = dns.message.make_response(wrong)
    answer.answer.append(dns.rrset.from_text("evil.example.com.", 60, "IN", "A", "198.51.100.66"))
    server.sock.sendto(answer.to_wire(), source)


def other_id(server, query, source):
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "198.51.100.66"))
    answer.id = query.id ^ 1
    server.sock.sendto(answer.to_wire(), source)


def other_source(_server, query, source):
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "198.51.100.66"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(answer.to_wire(), source)


def rubbish(server, query, source):
    server.sock.sendto(query.id.to_bytes(2, "big") + b"\xff" * 40, source)


@pytest.mark.parametrize("forge", [other_question, other_id, other_source, rubbish])
def test_what_does_not_answer_the_question_is_passed_over(forge):
    world = World(**PLAIN)
    world.server.first = lambda query, source: forge(world.server, query, source)
    assert world.resolve("sip:b.example.com:1") == [("udp", "192.0.2.20", 1)]
    assert world.server.asked == [("b.example.com.", "A")]


def test_each_question_has_an_id_of_its_own_and_an_idle_socket_another_port():
    world = World(**PLAIN)
    seen = []
    world.server.first = lambda query, source: seen.append((query.id, source[1]))

    def body():
        for name in "abcdefgh":
            world.ask(f"sip:{name}.example.com:1")
        world.pass_time(61)
        world.ask("sip:i.example.com:1")

    world.run(body)
    assert len({number for number, _ in seen}) > 6
    assert len({port for _, port in seen[:8]}) == 1
    assert seen[8][1] != seen[0][1]


def test_an_answer_that_is_cut_off_is_asked_for_over_tcp():
    world = World(**PLAIN)
    world.server.in_full_over_tcp = True
    assert world.resolve("sip:b.example.com:1") == [("udp", "192.0.2.20", 1)]


def test_an_answer_that_is_cut_off_without_tcp_is_a_failure_not_an_absence():
    world = World(**PLAIN)
    world.server.in_full_over_tcp = True
    world.loop.remove_reader(world.server.tcp.fileno())
    world.server.tcp.close()
    assert "no DNS server answers" in str(world.resolve("sip:b.example.com:1"))


# ---- what we can reach ---------------------------------------------------------------------------------------------

MIXED = {
    ("_sip._udp.example.com.", "SRV"): ["10 0 5070 six.example.com.", "20 0 5080 four.example.com."],
    ("six.example.com.", "AAAA"): ["2001:db8::6"],
    ("four.example.com.", "A"): ["192.0.2.4"],
}


@pytest.mark.parametrize("failover", [0, 1])
def test_a_target_without_an_address_we_reach_does_not_spoil_the_next(failover):
    world = World(MIXED, listeners=[listener("192.0.2.1")], use_dns_failover=failover)
    assert world.resolve("sip:example.com") == [("udp", "192.0.2.4", 5080)]
    assert not [question for question in world.server.asked if question[1] == "AAAA"]


def test_with_ipv6_the_first_target_is_taken():
    world = World(MIXED, listeners=[listener("192.0.2.1"), listener("2001:db8::1")], use_dns_failover=0)
    assert world.resolve("sip:example.com") == [("udp", "2001:db8::6", 5070)]


def test_a_target_whose_name_fails_does_not_spoil_the_next():
    world = World(MIXED, listeners=[listener("192.0.2.1")])
    world.server.refuse = {"six.example.com."}
    assert world.resolve("sip:example.com") == [("udp", "192.0.2.4", 5080)]


@pytest.mark.parametrize("failover", [0, 1])
def test_a_target_nobody_answers_for_costs_the_next_one_nothing(failover):
    zone = {
        ("_sip._udp.example.com.", "SRV"): ["10 0 5070 dead.example.com.", "20 0 5080 four.example.com."],
        ("four.example.com.", "A"): ["192.0.2.4"],
    }
    world = World(zone, listeners=[listener("192.0.2.1")], use_dns_failover=failover, dns_total_time=1)
    world.server.ignore = {"dead.example.com."}
    assert world.resolve("sip:example.com") == [("udp", "192.0.2.4", 5080)]


def test_a_transport_nobody_listens_for_is_no_way():
    world = World(listeners=[listener("192.0.2.1")])
    assert isinstance(world.resolve("sip:b.example.com:1;transport=tcp"), BackendError)
    assert world.server.asked == []
