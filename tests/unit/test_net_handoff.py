"""Datagrams between processes."""

from __future__ import annotations

import os
import socket
import time

import pytest

from serpy.errors import UsageError
from serpy.net.handoff import MESSAGE, STORE_ACK, WAKE, Channels, Outbox, decode_message, encode_message, set_buffers
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


# ------------------------------------------------------------------------------------------------- what has to arrive


class Two:
    """Slot 0, which sends, and slot 1, whose socket holds three letters of 60,000 bytes."""

    def __init__(self):
        self.loop = Loop()
        self.loop.read_clocks()
        self.channels = Channels(2)
        self.channels.slot = 1  # it reads for slot 1
        self.seen = []
        self.channels.on(MESSAGE, lambda payload, _slot: self.seen.append(bytes(payload[-1:])))
        for end in (self.channels._in[1], self.channels._out[1]):
            set_buffers(end, 1)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, 100_000)
        self.outbox = Outbox(self.loop, self.channels)

    def run(self):
        self.loop.add_reader(self.channels._in[1].fileno(), self.channels.read)
        deadline = time.monotonic() + 5

        def look():
            if not self.outbox.is_waiting(1) or time.monotonic() > deadline:
                self.loop.stop()
            else:
                self.loop.call_at(time.monotonic() + 0.001, look)

        look()
        self.loop.run()
        self.channels.read()
        return b"".join(self.seen)


def letter(mark):
    return b"x" * 60_000 + mark


def test_what_a_full_socket_does_not_take_arrives_later_in_order():
    two = Two()
    for mark in b"abcdefghijklmnopqrstuvwxyz":
        two.outbox.send(1, MESSAGE, letter(bytes([mark])))
    assert two.outbox.is_waiting(1)
    assert two.run() == b"abcdefghijklmnopqrstuvwxyz"


def test_a_later_word_about_the_same_takes_the_place_of_the_earlier_one():
    two = Two()
    for mark in b"abc":
        two.outbox.put(1, MESSAGE, letter(bytes([mark])), mark)
    two.outbox.put(1, MESSAGE, letter(b"B"), ord("b"))
    assert two.run() == b"aBc"


def test_a_drop_is_counted_where_others_can_read_it():
    channels = Channels(1)
    channels.attach(0, None)
    counted = []
    channels.count_drops(lambda: counted.append(1))
    while channels.send(0, MESSAGE, b"x" * 60000):
        pass
    assert len(counted) == channels.dropped == 1
