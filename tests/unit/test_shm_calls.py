"""The memory of calls: found again, forgotten in time, whole after a death or a restart, bounded; counted by key."""

import os

import pytest

from serpy.net.steering import owner
from serpy.shm import calls as layout
from serpy.shm.call_limits import WAYS, CallLimits
from serpy.shm.calls import CallTable, in_memory, open_file, stamp
from serpy.shm.fingerprints import NONE, PRIME, SHORT, Fingerprints, times

NOW = 1_700_000_000.0
AT = stamp(NOW)


def table(records=64, slabs=1, slab=0):
    made = in_memory(slabs, records, NOW)
    made.attach(slab, AT)
    return made


def put(calls, key, *, lives=100, named=False, text=b"call-1\0a\0b", state=layout.RINGING, now=AT):
    at = calls.make(key, now)
    if at >= 0:
        meta = state | layout.INVITE << 4 | (layout.NAMED if named else 0)
        calls.describe(at, key, now, now + lives, meta, 1, 2, 3, 4, 5, 1, 6, 7, 1, text)
        calls.done(at)
    return at


def test_a_call_is_found_until_it_expires():
    calls = table()
    at = put(calls, 7)
    assert calls.find(7, AT + 100) == at
    assert calls.find(8, AT) == -1
    assert calls.find(7, AT + 101) == -1
    assert calls.count == 0


def test_a_freed_record_is_used_again_and_is_empty():
    calls = table()
    at = put(calls, 7)
    calls.words[at + layout.LEG] = calls.words[at + layout.LIMITS] = calls.words[at + layout.LEG + layout.SIDE] = 99
    calls.remove(at)
    assert not any(calls.words[at : at + layout.WORDS])
    assert put(calls, 8, text=b"") == at
    assert list(calls.words[at : at + layout.TEXT]) == [
        2, 8, AT << layout.TIME_BITS, AT << layout.TIME_BITS | AT + 100, layout.RINGING | layout.INVITE << 4, 1, 0, 0,
        2, 3, 0, 4, 5, 1, 0, 0, 0, 6, 7, 1, *[0] * (layout.SIDE * 3),
    ]  # fmt: skip
    assert calls.read_text(at) == b""


def test_no_more_calls_than_there_are_records():
    calls = table(records=64)
    assert all(put(calls, key + 1) >= 0 for key in range(64))
    assert put(calls, 100) == -1
    assert calls.fill == 100


def test_making_calls_frees_the_ones_that_have_expired():
    calls = table(records=64)
    for key in range(60):
        put(calls, key + 1, lives=5)
    for key in range(30):
        assert put(calls, 1000 + key, now=AT + 10) >= 0
    assert calls.count == 30


@pytest.mark.parametrize(
    ("states", "gone"),
    [
        pytest.param([(layout.ANSWERED, True), (layout.RINGING, False)], 2, id="a-stranger's-ringing-call-first"),
        pytest.param([(layout.ANSWERED, True), (layout.ENDED, True)], 2, id="then-one-that-has-ended"),
        pytest.param([(layout.ENDED, True), (layout.RINGING, False)], 2, id="the-ringing-one-before-the-ended"),
        pytest.param([(layout.ANSWERED, True), (layout.ANSWERED, False)], 0, id="never-one-that-is-going-on"),
        pytest.param([(layout.RINGING, True), (layout.RINGING, True)], 0, id="nor-a-ringing-one-of-a-user"),
    ],
)
def test_room_is_made_at_the_cost_of(states, gone):
    calls = table()
    for key, (state, named) in enumerate(states):
        put(calls, key + 1, state=state, named=named)
    assert calls.make_room() == bool(gone)
    assert calls.find(gone, AT) == -1
    assert calls.count == len(states) - bool(gone)


def test_a_successor_finds_what_its_predecessor_has_kept_and_skips_what_is_torn(tmp_path):
    path = str(tmp_path / "calls")
    first = open_file(path, 1, 64, 5, owner, NOW)
    first.attach(0, AT)
    kept = put(first, 1)
    torn = put(first, 2)
    first.words[torn] += 1
    put(first, 3, lives=-1)
    unlinked = first.add_more(kept)
    second = open_file(path, 1, 64, 5, owner, NOW + 1)
    assert second.attach(0, AT) == 1
    assert second.find(1, AT) == kept
    assert second.more(kept) == unlinked
    assert second.find(2, AT) == second.find(3, AT) == -1
    assert {put(second, 20), put(second, 21)} == {torn, unlinked - layout.WORDS}
    assert second.since == int(NOW)


def test_a_call_goes_on_in_further_records_and_frees_all_of_them():
    calls = table(records=64)
    at = put(calls, 1)
    more = calls.add_more(at)
    most = calls.add_more(more)
    assert [calls.more(at), calls.more(more), calls.more(most)] == [more, most, -1]
    assert list(calls.all()) == [at]
    calls.remove(at)
    assert {put(calls, 2), put(calls, 3), put(calls, 4)} == {at, more, most}


@pytest.mark.parametrize("children", [1, 2, 5])
def test_other_numbers_of_receivers_find_their_calls_in_their_slabs(tmp_path, children):
    path = str(tmp_path / "calls")
    old = open_file(path, 3, 64, 5, owner, NOW)
    names = [b"call-%d@host" % number for number in range(40)]
    for slab in range(3):
        old.attach(slab, AT)
        for number, name in enumerate(names):
            if owner(name, 3) == slab:
                at = put(old, number + 1, text=name + b"\0caller\0callee")
                if number == 0:
                    old.words[old.add_more(at) + layout.LEG] = 77
    new = open_file(path, children, 64, 5, owner, NOW)
    assert new.since == int(NOW)
    for slab in range(children):
        new.attach(slab, AT)
        for number, name in enumerate(names):
            assert (new.find(number + 1, AT) >= 0) == (owner(name, children) == slab)
            if number == 0 and owner(name, children) == slab:
                assert new.words[new.more(new.find(1, AT)) + layout.LEG] == 77


def test_the_memory_of_another_secret_is_thrown_away(tmp_path):
    path = str(tmp_path / "calls")
    first = open_file(path, 1, 64, 5, owner, NOW)
    first.attach(0, AT)
    put(first, 1)
    second = open_file(path, 1, 64, 6, owner, NOW + 9)
    assert second.attach(0, AT) == 0
    assert second.since == int(NOW) + 9


def test_garbage_in_the_file_is_no_memory_and_nobody_else_may_read_it(tmp_path):
    path = tmp_path / "calls"
    path.write_bytes(os.urandom(100_000))
    made = open_file(str(path), 2, 64, 5, owner, NOW)
    assert made.attach(1, AT) == 0
    other = tmp_path / "fresh"
    open_file(str(other), 2, 64, 5, owner, NOW)
    assert other.stat().st_mode & 0o777 == 0o600


def test_every_receiver_writes_its_own_slab_and_anybody_reads_all():
    calls = in_memory(2, 64, NOW)
    calls.attach(0, AT)
    mine = put(calls, 1)
    other = CallTable(calls._bytes.obj, 2, 64)  # what another process has mapped
    other.attach(1, AT)
    put(other, 2)
    assert len(list(calls.all())) == 2
    assert calls.find(2, AT) == -1
    assert calls.is_own(mine)
    assert not other.is_own(mine)


# how many calls count for a key


def test_calls_of_all_receivers_count_for_a_key():
    limits = CallLimits(2, 64)
    limits.attach(0)
    assert limits.add(5)
    limits.attach(1)
    assert limits.add(5)
    assert limits.add(6)
    assert [limits.count(key) for key in (5, 6, 7)] == [2, 1, 0]
    limits.take(5)
    limits.take(7)
    assert limits.count(5) == 1
    limits.attach(1)
    assert [limits.count(5), limits.count(6)] == [1, 0]


def test_a_key_that_finds_no_room_is_not_counted_and_a_free_entry_is_used_again():
    limits = CallLimits(1, 1)  # 16 sets
    limits.attach(0)
    keys = [key for key in range(1, 1000) if limits._set_of(key) == limits._set_of(1)][: WAYS + 1]
    assert [limits.add(key) for key in keys] == [True] * WAYS + [False]
    limits.take(keys[0])
    assert limits.add(keys[-1])
    assert [limits.count(keys[0]), limits.count(keys[-1])] == [0, 1]


# fingerprints

PRINTS = Fingerprints(b"secret")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sip:bob@192.0.2.1", "sip:bob@192.0.2.1:5060;ob;transport=tcp", True),
        ("sip:bob@192.0.2.1", "sip:bob@192.0.2.1:5062", False),
        ("sip:b%6Fb@192.0.2.1", "sip:bob@192.0.2.1", True),
        ("sip:Bob@192.0.2.1", "sip:bob@192.0.2.1", False),
        ("sip:bob@EXAMPLE.com.", "sip:bob@example.com", True),
        ("sip:bob@[2001:DB8::1]", "sip:bob@[2001:db8:0::1]", True),
        ("sip:192.0.2.1", "sip:bob@192.0.2.1", False),
        ("sip:bob@192.0.2.1", "sip:bob@192.0.2.1;maddr=198.51.100.1", False),
        ("sips:bob@192.0.2.1", "sip:bob@192.0.2.1:5061", True),
        ("tel:+491234", "tel:+491234", True),
        ("tel:+491234", "sip:+491234@192.0.2.1", False),
        ("sip:bob@192.0.2.1;user=phone", "sip:bob@192.0.2.1", True),
    ],
)
def test_targets_are_compared_by_where_they_lead(one, other, same):
    assert (PRINTS.target(one) == PRINTS.target(other)) is same


def test_neighbours_at_neighbouring_ports_are_told_apart():
    hosts = [f"192.0.2.{last}" for last in range(1, 10)] + ["a.example", "b.example"]
    ports = range(5060, 5080)
    assert len({PRINTS.endpoint(host, port) for host in hosts for port in ports}) == len(hosts) * len(ports)
    targets = {PRINTS.target(f"sip:{user}@{host}:{port}") for user in "ab" for host in hosts for port in ports}
    assert len(targets) == 2 * len(hosts) * len(ports)


def test_what_cannot_be_parsed_is_no_target():
    assert PRINTS.target("sip:") == NONE
    assert PRINTS.target("") == NONE


def test_numbers_depend_on_the_secret_and_fit_their_words():
    assert PRINTS.of("x" * 200) != Fingerprints(b"other").of("x" * 200)
    assert PRINTS.of("tag") == Fingerprints(b"secret").of("tag")
    assert 0 < PRINTS.of("") < 1 << 61
    assert 0 < PRINTS.endpoint("192.0.2.1", 5060) <= SHORT
    assert PRINTS.endpoint("192.0.2.1", 5060) != PRINTS.endpoint("192.0.2.1", 5062)
    assert PRINTS.host("A.example") == PRINTS.host("a.example.")


def test_short_numbers_tell_texts_apart_that_differ_anywhere():
    texts = [f"198.51.{one}.{two}" for one in range(40) for two in range(50)]
    assert len({PRINTS.endpoint(text, 5060) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "number", [0, 1, PRIME - 1, PRIME, PRIME + 4, (1 << 61) + (1 << 57) - 1, 0x0123_4567_89AB_CDEF]
)
@pytest.mark.parametrize("point", [1, (1 << 60) - 1, 0x0FED_CBA9_8765_4321])
def test_numbers_are_multiplied_as_big_ones_are(number, point):
    found = times(number, point >> 31, point & (1 << 31) - 1)
    assert found % PRIME == number * point % PRIME
    assert 0 <= found <= PRIME + 4


def test_texts_that_differ_anywhere_have_other_numbers():
    texts = ["\0" * size for size in range(40)] + ["x" * place + "y" + "x" * (39 - place) for place in range(40)]
    assert len({PRINTS.of(text) for text in texts}) == len(texts)
    assert PRINTS.of("\udcff") != PRINTS.of("?") != NONE


@pytest.mark.parametrize(
    ("line", "uri"),
    [
        ("Contact: <sip:bob@192.0.2.1:5070>", "sip:bob@192.0.2.1:5070"),
        ("m: sip:bob@192.0.2.1:5070", "sip:bob@192.0.2.1:5070"),
        ('Contact: "a <sip:eve@192.0.2.2>, b" <sip:bob@192.0.2.1>;q=1', "sip:bob@192.0.2.1"),
        ("Contact: Bob <sip:bob@192.0.2.1>;expires=60, <sip:carol@192.0.2.3>", "sip:bob@192.0.2.1"),
        ("Contact: sip:bob@192.0.2.1, <sip:carol@192.0.2.3>", "sip:bob@192.0.2.1"),
        ("Contact:\r\n <sip:bob@192.0.2.1>", "sip:bob@192.0.2.1"),
    ],
)
def test_of_a_contact_the_first_uri_counts(line, uri):
    for _ in range(2):
        assert PRINTS.contact(line).target == PRINTS.target(uri)
        assert PRINTS.contact(line).host == PRINTS.host("192.0.2.1")


@pytest.mark.parametrize("line", ["Contact: *", "Contact:", "Contact: <sip:>", "Contact: <bob"])
def test_a_contact_that_cannot_be_read_leads_nowhere(line):
    assert PRINTS.contact(line).target == PRINTS.contact(line).host == NONE
