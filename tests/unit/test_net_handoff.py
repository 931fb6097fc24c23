"""Datagrams between processes."""

from __future__ import annotations

import os
import socket
import time

import pytest

from serpy.errors import UsageError
from serpy.net.handoff import (
    HTTP,
    KINDS,
    MESSAGE,
    RPC_CALL,
    RPC_RESULT,
    STORE_ACK,
    STREAM_ALIAS,
    STREAM_HOLD,
    STREAM_SEND,
    WAKE,
    Channels,
    Layout,
    Outbox,
    PayloadError,
    decode_message,
    encode_hold,
    encode_message,
    set_buffers,
)
from serpy.net.loop import Loop
from serpy.net.streams import Order, encode_alias, encode_order
from serpy.rpc.asked import encode_call, encode_result


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


# ------------------------------------------------------------------------------------------------- the table of kinds

LAYOUT = Layout(2, 2)
SLOTS = {"udp receiver": 1, "timer": LAYOUT.timer, "store": LAYOUT.store, "ctl": LAYOUT.ctl, "tcp receiver": 6}


@pytest.mark.parametrize(("role", "slot"), SLOTS.items())
def test_the_layout_knows_the_role_of_each_slot(role, slot):
    assert LAYOUT.role(slot) == role


def attached(slot):
    channels = Channels(LAYOUT.slots, LAYOUT)
    channels.attach(slot, None)
    return channels


@pytest.mark.parametrize("kind", KINDS, ids=[entry.name for entry in KINDS.values()])
def test_a_kind_goes_from_its_senders_to_its_takers_and_nowhere_else(kind):
    entry = KINDS[kind]
    for sender, slot in SLOTS.items():
        channels = Channels(LAYOUT.slots, LAYOUT)
        channels.slot = slot  # as attach() has it, with the other ends open
        for taker, to_slot in SLOTS.items():
            if sender in entry.senders and taker in entry.takers:
                assert channels.send(to_slot, kind, b"")
            else:
                with pytest.raises(UsageError):
                    channels.send(to_slot, kind, b"")


def test_a_process_in_its_slot_cannot_send_what_is_not_its_own():
    with pytest.raises(UsageError):
        attached(LAYOUT.timer).send(LAYOUT.store, STORE_ACK, b"")


@pytest.mark.parametrize("kind", KINDS, ids=[entry.name for entry in KINDS.values()])
def test_only_a_taker_registers_for_a_kind(kind):
    for taker, slot in SLOTS.items():
        channels = attached(slot)
        if taker in KINDS[kind].takers:
            channels.on(kind, lambda _payload, _slot: None)
        else:
            with pytest.raises(UsageError):
                channels.on(kind, lambda _payload, _slot: None)


SAMPLES = {
    MESSAGE: encode_message(b"", 1, "192.0.2.1", 5060, 7),
    HTTP: encode_message(b"", 1, "192.0.2.1", 5060, 7),
    STREAM_SEND: encode_order(Order(b"", 7, 1, "192.0.2.1", 5060, 0, 2)),
    STREAM_ALIAS: encode_alias(1, 7, "192.0.2.1", 5060),
    STREAM_HOLD: encode_hold(7, held=True),
    RPC_CALL: encode_call(7, "tm.cancel", ["id", 1]),
    RPC_RESULT: encode_result(7, [1]),
}


@pytest.mark.parametrize("kind", SAMPLES, ids=[KINDS[kind].name for kind in SAMPLES])
def test_a_payload_that_is_too_short_is_an_error_of_its_own(kind):
    read = KINDS[kind].read
    sample = SAMPLES[kind]
    read(sample)
    for size in range(min(12, len(sample))):
        with pytest.raises(PayloadError):
            read(sample[:size])


def test_the_kinds_with_a_reader_are_those_tested_here():
    assert {kind for kind, entry in KINDS.items() if entry.read is not None} == set(SAMPLES)


def test_a_payload_that_is_not_what_its_kind_says_is_counted_and_dropped():
    channels = Channels(1)
    channels.attach(0, None)
    seen = []
    channels.on(MESSAGE, lambda payload, _slot: seen.append(decode_message(payload)[0]))
    channels.send(0, MESSAGE, b"short")
    channels._out[0].send(b"\x01")  # not even a head
    channels.send(0, MESSAGE, encode_message(b"whole", 0, "192.0.2.1", 5060))
    channels.read()
    assert seen == [b"whole"]
    assert channels.dropped == 2
