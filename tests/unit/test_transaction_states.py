"""The tables of RFC 3261 §17 and of the life of a request: total, and with no way back."""

from __future__ import annotations

import itertools

import pytest

from serpy.errors import UsageError
from serpy.sip.flow import Flow, Listener
from serpy.transaction import life, states
from serpy.transaction.transactions import ClientMachine, ServerMachine

INVITE_CLIENT_STATES = {states.TRYING, states.PROCEEDING, states.COMPLETED, states.ACCEPTED, states.TERMINATED}
NON_INVITE_STATES = {states.TRYING, states.PROCEEDING, states.COMPLETED, states.TERMINATED}
INVITE_SERVER_STATES = {
    states.PROCEEDING, states.COMPLETED, states.CONFIRMED, states.ACCEPTED, states.TERMINATED,
}  # fmt: skip
NOTHING = frozenset()
FLOW = Flow(Listener(0, "udp", "192.0.2.100", 5060), "192.0.2.1", 5060)

MACHINES = [
    pytest.param(
        states.INVITE_CLIENT, states.IGNORED_INVITE_CLIENT, NOTHING, INVITE_CLIENT_STATES, states.CLIENT_EVENTS,
        id="invite-client",
    ),
    pytest.param(
        states.NON_INVITE_CLIENT, states.IGNORED_NON_INVITE_CLIENT, NOTHING, NON_INVITE_STATES, states.CLIENT_EVENTS,
        id="non-invite-client",
    ),
    pytest.param(
        states.INVITE_SERVER, states.IGNORED_INVITE_SERVER, states.IMPOSSIBLE_INVITE_SERVER, INVITE_SERVER_STATES,
        states.SERVER_EVENTS, id="invite-server",
    ),
    pytest.param(
        states.NON_INVITE_SERVER, states.IGNORED_NON_INVITE_SERVER, states.IMPOSSIBLE_NON_INVITE_SERVER,
        NON_INVITE_STATES, states.SERVER_EVENTS, id="non-invite-server",
    ),
]  # fmt: skip
each_machine = pytest.mark.parametrize(("table", "ignored", "impossible", "known", "events"), MACHINES)


@each_machine
def test_every_pair_is_listed_ignored_on_purpose_or_impossible(table, ignored, impossible, known, events):
    pairs = {(state, event) for state in known for event in events}
    assert set(table) | ignored | impossible == pairs


@each_machine
def test_no_pair_is_two_of_these(table, ignored, impossible, known, events):
    assert not set(table) & ignored
    assert not set(table) & impossible
    assert not ignored & impossible


@each_machine
def test_the_flat_list_says_what_the_table_says(table, ignored, impossible, known, events):
    flat = states.flatten(table, ignored)
    for state in range(states.STATES):
        for event in range(states.EVENTS):
            code = flat[state * states.EVENTS + event]
            if (state, event) in table:
                assert (code & 7, code >> 3) == table[state, event]
            else:
                assert code == (states.IGNORED if (state, event) in ignored else states.IMPOSSIBLE)


@each_machine
def test_every_next_state_exists_and_actions_are_known_bits(table, ignored, impossible, known, events):
    for following, actions in table.values():
        assert following in known
        assert actions < 1 << len(states.ACTION_NAMES)


def test_an_event_of_the_other_side_is_an_error():
    assert not set(states.CLIENT_EVENTS) & set(states.SERVER_EVENTS)
    for invite in (True, False):
        machine = ClientMachine("z9hG4bK1", "call", invite=invite)
        with pytest.raises(UsageError, match="request received in state trying"):
            machine.step(states.RECV_REQUEST)
        server = ServerMachine("h:5060;branch=b", "call", FLOW, invite=invite)
        with pytest.raises(UsageError, match="1xx received in state"):
            server.step(states.RECV_1XX)
        assert server.state == (states.PROCEEDING if invite else states.TRYING)


def test_what_is_ignored_on_purpose_is_no_error():
    machine = ClientMachine("z9hG4bK1", "call", invite=False)
    machine.state = states.COMPLETED
    assert machine.step(states.RECV_2XX) == 0
    assert machine.state == states.COMPLETED


def test_an_ack_belongs_to_invite_alone():
    server = ServerMachine("h:5060;branch=b\nMESSAGE", "call", FLOW, invite=False)
    with pytest.raises(UsageError):
        server.step(states.RECV_ACK)


def test_every_client_state_that_waits_can_time_out():
    for table in (states.INVITE_CLIENT, states.NON_INVITE_CLIENT):
        for state in (states.TRYING, states.PROCEEDING):
            assert table[state, states.TIMER_GIVE_UP][0] == states.TERMINATED


def test_every_answered_server_state_ends_with_the_wait_timer_and_every_other_can_end_without_an_answer():
    for table, known in ((states.INVITE_SERVER, INVITE_SERVER_STATES), (states.NON_INVITE_SERVER, NON_INVITE_STATES)):
        for state in known - {states.TERMINATED}:
            if state in {states.TRYING, states.PROCEEDING}:
                following, actions = table[state, states.SEND_NOTHING]
                assert (following, states.TIMER_WAIT) in table
                assert actions == states.START_WAIT
            else:
                assert table[state, states.TIMER_WAIT] == (states.TERMINATED, states.DESTROY)


# --- life


EVENTS = (life.ENDED, life.DEADLINE)
HOLDERS = (life.FREE, life.HELD)
PROGRESS = (life.NO_BRANCH, life.OPEN, life.ALL_FINAL)
CALLERS = (life.UNANSWERED, life.ANSWERED)
EVERYTHING = list(itertools.product(EVENTS, HOLDERS, PROGRESS, CALLERS))


def test_the_life_of_a_request_is_a_total_table():
    assert set(life.LIFE) == set(EVERYTHING)
    assert sorted(sum(row) for row in EVERYTHING) == list(range(len(EVERYTHING)))
    for row in EVERYTHING:
        assert life.VERDICTS[sum(row)] == life.LIFE[row]
        assert life.LIFE[row] < len(life.VERDICT_NAMES)


def test_nothing_is_decided_while_somebody_is_at_work():
    assert {life.LIFE[life.ENDED, life.HELD, branches, caller] for branches in PROGRESS for caller in CALLERS} == {
        life.WAIT
    }


def test_the_last_deadline_never_just_waits():
    answering = {life.SEND_BEST, life.REFUSE, life.TIME_OUT}
    for event, held, branches, caller in EVERYTHING:
        if event == life.DEADLINE:
            verdict = life.LIFE[event, held, branches, caller]
            assert verdict in (answering if caller == life.UNANSWERED else {life.FINISH, life.LINGER})


def test_a_request_with_an_open_branch_is_never_forgotten_before_its_deadline():
    for held, caller in itertools.product(HOLDERS, CALLERS):
        assert life.LIFE[life.ENDED, held, life.OPEN, caller] == life.WAIT
