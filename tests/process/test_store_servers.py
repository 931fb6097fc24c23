"""The drivers of database servers against real ones: what they store, and what they do while the server is away."""

from __future__ import annotations

import os
import time
from urllib.parse import quote

import psycopg2
import pytest
from support.patience import PATIENCE_S, free_port

from serpy.db import schema
from serpy.db.idioms import portable
from serpy.errors import BackendError, ConfigError, DatabaseDownError
from serpy.modules import db_mysql, db_postgres
from serpy.modules.db_postgres.statements import array_of, translated
from serpy.net.loop import Loop

MODULES = {"postgres": db_postgres, "mysql": db_mysql, "mariadb": db_mysql}


@pytest.fixture(
    params=[pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("mysql", marks=pytest.mark.mysql)]
)
def server(request):
    """The PostgreSQL or the MariaDB server, with an empty database."""
    found = request.getfixturevalue(request.param)
    found.fresh()
    return found


@pytest.fixture
def url(server):
    return server.url


@pytest.fixture
def database(url):
    handle = module_of(url).open(url, read_only=False)
    schema.create(handle)
    yield handle
    handle.close()


def module_of(url):
    return MODULES[url.partition(":")[0]].exports().module


def binding(uid="alice", contact="sip:a@192.0.2.1", expires=2_000_000_000, **more):
    return {"uid": uid, "aor": f"sip:{uid}@example.com", "contact": contact, "expires": expires, "q": 0.5, **more}


def quick(url, timeout_ms=200, connections=4):
    module = module_of(url)
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


def test_upgrade_adds_tables_and_columns_and_keeps_the_rows(database):
    database.write([("insert", "uri", {"uid": "u1", "did": "d", "username": "a"})])
    database.execute("drop table speed_dial")
    database.execute("alter table uri drop column flags")
    database.execute("alter table location drop column user_agent")
    assert schema.check(database)
    assert schema.upgrade(database) == ["added uri.flags", "added location.user_agent", "created table speed_dial"]
    assert schema.check(database) == []
    assert database.select("uri", ("uid", "flags"), {}) == [("u1", 0)]


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


TEXTS = (
    'a"b',
    "a\\b",
    "a,b{c}",
    "NULL",
    "",
    "it's",
    "€",
    "%s %%",
    "a\nb",
    "$1 ?",
    "\\x41",
    "\\'",
    "''",
    "a\rb\tc",
    "-- x",
    "/*x*/",
)


def test_any_text_comes_back_as_it_was(database):
    contacts = {text: text if text.isascii() else quote(text) for text in TEXTS}  # the registrar escapes them so
    rows = [binding(contact=contact, aor=text, received=None) for text, contact in contacts.items()]
    database.write([("upsert", "location", row) for row in rows * 2])
    for text, contact in contacts.items():
        assert database.select("location", ("contact", "aor"), {"contact": contact}) == [(contact, text)]
    database.write([("delete", "location", {"uid": "alice", "contact": contact}) for contact in contacts.values()])
    assert database.select("location", ("uid",), {}) == []


def test_every_kind_of_value_comes_back(database):
    row = {"did": "d", "filename": "f", "version": 4_000_000_000, "content": b"\x00\xff\\", "timestamp": None}
    database.write([("insert", "domain_settings", row)])
    assert database.select("domain_settings", tuple(row), {}) == [tuple(row.values())]
    assert database.execute("select true, cast(1.5 as decimal(4,1)), now() is null") == [(1, 1.5, 0)]


def test_text_the_database_cannot_hold_is_stored_as_uri_escapes(database):
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
    database.execute(portable("delete from location where expires<utc_timestamp()", database.dialect))
    assert database.select("location", ("uid",), {}) == []
    update = "update `global_attrs` set value=unix_timestamp() where name=?"
    database.write([("sql", portable(update, database.dialect), {"0": "gattr_timestamp"})])
    sql = (
        "select value from global_attrs where type=? and cast(value as unsigned int) between unix_timestamp(now())-120"
        " and unix_timestamp(now())"
    )
    assert len(database.execute(portable(sql, database.dialect), (0,))) == 1


def test_a_statement_among_the_rows_of_a_write_is_part_of_the_transaction(database):
    database.write(
        [
            ("upsert", "location", binding()),
            (
                "sql",
                "update location set callid = '100% ?' || ?"
                if database.dialect == "postgres"
                else "update location set callid = concat('100% ?', ?)",
                {"0": "it's"},
            ),
            ("sql", "update location set instance = '5%'", {}),
            ("upsert", "location", binding(uid="bob")),
        ]
    )
    rows = database.select("location", ("uid", "callid", "instance"), {}, order="uid")
    assert rows == [("alice", "100% ?it's", "5%"), ("bob", None, None)]
    with pytest.raises(BackendError):
        database.write([("upsert", "location", binding(uid="carol")), ("sql", "update nowhere set x = 1", {})])
    assert len(database.select("location", ("uid",), {})) == 2
    database.write([("sql", "delete from location where uid like '%o%'", {})])
    assert database.select("location", ("uid",), {}) == [("alice",)]


@pytest.mark.postgres
def test_question_marks_and_percents_inside_literals_are_no_marks(postgres_url):
    database = module_of(postgres_url).open(postgres_url, read_only=False)
    assert database.execute("select '?%' || ?, 7 % 4", ("x",)) == [("?%x", 3)]
    assert translated("select '?' , 5 % 2", marks=False) == "select '?' , 5 % 2"
    database.close()


def test_array_text_quotes_what_it_must():
    assert array_of(["a", None, 'b"\\', 1, 2.5, b"\x01"]) == '{"a",NULL,"b\\"\\\\",1,2.5,"\\\\x01"}'


def test_read_only_handle_cannot_write(database, url):
    reader = module_of(url).open(url, read_only=True)
    with pytest.raises(BackendError, match=r"(?i)read.only"):
        reader.write([("upsert", "location", binding())])
    with pytest.raises(BackendError, match=r"(?i)read.only"):
        reader.execute("delete from location")
    reader.close()


def test_messages_never_hold_the_password(server):
    scheme = server.url.partition(":")[0]
    handle = quick(f"{scheme}://ser:top-secret@127.0.0.1:{server.port}/missing")
    with pytest.raises(DatabaseDownError, match=r"(?i)does not exist|denied") as caught:
        handle.execute("select 1")
    assert "top-secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "mysql"])
def test_server_that_does_not_answer_on_the_port_is_down(scheme):
    if scheme == "mysql":
        pytest.importorskip("pymysql")
    handle = quick(f"{scheme}://ser:x@127.0.0.1:{free_port()}/ser")
    with pytest.raises(DatabaseDownError, match="refused"):
        handle.execute("select 1")
    handle._fuse._until += 100.0
    with pytest.raises(DatabaseDownError, match="refused"):  # at once, without a connect
        handle.execute("select 1")
    assert handle._open == 0


def test_cut_connections_are_replaced_and_the_statement_run_again(database, server):
    database.execute("select 1")
    server.cut()
    database.write([("upsert", "location", binding())])
    assert database.select("location", ("uid",), {}) == [("alice",)]


def test_restarted_server_is_used_again_without_help(url, server):
    handle = quick(url, timeout_ms=2000)
    schema.create(handle)
    server.stop()
    with pytest.raises(DatabaseDownError):
        handle.write([("upsert", "location", binding())])
    server.start()
    handle._fuse._until = 0.001  # the pause is over
    handle.write([("upsert", "location", binding())])
    assert handle.select("location", ("uid",), {}) == [("alice",)]
    handle.close()


def test_frozen_server_costs_one_deadline_then_fails_at_once(url, server):
    handle = quick(url, timeout_ms=100)
    handle.execute("select 1")
    server.freeze()
    try:
        with pytest.raises(DatabaseDownError, match="no answer"):
            handle.execute("select 1")
        assert handle._open == 0
        handle._fuse._until += 100.0
        with pytest.raises(DatabaseDownError, match="no answer"):
            handle.execute("select 1")
        assert handle._open == 0
        handle._fuse._until = 0.001
        with pytest.raises(DatabaseDownError, match="no answer"):  # the probe
            handle.execute("select 1")
    finally:
        server.thaw()
    handle._timeout_s = PATIENCE_S
    handle._fuse._until = 0.001
    assert handle.execute("select 1") == [(1,)]
    handle.close()


def locker(url):
    """A connection that has locked all rows of location."""
    if url.startswith("postgres"):
        other = psycopg2.connect(url)
    else:
        from urllib.parse import urlsplit

        import pymysql

        parts = urlsplit(url)
        other = pymysql.connect(
            host=parts.hostname, port=parts.port, user=parts.username, password=parts.password, database="ser"
        )
    other.cursor().execute("select * from location for update")
    return other


def test_statement_waiting_for_a_lock_is_cancelled_and_the_server_stays_up(database, url):
    database.write([("upsert", "location", binding())])
    other = locker(url)
    handle = quick(url, timeout_ms=400)
    with pytest.raises(DatabaseDownError, match=r"timeout|max_statement_time"):
        handle.write([("upsert", "location", binding())])
    assert handle.execute("select 1") == [(1,)]
    other.close()
    handle.close()


def test_handlers_query_side_by_side_and_wait_for_a_free_connection(url):
    handle = quick(url, timeout_ms=5000, connections=3)
    order = []

    def query(number):
        def handler(loop):
            handle.loop = loop
            rows = handle.execute(f"select {'pg_' if url[0] == 'p' else ''}sleep(0.05), ?", (number,))
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


def test_handlers_of_a_frozen_server_all_end_and_the_loop_goes_on(url, server):
    handle = quick(url, timeout_ms=150, connections=2)
    handle.execute("select 1")
    ticks = []

    def query(loop):
        handle.loop = loop
        return handle.execute("select 1")

    def ticking(loop):
        for _ in range(10):
            loop.sleep(0.01)
            ticks.append(1)

    server.freeze()
    try:
        results = run_in_loop(*[query] * 8, ticking)
    finally:
        server.thaw()
    assert all(isinstance(result, DatabaseDownError) for result in results[:8])
    assert len(ticks) == 10
    handle.loop = None
    handle._timeout_s = PATIENCE_S
    handle._fuse._until = 0.001
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


def test_deadline_is_kept_within_reason(url, server):
    handle = quick(url, timeout_ms=100)
    server.freeze()
    started = time.monotonic()
    try:
        with pytest.raises(DatabaseDownError):
            handle.execute("select 1")
    finally:
        server.thaw()
    assert time.monotonic() - started >= 0.09
    handle.close()


@pytest.mark.mysql
@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"contact": "sip:" + "a" * 1100}, "too long", id="a-key-over-its-length"),
        pytest.param({"expires": "no time"}, "datetime", id="no-time"),
    ],
)
def test_mysql_refuses_what_it_would_cut(mysql_url, values, message):
    handle = module_of(mysql_url).open(mysql_url, read_only=False)
    schema.create(handle)
    with pytest.raises(BackendError, match=f"(?i){message}") as caught:
        handle.write([("upsert", "location", binding(**values))])
    assert not isinstance(caught.value, DatabaseDownError)
    assert handle.select("location", ("uid",), {}) == []
    handle.close()


@pytest.mark.mysql
def test_mysql_over_the_unix_socket_and_with_the_published_url(mysql, mysql_url, monkeypatch):
    from serpy.modules.db_mysql import wire

    assert mysql_url
    handle = quick(f"mysql://ser:heslo@localhost/ser?unix_socket={mysql.socket}")
    assert handle.execute("select current_user() like 'ser@%'") == [(1,)]
    handle.close()
    monkeypatch.setattr(wire, "LOCAL_SOCKETS", ("/nonexistent", mysql.socket))
    handle = quick("mysql://ser:heslo@localhost/ser")
    assert handle.execute("select 1") == [(1,)]
    handle.close()
    monkeypatch.setattr(wire, "LOCAL_SOCKETS", ())
    monkeypatch.setattr(wire, "DEFAULT_PORT", mysql.port)
    handle = quick("mysql://ser:heslo@localhost/ser")
    assert handle.execute("select 1") == [(1,)]
    handle.close()


@pytest.mark.mysql
def test_mysql_over_tls(mysql, mysql_url):
    cipher = "select variable_value <> '' from information_schema.session_status where variable_name = 'ssl_cipher'"

    def encrypted(loop):
        seen = []
        for options in ("", "?ssl_mode=required", f"?ssl_mode=verify&ssl_ca={mysql.directory}/cert.pem"):
            handle = module_of(mysql_url).open(mysql_url + options, read_only=False, loop=loop)
            schema.create(handle)
            handle.write([("upsert", "location", binding(uid=f"u{i}", callid="x" * 200)) for i in range(600)])
            seen.append((handle.execute(cipher)[0][0], len(handle.select("location", ("uid", "callid"), {}))))
            handle.close()
        return seen

    assert run_in_loop(encrypted) == [[(0, 600), (1, 600), (1, 600)]]
    handle = quick(f"{mysql_url}?ssl_mode=verify", timeout_ms=2000)
    with pytest.raises(DatabaseDownError, match=r"(?i)certificate"):  # the system's authorities do not know ours
        handle.execute("select 1")
    handle.close()
    for options in ("?ssl_mode=maybe", "?ssl_mode=verify&ssl_ca=/nonexistent"):
        with pytest.raises(ConfigError):
            module_of(mysql_url).open(mysql_url + options, read_only=True)


@pytest.mark.mysql
def test_mysql_writes_many_rows_in_few_statements_and_reads_them_back_in_pages(mysql_url):
    handle = module_of(mysql_url).open(mysql_url, read_only=False)
    schema.create(handle)
    handle.write([("upsert", "location", binding(uid=f"u{i:05}", expires=1000 + i)) for i in range(1200)])
    handle.write([("upsert", "location", binding(uid=f"u{i:05}", expires=5000 + i)) for i in range(1200)])
    seen, after = [], ()
    while page := handle.select_page("location", ("uid", "contact", "expires"), ("uid", "contact"), after, 500):
        seen.extend(page)
        after = page[-1][:2]
    assert [row[2] for row in seen] == [5000 + i for i in range(1200)]
    handle.close()


@pytest.mark.postgres
def test_postgresql_tells_of_changed_tables_and_of_everything_after_a_lost_connection(
    postgres_url, postgres, monkeypatch
):
    from serpy.modules.db_postgres import notices

    monkeypatch.setattr(notices, "RETRY_S", 0.02)
    writer = module_of(postgres_url).open(postgres_url, read_only=False)
    schema.create(writer)
    changed = []

    def watching(loop):
        def until(wanted):
            for _ in range(400):
                if changed == wanted:
                    return
                loop.sleep(0.01)
            assert changed == wanted

        reader = module_of(postgres_url).open(postgres_url, read_only=True, loop=loop)
        reader.watch(changed.append)
        while reader._notices._link is None:
            loop.sleep(0.01)
        row = {"uid": "u1", "did": "d", "username": "a"}
        writer.write([("insert", "uri", row), ("insert", "uri", row), ("upsert", "location", binding())])
        until(["uri"])
        postgres.sql("update domain set flags = 33", "ser")
        until(["uri", "domain"])
        postgres.cut()
        until(["uri", "domain", ""])
        postgres.sql("delete from credentials", "ser")
        until(["uri", "domain", "", "credentials"])
        return "done"

    assert run_in_loop(watching) == ["done"]
    writer.close()
