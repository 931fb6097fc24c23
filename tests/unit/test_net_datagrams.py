"""Datagrams in and out: the C extension, where it was compiled, and its Python twin answer the same."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys

import pytest

from serpy.net import datagrams
from serpy.net.datagrams import LARGEST, peer_plain, receive_plain, send_plain
from serpy.sip.flow import SEEN, Flow, Listener

IPV4, IPV6 = "127.0.0.1", "::1"
LONGEST = {IPV4: 65507, IPV6: 65527}  # bytes that UDP can carry
KEY_SIZE = {IPV4: 6, IPV6: 18}
CLOSED = 1 << 20  # no process has so many


class Calls:
    """One implementation."""

    def __init__(self, receive, send, peer):
        self.receive = receive
        self.send = send
        self.peer = peer


PLAIN = Calls(receive_plain, send_plain, peer_plain)
BOTH = [pytest.param(PLAIN, id="plain")]
if datagrams.receive is not receive_plain:
    BOTH.append(pytest.param(Calls(datagrams.receive, datagrams.send, datagrams.peer), id="native"))


@pytest.fixture(params=BOTH)
def calls(request):
    return request.param


@pytest.fixture(params=[IPV4, IPV6])
def host(request):
    if request.param == IPV6:
        with contextlib.closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as probe:
            try:
                probe.bind((IPV6, 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
    return request.param


def bound(host):
    """A socket as the listeners have."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


@pytest.fixture
def ours(host):
    with bound(host) as sock:
        yield sock


@pytest.fixture
def theirs(host):
    with bound(host) as sock:
        yield sock


def port_of(sock):
    return sock.getsockname()[1]


def flow(host, port):
    return Flow(Listener(0, "udp", host, 5060), host, port, 0, SEEN)


# -- in ---------------------------------------------------------------------------------------------------------------


def test_what_comes_is_told_with_the_key_of_the_peer(calls, host, ours, theirs):
    theirs.sendto(b"hello", ours.getsockname())
    data, key = calls.receive(ours.fileno(), {})
    assert data == b"hello"
    assert type(key) is bytes
    assert len(key) == KEY_SIZE[host]
    assert calls.peer(key) == (host, port_of(theirs))


def test_a_known_peer_has_the_flow_it_had(calls, host, ours, theirs):
    theirs.sendto(b"1", ours.getsockname())
    theirs.sendto(b"2", ours.getsockname())
    peers = {}
    key = calls.receive(ours.fileno(), peers)[1]
    known = peers[key] = flow(host, port_of(theirs))
    taken = calls.receive(ours.fileno(), peers)
    assert taken == (b"2", known)
    assert taken[1] is known
    assert list(peers) == [key], "whoever reads remembers, and forgets"


def test_another_port_is_another_peer(calls, host, ours, theirs):
    with bound(host) as other:
        theirs.sendto(b"1", ours.getsockname())
        key = calls.receive(ours.fileno(), {})[1]
        other.sendto(b"2", ours.getsockname())
        assert calls.peer(calls.receive(ours.fileno(), {key: flow(host, 1)})[1]) == (host, port_of(other))


def test_the_order_is_that_of_arrival(calls, ours, theirs):
    for number in range(5):
        theirs.sendto(b"%d" % number, ours.getsockname())
    assert [calls.receive(ours.fileno(), {})[0] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_the_longest_datagram_comes_whole(calls, host, ours, theirs):
    data = os.urandom(LONGEST[host])
    theirs.sendto(data, ours.getsockname())
    theirs.sendto(b"short", ours.getsockname())
    assert calls.receive(ours.fileno(), {})[0] == data
    assert calls.receive(ours.fileno(), {})[0] == b"short", "nothing is left of the one before"


def test_an_empty_datagram_is_one(calls, ours, theirs):
    theirs.sendto(b"", ours.getsockname())
    theirs.sendto(b"next", ours.getsockname())
    assert calls.receive(ours.fileno(), {})[0] == b""
    assert calls.receive(ours.fileno(), {})[0] == b"next"


@pytest.mark.parametrize("blocking", [False, True])
def test_nobody_waits_for_a_datagram(calls, ours, blocking):
    ours.setblocking(blocking)
    assert calls.receive(ours.fileno(), {}) == -errno.EAGAIN


@pytest.mark.parametrize("fd", [-1, CLOSED, 1 << 40, -(1 << 80)])
def test_a_number_that_is_no_open_file_is_told(calls, fd):
    assert calls.receive(fd, {}) == -errno.EBADF
    assert calls.send(fd, b"x", IPV4, 5060) == -errno.EBADF


def test_a_socket_that_is_closed_is_told(calls, ours):
    fd = ours.fileno()
    ours.close()
    assert calls.receive(fd, {}) == -errno.EBADF
    assert calls.send(fd, b"x", IPV4, 5060) == -errno.EBADF


def test_a_file_is_no_socket(calls, tmp_path):
    with (tmp_path / "file").open("w") as file:
        assert calls.receive(file.fileno(), {}) == -errno.ENOTSOCK
        assert calls.send(file.fileno(), b"x", IPV4, 5060) == -errno.ENOTSOCK


def test_a_sender_without_an_internet_address_is_nobody(calls):
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        there.send(b"x")
        assert calls.receive(here.fileno(), {}) == -errno.EAFNOSUPPORT


def test_the_socket_stays_open(calls, host, ours, theirs):
    calls.receive(ours.fileno(), {})
    calls.send(ours.fileno(), b"1", host, port_of(theirs))
    assert port_of(ours)
    assert theirs.recv(10) == b"1"


@pytest.mark.parametrize(("key", "peer"), [
    (b"\0\0\0\0\0\0", ("0.0.0.0", 0)),
    (b"\x01\x0a\x63\x64\x13\xc4", ("1.10.99.100", 5060)),
    (b"\xff\xff\xff\xff\xff\xff", ("255.255.255.255", 65535)),
    (bytes(18), ("::", 0)),
    (bytes(10) + b"\xff\xff\xc0\0\x02\x01\0\x01", ("::ffff:192.0.2.1", 1)),
    (b"\xff" * 18, ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535)),
])  # fmt: skip
def test_a_key_stands_for_an_address_and_a_port(calls, key, peer):
    assert calls.peer(key) == peer


@pytest.mark.parametrize("size", [0, 1, 2, 4, 5, 7, 16, 17, 19, 100])
def test_what_is_no_key_is_a_value_error(calls, size):
    with pytest.raises(ValueError, match=r"."):
        calls.peer(bytes(size))


# -- out --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1300, 65507])
def test_what_is_sent_arrives(calls, host, ours, theirs, size):
    data = os.urandom(size)
    assert calls.send(ours.fileno(), data, host, port_of(theirs)) == 0
    got, source = theirs.recvfrom(LARGEST)
    assert got == data
    assert source[:2] == ours.getsockname()[:2]


def test_too_long_a_datagram_is_told(calls, host, ours, theirs):
    assert calls.send(ours.fileno(), bytes(LONGEST[host] + 1), host, port_of(theirs)) == -errno.EMSGSIZE


def test_a_peer_that_refuses_is_told(calls, host, ours, theirs):
    to = port_of(theirs)
    theirs.close()
    ours.connect((host, to))  # only then the kernel tells
    assert calls.send(ours.fileno(), b"x", host, to) == 0
    assert calls.send(ours.fileno(), b"x", host, to) == -errno.ECONNREFUSED
    calls.send(ours.fileno(), b"x", host, to)
    assert calls.receive(ours.fileno(), {}) == -errno.ECONNREFUSED
    assert calls.receive(ours.fileno(), {}) == -errno.EAGAIN


# Run in a network of its own: a wire at whose other end nobody answers ARP, so that what is sent for it stays in the buffer.
WIRE = """
import socket, subprocess
from serpy.net import datagrams
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
sends = (datagrams.send_plain, datagrams.send)
print(*[send(sock.fileno(), bytes(1000), "192.0.2.2", 5060) for send in sends])
for words in ("link add here type veth peer name there", "addr add 192.0.2.1/24 dev here", "link set here up", "link set there up"):
    subprocess.run(["ip", *words.split()], check=True)
for send in sends:
    print(next(status for _ in range(1000) if (status := send(sock.fileno(), bytes(1000), "192.0.2.2", 5060))))
"""


def test_an_unreachable_network_and_a_full_buffer_are_told():
    command = ["unshare", "--map-root-user", "--net"]
    if (
        not shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        or subprocess.run([*command, "true"], check=False).returncode
    ):
        pytest.skip("no networks of our own here")
    done = subprocess.run([*command, sys.executable, "-c", WIRE], capture_output=True, text=True, check=True,
        env=dict(os.environ, PATH=f"{os.environ['PATH']}:/usr/sbin:/sbin", PYTHONPATH=os.pathsep.join(sys.path)))  # fmt: skip
    assert done.stdout.split() == [str(-errno.ENETUNREACH)] * 2 + [str(-errno.EAGAIN)] * 2


@pytest.mark.parametrize(("to", "error"), [
    ("255.255.255.255", errno.EACCES),  # broadcast, which nobody has allowed
    ("::ffff:192.0.2.1", errno.EAFNOSUPPORT),
    ("::1", errno.EAFNOSUPPORT),
])  # fmt: skip
def test_a_destination_that_the_kernel_refuses_is_told(calls, to, error):
    with bound(IPV4) as sock:
        assert calls.send(sock.fileno(), b"x", to, 5060) == -error


NO_ADDRESS = [
    "", "localhost", "example.com", "127.1", "127.0.0.01", "0x7f.0.0.1", "2130706433", "127.0.0.1 ", "127.0.0.1\0",
    "127.0.0.1\0.example.com", "[::1]", "::1%lo", "fe80::1%1", "::g", ":", "1::2::3", "1" * 100, ":" * 100, "münchen",
    "127.0.0.\u0661", "\udcff", "<broadcast>",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_is_no_address_is_refused_and_not_looked_up(calls, text):
    with bound(IPV4) as sock:
        assert calls.send(sock.fileno(), b"x", text, 5060) == -errno.EINVAL


@pytest.mark.parametrize("port", [-1, 65536, 1 << 31, 1 << 40, -(1 << 80)])
def test_what_is_no_port_is_refused(calls, host, ours, port):
    assert calls.send(ours.fileno(), b"x", host, port) == -errno.EINVAL


# -- the C source -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(datagrams.receive is receive_plain, reason="not compiled")
@pytest.mark.parametrize("arguments", [(), (1,), (1, []), ("1", {}), (1, {}, 2), (None, {})])
def test_what_receive_does_not_take_is_a_type_error(arguments):
    with pytest.raises(TypeError):
        datagrams.receive(*arguments)


@pytest.mark.skipif(datagrams.receive is receive_plain, reason="not compiled")
@pytest.mark.parametrize(
    "arguments", [(), (1, b"", IPV4), (1, "", IPV4, 1), (1, b"", b"::1", 1), (1, b"", IPV4, "1"), ("1", b"", IPV4, 1)]
)
def test_what_send_does_not_take_is_a_type_error(arguments):
    with pytest.raises(TypeError):
        datagrams.send(*arguments)
