"""The cfg.* RPCs: look at and change the runtime variables of the script and of modules.

A change reaches every child before its next message (``serpy.shm.variables.Variables``). Delayed changes wait here, in the ctl
process, until ``cfg.commit``.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serpy.api import Exports, Rpc, Server, UsageError

if TYPE_CHECKING:
    from serpy.shm.variables import Variables

Value = int | str


class CfgRpc:
    """The methods; each docstring is the help text."""

    def __init__(self) -> None:
        self._variables: Variables
        self._delayed: dict[tuple[str, str], Value] = {}

    def child_init(self, server: Server) -> None:
        """Remember where the variables are."""
        self._variables = server.variables

    def list_all(self, group: str = "") -> list[str]:
        """The names of all variables, or those of a group."""
        return [f"{owner}: {name}" for owner, name, *_ in self._variables.list() if group in ("", owner)]

    def get(self, group: str, name: str) -> object:
        """The value of a variable."""
        return self._variables.get(group, name)

    def help(self, group: str, name: str) -> str:
        """What a variable is for."""
        for owner, known, kind, _, default, text in self._variables.list():
            if (owner, known) == (group, name):
                return f"{text or 'no description'} ({kind}, default {default!r})"
        raise UsageError(f"no variable {group}.{name}")

    def set_now_int(self, group: str, name: str, value: int) -> None:
        """Change a number for all processes at once."""
        self._check(group, name, "int")
        self._variables.set_now(group, name, value)

    def set_now_string(self, group: str, name: str, value: str) -> None:
        """Change a text for all processes at once."""
        self._check(group, name, "str")
        self._variables.set_now(group, name, value)

    def set_delayed_int(self, group: str, name: str, value: int) -> None:
        """Change a number with the next cfg.commit."""
        self._check(group, name, "int")
        self._delayed[group, name] = value

    def set_delayed_string(self, group: str, name: str, value: str) -> None:
        """Change a text with the next cfg.commit."""
        self._check(group, name, "str")
        self._delayed[group, name] = value

    def commit(self) -> None:
        """Make the delayed changes."""
        for (group, name), value in self._delayed.items():
            self._variables.set_now(group, name, value)
        self._delayed.clear()

    def rollback(self) -> None:
        """Forget the delayed changes."""
        self._delayed.clear()

    def diff(self) -> list[dict[str, object]]:
        """The delayed changes: what is, and what will be."""
        return [
            {"group": group, "name": name, "current": self._variables.get(group, name), "new": value}
            for (group, name), value in self._delayed.items()
        ]

    def _check(self, group: str, name: str, wanted: str) -> None:
        for owner, known, kind, *_ in self._variables.list():
            if (owner, known) == (group, name):
                if kind != wanted:
                    raise UsageError(f"{group}.{name} is of kind {kind}, not {wanted}")
                return
        raise UsageError(f"no variable {group}.{name}")


def exports() -> Exports:
    """The module's export table."""
    module = CfgRpc()
    return Exports(
        name="cfg_rpc",
        module=module,
        rpc=(
            Rpc("cfg.list", module.list_all),
            Rpc("cfg.get", module.get),
            Rpc("cfg.help", module.help),
            Rpc("cfg.set_now_int", module.set_now_int, write=True),
            Rpc("cfg.set_now_string", module.set_now_string, write=True),
            Rpc("cfg.set_delayed_int", module.set_delayed_int, write=True),
            Rpc("cfg.set_delayed_string", module.set_delayed_string, write=True),
            Rpc("cfg.commit", module.commit, write=True),
            Rpc("cfg.rollback", module.rollback, write=True),
            Rpc("cfg.diff", module.diff),
        ),
        child_init=module.child_init,
    )
