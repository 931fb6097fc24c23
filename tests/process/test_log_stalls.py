"""A whole server whose log nobody takes: it answers, and none of its processes is replaced."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest
from process.test_master_life import Server, options
from support.patience import wait_for

# A long line for each request.
CHATTY = (
    'debug = 3\nheartbeat_timeout = 2\nchildren = 2\nloadmodule "sl"\nroute { log(0, "%s"); sl_reply("200", "OK"); }\n'
)
TEXT = "a line of a script that has much to say " * 20
ENOUGH = 1500  # requests: their lines are more than a pipe or a socket holds


@pytest.fixture
def phone():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        yield sock


def ask(phone, port, count):
    """Send *count* OPTIONS, each after the answer to the one before; an answer that does not come fails the test."""
    for number in range(count):
        phone.sendto(options(f"log-{number}", port), ("127.0.0.1", port))
        assert phone.recv(4000).startswith(b"SIP/2.0 200")


class Stalled(Server):
    """Started with a standard error or a syslog socket of the test's."""

    def __init__(self, folder, more=""):
        super().__init__(folder, more + CHATTY % TEXT)

    def start_with(self, stderr, *extra, seconds=20):
        self.process = subprocess.Popen(self.command("-D", "-D", *extra), stdout=subprocess.DEVNULL, stderr=stderr)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.2)
            wait_for(lambda: self.answers(probe), timeout=seconds)
        return self

    def answers(self, probe):
        assert self.process.poll() is None
        try:
            probe.sendto(options("probe", self.port), ("127.0.0.1", self.port))
            return probe.recv(4000)
        except OSError:
            return None


def whole(server):
    return len(server.children()) == 5 and server.children()


def test_a_pipe_that_nobody_reads(tmp_path, phone):
    reader, writer = os.pipe()
    server = Stalled(tmp_path)
    try:
        server.start_with(writer, "-E")
        os.close(writer)
        before = wait_for(lambda: whole(server))
        ask(phone, server.port, ENOUGH)
        assert server.children() == before
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    finally:
        server.end()
        os.close(reader)


def test_a_full_disk(tmp_path, phone):
    server = Stalled(tmp_path)
    try:
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 - a device
            server.start_with(full, "-E")
        before = wait_for(lambda: whole(server))
        ask(phone, server.port, 100)
        assert server.children() == before
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    finally:
        server.end()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["datagram", "stream"])
def test_a_syslog_that_does_not_read(tmp_path, phone, kind):
    path = tmp_path / "syslog"
    with socket.socket(socket.AF_UNIX, kind) as daemon:
        daemon.bind(str(path))
        if kind == socket.SOCK_STREAM:
            daemon.listen()
        server = Stalled(tmp_path, f'log_socket = "{path}"\n')
        try:
            server.start_with(subprocess.DEVNULL)
            before = wait_for(lambda: whole(server))
            ask(phone, server.port, ENOUGH)
            assert server.children() == before
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0
        finally:
            server.end()
