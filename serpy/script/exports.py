"""What a module offers to the script, declared as data: functions, parameters, selects, RPCs.

The checker reads these tables to refuse wrong names, arity, types and routes at load time; the code generator turns
each call into a direct call of ``Function.call`` with its arguments already resolved.

Runs in: the master while loading. Locks: none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntFlag
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from serpy.context.context import Context

TRUE: Final = 1
FALSE: Final = -1
STOP: Final = 0  # the function has taken care of the request: the script ends (script-language §5.1)


class Routes(IntFlag):
    """The route kinds a function is legal in."""

    REQUEST = 1
    FAILURE = 2
    ONREPLY = 4
    BRANCH = 8
    ONSEND = 16
    EVENT = 32
    ALL = 63
    MAIN = 1 | 32
    """REQUEST and EVENT: where there is a request of our own to work on."""


class Arg(Enum):
    """How one argument is written in the script and what the function receives at run time."""

    STR = "a constant string"  # -> str
    INT = "an integer"  # number, numeric string, or expression -> int
    VALUE = "a string, $avp or @select"  # "fparam": resolved per call -> str | int | None (None = undefined)
    FORMAT = "a format string"  # xl_lib, expanded per call -> str
    LINES = "header lines, a format string"  # values of attributes and selects stay on their line -> str
    STATUS = "a status from 100 to 699"  # a VALUE; a constant is checked -> str | int | None
    REASON = "a reason phrase"  # a VALUE; controls in a constant become spaces, with a warning -> str | int | None
    TEMPLATE = "a format string, kept in parts"  # the function expands it itself -> serpy.script.formats.Format
    REGEX = "a regular expression"  # constant; extended, case-insensitive, multi-line -> serpy.script.patterns.Pattern
    MATCH = "a regular expression whose match is replaced"  # the same -> Pattern, for replaced()
    SUBST = "a substitution"  # constant "/expression/replacement/flags" -> serpy.script.substitution.Substitution
    FLAG = "a flag"  # number, name or quoted name -> int
    AVP = "an attribute"  # "$x", "$fu.x[1]" -> serpy.context.avps.AvpName
    TRACK = "an attribute list"  # "$fd" "$tu" …: the name of a list -> serpy.context.avps.AvpName with name ""
    ROUTE = "a route name"  # constant name, checked to exist (kind in Function.route_kind) -> str
    HEADER = "a header value reference"  # "Name", "Name[i]", "Name[i].param" constant -> str
    LOC = "an eval location"  # eval module: kept as written -> str | int


@dataclass(frozen=True)
class Function:
    """One script function. *call* receives (ctx, *arguments); the last *optional* arguments may be left out. It returns
    > 0 for true, < 0 for false (kept in ``$?``), 0 to end the script (see STOP).

    ``summary`` is one line for ``serpyctl help`` and the man page. ``route_kind`` is the kind of route an
    ``Arg.ROUTE`` argument must name ("failure_route", "onreply_route", "branch_route", "route"). ``prepare`` turns the
    argument at a position (STR, TEMPLATE) into what the function receives, once, at load time; ValueError refuses it.
    """

    name: str
    call: Callable[..., int]
    args: tuple[Arg, ...] = ()
    optional: int = 0
    routes: Routes = Routes.REQUEST
    summary: str = ""
    route_kind: str = ""
    prepare: Mapping[int, Callable[[Any], object]] = field(default_factory=dict)  # Any: str or Format, by position


@dataclass(frozen=True)
class Param:
    """One module parameter, stored with ``setattr(module, attribute, value)``.

    *kind*: "int", "str", "flag" (name or number -> int, -1 = unset), or "avp" (text of an attribute name -> str).
    *repeat*: values accumulate in a list. *check* returns an error text or "".
    """

    name: str
    kind: str
    default: int | str
    summary: str
    attribute: str = ""
    repeat: bool = False
    check: Callable[[Any], str] | None = None  # Any: int or str, as *kind* says


@dataclass(frozen=True)
class Select:
    """A family of selects ``@prefix.…``. *resolve* takes the parts after the prefix (str or int index) at load
    time and returns the reader; it raises ``ValueError`` with a text for a part it does not know.
    """

    prefix: str  # dotted: "rr", "eval.pop", "cfg_get"
    resolve: Callable[[tuple[str | int, ...]], Callable[[Context], str | None]]
    summary: str = ""


@dataclass(frozen=True)
class Rpc:
    """An RPC, run in the ctl process. *call* takes typed parameters and returns plain data (dict, list, str, int,
    float, None); its docstring is the help text. *write*: it changes the server or its data, and is logged.
    """

    name: str
    call: Callable[..., object]
    write: bool = False


@dataclass
class Exports:
    """Everything one loaded module offers. ``module`` is the instance that parameters are set on.

    ``init`` runs in the master before the fork when all parameters are set; ``child_init`` in every child, with the
    per-process ``serpy.api.Server``.
    """

    name: str
    module: object
    functions: Sequence[Function] = ()
    params: Sequence[Param] = ()
    selects: Sequence[Select] = ()
    rpc: Sequence[Rpc] = ()
    init: Callable[[Any], None] | None = None  # Any: serpy.api.Server, which this layer may not import
    child_init: Callable[[Any], None] | None = None
    # Runtime-changeable settings of the cfg framework: group name -> {variable: (kind, default, help)}
    variables: Mapping[str, Mapping[str, tuple[str, int | str, str]]] = field(default_factory=dict)
    # Of a database driver: the URL schemes it knows, and (url, *, read_only, loop=None, create=False) -> Database.
    schemes: Sequence[str] = ()
    open_database: Callable[..., Any] | None = None  # Any: a Database, which this layer may not import either
    # Who replicates is given, before ``init``, the secret that the run directory keeps.
    take_secret: Callable[[str], None] | None = None
    # Who resolves texts of the script by itself is given, when loaded, the ``Environment`` to look names up in.
    take_environment: Callable[[Any], None] | None = None  # Any: it lies above this file

    def parameter(self, name: str) -> object:
        """The value that the parameter *name* has now; None when the module declares none of that name."""
        for param in self.params:
            if param.name == name:
                return getattr(self.module, param.attribute or param.name)
        return None
