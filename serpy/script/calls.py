"""Calls of script functions: found by name and number of arguments, checked, written as a statement.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from serpy.script import builtins, tree
from serpy.script.arguments import BadArgumentError, code_argument
from serpy.script.coder import Coder
from serpy.script.exports import Function
from serpy.script.faults import did_you_mean
from serpy.script.in_place import call_in_place


def call(coder: Coder, node: tree.Call) -> str:
    """Emit a call; the result is the name of the variable that holds its value."""
    name = builtins.SYNONYMS.get(node.name, node.name)
    if name in builtins.IN_PLACE:
        return call_in_place(coder, node, name)
    found = _find(coder, node, name)
    result = coder.out.temporary()
    if found is None:
        coder.out.emit(f"{result} = 1", node.position)
        return result
    module, function = found
    coder.check_kind(node, function.name, function.routes)
    arguments = ["ctx", *_arguments(coder, node, function)]
    code = f"{coder.unit.constant(function.call, 'f_' + function.name)}({', '.join(arguments)})"
    coder.out.emit_call(result, code, function.name, node.position, guarded=module != "core")
    return result


def _find(coder: Coder, node: tree.Call, name: str) -> tuple[str, Function] | None:
    candidates = coder.unit.functions(name)
    if not candidates:
        _unknown(coder, node, name)
        return None
    count = len(node.arguments)
    for candidate in candidates:
        if len(candidate[1].args) - candidate[1].optional <= count <= len(candidate[1].args):
            return candidate
    wanted = ", ".join(kind.value for kind in candidates[0][1].args)
    hint = f"it is {node.name}({wanted})" if wanted else f"it is {node.name}()"
    message = f"{node.name} takes {_counts([function for _, function in candidates])}, not {count}"
    coder.fault(node.position, message, hint)
    return None


def _unknown(coder: Coder, node: tree.Call, name: str) -> None:
    if not coder.unit.modules_failed:
        hint = coder.unit.where_function(name) or did_you_mean(name, coder.unit.function_names())
        coder.fault(node.position, f"unknown function {node.name!r}", hint)
    for argument in node.arguments:  # they may have errors of their own
        if not isinstance(argument, tree.Word):
            coder.value(argument)


def _counts(functions: list[Function]) -> str:
    numbers = sorted({n for f in functions for n in range(len(f.args) - f.optional, len(f.args) + 1)})
    if numbers == [0]:
        return "no arguments"
    text = " or ".join(str(number) for number in numbers)
    return f"{text} argument{'' if numbers == [1] else 's'}"


def _arguments(coder: Coder, node: tree.Call, function: Function) -> list[str]:
    codes: list[str] = []
    for place, (argument, kind) in enumerate(zip(node.arguments, function.args, strict=False)):
        try:
            codes.append(code_argument(coder, argument, kind, function, place))
        except BadArgumentError as error:
            coder.fault(argument.position, f"argument {place + 1} of {node.name}: {error.message}", error.hint)
            codes.append("None")
    return codes
