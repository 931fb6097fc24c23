"""Format strings (script-language §9): ``%ru``, ``%$avp``, ``%@select``, ``%{Header}`` … cut into parts at load time.

In the modern dialect ``$name`` is expanded instead and ``%`` is plain text.

Runs in: compilation in the master while loading, expansion in the udp receiver. Locks: none.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from typing import Final

from serpy.context.avps import parse_avp_name
from serpy.context.context import Context
from serpy.script import operands, selects
from serpy.script.environment import Environment
from serpy.script.faults import did_you_mean
from serpy.script.scalars import Scalar
from serpy.script.unique import unique
from serpy.sip.text import header_value

Part = str | operands.Read

_SELECT: Final = re.compile(r'@[A-Za-z_]\w*(?:\.[A-Za-z_0-9]\w*|\[(?:-?\d+|"[^"]*"|[\w-]+)\])*', re.ASCII)
_AVP: Final = re.compile(r"\$[A-Za-z_]\w*(?:\.[A-Za-z_0-9]\w*)?(?:\[-?\d*\])?", re.ASCII)
_OLD_AVP: Final = re.compile(r"<([^<>]+)>")
_HEADER: Final = re.compile(r"\{([A-Za-z0-9!#$&'+.^_`|~-]+)(?:\[(-?\d+|\*)\])?\}", re.ASCII)
_MODERN: Final = re.compile(
    r"\$(?:\$|\((?:[^(){}]|\([^()]*\)|\{[^{}]*\})*\)|[A-Za-z_]\w*(?:\([^()]*\))?(?:\[-?\d+\])?)", re.ASCII
)


class Format:
    """A compiled format string. *constant* is its text when nothing in it changes, else None."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.constant: str | None = "".join([str(p) for p in parts]) if all(isinstance(p, str) for p in parts) else None
        self._texts: list[str] = [part if isinstance(part, str) else "" for part in parts]
        self._reads: list[operands.Read | None] = [None if isinstance(part, str) else part for part in parts]

    def expand(self, ctx: Context) -> str:
        """The text for this message; undefined values print as ``<null>``."""
        constant = self.constant
        if constant is not None:
            return constant
        out: list[str] = []
        texts = self._texts
        for index, read in enumerate(self._reads):
            if read is None:
                out.append(texts[index])
                continue
            value = read(ctx)
            if value is None:
                out.append("<null>")
            elif isinstance(value, str):
                out.append(value)
            else:
                out.append(str(value))
        return "".join(out)

    def expand_in_line(self, ctx: Context) -> str:
        """The text for this message, line ends in it from its constants only: what peers sent makes no header line."""
        out: list[str] = []
        for index, read in enumerate(self._reads):
            if read is None:
                out.append(self._texts[index])
                continue
            value = read(ctx)
            out.append("<null>" if value is None else header_value(value) if isinstance(value, str) else str(value))
        return "".join(out)


def compile_format(text: str, environment: Environment) -> Callable[[Context], str]:
    """The function that expands *text*. Raises ValueError."""
    return parse_format(text, environment).expand


def parse_format(text: str, environment: Environment) -> Format:
    """*text* cut into parts. Raises ValueError with what is wrong."""
    if environment.dialect == "kamailio":
        return Format(_modern_parts(text, environment))
    parts: list[Part] = []
    offset = 0
    while True:
        percent = text.find("%", offset)
        if percent < 0:
            break
        if percent > offset:
            parts.append(text[offset:percent])
        part, offset = _specifier(text, percent + 1, environment)
        if part != "":
            parts.append(part)
    if offset < len(text):
        parts.append(text[offset:])
    return Format(parts)


def _modern_parts(text: str, environment: Environment) -> list[Part]:
    parts: list[Part] = []
    offset = 0
    for match in _MODERN.finditer(text):
        parts.append(text[offset : match.start()])
        offset = match.end()
        parts.append("$" if match.group() == "$$" else _variable(match.group(), environment))
    parts.append(text[offset:])
    return [part for part in parts if part != ""]


def _variable(text: str, environment: Environment) -> operands.Read:
    variable = operands.resolve_variable(text, environment)
    if variable.read is not None:
        return variable.read
    return operands.avp_reader(variable.avp)


def _specifier(text: str, offset: int, environment: Environment) -> tuple[Part, int]:
    """What stands after a ``%`` at *offset*: the part and where the text goes on."""
    head = text[offset : offset + 1]
    if not head:
        return "%", offset
    if head == "%":
        return "%", offset + 1
    if head == "|":
        return "", offset + 1
    if head == "@":
        select = _SELECT.match(text, offset)
        if select is None:
            raise ValueError("'%@' needs a select")
        return selects.resolve_select(select.group(), environment), _after(text, select.end())
    if head == "$":
        avp = _AVP.match(text, offset)
        if avp is None:
            raise ValueError("'%$' needs an attribute name")
        return operands.avp_reader(parse_avp_name(avp.group())), _after(text, avp.end())
    if head == "<":
        old = _OLD_AVP.match(text, offset)
        if old is not None:
            return operands.avp_reader(parse_avp_name("$" + old.group(1).removeprefix("$"))), old.end()
    if head == "{":
        header = _HEADER.match(text, offset)
        if header is None:
            raise ValueError("'%{' needs a header name: %{Contact[0]}")
        return _header(header.group(1).lower(), header.group(2) or "0"), header.end()
    if head == "C":
        return _colour(text[offset + 1 : offset + 3]), offset + 3
    name = text[offset : offset + 2]
    read = _SPECIFIERS.get(name)
    if read is None:
        hint = did_you_mean(name, _SPECIFIERS)
        raise ValueError(f"unknown specifier '%{name}'; " + (hint or "a percent sign is written %%"))
    return read, offset + 2


def _after(text: str, offset: int) -> int:
    return offset + 2 if text.startswith("%|", offset) else offset


def _header(name: str, index: str) -> operands.Read:
    def read(ctx: Context) -> Scalar:
        found = ctx.message.get_all(name)
        if index == "*":
            return ",".join(found) if found else None
        place = int(index)
        return found[place] if -len(found) <= place < len(found) else None

    return read


_COLOURS: Final = {"x": 9, "s": 0, "r": 1, "g": 2, "y": 3, "b": 4, "p": 5, "c": 6, "w": 7}


def _colour(pair: str) -> str:
    if pair == "xx":
        return "\x1b[0m"
    codes = [30 + _COLOURS.get(pair[:1].lower(), 9), 40 + _COLOURS.get(pair[1:2].lower(), 9)]
    bold = "1;" if pair[:1].isupper() else ""
    return f"\x1b[{bold}{codes[0]};{codes[1]}m"


def _get(name: str) -> operands.Read:
    def read(ctx: Context) -> Scalar:
        return ctx.message.get(name)

    return read


def _from_tag(ctx: Context) -> Scalar:
    return selects.from_tag(ctx)


def _to_tag(ctx: Context) -> Scalar:
    return selects.to_tag(ctx)


def _whole(ctx: Context) -> Scalar:
    data = ctx.out_data or ctx.message.raw
    return data.decode("utf-8", "surrogateescape")


def _number(ctx: Context) -> Scalar:
    return id(ctx.message) & 0xFFFFFFFF


def _number_hex(ctx: Context) -> Scalar:
    return f"{id(ctx.message) & 0xFFFFFFFF:x}"


def _flags(ctx: Context) -> Scalar:
    return ctx.flags


def _destinations(ctx: Context) -> Scalar:
    return ", ".join([target.request_uri for target in ctx.targets()])


def _first_branch(ctx: Context) -> Scalar:
    return ctx.branches[0].request_uri if ctx.branches else None


def _all_branches(ctx: Context) -> Scalar:
    return ", ".join([target.request_uri for target in ctx.branches]) or None


def _next_hop(ctx: Context) -> Scalar:
    return ctx.dst_uri or ctx.request_uri or None


def _pid_hex(_ctx: Context) -> Scalar:
    return f"{os.getpid():x}"


def _unique(_ctx: Context) -> Scalar:
    return unique()


def _time_text(ctx: Context) -> Scalar:
    return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(ctx.wall_now))


def _time_hex(ctx: Context) -> Scalar:
    return f"{int(ctx.wall_now):x}"


def _cseq(ctx: Context) -> Scalar:
    return ctx.message.get("cseq")


_HOST: Final = socket.gethostname()


def _host(_ctx: Context) -> Scalar:
    return _HOST


def _host_name(_ctx: Context) -> Scalar:
    return _HOST.partition(".")[0]


def _host_domain(_ctx: Context) -> Scalar:
    return _HOST.partition(".")[2]


def _host_address(ctx: Context) -> Scalar:
    return ctx.flow.listener.host


_SPECIFIERS: Final[dict[str, operands.Read]] = {
    "ru": operands.simple("ru"), "rm": operands.simple("rm"), "rs": operands.simple("rs"), "rr": operands.simple("rr"), "fu": operands.simple("fu"),
    "ft": _from_tag, "tu": operands.simple("tu"), "tt": _to_tag, "ct": _get("contact"), "ci": operands.simple("ci"), "cs": operands.simple("cs"),
    "ua": _get("user-agent"), "rt": _get("refer-to"), "si": operands.simple("si"), "sp": operands.simple("sp"), "is": operands.simple("si"),
    "Ri": operands.simple("Ri"), "Rp": operands.simple("Rp"), "mb": _whole, "ml": operands.simple("ml"), "mi": _number, "mx": _number_hex,
    "mf": _flags, "ds": _destinations, "br": _first_branch, "bR": _all_branches, "nh": _next_hop, "pp": operands.simple("pp"),
    "px": _pid_hex, "uq": _unique, "Ts": operands.simple("Ts"), "Tf": _time_text, "Tx": _time_hex, "Hn": _host_name,
    "Hd": _host_domain, "Hf": _host, "Hi": _host_address,
}  # fmt: skip
