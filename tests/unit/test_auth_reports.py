"""What is told of credentials: to those who listen, to the counters, to the log."""

import logging
import time

import pytest
from support.contexts import LISTENER
from support.credentials import NOW, REALM, Setup, credentials, register
from support.identity import Identity

from serpy.api import Flow
from serpy.context import authenticated
from serpy.modules.auth.reports import COUNTERS

OTHER_FLOW = Flow(LISTENER, "198.51.100.9", 5062)
ALICE = f"alice@{REALM}"

CASES = [
    pytest.param(lambda setup: register(credentials(setup.nonce())), ALICE, "ok", "auth.ok", id="ok"),
    pytest.param(lambda _setup: register(), "", "no-credentials", "auth.challenged", id="none"),
    pytest.param(
        lambda setup: register(credentials(setup.nonce(), password="x")), ALICE, "wrong-password", "auth.wrong_password",
        id="wrong-password",
    ),
    pytest.param(
        lambda setup: register(credentials(setup.nonce(), user="nobody@there")), f"nobody@{REALM}", "unknown-user",
        "auth.unknown_user", id="unknown-user",
    ),
    pytest.param(lambda _setup: register(credentials("A" * 28)), ALICE, "bad-nonce", "auth.bad_nonce", id="bad-nonce"),
    pytest.param(
        lambda setup: register(credentials(setup.nonce()), flow=OTHER_FLOW), ALICE, "other-network", "auth.other_network",
        id="other-network",
    ),
    pytest.param(
        lambda setup: register(credentials(setup.nonce(wall_now=NOW - 400))), ALICE, "stale", "auth.stale", id="stale"
    ),
    pytest.param(
        lambda setup: register(credentials(setup.nonce(wall_now=NOW - 400), password="x")), ALICE, "wrong-password",
        "auth.wrong_password", id="a-guess-with-an-old-nonce-is-a-guess",
    ),
    pytest.param(
        lambda setup: register(credentials(setup.nonce(), uri="sip:x.example")), ALICE, "other-uri", "auth.other_uri",
        id="other-uri",
    ),
    pytest.param(lambda _setup: register("Authorization: Digest"), "", "malformed", "auth.malformed", id="malformed"),
]  # fmt: skip


@pytest.fixture
def setup(tmp_path):
    return Setup(Identity(tmp_path))


def listening(setup):
    told = []
    setup.identity.server.hooks.on_credentials.append(lambda ctx, who, outcome: told.append((ctx, who, outcome)))
    return told


def counted(setup):
    return {
        name: value
        for name, value in setup.identity.server.counters.snapshot().items()
        if name[:5] == "auth." and value
    }


@pytest.mark.parametrize(("make", "who", "outcome", "counter"), CASES)
def test_each_outcome_is_told_once_and_counted(setup, make, who, outcome, counter):
    told = listening(setup)
    ctx = make(setup)
    setup.call(ctx)
    assert told == [(ctx, who, outcome)]
    assert counted(setup) == {counter: 1}


def test_a_second_use_is_told_as_one(setup):
    line = credentials(setup.nonce())
    setup.call(register(line))
    told = listening(setup)
    setup.call(register(line))
    assert [outcome for _, _, outcome in told] == ["replay"]
    assert counted(setup) == {"auth.ok": 1, "auth.replay": 1}


def test_a_dead_database_is_nobodys_fault(setup):
    told = listening(setup)
    setup.identity.broken = True
    assert setup.call(register(credentials(setup.nonce()))) == -2
    assert [outcome for _, _, outcome in told] == ["error"]


def test_what_cannot_be_challenged_is_no_check(setup):
    told = listening(setup)
    assert setup.call(register(method="ACK")) == 1
    assert told == []


def test_every_outcome_has_a_counter():

    assert {outcome for outcome, _, _ in COUNTERS} == set(authenticated.OUTCOMES)


def test_the_log_says_who_failed_from_where_and_why(setup, caplog):
    caplog.set_level(logging.INFO, "serpy.modules.auth")
    setup.call(register(credentials(setup.nonce(), password="x"), "User-Agent: phone/1.0"))
    assert caplog.messages == [
        "REGISTER of alice in realm example.com from udp:203.0.113.7:5062 refused: wrong password (phone/1.0)"
    ]


def test_a_thousand_guesses_of_a_second_are_a_line(setup, caplog, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    caplog.set_level(logging.INFO, "serpy.modules.auth")
    for number in range(1000):
        setup.call(register(credentials(setup.nonce(), user=f"u{number}", password="x")))
    assert len(caplog.messages) == 1
    assert counted(setup) == {"auth.unknown_user": 1000}


def test_names_of_strangers_are_printable_and_short_in_the_log(setup, caplog):
    caplog.set_level(logging.INFO, "serpy.modules.auth")
    setup.call(register(credentials(setup.nonce(), user="\x1b[2J" + "x" * 500), "User-Agent: \x1b]0;x"))
    assert "\x1b" not in caplog.text
    assert len(caplog.messages[0]) < 400


@pytest.mark.parametrize("outcome", ["ok", "stale", "none"])
def test_everyday_outcomes_are_no_lines(setup, caplog, outcome):
    caplog.set_level(logging.DEBUG, "serpy.modules.auth")
    line = credentials(setup.nonce(wall_now=NOW - 400 if outcome == "stale" else NOW))
    setup.call(register(*([] if outcome == "none" else [line])))
    assert caplog.messages == []
