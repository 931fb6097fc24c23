"""Which interface faces the other servers; a datagram through a group on loopback."""

import socket

import pytest
from support.patience import PATIENCE_S

from serpy.config import Settings
from serpy.errors import ConfigError
from serpy.replication.sockets import administrative_address, join, open_sender
from serpy.sip.flow import Listener

GROUP = Listener(9, "udp", "224.0.1.75", 5060, multicast=True)
GROUP6 = Listener(9, "udp", "ff02::75", 5060, multicast=True)


def listeners(*hosts):
    return [Listener(number, "udp", host, 5060, multicast=host.startswith("224")) for number, host in enumerate(hosts)]


@pytest.mark.parametrize(
    ("hosts", "group", "expected"),
    [
        pytest.param(["127.0.0.1", "8.8.4.4", "10.0.0.1"], GROUP, "10.0.0.1", id="private-first"),
        pytest.param(["127.0.0.1", "8.8.4.4"], GROUP, "8.8.4.4", id="then-any-but-loopback"),
        pytest.param(["224.0.1.75", "127.0.0.1"], GROUP, "127.0.0.1", id="then-loopback"),
        pytest.param(["10.0.0.1", "fd00::1"], GROUP6, "fd00::1", id="of-the-group's-family"),
    ],
)
def test_the_address_that_faces_the_farm(hosts, group, expected):
    assert administrative_address("", group, listeners(*hosts)) == expected


def test_an_interface_that_is_named_is_taken():
    assert administrative_address("192.0.2.7", GROUP, listeners("10.0.0.1")) == "192.0.2.7"
    assert administrative_address("lo", GROUP, listeners("10.0.0.1")) == "127.0.0.1"


@pytest.mark.parametrize(("interface", "hosts"), [("", ["fd00::1"]), ("nosuch0", ["10.0.0.1"])])
def test_no_address_is_an_error(interface, hosts):
    with pytest.raises(ConfigError):
        administrative_address(interface, GROUP, listeners(*hosts))


def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(ConfigError, match="cannot send from"):
        open_sender("192.0.2.199", 0, Settings())


@pytest.mark.parametrize(
    ("family", "address", "any_group"),
    [(socket.AF_INET, "127.0.0.1", "239.255.41.75"), (socket.AF_INET6, "::1", "ff02::4175")],
    ids=["ipv4", "ipv6"],
)
def test_a_datagram_goes_through_a_group_when_loopback_is_on(family, address, any_group):
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        try:
            receiver.bind(
                (any_group, 0, 0, socket.if_nametoindex("lo")) if family == socket.AF_INET6 else (any_group, 0)
            )
            port = receiver.getsockname()[1]
            group = Listener(0, "udp", any_group, port, multicast=True)
            join(receiver, group, address)
            join(receiver, group, address)  # a successor joins again
            sender = open_sender(address, 0, Settings({"mcast_loopback": 1, "mcast_ttl": 3}))
            sender.sendto(b"hello", (any_group, port))
        except (OSError, ConfigError) as exc:
            pytest.skip(f"no multicast on loopback here: {exc}")
        with sender:
            if family == socket.AF_INET:
                assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 3
            receiver.settimeout(PATIENCE_S)
            assert receiver.recv(100) == b"hello"


def test_ttl_and_loopback_are_set_when_nothing_is_said():
    with open_sender("127.0.0.1", 0, Settings()) as sender:
        assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 1
        assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 0
