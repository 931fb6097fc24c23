"""Contacts that nobody can call, requests without a Contact, and REGISTERs out of order, at the shipped configuration."""

from __future__ import annotations

import pytest
from support.running import Running
from support.steps import invite, refused

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that gives this machine no budget."""
    running = Running(tmp_path_factory.mktemp("serpy"), defines={"TRUSTED": "127.0.0.0/8"})
    running.prepare("alice", "bob", "carol").start()
    yield running
    assert running.stop() == 0, running.log.read_text()[-3000:]


# ---- where nobody can be called


@pytest.mark.parametrize(
    "contact",
    [
        "<sip:bob@127.0.0.1:5070;transport=tls>", "<sip:bob@127.0.0.1:5070;transport=carrier>",
        "<sips:bob@127.0.0.1:5070>", "<sip:bob@[2001:db8::1]:5070>", "<sip:bob@127.0.0.1:5070;transport=tcp>",
    ],
)  # fmt: skip
def test_a_phone_hears_that_it_cannot_be_called_at_its_contact(phones, contact):
    bob = phones("bob")
    answer = bob.register(contact=contact)
    assert (answer.status, "Contact Cannot Be Reached" in answer) == (400, True)
    assert answer.get("P-Registrar-Error")
    alice = phones("alice")
    refused(alice, invite(alice, bob.aor), 480)


@pytest.mark.parametrize("contact", ["<mailto:bob@example.com>", "<http://example.com/bob>"])
def test_a_user_with_contacts_of_other_schemes_only_is_not_online(phones, contact):
    bob = phones("bob")
    assert bob.register(contact=contact).status == 200
    alice = phones("alice")
    refused(alice, invite(alice, bob.aor), 480)
    bob.register(contact=f"{contact}, <{bob.contact}>")
    text = invite(alice, bob.aor)
    bob.reply(bob.expect("INVITE"), 486, "Busy Here")
    refused(alice, text, 486)


# ---- the order of REGISTERs


def register_again(phone, *, contact, expires, cseq):
    """A REGISTER with the CSeq *cseq*, challenged once more."""
    uri = f"sip:{phone.domain}"

    def ask(*headers):
        text = phone.request("REGISTER", uri, to=f"<{phone.aor}>", headers=(f"Expires: {expires}", *headers), cseq=cseq)
        return phone.ask(text.replace(f"<{phone.contact}>", contact))

    return ask(phone.authorization(ask(), "REGISTER", uri))


def test_a_register_that_reuses_its_numbers_changes_nothing(phones):
    bob = phones("bob")
    assert bob.register().status == 200
    cseq, contact = bob.cseq, f"<{bob.contact}>"
    for other, expires in ((contact, 0), (contact, 300), ("*", 0), (f"{contact};q=0.2", 600)):
        assert register_again(bob, contact=other, expires=expires, cseq=cseq).status == 500
    same = register_again(bob, contact=contact, expires=600, cseq=cseq)
    assert same.status == 200
    assert bob.contact in same.get("Contact")
    assert register_again(bob, contact=contact, expires=300, cseq=cseq + 1).status == 200
    bob.cseq = cseq + 1


# ---- no Contact, and too many


@pytest.mark.parametrize("method", ["INVITE", "SUBSCRIBE", "REFER"])
@pytest.mark.parametrize("count", [0, 2])
def test_a_dialog_does_not_begin_without_exactly_one_contact(phones, method, count):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    own = f"Contact: <{alice.contact}>\r\n"
    answer = alice.ask(alice.request(method, bob.aor, headers=("Event: x",)).replace(own, own * count))
    assert (answer.status, "Contact" in answer.split("\r\n", 1)[0]) == (400, True)


def test_a_re_invite_without_a_contact_changes_no_target_and_passes(phones):
    alice, bob = phones("alice"), phones("bob")
    bob.register()
    text = invite(alice, bob.aor)
    bob.reply(bob.expect("INVITE"), 200)
    answer = alice.expect(200)
    alice.send(alice.in_dialog("ACK", text, answer, cseq=alice.cseq))
    bob.expect("ACK")
    alice.send(alice.in_dialog("INVITE", text, answer).replace(f"Contact: <{alice.contact}>\r\n", ""))
    again = bob.expect("INVITE")
    assert not again.get("Contact")
    bob.reply(again, 200)
    assert "INVITE" in alice.expect(200).get("CSeq")
    alice.send(alice.in_dialog("ACK", text, answer, cseq=alice.cseq))
    bob.expect("ACK")
