"""The connections of one process, on real sockets of the loopback."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from serpy.errors import TransportError
from serpy.net.loop import Loop
from serpy.net.tcp import Hub, StreamSettings
from serpy.sip.flow import Listener
from serpy.sip.framing import HTTP, SIP
from serpy.sip.limits import STREAM_QUEUE_MAX

OPTIONS = b"OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n"


class User:
    """What the hub tells, noted down. ``takes`` False: no frame is taken."""

    def __init__(self):
        self.takes = True
        self.limit = 1000
        self.open = []
        self.reasons = []
        self.frames = []
        self.failed = []
        self.answer = b""

    def is_full(self):
        return len(self.open) >= self.limit

    def opened(self, connection):
        self.open.append(connection)

    def closed(self, connection, reason):
        self.open.remove(connection)
        self.reasons.append(reason)

    def received(self, connection, frame):
        if self.takes:
            connection.messages += 1
            self.frames.append((frame.kind, frame.data))
        return self.takes

    def refused(self, _connection, _exc):
        return self.answer

    def unsent(self, data, origin):
        self.failed.append((data, origin))


class Setup:
    """A hub that listens; ``until`` runs its loop."""

    def __init__(self, **settings):
        self.loop = Loop()
        values = {"lifetime_s": 60.0, "connect_s": 5.0, "send_s": 5.0, "max_connections": 0, **settings}
        self.user = User()
        self.hub = Hub(self.loop, StreamSettings(**values), self.user, 1, 2)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # connections inherit them
            self.socket.setsockopt(socket.SOL_SOCKET, option, 262144)
        self.socket.listen(100)
        self.socket.setblocking(False)
        self.address = self.socket.getsockname()
        self.listener = Listener(0, "tcp", *self.address)
        self.hub.listen(self.socket, self.listener)
        self.clients = []

    def client(self):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262144)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 262144)
        client.connect(self.address)
        self.clients.append(client)
        return client

    def until(self, what, timeout=5.0, *, wanted=True):
        """Run the loop until *what()* is true."""

        def look():
            if what() or time.monotonic() > deadline:
                self.loop._stopping = True
            else:
                self.loop.call_at(time.monotonic() + 0.001, look)

        deadline = time.monotonic() + timeout
        self.loop._stopping = False
        look()
        self.loop.run()
        assert bool(what()) == wanted

    def close(self):
        self.hub.close()
        self.socket.close()
        for sock in self.clients:
            sock.close()


@pytest.fixture
def setup(monkeypatch):
    monkeypatch.setattr("serpy.net.tcp.SWEEP_S", 0.05)
    made = []

    def make(**settings):
        made.append(Setup(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_messages_come_whole_and_in_order(setup):
    one = setup()
    client = one.client()
    client.sendall(OPTIONS + OPTIONS[:20])
    one.until(lambda: len(one.user.frames) == 1)
    client.sendall(OPTIONS[20:] + b"GET / HTTP/1.1\r\n\r\n")
    one.until(lambda: len(one.user.frames) == 3)
    assert [kind for kind, _ in one.user.frames] == [SIP, SIP, HTTP]
    connection = one.user.open[0]
    assert (connection.host, connection.port) == client.getsockname()
    assert one.hub.get(connection.id) is connection


def test_a_connection_whose_messages_are_not_taken_is_not_read(setup):
    one = setup()
    one.user.takes = False
    client = one.client()
    client.setblocking(False)
    stream = OPTIONS * 1_000_000
    sent = refused = 0

    def fill():
        nonlocal sent, refused
        try:
            sent += client.send(stream[sent : sent + 50_000])
        except BlockingIOError:
            refused += 1
        return refused > 10  # so often the buffers were full: nobody reads

    one.until(fill)
    one.user.takes = True
    one.loop.spawn(one.user.open[0].resume)
    one.until(lambda: len(one.user.frames) >= sent // len(OPTIONS))
    assert one.user.reasons == []


def test_a_connection_that_is_paused_both_ways_costs_nothing(setup):
    one = setup()
    one.user.takes = False
    client = one.client()
    client.sendall(OPTIONS * 100)
    one.until(lambda: one.user.open and one.user.open[0]._held is not None)
    one.user.open[0].send(b"x" * 2_000_000, 0)
    client.sendall(OPTIONS)
    wakes = []
    ready = one.user.open[0].ready
    one.loop._readers[one.user.open[0].fd] = lambda: (wakes.append(1), ready())
    one.until(lambda: len(wakes) > 50, timeout=0.2, wanted=False)


def test_what_the_peer_does_not_take_waits_and_is_sent_in_order(setup):
    one = setup()
    client = one.client()
    one.until(lambda: one.user.open)
    pieces = [bytes([65 + number]) * 100_000 for number in range(20)]
    for piece in pieces:
        one.user.open[0].send(piece, 3)
    assert one.hub.queued > 0
    received = b""
    client.setblocking(False)

    def read():
        nonlocal received
        with contextlib.suppress(BlockingIOError):
            received += client.recv(1 << 20)
        return len(received) == 2_000_000

    one.until(read)
    assert received == b"".join(pieces)
    assert one.hub.queued == 0
    assert one.user.failed == []


def test_a_reader_that_is_too_slow_loses_the_connection_and_the_sender_is_told(setup):
    one = setup(send_s=0.1)
    one.client()
    one.until(lambda: one.user.open)
    data = b"x" * (STREAM_QUEUE_MAX // 2)
    one.user.open[0].send(data, 3)
    one.user.open[0].send(data[:100], 4)
    one.until(lambda: one.user.reasons)
    assert one.user.reasons == ["send timeout"]
    assert one.user.failed == [(data, 3), (data[:100], 4)]


def test_more_than_may_wait_is_given_back_at_once(setup):
    one = setup()
    one.client()
    one.until(lambda: one.user.open)
    one.user.open[0].send(b"x" * (STREAM_QUEUE_MAX + 1), 3)
    assert [origin for _, origin in one.user.failed] == [3]


def test_a_connection_is_made_and_what_was_sent_before_leaves_then(setup):
    one = setup()
    connection = one.hub.connect(one.listener, *one.address)
    connection.send(OPTIONS, 0)
    one.until(lambda: one.user.frames)
    assert one.user.frames == [(SIP, OPTIONS)]
    assert [each.outbound for each in one.user.open] == [True, False]


def test_a_refused_connect_gives_back_what_was_to_be_sent(setup):
    one = setup()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = closed.getsockname()
    try:
        connection = one.hub.connect(one.listener, *address)
        connection.send(OPTIONS, 7)
        one.until(lambda: one.user.failed)
    except TransportError:
        pytest.skip("this kernel refuses at once")
    assert one.user.failed == [(OPTIONS, 7)]
    assert one.user.reasons == ["connect: ECONNREFUSED"]


@pytest.mark.parametrize(
    ("settings", "sent", "reason"),
    [
        pytest.param({"lifetime_s": 0.1}, b"", "idle", id="idle"),
        pytest.param({}, b"hello\r\n", "finished", id="garbage"),
        pytest.param({}, b"\x16\x03\x01", "finished", id="tls-hello"),
    ],
)
def test_connections_end_for_a_reason(setup, settings, sent, reason):
    one = setup(**settings)
    one.client().sendall(sent)
    one.until(lambda: one.user.reasons)
    assert one.user.reasons == [reason]


def test_a_message_that_trickles_in_ends_the_connection_though_it_is_not_idle(setup, monkeypatch):
    monkeypatch.setattr("serpy.net.tcp.STREAM_MESSAGE_S", 0.2)
    one = setup()
    client = one.client()
    pieces = iter(OPTIONS[at : at + 1] for at in range(len(OPTIONS)))

    def trickle():
        if one.user.reasons:
            return
        try:
            client.sendall(next(pieces))
        except OSError:
            return
        one.loop.call_at(time.monotonic() + 0.05, trickle)

    trickle()
    one.until(lambda: one.user.reasons)
    assert one.user.reasons == ["message too slow"]


def test_a_refused_message_is_answered_before_the_connection_is_closed(setup):
    one = setup()
    one.user.answer = b"SIP/2.0 400 Bad\r\n\r\n"
    client = one.client()
    client.sendall(b"OPTIONS sip:a SIP/2.0\r\n\r\n" + OPTIONS)
    one.until(lambda: one.user.reasons)
    assert client.recv(1000) == one.user.answer
    assert client.recv(1000) == b""
    assert one.user.frames == []


def test_one_connection_too_many_is_closed_at_once(setup):
    one = setup()
    one.user.limit = 1
    first, second = one.client(), one.client()
    first.sendall(OPTIONS)
    one.until(lambda: one.user.frames)
    second.settimeout(5)
    assert second.recv(10) == b""
    assert len(one.user.open) == 1


def test_a_connection_that_never_brought_a_message_makes_room(setup, monkeypatch):
    monkeypatch.setattr("serpy.net.tcp.NEWCOMER_S", 0.0)
    one = setup()
    one.user.limit = 1
    one.client()
    one.until(lambda: one.user.open)
    one.client().sendall(OPTIONS)
    one.until(lambda: one.user.frames)
    assert one.user.reasons == ["makes room"]


def test_closing_after_the_answer_sends_it_first(setup):
    one = setup()
    client = one.client()
    one.until(lambda: one.user.open)
    one.user.open[0].send(b"bye", 0, close=True)
    client.settimeout(5)
    assert client.recv(10) + client.recv(10) == b"bye"
    assert one.user.reasons == ["finished"]
