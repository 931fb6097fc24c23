"""A script file -> a Program: settings, loaded modules with their parameters set, routes ready to run.

Every error of the file is reported at once (``ScriptErrors``). The dialect is chosen by a marker in the file; see
docs/script-dialects.md: none, ``#!MAXCOMPAT``, ``#!ALL`` the 2.x rules with pseudo-variables, ``#!SER`` the 2.x rules
and every ``$x`` an attribute, ``#!KAMAILIO``/``#!OPENSER`` the modern rules.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from serpy.errors import ConfigError
from serpy.script import builtins, tree
from serpy.script.check import walk
from serpy.script.codegen import compile_routes
from serpy.script.environment import Environment, base_name
from serpy.script.exports import Exports, Param
from serpy.script.faults import Faults, Position, ScriptErrors, did_you_mean
from serpy.script.parse import parse_text
from serpy.script.patterns import compile_name_pattern
from serpy.script.posix import BadExpressionError
from serpy.script.program import Assignment, CustomVariable, Program
from serpy.script.unit import Unit

__all__ = ["Assignment", "CustomVariable", "Environment", "Program", "ScriptErrors", "compile_script", "compile_text"]

_RETCODE: Final = re.compile(r"\$\(?(rc|retcode)\b", re.ASCII)


def compile_script(path: str, defines: dict[str, str], environment: Environment) -> Program:
    """Compile the file *path*. Raises ScriptErrors with everything that is wrong, ConfigError when unreadable."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration: {error.strerror}", file=path) from error
    return compile_text(text, path, defines, environment)


def compile_text(text: str, path: str, defines: dict[str, str], environment: Environment) -> Program:
    """Compile *text*, named *path* in messages. Raises ScriptErrors."""
    faults = Faults()
    script = parse_text(text, path, defines, faults)
    environment.dialect = script.dialect
    return _Loader(script, path, environment, faults).load()


class _Loader:
    """Acts on the top-level items in the order of the file, then compiles the routes."""

    def __init__(self, script: tree.Script, path: str, environment: Environment, faults: Faults) -> None:
        self.script = script
        self.environment = environment
        self.faults = faults
        self.program = Program(environment.hooks)
        self.program.path = path
        self.program.dialect = script.dialect
        self._lists: dict[str, list[str]] = {}
        self._single: dict[tuple[str, str], Position] = {}
        self._failed = False

    def load(self) -> Program:
        program = self.program
        for item in self.script.items:
            self._item(item)
        routes = self._routes()
        unit = Unit(self.environment, self.faults, routes)
        unit.modules_failed = self._failed
        retcode_in_text = any(_mentions_retcode(item) for item in self.script.items)
        compiled = compile_routes(unit, retcode_in_text=retcode_in_text)
        self.faults.raise_if_any()
        program.add_routes(compiled.routes)
        program.flags = dict(self.environment.flags)
        program.avpflags = dict(self.environment.avpflags)
        program.warnings = self.faults.warnings
        program.expressions = self.faults.expressions
        program.listings = compiled.listings
        program.files = set(self.faults.sources)
        program.send_sockets = [(t, h, p, repr(place)) for t, h, p, place in unit.send_sockets]
        return program

    def _item(self, item: tree.Node) -> None:
        if isinstance(item, tree.LoadModule):
            self._load_module(item)
        elif isinstance(item, tree.ModParam):
            self._modparam(item)
        elif isinstance(item, tree.Setting):
            self._setting(item)
        elif isinstance(item, tree.FlagNames):
            self._flags(item)
        elif isinstance(item, tree.CustomVariable):
            self._variable(item)

    def _routes(self) -> list[tree.Route]:
        first: dict[tuple[str, str], tree.Route] = {}
        for item in self.script.items:
            if not isinstance(item, tree.Route):
                continue
            key = (item.kind, item.name)
            if key in first:
                title = f"{item.kind}[{item.name}]" if item.name else item.kind
                self.faults.add(item.position, f"a second {title}", f"the first is at line {first[key].position.line}")
            elif item.kind in ("failure_route", "branch_route", "event_route") and not item.name:
                self.faults.add(item.position, f"{item.kind} needs a name", f"for example: {item.kind}[NAME] {{ … }}")
            else:
                first[key] = item
        return list(first.values())

    def _load_module(self, item: tree.LoadModule) -> None:
        name = base_name(item.name)
        if name in self.environment.modules:
            self.faults.warn(item.position, f"module {name} is loaded twice")
            return
        try:
            self.program.modules.append(self.environment.load_module(name))
        except ConfigError as error:
            self._failed = True
            self.faults.add(item.position, error.message, error.hint)

    def _flags(self, item: tree.FlagNames) -> None:
        flags = self.environment.flags
        for name, number, position in item.names:
            if item.avp:
                try:
                    self.environment.declare_avpflag(name)
                except ConfigError as error:
                    self.faults.add(position, error.message)
                continue
            taken = set(flags.values())
            if number < 0:
                number = next((free for free in range(31, -1, -1) if free not in taken), -1)
            if not 0 <= number <= 31:
                self.faults.add(position, f"flag {name}: numbers are 0 to 31")
            elif name in flags:
                self.faults.add(position, f"flag {name} is declared twice")
            else:
                if number in taken:
                    other = next(known for known, value in flags.items() if value == number)
                    self.faults.warn(position, f"flags {other} and {name} share the number {number}")
                flags[name] = number

    def _variable(self, item: tree.CustomVariable) -> None:
        group = self.environment.variables.setdefault(item.group, {})
        group[item.name] = item.value
        self.program.variables.append(
            CustomVariable(item.group, item.name, item.value, item.description, item.position.file, item.position.line)
        )

    # ---- global parameters

    def _setting(self, item: tree.Setting) -> None:
        name, position = item.name, item.position
        kind = self.environment.settings.get(name) or builtins.SETTINGS.get(name)
        if kind is None:
            if not name.startswith(builtins.IGNORED_PREFIXES):
                hint = did_you_mean(name, [*builtins.SETTINGS, *self.environment.settings])
                self.faults.add(position, f"unknown global parameter {name!r}", hint)
            return
        value: int | str | list[str] | None
        if kind == "list":
            self._lists.setdefault(name, []).extend(_spoken(item.values))
            value = list(self._lists[name])
        else:
            value = self._scalar(item, kind)
        if value is not None:
            self.program.settings.append(Assignment(name, value, position.file, position.line, position.column))

    def _scalar(self, item: tree.Setting, kind: str) -> int | str | None:
        value = item.values[0]
        if kind in ("int", "bool"):
            if isinstance(value, tree.Integer):
                return value.value
            if isinstance(value, tree.String) and re.fullmatch(r"-?\d+", value.value, re.ASCII):
                return int(value.value)
            wanted = "a number" if kind == "int" else "yes or no"
            self.faults.add(
                value.position,
                f"{item.name} needs {wanted}",
                "for example: children = 4" if kind == "int" else f"for example: {item.name} = yes",
            )
            return None
        return _text(value)

    # ---- module parameters

    def _modparam(self, item: tree.ModParam) -> None:
        try:
            pattern = compile_name_pattern(item.pattern.value)
        except BadExpressionError as error:
            self.faults.add(item.pattern.position, f"bad module name {item.pattern.value!r}: {error}")
            return
        matching = [exports for name, exports in self.environment.modules.items() if pattern.fullmatch(name)]
        if not matching:
            if not self._failed:
                hint = did_you_mean(item.pattern.value, self.environment.modules)
                self.faults.add(
                    item.pattern.position, f"no loaded module matches {item.pattern.value!r}",
                    hint or f'load it first: loadmodule "{item.pattern.value}"',
                )  # fmt: skip
            return
        for exports in matching:
            param = next((param for param in exports.params if param.name == item.name.value), None)
            if param is None:
                names = [known.name for known in exports.params]
                hint = did_you_mean(item.name.value, names) or _listed(names)
                message = f"module {exports.name} has no parameter {item.name.value!r}"
                self.faults.add(item.name.position, message, hint)
            else:
                self._apply(item, exports, param)

    def _apply(self, item: tree.ModParam, exports: Exports, param: Param) -> None:
        if item.value is None:
            self.faults.add(item.position, f"parameter {param.name} needs a value")
            return
        value = self._param_value(item.value, param)
        if value is None:
            return
        problem = param.check(value) if param.check is not None else ""
        if problem:
            self.faults.add(item.value.position, f"{exports.name}/{param.name}: {problem}")
            return
        attribute = param.attribute or param.name
        if param.repeat:
            key = (exports.name, param.name)
            values = [*getattr(exports.module, attribute), value] if key in self._single else [value]
            self._single[key] = item.position
            setattr(exports.module, attribute, values)
        else:
            setattr(exports.module, attribute, value)

    def _param_value(self, node: tree.Node, param: Param) -> int | str | None:
        """The value as *param.kind* wants it; None after noting an error."""
        if param.kind == "int":
            if isinstance(node, tree.Integer):
                return node.value
            if isinstance(node, tree.String) and re.fullmatch(r"-?\d+", node.value, re.ASCII):
                return int(node.value)
            self.faults.add(node.position, f"parameter {param.name} needs a number", f"default: {param.default}")
            return None
        if param.kind == "flag":
            return self._flag_value(node, param)
        if isinstance(node, tree.Word):
            hint = f'if {node.value} is a define, give it a value: -A {node.value}="…"' if node.value.isupper() else ""
            self.faults.add(
                node.position, f"parameter {param.name} needs text in quotes, not the name {node.value}", hint
            )
            return None
        return _text(node)

    def _flag_value(self, node: tree.Node, param: Param) -> int | None:
        if isinstance(node, tree.Integer) and -1 <= node.value <= 31:
            return node.value
        name = _text(node)
        number = self.environment.flag(name)
        if number < 0:
            hint = did_you_mean(name, self.environment.flags) or f"declare it before: flags {name} : 1;"
            self.faults.add(node.position, f"parameter {param.name}: unknown flag {name!r}", hint)
            return None
        return number


def _mentions_retcode(item: tree.Node) -> bool:
    """True when a text, or a variable in the long form, has ``$rc`` in it, or texts come from attributes."""
    for node in walk(item):
        if isinstance(node, tree.Call) and node.name == "xlfix_attr":
            return True
        text = node.value if isinstance(node, tree.String) else node.text if isinstance(node, tree.Variable) else ""
        if _RETCODE.search(text) and (isinstance(node, tree.String) or text.startswith("$(")):
            return True
    return False


def _listed(names: list[str]) -> str:
    """A hint that names the parameters there are, cut to what fits a line or two."""
    shown = ", ".join(names[:12])
    return f"it has {shown}{' …' if len(names) > 12 else ''}" if names else "it has none"


def _text(node: tree.Node) -> str:
    if isinstance(node, (tree.String, tree.Word, tree.Address)):
        return node.value
    if isinstance(node, tree.Integer):
        return str(node.value)
    if isinstance(node, tree.Endpoint):
        host = f"[{node.host}]" if ":" in node.host else node.host
        start = f"{node.transport}:{host}" if node.transport else host
        return f"{start}:{node.port}" if node.port else start
    return ""


def _spoken(values: list[tree.Node]) -> list[str]:
    """Listen specifications as text; ``advertise X`` and ``name X`` stay with the one before."""
    result: list[str] = []
    joining = False
    for value in values:
        text = _text(value)
        if joining:
            result[-1] += f" {text}"
            joining = False
        elif isinstance(value, tree.Word) and text in ("advertise", "name") and result:
            result[-1] += f" {text}"
            joining = True
        else:
            result.append(text)
    return result
