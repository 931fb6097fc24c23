"""sercmd and a running server: found by its run directory and environment, and what it changes is changed."""

import os
import socket
import subprocess

import pytest
from support.patience import PATIENCE_S
from support.running import BIN, DOMAIN, Running

pytestmark = pytest.mark.system

SCRIPT = """
loadmodule "db_sqlite"
loadmodule "sl"
loadmodule "ctl"
loadmodule "cfg_rpc"
loadmodule "domain"
loadmodule "db_ops"
modparam("domain|db_ops", "db_url", "DB")
modparam("db_ops", "declare_handle", "all")
modparam("ctl", "binrpc", "udp:127.0.0.1:PORT")
my.limit = 3 desc "for this test"
children = 1
debug = 2
route {
    if (method == "MESSAGE") {
        db_query("update global_attrs set value='%@msg.header.Subject' where name='lang'");
        if (db_query("select value from global_attrs where name='lang'", "all")) { sl_reply("202", "Changed"); } else { sl_reply("404", "Gone"); }
        exit;
    }
    if (is_local("later.example")) { sl_reply("200", "Local"); exit; }
    if (@cfg_get.my.limit == "7") { sl_reply("480", "Seven"); exit; }
    sl_reply("404", "Not local");
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sercmd")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"sqlite:///{folder}/serpy.db"
    config = folder / "serpy.conf"
    config.write_text(SCRIPT.replace('"DB"', f'"{url}"').replace("PORT", str(port)), encoding="utf-8")
    running = Running(folder, config=config, url=url)
    running.rpc_port = port
    running.ctl("db", "create")
    running.ctl("domain", "add", DOMAIN)
    running.start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


def sercmd(*words, **environment):
    done = subprocess.run(
        [str(BIN / "sercmd"), *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def phone(server):
    made = server.phone("alice")
    yield made
    made.close()


def test_a_domain_added_in_the_database_is_served_after_domain_reload(server, phone):
    phone.send(phone.request("OPTIONS", "sip:later.example"))
    assert phone.expect(404)
    server.ctl("domain", "add", "later.example")
    status, out, _ = sercmd("-Y", str(server.folder), "domain.reload")
    assert (status, out) == (0, "{\n\tdomains: 2\n}\n")
    phone.send(phone.request("OPTIONS", "sip:later.example"))
    assert phone.expect(200)
    server.ctl("domain", "rm", "later.example")
    assert sercmd("domain.reload", SERPY_CTL=f"unixs:{server.folder}/ctl")[0] == 0


def test_a_variable_set_now_counts_for_the_next_message(server, phone):
    udp = f"udp:127.0.0.1:{server.rpc_port}"
    assert sercmd("-s", udp, "cfg.set_now_int", "my", "limit", "7")[0] == 0
    assert sercmd("-s", udp, "cfg.get", "my", "limit")[:2] == (0, "7\n")
    phone.send(phone.request("OPTIONS", "sip:nowhere.example"))
    assert phone.expect(480)
    assert sercmd("-s", udp, "cfg.set_now_int", "my", "limit", "3")[0] == 0


def test_ps_lists_the_processes_in_two_columns_and_a_fault_is_status_1(server):
    status, out, _ = sercmd("-Y", str(server.folder), "ps")
    assert status == 0
    names = [line.split("\t")[1] for line in out.splitlines()]
    assert any("receiver" in name for name in names)
    assert all(len(line.split("\t")) == 2 for line in out.splitlines())
    assert sercmd("-Y", str(server.folder), "no.such")[0] == 1


@pytest.mark.parametrize("text", ["cs", "x'; delete from uri; --", "a' or 'b'='b"])
def test_a_receiver_writes_through_the_store_and_a_header_stays_a_value(server, phone, text):
    phone.send(phone.request("MESSAGE", "sip:nobody@nowhere.example", headers=(f"Subject: {text}",)))
    assert phone.expect(202)
    shown = server.json("attrs", "show", "global")
    assert text in [row["value"] for row in shown if row["name"] == "lang"]
