"""What is a numeric host is what the C library reads as one, remembered or not."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpy.sip.address import default_port, is_address, pack_address, plain_address


def by_the_c_library(text):
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
    return b""


NUMBERS = st.one_of(
    st.integers(0, 300).map(str), st.sampled_from(["", "00", "01", "1 ", "+1", "٣", "1e1", "-0", "0x1"])
)


@given(st.lists(NUMBERS, min_size=2, max_size=6).map(".".join))
def test_four_decimals_are_read_as_the_c_library_reads_them(text):
    assert pack_address(text) == by_the_c_library(text) == pack_address(text)


@given(
    st.lists(
        st.sampled_from(["", "0", "1", "ffff", "2001", "db8", "10000", "g", "192.0.2.1"]), min_size=2, max_size=9
    ).map(":".join)
)
def test_groups_of_hexadecimals_are_read_as_the_c_library_reads_them(text):
    assert pack_address(text) == by_the_c_library(text)


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        pytest.param("[2001:db8::1]", bytes.fromhex("20010db8000000000000000000000001"), id="brackets"),
        pytest.param("fe80::1%eth0", b"", id="a zone has no bytes"),
        pytest.param("example.net", b"", id="a name"),
        pytest.param("1" * 100, b"", id="too long to be one"),
    ],
)
def test_what_has_bytes_and_what_has_not(text, packed):
    assert pack_address(text) == packed


def test_an_address_with_a_zone_is_one_and_keeps_it():
    assert is_address("fe80::1%eth0")
    assert plain_address("[FE80::0:1]") == "fe80::1"
    assert plain_address("example.net") == ""


def test_the_port_of_tls_is_another_one():
    assert [default_port(transport) for transport in ("udp", "tcp", "tls")] == [5060, 5060, 5061]
