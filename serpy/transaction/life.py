"""May a request be answered, may it be forgotten, and who asks next: one table.

Three things say where the life of a server transaction is: whether somebody is at work on it (a route that may be
parked, ``t_relay``), how far its branches are, and whether its caller has an answer. Two events ask: something has ended
(a branch, a route), or the last deadline has come. The verdict is all there is to it.

While somebody is at work nothing is decided: whoever HOLDs a transaction asks when he lets go, in a ``finally``. Timers
wait behind handlers of their Call-ID, so a holder that the last deadline meets is one that got lost by a bug of ours.

The four words of a row are numbers whose sum is the index of its verdict: it is asked for several times per message.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.7, §16.8; 4320; 6026.
"""

from __future__ import annotations

from typing import Final

# Who asks.
ENDED: Final = 0  # a branch or a route has come to its end
DEADLINE: Final = 12  # the request has had all the time there is
# Who is at work on it.
FREE: Final = 0
HELD: Final = 6
# Its branches.
NO_BRANCH: Final = 0
OPEN: Final = 2  # at least one is still waited for
ALL_FINAL: Final = 4
# Its caller.
UNANSWERED: Final = 0
ANSWERED: Final = 1

# Verdicts.
WAIT: Final = 0  # a branch, the holder or the last deadline asks again
CHOOSE: Final = 1  # the failure route, or the best answer (§16.7 step 6)
SEND_BEST: Final = 2  # the best answer, without another route
LEAVE: Final = 3  # the script has left it alone: what t_relay failed with, else it waits for its deadline
REFUSE: Final = 4  # 500, but a non-INVITE is too late for any answer
TIME_OUT: Final = 5  # 408 for INVITE, and the branches are cancelled (§16.8)
FINISH: Final = 6  # nobody needs the request any more: leave what repeats the answer
LINGER: Final = 7  # finish as soon as no cancelled branch can end by itself any more
VERDICT_NAMES: Final = ("wait", "choose", "send best", "leave", "refuse", "time out", "finish", "linger")

LIFE: Final[dict[tuple[int, int, int, int], int]] = {
    (ENDED, FREE, NO_BRANCH, UNANSWERED): LEAVE,
    (ENDED, FREE, NO_BRANCH, ANSWERED): FINISH,
    (ENDED, FREE, OPEN, UNANSWERED): WAIT,
    (ENDED, FREE, OPEN, ANSWERED): WAIT,
    (ENDED, FREE, ALL_FINAL, UNANSWERED): CHOOSE,
    (ENDED, FREE, ALL_FINAL, ANSWERED): FINISH,
    (ENDED, HELD, NO_BRANCH, UNANSWERED): WAIT,
    (ENDED, HELD, NO_BRANCH, ANSWERED): WAIT,
    (ENDED, HELD, OPEN, UNANSWERED): WAIT,
    (ENDED, HELD, OPEN, ANSWERED): WAIT,
    (ENDED, HELD, ALL_FINAL, UNANSWERED): WAIT,
    (ENDED, HELD, ALL_FINAL, ANSWERED): WAIT,
    (DEADLINE, FREE, NO_BRANCH, UNANSWERED): REFUSE,
    (DEADLINE, FREE, NO_BRANCH, ANSWERED): FINISH,
    (DEADLINE, FREE, OPEN, UNANSWERED): TIME_OUT,
    (DEADLINE, FREE, OPEN, ANSWERED): LINGER,
    (DEADLINE, FREE, ALL_FINAL, UNANSWERED): SEND_BEST,
    (DEADLINE, FREE, ALL_FINAL, ANSWERED): FINISH,
    (DEADLINE, HELD, NO_BRANCH, UNANSWERED): REFUSE,
    (DEADLINE, HELD, NO_BRANCH, ANSWERED): FINISH,
    (DEADLINE, HELD, OPEN, UNANSWERED): TIME_OUT,
    (DEADLINE, HELD, OPEN, ANSWERED): LINGER,
    (DEADLINE, HELD, ALL_FINAL, UNANSWERED): SEND_BEST,
    (DEADLINE, HELD, ALL_FINAL, ANSWERED): FINISH,
}


def flatten() -> list[int]:
    """LIFE as a list by the sum of the four."""
    flat = [WAIT] * len(LIFE)
    for row, verdict in LIFE.items():
        flat[sum(row)] = verdict
    return flat


VERDICTS: Final[list[int]] = flatten()
