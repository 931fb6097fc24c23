"""acc_db: which transactions get a row, what is in it, and that a peer cannot spoil one."""

from types import SimpleNamespace

import pytest
from support.contexts import configure, context, function, reply_text, request_text, server

from serpy.api import CALLS, STORE, Authenticated, ConfigError
from serpy.context.avps import FROM_DOMAIN, FROM_URI, FROM_USER, TO_URI, TO_USER
from serpy.db import schema
from serpy.errors import BackendError
from serpy.modules import acc_db
from serpy.modules.db_sqlite import SqliteModule
from serpy.net.loop import Loop
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip.parser import parse_message

LOG, MISSED = 1, 2
ARRIVED = 1_700_000_000.7


class Store:
    """A StoreService that keeps the rows."""

    def __init__(self):
        self.rows = []
        self.error = ""

    def write(self, operations, *, wait, url=""):
        if self.error:
            raise BackendError(self.error)
        assert not wait
        assert url == "sqlite:///acc.db"
        for kind, table, values in operations:
            assert kind == "insert"
            self.rows.append((table, dict(values)))


class World:
    """One module with its server."""

    def __init__(self, **parameters):
        self.server = server()
        self.server.settings = SimpleNamespace(server_id=7)
        self.server.segment = Segment(1 << 20)
        self.server.counters = Counters(self.server.segment, 2)
        self.server.loop = Loop()
        self.store = Store()
        self.server.provide(STORE, self.store)
        parameters = {"log_flag": LOG, "log_missed_flag": MISSED, "db_url": "sqlite:///acc.db", **parameters}
        self.exports = configure(acc_db.exports(), self.server, **parameters)
        self.server.slot = 0
        self.server.counters.attach(0)
        self.module = self.exports.module

    def end(self, ctx, status=200, *, response=None, to_tag="t1", uri="sip:bob@203.0.113.9:5080"):
        for watcher in self.server.hooks.on_answer:
            watcher(ctx, ARRIVED, status, response, to_tag, uri)

    def fail(self, ctx, status=486, *, response=None, to_tag="t1", uri="sip:bob@203.0.113.9:5080"):
        for watcher in self.server.hooks.on_failed:
            watcher(ctx, ARRIVED, status, response, to_tag, uri)

    def tables(self):
        return [table for table, _ in self.store.rows]


def call(*headers, flags=1 << LOG, **parts):
    ctx = context(request_text(*headers, **parts))
    ctx.flags = flags
    return ctx


def test_an_answered_call_has_a_whole_row():
    world = World(attrs="$f.account, $t.rate")
    ctx = call(uri="sip:bob@example.com")
    ctx.avps.add(FROM_USER, "uid", "u-alice")
    ctx.avps.add(TO_USER, "uid", "u-bob")
    ctx.avps.add(FROM_DOMAIN, "did", "d1")
    ctx.avps.add(FROM_URI, "account", 'say "hi"\\')
    ctx.avps.add(TO_URI, "rate", 3)
    ctx.authenticated = Authenticated("alice", "example.com")
    world.end(ctx, response=parse_message(reply_text().encode()), to_tag="t1")
    ((table, row),) = world.store.rows
    assert table == "acc"
    now = row.pop("response_timestamp")
    assert abs(now - world.server.loop.wall_now()) < 5
    assert row == {
        "server_id": 7, "from_uid": "u-alice", "to_uid": "u-bob", "to_did": None, "from_did": "d1",
        "sip_from": "<sip:alice@example.com>;tag=f1", "sip_to": "<sip:bob@example.com>;tag=t1", "sip_status": 200,
        "sip_method": "INVITE", "in_ruri": "sip:bob@example.com", "out_ruri": "sip:bob@203.0.113.9:5080",
        "from_uri": "sip:alice@example.com", "to_uri": "sip:bob@example.com", "sip_callid": "call-1@203.0.113.7",
        "sip_cseq": 1, "digest_username": "alice", "digest_realm": "example.com", "from_tag": "f1", "to_tag": "t1",
        "src_ip": "203.0.113.7", "src_port": 5062, "request_timestamp": 1_700_000_000, "flags": 1 << LOG,
        "attrs": 'account="say \\"hi\\"\\\\",rate="3"',
    }  # fmt: skip


def test_the_row_fits_the_schema(tmp_path):
    url = f"sqlite:///{tmp_path}/acc.db"
    database = SqliteModule().open(url, read_only=False, create=True)
    schema.create(database)
    world = World()
    world.end(call())
    database.write([("insert", table, row) for table, row in world.store.rows])
    assert database.execute("select request_timestamp, sip_status, server_id from acc") == [
        ("2023-11-14 22:13:20", 200, 7)
    ]


ALL = {"failed_transactions": 1, "report_cancels": 1, "early_media": 1}


@pytest.mark.parametrize(
    ("parameters", "method", "flags", "status", "tables"),
    [
        pytest.param({}, "INVITE", 1 << LOG, 200, ["acc"], id="answered"),
        pytest.param({}, "BYE", 1 << LOG, 200, ["acc"], id="non-invite-too"),
        pytest.param({}, "INVITE", 0, 200, [], id="no-flag"),
        pytest.param({}, "INVITE", 1 << MISSED, 200, [], id="only-the-missed-flag-and-answered"),
        pytest.param({}, "INVITE", 1 << LOG, 486, [], id="failed"),
        pytest.param({}, "INVITE", 1 << MISSED, 486, ["missed_calls"], id="missed"),
        pytest.param({}, "INVITE", 6, 302, ["missed_calls"], id="redirected-is-missed"),
        pytest.param({}, "MESSAGE", 6, 480, [], id="only-calls-are-missed"),
        pytest.param({"failed_transactions": 1}, "INVITE", 6, 486, ["missed_calls", "acc"], id="missed-and-failed"),
        pytest.param({"failed_transactions": 1}, "BYE", 2, 481, ["acc"], id="failed-bye-if-asked-for"),
        pytest.param({}, "CANCEL", 2, 200, [], id="cancel"),
        pytest.param({"report_cancels": 1}, "CANCEL", 2, 200, ["acc"], id="cancel-if-asked-for"),
        pytest.param({}, "INVITE", 2, 183, [], id="early-media"),
        pytest.param({"early_media": 1}, "INVITE", 2, 183, ["acc"], id="early-media-if-asked-for"),
        pytest.param({"log_flag": -1, **ALL}, "INVITE", 2, 200, [], id="switched-off"),
        pytest.param({"log_missed_flag": -1}, "INVITE", 6, 486, [], id="missed-switched-off"),
        pytest.param({"log_flag": 0}, "INVITE", 1, 200, ["acc"], id="flag-zero-is-a-flag"),
        pytest.param({"acc_table": "cdr"}, "INVITE", 2, 200, ["cdr"], id="another-table"),
        pytest.param({"mc_table": "lost"}, "INVITE", 4, 404, ["lost"], id="another-table-of-missed-calls"),
    ],
)
def test_which_transactions_get_a_row(parameters, method, flags, status, tables):
    world = World(**parameters)
    world.end(call(method=method, flags=flags), status)
    assert world.tables() == tables


def test_a_missed_call_is_written_once_though_it_fails_thrice_and_is_answered_at_last():
    world = World()
    ctx = call(flags=6)
    world.fail(ctx, 486)
    world.fail(ctx, 408)
    assert ctx.flags == 1 << LOG
    world.end(ctx, 200)
    assert world.tables() == ["missed_calls", "acc"]
    assert [row["sip_status"] for _, row in world.store.rows] == [486, 200]


def test_the_second_183_is_no_news():
    world = World(early_media=1)
    ctx = call()
    world.end(ctx, 183)
    world.end(ctx, 183)
    world.end(ctx, 200)
    assert [row["sip_status"] for _, row in world.store.rows] == [183, 200]


def test_an_ack_gets_the_ids_of_its_invite_once():
    world = World(report_ack=1)
    invite = call()
    invite.avps.add(FROM_USER, "uid", "u-alice")
    world.end(invite)
    ack = context(request_text(method="ACK", to_tag="t1", uri="sip:bob@203.0.113.9"), now=world.server.loop.now())
    other = context(request_text(method="ACK", to_tag="t2"), now=world.server.loop.now())
    for ctx in (other, ack, ack):
        assert all(hook(ctx) for hook in world.server.hooks.pre_script)
    assert [row["sip_method"] for _, row in world.store.rows] == ["INVITE", "ACK"]
    row = world.store.rows[1][1]
    assert (row["from_uid"], row["sip_status"], row["in_ruri"], row["flags"]) == (
        "u-alice", 200, "sip:bob@203.0.113.9", 1 << LOG,
    )  # fmt: skip


def test_without_report_ack_no_message_pays_for_it():
    assert World().server.hooks.pre_script == []


def test_only_flagged_requests_are_watched():
    assert World().server.hooks.watched_flags == 6


@pytest.mark.parametrize(
    ("name", "table"),
    [pytest.param("acc_db_log", "acc", id="log"), pytest.param("acc_db_missed", "missed_calls", id="missed")],
)
@pytest.mark.parametrize(
    ("arguments", "status"), [pytest.param((), None, id="no-code"), pytest.param((404,), 404, id="code")]
)
def test_the_script_writes_a_row_when_it_likes(name, table, arguments, status):
    world = World()
    ctx = call(flags=0)
    ctx.request_uri = "sip:new@example.com"
    assert function(world.exports, name)(ctx, *arguments) == 1
    ((found, row),) = world.store.rows
    assert (found, row["sip_status"], row["out_ruri"], row["to_tag"]) == (table, status, "sip:new@example.com", None)


def test_the_script_logs_no_cancel_unless_asked_for():
    world = World()
    assert function(world.exports, "acc_db_log")(call(method="CANCEL")) == 1
    assert world.store.rows == []


def test_a_row_that_the_store_cannot_take_is_counted_and_false():
    world = World()
    world.store.error = "20000 requests are waiting"
    assert function(world.exports, "acc_db_log")(call()) == -1
    world.end(call())
    assert world.server.counters.snapshot()["acc_db.lost"] == 2


def test_log_fmt_leaves_columns_out_but_never_the_times():
    world = World(log_fmt="cS")
    world.end(call())
    assert sorted(world.store.rows[0][1]) == [
        "request_timestamp", "response_timestamp", "server_id", "sip_callid", "sip_status",
    ]  # fmt: skip


def test_columns_of_another_name_and_their_times_as_text():
    world = World(callid_column="call_id", reqtimestamp_column="began")
    world.end(call())
    row = world.store.rows[0][1]
    assert row["call_id"] == "call-1@203.0.113.7"
    assert row["began"] == "2023-11-14 22:13:20"
    assert isinstance(row["response_timestamp"], str)


LONG = "x" * 300


@pytest.mark.parametrize(
    ("header", "column", "value"),
    [
        pytest.param("From: <sip:a\0b@example.com>;tag=f1", "sip_from", "<sip:a?b@example.com>;tag=f1", id="nul"),
        pytest.param(b'From: "\xff" <sip:a@example.com>;tag=f1', "sip_from", '"\ufffd" <sip:a@example.com>;tag=f1',
                     id="not-utf-8"),
        pytest.param(f"From: <sip:a@example.com>;tag={LONG}", "from_tag", "x" * 128, id="long-tag"),
        pytest.param(f"From: <sip:{LONG}@example.com>;tag=f", "from_uri", "sip:" + "x" * 251, id="long-uri"),
    ],
)  # fmt: skip
def test_what_a_peer_writes_can_be_stored(header, column, value):
    world = World()
    data = header if isinstance(header, bytes) else header.encode()
    name = data.partition(b":")[0]
    lines = request_text().encode().split(b"\r\n")
    ctx = context(b"\r\n".join(data if line.startswith(name + b":") else line for line in lines))
    ctx.flags = 1 << LOG
    world.end(ctx)
    assert world.store.rows[0][1][column] == value


def test_attributes_that_do_not_fit_are_left_out_whole():
    world = World(attrs="a,b,c")
    ctx = call()
    for name, value in (("a", "1"), ("b", LONG), ("c", "3")):
        ctx.avps.add(FROM_URI, name, value)
    ctx.avps.add(FROM_URI, "c", "4")
    world.end(ctx)
    assert world.store.rows[0][1]["attrs"] == 'a="1",c="3",c="4"'


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        pytest.param({"log_flag": 3, "log_missed_flag": 3}, "same flag", id="one-flag-for-both"),
        pytest.param({"attrs": "$x.y"}, "attrs", id="no-such-class"),
        pytest.param({"from_column": "sip_to"}, "share one column", id="one-column-twice"),
    ],
)
def test_parameters_that_cannot_work_are_refused(parameters, text):
    with pytest.raises(ConfigError, match=text):
        World(**parameters)


@pytest.mark.parametrize(("value", "ok"), [("acS", True), ("", False), ("acZ", False)])
def test_letters_of_log_fmt_are_checked(value, ok):
    param = next(param for param in acc_db.exports().params if param.name == "log_fmt")
    assert (param.check(value) == "") is ok


class Calls:
    """A CallService that knows one call, answered 90 seconds ago."""

    def duration(self, dialog, wall_now):
        return 90 if dialog == 5 else -1


@pytest.mark.parametrize(
    ("method", "dialog", "status", "duration"),
    [
        ("BYE", 5, 200, 90),
        ("BYE", 6, 200, None),
        ("BYE", 0, 200, None),
        ("BYE", 5, 481, None),
        ("INVITE", 5, 200, None),
    ],
)
def test_the_row_of_a_bye_says_how_long_the_call_was(method, dialog, status, duration):
    world = World(duration_column="duration", failed_transactions=1)
    world.server.provide(CALLS, Calls())
    ctx = call(method=method)
    ctx.dialog = dialog
    world.end(ctx, status)
    ((table, row),) = world.store.rows
    assert table == "acc"
    assert row["duration"] == duration


def test_tables_without_the_column_get_none():
    world = World()
    world.end(call(method="BYE"))
    assert "duration" not in world.store.rows[0][1]
