"""Classes of addresses: the table of the registries, every family, every spelling."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpy.sip.classes import LOOPBACK, NEVER, PRIVATE, PUBLIC, address_class, is_private

IPV4 = [
    ("0.0.0.0", NEVER), ("0.255.255.255", NEVER), ("1.0.0.0", PUBLIC), ("9.255.255.255", PUBLIC), ("10.0.0.0", PRIVATE),
    ("10.255.255.255", PRIVATE), ("11.0.0.0", PUBLIC), ("100.63.255.255", PUBLIC), ("100.64.0.0", PRIVATE),
    ("100.127.255.255", PRIVATE), ("100.128.0.0", PUBLIC), ("126.255.255.255", PUBLIC), ("127.0.0.0", LOOPBACK),
    ("127.0.0.1", LOOPBACK), ("127.255.255.255", LOOPBACK), ("128.0.0.0", PUBLIC), ("169.253.255.255", PUBLIC),
    ("169.254.0.0", PRIVATE), ("169.254.169.254", PRIVATE), ("169.255.0.0", PUBLIC), ("172.15.255.255", PUBLIC),
    ("172.16.0.0", PRIVATE), ("172.31.255.255", PRIVATE), ("172.32.0.0", PUBLIC), ("192.0.0.0", NEVER), ("192.0.0.255", NEVER),
    ("192.0.1.0", PUBLIC), ("192.0.2.1", PUBLIC), ("192.167.255.255", PUBLIC), ("192.168.0.0", PRIVATE),
    ("192.168.255.255", PRIVATE), ("192.169.0.0", PUBLIC), ("198.17.255.255", PUBLIC), ("198.18.0.0", PRIVATE),
    ("198.19.255.255", PRIVATE), ("198.20.0.0", PUBLIC), ("198.51.100.1", PUBLIC), ("203.0.113.1", PUBLIC),
    ("223.255.255.255", PUBLIC), ("224.0.0.0", NEVER), ("224.0.1.75", NEVER), ("239.255.255.255", NEVER), ("240.0.0.1", NEVER),
    ("255.255.255.255", NEVER),
]  # fmt: skip
IPV6 = [
    ("::", NEVER), ("::1", LOOPBACK), ("::2", NEVER), ("::127.0.0.1", NEVER), ("::ffff", NEVER), ("0:0:0:0:0:0:0:1", LOOPBACK),
    ("64:ff9b:1::1", PRIVATE), ("100::1", NEVER), ("100:0:0:1::1", PUBLIC), ("2001:db8::1", PUBLIC), ("2a00::1", PUBLIC),
    ("fbff::1", PUBLIC), ("fc00::", PRIVATE), ("fd12:3456::1", PRIVATE), ("fdff:ffff::", PRIVATE), ("fe00::", PUBLIC),
    ("fe7f::", PUBLIC), ("fe80::1", PRIVATE), ("fe80::1%eth0", PRIVATE), ("febf::1", PRIVATE), ("fec0::1", PRIVATE),
    ("feff::1", PRIVATE), ("ff00::", NEVER), ("ff02::1", NEVER), ("ff05::75", NEVER), ("FD00::1", PRIVATE), ("[::1]", LOOPBACK),
    ("[FE80::1]", PRIVATE), ("[fe80::1%25eth0]", PRIVATE),
]  # fmt: skip
NO_ADDRESS = [
    "", "localhost", "example.com", "127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "127.0.0.1.", " 127.0.0.1", "10.0.0.1:5060",
    "256.0.0.1", "::1::", "1" * 500, "fe80::1%" + "x" * 100, "\u0661\u0660.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize(("host", "kind"), [*IPV4, *IPV6])
def test_an_address_has_its_class(host, kind):
    assert address_class(host) == kind
    assert is_private(host) is (kind != PUBLIC)


@pytest.mark.parametrize("host", NO_ADDRESS)
def test_what_is_no_address_is_reached_by_nobody(host):
    assert address_class(host) == NEVER
    assert is_private(host)


def packed_into(prefix, address, at=12, mask=0):
    value = bytearray(ipaddress.IPv6Address(prefix).packed)
    value[at : at + 4] = bytes(byte ^ mask for byte in ipaddress.IPv4Address(address).packed)
    return str(ipaddress.IPv6Address(bytes(value)))


@pytest.mark.parametrize(("host", "kind"), IPV4)
def test_an_ipv4_address_inside_an_ipv6_one_counts_as_itself(host, kind):
    assert address_class(packed_into("::ffff:0:0", host)) == kind
    assert address_class(f"::ffff:{host}") == kind
    assert address_class(f"[::FFFF:{host}]") == kind
    assert address_class(packed_into("::ffff:0:0:0", host)) == kind
    assert address_class(packed_into("64:ff9b::", host)) == kind
    assert address_class(packed_into("2002::5:1", host, at=2)) == kind
    assert address_class(packed_into("2001:0:c000:201::", host, mask=0xFF)) == kind


DOCUMENTATION = [ipaddress.ip_network(each) for each in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]


@given(st.ip_addresses(v=4))
def test_a_public_ipv4_address_is_a_global_one_or_for_documentation(address):
    if address_class(str(address)) == PUBLIC:
        assert not address.is_multicast
        assert address.is_global or any(address in network for network in DOCUMENTATION)


@given(st.ip_addresses(v=6))
def test_a_public_ipv6_address_is_one_of_somebody(address):
    if address_class(str(address)) == PUBLIC:
        kinds = (address.is_multicast, address.is_loopback, address.is_link_local, address.is_unspecified)
        assert not any(kinds)
