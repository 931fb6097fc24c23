"""Two TCP receivers in one process: an order finds the connection wherever it is, whoever was asked first."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest
from support.patience import PATIENCE_S

from serpy.api import Server
from serpy.clock import Clock
from serpy.config import Settings
from serpy.context.context import Context
from serpy.net.handoff import (
    MESSAGE,
    STREAM_ALIAS,
    STREAM_FAILED,
    STREAM_HOLD,
    STREAM_LIST,
    STREAM_LISTED,
    STREAM_PROVED,
    WAKE,
    Channels,
    Layout,
    decode_message,
    encode_hold,
)
from serpy.net.listen import bind_all
from serpy.net.loop import Loop
from serpy.net.streams import (
    ALIAS_ADD,
    ALIAS_ADOPT,
    COUNTERS,
    StreamSender,
    connection_id,
    encode_alias,
    home_of,
)
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip.flow import NO_CONNECT, Flow, Listener, Outgoing
from serpy.sip.parser import parse_message
from serpy.workers.tcp import TcpWorker, stream_settings
from serpy.workers.udp import UdpWorker

OPTIONS = b"OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 0\r\n\r\n"
RECEIVERS = 1


def same_sockets(base, slot):
    """The channels *base* as the process in *slot* sees them."""
    channels = Channels(0)
    channels.slot = slot
    channels._in, channels._out = base._in, base._out
    return channels


class Farm:
    """One receiver (slot 0) and two TCP receivers that share a loop. Connections are given to the one we want."""

    def __init__(self):
        self.loop = Loop()
        self.loop.read_clocks()
        self.layout = Layout(RECEIVERS, 2)
        base = Channels(self.layout.slots)
        self.listener = Listener(0, "tcp", "127.0.0.1", 5060)
        settings = Settings({"children": RECEIVERS, "tcp_children": 2, "listen": ["tcp:127.0.0.1:5060"]})
        counters = Counters(Segment(1 << 20), self.layout.slots)
        for name, text in COUNTERS:
            counters.declare(name, text)
        self.workers = []
        self.channels = []
        for slot in (0, self.layout.first_stream, self.layout.first_stream + 1):
            channels = same_sockets(base, slot)
            self.loop.add_reader(base._in[slot].fileno(), channels.read)
            self.channels.append(channels)
            if slot == 0:
                continue
            server = Server(settings)
            server.listeners = [self.listener]
            server.counters = counters
            server.loop = self.loop
            server.channels = channels
            server.segment = Segment(1 << 20)
            counters.attach(slot)
            bound = type("NoSockets", (), {"children": RECEIVERS, "streams": 2, "accepting": [[None, None]]})()
            worker = TcpWorker(server, channels, bound, slot, slot - self.layout.first_stream)
            worker.loop = self.loop
            worker.after_fork()
            self.workers.append(worker)
        self.messages = []
        self.failed = []
        self.channels[0].on(MESSAGE, lambda payload, slot: self.messages.append((decode_message(payload), slot)))
        self.channels[0].on(STREAM_FAILED, lambda payload, _slot: self.failed.append(payload))
        self.sender = StreamSender(self.channels[0], self.layout, lambda _slot: 0)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.peers = [self.listening]

    def accept(self, child):
        """A connection of a peer, held by *child*; (the peer's socket, the connection)."""
        # All come to one address: then no two of them have the same.
        peer = socket.create_connection(self.listening.getsockname())
        sock, address = self.listening.accept()
        sock.setblocking(False)
        self.peers.append(peer)
        made = self.workers[child].hub._add(sock, self.listener, *address, connecting=False)
        self.until(lambda: self.home(*address).directory.find(*address) == made.id)
        return peer, made

    def home(self, host, port):
        return self.workers[home_of(host, port, 2)]

    def send(self, host, port, **flow):
        self.sender.send(Outgoing(OPTIONS, Flow(self.listener, host, port, **flow)))

    def until(self, what, timeout=PATIENCE_S):
        deadline = time.monotonic() + timeout

        def look():
            if what() or time.monotonic() > deadline:
                self.loop._stopping = True
            else:
                self.loop.call_at(time.monotonic() + 0.001, look)

        self.loop._stopping = False
        look()
        self.loop.run()
        assert what()

    def read(self, peer):
        peer.setblocking(False)
        found = b""

        def some():
            nonlocal found
            with contextlib.suppress(BlockingIOError):
                found += peer.recv(65536)
            return bool(found)

        self.until(some)
        return found


@pytest.fixture
def farm():
    made = Farm()
    yield made
    for worker in made.workers:
        worker.before_exit()
    for peer in made.peers:
        peer.close()


@pytest.mark.parametrize("child", [0, 1])
def test_a_message_for_an_address_takes_the_connection_that_leads_there(farm, child):
    for _ in range(4):  # peers whose address has its home here and there
        peer, connection = farm.accept(child)
        farm.send(connection.host, connection.port)
        assert farm.read(peer) == OPTIONS


def named(name, text=OPTIONS):
    return text.replace(b"Call-ID: 1", b"Call-ID: " + name)


def test_who_waits_for_a_receiver_has_a_turn_before_those_who_came_later_have_another(farm, monkeypatch):
    monkeypatch.setattr("serpy.workers.tcp.BACKLOG", 1)  # one message at a time
    talkers = [farm.accept(0) for _ in range(3)]
    farm.loop.remove_reader(farm.channels[0]._in[0].fileno())  # the receiver stands still
    for number, (peer, _) in enumerate(talkers):
        peer.sendall(named(b"talker%d" % number) * 40)
    farm.until(lambda: all(connection.is_waiting for _, connection in talkers))
    late, connection = farm.accept(0)
    late.sendall(named(b"late"))
    farm.until(lambda: connection.is_waiting)
    farm.loop.add_reader(farm.channels[0]._in[0].fileno(), farm.channels[0].read)
    farm.until(lambda: len(farm.messages) == 121)
    order = [data.split(b"Call-ID: ")[1].split(b"\r")[0] for (data, *_), _ in farm.messages]
    assert order.index(b"late") <= 20


def test_a_connection_is_not_read_while_a_receiver_holds_it(farm):
    peer, connection = farm.accept(0)
    hold = farm.layout.first_stream, STREAM_HOLD
    farm.channels[0].send(*hold, encode_hold(connection.id, held=True))
    farm.channels[0].send(*hold, encode_hold(connection.id + 1, held=True))  # of one that is gone
    farm.until(lambda: connection.is_waiting)
    peer.sendall(OPTIONS)
    farm.channels[0].send(*hold, encode_hold(connection.id, held=False))
    farm.until(lambda: farm.messages)
    assert farm.workers[0].server.counters.snapshot()["tcp.held"] == 1


def test_a_connection_whose_user_has_proved_who_they_are_is_known(farm):
    _, connection = farm.accept(1)
    proved = farm.layout.first_stream + 1, STREAM_PROVED
    for number in (connection.id, connection.id, connection.id + 1):
        farm.channels[0].send(*proved, number.to_bytes(8, "big"))
    farm.until(lambda: connection.known)
    assert farm.workers[1].hub.sources.of(connection.host).known == 1


@pytest.mark.parametrize(
    ("text", "owed"),
    [
        pytest.param(OPTIONS, 1, id="request"),
        pytest.param(OPTIONS.replace(b"OPTIONS", b"ACK"), 0, id="ack"),
        pytest.param(OPTIONS.replace(b"OPTIONS sip:a SIP/2.0", b"SIP/2.0 200 OK"), 0, id="response"),
    ],
)
def test_what_is_answered_by_nobody_is_not_waited_for(farm, text, owed):
    peer, connection = farm.accept(0)
    peer.sendall(text)
    farm.until(lambda: farm.messages)
    assert connection.owed == owed


def test_a_connection_that_only_waits_for_answers_leads_nowhere(farm):
    peer, connection = farm.accept(0)
    peer.sendall(OPTIONS)
    peer.shutdown(socket.SHUT_WR)
    farm.until(lambda: connection.leaving)
    home = farm.home(connection.host, connection.port)
    farm.until(lambda: not home.directory.find(connection.host, connection.port))
    assert farm.workers[0]._row(connection)["state"] == "closing"
    farm.send(connection.host, connection.port, connection=connection.id)  # but the answer finds it
    assert farm.read(peer) == OPTIONS


def test_the_last_tenth_of_the_connections_is_for_our_own(farm):
    worker = farm.workers[0]
    worker.hub.settings = stream_settings(Settings({"tcp_max_connections": 20}), 2)
    full = []
    for number in range(21):
        worker._count.set_current(number)
        full.append((worker.is_full(outbound=False), worker.is_full(outbound=True)))
    assert full == [(False, False)] * 18 + [(True, False)] * 2 + [(True, True)]


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        pytest.param({}, 102, id="five-percent"),
        pytest.param({"tcp_max_connections": 500}, 64, id="at-least-64"),
        pytest.param({"tcp_max_connections": 0}, 0, id="no-limit-at-all"),
        pytest.param({"tcp_max_per_source": 0}, 0, id="no-limit-for-a-source"),
        pytest.param({"tcp_max_per_source": 7}, 7, id="as-set"),
    ],
)
def test_a_source_has_its_part_of_the_connections(settings, limit):
    assert stream_settings(Settings(settings), 2).max_per_source == limit


def test_a_message_comes_with_the_connection_it_came_by(farm):
    peer, connection = farm.accept(1)
    peer.sendall(OPTIONS)
    farm.until(lambda: farm.messages)
    assert farm.messages == [
        ((OPTIONS, 0, "127.0.0.1", peer.getsockname()[1], connection.id), farm.layout.first_stream + 1)
    ]


@pytest.mark.parametrize("child", [0, 1])
def test_an_alias_makes_a_connection_lead_to_another_port(farm, child):
    peer, connection = farm.accept(child)
    for port in (5060, 5070, 5080):
        payload = encode_alias(ALIAS_ADOPT, connection.id, connection.host, port)
        farm.channels[0].send(farm.layout.first_stream + child, STREAM_ALIAS, payload)
        farm.until(lambda port=port: farm.home("127.0.0.1", port).directory.find("127.0.0.1", port))
        farm.send("127.0.0.1", port)
        assert farm.read(peer) == OPTIONS
    connection.close("test")
    farm.until(lambda: not any(len(worker.directory) for worker in farm.workers))


def test_nobody_gets_more_aliases_than_allowed(farm):
    _, connection = farm.accept(0)
    for port in range(5000, 5100):
        farm.workers[0]._adopt(connection, port)
    assert len(connection.aliases) == 8


def test_a_connection_id_that_is_not_the_peers_is_not_used(farm):
    peer, connection = farm.accept(0)
    farm.send("127.0.0.2", 9, connection=connection.id, options=NO_CONNECT)
    farm.until(lambda: farm.failed)
    assert farm.failed == [OPTIONS]
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(10)


def test_a_closed_connection_is_made_again_to_the_address_given(farm):
    _, connection = farm.accept(0)
    connection.close("test")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(5)
        farm.send(*listening.getsockname(), connection=connection.id)
        farm.until(lambda: any(worker.hub.connections for worker in farm.workers))
        peer, _ = listening.accept()
        farm.peers.append(peer)
        assert farm.read(peer) == OPTIONS
        farm.send(*listening.getsockname())  # the connection we have made is used again
        assert farm.read(peer) == OPTIONS
    assert sum(len(worker.hub.connections) for worker in farm.workers) == 1


def test_what_cannot_be_sent_comes_back(farm):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = closed.getsockname()
    farm.send(*address)
    farm.until(lambda: farm.failed)
    assert farm.failed == [OPTIONS]


def test_a_successor_learns_who_leads_where(farm):
    for child in (0, 1):
        farm.accept(child)
    connections = [connection for worker in farm.workers for connection in worker.hub.connections.values()]
    farm.workers[0].directory.drop_child(0)
    farm.workers[0].directory.drop_child(1)  # as empty as a fresh process
    farm.workers[0].directory.add("192.0.2.1", 1, connection_id(1, 0, 77))
    farm.workers[1]._on_hello(b"", farm.layout.first_stream)  # the successor of child 0 says hello to child 1
    mine = [one for one in connections if one in farm.workers[1].hub.connections.values()]
    at_home = [one for one in mine if home_of(one.host, one.port, 2) == 0]
    farm.until(lambda: all(farm.workers[0].directory.find(one.host, one.port) == one.id for one in at_home))
    assert all(len(worker.directory) <= 3 for worker in farm.workers)
    assert not any(
        farm.workers[1].directory.find(one.host, one.port) for one in farm.workers[0].hub.connections.values()
    )  # gone with the process that held them


def test_a_successor_learns_of_more_connections_than_its_socket_holds(farm):
    successor = farm.layout.first_stream
    for end in (farm.channels[1]._in[successor], farm.channels[1]._out[successor]):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, 1)  # the least the system allows: a few datagrams
    wanted = {}
    for number in range(30):
        _, connection = farm.accept(1)
        for port in (connection.port, *range(1 + 8 * number, 9 + 8 * number)):
            farm.workers[1]._adopt(connection, port)
            if home_of(connection.host, port, 2) == 0:
                wanted[connection.host, port] = connection.id
    known = farm.workers[0].directory
    farm.until(lambda: len(known) == len(wanted))
    assert len(wanted) > 50
    known._connections.clear()  # a fresh process, which asks
    farm.workers[1]._on_hello(b"", successor)
    farm.until(lambda: len(known) >= len(wanted))
    assert known._connections == wanted


def test_a_connection_that_closes_while_its_home_is_busy_is_not_kept_there(farm):
    home = farm.layout.first_stream
    _, connection = farm.accept(1)
    while home_of(connection.host, connection.port, 2) != 0:
        _, connection = farm.accept(1)
    known = farm.workers[0].directory
    while farm.channels[2].send(home, WAKE, b"x" * 60_000):
        pass  # its socket is full
    connection.close("test")
    assert len(known) > 0
    farm.until(lambda: known.find(connection.host, connection.port) == 0)


def test_a_successor_waits_for_what_the_others_tell_before_it_connects(farm):
    peer, connection = farm.accept(1)
    home = farm.home(connection.host, connection.port)
    home.directory.drop_child(1)  # as empty as a fresh process
    home._learning_until = farm.loop.now() + 0.1
    farm.send(connection.host, connection.port)
    farm.workers[1]._announce(ALIAS_ADD, connection, connection.port)
    assert farm.read(peer) == OPTIONS
    assert farm.failed == []


def test_a_bug_closes_the_connection_it_happened_on(farm):
    _, connection = farm.accept(0)
    farm.workers[0].on_bug(connection, 500)
    assert connection.closed
    farm.workers[0].on_bug("something else", 500)


def test_the_sockets_of_the_other_tcp_receivers_are_closed_in_a_child():
    settings = Settings({"listen": ["tcp:127.0.0.1:45679"], "children": 1, "tcp_children": 2})
    listener = Listener(0, "tcp", "127.0.0.1", 45679)
    bound = bind_all([listener], 1, settings)
    try:
        server = Server(settings)
        server.segment = Segment(1 << 20)
        server.counters = Counters(server.segment, 6)
        worker = TcpWorker(server, Channels(6), bound, 4, 0)
        assert (worker.title, worker.receiver_sockets(), worker.stream_sockets()) == ("tcp receiver child=0", -1, 0)
    finally:
        bound.close()


def test_a_list_of_many_connections_fits_a_datagram(farm):
    farm.channels[0].on(STREAM_LISTED, lambda payload, slot: farm.messages.append((payload, slot)))
    hub = farm.workers[0].hub
    mine, peer = socket.socketpair()
    farm.peers.append(peer)
    with mine:
        for _ in range(400):  # of one pair: an ordinary user may have 1024 open files
            hub._add(mine.dup(), farm.listener, "192.0.2.1", 5060, connecting=False)
    farm.channels[0].send(farm.layout.first_stream, STREAM_LIST, (7).to_bytes(4, "big"))
    farm.until(lambda: farm.messages)
    payload, slot = farm.messages[0]
    assert (payload[:4], slot) == ((7).to_bytes(4, "big"), farm.layout.first_stream)
    rows = json.loads(payload[4:])
    assert 200 < len(rows) < 400
    assert (rows[0]["source"], rows[0]["state"], rows[0]["direction"]) == ("192.0.2.1:5060", "open", "in")


def test_pings_of_a_peer_that_does_not_read_are_not_answered(farm):
    peer, connection = farm.accept(0)
    connection.send(b"x" * 4_000_000, 0)
    before = connection.queued
    assert before > 0
    peer.sendall(b"\r\n\r\n" * 1000)
    peer.sendall(OPTIONS)
    farm.until(lambda: farm.messages)
    assert connection.queued <= before


def aliased(farm, connection, via, port=0, transport="TCP"):
    """What ``force_tcp_alias`` says for a request with *via* that came by *connection*."""
    server = Server(Settings({"children": RECEIVERS}))
    server.counters = Counters(Segment(1 << 20), 1)
    bound = type("NoSockets", (), {"children": RECEIVERS, "streams": 2})()
    worker = UdpWorker(server, farm.channels[0], bound, 0, 0)
    text = f"REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/{transport} {via};branch=z9hG4bK1\r\n\r\n"
    flow = Flow(farm.listener, connection.host, connection.port, connection.id)
    return worker._alias(Context(parse_message(text.encode()), flow, Clock(0.0, 0.0)), port)


@pytest.mark.parametrize(
    ("via", "port", "leads"),
    [
        pytest.param("127.0.0.1:5099", 0, 5099, id="port-in-via"),
        pytest.param("127.0.0.1", 0, 5060, id="default-port"),
        pytest.param("127.0.0.1:5099", 5098, 5098, id="port-of-the-script"),
    ],
)
def test_force_tcp_alias_makes_the_port_in_via_lead_back(farm, via, port, leads):
    peer, connection = farm.accept(1)
    assert aliased(farm, connection, via, port) == 1
    farm.until(lambda: farm.home("127.0.0.1", leads).directory.find("127.0.0.1", leads))
    farm.send("127.0.0.1", leads)
    assert farm.read(peer) == OPTIONS


def test_force_tcp_alias_of_what_did_not_come_by_a_connection_is_false(farm):
    _, connection = farm.accept(1)
    connection.close("test")
    assert aliased(farm, connection, f"127.0.0.1:{connection.port}") == 1  # nothing to do
    assert aliased(farm, connection, "") == -1  # no Via that can be read


@pytest.mark.parametrize(("params", "leads"), [(";alias", True), ("", False), (";aliasing=1", False)])
def test_alias_in_via_is_honoured_when_so_set(farm, params, leads):
    farm.workers[0]._accept_aliases = True
    peer, _ = farm.accept(0)
    peer.sendall(
        OPTIONS.replace(b"\r\n", f"\r\nVia: SIP/2.0/TCP h:5097;branch=x{params}\r\nCSeq: 1 OPTIONS\r\n".encode(), 1)
    )
    farm.until(lambda: farm.messages)
    farm.until(lambda: bool(farm.home("127.0.0.1", 5097).directory.find("127.0.0.1", 5097)) == leads)
