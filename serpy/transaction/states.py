"""The four transaction machines of RFC 3261 §17 as data, one table under each figure number.

States, events and actions are ``Final`` ints and not Enums: a step happens several times per message, and compiled
code indexes a flat list by ``state * EVENTS + event`` far faster than it hashes a pair of Enum members. The tables
stay readable dicts, ``flatten`` turns each into its list once. A pair is listed, ignored on purpose, or impossible:
then ``step`` raises, because somebody has mixed something up.

D, K and M have no event: when they end nothing happens but that the transaction is forgotten.

Runs in: udp receiver. Locks: none. RFC: 3261 §17, 6026.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import UsageError

# States. CALLING of Figure 5 and TRYING of Figures 6 and 8 are the same number.
TRYING: Final = 0
PROCEEDING: Final = 1
COMPLETED: Final = 2
CONFIRMED: Final = 3
ACCEPTED: Final = 4  # RFC 6026
TERMINATED: Final = 5
STATES: Final = 6
STATE_NAMES: Final = ("trying", "proceeding", "completed", "confirmed", "accepted", "terminated")

# Events of client transactions.
RECV_1XX: Final = 0
RECV_2XX: Final = 1
RECV_300_699: Final = 2
TIMER_RETRANSMIT: Final = 3  # A, E
TIMER_GIVE_UP: Final = 4  # B, F, and C once a provisional has come
TRANSPORT_ERROR: Final = 5
# Events of server transactions: other numbers, so that one of them is never taken for one of those.
RECV_REQUEST: Final = 6  # a retransmission
RECV_ACK: Final = 7
SEND_1XX: Final = 8
SEND_2XX: Final = 9
SEND_300_699: Final = 10
SEND_NOTHING: Final = 11  # the end without an answer (RFC 4320 §4.2, or the answers of a copy)
TIMER_RESEND: Final = 12  # G
TIMER_WAIT: Final = 13  # H, I, J, L
EVENTS: Final = 14
CLIENT_EVENTS: Final = range(RECV_1XX, RECV_REQUEST)
SERVER_EVENTS: Final = range(RECV_REQUEST, EVENTS)
EVENT_NAMES: Final = (
    "1xx received", "2xx received", "300-699 received", "timer A or E", "timer B, C or F", "transport error",
    "request received", "ACK received", "1xx sent", "2xx sent", "300-699 sent", "nothing sent", "timer G",
    "timer H, I, J or L",
)  # fmt: skip

# Actions: bits, so that one step may carry several.
PASS_UP: Final = 1  # hand the response to the response context
SEND_ACK: Final = 2
RESEND: Final = 4  # the request (client) or the last reply (server) once more
STOP_RETRANSMIT: Final = 8
RESTART_GIVE_UP: Final = 16  # timer C / fr_inv_timer
TIMED_OUT: Final = 32  # tell the response context: 408
FAILED: Final = 64  # tell the response context: 503
CANCEL_FIRST: Final = 128  # a provisional has come, so the peer can be told to stop
SEND: Final = 256  # the new reply
START_RESEND: Final = 512  # G and H: repeat a negative final until its ACK
START_WAIT: Final = 1024
DESTROY: Final = 2048
ACTION_NAMES: Final = (
    "pass up", "send ACK", "resend", "stop retransmitting", "restart timer C", "timed out", "failed",
    "cancel first", "send", "start G and H", "start wait", "destroy",
)  # fmt: skip

Table = dict[tuple[int, int], tuple[int, int]]

INVITE_CLIENT: Final[Table] = {  # Figure 5, Accepted from RFC 6026
    (TRYING, RECV_1XX): (PROCEEDING, PASS_UP | STOP_RETRANSMIT | RESTART_GIVE_UP),
    (TRYING, RECV_2XX): (ACCEPTED, PASS_UP | STOP_RETRANSMIT),
    (TRYING, RECV_300_699): (COMPLETED, PASS_UP | STOP_RETRANSMIT | SEND_ACK),
    (TRYING, TIMER_RETRANSMIT): (TRYING, RESEND),
    (TRYING, TIMER_GIVE_UP): (TERMINATED, TIMED_OUT | STOP_RETRANSMIT),
    (TRYING, TRANSPORT_ERROR): (TERMINATED, FAILED | STOP_RETRANSMIT),
    (PROCEEDING, RECV_1XX): (PROCEEDING, PASS_UP | RESTART_GIVE_UP),
    (PROCEEDING, RECV_2XX): (ACCEPTED, PASS_UP | STOP_RETRANSMIT),
    (PROCEEDING, RECV_300_699): (COMPLETED, PASS_UP | STOP_RETRANSMIT | SEND_ACK),
    (PROCEEDING, TIMER_GIVE_UP): (TERMINATED, TIMED_OUT | CANCEL_FIRST | STOP_RETRANSMIT),
    (PROCEEDING, TRANSPORT_ERROR): (TERMINATED, FAILED | STOP_RETRANSMIT),
    # A forking element behind us may send a 2xx after a negative final: a 2xx is always passed on (§16.7 step 5).
    (COMPLETED, RECV_2XX): (ACCEPTED, PASS_UP),
    (COMPLETED, RECV_300_699): (COMPLETED, SEND_ACK),
    (ACCEPTED, RECV_2XX): (ACCEPTED, PASS_UP),
    # We have given up, the peer has not: its call must still be acknowledged one way or the other.
    (TERMINATED, RECV_2XX): (ACCEPTED, PASS_UP),
    (TERMINATED, RECV_300_699): (COMPLETED, SEND_ACK),
}

NON_INVITE_CLIENT: Final[Table] = {  # Figure 6
    (TRYING, RECV_1XX): (PROCEEDING, PASS_UP),
    (TRYING, RECV_2XX): (COMPLETED, PASS_UP | STOP_RETRANSMIT),
    (TRYING, RECV_300_699): (COMPLETED, PASS_UP | STOP_RETRANSMIT),
    (TRYING, TIMER_RETRANSMIT): (TRYING, RESEND),
    (TRYING, TIMER_GIVE_UP): (TERMINATED, TIMED_OUT | STOP_RETRANSMIT),
    (TRYING, TRANSPORT_ERROR): (TERMINATED, FAILED | STOP_RETRANSMIT),
    (PROCEEDING, RECV_1XX): (PROCEEDING, PASS_UP),
    (PROCEEDING, RECV_2XX): (COMPLETED, PASS_UP | STOP_RETRANSMIT),
    (PROCEEDING, RECV_300_699): (COMPLETED, PASS_UP | STOP_RETRANSMIT),
    (PROCEEDING, TIMER_RETRANSMIT): (PROCEEDING, RESEND),
    (PROCEEDING, TIMER_GIVE_UP): (TERMINATED, TIMED_OUT | STOP_RETRANSMIT),
    (PROCEEDING, TRANSPORT_ERROR): (TERMINATED, FAILED | STOP_RETRANSMIT),
}

INVITE_SERVER: Final[Table] = {  # Figure 7, Accepted from RFC 6026; L is the WAIT timer of Accepted
    (PROCEEDING, RECV_REQUEST): (PROCEEDING, RESEND),
    (PROCEEDING, SEND_1XX): (PROCEEDING, SEND),
    (PROCEEDING, SEND_2XX): (ACCEPTED, SEND | START_WAIT),
    (PROCEEDING, SEND_300_699): (COMPLETED, SEND | START_RESEND),
    (PROCEEDING, SEND_NOTHING): (CONFIRMED, START_WAIT),
    (COMPLETED, RECV_REQUEST): (COMPLETED, RESEND),
    (COMPLETED, RECV_ACK): (CONFIRMED, STOP_RETRANSMIT | START_WAIT),
    # A branch may still answer 2xx after we have sent a negative final (late 200 after CANCEL): the caller must see
    # it to end that call with ACK and BYE.
    (COMPLETED, SEND_2XX): (ACCEPTED, SEND | STOP_RETRANSMIT | START_WAIT),
    (COMPLETED, TIMER_RESEND): (COMPLETED, RESEND),
    (COMPLETED, TIMER_WAIT): (TERMINATED, DESTROY),
    (CONFIRMED, SEND_2XX): (ACCEPTED, SEND | START_WAIT),
    (CONFIRMED, TIMER_WAIT): (TERMINATED, DESTROY),
    (ACCEPTED, SEND_2XX): (ACCEPTED, SEND),
    (ACCEPTED, TIMER_WAIT): (TERMINATED, DESTROY),
}

NON_INVITE_SERVER: Final[Table] = {  # Figure 8; J is the WAIT timer
    (TRYING, SEND_1XX): (PROCEEDING, SEND),
    (TRYING, SEND_2XX): (COMPLETED, SEND | START_WAIT),
    (TRYING, SEND_300_699): (COMPLETED, SEND | START_WAIT),
    (TRYING, SEND_NOTHING): (COMPLETED, START_WAIT),
    (PROCEEDING, RECV_REQUEST): (PROCEEDING, RESEND),
    (PROCEEDING, SEND_1XX): (PROCEEDING, SEND),
    (PROCEEDING, SEND_2XX): (COMPLETED, SEND | START_WAIT),
    (PROCEEDING, SEND_300_699): (COMPLETED, SEND | START_WAIT),
    (PROCEEDING, SEND_NOTHING): (COMPLETED, START_WAIT),
    (COMPLETED, RECV_REQUEST): (COMPLETED, RESEND),
    (COMPLETED, TIMER_WAIT): (TERMINATED, DESTROY),
}

# What happens to leave everything as it is: (state, event) pairs of each table that are ignored on purpose.
IGNORED_INVITE_CLIENT: Final = frozenset({
    (PROCEEDING, TIMER_RETRANSMIT),
    (COMPLETED, RECV_1XX), (COMPLETED, TIMER_RETRANSMIT), (COMPLETED, TIMER_GIVE_UP), (COMPLETED, TRANSPORT_ERROR),
    (ACCEPTED, RECV_1XX), (ACCEPTED, RECV_300_699), (ACCEPTED, TIMER_RETRANSMIT), (ACCEPTED, TIMER_GIVE_UP),
    (ACCEPTED, TRANSPORT_ERROR),
    (TERMINATED, RECV_1XX), (TERMINATED, TIMER_RETRANSMIT), (TERMINATED, TIMER_GIVE_UP),
    (TERMINATED, TRANSPORT_ERROR),
})  # fmt: skip
IGNORED_NON_INVITE_CLIENT: Final = frozenset(
    (state, event) for state in (COMPLETED, TERMINATED) for event in CLIENT_EVENTS
)
IGNORED_INVITE_SERVER: Final = frozenset({
    (PROCEEDING, RECV_ACK),
    (COMPLETED, SEND_1XX), (COMPLETED, SEND_300_699), (COMPLETED, SEND_NOTHING),
    (CONFIRMED, RECV_REQUEST), (CONFIRMED, RECV_ACK), (CONFIRMED, SEND_1XX), (CONFIRMED, SEND_300_699),
    (CONFIRMED, SEND_NOTHING),
    # A retransmitted INVITE after the 2xx is absorbed: the callee repeats its 2xx by itself (RFC 6026 §7.1).
    (ACCEPTED, RECV_REQUEST), (ACCEPTED, RECV_ACK), (ACCEPTED, SEND_1XX), (ACCEPTED, SEND_300_699),
    (ACCEPTED, SEND_NOTHING),
    *((TERMINATED, event) for event in SERVER_EVENTS),
})  # fmt: skip
IGNORED_NON_INVITE_SERVER: Final = frozenset({
    (TRYING, RECV_REQUEST),
    (COMPLETED, SEND_1XX), (COMPLETED, SEND_2XX), (COMPLETED, SEND_300_699), (COMPLETED, SEND_NOTHING),
    *((TERMINATED, event) for event in SERVER_EVENTS if event not in {RECV_ACK, TIMER_RESEND}),
})  # fmt: skip

# What a machine can be in at all, and what cannot happen there: ACK belongs to INVITE, G runs in Completed only, the
# WAIT timer is armed by a final answer.
IMPOSSIBLE_INVITE_SERVER: Final = frozenset({
    (PROCEEDING, TIMER_RESEND), (PROCEEDING, TIMER_WAIT), (CONFIRMED, TIMER_RESEND), (ACCEPTED, TIMER_RESEND),
})  # fmt: skip
IMPOSSIBLE_NON_INVITE_SERVER: Final = frozenset({
    (TRYING, TIMER_WAIT), (PROCEEDING, TIMER_WAIT),
    *((state, event) for state in (TRYING, PROCEEDING, COMPLETED, TERMINATED) for event in (RECV_ACK, TIMER_RESEND)),
})  # fmt: skip

IGNORED: Final = -1
IMPOSSIBLE: Final = -2


def flatten(table: Table, ignored: frozenset[tuple[int, int]]) -> list[int]:
    """*table* as a list by ``state * EVENTS + event``: ``actions << 3 | next state``, IGNORED or IMPOSSIBLE."""
    flat = [IMPOSSIBLE] * (STATES * EVENTS)
    for state, event in ignored:
        flat[state * EVENTS + event] = IGNORED
    for (state, event), (following, actions) in table.items():
        flat[state * EVENTS + event] = actions << 3 | following
    return flat


INVITE_CLIENT_STEPS: Final[list[int]] = flatten(INVITE_CLIENT, IGNORED_INVITE_CLIENT)
NON_INVITE_CLIENT_STEPS: Final[list[int]] = flatten(NON_INVITE_CLIENT, IGNORED_NON_INVITE_CLIENT)
INVITE_SERVER_STEPS: Final[list[int]] = flatten(INVITE_SERVER, IGNORED_INVITE_SERVER)
NON_INVITE_SERVER_STEPS: Final[list[int]] = flatten(NON_INVITE_SERVER, IGNORED_NON_INVITE_SERVER)


def no_step(code: int, state: int, event: int) -> int:
    """What *event* asks for in *state* when the list says *code* < 0: 0, nothing. Raises UsageError when it cannot be."""
    if code == IMPOSSIBLE:
        raise UsageError(f"{EVENT_NAMES[event]} in state {STATE_NAMES[state]}")
    return 0
