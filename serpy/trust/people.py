"""The budgets as people see them: who is held and why, lifting and adding bans, what is known of a user.

Runs in: ctl, which shares the tables. Locks: none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

from serpy.clock import Clock
from serpy.errors import UsageError
from serpy.shm.strangers import BANNED, FREE, QUIET
from serpy.sip.text import printable
from serpy.trust.budgets import Budgets
from serpy.trust.limits import BY_HAND, NAMES, TEXTS, TICKS
from serpy.trust.standing import DROPS, MODES, spelled

_HOLDS: Final = {QUIET: "quiet", BANNED: "banned"}
LISTED_MAX: Final = 1000


class NotHeldError(UsageError):
    """Nobody of that name is held or remembered."""

    code: Final = 404


class BudgetsForPeople:
    """What RPCs and serpyctl ask."""

    def __init__(self, budgets: Budgets, clock: Clock) -> None:
        self._budgets: Final = budgets
        budgets.clock = clock

    def bans(self) -> list[dict[str, object]]:
        """Who is banned, quiet or silent now: who, what, why, for how long still, offences, messages dropped since."""
        return self._list(lambda at, now: self._budgets.strangers.hold(at, now) != FREE)

    def _list(self, wanted: Callable[[int, int], bool]) -> list[dict[str, object]]:
        budgets = self._budgets
        strangers, now = budgets.strangers, budgets.now()
        found: list[dict[str, object]] = []
        for at in range(strangers.entries):
            if strangers.key(at) and wanted(at, now):
                found.append(self._row(at, now))
                if len(found) >= LISTED_MAX:
                    break
        return found

    def _row(self, at: int, now: int) -> dict[str, object]:
        strangers = self._budgets.strangers
        hold = strangers.hold(at, now)
        return {
            "who": printable(strangers.text(at)),
            "state": _HOLDS.get(hold, "free"),
            "why": NAMES[strangers.reason(at)] if hold else "",
            "left_s": strangers.left(at, now) // TICKS if hold else 0,
            "offences": strangers.offences(at),
            "events": strangers.events(at),
            "dropped": strangers.dropped(at),
        }

    def why(self, address: str) -> dict[str, object]:
        """What is remembered of an address, a user, or of the text that ``ban.list`` shows: reason, counts, last events.

        "also" names what else concerns it: the users who are silent from the network of an address, for one.
        """
        budgets = self._budgets
        strangers, now = budgets.strangers, budgets.now()
        at, *others = self._find(address)
        row = self._row(at, now)
        if others:
            row["also"] = [printable(strangers.text(other)) for other in others]
        row["proven"] = strangers.is_proven(at, now)
        row["mode"] = MODES[budgets.mode]
        if row["why"]:
            reason = strangers.reason(at)
            row["text"] = f"{TEXTS[reason]}; {strangers.left(at, now) // TICKS} s left, lift it: serpyctl ban lift"
        row["last"] = [f"{NAMES[reason]} {spelled(age // TICKS)} ago" for reason, age in strangers.history(at, now)]
        return row

    def lift(self, address: str) -> str:
        """End the ban, quiet or silence of an address with its network, a user, or of the text that ``ban.list`` shows."""
        found = self._find(address)
        for at in found:
            self._budgets.strangers.lift(at, self._budgets.now())
        return f"free: {', '.join([printable(self._budgets.strangers.text(at)) for at in found])}"

    def add(self, address: str, seconds: int = 3600) -> str:
        """Ban an address or IPv6 /64 for so many seconds, at most two days; known phones there go on."""
        budgets = self._budgets
        host = _host(address)
        if host is None:
            raise UsageError("which address? Write 192.0.2.7 or 2001:db8::7; networks are for the firewall")
        if not 0 < seconds <= 2 * 86400:
            raise UsageError("a ban lasts 1 to 172800 seconds; for ever is for the firewall")
        now = budgets.now()
        place = budgets.names.place(host)
        at = budgets.strangers.place(place.net, place.net_text(), now)
        budgets.ban(at, BY_HAND, now, seconds)
        return f"{place.net_text()} is banned for {spelled(seconds)}"

    def user(self, name: str) -> list[dict[str, object]]:
        """What is remembered of a user (user@domain): wrong passwords, by network and from elsewhere, and calls."""
        lower = name.lower()
        user, at, domain = lower.rpartition("@")
        if not at or not user or not domain:
            raise UsageError("which user? Write user@domain, such as alice@example.com")
        strangers = self._budgets.strangers
        found = self._list(lambda at, _now: lower in strangers.text(at).lower().split(" "))
        if not found:
            raise NotHeldError("nothing is remembered of that user")
        return found

    def state(self) -> dict[str, object]:
        """Mode, sizes, and how many are known."""
        budgets = self._budgets
        return {
            "mode": MODES[budgets.mode],
            "size": budgets.limits.size,
            "sources_are_held": budgets.holds_sources,
            "entries": budgets.strangers.entries,
            "known": budgets.known.used(budgets.now()),
            "drops": ", ".join(DROPS),
        }

    def pike(self) -> list[dict[str, object]]:
        """Sources that pike found too fast, now."""
        budgets = self._budgets
        return self._list(lambda at, now: budgets.strangers.debt(at, NAMES.index("pike"), now) > 0)

    def _find(self, asked: str) -> list[int]:
        """All entries that concern an address, a user, or have the text *asked*; those that are held first."""
        strangers = self._budgets.strangers
        now = self._budgets.now()
        host = _host(asked)
        lower = asked.lower()
        keys: tuple[int, ...] = ()
        network = ""
        if host is not None:
            place = self._budgets.names.place(host)
            keys = (place.net, place.wide)
            network = place.wide_text()
        found: list[int] = []
        for at in range(strangers.entries):
            key = strangers.key(at)
            if not key:
                continue
            text = strangers.text(at)
            name, _, where = text.partition(" from ")
            if key in keys or text == asked or (where and (where == network or name.lower() == lower)):
                found.append(at)
        if not found:
            raise NotHeldError("nothing is remembered of that address or user")
        return sorted(found, key=lambda at: (strangers.hold(at, now) == 0, strangers.key(at) not in keys))


def _host(text: str) -> str | None:
    address, slash, bits = text.partition("/")
    if slash and not (":" in address and bits == "64"):
        return None  # no network but the one that an IPv6 source counts as
    try:
        return str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        return None
