"""The counters of the SIP side, declared once: name, meaning. ``pipeline.py`` writes them to the shared page.

On the message path they are plain attributes; once a second the receiver copies them out.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

from typing import Final

CORE: Final = (
    ("core.requests", "requests received"),
    ("core.responses", "responses received"),
    ("core.keepalives", "keep-alive datagrams received"),
    ("core.malformed", "messages that could not be parsed"),
    ("core.refused", "requests refused by the core"),
    ("core.handed_off", "messages passed to the receiver that owns their Call-ID"),
    ("core.overrun", "messages dropped behind a parked one of the same Call-ID"),
    ("core.stray_responses", "responses that belong to nothing"),
)
TM: Final = (
    ("tm.created", "transactions created"),
    ("tm.current", "transactions in memory"),
    ("tm.local_replies", "replies made here"),
    ("tm.relayed_replies", "replies passed on"),
    ("tm.retransmissions", "requests sent again"),
    ("tm.absorbed", "requests received again"),
    ("tm.timeouts", "branches that never answered"),
    ("tm.final_2xx", "transactions answered 2xx"),
    ("tm.final_3xx", "transactions answered 3xx"),
    ("tm.final_4xx", "transactions answered 4xx"),
    ("tm.final_5xx", "transactions answered 5xx"),
    ("tm.final_6xx", "transactions answered 6xx"),
)
SL: Final = (
    ("sl.sent", "stateless replies sent"),
    ("sl.failed", "stateless replies that could not be sent"),
    ("sl.acks", "ACKs to stateless replies swallowed"),
    ("sl.1xx", "stateless provisional replies"),
    ("sl.2xx", "stateless 2xx replies"),
    ("sl.3xx", "stateless 3xx replies"),
    ("sl.4xx", "stateless 4xx replies"),
    ("sl.5xx", "stateless 5xx replies"),
    ("sl.6xx", "stateless 6xx replies"),
)
ALL: Final = (*CORE, *TM, *SL)
GAUGES: Final = frozenset({"tm.current"})
