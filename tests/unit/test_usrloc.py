"""The location service: order, write-through, roll-back, loading, expiry, RPCs. The database is a fake in memory."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from serpy.api import LOCATION, STORE, Server
from serpy.errors import BackendError, ConfigError, OutcomeUnknownError, ProtocolError, ResourceError
from serpy.modules import usrloc
from serpy.modules.usrloc import storage
from serpy.modules.usrloc.rpc import LocationFaultError
from serpy.shm.counters import Counters
from serpy.shm.record import FAR_FUTURE, Binding
from serpy.shm.segment import Segment

NOW = int(time.time())


class FakeDatabase:
    """Tables of rows keyed by (uid, contact); what the store writes arrives here."""

    def __init__(self):
        self.rows = {}
        self.down = False
        self.selects = 0

    def add(self, binding):
        self.rows[binding.uid, binding.contact] = dict(zip(storage.COLUMNS, storage.to_row(binding), strict=True))

    def row(self, values):
        return tuple(values[column] for column in storage.COLUMNS)

    def select(self, table, columns, where, *, order="", limit=0):
        self.selects += 1
        if self.down:
            raise BackendError("down")
        return [self.row(values) for (uid, _), values in sorted(self.rows.items()) if uid == where["uid"]]

    def select_page(self, table, columns, key, after, limit):
        if self.down:
            raise BackendError("down")
        behind = [values for key, values in sorted(self.rows.items()) if not after or key > tuple(after)][:limit]
        return [tuple(values[column] for column in columns) for values in behind]


class FakeStore:
    """Applies operations to the database; *before* runs first and may change the table or fail."""

    def __init__(self, database):
        self.database = database
        self.calls = []
        self.before = None
        self.error = None
        self.lands = False
        self.after = 0

    def refuse(self, error, *, lands=False, after=0):
        """Refuse the next write but *after* with *error*; with *lands* the rows reach the disk all the same."""
        self.error, self.lands, self.after = error, lands, after

    def write(self, operations, *, wait, url=""):
        if self.before is not None:
            hook, self.before = self.before, None
            hook()
        error = None
        if self.error is not None and not self.after:
            error, self.error = self.error, None
            if not self.lands:
                raise error
        self.after = max(0, self.after - 1)
        self.apply(operations, wait, url)
        if error is not None:
            raise error

    def apply(self, operations, wait, url):
        self.calls.append((list(operations), wait, url))
        for kind, _, values in operations:
            key = (values["uid"], values["contact"])
            if kind == "upsert":
                self.database.rows[key] = dict(values)
            elif all(self.database.rows.get(key, {}).get(name) == value for name, value in values.items()):
                del self.database.rows[key]


def start(role="udp receiver", server_id=0, **params):
    """A server with the module loaded, its database and its store."""
    params.setdefault("db_mode", 1)
    params.setdefault("db_url", "sqlite:///x")
    segment = Segment(8 * 1024 * 1024)
    server = Server(SimpleNamespace(server_id=server_id))
    server.segment = segment
    server.counters = Counters(segment, 2)
    server.role = role
    exports = usrloc.exports()
    for name, value in params.items():
        setattr(exports.module, name, value)
    exports.init(server)
    database = FakeDatabase()
    store = FakeStore(database)
    server.provide(STORE, store)
    server.open_database = lambda url: database
    exports.child_init(server)
    module = exports.module
    return SimpleNamespace(module=module, server=server, database=database, store=store, location=module.location,
                           rpc=module.rpc, exports=exports)  # fmt: skip


def loaded(**params):
    made = start(**params)
    made.location.table.set_loaded(0, True)
    return made


def binding(contact="sip:a@h", uid="alice", expires_at=NOW + 6000, **more):
    more.setdefault("modified_at", float(NOW))
    return Binding(uid, contact, expires_at, **more)


def put(made, *bindings, remove=(), **more):
    return made.location.update(
        "location", "alice", lambda current: (list(bindings), [b for b in current if b.contact in remove]), **more
    )


def contacts(made, uid="alice"):
    return [b.contact for b in made.location.bindings("location", uid)]


def test_the_service_is_offered_to_other_modules():
    made = start()
    assert made.server.bind(LOCATION) is made.location


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_a_database_mode_without_a_database_is_refused(mode):
    with pytest.raises(ConfigError, match="db_url"):
        start(db_mode=mode, db_url="")


def test_write_through_returns_after_the_row_is_stored():
    made = loaded()
    result = put(made, binding(q=500, received="sip:1.2.3.4:5"))
    assert [b.contact for b in result] == ["sip:a@h"]
    (operations, wait, url) = made.store.calls[0]
    assert (operations[0][0], operations[0][1], wait, url) == ("upsert", "location", True, "sqlite:///x")
    assert made.database.rows["alice", "sip:a@h"] == {
        "uid": "alice", "contact": "sip:a@h", "aor": "", "server_id": 0, "received": "sip:1.2.3.4:5",
        "expires": NOW + 6000, "q": 0.5, "callid": "", "cseq": 0, "flags": 0, "user_agent": "", "instance": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "calls"),
    [pytest.param(0, [], id="memory"), pytest.param(2, [False], id="write-back"), pytest.param(3, [], id="read-only")],
)
def test_other_modes_do_not_wait_for_the_disk(mode, calls):
    made = loaded(db_mode=mode)
    put(made, binding())
    assert [wait for _, wait, _ in made.store.calls] == calls
    assert contacts(made) == ["sip:a@h"]


def test_removing_deletes_the_row():
    made = loaded()
    put(made, binding(), binding("sip:b@h"))
    put(made, remove=("sip:a@h",))
    assert list(made.database.rows) == [("alice", "sip:b@h")]
    assert contacts(made) == ["sip:b@h"]


def test_memory_only_bindings_never_reach_the_database():
    made = loaded()
    put(made, binding(), persist=False)
    assert made.location.bindings("location", "alice")[0].flags == Binding.MEM
    put(made, remove=("sip:a@h",))
    assert made.store.calls == []


def test_unregistering_here_what_another_server_registered_deletes_its_row():
    made = loaded(server_id=1)
    put(made, binding(server_id=2), persist=False)
    put(made, remove=["sip:a@h"])
    assert [kind for operations, _, _ in made.store.calls for kind, _, _ in operations] == ["delete"]


def test_a_removal_by_another_server_deletes_our_row_unless_it_was_refreshed():
    made = loaded(server_id=1)
    put(made, binding(server_id=1))
    put(made, remove=["sip:a@h"], persist=False)
    assert made.store.calls[-1] == (
        [("delete", "location", {"uid": "alice", "contact": "sip:a@h", "expires": NOW + 6000})], False, "sqlite:///x",
    )  # fmt: skip


def test_a_direct_register_takes_a_replica_over():
    made = loaded()
    put(made, binding(), persist=False)
    put(made, binding())
    assert made.location.bindings("location", "alice")[0].flags == 0
    assert ("alice", "sip:a@h") in made.database.rows


@pytest.mark.parametrize(
    ("params", "order"),
    [
        pytest.param({}, ["sip:high@h", "sip:new@h", "sip:old@h", "sip:unset@h"], id="by-q-then-newest"),
        pytest.param(
            {"desc_time_order": 1}, ["sip:unset@h", "sip:new@h", "sip:old@h", "sip:high@h"], id="newest-first"
        ),
    ],
)
def test_order_of_contacts(params, order):
    made = loaded(**params)
    put(
        made,
        binding("sip:old@h", q=500, modified_at=2.0),
        binding("sip:new@h", q=500, modified_at=3.0),
        binding("sip:high@h", q=900, modified_at=1.0),
        binding("sip:unset@h", modified_at=4.0),
    )
    assert contacts(made) == order


def test_a_refused_decision_changes_nothing():
    made = loaded()
    put(made, binding())

    def refuse(current):
        raise ProtocolError("no", status=503)

    with pytest.raises(ProtocolError):
        made.location.update("location", "alice", refuse)
    assert contacts(made) == ["sip:a@h"]


def fail():
    raise BackendError("disk full")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(BackendError("disk full"), id="the database refuses"),
        pytest.param(ResourceError("1000 handlers wait already"), id="too many wait already"),
    ],
)
@pytest.mark.parametrize("mode", [1, 2])
def test_a_refused_write_gives_the_old_bindings_back(mode, error):
    made = loaded(db_mode=mode)
    put(made, binding(cseq=1), binding("sip:b@h"))
    made.store.refuse(error)
    with pytest.raises(type(error)):
        put(made, binding(cseq=2, expires_at=NOW + 9000), binding("sip:c@h"), remove=("sip:b@h",))
    found = {b.contact: b.cseq for b in made.location.bindings("location", "alice")}
    assert found == {"sip:a@h": 1, "sip:b@h": 0}
    assert {contact: row["cseq"] for (_, contact), row in made.database.rows.items()} == found


def test_a_refused_removal_leaves_the_binding_the_row_and_no_tombstone():
    made = loaded()
    buried = []
    made.server.hooks.on_removed.append(lambda table, removed, when: buried.extend(removed))
    put(made, binding())
    made.store.refuse(ResourceError("too many wait"))
    with pytest.raises(ResourceError):
        put(made, remove=("sip:a@h",))
    assert contacts(made) == ["sip:a@h"]
    assert list(made.database.rows) == [("alice", "sip:a@h")]
    assert buried == []


@pytest.mark.parametrize("mode", [1, 2])
def test_a_removal_is_buried_when_it_is_stored_with_the_time_it_was_asked_for(mode):
    made = loaded(db_mode=mode)
    put(made, binding())
    buried = []
    made.server.hooks.on_removed.append(lambda table, removed, when: buried.append((list(made.database.rows), when)))
    before = time.time()
    put(made, remove=("sip:a@h",))
    assert [rows for rows, _ in buried] == [[]]
    assert before <= buried[0][1] <= time.time()


@pytest.mark.parametrize("lands", [True, False])
def test_a_write_of_unknown_outcome_is_followed_by_what_the_table_says(lands):
    """The phone is told 500: whether the rows reached the disk or not, the disk says in the end what the table says."""
    made = loaded()
    put(made, binding(cseq=1), binding("sip:b@h"))
    made.store.refuse(OutcomeUnknownError("no answer"), lands=lands)
    with pytest.raises(OutcomeUnknownError):
        put(made, binding(cseq=2, expires_at=NOW + 9000), binding("sip:c@h"), remove=("sip:b@h",))
    assert {b.contact: b.cseq for b in made.location.bindings("location", "alice")} == {"sip:a@h": 1, "sip:b@h": 0}
    assert {contact: row["cseq"] for (_, contact), row in made.database.rows.items()} == {"sip:a@h": 1, "sip:b@h": 0}
    assert made.store.calls[-1][1] is False


def test_when_the_second_write_is_refused_the_disk_follows_the_table_all_the_same():
    """Ours is on disk; somebody changes the contact meanwhile; to write that is refused."""
    made = loaded()

    def other():
        other_store, made.location.store = made.location.store, None  # another process, whose row comes later
        put(made, binding(cseq=7, modified_at=NOW + 1.0))
        made.location.store = other_store
        made.store.refuse(ResourceError("too many wait"), after=1)

    made.store.before = other
    with pytest.raises(ResourceError):
        put(made, binding(cseq=2))
    assert made.location.bindings("location", "alice")[0].cseq == 7
    assert made.database.rows["alice", "sip:a@h"]["cseq"] == 7


def test_what_another_server_removed_goes_though_the_store_takes_no_more_rows():
    made = loaded(server_id=1)
    put(made, binding(server_id=1))
    made.store.refuse(BackendError("20000 requests are waiting"))
    put(made, remove=["sip:a@h"], persist=False)
    assert contacts(made) == []


def test_a_refused_write_leaves_what_others_changed_meanwhile():
    made = loaded()
    put(made, binding(cseq=1))

    def other_then_fail():
        put(made, binding(cseq=7, modified_at=NOW + 1.0))
        fail()

    made.store.before = other_then_fail
    with pytest.raises(BackendError):
        put(made, binding(cseq=2))
    assert made.location.bindings("location", "alice")[0].cseq == 7


def test_the_database_follows_the_table_when_writes_cross():
    made = loaded()
    # another process removes the contact, and its delete reaches the disk before our upsert
    made.store.before = lambda: put(made, remove=("sip:a@h",))
    put(made, binding())
    assert made.database.rows == {}
    assert contacts(made) == []


def test_a_decision_is_taken_again_when_the_bindings_changed_under_it():
    made = loaded()
    seen = []

    def decide(current):
        seen.append([b.contact for b in current])
        if len(seen) == 1:
            put(made, binding("sip:other@h"))
        return [binding()], []

    made.location.update("location", "alice", decide)
    assert seen == [[], ["sip:other@h"]]
    assert sorted(contacts(made)) == ["sip:a@h", "sip:other@h"]


def test_a_lookup_asks_the_database_while_the_table_is_loading():
    made = start()
    made.database.add(binding())
    assert contacts(made) == ["sip:a@h"]
    assert contacts(made) == ["sip:a@h"]
    assert contacts(made, "nobody") == []
    assert contacts(made, "nobody") == []
    assert made.database.selects == 2
    made.location.table.set_loaded(0, True)
    assert contacts(made, "somebody") == []
    assert made.database.selects == 2


def test_an_update_while_loading_keeps_the_contacts_of_the_database():
    made = start()
    made.database.add(binding("sip:stored@h"))
    put(made, binding("sip:new@h"))
    assert sorted(contacts(made)) == ["sip:new@h", "sip:stored@h"]


def test_a_lookup_while_loading_fails_when_the_database_is_down():
    made = start()
    made.database.down = True
    with pytest.raises(BackendError):
        contacts(made)


def test_preload_brings_all_live_rows_and_skips_the_others():
    made = start(role="timer", server_id=1)
    made.database.add(binding(server_id=1))
    made.database.add(binding("sip:b@h", server_id=2))
    made.database.add(binding(uid="old", expires_at=NOW - 5))
    made.database.add(binding(uid="ever", expires_at=0, flags=Binding.PERMANENT))
    made.module.on_tick(1.0, NOW)
    assert made.location.table.is_loaded(0)
    assert {b.contact: b.flags for b in made.location.bindings("location", "alice")} == {
        "sip:a@h": 0,
        "sip:b@h": Binding.MEM,
    }
    assert contacts(made, "old") == []
    assert made.location.bindings("location", "ever")[0].expires_at == FAR_FUTURE


def test_preload_in_pages_never_splits_a_user(monkeypatch):
    monkeypatch.setattr("serpy.modules.usrloc.preload.PAGE", 3)
    made = start(role="timer")
    for n in range(20):
        for c in range(n % 3 + 1):
            made.database.add(binding(f"sip:{c}@h", uid=f"u{n:02}"))
    made.module.on_tick(1.0, NOW)
    assert all(len(contacts(made, f"u{n:02}")) == n % 3 + 1 for n in range(20))
    assert made.location.table.is_loaded(0)


def test_preload_never_brings_back_what_was_removed_meanwhile():
    made = start(role="timer")
    made.database.add(binding())
    stale = dict(made.database.rows)
    put(made, remove=("sip:a@h",))
    made.database.rows = stale  # the page was read before the delete
    made.module.on_tick(1.0, NOW)
    assert contacts(made) == []


def test_preload_goes_on_when_the_database_comes_back():
    made = start(role="timer")
    made.database.add(binding())
    made.database.down = True
    made.module.on_tick(1.0, NOW)
    assert not made.location.table.is_loaded(0)
    made.database.down = False
    made.module.on_tick(2.0, NOW)
    assert not made.location.table.is_loaded(0)  # not every second
    made.module.on_tick(10.0, NOW)
    assert contacts(made) == ["sip:a@h"]


def test_a_preload_that_cannot_go_on_is_warned_of_once_a_minute(caplog):
    made = start(role="timer")
    made.database.add(binding())
    made.database.down = True
    for now in range(1, 121):
        made.module.on_tick(float(now), NOW)
    assert len([record for record in caplog.records if "loading location" in record.getMessage()]) == 2


def test_a_table_first_used_by_the_script_is_loaded_too():
    made = start(role="timer")
    made.database.add(binding())
    made.module.on_tick(1.0, NOW)
    made.location.bindings("other", "nobody")
    made.module.on_tick(2.0, NOW)
    assert made.location.table.is_loaded(made.location.table_id("other"))


def expire_all(made, wall_now):
    for tick in range(62):
        made.module.on_tick(100.0 + tick, wall_now)


@pytest.mark.parametrize(
    ("params", "rows"),
    [pytest.param({}, 0, id="deleted"), pytest.param({"db_skip_delete": 1}, 1, id="kept-when-asked-for")],
)
def test_expired_bindings_leave_the_table_and_the_database(params, rows):
    made = loaded(role="timer", **params)
    put(made, binding(expires_at=NOW + 5))
    expire_all(made, NOW + 6.0)
    assert contacts(made) == []
    assert len(made.database.rows) == rows
    assert made.server.counters.snapshot()["usrloc.expired"] == 1


def test_expiry_never_deletes_a_row_that_was_refreshed_meanwhile():
    made = loaded(role="timer")
    put(made, binding(expires_at=NOW + 5))
    made.store.before = lambda: put(made, binding(expires_at=NOW + 9000))
    expire_all(made, NOW + 6.0)
    assert made.database.rows["alice", "sip:a@h"]["expires"] == NOW + 9000


def old_rows(made, hours=2):
    """Rows that expired *hours* ago, one that has just expired, one that never does, one that lives."""
    for number in range(5):
        made.database.add(binding(uid=f"old{number}", expires_at=NOW - hours * 3600, server_id=number % 2))
    made.database.add(binding(uid="just", expires_at=NOW - 5))
    made.database.add(binding(uid="ever", expires_at=0, flags=Binding.PERMANENT))
    made.database.rows["ever", "sip:a@h"]["expires"] = 0  # as another program writes it
    made.database.add(binding())


LASTING = [("alice", "sip:a@h"), ("ever", "sip:a@h"), ("just", "sip:a@h")]


def test_rows_that_expired_while_the_server_was_down_leave_the_database():
    made = start(role="timer", server_id=1)
    old_rows(made)
    made.module.on_tick(1.0, NOW)
    assert sorted(made.database.rows) == LASTING
    assert made.server.counters.snapshot()["usrloc.purged"] == 5
    assert all(wait for operations, wait, _ in made.store.calls)


def test_old_rows_are_looked_for_a_page_at_a_time():
    made = start(role="timer")
    for number in range(2500):
        made.database.add(binding(uid=f"old{number:04}", expires_at=NOW - 7200))
    left = []
    for tick in range(3):
        made.module.on_tick(1.0 + tick, NOW)
        left.append(len(made.database.rows))
    assert left == [1500, 500, 0]


@pytest.mark.parametrize("params", [{"db_mode": 3}, {"db_skip_delete": 1}])
def test_old_rows_stay_where_rows_are_not_to_be_deleted(params):
    made = start(role="timer", **params)
    old_rows(made)
    made.module.on_tick(1.0, NOW)
    assert len(made.database.rows) == 8


def test_an_old_row_that_is_refreshed_while_it_is_looked_at_stays():
    made = start(role="timer")
    made.database.add(binding(expires_at=NOW - 7200))
    made.store.before = lambda: made.database.add(binding(expires_at=NOW + 60))  # by another server of the farm
    made.module.on_tick(1.0, NOW)
    assert made.database.rows["alice", "sip:a@h"]["expires"] == NOW + 60


@pytest.mark.parametrize("error", [BackendError("down"), ResourceError("too many wait")])
def test_old_rows_are_looked_at_again_when_that_was_refused(error):
    made = start(role="timer")
    old_rows(made)
    made.store.refuse(error)
    made.module.on_tick(1.0, NOW)
    assert len(made.database.rows) == 8
    made.module.on_tick(2.0, NOW)
    assert len(made.database.rows) == 8
    made.module.on_tick(62.0, NOW)
    assert sorted(made.database.rows) == LASTING


def test_a_server_that_runs_for_long_looks_for_old_rows_again():
    made = start(role="timer")
    made.module.on_tick(1.0, NOW)
    old_rows(made)  # of a server that has left the farm
    made.module.on_tick(2.0, NOW)
    assert len(made.database.rows) == 8
    made.module.on_tick(2.0 + 6 * 3600, NOW)
    assert sorted(made.database.rows) == LASTING


def test_a_permanent_binding_is_stored_with_a_far_date_and_never_expires():
    made = loaded(role="timer")
    put(made, binding(flags=Binding.PERMANENT))
    expire_all(made, NOW + 1e9)
    assert contacts(made) == ["sip:a@h"]
    assert made.database.rows["alice", "sip:a@h"]["expires"] == FAR_FUTURE


@pytest.mark.parametrize(
    ("text", "limit", "cut"),
    [
        pytest.param("abc", 2, "ab", id="cut"),
        pytest.param("a\0b", 9, "a?b", id="nul"),
        pytest.param("é\udcff", 9, "é\ufffd", id="not-utf-8"),
    ],
)
def test_texts_are_made_fit_for_the_database(text, limit, cut):
    assert storage.cut_text(text, limit) == cut


def test_a_row_and_its_binding_say_the_same():
    given = binding(aor="sip:alice@x", received="sip:1.2.3.4:5", q=300, call_id="c", cseq=2**32 - 1, flags=1,
                    user_agent="p", instance="<urn:1>", server_id=4)  # fmt: skip
    row = storage.to_row(given)
    assert storage.to_row(storage.from_row(row, 4)) == row


def test_a_row_keeps_how_a_phone_registered_and_what_tells_it_from_its_double():
    given = binding(
        "sip:bob@10.0.0.1;ob;serpy-id=0a1b2c3d?x=1", received="sip:1.2.3.4:5;transport=tcp", flags=Binding.FLOW
    )
    again = storage.from_row(storage.to_row(given), 0)
    assert (again.contact, again.uri) == (given.contact, "sip:bob@10.0.0.1;ob?x=1")
    assert (again.received, again.flags) == (given.received, Binding.FLOW)


def test_rpc_adds_shows_and_deletes_contacts():
    made = loaded()
    assert made.rpc.add_contact("location", "alice", "sip:a@h", 100, 0.5, 0) == "ok"
    assert made.rpc.add_contact("location", "alice", "sip:ever@h", 0, -1, 128) == "ok"
    shown = made.rpc.show_contacts("location", "alice")
    assert [(s["contact"], s["q"], s["callid"], s["cseq"]) for s in shown] == [
        ("sip:a@h", 0.5, "RPC-Call-ID", 42),
        ("sip:ever@h", -1.0, "RPC-Call-ID", 42),
    ]
    stats = made.rpc.stats()[0]
    assert (stats["domain"], stats["users"], stats["contacts"], stats["loaded"]) == ("location", 1, 2, 1)
    made.rpc.delete_contact("location", "alice", "sip:a@h")
    assert contacts(made) == ["sip:ever@h"]
    made.rpc.delete_uid("location", "alice")
    assert (contacts(made), made.database.rows) == ([], {})


@pytest.mark.parametrize(
    ("call", "code"),
    [
        pytest.param(lambda rpc: rpc.show_contacts("location", "bob"), 404, id="no-such-user"),
        pytest.param(lambda rpc: rpc.show_contacts("nowhere", "bob"), 400, id="no-such-table"),
        pytest.param(lambda rpc: rpc.delete_contact("location", "alice", "sip:x@h"), 404, id="no-such-contact"),
        pytest.param(lambda rpc: rpc.delete_uid("location", "bob"), 404, id="nothing-to-delete"),
        pytest.param(lambda rpc: rpc.add_contact("location", "a", "sip:a@h", 0, 1, 0), 400, id="no-lifetime"),
        pytest.param(lambda rpc: rpc.add_contact("location", "x" * 300, "sip:a@h", 9, 1, 0), 400, id="long-uid"),
        pytest.param(lambda rpc: rpc.dump_file("/nonexistent/dir/file"), 500, id="bad-path"),
    ],
)
def test_rpc_faults(call, code):
    made = loaded()
    put(made, binding())
    with pytest.raises(LocationFaultError) as caught:
        call(made.rpc)
    assert caught.value.code == code


def test_rpc_flush_writes_all_of_ours_again(tmp_path):
    made = loaded()
    put(made, binding())
    put(made, binding("sip:mem@h"), persist=False)
    made.database.rows.clear()
    assert made.rpc.flush() == {"written": 1}
    assert list(made.database.rows) == [("alice", "sip:a@h")]
    path = tmp_path / "dump"
    assert made.rpc.dump_file(str(path))["contacts"] == 2
    assert {json.loads(line)["contact"] for line in path.read_text().splitlines()} == {"sip:a@h", "sip:mem@h"}


@pytest.mark.parametrize(
    ("name", "value", "ok"),
    [
        pytest.param("db_mode", 4, False, id="mode"),
        pytest.param("timer_interval", 0, False, id="interval"),
        pytest.param("reg_avp_flag", "x", False, id="stored-attributes"),
        pytest.param("contact_column", "contact", True, id="the-usual-column"),
        pytest.param("contact_column", "kontakt", False, id="another-column"),
    ],
)
def test_parameters_are_checked(name, value, ok):
    param = next(p for p in usrloc.exports().params if p.name == name)
    assert (param.check(value) == "") is ok
