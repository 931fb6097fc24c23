"""The client of the store: order, bounds, refusals, a store that dies. Wired by lists instead of sockets."""

from __future__ import annotations

import marshal

import pytest
from support.stores import Failing, acc, delete, upsert

from serpy.db import schema, writer
from serpy.db.frames import decode_batch, decode_request, encode_acks, encode_request
from serpy.db.store import Store
from serpy.db.writer import StoreClient
from serpy.errors import BackendError, OutcomeUnknownError, ResourceError, UsageError
from serpy.modules.db_sqlite import SqliteModule
from serpy.net.loop import Loop

STORE = 9


@pytest.fixture
def database(tmp_path):
    handle = SqliteModule().open(f"sqlite:///{tmp_path}/serpy.db", read_only=False, create=True)
    schema.create(handle)
    yield Failing(handle)
    handle.close()


class Wire:
    """The channels of one client; the test delivers."""

    def __init__(self):
        self.sent = []
        self.full = False

    def send(self, slot, kind, payload):
        if self.full:
            return False
        self.sent.append(payload)
        return True


class Bench:
    """A client in a running loop with a store at the other end of a list."""

    def __init__(self, database, folder, max_parked=1000, **options):
        self.loop = Loop(max_parked)
        self.wire = Wire()
        self.pid = 1
        self.database = database
        self.folder = folder
        self.client = StoreClient(self.loop, self.wire, STORE, 2, lambda: self.pid, **options)
        self.results = {}
        self.new_store()

    def new_store(self):
        self.store = Store(lambda _url: self.database, self.answer, folder=str(self.folder))

    def answer(self, _slot, payload):
        self.loop.spawn(lambda: self.client.on_ack(payload, STORE))
        return True

    def read(self):
        """Let the store read what is on the wire."""
        sent, self.wire.sent = self.wire.sent, []
        for payload in sent:
            self.store.receive(payload, 0)

    def serve(self):
        """Let the store take what is on the wire and commit it."""
        self.read()
        while busy := [lane for lane in self.store.lanes.values() if lane.has_work]:
            for lane in busy:
                self.store.round(lane)

    def kill(self):
        """The store is gone with what it has read, and there is another one."""
        self.pid += 1
        self.new_store()

    def write(self, name, *operations, url=""):
        try:
            self.client.write(operations, wait=True, url=url)
            self.results[name] = "stored"
        except (BackendError, ResourceError) as exc:
            self.results[name] = exc

    def until(self, condition):
        while not condition():
            self.loop.sleep(0.002)

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
            self.until(lambda: len(self.results) >= wanted[0])
            self.loop.stop()

        self.loop.spawn(body)
        self.loop.run()


@pytest.fixture
def bench(database, tmp_path):
    return Bench(database, tmp_path, interval_s=0.001, timeout_s=3.0)


def test_writer_returns_after_the_commit(bench, database):
    early = []
    bench.run(("alice", upsert("alice")), lambda: early.extend(bench.results), bench.serve)
    assert early == []
    assert bench.results == {"alice": "stored"}
    assert database.uids() == ["alice"]
    assert bench.client.waiting == 0


def test_writer_gets_the_reason_of_a_refusal(bench, database):
    database.down = True
    bench.run(("alice", upsert("alice")), bench.serve)
    assert str(bench.results["alice"]) == "gone"
    assert not isinstance(bench.results["alice"], OutcomeUnknownError)
    assert bench.client.refused == 1


def test_writer_whose_commit_got_no_answer_knows_that_it_may_be_stored(bench, database):
    database.cut = {1}
    bench.run(("alice", upsert("alice")), bench.serve)
    assert isinstance(bench.results["alice"], OutcomeUnknownError)
    assert str(bench.results["alice"]) == "cut"


def test_requests_of_one_interval_share_a_datagram(database, tmp_path):
    bench = Bench(database, tmp_path, interval_s=0.5)  # long beside six writes, also on a busy machine

    def check():
        bench.until(lambda: len(bench.wire.sent) > 1)
        assert len(bench.wire.sent) == 2
        bench.serve()

    bench.run(*[(f"u{i}", upsert(f"u{i}")) for i in range(6)], check)
    assert set(bench.results.values()) == {"stored"}


def test_requests_for_two_databases_never_share_a_datagram(bench):
    bench.client.write([upsert()], wait=False, url="a")
    bench.client.write([acc("c")], wait=False, url="b")
    bench.client.flush()
    assert [decode_batch(payload)[0] for payload in bench.wire.sent] == ["a", "b"]


def test_what_waits_for_one_database_never_refuses_a_row_for_the_other(bench):
    for number in range(writer.MAX_WAITING):
        bench.client.write([acc(str(number))], wait=False, url="hanging")
    with pytest.raises(BackendError, match="waiting"):
        bench.client.write([acc("more")], wait=False, url="hanging")
    before = len(bench.wire.sent)
    bench.client.write([upsert()], wait=False, url="fine")
    assert [decode_batch(payload)[0] for payload in bench.wire.sent[before:]] == ["fine"]


def test_full_socket_is_tried_again(bench):
    def later():
        bench.wire.full = False
        bench.until(lambda: bench.wire.sent)
        bench.serve()

    bench.wire.full = True
    bench.run(("alice", upsert("alice")), later)
    assert bench.results == {"alice": "stored"}


def test_nothing_newer_passes_what_found_a_full_socket(bench, database):
    def newer():
        bench.wire.full = False
        bench.client.write([delete("alice")], wait=False)
        bench.until(lambda: len(bench.wire.sent) == 2)
        bench.serve()

    bench.wire.full = True
    bench.run(("alice", upsert("alice")), newer)
    assert database.uids() == []


def test_requests_lost_with_a_killed_store_are_sent_to_its_successor(bench, database):
    def kill():
        bench.read()
        bench.kill()
        bench.until(lambda: bench.wire.sent)
        bench.serve()

    bench.run(("alice", upsert("alice")), kill)
    assert bench.results == {"alice": "stored"}
    assert database.uids() == ["alice"]
    assert bench.client.resent == 1


def test_the_successor_of_a_killed_store_gets_the_older_batch_first(bench, database):
    """db_mode 2: nobody waits; the registration was read by the store that died, the removal by its successor."""

    def body():
        bench.client.write([upsert("alice")], wait=False)
        bench.read()
        bench.new_store()
        bench.loop.sleep(0.002)
        bench.client.write([delete("alice")], wait=False)  # the client does not know yet
        bench.until(lambda: bench.wire.sent)
        bench.serve()
        bench.pid += 1
        bench.until(lambda: bench.wire.sent)
        bench.serve()

    bench.run(body)
    assert database.uids() == []
    assert [kind for write in database.writes for kind, table, _ in write if table == "location"][-1] == "delete"


def test_no_answer_before_the_deadline_is_an_error_of_unknown_outcome(database, tmp_path):
    bench = Bench(database, tmp_path, timeout_s=0.02)
    bench.run(("alice", upsert("alice")))
    assert isinstance(bench.results["alice"], OutcomeUnknownError)
    assert str(bench.results["alice"]) == "the store did not answer within 0.02 s"


def test_silent_store_gets_only_a_few_datagrams_and_never_what_was_refused(database, tmp_path):
    bench = Bench(database, tmp_path, timeout_s=0.05, interval_s=0.001)

    def slowly():
        bench.loop.sleep(0.002)

    steps = [step for i in range(10) for step in ((f"u{i}", upsert(f"u{i}")), slowly)]
    bench.run(*steps)
    assert len(bench.wire.sent) <= writer.MAX_IN_FLIGHT
    assert all("did not answer" in str(result) for result in bench.results.values())
    assert sum(not isinstance(result, OutcomeUnknownError) for result in bench.results.values()) >= 6
    sent = sum(len(decode_batch(payload)[5]) for payload in bench.wire.sent)
    assert bench.client.waiting == sent


def test_who_may_not_wait_leaves_nothing_on_its_way(database, tmp_path):
    bench = Bench(database, tmp_path, max_parked=2, interval_s=0.001, timeout_s=3.0)
    bench.run(("alice", upsert("alice")), ("bob", upsert("bob")), ("carol", upsert("carol")), bench.serve, bench.serve)
    assert {name: type(result).__name__ for name, result in bench.results.items()} == {
        "alice": "str", "bob": "ResourceError", "carol": "ResourceError",
    }  # fmt: skip
    assert database.uids() == ["alice"]
    assert bench.client.waiting == 0


def test_answer_for_a_predecessor_is_ignored(bench):
    bench.client.write([upsert()], wait=False)
    number = decode_batch(bench.wire.sent[0])[2]
    bench.client.on_ack(encode_acks([(1, number, {})]), STORE)
    assert bench.client.waiting == 1


def test_rows_refused_behind_everybodys_back_are_reported_once(bench, caplog):
    for _ in range(3):
        bench.client.write([acc("c")], wait=False)
        bench.client.flush()
        _, incarnation, number, *_ = decode_batch(bench.wire.sent.pop())
        bench.client.on_ack(encode_acks([(incarnation, number, {0: "no room"})]), STORE)
    assert [record.message for record in caplog.records] == [
        "rows nobody waits for are lost (1 since the last report): no room"
    ]
    assert bench.client.refused == 3


def test_large_write_is_cut_into_datagrams(bench, database):
    operations = [upsert(f"u{i:03}", user_agent="x" * 1000) for i in range(300)]
    bench.client.write(operations, wait=False)
    acks = []
    bench.store = Store(lambda _url: database, lambda _slot, payload: acks.append(payload) or True)
    for _ in range(9):
        assert all(len(payload) < 65_000 for payload in bench.wire.sent)
        bench.serve()
        for payload in acks:
            bench.client.on_ack(payload, STORE)
        acks.clear()
        bench.client.flush()
    assert len(database.uids()) == 300
    assert bench.client.waiting == 0


def test_row_larger_than_a_datagram_is_refused(bench):
    with pytest.raises(BackendError, match="larger"):
        bench.client.write([upsert(user_agent="x" * 70_000)], wait=False)


# -- the frames


def test_request_keeps_bytes_that_were_not_utf8():
    odd = b"\xff".decode("utf-8", "surrogateescape")
    assert decode_request(encode_request([upsert(contact=odd)], wait=True))[1][0][2]["contact"] == odd


@pytest.mark.parametrize("values", [{}, {"uid": "a"}, {"uid": "a", "q": None, "expires": 5}])
def test_request_travels_with_its_columns_in_order(values):
    wait, [(kind, table, decoded)] = decode_request(encode_request([("upsert", "t", values)], wait=True))
    assert (wait, kind, table) == (True, "upsert", "t")
    assert dict(decoded.items()) == {**decoded} == values
    assert tuple(decoded) == tuple(values)
    assert len(decoded) == len(values)
    assert ("uid" in decoded) == ("uid" in values)


def test_value_that_is_not_plain_is_refused():
    with pytest.raises(UsageError):
        encode_request([("insert", "acc", {"id": object()})], wait=True)


def test_a_journal_of_the_version_before_is_read_where_names_were_text():
    data = marshal.dumps((False, [("insert", "acc", "from_uid\nsip_callid", ("u1", "c1"))]), 2)
    wait, [(kind, table, decoded)] = decode_request(data)
    assert (wait, kind, table, dict(decoded.items())) == (
        False,
        "insert",
        "acc",
        {"from_uid": "u1", "sip_callid": "c1"},
    )


def test_column_whose_name_could_not_be_told_from_two_is_refused():
    with pytest.raises(UsageError):
        encode_request([("insert", "acc", {"a\nb": 1})], wait=True)
