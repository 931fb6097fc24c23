"""Arguments of script functions: checked and resolved at load time, written as Python expressions.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from serpy.context import avps
from serpy.script import formats, selects, tree
from serpy.script.coder import Coder
from serpy.script.exports import Arg, Function
from serpy.script.faults import did_you_mean
from serpy.sip.text import reason_text


class BadArgumentError(Exception):
    """What is wrong with an argument, and a hint."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def code_argument(coder: Coder, node: tree.Node, kind: Arg, function: Function, position: int) -> str:
    """The Python expression for the argument at *position* (from 0). Raises BadArgumentError."""
    prepare = function.prepare.get(position)
    if kind is Arg.TEMPLATE or prepare is not None:
        return _prepared(coder, node, kind, prepare)
    if kind is Arg.INT:
        return _integer(coder, node)
    if kind is Arg.FLAG:
        return str(flag_number(coder, node))
    if kind is Arg.VALUE:
        return _value(coder, node)
    if kind is Arg.FORMAT:
        return _format(coder, node)
    if kind is Arg.LINES:
        return _lines(coder, node)
    if kind is Arg.STATUS:
        return _status(coder, node)
    if kind is Arg.REASON:
        return _reason(coder, node)
    if kind in (Arg.AVP, Arg.TRACK):
        return _attribute(coder, node, kind)
    if kind in (Arg.REGEX, Arg.MATCH, Arg.SUBST):
        return _expression(coder, node, kind)
    if kind is Arg.ROUTE:
        return _route(coder, node, function)
    if kind is Arg.LOC and isinstance(node, tree.Integer):
        return repr(node.value)
    if kind is Arg.LOC and isinstance(node, (tree.Variable, tree.SelectRef)):
        return repr(node.text)
    return repr(_text(node, "text in quotes"))


def _text(node: tree.Node, wanted: str) -> str:
    if isinstance(node, (tree.String, tree.Word, tree.Address)):
        return node.value
    if isinstance(node, tree.Integer):
        return str(node.value)
    raise BadArgumentError(f"expected {wanted}", "this argument must be a constant")


def _expression(coder: Coder, node: tree.Node, kind: Arg) -> str:
    if kind is Arg.SUBST:
        text = _text(node, "/expression/replacement/flags in quotes")
        substitution = coder.substitution(text, node.position)
        return "None" if substitution is None else coder.unit.constant(substitution, "subst")
    text = _text(node, "a regular expression in quotes")
    pattern = coder.pattern(text, node.position, replaces=kind is Arg.MATCH)
    return "None" if pattern is None else coder.unit.constant(pattern, "re")


def _integer(coder: Coder, node: tree.Node) -> str:
    if isinstance(node, tree.String):
        text = node.value
        if text[:1] in ("$", "@"):
            return f"to_int({_value(coder, node)})"
        if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
            raise BadArgumentError(f"expected a number, found {text!r}")
        return str(int(text))
    if isinstance(node, tree.Word):
        raise BadArgumentError(f"expected a number, found {node.value!r}")
    return coder.as_int(node)


def flag_number(coder: Coder, node: tree.Node) -> int:
    """The number of a flag argument. Raises BadArgumentError."""
    environment = coder.unit.environment
    if isinstance(node, tree.Integer):
        if 0 <= node.value <= 31:
            return node.value
        raise BadArgumentError(f"flag numbers are 0 to 31, not {node.value}")
    name = _text(node, "a flag")
    number = environment.flag(name)
    if number < 0:
        hint = did_you_mean(name, environment.flags) or f"declare it: flags {name} : 1;"
        raise BadArgumentError(f"unknown flag {name!r}", hint)
    return number


def _value(coder: Coder, node: tree.Node) -> str:
    """A "$avp" or "@select" in a string is resolved per call; an expression is what it is."""
    if isinstance(node, (tree.Word, tree.Address)):
        return repr(node.value)
    if not isinstance(node, tree.String):
        return coder.value(node).text
    text = node.value
    if coder.unit.environment.dialect == "kamailio" and "$" in text:
        return _format(coder, node)
    try:
        if text[:1] == "$":
            variable = coder.avp_in_string(text)
            return coder.read(variable).text
        if text[:1] == "@":
            return f"{coder.unit.constant(selects.resolve_select(text, coder.unit.environment), 'sel')}(ctx)"
    except ValueError as error:
        raise BadArgumentError(str(error)) from None
    return repr(text[1:] if text[:2] in ("\\$", "\\@") else text)


def _format(coder: Coder, node: tree.Node) -> str:
    if not isinstance(node, tree.String):
        return coder.as_str(node) if not isinstance(node, tree.Word) else repr(node.value)
    try:
        parsed = formats.parse_format(node.value, coder.unit.environment)
    except ValueError as error:
        raise BadArgumentError(str(error)) from None
    if parsed.constant is not None:
        return repr(parsed.constant)
    return f"{coder.unit.constant(parsed.expand, 'fmt')}(ctx)"


def _lines(coder: Coder, node: tree.Node) -> str:
    """Text for header lines: line ends count where they are written in the script, those in values become spaces."""
    if isinstance(node, tree.String):
        try:
            parsed = formats.parse_format(node.value, coder.unit.environment)
        except ValueError as error:
            raise BadArgumentError(str(error)) from None
        if parsed.constant is not None:
            return repr(parsed.constant)
        return f"{coder.unit.constant(parsed.expand_in_line, 'fmt')}(ctx)"
    if isinstance(node, tree.Word):
        return repr(node.value)
    if isinstance(node, tree.Integer):
        return repr(str(node.value))
    if isinstance(node, tree.Binary) and node.operator == "+" and not _is_number(node.left):
        parts = [
            repr(part.value) if isinstance(part, tree.String) else _lines(coder, part)
            for part in (node.left, node.right)
        ]
        return f"({parts[0]} + {parts[1]})"
    return f"header_value({coder.as_str(node)})"


def _is_number(node: tree.Node) -> bool:
    """True when ``+`` may add, because the leftmost operand may be a number."""
    while isinstance(node, tree.Binary) and node.operator == "+":
        node = node.left
    return not isinstance(node, (tree.String, tree.SelectRef))


def _status(coder: Coder, node: tree.Node) -> str:
    text = str(node.value) if isinstance(node, tree.Integer) else node.value if isinstance(node, tree.String) else ""
    is_code = len(text) == 3 and text.isascii() and text.isdigit() and "100" <= text <= "699"
    if isinstance(node, (tree.Integer, tree.String)) and text[:1] not in ("$", "@", "%") and not is_code:
        raise BadArgumentError(f"{text!r} is no status", "a status is a number from 100 to 699")
    return _value(coder, node)


def _reason(coder: Coder, node: tree.Node) -> str:
    if isinstance(node, tree.String) and reason_text(node.value) != node.value:
        coder.unit.faults.warn(node.position, "control characters in a reason phrase: each is sent as a space")
        return _value(coder, tree.String(node.position, reason_text(node.value)))
    return _value(coder, node)


def _prepared(coder: Coder, node: tree.Node, kind: Arg, prepare: Callable[[object], object] | None) -> str:
    """A constant made from the argument's text at load time."""
    text = _text(node, "text in quotes")
    try:
        made: object = formats.parse_format(text, coder.unit.environment) if kind is Arg.TEMPLATE else text
        if prepare is not None:
            made = prepare(made)
    except ValueError as error:
        raise BadArgumentError(str(error)) from None
    return repr(made) if isinstance(made, (str, int)) else coder.unit.constant(made, "arg")


def _attribute(coder: Coder, node: tree.Node, kind: Arg) -> str:
    text = node.text if isinstance(node, tree.Variable) else _text(node, "an attribute")
    try:
        name = avps.parse_track(text) if kind is Arg.TRACK else avps.parse_avp_name(text)
    except ValueError as error:
        raise BadArgumentError(str(error)) from None
    return coder.unit.constant(name, "avp")


def _route(coder: Coder, node: tree.Node, function: Function) -> str:
    name = _text(node, "the name of a route")
    kind = function.route_kind or "route"
    known = coder.unit.route_names(kind)
    if name not in known and name not in ("", "0"):
        hint = did_you_mean(name, known)
        elsewhere = coder.unit.kinds_with(name)
        if not hint and elsewhere:
            hint = f"there is {elsewhere[0]}[{name}], but {function.name} needs {kind}[{name}]"
        raise BadArgumentError(f"no {kind}[{name}] in this script", hint or f"add: {kind}[{name}] {{ … }}")
    return repr("" if name == "0" else name)
