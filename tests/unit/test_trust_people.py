"""What administrators see of the budgets, and do to them: RPCs, modules trust and pike, metrics."""

from __future__ import annotations

import pytest
from support.contexts import context, function, request_text
from support.receiver import Bench, names, request

from serpy.api import BUDGETS, CHARGES, Authenticated, Server
from serpy.clock import Clock
from serpy.config import KINDS, Settings
from serpy.errors import UsageError
from serpy.loader import load_module
from serpy.modules import pike, trust, xlog
from serpy.rpc import metrics
from serpy.script.builtins import LogLine, log_text
from serpy.script.compile import compile_script
from serpy.script.environment import Environment
from serpy.shm.counters import Counters
from serpy.shm.segment import Segment
from serpy.sip.flow import Flow, Listener
from serpy.trust import limits as of
from serpy.trust.budgets import Budgets
from serpy.trust.charges import Charges
from serpy.trust.counters import PublishedBudgets, declare_counters
from serpy.trust.limits import Limits
from serpy.trust.people import BudgetsForPeople

HOST = "203.0.113.7"
TCP = Listener(1, "tcp", "192.0.2.100", 5060)


def made(size="office", **more):
    limits = Limits(size)
    budgets = Budgets(memoryview(bytearray(Budgets.size(limits))), limits, 5, **more)
    budgets.holds_sources = True
    return budgets


@pytest.fixture
def budgets():
    return made()


@pytest.fixture
def people(budgets):
    return BudgetsForPeople(budgets, Clock(1000.0, 1.7e9))


def tcp(host=HOST):
    return Flow(TCP, host, 40000, 7)


def test_a_ban_says_who_why_and_for_how_long(budgets, people):
    for _ in range(21):
        budgets.charge(tcp(), of.UNKNOWN)
    assert people.bans() == [
        {"who": HOST, "state": "banned", "why": "unknown", "left_s": 600, "offences": 1, "events": 21, "dropped": 0}
    ]
    why = people.why(HOST)
    assert why["proven"] is True
    assert why["last"][0] == "unknown 0 s ago"


def test_a_lifted_ban_is_over_at_once_with_its_offences(budgets, people):
    for _ in range(21):
        budgets.charge(tcp(), of.UNKNOWN)
    people.lift(HOST)
    assert people.bans() == []
    assert budgets.admits(b"", tcp())


def test_a_ban_by_hand(budgets, people):
    people.add(HOST, 60)
    assert people.bans()[0]["why"] == "by-hand"
    assert not budgets.admits(b"", tcp())
    people.lift(HOST)
    people.add("2001:db8:1:2::7")
    assert people.bans()[0]["who"] == "2001:db8:1:2::/64"
    assert people.why("2001:db8:1:2::99")["state"] == "banned"


@pytest.mark.parametrize("network", ["10.0.0.0/8", "192.0.2.7/24", "2001:db8::/32"])
def test_a_network_is_not_banned_as_if_it_were_an_address(people, network):
    with pytest.raises(UsageError, match="networks are for the firewall"):
        people.add(network)


@pytest.mark.parametrize("asked", [HOST, "alice@example.com", "Alice@Example.com"])
def test_a_user_who_is_silent_is_found_and_freed_by_address_and_name(budgets, people, asked):
    for _ in range(11):
        budgets.wrong_password(tcp(), "alice@example.com")
    assert people.why(asked)["state"] == "quiet"
    assert "alice@example.com from" in people.lift(asked)
    assert people.bans() == []


@pytest.mark.parametrize("seconds", [0, -1, 172801])
def test_a_ban_by_hand_is_bounded(people, seconds):
    with pytest.raises(UsageError):
        people.add(HOST, seconds)


@pytest.mark.parametrize("text", ["", "bob", "192.0.2", "192.0.2.7; rm"])
def test_what_is_no_address_is_a_clear_error(people, text):
    for ask in (people.why, people.lift, people.add):
        with pytest.raises(UsageError):
            ask(text)


def test_what_happens_to_a_user_is_listed(budgets, people):
    for number in range(3):
        budgets.wrong_password(tcp(f"203.0.{number}.7"), "alice@example.com")
    shown = {row["who"]: row["events"] for row in people.user("Alice@example.com")}
    assert shown == {
        "alice@example.com from 203.0.0.0/24": 1, "alice@example.com from 203.0.1.0/24": 1,
        "alice@example.com from 203.0.2.0/24": 1, "alice@example.com from elsewhere": 3,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["alice", "@example.com", "alice@", "203.0.113.7", ""])
def test_a_user_without_a_domain_is_told_how_users_are_written(people, text):
    with pytest.raises(UsageError, match="user@domain"):
        people.user(text)


def test_names_of_strangers_obey_no_terminal(budgets, people):
    for _ in range(11):
        budgets.wrong_password(tcp(), "a\x1b[2J@example.com")
    assert all("\x1b" not in str(row["who"]) for row in people.bans())


def test_counters_are_a_family_with_a_label_in_the_metrics(budgets):
    counters = Counters(Segment(1 << 20), 1)
    declare_counters(counters)
    counters.attach(0)
    budgets.clock = Clock(1000.0, 1.7e9)
    published = PublishedBudgets(counters, budgets)
    for _ in range(3):
        budgets.charge(tcp(), of.MALFORMED)
    published.publish()
    lines = metrics.render(counters).split("\n")
    assert 'serpy_trust_events_total{reason="malformed"} 3' in lines
    assert sum(line.startswith("# TYPE serpy_trust_events_total ") for line in lines) == 1


# --- modules


def loaded(module, budgets, **params):
    server = Server(Settings())
    server.provide(BUDGETS, budgets)
    server.provide(CHARGES, Charges(budgets))
    budgets.clock = Clock(1000.0, 1.7e9)
    exports = module.exports()
    for name, value in params.items():
        setattr(exports.module, name, value)
    exports.init(server)
    return lambda name: function(exports, name)


def test_trust_level_says_how_far_the_sender_is_believed(budgets):
    level = loaded(trust, budgets)("trust_level")
    ctx = context(request_text())
    assert level(ctx) == -1
    assert level(context(request_text(), flow=tcp())) == 1
    budgets.right_password(ctx.flow, ["alice@example.com"], 60)
    assert level(ctx) == 2
    ctx.authenticated = Authenticated("alice", "example.com")
    assert level(ctx) == 3


def test_the_gateway_of_the_global_attributes_is_named(budgets):
    level = loaded(trust, budgets)("trust_level")
    ctx = context(request_text())
    ctx.avps.set(6, "gw_ip", ctx.flow.host)
    assert level(ctx) == 3


def test_trust_allows_ten_calls_and_trust_charge_makes_quiet(budgets):
    find = loaded(trust, budgets)
    answers = [find("trust_allows")(context(request_text(uri=f"sip:u{n}@d")), "call") for n in range(12)]
    assert answers == [1] * 10 + [-1] * 2
    for _ in range(25):
        find("trust_charge")(context(request_text()), "unknown")
    assert find("trust_allows")(context(request_text()), "unknown") == -1
    assert budgets.held[0] == 1


def test_emergency_calls_are_never_counted(budgets):
    allows = loaded(trust, budgets, emergency="112")("trust_allows")
    assert all(allows(context(request_text(uri="sip:112@d")), "call") == 1 for _ in range(50))


def test_pike_blocks_a_source_that_is_too_fast_and_no_phone_that_is_known(budgets):
    check = loaded(pike, budgets, reqs_density_per_unit=5, sampling_time_unit=2)("pike_check_req")
    ctx = context(request_text())
    assert [check(ctx) for _ in range(7)] == [1] * 5 + [-1] * 2
    budgets.right_password(ctx.flow, ["alice@example.com"], 60)
    assert all(check(ctx) == 1 for _ in range(50))


def test_pike_lists_whom_it_has_counted(budgets, people):
    check = loaded(pike, budgets)("pike_check_req")
    check(context(request_text()))
    assert [row["who"] for row in people.pike()] == [HOST]


# --- accounting rows are counted in acc_db; here: what is allowed


def test_a_bench_without_budgets_limits_nothing():
    bench = Bench(main=lambda bench, ctx: bench.sl.sl_reply(ctx, 404, "x"))
    assert all(names(bench.receive(request("OPTIONS", call_id=f"c{n}", branch=f"z9hG4bK{n}"))) for n in range(200))


# --- lines of scripts


def test_strangers_write_a_hundred_lines_in_ten_seconds_and_others_as_many_as_they_like(budgets, caplog):
    server = Server(Settings())
    charges = Charges(budgets)
    budgets.clock = Clock(1000.0, 1.7e9)
    server.provide(CHARGES, charges)
    exports = xlog.exports()
    exports.init(server)
    write = function(exports, "xlog")
    for _ in range(150):
        write(context(request_text(), now=1000.0), "L_ERR", "hello")
    assert len(caplog.records) == 100
    budgets.right_password(tcp("198.51.100.1"), ["alice@example.com"], 60)
    for _ in range(50):
        write(context(request_text(), flow=tcp("198.51.100.1"), now=1000.0), "L_ERR", "mine")
    assert sum("mine" in record.getMessage() for record in caplog.records) == 50
    write(context(request_text(), now=1011.0), "L_ERR", "again")
    assert [record.getMessage() for record in caplog.records][-2:] == [
        "<script>: 50 more lines about strangers", "<script>: again",
    ]  # fmt: skip


def test_one_log_of_a_script_writes_a_hundred_lines_in_ten_seconds(caplog):
    line = LogLine("flooded on purpose\n")
    for _ in range(150):
        log_text(context(request_text(), now=5000.0), line)
    assert len(caplog.records) == 100
    log_text(context(request_text(), now=5011.0), line)
    assert caplog.records[-1].getMessage() == "<script>: flooded on purpose (50 more like this)"


def test_log_in_a_script_writes_its_text_at_its_level(tmp_path, caplog):
    caplog.set_level(10, logger="serpy.script")
    file = tmp_path / "x.conf"
    file.write_text('route { log("one"); log(1, "two\\n"); }\n')
    program = compile_script(str(file), {}, Environment(load_module, KINDS))
    program.run(context(request_text()), 1, "")
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert found == [("WARNING", "<script>: one"), ("INFO", "<script>: two")]
