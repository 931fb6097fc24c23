"""Rows changed by somebody else in PostgreSQL count for the next message, though the processes keep rows for a minute."""

from __future__ import annotations

import pytest
from support.running import DOMAIN, Running, wait_for

pytestmark = [pytest.mark.system, pytest.mark.postgres]

SCRIPT = """
loadmodule "db_postgres" loadmodule "sl" loadmodule "domain" loadmodule "uri_db" loadmodule "avp_db" loadmodule "gflags"
modparam("domain|uri_db|avp_db|gflags", "db_url", "DB")
modparam("uri_db|avp_db", "cache_ttl", 600)
modparam("uri_db|avp_db", "cache_negative_ttl", 600)
modparam("gflags", "load_global_attrs", 1)
children = 2
route {
    if ($g.lang == "cs") { sl_reply("200", "Czech"); exit; }
    if (!is_local("@ruri.host")) { sl_reply("404", "Not ours"); exit; }
    if (!lookup_user("$tu.uid", "@ruri")) { sl_reply("480", "Nobody"); exit; }
    load_attrs("$tu", "$tu.uid");
    if ($tu.acl == "yes") { sl_reply("202", "Attributed"); } else { sl_reply("486", "Known"); }
}
"""


@pytest.fixture(scope="module")
def server(postgres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed")
    url = postgres.fresh()
    config = folder / "serpy.conf"
    config.write_text(SCRIPT.replace('"DB"', f'"{url}"'), encoding="utf-8")
    running = Running(folder, config=config, url=url)
    running.ctl("db", "create")
    running.ctl("domain", "add", DOMAIN)
    running.start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


def test_every_change_is_seen_at_once(server, postgres):
    phone = server.phone("alice")

    def answers(status, host=DOMAIN):
        return lambda: phone.ask(phone.request("OPTIONS", f"sip:new@{host}")).status == status

    assert answers(404, "second.example")()
    assert answers(480)()
    insert = "insert into uri (uid, did, username, flags) values ('u9', 'example.com', 'new', 57)"
    postgres.sql(insert, "ser")
    wait_for(answers(486))
    postgres.sql("insert into user_attrs (uid, name, value, type, flags) values ('u9', 'acl', 'yes', 2, 33)", "ser")
    wait_for(answers(202))
    postgres.sql("insert into domain (did, domain, flags) values ('x', 'second.example', 33)", "ser")
    wait_for(answers(480, "second.example"))
    postgres.sql("update global_attrs set value = 'cs' where name = 'lang'", "ser")
    wait_for(answers(200))
    phone.close()
