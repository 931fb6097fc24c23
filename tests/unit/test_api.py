"""What the server says about itself to modules and script."""

from __future__ import annotations

import pytest
from support.contexts import server

from serpy import api


@pytest.fixture
def one():
    found = server()
    found.aliases = {("sip.example.com", 0), ("192.0.2.1", 5060), ("192.0.2.1", 5080), ("2001:db8::1", 5060)}
    return found


@pytest.mark.parametrize(
    ("host", "port", "mine"),
    [
        ("192.0.2.1", 0, True),
        ("192.0.2.1", 5080, True),
        ("192.0.2.1", 5070, False),
        ("SIP.Example.com", 0, True),
        ("sip.example.com", 7, True),
        ("[2001:DB8::1]", 5060, True),
        ("[2001:DB8::1]", 5061, False),
        ("sip.example.com.", 0, True),
        ("[2001:db8:0:0::1]", 0, True),
        ("::ffff:192.0.2.1", 0, True),
        ("[::FFFF:c000:201]", 5080, True),
        ("::ffff:192.0.2.1", 5070, False),
        ("sip.ex%61mple.com", 0, False),
        ("example.com", 0, False),
        ("", 0, False),
        ("x" * 1000, 0, False),
    ],
)
def test_myself_is_a_name_and_port_of_ours(one, host, port, mine):
    assert [one.is_myself(host, port) for _ in range(2)] == [mine, mine]


def test_new_aliases_count_at_once(one):
    assert not one.is_myself("example.net")
    one.aliases = {("example.net", 0)}
    assert one.is_myself("example.net")
    assert not one.is_myself("sip.example.com")


def test_what_is_remembered_of_hosts_is_bounded(one):
    for number in range(api.HOSTS_KNOWN + 10):
        assert not one.is_myself(f"h{number}.example.org")
    assert one.is_myself("sip.example.com")
    assert len(one._ports) <= api.HOSTS_KNOWN


def test_a_service_is_found_by_its_key_and_the_last_provider_counts(one):
    clock = api.Service("clock")
    assert one.find(clock) is None
    with pytest.raises(api.ConfigError, match="no loaded module provides the clock"):
        one.bind(clock)
    one.provide(clock, "sundial")
    one.provide(clock, "quartz")
    assert (one.bind(clock), one.find(clock)) == ("quartz", "quartz")


def test_no_two_services_share_a_name():
    names = [value.name for value in vars(api).values() if isinstance(value, api.Service)]
    assert len(names) > 5
    assert len(set(names)) == len(names)
