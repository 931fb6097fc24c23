"""Memory that outlives a server: what is there is found again, what does not fit is begun afresh."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from serpy.errors import ConfigError
from serpy.shm.kept import Kept


def test_what_was_written_is_there_after_a_restart(tmp_path):
    first = Kept(str(tmp_path), "things", "things 1", 8192)
    first.memory[100:105] = b"hello"
    again = Kept(str(tmp_path), "things", "things 1", 8192)
    assert (again.is_fresh, bytes(again.memory[100:105])) == (False, b"hello")


def test_nobody_else_may_read_it(tmp_path):
    Kept(str(tmp_path), "things", "things 1", 8192)
    assert stat.S_IMODE((tmp_path / "things").stat().st_mode) == 0o600


@pytest.mark.parametrize(("layout", "size"), [("things 2", 8192), ("things 1", 4096), ("things 1", 16384)])
def test_another_layout_begins_afresh_and_a_running_server_keeps_its_own(tmp_path, layout, size):
    running = Kept(str(tmp_path), "things", "things 1", 8192)
    running.memory[0:5] = b"hello"
    other = Kept(str(tmp_path), "things", layout, size)
    assert (other.is_fresh, bytes(other.memory[0:5]), len(other.memory)) == (True, b"\0" * 5, size)
    assert bytes(running.memory[0:5]) == b"hello"
    assert bytes(running.memory[-5:]) == b"\0" * 5


def test_a_file_from_before_the_machine_was_started_is_begun_afresh(tmp_path):
    Kept(str(tmp_path), "things", "things 1", 8192)
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    data = (tmp_path / "things").read_bytes()
    assert boot in data
    (tmp_path / "things").write_bytes(data.replace(boot, boot[::-1]))
    assert Kept(str(tmp_path), "things", "things 1", 8192).is_fresh


@pytest.mark.parametrize("content", [b"", b"rubbish", b"x" * 20000])
def test_rubbish_is_replaced(tmp_path, content):
    (tmp_path / "things").write_bytes(content)
    assert Kept(str(tmp_path), "things", "things 1", 8192).is_fresh


def test_a_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / "things").symlink_to(target)
    Kept(str(tmp_path), "things", "things 1", 8192).memory[0:1] = b"x"
    assert target.read_bytes() == b"precious"


def test_without_a_run_directory_it_is_memory_only():
    kept = Kept("", "things", "things 1", 8192)
    assert (kept.is_fresh, len(kept.memory)) == (True, 8192)


def test_a_run_directory_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep"):
        Kept(str(tmp_path / "file" / "run"), "things", "things 1", 8192)
