"""Expressions as conditions: what counts as true, ``&&`` and ``||``, ``defined``.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from serpy.context.avps import ALL
from serpy.script import builtins, comparisons, tree
from serpy.script.code import Code
from serpy.script.coder import Coder
from serpy.script.in_place import pure_call


def condition(coder: Coder, node: tree.Node) -> str:
    """Code that Python tests for truth."""
    if isinstance(node, tree.Unary):
        return _unary(coder, node)
    if isinstance(node, tree.Binary):
        return _binary(coder, node)
    if isinstance(node, (tree.Variable, tree.SelectRef)):
        return _bare(coder, node)
    if isinstance(node, tree.Call):
        return pure_call(coder, node) if node.name in builtins.PURE else f"{coder.call(node)} > 0"
    if isinstance(node, tree.AssignExpression):
        return _assignment(coder, node)
    if isinstance(node, tree.Core) and node.name != "max_len":
        coder.fault(node.position, f"{node.name!r} alone is no condition", f"compare it: {node.name} == …")
    return f"{coder.as_int(node)} > 0"


def _unary(coder: Coder, node: tree.Unary) -> str:
    operator = node.operator
    if operator == "!":
        return f"not ({coder.condition(node.operand)})"
    if operator == "strempty":
        return coder.value(node.operand).is_empty()
    if operator == "defined":
        return coder.value(node.operand).is_defined()
    return f"{coder.as_int(node)} > 0"


def _binary(coder: Coder, node: tree.Binary) -> str:
    if node.operator in ("&&", "||"):
        return _logic(coder, node)
    if node.operator in comparisons.OPERATORS:
        return comparisons.comparison(coder, node)
    if node.operator in ("<", ">", "<=", ">="):
        return f"{coder.as_int(node.left)} {node.operator} {coder.as_int(node.right)}"
    return f"{coder.as_int(node)} > 0"


def _bare(coder: Coder, node: tree.Variable | tree.SelectRef) -> str:
    """2.x: defined and neither empty nor 0. The modern dialect converts to int."""
    if coder.unit.environment.dialect == "kamailio":
        return f"{coder.as_int(node)} > 0"
    if isinstance(node, tree.SelectRef):
        return coder.value(node).truth()
    variable = coder.variable(node)
    if variable.avp is not None and variable.avp.index == ALL:
        return f"ctx.avps.exists({coder.unit.constant(variable.avp, 'avp')})"
    return coder.read(variable).truth()


def _assignment(coder: Coder, node: tree.AssignExpression) -> str:
    value = coder.value(node.value)
    result = Code(coder.out.temporary(), value.kind)
    coder.out.emit(f"{result.text} = {value.text}", node.position)
    coder.write(node.target, result)
    return f"{result.as_int()} > 0"


# ---- && and ||


def _logic(coder: Coder, node: tree.Binary) -> str:
    word = "and" if node.operator == "&&" else "or"
    parts = _operands(node, node.operator)
    if not any(_has_statements(part) for part in parts):
        return "(" + f" {word} ".join(comparisons.grouped(coder, parts, "!=" if word == "and" else "==")) + ")"
    left = coder.condition(node.left)
    if not _has_statements(node.right):
        return f"(({left}) {word} ({coder.condition(node.right)}))"
    result = coder.out.temporary()
    coder.out.emit(f"{result} = {left}", node.position)
    coder.out.emit(f"if {'' if word == 'and' else 'not '}{result}:", node.position)
    with coder.out.indented():
        right = coder.condition(node.right)
        coder.out.emit(f"{result} = {right}", node.position)
    return result


def _operands(node: tree.Node, operator: str) -> list[tree.Node]:
    """What a chain of one *operator* joins, from left to right."""
    if isinstance(node, tree.Binary) and node.operator == operator:
        return _operands(node.left, operator) + _operands(node.right, operator)
    return [node]


def _has_statements(node: tree.Node) -> bool:
    """True when the node's code needs statements in front of it."""
    if isinstance(node, tree.Call):
        return node.name not in ("isflagset", "isavpflagset")
    if isinstance(node, tree.AssignExpression):
        return True
    if isinstance(node, tree.Binary):
        return _has_statements(node.left) or _has_statements(node.right)
    return isinstance(node, tree.Unary) and _has_statements(node.operand)
