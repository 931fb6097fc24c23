"""Selects: ``@name.part[index]`` resolved at load time into a reader. Core families here, the rest from modules.

A reader gives text, or None when undefined; whatever cannot be parsed is undefined.

Runs in: resolution in the master while loading, readers in the udp receiver. Locks: none.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Final

from serpy.context.context import Context
from serpy.errors import ParseError
from serpy.script import runtime
from serpy.script.environment import Environment
from serpy.script.faults import did_you_mean
from serpy.script.unique import unique
from serpy.sip.nameaddr import NameAddr, parse_nameaddr, split_commas
from serpy.sip.uri import Uri, parse_uri

Reader = Callable[[Context], "str | None"]
Part = str | int

_PART: Final = re.compile(r'\.?([A-Za-z_0-9]\w*)|\[\s*(?:(-?\d+)|"([^"]*)"|(\*))\s*\]', re.ASCII)


def parse_select(text: str) -> tuple[Part, ...]:
    """The parts of ``@a.b["c"][-1]``. Raises ValueError."""
    rest = text.removeprefix("@")
    parts: list[Part] = []
    offset = 0
    while offset < len(rest):
        match = _PART.match(rest, offset)
        if match is None:
            raise ValueError(f"not a select: {text!r}")
        word, number, quoted, star = match.groups()
        parts.append(int(number) if number is not None else (word or quoted or star or ""))
        offset = match.end()
    if not parts or not isinstance(parts[0], str):
        raise ValueError(f"not a select: {text!r}")
    return tuple(parts)


def resolve_select(text: str, environment: Environment) -> Reader:
    """The reader of a select. Raises ValueError with what is wrong."""
    parts = parse_select(text)
    best = None
    for select in environment.selects:
        prefix = tuple(select.prefix.split("."))
        if parts[: len(prefix)] == prefix and (best is None or len(prefix) > len(best[0])):
            best = (prefix, select)
    head = str(parts[0])
    if best is not None:
        try:
            return best[1].resolve(parts[len(best[0]) :])
        except ValueError:
            if head not in _FAMILIES:  # rr: the core and the module share the prefix
                raise
    lent = _LENT.get(head)
    if lent is not None:
        return lent(parts[1:], environment)
    family = _FAMILIES.get(head)
    if family is None:
        known = [*_FAMILIES, *_LENT, *(select.prefix for select in environment.selects)]
        hint = did_you_mean(head, known)
        raise ValueError(f"unknown select '@{head}'" + (f"; {hint}" if hint else ""))
    return family(parts[1:])


def _unknown(parts: tuple[Part, ...], known: str) -> ValueError:
    name = str(parts[0]) if parts else ""
    hint = did_you_mean(name, known.split())
    return ValueError(f"unknown part {name!r} of a select; {hint or 'known: ' + known}")


def _plain(reader: Reader) -> Callable[[tuple[Part, ...]], Reader]:
    def family(parts: tuple[Part, ...]) -> Reader:
        if parts:
            raise ValueError(f"nothing can follow this select: {parts[0]!r}")
        return reader

    return family


# ---- URIs


def uri_part(uri: Uri, part: str) -> str | None:
    """``user``, ``host`` … of *uri*."""
    if part == "host":
        return uri.host
    if part == "user":
        return uri.user
    if part == "port":
        return str(uri.port) if uri.port else ""
    if part == "hostport":
        return f"{uri.host}:{uri.port}" if uri.port else uri.host
    if part == "pwd":
        return uri.password
    if part == "type":
        return uri.scheme
    return uri.params


_URI_PARTS: Final = "user host port hostport pwd type params"


def _uri_reader(read: Callable[[Context], str | None], parts: tuple[Part, ...]) -> Reader:
    """A reader of the URI text *read* gives, or of a part of it."""
    if not parts:
        return read
    part = str(parts[0])
    if part not in _URI_PARTS.split():
        raise _unknown(parts, _URI_PARTS)
    if part == "params" and len(parts) > 1:
        name = str(parts[1]).lower()
        other = name.replace("_", "-")  # @from.uri.params.phone_context

        def parameter(ctx: Context) -> str | None:
            text = read(ctx)
            try:
                if text is None:
                    return None
                uri = parse_uri(text)
                found = uri.param(name)
                return uri.param(other) if found is None and other != name else found
            except ParseError:
                return None

        return parameter

    def one(ctx: Context) -> str | None:
        text = read(ctx)
        try:
            return None if text is None else uri_part(parse_uri(text), part)
        except ParseError:
            return None

    return one


def _ruri_text(ctx: Context) -> str | None:
    return ctx.request_uri if not runtime.is_reply(ctx) else None


def ruri_user(ctx: Context) -> str | None:
    """``@ruri.user``."""
    try:
        return ctx.uri.user if not runtime.is_reply(ctx) else None
    except ParseError:
        return None


def ruri_host(ctx: Context) -> str | None:
    """``@ruri.host``."""
    try:
        return ctx.uri.host if not runtime.is_reply(ctx) else None
    except ParseError:
        return None


def _ruri(parts: tuple[Part, ...]) -> Reader:
    if parts == ("user",):
        return ruri_user
    if parts == ("host",):
        return ruri_host
    return _uri_reader(_ruri_text, parts)


def _dst_uri(parts: tuple[Part, ...]) -> Reader:
    def text(ctx: Context) -> str | None:
        return ctx.dst_uri or None

    return _uri_reader(text, parts)


# ---- From, To, Contact


def from_tag(ctx: Context) -> str | None:
    """``@from.tag``."""
    try:
        return ctx.message.from_tag
    except ParseError:
        return None


def to_tag(ctx: Context) -> str | None:
    """``@to.tag``."""
    try:
        return ctx.message.to_tag
    except ParseError:
        return None


def _address(ctx: Context, which: int) -> NameAddr | None:
    """0 From, 1 To, 2 first Contact, 3 first Refer-To, 4 first Record-Route."""
    message = ctx.message
    try:
        if which == 0:
            return message.from_
        if which == 1:
            return message.to
        if which == 2:
            contacts = message.contacts
            return contacts[0] if contacts and contacts[0].uri_text != "*" else None
        if which == 4:
            routes = message.record_routes
            return routes[0] if routes else None
        text = message.get("refer-to")
        return None if text is None else parse_nameaddr(text)
    except ParseError:
        return None


def _address_family(which: int) -> Callable[[tuple[Part, ...]], Reader]:
    def uri(ctx: Context) -> str | None:
        address = _address(ctx, which)
        return None if address is None else address.uri_text

    def name(ctx: Context) -> str | None:
        address = _address(ctx, which)
        return None if address is None else address.display_name

    def whole(ctx: Context) -> str | None:
        return ctx.message.get(("from", "to", "contact", "refer-to", "record-route")[which])

    def family(parts: tuple[Part, ...]) -> Reader:
        if not parts:
            return whole
        head = str(parts[0])
        if head == "uri":
            return _uri_reader(uri, parts[1:])
        if head == "tag" and which < 2:
            return to_tag if which else from_tag
        if head == "name":
            return name
        if head in ("params", "param", "p") and len(parts) > 1:
            return _address_param(which, str(parts[1]).lower())
        if which == 2 and head in ("expires", "q", "methods", "received", "instance"):
            return _address_param(which, "+sip.instance" if head == "instance" else head)
        raise _unknown(parts, "uri name params expires q received" if which == 2 else "uri tag name params")

    return family


def _address_param(which: int, parameter: str) -> Reader:
    def read(ctx: Context) -> str | None:
        address = _address(ctx, which)
        return None if address is None else address.param(parameter)

    return read


# ---- header values


def _header_name(part: Part) -> str:
    return str(part).replace("_", "-").lower()


def pick(values: list[str], index: int) -> str | None:
    """The *index*-th of values: 1 first, -1 last, 0 is taken as 1."""
    place = index - 1 if index > 0 else 0 if index == 0 else len(values) + index
    return values[place] if 0 <= place < len(values) else None


def header_values(ctx: Context, name: str) -> list[str]:
    """All comma-separated values of *name*; [] when absent or broken."""
    try:
        return ctx.message.values(name)
    except ParseError:
        return []


def _hf_value(parts: tuple[Part, ...]) -> Reader:
    if not parts:
        raise ValueError("@hf_value needs a header name")
    name = _header_name(parts[0])
    rest = parts[1:]
    if not rest:

        def joined(ctx: Context) -> str | None:
            found = ctx.message.get_all(name)
            return ",".join(found) if found else None

        return joined
    index = 0
    if isinstance(rest[0], int):
        index = rest[0]
        rest = rest[1:]

    def value(ctx: Context) -> str | None:
        return pick(header_values(ctx, name), index)

    if not rest:
        return value
    head = str(rest[0])
    if head == "uri":

        def bare(ctx: Context) -> str | None:
            found = value(ctx)
            return None if found is None else value_uri(found)

        return _uri_reader(bare, rest[1:])
    if head == "name":
        return _value_name(value)
    parameter = str(rest[1] if head in ("params", "param", "p") and len(rest) > 1 else head).lower()
    return _value_param(value, parameter.replace("_", "-"))


def value_uri(text: str) -> str:
    """A header value without display name, brackets and parameters."""
    left = text.find("<")
    if left >= 0:
        right = text.find(">", left)
        return text[left + 1 : right] if right > 0 else text[left + 1 :]
    return text.partition(";")[0].strip(" \t")


def _value_name(value: Reader) -> Reader:
    def read(ctx: Context) -> str | None:
        found = value(ctx)
        try:
            return None if found is None else parse_nameaddr(found).display_name
        except ParseError:
            return None

    return read


def value_param(text: str, name: str) -> str | None:
    """Parameter *name* of a header value: its own parameters first, then those of the URI in brackets."""
    right = text.rfind(">")
    own = text[right + 1 :] if right >= 0 else text.partition(";")[2]
    found = _search_params(own, name)
    if found is None and right >= 0:
        left = text.find("<")
        found = _search_params(text[left + 1 : right].partition(";")[2].partition("?")[0], name)
    return found


def _search_params(text: str, name: str) -> str | None:
    for item in text.split(";"):
        key, _, value = item.partition("=")
        if key.strip(" \t").lower() == name:
            return value.strip(' \t"')
    return None


def _value_param(value: Reader, name: str) -> Reader:
    def read(ctx: Context) -> str | None:
        found = value(ctx)
        return None if found is None else value_param(found, name)

    return read


def _via(parts: tuple[Part, ...]) -> Reader:
    index = 1
    if parts and isinstance(parts[0], int):
        index, parts = parts[0], parts[1:]
    head = str(parts[0]) if parts else ""

    def whole(ctx: Context) -> str | None:
        return pick(header_values(ctx, "via"), index)

    if not head:
        return whole
    if head in ("host", "port", "transport"):

        def sent_by(ctx: Context) -> str | None:
            text = whole(ctx)
            if text is None:
                return None
            first, _, rest = text.partition(" ")
            if head == "transport":
                return first.rpartition("/")[2]
            host, _, port = rest.partition(";")[0].strip(" \t").rpartition(":")
            if head == "port":
                return port if host and not port.endswith("]") else ""
            return host if host and not port.endswith("]") else rest.partition(";")[0].strip(" \t")

        return sent_by
    name = str(parts[1] if head in ("params", "param", "p") and len(parts) > 1 else head).lower()
    return _value_param(whole, name)


# ---- message, addresses, system


def _msg(parts: tuple[Part, ...]) -> Reader:
    head = str(parts[0]) if parts else ""
    if head == "header" and len(parts) > 1:
        name = _header_name(parts[1])
        index = parts[2] if len(parts) > 2 and isinstance(parts[2], int) else 1

        def header(ctx: Context) -> str | None:
            return pick(ctx.message.get_all(name), index)

        return header
    simple: dict[str, Reader] = {
        "body": lambda ctx: ctx.message.body.decode("utf-8", "surrogateescape"),
        "len": lambda ctx: str(runtime.message_length(ctx)),
        "first_line": lambda ctx: ctx.message.raw.partition(b"\r\n")[0].decode("utf-8", "surrogateescape"),
        "flags": lambda ctx: str(ctx.flags),
        "type": lambda ctx: "reply" if runtime.is_reply(ctx) else "request",
    }
    if head not in simple:
        raise _unknown(parts, "header body len first_line flags type")
    return simple[head]


def _endpoint(parts: tuple[Part, ...], readers: dict[str, Reader]) -> Reader:
    head = str(parts[0]) if parts else ""
    if head not in readers:
        raise _unknown(parts, " ".join(readers))
    return readers[head]


def _src(parts: tuple[Part, ...]) -> Reader:
    return _endpoint(parts, {
        "ip": lambda ctx: ctx.flow.host, "port": lambda ctx: str(ctx.flow.port),
        "proto": lambda ctx: ctx.flow.transport, "ip_port": lambda ctx: f"{ctx.flow.host}:{ctx.flow.port}",
    })  # fmt: skip


def _dst(parts: tuple[Part, ...]) -> Reader:
    return _endpoint(parts, {
        "ip": lambda ctx: ctx.flow.listener.host, "port": lambda ctx: str(ctx.flow.listener.port),
        "ip_port": lambda ctx: f"{ctx.flow.listener.host}:{ctx.flow.listener.port}",
    })  # fmt: skip


def _received(parts: tuple[Part, ...]) -> Reader:
    return _endpoint(parts, {
        "proto": lambda ctx: ctx.flow.transport, "ip": lambda ctx: ctx.flow.listener.host,
        "port": lambda ctx: str(ctx.flow.listener.port),
    })  # fmt: skip


def _cseq(parts: tuple[Part, ...]) -> Reader:
    def read(ctx: Context) -> str | None:
        try:
            cseq = ctx.message.cseq
        except ParseError:
            return None
        return str(cseq.number) if head == "num" else cseq.method if head == "method" else str(cseq)

    head = str(parts[0]) if parts else ""
    if head not in ("", "num", "method"):
        raise _unknown(parts, "num method")
    return read


def _header(name: str) -> Callable[[tuple[Part, ...]], Reader]:
    def read(ctx: Context) -> str | None:
        return ctx.message.get(name)

    return _plain(read)


def _call_id(ctx: Context) -> str | None:
    try:
        return ctx.message.call_id
    except ParseError:
        return None


def _status(ctx: Context) -> str | None:
    return None if ctx.response is None else str(ctx.response.status)


def _reason(ctx: Context) -> str | None:
    return None if ctx.response is None else ctx.response.reason


def _method(ctx: Context) -> str | None:
    return runtime.method_of(ctx)


def _sys(parts: tuple[Part, ...], environment: Environment) -> Reader:
    hooks = environment.hooks
    head = str(parts[0]) if parts else ""
    if head == "unique":
        return lambda _ctx: unique()
    if head == "server_id":
        return lambda _ctx: str(hooks.server_id())
    if head == "pid":
        return lambda _ctx: str(os.getpid())
    if head != "now":
        raise _unknown(parts, "unique server_id pid now")
    if len(parts) == 1:
        return lambda ctx: str(int(ctx.wall_now))
    pattern = str(parts[2]) if len(parts) > 2 else "%Y-%m-%d %H:%M:%S"
    if parts[1] == "gmt":
        return lambda ctx: time.strftime(pattern, time.gmtime(ctx.wall_now))
    if parts[1] == "local":
        return lambda ctx: time.strftime(pattern, time.localtime(ctx.wall_now))
    raise _unknown(parts[1:], "local gmt")


def _cfg_get(parts: tuple[Part, ...], environment: Environment) -> Reader:
    if len(parts) != 2:
        raise ValueError("write @cfg_get.group.name")
    group, name = str(parts[0]), str(parts[1])
    known = environment.variables.get(group)
    if known is None:
        raise ValueError(f"no configuration variables named {group!r}; {did_you_mean(group, environment.variables)}")
    if name not in known:
        raise ValueError(f"no configuration variable {group}.{name}; {did_you_mean(name, known)}")
    default = str(known[name])
    hooks = environment.hooks

    def read(_ctx: Context) -> str | None:
        get = hooks.cfg_get
        return default if get is None else str(get(group, name))

    return read


_FAMILIES: Final[dict[str, Callable[[tuple[Part, ...]], Reader]]] = {
    "ruri": _ruri, "dst_uri": _dst_uri, "from": _address_family(0), "f": _address_family(0), "to": _address_family(1),
    "t": _address_family(1), "contact": _address_family(2), "m": _address_family(2), "refer_to": _address_family(3),
    "rr": _address_family(4), "record_route": _address_family(4), "hf_value": _hf_value, "msg": _msg, "via": _via,
    "v": _via, "src": _src, "dst": _dst, "received": _received, "cseq": _cseq, "method": _plain(_method),
    "status": _plain(_status), "reason": _plain(_reason), "call_id": _plain(_call_id),
    "user_agent": _header("user-agent"), "subject": _header("subject"), "expires": _header("expires"),
    "max_forwards": _header("max-forwards"), "content_type": _header("content-type"), "event": _header("event"),
    "server": _header("server"), "require": _header("require"), "supported": _header("supported"),
}  # fmt: skip

_LENT: Final[dict[str, Callable[[tuple[Part, ...], Environment], Reader]]] = {"sys": _sys, "cfg_get": _cfg_get}

__all__ = ["Part", "Reader", "parse_select", "pick", "resolve_select", "split_commas", "uri_part", "value_param"]
