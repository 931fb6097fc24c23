"""From a file to a Server."""

from __future__ import annotations

import pytest

from serpy.errors import ConfigError
from serpy.loader import DRIVERS, database_url, load, load_module, module_names, modules_with, parse_define
from serpy.replication.settings import REPLICATION_SETTINGS


@pytest.fixture
def write(tmp_path):
    def writer(text):
        path = tmp_path / "test.conf"
        path.write_text(text)
        return str(path)

    return writer


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A", ("A", "")), ("A=", ("A", "")), ("A_1=x=y", ("A_1", "x=y"))],
)
def test_a_define_is_split_at_the_first_equals_sign(text, expected):
    assert parse_define(text) == expected


@pytest.mark.parametrize("text", ["=x", "1A=x", "a b=1", "é=1"])
def test_a_bad_define_is_refused(text):
    with pytest.raises(ConfigError):
        parse_define(text)


def test_an_unknown_module_comes_with_a_suggestion():
    with pytest.raises(ConfigError, match="no module 'txtops'") as caught:
        load_module("txtops")
    assert "textops" in caught.value.hint


@pytest.mark.parametrize("name", ["sl", "sl.so", "/usr/lib/ser/modules/sl.so"])
def test_a_module_is_found_by_its_base_name(name):
    assert load_module(name).name == "sl"


def test_settings_come_from_the_file_and_secrets_stay_in_the_run_directory(write, tmp_path):
    path = write('children=3\nlisten=udp:127.0.0.1:5070\nloadmodule "sl"\nroute { sl_reply("200", "OK"); }\n')
    server = load(path, {}, run_dir=str(tmp_path / "run"))
    assert server.settings.children == 3
    assert server.counters.slots == 6
    assert [repr(item) for item in server.listeners] == ["udp:127.0.0.1:5070"]
    secrets = tmp_path / "run" / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o600
    kept = secrets.read_text()
    load(path, {}, run_dir=str(tmp_path / "run"))
    assert secrets.read_text() == kept


def test_a_check_leaves_nothing_in_the_run_directory(write, tmp_path):
    path = write('loadmodule "sl"\nloadmodule "rr"\nroute { sl_reply("200", "OK"); }\n')
    load(path, {}, run_dir=str(tmp_path / "run"), check_only=True)
    assert not (tmp_path / "run").exists()
    load(path, {}, run_dir=str(tmp_path / "run"))
    assert {each.name for each in (tmp_path / "run").iterdir()} == {"secrets", "rr.secret", "calls"}


def test_a_setting_out_of_range_names_its_line(write):
    path = write('\nchildren=0\nloadmodule "sl"\nroute { sl_reply("200", "OK"); }\n')
    with pytest.raises(ConfigError, match=r"test\.conf:2:\d+: children must be"):
        load(path, {}, check_only=True)


def test_a_missing_file_is_said_plainly():
    with pytest.raises(ConfigError, match="cannot read /nowhere/x"):
        load("/nowhere/x", {})


def test_the_database_of_a_file_is_that_of_its_location_table(write):
    path = write(
        'loadmodule "sl"\nloadmodule "usrloc"\nmodparam("usrloc", "db_url", DB_URL)\nroute { sl_reply("200", "OK"); }\n'
    )
    assert database_url(path, {"DB_URL": "sqlite:////x/y.db"}) == "sqlite:////x/y.db"


def test_missing_sqlite_file_is_refused_with_what_to_do(tmp_path):
    script = tmp_path / "x.conf"
    script.write_text(
        f'loadmodule "uri_db"\nmodparam("uri_db", "db_url", "sqlite:///{tmp_path}/none.db")\nroute {{ exit; }}\n'
    )
    with pytest.raises(ConfigError, match="there is no database") as caught:
        load(str(script), {})
    assert "db create" in caught.value.hint


def test_every_url_scheme_belongs_to_the_driver_that_says_so():
    declared = {}
    for name in module_names():
        exports = load_module(name)
        declared.update(dict.fromkeys(exports.schemes, name))
        assert bool(exports.schemes) == (exports.open_database is not None)
    assert declared == DRIVERS


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        ("record_route()", 'load it first: loadmodule "rr"'),
        ('db_query("x", "y")', 'load it first: loadmodule "db_ops"'),
        ("t_relai()", "did you mean"),
    ],
)
def test_a_function_of_a_module_that_is_not_loaded_comes_with_its_module(write, function, hint):
    path = write(f'loadmodule "sl"\nloadmodule "tm"\nroute {{ {function}; }}\n')
    with pytest.raises(ConfigError, match=r"test\.conf:3:9: unknown function") as caught:
        load(path, {}, check_only=True)
    assert hint in str(caught.value)


def test_a_function_that_several_modules_have_names_them_all(monkeypatch):
    tables = {name: load_module("rr") for name in ("one", "two")}
    monkeypatch.setattr("serpy.loader.module_names", lambda: [*tables, "broken"])
    monkeypatch.setattr("serpy.loader.load_module", lambda name: tables[name] if name in tables else refuse(name))
    assert modules_with("record_route") == ["one", "two"]


def refuse(name):
    raise ConfigError(f"module {name} cannot be loaded")


def test_the_farm_has_the_secret_of_the_run_directory(write, tmp_path):
    path = write(
        'loadmodule "replication"\nloadmodule "sl"\nlisten=udp:127.0.0.1:5070\nroute { sl_reply("200", "OK"); }\n'
    )
    server = load(path, {}, run_dir=str(tmp_path / "run"))
    kept = dict(line.split("=") for line in (tmp_path / "run/secrets").read_text().split())
    assert server.bind(REPLICATION_SETTINGS).key == kept["REPLICATION_SECRET"].encode()


def test_two_servers_in_one_process_have_hooks_of_their_own(write):
    text = "listen=udp:127.0.0.1:{}\nmax_while_loops={}\nroute {{ exit; }}\n"
    servers = [load(write(text.format(5070 + n, n)), {}, check_only=True) for n in (1, 2)]
    assert [server.program.hooks.max_while_loops for server in servers] == [1, 2]
    assert [server.program.hooks.is_myself("127.0.0.1", 5071) for server in servers] == [True, False]
