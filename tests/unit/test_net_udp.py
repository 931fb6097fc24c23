"""The reader of datagrams: it notices when more comes than is worked off."""

from __future__ import annotations

import socket

import pytest

from serpy.net.loop import Loop
from serpy.net.udp import BATCH, BEHIND, UdpReader
from serpy.sip.flow import Listener


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
