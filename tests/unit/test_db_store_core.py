"""The store's core and its client, wired by lists instead of sockets."""

from __future__ import annotations

import marshal

import pytest

from serpy.db import schema, writer
from serpy.db.backlog import Backlog
from serpy.db.frames import decode_acks, decode_request, encode_batch, encode_request
from serpy.db.writer import StoreClient
from serpy.errors import BackendError, DatabaseDownError, UsageError
from serpy.modules.db_sqlite import SqliteModule
from serpy.net.loop import Loop
from serpy.workers.store_core import JOURNAL, REFUSE, StoreCore, coalesced

STORE = 9


def binding(uid="alice", contact="sip:a@192.0.2.1", expires=2_000_000_000, **more):
    return {"uid": uid, "aor": f"sip:{uid}@example.com", "contact": contact, "expires": expires, "q": 0.5, **more}


def upsert(*args, **more):
    return ("upsert", "location", binding(*args, **more))


def delete(uid="alice", contact="sip:a@192.0.2.1"):
    return ("delete", "location", {"uid": uid, "contact": contact})


def acc(call_id):
    row = {"sip_callid": call_id, "request_timestamp": 1, "response_timestamp": 2}
    return ("insert", "acc", row)


def sql(text, *values):
    return ("sql", text, {str(place): value for place, value in enumerate(values)})


class Failing:
    """A database in front of the real one that is down when told so."""

    def __init__(self, database):
        self.database = database
        self.down = False
        self.writes = []

    def write(self, operations):
        if self.down:
            raise DatabaseDownError("gone")
        self.database.write(operations)
        self.writes.append(list(operations))

    def select(self, *args, **more):
        if self.down:
            raise DatabaseDownError("gone")
        return self.database.select(*args, **more)


@pytest.fixture
def database(tmp_path):
    handle = SqliteModule().open(f"sqlite:///{tmp_path}/serpy.db", read_only=False, create=True)
    schema.create(handle)
    yield Failing(handle)
    handle.close()


class Sink:
    """Takes the store's answers."""

    def __init__(self):
        self.acks = []
        self.full = False

    def send(self, slot, payload):
        if self.full:
            return False
        self.acks.extend((slot, *ack) for ack in decode_acks(payload))
        return True


@pytest.fixture
def sink():
    return Sink()


def store_for(database, sink, **options):
    return StoreCore(lambda _url: database, sink.send, **options)


@pytest.fixture
def core(database, sink):
    return store_for(database, sink)


def batch(number, *requests, again=False, wait=True, incarnation=100):
    data = [encode_request("", request, wait=wait) for request in requests]
    return encode_batch(incarnation, number, again=again, requests=data)


def uids(database):
    return [row[0] for row in database.database.select("location", ("uid",), {}, order="uid")]


# -- the core


def test_batches_of_all_senders_become_one_transaction(core, database, sink):
    core.receive(batch(101, [upsert("alice")], [upsert("bob")]), 0)
    core.receive(batch(501, [upsert("carol")], incarnation=500), 1)
    core.commit()
    assert len(database.writes) == 1
    assert uids(database) == ["alice", "bob", "carol"]
    assert sink.acks == [(0, 100, 101, {}), (1, 500, 501, {})]


def test_answers_to_one_sender_travel_together(core, sink):
    core._send = lambda slot, payload: sink.acks.append((slot, decode_acks(payload))) or True
    core.receive(batch(101, [upsert("alice")]), 0)
    core.receive(batch(102, [upsert("bob")]), 0)
    core.commit()
    assert sink.acks == [(0, [(100, 101, {}), (100, 102, {})])]


def test_request_the_database_refuses_is_refused_alone(core, database, sink):
    core.receive(batch(101, [upsert("alice")], [("insert", "location", {"uid": "x"})], [upsert("bob")]), 0)
    core.commit()
    assert uids(database) == ["alice", "bob"]
    (_slot, _incarnation, _number, errors) = sink.acks[0]
    assert list(errors) == [1]
    assert "NOT NULL" in errors[1]


def test_unusable_table_name_is_refused_and_harms_nobody(core, database, sink):
    core.receive(batch(101, [("upsert", 'x"; drop', {"uid": 1, "contact": 2})], [upsert("bob")]), 0)
    core.commit()
    assert uids(database) == ["bob"]
    assert list(sink.acks[0][3]) == [0]


def test_batch_sent_again_while_it_waits_is_committed_once(core, database, sink):
    core.receive(batch(101, [acc("a")]), 0)
    core.receive(batch(101, [acc("a")], again=True), 0)
    core.commit()
    assert len(database.database.select("acc", ("id",), {})) == 1
    assert len(sink.acks) == 1


def test_batch_sent_again_after_its_answer_gets_the_same_answer(core, database, sink):
    core.receive(batch(101, [("insert", "location", {"uid": "x"})]), 0)
    core.commit()
    core.receive(batch(101, [("insert", "location", {"uid": "x"})], again=True), 0)
    assert not core.has_work
    assert len(sink.acks) == 2
    assert sink.acks[0] == sink.acks[1]


def test_successor_of_a_killed_store_does_not_insert_twice(core, database, sink):
    core.receive(batch(101, [acc("a")], [acc("b")]), 0)
    core.commit()
    sink.acks.clear()
    successor = store_for(database, sink)
    successor.receive(batch(101, [acc("a")], [acc("b")], again=True), 0)
    successor.receive(batch(102, [acc("c")], again=True), 0)
    successor.commit()
    rows = database.database.select("acc", ("sip_callid",), {}, order="id")
    assert rows == [("a",), ("b",), ("c",)]
    assert [ack[2:] for ack in sink.acks] == [(101, {}), (102, {})]


def test_statement_of_a_script_is_not_run_twice_by_a_successor(core, database, sink):
    count = sql("update global_attrs set value = value + ? where name = 'gflags_count'", 1)
    core.receive(
        batch(100, [("insert", "global_attrs", {"name": "gflags_count", "type": 0, "value": "0", "flags": 33})]), 0
    )
    core.receive(batch(101, [count]), 0)
    core.commit()
    successor = store_for(database, sink)
    successor.receive(batch(101, [count], again=True), 0)
    successor.commit()
    assert database.database.select("global_attrs", ("value",), {"name": "gflags_count"}) == [("1",)]


def test_batch_that_died_with_a_store_is_not_taken_for_done_because_a_later_one_is(core, database, sink):
    core.receive(batch(102, [acc("b")]), 0)  # 101 was read by the predecessor, which was killed
    core.commit()
    core.receive(batch(101, [acc("a")], again=True), 0)
    core.commit()
    assert database.database.select("acc", ("sip_callid",), {}, order="id") == [("b",), ("a",)]


def test_old_batch_numbers_are_removed(core, database):
    for number in (256, 300, 20_480):
        core.receive(batch(number, [acc("a")]), 0)
        core.commit()
    assert database.database.select("store_progress", ("batch",), {}) == [(20_480,)]


def test_new_incarnation_of_a_sender_is_not_taken_for_the_old_one(core, database, sink):
    core.receive(batch(101, [acc("a")]), 0)
    core.commit()
    core.receive(batch(101, [acc("b")], incarnation=101), 0)
    core.commit()
    assert len(database.database.select("acc", ("id",), {})) == 2


def test_answer_that_finds_a_full_socket_is_sent_later(core, sink):
    sink.full = True
    core.receive(batch(101, [upsert()]), 0)
    core.commit()
    assert sink.acks == []
    sink.full = False
    core.tick()
    assert sink.acks == [(0, 100, 101, {})]


def test_refuse_policy_tells_who_waits_and_keeps_the_rest(core, database, sink):
    database.down = True
    core.receive(batch(101, [upsert("alice")], wait=True), 0)
    core.receive(batch(102, [upsert("bob")], wait=False), 0)
    core.commit()
    assert core.down
    assert sink.acks == [(0, 100, 101, {0: "gone"}), (0, 100, 102, {})]
    database.down = False
    core.tick()
    assert uids(database) == ["bob"]
    assert not core.down


def test_kept_rows_go_before_newer_ones(core, database, sink):
    database.down = True
    core.receive(batch(101, [upsert(expires=1)], wait=False), 0)
    core.commit()
    database.down = False
    core.receive(batch(102, [upsert(expires=2)]), 0)
    core.commit()
    assert database.database.select("location", ("expires",), {}) == [(2,)]


def test_journal_outlives_the_store_and_is_replayed_in_order(database, sink, tmp_path):
    path = str(tmp_path / "journal")
    core = store_for(database, sink, policy=JOURNAL, journal_path=path)
    database.down = True
    core.receive(batch(101, [upsert(expires=1)], [delete()]), 0)
    core.receive(batch(102, [upsert(expires=3)]), 0)
    core.commit()
    assert [ack[3] for ack in sink.acks] == [{}, {}]
    database.down = False
    successor = store_for(database, sink, policy=JOURNAL, journal_path=path)
    assert len(successor.backlog) == 3
    successor.tick()
    assert database.database.select("location", ("expires",), {}) == [(3,)]
    assert (tmp_path / "journal").stat().st_size == 0


def test_kept_request_the_database_refuses_does_not_stop_the_others(core, database):
    database.down = True
    core.receive(batch(101, [("insert", "location", {"uid": "x"})], [upsert()], wait=False), 0)
    core.commit()
    database.down = False
    core.tick()
    assert uids(database) == ["alice"]
    assert not core.backlog


# -- the backlog file


@pytest.mark.parametrize("cut", [1, 5, 9, 20])
def test_torn_record_at_the_end_of_the_journal_is_cut_off(tmp_path, cut):
    path = tmp_path / "journal"
    first = Backlog(str(path))
    first.append([b"one" * 10, b"two" * 10])
    first.close()
    path.write_bytes(path.read_bytes()[:-cut])
    second = Backlog(str(path))
    assert second.first(9) == [b"one" * 10]
    second.append([b"three"])
    second.close()
    assert Backlog(str(path)).first(9) == [b"one" * 10, b"three"]


def test_journal_that_cannot_be_written_is_an_error_at_start(tmp_path):
    with pytest.raises(BackendError, match="journal"):
        Backlog(str(tmp_path / "missing" / "journal"))


# -- coalescing


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        pytest.param([upsert(expires=1), upsert(expires=2)], [upsert(expires=2)], id="last-refresh-wins"),
        pytest.param([upsert(), delete()], [delete()], id="removed-after-a-refresh"),
        pytest.param([upsert("a"), delete("b"), upsert("c")], [delete("b"), upsert("a"), upsert("c")], id="grouped"),
        pytest.param(
            [delete(), upsert(q=1)], [delete(), upsert(q=1)], id="partial-row-after-delete-starts-from-defaults"
        ),
        pytest.param(
            [upsert(flags=1), upsert()], [("upsert", "location", {**binding(flags=1)})], id="partial-rows-are-merged"
        ),
        pytest.param(
            [upsert("a"), ("delete", "location", {"uid": "a"}), upsert("a")],
            [upsert("a"), ("delete", "location", {"uid": "a"}), upsert("a")],
            id="wide-delete-is-a-barrier",
        ),
        pytest.param([acc("1"), upsert(), acc("1")], [upsert(), acc("1"), acc("1")], id="inserts-all-stay"),
        pytest.param(
            [upsert("a"), acc("1"), sql("delete from location"), upsert("a"), delete("b")],
            [upsert("a"), acc("1"), sql("delete from location"), delete("b"), upsert("a")],
            id="statement-is-a-barrier",
        ),
    ],
)
def test_coalesced(operations, expected):
    assert coalesced(operations) == expected


def test_coalescing_never_changes_the_result(database):
    from random import Random

    random = Random(7)
    plain = database.database
    for _ in range(60):
        operations = []
        for _ in range(random.randrange(1, 14)):
            uid, contact = random.choice("ab"), random.choice("xy")
            choice = random.randrange(6)
            if choice == 5:
                operations.append(sql("update location set flags = flags + ? where uid = ?", 1, uid))
            elif choice < 2:
                operations.append(upsert(uid, contact, random.randrange(9)))
            elif choice == 2:
                operations.append(("upsert", "location", {"uid": uid, "contact": contact, "aor": "", "flags": 3}))
            elif choice == 3:
                operations.append(delete(uid, contact))
            else:
                operations.append(("delete", "location", {"uid": uid}))
        results = []
        for variant in (operations, coalesced(operations)):
            plain.execute("delete from location")
            plain.write(variant)
            columns = ("uid", "contact", "aor", "expires", "flags", "q")
            results.append(plain.select("location", columns, {}, order="uid, contact"))
        assert results[0] == results[1], operations


def test_value_that_is_not_plain_is_refused():
    with pytest.raises(UsageError):
        encode_request("", [("insert", "acc", {"id": object()})], wait=True)


# -- the client


class Wire:
    """The channels of one client; the test delivers."""

    def __init__(self):
        self.sent = []
        self.full = False

    def send(self, slot, kind, payload):
        if self.full:
            return False
        self.sent.append((slot, kind, payload))
        return True


class Bench:
    """A client in a running loop with a store at the other end of a list."""

    def __init__(self, core, sink, **options):
        self.loop = Loop()
        self.wire = Wire()
        self.store = 1
        self.client = StoreClient(self.loop, self.wire, STORE, 2, lambda: self.store, **options)
        self.core = core
        core._send = self.answer
        self.results = {}

    def answer(self, _slot, payload):
        self.loop.spawn(lambda: self.client.on_ack(payload, STORE))
        return True

    def serve(self):
        """Let the store take what is on the wire."""
        for _slot, _kind, payload in self.wire.sent:
            self.core.receive(payload, 0)
        self.wire.sent.clear()
        self.core.commit()

    def write(self, name, *operations):
        try:
            self.client.write(operations, wait=True)
            self.results[name] = "stored"
        except BackendError as exc:
            self.results[name] = str(exc)

    def run(self, *steps):
        """Run *steps* one after the other in the loop, then until all writers have a result."""
        wanted = [0]

        def body():
            for step in steps:
                if isinstance(step, tuple):
                    wanted[0] += 1
                    self.loop.spawn(lambda step=step: self.write(*step))
                    self.loop.sleep(0)
                else:
                    step()
            while len(self.results) < wanted[0]:
                self.loop.sleep(0.002)
            self.loop.stop()

        self.loop.spawn(body)
        self.loop.run()


@pytest.fixture
def bench(core, sink):
    return Bench(core, sink, interval_s=0.001, timeout_s=3.0)


def test_writer_returns_after_the_commit(bench, database):
    early = []
    bench.run(("alice", upsert("alice")), lambda: early.extend(bench.results), bench.serve)
    assert early == []
    assert bench.results == {"alice": "stored"}
    assert uids(database) == ["alice"]
    assert bench.client.waiting == 0


def test_writer_gets_the_reason_of_a_refusal(bench, database):
    database.down = True
    bench.run(("alice", upsert("alice")), bench.serve)
    assert bench.results == {"alice": "gone"}
    assert bench.client.refused == 1


def test_requests_of_one_interval_share_a_datagram(core, sink, database):
    bench = Bench(core, sink, interval_s=0.02)

    def check():
        bench.loop.sleep(0.05)
        assert len(bench.wire.sent) == 2
        bench.serve()

    bench.run(*[(f"u{i}", upsert(f"u{i}")) for i in range(6)], check)
    assert set(bench.results.values()) == {"stored"}


def test_full_socket_is_tried_again(bench):
    def later():
        bench.wire.full = False
        bench.loop.sleep(0.01)
        bench.serve()

    bench.wire.full = True
    bench.run(("alice", upsert("alice")), later)
    assert bench.results == {"alice": "stored"}


def test_requests_lost_with_a_killed_store_are_sent_to_its_successor(bench, database, monkeypatch):
    monkeypatch.setattr(writer, "CHECK_S", 0.005)

    def kill():
        bench.wire.sent.clear()  # read by the store that then died
        bench.store = 2
        while not bench.wire.sent:
            bench.loop.sleep(0.002)
        bench.serve()

    bench.run(("alice", upsert("alice")), kill)
    assert bench.results == {"alice": "stored"}
    assert bench.client.resent == 1


def test_no_answer_before_the_deadline_is_an_error(core, sink):
    bench = Bench(core, sink, timeout_s=0.02)
    bench.run(("alice", upsert("alice")))
    assert bench.results == {"alice": "the store did not answer within 0.02 s"}


def test_silent_store_gets_only_a_few_datagrams_and_never_what_was_refused(core, sink, database):
    bench = Bench(core, sink, timeout_s=0.05, interval_s=0.001)

    def slowly():
        bench.loop.sleep(0.002)

    steps = [step for i in range(10) for step in ((f"u{i}", upsert(f"u{i}")), slowly)]
    bench.run(*steps)
    assert len(bench.wire.sent) <= writer.MAX_IN_FLIGHT
    assert all("did not answer" in result for result in bench.results.values())
    assert not bench.client._queue


def test_answer_for_a_predecessor_is_ignored(bench):
    from serpy.db.frames import encode_acks

    bench.client.write([upsert()], wait=False)
    number = next(iter(bench.client._sent))
    bench.client.on_ack(encode_acks([(1, number, {})]), STORE)
    assert bench.client.waiting == 1


def test_large_write_is_cut_into_datagrams(bench, database):
    operations = [upsert(f"u{i:03}", user_agent="x" * 1000) for i in range(300)]
    bench.client.write(operations, wait=False)
    for _ in range(9):
        for payload in [sent[2] for sent in bench.wire.sent]:
            assert len(payload) < 65_000
            bench.core.receive(payload, 0)
        bench.wire.sent.clear()
        acks = []
        bench.core._send = lambda _slot, payload, acks=acks: acks.append(payload) or True
        bench.core.commit()
        for payload in acks:
            bench.client.on_ack(payload, STORE)
        bench.client.flush()
    assert len(uids(database)) == 300
    assert bench.client.waiting == 0


def test_row_larger_than_a_datagram_is_refused(bench):
    with pytest.raises(BackendError, match="larger"):
        bench.client.write([upsert(user_agent="x" * 70_000)], wait=False)


def test_request_keeps_bytes_that_were_not_utf8():
    odd = b"\xff".decode("utf-8", "surrogateescape")
    assert decode_request(encode_request("", [upsert(contact=odd)], wait=True))[2][0][2]["contact"] == odd


@pytest.mark.parametrize("values", [{}, {"uid": "a"}, {"uid": "a", "q": None, "expires": 5}])
def test_request_travels_with_its_columns_in_order(values):
    url, wait, [(kind, table, decoded)] = decode_request(encode_request("u", [("upsert", "t", values)], wait=True))
    assert (url, wait, kind, table) == ("u", True, "upsert", "t")
    assert dict(decoded.items()) == {**decoded} == values
    assert tuple(decoded) == tuple(values)
    assert len(decoded) == len(values)
    assert ("uid" in decoded) == ("uid" in values)


def test_request_in_the_journal_of_an_older_version_is_read():
    old = marshal.dumps(("u", False, [("insert", "acc", {"sip_callid": "x", "flags": 1})]), 2)
    assert decode_request(old) == ("u", False, [("insert", "acc", {"sip_callid": "x", "flags": 1})])


def test_column_whose_name_could_not_be_told_from_two_is_refused():
    with pytest.raises(UsageError):
        encode_request("", [("insert", "acc", {"a\nb": 1})], wait=True)


def test_policy_names_are_what_the_configuration_says():
    assert (REFUSE, JOURNAL) == ("refuse", "journal")


@pytest.mark.parametrize(
    ("wait", "again", "waited_for"),
    [
        pytest.param(True, False, True, id="a registration"),
        pytest.param(False, False, False, id="an accounting row"),
        pytest.param(False, True, True, id="one that is late already"),
    ],
)
def test_the_core_says_whether_somebody_waits_for_a_batch(core, wait, again, waited_for):
    assert core.receive(batch(101, [acc("c1")], wait=wait, again=again), 1) is waited_for
