"""Nobody but us puts files into the run directory, whatever the umask; what others could have changed is not believed."""

import logging
import os

import pytest

from serpy.errors import ConfigError
from serpy.loader import load, open_database
from serpy.run_dir import make_folder


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def conf(tmp_path):
    path = tmp_path / "a.conf"
    path.write_text("route { drop; }\n")
    return str(path)


def mode(path):
    return path.stat().st_mode & 0o7777


def test_a_new_folder_is_open_to_its_owner_only_for_writing(umask, tmp_path):
    make_folder(tmp_path / "above" / "run")
    assert mode(tmp_path / "above" / "run") == 0o755 & ~umask
    assert mode(tmp_path / "above") == 0o755 & ~umask
    now = os.umask(umask)
    assert now == umask  # put back


def test_the_run_directory_that_a_start_makes_is_one(umask, conf, tmp_path):
    load(conf, {}, run_dir=str(tmp_path / "run"))
    assert mode(tmp_path / "run") == 0o755 & ~umask
    assert mode(tmp_path / "run" / "secrets") == 0o600 & ~umask


def test_the_folder_of_a_new_database_is_one(umask, tmp_path):
    open_database(f"sqlite:///{tmp_path}/lib/serpy.db", create=True).close()
    assert mode(tmp_path / "lib") == 0o755 & ~umask
    assert mode(tmp_path / "lib" / "serpy.db") == 0o600 & ~umask


def test_a_run_directory_that_anybody_may_write_to_stops_the_start(conf, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(ConfigError, match="anybody may write") as refused:
        load(conf, {}, run_dir=str(tmp_path / "run"))
    assert "chmod go-w" in refused.value.hint


@pytest.mark.parametrize("wide", [0o775, 0o1777], ids=oct)
def test_a_run_directory_that_a_group_may_write_to_is_told(conf, tmp_path, caplog, wide):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(wide)
    with caplog.at_level(logging.WARNING):
        load(conf, {}, run_dir=str(tmp_path / "run"))
    assert "others may write to the run directory" in caplog.text


def test_secrets_that_others_may_read_are_told(conf, tmp_path, caplog):
    load(conf, {}, run_dir=str(tmp_path / "run"))
    assert caplog.text == ""
    (tmp_path / "run" / "secrets").chmod(0o640)
    load(conf, {}, run_dir=str(tmp_path / "run"))
    assert "others may read the secrets" in caplog.text


def test_secrets_that_others_may_write_are_not_believed(conf, tmp_path):
    load(conf, {}, run_dir=str(tmp_path / "run"))
    (tmp_path / "run" / "secrets").chmod(0o606)
    with pytest.raises(ConfigError, match="may be another's"):
        load(conf, {}, run_dir=str(tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_secrets_of_another_user_are_not_believed(conf, tmp_path):
    load(conf, {}, run_dir=str(tmp_path / "run"))
    os.chown(tmp_path / "run" / "secrets", 12345, 12345)
    with pytest.raises(ConfigError, match="may be another's"):
        load(conf, {}, run_dir=str(tmp_path / "run"))


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder away")
def test_a_folder_and_secrets_of_the_servers_user_are_taken_by_root(conf, tmp_path, caplog):
    load(conf, {}, run_dir=str(tmp_path / "run"))
    for path in (tmp_path / "run", tmp_path / "run" / "secrets"):
        os.chown(path, 12345, 12345)
    load(conf, {}, run_dir=str(tmp_path / "run"))
    assert caplog.text == ""
