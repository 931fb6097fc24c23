"""Every block of the Out-of-Box logic, run by serpy's own configuration and by the two files that SER has published.

The published files are no part of this project: tests/support/oob.py says where they are looked for.
"""

from __future__ import annotations

import pytest
from support.steps import backwards, cancel, hang_up, invite, refused

from serpy.tools.attributes import speed_dial_add

pytestmark = pytest.mark.system

# ---- registration, calls


def test_register(oob):
    bob = oob.phone("bob")
    assert bob.register().status == 200
    (row,) = oob.contacts("bob")
    assert row["contact"] == bob.contact
    assert bob.register(expires=0).status == 200
    assert oob.contacts("bob") == []


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
    oob.provision(lambda provision: speed_dial_add(provision, "alice@example.com", "22", "bob@example.com"))
    oob.rpc("cache.bump", "speed_dial")
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


def test_forwarding_always_to_another_user(oob):
    """An address of ours is looked up at once; the published files would send it to that name in the DNS."""
    if not oob.is_own:
        pytest.skip("the published files send it through the DNS")
    alice, bob = oob.phone("alice"), oob.phone("bob")
    bob.register()
    with oob.attrs("carol@example.com", fwd_always_target="sip:bob@example.com"):
        text = invite(alice, "sip:carol@example.com")
        bob.reply(bob.expect("INVITE"), 486, "Busy Here")
        refused(alice, text, 486)
        with oob.attrs("bob@example.com", fwd_always_target="sip:carol@example.com"):
            refused(alice, invite(alice, "sip:carol@example.com"), 482)


def test_forwarding_of_a_user_who_is_not_registered(oob):
    alice = oob.phone("alice")
    with oob.attrs("carol@example.com", fwd_noanswer_target="sip:bob@example.com"):
        answer = refused(alice, invite(alice, "sip:carol@example.com"), 302 if oob.is_own else 480)
    assert answer.get("Contact").strip("<>") == ("sip:bob@example.com" if oob.is_own else "")


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
    """And the callee's requests inside the call get back to it."""
    bob, gateway = oob.phone("bob"), oob.gateway()
    bob.register()
    with oob.attrs("global", **gateway.attributes):
        text = gateway.request("INVITE", bob.aor, from_="sip:alice@example.com")
        gateway.send(text)
        request = bob.expect("INVITE")
        bob.reply(request, 200)
        answer = gateway.expect(200)
        gateway.send(gateway.in_dialog("ACK", text, answer, cseq=gateway.cseq))
        bob.expect("ACK")
        bob.send(bob.request("BYE", gateway.contact, **backwards(request)))
        gateway.reply(gateway.expect("BYE"), 200)
        assert "BYE" in bob.expect(200).get("CSeq")


def test_a_call_to_a_user_is_no_way_to_the_gateway(oob):
    """With the cookie of another call, a request inside it names the gateway as its target."""
    if not oob.is_own:
        pytest.skip("the published files let every request inside a call through")
    alice, bob, gateway = oob.phone("alice"), oob.phone("bob"), oob.gateway()
    bob.register()
    with oob.attrs("global", **gateway.attributes):
        text = invite(alice, bob.aor)
        request = bob.expect("INVITE")
        bob.reply(request, 200)
        answer = alice.expect(200)
        alice.send(alice.in_dialog("ACK", text, answer, cseq=alice.cseq))
        bob.expect("ACK")
        stolen = alice.in_dialog("INVITE", text, answer).replace(
            bob.contact, f"sip:1234@{gateway.host}:{gateway.port}", 1
        )
        alice.send(stolen)
        alice.expect(100)
        assert gateway.receive(0.2) is None
        bob.send(bob.request("BYE", alice.contact, **backwards(request)))
        alice.reply(alice.expect("BYE"), 200)
