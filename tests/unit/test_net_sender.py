"""What the kernel says to a datagram: it has left, there was no room, it cannot get there."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from serpy.errors import TransportError
from serpy.net import datagrams
from serpy.net.guard import Guard
from serpy.net.sender import Sender
from serpy.sip.flow import Flow, Listener, Outgoing

LISTENER = Listener(0, "udp", "127.0.0.1", 5060)
OTHER = Listener(1, "udp", "127.0.0.2", 5060)
TO = Flow(LISTENER, "127.0.0.1", 5070)


def sender(*sockets):
    return Sender(sockets, Guard([LISTENER, OTHER], private_relay=True), None)


@pytest.mark.parametrize("send", dict.fromkeys((datagrams.send, datagrams.send_plain)))
def test_a_message_leaves_from_the_socket_of_its_listener(monkeypatch, send):
    monkeypatch.setattr(datagrams, "send", send)
    ours, others, theirs = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
    with ours, others, theirs:
        for sock in (ours, others, theirs):
            sock.bind(("127.0.0.1", 0))
        made = sender(others, ours)
        made.send(Outgoing(b"hello", Flow(OTHER, *theirs.getsockname())))
        assert theirs.recvfrom(100) == (b"hello", ours.getsockname())
        assert (made.sent, made.dropped) == (1, 0)


def test_a_listener_without_a_socket_sends_nothing():
    with pytest.raises(TransportError, match=r"no socket for udp:127\.0\.0\.1:5060"):
        sender(None, None).send(Outgoing(b"x", TO))


@pytest.mark.parametrize("status", [errno.ECONNREFUSED, errno.EMSGSIZE, errno.ENETUNREACH, errno.EPERM, errno.EINVAL])
def test_what_the_kernel_refuses_has_failed_and_says_why(monkeypatch, status):
    monkeypatch.setattr(datagrams, "send", lambda *_arguments: -status)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        made = sender(sock)
        with pytest.raises(TransportError) as told:
            made.send(Outgoing(b"x", TO))
    assert str(told.value) == f"cannot send to udp:127.0.0.1:5070: {os.strerror(status)}"
    assert (made.sent, made.dropped) == (0, 0)


def test_without_room_a_message_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(datagrams, "send", lambda *_arguments: -errno.EAGAIN)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        made = sender(sock)
        made.send(Outgoing(b"x", TO))
    assert (made.sent, made.dropped) == (0, 1)
