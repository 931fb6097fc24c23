"""Connections of one process: who waits for one, who is refused, and that none is lost or given away out of step."""

from __future__ import annotations

import time

import pytest

from serpy.db.interface import parse_url
from serpy.db.pool import Pool
from serpy.errors import BackendError, DatabaseDownError, ResourceError
from serpy.net.loop import Loop


class Link:
    closed = False


class FakePool(Pool):
    """Links that are only counted."""

    def __init__(self, loop, connections=1):
        super().__init__(parse_url("postgres://ser@localhost/ser"), timeout_s=2.0, connections=connections)
        self.loop = loop
        self.opened = []

    def open_link(self):
        self.opened.append(Link())
        return self.opened[-1]

    def close_link(self, link):
        link.closed = True

    def is_closed(self, link):
        return link.closed


class Slow:
    """A job that parks."""

    def __init__(self, loop, seconds=0.02):
        self.loop = loop
        self.seconds = seconds

    def run(self, link, _deadline):
        self.loop.sleep(self.seconds)
        return [(link,)]


def run(loop, *bodies):
    outcomes = [None] * len(bodies)
    left = [len(bodies)]

    def handler(at, body):
        try:
            outcomes[at] = body()
        except (BackendError, ResourceError) as exc:
            outcomes[at] = exc
        finally:
            left[0] -= 1
            if not left[0]:
                loop.stop()

    for at, body in enumerate(bodies):
        loop.spawn(lambda at=at, body=body: handler(at, body))
    loop.call_at(time.monotonic() + 10, loop.stop)
    loop.run()
    assert not left[0], "a handler did not end"
    return outcomes


def test_the_database_takes_no_more_places_than_its_own():
    loop = Loop()
    loop.waiters.set_limits(database=2)
    pool = FakePool(loop)
    outcomes = run(loop, *[lambda: pool.with_link(Slow(loop))] * 3, lambda: loop.sleep(0.001))
    assert [type(outcome) for outcome in outcomes] == [list, list, ResourceError, type(None)]
    assert loop.waiters.database.waiting == 0
    assert loop.waiters.database.refused == 1


def test_a_handler_that_may_not_park_does_not_take_the_turn_of_one_that_waits():
    loop = Loop()
    pool = FakePool(loop)
    first, refused, second = run(
        loop,
        lambda: pool.with_link(Slow(loop, 0.05)),
        lambda: _refused_once(loop, pool),
        lambda: pool.with_link(Slow(loop, 0.0)),
    )
    assert isinstance(refused, ResourceError)
    assert isinstance(first, list)
    assert isinstance(second, list)  # it got the connection when that was free


def _refused_once(loop, pool):
    loop.max_parked = 1
    try:
        return pool.with_link(Slow(loop))
    finally:
        loop.max_parked = 10


def test_a_connection_whose_answer_could_not_be_waited_for_is_not_given_to_the_next():
    loop = Loop()
    pool = FakePool(loop)

    def body():
        loop.max_parked = 0
        with pytest.raises(ResourceError):
            pool.with_link(Slow(loop))
        loop.max_parked = 10
        return pool.with_link(Slow(loop))

    rows = run(loop, body)[0]
    assert pool.opened[0].closed
    assert rows == [(pool.opened[1],)]


def test_a_dead_server_parks_one_handler_at_a_time():
    loop = Loop()
    pool = FakePool(loop)
    tried = []

    def refuse():
        tried.append(1)
        raise DatabaseDownError("refused")

    pool._blow("refused")
    pool.open_link = refuse
    outcomes = run(loop, *[lambda: pool.with_link(Slow(loop))] * 5)
    assert all(isinstance(outcome, DatabaseDownError) for outcome in outcomes)
    assert tried == []
