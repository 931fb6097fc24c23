"""What the first start tells a newcomer to type does what it says, at the shipped configuration."""

from __future__ import annotations

import shlex
import shutil
import subprocess

import pytest
from support.patience import PATIENCE_S
from support.running import Running

from serpy.tools import quickstart

pytestmark = pytest.mark.system


@pytest.mark.skipif(shutil.which("sipsak") is None, reason="sipsak is not installed")
def test_the_examples_of_the_first_start_work_as_they_are_printed(tmp_path):
    """A server as ``make run`` makes it: the domain has all names of this machine."""
    running = Running(tmp_path)
    accounts = quickstart.prepare(
        str(running.config), tmp_path, [f"{name}={value}" for name, value in running.defines.items()], "127.0.0.1"
    )
    running.start()
    try:
        for line in quickstart.examples(f"127.0.0.1:{running.port}", accounts).splitlines():
            done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=False, timeout=PATIENCE_S)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
        shown = running.ctl("usrloc", "show").stdout
        assert "bob@serpy.local" in shown
        assert " flow " in shown
        running.ctl("ban", "add", "192.0.2.1")
        assert "[" not in running.ctl("ban", "why", "192.0.2.1").stdout
        assert running.json("ban", "why", "192.0.2.1")["last"] == []
        asked = running.ctl("trust", "show", "alice", check=False)
        assert (asked.returncode, "user@domain" in asked.stderr) == (1, True)
    finally:
        assert running.stop() == 0
