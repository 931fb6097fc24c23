"""Routes -> Python functions that keep the script's line numbers.

Each route becomes ``def route(ctx) -> int``. A statement is a direct call with its arguments resolved; the code object
carries the script's file name and lines, so a traceback names ``serpy.conf:412``.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager

from serpy.context.context import DROPPED, EXITED, Context
from serpy.errors import BackendError
from serpy.script import builtins, optimize, runtime, tree
from serpy.script.check import CallGraph
from serpy.script.environment import Environment
from serpy.script.exports import Function
from serpy.script.expressions import ExpressionCoder
from serpy.script.faults import Faults, Position
from serpy.script.program import RouteFunction

_HELPERS = (
    runtime.to_int, runtime.to_str, runtime.equal, runtime.add, runtime.divide,
    runtime.modulo, runtime.same, runtime.search_dynamic, runtime.uri_or_status, runtime.uri_is_myself,
    runtime.from_uri, runtime.to_uri, runtime.header_uri_is_myself, runtime.message_length, runtime.out_host,
    runtime.out_port, runtime.out_listener_host, runtime.out_listener_port, runtime.out_transport, runtime.in_network,
    runtime.address_equals, runtime.avp_flag_set, runtime.backend_failed, runtime.too_deep, runtime.too_many_loops,
    builtins.force_send_socket, builtins.forward_to,
)  # fmt: skip


class Unit:
    """What the routes of one script share: names of the generated code, the environment, the errors."""

    def __init__(self, environment: Environment, faults: Faults, routes: list[tree.Route]) -> None:
        self.environment = environment
        self.faults = faults
        self.routes = routes
        self.graph = CallGraph(routes)
        self.modules_failed = False
        self.send_sockets: list[tuple[str, str, int, Position]] = []
        self.namespace: dict[str, object] = {helper.__name__: helper for helper in _HELPERS}
        self.namespace.update(HOOKS=runtime.HOOKS, BackendError=BackendError, call_route=self.call_route)
        self._names: dict[int, str] = {}
        self._core: dict[str, list[tuple[str, Function]]] = {}
        for function in builtins.FUNCTIONS:
            self._core.setdefault(function.name, []).append(("core", function))
        self.retcode_in_text = False  # the script may read $rc where only run time sees it, in a text
        self.listings: dict[str, str] = {}  # route function -> text before it is shortened, for tests and curiosity

    def constant(self, value: object, prefix: str) -> str:
        """The name of *value* in the generated code."""
        name = self._names.get(id(value))
        if name is None:
            name = f"{prefix}_{len(self._names)}"
            self._names[id(value)] = name
            self.namespace[name] = value
        return name

    def functions(self, name: str) -> list[tuple[str, Function]]:
        """(module, function) candidates of a name."""
        return self._core.get(name) or self.environment.functions.get(name) or []

    def function_names(self) -> list[str]:
        """Every callable name."""
        return [*self._core, *builtins.IN_PLACE, *builtins.SYNONYMS, *self.environment.functions]

    def where_function(self, name: str) -> str:
        """A hint when *name* belongs to a module that is not loaded; "" otherwise."""
        module = KNOWN_FUNCTIONS.get(name, "")
        return f'load it first: loadmodule "{module}"' if module and module not in self.environment.modules else ""

    def route_names(self, kind: str) -> list[str]:
        """Names of the routes of one kind."""
        return [route.name for route in self.routes if route.kind == kind]

    def kinds_with(self, name: str) -> list[str]:
        """Kinds that have a route of this name."""
        return [route.kind for route in self.routes if route.name == name]

    def function_of(self, kind: str, name: str) -> str:
        """The Python name of a route's function."""
        for index, route in enumerate(self.routes):
            if route.kind == kind and route.name == name:
                return f"route_{index}"
        raise LookupError(f"{kind}[{name}]")

    def call_route(self, ctx: Context, name: str) -> int:
        """``route($x)``: a name known at run time only; an unknown one is false."""
        if name not in self.route_names("route") or ctx.depth >= runtime.MAX_DEPTH:
            return -1
        ctx.depth += 1
        function = self.namespace[self.function_of("route", name)]
        code: int = function(ctx)  # type: ignore[operator]  # compiled below
        ctx.depth -= 1
        return code

    def build(self) -> dict[tuple[str, str], RouteFunction]:
        """Compile every route. Errors are noted; the result is usable only when there are none."""
        coders = [RouteCoder(self, route, f"route_{index}") for index, route in enumerate(self.routes)]
        for coder in coders:
            coder.write()
        if self.faults.errors:
            return {}
        self._shorten({coder.name: coder.parse() for coder in coders})
        return {(coder.route.kind, coder.route.name): coder.compile() for coder in coders}

    def _shorten(self, functions: dict[str, ast.FunctionDef]) -> None:
        files = {f"route_{index}": route.position.file for index, route in enumerate(self.routes)}
        optimize.inline_routes(functions, files)
        if not self.retcode_in_text:
            optimize.drop_dead_stores(functions)
        for function in functions.values():
            optimize.keep_in_locals(function)


KNOWN_FUNCTIONS = {
    "t_relay": "tm", "t_reply": "tm", "t_newtran": "tm", "t_on_failure": "tm", "t_on_reply": "tm", "t_on_branch": "tm",
    "t_relay_cancel": "tm", "t_check_status": "tm", "sl_reply": "sl", "sl_send_reply": "sl", "sl_reply_error": "sl",
    "record_route": "rr", "loose_route": "rr", "xlog": "xlog", "append_hf": "textops", "remove_hf": "textops",
    "search": "textops", "append_to_reply": "textops", "save_contacts": "registrar", "lookup_contacts": "registrar",
    "mf_process_maxfwd_header": "maxfwd", "lookup_domain": "domain", "lookup_user": "uri_db", "load_attrs": "avp_db",
    "www_authenticate": "auth_db", "proxy_authenticate": "auth_db", "consume_credentials": "auth",
    "options_reply": "options", "sanity_check": "sanity", "attr2uri": "avp", "nat_uac_test": "nathelper",
    "force_rtp_proxy": "nathelper", "fix_nated_contact": "nathelper", "eval_push": "eval", "db_query": "db_ops",
}  # fmt: skip


class RouteCoder:
    """Writes one route's function."""

    def __init__(self, unit: Unit, route: tree.Route, name: str) -> None:
        self.unit = unit
        self.route = route
        self.name = name
        self.lines: list[str] = []
        self.numbers: list[int] = []
        self._depth = 0
        self._temporaries = 0
        self._breakable = 0
        self._here = route.position
        self._function: ast.FunctionDef
        self.coder = ExpressionCoder(unit, self, unit.graph.kinds(route))

    # ---- output

    def emit(self, text: str, position: Position) -> None:
        """One line of Python that belongs to a line of the script."""
        self.lines.append("    " * self._depth + text)
        self.numbers.append(position.line if position.file == self.route.position.file else self.route.position.line)

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Everything inside is one level deeper."""
        self._depth += 1
        yield
        self._depth -= 1

    def temporary(self) -> str:
        """A fresh local name."""
        self._temporaries += 1
        return f"r{self._temporaries}"

    def emit_call(self, result: str, call: str, name: str, position: Position, *, guarded: bool) -> None:
        """A function call: 0 ends the script, the result goes into ``$?``; a failed helper makes it false."""
        if guarded:
            self.emit("try:", position)
            self.emit(f"    {result} = {call}", position)
            self.emit("except BackendError as error:", position)
            self.emit(f"    {result} = backend_failed(error, {name!r}, {position.file!r}, {position.line})", position)
        else:
            self.emit(f"{result} = {call}", position)
        self.emit(f"if {result} == 0:", position)
        self.emit(f"    ctx.state = ctx.state or {EXITED}; return 0", position)  # a route it ran may have dropped
        self.emit(f"ctx.retcode = {result}", position)

    def emit_route_call(self, result: str, function: str, position: Position, *, recursive: bool) -> None:
        """``route(NAME)``; only calls that can recurse are counted."""
        if recursive:
            self.emit(f"if ctx.depth >= {runtime.MAX_DEPTH}:", position)
            self.emit(f"    {result} = too_deep({position.file!r}, {position.line})", position)
            self.emit("else:", position)
            self.emit(f"    ctx.depth += 1; {result} = {function}(ctx); ctx.depth -= 1", position)
        else:
            self.emit(f"{result} = {function}(ctx)", position)
        self.emit_route_end(result, position)

    def emit_route_end(self, result: str, position: Position) -> None:
        """After a route: exit and drop go on through every level."""
        self.emit(f"if ctx.state: return {result}", position)
        self.emit(f"ctx.retcode = {result}", position)

    # ---- statements

    def write(self) -> None:
        """Generate the whole function."""
        self.emit(f"def {self.name}(ctx):", self.route.position)
        with self.indented():
            self._body(self.route.body)
            self.emit("return 1", self.route.position)

    def _body(self, statements: list[tree.Node]) -> None:
        for statement in statements:
            self._statement(statement)

    def _block(self, statements: list[tree.Node], position: Position) -> None:
        with self.indented():
            before = len(self.lines)
            self._body(statements)
            if len(self.lines) == before:
                self.emit("pass", position)

    def _statement(self, node: tree.Node) -> None:
        if isinstance(node, tree.Expression):
            self._expression(node)
        elif isinstance(node, tree.If):
            self._if(node)
        elif isinstance(node, tree.Block):
            self._body(node.body)
        elif isinstance(node, tree.Assign):
            code, kind = self.coder.value(node.value)
            self.coder.write(node.target, code, kind)
        elif isinstance(node, tree.Leave):
            self._leave(node)
        elif isinstance(node, tree.While):
            self._while(node)
        elif isinstance(node, tree.Switch):
            self._switch(node)

    def _expression(self, node: tree.Expression) -> None:
        call = node.value
        assert isinstance(call, tree.Call)
        if call.name in builtins.PURE:
            code = self.coder._pure_call(call)
            if call.name.startswith("is") and code != "True":
                self.emit(code, node.position)
        else:
            self.coder.call(call)

    def _if(self, node: tree.If) -> None:
        self.emit(f"if {self.coder.condition(node.condition)}:", node.position)
        self._block([node.then], node.position)
        if node.otherwise is not None:
            self.emit("else:", node.otherwise.position)
            self._block([node.otherwise], node.otherwise.position)

    def _leave(self, node: tree.Leave) -> None:
        position = node.position
        if node.kind == "break":
            self.emit("break" if self._breakable else "return 0", position)
            return
        default = "1" if node.kind == "return" else "0"
        code = default if node.value is None else self.coder.as_int(node.value)
        if node.kind != "return":
            self.emit(f"ctx.state = {DROPPED if node.kind == 'drop' else EXITED}", position)
        self.emit(f"return {code}", position)

    def _while(self, node: tree.While) -> None:
        counter = self.temporary()
        position = node.position
        self.emit(f"{counter} = 0", position)
        self.emit("while True:", position)
        self._breakable += 1
        with self.indented():
            condition = self.coder.condition(node.condition)
            self.emit(f"if not ({condition}): break", position)
            self.emit(f"if {counter} >= HOOKS.max_while_loops:", position)
            self.emit(f"    too_many_loops({position.file!r}, {position.line}); break", position)
            self.emit(f"{counter} += 1", position)
            self._body([node.body])
        self._breakable -= 1

    def _switch(self, node: tree.Switch) -> None:
        """Find the first matching label, then fall through the bodies from there on."""
        text = any(isinstance(case.label, (tree.String, tree.Word)) for case in node.cases)
        if text and any(isinstance(case.label, tree.Integer) for case in node.cases):
            self.coder.fault(node.position, "a switch cannot mix numbers and strings")
            return
        subject, entry = self.temporary(), self.temporary()
        code = self.coder.as_str(node.subject) if text else self.coder.as_int(node.subject)
        self.emit(f"{subject} = {code}", node.position)
        default = next((index for index, case in enumerate(node.cases) if case.label is None), len(node.cases))
        word = "if"
        for index, case in enumerate(node.cases):
            test = self._case_test(case, subject)
            if test:
                self.emit(f"{word} {test}: {entry} = {index}", case.position)
                word = "elif"
        self.emit(f"else: {entry} = {default}" if word == "elif" else f"{entry} = {default}", node.position)
        self.emit("while True:", node.position)
        self._breakable += 1
        with self.indented():
            for index, case in enumerate(node.cases):
                if case.body:
                    self.emit(f"if {entry} <= {index}:", case.position)
                    self._block(case.body, case.position)
            self.emit("break", node.position)
        self._breakable -= 1

    def _case_test(self, case: tree.Case, subject: str) -> str:
        label = case.label
        if label is None:
            return ""
        if isinstance(label, tree.Integer):
            return f"{subject} == {label.value}"
        value = label.value if isinstance(label, (tree.String, tree.Word)) else ""
        if case.pattern:
            return self.coder.match_code(subject, tree.String(label.position, value))
        return f"{subject} == {value!r}"

    # ---- compilation

    def parse(self) -> ast.FunctionDef:
        """The function's tree, with the script's line numbers."""
        text = "\n".join(self.lines) + "\n"
        self.unit.listings[self.name] = text
        module = ast.parse(text)
        last = len(self.numbers)
        for node in ast.walk(module):
            if isinstance(node, (ast.stmt, ast.expr, ast.excepthandler, ast.arg)):
                node.lineno = self.numbers[min(node.lineno, last) - 1]
                node.end_lineno = node.lineno
        function = module.body[0]
        assert isinstance(function, ast.FunctionDef)
        self._function = function
        return function

    def compile(self) -> RouteFunction:
        """The function that ``parse`` gave, by now perhaps shorter."""
        module = ast.Module(body=[self._function], type_ignores=[])
        code = compile(module, self.route.position.file, "exec", dont_inherit=True)
        exec(code, self.unit.namespace)  # noqa: S102 - compiled from our own tree, see the module docstring
        function: RouteFunction = self.unit.namespace[self.name]  # type: ignore[assignment]  # just defined
        return function
