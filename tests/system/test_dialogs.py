"""The memory of calls in a running server: the parties get through whatever dies meanwhile, forgers never do."""

from __future__ import annotations

import os
import signal

import pytest
from support.dialogs import KINDS, Town, prepare
from support.patience import wait_for
from support.running import Running

from serpy import loader

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    one = Running(tmp_path_factory.mktemp("dialogs"))
    prepare(one, len(KINDS))
    one.start()
    yield one
    one.stop()


def test_parties_of_all_kinds_of_dialogs_get_through_deaths_and_restarts_and_forgers_do_not(running):
    town = Town(running, len(KINDS))
    try:
        town.all("begin")
        town.forge(20)
        for title, pid in running.children().items():
            if "udp receiver" in title:
                os.kill(pid, signal.SIGKILL)
        wait_for(running.is_answering)
        town.all("middle")
        town.forge(20)
        running.stop()
        running.start()
        town.all("late")
        town.forge(20)
        town.all("end")
        town.look()
    finally:
        town.close()
    assert town.passed_forged == []


def test_a_phone_whose_contact_is_its_users_address_is_looked_up_in_a_call(running):
    """RFC 3261 §16.4, §16.5: the Request-URI is in our domain and the only Route was ours."""
    town = Town(running, 1)
    (dialog,) = town.dialogs
    try:
        assert dialog.caller.register().status == 200
        dialog.begin()
        real = dialog.caller_contact
        dialog.caller_contact = dialog.caller.aor
        dialog.ask("UPDATE", contact=dialog.caller.aor)
        assert dialog.caller_contact != real
        dialog.ask("INFO", up=True)
        dialog.ask("BYE", up=True)
    finally:
        town.close()


def test_a_phone_that_moves_proves_who_it_is(running):
    town = Town(running, 1)
    (dialog,) = town.dialogs
    moved = running.phone("a0", host="127.0.3.3")
    try:
        dialog.begin()
        text = dialog.text("UPDATE", up=False).replace(dialog.caller.via(), moved.via())
        challenge = moved.ask(text)
        assert challenge.status == 407
        uri = dialog.legs[0].contact
        proof = moved.authorization(challenge, "UPDATE", uri)
        moved.send(dialog.text("UPDATE", up=False, headers=(proof,), contact=moved.contact))
        update = dialog.callee.hear(dialog.call_id, "UPDATE")
        assert not update.get("Proxy-Authorization")
        dialog._answer(dialog.callee, update, 200)
        assert moved.final().status == 200
        dialog.callee.send(dialog.text("BYE", up=True, uri=moved.contact))
        assert moved.expect("BYE").get("Call-ID") == dialog.call_id
    finally:
        moved.close()
        town.close()


@pytest.mark.parametrize(
    "method", ["PRACK", "UPDATE", "INFO", "INVITE", "BYE", "MESSAGE", "NOTIFY", "REFER", "OPTIONS"]
)
def test_a_phone_that_has_moved_is_asked_who_it_is_whatever_it_wants(running, method):
    """RFC 3261 section 22.1: only ACK and CANCEL cannot be challenged."""
    town = Town(running, 1)
    (dialog,) = town.dialogs
    moved = running.phone("a0", host="127.0.3.3")
    try:
        dialog.begin()
        text = dialog.text(method, up=False).replace(dialog.caller.via(), moved.via())
        challenge = moved.ask(text)
        assert challenge.status == 407
        proof = moved.authorization(challenge, method, dialog.legs[0].contact)
        moved.send(dialog.text(method, up=False, headers=(proof,), contact=moved.contact, cseq=dialog.cseq + 1))
        dialog.callee.hear(dialog.call_id, method)
    finally:
        moved.close()
        town.close()


@pytest.mark.parametrize("method", ["BYE", "PRACK", "UPDATE"])
def test_what_means_nothing_without_a_dialog_is_told_so(running, method):
    phone = running.phone("mallory")
    assert phone.ask(phone.request(method, "sip:b0@example.com", from_="sip:x@example.org")).status == 481
    phone.close()


def test_calls_are_listed_shown_limited_and_timed(running):
    town = Town(running, 1)
    (dialog,) = town.dialogs
    try:
        running.ctl("attrs", "set", "a0@example.com", "call_limit=1")
        before = len(_durations(running))
        dialog.begin()
        row = running.json("calls", "list", dialog.call_id)[0]
        assert (row["state"], row["caller"], row["callee"]) == ("answered", dialog.caller.aor, dialog.callee.aor)
        (shown,) = running.json("calls", "show", row["id"])
        # Where earlier phones of the callee were has been asked as well.
        assert ([leg for leg in shown["legs"] if leg != "asked"], shown["named"]) == (["answered"], 1)
        assert running.ctl("calls", "show", "nothing", check=False).returncode == 1
        second = running.phone("a0")
        assert second.invite(dialog.callee.aor)[1].status == 486
        dialog.ask("BYE")
        assert second.invite("sip:nobody@example.com")[1].status == 404
        second.close()
        wait_for(lambda: len(_durations(running)) > before)
        assert _durations(running)[-1] in range(600)
    finally:
        town.close()


def _durations(running):
    database = loader.open_database(running.defines["DB_URL"])
    try:
        return [row[0] for row in database.select("acc", ("duration",), {"sip_method": "BYE"})]
    finally:
        database.close()
