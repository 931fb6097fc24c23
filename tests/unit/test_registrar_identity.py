"""Which binding a Contact stands for (RFC 3261 §10.2.4, §10.3, §19.1.4; 5626 §4, §6), and which contacts there may be."""

from __future__ import annotations

import pytest

from serpy.errors import ParseError, ProtocolError
from serpy.modules.registrar.contacts import TooManyContactsError
from serpy.modules.registrar.register import Policy, Registration, contact_values
from serpy.shm.record import Binding
from serpy.sip.nameaddr import parse_nameaddr_list
from serpy.sip.received import ReceivedUri

NOW = 1000.0
PRIVATE = "sip:bob@192.168.1.2:5060"
HOME = "sip:203.0.113.7:40000;dstip=192.0.2.1;dstport=5060"
HOME_LATER = "sip:203.0.113.7:40001;dstip=192.0.2.1;dstport=5060"
OFFICE = "sip:198.51.100.9:40000;dstip=192.0.2.1;dstport=5060"
ONE = '+sip.instance="<urn:uuid:00000000-0000-1000-8000-000000000001>"'
TWO = '+sip.instance="<urn:uuid:00000000-0000-1000-8000-000000000002>"'


class User:
    """The bindings of one user under a sequence of REGISTERs."""

    def __init__(self, **rules):
        self.policy = Policy()
        for name, value in rules.items():
            setattr(self.policy, name, value)
        self.bindings = []
        self.cseq = 0

    def register(self, contacts, received="", *, call_id="c1", expires=600, now=NOW, came_from=None, agent="phone"):
        self.cseq += 1
        registration = Registration(
            self.policy, "bob", parse_nameaddr_list(contacts), expires,
            aor="sip:bob@example.com", call_id=call_id, cseq=self.cseq, user_agent=agent, nat=received != "",
            received=received, trusted=False, server_id=0, wall_now=now, came_from=came_from,
        )  # fmt: skip
        put, removed = registration.decide(list(self.bindings))
        gone = {each.contact for each in [*put, *removed]}
        self.bindings = [each for each in self.bindings if each.contact not in gone] + put
        return removed

    @property
    def uris(self):
        return sorted(each.uri for each in self.bindings)

    @property
    def places(self):
        return sorted(each.received for each in self.bindings)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("<sip:bob@h.example>", "<SIP:bob@H.Example>"),
        ("<sip:bob@h.example;transport=tcp;ob>", "<sip:bob@h.example;OB;Transport=TCP>"),
        ("<sip:%62ob@h.example>", "<sip:bob@h.example>"),
        ("<sip:bob@h.example>", "<sip:bob@h.example;line=7>"),
        ("<sip:bob@[2001:db8::1]:5070>", "<sip:bob@[2001:DB8:0::1]:5070>"),
    ],
)
def test_another_spelling_refreshes_the_binding(first, second):
    user = User()
    user.register(first)
    user.register(second, call_id="c2")
    assert user.uris == [second.strip("<>")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("<sip:bob@h.example>", "<sip:BOB@h.example>"),
        ("<sip:bob@h.example>", "<sip:bob@h.example:5060>"),
        ("<sip:bob@h.example>", "<sips:bob@h.example>"),
        ("<sip:bob@h.example>", "<sip:bob@h.example;transport=tcp>"),
        ("<sip:bob@h.example;line=7>", "<sip:bob@h.example;line=8>"),
    ],
)
def test_what_rfc_3261_takes_for_two_uris_is_two_bindings(first, second):
    user = User()
    user.register(first)
    user.register(second)
    assert len(user.bindings) == 2


def test_a_removal_in_another_spelling_removes():
    user = User()
    user.register("<sip:bob@h.example;ob>")
    assert [each.contact for each in user.register("<sip:bob@H.example;ob>", expires=0)] == ["sip:bob@h.example;ob"]
    assert user.bindings == []


def test_two_spellings_in_one_request_are_one_binding_and_nothing_is_removed():
    user = User()
    assert user.register("<sip:bob@h.example>, <sip:bob@H.EXAMPLE>;expires=120") == []
    assert [(each.contact, each.expires_at) for each in user.bindings] == [("sip:bob@H.EXAMPLE", int(NOW) + 120)]


# -- equal private addresses behind two NATs -------------------------------------------------------------------------


@pytest.mark.parametrize("parameter", [("", ""), (f";{ONE}", f";{TWO}"), (f";{ONE}", "")])
def test_two_phones_with_one_private_address_behind_two_nats_are_two_bindings(parameter):
    user = User()
    user.register(f"<{PRIVATE}>{parameter[0]}", HOME, call_id="home")
    removed = user.register(f"<{PRIVATE}>{parameter[1]}", OFFICE, call_id="office")
    assert removed == []
    assert user.uris == [PRIVATE, PRIVATE]
    assert user.places == sorted([HOME, OFFICE])
    assert len({each.contact for each in user.bindings}) == 2
    assert contact_values(user.bindings, NOW).count(f"<{PRIVATE}>") == 2


def test_each_of_them_refreshes_and_removes_its_own():
    user = User()
    user.register(f"<{PRIVATE}>", HOME, call_id="home")
    user.register(f"<{PRIVATE}>", OFFICE, call_id="office")
    keys = {each.received: each.contact for each in user.bindings}
    assert user.register(f"<{PRIVATE}>", OFFICE, call_id="office") == []
    assert user.register(f"<{PRIVATE}>", HOME, call_id="home") == []
    assert {each.received: each.contact for each in user.bindings} == keys
    user.register(f"<{PRIVATE}>", HOME, call_id="home", expires=0)
    assert user.places == [OFFICE]
    user.register(f"<{PRIVATE}>", OFFICE, call_id="office", expires=0)
    assert user.bindings == []


def test_the_same_phone_moves_with_its_call_id_or_its_instance():
    user = User()
    user.register(f"<{PRIVATE}>", HOME, call_id="c1")
    user.register(f"<{PRIVATE}>", OFFICE, call_id="c1")
    assert user.places == [OFFICE]
    user.register(f"<{PRIVATE}>;{ONE}", OFFICE, call_id="c2")
    user.register(f"<{PRIVATE}>;{ONE}", HOME, call_id="c3")
    assert user.places == [HOME]


def test_a_phone_that_restarted_behind_the_same_nat_takes_its_old_place():
    user = User()
    user.register(f"<{PRIVATE}>", HOME, call_id="before")
    user.register(f"<{PRIVATE}>", HOME_LATER, call_id="after")
    assert user.places == [HOME_LATER]


def test_a_public_address_is_one_phone_whatever_lies_between():
    user = User()
    user.register("<sip:bob@203.0.113.200:5062>", HOME, call_id="c1")
    user.register("<sip:bob@203.0.113.200:5062>", OFFICE, call_id="c2")
    assert user.places == [OFFICE]


def test_a_contact_that_carries_our_mark_is_kept_without_it():
    user = User()
    user.register("<sip:bob@h.example;serpy-id=12345678;ob>")
    assert [each.contact for each in user.bindings] == ["sip:bob@h.example;ob"]


def test_what_is_no_ascii_is_escaped_and_the_same_contact():
    user = User()
    user.register("<sip:böb@192.0.2.7;ob>")
    assert [each.contact for each in user.bindings] == ["sip:b%C3%B6b@192.0.2.7;ob"]
    user.register("<sip:b%c3%b6b@192.0.2.7;ob>")
    assert len(user.bindings) == 1


# -- instances and their flows ------------------------------------------------------------------------------------------


def test_an_instance_keeps_its_binding_when_its_address_changes():
    user = User()
    user.register(f"<sip:bob@192.0.2.7:1111>;{ONE}")
    assert [each.uri for each in user.register(f"<sip:bob@192.0.2.7:2222>;{ONE}", call_id="c2")] == [
        "sip:bob@192.0.2.7:1111"
    ]
    assert user.uris == ["sip:bob@192.0.2.7:2222"]


def test_each_reg_id_of_an_instance_is_a_flow_of_its_own():
    user = User()
    user.register(f"<{PRIVATE}>;{ONE};reg-id=1", HOME)
    user.register(f"<{PRIVATE}>;{ONE};reg-id=2", HOME_LATER)
    assert user.places == [HOME, HOME_LATER]
    user.register(f"<{PRIVATE}>;{ONE};reg-id=2", OFFICE)
    assert user.places == sorted([HOME, OFFICE])
    user.register(f"<{PRIVATE}>;{ONE}", OFFICE)
    assert user.places == [OFFICE]


def test_a_reg_id_without_an_instance_says_nothing():
    user = User()
    user.register("<sip:bob@h.example>;reg-id=1")
    user.register("<sip:bob@h.example>;reg-id=2")
    assert len(user.bindings) == 1


def test_the_case_of_a_urn_is_of_no_account():
    user = User()
    user.register('<sip:a@h.example>;+sip.instance="<urn:uuid:AB>"')
    user.register('<sip:b@h.example>;+sip.instance="<URN:UUID:ab>"')
    assert user.uris == ["sip:b@h.example"]


# -- how it came: socket, transport, source ------------------------------------------------------------------------------

UDP = ReceivedUri("192.0.2.7", 5060, "udp", "192.0.2.1", 5060)
TCP = ReceivedUri("192.0.2.7", 40000, "tcp", "192.0.2.1", 5060)


@pytest.mark.parametrize(
    ("contact", "source", "rules", "received"),
    [
        pytest.param("<sip:bob@192.0.2.7>", UDP, {}, "", id="udp-from-where-it-says"),
        pytest.param("<sip:bob@192.0.2.7>", UDP, {"is_multihomed": True}, str(UDP), id="with-a-choice-of-sockets"),
        pytest.param("<sip:bob@192.0.2.99>", UDP, {}, str(UDP), id="from-another-host"),
        pytest.param("<sip:bob@192.0.2.7;maddr=192.0.2.99>", UDP, {}, str(UDP), id="maddr-is-another-host"),
        pytest.param("<sip:bob@192.0.2.7:5070>", UDP, {}, str(UDP), id="from-another-port"),
        pytest.param("<sip:bob@192.0.2.7:5070>", TCP, {}, str(TCP), id="tcp-without-a-word-of-it"),
        pytest.param("<sip:bob@192.0.2.7;transport=TCP>", TCP, {}, str(TCP), id="tcp"),
        pytest.param("<sip:bob@192.0.2.7;transport=udp>", TCP, {}, "", id="to-be-called-otherwise"),
        pytest.param("<sips:bob@192.0.2.7>", TCP, {}, "", id="to-be-called-by-tls"),
    ],
)
def test_a_binding_remembers_the_way_of_its_register(contact, source, rules, received):
    user = User(**rules)
    user.register(contact, came_from=source)
    kept = user.bindings[0]
    assert (kept.received, kept.flags) == (received, Binding.FLOW if received else 0)
    assert "received" not in contact_values([kept], NOW)


# -- what is no contact ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "0.1.2.3", "[::]", "[::0.0.0.0]", "224.0.1.75", "239.1.1.1", "[ff02::1]", "255.255.255.255", "240.0.0.1",
     "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "192.0.2.1", "[::ffff:192.0.2.1]", "1.2.3.256"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["<sip:bob@{}>", "<sip:bob@192.0.2.7;maddr={}>", "<sip:bob@{};transport=tcp>"])
def test_an_address_where_nobody_can_be_called_is_refused(host, where):
    user = User(is_myself=lambda host, port: host.strip("[]").removeprefix("::ffff:") == "192.0.2.1" and port == 5060)
    with pytest.raises(ParseError) as caught:
        user.register(where.format(host), came_from=UDP)
    assert caught.value.status == 400
    assert user.register(where.format(host), expires=0, came_from=UDP) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.0.0.1", "localhost", "phone.invalid", "192.168.1.2"])
def test_a_phone_behind_a_nat_may_say_what_it_likes(host):
    user = User()
    user.register(f"<sip:bob@{host}:5060>", HOME, came_from=UDP)
    assert user.places == [HOME]


@pytest.mark.parametrize("host", ["224.0.1.75", "[ff02::1]", "255.255.255.255", "192.0.2.1"])
def test_not_even_a_nat_explains_a_group_or_our_own_socket(host):
    user = User(is_myself=lambda host, port: (host, port) == ("192.0.2.1", 5060))
    with pytest.raises(ParseError):
        user.register(f"<sip:bob@{host}:5060>", HOME, came_from=UDP)


def test_loopback_is_for_who_is_on_this_machine():
    user = User()
    user.register("<sip:bob@127.0.0.1:5070>", came_from=ReceivedUri("127.0.0.1", 5070))
    assert user.uris == ["sip:bob@127.0.0.1:5070"]


# -- how many, how long ------------------------------------------------------------------------------------------------------


def contact_of(length, number=0):
    head = f"sip:bob@192.0.2.7:{5060 + number};p="
    return f"<{head}{'x' * (length - len(head))}>"


def test_a_contact_may_be_1024_characters_long():
    user = User(contact_length=1024)
    user.register(contact_of(1024))
    with pytest.raises(ProtocolError) as caught:
        user.register(contact_of(1025, 1))
    assert caught.value.status == 400
    assert len(user.bindings) == 1


def test_all_contacts_of_a_user_may_be_8192_characters_long():
    user = User(contact_length=1024, total_length=8192)
    for number in range(8):
        user.register(contact_of(1024, number), expires=60 * (number + 1))
    with pytest.raises(TooManyContactsError) as caught:
        user.register("<sip:bob@192.0.2.99>")
    assert (caught.value.status, caught.value.retry_after) == (503, 61)
    user.register(contact_of(1024, 3))  # a refresh
    user.register(f"{contact_of(1024, 3)};expires=0, <sip:bob@192.0.2.99>")
    assert len(user.bindings) == 8


def test_one_contact_too_many_takes_the_place_of_the_one_refreshed_longest_ago():
    user = User(max_contacts=3)
    for number in range(5):
        removed = user.register(f"<sip:bob@192.0.2.7:{4000 + number}>", now=NOW + number, call_id=f"c{number}")
    assert [each.uri for each in removed] == ["sip:bob@192.0.2.7:4001"]
    assert user.uris == [f"sip:bob@192.0.2.7:{4000 + number}" for number in (2, 3, 4)]


def test_a_phone_of_the_same_make_goes_before_an_older_one_and_a_dead_one_before_both():
    user = User(max_contacts=2)
    user.register("<sip:desk@192.0.2.7>", agent="desk phone", now=NOW)
    user.register("<sip:soft@192.0.2.8>", agent="soft phone", now=NOW + 1)
    user.register("<sip:soft@192.0.2.9>", agent="soft phone", now=NOW + 2)
    assert user.uris == ["sip:desk@192.0.2.7", "sip:soft@192.0.2.9"]
    user.policy.is_dead = lambda binding: "desk" in binding.contact
    user.register("<sip:soft@192.0.2.10>", agent="soft phone", now=NOW + 3)
    assert user.uris == ["sip:soft@192.0.2.10", "sip:soft@192.0.2.9"]


def test_permanent_contacts_make_no_room():
    user = User(max_contacts=1)
    user.bindings = [Binding("bob", "sip:gate@h", 0, flags=Binding.PERMANENT)]
    with pytest.raises(TooManyContactsError):
        user.register("<sip:bob@192.0.2.7>")


def test_more_contacts_in_one_request_than_there_may_be_are_refused():
    user = User(max_contacts=1)
    with pytest.raises(TooManyContactsError):
        user.register("<sip:a@h>, <sip:b@h>")


def test_a_strict_limit_says_when_to_come_again():
    user = User(max_contacts=1, replace_oldest=0)
    user.register("<sip:a@h>", expires=300)
    with pytest.raises(TooManyContactsError) as caught:
        user.register("<sip:b@h>", now=NOW + 100)
    assert 200 <= caught.value.retry_after <= 201
