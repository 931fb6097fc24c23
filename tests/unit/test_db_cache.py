"""The cache of rows: when it asks, when it does not, and what it does without a database."""

from __future__ import annotations

import pytest

from serpy.db.cache import TtlCache
from serpy.errors import BackendError
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment


class Clock:
    """Real loop and counters (the compiled cache takes no others) whose time the test advances."""

    def __init__(self):
        self.loop = Loop()
        self.counters = Counters(Segment(1 << 20), 1)
        self.time = 1000.0

    @property
    def time(self):
        return self.loop._now

    @time.setter
    def time(self, value):
        self.loop._now = value

    @property
    def spawned(self):
        return self.loop._soon

    def bump(self):
        self.counters.bump("auth")


class Source:
    def __init__(self):
        self.rows = {"alice": ["row"]}
        self.asked = []
        self.down = False

    def load(self, key):
        self.asked.append(key)
        if self.down:
            raise BackendError("gone")
        return list(self.rows.get(key, ()))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def cache(clock, source):
    return TtlCache(clock.loop, clock.counters, "auth", source.load, ttl_s=60.0, negative_ttl_s=5.0, max_entries=3)


def test_second_get_does_not_ask(cache, source):
    assert cache.get("alice") == cache.get("alice") == ["row"]
    assert (source.asked, cache.hits, cache.misses) == (["alice"], 1, 1)


def test_empty_answer_is_kept_for_the_negative_time(source, clock):
    cache = TtlCache(clock.loop, clock.counters, "auth", source.load, ttl_s=0.0, negative_ttl_s=5.0)
    cache.get("bob")
    clock.time += 4.9
    cache.get("bob")
    clock.time += 0.2
    cache.get("bob")
    assert source.asked == ["bob", "bob"]


def test_expired_entry_is_served_while_it_is_fetched_anew(cache, source, clock):
    cache.get("alice")
    source.rows["alice"] = ["new"]
    clock.time += 61
    assert cache.get("alice") == ["row"]
    assert cache.get("alice") == ["row"]
    assert len(clock.spawned) == 1
    clock.spawned.pop()()
    assert cache.get("alice") == ["new"]
    assert source.asked == ["alice", "alice"]


def test_entry_nobody_wanted_for_long_is_fetched_first(cache, source, clock):
    cache.get("alice")
    source.rows["alice"] = ["new"]
    clock.time += 121
    assert cache.get("alice") == ["new"]


def test_old_value_is_served_while_the_database_is_down(cache, source, clock):
    cache.get("alice")
    source.down = True
    for _ in range(5):
        clock.time += 200
        assert cache.get("alice") == ["row"]
    source.down = False
    source.rows["alice"] = ["new"]
    clock.time += 200
    assert cache.get("alice") == ["new"]


def test_failed_background_fetch_is_tried_again_after_a_pause(cache, source, clock):
    cache.get("alice")
    source.down = True
    clock.time += 61
    cache.get("alice")
    clock.spawned.pop()()
    clock.time += 0.5
    assert cache.get("alice") == ["row"]
    assert not clock.spawned
    clock.time += 1
    assert cache.get("alice") == ["row"]
    assert len(clock.spawned) == 1


def test_unknown_key_raises_while_the_database_is_down(cache, source):
    source.down = True
    with pytest.raises(BackendError, match="gone"):
        cache.get("alice")


def test_moved_generation_drops_everything_before_the_next_message(cache, source, clock):
    cache.get("alice")
    source.rows["alice"] = ["new"]
    clock.bump()
    clock.time += 0.001
    assert cache.get("alice") == ["new"]


def test_moved_generation_leaves_no_old_value_for_a_dead_database(cache, source, clock):
    cache.get("alice")
    clock.bump()
    source.down = True
    clock.time += 0.001
    with pytest.raises(BackendError):
        cache.get("alice")


def test_value_read_while_the_generation_moved_is_not_kept(clock, source):
    def load(key):
        clock.bump()
        return source.load(key)

    cache = TtlCache(clock.loop, clock.counters, "auth", load)
    assert cache.get("alice") == ["row"]
    assert len(cache) == 0


def test_search_for_users_does_not_push_out_the_real_ones(cache, source):
    cache.get("alice")
    for number in range(50):
        cache.get(f"guess{number}")
    cache.get("alice")
    assert source.asked.count("alice") == 1
    assert len(cache) == 2


def test_full_cache_forgets_the_oldest(cache, source):
    source.rows |= {key: [key] for key in "abcd"}
    for key in ("a", "b", "c", "d"):
        cache.get(key)
    assert len(cache) == 3
    cache.get("b")
    cache.get("a")
    assert source.asked == ["a", "b", "c", "d", "a"]


@pytest.mark.parametrize("down", [False, True], ids=["answer", "error"])
def test_handlers_that_miss_the_same_key_ask_once(down, clock):
    loop = clock.loop
    asked, results = [], []

    def load(key):
        asked.append(key)
        loop.sleep(0.01)
        if down:
            raise BackendError("gone")
        return ["row"]

    cache = TtlCache(loop, clock.counters, "auth", load)

    def handler():
        try:
            results.append(cache.get("alice"))
        except BackendError as exc:
            results.append(str(exc))
        if len(results) == 5:
            loop.stop()

    for _ in range(5):
        loop.spawn(handler)
    loop.run()
    assert asked == ["alice"]
    assert results == [["row"] if not down else "gone"] * 5
