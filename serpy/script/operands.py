"""Variables: ``$x`` resolved at load time into an attribute or a pseudo-variable, with transformations.

Which of the two a name means depends on the dialect (docs/script-dialects.md). Readers give int, str or None
(undefined, ``$null``).

Runs in: resolution in the master while loading, readers in the udp receiver. Locks: none.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from typing import Final

from serpy.context.avps import AvpName, bounded, is_class_prefix, parse_avp_name
from serpy.context.context import Context
from serpy.errors import ParseError
from serpy.script import runtime, selects
from serpy.script.environment import Environment
from serpy.script.faults import did_you_mean
from serpy.script.scalars import Scalar, to_int, to_str
from serpy.sip.nameaddr import NameAddr, parse_nameaddr
from serpy.sip.uri import Uri, parse_uri

Read = Callable[[Context], Scalar]
Write = Callable[[Context, Scalar], None]

_FORM: Final = re.compile(
    r"\$([A-Za-z_]\w*)(?:\.([A-Za-z_0-9]\w*))?(?:\((.*)\))?(?:\[\s*(-?\d+|\*|)\s*\])?", re.ASCII | re.DOTALL
)
_LONG: Final = re.compile(r"\$\(([A-Za-z_]\w*)(?:\(([^{}]*)\))?(?:\[\s*(-?\d+|\*)\s*\])?((?:\{[^{}]*\})*)\)", re.ASCII)


class Variable:
    """A resolved ``$…``: either *avp* is set, or *read* (and *write* when it can be assigned)."""

    def __init__(self, avp: AvpName | None, read: Read | None, write: Write | None = None) -> None:
        self.avp = avp
        self.read = read
        self.write = write


def resolve_variable(text: str, environment: Environment) -> Variable:
    """What ``$…`` means. Raises ValueError with what is wrong."""
    long = _LONG.fullmatch(text)
    if long is not None:
        name, argument, index, transformations = long.groups()
        variable = _pseudo(name, argument, index, environment)
        return _transformed(variable, transformations) if transformations else variable
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"not a variable: {text!r}")
    name, member, argument, index = match.groups()
    if argument is not None:
        return _pseudo(name, argument, index, environment)
    dialect = environment.dialect
    known = name in _SIMPLE
    if member is not None or (index is not None and dialect != "kamailio") or dialect == "ser":
        if known and member is None and name in ("rc", "retcode"):
            return _pseudo(name, None, None, environment)
        return Variable(parse_avp_name(text), None)
    if known:
        return _pseudo(name, None, index, environment)
    if dialect == "kamailio":
        hint = did_you_mean(name, [*_SIMPLE, *_WITH_ARGUMENT])
        raise ValueError(f"unknown variable '${name}'" + (f"; {hint}" if hint else ""))
    if is_class_prefix(name) and name in ("f", "t", "fr", "tr"):
        raise ValueError(f"'${name}' names a list, not an attribute: write ${name}.name")
    return Variable(parse_avp_name(text), None)


def _pseudo(name: str, argument: str | None, index: str | None, environment: Environment) -> Variable:
    if argument is not None:
        make = _WITH_ARGUMENT.get(name)
        if make is None:
            hint = did_you_mean(name, _WITH_ARGUMENT)
            raise ValueError(f"unknown variable '${name}(…)'" + (f"; {hint}" if hint else ""))
        return make(argument.strip(), index or "", environment)
    pair = _SIMPLE.get(name)
    if pair is None:
        hint = did_you_mean(name, _SIMPLE)
        raise ValueError(f"unknown variable '${name}'" + (f"; {hint}" if hint else ""))
    return Variable(None, pair[0], pair[1])


# ---- readers


def _uri(ctx: Context) -> Uri | None:
    try:
        return ctx.uri if not runtime.is_reply(ctx) else None
    except ParseError:
        return None


def _ru(ctx: Context) -> Scalar:
    return ctx.request_uri if not runtime.is_reply(ctx) else None


def _r_user(ctx: Context) -> Scalar:
    uri = _uri(ctx)
    return (uri.user or None) if uri is not None else None


def _r_domain(ctx: Context) -> Scalar:
    uri = _uri(ctx)
    return uri.host if uri is not None else None


def _r_port(ctx: Context) -> Scalar:
    uri = _uri(ctx)
    return (uri.port or 5060) if uri is not None else None


def _ou(ctx: Context) -> Scalar:
    return ctx.request.request_uri if ctx.request is not None else None


def _du(ctx: Context) -> Scalar:
    return ctx.dst_uri or None


def _address(ctx: Context, to: bool) -> NameAddr | None:
    try:
        return ctx.message.to if to else ctx.message.from_
    except ParseError:
        return None


def _address_reader(to: bool, part: str) -> Read:
    def read(ctx: Context) -> Scalar:
        address = _address(ctx, to)
        if address is None:
            return None
        if part == "uri":
            return address.uri_text
        if part == "tag":
            return address.tag or None
        if part == "name":
            return address.display_name or None
        try:
            uri = address.uri
        except ParseError:
            return None
        return (uri.user if part == "user" else uri.host) or None

    return read


def _ci(ctx: Context) -> Scalar:
    return ctx.message.get("call-id")


def _cs(ctx: Context) -> Scalar:
    try:
        return ctx.message.cseq.number
    except ParseError:
        return None


def _rm(ctx: Context) -> Scalar:
    return runtime.method_of(ctx)


def _ua(ctx: Context) -> Scalar:
    return ctx.message.get("user-agent")


def _ct(ctx: Context) -> Scalar:
    return ctx.message.get("contact")


def _si(ctx: Context) -> Scalar:
    return ctx.flow.host


def _sp(ctx: Context) -> Scalar:
    return ctx.flow.port


def _received_ip(ctx: Context) -> Scalar:
    return ctx.flow.listener.host


def _received_port(ctx: Context) -> Scalar:
    return ctx.flow.listener.port


def _proto(ctx: Context) -> Scalar:
    return ctx.flow.transport


def _mt(ctx: Context) -> Scalar:
    return 2 if runtime.is_reply(ctx) else 1


def _ml(ctx: Context) -> Scalar:
    return runtime.message_length(ctx)


def _rs(ctx: Context) -> Scalar:
    return None if ctx.response is None else ctx.response.status


def _rr(ctx: Context) -> Scalar:
    return None if ctx.response is None else ctx.response.reason


def retcode(ctx: Context) -> Scalar:
    """``$?``, ``$rc``."""
    return ctx.retcode


def _pp(_ctx: Context) -> Scalar:
    return os.getpid()


def _ts(ctx: Context) -> Scalar:
    return int(ctx.wall_now)


def _branch_index(ctx: Context) -> Scalar:
    return ctx.branch_index


def _null(_ctx: Context) -> Scalar:
    return None


# ---- writers


def _write_ru(ctx: Context, value: Scalar) -> None:
    if value is not None:
        ctx.request_uri = to_str(value)


def _write_part(ctx: Context, part: str, value: Scalar) -> None:
    uri = _uri(ctx)
    if uri is None:
        return
    if part == "user":
        ctx.request_uri = str(uri.replaced(user=to_str(value)))
    elif part == "host":
        ctx.request_uri = str(uri.replaced(host=to_str(value)))
    else:
        ctx.request_uri = str(uri.replaced(port=to_int(value)))


def _write_user(ctx: Context, value: Scalar) -> None:
    _write_part(ctx, "user", value)


def _write_host(ctx: Context, value: Scalar) -> None:
    _write_part(ctx, "host", value)


def _write_port(ctx: Context, value: Scalar) -> None:
    _write_part(ctx, "port", value)


def _write_du(ctx: Context, value: Scalar) -> None:
    ctx.dst_uri = to_str(value)


_SIMPLE: Final[dict[str, tuple[Read, Write | None]]] = {
    "ru": (_ru, _write_ru), "rU": (_r_user, _write_user), "rd": (_r_domain, _write_host), "rp": (_r_port, _write_port),
    "ou": (_ou, None), "du": (_du, _write_du),
    "fu": (_address_reader(False, "uri"), None), "fU": (_address_reader(False, "user"), None),
    "fd": (_address_reader(False, "domain"), None), "ft": (_address_reader(False, "tag"), None),
    "fn": (_address_reader(False, "name"), None), "tu": (_address_reader(True, "uri"), None),
    "tU": (_address_reader(True, "user"), None), "td": (_address_reader(True, "domain"), None),
    "tt": (_address_reader(True, "tag"), None), "tn": (_address_reader(True, "name"), None),
    "ci": (_ci, None), "cs": (_cs, None), "rm": (_rm, None), "ua": (_ua, None), "ct": (_ct, None), "si": (_si, None),
    "sp": (_sp, None), "Ri": (_received_ip, None), "Rp": (_received_port, None), "proto": (_proto, None),
    "mt": (_mt, None), "ml": (_ml, None), "rs": (_rs, None), "rr": (_rr, None), "rc": (retcode, None),
    "retcode": (retcode, None), "pp": (_pp, None), "Ts": (_ts, None), "T_branch_idx": (_branch_index, None),
    "null": (_null, None),
}  # fmt: skip


def simple(name: str) -> Read:
    """The reader of ``$name``. Raises KeyError."""
    return _SIMPLE[name][0]


# ---- $name(argument)


def _hdr(argument: str, index: str, _environment: Environment) -> Variable:
    name = argument.strip("\"'").lower()

    def read(ctx: Context) -> Scalar:
        found = ctx.message.get_all(name)
        if index == "*":
            return ",".join(found) if found else None
        place = int(index or "0")
        return found[place] if -len(found) <= place < len(found) else None

    return Variable(None, read)


def _avp(argument: str, index: str, _environment: Environment) -> Variable:
    name = parse_avp_name(argument if argument.startswith("$") else "$" + argument)

    def read(ctx: Context) -> Scalar:
        found = ctx.avps.find(name)
        place = int(index) if index not in ("", "*") else 0
        return found[place].value if -len(found) <= place < len(found) else None

    def write(ctx: Context, value: Scalar) -> None:
        if value is None:
            found = ctx.avps.get(name.write_list, name.name)
            ctx.avps.set_values(name.write_list, name.name, [] if index == "*" else found[1:])
        elif index == "*":
            ctx.avps.set(name.write_list, name.name, value)
        else:
            ctx.avps.add(name.write_list, name.name, value)

    return Variable(None, read, write)


def _var(argument: str, _index: str, environment: Environment) -> Variable:
    name = argument
    kept = environment.hooks.vars

    def read(_ctx: Context) -> Scalar:
        return kept.get(name, 0)

    def write(_ctx: Context, value: Scalar) -> None:
        kept[name] = 0 if value is None else bounded(value)

    return Variable(None, read, write)


def _sel(argument: str, _index: str, environment: Environment) -> Variable:
    return Variable(None, selects.resolve_select("@" + argument.removeprefix("@"), environment))


def _msg(argument: str, _index: str, _environment: Environment) -> Variable:
    if argument != "len":
        raise ValueError(f"unknown variable '$msg({argument})'; did you mean '$msg(len)'?")
    return Variable(None, _ml)


def _env(argument: str, _index: str, _environment: Environment) -> Variable:
    value = os.environ.get(argument)

    def read(_ctx: Context) -> Scalar:
        return value

    return Variable(None, read)


_WITH_ARGUMENT: Final[dict[str, Callable[[str, str, Environment], Variable]]] = {
    "hdr": _hdr, "avp": _avp, "var": _var, "sel": _sel, "msg": _msg, "env": _env,
}  # fmt: skip


# ---- transformations


def _transformed(variable: Variable, text: str) -> Variable:
    steps = [_transformation(item) for item in re.findall(r"\{([^{}]*)\}", text)]
    avp = variable.avp
    inner: Read = variable.read if variable.read is not None else avp_reader(avp)

    def read(ctx: Context) -> Scalar:
        value = inner(ctx)
        for step in steps:
            value = step(value)
        return value

    return Variable(None, read)


def avp_reader(avp: AvpName | None) -> Read:
    """A reader of an attribute; of None it reads nothing."""

    def read(ctx: Context) -> Scalar:
        return None if avp is None else ctx.avps.read(avp)

    return read


def _uri_of(value: Scalar) -> Uri | None:
    try:
        return parse_uri(to_str(value))
    except ParseError:
        return None


def _slice(text: str, arguments: list[str]) -> str:
    offset = int(arguments[0])
    start = offset if offset >= 0 else len(text) + offset
    length = int(arguments[1]) if len(arguments) > 1 else 0
    return text[start:] if length == 0 else text[start : start + length]


def _field(text: str, arguments: list[str]) -> Scalar:
    fields = text.split(arguments[1] if len(arguments) > 1 and arguments[1] else ",")
    index = int(arguments[0])
    return fields[index] if -len(fields) <= index < len(fields) else None


def _text_step(name: str, arguments: list[str]) -> Callable[[str], Scalar] | None:
    simple: dict[str, Callable[[str], Scalar]] = {
        "len": len, "int": to_int, "tolower": str.lower, "toupper": str.upper,
        "md5": lambda text: hashlib.md5(text.encode("utf-8", "surrogateescape")).hexdigest(),
        "trim": lambda text: text.strip(" \t\r\n"),
    }  # fmt: skip
    if name in simple:
        return simple[name]
    if not arguments:
        return None
    if name in ("substr", "strip", "striptail") and not re.fullmatch(r"-?\d+", arguments[0], re.ASCII):
        return None
    if name == "substr":
        return lambda text: _slice(text, arguments)
    if name == "select":
        return lambda text: _field(text, arguments)
    if name == "strip":
        return lambda text: text[int(arguments[0]) :]
    if name == "striptail":
        return lambda text: text[: max(0, len(text) - int(arguments[0]))]
    if name == "rm":
        return lambda text: text.replace(arguments[0], "")
    return None


def _transformation(text: str) -> Callable[[Scalar], Scalar]:
    """One ``{class.function,arguments}``. Raises ValueError."""
    head, *arguments = text.split(",")
    family, _, name = head.strip(" \t").partition(".")
    if family == "s":
        step = _text_step(name, arguments)
        if step is not None:
            found = step
            return lambda value: found(to_str(value))
    if family == "uri" and name in ("user", "host", "port", "params", "scheme", "transport", "param"):
        return lambda value: _uri_step(_uri_of(value), name, arguments)
    if family in ("nameaddr", "tobody") and name in ("uri", "name", "tag"):
        return lambda value: _address_step(value, name)
    raise ValueError(f"unknown transformation {{{text}}}")


def _uri_step(uri: Uri | None, name: str, arguments: list[str]) -> Scalar:
    if uri is None:
        return None
    if name == "scheme":
        return uri.scheme
    if name == "transport":
        return uri.transport
    if name == "param":
        return uri.param(arguments[0].lower()) if arguments else None
    return selects.uri_part(uri, name)


def _address_step(value: Scalar, name: str) -> Scalar:
    try:
        address = parse_nameaddr(to_str(value))
    except ParseError:
        return None
    return address.uri_text if name == "uri" else address.tag if name == "tag" else address.display_name
