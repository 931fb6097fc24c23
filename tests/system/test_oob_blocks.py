"""Every block of the Out-of-Box logic, run by serpy's own configuration and by the two files that SER has published.

The published files are no part of this project: tests/support/oob.py says where they are looked for.
"""

from __future__ import annotations

import secrets

import pytest
from support.running import wait_for

pytestmark = pytest.mark.system

SDP = "v=0\r\no=- 1 1 IN IP4 192.168.1.10\r\ns=-\r\nc=IN IP4 192.168.1.10\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


def invite(caller, uri, *headers, body="", **options):
    """Send an INVITE with credentials; returns it. The challenge is answered on the way."""
    caller.call_id = f"{secrets.token_hex(8)}@test"
    text = caller.request("INVITE", uri, headers=headers, body=body, **options)
    caller.send(text)
    challenge = caller.expect(407)
    caller.send(caller.ack(text, challenge))
    answer = caller.authorization(challenge, "INVITE", uri)
    text = caller.request("INVITE", uri, headers=(*headers, answer), body=body, **options)
    caller.send(text)
    return text


def refused(caller, text, status):
    """Wait for this final answer and acknowledge it."""
    answer = caller.expect(status)
    caller.send(caller.ack(text, answer))
    return answer


def hang_up(caller, callee, text, answer):
    """ACK, BYE and its 200."""
    caller.send(caller.in_dialog("ACK", text, answer, cseq=caller.cseq))
    callee.expect("ACK")
    caller.send(caller.in_dialog("BYE", text, answer))
    callee.reply(callee.expect("BYE"), 200)
    return caller.expect(200)


def cancel(caller, callee, text, ringing):
    """Give up a call that rings at *callee*."""
    branch = ringing_branch(text)
    caller.send(caller.request("CANCEL", text.split(" ")[1], cseq=caller.cseq, branch=branch))
    caller.expect(200)
    callee.reply(callee.expect("CANCEL"), 200)
    callee.reply(ringing, 487, "Request Terminated")
    callee.expect("ACK")
    refused(caller, text, 487)


def ringing_branch(text):
    return text.split("branch=", 1)[1].split(";", 1)[0].split("\r", 1)[0]


# ---- registration, calls


def test_register(oob):
    bob = oob.phone("bob")
    assert bob.register().status == 200
    (row,) = oob.json("usrloc", "show", "bob@example.com")
    assert row["contact"] == bob.contact
    assert bob.register(expires=0).status == 200
    assert oob.json("usrloc", "show", "bob@example.com") == []


def test_register_with_a_wrong_password(oob):
    assert oob.phone("bob", password="wrong").register().status == 401


def test_call(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor)
    request = bob.expect("INVITE")
    assert not request.get("Proxy-Authorization")
    bob.reply(request, 180, "Ringing")
    alice.expect(180)
    bob.reply(request, 200)
    assert "BYE" in hang_up(alice, bob, text, alice.expect(200)).get("CSeq")


def test_call_that_is_cancelled(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    text = invite(alice, bob.aor)
    request = bob.expect("INVITE")
    bob.reply(request, 180, "Ringing")
    alice.expect(180)
    cancel(alice, bob, text, request)


def test_relaying_between_strangers_is_refused(oob):
    stranger = oob.phone("mallory")
    stranger.domain = "elsewhere.invalid"
    assert stranger.ask(stranger.request("MESSAGE", "sip:victim@other.invalid")).status == 403


def test_options_to_the_server(oob):
    probe = oob.phone("probe")
    answer = probe.ask(probe.request("OPTIONS", f"sip:127.0.0.1:{oob.port}"))
    assert answer.status == 200
    assert answer.get("Accept")


def test_outbound(oob):
    """A local user reaches a foreign domain; a foreigner cannot."""
    alice, there = oob.phone("alice"), oob.phone("there")
    text = invite(alice, f"sip:there@127.0.0.1:{there.port}")
    request = there.expect("INVITE")
    there.reply(request, 486, "Busy Here")
    refused(alice, text, 486)


def test_site_specific(oob):
    """Numbers with the prefix go to the peer, whoever has them here."""
    alice, peer = oob.phone("alice"), oob.peer()
    if peer is None:
        pytest.skip("another process has the port of the peer")
    text = invite(alice, "sip:0007771@example.com")
    request = peer.expect("INVITE")
    assert request.startswith("INVITE sip:0007771@")
    peer.reply(request, 486, "Busy Here")
    refused(alice, text, 486)


# ---- features for users


def test_speed_dial(oob):
    oob.ctl("speeddial", "add", "alice@example.com", "22", "bob@example.com")
    alice = oob.phone("alice")
    answer = refused(alice, invite(alice, "sip:22@example.com"), 302)
    assert answer.get("Contact").strip("<>") == "sip:bob@example.com"


def test_speed_dial_that_is_not_there(oob):
    alice = oob.phone("alice")
    refused(alice, invite(alice, "sip:23@example.com"), 404)


def test_forwarding_always(oob):
    alice, bob = oob.phone("alice"), oob.phone("bob")
    with oob.attrs("carol@example.com", fwd_always_target=bob.contact):
        text = invite(alice, "sip:carol@example.com")
        request = bob.expect("INVITE")
        assert request.startswith(f"INVITE {bob.contact} ")
        bob.reply(request, 486, "Busy Here")
        refused(alice, text, 486)


@pytest.mark.parametrize("status", [486, 600])
def test_forwarding_on_busy(oob, status):
    alice, carol = oob.phone("alice"), oob.phone("carol")
    carol.register()
    with oob.attrs("carol@example.com", fwd_busy_target="sip:bob@example.com"):
        text = invite(alice, carol.aor)
        carol.reply(carol.expect("INVITE"), status, "Busy")
        oob.assert_redirected(refused(alice, text, 302), "sip:bob@example.com", carol)


def test_forwarding_on_no_answer(oob):
    alice, carol = oob.phone("alice"), oob.phone("carol")
    carol.register()
    with oob.attrs("carol@example.com", fwd_noanswer_target="sip:bob@example.com", fr_inv_timer="300"):
        text = invite(alice, carol.aor)
        request = carol.expect("INVITE")
        carol.reply(request, 180, "Ringing")
        alice.expect(180)
        carol.reply(carol.expect("CANCEL"), 200)
        carol.reply(request, 487, "Request Terminated")
        oob.assert_redirected(refused(alice, text, 302), "sip:bob@example.com", carol)


def test_forwarding_of_a_call_that_is_refused_for_another_reason(oob):
    alice, carol = oob.phone("alice"), oob.phone("carol")
    carol.register()
    with oob.attrs("carol@example.com", fwd_busy_target="sip:bob@example.com"):
        text = invite(alice, carol.aor)
        carol.reply(carol.expect("INVITE"), 403, "No")
        refused(alice, text, 403)


# ---- the telephone network


def test_enum(oob):
    """A telephone number that nobody has here, and the DNS does."""
    if not oob.is_own:
        pytest.skip("the published files have ENUM switched off")
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    oob.names.zone["1.2.3.4.e164.test.", "NAPTR"] = ['10 10 "u" "E2U+sip" "!^.*$!sip:bob@example.com!" .']
    text = invite(alice, "sip:+4321@example.com")
    bob.reply(bob.expect("INVITE"), 486, "Busy Here")
    refused(alice, text, 486)
    refused(alice, invite(alice, "sip:+4322@example.com"), 404)


def test_enum_is_not_for_strangers(oob):
    if not oob.is_own:
        pytest.skip("the published files have ENUM switched off")
    stranger = oob.phone("mallory")
    stranger.domain = "elsewhere.invalid"
    text = stranger.request("INVITE", "sip:+4321@example.com")
    stranger.send(text)
    refused(stranger, text, 404)


def test_pstn_allowed(oob):
    alice, gateway = oob.phone("alice"), oob.gateway()
    with oob.attrs("global", **gateway.attributes), oob.attrs("alice@example.com", gw_acl="1", asserted_id="4930123"):
        text = invite(alice, f"sip:+4930998877@example.com:{gateway.port}", "Remote-Party-ID: <sip:forged@x>")
        request = gateway.expect("INVITE")
        assert request.startswith(f"INVITE sip:+4930998877@{gateway.host}:{gateway.port} ")
        (identity,) = request.all("Remote-Party-ID")
        assert identity.startswith("<sip:4930123@")
        gateway.reply(request, 200)
        hang_up(alice, gateway, text, alice.expect(200))


def test_pstn_refused(oob):
    alice, gateway = oob.phone("alice"), oob.gateway()
    with oob.attrs("global", **gateway.attributes):
        refused(alice, invite(alice, f"sip:+4930998877@example.com:{gateway.port}"), 403)
    assert gateway.receive(0.1) is None


def test_pstn_by_an_attribute_of_the_domain(oob):
    alice, gateway = oob.phone("alice"), oob.gateway()
    with oob.attrs("global", **gateway.attributes), oob.attrs("domain=example.com", gw_acl="1"):
        text = invite(alice, f"sip:+4930998877@example.com:{gateway.port}")
        gateway.reply(gateway.expect("INVITE"), 486, "Busy Here")
        refused(alice, text, 486)


def test_pstn_that_is_not_set_up(oob):
    alice = oob.phone("alice")
    refused(alice, invite(alice, "sip:+4930998877@example.com"), 404)


def test_onsend_guard_keeps_a_registered_contact_from_the_gateway(oob):
    """Carol registers the gateway as her phone; without permission nobody gets there by calling her."""
    alice, carol, gateway = oob.phone("alice"), oob.phone("carol"), oob.gateway()
    with oob.attrs("global", **gateway.attributes):
        carol.register(contact=f"<sip:4930998877@{gateway.host}:{gateway.port}>")
        invite(alice, carol.aor)
        alice.expect(100)
        assert gateway.receive(0.2) is None


def test_call_from_the_gateway_needs_no_password(oob):
    bob, gateway = oob.phone("bob"), oob.gateway()
    bob.register()
    with oob.attrs("global", **gateway.attributes):
        text = gateway.request("INVITE", bob.aor, from_="sip:alice@example.com")
        gateway.send(text)
        bob.reply(bob.expect("INVITE"), 486, "Busy Here")
        refused(gateway, text, 486)


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
    routes = tuple(f"Route: {route.strip()}" for line in request.all("Record-Route") for route in line.split(","))
    bob.send(
        bob.request(
            "BYE", request.get("Contact").strip("<>"), to=request.get("From"), call_id=request.get("Call-ID"),
            headers=routes,
        )
    )  # fmt: skip
    nated.reply(nated.expect("BYE"), 200)
    assert "BYE" in bob.expect(200).get("CSeq")


def test_nated_callee(oob):
    """A phone with a private Contact is reached through the address it has registered from, also inside a call."""
    alice, nated = oob.phone("alice"), oob.nated_phone("bob")
    assert nated.register().status == 200
    (row,) = oob.rpc("usrloc.show_contacts", "location", "bob@example.com")
    assert row["recv"].startswith(f"sip:{nated.host}:{nated.port}")
    text = invite(alice, nated.aor)
    request = nated.expect("INVITE")
    assert request.startswith(f"INVITE {nated.contact} ")
    nated.reply(request, 200)
    answer = alice.expect(200)
    if oob.fixes_contacts_of_answers:
        assert answer.get("Contact") == f"<sip:bob@{nated.host}:{nated.port}>"
        hang_up(alice, nated, text, answer)


def test_keepalives_reach_nated_contacts_only(oob):
    nated, plain = oob.nated_phone("bob"), oob.phone("carol")
    plain.register()
    nated.register()
    assert oob.keepalive(nated, timeout=4)
    assert not oob.keepalive(plain, timeout=0.05)


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


def test_reload_when_the_domain_table_changes(oob):
    """Somebody else writes a domain into the database and leaves the time stamp: the timer route notices."""
    name = "second.example"
    phone = oob.phone("dora")
    phone.domain = name
    assert phone.ask(phone.request("REGISTER", f"sip:{name}", to=f"<sip:dora@{name}>")).status == 403
    oob.provision(lambda provision: provision.domain_add(name))

    def is_served():
        return phone.ask(phone.request("REGISTER", f"sip:{name}", to=f"<sip:dora@{name}>")).status == 401

    wait_for(is_served, timeout=8, every=0.1)


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

    start, end = sorted(wait_for(rows, timeout=5), reverse=True)
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

    assert wait_for(rows, timeout=5) == [("INVITE", 486, "bob@example.com")]
