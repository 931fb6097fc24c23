"""The memory of calls: found again, forgotten in time, whole after a death or a restart, bounded; counted by key."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serpy.errors import ParseError
from serpy.modules.rr.sides import new_leg
from serpy.net.steering import owner
from serpy.shm import call_file as layout
from serpy.shm.call_file import CallFile, in_memory, open_file, stamp
from serpy.shm.call_limits import WAYS, CallLimits
from serpy.shm.calls import USED, CallTable, Side
from serpy.shm.fingerprints import NONE, PRIME, SHORT, Fingerprints, first_uri, times
from serpy.sip.uri import parse_uri

NOW = 1_700_000_000.0
AT = stamp(NOW)


def table(records=64, slabs=1, slab=0):
    made = CallTable(in_memory(slabs, records, NOW))
    made.attach(slab, AT)
    return made


def opened(path, slabs=1, mark=5, now=NOW):
    return CallTable(open_file(str(path), slabs, 64, mark, owner, now))


def put(calls, key, *, lives=100, named=False, text=b"call-1\0a\0b", state=layout.RINGING, now=AT):
    meta = state | layout.INVITE << 4 | (layout.NAMED if named else 0)
    caller, leg = Side(2, 3, 4, 5, 6, 7, USED), Side(0, 0, 8, 0, 9, 0, USED)
    return calls.make(key, now, now + lives, meta, 1, caller, leg, text)


def place(calls, key, **how):
    call = put(calls, key, **how)
    return -1 if call is None else call.at


def seen(call):
    """All that is known of a call."""
    return [
        (
            call.key,
            call.made,
            call.answered,
            call.last,
            call.expires,
            call.meta,
            call.serial,
            call.limit,
            call.other_limit,
        ),
        *[
            (side.tag, side.contact, side.before, side.hop, side.route, side.host, side.contact_host, side.info)
            for side in (call.caller, *call.legs)
        ],
    ]


def test_a_call_is_found_until_it_expires():
    calls = table()
    call = put(calls, 7)
    assert calls.find(7, AT + 100) is call
    assert calls.find(8, AT) is None
    assert calls.find(7, AT + 101) is None
    assert calls.count == 0


def test_a_freed_record_is_used_again_and_is_empty():
    calls = table()
    call = put(calls, 7)
    calls.add_leg(call, Side(99, 99, 99, 99, 99, 99, USED))
    call.limit = call.other_limit = 99
    calls.write_limits(call)
    calls.remove(call)
    words = calls.file.words
    assert not any(words[call.at : call.at + layout.WORDS])
    assert place(calls, 8, text=b"") == call.at
    assert list(words[call.at : call.at + layout.TEXT]) == [
        2, 8, AT << layout.TIME_BITS, AT << layout.TIME_BITS | AT + 100, layout.RINGING | layout.INVITE << 4, 1, 0, 0,
        2, 3, 0, 4 << 30 | 5, 6 << 30 | 7, 1, 0, 0, 0, 8 << 30, 9 << 30, 1, *[0] * (layout.SIDE * 3),
    ]  # fmt: skip
    assert calls.file.read_text(call.at) == b""


def test_a_successor_knows_all_that_was_known():
    calls = table(slabs=2, slab=1)
    call = put(calls, 7)
    call.answered, call.last, call.expires = AT + 1, AT + 2, AT + 3600
    call.meta = layout.ANSWERED | layout.INVITE << 4 | layout.SUBSCRIBED
    calls.write(call)
    call.limit, call.other_limit = 11, (1 << 61) - 2
    calls.write_limits(call)
    for number in range(10):
        assert calls.add_leg(call, Side((1 << 61) - 2 - number, 50 + number, 60, 70, 80, 90, USED))
    call.legs[9].before = 33
    call.caller.contact = 44
    calls.write_side(call.legs[9])
    calls.write_side(call.caller)
    before = seen(call)
    successor = CallTable(calls.file)
    assert successor.attach(1, AT) == 1
    found = successor.find(7, AT)
    assert seen(found) == before
    assert len(found.legs) == 11
    successor.remove(found)
    assert len({place(successor, key) for key in range(1, 64)}) == 63


@pytest.mark.parametrize("at", [layout.KEY, layout.BEGAN, layout.META, layout.CALLER, layout.LEG + layout.HOP])
def test_what_was_never_written_by_us_is_no_call(at):
    calls = table()
    call = put(calls, 7)
    calls.file.words[call.at + at] = -1  # all bits, for all words are signed
    successor = CallTable(calls.file)
    assert successor.attach(0, AT) == 0
    assert place(successor, 8) == call.at


def test_no_more_calls_than_there_are_records():
    calls = table(records=64)
    assert all(put(calls, key + 1) is not None for key in range(64))
    assert put(calls, 100) is None
    assert calls.fill == 100


def test_making_calls_frees_the_ones_that_have_expired():
    calls = table(records=64)
    for key in range(60):
        put(calls, key + 1, lives=5)
    for key in range(30):
        assert put(calls, 1000 + key, now=AT + 10) is not None
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
    assert calls.find(gone, AT) is None
    assert calls.count == len(states) - bool(gone)


def test_a_successor_finds_what_its_predecessor_has_kept_and_skips_what_is_torn(tmp_path):
    first = opened(tmp_path / "calls")
    first.attach(0, AT)
    kept = put(first, 1)
    torn = place(first, 2)
    first.file.words[torn] += 1
    put(first, 3, lives=-1)
    unlinked = kept.at + 3 * layout.WORDS
    for number in range(4):
        first.add_leg(kept, Side(number, 0, 0, 0, 0, 0, USED))
    second = opened(tmp_path / "calls", now=NOW + 1)
    assert second.attach(0, AT) == 1
    assert second.find(1, AT).at == kept.at
    assert second.find(1, AT).pages == [unlinked]
    assert second.find(2, AT) is second.find(3, AT) is None
    assert {place(second, 20), place(second, 21)} == {torn, unlinked - layout.WORDS}
    assert second.file.since == int(NOW)


def test_a_call_goes_on_in_further_records_and_frees_all_of_them():
    calls = table(records=64)
    call = put(calls, 1)
    for number in range(2 * layout.LEGS):
        assert calls.add_leg(call, Side(number, 0, 0, 0, 0, 0, USED))
    following = [calls.file.following(at) for at in (call.at, *call.pages)]
    assert following == [*call.pages, -1]
    assert len(call.pages) == 2
    assert list(calls.file.all()) == [call.at]
    at, *pages = [int(call.at), *call.pages]
    calls.remove(call)
    assert {place(calls, 2), place(calls, 3), place(calls, 4)} == {at, *pages}


def test_a_leg_for_which_there_is_no_room_is_not_remembered():
    calls = table(records=64)
    first, *_ = [put(calls, key) for key in range(1, 65)]
    added = [calls.add_leg(first, Side(number, 0, 0, 0, 0, 0, USED)) for number in range(layout.LEGS)]
    assert added == [True] * (layout.LEGS - 1) + [False]
    assert len(first.legs) == layout.LEGS


def test_room_for_the_fifth_leg_is_made_by_a_ringing_call_of_a_stranger_never_by_the_call_itself():
    calls = table(records=64)
    first = put(calls, 1)
    others = [put(calls, key, named=True, state=layout.ANSWERED) for key in range(2, 64)]
    stranger = put(calls, 64)
    legs = [Side(number, 0, 0, 0, 0, 0, USED) for number in range(layout.LEGS)]
    assert [new_leg(calls, first, leg) is leg for leg in legs] == [True] * layout.LEGS
    assert calls.find(64, AT) is None
    assert stranger.at in first.pages
    assert calls.count == 1 + len(others)
    for number in range(layout.LEGS - 1):  # the rest of that record
        assert new_leg(calls, first, Side(20 + number, 0, 0, 0, 0, 0, USED)) is not None
    assert new_leg(calls, first, Side(50, 0, 0, 0, 0, 0, USED)) is None
    assert calls.find(1, AT) is first


@pytest.mark.parametrize("children", [1, 2, 5])
def test_other_numbers_of_receivers_find_their_calls_in_their_slabs(tmp_path, children):
    old = opened(tmp_path / "calls", 3)
    names = [b"call-%d@host" % number for number in range(40)]
    for slab in range(3):
        old.attach(slab, AT)
        for number, name in enumerate(names):
            if owner(name, 3) == slab:
                call = put(old, number + 1, text=name + b"\0caller\0callee")
                for tag in range(10 if number == 0 else 0):
                    old.add_leg(call, Side(70 + tag, 0, 0, 0, 0, 0, USED))
    new = opened(tmp_path / "calls", children)
    assert new.file.since == int(NOW)
    for slab in range(children):
        new.attach(slab, AT)
        for number, name in enumerate(names):
            assert (new.find(number + 1, AT) is not None) == (owner(name, children) == slab)
            if number == 0 and owner(name, children) == slab:
                assert [leg.tag for leg in new.find(1, AT).legs] == [0, *range(70, 80)]


def test_the_memory_of_another_secret_is_thrown_away(tmp_path):
    first = opened(tmp_path / "calls")
    first.attach(0, AT)
    put(first, 1)
    second = opened(tmp_path / "calls", mark=6, now=NOW + 9)
    assert second.attach(0, AT) == 0
    assert second.file.since == int(NOW) + 9


def test_garbage_in_the_file_is_no_memory_and_nobody_else_may_read_it(tmp_path):
    path = tmp_path / "calls"
    path.write_bytes(os.urandom(100_000))
    made = opened(path, 2)
    assert made.attach(1, AT) == 0
    other = tmp_path / "fresh"
    opened(other, 2)
    assert other.stat().st_mode & 0o777 == 0o600


def test_every_receiver_writes_its_own_slab_and_anybody_reads_all():
    calls = table(slabs=2)
    put(calls, 1)
    other = CallTable(CallFile(calls.file.bytes.obj, 2, 64))  # what another process has mapped
    other.attach(1, AT)
    put(other, 2)
    assert len(list(calls.file.all())) == 2
    assert calls.find(2, AT) is None


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
        ("sip:192.0.2.1:5070;transport=UDP", "sip:192.0.2.1:5070", True),
        ("sip:192.0.2.1:5070;transport=UDP", "sip:192.0.2.1:5071", False),
        ("sip:bob@192.0.2.1", "sip:bob@192.0.2.1;maddr=198.51.100.1", False),
        ("sips:bob@192.0.2.1", "sip:bob@192.0.2.1:5061", True),
        ("tel:+491234", "tel:+491234", True),
        ("tel:+491234", "sip:+491234@192.0.2.1", False),
        ("sip:bob@192.0.2.1;user=phone", "sip:bob@192.0.2.1", True),
    ],
)
def test_targets_are_compared_by_where_they_lead(one, other, same):
    assert (PRINTS.target(one) == PRINTS.target(other)) is same


@given(
    st.one_of(st.just(""), st.text(st.sampled_from("ab%;:@. '\\\"<,é"), max_size=6).map(lambda user: f"{user}@")),
    st.sampled_from(["192.0.2.1", "192.0.2.1.", "", "A.example", "[2001:db8::1]", "1.2.3.4.5"]),
    st.sampled_from(["", ":", ":5060", ":0", ":05070", ":65536", ":99999999999999999999", ":5x"]),
    st.sampled_from(
        ["", ";ob", ";transport=tls", ";maddr=192.0.2.9", ";MADDR=192.0.2.9", "?a=b", ";a@b", ";a@192.0.2.7"]
    ),
)
@example("a@", "192.0.2.1", ":5070", ";Maddr=192.0.2.9")
@example("", "192.0.2.1", ":5070", ";transport=UDP")
@example("", "192.0.2.1", ":5070", "")
def test_the_short_way_to_a_number_leads_where_the_long_one_does(user, host, port, end):
    text = f"sip:{user}{host}{port}{end}"
    try:
        expected = PRINTS.target_of(parse_uri(text))
    except ParseError:
        return  # leads nowhere, so no request can be bound for it
    assert Fingerprints(b"secret").target(text) == expected
    try:
        uri = first_uri(f"Contact: <{text}>;expires=60")
    except ParseError:
        return
    if uri is not None and uri.text == text:
        found = Fingerprints(b"secret").contact(f"Contact: <{text}>;expires=60")
        assert (found.target, found.host) == (expected, PRINTS.host(uri.host))


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
        ('Contact: "B: <sip:evil@192.0.2.9:5060>" <sip:bob@192.0.2.1:5070>', "sip:bob@192.0.2.1:5070"),
        ('Contact: sip:bob@192.0.2.1;y=":<sip:a@192.0.2.9:5060>"', "sip:bob@192.0.2.1"),
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
