"""Core settings and the variables of the cfg framework."""

from __future__ import annotations

import os

import pytest

from serpy.config import BY_NAME, SETTINGS, Settings
from serpy.errors import ConfigError, UsageError
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.shm.variables import Variables


def test_every_setting_is_declared_once_and_has_its_attribute():
    names = [name for item in SETTINGS for name in (item.name, *item.aliases)]
    assert len(names) == len(set(names)) == len(BY_NAME)
    settings = Settings()
    assert all(settings.get(item.name) == ([] if item.kind == "list" else item.default) for item in SETTINGS)


def test_the_attributes_of_settings_are_those_with_an_effect_and_of_their_kind():
    types = {"int": "int", "bool": "int", "str": "str", "list": "list[str]"}
    assert Settings.__annotations__ == {item.name: types[item.kind] for item in SETTINGS if not item.effect}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("children", 4, 4, id="a-number"),
        pytest.param("children", "4", 4, id="a-number-as-text"),
        pytest.param("dns", "on", 1, id="a-boolean-word"),
        pytest.param("dns", 7, 1, id="any-number-is-yes"),
        pytest.param("debug", -3, -3, id="a-negative-number"),
        pytest.param("server_header", "Server: x", "Server: x", id="text"),
    ],
)
def test_values_are_converted(name, value, expected):
    settings = Settings({name: value})
    assert settings.get(name) == expected


def test_an_alias_means_the_same_setting():
    assert Settings({"uid": "nobody"}).user == "nobody"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("chidlren", 2, "unknown parameter chidlren", id="unknown-name"),
        pytest.param("children", 0, "children must be 1 to 256", id="out-of-range"),
        pytest.param("children", "many", "takes a number", id="no-number"),
        pytest.param("children", "²", "takes a number", id="a-digit-that-is-not-ascii"),
        pytest.param("dns", "perhaps", "takes yes or no", id="no-boolean"),
    ],
)
def test_wrong_values_are_refused(name, value, message):
    with pytest.raises(ConfigError, match=message):
        Settings().assign(name, value)


def test_the_command_line_wins_over_the_file():
    settings = Settings()
    settings.assign("listen", "127.0.0.1:5070", command_line=True)
    settings.assign("listen", "192.0.2.1", command_line=True)
    settings.assign("listen", "10.0.0.1")
    assert settings.listen == ["127.0.0.1:5070", "192.0.2.1"]


@pytest.fixture
def variables():
    made = Variables()
    made.declare("gw", "limit", "int", 5, "how many")
    made.declare("gw", "name", "str", "a")
    segment = Segment(1 << 20)
    made.place(segment, Counters(segment, 2))
    return made


def test_a_change_is_seen_by_a_process_forked_before(variables):
    go, gone = os.pipe()
    back, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go, 1)
        os.write(write, repr((variables.get("gw", "limit"), variables.get("gw", "name"))).encode())
        os._exit(0)
    variables.set_now("gw", "limit", "77")
    variables.set_now("gw", "name", "grüße")
    os.write(gone, b"x")
    os.waitpid(pid, 0)
    assert os.read(back, 100).decode() == repr((77, "grüße"))


def test_variables_list_value_and_default(variables):
    variables.set_now("gw", "limit", 6)
    assert variables.list()[0] == ("gw", "limit", "int", 6, 5, "how many")


@pytest.mark.parametrize(("name", "value"), [("limit", "x"), ("limit", "٣"), ("nothing", 1)])
def test_wrong_variables_are_refused_and_nothing_changes(variables, name, value):
    with pytest.raises(UsageError):
        variables.set_now("gw", name, value)
    assert variables.get("gw", "limit") == 5


@pytest.mark.parametrize(
    ("path", "is_right"),
    [
        pytest.param("/run/log", True, id="a path"),
        pytest.param("/" + "x" * 106, True, id="as long as a socket may be"),
        pytest.param("/" + "x" * 107, False, id="longer"),
        pytest.param("/" + "ü" * 54, False, id="longer in bytes"),
        pytest.param("dev/log", False, id="relative"),
        pytest.param("", False, id="none"),
    ],
)
def test_the_syslog_socket_is_a_whole_path_that_a_socket_can_have(path, is_right):
    if is_right:
        assert Settings({"log_socket": path}).log_socket == path
    else:
        with pytest.raises(ConfigError, match="log_socket"):
            Settings({"log_socket": path})
