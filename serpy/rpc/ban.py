"""The RPCs ban.* and trust.*: what the budgets of strangers hold, in any configuration.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serpy.api import BUDGETS
from serpy.script.exports import Rpc
from serpy.trust.people import BudgetsForPeople

if TYPE_CHECKING:
    from serpy.api import Server


def methods(server: Server) -> list[Rpc]:
    """All of them; none where nothing is budgeted."""
    budgets = server.find(BUDGETS)
    if budgets is None:
        return []
    people = BudgetsForPeople(budgets, server.loop)
    return [
        Rpc("ban.list", people.bans),
        Rpc("ban.why", people.why),
        Rpc("ban.lift", people.lift, write=True),
        Rpc("ban.add", people.add, write=True),
        Rpc("trust.show", people.user),
        Rpc("trust.state", people.state),
        Rpc("pike.list", people.pike),
    ]
