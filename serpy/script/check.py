"""Which route reaches which: the kinds a route block may run as, and which calls can recurse.

Runs in: the master while loading, serpyctl check. Locks: none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from serpy.script import tree
from serpy.script.exports import Routes

KIND_BITS: Final = {
    "route": Routes.REQUEST, "failure_route": Routes.FAILURE, "onreply_route": Routes.ONREPLY,
    "branch_route": Routes.BRANCH, "onsend_route": Routes.ONSEND, "event_route": Routes.EVENT,
}  # fmt: skip
KIND_NAMES: Final = {bit: name for name, bit in KIND_BITS.items()}


def walk(node: object) -> Iterator[tree.Node]:
    """Every node below *node*, itself included."""
    if isinstance(node, tree.Node):
        yield node
        for item in dataclasses.fields(node):
            if item.name != "position":
                yield from walk(getattr(node, item.name))
    elif isinstance(node, list):
        for member in node:
            yield from walk(member)


def called_route(call: tree.Call) -> str | None:
    """The constant name in ``route(NAME)``; None for anything else."""
    if call.name != "route" or len(call.arguments) != 1:
        return None
    argument = call.arguments[0]
    if isinstance(argument, (tree.Word, tree.String)):
        return argument.value
    if isinstance(argument, tree.Integer):
        return str(argument.value)
    return None


class CallGraph:
    """The ``route()`` calls of a script. Route blocks of kind "route" are known by name, the others as kind:name."""

    def __init__(self, routes: list[tree.Route]) -> None:
        self.routes = {_key(route.kind, route.name): route for route in routes}
        self.calls: dict[str, set[str]] = {}
        for key, route in self.routes.items():
            names = [called_route(node) for node in walk(route.body) if isinstance(node, tree.Call)]
            wanted = {_key("route", "" if name == "0" else name) for name in names if name is not None}
            self.calls[key] = {target for target in wanted if target in self.routes}
        self._kinds: dict[str, Routes] = {}
        self._via: dict[tuple[str, Routes], str] = {}
        self._spread()

    def _spread(self) -> None:
        """Every entry route hands its kind to what it calls; a route that nobody calls runs for requests."""
        called = {target for targets in self.calls.values() for target in targets}
        for key, route in self.routes.items():
            if route.kind != "route" or not route.name or key not in called:
                self._reach(key, KIND_BITS.get(route.kind, Routes.REQUEST), "")

    def _reach(self, key: str, kind: Routes, via: str) -> None:
        pending = [(key, via)]
        while pending:
            here, caller = pending.pop()
            if self._kinds.get(here, Routes(0)) & kind:
                continue
            self._kinds[here] = self._kinds.get(here, Routes(0)) | kind
            self._via[(here, kind)] = caller
            pending.extend((target, here) for target in sorted(self.calls.get(here, ())))

    def kinds(self, route: tree.Route) -> Routes:
        """The kinds *route* may run as."""
        return self._kinds.get(_key(route.kind, route.name), KIND_BITS.get(route.kind, Routes.REQUEST))

    def path(self, route: tree.Route, kind: Routes) -> str:
        """How *route* comes to run as *kind*: ``failure_route[F] -> route[X]``; "" when it is that kind itself."""
        key = _key(route.kind, route.name)
        steps = [key]
        while self._via.get((steps[-1], kind)) and len(steps) < 20:
            steps.append(self._via[(steps[-1], kind)])
        return " -> ".join(self._title(step) for step in reversed(steps)) if len(steps) > 1 else ""

    def _title(self, key: str) -> str:
        kind, _, name = key.partition(":")
        return f"{kind}[{name}]" if name else kind

    def recurses(self, caller: tree.Route, name: str) -> bool:
        """True when route *name* can come back to *caller*."""
        goal = _key(caller.kind, caller.name)
        seen: set[str] = set()
        pending = [_key("route", name)]
        while pending:
            here = pending.pop()
            if here == goal:
                return True
            if here not in seen:
                seen.add(here)
                pending.extend(self.calls.get(here, ()))
        return False


def _key(kind: str, name: str) -> str:
    return f"{kind}:{name}"
