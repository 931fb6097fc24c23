"""The Out-of-Box blocks for NATs, session timers, replication, accounting and changes at run time, in three configurations.

The published files are no part of this project: tests/support/oob.py says where they are looked for.
"""

from __future__ import annotations

import pytest
from support.oob import Oob
from support.running import wait_for
from support.steps import backwards, cancel, hang_up, invite, refused

pytestmark = pytest.mark.system

SDP = "v=0\r\no=- 1 1 IN IP4 192.168.1.10\r\ns=-\r\nc=IN IP4 192.168.1.10\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


# ---- phones behind NATs


def test_nated_caller(oob):
    """The callee gets a Contact that leads back; requests inside the call reach both."""
    nated, bob = oob.nated_phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(nated, bob.aor)
    request = bob.expect("INVITE")
    assert request.get("Contact") == f"<sip:alice@{nated.host}:{nated.port}>"
    bob.reply(request, 200)
    answer = nated.expect(200)
    nated.send(nated.in_dialog("ACK", text, answer, cseq=nated.cseq))
    bob.expect("ACK")
    bob.send(bob.request("BYE", request.get("Contact").strip("<>"), **backwards(request)))
    nated.reply(nated.expect("BYE"), 200)
    assert "BYE" in bob.expect(200).get("CSeq")


def test_nated_callee(oob):
    """A phone with a private Contact is reached through the address it has registered from, also inside a call."""
    alice, nated = oob.phone("alice"), oob.nated_phone("bob")
    assert nated.register().status == 200
    (row,) = oob.contacts("bob")
    assert row["recv"].startswith(f"sip:{nated.host}:{nated.port}")
    text = invite(alice, nated.aor)
    request = nated.expect("INVITE")
    assert request.startswith(f"INVITE {nated.contact} ")
    nated.reply(request, 200)
    answer = alice.expect(200)
    if oob.fixes_contacts_of_answers:
        assert answer.get("Contact") == f"<sip:bob@{nated.host}:{nated.port}>"
        hang_up(alice, nated, text, answer)


def test_nated_callee_over_tcp(oob):
    """Over the connection that the phone has opened."""
    alice, nated = oob.phone("alice"), oob.nated_tcp_phone("bob")
    assert nated.register().status == 200
    assert f"sip:127.0.0.1:{nated.port};transport=tcp" in str(oob.contacts("bob")[0]["recv"]).lower()
    text = invite(alice, nated.aor)
    nated.reply(nated.expect("INVITE"), 486, "Busy Here")
    refused(alice, text, 486)


def test_maddr_of_a_contact_is_not_followed(oob):
    """A Contact with maddr would send requests wherever its author likes: the source address counts."""
    alice, bob = oob.phone("alice"), oob.phone("bob")
    assert bob.register(contact="<sip:bob@example.net;maddr=192.0.2.66>").status == 200
    text = invite(alice, bob.aor)
    bob.reply(bob.expect("INVITE"), 486, "Busy Here")
    refused(alice, text, 486)


def test_keepalives_reach_nated_contacts_only(oob):
    nated, plain = oob.nated_phone("bob"), oob.phone("carol")
    plain.register()
    nated.register()
    assert oob.keepalive(nated)
    assert not oob.keepalive(plain, timeout=0.05)


# ---- media


def test_media_proxy_for_a_nated_caller(oob):
    """On with the INVITE, answered with the 200, off with the BYE."""
    nated, bob = oob.nated_phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(nated, bob.aor, "Content-Type: application/sdp", body=SDP)
    request = bob.expect("INVITE")
    assert f"c=IN IP4 {oob.media.media_host}" in request
    assert "m=audio 4000 " not in request
    bob.reply(request, 200, headers=("Content-Type: application/sdp",), body=SDP.replace("192.168.1.10", "127.0.0.1"))
    answer = nated.expect(200)
    assert f"c=IN IP4 {oob.media.media_host}" in answer
    call_id = nated.call_id
    assert [command[0] for command in oob.media.asked if call_id in command] == ["U", "L"]
    hang_up(nated, bob, text, answer)
    wait_for(lambda: any(command.startswith("D ") and call_id in command for command in oob.media.asked))


@pytest.mark.parametrize("end", ["refused", "cancelled"])
def test_media_proxy_is_off_when_the_call_fails(oob, end):
    if not oob.is_own:
        pytest.skip("the published files leave it to the proxy's own timeout")
    nated, bob = oob.nated_phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(nated, bob.aor, "Content-Type: application/sdp", body=SDP)
    request = bob.expect("INVITE")
    if end == "refused":
        bob.reply(request, 486, "Busy Here")
        refused(nated, text, 486)
    else:
        bob.reply(request, 180, "Ringing")
        nated.expect(180)
        cancel(nated, bob, text, request)
    wait_for(lambda: any(command.startswith("D ") and nated.call_id in command for command in oob.media.asked))


def test_media_proxy_that_cannot_be_had(oob):
    """The call goes on without one."""
    nated, bob = oob.nated_phone("alice"), oob.phone("bob")
    bob.register()
    oob.rpc("nathelper.rtpproxy_disable", "all")
    try:
        text = invite(nated, bob.aor, "Content-Type: application/sdp", body=SDP)
        request = bob.expect("INVITE")
    finally:
        oob.rpc("nathelper.rtpproxy_enable", "all")
    assert request.split("\r\n\r\n", 1)[1] == SDP
    bob.reply(request, 486, "Busy Here")
    refused(nated, text, 486)


def test_media_proxy_is_not_asked_without_a_nat(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    sdp = SDP.replace("192.168.1.10", "127.0.0.1")
    text = invite(alice, bob.aor, "Content-Type: application/sdp", body=sdp)
    request = bob.expect("INVITE")
    assert request.split("\r\n\r\n", 1)[1] == sdp
    bob.reply(request, 486, "Busy Here")
    refused(alice, text, 486)


def test_media_proxy_for_a_nated_callee_and_every_call_when_enabled_at_run_time(oob):
    if oob.name == "ser-oob":
        pytest.skip("the older file has no such variable")
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    oob.rpc("cfg.set_now_string", "rtp_proxy", "enabled", "1")
    try:
        text = invite(alice, bob.aor, "Content-Type: application/sdp", body=SDP)
        request = bob.expect("INVITE")
        assert f"c=IN IP4 {oob.media.media_host}" in request
        bob.reply(request, 486, "Busy Here")
        refused(alice, text, 486)
    finally:
        oob.rpc("cfg.set_now_string", "rtp_proxy", "enabled", "detect")


# ---- session timers


def test_session_timer_too_small(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    answer = refused(alice, invite(alice, bob.aor, "Supported: timer", "Session-Expires: 60"), 422)
    assert answer.get("Min-SE") == "90"


def test_session_timer_equal_to_the_minimum(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor, "Supported: timer", "Session-Expires: 90")
    request = bob.expect("INVITE")
    assert request.all("Session-Expires") == ["90"]
    bob.reply(request, 486, "Busy Here")
    refused(alice, text, 486)


def test_session_timer_of_a_caller_who_does_not_know_them(oob):
    """The proxy asks on the caller's behalf; a callee without them either gives a call without."""
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor)
    request = bob.expect("INVITE")
    assert request.all("Session-Expires") == ["1800"]
    bob.reply(request, 200)
    answer = alice.expect(200)
    assert answer.all("Session-Expires") == []
    assert answer.all("Require") == []
    hang_up(alice, bob, text, answer)


def test_session_timer_of_a_callee_who_does_not_know_them(oob):
    """The caller does: the caller refreshes."""
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor, "Supported: timer, 100rel", "Session-Expires: 300")
    bob.reply(bob.expect("INVITE"), 200)
    answer = alice.expect(200)
    assert answer.all("Session-Expires") == ["300;refresher=uac"]
    assert answer.all("Require") == ["timer"]
    hang_up(alice, bob, text, answer)


def test_session_timer_of_both(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor, "Supported: timer", "Session-Expires: 300")
    bob.reply(bob.expect("INVITE"), 200, headers=("Session-Expires: 300;refresher=uas", "Require: timer"))
    answer = alice.expect(200)
    assert answer.all("Session-Expires") == ["300;refresher=uas"]
    hang_up(alice, bob, text, answer)


def test_session_timer_too_small_of_a_caller_who_would_not_understand_422(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor, "Session-Expires: 60")
    request = bob.expect("INVITE")
    assert request.all("Session-Expires") == ["90"]
    assert request.all("Min-SE") == ["90"]
    bob.reply(request, 486, "Busy Here")
    refused(alice, text, 486)


def test_session_timer_too_small_when_the_call_is_refreshed(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor, "Supported: timer", "Session-Expires: 300")
    bob.reply(bob.expect("INVITE"), 200, headers=("Session-Expires: 300;refresher=uac", "Require: timer"))
    answer = alice.expect(200)
    alice.send(alice.in_dialog("ACK", text, answer, cseq=alice.cseq))
    bob.expect("ACK")
    call = alice.in_dialog("INVITE", text, answer)
    for interval, status in ((60, 422), (200, 200)):
        again = call.replace("Max-Forwards", f"Supported: timer\r\nSession-Expires: {interval}\r\nMax-Forwards", 1)
        again = again.replace("branch=z9hG4bK", f"branch=z9hG4bK{interval}", 1)
        again = again.replace(f"CSeq: {alice.cseq} INVITE", f"CSeq: {alice.cseq + interval} INVITE")
        alice.send(again)
        if status == 422:
            assert refused(alice, again, 422).get("Min-SE") == "90"
        else:
            request = bob.expect("INVITE")
            assert request.get("Session-Expires") == "200"
            bob.reply(request, 200, headers=("Session-Expires: 200;refresher=uac", "Require: timer"))
            assert alice.expect(200).get("Session-Expires") == "200;refresher=uac"


# ---- replication


@pytest.mark.parametrize("kind", ["plain", "nated"])
def test_replication_of_a_registration(oob, kind):
    """The neighbours hear of it: whose it is, which server took it, whether there is a NAT; no credentials."""
    with oob.neighbour() as neighbour:
        bob = oob.nated_phone("bob") if kind == "nated" else oob.phone("bob")
        assert bob.register().status == 200
        heard = neighbour.heard()
    assert heard.startswith("REGISTER sip:bob%40example.com@example.com SIP/2.0")
    assert heard.get("SER-Server-ID") == "1"
    assert heard.get("Repl-Marker") == ("nated" if kind == "nated" else "")
    assert bob.contact in heard.get("Contact")
    assert not heard.get("Authorization")


def test_two_servers_of_a_farm(oob, tmp_path):
    """Who registers at one is called, and taken off again, at the other; also a phone behind a NAT."""
    other = Oob(tmp_path, oob.name, server_id=2, farm=oob).prepare("alice", "bob", "carol").start()
    try:
        with oob.attrs("global", replicate="1"), other.attrs("global", replicate="1"):
            bob, nated, alice = oob.phone("bob"), oob.nated_phone("carol"), other.phone("alice")
            bob.register()
            nated.register()
            wait_for(lambda: other.contacts("bob") and other.contacts("carol"))
            for phone in (bob, nated):
                text = invite(alice, phone.aor)
                phone.reply(phone.expect("INVITE"), 486, "Busy Here")
                refused(alice, text, 486)
            bob.register(expires=0)
            wait_for(lambda: not other.contacts("bob"))
            refused(alice, invite(alice, bob.aor), 480)
    finally:
        other.close_phones()
        assert other.stop() == 0


def replica(oob, user):
    """A registration that server 7 has accepted."""
    phone = oob.phone(user)
    via = f"Via: SIP/2.0/UDP 127.0.0.1:{oob.port + 1};branch=z9hG4bK1"  # the neighbour's
    uri = f"sip:{user}%40example.com@example.com"
    text = phone.request("REGISTER", uri, to=f"<{phone.aor}>", headers=("Expires: 600", "SER-Server-ID: 7"))
    phone.is_registered = True
    return phone, text.replace("\r\nVia:", f"\r\n{via}\r\nVia:", 1)


def test_replica_of_a_neighbour_is_stored(oob):
    """In memory only: the row in the database is the neighbour's."""
    alice = oob.phone("alice")
    with oob.neighbour() as neighbour:
        bob, text = replica(oob, "bob")

        def is_stored():
            neighbour.tell(
                text
            )  # again and again: nobody repeats a datagram that finds no room, or an attribute not yet read
            return oob.contacts("bob")

        wait_for(is_stored, every=0.5)
    assert oob.select("location", ("contact",), {"uid": "bob@example.com"}) == []
    text = invite(alice, bob.aor)
    bob.reply(bob.expect("INVITE"), 486, "Busy Here")
    refused(alice, text, 486)


def test_unsigned_replica_is_dropped(oob):
    with oob.neighbour() as neighbour:
        _, text = replica(oob, "carol")
        before = oob.rpc("stats.get", "replication.")
        neighbour.tell(text, is_signed=False)
        wait_for(lambda: oob.rpc("stats.get", "replication.") != before)
    assert oob.contacts("carol") == []


# ---- settings that change while the server runs


def test_cfg_set_now(oob):
    """A variable of the configuration, and a module's."""
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    setter = "cfg.set_now_int" if oob.is_own else "cfg.set_now_string"
    oob.rpc(setter, "session_timer", "min_se", 400 if oob.is_own else "400")
    oob.rpc("cfg.set_now_int", "maxfwd", "max_limit", 5)
    try:
        answer = refused(alice, invite(alice, bob.aor, "Supported: timer", "Session-Expires: 300"), 422)
        assert answer.get("Min-SE") == "400"
        text = invite(alice, bob.aor, "Supported: timer", "Session-Expires: 400")
        request = bob.expect("INVITE")
        assert request.get("Max-Forwards") == "4"
        bob.reply(request, 486, "Busy Here")
        refused(alice, text, 486)
    finally:
        oob.rpc(setter, "session_timer", "min_se", 90 if oob.is_own else "90")
        oob.rpc("cfg.set_now_int", "maxfwd", "max_limit", 255)


def test_attributes_of_an_address(oob):
    """The attributes of one URI come before those of its user; only serpy's own file loads them."""
    if not oob.is_own:
        pytest.skip("the published files load no attributes of addresses")
    alice, bob, carol = oob.phone("alice"), oob.phone("bob"), oob.phone("carol")
    carol.register()
    target = oob.phone("target")
    oob.provision(lambda provision: provision.alias_add("carol@example.com", ["desk@example.com"]))
    oob.rpc("cache.bump", "uri")
    with oob.attrs("uri=desk@example.com", fwd_always_target=target.contact):
        text = invite(alice, "sip:desk@example.com")
        target.reply(target.expect("INVITE"), 486, "Busy Here")
        refused(alice, text, 486)
        text = invite(bob, carol.aor)
        carol.reply(carol.expect("INVITE"), 486, "Busy Here")
        refused(bob, text, 486)


def test_reload_when_the_domain_table_changes(oob):
    """Somebody else writes a domain into the database and leaves the time stamp: the timer route notices."""
    name = "second.example"
    phone = oob.phone("dora")
    phone.domain = name
    assert phone.ask(phone.request("REGISTER", f"sip:{name}", to=f"<sip:dora@{name}>")).status == 403
    oob.provision(lambda provision: provision.domain_add(name))

    def is_served():
        return phone.ask(phone.request("REGISTER", f"sip:{name}", to=f"<sip:dora@{name}>")).status == 401

    wait_for(is_served, every=0.1)


def test_xml_rpc_on_the_sip_port(oob):
    if oob.name == "ser-oob":
        pytest.skip("the older file has the module in a comment")
    answer = oob.http("<?xml version='1.0'?><methodCall><methodName>core.uptime</methodName></methodCall>")
    assert answer.startswith("HTTP/1.")
    assert "<name>uptime</name>" in answer


# ---- accounting


def test_accounting_of_a_call(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor)
    bob.reply(bob.expect("INVITE"), 200)
    answer = alice.expect(200)
    call_id = alice.call_id
    hang_up(alice, bob, text, answer)

    def rows():
        found = oob.select("acc", ("sip_method", "sip_status", "from_uid", "to_uid"), {"sip_callid": call_id})
        return found if len(found) == 2 else None

    start, end = sorted(wait_for(rows), reverse=True)
    assert start == ("INVITE", 200, "alice@example.com", "bob@example.com")
    assert end[:2] == ("BYE", 200)


def test_accounting_of_a_missed_call(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor)
    bob.reply(bob.expect("INVITE"), 486, "Busy Here")
    refused(alice, text, 486)
    table = "acc" if oob.name == "ser-oob" else "missed_calls"  # the older file has no flag for missed calls
    call_id = alice.call_id

    def rows():
        return oob.select(table, ("sip_method", "sip_status", "to_uid"), {"sip_callid": call_id})

    assert wait_for(rows) == [("INVITE", 486, "bob@example.com")]


def test_accounting_of_a_call_to_somebody_who_is_not_there(oob):
    if not oob.is_own:
        pytest.skip("the published files answer without a transaction, so without a row")
    alice = oob.phone("alice")
    refused(alice, invite(alice, "sip:carol@example.com"), 480)
    call_id = alice.call_id

    def rows():
        return oob.select("missed_calls", ("sip_method", "sip_status", "to_uid"), {"sip_callid": call_id})

    assert wait_for(rows) == [("INVITE", 480, "carol@example.com")]
