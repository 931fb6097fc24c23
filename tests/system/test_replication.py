"""REGISTER replication between three servers in three network namespaces on one switch."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest
from support.farm import GROUP, NET, PHONES, Farm, register, register_all
from support.netns import needs_namespaces
from support.phone import Phone
from support.running import CONFIG as OUT_OF_BOX
from support.running import DOMAIN, wait_for

from serpy.replication.envelope import Sealer
from serpy.replication.messages import DIGEST, REMOVED, build_removed

pytestmark = needs_namespaces
PHONES_LISTEN = f"{NET}{PHONES}"
TRUSTED = f"{NET}252"


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    """Three servers, tables in memory only; what leaves them can be disturbed."""
    with Farm(tmp_path_factory.mktemp("farm"), 3, bad=True, defines={"TRUSTED": TRUSTED}) as made:
        yield made.start()


@pytest.fixture
def phones(farm):
    with farm.socket() as sock:
        yield sock


def listener(farm):
    """A socket that hears the group, where the phones are."""
    with farm.phones.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(GROUP)
    sock.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP[0]) + socket.inet_aton(PHONES_LISTEN)
    )
    sock.settimeout(5)
    return sock


def multicaster(farm, host=None):
    sock = farm.socket(host)
    address = (host or farm.phones).address
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    return sock


def contacts(member, user):
    return {contact: cseq for (uid, contact), (_, cseq) in member.table().items() if uid == f"{user}@example.com"}


def test_registers_of_users_with_an_at_sign_are_on_the_others_within_two_seconds(farm, phones):
    assert register_all(phones, farm.members[0].address, [register(f"u{n}") for n in range(300)]) == 300
    farm.wait_equal(2.0, 300)
    table = farm.members[2].table()
    assert all(table[f"u{n}@example.com", f"sip:u{n}@192.0.2.9:5070"] == (f"call-u{n}", 1) for n in range(300))


def test_the_group_sees_no_credentials_and_a_signature(farm, phones):
    with listener(farm) as group:
        wanted = register("carol", headers=('Authorization: Digest username="carol"', "Proxy-Authorization: x"))
        assert register_all(phones, farm.members[0].address, [wanted]) == 1
        while not (data := group.recv(65536)).startswith(b"REGISTER"):
            pass
    assert data.startswith(b"REGISTER sip:carol%40example.com@example.com SIP/2.0\r\nSerpy-Replica: grp=")
    assert b"uthorization" not in data
    assert b"\r\nSER-Server-ID: 1\r\n" in data
    wait_for(lambda: contacts(farm.members[1], "carol"))


def test_a_refresh_at_another_server_and_a_removal_reach_all(farm, phones):
    contact = "sip:dave@192.0.2.9:5070"
    for number, member in enumerate(farm.members, 1):
        assert register_all(phones, member.address, [register("dave", number)]) == 1
        wait_for(lambda number=number: all(contacts(each, "dave") == {contact: number} for each in farm.members))
    assert register_all(phones, farm.members[1].address, [register("dave", 4, expires=0)]) == 1
    wait_for(lambda: not any(contacts(each, "dave") for each in farm.members))
    late = register("dave", 2).replace(b"Call-ID", b"SER-Server-ID: 3\r\nCall-ID")
    with multicaster(farm, farm.trusted) as sock:  # an old refresh that was under way for long
        sealed = Sealer(b"farm secret", f"{GROUP[0]}:{GROUP[1]}", 7, 1)
        uri = late.replace(b"sip:example.com", b"sip:dave%40example.com@example.com", 1)
        sock.sendto(sealed.seal_register(uri, round(time.time() * 1000) - 5000), GROUP)
        before = [each.counters()["taken"] for each in farm.members]
        wait_for(
            lambda: all(each.counters()["taken"] >= count for each, count in zip(farm.members, before, strict=True))
        )
    time.sleep(0.2)
    assert not any(contacts(each, "dave") for each in farm.members)


def test_loss_reordering_and_repetition_are_repaired_within_30_seconds(farm, phones):
    farm.disturb(loss=0.2, duplicate=0.05, reorder=0.25, delay=0.02)
    try:
        assert register_all(phones, farm.members[1].address, [register(f"v{n}") for n in range(300)]) == 300
        farm.wait_equal(30.0, 601)
        counters = [member.counters() for member in farm.members]
    finally:
        farm.disturb()
    assert counters[0]["repaired"] + counters[2]["repaired"] > 0
    assert counters[0]["dropped_replayed"] + counters[2]["dropped_replayed"] > 0


def test_a_server_that_was_down_and_starts_empty_equals_the_others(farm, phones):
    member = farm.members[2]
    assert member.stop() == 0
    assert register_all(phones, farm.members[0].address, [register("erin")]) == 1
    member.start()
    farm.wait_equal(30.0, 602)
    assert contacts(member, "erin")


def test_serpyctl_shows_the_farm_and_that_nothing_differs(farm):
    status = wait_for(lambda: _settled(farm.members[0].status()))  # also: nobody is two seconds behind
    assert status["server_id"] == 1
    assert [peer["bindings"] for peer in status["peers"] if peer["server_id"] in (2, 3)] == [602, 602]
    assert farm.members[0].json("replication", "diff") == []
    assert "no difference" in farm.members[0].ctl("replication", "diff", "2").stdout
    shown = farm.members[0].ctl("replication", "status").stdout
    assert "dropped_forged" in shown
    assert "SERVER_ID" in shown


def _settled(status):
    clean = [peer["server_id"] for peer in status["peers"] if peer["differing_buckets"] == 0 and peer["lag_ms"] < 2000]
    return status if clean == [2, 3] else None


def test_a_thousand_bad_datagrams_change_nothing(farm):
    """Forged, foreign, stale, own, malformed, replayed: counted, and that is all."""
    tables = [member.table() for member in farm.members]
    pids = [member.children() for member in farm.members]
    before = [member.counters() for member in farm.members]
    name = f"{GROUP[0]}:{GROUP[1]}"
    now_ms = round(time.time() * 1000)
    victim = register("victim").replace(b"sip:example.com", b"sip:victim%40example.com@example.com", 1)
    good = Sealer(b"farm secret", name, 9, 1)
    old = good.seal_register(victim, now_ms - 3_600_000)
    gone = Sealer(b"farm secret", name, 1, 5).seal_frame(REMOVED, build_removed([(1, now_ms)]), now_ms)
    replayed = Sealer(b"farm secret", name, 8, 1).seal_frame(DIGEST, b"", now_ms)  # malformed the first time
    kinds = {
        "unsigned": victim,
        "forged": good.seal_register(victim, now_ms)[:-8] + b"x\r\n\r\n\r\n\r\n",
        "foreign": Sealer(b"other", name, 9, 1).seal_register(victim, now_ms),
        "stale": old,
        "own": gone,
        "malformed": b"\0SR1" + bytes(50),
        "replayed": replayed,
    }
    with multicaster(farm) as sock:
        for number in range(1001):
            sock.sendto(list(kinds.values())[number % len(kinds)], GROUP)
            if number % 50 == 0:
                time.sleep(0.005)
        for member in farm.members[1:]:  # which 1 takes for its own, the others have no use for
            wait_for(lambda member=member, old=before: _dropped(member) >= sum(_drops(old[member.number - 1])) + 700)
    wait_for(lambda: _dropped(farm.members[0]) >= sum(_drops(before[0])) + 1000)
    after = farm.members[0].counters()
    assert all(after[f"dropped_{reason}"] > before[0][f"dropped_{reason}"] for reason in kinds)
    assert [member.table() for member in farm.members] == tables
    assert [member.children() for member in farm.members] == pids


def _drops(counters):
    return [count for name, count in counters.items() if name.startswith("dropped_")]


def _dropped(member):
    return sum(_drops(member.counters()))


def test_bare_replicas_of_ser_are_taken_from_listed_sources_only(farm):
    bare = register("frank", headers=("SER-Server-ID: 44",))
    bare = bare.replace(b"sip:example.com", b"sip:frank%40example.com@example.com", 1)
    with multicaster(farm) as stranger, multicaster(farm, farm.trusted) as trusted:
        before = farm.members[0].counters()["dropped_unsigned"]
        stranger.sendto(bare, GROUP)
        wait_for(lambda: farm.members[0].counters()["dropped_unsigned"] > before)
        assert not contacts(farm.members[0], "frank")
        trusted.sendto(bare, GROUP)
        wait_for(lambda: all(contacts(member, "frank") for member in farm.members))


def test_a_killed_timer_process_does_not_stop_replication(farm, phones):
    member = farm.members[0]
    pid = next(pid for title, pid in member.children().items() if "timer" in title)
    os.kill(pid, signal.SIGKILL)
    assert register_all(phones, member.address, [register("grace")]) == 1
    wait_for(lambda: all(contacts(each, "grace") for each in farm.members))


@pytest.fixture(scope="module")
def out_of_box(tmp_path_factory):
    """Two servers with etc/serpy.conf, each with a database of its own."""
    defines = {"REPLICATION": GROUP[0], "AUTH_SECRET": "a", "COOKIE_SECRET": "b"}
    with Farm(tmp_path_factory.mktemp("oob"), 2, config=OUT_OF_BOX, defines=defines) as made:
        for member in made.members:
            member.defines["DB_URL"] = f"sqlite:///{member.folder}/serpy.db"
            member.prepare("alice")
        yield made.start()


def test_the_out_of_box_configuration_replicates_with_a_database_per_server(out_of_box):
    first, second = out_of_box.members
    alice = Phone(first.address, "alice", DOMAIN, "alice")
    alice.socket.close()
    alice.socket = out_of_box.socket()
    try:
        assert alice.register().status == 200
        (expected,) = first.table()
        assert expected[1] == alice.contact
        wait_for(lambda: list(second.table()) == [expected])
        assert second.stop() == 0
        second.start()  # its database knows nothing of what the first has taken
        wait_for(lambda: list(second.table()) == [expected])
        alice.server = second.address
        assert alice.register(expires=0, contact="*").status == 200
        wait_for(lambda: not first.table() and not second.table())
        assert first.stop() == 0
        first.start()  # its row of the contact has gone, too
        wait_for(lambda: [peer for peer in first.status()["peers"] if peer["differing_buckets"] == 0])
        assert not first.table()
        assert not second.table()
    finally:
        alice.close()
