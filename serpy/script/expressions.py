"""Expressions -> code: constants, variables, operators. Conditions and calls have rooms of their own.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.script import builtins, calls, conditions, tree
from serpy.script.code import Code, Kind, any_value, constant, integer, optional, string
from serpy.script.coder import Coder
from serpy.script.core_operands import core_operand
from serpy.script.faults import did_you_mean

_ARITHMETIC: Final = ("-", "*", "|", "&", "^")


class ExpressionCoder(Coder):
    """Writes the expressions of one route."""

    def condition(self, node: tree.Node) -> str:
        """Code that Python tests for truth."""
        return conditions.condition(self, node)

    def call(self, node: tree.Call) -> str:
        """Emit a call; the result is the name of the variable that holds its value."""
        return calls.call(self, node)

    def value(self, node: tree.Node) -> Code:
        """Code of any expression."""
        if isinstance(node, (tree.Integer, tree.String, tree.Address)):
            return constant(node.value)
        if isinstance(node, tree.Endpoint):
            return constant(_endpoint_text(node))
        if isinstance(node, tree.Variable):
            return self.read(self.variable(node))
        if isinstance(node, tree.SelectRef):
            return optional(f"{self.select(node.text, node.position)}(ctx)")
        if isinstance(node, tree.UriPart):
            return optional(f"{self.select('@ruri.' + node.name, node.position)}(ctx)")
        if isinstance(node, tree.Core):
            return core_operand(self, node)
        if isinstance(node, tree.Word):
            return self._word(node)
        if isinstance(node, tree.Unary):
            return self._unary(node)
        if isinstance(node, tree.Binary):
            return self._binary(node)
        if isinstance(node, tree.Call) and node.name not in builtins.PURE:
            return integer(self.call(node))
        return self._truth(node)

    def _truth(self, node: tree.Node) -> Code:
        return integer(f"(1 if {self.condition(node)} else 0)")

    def _word(self, node: tree.Word) -> Code:
        flags = self.unit.environment.flags
        if node.value in flags:
            return constant(flags[node.value])
        known = self.unit.function_names()
        hint = did_you_mean(node.value, [*known, *flags]) or "text needs quotes"
        if node.value in known:
            hint = f"call it: {node.value}()"
        self.fault(node.position, f"unknown name {node.value!r}", hint)
        return constant(0)

    def _unary(self, node: tree.Unary) -> Code:
        operator, operand = node.operator, node.operand
        if operator in ("-", "~"):
            return integer(f"wrap({operator}{self.as_int(operand)})")
        if operator == "int":
            return integer(self.as_int(operand))
        if operator == "str":
            return string(self.as_str(operand))
        if operator == "strlen":
            return integer(f"len({self.as_str(operand)})")
        return self._truth(node)

    def _binary(self, node: tree.Binary) -> Code:
        operator = node.operator
        if operator == "+":
            left, right = self.value(node.left), self.value(node.right)
            if left.kind is right.kind is Kind.INT:
                return integer(f"wrap({left.text} + {right.text})")
            if left.kind is right.kind is Kind.STR:
                return string(f"({left.text} + {right.text})")
            return any_value(f"add({left.text}, {right.text})")
        if operator in _ARITHMETIC:
            return integer(f"wrap({self.as_int(node.left)} {operator} {self.as_int(node.right)})")
        if operator in ("/", "mod", "%"):
            function = "divide" if operator == "/" else "modulo"
            return integer(f"{function}({self.as_int(node.left)}, {self.as_int(node.right)})")
        if operator in ("<<", ">>"):
            shift = f"min(63, max(0, {self.as_int(node.right)}))"
            return integer(f"wrap({self.as_int(node.left)} {operator} {shift})")
        return self._truth(node)


def _endpoint_text(node: tree.Endpoint) -> str:
    """``host:port`` as a value, with the protocol when one is written."""
    host = f"[{node.host}]" if ":" in node.host else node.host
    text = f"{host}:{node.port}" if node.port else host
    return f"{node.transport}:{text}" if node.transport else text
