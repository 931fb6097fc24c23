"""The PostgreSQL driver against a real server: what it stores, and what it does while the server is away."""

from __future__ import annotations

import os
import time

import psycopg2
import pytest

from serpy.db import schema
from serpy.errors import BackendError, DatabaseDownError
from serpy.modules.db_postgres import PostgresModule, exports
from serpy.modules.db_postgres.statements import array_of, translated
from serpy.net.loop import Loop

pytestmark = pytest.mark.postgres


@pytest.fixture
def database(postgres_url):
    handle = PostgresModule().open(postgres_url, read_only=False)
    schema.create(handle)
    yield handle
    handle.close()


def binding(uid="alice", contact="sip:a@192.0.2.1", expires=2_000_000_000, **more):
    return {"uid": uid, "aor": f"sip:{uid}@example.com", "contact": contact, "expires": expires, "q": 0.5, **more}


def quick(url, timeout_ms=200, connections=4):
    module = exports().module
    module.timeout_ms = timeout_ms
    module.connections = connections
    return module.open(url, read_only=False)


def run_in_loop(*handlers):
    """Run *handlers* in one loop until all have returned; the results in order."""
    loop = Loop()
    results = [None] * len(handlers)
    left = [len(handlers)]

    def wrap(index, handler):
        def body():
            try:
                results[index] = handler(loop)
            except BackendError as exc:
                results[index] = exc
            left[0] -= 1
            if not left[0]:
                loop.stop()

        return body

    for index, handler in enumerate(handlers):
        loop.spawn(wrap(index, handler))
    loop.run()
    return results


def test_schema_passes_its_check_and_can_be_created_again(database):
    schema.create(database)
    assert schema.check(database) == []
    assert schema.upgrade(database) == []


def test_upsert_replaces_and_times_are_seconds(database):
    database.write([("upsert", "location", binding()), ("upsert", "location", binding(contact="sip:b@h"))])
    database.write([("upsert", "location", binding(expires=2_000_000_100))])
    rows = database.select("location", ("contact", "expires", "q", "received"), {"uid": "alice"}, order="contact")
    assert rows == [("sip:a@192.0.2.1", 2_000_000_100, 0.5, None), ("sip:b@h", 2_000_000_000, 0.5, None)]
    assert database.execute("select expires from location where contact = ?", ("sip:b@h",)) == [
        ("2033-05-18 03:33:20",)
    ]


def test_one_key_twice_in_a_write_keeps_the_last(database):
    database.write([("upsert", "location", binding(expires=i)) for i in (5, 6, 7)])
    assert database.select("location", ("expires",), {}) == [(7,)]


@pytest.mark.parametrize(
    "text",
    ['a"b', "a\\b", "a,b{c}", "NULL", "", " ", "it's", "€", "%s %%", "a\nb", "$1 ?", "\\x41"],
)
def test_any_text_comes_back_as_it_was(database, text):
    database.write([("upsert", "location", binding(contact=text, aor=text, received=None)) for _ in range(2)])
    assert database.select("location", ("contact", "aor"), {"contact": text}) == [(text, text)]
    database.write([("delete", "location", {"uid": "alice", "contact": text})])
    assert database.select("location", ("uid",), {}) == []


def test_every_kind_of_value_comes_back(database):
    row = {"did": "d", "filename": "f", "version": 4_000_000_000, "content": b"\x00\xff\\", "timestamp": None}
    database.write([("insert", "domain_settings", row)])
    assert database.select("domain_settings", tuple(row), {}) == [tuple(row.values())]
    assert database.execute("select true, 1.5::numeric, now() is null") == [(1, 1.5, 0)]


def test_text_postgres_cannot_hold_is_stored_as_uri_escapes(database):
    odd = b"sip:\xff\x00x@h".decode("utf-8", "surrogateescape")
    database.write([("upsert", "location", binding(contact=odd))])
    assert database.select("location", ("contact",), {"contact": odd}) == [("sip:%FF%00x@h",)]


def test_deletes_by_key_operator_and_null(database):
    database.write([("upsert", "location", binding(uid=f"u{i}", expires=1000 + i)) for i in range(8)])
    database.write(
        [
            ("delete", "location", {"uid": "u0", "contact": "sip:a@192.0.2.1"}),
            ("delete", "location", {"uid": "u1", "contact": "sip:a@192.0.2.1"}),
            ("delete", "location", {"expires <": 1004}),
            ("delete", "location", {"uid": "u7", "received": None}),
        ]
    )
    assert database.select("location", ("uid",), {}, order="uid") == [("u4",), ("u5",), ("u6",)]


def test_failed_transaction_leaves_nothing_and_the_connection_is_usable(database):
    with pytest.raises(BackendError) as caught:
        database.write([("upsert", "location", binding()), ("insert", "location", {"uid": "bob"})])
    assert not isinstance(caught.value, DatabaseDownError)
    assert database.select("location", ("uid",), {}) == []


def test_pages_give_every_row_once(database):
    database.write([("upsert", "location", binding(uid=f"u{i % 5}", contact=f"sip:{i}@h")) for i in range(23)])
    seen, after = [], ()
    while page := database.select_page("location", ("uid", "contact"), ("uid", "contact"), after, 4):
        seen.extend(page)
        after = page[-1]
    assert len(seen) == len(set(seen)) == 23


def test_mysql_texts_of_the_published_script_run(database):
    database.write([("upsert", "location", binding(expires=1_000_000_000))])
    database.execute("delete from location where expires<utc_timestamp()")
    assert database.select("location", ("uid",), {}) == []
    database.execute("update global_attrs set value=unix_timestamp() where name='domain_data_version'")
    sql = (
        "select value from global_attrs where name='domain_data_version' and type=0 and"
        " cast(value as unsigned int) between unix_timestamp(now())-120 and unix_timestamp(now())"
    )
    assert len(database.execute(sql)) == 1


def test_question_marks_and_percents_inside_literals_are_no_marks(database):
    assert database.execute("select '?%' || ?, 7 % 4", ("x",)) == [("?%x", 3)]
    assert translated("select '?' , 5 % 2", marks=False) == "select '?' , 5 % 2"


def test_array_text_quotes_what_it_must():
    assert array_of(["a", None, 'b"\\', 1, 2.5, b"\x01"]) == '{"a",NULL,"b\\"\\\\",1,2.5,"\\\\x01"}'


def test_read_only_handle_cannot_write(database, postgres_url):
    reader = PostgresModule().open(postgres_url, read_only=True)
    with pytest.raises(BackendError, match="read-only"):
        reader.write([("upsert", "location", binding())])
    reader.close()


def test_messages_never_hold_the_password(postgres):
    handle = quick(f"postgres://ser:top-secret@127.0.0.1:{postgres.port}/missing")
    with pytest.raises(DatabaseDownError, match="does not exist") as caught:
        handle.execute("select 1")
    assert "top-secret" not in str(caught.value)


def test_server_that_does_not_answer_on_the_port_is_down(free_port):
    handle = quick(f"postgres://ser:x@127.0.0.1:{free_port}/ser")
    with pytest.raises(DatabaseDownError, match="refused"):
        handle.execute("select 1")
    handle._down_until += 100.0
    with pytest.raises(DatabaseDownError, match="refused"):  # at once, without a connect
        handle.execute("select 1")
    assert handle._open == 0


def test_cut_connections_are_replaced_and_the_statement_run_again(database, postgres):
    database.execute("select 1")
    postgres.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'ser'")
    database.write([("upsert", "location", binding())])
    assert database.select("location", ("uid",), {}) == [("alice",)]


def test_restarted_server_is_used_again_without_help(postgres_url, postgres):
    handle = quick(postgres_url, timeout_ms=2000)
    schema.create(handle)
    postgres.stop()
    with pytest.raises(DatabaseDownError):
        handle.write([("upsert", "location", binding())])
    postgres.start()
    handle._down_until = 0.001  # the pause is over
    handle.write([("upsert", "location", binding())])
    assert handle.select("location", ("uid",), {}) == [("alice",)]
    handle.close()


def test_frozen_server_costs_one_deadline_then_fails_at_once(postgres_url, postgres):
    handle = quick(postgres_url, timeout_ms=100)
    handle.execute("select 1")
    postgres.freeze()
    try:
        with pytest.raises(DatabaseDownError, match="no answer"):
            handle.execute("select 1")
        assert handle._open == 0
        handle._down_until += 100.0
        with pytest.raises(DatabaseDownError, match="no answer"):
            handle.execute("select 1")
        assert handle._open == 0
        handle._down_until = 0.001
        with pytest.raises(DatabaseDownError, match="no answer"):  # the probe
            handle.execute("select 1")
    finally:
        postgres.thaw()
    handle._timeout_s = 2.0
    handle._down_until = 0.001
    assert handle.execute("select 1") == [(1,)]
    handle.close()


def test_statement_waiting_for_a_lock_is_cancelled_and_the_server_stays_up(database, postgres_url):
    database.write([("upsert", "location", binding())])
    other = psycopg2.connect(postgres_url)
    cursor = other.cursor()
    cursor.execute("select * from location for update")
    handle = quick(postgres_url, timeout_ms=400)
    with pytest.raises(DatabaseDownError, match="timeout"):
        handle.write([("upsert", "location", binding())])
    assert handle.execute("select 1") == [(1,)]
    other.close()
    handle.close()


def test_handlers_query_side_by_side_and_wait_for_a_free_connection(postgres_url):
    handle = quick(postgres_url, timeout_ms=5000, connections=3)
    order = []

    def query(number):
        def handler(loop):
            handle.loop = loop
            rows = handle.execute("select pg_sleep(0.05), ?", (number,))
            order.append(("slow", number))
            return rows[0][1]

        return handler

    def immediate(_loop):
        order.append(("quick", 0))
        return "quick"

    results = run_in_loop(*[query(str(i)) for i in range(6)], immediate)
    assert results == ["0", "1", "2", "3", "4", "5", "quick"]
    assert order[0] == ("quick", 0)
    assert handle._open == 3
    handle.close()


def test_handlers_of_a_frozen_server_all_end_and_the_loop_goes_on(postgres_url, postgres):
    handle = quick(postgres_url, timeout_ms=150, connections=2)
    handle.execute("select 1")
    ticks = []

    def query(loop):
        handle.loop = loop
        return handle.execute("select 1")

    def ticking(loop):
        for _ in range(10):
            loop.sleep(0.01)
            ticks.append(1)

    postgres.freeze()
    try:
        results = run_in_loop(*[query] * 8, ticking)
    finally:
        postgres.thaw()
    assert all(isinstance(result, DatabaseDownError) for result in results[:8])
    assert len(ticks) == 10
    handle.loop = None
    handle._timeout_s = 2.0
    handle._down_until = 0.001
    assert handle.execute("select 1") == [(1,)]
    handle.close()


def test_child_opens_its_own_connection_after_a_fork(database):
    database.execute("select 1")
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, str(database.execute("select 7")[0][0]).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_end, 10) == b"7"
    assert database.execute("select 8") == [(8,)]


@pytest.fixture
def free_port():
    from support.postgres import free_port

    return free_port()


def test_deadline_is_kept_within_reason(postgres_url, postgres):
    handle = quick(postgres_url, timeout_ms=100)
    postgres.freeze()
    started = time.monotonic()
    try:
        with pytest.raises(DatabaseDownError):
            handle.execute("select 1")
    finally:
        postgres.thaw()
    assert time.monotonic() - started >= 0.09
    handle.close()
