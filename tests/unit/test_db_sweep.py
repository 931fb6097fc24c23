"""Reading a small table ahead: what is in the cache afterwards, and when it is read again."""

from __future__ import annotations

import pytest

from serpy.db.cache import TtlCache
from serpy.db.sweep import PAGE, RETRY_S, Sweep
from serpy.errors import BackendError
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment


class Table:
    """Rows (user, value) sorted by user, a real loop and cache, and a clock that the test moves."""

    def __init__(self, rows, max_rows=100_000, nothing=None):
        self.rows = rows
        self.pages = 0
        self.fetched = []
        self.down = False
        self.at_page = None
        self.now = 1000.0
        self.loop = Loop(clock=lambda: self.now)
        self.counters = Counters(Segment(1 << 20), 1)
        self.cache = TtlCache(self.loop, self.counters, "users", self.load, ttl_s=60.0)
        self.sweep = Sweep(self.loop, self.cache, self.page, entry, width=1, ttl_s=60.0, max_rows=max_rows,
                           nothing=nothing)  # fmt: skip

    def load(self, key):
        self.fetched.append(key)
        return [value for user, value in self.rows if user == key]

    def page(self, after, limit):
        self.pages += 1
        if self.down:
            raise BackendError("gone")
        rows = [row for row in self.rows if not after or row[0] > after[0]][:limit]
        if self.at_page:
            self.at_page()
        return rows

    def run_for(self, seconds):
        end = self.now + seconds
        while True:
            self.loop._run_soon()
            due = [timer[0] for timer in self.loop._timers if timer[2].pending]
            if not due or min(due) > end:
                break
            self.now = self.loop._now = max(self.now, min(due))
            self.loop._run_timers(self.now)
        self.now = self.loop._now = end


def entry(rows):
    return rows[0][0], [value for _, value in rows]


def users(count, rows_of_each=1):
    return [(f"u{n:05}", f"row {n}/{i}") for n in range(count) for i in range(rows_of_each)]


@pytest.mark.parametrize(
    ("count", "rows_of_each"),
    [(1, 1), (PAGE - 1, 1), (PAGE, 1), (PAGE + 1, 1), (3 * PAGE, 1), (PAGE, 3)],
    ids=["one row", "less than a page", "a page", "more than a page", "pages", "several rows of a key"],
)
def test_every_row_is_served_without_a_fetch(count, rows_of_each):
    table = Table(users(count, rows_of_each))
    table.sweep.start()
    table.run_for(1.0)
    for n in range(count):
        assert table.cache.get(f"u{n:05}") == [f"row {n}/{i}" for i in range(rows_of_each)]
    assert table.fetched == []


def test_a_key_that_fills_a_page_is_fetched_and_does_not_stop_the_others():
    table = Table([("a", "1"), *[("b", str(n)) for n in range(2 * PAGE)], ("c", "3")])
    table.sweep.start()
    table.run_for(1.0)
    assert table.cache.get("c") == ["3"]
    assert len(table.cache.get("b")) == 2 * PAGE
    assert table.fetched == ["b"]


def test_rows_are_read_again_before_they_get_old():
    table = Table(users(3))
    table.sweep.start()
    table.run_for(1.0)
    table.rows[1] = ("u00001", "changed")
    table.run_for(36.0)
    assert table.cache.get("u00001") == ["changed"]
    assert table.fetched == []


def test_a_raised_generation_begins_a_new_round():
    table = Table(users(3))
    table.sweep.start()
    table.run_for(1.0)
    table.counters.bump("users")
    table.run_for(RETRY_S)
    assert table.sweep.rounds == 2
    table.cache.get("u00002")
    assert table.fetched == []


def test_a_page_read_before_a_change_is_not_kept():
    table = Table(users(3))
    table.at_page = lambda: table.counters.bump("users") if table.pages == 1 else None
    table.sweep.start()
    table.run_for(1.0)
    assert len(table.cache) == 0
    table.run_for(RETRY_S)
    assert len(table.cache) == 3


def test_a_large_table_is_left_alone():
    table = Table(users(3 * PAGE), max_rows=PAGE)
    table.sweep.start()
    table.run_for(200.0)
    assert table.pages == 2


def test_a_database_that_is_away_is_asked_again_later():
    table = Table(users(3))
    table.down = True
    table.sweep.start()
    table.run_for(1.0)
    table.down = False
    table.run_for(RETRY_S)
    assert len(table.cache) == 3


def test_zero_rows_turn_it_off():
    table = Table(users(3), max_rows=0)
    table.sweep.start()
    table.run_for(1.0)
    assert table.pages == 0


def test_a_table_that_is_here_whole_answers_for_keys_without_rows():
    table = Table(users(3), nothing=[])
    table.sweep.start()
    table.run_for(1.0)
    assert table.cache.get("stranger") == []
    assert table.fetched == []


@pytest.mark.parametrize("event", ["a change", "a key forgotten", "a database that went away"])
def test_a_table_that_may_have_changed_is_asked_again(event):
    table = Table(users(3), nothing=[])
    table.sweep.start()
    table.run_for(1.0)
    if event == "a change":
        table.counters.bump("users")
        table.run_for(0.1)
    elif event == "a key forgotten":
        table.cache.drop("stranger")
    else:
        table.down = True
        table.run_for(61.0)
    table.cache.get("stranger")
    assert table.fetched == ["stranger"]


def test_a_table_with_a_key_that_was_left_out_is_not_whole():
    rows = [("a", "1"), *(("b", str(n)) for n in range(2 * PAGE)), ("c", "3")]
    table = Table(rows, nothing=[])
    table.sweep.start()
    table.run_for(1.0)
    table.cache.get("stranger")
    assert table.fetched == ["stranger"]
