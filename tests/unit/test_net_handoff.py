"""Datagrams between processes."""

from __future__ import annotations

import os
import time

import pytest

from serpy.errors import UsageError
from serpy.net.handoff import MESSAGE, STORE_ACK, WAKE, Channels, decode_message, encode_message
from serpy.net.loop import Loop


@pytest.mark.parametrize(
    ("host", "port", "index", "connection"),
    [
        pytest.param("192.0.2.1", 5060, 0, 0, id="ipv4"),
        pytest.param("2001:db8::1", 65535, 300, 0, id="ipv6-and-many-listeners"),
        pytest.param("192.0.2.1", 5060, 0, 255 << 48 | 65535 << 32 | 0xFFFFFFFF, id="largest-connection-id"),
    ],
)
def test_a_message_keeps_its_flow(host, port, index, connection):
    payload = encode_message(b"\x00data\r\n", index, host, port, connection)
    assert decode_message(payload) == (b"\x00data\r\n", index, host, port, connection)


def test_a_datagram_reaches_the_handler_of_its_kind_with_the_sender():
    channels = Channels(3)
    pid = os.fork()
    if pid == 0:
        channels.attach(2, None)
        channels.send(1, STORE_ACK, b"hello")
        os._exit(0)
    os.waitpid(pid, 0)
    loop = Loop()
    seen = []
    channels.attach(1, loop)
    channels.on(STORE_ACK, lambda payload, slot: (seen.append((payload, slot)), loop.stop()))
    loop.call_at(time.monotonic() + 5, loop.stop)
    loop.run()
    assert seen == [(b"hello", 2)]


def test_a_largest_udp_datagram_fits():
    channels = Channels(1)
    seen = []
    channels.attach(0, None)
    channels.on(MESSAGE, lambda payload, _slot: seen.append(len(payload)))
    assert channels.send(0, MESSAGE, encode_message(b"x" * 65507, 0, "::1", 1))
    channels.read()
    assert seen == [65507 + 16]


def test_a_full_socket_drops_and_counts():
    channels = Channels(1)
    channels.attach(0, None)
    sent = 0
    while channels.send(0, MESSAGE, b"x" * 60000):
        sent += 1
    assert sent > 2
    assert channels.dropped == 1


def test_a_kind_has_one_handler():
    channels = Channels(1)
    channels.on(WAKE, lambda _payload, _slot: None)
    with pytest.raises(UsageError):
        channels.on(WAKE, lambda _payload, _slot: None)
