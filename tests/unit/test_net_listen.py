"""Listen addresses."""

from __future__ import annotations

import socket

import pytest

from serpy.config import Settings
from serpy.errors import ConfigError
from serpy.net.listen import aliases_of, bind_all, listeners_of, local_addresses, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("127.0.0.1", ("", "127.0.0.1", 0), id="address"),
        pytest.param("udp:127.0.0.1:5070", ("udp", "127.0.0.1", 5070), id="all-parts"),
        pytest.param("TCP:host", ("tcp", "host", 0), id="transport-in-any-case"),
        pytest.param("udp:[2001:db8::1]:5070", ("udp", "2001:db8::1", 5070), id="ipv6-in-brackets"),
        pytest.param("2001:db8::1", ("", "2001:db8::1", 0), id="bare-ipv6"),
        pytest.param("eth0", ("", "eth0", 0), id="interface"),
    ],
)
def test_an_address_is_split(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "udp:", "1.2.3.4:0", "1.2.3.4:70000", "1.2.3.4:x", "1.2.3.4:\u0665", "[::1"])
def test_a_bad_address_is_refused(text):
    with pytest.raises(ConfigError):
        parse_address(text)


def test_a_group_gives_all_its_members_once():
    settings = Settings({"listen": ["(127.0.0.1, [::1]):5070".replace("):5070", ")"), "127.0.0.1:5060"]})
    assert [(item.host, item.port) for item in listeners_of(settings)] == [("127.0.0.1", 5060), ("::1", 5060)]


def test_without_listen_every_address_is_served_loopback_last():
    addresses = local_addresses()
    assert "127.0.0.1" in addresses
    assert [item.host for item in listeners_of(Settings())] == addresses
    assert socket.inet_aton("127.0.0.1")[0] == 127
    assert addresses.index("127.0.0.1") >= len([item for item in addresses if not item.startswith(("127.", "::1"))])


def test_an_interface_stands_for_its_addresses():
    assert listeners_of(Settings({"listen": ["udp:lo:5077"]}))[0].host == "127.0.0.1"


def test_an_unknown_host_says_so():
    with pytest.raises(ConfigError, match="cannot resolve"):
        listeners_of(Settings({"listen": ["no-such-host.invalid"]}))


def test_aliases_are_listeners_and_names():
    settings = Settings({"listen": ["127.0.0.1:5070"], "alias": ["Example.COM", "sip.example.com:5080"]})
    names = aliases_of(settings, listeners_of(settings))
    assert {("127.0.0.1", 5070), ("example.com", 0), ("sip.example.com", 5080)} <= names


def test_a_multicast_listener_has_one_socket_and_is_marked():
    settings = Settings({"listen": ["224.0.1.75:5099"]})
    listener = listeners_of(settings)[0]
    assert listener.multicast
    try:
        bound = bind_all([listener], 2, settings)
    except ConfigError:
        pytest.skip("no multicast here")
    assert [sock is None for sock in bound.sockets[0]] == [False, True]
    bound.close()


def test_an_address_of_another_machine_is_refused():
    settings = Settings({"listen": ["192.0.2.199:5070"]})
    with pytest.raises(ConfigError, match="is not an address of this machine"):
        bind_all(listeners_of(settings), 2, settings)
