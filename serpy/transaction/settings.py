"""What the administrator may tune in the transaction layer, in seconds and plain values.

Runs in: udp receiver. Locks: none. RFC: 3261 §17 for T1 and T2; the other defaults are SER's tm.
"""

from __future__ import annotations


class TransactionSettings:
    """Timer lengths and policies. The names are those of the module parameters, durations in seconds."""

    def __init__(self) -> None:
        self.fr_timer_s = 30.0
        self.fr_inv_timer_s = 120.0
        self.wt_timer_s = 5.0
        self.retr_timer1_s = 0.5
        self.retr_timer2_s = 4.0
        self.max_inv_lifetime_s = 180.0
        self.max_noninv_lifetime_s = 32.0
        self.auto_inv_100 = True
        self.auto_inv_100_reason = "Trying, please wait"
        self.restart_fr_on_each_reply = True
        self.aggregate_challenges = True
        self.disable_6xx_block = False
        self.drop_earlier = False  # new branches of a failure route make the answers before them no candidates any more
        self.cancel_b_method = 1  # 0 fake the answer, 1 wait for a provisional, 2 CANCEL at once
        self.default_code = 500
        self.default_reason = "Server Internal Error"
        self.cancel_headers: list[str] = []  # whole lines added to every CANCEL of ours
        self.local_cancel_reason = True
