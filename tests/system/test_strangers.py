"""Strangers at a running server: who guesses is held, phones behind the same address are not, and people see why."""

from __future__ import annotations

import pytest
from support.running import Running, wait_for

pytestmark = pytest.mark.system


@pytest.fixture
def server(tmp_path):
    running = Running(tmp_path).prepare("alice", "bob").start()
    yield running
    running.stop()


def dropped(server):
    return sum(count for name, count in server.json("stats").items() if name.startswith("trust.dropped_total"))


def answer_or_silence(server, phone, text):
    """The answer to *text*, None when it was dropped unread."""
    before, answers = dropped(server), []

    def is_over():
        answer = phone.receive(0.2)
        if answer is not None:
            answers.append(answer)
        return bool(answers) or dropped(server) > before

    phone.send(text)
    wait_for(is_over)
    return answers[0] if answers else None


def guess(server, user):
    """The status of a REGISTER with a wrong password, 0 for silence."""
    phone = server.phone(user, password="wrong")
    uri = f"sip:{phone.domain}"
    answer = answer_or_silence(server, phone, phone.request("REGISTER", uri, to=f"<{phone.aor}>"))
    if answer is not None:
        line = phone.authorization(answer, "REGISTER", uri)
        text = phone.request("REGISTER", uri, to=f"<{phone.aor}>", headers=(line,))
        answer = answer_or_silence(server, phone, text)
    phone.close()
    return answer.status if answer else 0


def test_guessing_is_silenced_bans_survive_a_restart_and_the_own_phone_goes_on(server):
    own = server.phone("alice")
    assert own.register().status == 200
    assert [guess(server, "alice") for _ in range(12)][-1] == 0
    assert own.register().status == 200
    assert [row["who"] for row in server.json("ban", "list")] == ["alice@example.com from 127.0.0.0/24"]
    shown = server.json("trust", "show", "alice@example.com")
    assert {row["state"] for row in shown} >= {"quiet"}
    server.stop()
    server.start()
    assert guess(server, "alice") == 0
    assert own.register().status == 200
    assert server.ctl("ban", "lift", "alice@example.com from 127.0.0.0/24").stdout
    assert guess(server, "alice") == 401
    assert server.json("ban", "list") == []


def test_an_address_banned_by_hand_is_silent_but_for_the_phones_known_there(server):
    own = server.phone("bob")
    assert own.register().status == 200
    server.ctl("ban", "add", "127.0.0.1", "600")
    stranger = server.phone("nobody")
    assert answer_or_silence(server, stranger, stranger.request("OPTIONS", f"sip:127.0.0.1:{server.port}")) is None
    assert own.register().status == 200
    why = server.json("ban", "why", "127.0.0.1")
    assert (why["state"], why["why"]) == ("banned", "by-hand")
    assert why["dropped"] == 1
    assert server.ctl("ban", "why", "192.0.2.1", check=False).returncode == 1
