"""Servers of a farm come to the same table, whatever was lost."""

import pytest
from support.replicas import TABLE, MemoryFarm

from serpy.errors import ResourceError
from serpy.replication import messages
from serpy.replication.digest import BUCKETS, Sums, parse_sums
from serpy.replication.store import FAILED
from serpy.shm.record import Binding


def test_a_server_that_starts_empty_is_filled_before_the_first_interval_is_over():
    farm = MemoryFarm(3, interval=60.0)
    for node in farm.nodes[:2]:
        for number in range(300):
            node.register(f"u{number}")
    farm.start()
    farm.run(5)
    assert len(farm.nodes[2].table()) == 300
    assert farm.are_equal()


@pytest.mark.parametrize("seed", range(4))
def test_lost_reordered_and_repeated_datagrams_delay_but_do_not_prevent_equality(seed):
    farm = MemoryFarm(3, seed=seed, loss=0.2).start()
    for number in range(600):
        for node in farm.nodes:
            if farm.random.random() > 0.2:
                node.register(f"u{number}")
    farm.run(30)
    assert farm.are_equal()
    assert len(farm.nodes[0].table()) > 590
    assert farm.largest <= messages.ROOM


def test_the_higher_cseq_replaces_the_lower_on_both_sides():
    farm = MemoryFarm(2).start()
    farm.nodes[0].register("alice", cseq=7)
    farm.nodes[1].register("alice", cseq=3)
    farm.nodes[0].register("bob", cseq=3)
    farm.nodes[1].register("bob", cseq=7)
    farm.run(15)
    assert farm.are_equal()
    assert {value[1] for value in farm.nodes[0].table().values()} == {7}


def test_of_two_call_ids_the_later_one_stands():
    farm = MemoryFarm(2).start()
    farm.nodes[0].register("alice", call_id="early", cseq=99, age=100)
    farm.nodes[1].register("alice", call_id="late", cseq=1, age=50)
    farm.run(15)
    assert [node.table()["alice", "sip:alice@192.0.2.99"][0] for node in farm.nodes] == ["late", "late"]


def test_a_removal_that_others_missed_is_brought_to_them_and_nothing_comes_back():
    farm = MemoryFarm(3)
    for node in farm.nodes:
        for number in range(40):
            node.register(f"u{number}")
    farm.nodes[0].unregister("u5")
    farm.start()
    farm.run(20)
    assert [len(node.table()) for node in farm.nodes] == [39, 39, 39]


def test_a_registration_after_a_removal_stands():
    farm = MemoryFarm(2)
    for node in farm.nodes:
        node.register("alice", cseq=1)
    farm.nodes[0].unregister("alice")
    farm.nodes[1].register("alice", cseq=2, age=-1)
    farm.start()
    farm.run(20)
    assert [node.table() for node in farm.nodes] == [{("alice", "sip:alice@192.0.2.99"): ("call-alice", 2)}] * 2


def test_the_remaining_lifetime_travels_although_clocks_differ():
    farm = MemoryFarm(2, skews=(0.0, 20.0)).start()
    farm.nodes[0].register("alice", life=600)
    farm.run(10)
    (binding,) = farm.nodes[1].location.bindings(TABLE, "alice")
    assert 585 <= binding.expires_at - farm.nodes[1].loop.wall_now() <= 601
    assert binding.flags & Binding.MEM


def test_a_server_is_silent_when_nothing_differs():
    farm = MemoryFarm(3)
    for node in farm.nodes:
        for number in range(100):
            node.register(f"u{number}")
    farm.start()
    farm.run(60)
    assert all(node.counts.get("frames_sent", 0) == 0 for node in farm.nodes)


def test_what_a_server_sends_does_not_grow_with_the_number_of_servers():
    sent = {}
    for servers in (2, 6):
        farm = MemoryFarm(servers)
        for node in farm.nodes:
            for number in range(100):
                node.register(f"u{number}")
        farm.start()
        farm.run(60)
        sent[servers] = max(node.sent for node in farm.nodes)
    assert sent[6] <= sent[2] * 1.5


def test_one_server_answers_a_greeting():
    farm = MemoryFarm(5, interval=600.0).start()
    farm.run(10.0)
    for node in farm.nodes:
        node.sent = 0
    farm.replace(5)
    farm.run(2.0)
    digests = len(Sums().datagrams())
    assert digests <= sum(node.sent for node in farm.nodes[:4]) <= 2 * digests


def test_sums_survive_the_way_through_datagrams():
    sums = Sums()
    sums.add(0, 5)
    sums.add(BUCKETS - 1, (1 << 64) - 1)
    values = {}
    for payload in sums.datagrams(3):
        assert len(payload) <= messages.ROOM
        sent, bindings, part = parse_sums(payload)
        assert (sent, bindings) == (3, 2)
        values.update(part)
    assert values == dict(enumerate(sums.sums))
    assert sums.differing(values) == []
    assert sums.differing({0: 6, 1: 0}) == [0]


@pytest.mark.parametrize("payload", [b"", b"\0" * 11, Sums().datagrams()[0][:-1], b"\0" * 8 + b"\xff" * 8])
def test_a_digest_that_does_not_fit_is_refused(payload):
    with pytest.raises(ValueError, match=r".*"):
        parse_sums(payload)


# ---- looking at the differences


BOTH_SIDES = {("here", "registered", "-"), ("here2", "registered", "-"), ("there", "-", "registered, CSeq 1")}


@pytest.fixture
def differing():
    """Of two servers only the first hears of the other, and leaves it alone for a while, since it has fewer bindings."""
    farm = MemoryFarm(2)
    for uid in ("here", "here2"):
        farm.nodes[0].register(uid)
    farm.nodes[1].register("there")
    farm.lost = lambda _source, _target, _kind: True
    farm.start().run(6)
    farm.lost = lambda source, _target, kind: kind == messages.DIGEST and source is farm.nodes[0]
    farm.run(6.5)
    return farm


def shown(rows):
    assert isinstance(rows, list), rows
    return {(row["uid"], row["here"], row["there"]) for row in rows}


def test_what_differs_is_shown_without_changing_anything(differing):
    one, other = differing.nodes
    (rows,) = differing.ask(lambda: one.repair.diff(-1), seconds=4)
    assert shown(rows) == BOTH_SIDES
    assert {row["server_id"] for row in rows} == {2}
    assert [len(node.table()) for node in differing.nodes] == [2, 1]
    assert differing.ask(lambda: one.repair.diff(3), lambda: other.repair.diff(-1), seconds=4) == [[], []]


def test_two_who_look_at_once_are_both_told(differing):
    one = differing.nodes[0]
    first, second = differing.ask(lambda: one.repair.diff(-1), lambda: one.repair.diff(2), seconds=4)
    assert shown(first) == BOTH_SIDES
    assert shown(second) == BOTH_SIDES


@pytest.mark.parametrize("allowed", range(2))
def test_a_look_that_may_not_wait_says_so_and_the_next_one_is_answered(differing, allowed):
    """Too many handlers wait already, from the first or from a later wait on."""
    node = differing.nodes[0]
    park, waits = node.loop._park, iter([True] * allowed)

    def refusing(ticket, deadline):
        if not next(waits, False):
            raise ResourceError("enough are waiting")
        park(ticket, deadline)

    node.loop._park = refusing
    (refused,) = differing.ask(lambda: node.repair.diff(-1), seconds=4)
    node.loop._park = park
    assert isinstance(refused, ResourceError)
    assert shown(*differing.ask(lambda: node.repair.diff(-1), seconds=4)) == BOTH_SIDES


def test_a_look_at_a_server_that_does_not_answer_ends(differing):
    differing.lost = lambda _source, _target, _kind: True
    (rows,) = differing.ask(lambda: differing.nodes[0].repair.diff(-1))
    assert rows == []
    differing.lost = lambda _source, _target, _kind: False
    differing.run(60)
    assert differing.are_equal()


# ---- every conversation ends


def test_a_server_that_stops_answering_in_the_middle_does_not_hold_up_the_repair_with_others():
    farm = MemoryFarm(3)
    for number in range(300):
        farm.nodes[0].register(f"u{number}")
        farm.nodes[1].register(f"u{number}")
    told = []

    def lost(source, _target, kind):
        if source is farm.nodes[0] and kind in (messages.TELL, messages.BINDINGS):
            told.append(kind)
            return len(told) > 3
        return False

    farm.lost = lost
    farm.start().run(60)
    assert len(farm.nodes[2].table()) == 300


def test_a_repair_that_may_not_wait_ends_and_the_next_digest_begins_another():
    farm = MemoryFarm(2)
    farm.nodes[1].register("there")
    for node in farm.nodes:
        node.loop.max_parked = 0
    farm.start().run(30)
    assert farm.nodes[0].table() == {}
    for node in farm.nodes:
        node.loop.max_parked = 1000
    farm.run(30)
    assert farm.are_equal()
    assert farm.nodes[0].table()


def test_a_repair_in_which_nothing_gets_better_ends():
    farm = MemoryFarm(2)
    farm.nodes[1].register("there")
    farm.nodes[0].store.merge = lambda _table, _binding: (FAILED, None)  # no room
    farm.start().run(10)
    asked = []
    farm.lost = lambda _source, _target, kind: asked.append((farm.clock.now(), kind)) or kind == messages.DIGEST
    farm.run(60)
    assert not [at for at, kind in asked if kind == messages.ASK and at > 1040]
