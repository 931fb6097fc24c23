"""The branches of one forked request, and which of their answers goes upstream.

Pure choice: what happens with the chosen answer is the business of ``forking.py``. The order is SER's, a refinement of
RFC 3261 §16.7 step 6: any 6xx, then 3xx, then the 4xx that let the caller try again (401 407 415 420 484), then the
other 4xx, then 5xx; among equals the lowest code, among the same code the first branch.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.7.
"""

from __future__ import annotations

from typing import Final

from serpy.sip.message import Response
from serpy.transaction.transactions import ClientTransaction

RETRYABLE: Final = frozenset({401, 407, 415, 420, 484})
NO_ANSWER: Final = 9000  # worse than any answer


def priority(status: int) -> int:
    """Rank of a final answer >= 300; the lowest wins."""
    rest = status % 100
    if status >= 600:
        return 1000 + rest
    if status >= 500:
        return 5000 + rest
    if status >= 400:
        return 4000 + (rest if status in RETRYABLE else 100 + rest)
    return 3000 + rest


def pick(branches: list[ClientTransaction]) -> ClientTransaction | None:
    """The branch with the best answer >= 300, None when every one was dropped (``t_drop_replies``)."""
    best: ClientTransaction | None = None
    rank = 1 << 30
    for branch in branches:
        if branch.status < 300 or branch.dropped:
            continue
        mine = priority(branch.status)
        if branch.status == 408 and not branch.is_invite:
            mine = NO_ANSWER  # RFC 4320 §4.2: it would not be sent, so any other is better
        if mine < rank:
            best, rank = branch, mine
    return best


def challenges(branches: list[ClientTransaction], winner: Response) -> list[str]:
    """The WWW- and Proxy-Authenticate lines of all 401 and 407 answers but *winner* (RFC 3261 §16.7 step 7)."""
    lines: list[str] = []
    for branch in branches:
        response = branch.response
        if response is None or response is winner or branch.dropped or branch.status not in {401, 407}:
            continue
        for name in ("www-authenticate", "proxy-authenticate"):
            for index in response.indexes(name):
                lines.append(response.lines[index])
    return lines


def statuses(branches: list[ClientTransaction]) -> set[int]:
    """The final codes of all branches that have one."""
    return {branch.status for branch in branches if branch.status >= 200}
