"""The tables of RFC 3261 §17: total, and with no way back."""

from __future__ import annotations

import pytest

from serpy.transaction import states

CLIENT_EVENTS = range(states.TRANSPORT_ERROR + 1)
INVITE_CLIENT_STATES = {states.TRYING, states.PROCEEDING, states.COMPLETED, states.ACCEPTED, states.TERMINATED}
NON_INVITE_STATES = {states.TRYING, states.PROCEEDING, states.COMPLETED, states.TERMINATED}
INVITE_SERVER_STATES = {
    states.PROCEEDING, states.COMPLETED, states.CONFIRMED, states.ACCEPTED, states.TERMINATED,
}  # fmt: skip

MACHINES = [
    pytest.param(
        states.INVITE_CLIENT, states.IGNORED_INVITE_CLIENT, INVITE_CLIENT_STATES, CLIENT_EVENTS, id="invite-client"
    ),
    pytest.param(
        states.NON_INVITE_CLIENT, states.IGNORED_NON_INVITE_CLIENT, NON_INVITE_STATES, CLIENT_EVENTS,
        id="non-invite-client",
    ),
    pytest.param(
        states.INVITE_SERVER, states.IGNORED_INVITE_SERVER, INVITE_SERVER_STATES, range(states.EVENTS),
        id="invite-server",
    ),
    pytest.param(
        states.NON_INVITE_SERVER, states.IGNORED_NON_INVITE_SERVER, NON_INVITE_STATES, range(states.EVENTS),
        id="non-invite-server",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("table", "ignored", "known", "events"), MACHINES)
def test_every_pair_is_listed_or_ignored_on_purpose(table, ignored, known, events):
    pairs = {(state, event) for state in known for event in events}
    assert set(table) | set(ignored) == pairs


@pytest.mark.parametrize(("table", "ignored", "known", "events"), MACHINES)
def test_no_pair_is_both_listed_and_ignored(table, ignored, known, events):
    assert not set(table) & set(ignored)


@pytest.mark.parametrize(("table", "ignored", "known", "events"), MACHINES)
def test_the_flat_list_says_what_the_table_says(table, ignored, known, events):
    flat = states.flatten(table)
    for state in range(states.STATES):
        for event in range(states.EVENTS):
            code = flat[state * states.EVENTS + event]
            assert ((code & 7, code >> 3) if code >= 0 else None) == table.get((state, event))


@pytest.mark.parametrize(("table", "ignored", "known", "events"), MACHINES)
def test_every_next_state_exists_and_actions_are_known_bits(table, ignored, known, events):
    for following, actions in table.values():
        assert following in known
        assert actions < 1 << len(states.ACTION_NAMES)


def test_every_client_state_that_waits_can_time_out():
    for table in (states.INVITE_CLIENT, states.NON_INVITE_CLIENT):
        for state in (states.TRYING, states.PROCEEDING):
            assert table[state, states.TIMER_GIVE_UP][0] == states.TERMINATED


def test_every_server_state_ends_with_the_wait_timer():
    for table, known in ((states.INVITE_SERVER, INVITE_SERVER_STATES), (states.NON_INVITE_SERVER, NON_INVITE_STATES)):
        for state in known - {states.TERMINATED}:
            assert table[state, states.TIMER_WAIT] == (states.TERMINATED, states.DESTROY)
