"""The Out-of-Box configuration under real traffic (RFC 3261 §10, §16, §22): who may register, call, and relay."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.system


def call(caller, callee, uri):
    """Set up and tear down one call; returns the 200 to the BYE."""
    caller.send(caller.request("INVITE", uri))
    challenge = caller.expect(407)
    caller.send(caller.ack(caller.request("INVITE", uri, cseq=caller.cseq), challenge))
    text = caller.request("INVITE", uri, headers=(caller.authorization(challenge, "INVITE", uri),))
    caller.send(text)
    invite = callee.expect("INVITE")
    callee.reply(invite, 180, "Ringing")
    caller.expect(180)
    callee.reply(invite, 200)
    answer = caller.expect(200)
    caller.send(caller.in_dialog("ACK", text, answer, cseq=caller.cseq))
    callee.expect("ACK")
    caller.send(caller.in_dialog("BYE", text, answer))
    bye = callee.expect("BYE")
    callee.reply(bye, 200)
    return caller.expect(200)


def test_registered_phones_call_each_other_and_hang_up(phones):
    alice, bob = phones("alice"), phones("bob")
    assert alice.register().status == 200
    assert bob.register().status == 200
    assert "BYE" in call(alice, bob, bob.aor).get("CSeq")


def test_a_phone_cannot_send_its_calls_elsewhere(phones):
    alice, bob = phones("alice"), phones("bob")
    alice.register()
    assert bob.register(contact=f'<{bob.contact}>;received="sip:127.0.0.9:7777"').status == 200
    assert "BYE" in call(alice, bob, bob.aor).get("CSeq")


def test_in_dialog_requests_of_the_callee_reach_the_caller(phones):
    alice, bob = phones("alice"), phones("bob")
    alice.register()
    bob.register()
    text, ringing = None, None
    alice.send(alice.request("INVITE", bob.aor))
    challenge = alice.expect(407)
    alice.send(alice.ack(alice.request("INVITE", bob.aor, cseq=alice.cseq), challenge))
    text = alice.request("INVITE", bob.aor, headers=(alice.authorization(challenge, "INVITE", bob.aor),))
    alice.send(text)
    invite = bob.expect("INVITE")
    bob.reply(invite, 200)
    ringing = alice.expect(200)
    alice.send(alice.in_dialog("ACK", text, ringing, cseq=alice.cseq))
    bob.expect("ACK")
    routes = [route.strip() for line in invite.all("Record-Route") for route in line.split(",")]
    bye = bob.request(
        "BYE", alice.contact, to=invite.get("From"), from_=bob.aor, call_id=invite.get("Call-ID"),
        headers=tuple(f"Route: {route}" for route in routes),
    )  # fmt: skip
    bob.send(bye)
    alice.reply(alice.expect("BYE"), 200)
    assert bob.expect(200).get("Call-ID") == invite.get("Call-ID")


def test_register_without_credentials_is_challenged_and_lists_bindings_afterwards(phones):
    alice = phones("alice")
    first = alice.ask(alice.request("REGISTER", "sip:example.com", to=f"<{alice.aor}>"))
    assert first.status == 401
    assert 'realm="example.com"' in first.get("WWW-Authenticate")
    answer = alice.register(expires=300)
    assert answer.status == 200
    assert alice.contact in answer.get("Contact")
    assert "expires=300" in answer.get("Contact").replace("expires=299", "expires=300")


def test_unregister_removes_the_binding(phones, server):
    carol = phones("carol")
    carol.register()
    assert carol.register(expires=0).status == 200
    assert server.json("usrloc", "show", "carol@example.com") == []


@pytest.mark.parametrize("user", ["alice", "nobody"], ids=["wrong-password", "unknown-user"])
def test_wrong_password_and_unknown_user_get_the_same_401(phones, user):
    phone = phones(user, password="not-the-password")
    answer = phone.register()
    assert answer.status == 401
    assert answer.get("WWW-Authenticate").startswith("Digest realm=")
    assert "stale" not in answer.get("WWW-Authenticate").lower()


def test_registering_the_address_of_another_user_is_forbidden(phones):
    alice = phones("alice")
    assert alice.register(to="<sip:bob@example.com>").status == 403


def test_caller_with_a_false_from_is_forbidden(phones):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    _, answer = alice.invite(bob.aor, from_="sip:carol@example.com")
    assert answer.status == 403


def test_foreign_caller_to_foreign_callee_is_no_relay(phones):
    phone = phones("mallory")
    phone.domain = "elsewhere.invalid"
    assert phone.ask(phone.request("INVITE", "sip:victim@other.invalid")).status == 403


def test_registration_for_a_foreign_domain_is_forbidden(phones):
    phone = phones("mallory")
    phone.domain = "elsewhere.invalid"
    assert phone.register().status == 403


def test_foreign_caller_reaches_a_local_user_without_password(phones):
    bob, phone = phones("bob"), phones("friend")
    bob.register()
    phone.domain = "elsewhere.invalid"
    phone.send(phone.request("INVITE", bob.aor))
    bob.reply(bob.expect("INVITE"), 486, "Busy Here")
    assert phone.expect(486).get("To").count(";tag=") == 1


def test_options_to_the_server_is_answered(phones, server):
    phone = phones("probe")
    answer = phone.ask(phone.request("OPTIONS", f"sip:127.0.0.1:{server.port}"))
    assert answer.status == 200
    assert answer.get("Accept")


def test_max_forwards_zero_is_483(phones):
    phone = phones("probe")
    assert phone.ask(phone.request("OPTIONS", "sip:bob@example.com", max_forwards=0)).status == 483


def test_unregistered_user_is_480_and_unknown_user_404(phones):
    alice, carol = phones("alice"), phones("carol")
    carol.register(expires=0)
    assert alice.invite(carol.aor)[1].status == 480
    other = phones("alice")
    assert other.invite("sip:nobody@example.com")[1].status == 404


def test_route_header_of_a_stranger_is_refused(phones, server):
    phone = phones("mallory")
    text = phone.request(
        "MESSAGE", "sip:victim@192.0.2.1", to="<sip:victim@192.0.2.1>;tag=1",
        headers=(f"Route: <sip:127.0.0.1:{server.port};lr=on>",),
    )  # fmt: skip
    assert phone.ask(text).status == 481


def test_wildcard_contact_removes_all_bindings(phones, server):
    one, two = phones("carol"), phones("carol")
    one.register()
    two.register()
    assert len(server.json("usrloc", "show", "carol@example.com")) == 2
    assert one.register(expires=0, contact="*").status == 200
    assert server.json("usrloc", "show", "carol@example.com") == []


def test_too_short_lifetime_is_423_with_the_minimum(phones):
    answer = phones("alice").register(expires=10)
    assert answer.status == 423
    assert answer.get("Min-Expires") == "60"


def test_three_contacts_ring_together_and_the_first_answer_cancels_the_others(phones):
    bobs = [phones("bob") for _ in range(3)]
    bobs[0].register(expires=0, contact="*")
    for phone in bobs:
        assert phone.register().status == 200
    alice = phones("alice")
    alice.send(alice.request("INVITE", bobs[0].aor))
    challenge = alice.expect(407)
    alice.send(alice.ack(alice.request("INVITE", bobs[0].aor, cseq=alice.cseq), challenge))
    text = alice.request("INVITE", bobs[0].aor, headers=(alice.authorization(challenge, "INVITE", bobs[0].aor),))
    alice.send(text)
    invites = [phone.expect("INVITE") for phone in bobs]
    for phone, invite in zip(bobs, invites, strict=True):
        phone.reply(invite, 180, "Ringing")
    bobs[1].reply(invites[1], 200)
    answer = alice.expect(200)
    assert bobs[1].contact in answer.get("Contact")
    for phone, invite in ((bobs[0], invites[0]), (bobs[2], invites[2])):
        phone.reply(phone.expect("CANCEL"), 200)
        phone.reply(invite, 487, "Request Terminated")
        phone.expect("ACK")
    bobs[0].register(expires=0, contact="*")


def test_cancel_is_answered_and_ends_the_call_with_487(phones):
    alice, bob = phones("alice"), phones("bob")
    bob.register(expires=0, contact="*")
    bob.register()
    alice.send(alice.request("INVITE", bob.aor))
    challenge = alice.expect(407)
    alice.send(alice.ack(alice.request("INVITE", bob.aor, cseq=alice.cseq), challenge))
    branch = "z9hG4bKcancelme"
    text = alice.request("INVITE", bob.aor, headers=(alice.authorization(challenge, "INVITE", bob.aor),), branch=branch)
    alice.send(text)
    invite = bob.expect("INVITE")
    bob.reply(invite, 180, "Ringing")
    alice.expect(180)
    cancel = alice.request("CANCEL", bob.aor, cseq=alice.cseq, branch=branch)
    alice.send(cancel)
    assert "CANCEL" in alice.expect(200).get("CSeq")
    bob.reply(bob.expect("CANCEL"), 200)
    bob.reply(invite, 487, "Request Terminated")
    bob.expect("ACK")
    answer = alice.expect(487)
    alice.send(alice.ack(text, answer))


def test_an_administrator_cancels_a_ringing_call(phones, server):
    alice, bob = phones("alice"), phones("bob")
    bob.register(expires=0, contact="*")
    bob.register()
    alice.send(alice.request("INVITE", bob.aor))
    challenge = alice.expect(407)
    alice.send(alice.ack(alice.request("INVITE", bob.aor, cseq=alice.cseq), challenge))
    text = alice.request("INVITE", bob.aor, headers=(alice.authorization(challenge, "INVITE", bob.aor),))
    alice.send(text)
    invite = bob.expect("INVITE")
    bob.reply(invite, 180, "Ringing")
    alice.expect(180)
    assert server.json("rpc", "tm.cancel", alice.call_id, str(alice.cseq)) == {"branches": 1}
    bob.reply(bob.expect("CANCEL"), 200)
    bob.reply(invite, 487, "Request Terminated")
    bob.expect("ACK")
    alice.send(alice.ack(text, alice.expect(487)))
    assert "481" in server.ctl("rpc", "tm.cancel", alice.call_id, str(alice.cseq), check=False).stderr
    assert [row["receiver"] for row in server.json("rpc", "tm.hash_stats")] == [0, 1]


def test_cancel_without_a_call_is_481(phones):
    phone = phones("alice")
    text = phone.request("CANCEL", "sip:bob@example.com", branch="z9hG4bKnone")
    assert phone.ask(text).status == 481


def test_alias_reaches_the_same_user(phones, server):
    server.ctl("alias", "add", "bob@example.com", "hotline@example.com")
    bob, phone = phones("bob"), phones("friend")
    bob.register(expires=0, contact="*")
    bob.register()
    phone.domain = "elsewhere.invalid"
    phone.send(phone.request("OPTIONS", "sip:hotline@example.com"))
    bob.reply(bob.expect("OPTIONS"), 200)
    assert phone.expect(200)


def test_changed_password_is_valid_at_once(phones, server):
    server.ctl("password", "carol@example.com", "-p", "new-secret")
    assert phones("carol").register().status == 401
    assert phones("carol", password="new-secret").register().status == 200
    server.ctl("password", "carol@example.com", "-p", "carol")
