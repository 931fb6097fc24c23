"""Servers of a farm come to the same table, whatever was lost."""

import pytest
from support.replicas import TABLE, MemoryFarm

from serpy.replication import messages
from serpy.replication.digest import BUCKETS, Sums, parse_sums
from serpy.replication.repair import _rows
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


def test_what_differs_is_shown_without_changing_anything():
    farm = MemoryFarm(2, interval=5.0)
    farm.nodes[0].register("here")
    farm.nodes[1].register("there")
    asked = []
    peer_session = farm.nodes[0].repair

    # a dry conversation, step by step: diff() itself parks
    farm.nodes[1].repair._publish = lambda sums, _index: farm.nodes[1].repair._send_sums(sums)
    farm.nodes[0].repair._begin = lambda _peer: None
    farm.nodes[0].repair.start()
    farm.nodes[1].repair._begin = lambda _peer: None
    farm.nodes[1].repair.start()
    farm.run(8)
    peer = next(iter(peer_session.peers.values()))

    def begin(sums, index):
        session = peer_session._dry = peer_session._session(peer, sums.differing(peer.sums), index, dry=True)
        peer_session._ask(session)
        asked.append(session)

    peer_session.scanner.scan(set(range(BUCKETS)), begin, soon=True)
    farm.run(1)
    rows = _rows(peer, asked[0], peer_session._shown)
    assert {(row["uid"], row["here"], row["there"]) for row in rows} == {
        ("here", "registered", "-"), ("there", "-", "registered, CSeq 1"),
    }  # fmt: skip
    assert [len(node.table()) for node in farm.nodes] == [1, 1]
