"""From a file to a Server."""

from __future__ import annotations

import pytest

from serpy.errors import ConfigError
from serpy.loader import database_url, load, load_module, parse_define


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
