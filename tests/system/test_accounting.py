"""Accounting by a running server on both databases: one row for each call, whatever is killed meanwhile."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from support.calls import CallLoad
from support.running import Running, wait_for

from serpy.loader import open_database

pytestmark = pytest.mark.system

CONFIG = """
flags FLAG_ACC : 1, FLAG_MISSED : 2;
loadmodule "db_sqlite" loadmodule "db_postgres"
loadmodule "tm" loadmodule "sl" loadmodule "rr" loadmodule "maxfwd" loadmodule "usrloc" loadmodule "acc_db"
modparam("usrloc|acc_db", "db_url", DB_URL)
modparam("acc_db", "log_flag", "FLAG_ACC")
modparam("acc_db", "log_missed_flag", "FLAG_MISSED")
modparam("acc_db", "failed_transactions", 1)
modparam("acc_db", "report_ack", 1)
modparam("acc_db", "early_media", 1)
modparam("acc_db", "report_cancels", 1)
modparam("acc_db", "attrs", "$f.account,$tu.note")
server_id = 7

route {
    if (method == "OPTIONS") { sl_reply("200", "OK"); exit; }
    if (!mf_process_maxfwd_header("10")) { sl_reply("483", "Too Many Hops"); exit; }
    if (@to.uri =~ "unaccounted") { t_relay(); exit; }
    setflag(FLAG_ACC);
    if (method == "ACK" || method == "BYE") { loose_route(); t_relay(); exit; }
    if (method == "CANCEL") { t_relay_cancel(); exit; }
    setflag(FLAG_MISSED);
    $f.account = "a\\"b";
    $tu.uid = @ruri.user;
    $tu.note = 5;
    record_route();
    if (@ruri.user == "nobody") { t_reply("404", "Not Found"); exit; }
    if (@ruri.user == "logged") { acc_db_log("299"); acc_db_missed(); t_reply("404", "Not Found"); exit; }
    if (@ruri.user == "stateless") { sl_reply("404", "Not Found"); exit; }
    if (@ruri.user == "slow") { t_set_fr("300", "300"); }
    t_on_failure("FORWARD");
    t_relay();
}

failure_route[FORWARD] {
    if (t_check_status("486") && @ruri.user == "busy") {
        rewriteuser("second");
        append_branch();
        t_relay();
    }
}
"""


class Accounting(Running):
    """A server that accounts, and its rows."""

    def rows(self, table, **where):
        database = open_database(self.defines["DB_URL"])
        try:
            columns = (
                "sip_method", "sip_status", "in_ruri", "out_ruri", "from_uid", "to_uid", "to_tag", "attrs", "flags",
                "src_ip", "src_port", "server_id", "sip_callid", "request_timestamp", "response_timestamp", "sip_cseq",
            )  # fmt: skip
            found = database.select(table, columns, where, order="id")
            return [dict(zip(columns, row, strict=True)) for row in found]
        finally:
            database.close()

    def wait_rows(self, table, count, **where):
        """The rows, once there are *count*; and no more come while others are written."""
        wait_for(lambda: len(self.rows(table, **where)) >= count)
        return self.rows(table, **where)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("accounting")
    url = ""
    if request.param == "postgres":
        postgres = request.getfixturevalue("postgres")
        if postgres.server is None:
            postgres.start()
        postgres.sql("drop database if exists ser with (force)")
        postgres.sql("create database ser owner ser")
        url = postgres.url
    config = folder / "accounting.conf"
    config.write_text(CONFIG)
    running = Accounting(folder, config=config, url=url)
    running.ctl("db", "create")
    running.start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


@pytest.fixture
def pair(server):
    """Alice, and a callee whose contact alice dials."""
    phones = []

    def make(callee):
        phones.extend((server.phone("alice"), server.phone(callee)))
        return phones[-2], phones[-1]

    yield make
    for phone in phones:
        phone.close()


def begin(caller, callee):
    """An INVITE that has reached the callee: (its text, as received)."""
    text = caller.request("INVITE", callee.contact)
    caller.send(text)
    return text, callee.expect("INVITE")


def end(caller, text, status):
    """The final answer with *status*, acknowledged."""
    answer = caller.expect(status)
    caller.send(caller.ack(text, answer))
    return answer


def test_an_answered_call_has_rows_for_invite_ack_and_bye(server, pair):
    alice, bob = pair("bob")
    text, invite = begin(alice, bob)
    bob.reply(invite, 183, "Session Progress", tag="bobs")
    alice.expect(183)
    bob.reply(invite, 200, tag="bobs")
    answer = end(alice, text, 200)
    bob.expect("ACK")
    alice.send(alice.in_dialog("BYE", text, answer))
    bob.reply(bob.expect("BYE"), 200)
    alice.expect(200)
    rows = server.wait_rows("acc", 4, sip_callid=alice.call_id)
    assert [(row["sip_method"], row["sip_status"]) for row in rows] == [
        ("INVITE", 183), ("INVITE", 200), ("ACK", 200), ("BYE", 200),
    ]  # fmt: skip
    call, ack = rows[1], rows[2]
    assert call["in_ruri"] == call["out_ruri"] == bob.contact
    assert call["to_tag"] == ack["to_tag"] == "bobs"
    assert call["to_uid"] == ack["to_uid"] == "bob"
    assert call["attrs"] == 'account="a\\"b",note="5"'
    assert (call["src_ip"], call["src_port"], call["server_id"]) == ("127.0.0.1", alice.port, 7)
    assert call["flags"] & 2
    assert 0 <= call["response_timestamp"] - call["request_timestamp"] <= 60
    assert server.rows("missed_calls", sip_callid=alice.call_id) == []


@pytest.mark.parametrize("status", [404, 486, 603])
def test_a_failed_call_is_missed_and_failed(server, pair, status):
    alice, bob = pair("bob")
    text, invite = begin(alice, bob)
    bob.reply(invite, status, "No")
    end(alice, text, status)
    (missed,) = server.wait_rows("missed_calls", 1, sip_callid=alice.call_id)
    (failed,) = server.wait_rows("acc", 1, sip_callid=alice.call_id)
    assert missed["sip_status"] == failed["sip_status"] == status
    assert missed["to_tag"] == bob.tag
    assert failed["flags"] & 4 == 0


def test_a_call_that_is_forwarded_when_busy_is_missed_and_answered(server, pair):
    alice, busy = pair("busy")
    text, invite = begin(alice, busy)
    busy.reply(invite, 486, "Busy Here")
    busy.expect("ACK")
    second = busy.expect("INVITE")
    busy.reply(second, 200)
    end(alice, text, 200)
    (missed,) = server.wait_rows("missed_calls", 1, sip_callid=alice.call_id)
    answered, _ack = server.wait_rows("acc", 2, sip_callid=alice.call_id)
    assert (missed["sip_status"], missed["out_ruri"]) == (486, busy.contact)
    assert (answered["sip_status"], answered["in_ruri"]) == (200, busy.contact)
    assert answered["out_ruri"] == busy.contact.replace("busy@", "second@")


def test_a_call_nobody_answers_is_missed_with_408(server, pair):
    alice, slow = pair("slow")
    text, invite = begin(alice, slow)
    slow.reply(invite, 180, "Ringing")
    slow.reply(slow.expect("CANCEL"), 200)
    slow.reply(invite, 487, "Request Terminated")
    end(alice, text, 408)
    (missed,) = server.wait_rows("missed_calls", 1, sip_callid=alice.call_id)
    (failed,) = server.wait_rows("acc", 1, sip_callid=alice.call_id)
    assert missed["sip_status"] == failed["sip_status"] == 408


def test_a_cancelled_call_is_missed_with_487_and_the_cancel_counts_once(server, pair):
    alice, bob = pair("bob")
    text, invite = begin(alice, bob)
    bob.reply(invite, 180, "Ringing")
    alice.expect(180)
    cancel = text.replace("INVITE", "CANCEL")
    alice.send(cancel)
    alice.send(cancel)
    bob.reply(bob.expect("CANCEL"), 200)
    bob.reply(invite, 487, "Request Terminated")
    end(alice, text, 487)
    rows = server.wait_rows("acc", 2, sip_callid=alice.call_id)
    assert sorted((row["sip_method"], row["sip_status"]) for row in rows) == [("CANCEL", 200), ("INVITE", 487)]
    assert [row["sip_status"] for row in server.wait_rows("missed_calls", 1, sip_callid=alice.call_id)] == [487]


def test_an_answer_of_our_own_is_accounted_and_a_stateless_one_is_not(server, pair):
    alice, _ = pair("nobody")
    for user in ("stateless", "nobody"):
        alice.call_id = f"{user}-{alice.tag}"
        text = alice.request("INVITE", f"sip:{user}@127.0.0.1:9")
        alice.send(text)
        answer = end(alice, text, 404)
    (missed,) = server.wait_rows("missed_calls", 1, sip_callid=alice.call_id)
    assert (missed["sip_status"], missed["to_tag"]) == (404, answer.get("To").partition(";tag=")[2])
    assert len(server.wait_rows("acc", 1, sip_callid=alice.call_id)) == 1
    assert server.rows("acc", sip_callid=f"stateless-{alice.tag}") == []


def test_the_script_writes_rows_of_its_own(server, pair):
    alice, _ = pair("logged")
    text = alice.request("INVITE", "sip:logged@127.0.0.1:9")
    alice.send(text)
    end(alice, text, 404)
    rows = server.wait_rows("acc", 2, sip_callid=alice.call_id)
    assert [row["sip_status"] for row in rows] == [299, 404]
    missed = server.wait_rows("missed_calls", 2, sip_callid=alice.call_id)
    assert [row["sip_status"] for row in missed] == [None, 404]


def test_without_the_flag_there_is_no_row(server, pair):
    alice, bob = pair("unaccounted")
    text, invite = begin(alice, bob)
    bob.reply(invite, 486, "Busy Here")
    end(alice, text, 486)
    other, second = pair("bob")
    text, invite = begin(other, second)
    second.reply(invite, 486, "Busy Here")
    end(other, text, 486)
    server.wait_rows("acc", 1, sip_callid=other.call_id)
    assert server.rows("acc", sip_callid=alice.call_id) == server.rows("missed_calls", sip_callid=alice.call_id) == []


def store_pid(server):
    return next((pid for title, pid in server.children().items() if "store" in title), 0)


@pytest.fixture
def load(server):
    """Calls to bob, 80 a second."""
    made = CallLoad(server.address, ["bob"], 80)
    made.domain = f"127.0.0.1:{made.port}"
    made.start()
    return made


def assert_complete(server, load):
    """Each call has its rows, for INVITE, ACK and BYE, once."""
    load.finish()
    assert load.failed == {}
    expected = load.completed * 3
    rows = server.wait_rows("acc", expected, src_port=load.port)
    seen = Counter((row["sip_callid"], row["sip_method"]) for row in rows)
    assert len(rows) == len(seen) == expected
    assert Counter(method for _, method in seen) == dict.fromkeys(("INVITE", "ACK", "BYE"), load.completed)


def test_a_killed_store_loses_no_row_and_doubles_none(server, load):
    for _ in range(5):
        seen = load.completed
        wait_for(lambda: load.completed >= seen + 25)  # noqa: B023 - used at once
        pid = wait_for(lambda: store_pid(server))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: store_pid(server) not in {0, pid})  # noqa: B023 - used at once
    assert_complete(server, load)


@pytest.mark.postgres
@pytest.mark.parametrize("server", ["postgres"], indirect=True)
@pytest.mark.parametrize("killed", [False, True], ids=["", "and the store is killed"])
def test_a_database_that_cuts_its_connections_and_goes_away_doubles_no_row(server, load, request, killed):
    postgres = request.getfixturevalue("postgres")
    for _ in range(5):
        seen = load.completed
        wait_for(lambda: load.completed >= seen + 15)  # noqa: B023 - used at once
        postgres.cut()
    postgres.stop()
    try:
        wait_for(lambda: server.json("stats")["store.backlog"] > 20)
        if killed:
            os.kill(wait_for(lambda: store_pid(server)), signal.SIGKILL)
        seen = load.completed
        wait_for(lambda: load.completed >= seen + 25)
    finally:
        postgres.start()
    wait_for(lambda: server.json("stats")["store.backlog"] == 0, timeout=30)
    assert_complete(server, load)
