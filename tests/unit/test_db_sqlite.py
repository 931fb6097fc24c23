"""The embedded driver on a real file."""

from __future__ import annotations

import sqlite3
import stat
import time
from pathlib import Path

import pytest

from serpy.db import schema
from serpy.db.interface import parse_url
from serpy.errors import BackendError, ConfigError, DatabaseDownError, UsageError
from serpy.modules.db_sqlite import SqliteModule, exports
from serpy.net.loop import Loop


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/serpy.db"


@pytest.fixture
def database(url):
    handle = SqliteModule().open(url, read_only=False, create=True)
    schema.create(handle)
    yield handle
    handle.close()


def binding(uid="alice", contact="sip:a@192.0.2.1", expires=2_000_000_000, **more):
    return {"uid": uid, "aor": f"sip:{uid}@example.com", "contact": contact, "expires": expires, "q": 0.5, **more}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("sqlite:///serpy.db", "serpy.db", id="three-slashes-are-relative"),
        pytest.param("sqlite:////var/lib/serpy.db", "/var/lib/serpy.db", id="four-slashes-are-absolute"),
        pytest.param("sqlite:////a%20b/c.db", "/a b/c.db", id="escapes-are-decoded"),
        pytest.param("postgres://u:p%40w@db.example.com:5433/ser", "ser", id="database-name"),
    ],
)
def test_url_path(text, path):
    assert parse_url(text).path == path


def test_url_parts_are_decoded_and_the_password_is_not_shown():
    parts = parse_url("postgres://ser:p%40w@db.example.com:5433/ser?sslmode=require")
    assert (parts.user, parts.password, parts.host, parts.port) == ("ser", "p@w", "db.example.com", 5433)
    assert parts.options == {"sslmode": "require"}
    assert parts.redacted() == "postgres://ser@db.example.com:5433/ser"


@pytest.mark.parametrize("text", ["", "serpy.db", "sqlite://", "sqlite:///", "postgres://u:secret@h:99999999/x"])
def test_malformed_url_is_refused_without_showing_it(text):
    with pytest.raises(ConfigError) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


def test_missing_file_names_the_command_that_makes_it(url):
    with pytest.raises(BackendError, match="serpyctl db create"):
        SqliteModule().open(url, read_only=False)


def test_new_file_is_readable_by_its_owner_only(database):
    assert stat.S_IMODE(Path(database.path).stat().st_mode) == 0o600


def test_relative_path_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = exports().module
    monkeypatch.chdir("/")
    module.open("sqlite:///here.db", read_only=False, create=True).close()
    assert (tmp_path / "here.db").exists()


def test_created_schema_passes_its_check_and_can_be_created_again(database):
    database.write([("upsert", "attr_types", {"name": "lang", "default_flags": 7})])
    schema.create(database)
    assert schema.check(database) == []
    assert database.select("attr_types", ("default_flags",), {"name": "lang"}) == [(7,)]
    assert database.select("global_attrs", ("value",), {"name": "sw_uri_default_flags"}) == [("57",)]


def test_upsert_replaces_the_row_of_the_same_key(database):
    database.write([("upsert", "location", binding()), ("upsert", "location", binding(contact="sip:b@192.0.2.2"))])
    database.write([("upsert", "location", binding(expires=2_000_000_100))])
    rows = database.select("location", ("contact", "expires"), {"uid": "alice"}, order="contact")
    assert rows == [("sip:a@192.0.2.1", 2_000_000_100), ("sip:b@192.0.2.2", 2_000_000_000)]


def test_times_are_stored_as_text_a_script_can_compare(database):
    database.write([("upsert", "location", binding(expires=1_000_000_000))])
    assert database.execute("select expires from location") == [("2001-09-09 01:46:40",)]
    database.execute("delete from location where expires<utc_timestamp()")
    assert database.select("location", ("uid",), {}) == []


def test_mysql_text_of_the_reload_timer_runs_as_published(database):
    sql = (
        "select value from global_attrs where name='domain_data_version' and type=0 and"
        " cast(value as unsigned int) between unix_timestamp(now())-120 and unix_timestamp(now())"
    )
    assert database.execute(sql) == []
    database.execute("update global_attrs set value=unix_timestamp() where name='domain_data_version'")
    assert len(database.execute(sql)) == 1


def test_conditions_take_operators_and_null(database):
    database.write([("upsert", "location", binding(uid=f"u{i}", expires=1000 + i, received=None)) for i in range(4)])
    assert database.select("location", ("uid",), {"expires >=": 1002, "received": None}, order="uid desc") == [
        ("u3",),
        ("u2",),
    ]
    assert database.select("location", ("uid",), {"received <>": None}) == []
    database.write([("delete", "location", {"expires <": 1003})])
    assert database.select("location", ("uid",), {}) == [("u3",)]


def test_pages_give_every_row_once(database):
    database.write([("upsert", "location", binding(uid=f"u{i % 5}", contact=f"sip:{i}@h")) for i in range(23)])
    seen, after = [], ()
    while page := database.select_page("location", ("uid", "contact"), ("uid", "contact"), after, 4):
        seen.extend(page)
        after = page[-1]
    assert len(seen) == len(set(seen)) == 23


def test_failed_transaction_leaves_nothing(database):
    with pytest.raises(BackendError):
        database.write([("upsert", "location", binding()), ("insert", "location", {"uid": "bob"})])
    assert database.select("location", ("uid",), {}) == []
    database.write([("upsert", "location", binding())])  # and the handle is usable
    assert database.select("location", ("uid",), {}) == [("alice",)]


def test_bytes_that_are_not_utf8_are_stored_as_uri_escapes(database):
    odd = b"sip:\xffx@192.0.2.1".decode("utf-8", "surrogateescape")
    database.write([("upsert", "location", binding(contact=odd))])
    assert database.select("location", ("contact",), {"uid": "alice"}) == [("sip:%FFx@192.0.2.1",)]
    assert database.select("location", ("uid",), {"contact": odd}) == [("alice",)]


@pytest.mark.parametrize(
    "name",
    ["", 'x"y', "x y", "1x", "x;drop", "ü", "x" * 64],
)
def test_names_that_are_no_identifiers_are_refused(database, name):
    with pytest.raises(UsageError):
        database.select("location", (name,), {})
    with pytest.raises(UsageError):
        database.write([("insert", "location", {name: 1})])


def test_delete_without_conditions_is_refused(database):
    with pytest.raises(UsageError, match="without conditions"):
        database.write([("delete", "location", {})])


def test_values_never_become_sql(database):
    evil = "x'; drop table location; --"
    database.write([("upsert", "location", binding(uid=evil))])
    assert database.select("location", ("uid",), {"uid": evil}) == [(evil,)]


def test_read_handle_cannot_write(database, url):
    reader = SqliteModule().open(url, read_only=True)
    database.write([("upsert", "location", binding())])
    assert reader.select("location", ("uid",), {}) == [("alice",)]
    with pytest.raises(BackendError):
        reader.write([("upsert", "location", binding())])
    reader.close()


def test_busy_file_is_reported_as_down_after_the_timeout(database, url):
    module = SqliteModule()
    module.timeout_ms = 10
    other = module.open(url, read_only=False)
    database.execute("begin immediate")
    with pytest.raises(DatabaseDownError, match="locked"):
        other.write([("upsert", "location", binding())])
    database.execute("rollback")
    other.write([("upsert", "location", binding())])
    other.close()


def test_missing_table_says_how_to_check(database):
    database.execute("drop table location")
    with pytest.raises(BackendError, match="serpyctl db check"):
        database.select("location", ("uid",), {})
    assert schema.check(database) == ["table location is missing"]


def test_upgrade_adds_what_an_older_schema_lacks_and_keeps_rows(tmp_path):
    handle = SqliteModule().open(f"sqlite:///{tmp_path}/old.db", read_only=False, create=True)
    handle.execute("create table location (uid text not null, contact text not null, unique (uid, contact))")
    handle.execute("insert into location values ('alice', 'sip:a@h')")
    assert any("location lacks aor" in problem for problem in schema.check(handle))
    assert "added location.aor" in schema.upgrade(handle)
    assert schema.check(handle) == []
    assert handle.select("location", ("uid", "aor"), {}) == [("alice", "")]
    assert schema.upgrade(handle) == []
    handle.close()


def test_newer_schema_is_left_alone(database):
    database.write([("upsert", "version", {"table_name": "serpy", "table_version": 99})])
    assert "newer serpy" in schema.check(database)[0]
    with pytest.raises(BackendError, match="newer serpy"):
        schema.upgrade(database)


# -- the file under a running server


def test_rows_for_a_file_that_was_removed_are_not_taken_for_stored(database, url, tmp_path):
    database.write([("upsert", "location", binding())])
    kept = tmp_path / "kept.db"
    (tmp_path / "serpy.db").rename(kept)
    for _ in range(2):
        with pytest.raises(DatabaseDownError, match=r"removed|no database") as caught:
            database.write([("upsert", "location", binding("bob"))])
        assert "serpyctl db create" in str(caught.value)
    kept.rename(tmp_path / "serpy.db")
    database.write([("upsert", "location", binding("carol"))])
    other = SqliteModule().open(url, read_only=True)
    assert ("carol",) in other.select("location", ("uid",), {})
    other.close()


def test_a_file_put_in_the_place_of_ours_is_written_from_then_on(database, url, tmp_path):
    database.write([("upsert", "location", binding())])
    made = SqliteModule().open(f"sqlite:///{tmp_path}/new.db", read_only=False, create=True)
    schema.create(made)
    made.close()
    for name in ("serpy.db-wal", "serpy.db-shm"):
        (tmp_path / name).unlink()
    (tmp_path / "new.db").rename(tmp_path / "serpy.db")
    with pytest.raises(DatabaseDownError) as caught:
        database.write([("upsert", "location", binding("bob"))])
    assert caught.value.unknown
    database.write([("upsert", "location", binding("bob"))])
    other = SqliteModule().open(url, read_only=True)
    assert other.select("location", ("uid",), {}) == [("bob",)]
    other.close()


def test_a_reader_notices_that_its_file_was_removed(database, url, tmp_path, monkeypatch):
    reader = SqliteModule().open(url, read_only=True)
    assert reader.select("location", ("uid",), {}) == []
    (tmp_path / "serpy.db").unlink()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    with pytest.raises(DatabaseDownError):
        reader.select("location", ("uid",), {})
    reader.close()


def test_who_waits_for_another_writer_holds_up_nobody_else(database, url):
    """A backup, or a long transaction of serpyctl, has the file: the loop goes on."""
    loop = Loop()
    database.loop = loop
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("begin immediate")
    seen = []

    def write():
        database.write([("upsert", "location", binding())])
        seen.append("stored")
        loop.stop()

    def meanwhile():
        seen.append("meanwhile")
        other.execute("rollback")

    loop.spawn(write)
    loop.spawn(meanwhile)
    loop.run()
    assert seen == ["meanwhile", "stored"]
    assert database.select("location", ("uid",), {}) == [("alice",)]
    other.close()
