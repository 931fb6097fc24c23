"""Routes -> Python functions that keep the script's line numbers.

Each route becomes ``def route(ctx) -> int``. A statement is a direct call with its arguments resolved; the code object
carries the script's file name and lines, so a traceback names ``serpy.conf:412``.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

from dataclasses import dataclass

from serpy.context.context import DROPPED, EXITED
from serpy.script import builtins, comparisons, optimize, tree
from serpy.script.expressions import ExpressionCoder
from serpy.script.faults import Position
from serpy.script.in_place import pure_call
from serpy.script.output import Output
from serpy.script.program import RouteFunction
from serpy.script.unit import Unit


@dataclass(frozen=True)
class Compiled:
    """What has become of the routes of a unit."""

    routes: dict[tuple[str, str], RouteFunction]  # (kind, name) -> function
    listings: dict[str, str]  # Python name -> text before it is shortened, for tests and curiosity


def compile_routes(unit: Unit, *, retcode_in_text: bool) -> Compiled:
    """Compile every route of *unit*. Errors are noted there; the result is usable only when there are none.

    *retcode_in_text*: the script may read ``$rc`` where only run time sees it, in a text.
    """
    outputs = [Output(route, f"route_{index}") for index, route in enumerate(unit.routes)]
    for output in outputs:
        RouteCoder(unit, output).write()
    listings = {output.name: output.text for output in outputs}
    if unit.faults.errors:
        return Compiled({}, listings)
    functions = {output.name: output.parse() for output in outputs}
    optimize.inline_routes(functions, {output.name: output.route.position.file for output in outputs})
    if not retcode_in_text:
        optimize.drop_dead_stores(functions)
    for function in functions.values():
        optimize.keep_in_locals(function)
    routes = {
        (output.route.kind, output.route.name): output.link(functions[output.name], unit.namespace)
        for output in outputs
    }  # fmt: skip
    return Compiled(routes, listings)


class RouteCoder:
    """Writes the statements of one route."""

    def __init__(self, unit: Unit, out: Output) -> None:
        self.out = out
        self.coder = ExpressionCoder(unit, out)
        self._breakable = 0

    def write(self) -> None:
        """Generate the whole function."""
        self.out.emit(f"def {self.out.name}(ctx):", self.out.route.position)
        with self.out.indented():
            self._body(self.out.route.body)
            self.out.emit("return 1", self.out.route.position)

    def _body(self, statements: list[tree.Node]) -> None:
        for statement in statements:
            self._statement(statement)

    def _block(self, statements: list[tree.Node], position: Position) -> None:
        with self.out.indented():
            before = len(self.out.lines)
            self._body(statements)
            if len(self.out.lines) == before:
                self.out.emit("pass", position)

    def _statement(self, node: tree.Node) -> None:
        if isinstance(node, tree.Expression):
            self._expression(node)
        elif isinstance(node, tree.If):
            self._if(node)
        elif isinstance(node, tree.Block):
            self._body(node.body)
        elif isinstance(node, tree.Assign):
            self.coder.write(node.target, self.coder.value(node.value))
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
            code = pure_call(self.coder, call)
            if call.name.startswith("is") and code != "True":
                self.out.emit(code, node.position)
        else:
            self.coder.call(call)

    def _if(self, node: tree.If) -> None:
        self.out.emit(f"if {self.coder.condition(node.condition)}:", node.position)
        self._block([node.then], node.position)
        if node.otherwise is not None:
            self.out.emit("else:", node.otherwise.position)
            self._block([node.otherwise], node.otherwise.position)

    def _leave(self, node: tree.Leave) -> None:
        position = node.position
        if node.kind == "break":
            self.out.emit("break" if self._breakable else "return 0", position)
            return
        default = "1" if node.kind == "return" else "0"
        code = default if node.value is None else self.coder.as_int(node.value)
        if node.kind != "return":
            self.out.emit(f"ctx.state = {DROPPED if node.kind == 'drop' else EXITED}", position)
        self.out.emit(f"return {code}", position)

    def _while(self, node: tree.While) -> None:
        counter = self.out.temporary()
        position = node.position
        self.out.emit(f"{counter} = 0", position)
        self.out.emit("while True:", position)
        self._breakable += 1
        with self.out.indented():
            condition = self.coder.condition(node.condition)
            self.out.emit(f"if not ({condition}): break", position)
            self.out.emit(f"if {counter} >= HOOKS.max_while_loops:", position)
            self.out.emit(f"    too_many_loops({position.file!r}, {position.line}); break", position)
            self.out.emit(f"{counter} += 1", position)
            self._body([node.body])
        self._breakable -= 1

    def _switch(self, node: tree.Switch) -> None:
        """Find the first matching label, then fall through the bodies from there on."""
        text = any(isinstance(case.label, (tree.String, tree.Word)) for case in node.cases)
        if text and any(isinstance(case.label, tree.Integer) for case in node.cases):
            self.coder.fault(node.position, "a switch cannot mix numbers and strings")
            return
        subject, entry = self.out.temporary(), self.out.temporary()
        code = self.coder.as_str(node.subject) if text else self.coder.as_int(node.subject)
        self.out.emit(f"{subject} = {code}", node.position)
        default = next((index for index, case in enumerate(node.cases) if case.label is None), len(node.cases))
        word = "if"
        for index, case in enumerate(node.cases):
            test = self._case_test(case, subject)
            if test:
                self.out.emit(f"{word} {test}: {entry} = {index}", case.position)
                word = "elif"
        self.out.emit(f"else: {entry} = {default}" if word == "elif" else f"{entry} = {default}", node.position)
        self.out.emit("while True:", node.position)
        self._breakable += 1
        with self.out.indented():
            for index, case in enumerate(node.cases):
                if case.body:
                    self.out.emit(f"if {entry} <= {index}:", case.position)
                    self._block(case.body, case.position)
            self.out.emit("break", node.position)
        self._breakable -= 1

    def _case_test(self, case: tree.Case, subject: str) -> str:
        label = case.label
        if label is None:
            return ""
        if isinstance(label, tree.Integer):
            return f"{subject} == {label.value}"
        value = label.value if isinstance(label, (tree.String, tree.Word)) else ""
        if case.pattern:
            return comparisons.match(self.coder, subject, tree.String(label.position, value))
        return f"{subject} == {value!r}"
