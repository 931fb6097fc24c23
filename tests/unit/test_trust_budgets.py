"""Budgets of strangers: what a source may cost, who is held for it, and who never notices (docs/trust.md)."""

from __future__ import annotations

import pytest

from serpy.clock import Clock
from serpy.sip.flow import Flow, Listener
from serpy.trust import limits as of
from serpy.trust.budgets import CHALLENGED_MAX, Budgets
from serpy.trust.limits import Limits
from serpy.trust.places import Place, names_in
from serpy.trust.standing import KNOWN, OFF, PROVEN, STRANGER, WATCH

UDP = Listener(0, "udp", "192.0.2.100", 5060)
TCP = Listener(1, "tcp", "192.0.2.100", 5060)
HOST = "203.0.113.7"
DAY_S = 86400


class Town:
    """Budgets with a clock that the test moves."""

    def __init__(self, size="office", *, now=1000.0, memory=None, trusted=(), **more):
        limits = Limits(size)
        self.memory = memory if memory is not None else bytearray(Budgets.size(limits))
        is_trusted = (lambda host: host in trusted) if trusted else None
        self.budgets = Budgets(memoryview(self.memory), limits, 77, is_trusted=is_trusted, **more)
        self.budgets.holds_sources = True
        self.budgets.clock = Clock(now, 1.7e9)

    def wait(self, seconds):
        self.budgets.clock._now += seconds
        self.budgets.tick()

    def charge(self, reason, count, flow=None):
        for _ in range(count):
            self.budgets.charge(flow or udp(), reason)

    def guess(self, count, name="alice@example.com", flow=None):
        for _ in range(count):
            self.budgets.wrong_password(flow or udp(), name)

    def passes(self, data=b"", flow=None):
        """Whether the receiver would look at *data*."""
        return not self.budgets.held[0] or self.budgets.admits(data or register("carol"), flow or udp())


def udp(host=HOST, port=5060):
    return Flow(UDP, host, port)


def tcp(host=HOST, port=40000):
    return Flow(TCP, host, port, 7)


def register(user, domain="example.com", credentials=False):
    line = f'Authorization: Digest username="{user}", realm="{domain}", nonce="n"\r\n' if credentials else ""
    return (
        f"REGISTER sip:{domain} SIP/2.0\r\nVia: SIP/2.0/UDP {HOST}\r\nFrom: <sip:{user}@{domain}>;tag=1\r\n"
        f"To: <sip:{user}@{domain}>\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n{line}\r\n"
    ).encode()


# --- who is held


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        pytest.param(of.UNANSWERED, 60, id="challenges-nobody-answered"),
        pytest.param(of.MALFORMED, 30, id="malformed"),
        pytest.param(of.UNKNOWN, 20, id="unknown-users"),
    ],
)
def test_a_source_that_goes_over_its_budget_gets_five_answers_a_second(reason, limit):
    town = Town()
    town.charge(reason, limit)
    assert town.passes()
    town.charge(reason, 1)
    assert [town.passes() for _ in range(10)] == [True] * 5 + [False] * 5
    town.wait(1.0)
    assert [town.passes() for _ in range(10)].count(True) == 5


def test_an_unproven_source_is_never_banned_whatever_it_sends():
    town = Town()
    for reason in (of.UNANSWERED, of.MALFORMED, of.UNKNOWN):
        town.charge(reason, 1000)
    assert town.budgets.bans == 0
    assert town.passes()


def test_a_proven_source_is_banned_for_unknown_users_and_hears_nothing():
    town = Town()
    town.charge(of.UNKNOWN, 21, tcp())
    assert town.budgets.bans == 1
    assert not any(town.passes() for _ in range(10))
    assert not town.passes(b"SIP/2.0 200 OK\r\n")


def test_others_are_not_held_with_a_source():
    town = Town()
    town.charge(of.UNKNOWN, 21, tcp())
    assert all(town.passes(flow=udp("203.0.113.8")) for _ in range(50))


def test_a_ban_ends_by_itself_and_the_next_is_twice_as_long():
    town = Town()
    town.charge(of.UNKNOWN, 21, tcp())
    town.wait(599)
    assert not town.passes()
    town.wait(2)
    assert town.passes()
    town.charge(of.UNKNOWN, 21, tcp())
    town.wait(1100)
    assert not town.passes()
    town.wait(101)
    assert town.passes()


def test_no_ban_is_longer_than_a_day():
    town = Town()
    for _ in range(12):
        town.charge(of.UNKNOWN, 21, tcp())
        town.wait(DAY_S + 1)
        assert town.passes()


def test_quiet_ends_within_a_minute():
    town = Town()
    town.charge(of.UNANSWERED, 5000)
    town.wait(60)
    assert all(town.passes() for _ in range(50))


def test_nobody_is_looked_at_when_nobody_is_held_any_more():
    town = Town()
    town.charge(of.UNANSWERED, 100)
    assert town.budgets.held[0] == 1
    town.wait(31)
    assert town.budgets.held[0] == 0


def test_a_slow_rate_of_events_holds_nobody():
    town = Town()
    for _ in range(600):
        town.charge(of.UNANSWERED, 1)
        town.wait(1.0)
    assert town.budgets.held[0] == 0


def test_dialogs_go_on_while_their_source_is_quiet():
    town = Town()
    town.charge(of.UNANSWERED, 100)
    for data in (
        b"SIP/2.0 200 OK\r\n",
        b"ACK sip:x SIP/2.0\r\n",
        b"BYE sip:x SIP/2.0\r\n",
        b"CANCEL sip:x SIP/2.0\r\n",
    ):
        assert all(town.passes(data) for _ in range(20))


# --- who is not


def test_a_known_flow_is_never_struck():
    town = Town()
    town.budgets.right_password(udp(port=5071), ["alice@example.com"], 600)
    town.charge(of.UNKNOWN, 21, tcp())
    assert all(town.passes(flow=udp(port=5071)) for _ in range(100))
    town.charge(of.MALFORMED, 1000, udp(port=5071))
    assert all(town.passes(flow=udp(port=5071)) for _ in range(100))


def test_a_known_flow_is_known_for_an_hour_at_least_and_as_long_as_it_is_registered():
    town = Town()
    town.budgets.right_password(udp(port=1), ["a@b"], 60)
    town.budgets.right_password(udp(port=2), ["a@b"], 7200)
    town.wait(3599)
    assert town.budgets.level(udp(port=1)) == KNOWN
    town.wait(2)
    assert town.budgets.level(udp(port=1)) != KNOWN
    assert town.budgets.level(udp(port=2)) == KNOWN


def test_a_phone_with_a_new_port_behind_a_banned_address_passes_slowly_but_surely():
    town = Town()
    town.budgets.right_password(udp(port=5071), ["alice@example.com"], 600)
    for _ in range(5):
        town.charge(of.UNKNOWN, 100, tcp())
    assert [town.passes(register("alice"), udp(port=9999)) for _ in range(6)] == [True] * 4 + [False] * 2
    town.wait(1.0)
    assert town.passes(register("alice"), udp(port=9999))
    assert not town.passes(register("mallory"), udp(port=9999))


def test_a_pair_is_known_for_a_week():
    town = Town()
    town.budgets.right_password(udp(), ["alice@example.com"], 600)
    town.wait(7 * DAY_S - 10)
    town.charge(of.UNKNOWN, 21, tcp())
    assert town.passes(register("alice"), udp(port=9999))


def test_many_known_users_behind_an_address_multiply_its_budget():
    town = Town()
    for number in range(200):
        town.budgets.right_password(udp(port=10000 + number), [f"user{number}@example.com"], 600)
    town.charge(of.UNKNOWN, 21 * 20, tcp())
    assert town.budgets.bans == 0
    town.charge(of.UNKNOWN, 21 * 2, tcp())
    assert town.budgets.bans == 1


def test_a_trusted_network_has_no_budget():
    town = Town(trusted=(HOST,))
    town.charge(of.UNKNOWN, 1000, tcp())
    town.guess(100)
    assert town.passes()
    assert town.budgets.level(udp()) == KNOWN


def test_an_authentication_takes_ten_events_off():
    town = Town()
    town.charge(of.UNKNOWN, 20)
    town.budgets.right_password(udp(port=9), ["alice@example.com"], 600)
    town.charge(of.UNKNOWN, 10)
    assert town.budgets.held[0] == 0


def test_watching_refuses_nothing_and_counts_everything():
    town = Town(mode=WATCH)
    town.charge(of.UNKNOWN, 21, tcp())
    town.guess(100)
    assert all(town.passes(register("alice", credentials=True)) for _ in range(20))
    assert town.budgets.bans >= 1
    assert sum(town.budgets.dropped) == 20


def test_off_is_off():
    town = Town(mode=OFF)
    town.charge(of.UNKNOWN, 1000, tcp())
    town.guess(100)
    assert town.budgets.held[0] == 0


def test_without_the_module_no_source_is_held():
    town = Town()
    town.budgets.holds_sources = False
    town.charge(of.UNKNOWN, 1000, tcp())
    assert town.budgets.held[0] == 0


# --- challenges


def owed(town, reason=of.UNANSWERED, host=HOST):
    """How many events of a source have not leaked away."""
    budgets = town.budgets
    at = budgets.strangers.find(budgets.names.place(host).net)
    limit = budgets.limits.source[reason]
    return 0 if at < 0 else -(-budgets.strangers.debt(at, reason, budgets.now()) // limit.interval)


def test_a_challenge_that_is_answered_costs_nothing():
    town = Town()
    town.charge(of.UNANSWERED, 1)
    town.budgets.right_password(udp(), ["alice@example.com"], 600)
    town.budgets.tick()
    assert owed(town) == 0


def test_a_challenge_that_nobody_answers_is_charged_within_a_second():
    town = Town()
    town.charge(of.UNANSWERED, 1)
    town.budgets.tick()
    assert owed(town) == 1
    town.budgets.tick()
    assert owed(town) == 1


def test_a_challenge_is_not_answered_over_another_flow():
    town = Town()
    town.charge(of.UNANSWERED, 1, udp(port=6666))
    town.budgets.right_password(udp(), ["alice@example.com"], 600)
    town.budgets.tick()
    assert owed(town) == 1


def test_challenges_of_one_second_are_charged_at_once_from_the_second_on():
    town = Town()
    for number in range(7):
        town.charge(of.UNANSWERED, 1, udp(port=1000 + number))
    assert owed(town) == 7


def test_only_so_many_challenges_wait_for_their_answer():
    town = Town()
    hosts = [f"10.0.{number >> 8}.{number & 255}" for number in range(CHALLENGED_MAX + 20)]
    for host in hosts:
        town.charge(of.UNANSWERED, 1, udp(host))
    assert sum(owed(town, host=host) for host in hosts) == 20
    town.budgets.tick()
    assert sum(owed(town, host=host) for host in hosts) == len(hosts)


def test_a_phone_that_is_known_is_challenged_for_nothing():
    town = Town()
    town.budgets.right_password(udp(), ["alice@example.com"], 600)
    for _ in range(5):
        town.charge(of.UNANSWERED, 3)
        town.wait(1.0)
    assert owed(town) == 0


def test_a_phone_with_a_long_registration_takes_events_off_whenever_it_calls():
    town = Town()
    town.budgets.right_password(udp(), ["alice@example.com"], 86400)
    town.wait(1800)
    town.charge(of.MALFORMED, 25, udp(port=9))
    town.budgets.right_password(udp(), ["alice@example.com"], 0)
    assert owed(town, of.MALFORMED) == 15
    assert town.budgets.level(udp(port=9)) == PROVEN
    town.wait(86400 - 1801)
    assert town.budgets.level(udp()) == KNOWN


def test_two_accounts_of_one_flow_take_no_more_off_than_two_phones():
    town = Town()
    town.charge(of.UNKNOWN, 20, udp(port=9))
    for _ in range(10):
        town.budgets.right_password(udp(), ["alice@example.com"], 600)
        town.budgets.right_password(udp(), ["bob@example.com"], 600)
    town.charge(of.UNKNOWN, 20, udp(port=9))
    town.budgets.right_password(udp(), ["alice@example.com"], 600)
    assert owed(town, of.UNKNOWN) == 20


def test_an_office_is_large_as_long_as_its_phones_register():
    town = Town()
    for _ in range(3):
        for number in range(100):
            town.budgets.right_password(udp(port=10000 + number), [f"user{number}@example.com"], 600)
        town.wait(6 * DAY_S)
    town.charge(of.UNKNOWN, 20 * 10, tcp())
    assert town.budgets.bans == 0


def test_names_that_one_account_calls_itself_by_are_no_people():
    town = Town()
    for number in range(100):
        town.budgets.right_password(udp(port=10000 + number), ["alice@example.com", f"user{number}@example.com"], 600)
    town.charge(of.UNKNOWN, 21, tcp("203.0.113.7"))
    assert town.budgets.bans == 1


# --- passwords


def test_a_pair_that_guesses_is_silent_and_others_of_its_network_are_not():
    town = Town()
    town.guess(11)
    assert not town.passes(register("alice", credentials=True))
    assert not town.passes(register("alice", credentials=True), udp("203.0.113.99"))  # the same /24
    assert town.passes(register("bob", credentials=True))
    town.wait(601)
    assert town.passes(register("alice", credentials=True))


def test_a_network_that_guesses_for_many_users_is_banned():
    town = Town()
    for number in range(21):
        town.guess(1, f"user{number}@example.com")
    assert town.budgets.bans == 1
    assert not town.passes(register("carol"))


def test_a_user_guessed_at_from_many_networks_is_out_of_reach_for_all_but_the_own_ones():
    town = Town()
    home = udp("198.51.100.1")
    town.budgets.right_password(home, ["alice@example.com"], 600)
    for number in range(31):
        town.guess(1, flow=udp(f"203.0.{number}.7"))
    assert not town.passes(register("alice", credentials=True), udp("192.0.2.1"))
    assert town.passes(register("alice", credentials=True), home)
    assert town.passes(register("alice", credentials=True), udp("198.51.100.77", 9999))
    assert town.passes(register("bob", credentials=True), udp("192.0.2.1"))
    town.wait(601)
    assert town.passes(register("alice", credentials=True), udp("192.0.2.1"))


def test_the_phone_of_a_pair_that_is_guessed_at_from_its_own_network_goes_on():
    town = Town()
    phone = udp(port=5071)
    town.budgets.right_password(phone, ["alice@example.com"], 600)
    town.guess(200, flow=udp(port=6666))
    assert not town.passes(register("alice", credentials=True), udp(port=6666))
    assert all(town.passes(register("alice", credentials=True), phone) for _ in range(50))


def test_a_known_flow_with_a_wrong_password_again_and_again_is_a_stranger():
    town = Town()
    phone = udp(port=5071)
    town.budgets.right_password(phone, ["alice@example.com"], 600)
    town.guess(10, flow=phone)
    assert town.budgets.level(phone) == KNOWN
    town.guess(1, flow=phone)
    assert town.budgets.level(phone) != KNOWN


def test_an_office_is_not_cut_off_for_one_phone_with_an_old_password():
    """It tries twice a minute for a day; new phones behind the same address come in all the time."""
    town = Town()
    for _ in range(2 * 60 * 24):
        if town.passes(register("alice", credentials=True)):
            town.guess(1)
        town.wait(30)
        assert town.passes(register("bob"))
    assert town.budgets.bans == 0


# --- levels


def test_who_receives_what_we_send_there_is_proven_for_ten_minutes():
    town = Town()
    assert town.budgets.level(udp()) == STRANGER
    assert town.budgets.level(tcp()) == PROVEN
    town.guess(1)
    assert town.budgets.level(udp(port=9)) == PROVEN
    town.wait(601)
    assert town.budgets.level(udp(port=9)) == STRANGER


def test_an_authentication_proves_an_address_for_ten_minutes_whatever_comes_from_there():
    town = Town()
    town.budgets.right_password(udp(), ["alice@example.com"], 600)
    town.wait(590)
    town.charge(of.UNKNOWN, 5, udp(port=9))
    assert town.budgets.level(udp(port=9)) == PROVEN
    town.wait(20)
    assert town.budgets.level(udp(port=9)) == STRANGER
    town.charge(of.UNKNOWN, 50, udp(port=9))
    assert town.budgets.bans == 0


# --- calls and rows


def test_a_stranger_calls_our_users_ten_times_a_minute():
    town = Town()
    answers = [town.budgets.allows_call(udp(), f"user{number}@example.com") for number in range(15)]
    assert answers == [True] * 10 + [False] * 5
    town.wait(6.5)
    assert town.budgets.allows_call(udp(), "alice@example.com")


def test_a_user_gets_six_calls_a_minute_from_all_strangers():
    town = Town()
    answers = [town.budgets.allows_call(udp(f"203.0.113.{number}"), "alice@example.com") for number in range(10)]
    assert answers == [True] * 6 + [False] * 4
    assert town.budgets.allows_call(udp("203.0.113.200"), "bob@example.com")


def test_rows_of_accounting_are_bounded_for_strangers_only():
    town = Town()
    assert [town.budgets.allows_row(udp(), named=False) for _ in range(8)] == [True] * 6 + [False] * 2
    assert all(town.budgets.allows_row(udp(), named=True) for _ in range(50))
    assert town.budgets.rows_left_out == 2


# --- tables that outlive the process


def test_bans_and_known_phones_survive_a_restart():
    town = Town()
    town.budgets.right_password(udp(port=5071), ["alice@example.com"], 600)
    town.charge(of.UNKNOWN, 21, tcp())
    again = Town(memory=town.memory, now=1010.0)
    assert not again.passes(flow=udp(port=1))
    assert again.passes(flow=udp(port=5071))


def test_a_clock_that_has_run_for_months_changes_nothing():
    town = Town(now=2**32 / of.TICKS - 5.0)  # the ticks go round in five seconds
    town.charge(of.UNKNOWN, 21, tcp())
    town.wait(10)
    assert not town.passes()
    town.wait(600)
    assert town.passes()


@pytest.mark.parametrize("days", [1, 400, 775.9])
def test_a_server_that_begins_on_a_machine_up_for_long_holds_nobody(days):
    town = Town(now=days * DAY_S)
    town.budgets.right_password(udp(port=5071), ["alice@example.com"], 600)
    town.charge(of.UNANSWERED, 50)
    town.charge(of.UNKNOWN, 15)
    town.guess(5)
    assert town.budgets.held[0] == 0
    assert town.budgets.allows_call(udp(), "alice@example.com")
    town.charge(of.UNKNOWN, 20)
    assert town.passes(register("alice"), udp(port=1))


def test_a_flood_of_sources_evicts_no_ban_and_no_known_phone():
    town = Town()
    town.budgets.right_password(udp(port=5071), ["alice@example.com"], 600)
    town.charge(of.UNKNOWN, 21, tcp())
    for number in range(40_000):
        town.charge(of.UNANSWERED, 1, udp(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    assert not town.passes(flow=udp(port=1))
    assert town.passes(flow=udp(port=5071))


# --- places


def test_ipv6_counts_by_64_and_more_patiently_by_48():
    town = Town()
    town.charge(of.UNKNOWN, 21, tcp("2001:db8:1:2::7"))
    assert not town.passes(flow=udp("2001:db8:1:2:ffff::1"))
    assert town.passes(flow=udp("2001:db8:1:3::7"))
    for number in range(16, 30):
        town.charge(of.UNKNOWN, 12, tcp(f"2001:db8:1:{number:x}::7"))
    assert not town.passes(flow=udp("2001:db8:1:3::7"))


@pytest.mark.parametrize(
    ("host", "net", "wide"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("::1", "::/64", "::/48"),
    ],
)
def test_a_place_has_names_for_people(host, net, wide):
    place = Place(host)
    assert (place.net_text(), place.wide_text()) == (net, wide)


def test_ipv4_written_as_ipv6_is_the_same_place():
    assert Place("::ffff:192.0.2.7").net == Place("192.0.2.7").net


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (register("Alice"), ["alice@example.com"]),
        (register("bob", credentials=True), ["bob@example.com"]),
        (b'INVITE sip:b@d SIP/2.0\r\nf: "x" <sip:a@d>;tag=1\r\nt: <sips:b@d:5061>\r\n\r\n', ["a@d", "b@d"]),
        (b"INVITE sip:b@d SIP/2.0\r\nFROM : sip:a@d\r\n\r\n", ["a@d"]),
        (b"\x00" * 5000, []),
        (b"\nTo:" * 1000, []),
    ],
)
def test_whom_a_message_claims_to_be_of_is_seen_without_parsing_it(data, names):
    assert names_in(data) == names


# --- when more comes than can be worked off


def test_while_a_receiver_is_behind_known_phones_come_first():
    town = Town()
    phone = udp("198.51.100.1")
    town.budgets.right_password(phone, ["alice@example.com"], 600)
    town.budgets.be_busy()
    spoofed = [town.passes(register("x"), udp(f"10.0.{n >> 8}.{n & 255}")) for n in range(1000)]
    assert spoofed.count(True) == 100
    assert all(town.passes(register("alice"), phone) for _ in range(100))
    assert town.passes(register("alice"), udp("198.51.100.1", 9999))
    assert town.passes(b"BYE sip:x SIP/2.0\r\n", udp("10.0.0.1"))
    assert town.passes(b"SIP/2.0 200 OK\r\n", udp("10.0.0.1"))


def test_a_second_after_it_has_caught_up_everybody_is_equal():
    town = Town()
    town.budgets.be_busy()
    town.wait(1.1)
    assert town.budgets.held[0] == 0


@pytest.mark.parametrize("uri", [b"sip:112@example.com", b"sip:+1;x@y", b"urn:service:sos"])
def test_emergency_calls_pass_a_quiet_source_and_a_busy_receiver(uri):
    town = Town()
    town.budgets.emergency = frozenset({"112", "sos"})
    town.charge(of.UNANSWERED, 100)
    town.budgets.be_busy()
    data = b"INVITE " + uri + b" SIP/2.0\r\n"
    is_emergency = b"+1" not in uri
    assert all(town.passes(data) for _ in range(300)) is is_emergency


def test_a_source_that_goes_on_calling_though_it_is_refused_is_quiet():
    town = Town()
    for number in range(10 + 60):
        town.budgets.allows_call(udp(), f"user{number}@example.com")
    assert town.budgets.held[0] == 0
    for number in range(5):
        town.budgets.allows_call(udp(), f"user{number}@example.com")
    assert town.budgets.held[0] == 1
    assert town.budgets.bans == 0


def test_a_source_is_not_held_for_a_user_whom_everybody_calls():
    town = Town()
    for number in range(100):
        town.budgets.allows_call(udp(f"203.0.113.{number}"), "alice@example.com")
    assert town.budgets.held[0] == 0
