"""The connections of one process, on real sockets of the loopback."""

from __future__ import annotations

import contextlib
import re
import socket
import time

import pytest

from serpy.errors import TransportError
from serpy.net.loop import Loop
from serpy.net.tcp import Hub, StreamSettings
from serpy.sip.flow import Listener
from serpy.sip.framing import HTTP, PING, SIP
from serpy.sip.limits import STREAM_QUEUE_MAX

OPTIONS = b"OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n"


class User:
    """What the hub tells, noted down. ``takes`` False: no frame is taken."""

    def __init__(self):
        self.takes = True
        self.limit = 1000
        self.told = []
        self.owes = 0  # what a message counts as: 1 = a request
        self.open = []
        self.reasons = []
        self.frames = []
        self.failed = []
        self.answer = b""

    def is_full(self, *, outbound):
        return len(self.open) >= self.limit + outbound

    def crowded(self):
        self.told.append("crowded")

    def made_room(self):
        self.told.append("made room")

    def left(self, connection):
        self.told.append(connection.port)

    def opened(self, connection):
        self.open.append(connection)

    def closed(self, connection, reason):
        self.open.remove(connection)
        self.reasons.append(reason)

    def received(self, connection, frame):
        if frame.kind == PING:
            return True
        if self.takes:
            self.hub.spoke(connection)
            connection.messages += 1
            connection.owed += self.owes
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
        self.user.hub = self.hub
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
        pytest.param({}, b"hello\r\n", "no message", id="garbage"),
        pytest.param({}, b"\x16\x03\x01", "no message", id="tls-hello"),
    ],
)
def test_connections_end_for_a_reason(setup, settings, sent, reason):
    one = setup(**settings)
    one.client().sendall(sent)
    one.until(lambda: one.user.reasons)
    assert one.user.reasons == [reason]


def test_a_message_that_trickles_in_ends_the_connection_though_it_is_not_idle(setup):
    one = setup(message_s=0.2)
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
    first = one.client()
    first.sendall(OPTIONS)
    one.until(lambda: one.user.frames)
    one.hub.proved(one.user.open[0])
    second = one.client()
    second.settimeout(5)
    one.until(lambda: late_is_closed(second))
    assert len(one.user.open) == 1


def test_a_connection_that_never_brought_a_message_makes_room(setup):
    one = setup()
    one.user.limit = 1
    one.client()
    one.until(lambda: one.user.open)
    one.client().sendall(OPTIONS)
    one.until(lambda: one.user.frames)
    assert one.user.reasons == ["makes room"]


GARBAGE = b"hello, this is no SIP\r\n"
REFUSAL = b"SIP/2.0 400 Bad\r\n\r\n"
ANSWER = b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"


def read_all(one, client):
    """Everything that comes until the server closes."""
    client.setblocking(False)
    found = []

    def some():
        with contextlib.suppress(BlockingIOError):
            found.append(client.recv(65536))
        return found[-1:] == [b""]

    one.until(some)
    return b"".join(found)


def test_good_requests_before_what_is_no_message_are_answered_before_it_is_refused(setup):
    one = setup()
    one.user.owes, one.user.answer = 1, REFUSAL
    client = one.client()
    client.sendall(OPTIONS * 2 + GARBAGE + OPTIONS)
    one.until(lambda: len(one.user.told) == 1)
    connection = one.user.open[0]
    assert one.user.told == [connection.port]  # it leads nowhere any more
    assert len(one.user.frames) == 2
    connection.send(b"SIP/2.0 100 Trying\r\n\r\n", 0)
    connection.send(ANSWER, 0)
    connection.send(ANSWER, 0)
    assert read_all(one, client) == b"SIP/2.0 100 Trying\r\n\r\n" + ANSWER * 2 + REFUSAL
    assert one.user.reasons == ["no message"]


def test_who_gets_no_answer_in_time_is_refused_all_the_same(setup, monkeypatch):
    monkeypatch.setattr("serpy.net.connection.ANSWER_S", 0.05)
    one = setup()
    one.user.owes, one.user.answer = 1, REFUSAL
    client = one.client()
    client.sendall(OPTIONS + GARBAGE)
    assert read_all(one, client) == REFUSAL


def test_what_comes_behind_an_error_does_not_turn_the_answers_into_a_reset(setup):
    one = setup()
    one.user.owes, one.user.answer = 1, REFUSAL
    client = one.client()
    client.sendall(OPTIONS + GARBAGE)
    one.until(lambda: one.user.told)
    client.sendall(GARBAGE * 1000)
    one.user.open[0].send(ANSWER, 0)
    assert read_all(one, client) == ANSWER + REFUSAL


def test_a_peer_that_has_closed_its_side_gets_its_answers(setup):
    one = setup()
    one.user.owes = 1
    client = one.client()
    client.sendall(OPTIONS * 2)
    client.shutdown(socket.SHUT_WR)
    one.until(lambda: one.user.told)
    connection = one.user.open[0]
    assert one.user.reasons == []
    connection.send(ANSWER, 0)
    connection.send(ANSWER, 0)
    assert read_all(one, client) == ANSWER * 2
    assert one.user.reasons == ["closed by the peer"]


def test_a_peer_that_has_closed_its_side_and_waits_for_nothing_is_gone_at_once(setup):
    one = setup()
    client = one.client()
    client.sendall(OPTIONS)
    client.shutdown(socket.SHUT_WR)
    one.until(lambda: one.user.reasons)
    assert one.user.reasons == ["closed by the peer"]


def test_a_held_connection_is_not_read_until_it_is_released(setup):
    one = setup()
    client = one.client()
    client.sendall(OPTIONS)
    one.until(lambda: one.user.frames)
    connection = one.user.open[0]
    connection.hold()
    connection.hold()
    client.sendall(OPTIONS * 100)
    connection.release()
    one.until(lambda: len(one.user.frames) > 1, timeout=0.2, wanted=False)
    connection.release()
    one.until(lambda: len(one.user.frames) == 101)


def test_a_hold_that_nobody_ends_has_a_deadline(setup, monkeypatch):
    monkeypatch.setattr("serpy.net.connection.HOLD_S", 0.1)
    one = setup()
    client = one.client()
    one.until(lambda: one.user.open)
    one.user.open[0].hold()
    one.user.open[0].hold()
    client.sendall(OPTIONS)
    one.until(lambda: one.user.frames)


def test_connections_with_much_to_say_take_turns(setup):
    one = setup()
    clients = [one.client() for _ in range(3)]
    one.until(lambda: len(one.user.open) == 3)
    for number, client in enumerate(clients):
        client.sendall(OPTIONS.replace(b"ID: 1", b"ID: %d" % number) * 100)
    one.until(lambda: len(one.user.frames) == 300)
    order = "".join(data.split(b"ID: ")[1][:1].decode() for _, data in one.user.frames)
    assert max(len(run) for run in re.findall("0+|1+|2+", order)) < 30


def test_keep_alives_alone_do_not_keep_a_connection(setup):
    one = setup(lifetime_s=0.2)
    client = one.client()

    def ping():
        with contextlib.suppress(OSError):
            client.sendall(b"\r\n\r\n")
        if not one.user.reasons:
            one.loop.call_at(time.monotonic() + 0.02, ping)

    ping()
    one.until(lambda: one.user.reasons)
    assert one.user.reasons == ["idle"]


def test_strangers_that_do_not_read_share_what_may_wait(setup):
    one = setup(queued_max=1_000_000)
    for _ in range(3):
        one.client()
    one.until(lambda: len(one.user.open) == 3)
    first, second, third = one.user.open
    for connection in (first, second):
        for _ in range(30):
            connection.send(b"x" * 100_000, 5)
    assert one.hub.queued <= 1_000_000
    assert one.user.failed
    before = len(one.user.failed)
    third.send(OPTIONS, 0)
    assert len(one.user.failed) == before
    one.hub.close()
    assert one.hub.queued == 0


def test_a_connection_is_not_silent_while_its_message_has_not_been_read(setup):
    one = setup(max_per_source=2)
    one.user.owes = 1
    clients = [one.client() for _ in range(3)]
    clients[0].sendall(OPTIONS)
    clients[1].sendall(OPTIONS)
    one.until(lambda: len(one.user.frames) == 2)  # all three are accepted in one go, the third finds no room
    assert [connection.port for connection in one.user.open] == [client.getsockname()[1] for client in clients[:2]]


def test_a_source_that_has_its_connections_loses_its_oldest_idle_one(setup):
    one = setup(max_per_source=3)
    one.user.owes = 1
    clients = [one.client() for _ in range(3)]
    for number, client in enumerate(clients):
        client.sendall(OPTIONS)
        one.until(lambda number=number: len(one.user.frames) == number + 1)
    first, second, third = one.user.open
    second.send(ANSWER, 0)  # the only one that waits for nothing
    newcomer = one.client()
    newcomer.sendall(OPTIONS)
    one.until(lambda: len(one.user.frames) == 4)
    assert (first.closed, second.closed, third.closed) == (False, True, False)
    assert one.user.told == ["crowded", "made room"]
    another = one.client()
    another.settimeout(5)
    one.until(lambda: one.user.told[2:] == ["crowded"])  # all wait for an answer now
    assert another.recv(10) == b""
    assert len(one.user.open) == 3


def test_connections_of_known_users_do_not_count(setup):
    one = setup(max_per_source=1)
    for number in range(5):
        one.client()
        one.until(lambda number=number: len(one.user.open) == number + 1)
        one.hub.proved(one.user.open[-1])
        one.hub.proved(one.user.open[-1])
    assert one.user.reasons == []
    one.user.limit = 5
    late = one.client()
    late.settimeout(5)
    one.until(lambda: one.hub.loop.now() and late_is_closed(late))
    assert len(one.user.open) == 5


def late_is_closed(client):
    client.setblocking(False)
    try:
        return client.recv(10) == b""
    except BlockingIOError:
        return False


def test_our_own_connects_have_room_that_others_have_not(setup):
    one = setup()
    one.user.limit = 1
    one.client().sendall(OPTIONS)
    one.until(lambda: one.user.frames)
    one.hub.proved(one.user.open[0])
    with socket.create_server(("127.0.0.1", 0)) as far:
        one.hub.connect(one.listener, *far.getsockname())
        with pytest.raises(TransportError):
            one.hub.connect(one.listener, *far.getsockname())


def test_closing_after_the_answer_sends_it_first(setup):
    one = setup()
    client = one.client()
    one.until(lambda: one.user.open)
    one.user.open[0].send(b"bye", 0, close=True)
    client.settimeout(5)
    assert client.recv(10) + client.recv(10) == b"bye"
    assert one.user.reasons == ["finished"]
