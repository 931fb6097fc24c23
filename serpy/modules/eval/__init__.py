"""A stack machine for scripts: push values, let an operator work on them, read the result.

Positions count from the top (0, 1 …) or from the bottom (-1, -2 …). The stack belongs to the process and is emptied
when the script has finished with a message. What the operators do is in ``oper``.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final

from serpy.api import FALSE, TRUE, Arg, Context, Exports, Function, Param, Routes, Select, Server, UsageError
from serpy.context.avps import parse_avp_name
from serpy.modules.eval.oper import OPERATORS, Item
from serpy.script.environment import Environment
from serpy.script.formats import compile_format
from serpy.script.selects import resolve_select

MAX_ITEMS: Final = 256
MAX_TEXT: Final = 65536

Read = Callable[[Context], Item | None]


class Machine:
    """The stack (top first) and the registers of this process."""

    def __init__(self) -> None:
        self.xlbuf_size = 4096
        self.declare_register: list[str] = []
        self.stack: list[Item] = []
        self.registers: dict[str, Item] = {}
        self._readers: dict[str, Read] = {}
        self._environment = Environment()

    def take_environment(self, environment: Environment) -> None:
        """Look names up in the script that has loaded this module."""
        self._environment = environment

    def init(self, server: Server) -> None:
        """Empty the stack after every message; called in the master."""
        server.hooks.post_script.append(self.clear)

    def clear(self, ctx: Context) -> None:
        """Forget the stack of this message."""
        del ctx
        self.stack.clear()

    def place(self, position: int) -> int:
        """*position* as an index from the top; -1 when there is no such item."""
        index = position if position >= 0 else len(self.stack) + position
        return index if 0 <= index < len(self.stack) else -1

    # locations

    def read(self, ctx: Context, location: str | int) -> Item | None:
        """The value at *location*, None when it is undefined."""
        if isinstance(location, int):
            return location
        reader = self._readers.get(location)
        if reader is None:
            try:
                reader = self._readers[location] = self._compile(location)
            except ValueError as exc:
                raise UsageError(f"eval: {exc}") from exc
        return reader(ctx)

    def _compile(self, text: str) -> Read:
        if text.startswith("s:"):
            return _constant(text[2:])
        if text.startswith("x:"):
            return compile_format(text[2:], self._environment)
        if text.startswith("r:"):
            return self._register(text[2:])
        if text.startswith("f:"):
            return self._function(text[2:])
        if text.startswith("$"):
            name = parse_avp_name(text)
            return lambda ctx: ctx.avps.read(name)
        if text.startswith("@"):
            return resolve_select(text, self._environment)
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) <= 18:
            return _constant(int(text))
        return _constant(text)

    def _register(self, name: str) -> Read:
        return lambda _ctx: self.registers.get(name)

    def _function(self, name: str) -> Read:
        if name == "time":
            return lambda ctx: int(ctx.wall_now)
        if name == "uuid":
            return lambda _ctx: str(uuid.uuid4())
        if name in {"stackno", "stack_no"}:
            return lambda _ctx: len(self.stack)
        raise ValueError(f"unknown function f:{name} (one of time uuid stackno)")

    def write(self, ctx: Context, location: str | int, value: Item) -> int:
        """Store into an attribute or a register."""
        if not isinstance(location, str) or location[:1] not in {"$", "r"}:
            raise UsageError(f"eval: cannot write to {location!r}")
        if location.startswith("$"):
            ctx.avps.write(parse_avp_name(location), value)
        else:
            self.registers[location.removeprefix("r:")] = value
        return TRUE

    # script functions

    def _add(self, index: int, value: Item) -> int:
        if len(self.stack) >= MAX_ITEMS or (isinstance(value, str) and len(value) > MAX_TEXT):
            return FALSE
        self.stack.insert(index, value)
        return TRUE

    def push(self, ctx: Context, location: str | int, position: int = -1) -> int:
        """Put the value below *position*; without one at the bottom."""
        value = self.read(ctx, location)
        if value is None:
            return FALSE
        if not self.stack:
            return self._add(0, value)
        index = self.place(position)
        return FALSE if index < 0 else self._add(index + 1, value)

    def insert(self, ctx: Context, location: str | int, position: int = 0) -> int:
        """Put the value above *position*; without one on top."""
        value = self.read(ctx, location)
        if value is None:
            return FALSE
        if not self.stack:
            return self._add(0, value)
        index = self.place(position)
        return FALSE if index < 0 else self._add(index, value)

    def put(self, ctx: Context, location: str | int, position: int = 0) -> int:
        """Replace the item at *position*."""
        value = self.read(ctx, location)
        index = self.place(position)
        if value is None or index < 0:
            return FALSE
        self.stack[index] = value
        return TRUE

    def get(self, ctx: Context, location: str | int, position: int = 0) -> int:
        """Copy the item at *position* to an attribute or register."""
        index = self.place(position)
        return FALSE if index < 0 else self.write(ctx, location, self.stack[index])

    def pop(self, ctx: Context, location: str | int, position: int = 0) -> int:
        """Move the item at *position* to an attribute or register."""
        index = self.place(position)
        return FALSE if index < 0 else self.write(ctx, location, self.stack.pop(index))

    def xchg(self, ctx: Context, position: int, other: int = 0) -> int:
        """Exchange two items."""
        del ctx
        first = self.place(position)
        second = self.place(other)
        if first < 0 or second < 0:
            return FALSE
        self.stack[first], self.stack[second] = self.stack[second], self.stack[first]
        return TRUE

    def remove(self, ctx: Context, position: int = 0, count: int = 1) -> int:
        """Drop *count* items from *position* downwards."""
        del ctx
        index = self.place(position)
        if index < 0 or count < 0:
            return FALSE
        del self.stack[index : index + count]
        return TRUE

    def oper(self, ctx: Context, names: str, position: int = 0) -> int:
        """Run the operators ``a,b`` in turn: operands at *position* and below, the result at *position*."""
        del ctx
        index = self.place(position)
        for name in names.split(","):
            operator = OPERATORS.get(name.strip(" \t"))
            if operator is None:
                raise UsageError(f"eval_oper: unknown operator {name!r}")
            operands = self.stack[index : index + operator.count]
            if index < 0 or len(operands) < operator.count:
                return FALSE
            result = operator.run(operands)
            if result is None or (isinstance(result, str) and len(result) > MAX_TEXT):
                return FALSE
            self.stack[index : index + operator.count] = [result]
        return TRUE

    def empty(self, ctx: Context) -> int:
        """Drop all items."""
        self.clear(ctx)
        return TRUE

    # selects

    def resolve_pop(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@eval.pop[i]``: removes what it reads."""
        position = _position(parts)
        return lambda _ctx: self._take(position)

    def _take(self, position: int) -> str | None:
        index = self.place(position)
        return None if index < 0 else str(self.stack.pop(index))

    def resolve_get(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@eval.get[i]``."""
        position = _position(parts)
        return lambda _ctx: self._look(position)

    def _look(self, position: int) -> str | None:
        index = self.place(position)
        return None if index < 0 else str(self.stack[index])

    def resolve_reg(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@eval.reg.NAME``."""
        if len(parts) != 1 or not isinstance(parts[0], str):
            raise ValueError("write @eval.reg.NAME")
        name = parts[0]
        return lambda _ctx: None if name not in self.registers else str(self.registers[name])

    def resolve_uuid(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """``@eval.uuid``."""
        if parts:
            raise ValueError("nothing below @eval.uuid")
        return lambda _ctx: str(uuid.uuid4())


def _constant(value: Item) -> Read:
    return lambda _ctx: value


def _position(parts: tuple[str | int, ...]) -> int:
    if not parts:
        return 0
    if len(parts) != 1 or not isinstance(parts[0], int):
        raise ValueError("write a position: [0] is the top, [-1] the bottom")
    return parts[0]


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = Machine()
    place = (Arg.LOC, Arg.INT)
    rows: list[tuple[str, Callable[..., int], tuple[Arg, ...], int, str]] = [
        ("eval_push", module.push, place, 1, "put a value below a position, by default at the bottom"),
        ("eval_insert", module.insert, place, 1, "put a value above a position, by default on top"),
        ("eval_put", module.put, place, 1, "replace the item at a position"),
        ("eval_get", module.get, place, 1, "copy an item to an attribute or register"),
        ("eval_pop", module.pop, place, 1, "move an item to an attribute or register"),
        ("eval_xchg", module.xchg, (Arg.INT, Arg.INT), 1, "exchange two items"),
        ("eval_remove", module.remove, (Arg.INT, Arg.INT), 2, "drop items"),
        ("eval_oper", module.oper, (Arg.STR, Arg.INT), 1, "run operators on the items at a position"),
    ]
    functions = [
        Function(name, call, args, optional=optional, routes=Routes.ALL, summary=summary)
        for name, call, args, optional, summary in rows
    ]
    functions.append(Function("eval_clear", module.empty, routes=Routes.ALL, summary="empty the stack"))
    return Exports(
        "eval",
        module,
        take_environment=module.take_environment,
        functions=functions,
        params=(
            Param("xlbuf_size", "int", 4096, "accepted, without effect", attribute="xlbuf_size"),
            Param("declare_register", "str", "", "name of a register", attribute="declare_register", repeat=True),
        ),
        selects=(
            Select("eval.pop", module.resolve_pop, "an item, removed by reading it"),
            Select("eval.get", module.resolve_get, "an item"),
            Select("eval.reg", module.resolve_reg, "a register"),
            Select("eval.uuid", module.resolve_uuid, "a new UUID"),
        ),
        init=module.init,
    )
