"""Our branch parameters: what they say, and that nobody else can make one."""

from __future__ import annotations

import pytest

from serpy.sip.flow import Flow, Listener
from serpy.sip.message import Request
from serpy.sip.parser import parse_message
from serpy.transaction.ways import CALL_ID_KEPT, KEPT, UNIT_S, Ways, folded

UDP = Listener(0, "udp", "192.0.2.100", 5060)
UDP6 = Listener(1, "udp", "2001:db8::100", 5060)
TCP = Listener(2, "tcp", "192.0.2.100", 5060)
LISTENERS = [UDP, UDP6, TCP]
NOW = 1.7e9


def ways(*, secret=b"secret", name="0 udp:192.0.2.100:5060", start="00000001", boot="0001", listeners=LISTENERS):
    return Ways(secret, name, start, boot, listeners)


def request(method="INVITE", *, branch="z9hG4bKcaller", call_id="call", uri="sip:b@b.example.net"):
    text = (
        f"{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch={branch}\r\nFrom: <sip:a@a>;tag=f\r\n"
        f"To: <sip:b@b>\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\r\n"
    )
    message = parse_message(text.encode("utf-8", "surrogateescape"))
    assert isinstance(message, Request)
    return message


FLOWS = [
    pytest.param(Flow(UDP, "192.0.2.1", 5060), id="udp"),
    pytest.param(Flow(UDP, "255.255.255.255", 65535), id="largest"),
    pytest.param(Flow(UDP6, "2001:db8::1", 1), id="ipv6"),
    pytest.param(Flow(TCP, "192.0.2.1", 40000, 3 << 48 | 9), id="connection"),
    pytest.param(Flow(TCP, "192.0.2.1", 40000, 0xFFFFFFFFFFFFFFFF), id="largest-connection"),
    pytest.param(Flow(TCP, "192.0.2.1", 40000), id="tcp-without-connection"),
]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_branch_says_where_its_request_came_from(flow):
    branch = ways().branch(17, 4000000000, 3, flow, "call", NOW)
    for reader in (ways(), ways(start="00000002")):
        found = reader.open(branch, "call")
        assert found is not None
        assert (found.flow.listener, found.flow.host, found.flow.port) == (flow.listener, flow.host, flow.port)
        assert found.flow.connection == flow.connection
        assert found.start == "00000001"
        assert 0 <= NOW - found.since < UNIT_S


def test_a_branch_is_of_a_length_that_phones_store():
    assert len(ways().branch(1000000, 4294967295, 11, Flow(UDP, "203.0.113.200", 65535), "call", NOW)) <= 90


def test_connections_of_before_a_restart_are_forgotten_and_the_address_is_not():
    branch = ways().branch(1, 2, 0, Flow(TCP, "192.0.2.1", 40000, 77), "call", NOW)
    found = ways(boot="0002").open(branch, "call")
    assert found is not None
    assert (found.flow.connection, found.flow.host, found.flow.port) == (0, "192.0.2.1", 40000)


def test_the_case_in_which_it_comes_back_does_not_matter():
    branch = ways().branch(1, 2, 0, FLOWS[0].values[0], "Call", NOW)
    for written in (branch.upper(), branch.lower(), branch.swapcase()):
        assert ways().is_ours(written)
        assert ways().open(written, "Call") is not None


CHANGES = [
    pytest.param(lambda b: (b, "another"), id="another-call"),
    pytest.param(lambda b: (b, "Call"), id="another-case-of-call-id"),
    pytest.param(lambda b: (b[:-1] + ("0" if b[-1] != "0" else "1"), "call"), id="mac"),
    pytest.param(lambda b: (b[:-16], "call"), id="no-mac"),
    pytest.param(lambda b: (b.rpartition(".")[0], "call"), id="no-way"),
    pytest.param(lambda b: (b.rpartition(".")[0] + ".", "call"), id="empty-way"),
    pytest.param(lambda b: (b.rpartition(".")[0] + ".0", "call"), id="no-way-to-write-it"),
    pytest.param(lambda b: (b + "0", "call"), id="longer"),
    pytest.param(lambda b: (b + ".0", "call"), id="one-part-more"),
    pytest.param(lambda b: (b.replace("192_0_2_1", "192_0_2_2"), "call"), id="address"),
    pytest.param(lambda b: (b.replace("-192_", "1-192_"), "call"), id="port-and-time"),
    pytest.param(lambda b: (b.replace("-192_", "-1-192_"), "call"), id="one-field-more"),
    pytest.param(lambda b: (b[:-1] + "\u0660", "call"), id="digit-that-is-none"),
    pytest.param(lambda b: (b.replace("n00000001", "x00000001"), "call"), id="kind"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_not_ours(change):
    branch = ways().branch(1, 2, 0, Flow(UDP, "192.0.2.1", 5060), "call", NOW)
    changed, call_id = change(branch)
    assert (changed, call_id) != (branch, "call")
    assert ways().open(changed, call_id) is None


def test_no_other_server_makes_it():
    branch = ways().branch(1, 2, 0, Flow(UDP, "192.0.2.1", 5060), "call", NOW)
    assert not ways(secret=b"other").is_ours(branch)
    assert ways(secret=b"other").open(branch, "call") is None
    member = ways(name="1 udp:192.0.2.101:5060")
    assert not member.is_ours(branch), "a member of a farm must not take us for a loop"
    assert member.open(branch, "call") is not None, "it may take our place while a call rings"


@pytest.mark.parametrize("branch", ["", "z9hG4bK", "z9hG4bKn1", "x", "z9hG4bK" + "0" * 200, "\udcff" * 30])
def test_branches_of_others_are_told_apart(branch):
    assert not ways().is_ours(branch)
    assert ways().open(branch, "call") is None


def test_listen_addresses_that_are_gone_lead_nowhere():
    branch = ways().branch(1, 2, 0, Flow(TCP, "192.0.2.1", 5060), "call", NOW)
    assert ways(listeners=[UDP]).open(branch, "call") is None
    branch = ways().branch(1, 2, 0, Flow(UDP6, "2001:db8::1", 5060), "call", NOW)
    assert ways(listeners=[UDP, TCP]).open(branch, "call") is None


def test_an_address_that_cannot_be_written_has_no_way():
    branch = ways().branch(1, 2, 0, Flow(UDP6, "fe80::1%eth0", 5060), "call", NOW)
    assert ways().is_ours(branch)
    assert ways().open(branch, "call") is None


def test_a_stateless_branch_is_the_same_for_repetition_and_cancel_however_late():
    flow = Flow(UDP, "192.0.2.1", 5060)
    first = ways().stateless_branch(request(), flow, NOW)
    assert ways().stateless_branch(request(), flow, NOW + 300) == first
    assert ways(start="00000002").stateless_branch(request("CANCEL"), flow, NOW + 500) == first
    others = [
        ways().stateless_branch(request(branch="z9hG4bKother"), flow, NOW),
        ways().stateless_branch(request(uri="sip:c@b"), flow, NOW),
        ways().stateless_branch(request(call_id="other"), flow, NOW),
        ways().stateless_branch(request(), Flow(UDP, "192.0.2.1", 5061), NOW),
    ]
    assert len({first, *others}) == 5
    found = ways().open(first, "call")
    assert found is not None
    assert (found.start, found.flow.host) == ("", "192.0.2.1")


def test_what_is_remembered_is_right_and_bounded():
    made = ways()
    flow, again, other = Flow(UDP, "192.0.2.1", 5060), Flow(UDP, "192.0.2.1", 5060), Flow(TCP, "192.0.2.1", 5060, 5)
    first = made.branch(1, 2, 0, flow, "call", NOW)
    assert made.branch(1, 2, 0, again, "call", NOW) == first
    moved = made.open(made.branch(1, 2, 0, other, "call", NOW), "call")
    assert moved is not None
    assert moved.flow.listener is TCP
    later = made.open(made.branch(1, 2, 0, flow, "call", NOW + 1000), "call")
    assert later is not None
    assert later.since > NOW
    for number in range(2 * KEPT + 10):
        made.branch(number, 2, 0, flow, f"call-{number}", NOW)
    made.branch(1, 2, 0, flow, "x" * (CALL_ID_KEPT + 1), NOW)
    assert len(made._kept) + len(made._kept_before) <= 2 * KEPT
    assert all(len(call_id) <= CALL_ID_KEPT for call_id in made._kept)


def test_a_call_id_that_is_no_utf8_is_sealed_all_the_same():
    branch = ways().branch(1, 2, 0, Flow(UDP, "192.0.2.1", 5060), "\udcff", NOW)
    assert ways().open(branch, "\udcff") is not None
    assert ways().open(branch, "\udcfe") is None


@pytest.mark.parametrize(("branch", "expected"), [("z9hg4BKAB.C", "z9hG4bKab.c"), ("Z9HG4BK", "z9hG4bK")])
def test_folding(branch, expected):
    assert folded(branch) == expected
