"""All RPCs of this server by name, and the barrier around them: whatever a method does, the caller gets an answer.

Parameters arrive as JSON or BINRPC values and are made what the method's annotations ask for (``int``, ``float``,
``str``), since sercmd sends everything that looks like a number as one.

Runs in: ctl. Locks: none.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from serpy.errors import ConfigError, ProtocolError, ResourceError, SerpyError, UsageError
from serpy.rpc.protocol import RpcFault
from serpy.script.exports import Rpc

log = logging.getLogger(__name__)

NESTING_MAX: Final = 16  # lists and structs in each other, in what a caller sends
_INT_MAX: Final = 2**63 - 1
_DIGITS: Final = frozenset("0123456789")
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Registry:
    """Name -> Rpc."""

    def __init__(self) -> None:
        self._methods: Final[dict[str, Rpc]] = {}

    def add(self, rpc: Rpc) -> None:
        """Make one method known; the first of two alike stays."""
        self._methods.setdefault(rpc.name, rpc)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._methods)

    def find(self, name: str) -> Rpc:
        """The method *name*. Raises RpcFault 404."""
        rpc = self._methods.get(name)
        if rpc is None:
            raise RpcFault(404, f"method {name[:80]} not found")
        return rpc

    def call(self, name: str, params: Sequence[object]) -> object:
        """Run *name* with *params*; may park. Raises RpcFault, nothing else."""
        rpc = self.find(name)
        if is_deep(params, NESTING_MAX):
            raise RpcFault(400, f"parameters are nested more than {NESTING_MAX} deep")
        arguments = arguments_for(rpc.call, params)
        if rpc.write:
            log.info("RPC %s", name)  # what changes the server is found in the log, afterwards
        try:
            return rpc.call(*arguments)
        except RpcFault:
            raise
        except SerpyError as exc:
            raise RpcFault(fault_code(exc), str(exc)) from None
        except Exception:  # a bug in one RPC must not end the ctl process
            log.exception("bug in RPC %s", name)
            raise RpcFault(500, "internal error, see the log of the server") from None


def is_deep(value: object, depth: int) -> bool:
    """True when lists and structs stand in each other more than *depth* deep."""
    if isinstance(value, Mapping):
        inside: Iterable[object] = value.values()
    elif isinstance(value, list | tuple):
        inside = value
    else:
        return False
    return depth < 0 or any(is_deep(item, depth - 1) for item in inside)


def fault_code(exc: SerpyError) -> int:
    """The fault code for *exc*: its own when it brings one."""
    code = getattr(exc, "code", None)
    if isinstance(code, int):
        return code
    if isinstance(exc, UsageError | ConfigError | ProtocolError):
        return 400
    return 503 if isinstance(exc, ResourceError) else 500


def arguments_for(call: Callable[..., object], params: Sequence[object]) -> list[object]:
    """*params* as *call* wants them. Raises RpcFault 400 naming what is wrong."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):  # a compiled function does not tell: it checks by itself
        return list(params)
    found: list[object] = []
    at = 0
    for parameter in parameters:
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            found.extend(_typed(parameter, value) for value in params[at:])
            return found
        if parameter.kind not in _POSITIONAL:
            continue
        if at >= len(params):
            if parameter.default is inspect.Parameter.empty:
                raise RpcFault(400, f"parameter {parameter.name} is missing")
            continue
        found.append(_typed(parameter, params[at]))
        at += 1
    if at < len(params):
        raise RpcFault(400, f"too many parameters: {len(params)} given, {at} taken")
    return found


def _typed(parameter: inspect.Parameter, value: object) -> object:
    """*value* as the annotation says; one that is not int, float or str leaves it alone."""
    wanted = parameter.annotation if isinstance(parameter.annotation, str) else parameter.annotation.__name__
    if wanted == "str":
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    elif wanted == "int":
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INT_MAX:
            return value
        if isinstance(value, str) and _is_number(value):
            return int(value)
    elif wanted == "float":
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _INT_MAX:
            return float(value)
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, str) and _is_number(value.replace(".", "", 1)):
            return float(value)
    else:
        return value
    kind = {"str": "a text", "int": "a whole number", "float": "a number"}[wanted]
    raise RpcFault(400, f"parameter {parameter.name} must be {kind}")


def _is_number(text: str) -> bool:
    digits = text[1:] if text[:1] == "-" else text
    return 0 < len(digits) < 19 and _DIGITS.issuperset(digits)
