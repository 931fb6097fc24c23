"""``==``, ``!=``, ``=~``, ``eq``, ``ieq`` … as conditions: by type, against text, patterns, networks and ``myself``.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.script import tree
from serpy.script.code import Kind, negated
from serpy.script.coder import Coder
from serpy.script.core_operands import ADDRESSES, core_operand
from serpy.script.networks import Networks, parse_network
from serpy.script.patterns import anchored

Network = tuple[int, int, int]

_NEGATED: Final = {"!=": "==", "ne": "eq", "ine": "ieq"}
OPERATORS: Final = ("==", "=~", "eq", "ieq", *_NEGATED)


def comparison(coder: Coder, node: tree.Binary) -> str:
    """One comparison as a condition."""
    operator, left, right = node.operator, node.left, node.right
    if isinstance(right, tree.Core) and right.name == "myself":
        return _myself(coder, left, operator, right)
    if isinstance(left, tree.Core):
        if left.name == "myself":
            return _myself(coder, right, operator, left)
        if left.name in ADDRESSES:
            return _address(coder, node, left)
    code = _positive(coder, left, _NEGATED.get(operator, operator), right)
    return negated(code) if operator in _NEGATED else code


def _positive(coder: Coder, left: tree.Node, operator: str, right: tree.Node) -> str:
    if operator == "=~":
        return match(coder, coder.as_str(left), right)
    if isinstance(left, tree.Core) and operator in ("==", "eq"):
        code = core_operand(coder, left)
        if code.kind is Kind.STR:
            return _core_text(coder, code.text, left, right)
    if operator == "eq":
        return f"{coder.as_str(left)} == {coder.as_str(right)}"
    if operator == "ieq":
        return f"{coder.as_int(left)} == {coder.as_int(right)}"
    value = coder.value(left)
    if isinstance(right, tree.Variable) and right.text == "$null":
        return value.is_undefined()
    return value.equals(coder.value(right))


def match(coder: Coder, subject: str, right: tree.Node) -> str:
    """``subject =~ right`` for text code *subject*."""
    text = _constant_text(right)
    if text is None:
        return f"search_dynamic({coder.as_str(right)}, {subject})"
    pattern = coder.pattern(text, right.position)
    if pattern is None:
        return "False"
    search = pattern.search
    compiled = pattern.compiled
    if pattern.engine == "re" and compiled is not None and text.startswith("^") and "|" not in text:
        search = anchored(compiled, text)
    return f"{coder.unit.constant(search, 're')}({subject})"


def _constant_text(node: tree.Node) -> str | None:
    """The text of a constant, also of one in pieces (``"^sip:" + PREFIX``); None for what is made at run time."""
    if isinstance(node, (tree.String, tree.Address)):
        return node.value
    if isinstance(node, tree.Binary) and node.operator == "+":
        left, right = _constant_text(node.left), _constant_text(node.right)
        return left + right if left is not None and right is not None else None
    return None


def _core_text(coder: Coder, code: str, left: tree.Core, right: tree.Node) -> str:
    """A text operand == something, case-insensitive; methods are compared exactly (RFC 3261 §7.1)."""
    if isinstance(right, (tree.String, tree.Word)):
        text = right.value
        if left.name == "method":
            return f"{code} == {text.upper()!r}"
        if left.name in ("proto", "snd_proto"):
            return f"{code} == {text.lower()!r}"
        if left.name == "status" and text.isascii() and text.isdigit() and len(text) != 3:
            coder.fault(right.position, f"a status has three digits, not {text!r}")
        return f"same({code}, {text.lower()!r})"
    if isinstance(right, tree.Integer):
        return f"{code} == {str(right.value)!r}"
    return f"same({code}, {coder.as_str(right)}.lower())"


def _myself(coder: Coder, operand: tree.Node, operator: str, place: tree.Node) -> str:
    name = operand.name if isinstance(operand, tree.Core) else ""
    if name == "uri":
        code = "uri_is_myself(ctx)"
    elif name in ("from_uri", "to_uri"):
        code = f"header_uri_is_myself(ctx, {name == 'from_uri'})"
    elif name in ADDRESSES:
        code = f"HOOKS.is_my_address({coder.value(operand).text})"
    else:
        hint = "compare uri, from_uri, to_uri, src_ip or dst_ip with myself"
        coder.fault(place.position, "'myself' cannot be compared with this", hint)
        return "False"
    return negated(code) if operator in _NEGATED else code


# ---- addresses


def _address(coder: Coder, node: tree.Binary, left: tree.Core) -> str:
    code = core_operand(coder, left).text
    right = node.right
    if node.operator == "=~" and not isinstance(right, tree.Address):
        return match(coder, code, right)
    if isinstance(right, tree.Word) and right.value == "private":
        result = "HOOKS.to_is_private(ctx)" if left.name == "to_ip" else f"is_private({code})"
    elif isinstance(right, (tree.Address, tree.String, tree.Word)):
        result = _constant_address(coder, code, right)
    else:
        result = f"address_equals({code}, {coder.value(right).text})"
    return negated(result) if node.operator in _NEGATED else result


def _constant_address(coder: Coder, code: str, right: tree.Address | tree.String | tree.Word) -> str:
    try:
        network, mask, size = parse_network(right.value)
    except ValueError as error:
        if isinstance(right, tree.Address) or "/" in right.value:
            coder.fault(right.position, str(error))
        return f"address_equals({code}, {right.value!r})"
    if "/" not in right.value and size == 4:
        return f"{code} == {right.value!r}"
    return _in_networks(coder, code, [(network, mask, size)])


def _in_networks(coder: Coder, code: str, networks: list[Network]) -> str:
    return f"{coder.unit.constant(Networks(networks).holds, 'in_networks')}({code})"


def grouped(coder: Coder, parts: list[tree.Node], operator: str) -> list[str]:
    """The conditions *parts*; neighbours that compare one address with networks become one look-up."""
    codes: list[str] = []
    at = 0
    while at < len(parts):
        first = parts[at]
        networks = _compared_networks(parts, at, operator)
        if len(networks) > 1 and isinstance(first, tree.Binary) and isinstance(first.left, tree.Core):
            code = _in_networks(coder, core_operand(coder, first.left).text, networks)
            codes.append(negated(code) if operator == "!=" else code)
            at += len(networks)
        else:
            codes.append(f"({coder.condition(first)})")
            at += 1
    return codes


def _compared_networks(parts: list[tree.Node], at: int, operator: str) -> list[Network]:
    """The constant networks that the operand of parts[at] is compared with there and in the parts behind it."""
    networks: list[Network] = []
    for part in parts[at:]:
        network = _compared_network(part, operator)
        if network is None or _left_name(part) != _left_name(parts[at]):
            break
        networks.append(network)
    return networks


def _compared_network(node: tree.Node, operator: str) -> Network | None:
    """The constant network of ``src_ip == 10.0.0.0/8`` and its like, None for another condition."""
    if not isinstance(node, tree.Binary) or node.operator != operator or _left_name(node) not in ADDRESSES:
        return None
    if not isinstance(node.right, (tree.Address, tree.String, tree.Word)):
        return None
    try:
        return parse_network(node.right.value)
    except ValueError:
        return None


def _left_name(node: tree.Node) -> str:
    return node.left.name if isinstance(node, tree.Binary) and isinstance(node.left, tree.Core) else ""


__all__ = ["OPERATORS", "comparison", "grouped", "match"]
