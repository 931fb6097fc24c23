"""Programs, timer routes and telephone numbers in a running server: nothing of it holds up a call."""

from __future__ import annotations

import os
import signal

import pytest
from support.dns import NameServer
from support.running import Running, wait_for

pytestmark = pytest.mark.system

CONFIG = """
loadmodule "db_sqlite"
loadmodule "tm" loadmodule "sl" loadmodule "usrloc" loadmodule "exec" loadmodule "timer" loadmodule "enum" loadmodule "xlog"
loadmodule "ctl"
modparam("usrloc", "db_url", DB_URL)
modparam("exec", "time_to_kill", 2)
modparam("enum", "domain_suffix", "e164.test.")
modparam("timer", "declare_timer", "BEAT=BEAT,50,slow,enable")
modparam("timer", "declare_timer", "LATER=LATER,50,fast")
modparam("timer", "declare_timer", "WRONG=WRONG,50,slow,enable")
dns_servers = NAME_SERVER
dns_retr_time = 1
dns_retr_no = 0

route {
    if (method == "OPTIONS") { sl_reply("200", "OK"); exit; }
    if (@ruri.user == "switch") { timer_enable("LATER", 1); sl_reply("404", "Switched"); exit; }
    if (@ruri.user == "slow") { exec_msg("sleep 1"); sl_reply("404", "Slow"); exit; }
    if (@ruri.user == "hanging") {
        if (!exec_msg("sleep 60")) { sl_reply("480", "Killed"); }
        exit;
    }
    if (@ruri.user == "set") {
        if (!exec_dset(DSET)) { sl_reply("404", "No program"); exit; }
        t_reply("302", "Moved");
        exit;
    }
    if (!enum_query()) { sl_reply("404", "No such number"); exit; }
    t_reply("302", "Moved");
}

route[BEAT] { exec_msg(BEAT_COMMAND); }
route[LATER] { exec_msg(LATER_COMMAND); }
route[WRONG] { t_relay(); sl_reply("200", "OK"); t_reply("200", "OK"); }
"""


def naptr(order, regexp):
    return f'{order} 10 "u" "E2U+sip" "{regexp}" .'


@pytest.fixture(scope="module")
def names():
    found = NameServer({
        ("3.2.1.3.4.e164.test.", "NAPTR"): [
            naptr(20, "!^.*$!sip:second@example.org!"), naptr(10, r"!^\\+43(.*)$!sip:\\1@example.net!"),
        ],
    })  # fmt: skip
    yield found
    found.stop()


@pytest.fixture(scope="module")
def server(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    config = folder / "programs.conf"
    config.write_text(CONFIG)
    program = folder / "dset"
    program.write_text('#!/bin/sh\necho "$1;asked"\necho sip:other@example.org\n')
    program.chmod(0o755)
    running = Running(
        folder,
        config=config,
        defines={
            "NAME_SERVER": f'"{names.text}"',
            "DSET": f'"{program}"',
            "BEAT_COMMAND": f'"sercmd timer.list >> {folder}/beats"',
            "LATER_COMMAND": f'"echo $SIP_RURI >> {folder}/later"',
        },
    )
    running.ctl("db", "create")
    running.start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def alice(server):
    phone = server.phone("alice")
    yield phone
    phone.close()


def call(phone, user):
    """Send an INVITE to *user* of the server, with a Call-ID of its own; its text."""
    text = phone.request("INVITE", f"sip:{user}@example.com", call_id=f"{user}-{phone.call_id}")
    phone.send(text)
    return text


def end(phone, text, status):
    answer = phone.expect(status)
    phone.send(phone.ack(text, answer))
    return answer


def test_a_number_leads_to_the_addresses_in_the_dns(alice):
    answer = end(alice, call(alice, "+43123"), 302)
    contacts = [part.strip() for line in answer.all("Contact") for part in line.split(",")]
    assert [part.partition(">")[0].strip("<") for part in contacts] == ["sip:123@example.net", "sip:second@example.org"]


def test_a_number_without_records_is_not_found(alice):
    end(alice, call(alice, "+49999"), 404)


def test_a_deaf_name_server_holds_up_nobody_else(alice, names):
    names.silent = True
    try:
        waiting = call(alice, "+4799")
        end(alice, call(alice, "switch"), 404)
        assert not any(message.status >= 300 for message in alice.pending)
        assert end(alice, waiting, 404).split("\r\n")[0].endswith("No such number")
    finally:
        names.silent = False


def test_a_program_gives_the_destination_set(alice):
    answer = end(alice, call(alice, "set"), 302)
    contacts = ",".join(answer.all("Contact"))
    assert "sip:set@example.com;asked" in contacts
    assert "sip:other@example.org" in contacts


def test_a_slow_program_holds_up_nobody_else(alice):
    slow = [call(alice, "slow") for _ in range(1)]
    for number in range(10):
        text = alice.request("INVITE", "sip:+49999@example.com", call_id=f"quick{number}-{alice.call_id}")
        alice.send(text)
        assert end(alice, text, 404).split("\r\n")[0].endswith("No such number")
    assert end(alice, slow[0], 404).split("\r\n")[0].endswith("Slow")


def test_a_program_that_hangs_is_killed_and_false(alice):
    end(alice, call(alice, "hanging"), 480)


def lines(server, name):
    path = server.folder / name
    return path.read_text().splitlines() if path.exists() else []


def test_timer_routes_run_programs_that_call_the_server_back(server):
    wait_for(lambda: sum("BEAT" in line for line in lines(server, "beats")) >= 3)


def test_a_timer_that_is_switched_on_by_a_message_runs(server, alice):
    end(alice, call(alice, "switch"), 404)
    wait_for(lambda: lines(server, "later"))
    assert lines(server, "later")[0] == "sip:timer@timer.invalid"
    assert {row["name"]: row["enabled"] for row in server.json("rpc", "timer.list")}["LATER"] == 1
    server.ctl("rpc", "timer.enable", "LATER", "0")


def test_timers_go_on_in_a_new_timer_process_and_routes_that_make_no_sense_end_none(server):
    title, pid = next((title, pid) for title, pid in server.children().items() if "timer" in title)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.children().get(title, pid) != pid)
    seen = len(lines(server, "beats"))
    wait_for(lambda: len(lines(server, "beats")) > seen + 3)
