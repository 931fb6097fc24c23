"""A whole server whose user may have no more processes, while its children are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from process.test_master_life import CONFIG, Server, options
from support.other_user import allow_forks, as_other_user, can_be_other_user, give_to_other_user
from support.patience import wait_for

pytestmark = pytest.mark.skipif(
    not can_be_other_user(sys.executable, "-c", "import serpy.daemon"), reason="no unprivileged user can run serpy here"
)


class Limited(Server):
    def command(self, *extra):
        return as_other_user(super().command(*extra))


@pytest.fixture
def server():
    folder = Path(tempfile.mkdtemp(prefix="serpy-limit-"))  # where the other user can get to
    made = Limited(folder, CONFIG)
    made.log.touch()
    give_to_other_user(folder)
    made.start()
    yield made
    made.end()
    shutil.rmtree(folder)


def test_a_server_at_its_limit_of_processes_serves_and_is_whole_again_later(server):
    before = wait_for(lambda: len(found := server.children()) == 5 and found)
    allow_forks(server.process.pid, False)
    killed = {title: pid for title, pid in before.items() if title in ("timer", "ctl", "store")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: "cannot fork" in server.log.read_text())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.settimeout(5)
        for number in range(20):
            phone.sendto(options(f"limit-{number}", server.port), ("127.0.0.1", server.port))
            assert phone.recv(4000).startswith(b"SIP/2.0 200")
    assert server.process.poll() is None
    assert set(server.children()) == set(before) - set(killed)
    allow_forks(server.process.pid, True)
    after = wait_for(lambda: len(found := server.children()) == 5 and found)
    assert {title for title in before if before[title] != after[title]} == set(killed)
    assert "forks work again" in wait_for(lambda: (text := server.log.read_text()) and "forks work" in text and text)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
