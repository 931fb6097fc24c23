"""The reader of datagrams: it knows the peers it has heard of, and notices when more comes than is worked off."""

from __future__ import annotations

import socket
import struct

import pytest

from serpy.net import datagrams
from serpy.net.loop import Loop
from serpy.net.udp import BATCH, BEHIND, PEERS, UdpReader
from serpy.sip.flow import SEEN, Listener

IP_PKTINFO = 8  # linux/in.h


@pytest.fixture
def sockets():
    ours, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    ours.bind(("127.0.0.1", 0))
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def reader(sock):
    told = []
    host, port = sock.getsockname()
    made = UdpReader(Loop(), sock, Listener(0, "udp", host, port), lambda _data, _flow: None, lambda: told.append(1))
    return made, told


def fill(sockets, count):
    ours, theirs = sockets
    for _ in range(count):
        theirs.sendto(b"x", ours.getsockname())


def test_full_batches_one_after_the_other_mean_that_we_are_behind(sockets):
    made, told = reader(sockets[0])
    for number in range(BEHIND):
        assert not told, number
        fill(sockets, BATCH)
        made.read()
    assert len(told) == 1


def test_a_burst_that_is_worked_off_does_not(sockets):
    made, told = reader(sockets[0])
    for _ in range(BEHIND):
        fill(sockets, BATCH + 1)
        made.read()
        made.read()
    assert not told


@pytest.fixture(params=list(dict.fromkeys((datagrams.receive, datagrams.receive_plain))))
def receiving(request, monkeypatch, sockets):
    """(reader, what it has received, the loop): with each implementation."""
    monkeypatch.setattr(datagrams, "receive", request.param)
    received = []
    loop = Loop()
    ours = sockets[0]
    listener = Listener(0, "udp", *ours.getsockname())
    return UdpReader(loop, ours, listener, lambda data, flow: received.append((data, flow, loop.current))), received


def send_from(sockets, *sources):
    """A datagram from each of the loopback addresses with these numbers."""
    ours, theirs = sockets
    for number in sources:
        source = struct.pack("!I", 0x7F000001 + number)
        told = (socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, source, bytes(4)))
        theirs.sendmsg([b"%d" % number], [told], 0, ours.getsockname())


def test_a_flow_says_where_a_datagram_came_from(sockets, receiving):
    reader, received = receiving
    send_from(sockets, 0, 5, 300)
    reader.read()
    port = sockets[1].getsockname()[1]
    assert [(data, flow.host, flow.port) for data, flow, _ in received] == [
        (b"0", "127.0.0.1", port), (b"5", "127.0.0.6", port), (b"300", "127.0.1.45", port),
    ]  # fmt: skip
    assert all(flow.options == SEEN and flow.connection == 0 and flow.transport == "udp" for _, flow, _ in received)
    assert [current for _, _, current in received] == [(data, flow) for data, flow, _ in received], (
        "for the report of a bug"
    )


def test_a_peer_heard_of_again_has_the_flow_it_had(sockets, receiving):
    reader, received = receiving
    for source in (0, 1, 0, 1):
        send_from(sockets, source)
        reader.read()
    first, second, third, fourth = (flow for _, flow, _ in received)
    assert first is third
    assert second is fourth
    assert first is not second


def test_more_peers_than_are_remembered_are_forgotten(sockets, receiving):
    """A stranger with many addresses costs no memory, and whoever is forgotten is known again with the next datagram."""
    reader, received = receiving
    most = 0
    for start in range(0, PEERS + BATCH, BATCH):
        send_from(sockets, *range(start, start + BATCH))
        reader.read()
        most = max(most, len(reader._peers))
    assert len(received) == PEERS + BATCH
    assert most == PEERS
    assert len(reader._peers) == BATCH
    send_from(sockets, 0, 0)
    reader.read()
    again = [flow for _, flow, _ in received[-2:]]
    assert again[0].host == received[0][1].host
    assert again[0] is again[1]


def test_an_error_about_an_earlier_send_ends_the_batch(sockets, receiving):
    reader, received = receiving
    ours, theirs = sockets
    send_from(sockets, 0)
    to = theirs.getsockname()
    theirs.close()
    ours.connect(to)
    ours.send(b"nobody hears this")  # the kernel tells with the next read
    reader.read()
    assert received == []
    reader.read()
    assert [data for data, _, _ in received] == [b"0"]


def test_a_closed_socket_is_read_without_an_error(sockets, receiving):
    reader, received = receiving
    sockets[0].close()
    reader.read()
    assert received == []
