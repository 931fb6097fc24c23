"""What all who write expressions share: names of variables and selects, assignments, the errors.

Expressions, conditions and calls contain each other. Each is a room of its own that knows this class only;
``expressions.ExpressionCoder`` joins them. A call that may end the script is written as a statement before the
expression that uses its result. Errors are noted and a harmless value stands in, so that all of them are found.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from serpy.context.avps import GLOBAL, AvpName, parse_avp_name
from serpy.script import operands, selects, tree
from serpy.script.check import KIND_NAMES
from serpy.script.code import Code, any_value, integer
from serpy.script.exports import Routes
from serpy.script.faults import Position
from serpy.script.output import Output
from serpy.script.patterns import Pattern, compile_pattern
from serpy.script.posix import BadExpressionError
from serpy.script.substitution import Substitution, parse_substitution
from serpy.script.unit import Unit


class Coder(ABC):
    """Writes the expressions of one route; *out* is where statements in front of them go."""

    def __init__(self, unit: Unit, out: Output) -> None:
        self.unit = unit
        self.out = out
        self.kinds = unit.graph.kinds(out.route)

    @abstractmethod
    def value(self, node: tree.Node) -> Code:
        """Code of any expression."""

    @abstractmethod
    def condition(self, node: tree.Node) -> str:
        """Code that Python tests for truth."""

    @abstractmethod
    def call(self, node: tree.Call) -> str:
        """Emit a call; the result is the name of the variable that holds its value."""

    # ---- errors

    def fault(self, position: Position, message: str, hint: str = "") -> None:
        """Note an error."""
        self.unit.faults.add(position, message, hint)

    def check_kind(self, node: tree.Call, name: str, allowed: Routes) -> None:
        """Note an error when the route may run as a kind that function *name* is not *allowed* in."""
        if allowed & Routes.REQUEST:
            allowed |= Routes.EVENT
        for kind, title in KIND_NAMES.items():
            if self.kinds & kind and not allowed & kind:
                path = self.unit.graph.path(self.out.route, kind)
                legal = ", ".join(other for bit, other in KIND_NAMES.items() if allowed & bit)
                reached = f"reached by {path}; " if path else ""
                self.fault(node.position, f"{name} is not allowed in {title}", f"{reached}it is legal in {legal}")
                return

    # ---- regular expressions

    def pattern(self, text: str, position: Position, *, replaces: bool = False) -> Pattern | None:
        """The constant expression *text*; None after noting an error."""
        try:
            pattern = compile_pattern(text, replaces=replaces)
        except BadExpressionError as error:
            self._bad_expression(text, position, error)
            return None
        self._remark(pattern, position)
        return pattern

    def substitution(self, text: str, position: Position) -> Substitution | None:
        """The constant ``/expression/replacement/flags``; None after noting an error."""
        try:
            substitution = parse_substitution(text)
        except BadExpressionError as error:
            self._bad_expression(text, position, error)
            return None
        self._remark(substitution.pattern, position)
        return substitution

    def _bad_expression(self, text: str, position: Position, error: BadExpressionError) -> None:
        """Note *error*, at its character where the text stands in the file as it is."""
        line = self.unit.faults.line(position)
        if line.startswith(text, position.column):
            position = Position(position.file, position.line, position.column + 1 + error.at)
        self.fault(position, f"bad regular expression: {error.message}", error.hint)

    def _remark(self, pattern: Pattern, position: Position) -> None:
        faults = self.unit.faults
        for remark in pattern.remarks:
            faults.warn(position, remark)
        faults.expressions.append(f"{position!r}: {pattern.engine}: {pattern.text}")

    # ---- reading

    def as_int(self, node: tree.Node) -> str:
        """The expression converted to int."""
        return self.value(node).as_int()

    def as_str(self, node: tree.Node) -> str:
        """The expression converted to text."""
        return self.value(node).as_str()

    def select(self, text: str, position: Position) -> str:
        """The name of the reader of ``@…``."""
        try:
            return self.unit.constant(selects.resolve_select(text, self.unit.environment), "sel")
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            self.fault(position, message, hint)
            return self.unit.constant(_undefined, "sel")

    def variable(self, node: tree.Variable) -> operands.Variable:
        """What ``$…`` means."""
        try:
            return operands.resolve_variable(node.text, self.unit.environment)
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            self.fault(node.position, message, hint)
            return operands.Variable(None, _undefined)

    def avp_in_string(self, text: str) -> operands.Variable:
        """A ``"$name"`` argument: always an attribute in the SER dialects. Raises ValueError."""
        if self.unit.environment.dialect == "kamailio" or "(" in text:
            return operands.resolve_variable(text, self.unit.environment)
        return operands.Variable(parse_avp_name(text), None)

    def read(self, variable: operands.Variable) -> Code:
        """Code that reads an attribute or pseudo-variable."""
        if variable.avp is not None:
            return any_value(f"ctx.avps.read({self.unit.constant(variable.avp, 'avp')})")
        if variable.read is operands.retcode:
            return integer("ctx.retcode")
        return any_value(f"{self.unit.constant(variable.read, 'pv')}(ctx)")

    # ---- assignment

    def write(self, target: tree.Variable, code: Code) -> None:
        """Emit ``target = code``."""
        variable = self.variable(target)
        if variable.avp is not None:
            self._write_avp(target, variable.avp, code)
        elif variable.write is not None:
            self.out.emit(f"{self.unit.constant(variable.write, 'set')}(ctx, {code.text})", target.position)
        elif variable.read is not _undefined:
            hint = "it tells about the message; keep values in attributes of your own, for example $f.name"
            self.fault(target.position, f"{target.text} cannot be assigned", hint)

    def _write_avp(self, target: tree.Variable, avp: AvpName, code: Code) -> None:
        if avp.write_list == GLOBAL:
            self.fault(target.position, f"{target.text} cannot be assigned", "global attributes are read-only")
            return
        self.out.emit(f"ctx.avps.write({self.unit.constant(avp, 'avp')}, {code.stored()})", target.position)


def _undefined(_ctx: object) -> None:
    return None
