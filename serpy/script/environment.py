"""What a script may refer to: modules and their exports, settings, flags, selects. Filled while a script is compiled.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from serpy.errors import ConfigError
from serpy.script.exports import Exports, Function, Select
from serpy.script.hooks import Hooks

MODULE_ALIASES: Final = {"mysql": "db_mysql", "postgres": "db_postgres", "sqlite": "db_sqlite"}


def _no_modules(_function: str) -> list[str]:
    return []


class Environment:
    """The world around one script. *load_module* returns a fresh Exports or raises ConfigError; *modules_with* tells
    which modules have a function, loaded or not.

    *settings*: known global parameters, name -> "int" | "bool" | "str" | "list"; those of SER are known anyway.
    *variables*: cfg groups of the core, group -> {variable: …}; those of modules and of the script are added.
    """

    def __init__(
        self,
        load_module: Callable[[str], Exports],
        settings: Mapping[str, str] | None = None,
        variables: Mapping[str, Iterable[str]] | None = None,
        modules_with: Callable[[str], list[str]] = _no_modules,
    ) -> None:
        self._load = load_module
        self.modules_with = modules_with
        self.hooks = Hooks()  # of the program that is being compiled
        self.settings: dict[str, str] = dict(settings or {})
        self.modules: dict[str, Exports] = {}
        self.functions: dict[str, list[tuple[str, Function]]] = {}  # name -> [(module, function)]
        self.selects: list[Select] = []
        self.flags: dict[str, int] = {}
        self.avpflags: dict[str, int] = {"dialog_cookie": 0}  # lower-case name -> bit number; rr relies on the first
        self.variables: dict[str, dict[str, int | str]] = {
            group: dict.fromkeys(names, "") for group, names in (variables or {}).items()
        }
        self.dialect = "default"

    def load_module(self, name: str) -> Exports:
        """Load *name* (a base name) once and learn what it exports. Raises ConfigError."""
        found = self.modules.get(name)
        if found is not None:
            return found
        exports = self._load(name)
        self.modules[name] = exports
        for function in exports.functions:
            self.functions.setdefault(function.name, []).append((name, function))
        self.selects.extend(exports.selects)
        for group, variables in exports.variables.items():
            known = self.variables.setdefault(group, {})
            for variable, (_, default, _) in variables.items():
                known.setdefault(variable, default)
        return exports

    def flag(self, name: str) -> int:
        """The number of a flag given by name or as digits; -1 when unknown."""
        if name.isascii() and name.isdigit() and int(name) <= 31:
            return int(name)
        return self.flags.get(name, -1)

    def declare_avpflag(self, name: str) -> int:
        """The bit of an AVP flag, given on first mention. Raises ConfigError when all 31 are taken."""
        key = name.lower()
        if key not in self.avpflags:
            if len(self.avpflags) >= 31:
                raise ConfigError("more than 31 AVP flags")
            self.avpflags[key] = len(self.avpflags)
        return self.avpflags[key]


def base_name(name: str) -> str:
    """The module's name of ``tm``, ``tm.so`` or ``/usr/lib/ser/modules/tm.so``, aliases resolved."""
    base = name.rpartition("/")[2].removesuffix(".so")
    return MODULE_ALIASES.get(base, base)


CURRENT: list[Environment] = []
"""The environment of the script compiled last (one element): what format strings of modules refer to."""
