"""Pipeline, script, store and tables together, under parks, kills, refusals and steps of the clock.

Phones register, call, cancel and repeat; the database, the store and the name servers are slow, silent, down or refuse;
the store is killed; sending fails; only so many handlers may wait; the wall clock jumps. Whatever happens:

- nobody gets two different final answers, and everybody gets one;
- nothing stays: no transaction, no parked handler, no ticket, no queue, no row that waits for its answer;
- what was acknowledged is there: the binding of every 200 is in the database when it leaves, and at the end in the table.
"""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.simulation import STEP_S, Simulation

CONFIG = """
use_dns_failover = 1
flags ACC : 1;
loadmodule "sl"
loadmodule "tm"
loadmodule "usrloc"
loadmodule "registrar"
modparam("usrloc", "db_url", DB_URL)
modparam("usrloc", "db_mode", 1)
loadmodule "acc_db"
modparam("acc_db", "db_url", ACCOUNTING_URL)
modparam("acc_db", "log_flag", "ACC")
modparam("acc_db", "failed_transactions", 1)

route {
    if (method == "INVITE") {
        setflag(ACC);
    }
    if (method != "ACK" && method != "CANCEL") {
        t_newtran();  # so that a repetition is answered from memory
    }
    if (method == "REGISTER") {
        $tu.uid = @to.uri.user;
        save_contacts("location");
        exit;
    }
    if (method == "CANCEL") {
        if (!t_relay_cancel()) {
            sl_reply("500", "Internal Server Error");
            exit;
        }
        sl_reply("481", "No Such Call");
        exit;
    }
    if (method == "ACK") {
        t_relay();
        exit;
    }
    t_on_failure("AGAIN");
    if (@ruri.host == "example.com") {
        $tu.uid = @ruri.user;
        if (!lookup_contacts("location")) {
            sl_reply("480", "Nobody There");
            exit;
        }
    }
    if (!t_relay()) {
        sl_reply_error();
    }
}

failure_route[AGAIN] {
    if (t_check_status("486|503")) {
        t_on_failure("AGAIN");  # for ever, if the server lets it
        seturi("sip:mail@voicemail.example.net");
        t_relay();
    }
}
"""
USERS = ["alice", "bob", "carol"]
SLOW = [0.0, 0.0, 0.3, 1.0, 3.0, float("inf")]
REGISTER_LIVES_S = 1800
T1 = 0.5
ANSWERED_S = 25.0  # in less than timer F
MOST_TRIES = 12 * 12 * 8  # MAX_BRANCHES, two addresses, repeated as often as timer A has it
FORGOTTEN_S = 500.0  # more than any timer of a transaction that is left alone
LONG_ENOUGH_S = 36.0  # a client gives up after 32 s (timer B, F) and does not repeat any more


class Asked:
    """One request of a client, its repetitions, and what it was answered."""

    def __init__(self, method, text, host, user, begun):
        self.method = method
        self.text = text
        self.host = host
        self.user = user
        self.begun = begun
        self.finals = []  # different ones, in order


class Everything(RuleBasedStateMachine):
    """One receiver and the world around it."""

    path = ""

    def __init__(self):
        super().__init__()
        self.faults = []
        self.asked = {}  # branch -> Asked
        self.at_phones = {}  # branch of ours -> (request, host, port) that may be answered
        self.answered = {}  # branch of ours -> the highest status it was answered
        self.final_at = {}  # branch of ours -> when it was answered for good
        self.left_at = {}  # branch of ours -> when it left last
        self.tries = {}  # Call-ID -> INVITEs that have left or were to leave
        self.unreachable = set()
        self.bound = {}  # user -> what its last acknowledged REGISTER says: the contact, "" for none
        self.unsure = set()  # users whose last REGISTER was refused
        self.numbers = 0
        self.simulation = None

    @initialize(max_parked=st.sampled_from([2, 5, 1000]))
    def start(self, max_parked):
        self.simulation = Simulation(self.path, max_parked=max_parked, sent=self.leaves)

    def teardown(self):
        if self.simulation is None:
            return
        try:
            self.everything_ends()
        finally:
            self.simulation.close()

    # ---- what leaves the server

    def leaves(self, text, host, port):
        first = text.split(" ", 2)
        if first[0] == "INVITE":
            self.tries[line(text, "Call-ID")] = self.tries.get(line(text, "Call-ID"), 0) + 1
            if self.tries[line(text, "Call-ID")] > MOST_TRIES:
                raise AssertionError(f"{self.tries} INVITEs")
        if host in self.unreachable and first[0] != "SIP/2.0":
            return False
        if first[0] == "SIP/2.0":
            self.answer(text, int(first[1]))
        elif first[0] == "CANCEL":
            self.cancelled(text, host, port)
        elif first[0] != "ACK":
            self.at_phones.setdefault(branch_of(text), (text, host, port))
            self.in_time(first[0], branch_of(text), self.simulation.now)
        return True

    def in_time(self, method, branch, now):
        """Requests are repeated T1 after they have left, not earlier (RFC 3261 §17.1.1.2)."""
        if now - self.left_at.get(branch, -10.0) < T1 - STEP_S - 0.01:
            self.faults.append(f"{method} leaves {now - self.left_at[branch]:.1f} s after it has left")
        self.left_at[branch] = now

    def answer(self, text, status):
        asked = self.asked.get(branch_of(text))
        if asked is None or asked.method != line(text, "CSeq").split()[1] or status < 200:
            return
        if asked.method == "INVITE" and status >= 300:
            self.simulation.deliver(request("ACK", asked, to=line(text, "To")), asked.host)
        if (status, line(text, "To")) in asked.finals:
            return
        if asked.finals and not (asked.method == "INVITE" and 200 <= status < 300):
            self.faults.append(f"{asked.method} of {asked.user} got {asked.finals} and then {status}")
        asked.finals.append((status, line(text, "To")))
        if asked.method == "REGISTER":
            self.registered(asked, status)

    def registered(self, asked, status):
        contact = contact_of(asked)
        if status != 200:
            # What was acknowledged before still counts. On disk it may be otherwise: the row may have come too late for
            # the answer and in time for the database.
            self.unsure.add(asked.user)
            return
        self.unsure.discard(asked.user)
        wanted = "" if "Expires: 0" in asked.text else contact
        on_disk = self.simulation.database.contacts(asked.user)
        if wanted and wanted not in on_disk:
            self.faults.append(f"{asked.user} was told 200, and {wanted} is not in the database but {on_disk}")
        if not wanted and contact in on_disk:
            self.faults.append(f"{asked.user} was told that {contact} is gone, and it is in the database")
        self.bound[asked.user] = wanted

    def cancelled(self, text, host, port):
        """A phone answers CANCEL, and the INVITE if it has not yet."""
        self.simulation.deliver(response(text, 200), host, port)
        branch = branch_of(text)
        if branch in self.at_phones and self.answered.get(branch, 0) < 200:
            self.reply(branch, 487)

    def reply(self, branch, status):
        text, host, port = self.at_phones[branch]
        self.answered[branch] = max(status, self.answered.get(branch, 0))
        if status >= 200:
            self.final_at.setdefault(branch, self.simulation.now)
        self.simulation.deliver(response(text, status), host, port)

    # ---- what clients do

    def ask(self, method, user, uri, *, to="", extra=(), call_id=""):
        self.numbers += 1
        host = f"192.0.2.{USERS.index(user) + 1}"
        asked = Asked(method, "", host, user, self.simulation.now)
        branch = f"z9hG4bK{self.numbers}"
        asked.text = message(
            f"{method} {uri} SIP/2.0", f"Via: SIP/2.0/UDP {host}:5060;branch={branch}", "Max-Forwards: 70",
            f"From: <sip:{user}@example.com>;tag=f{self.numbers}", f"To: <{to or uri}>",
            f"Call-ID: {call_id or f'call-{self.numbers}'}", f"CSeq: {self.numbers} {method}",
            f"Contact: <sip:{user}@{host}:5060>", *extra,
        )  # fmt: skip
        self.asked[branch] = asked
        self.simulation.deliver(asked.text, host)

    @rule(user=st.sampled_from(USERS), gone=st.sampled_from([False, False, True]))
    def a_phone_registers(self, user, gone):
        if any(asked.method == "REGISTER" and asked.user == user and not asked.finals for asked in self.asked.values()):
            return  # a phone waits for its answer (RFC 3261 §10.2)
        expires = 0 if gone else REGISTER_LIVES_S
        self.ask(
            "REGISTER", user, "sip:example.com", to=f"sip:{user}@example.com", extra=(f"Expires: {expires}",),
            call_id=f"registration-{user}",
        )  # fmt: skip

    @rule(
        user=st.sampled_from(USERS),
        callee=st.sampled_from(USERS),
        method=st.sampled_from(["INVITE", "INVITE", "MESSAGE"]),
        where=st.sampled_from(["example.com", "example.com", "elsewhere.example.net"]),
    )
    def a_phone_calls(self, user, callee, method, where):
        self.ask(method, user, f"sip:{callee}@{where}")

    @precondition(lambda self: self.asked)
    @rule(back=st.integers(0, 10), what=st.sampled_from(["again", "again", "CANCEL"]))
    def a_client_goes_on(self, back, what):
        asked = list(self.asked.values())[-1 - back % len(self.asked)]
        if asked.finals or self.simulation.now > asked.begun + LONG_ENOUGH_S:
            return
        if what == "again":
            self.simulation.deliver(asked.text, asked.host)
        elif asked.method == "INVITE":
            self.simulation.deliver(request("CANCEL", asked), asked.host)

    @precondition(lambda self: self.at_phones)
    @rule(back=st.integers(0, 10), status=st.sampled_from([100, 180, 200, 200, 302, 404, 486, 486, 503, 603]))
    def a_phone_answers(self, back, status):
        branch = list(self.at_phones)[-1 - back % len(self.at_phones)]
        if self.answered.get(branch, 0) < 200:
            self.reply(branch, status)

    # ---- what time and chance do

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.1, 0.5, 1.0, 4.0, 9.0, 40.0]))
    def time_passes(self, seconds):
        self.simulation.settle()
        self.simulation.advance(seconds)

    @rule(what=st.sampled_from(["database_s", "dns_s", "store_s", "script_s"]), seconds=st.sampled_from(SLOW))
    def something_takes_its_time(self, what, seconds):
        setattr(self.simulation, what, seconds)

    @rule(
        which=st.sampled_from(["database", "accounting"]),
        what=st.sampled_from(["down", "refusing"]),
        value=st.booleans(),
    )
    def a_database_answers_otherwise(self, which, what, value):
        setattr(getattr(self.simulation, which), what, value)

    @rule()
    def the_store_is_killed(self):
        self.simulation.kill_store()

    @rule(host=st.sampled_from(["192.0.2.2", "192.0.2.3", "198.51.100.1", "198.51.100.2"]), is_gone=st.booleans())
    def sending_is_refused(self, host, is_gone):
        (self.unreachable.add if is_gone else self.unreachable.discard)(host)

    @rule(seconds=st.sampled_from([-30.0, -1.0, 1.0, 30.0]))
    def the_wall_clock_jumps(self, seconds):
        self.simulation.wall += seconds

    # ---- what must hold

    @invariant()
    def nothing_went_wrong(self):
        if self.simulation is not None:
            assert not self.simulation.bugs, self.simulation.bugs
        assert not self.faults, self.faults

    def everything_ends(self):
        """The world comes to rest: all parts work again, phones are silent, clients repeat until they give up."""
        simulation = self.simulation
        self.nothing_went_wrong()
        for database in (simulation.database, simulation.accounting):
            database.down = database.refusing = False
        simulation.database_s = simulation.dns_s = simulation.store_s = simulation.script_s = 0.0
        self.unreachable.clear()
        simulation.settle()
        for _ in range(8):  # as timer E has it: at most T2 apart
            simulation.advance(4.0)
            for asked in self.asked.values():
                if not asked.finals and simulation.now < asked.begun + LONG_ENOUGH_S:
                    simulation.deliver(asked.text, asked.host)
        simulation.advance(FORGOTTEN_S, step_s=0.5)
        self.nothing_went_wrong()
        unanswered = [(asked.method, asked.user) for asked in self.asked.values() if self.is_owed(asked)]
        assert not unanswered, f"nobody answers {unanswered}"
        assert simulation.leftovers() == {}
        for user, contact in self.bound.items():
            if contact:
                assert user in self.unsure or contact in simulation.database.contacts(user), f"{contact}: no row"
                assert contact in self.in_table(user), f"{contact} is not in the table"

        self.is_accounted()

    def is_accounted(self):
        """Each call has its row once, whatever happened to the store and the database on the way."""
        rows = [row["sip_callid"] for row in self.simulation.accounting.tables.get("acc", {}).values()]
        assert len(rows) == len(set(rows)), f"doubled: {sorted(rows)}"
        if not self.simulation.accounting.was_refusing:
            calls = {
                line(asked.text, "Call-ID")
                for asked in self.asked.values()
                if asked.method == "INVITE" and asked.finals[0][0] not in (500, 503)
            }
            assert calls <= set(rows), f"not accounted: {calls - set(rows)}"

    def is_owed(self, asked):
        """True when *asked* has no answer and should: no 408 is sent to what is no INVITE (RFC 4320 §4.2)."""
        if asked.finals:
            return False
        call_id = line(asked.text, "Call-ID")
        silent = [
            branch
            for branch, (text, _, _) in self.at_phones.items()
            if line(text, "Call-ID") == call_id and not self.final_at.get(branch, 1e9) < asked.begun + ANSWERED_S
        ]
        return asked.method != "MESSAGE" or not silent

    def in_table(self, user):
        location = self.simulation.server.exports["usrloc"].module.location
        return {binding.contact for binding in location.table.read(location._key("location", user), user)[0]}


def line(text, name):
    found = re.search(rf"^{name}: *(.*?)\r$", text, re.MULTILINE)
    return found[1] if found else ""


def branch_of(text):
    return re.search(r"branch=([^;\s,]+)", text)[1]


def contact_of(asked):
    return line(asked.text, "Contact").strip("<>")


def message(first, *lines):
    return "\r\n".join([first, *lines, "Content-Length: 0", "", ""])


def request(method, asked, to=""):
    """ACK or CANCEL of *asked*."""
    lines = asked.text.split("\r\n")
    keep = [each for each in lines[1:] if each.startswith(("Via", "From", "Call-ID", "Max"))]
    number = line(asked.text, "CSeq").split()[0]
    return message(
        f"{method} {lines[0].split()[1]} SIP/2.0",
        *keep,
        f"To: {to or line(asked.text, 'To')}",
        f"CSeq: {number} {method}",
    )


def response(text, status):
    """What a phone says to the request *text*."""
    keep = [each for each in text.split("\r\n")[1:] if each.startswith(("Via", "From", "Call-ID", "CSeq"))]
    tag = "" if status == 100 or ";tag=" in line(text, "To") else f";tag=t{branch_of(text)[-6:]}"
    return message(f"SIP/2.0 {status} Reason", *keep, f"To: {line(text, 'To')}{tag}")


@pytest.mark.timeout(900)  # a failure is made small, which takes longer than finding it
def test_whatever_happens_everybody_gets_one_answer_and_nothing_stays(tmp_path):
    path = tmp_path / "serpy.conf"
    path.write_text(CONFIG)
    machine = type("AtPath", (Everything,), {"path": str(path)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )  # fmt: skip
