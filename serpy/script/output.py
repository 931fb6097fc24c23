"""Where the statements of one route go: the text of a Python function, each line with its line of the script.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager

from serpy.context.context import EXITED
from serpy.script import runtime, tree
from serpy.script.faults import Position
from serpy.script.program import RouteFunction


class Output:
    """The function *name* that *route* becomes."""

    def __init__(self, route: tree.Route, name: str) -> None:
        self.route = route
        self.name = name
        self.lines: list[str] = []
        self._numbers: list[int] = []
        self._depth = 0
        self._temporaries = 0

    # ---- lines

    def emit(self, text: str, position: Position) -> None:
        """One line of Python that belongs to a line of the script."""
        self.lines.append("    " * self._depth + text)
        self._numbers.append(position.line if position.file == self.route.position.file else self.route.position.line)

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

    # ---- calls

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

    # ---- the function

    @property
    def text(self) -> str:
        """All lines so far."""
        return "\n".join(self.lines) + "\n"

    def parse(self) -> ast.FunctionDef:
        """The function's tree, with the script's line numbers."""
        module = ast.parse(self.text)
        last = len(self._numbers)
        for node in ast.walk(module):
            if isinstance(node, (ast.stmt, ast.expr, ast.excepthandler, ast.arg)):
                node.lineno = self._numbers[min(node.lineno, last) - 1]
                node.end_lineno = node.lineno
        function = module.body[0]
        assert isinstance(function, ast.FunctionDef)
        return function

    def link(self, function: ast.FunctionDef, namespace: dict[str, object]) -> RouteFunction:
        """The Python function of what ``parse`` gave, by now perhaps shorter, among the names it may use."""
        module = ast.Module(body=[function], type_ignores=[])
        code = compile(module, self.route.position.file, "exec", dont_inherit=True)
        exec(code, namespace)  # noqa: S102 - compiled from our own tree, see the module docstring
        made: RouteFunction = namespace[self.name]  # type: ignore[assignment]  # just defined
        return made
