"""What the administrator may tune in the transaction layer, in seconds and plain values.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.6 item 11 and §17 for the timers; the other defaults are SER's tm.
"""

from __future__ import annotations

from typing import Final

# Module parameters of tm that are settings here: in milliseconds there and with ``_s`` in seconds here, switches, values.
DURATIONS: Final = (
    "fr_timer", "fr_inv_timer", "wt_timer", "completed_timer", "retr_timer1", "retr_timer2", "max_inv_lifetime",
    "max_noninv_lifetime",
)  # fmt: skip
SWITCHES: Final = (
    "auto_inv_100", "restart_fr_on_each_reply", "aggregate_challenges", "disable_6xx_block", "local_cancel_reason",
    "pass_503",
)  # fmt: skip
VALUES: Final = ("auto_inv_100_reason", "cancel_b_method", "default_code", "default_reason")


class TransactionSettings:
    """Timer lengths and policies. The names are those of the module parameters, durations in seconds."""

    def __init__(self) -> None:
        self.fr_timer_s = 32.0  # B and F: 64*T1
        self.fr_inv_timer_s = 190.0  # C: more than three minutes
        self.wt_timer_s = 5.0  # I: T4
        self.completed_timer_s = 32.0  # D, H, J, L and M: 64*T1
        self.retr_timer1_s = 0.5
        self.retr_timer2_s = 4.0
        self.max_inv_lifetime_s = 600.0
        self.max_noninv_lifetime_s = 32.0
        self.auto_inv_100 = True
        self.auto_inv_100_reason = "Trying, please wait"
        self.restart_fr_on_each_reply = True
        self.aggregate_challenges = True
        self.disable_6xx_block = False
        self.pass_503 = False
        self.drop_earlier = False  # new branches of a failure route make the answers before them no candidates any more
        self.cancel_b_method = 1  # 0 fake the answer, 1 wait for a provisional, 2 CANCEL at once
        self.default_code = 500
        self.default_reason = "Server Internal Error"
        self.cancel_headers: list[str] = []  # whole lines added to every CANCEL of ours
        self.local_cancel_reason = True
