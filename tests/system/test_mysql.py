"""The Out-of-Box configurations on MySQL: serpy's own, and the published one with its own kind of URL."""

from __future__ import annotations

import pytest
from support.oob import AbsentError, Oob
from support.running import wait_for
from support.steps import hang_up, invite

pytestmark = [pytest.mark.system, pytest.mark.mysql]


@pytest.fixture(scope="module", params=["serpy", "sip-router-oob"])
def server(request, tmp_path_factory):
    mysql = request.getfixturevalue("mysql")
    try:
        running = Oob(tmp_path_factory.mktemp("mysql"), request.param, url=mysql.fresh())
    except AbsentError as exc:
        pytest.skip(str(exc))
    running.mysql = mysql
    running.prepare("alice", "bob").start()
    yield running
    running.close_phones()
    assert running.stop() == 0, running.log.read_text()[-3000:]


def test_phones_register_and_call_and_the_rows_are_in_mysql(server):
    alice, bob = server.phone("alice"), server.phone("bob")
    assert bob.register().status == 200
    rows = server.mysql.sql(
        "select uid, contact, timestampdiff(second, utc_timestamp(), expires) > 0 from location", "ser"
    )
    assert rows == f"bob@example.com\t{bob.contact}\t1"
    text = invite(alice, bob.aor)
    bob.reply(bob.expect("INVITE"), 200)
    hang_up(alice, bob, text, alice.expect(200))
    query = f"select sip_method from acc where sip_callid = '{alice.call_id}' order by sip_method"
    assert wait_for(lambda: (found := server.mysql.sql(query, "ser")) == "BYE\nINVITE" and found)
    assert server.ctl("db", "check").returncode == 0
    assert bob.register(expires=0).status == 200
    assert server.mysql.sql("select count(*) from location", "ser") == "0"


def test_the_timer_purges_and_reloads_with_the_published_statements(server):
    server.mysql.sql("insert into location (uid, aor, contact, expires) values ('old', 'a', 'c', '2001-01-01')", "ser")
    name = "second.example"
    phone = server.phone("dora")
    phone.domain = name
    assert phone.ask(phone.request("REGISTER", f"sip:{name}", to=f"<sip:dora@{name}>")).status == 403
    server.provision(lambda provision: provision.domain_add(name))

    def is_served():
        return phone.ask(phone.request("REGISTER", f"sip:{name}", to=f"<sip:dora@{name}>")).status == 401

    wait_for(is_served, every=0.1)
    if not server.is_own:
        assert wait_for(lambda: server.mysql.sql("select count(*) from location where uid = 'old'", "ser") == "0")


def test_a_contact_of_1024_characters_is_stored_and_an_older_table_is_widened(server):
    alice = server.phone("alice")
    head = f"sip:alice@{alice.contact.partition('@')[2].partition(';')[0]};p="
    contact = head + "x" * (1024 - len(head))
    server.mysql.sql("alter table location modify contact varchar(500) not null", "ser")
    assert server.ctl("db", "check", check=False).returncode != 0
    assert "widened location.contact" in server.ctl("db", "upgrade").stdout
    assert server.ctl("db", "check").returncode == 0
    assert alice.register(contact=f"<{contact}>").status == 200
    assert server.mysql.sql("select contact from location where uid = 'alice@example.com'", "ser") == contact
    assert alice.register(expires=0, contact=f"<{contact}>").status == 200


def test_a_restarted_server_is_used_again(server):
    bob = server.phone("bob")
    assert bob.register().status == 200
    server.mysql.stop()
    assert bob.register().status in (401, 500)
    server.mysql.start()

    def registers():
        again = server.phone("bob")
        return again.register().status == 200

    wait_for(registers, every=0.2)
    assert server.mysql.sql("select uid from location where uid <> 'old' limit 1", "ser") == "bob@example.com"
