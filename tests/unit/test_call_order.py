"""Room behind a parked handler: what is too much of one call is refused, and connections are paused before it is."""

from __future__ import annotations

import pytest

from serpy.call_order import GO_ON_AT, MAX_WAITING, PATIENCE_S, PAUSE_FROM, STREAM_WAITING, WAITING_BYTES, CallOrder
from serpy.sip.flow import Flow, Listener
from serpy.sip.parser import parse_message

TEXT = (
    "MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK%d\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\n"
    "Call-ID: call\r\nCSeq: %d MESSAGE\r\nContent-Length: 0\r\n\r\n"
)
LISTENER = Listener(0, "tcp", "192.0.2.100", 5060)


class Desk:
    """A call whose handler is parked, and what becomes of the messages behind it."""

    def __init__(self):
        self.soon = []
        self.timers = []
        self.handled = []
        self.refused = []
        self.paused = []
        self.order = CallOrder(
            self.soon.append,
            lambda _data, message, _flow: self.handled.append(message.cseq.number),
            lambda _timed: None,
            lambda message, _flow: self.refused.append(message.cseq.number),
            lambda seconds, callback: self.timers.append((seconds, callback)),
        )
        self.order.pause = lambda connection, paused: self.paused.append((connection, paused))
        assert self.order.begin("call")
        assert self.order.begin("another")
        self.order.end("another")
        self.number = 0

    def bring(self, count, connection=7):
        """How many of *count* messages found room."""
        taken = 0
        for _ in range(count):
            self.number += 1
            data = (TEXT % (self.number, self.number)).encode()
            assert not self.order.begin("call")
            flow = Flow(LISTENER, "192.0.2.1", 5060, connection)
            taken += self.order.wait("call", data, parse_message(data), flow)
        return taken

    def go_on(self, count=10_000):
        """The handler has ended: the next *count* messages have their turn."""
        self.order.end("call") if not self.handled else None
        while self.soon and count:
            self.soon.pop(0)()
            count -= 1

    def run_out_of_patience(self):
        [(seconds, callback)] = self.timers
        assert seconds == PATIENCE_S
        callback()


@pytest.fixture
def desk():
    return Desk()


def test_datagrams_beyond_the_room_are_refused_at_once(desk):
    assert desk.bring(MAX_WAITING + 10, connection=0) == MAX_WAITING
    assert (desk.order.overrun, desk.paused) == (10, [])


def test_a_connection_that_brings_much_of_one_call_is_paused_and_nothing_of_it_is_lost(desk):
    assert desk.bring(150) == 150
    assert desk.paused == [(7, True)]
    desk.go_on()
    assert desk.paused == [(7, True), (7, False)]
    assert desk.handled == list(range(1, 151))
    assert (desk.refused, desk.order.overrun) == ([], 0)
    assert desk.order.is_idle()
    desk.run_out_of_patience()  # the timer is for nothing then
    assert desk.paused == [(7, True), (7, False)]


def test_every_connection_of_the_call_is_paused_and_goes_on_when_the_queue_is_short(desk):
    desk.bring(PAUSE_FROM - 1)
    assert desk.paused == []
    desk.bring(1)
    desk.bring(1, connection=8)
    assert desk.paused == [(7, True), (8, True)]
    desk.go_on(PAUSE_FROM + 1 - GO_ON_AT - 1)
    assert len(desk.paused) == 2
    desk.go_on(1)
    assert sorted(desk.paused[2:]) == [(7, False), (8, False)]


def test_after_a_while_the_rest_is_refused_and_the_connection_goes_on_with_other_calls(desk):
    desk.bring(PAUSE_FROM + 20)
    desk.run_out_of_patience()
    assert sorted(desk.refused) == list(range(PAUSE_FROM + 1, PAUSE_FROM + 21))
    assert desk.paused == [(7, True), (7, False)]
    assert desk.bring(5) == 0  # at once now
    assert desk.order.overrun == 25
    desk.go_on()
    assert desk.handled == list(range(1, PAUSE_FROM + 1))
    assert len(desk.paused) == 2


def test_datagrams_and_streams_of_one_call_share_its_queue_and_datagrams_stay(desk):
    desk.bring(PAUSE_FROM)
    desk.bring(5, connection=0)
    desk.bring(5)
    desk.run_out_of_patience()
    assert len(desk.refused) == 5
    desk.go_on()
    assert desk.handled == list(range(1, PAUSE_FROM + 6))


def test_what_waits_of_all_calls_has_an_end(desk):
    assert desk.bring(STREAM_WAITING + 5) == STREAM_WAITING
    desk.go_on()
    data = (TEXT % (0, 1)).encode()
    large = data.replace(b"Length: 0", b"Length: 60000") + b"x" * 60000
    assert desk.order.begin("call")
    assert desk.order.begin("another")
    desk.order.end("another")
    flow = Flow(LISTENER, "192.0.2.1", 5060, 7)
    kept = 0
    while not desk.order.begin("call") and desk.order.wait("call", large, parse_message(large), flow):
        kept += 1
    assert kept == WAITING_BYTES // len(large)
    desk.handled.clear()
    desk.go_on()
    assert len(desk.handled) == kept
    assert desk.order._bytes == 0
