"""What is being compiled: the routes of one script, the names their code may use, the errors found.

Lowest of the back end: it knows no expression and no statement.

Runs in: the master while loading, serpyctl check; ``call_route`` in the udp receiver, too. Locks: none.
"""

from __future__ import annotations

from typing import cast

from serpy.context.context import Context
from serpy.errors import BackendError
from serpy.script import builtins, runtime, scalars, tree
from serpy.script.check import CallGraph
from serpy.script.environment import Environment
from serpy.script.exports import FALSE, Function
from serpy.script.faults import Faults, Position
from serpy.script.hooks import Hooks
from serpy.script.program import RouteFunction
from serpy.sip.classes import is_private
from serpy.sip.text import header_value

_HELPERS = (
    scalars.to_int, scalars.to_str, scalars.equal, scalars.add, scalars.divide, scalars.modulo, scalars.same, scalars.wrap,
    runtime.uri_or_status, runtime.from_uri, runtime.to_uri, runtime.message_length, runtime.out_host,
    runtime.out_port, runtime.out_listener_host, runtime.out_listener_port, runtime.out_transport,
    runtime.avp_flag_set, is_private, header_value,
)  # fmt: skip


def _namespace(hooks: Hooks) -> dict[str, object]:
    """What every generated function finds under its own name."""
    lent = (
        hooks.uri_is_myself, hooks.header_uri_is_myself, hooks.address_equals, hooks.search_dynamic,
        hooks.force_send_socket, hooks.forward_to, hooks.backend_failed, hooks.too_deep, hooks.too_many_loops,
    )  # fmt: skip
    names: dict[str, object] = {helper.__name__: helper for helper in (*_HELPERS, *lent)}
    names.update(HOOKS=hooks, BackendError=BackendError)
    return names


class Unit:
    """What the routes of one script share."""

    def __init__(self, environment: Environment, faults: Faults, routes: list[tree.Route]) -> None:
        self.environment = environment
        self.faults = faults
        self.routes = routes
        self.graph = CallGraph(routes)
        self.modules_failed = False
        self.send_sockets: list[tuple[str, str, int, Position]] = []
        self.namespace = _namespace(environment.hooks)
        self.namespace["call_route"] = self.call_route
        self._names: dict[int, str] = {}
        self._core: dict[str, list[tuple[str, Function]]] = {}
        for function in builtins.core_functions(environment.hooks):
            self._core.setdefault(function.name, []).append(("core", function))
        self._route_functions = {(route.kind, route.name): f"route_{at}" for at, route in enumerate(routes)}

    def constant(self, value: object, prefix: str) -> str:
        """The name of *value* in the generated code."""
        name = self._names.get(id(value))
        if name is None:
            name = f"{prefix}_{len(self._names)}"
            self._names[id(value)] = name
            self.namespace[name] = value
        return name

    # ---- functions

    def functions(self, name: str) -> list[tuple[str, Function]]:
        """(module, function) candidates of a name."""
        return self._core.get(name) or self.environment.functions.get(name) or []

    def function_names(self) -> list[str]:
        """Every callable name."""
        return [*self._core, *builtins.IN_PLACE, *builtins.SYNONYMS, *self.environment.functions]

    def where_function(self, name: str) -> str:
        """A hint when *name* belongs to modules that are not loaded; "" otherwise."""
        modules = [f'loadmodule "{module}"' for module in self.environment.modules_with(name)]
        return f"load it first: {' or '.join(modules)}" if modules else ""

    # ---- routes

    def route_names(self, kind: str) -> list[str]:
        """Names of the routes of one kind."""
        return [name for known, name in self._route_functions if known == kind]

    def kinds_with(self, name: str) -> list[str]:
        """Kinds that have a route of this name."""
        return [kind for kind, known in self._route_functions if known == name]

    def function_of(self, kind: str, name: str) -> str:
        """The Python name of a route's function."""
        return self._route_functions[kind, name]

    def call_route(self, ctx: Context, name: str) -> int:
        """``route($x)``: a name known at run time only; an unknown one is false."""
        function = self._route_functions.get(("route", name))
        if function is None or ctx.depth >= runtime.MAX_DEPTH:
            return FALSE
        ctx.depth += 1
        code = cast("RouteFunction", self.namespace[function])(ctx)
        ctx.depth -= 1
        return code
