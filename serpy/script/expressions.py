"""Expressions -> Python text. Errors are noted and a harmless value stands in, so that all of them are found.

A value is a pair (code, type): "int", "str", "opt" (str or None) or "val" (int, str or None). A condition is code that
Python tests. Calls that may end the script are written as statements before the expression that uses their result.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from serpy.context.avps import ALL, GLOBAL, AvpName, parse_avp_name
from serpy.script import builtins, operands, runtime, selects, tree
from serpy.script.arguments import BadArgumentError, code_argument, flag_number
from serpy.script.check import KIND_NAMES, called_route
from serpy.script.exports import Function, Routes
from serpy.script.faults import REGEX_HINT, Position, did_you_mean

if TYPE_CHECKING:
    from serpy.script.codegen import RouteCoder, Unit

Value = tuple[str, str]

_NEGATED: Final = {"!=": "==", "ne": "eq", "ine": "ieq"}
_ADDRESSES: Final = {
    "src_ip": "ctx.flow.host", "dst_ip": "ctx.flow.listener.host", "to_ip": "out_host(ctx)",
    "snd_ip": "out_listener_host(ctx)",
}  # fmt: skip
_CORE: Final[dict[str, Value]] = {
    "from_uri": ("from_uri(ctx)", "str"), "to_uri": ("to_uri(ctx)", "str"),
    "src_port": ("ctx.flow.port", "int"), "dst_port": ("ctx.flow.listener.port", "int"),
    "to_port": ("out_port(ctx)", "int"), "snd_port": ("out_listener_port(ctx)", "int"),
    "proto": ("ctx.flow.transport", "str"), "snd_proto": ("out_transport(ctx)", "str"),
    "af": ('(10 if ":" in ctx.flow.host else 2)', "int"), "snd_af": ('(10 if ":" in out_host(ctx) else 2)', "int"),
    "max_len": ("65535", "int"), **{name: (code, "str") for name, code in _ADDRESSES.items()},
}  # fmt: skip
_ONSEND_ONLY: Final = ("to_ip", "to_port", "snd_ip", "snd_port", "snd_proto", "snd_af")
_ARITHMETIC: Final = {"-": "-", "*": "*", "|": "|", "&": "&", "^": "^"}


class ExpressionCoder:
    """Writes the expressions of one route; *out* is where statements in front of them go."""

    def __init__(self, unit: Unit, out: RouteCoder, kinds: Routes) -> None:
        self.unit = unit
        self.out = out
        self.kinds = kinds

    def fault(self, position: Position, message: str, hint: str = "") -> None:
        """Note an error."""
        self.unit.faults.add(position, message, hint)

    # ---- values

    def value(self, node: tree.Node) -> Value:
        """Code and type of any expression."""
        if isinstance(node, tree.Integer):
            return repr(node.value), "int"
        if isinstance(node, tree.String):
            return repr(node.value), "str"
        if isinstance(node, tree.Variable):
            return self.read_variable(self._variable(node))
        if isinstance(node, tree.SelectRef):
            return f"{self._select(node)}(ctx)", "opt"
        if isinstance(node, tree.Core):
            return self._core(node)
        if isinstance(node, tree.UriPart):
            return (
                f"{self.unit.constant(selects.resolve_select('@ruri.' + node.name, self.unit.environment), 'sel')}(ctx)",
                "opt",
            )
        if isinstance(node, tree.Address):
            return repr(node.value), "str"
        if isinstance(node, tree.Endpoint):
            return repr(_endpoint_text(node)), "str"
        if isinstance(node, tree.Word):
            return self._word(node)
        if isinstance(node, tree.Unary):
            return self._unary(node)
        if isinstance(node, tree.Binary):
            return self._binary(node)
        if isinstance(node, tree.Call) and node.name not in builtins.PURE:
            return self.call(node), "int"
        return f"(1 if {self.condition(node)} else 0)", "int"

    def as_int(self, node: tree.Node) -> str:
        """The expression converted to int."""
        if isinstance(node, tree.String):
            return repr(runtime.to_int(node.value))
        code, kind = self.value(node)
        return code if kind == "int" else f"to_int({code})"

    def as_str(self, node: tree.Node) -> str:
        """The expression converted to text."""
        if isinstance(node, tree.Integer):
            return repr(str(node.value))
        code, kind = self.value(node)
        return code if kind == "str" else f'({code} or "")' if kind == "opt" else f"to_str({code})"

    def _word(self, node: tree.Word) -> Value:
        number = self.unit.environment.flags.get(node.value)
        if number is not None:
            return repr(number), "int"
        known = self.unit.function_names()
        hint = did_you_mean(node.value, [*known, *self.unit.environment.flags]) or "text needs quotes"
        self.fault(
            node.position, f"unknown name {node.value!r}", f"call it: {node.value}()" if node.value in known else hint
        )
        return "0", "int"

    def _core(self, node: tree.Core) -> Value:
        name = node.name
        if name in _ONSEND_ONLY and self.kinds & ~Routes.ONSEND:
            self.fault(
                node.position, f"{name} exists only in onsend_route", "elsewhere nobody knows yet where it will go"
            )
        if name == "method":
            return "ctx.message.method", "str"
        if name in ("uri", "status"):
            return ("uri_or_status(ctx)" if self.kinds & Routes.ONREPLY else "ctx.request_uri"), "str"
        if name == "msg:len":
            return ("message_length(ctx)" if self.kinds & Routes.ONSEND else "len(ctx.message.raw)"), "int"
        if name == "myself":
            self.fault(node.position, "'myself' can only be compared", "for example: uri == myself")
            return "0", "int"
        return _CORE[name]

    def _select(self, node: tree.SelectRef) -> str:
        try:
            return self.unit.constant(selects.resolve_select(node.text, self.unit.environment), "sel")
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            self.fault(node.position, message, hint)
            return self.unit.constant(_undefined, "sel")

    def _variable(self, node: tree.Variable) -> operands.Variable:
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

    def read_variable(self, variable: operands.Variable) -> Value:
        """Code that reads an attribute or pseudo-variable."""
        if variable.avp is not None:
            return f"ctx.avps.read({self.unit.constant(variable.avp, 'avp')})", "val"
        if variable.read is operands._rc:
            return "ctx.retcode", "int"
        return f"{self.unit.constant(variable.read, 'pv')}(ctx)", "val"

    def _unary(self, node: tree.Unary) -> Value:
        operator = node.operator
        if operator == "-":
            return f"(-{self.as_int(node.operand)})", "int"
        if operator == "~":
            return f"(~{self.as_int(node.operand)})", "int"
        if operator == "int":
            return self.as_int(node.operand), "int"
        if operator == "str":
            return self.as_str(node.operand), "str"
        if operator == "strlen":
            return f"len({self.as_str(node.operand)})", "int"
        return f"(1 if {self.condition(node)} else 0)", "int"

    def _binary(self, node: tree.Binary) -> Value:
        operator = node.operator
        if operator == "+":
            (left, left_type), (right, right_type) = self.value(node.left), self.value(node.right)
            if left_type == right_type and left_type in ("int", "str"):
                return f"({left} + {right})", left_type
            return f"add({left}, {right})", "val"
        if operator in _ARITHMETIC:
            return f"({self.as_int(node.left)} {_ARITHMETIC[operator]} {self.as_int(node.right)})", "int"
        if operator in ("/", "mod", "%"):
            function = "divide" if operator == "/" else "modulo"
            return f"{function}({self.as_int(node.left)}, {self.as_int(node.right)})", "int"
        if operator in ("<<", ">>"):
            return f"({self.as_int(node.left)} {operator} min(63, max(0, {self.as_int(node.right)})))", "int"
        return f"(1 if {self.condition(node)} else 0)", "int"

    # ---- conditions

    def condition(self, node: tree.Node) -> str:
        """Code that Python tests for truth."""
        if isinstance(node, tree.Unary):
            return self._unary_condition(node)
        if isinstance(node, tree.Binary):
            if node.operator in ("&&", "||"):
                return self._logic(node)
            if node.operator in ("==", "!=", "=~", "eq", "ne", "ieq", "ine"):
                return self._comparison(node)
            if node.operator in ("<", ">", "<=", ">="):
                return f"{self.as_int(node.left)} {node.operator} {self.as_int(node.right)}"
            return f"{self.as_int(node)} > 0"
        if isinstance(node, (tree.Variable, tree.SelectRef)):
            return self._bare(node)
        if isinstance(node, tree.Call):
            if node.name in builtins.PURE:
                return self._pure_call(node)
            return f"{self.call(node)} > 0"
        if isinstance(node, tree.AssignExpression):
            return self._assign_condition(node)
        if isinstance(node, tree.Core) and node.name != "max_len":
            self.fault(node.position, f"{node.name!r} alone is no condition", f"compare it: {node.name} == …")
        return f"{self.as_int(node)} > 0"

    def _bare(self, node: tree.Variable | tree.SelectRef) -> str:
        """2.x: defined and neither empty nor 0. The modern dialect converts to int."""
        if self.unit.environment.dialect == "kamailio":
            return f"{self.as_int(node)} > 0"
        if isinstance(node, tree.SelectRef):
            return f"{self._select(node)}(ctx)"
        variable = self._variable(node)
        if variable.avp is not None and variable.avp.index == ALL:
            return f"ctx.avps.exists({self.unit.constant(variable.avp, 'avp')})"
        code, kind = self.read_variable(variable)
        return f"{code} > 0" if kind == "int" else code

    def _unary_condition(self, node: tree.Unary) -> str:
        operator = node.operator
        if operator == "!":
            return f"not ({self.condition(node.operand)})"
        if operator == "strempty":
            code, kind = self.value(node.operand)
            return f"not {code}" if kind in ("str", "opt") else f"not to_str({code})"
        if operator == "defined":
            code, kind = self.value(node.operand)
            return f"{code} is not None" if kind in ("val", "opt") else "True"
        return f"{self.as_int(node)} > 0"

    def _logic(self, node: tree.Binary) -> str:
        word = "and" if node.operator == "&&" else "or"
        parts = _operands(node, node.operator)
        if len(parts) > 1 and not any(self._has_statements(part) for part in parts):
            return "(" + f" {word} ".join(self._grouped(parts, "!=" if word == "and" else "==")) + ")"
        left = self.condition(node.left)
        if not self._has_statements(node.right):
            return f"(({left}) {word} ({self.condition(node.right)}))"
        result = self.out.temporary()
        self.out.emit(f"{result} = {left}", node.position)
        self.out.emit(f"if {'' if word == 'and' else 'not '}{result}:", node.position)
        with self.out.indented():
            right = self.condition(node.right)
            self.out.emit(f"{result} = {right}", node.position)
        return result

    def _has_statements(self, node: tree.Node) -> bool:
        """True when the node's code needs statements in front of it."""
        if isinstance(node, tree.Call):
            return node.name not in ("isflagset", "isavpflagset")
        if isinstance(node, tree.AssignExpression):
            return True
        if isinstance(node, tree.Binary):
            return self._has_statements(node.left) or self._has_statements(node.right)
        return isinstance(node, tree.Unary) and self._has_statements(node.operand)

    def _assign_condition(self, node: tree.AssignExpression) -> str:
        result = self.out.temporary()
        code, kind = self.value(node.value)
        self.out.emit(f"{result} = {code}", node.position)
        self.write(node.target, result, kind)
        return f"to_int({result}) > 0"

    # ---- comparisons

    def _comparison(self, node: tree.Binary) -> str:
        operator, left, right = node.operator, node.left, node.right
        if isinstance(right, tree.Core) and right.name == "myself":
            return self._myself(left, operator, right)
        if isinstance(left, tree.Core):
            if left.name == "myself":
                return self._myself(right, operator, left)
            if left.name in _ADDRESSES:
                return self._address(node, left)
        negated = operator in _NEGATED
        positive = _NEGATED.get(operator, operator)
        if isinstance(left, tree.Core) and self._core(left)[1] == "str" and positive in ("==", "eq"):
            code = self._core_text(left, right)
        elif positive == "=~":
            code = self._match(left, right)
        elif positive == "eq":
            code = f"{self.as_str(left)} == {self.as_str(right)}"
        elif positive == "ieq":
            code = f"{self.as_int(left)} == {self.as_int(right)}"
        else:
            code = self._equal(left, right)
        return _negate(code) if negated else code

    def _equal(self, left: tree.Node, right: tree.Node) -> str:
        code, kind = self.value(left)
        if isinstance(right, tree.Variable) and right.text == "$null":
            return f"{code} is None" if kind in ("val", "opt") else "False"
        if isinstance(right, tree.String):
            return self._equal_text(code, kind, right.value)
        if isinstance(right, tree.Integer):
            if kind == "int":
                return f"{code} == {right.value}"
            return _one_of(code, right.value, str(right.value), undefined=right.value == 0)
        other, other_kind = self.value(right)
        if kind == other_kind and kind in ("int", "str"):
            return f"{code} == {other}"
        return f"equal({code}, {other})"

    def _equal_text(self, code: str, kind: str, text: str) -> str:
        if kind == "int":
            return f"{code} == {runtime.to_int(text)}"
        if kind == "val":
            return _one_of(code, text, runtime.to_int(text), undefined=not text)
        return f"{code} == {text!r}" if text or kind == "str" else f"not {code}"

    def _match(self, left: tree.Node, right: tree.Node) -> str:
        return self.match_code(self.as_str(left), right)

    def match_code(self, subject: str, right: tree.Node) -> str:
        """``subject =~ right`` for text code *subject*."""
        if isinstance(right, (tree.String, tree.Address)):
            try:
                pattern = runtime.compile_regex(right.value)
            except re.error as error:
                self.fault(right.position, f"bad regular expression: {error}", REGEX_HINT)
                return "False"
            if right.value.startswith("^") and "|" not in right.value:
                return f"{self.unit.constant(runtime.Anchored(pattern).holds, 're')}({subject})"
            return f"{self.unit.constant(pattern.search, 're')}({subject})"
        return f"search_dynamic({self.as_str(right)}, {subject})"

    def _core_text(self, left: tree.Core, right: tree.Node) -> str:
        """A text operand == something, case-insensitive; methods are compared exactly (RFC 3261 §7.1)."""
        code, _ = self._core(left)
        if isinstance(right, (tree.String, tree.Word)):
            text = right.value
            if left.name == "method":
                return f"{code} == {text.upper()!r}"
            if left.name in ("proto", "snd_proto"):
                return f"{code} == {text.lower()!r}"
            if left.name == "status" and text.isascii() and text.isdigit() and len(text) != 3:
                self.fault(right.position, f"a status has three digits, not {text!r}")
            return f"same({code}, {text.lower()!r})"
        if isinstance(right, tree.Integer):
            return f"{code} == {str(right.value)!r}"
        return f"same({code}, {self.as_str(right)}.lower())"

    def _grouped(self, parts: list[tree.Node], operator: str) -> list[str]:
        """The conditions *parts*; neighbours that compare one address with networks become one look-up."""
        codes: list[str] = []
        at = 0
        while at < len(parts):
            networks: list[tuple[int, int, int]] = []
            first = parts[at]
            while at < len(parts):
                network = _compared_network(parts[at], operator)
                if network is None or _left_name(parts[at]) != _left_name(first):
                    break
                networks.append(network)
                at += 1
            if len(networks) > 1 and isinstance(first, tree.Binary) and isinstance(first.left, tree.Core):
                code = self._in_networks(self._core(first.left)[0], networks)
                codes.append(_negate(code) if operator == "!=" else code)
                continue
            if networks:
                at -= 1
            codes.append(f"({self.condition(parts[at])})")
            at += 1
        return codes

    def _in_networks(self, code: str, networks: list[tuple[int, int, int]]) -> str:
        return f"{self.unit.constant(runtime.Networks(networks).holds, 'in_networks')}({code})"

    def _myself(self, operand: tree.Node, operator: str, place: tree.Node) -> str:
        name = operand.name if isinstance(operand, tree.Core) else ""
        if name == "uri":
            code = "uri_is_myself(ctx)"
        elif name in ("from_uri", "to_uri"):
            code = f"header_uri_is_myself(ctx, {name == 'from_uri'})"
        elif name in _ADDRESSES:
            code = f"HOOKS.is_my_address({self.value(operand)[0]})"
        else:
            hint = "compare uri, from_uri, to_uri, src_ip or dst_ip with myself"
            self.fault(place.position, "'myself' cannot be compared with this", hint)
            return "False"
        return _negate(code) if operator in _NEGATED else code

    def _address(self, node: tree.Binary, left: tree.Core) -> str:
        code, _ = self._core(left)
        right = node.right
        if node.operator == "=~" and not isinstance(right, tree.Address):
            return self._match(left, right)
        if isinstance(right, (tree.Address, tree.String, tree.Word)):
            result = self._constant_address(code, right)
        else:
            result = f"address_equals({code}, {self.value(right)[0]})"
        return _negate(result) if node.operator in _NEGATED else result

    def _constant_address(self, code: str, right: tree.Address | tree.String | tree.Word) -> str:
        try:
            network, mask, size = runtime.parse_network(right.value)
        except ValueError as error:
            if isinstance(right, tree.Address) or "/" in right.value:
                self.fault(right.position, str(error))
            return f"address_equals({code}, {right.value!r})"
        if "/" not in right.value and size == 4:
            return f"{code} == {right.value!r}"
        return self._in_networks(code, [(network, mask, size)])

    # ---- assignment

    def write(self, target: tree.Variable, code: str, kind: str) -> None:
        """Emit ``target = code``; an undefined select stores an empty string."""
        variable = self._variable(target)
        if variable.avp is not None:
            self._write_avp(target, variable.avp, code, kind)
        elif variable.write is not None:
            self.out.emit(f"{self.unit.constant(variable.write, 'set')}(ctx, {code})", target.position)
        elif variable.read is not _undefined:
            hint = "it tells about the message; keep values in attributes of your own, for example $f.name"
            self.fault(target.position, f"{target.text} cannot be assigned", hint)

    def _write_avp(self, target: tree.Variable, avp: AvpName, code: str, kind: str) -> None:
        if avp.write_list == GLOBAL:
            self.fault(target.position, f"{target.text} cannot be assigned", "global attributes are read-only")
            return
        if kind == "opt":
            code = f'({code} or "")'
        self.out.emit(f"ctx.avps.write({self.unit.constant(avp, 'avp')}, {code})", target.position)

    # ---- calls

    def call(self, node: tree.Call) -> str:
        """Emit a call; the result is the name of the variable that holds its value."""
        name = builtins.SYNONYMS.get(node.name, node.name)
        if name in builtins.IN_PLACE:
            return self._in_place(node, name)
        found = self._find(node, name)
        result = self.out.temporary()
        if found is None:
            self.out.emit(f"{result} = 1", node.position)
            return result
        module, function = found
        self._check_kind(node, function.name, function.routes)
        arguments = self._arguments(node, function)
        call = f"{self.unit.constant(function.call, 'f_' + function.name)}({', '.join(['ctx', *arguments])})"
        self.out.emit_call(result, call, function.name, node.position, guarded=module != "core")
        return result

    def _find(self, node: tree.Call, name: str) -> tuple[str, Function] | None:
        candidates = self.unit.functions(name)
        if not candidates:
            if not self.unit.modules_failed:
                hint = self.unit.where_function(name) or did_you_mean(name, self.unit.function_names())
                self.fault(node.position, f"unknown function {node.name!r}", hint)
            for argument in node.arguments:
                if not isinstance(argument, tree.Word):
                    self.value(argument)
            return None
        count = len(node.arguments)
        for candidate in candidates:
            if len(candidate[1].args) - candidate[1].optional <= count <= len(candidate[1].args):
                return candidate
        wanted = ", ".join(kind.value for kind in candidates[0][1].args)
        hint = f"it is {node.name}({wanted})" if wanted else f"it is {node.name}()"
        self.fault(node.position, f"{node.name} takes {_counts([c[1] for c in candidates])}, not {count}", hint)
        return None

    def _arguments(self, node: tree.Call, function: Function) -> list[str]:
        codes: list[str] = []
        for place, (argument, kind) in enumerate(zip(node.arguments, function.args, strict=False)):
            try:
                codes.append(code_argument(self, argument, kind, function, place))
            except BadArgumentError as error:
                self.fault(argument.position, f"argument {place + 1} of {node.name}: {error.message}", error.hint)
                codes.append("None")
        return codes

    def _check_kind(self, node: tree.Call, name: str, allowed: Routes) -> None:
        if allowed & Routes.REQUEST:
            allowed |= Routes.EVENT
        for kind, title in KIND_NAMES.items():
            if self.kinds & kind and not allowed & kind:
                path = self.unit.graph.path(self.out.route, kind)
                legal = ", ".join(other for bit, other in KIND_NAMES.items() if allowed & bit)
                reached = f"reached by {path}; " if path else ""
                self.fault(node.position, f"{name} is not allowed in {title}", f"{reached}it is legal in {legal}")
                return

    # ---- built-ins written in place

    def _arity(self, node: tree.Call, name: str) -> bool:
        fewest, most = builtins.IN_PLACE[name]
        if fewest <= len(node.arguments) <= most:
            return True
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        self.fault(
            node.position,
            f"{node.name} takes {wanted} argument{'' if wanted == '1' else 's'}, not {len(node.arguments)}",
        )
        return False

    def _in_place(self, node: tree.Call, name: str) -> str:
        result = self.out.temporary()
        if name in builtins.PURE:
            self.out.emit(f"{result} = 1 if {self._pure_call(node)} else -1", node.position)
        elif not self._arity(node, name):
            self.out.emit(f"{result} = 1", node.position)
        elif name == "route":
            self._route_call(node, result)
        elif name == "force_send_socket":
            self._send_socket(node, result)
        else:
            self._forward(node, name, result)
        return result

    def _pure_call(self, node: tree.Call) -> str:
        """Setflag and its family; they leave ``$?`` alone."""
        name = node.name
        if not self._arity(node, name):
            return "True"
        try:
            if name.endswith("avpflag") or name == "isavpflagset":
                return self._avp_flag(node, name)
            number = flag_number(self, node.arguments[0])
        except (BadArgumentError, ValueError) as error:
            hint = error.hint if isinstance(error, BadArgumentError) else ""
            self.fault(node.arguments[0].position, str(error), hint)
            return "True"
        if name == "isflagset":
            return f"ctx.flags & {1 << number}"
        change = f"ctx.flags |= {1 << number}" if name == "setflag" else f"ctx.flags &= {~(1 << number)}"
        self.out.emit(change, node.position)
        return "True"

    def _avp_flag(self, node: tree.Call, name: str) -> str:
        target, flag = node.arguments
        text = (
            target.text
            if isinstance(target, tree.Variable)
            else target.value
            if isinstance(target, tree.String)
            else ""
        )
        avp = self.unit.constant(parse_avp_name(text), "avp")
        word = flag.value if isinstance(flag, (tree.String, tree.Word)) else ""
        bit = self.unit.environment.avpflags.get(word.lower())
        if bit is None:
            hint = did_you_mean(word, self.unit.environment.avpflags) or f"declare it: avpflags {word};"
            self.fault(flag.position, f"unknown AVP flag {word!r}", hint)
            return "True"
        if name == "isavpflagset":
            return f"avp_flag_set(ctx, {avp}, {1 << bit})"
        change = f"{1 << bit}, 0" if name == "setavpflag" else f"0, {1 << bit}"
        result = self.out.temporary()
        self.out.emit(f"{result} = ctx.avps.change_flags({avp}, {change})", node.position)
        return result

    def _route_call(self, node: tree.Call, result: str) -> None:
        name = called_route(node)
        if name is None:
            self.out.emit(f"{result} = call_route(ctx, {self.as_str(node.arguments[0])})", node.position)
            self.out.emit_route_end(result, node.position)
            return
        name = "" if name == "0" else name
        known = self.unit.route_names("route")
        if name not in known:
            other = self.unit.kinds_with(name)
            hint = did_you_mean(name, known) or (f"{other[0]}[{name}] is not a plain route" if other else "")
            place = node.arguments[0].position
            self.fault(place, f"no route[{name}] in this script", hint or f"add: route[{name}] {{ … }}")
            self.out.emit(f"{result} = 1", node.position)
            return
        recursive = self.unit.graph.recurses(self.out.route, name)
        self.out.emit_route_call(result, self.unit.function_of("route", name), node.position, recursive=recursive)

    def _send_socket(self, node: tree.Call, result: str) -> None:
        argument = node.arguments[0]
        transport, host, port = "", "", 0
        if isinstance(argument, tree.Endpoint):
            transport, host, port = argument.transport, argument.host, argument.port
        elif isinstance(argument, (tree.Address, tree.Word, tree.String)):
            host = argument.value
        else:
            self.fault(argument.position, "expected an address", "for example: udp:192.0.2.1:5060")
        self.unit.send_sockets.append((transport, host, port, argument.position))
        self.out.emit_call(
            result, f"force_send_socket(ctx, {transport!r}, {host!r}, {port})", node.name, node.position, guarded=False
        )

    def _forward(self, node: tree.Call, name: str, result: str) -> None:
        self._check_kind(node, name, Routes.REQUEST | Routes.FAILURE)
        transport = {"forward": "", "forward_udp": "udp", "forward_tcp": "tcp", "forward_tls": "tls"}[name]
        arguments = ['""', "0"]
        for place, argument in enumerate(node.arguments):
            if isinstance(argument, tree.Endpoint):
                arguments = [repr(argument.host), repr(argument.port)]
            elif isinstance(argument, tree.Word):
                arguments[place] = repr(argument.value)
            else:
                arguments[place] = self.value(argument)[0]
        self.out.emit_call(
            result, f"forward_to(ctx, {', '.join(arguments)}, {transport!r})", name, node.position, guarded=True
        )


def _endpoint_text(node: tree.Endpoint) -> str:
    """``host:port`` as a value, with the protocol when one is written."""
    host = f"[{node.host}]" if ":" in node.host else node.host
    text = f"{host}:{node.port}" if node.port else host
    return f"{node.transport}:{text}" if node.transport else text


def _one_of(code: str, *values: int | str, undefined: bool) -> str:
    """*code*, of any type, equals the value of its own type; undefined equals "" and 0."""
    return f"{code} in {(*values, None) if undefined else values!r}"


def _negate(code: str) -> str:
    if code.startswith("not ") and code.count("(") <= 1 and " and " not in code and " or " not in code:
        return code[4:]
    return f"not ({code})"


def _operands(node: tree.Node, operator: str) -> list[tree.Node]:
    """What a chain of one *operator* joins, from left to right."""
    if isinstance(node, tree.Binary) and node.operator == operator:
        return _operands(node.left, operator) + _operands(node.right, operator)
    return [node]


def _left_name(node: tree.Node) -> str:
    return node.left.name if isinstance(node, tree.Binary) and isinstance(node.left, tree.Core) else ""


def _compared_network(node: tree.Node, operator: str) -> tuple[int, int, int] | None:
    """The constant network of ``src_ip == 10.0.0.0/8`` and its like, None for another condition."""
    if not isinstance(node, tree.Binary) or node.operator != operator or _left_name(node) not in _ADDRESSES:
        return None
    if not isinstance(node.right, (tree.Address, tree.String, tree.Word)):
        return None
    try:
        return runtime.parse_network(node.right.value)
    except ValueError:
        return None


def _counts(functions: list[Function]) -> str:
    numbers = sorted({n for f in functions for n in range(len(f.args) - f.optional, len(f.args) + 1)})
    if numbers == [0]:
        return "no arguments"
    text = " or ".join(str(number) for number in numbers)
    return f"{text} argument{'' if numbers == [1] else 's'}"


def _undefined(_ctx: object) -> None:
    return None
