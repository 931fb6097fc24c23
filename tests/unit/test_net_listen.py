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
    both = [("127.0.0.1", 5060), ("::1", 5060)]
    found = [(item.transport, item.host, item.port) for item in listeners_of(settings)]
    assert found == [(transport, *address) for transport in ("udp", "tcp") for address in both]


def test_without_listen_every_address_is_served_loopback_last():
    addresses = local_addresses()
    assert "127.0.0.1" in addresses
    assert [item.host for item in listeners_of(Settings())] == addresses * 2  # UDP, then TCP
    assert socket.inet_aton("127.0.0.1")[0] == 127
    assert addresses.index("127.0.0.1") >= len([item for item in addresses if not item.startswith(("127.", "::1"))])


@pytest.mark.parametrize(
    ("listen", "options", "expected"),
    [
        pytest.param("127.0.0.1", {}, ["udp", "tcp"], id="both-without-a-transport"),
        pytest.param("udp:127.0.0.1", {}, ["udp"], id="udp-alone"),
        pytest.param("tcp:127.0.0.1", {}, ["tcp"], id="tcp-alone"),
        pytest.param("127.0.0.1", {"disable_tcp": 1}, ["udp"], id="disable-tcp"),
        pytest.param("127.0.0.1", {"fork": 0}, ["udp"], id="no-tcp-without-fork"),
        pytest.param("224.0.1.75", {}, ["udp"], id="multicast-is-udp"),
    ],
)
def test_which_transports_an_address_is_served_over(listen, options, expected):
    assert [item.transport for item in listeners_of(Settings({"listen": [listen], **options}))] == expected


@pytest.mark.parametrize("listen", ["tls:127.0.0.1", "sctp:127.0.0.1", "ws:127.0.0.1"])
def test_an_address_of_a_transport_we_do_not_have_is_left_out_with_a_warning(listen, caplog):
    found = listeners_of(Settings({"listen": [listen, "udp:127.0.0.1"]}))
    assert [item.transport for item in found] == ["udp"]
    assert "is not served" in caplog.text


def test_a_tcp_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings({"listen": [f"tcp:127.0.0.1:{taken.getsockname()[1]}"], "children": 1})
        with pytest.raises(ConfigError, match=r"tcp:127\.0\.0\.1:\d+ is in use"):
            bind_all(listeners_of(settings), 1, settings)


def test_each_tcp_receiver_has_a_listening_socket_of_its_own():
    settings = Settings({"listen": ["tcp:127.0.0.1:45678"], "tcp_children": 3})
    bound = bind_all(listeners_of(settings), 1, settings)
    try:
        assert [len(row) for row in bound.accepting] == [3]
        bound.close_others(-1, 1)
        assert [sock is None for sock in bound.accepting[0]] == [True, False, True]
    finally:
        bound.close()


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
