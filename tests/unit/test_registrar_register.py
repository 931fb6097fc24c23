"""RFC 3261 §10.3 as decided by register.py."""

from __future__ import annotations

import pytest

from serpy.errors import ParseError, ProtocolError
from serpy.modules.registrar.register import (
    IntervalTooBriefError,
    Policy,
    Registration,
    contact_values,
    render_q,
)
from serpy.shm.record import Binding
from serpy.sip.nameaddr import parse_nameaddr_list

NOW = 1000.0


def policy(**changes):
    made = Policy()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def register(contacts, expires=None, rules=None, **more):
    values = {
        "aor": "sip:alice@example.com", "call_id": "c1", "cseq": 10, "user_agent": "phone", "nat": False,
        "received": "", "trusted": True, "server_id": 0, "wall_now": NOW,
    }  # fmt: skip
    values.update(more)
    parsed = parse_nameaddr_list(contacts) if contacts else []
    return Registration(rules or Policy(), "alice", parsed, expires, **values)


def known(contact="sip:a@192.0.2.1", expires_at=2000, **more):
    more.setdefault("call_id", "c1")
    more.setdefault("cseq", 5)
    return Binding("alice", contact, expires_at, **more)


def summary(decision):
    put, removed = decision
    return [(b.contact, b.expires_at - int(NOW)) for b in put], [b.contact for b in removed]


@pytest.mark.parametrize(
    ("contacts", "expires", "rules", "lifetime"),
    [
        pytest.param("<sip:a@h>", None, {}, 3600, id="nothing-asked-is-the-default"),
        pytest.param("<sip:a@h>", 600, {}, 600, id="the-header"),
        pytest.param("<sip:a@h>;expires=300", 600, {}, 300, id="the-parameter-beats-the-header"),
        pytest.param("<sip:a@h>;expires=soon", 600, {}, 3600, id="a-malformed-parameter-is-an-hour"),
        pytest.param("<sip:a@h>;expires=9999", None, {"max_expires": 600}, 600, id="too-long-is-cut"),
        pytest.param("<sip:a@h>;expires=10", None, {"clamp_expires": 1}, 60, id="too-short-is-raised-when-asked-for"),
        pytest.param("<sip:a@h>;expires=3600", None, {"min_expires": 7200}, 7200, id="an-hour-is-never-too-brief"),
        pytest.param("<sip:a@h>;expires=99999999999", None, {}, 2**32 - 1, id="a-huge-one-counts-as-the-largest"),
        pytest.param("sip:a@h", 60, {}, 60, id="the-minimum-itself"),
    ],
)
def test_lifetime(contacts, expires, rules, lifetime):
    assert summary(register(contacts, expires, policy(**rules)).decide([])) == (
        [(contacts.split(";")[0].strip("<>"), lifetime)],
        [],
    )


def test_too_brief_is_refused_with_the_minimum():
    with pytest.raises(IntervalTooBriefError) as caught:
        register("<sip:b@h>;expires=600, <sip:a@h>;expires=10").decide([])
    assert (caught.value.status, caught.value.min_expires) == (423, 60)


@pytest.mark.parametrize(
    ("contacts", "expires", "current", "expected"),
    [
        pytest.param("<sip:a@192.0.2.1>", 600, [known()], ([("sip:a@192.0.2.1", 600)], []), id="refresh"),
        pytest.param("<sip:b@h>", 600, [known()], ([("sip:b@h", 600)], []), id="a-second-contact"),
        pytest.param("<sip:a@192.0.2.1>;expires=0", 600, [known()], ([], ["sip:a@192.0.2.1"]), id="remove-one"),
        pytest.param("<sip:x@h>", 0, [known()], ([], []), id="removing-what-is-not-there-is-fine"),
        pytest.param("*", 0, [known(), known("sip:b@h")], ([], ["sip:a@192.0.2.1", "sip:b@h"]), id="star"),
        pytest.param("<sip:A@192.0.2.1>", 600, [known()], ([("sip:A@192.0.2.1", 600)], []), id="bytes-are-compared"),
        pytest.param("<sip:a@h>, <sip:b@h>;expires=0", 600, [known("sip:b@h")], ([("sip:a@h", 600)], ["sip:b@h"]), id="one-in-one-out"),
        pytest.param('<sip:n@h>;+sip.instance="<urn:1>"', 600, [known(instance="<urn:1>")], ([("sip:n@h", 600)], ["sip:a@192.0.2.1"]), id="the-same-instance-moves"),
        pytest.param('<sip:a@192.0.2.1>;+sip.instance="<urn:1>"', 600, [known(), known("sip:o@h", instance="<urn:1>")], ([("sip:a@192.0.2.1", 600)], ["sip:o@h"]), id="uri-and-instance-name-two-bindings"),
        pytest.param("<sip:a@h>, <sip:a@h>;expires=120", 600, [], ([("sip:a@h", 120)], []), id="the-last-of-two-equal-contacts-counts"),
    ],
)  # fmt: skip
def test_decisions(contacts, expires, current, expected):
    assert summary(register(contacts, expires).decide(current)) == expected


@pytest.mark.parametrize(
    ("contacts", "expires", "status"),
    [
        pytest.param("*", 600, 400, id="star-with-a-lifetime"),
        pytest.param("*", None, 400, id="star-without-expires"),
        pytest.param("*, <sip:a@h>", 0, 400, id="star-with-company"),
        pytest.param("<sip:a@h>;q=2", 600, 400, id="bad-q"),
        pytest.param("<sip:>", 600, 400, id="bad-uri"),
        pytest.param('<sip:a@h>;received="nonsense"', 600, 400, id="bad-received"),
        pytest.param("<sip:a\udcff@h>", 600, 400, id="not-utf-8"),
    ],
)
def test_refusals(contacts, expires, status):
    with pytest.raises(ProtocolError) as caught:
        register(contacts, expires).decide([])
    assert caught.value.status == status


@pytest.mark.parametrize("contacts", [pytest.param("<sip:a@192.0.2.1>", id="contact"), pytest.param("*", id="star")])
def test_an_older_request_of_the_same_call_id_is_aborted(contacts):
    with pytest.raises(ProtocolError) as caught:
        register(contacts, 0, cseq=4).decide([known()])
    assert caught.value.status == 500


INSTANCE = ';+sip.instance="<urn:1>"'


@pytest.mark.parametrize(
    ("contacts", "expires"),
    [
        pytest.param("<sip:a@192.0.2.1>", 900, id="longer"),
        pytest.param("<sip:a@192.0.2.1>", 300, id="shorter"),
        pytest.param("<sip:a@192.0.2.1>", 0, id="removal"),
        pytest.param("*", 0, id="star"),
        pytest.param("<sip:a@192.0.2.1>;q=0.1", 600, id="q"),
        pytest.param("<sip:a@192.0.2.1;x=1>", 600, id="a-parameter"),
        pytest.param("<sip:a@192.0.2.9>" + INSTANCE, 600, id="the-instance-elsewhere"),
        pytest.param("<sip:b@192.0.2.1>, <sip:a@192.0.2.1>;expires=0", 600, id="one-of-two"),
    ],
)
def test_equal_call_id_and_cseq_with_other_contents_change_nothing(contacts, expires):
    """RFC 3261 section 10.3 step 7: if the CSeq is not higher, the update must be aborted."""
    [made], _ = register("<sip:a@192.0.2.1>" + INSTANCE * (INSTANCE in contacts), 600).decide([])
    if "x=1" in contacts:  # by the rules of URIs that is the same one
        made.contact = "sip:a@192.0.2.1;y=1"
    with pytest.raises(ProtocolError) as caught:
        register(contacts, expires, wall_now=NOW + 20).decide([made])
    assert (caught.value.status, "CSeq" in caught.value.reason) == (500, True)


@pytest.mark.parametrize("age", [0.0, 0.5, 31.0, 599.0])
@pytest.mark.parametrize(
    "contacts",
    ["<sip:a@192.0.2.1>", "<sip:a@192.0.2.1>;q=0.5", "<sip:a@192.0.2.1>;expires=300, <sip:b@h>" + INSTANCE],
)
def test_a_retransmission_is_answered_and_changes_nothing(contacts, age):
    made, _ = register(contacts, 600, wall_now=NOW + 0.3).decide([])
    live = [binding for binding in made if binding.is_live(NOW + 0.3 + age)]
    put, removed = register(contacts, 600, wall_now=NOW + 0.3 + age).decide(live)
    assert removed == []
    assert all(binding.contact not in [each.contact for each in live] for binding in put)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("sip:203.0.113.7:40000", "sip:203.0.113.7:50000"),
        ("sip:203.0.113.7:40000;transport=tcp", "sip:203.0.113.7:50000;transport=tcp"),
    ],
)
def test_a_phone_that_counts_from_the_start_again_is_reached_where_it_is_now(before, now):
    contact = "<sip:a@10.0.0.1>" + INSTANCE
    made, _ = register(contact, 600, received=before).decide([])
    put, _ = register(contact, 600, received=now, wall_now=NOW + 20).decide(made)
    assert [binding.received for binding in put] == [now]
    assert register(contact, 600, received=before, wall_now=NOW + 20).decide(made) == ([], [])


def test_a_retransmission_after_a_restart_is_known_though_a_row_does_not_say_when_it_was_written():
    row = known(expires_at=int(NOW) + 570, modified_at=(NOW + 570) / 1e6)
    assert register("<sip:a@192.0.2.1>", 600, cseq=5).decide([row]) == ([], [])
    with pytest.raises(ProtocolError):
        register("<sip:a@192.0.2.1>", 300, cseq=5).decide([row])


@pytest.mark.parametrize(("contacts", "expires"), [("<sip:a@192.0.2.1>", 600), ("<sip:a@192.0.2.1>", 0), ("*", 0)])
def test_a_binding_that_has_expired_orders_nothing_though_nobody_has_swept_it(contacts, expires):
    """RFC 3261 section 10.3 step 7 compares with bindings, and this is none any more."""
    put, removed = register(contacts, expires, cseq=1).decide([known(expires_at=int(NOW) - 5)])
    assert [b.cseq for b in put] == ([1] if expires else [])
    assert [b.contact for b in removed] == ([] if expires else ["sip:a@192.0.2.1"])


@pytest.mark.parametrize(
    ("rules", "request_fields"),
    [
        pytest.param({}, {"cseq": 6}, id="a-refresh"),
        pytest.param({}, {"cseq": 1, "call_id": "other"}, id="another-call-id-may-start-anywhere"),
        pytest.param({"strict_cseq": 0}, {"cseq": 1}, id="order-is-not-checked-when-switched-off"),
        pytest.param({"strict_cseq": 0}, {"cseq": 5}, id="nor-is-an-equal-one"),
    ],
)
def test_applied_in_any_order(rules, request_fields):
    put, _ = register("<sip:a@192.0.2.1>", 600, policy(**rules), **request_fields).decide([known()])
    assert put[0].expires_at == 1600


def test_too_many_contacts_are_refused_when_the_oldest_is_to_stay_and_refreshes_are_not():
    rules = policy(max_contacts=2, replace_oldest=0)
    current = [known(), known("sip:b@h"), known("sip:old@h", expires_at=10)]
    with pytest.raises(ProtocolError) as caught:
        register("<sip:c@h>", 600, rules).decide(current)
    assert (caught.value.status, caught.value.reason) == (503, "Too many registered contacts")
    assert register("<sip:b@h>", 600, rules).decide(current)[0][0].contact == "sip:b@h"
    assert register("<sip:c@h>, <sip:b@h>;expires=0", 600, rules).decide(current)[0][0].contact == "sip:c@h"


@pytest.mark.parametrize(
    ("contact", "more", "received", "flags"),
    [
        pytest.param("<sip:a@h>", {}, "", 0, id="direct"),
        pytest.param("<sip:a@h>", {"nat": True, "received": "sip:1.2.3.4:5"}, "sip:1.2.3.4:5", 1, id="nat"),
        pytest.param('<sip:a@h>;received="sip:9.9.9.9:9"', {"nat": True, "received": "sip:1.2.3.4:5"}, "sip:9.9.9.9:9", 1, id="a-trusted-parameter"),
        pytest.param('<sip:a@h>;received="sip:9.9.9.9:9"', {"trusted": False}, "", 0, id="an-untrusted-parameter"),
    ],
)  # fmt: skip
def test_where_the_packet_came_from(contact, more, received, flags):
    made = register(contact, 600, **more).decide([])[0][0]
    assert (made.received, made.flags) == (received, flags)


def test_a_binding_carries_what_the_request_said():
    made = register('<sip:a@h>;q=0.5;+sip.instance="<urn:1>"', 600, server_id=3, user_agent="x" * 100).decide([])[0][0]
    assert (made.q, made.instance, made.server_id, made.call_id, made.cseq) == (500, "<urn:1>", 3, "c1", 10)
    assert (made.user_agent, made.aor, made.modified_at) == ("x" * 64, "sip:alice@example.com", NOW)


def test_the_contact_list_of_an_answer():
    current = [
        known(q=700, received="sip:1.2.3.4:5"),
        known("sip:gone@h", expires_at=999),
        known("sip:ever@h", expires_at=0, flags=Binding.PERMANENT),
        known("sip:soon@h", expires_at=1001),
    ]
    assert contact_values(current, 1000.5) == (
        '<sip:a@192.0.2.1>;q=0.7;expires=999;received="sip:1.2.3.4:5", '
        "<sip:ever@h>;expires=4294967295, <sip:soon@h>;expires=1"
    )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.999])
def test_the_answer_says_what_was_granted(fraction):
    put, _ = register("<sip:a@h>", 600, wall_now=NOW + fraction).decide([])
    assert contact_values(put, NOW + fraction) == "<sip:a@h>;expires=600"


@pytest.mark.parametrize(("q", "text"), [(0, "0"), (1, "0.001"), (500, "0.5"), (1000, "1")])
def test_q_is_written_short(q, text):
    assert render_q(q) == text


def test_a_bad_q_names_the_header():
    with pytest.raises(ParseError) as caught:
        register("<sip:a@h>;q=x").decide([])
    assert caught.value.header == "Contact"
