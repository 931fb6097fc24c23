"""The process model: every child may die at any instant; the server starts and stops as documented."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.patience import PATIENCE_S, free_port, wait_for

CONFIG = """
children = 2
loadmodule "sl"
route { sl_reply("200", "OK"); }
"""


def options(call_id, port):
    return (
        f"OPTIONS sip:127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{call_id};rport\r\n"
        f"From: <sip:a@b.invalid>;tag=1\r\nTo: <sip:a@b.invalid>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n"
        "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()


class Server:
    def __init__(self, folder, config=CONFIG):
        self.folder = folder
        self.port = free_port()
        self.config = folder / "test.conf"
        self.config.write_text(config)
        self.log = folder / "log"
        self.process = None

    def command(self, *extra):
        return [
            sys.executable, "-m", "serpy", "-f", str(self.config), "-l", f"udp:127.0.0.1:{self.port}",
            "-Y", str(self.folder / "run"), *extra,
        ]  # fmt: skip

    def start(self, *extra):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command("-D", "-D", "-E", "-d", "-d", *extra), stdout=log, stderr=log)
        wait_for(self.is_ready)
        return self

    def is_ready(self):
        assert self.process.poll() is None, self.log.read_text()
        return "processes are ready" in self.log.read_text()

    def children(self):
        """Title -> pid."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            except OSError:
                continue
            title = words.decode().removeprefix("serpy: ")
            if "-m" not in title and title != "master":
                found[title] = int(pid)
        return found

    def is_ready_again(self, pid):
        return f"(pid {pid})" in self.log.read_text()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    made.start()
    yield made
    made.end()


@pytest.fixture
def phone():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        yield sock


@pytest.mark.parametrize("kind", ["udp receiver child=0", "udp receiver child=1", "timer", "store", "ctl"])
def test_a_killed_child_is_replaced_and_the_others_live_on(server, kind):
    before = server.children()
    assert len(before) == 5
    title = next(title for title in before if title.startswith(kind))
    os.kill(before[title], signal.SIGKILL)
    after = wait_for(lambda: (now := server.children()).get(title, before[title]) != before[title] and now)
    wait_for(lambda: server.is_ready_again(after[title]))
    assert {name: pid for name, pid in after.items() if name != title} == {
        name: pid for name, pid in before.items() if name != title
    }


def test_datagrams_queued_for_a_dead_receiver_are_answered_by_its_successor(server, phone):
    pids = {title: pid for title, pid in server.children().items() if title.startswith("udp")}
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    for number in range(40):
        phone.sendto(options(f"queued-{number}", server.port), ("127.0.0.1", server.port))
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    answered = {line for _ in range(40) for line in phone.recv(4000).split(b"\r\n") if line.startswith(b"Call-ID")}
    assert len(answered) == 40


def test_each_of_twenty_kills_in_a_row_is_survived(server, phone):
    for number in range(20):
        title, pid = sorted(server.children().items())[number % 5]
        os.kill(pid, signal.SIGKILL)
        successor = wait_for(lambda title=title, pid=pid: (now := server.children().get(title, pid)) != pid and now)
        wait_for(lambda successor=successor: server.is_ready_again(successor))
        phone.sendto(options(f"kill-{number}", server.port), ("127.0.0.1", server.port))
        assert phone.recv(4000).startswith(b"SIP/2.0 200")


def test_a_silent_child_is_aborted_with_a_traceback_or_killed_and_replaced(tmp_path, phone):
    server = Server(tmp_path, "heartbeat_timeout = 2\n" + CONFIG)
    server.start()
    try:
        title, pid = next((title, pid) for title, pid in server.children().items() if title.startswith("udp"))
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: server.children().get(title, pid) != pid)
        text = server.log.read_text()
        assert f"(pid {pid}) is silent" in text
        assert f"(pid {pid}) was killed by signal" in text
    finally:
        server.end()


def test_an_aborted_child_leaves_its_traceback_in_the_log(server, phone):
    # "Ready" is said before the loop runs. Whoever has answered is in it: of so many Call-IDs both receivers have some.
    for number in range(40):
        phone.sendto(options(f"awake-{number}", server.port), ("127.0.0.1", server.port))
    assert {phone.recv(4000)[:11] for _ in range(40)} == {b"SIP/2.0 200"}
    title, pid = next((title, pid) for title, pid in server.children().items() if title.startswith("udp"))
    os.kill(pid, signal.SIGABRT)
    wait_for(lambda: server.children().get(title, pid) != pid)

    def story():
        """What follows the headline. Frames of compiled functions are not listed; those of base.py are always there."""
        return server.log.read_text().partition(f"(pid {pid}) was killed by signal 6 (SIGABRT)")[2]

    wait_for(lambda: 'workers/base.py", line' in story())


def test_the_children_leave_when_the_master_is_gone(server):
    pids = list(server.children().values())
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_end_the_server_in_order(server, number):
    pids = list(server.children().values())
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE_S) == 0
    assert not any(is_alive(pid) for pid in pids)
    assert "NOTICE: master" in server.log.read_text().rstrip("\n").rpartition("\n")[2]


def test_ctrl_c_which_reaches_every_process_is_an_orderly_stop(server):
    for pid in (*server.children().values(), server.process.pid):
        os.kill(pid, signal.SIGINT)
    assert server.process.wait(PATIENCE_S) == 0
    assert "ALERT" not in server.log.read_text()


def test_hup_changes_nothing_and_usr1_tells_the_status(server):
    before = server.children()
    server.process.send_signal(signal.SIGHUP)
    server.process.send_signal(signal.SIGUSR1)
    wait_for(lambda: "KiB resident" in server.log.read_text())
    assert server.children() == before


def test_a_port_in_use_is_named_with_its_owner(server, tmp_path):
    other = subprocess.run(
        [*server.command("-D", "-D", "-E"), "-Y", str(tmp_path / "other")],
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert other.returncode == 2
    assert f"udp:127.0.0.1:{server.port} is in use by another program (pid " in other.stderr


def test_a_child_that_cannot_boot_stops_the_server(tmp_path):
    server = Server(tmp_path, 'store_policy = "nonsense"\n' + CONFIG)
    done = subprocess.run(
        server.command("-D", "-D", "-E"), capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 3
    assert "cannot start: store: store_policy" in done.stderr


def test_going_to_the_background_succeeds_only_when_all_is_ready(tmp_path):
    server = Server(tmp_path)
    pid_file = tmp_path / "pid"
    done = subprocess.run(server.command("-P", str(pid_file)), check=False, timeout=PATIENCE_S)
    assert done.returncode == 0
    pid = int(pid_file.read_text())
    again = subprocess.run(
        server.command("-P", str(pid_file)), check=False, timeout=PATIENCE_S, capture_output=True, text=True
    )
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not is_alive(pid))
    assert again.returncode == 2
    assert f"already running as pid {pid}" in again.stderr
    assert not pid_file.exists()


def test_a_failed_start_in_the_background_is_reported_to_the_starter(tmp_path):
    server = Server(tmp_path, 'store_policy = "nonsense"\n' + CONFIG)
    done = subprocess.run(server.command(), check=False, timeout=PATIENCE_S, capture_output=True, text=True)
    assert done.returncode == 3
    assert "store_policy" in done.stderr


def test_a_pid_file_that_cannot_be_written_is_reported_to_the_starter(tmp_path):
    server = Server(tmp_path)
    command = server.command("-P", str(tmp_path / "missing/pid"))
    done = subprocess.run(command, check=False, timeout=30, capture_output=True, text=True)
    assert done.returncode == 3
    assert "missing/pid" in done.stderr


def test_check_config_says_ok_and_starts_nothing(tmp_path):
    server = Server(tmp_path)
    done = subprocess.run(server.command("-c"), check=False, timeout=PATIENCE_S, capture_output=True, text=True)
    assert done.returncode == 0
    assert "config file ok, exiting" in done.stderr
    assert not (tmp_path / "run").exists()
