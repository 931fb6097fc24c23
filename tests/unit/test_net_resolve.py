"""RFC 3263 lookups against a name server of the test."""

from __future__ import annotations

import socket
import time

import dns.message
import dns.rcode
import dns.rrset
import pytest

from serpy.config import Settings
from serpy.errors import BackendError
from serpy.net.loop import Loop
from serpy.net.resolve import Resolver
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


class NameServer:
    def __init__(self, loop):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.setblocking(False)
        self.asked = []
        self.silent = False
        loop.add_reader(self.sock.fileno(), self.answer)

    def answer(self):
        data, source = self.sock.recvfrom(4096)
        query = dns.message.from_wire(data)
        name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name, kind))
        if self.silent:
            return
        response = dns.message.make_response(query)
        if (name, "CNAME") in ZONE:
            target = ZONE[name, "CNAME"][0]
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
            name = target
        records = ZONE.get((name, kind), [])
        if records:
            response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *records))
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.sock.sendto(response.to_wire(), source)


class World:
    def __init__(self, **settings):
        self.loop = Loop()
        self.server = NameServer(self.loop)
        values = {"use_dns_failover": 1, "dns_retr_no": 0, "dns_retr_time": 1, **settings}
        self.resolver = Resolver(
            self.loop,
            Settings(values),
            servers=[self.server.sock.getsockname()],
            hosts={"local.example.com": ["127.0.0.9"]},
        )

    def resolve(self, text, times=1):
        outcome = []

        def ask():
            try:
                for _ in range(times):
                    outcome[:] = [self.resolver.resolve(parse_uri(text))]
            except BackendError as exc:
                outcome[:] = [exc]
            self.loop.stop()

        self.loop.spawn(ask)
        self.loop.call_at(time.monotonic() + 10, self.loop.stop)
        self.loop.run()
        self.server.sock.close()
        return outcome[0]


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
    assert isinstance(world.resolve("sip:nowhere.example.com:5060"), BackendError)
    assert ("nowhere.example.com", "A") in world.resolver.names._cache


def test_answers_are_asked_for_once():
    world = World(dns_try_ipv6=0)
    world.resolve("sip:srv.example.com", times=5)
    assert len(world.server.asked) == len(set(world.server.asked))


def test_a_silent_server_ends_in_a_backend_error():
    world = World()
    world.server.silent = True
    assert "no DNS server answers" in str(world.resolve("sip:a.example.com:5060"))
