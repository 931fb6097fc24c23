"""The store without its process: lanes, answers, and what happens while a database is away. Wired by lists."""

from __future__ import annotations

import marshal
import os
import struct
import zlib

import pytest
from support.stores import BAD, FIRST, Failing, Sink, acc, batch, delete, sql, upsert

from serpy.db import schema
from serpy.db.lane import REPLAY_CHUNK
from serpy.db.store import JOURNAL, REFUSE, Store
from serpy.errors import BackendError
from serpy.modules.db_sqlite import SqliteModule


class Two:
    """Databases of different URLs, made when they are used first; "" and "accounting" are what the tests call them."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {}

    def __call__(self, url):
        found = self.made.get(url)
        if found is None:
            path = self.folder / f"{url or 'location'}.db"
            handle = SqliteModule().open(f"sqlite:///{path}", read_only=False, create=True)
            schema.create(handle)
            found = self.made[url] = Failing(handle)
        return found

    def close(self):
        for each in self.made.values():
            each.database.close()


@pytest.fixture
def databases(tmp_path):
    made = Two(tmp_path)
    yield made
    made.close()


@pytest.fixture
def database(databases):
    return databases("")


@pytest.fixture
def accounting(databases):
    return databases("accounting")


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def store(databases, sink, tmp_path):
    return new_store(databases, sink, tmp_path)


def new_store(databases, sink, folder, policy=REFUSE):
    made = Store(databases, sink.send, policy=policy, folder=str(folder))
    made.recover()
    return made


def commit(store):
    """Rounds of all lanes until nothing is left to do."""
    while busy := [lane for lane in store.lanes.values() if lane.has_work]:
        for lane in busy:
            store.round(lane)


def retry(store):
    """What the process does once a second."""
    store.tick()
    for lane in store.lanes.values():
        if len(lane.backlog):
            store.round(lane)
    commit(store)


def kept(store):
    return sum(lane.backlog.requests for lane in store.lanes.values())


# -- one database


def test_batches_of_all_senders_become_one_transaction(store, database, sink):
    store.receive(batch(1, [upsert("alice")], [upsert("bob")]), 0)
    store.receive(batch(401, [upsert("carol")], incarnation=500), 1)
    commit(store)
    assert len(database.writes) == 1
    assert database.uids() == ["alice", "bob", "carol"]
    assert sink.acks == [(0, 100, 1, {}), (1, 500, 401, {})]


def test_answers_to_one_sender_travel_together(store, sink):
    store.receive(batch(1, [upsert("alice")]), 0)
    store.receive(batch(2, [upsert("bob")]), 0)
    commit(store)
    assert sink.acks == [(0, 100, 1, {}), (0, 100, 2, {})]
    assert sink.datagrams == 1


def test_request_the_database_refuses_is_refused_alone(store, database, sink):
    store.receive(batch(1, [upsert("alice")], [BAD], [upsert("bob")]), 0)
    commit(store)
    assert database.uids() == ["alice", "bob"]
    (_slot, _incarnation, _number, errors) = sink.acks[0]
    assert list(errors) == [1]
    assert "NOT NULL" in errors[1]


def test_a_batch_with_a_bad_row_does_not_take_the_others_apart(store, database, sink):
    store.receive(batch(1, [acc("a")], [acc("b")]), 0)
    store.receive(batch(2, [acc("c")], [BAD]), 0)
    commit(store)
    assert database.calls() == ["a", "b", "c"]
    assert sink.refused() == {1: [], 2: [1]}


def test_unusable_table_name_is_refused_and_harms_nobody(store, database, sink):
    store.receive(batch(1, [("upsert", 'x"; drop', {"uid": 1, "contact": 2})], [upsert("bob")]), 0)
    commit(store)
    assert database.uids() == ["bob"]
    assert list(sink.acks[0][3]) == [0]


@pytest.mark.parametrize(
    ("wait", "again", "urgent"),
    [
        pytest.param(True, False, True, id="a registration"),
        pytest.param(False, False, False, id="an accounting row"),
        pytest.param(False, True, True, id="one that is late already"),
    ],
)
def test_the_lane_says_whether_somebody_waits_for_a_batch(store, wait, again, urgent):
    assert store.receive(batch(1, [acc("c1")], wait=wait, again=again), 1).urgent is urgent


def test_answer_that_finds_a_full_socket_is_sent_later_and_before_newer_ones(store, sink):
    sink.full = True
    store.receive(batch(1, [upsert()]), 0)
    commit(store)
    assert sink.acks == []
    sink.full = False
    store.receive(batch(2, [upsert()]), 0)
    commit(store)
    store.tick()
    assert [ack[2] for ack in sink.acks] == [1, 2]


# -- once and only once


def test_batch_sent_again_while_it_waits_is_committed_once(store, database, sink):
    store.receive(batch(1, [acc("a")]), 0)
    store.receive(batch(1, [acc("a")], again=True), 0)
    commit(store)
    assert database.calls() == ["a"]
    assert len(sink.acks) == 1


def test_batch_sent_again_after_its_answer_gets_the_same_answer(store, sink):
    store.receive(batch(1, [BAD]), 0)
    commit(store)
    assert store.receive(batch(1, [BAD], again=True), 0) is None
    assert len(sink.acks) == 2
    assert sink.acks[0] == sink.acks[1]


def test_successor_of_a_killed_store_does_not_insert_twice(databases, store, sink, tmp_path):
    store.receive(batch(1, [acc("a")], [acc("b")]), 0)
    commit(store)
    sink.acks.clear()
    successor = new_store(databases, sink, tmp_path)
    successor.receive(batch(1, [acc("a")], [acc("b")], again=True), 0)
    successor.receive(batch(2, [acc("c")], again=True, oldest=1), 0)
    commit(successor)
    assert databases("").calls() == ["a", "b", "c"]
    assert [ack[2:] for ack in sink.acks] == [(1, {}), (2, {})]


def test_a_batch_whose_connection_breaks_in_the_commit_is_stored_once(store, database):
    database.cut = {1}
    store.receive(batch(1, [acc("a")], [acc("b")], wait=False), 0)
    store.receive(batch(2, [acc("c")], wait=False), 0)
    commit(store)
    retry(store)
    assert database.calls() == ["a", "b", "c"]
    assert kept(store) == 0


def test_a_batch_that_the_driver_tries_twice_is_stored_once(store, database, sink):
    database.cut = {1}
    database.again = 1
    store.receive(batch(1, [acc("a")], [acc("b")], wait=False), 0)
    commit(store)
    assert database.calls() == ["a", "b"]
    assert sink.refused() == {1: []}


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_batch_taken_apart_is_stored_once_though_a_part_of_it_got_no_answer(store, database, cut):
    store.receive(batch(1, [acc("a")], [BAD], [acc("b")], [upsert("bob")], wait=False), 0)
    database.cut = {cut}
    commit(store)
    retry(store)
    assert database.calls() == ["a", "b"]
    assert database.uids() == ["bob"]


def test_a_store_killed_while_it_replays_its_journal_doubles_nothing(databases, sink, tmp_path):
    database = databases("")
    store = new_store(databases, sink, tmp_path)
    database.down = True
    for number in range(1, 6):
        store.receive(batch(number, [acc(f"c{number}")], wait=False), 0)
        commit(store)
    database.down = False
    (journal,) = tmp_path.glob("*.journal")
    as_it_was = journal.read_bytes()
    store.round(store.lanes[""])
    journal.write_bytes(as_it_was)  # killed between the commit and the note in the journal
    successor = new_store(databases, sink, tmp_path)
    retry(successor)
    assert database.calls() == ["c1", "c2", "c3", "c4", "c5"]
    assert kept(successor) == 0


def test_statement_of_a_script_is_not_run_twice_by_a_successor(databases, store, sink, tmp_path):
    count = sql("update global_attrs set value = value + ? where name = 'gflags_count'", 1)
    row = {"name": "gflags_count", "type": 0, "value": "0", "flags": 33}
    store.receive(batch(1, [("insert", "global_attrs", row)]), 0)
    store.receive(batch(2, [count]), 0)
    commit(store)
    successor = new_store(databases, sink, tmp_path)
    successor.receive(batch(2, [count], again=True), 0)
    commit(successor)
    assert databases("").database.select("global_attrs", ("value",), {"name": "gflags_count"}) == [("1",)]


def test_batch_that_died_with_a_store_is_not_taken_for_done_because_a_later_one_is(store, database):
    store.receive(batch(2, [acc("b")]), 0)  # 1 was read by the predecessor, which was killed
    commit(store)
    store.receive(batch(1, [acc("a")], again=True), 0)
    commit(store)
    assert database.calls() == ["b", "a"]


def test_a_batch_that_went_past_its_predecessors_to_a_new_store_waits_for_them(store, database, sink):
    """db_mode 2: the removal of a contact must not reach the successor before the registration it removes."""
    assert store.receive(batch(8, [delete()], oldest=7), 0) is None
    commit(store)
    assert sink.acks == []
    store.receive(batch(7, [upsert()], again=True), 0)
    store.receive(batch(8, [delete()], again=True, oldest=7), 0)
    commit(store)
    assert database.uids() == []
    assert [ack[2] for ack in sink.acks] == [7, 8]


def test_numbers_nobody_will_send_again_are_removed_and_those_of_others_stay(store, database):
    for number in range(1, 300):
        store.receive(batch(number, [acc("a")], wait=False), 0)
        commit(store)
    store.receive(batch(1, [acc("b")], incarnation=101), 1)
    store.receive(batch(300, [acc("a")], wait=False), 0)
    commit(store)
    rows = database.database.select("store_progress", ("sender", "batch"), {}, order="batch")
    assert len(rows) < 60
    assert (f"{101:x}", FIRST + 1) in rows
    assert (f"{100:x}", FIRST + 300) in rows


def test_numbers_of_senders_that_are_long_gone_are_removed(store, database):
    database.database.write(
        [
            ("insert", "store_progress", {"sender": "0", "batch": FIRST - 8 * 86_400_000_000}),
            ("insert", "store_progress", {"sender": "1", "batch": FIRST - 86_400_000_000}),
        ]
    )
    store.receive(batch(1, [acc("a")]), 0)
    commit(store)
    assert database.database.select("store_progress", ("sender",), {}, order="sender") == [("1",), (f"{100:x}",)]


def test_new_incarnation_of_a_sender_is_not_taken_for_the_old_one(store, database):
    store.receive(batch(1, [acc("a")]), 0)
    commit(store)
    store.receive(batch(1, [acc("b")], incarnation=101), 0)
    commit(store)
    assert database.calls() == ["a", "b"]


def test_a_database_without_our_table_takes_rows_all_the_same(store, database, sink):
    database.database.execute("drop table store_progress")
    store.receive(batch(1, [acc("a")], [BAD]), 0)
    commit(store)
    store.receive(batch(2, [acc("b")]), 0)
    commit(store)
    assert database.calls() == ["a", "b"]
    assert sink.refused() == {1: [1], 2: []}


# -- a database that is away


def test_refuse_policy_tells_who_waits_and_keeps_the_rest(store, database, sink):
    database.down = True
    store.receive(batch(1, [upsert("alice")], wait=True), 0)
    store.receive(batch(2, [upsert("bob")], wait=False), 0)
    commit(store)
    assert store.lanes[""].down
    assert sink.acks == [(0, 100, 1, {0: "gone"}), (0, 100, 2, {})]
    database.down = False
    retry(store)
    assert database.uids() == ["bob"]
    assert not store.lanes[""].down


@pytest.mark.parametrize("policy", [REFUSE, JOURNAL])
def test_rows_nobody_waits_for_outlive_the_store_that_acknowledged_them(databases, sink, tmp_path, policy):
    store = new_store(databases, sink, tmp_path, policy)
    databases("").down = True
    store.receive(batch(1, [acc("a")], [acc("b")], wait=False), 0)
    commit(store)
    assert sink.refused() == {1: []}
    databases("").down = False
    retry(new_store(databases, sink, tmp_path, policy))  # the first one was killed
    assert databases("").calls() == ["a", "b"]


def test_who_waited_for_a_commit_without_an_answer_is_told_that_it_may_be_stored(store, database, sink):
    database.cut = {1}
    store.receive(batch(1, [upsert("alice")]), 0)
    commit(store)
    assert sink.acks[0][3] == {0: "?cut"}


def test_kept_rows_go_before_newer_ones(store, database):
    database.down = True
    store.receive(batch(1, [upsert(expires=1)], wait=False), 0)
    commit(store)
    database.down = False
    store.receive(batch(2, [upsert(expires=2)]), 0)
    commit(store)
    assert database.database.select("location", ("expires",), {}) == [(2,)]


def test_who_waits_does_not_wait_for_kept_accounting_rows(store, database, sink):
    database.down = True
    for number in (1, 2):
        store.receive(batch(number, *[[acc(f"{number}-{n}")] for n in range(REPLAY_CHUNK)], wait=False), 0)
    commit(store)
    database.down = False
    lane = store.receive(batch(3, [upsert()]), 0)
    store.round(lane)
    assert sink.refused()[3] == []
    assert kept(store) == REPLAY_CHUNK
    commit(store)
    assert len(set(database.calls())) == len(database.calls()) == 2 * REPLAY_CHUNK


@pytest.mark.parametrize("policy", [REFUSE, JOURNAL])
def test_what_must_not_overtake_the_journal_waits_for_all_of_it(databases, sink, tmp_path, policy):
    database = databases("")
    store = new_store(databases, sink, tmp_path, policy)
    database.down = True
    for number in range(1, 4):
        store.receive(batch(number, *[[upsert(expires=number)]] * REPLAY_CHUNK, wait=False), 0)
        commit(store)
    database.down = False
    lane = store.receive(batch(4, [delete()], wait=True), 0)
    store.round(lane)
    assert database.uids() == ["alice"]
    commit(store)
    assert database.uids() == []
    assert sink.refused()[4] == []


def test_journal_outlives_the_store_and_is_replayed_in_order(databases, sink, tmp_path):
    database = databases("")
    store = new_store(databases, sink, tmp_path, JOURNAL)
    database.down = True
    store.receive(batch(1, [upsert(expires=1)], [delete()]), 0)
    store.receive(batch(2, [upsert(expires=3)]), 0)
    commit(store)
    assert [ack[3] for ack in sink.acks] == [{}, {}]
    database.down = False
    successor = new_store(databases, sink, tmp_path, JOURNAL)
    assert kept(successor) == 3
    retry(successor)
    assert database.database.select("location", ("expires",), {}) == [(3,)]
    successor.close()
    assert list(tmp_path.glob("*.journal")) == []


def test_kept_request_the_database_refuses_does_not_stop_the_others(store, database):
    database.down = True
    store.receive(batch(1, [BAD], [upsert()], wait=False), 0)
    commit(store)
    database.down = False
    retry(store)
    assert database.uids() == ["alice"]
    assert kept(store) == 0


def test_rows_that_no_disk_takes_are_refused_and_the_store_lives(databases, sink, tmp_path, monkeypatch, caplog):
    store = new_store(databases, sink, tmp_path)
    databases("").down = True

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        store.receive(batch(1, [acc("a")], [acc("b")], wait=False), 0)
        commit(store)
    assert sink.refused() == {1: [0, 1]}
    assert "No space left" in caplog.text
    assert store.lanes[""].refused == 2
    store.receive(batch(2, [acc("c")], wait=False), 0)
    commit(store)
    assert sink.refused() == {1: [0, 1], 2: []}


def test_what_an_older_version_had_kept_is_stored(databases, sink, tmp_path):
    old = [
        (
            "accounting",
            False,
            [("insert", "acc", {"sip_callid": "x", "request_timestamp": 1, "response_timestamp": 2})],
        ),
        (
            "",
            True,
            [("upsert", "location", "uid\naor\ncontact\nexpires", ("bob", "sip:bob@h", "sip:b@h", 2_000_000_000))],
        ),
    ]
    records = [marshal.dumps(each, 2) for each in old]
    journal = tmp_path / "store.journal"
    journal.write_bytes(b"".join(struct.pack("!II", len(data), zlib.crc32(data)) + data for data in records))
    store = new_store(databases, sink, tmp_path)
    retry(store)
    assert databases("accounting").calls() == ["x"]
    assert databases("").uids() == ["bob"]
    assert not journal.exists()


# -- two databases


@pytest.mark.parametrize("wait", [True, False])
def test_a_database_that_is_down_refuses_nothing_for_the_other(store, databases, database, accounting, sink, wait):
    accounting.down = True
    for number in range(1, 20):
        store.receive(batch(number, [acc(f"c{number}")], url="accounting", wait=wait), 0)
        store.receive(batch(number, [upsert(f"u{number:02}")], incarnation=7), 0)
        commit(store)
    assert database.uids() == [f"u{number:02}" for number in range(1, 20)]
    answers = [errors for _slot, incarnation, _number, errors in sink.acks if incarnation == 7]
    assert answers == [{}] * 19
    assert [lane.down for lane in store.lanes.values()] == [True, False]


def test_a_value_one_database_refuses_doubles_nothing_in_the_other(store, database, accounting):
    store.receive(batch(1, [acc("a")], [acc("b")], url="accounting"), 0)
    store.receive(batch(2, [BAD], incarnation=7), 0)
    commit(store)
    assert accounting.calls() == ["a", "b"]


def test_a_database_that_hangs_holds_up_nobody_else(store, database, accounting, sink):
    """While one lane waits for its database the loop gives the other its turn."""

    def meanwhile():
        assert lane.busy
        other = store.receive(batch(1, [upsert("bob")], incarnation=7), 0)
        store.round(other)
        assert sink.acks == [(0, 7, 1, {})]
        assert store.receive(batch(2, [acc("b")], url="accounting", oldest=1), 0) is lane

    accounting.hang = meanwhile
    lane = store.receive(batch(1, [acc("a")], url="accounting"), 0)
    store.round(lane)
    assert lane.has_work
    commit(store)
    assert accounting.calls() == ["a", "b"]


@pytest.mark.parametrize("policy", [REFUSE, JOURNAL])
def test_while_one_tries_whether_the_database_is_back_nobody_waits_for_it(databases, sink, tmp_path, policy):
    """A server that was stopped takes connections and says nothing: each try lasts until the deadline."""
    store = new_store(databases, sink, tmp_path, policy)
    accounting = databases("accounting")
    accounting.down = True
    lane = store.receive(batch(1, [acc("a")], url="accounting", wait=False), 0)
    store.round(lane)

    def meanwhile():
        assert lane.busy
        assert lane.is_ready
        store.receive(batch(2, [acc("b")], url="accounting", wait=False), 0)
        store.receive(batch(3, [acc("c")], url="accounting", wait=True), 0)
        store.round(lane)
        assert sink.refused() == {1: [], 2: [], 3: [0] if policy == REFUSE else []}

    accounting.down = False
    accounting.hang = meanwhile
    retry(store)
    assert accounting.hang is None
    assert accounting.calls() == (["a", "b"] if policy == REFUSE else ["a", "b", "c"])
    assert not lane.down


def test_each_database_has_its_journal(store, databases, database, accounting, sink, tmp_path):
    database.down = accounting.down = True
    store.receive(batch(1, [acc("a")], url="accounting", wait=False), 0)
    store.receive(batch(1, [upsert("bob")], incarnation=7, wait=False), 0)
    commit(store)
    assert len(list(tmp_path.glob("*.journal"))) == 2
    database.down = False
    successor = new_store(databases, sink, tmp_path)
    retry(successor)
    assert database.uids() == ["bob"]
    assert kept(successor) == 1


def test_a_store_that_ends_commits_what_an_abandoned_round_was_busy_with(store, database, accounting):
    class Abandoned(BaseException):
        pass

    def abandon():
        store.take_back()
        for lane in store.by_health():
            store.round(lane)
        raise Abandoned

    accounting.hang = abandon
    lane = store.receive(batch(1, [acc("a")], url="accounting"), 0)
    with pytest.raises(Abandoned):
        store.round(lane)
    assert accounting.calls() == ["a"]


def test_a_folder_that_takes_no_journal_is_an_error_at_start(databases, sink, tmp_path):
    with pytest.raises(BackendError, match="journal"):
        new_store(databases, sink, tmp_path / "missing")


def test_policy_names_are_what_the_configuration_says():
    assert (REFUSE, JOURNAL) == ("refuse", "journal")
