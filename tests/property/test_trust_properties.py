"""The tables of trust agree with a plain model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serpy.shm.keys import FULL, Keys
from serpy.shm.known import Known
from serpy.shm.strangers import BANNED, FREE, QUIET, WORD, Strangers
from serpy.trust.places import Names, Place, names_in

START = st.sampled_from([0, 1000, WORD - 50, WORD])


@given(START, st.lists(st.integers(0, 400), max_size=80), st.integers(1, 64), st.integers(1, 20))
def test_a_level_is_the_events_that_have_not_leaked_away(start, pauses, interval, count):
    table = Strangers(memoryview(bytearray(Strangers.size(8))), 8, 1)
    now = start
    at = table.place(5, "x", now & WORD)
    debt = 0  # the model: ticks until all has leaked away
    for pause in pauses:
        now += pause
        debt = max(0, debt - pause)
        is_over = table.add(at, 0, interval, count, now & WORD)
        debt += interval
        assert is_over == (debt > count * interval)
        debt = min(debt, (count + 1) * interval)
        assert table.debt(at, 0, now & WORD) == debt


@given(START, st.lists(st.integers(0, 100), max_size=80), st.integers(1, 64), st.integers(1, 20))
def test_never_more_are_taken_in_a_time_than_the_rate_and_the_burst_allow(start, pauses, interval, count):
    table = Strangers(memoryview(bytearray(Strangers.size(8))), 8, 1)
    now, taken = start, 0
    at = table.place(5, "x", now & WORD)
    for pause in pauses:
        now += pause
        taken += table.take(at, 3, interval, count, now & WORD)
    assert taken <= count + (now - start) // interval


EVENTS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(["see", "ban", "quiet", "lift"]), st.integers(1, 500)), max_size=120
)


@settings(deadline=None)
@given(START, EVENTS)
def test_who_is_banned_stays_so_for_its_time_unless_its_set_is_full_of_bans(start, events):
    table = Strangers(memoryview(bytearray(Strangers.size(64))), 64, 3)
    now = start
    until = {}
    for key, what, number in events:
        now += 1
        at = table.place(key, str(key), now & WORD)
        assert table.key(at) == key
        assert table.text(at) == str(key)
        if what == "ban":
            table.set_hold(at, BANNED, 0, number, now & WORD)
            until[key] = now + number
        elif what == "quiet" and table.hold(at, now & WORD) == FREE:
            table.set_hold(at, QUIET, 0, number, now & WORD)
        elif what == "lift":
            table.lift(at, now & WORD)
            until.pop(key, None)
        live = {each: end for each, end in until.items() if end > now}
        by_set = {}
        for each in live:
            by_set.setdefault(table.first_of(each), []).append(each)
        for bans in by_set.values():
            if len(bans) > 4:
                for each in bans:
                    until.pop(each, None)  # some of them have made room
            else:
                assert all(table.hold(table.find(each), now & WORD) == BANNED for each in bans)


@given(START, st.lists(st.tuples(st.integers(1, 6), st.integers(0, 50), st.integers(1, 300)), max_size=60))
def test_who_is_known_is_known_until_the_latest_instant(start, notes):
    table = Known(memoryview(bytearray(Known.size(64))), 64, 9)
    now = start
    until = {}
    for key, pause, ticks in notes:
        now += pause
        news = table.note(key, ticks, now & WORD)
        assert news == (until.get(key, now) <= now)
        until[key] = max(until.get(key, 0), now + ticks)
        for each, end in until.items():
            assert (table.find(each, now & WORD) >= 0) == (end > now)
    assert table.used(now & WORD) == sum(end > now for end in until.values())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=200))
def test_a_key_is_found_where_it_was_put_until_it_is_let_go(steps):
    keys = Keys(memoryview(bytearray(32 * 8)), 32, 11)
    model = {}
    for key, is_wanted in steps:
        at = keys.look(key)
        assert (at if at >= 0 else None) == model.get(key)
        if is_wanted and at < 0 and at != FULL:
            assert -1 - at not in model.values()
            keys.put(-1 - at, key)
            model[key] = -1 - at
        elif is_wanted and at == FULL:
            first = keys.first_of(key)
            assert set(range(first, first + 8)) <= set(model.values())
        elif at >= 0:
            keys.free(at)
            del model[key]
    assert {keys.key(at): at for at in range(32) if keys.key(at)} == model


@given(st.ip_addresses(v=6), st.integers(0, 63))
def test_no_bit_of_a_host_is_without_meaning_for_its_flow(address, bit):
    names = Names(5)
    other = type(address)(int(address) ^ 1 << bit)
    assert names.flow(Place(str(address)), 5060, "udp") != names.flow(Place(str(other)), 5060, "udp")


@given(st.binary(max_size=6000))
def test_no_bytes_trouble_the_early_look(data):
    assert all(isinstance(name, str) for name in names_in(data))


@given(st.ip_addresses())
def test_every_address_has_a_place_and_no_two_networks_share_a_number(address):
    place = Place(str(address))
    assert 0 < place.net < 1 << 62
    assert place.net != place.wide
    assert place.net_text()
