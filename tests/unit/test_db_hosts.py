"""Database hosts: the system's lookup may take its time, the loop goes on and nobody starts a second one."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from serpy.db import hosts
from serpy.db.pool import DeadlineError
from serpy.net.loop import Loop


class SlowSystem:
    """``getaddrinfo`` that waits to be released."""

    def __init__(self):
        self.asked = []
        self.go = threading.Event()
        self.answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.5", 0))]

    def getaddrinfo(self, host, _port, **_options):
        self.asked.append(host)
        self.go.wait(10)
        if self.answer is None:
            raise socket.gaierror(-2, "Name or service not known")
        return self.answer


@pytest.fixture
def system(monkeypatch):
    found = SlowSystem()
    monkeypatch.setattr(hosts.socket, "getaddrinfo", found.getaddrinfo)
    yield found
    found.go.set()


def run(*bodies):
    """What each of *bodies*, run with the loop as a handler of its own, returned or raised."""
    loop = Loop()
    outcomes = [None] * len(bodies)
    left = [len(bodies)]

    def handler(at, body):
        try:
            outcomes[at] = body(loop)
        except (OSError, DeadlineError) as exc:
            outcomes[at] = exc
        left[0] -= 1
        if not left[0]:
            loop.stop()

    for at, body in enumerate(bodies):
        loop.spawn(lambda at=at, body=body: handler(at, body))
    loop.call_at(time.monotonic() + 10, loop.stop)
    loop.run()
    assert not left[0], "a handler did not end"
    return outcomes


def look(loop):
    return hosts.addresses("db.example.com", loop, loop.now() + 5)


def test_the_loop_goes_on_and_the_host_is_looked_up_once_for_all(system):
    def other(loop):
        loop.sleep(0.01)  # nobody is held up
        system.go.set()
        return "went on"

    assert run(look, look, look, other) == [["192.0.2.5"]] * 3 + ["went on"]
    assert system.asked == ["db.example.com"]


def test_a_host_that_is_not_found_is_an_error_for_all(system):
    system.answer = None
    system.go.set()
    assert [type(outcome) for outcome in run(look, look)] == [OSError, OSError]


def test_a_lookup_ends_by_the_deadline_of_who_waits_and_the_next_one_joins_it(system):
    def impatient(loop):
        try:
            hosts.addresses("db.example.com", loop, loop.now() + 0.01)
        except DeadlineError:
            loop.call_at(loop.now() + 0.01, system.go.set)
            return look(loop)

    assert run(impatient) == [["192.0.2.5"]]
    assert system.asked == ["db.example.com"]


def test_an_address_is_not_looked_up(system):
    assert hosts.addresses("192.0.2.7", Loop(), 0.0) == ["192.0.2.7"]
    assert system.asked == []


def test_while_a_process_starts_the_lookup_blocks(system):
    system.go.set()
    assert hosts.addresses("db.example.com", None, 0.0) == ["192.0.2.5"]
