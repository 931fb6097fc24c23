"""Makes the routes' Python functions shorter without changing what they do.

``inline_routes`` writes a route that is called in one place, or is short, into its callers. ``drop_dead_stores`` leaves out the stores
into ``ctx.retcode`` that no ``$?`` reads. ``keep_in_locals`` reads what a route cannot change only once.

It knows the shapes that ``codegen`` writes and leaves everything else as it is. Every node keeps its script line.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import ast
import copy
import re
from typing import Final

Functions = dict[str, ast.FunctionDef]

_MAX_NESTED: Final = 8  # inlined routes within each other: Python refuses more than 20 nested loops and try blocks
_MOST_STATEMENTS: Final = 400  # in all copies of one route together; the one of a route called once is free
_TEMPORARY: Final = re.compile(r"r[0-9_]+", re.ASCII)
_STABLE: Final = {"ctx.message.method": "method", "ctx.avps": "avps", "ctx.flow": "flow"}
"""What stays the same while one route runs, and the local name for it. Functions may exchange the flow for one with
other options (set_reply_close); the generated code reads its addresses only.
"""


# ---- inlining


def inline_routes(functions: Functions, files: dict[str, str]) -> None:
    """Put the body of each route that one ``route(NAME)`` calls, or that is short, in the place of its calls.

    *files*: function name -> script file; a traceback has one file per function, so routes of others stay calls.
    """
    _Inliner(functions, files).run()


class _Inliner:
    def __init__(self, functions: Functions, files: dict[str, str]) -> None:
        self.functions = functions
        self.files = files
        self.heights: dict[str, int] = {}
        self.calls: dict[str, int] = {}
        for function in functions.values():
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    self.calls[node.func.id] = self.calls.get(node.func.id, 0) + 1
        # A plain return within a loop of the script could not be told from leaving that loop.
        self.loops = {
            name for name, function in functions.items() if any(isinstance(n, ast.While) for n in ast.walk(function))
        }

    def run(self) -> None:
        for name in self.functions:
            self._finish(name)

    def _finish(self, name: str) -> int:
        """Inline into one function, its callees first; how many routes are nested in it."""
        height = self.heights.get(name)
        if height is None:
            self.heights[name] = _MAX_NESTED  # a call back to here stays a call
            height = self._block(self.functions[name].body, self.files[name])
            self.heights[name] = height
        return height

    def _block(self, block: list[ast.stmt], file: str) -> int:
        height = 0
        for at in range(len(block) - 1, -1, -1):
            statement = block[at]
            for inner in _blocks(statement):
                height = max(height, self._block(inner, file))
            callee = _called(statement)
            if callee not in self.functions or callee in self.loops:
                continue
            if self.files[callee] != file or at + 1 == len(block) or not _tests_state(block[at + 1]):
                continue
            nested = self._finish(callee)
            if nested < _MAX_NESTED and self._may_be_copied(callee):
                height = max(height, nested + 1)
                block[at : at + 2] = [self._inlined(statement, callee)]
        return height

    def _may_be_copied(self, callee: str) -> bool:
        calls = self.calls[callee]
        if calls == 1:
            return True
        return calls * sum(isinstance(node, ast.stmt) for node in ast.walk(self.functions[callee])) <= _MOST_STATEMENTS

    def _inlined(self, call: ast.stmt, callee: str) -> ast.stmt:
        """``while True:`` with the callee's body, left by ``break``; exit and drop return from the caller."""
        assert isinstance(call, ast.Assign)
        assert isinstance(call.targets[0], ast.Name)
        result = call.targets[0].id
        body = copy.deepcopy(self.functions[callee].body)
        for statement in body:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and _TEMPORARY.fullmatch(node.id):
                    node.id = f"{node.id}_{callee.removeprefix('route_')}"
        _returns_to_breaks(body, result)
        return ast.copy_location(ast.While(test=_at(ast.Constant(True), call), body=body, orelse=[]), call)


def _called(statement: ast.stmt) -> str:
    """The function in ``r1 = route_2(ctx)``, "" for anything else."""
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        call = statement.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and len(call.args) == 1:
            return call.func.id
    return ""


def _tests_state(statement: ast.stmt) -> bool:
    """True for ``if ctx.state: return r1``."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "ctx.state"


def _returns_to_breaks(block: list[ast.stmt], result: str) -> None:
    """``return x`` becomes ``result = x; break``, except where the script has ended."""
    at = 0
    while at < len(block):
        statement = block[at]
        if isinstance(statement, ast.Return):
            if at == 0 or not _sets_state(block[at - 1]):
                assert statement.value is not None
                target = _at(ast.Name(result, ast.Store()), statement)
                kept = ast.Assign(targets=[target], value=statement.value)
                block[at:] = [ast.copy_location(kept, statement), ast.copy_location(ast.Break(), statement)]
            return  # nothing after it is ever reached
        if not _tests_state(statement) and not _is_inlined(statement):
            for inner in _blocks(statement):
                _returns_to_breaks(inner, result)
        at += 1


def _is_inlined(statement: ast.stmt) -> bool:
    """A loop: only routes without loops of their own are inlined, so it is a callee; its returns end the script."""
    return isinstance(statement, ast.While)


def _sets_state(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "ctx.state"


# ---- $?


def drop_dead_stores(functions: Functions) -> None:
    """Remove ``ctx.retcode = r`` where nothing reads it before the next store.

    A route that reads ``$?`` before it has called anything could see what any other route left there: then all stay.
    """
    for function in functions.values():
        _Forwarder().block(function.body, "")
    liveness = _Liveness()
    if any(liveness.block(function.body, after=False, at_break=False) for function in functions.values()):
        return
    liveness.remove = True
    for function in functions.values():
        liveness.block(function.body, after=False, at_break=False)


class _Forwarder:
    """Reads of ``ctx.retcode`` become the local variable that was stored there last, where that is certain."""

    def block(self, block: list[ast.stmt], known: str) -> str:
        """*known*: the variable ``ctx.retcode`` equals before the block, or "". Returns the same for behind it."""
        for statement in block:
            known = self._statement(statement, known)
        return known

    def _statement(self, statement: ast.stmt, known: str) -> str:
        if isinstance(statement, ast.If):
            statement.test = _Replace({"ctx.retcode": known} if known else {}).visit(statement.test)
            left, right = self.block(statement.body, known), self.block(statement.orelse, known)
            return left if left == right else ""
        if isinstance(statement, (ast.While, ast.Try)):
            for inner in _blocks(statement):
                self.block(inner, "")
            return ""
        if isinstance(statement, ast.Assign):
            if _is_store(statement):
                return statement.value.id if isinstance(statement.value, ast.Name) else ""
            written = statement.targets[0]
            if isinstance(written, ast.Name) and written.id == known:
                return ""
        return "" if any(isinstance(node, ast.Call) for node in ast.walk(statement)) else known


class _Liveness:
    """Goes through a function backwards: is ``ctx.retcode`` read before it is stored again?"""

    def __init__(self) -> None:
        self.remove = False

    def block(self, block: list[ast.stmt], *, after: bool, at_break: bool) -> bool:
        """Whether it is live in front of the block; *after* and *at_break*: behind it and where ``break`` leads."""
        live = after
        for at in range(len(block) - 1, -1, -1):
            statement = block[at]
            if _is_store(statement) and not live and self.remove and len(block) > 1:
                del block[at]
            else:
                live = self._statement(statement, live, at_break)
        return live

    def _statement(self, statement: ast.stmt, live: bool, at_break: bool) -> bool:
        if isinstance(statement, ast.If):
            body = self.block(statement.body, after=live, at_break=at_break)
            orelse = self.block(statement.orelse, after=live, at_break=at_break)
            return body or orelse or _reads(statement.test)
        if isinstance(statement, ast.While):
            return self._loop(statement, live)
        if isinstance(statement, ast.Try):
            before = [self.block(inner, after=live, at_break=at_break) for inner in _blocks(statement)]
            return any(before)
        if isinstance(statement, ast.Break):
            return at_break
        if isinstance(statement, ast.Return):
            return _reads(statement)
        if isinstance(statement, ast.Assign) and _is_store(statement):
            return _reads(statement.value)
        return live or _reads(statement)

    def _loop(self, loop: ast.While, live: bool) -> bool:
        """All loops are ``while True``, left by ``break``: behind the body comes its beginning."""
        remove, self.remove = self.remove, False
        again = self.block(loop.body, after=False, at_break=live)
        self.remove = remove
        return self.block(loop.body, after=again, at_break=live)


def _is_store(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "ctx.retcode"


def _reads(node: ast.AST) -> bool:
    return any(
        isinstance(inner, ast.Attribute) and inner.attr == "retcode" and isinstance(inner.ctx, ast.Load)
        for inner in ast.walk(node)
    )


# ---- locals


def keep_in_locals(function: ast.FunctionDef) -> None:
    """Read what a route cannot change into a local variable, where the function uses it more than twice."""
    for path, name in _STABLE.items():
        uses = [sum(_is_path(node, path) for node in ast.walk(statement)) for statement in function.body]
        if sum(uses) <= 2:
            continue
        first = next(at for at, count in enumerate(uses) if count)
        _Replace({path: name}).visit(function)
        read = ast.Assign(targets=[ast.Name(name, ast.Store())], value=ast.parse(path, mode="eval").body)
        for node in ast.walk(read):
            if isinstance(node, (ast.stmt, ast.expr)):
                ast.copy_location(node, function.body[first])
        function.body.insert(first, read)


def _is_path(node: ast.AST, path: str) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == path


class _Replace(ast.NodeTransformer):
    """Attribute paths become local variables."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        name = self.names.get(ast.unparse(node))
        if name is not None and isinstance(node.ctx, ast.Load):
            return _at(ast.Name(name, ast.Load()), node)
        return self.generic_visit(node)


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The statement lists within a statement."""
    if isinstance(statement, (ast.If, ast.While)):
        return [statement.body, statement.orelse]
    if isinstance(statement, ast.Try):
        return [statement.body, *(handler.body for handler in statement.handlers)]
    return []


def _at(node: ast.expr, place: ast.AST) -> ast.expr:
    return ast.copy_location(node, place)
