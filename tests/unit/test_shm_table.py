"""The location table against a plain dict, its limits, its expiry and its repair."""

from __future__ import annotations

import random

import pytest

from serpy.errors import LimitExceededError, ResourceError, UsageError
from serpy.shm import blocks
from serpy.shm import record as layout
from serpy.shm.record import Binding
from serpy.shm.segment import Segment
from serpy.shm.table import LocationTable

MIB = 1024 * 1024


def make(size=4 * MIB):
    table = LocationTable(Segment(size + 65536), size)
    number = table.table_id("location")
    table.set_loaded(number, loaded=True)
    return table


def binding(uid="alice", contact="sip:a@192.0.2.1", expires_at=1000, **more):
    return Binding(uid, contact, expires_at, **more)


def fields(b):
    return {name: getattr(b, name) for name in ("uid", "contact", "expires_at", "aor", "received", "q", "call_id",
            "cseq", "flags", "user_agent", "instance", "server_id", "modified_at")}  # fmt: skip


def put(table, uid, bindings, **more):
    key = table.key(0, uid)
    return table.replace(key, bindings, table.read(key, uid)[1], **more)


def get(table, uid):
    return table.read(table.key(0, uid), uid)[0]


def contacts(table, uid):
    return [b.contact for b in get(table, uid)]


FULL = {
    "aor": "sip:alice@exämple.com",
    "received": "sip:198.51.100.7:1024;dstip=192.0.2.1;dstport=5060",
    "q": 700,
    "call_id": "a84b4c76e66710@pc33",
    "cseq": 2**32 - 1,
    "flags": 257,
    "user_agent": "Phone \udcff 1.0",
    "instance": "<urn:uuid:0>",
    "server_id": -3,
    "modified_at": 1234.5,
}


def test_a_binding_comes_back_as_it_was_written():
    table = make()
    given = binding(**FULL)
    assert put(table, "alice", [given, binding(contact="sip:b@192.0.2.2", q=-1)])
    found = get(table, "alice")
    assert fields(found[0]) == fields(given)
    assert (found[1].contact, found[1].q) == ("sip:b@192.0.2.2", -1)


def test_an_unknown_key_has_no_bindings_and_no_stamp():
    table = make()
    assert table.read(table.key(0, "nobody"), "nobody") == ([], 0)


def test_a_change_based_on_an_old_reading_is_refused():
    table = make()
    key = table.key(0, "alice")
    assert table.replace(key, [binding()], 0)
    assert not table.replace(key, [binding(contact="sip:other@h")], 0)
    _, stamp = table.read(key, "alice")
    assert table.replace(key, [binding(expires_at=2000)], stamp)
    assert not table.replace(key, [], stamp)
    assert [b.expires_at for b in get(table, "alice")] == [2000]


def test_removing_the_last_binding_frees_its_blocks():
    table = make()
    put(table, "alice", [binding(user_agent="x" * 3000)])
    assert table.stats().used > 3000
    put(table, "alice", [])
    assert (table.stats().users, table.stats().contacts, table.stats().used) == (0, 0, 0)


def test_an_empty_record_can_be_kept_to_say_that_nothing_is_known():
    table = make()
    put(table, "alice", [], keep_empty=True)
    found, stamp = table.read(table.key(0, "alice"), "alice")
    assert found == []
    assert stamp > 0
    assert table.stats().users == 0


def test_tables_with_different_names_do_not_mix():
    table = make()
    other = table.table_id("other")
    put(table, "alice", [binding()])
    assert table.read(table.key(other, "alice"), "alice")[0] == []
    assert table.tables() == ["location", "other"]
    assert not table.is_loaded(other)


@pytest.mark.parametrize("name", [pytest.param("", id="empty"), pytest.param("x" * 49, id="too-long")])
def test_a_bad_table_name_is_refused(name):
    with pytest.raises(UsageError):
        make().table_id(name)


def test_a_table_agrees_with_a_dict_over_many_random_changes():
    rng = random.Random(7)
    table, model = make(), {}
    for step in range(4000):
        uid = f"user{rng.randrange(300)}"
        wanted = [
            binding(uid, f"sip:{n}@192.0.2.{step % 250}", 10_000 + step, user_agent="u" * rng.randrange(700))
            for n in range(rng.choice((0, 1, 1, 1, 2, 5)))
        ]
        assert put(table, uid, wanted)
        model[uid] = wanted
        if step % 500 == 0:
            assert {u: [fields(b) for b in get(table, u)] for u in model} == {
                u: [fields(b) for b in bs] for u, bs in model.items()
            }
    stats = table.stats()
    assert stats.users == sum(1 for bs in model.values() if bs)
    assert stats.contacts == sum(map(len, model.values()))
    seen = {}
    start = 0
    while start >= 0:
        records, start = table.page(start, 64)
        seen.update({uid: len(found) for _, uid, found in records})
    assert seen == {uid: len(bs) for uid, bs in model.items() if bs}


def test_a_full_table_refuses_new_users_and_still_refreshes_and_removes():
    table = make(256 * 1024)
    known = []
    with pytest.raises(ResourceError, match="-m"):  # noqa: PT012 - filling takes many
        for n in range(100_000):
            put(table, f"user{n}", [binding(f"user{n}", user_agent="u" * 200)])
            known.append(f"user{n}")
    assert len(known) > 100
    for uid in known:
        assert put(table, uid, [binding(uid, expires_at=5000, user_agent="v" * 200)])
    assert all(get(table, uid)[0].expires_at == 5000 for uid in known)
    for uid in known[:50]:
        put(table, uid, [])
    put(table, "newcomer", [binding("newcomer")])
    assert contacts(table, "newcomer") == ["sip:a@192.0.2.1"]
    for uid in known[50:]:
        put(table, uid, [])
    put(table, "newcomer", [])
    assert (table.stats().used, table.stats().contacts) == (0, 0)


def test_a_table_that_is_too_small_is_refused():
    with pytest.raises(ResourceError, match="-m"):
        LocationTable(Segment(MIB), 4096)


@pytest.mark.parametrize(
    ("uid", "bindings", "error"),
    [
        pytest.param("x" * 300, [binding()], LimitExceededError, id="uid"),
        pytest.param("a", [binding(contact="sip:" + "x" * 5000)], LimitExceededError, id="contact"),
        pytest.param("a", [binding(contact=f"sip:{n}@h") for n in range(251)], ResourceError, id="count"),
    ],
)
def test_oversized_values_are_refused_and_change_nothing(uid, bindings, error):
    table = make()
    with pytest.raises(error):
        table.replace(table.key(0, uid), bindings, 0)
    assert table.stats().users == 0


def test_expiry_drops_only_what_has_expired():
    table = make()
    put(table, "alice", [binding(expires_at=100), binding(contact="sip:b@h", expires_at=200)])
    put(table, "bob", [binding("bob", expires_at=100)])
    put(table, "carol", [binding("carol", expires_at=100, flags=Binding.PERMANENT)])
    dropped = table.expire(150.0, table.buckets)
    assert sorted((name, b.uid, b.contact) for name, b in dropped) == [
        ("location", "alice", "sip:a@192.0.2.1"),
        ("location", "bob", "sip:a@192.0.2.1"),
    ]
    assert contacts(table, "alice") == ["sip:b@h"]
    assert contacts(table, "bob") == []
    assert contacts(table, "carol") == ["sip:a@192.0.2.1"]
    stats = table.stats()
    assert (stats.users, stats.contacts, stats.expired) == (2, 2, 2)


def test_expiry_in_small_steps_reaches_every_bucket():
    table = make()
    for n in range(500):
        put(table, f"u{n}", [binding(f"u{n}", expires_at=n)])
    dropped = []
    for _ in range(table.buckets // 10 + 2):
        dropped += table.expire(249.0, 10)
    assert len(dropped) == 250
    assert table.stats().contacts == 250


def test_empty_records_stay_until_the_table_is_loaded():
    table = make()
    table.set_loaded(0, loaded=False)
    put(table, "alice", [], keep_empty=True)
    table.expire(1e12, table.buckets)
    assert table.read(table.key(0, "alice"), "alice")[1] > 0
    table.set_loaded(0, loaded=True)
    table.expire(1e12, table.buckets)
    assert table.read(table.key(0, "alice"), "alice")[1] == 0
    assert table.stats().used == 0


def test_a_stripe_left_odd_is_repaired_by_the_next_holder():
    table = make()
    for n in range(300):
        put(table, f"u{n}", [binding(f"u{n}", user_agent="u" * 500)])
    before = table.stats()
    # a writer died holding every stripe: the free lists and counts are not to be trusted
    for stripe in range(table.stripes):
        base = stripe * 8
        table._quads[base] += 1
        table._quads[base + 1] = 7
        table._quads[base + 2] = 3
        table._quads[base + 3] = 99
    assert all(len(get(table, f"u{n}")) == 1 for n in range(300))
    table.expire(0.0, table.buckets)
    after = table.stats()
    assert (after.users, after.contacts, after.used) == (before.users, before.contacts, before.used)
    assert after.repairs == table.stripes
    for n in range(300):
        put(table, f"u{n}", [])
    assert table.stats().used == 0


def test_no_record_gets_the_stamp_that_a_dead_writer_has_given_away():
    """It died between the link and the stripe's head: to the head that stamp has never been used."""
    table = make()
    key = table.key(0, "alice")
    stripe = (table._hash(key) & table._mask) >> table._shift
    head = bytes(table._area[stripe * 64 : stripe * 64 + 64])
    put(table, "alice", [binding()])
    table._area[stripe * 64 : stripe * 64 + 64] = head
    table._quads[stripe * 8] += 1
    _, stale = table.read(key, "alice")
    assert table.replace(key, [binding(cseq=2)], stale)
    assert table.replace(key, [binding(cseq=3)], stale) is False
    assert [b.cseq for b in get(table, "alice")] == [2]


def test_a_broken_chain_is_cut_and_the_tables_are_marked_for_reload():
    table = make()
    put(table, "alice", [binding()])
    put(table, "bob", [binding("bob")])
    key = table.key(0, "alice")
    bucket = table._hash(key) & table._mask
    table._words[table._buckets_at + bucket] = 999_999_999
    table._quads[(bucket >> table._shift) * 8] += 1
    assert get(table, "alice") == []
    assert not table.is_loaded(0)
    put(table, "alice", [binding()])
    assert contacts(table, "alice") == ["sip:a@192.0.2.1"]


def test_the_change_mark_moves_with_changes_only():
    table = make()
    key = table.key(0, "alice")
    mark = table.change_mark(key)
    get(table, "alice")
    assert table.change_mark(key) == mark
    put(table, "alice", [binding()])
    assert table.change_mark(key) != mark


@pytest.mark.parametrize("cut", [0, 3, 10, 45, 60])
def test_a_cut_record_is_an_error_and_not_a_crash(cut):
    whole = layout.encode(b"\0alice", [binding(user_agent="x" * 20)])
    with pytest.raises(ValueError):
        layout.decode(whole[:cut], "alice")


def test_block_arithmetic():
    room = blocks.HEAD_ROOM
    assert [blocks.blocks_for(n) for n in (1, room, room + 1, room + 252, room + 253)] == [1, 1, 2, 2, 3]
