"""Nonces: whose they are, for where, and how long."""

import base64

import pytest

from serpy.modules.auth.counts import ENTRY_SIZE, FRESH, STRIPES, NonceCounts
from serpy.modules.auth.nonces import ELSEWHERE, INVALID, STALE, VALID, Nonces, network_of
from serpy.script.networks import Networks, parse_network
from serpy.shm.lock import StripedLock
from serpy.shm.segment import Segment

NOW = 1_700_000_000
HOST = "203.0.113.7"


def nonces(secret=b"secret", *, trusted=(), bound=True):
    networks = Networks([parse_network(each) for each in trusted]) if trusted else None
    return Nonces(secret, 300, 3, networks, bound=bound)


def test_a_nonce_is_28_characters_that_say_when_and_are_signed():
    nonce = nonces().make(NOW, HOST)
    assert len(nonce) == 28
    assert int.from_bytes(base64.b64decode(nonce)[:4], "big") == NOW


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(NOW, VALID), (NOW + 299, VALID), (NOW + 300, STALE), (NOW - 3, VALID), (NOW - 4, STALE), (NOW - 86_400, STALE)],
)
def test_a_nonce_is_good_from_a_little_before_it_was_made_until_it_is_old(now, verdict):
    ours = nonces()
    assert ours.check(ours.make(NOW, HOST), now, HOST)[0] == verdict


@pytest.mark.parametrize("place", range(28))
def test_every_changed_character_makes_it_nobodys(place):
    ours = nonces()
    nonce = ours.make(NOW, HOST)
    changed = nonce[:place] + ("A" if nonce[place] != "A" else "B") + nonce[place + 1 :]
    assert ours.check(changed, NOW, HOST)[0] == INVALID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "=" * 28,
        "a" * 27,
        "a" * 28,
        "a" * 44,
        "a" * 5000,
        "\u00fc" * 28,
        "\udcff" * 28,
        "Zm9v!" * 5 + "abc",
        "\0" * 28,
    ],
    ids=ascii,
)
def test_what_is_no_nonce_is_invalid(text):
    assert nonces().check(text, NOW, HOST)[0] == INVALID


def test_a_nonce_outlives_a_restart_with_the_same_secret():
    nonce = nonces().make(NOW, HOST)
    assert nonces().check(nonce, NOW + 1, HOST)[0] == VALID
    assert nonces(b"other").check(nonce, NOW + 1, HOST)[0] == INVALID


@pytest.mark.parametrize(
    ("made_for", "from_", "verdict"),
    [
        ("203.0.113.7", "203.0.113.250", VALID),
        ("203.0.113.7", "203.0.114.7", ELSEWHERE),
        ("203.0.113.7", "::ffff:203.0.113.9", VALID),
        ("2001:db8:1::1", "2001:db8:1:ffff::2", VALID),
        ("2001:db8:1::1", "2001:db8:2::1", ELSEWHERE),
        ("fe80::1%eth0", "fe80::1%eth0", VALID),
        ("203.0.113.7", "2001:db8::1", ELSEWHERE),
    ],
)
def test_a_nonce_is_good_in_the_network_it_was_made_for(made_for, from_, verdict):
    ours = nonces()
    assert ours.check(ours.make(NOW, made_for), NOW, from_)[0] == verdict


def test_all_balancers_are_one_network():
    ours = nonces(trusted=["10.0.0.0/8", "2001:db8::/32"])
    nonce = ours.make(NOW, "10.1.1.1")
    assert [ours.check(nonce, NOW, host)[0] for host in ("10.9.9.9", "2001:db8::7", "11.0.0.1")] == [
        VALID, VALID, ELSEWHERE,
    ]  # fmt: skip


def test_a_nonce_bound_to_parts_of_its_request_is_good_for_these():
    ours = nonces()
    nonce = ours.make(NOW, HOST, b"call-1")
    assert len(nonce) == 44
    assert ours.check(nonce, NOW, HOST, b"call-1")[0] == VALID
    assert ours.check(nonce, NOW, HOST, b"call-2")[0] == ELSEWHERE
    assert ours.check(ours.make(NOW, HOST), NOW, HOST, b"call-1")[0] == ELSEWHERE


def test_processes_hand_out_serials_of_their_own():
    seen = {}
    for slot in range(3):
        ours = nonces()
        ours.attach(slot, 3)
        for _ in range(5):
            assert seen.setdefault(ours.check(ours.make(NOW, HOST), NOW, HOST)[2] % 4, slot) == slot
    assert len(seen) == 3


@pytest.mark.parametrize("processes", [2, 3, 6, 8])
@pytest.mark.parametrize("entries", [64, 100])
def test_two_processes_that_challenge_in_the_same_second_push_nobody_out(processes, entries):
    segment = Segment(1 << 16)
    counts = NonceCounts(segment.allocate("nonces", entries * ENTRY_SIZE), StripedLock(segment, "nonces", STRIPES))
    made = []
    for slot in range(processes):
        ours = nonces()
        ours.attach(slot, processes)
        made += [ours.check(ours.make(NOW, HOST), NOW, HOST)[1:] for _ in range(4)]
    made.sort(key=lambda one: -one[1])  # of one second the highest serial is the youngest
    assert [counts.use(since, serial, 1, NOW) for since, serial in made] == [FRESH] * len(made)


def test_many_sources_fill_no_memory():
    ours = nonces()
    for number in range(10_000):
        ours.make(NOW, f"10.{number >> 8}.{number & 255}.1")
    assert len(ours._numbers) <= 4096


def test_networks_are_told_apart():
    numbers = {nonces()._network(f"10.{number}.0.1") for number in range(200)}
    assert len(numbers) > 190
    assert 0 not in numbers
    assert network_of("192.0.2.1") == b"\xc0\x00\x02"
