"""The C extension for datagrams and its Python twin say the same about whatever comes and wherever it shall go."""

from __future__ import annotations

import errno
import ipaddress
import socket

from hypothesis import given
from hypothesis import strategies as st

from serpy.net import datagrams
from serpy.net.datagrams import peer, peer_plain, receive_plain, send_plain

RECEIVES = (receive_plain, datagrams.receive)
SENDS = (send_plain, datagrams.send)
PEERS = (peer_plain, peer)
CLOSED = 1 << 20  # no process has so many files: nothing leaves, but the address is looked at first

addresses = st.ip_addresses().map(str) | st.ip_addresses().map(lambda address: address.exploded)
ipv4_in_ipv6 = st.ip_addresses(v=4).map(lambda address: f"::ffff:{address}")
odd = st.text(alphabet="0123456789abcdef.:%[] x\0", max_size=70) | st.text(max_size=20)


@st.composite
def damaged(draw):
    """An address with one character removed, replaced or added."""
    text = draw(addresses)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.sampled_from(["", *"0123456789abcdefg.:%[] \0"])) + text[at + draw(st.integers(0, 1)) :]


def is_address(text):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


@given(addresses | ipv4_in_ipv6 | odd | damaged(), st.integers(0, 65535) | st.integers())
def test_both_know_what_can_be_sent_to(host, port):
    told = {send(CLOSED, b"x", host, port) for send in SENDS}
    assert told == {-errno.EBADF if is_address(host) and 0 <= port < 65536 else -errno.EINVAL}


@given(st.binary(max_size=2000), st.integers(1, 0xFFFFFE), st.booleans())
def test_both_hear_the_same(data, host, known):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(("127.0.0.1", 0))
        theirs.bind((str(ipaddress.ip_address(0x7F000000 + host)), 0))
        for _ in range(3):
            theirs.sendto(data, ours.getsockname())
        expected = ours.recvfrom(70000)
        address, port = expected[1]
        key = socket.inet_aton(address) + port.to_bytes(2, "big")
        peers = {key: object()} if known else {}
        told = [receive(ours.fileno(), peers) for receive in RECEIVES]
        assert told == [(expected[0], peers.get(key, key))] * 2
        assert peer(key) == expected[1]


@given(st.ip_addresses(), st.integers(0, 65535))
def test_a_key_stands_for_its_address(address, port):
    told = {peer_of(address.packed + port.to_bytes(2, "big")) for peer_of in PEERS}
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    assert told == {(socket.inet_ntop(family, address.packed), port)}


@given(st.binary(max_size=65507), st.sampled_from(SENDS), st.sampled_from(RECEIVES))
def test_what_one_sends_the_other_receives(data, send, receive):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs,
    ):
        ours.bind(("127.0.0.1", 0))
        theirs.bind(("127.0.0.1", 0))
        assert send(theirs.fileno(), data, *ours.getsockname()) == 0
        got, key = receive(ours.fileno(), {})
        assert (got, peer(key)) == (data, theirs.getsockname())
