"""The first start: what a phone is told to type."""

import pytest

from serpy.tools.quickstart import _host_of


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("udp:127.0.0.1:5098", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("udp:0.0.0.0:5060", ""),
        ("udp:[2001:db8::1]:5060", ""),
    ],
)
def test_the_server_is_the_address_listened_on_unless_it_is_any(address, host):
    assert _host_of(address) == host
