"""Which of two registrations of one contact stands, so that all servers of a farm come to the same table in any order.

The higher CSeq of one Call-ID wins, else the later time; equal times are decided by the Call-ID, the same way everywhere.
Time is that of the server that took the REGISTER. A removal leaves a tombstone, and counts like a registration. Pure.

Runs in: udp receiver, timer. Locks: none. RFC: 3261 §10.3 step 7.
"""

from __future__ import annotations

from serpy.shm.record import Binding


def milliseconds(when: float) -> int:
    """Unix time *when* as it travels."""
    return round(when * 1000.0)


def is_newer(call_id: str, cseq: int, when: float, known: Binding) -> bool:
    """True when a registration (or removal) with these stands over *known*; False for the same one, too."""
    if call_id == known.call_id:
        return cseq > known.cseq
    ours, theirs = milliseconds(when), milliseconds(known.modified_at)
    return ours > theirs or (ours == theirs and call_id > known.call_id)


def is_same(one: Binding, other: Binding) -> bool:
    """True when both come from the same REGISTER."""
    return one.call_id == other.call_id and one.cseq == other.cseq
