"""Attributes to and from the message: Request-URI, destination, header lines, flags.

A function given an attribute without an index takes the newest value, so that several values are never ambiguous.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from serpy.api import FALSE, TRUE, Arg, AvpName, Context, Exports, Function, ParseError, Routes
from serpy.context.avps import ALL
from serpy.modules.avp.edit import delete_matching, name_pattern, rewrite_uri, subst_values
from serpy.script.environment import Environment
from serpy.script.formats import compile_format
from serpy.script.patterns import Pattern
from serpy.script.substitution import Substitution
from serpy.sip.abnf import is_token, parse_number
from serpy.sip.nameaddr import parse_nameaddr
from serpy.sip.parser import canonical_name
from serpy.sip.text import header_value
from serpy.sip.uri import parse_uri

log = logging.getLogger(__name__)


def value_of(ctx: Context, name: AvpName) -> int | str | None:
    """The value *name* refers to: by its index, else the newest."""
    return ctx.avps.read(name) if name.index else ctx.avps.newest_of(name)


class Attributes:
    """The module."""

    def __init__(self) -> None:
        self._environment = Environment()

    def take_environment(self, environment: Environment) -> None:
        """Look names up in the script that has loaded this module."""
        self._environment = environment

    # where the request goes

    def attr2uri(self, ctx: Context, name: AvpName, part: str = "uri") -> int:
        """Write the attribute into (a part of) the Request-URI."""
        value = value_of(ctx, name)
        if value is None:
            return FALSE
        try:
            changed = rewrite_uri(ctx.request_uri, part, str(value))
            parse_uri(changed)
        except ParseError as exc:
            log.debug("attribute does not fit into the Request-URI: %s", exc)
            return FALSE
        ctx.request_uri = changed
        return TRUE

    def attr_destination(self, ctx: Context, name: AvpName) -> int:
        """Send to the URI (or name-addr) in the attribute."""
        value = value_of(ctx, name)
        return FALSE if value is None else self.xlset_destination(ctx, str(value))

    def xlset_destination(self, ctx: Context, text: str) -> int:
        """Send to the URI (or name-addr) *text*."""
        try:
            uri = parse_nameaddr(text).uri_text if "<" in text else text
            if not parse_uri(uri).is_sip:
                return FALSE
        except ParseError as exc:
            log.debug("not a destination: %s", exc)
            return FALSE
        ctx.dst_uri = uri
        return TRUE

    # writing attributes

    def xlset_attr(self, ctx: Context, name: AvpName, text: str) -> int:
        """Add *text* as one more value."""
        ctx.avps.add(name.write_list, name.name, text)
        return TRUE

    def set_attr(self, ctx: Context, name: AvpName, value: str | int | None) -> int:
        """Add a text value."""
        if value is None:
            return FALSE
        ctx.avps.add(name.write_list, name.name, str(value))
        return TRUE

    def set_iattr(self, ctx: Context, name: AvpName, value: str | int | None) -> int:
        """Add a number; false when the value is none."""
        if isinstance(value, str):
            sign = -1 if value.startswith("-") else 1
            number = parse_number(value.removeprefix("-"), 1 << 53)
            if number < 0:
                return FALSE
            value = sign * number
        if value is None:
            return FALSE
        ctx.avps.add(name.write_list, name.name, value)
        return TRUE

    def xlfix_attr(self, ctx: Context, name: AvpName) -> int:
        """Expand the attribute's own text as a format string, in place."""
        value = value_of(ctx, name)
        if not isinstance(value, str):
            return FALSE
        try:
            text = compile_format(value, self._environment)(ctx)
        except ValueError as exc:
            log.debug("not a format string: %s", exc)
            return FALSE
        ctx.avps.set(name.write_list, name.name, text)
        return TRUE

    def del_attr(self, ctx: Context, name: AvpName) -> int:
        """Delete all values of the attribute. False when there is none."""
        done = FALSE
        for list_id in name.lists:
            if ctx.avps.get(list_id, name.name):
                ctx.avps.delete(list_id, name.name)
                done = TRUE
        return done

    def del_attrs(self, ctx: Context, names: Pattern) -> int:
        """Delete the attributes whose name matches."""
        return TRUE if delete_matching(ctx.avps, names) else FALSE

    def subst_attr(self, ctx: Context, name: AvpName, change: Substitution) -> int:
        """``/expression/replacement/flags`` over the values. False when nothing matched."""
        return TRUE if subst_values(ctx.avps, name, change) else FALSE

    def flags2attr(self, ctx: Context, name: AvpName) -> int:
        """Put the message flags into the attribute, as one number."""
        ctx.avps.set(name.write_list, name.name, ctx.flags)
        return TRUE

    def hdr_body2attrs(self, ctx: Context, header: str, prefix: str = "") -> int:
        """Make attributes of the ``name=value`` pieces of a header; numbers after ``name#``."""
        body = ctx.message.get(canonical_name(header))
        if body is None:
            return FALSE
        done = FALSE
        for piece in re.split("[;,]", body):
            name, equals, value = piece.strip(" \t").partition("=")
            name = name.strip(" \t")
            if not equals or not is_token(name):
                continue
            ctx.avps.add(0, prefix + name, value.strip(' \t"'))
            done = TRUE
        return done

    # testing

    def attr_equals(self, ctx: Context, name: AvpName, value: str | int | None) -> int:
        """True when one of the values (with an index: that one) equals *value*, compared as text."""
        if value is None:
            return FALSE
        wanted = str(value)
        if name.index and name.index != ALL:
            found = ctx.avps.read(name)
            return TRUE if found is not None and str(found) == wanted else FALSE
        return TRUE if wanted in [str(avp.value) for avp in ctx.avps.find(name)] else FALSE

    def attr_exists(self, ctx: Context, name: AvpName) -> int:
        """True when the attribute has a value."""
        return TRUE if ctx.avps.exists(name) else FALSE

    def dump_attrs(self, ctx: Context) -> int:
        """Log all attributes at debug level."""
        for list_id, title in enumerate(_LISTS):
            for name, avp in ctx.avps.items(list_id):
                log.debug("$%s.%s = %.120r flags=%d", title, name, avp.value, avp.flags)
        return TRUE

    # header lines

    def replace_attr_hf(self, ctx: Context, header: str, name: AvpName) -> int:
        """Remove all headers of that name and add one with the attribute's value."""
        value = _header_value(ctx, name)
        if value is None:
            return FALSE
        for index in ctx.message.indexes(canonical_name(header)):
            ctx.edits.remove(index)
        ctx.edits.append(f"{header}: {value}")
        return TRUE

    def append_attr_hf(self, ctx: Context, header: str, name: AvpName) -> int:
        """Add a header line with the attribute's value after the last header."""
        value = _header_value(ctx, name)
        if value is None:
            return FALSE
        ctx.edits.append(f"{header}: {value}")
        return TRUE

    def insert_attr_hf(self, ctx: Context, header: str, name: AvpName) -> int:
        """Add a header line with the attribute's value above all headers."""
        value = _header_value(ctx, name)
        if value is None:
            return FALSE
        ctx.edits.prepend(f"{header}: {value}")
        return TRUE

    def attr_to_reply(self, ctx: Context, header: str, name: AvpName) -> int:
        """Add a header line with the attribute's value to the replies made here."""
        value = _header_value(ctx, name)
        if value is None:
            return FALSE
        ctx.reply_headers.append(f"{header}: {value}")
        return TRUE


_LISTS = ("fr", "tr", "fu", "tu", "fd", "td", "g")


def _header_value(ctx: Context, name: AvpName) -> str | None:
    """The attribute as a header value; None when there is none."""
    value = value_of(ctx, name)
    if value is None:
        return None
    return header_value(str(value).strip(" \t\r\n"))


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = Attributes()
    request = Routes.REQUEST | Routes.FAILURE | Routes.BRANCH
    edits = request | Routes.ONREPLY
    avp, header = (Arg.AVP,), (Arg.STR, Arg.AVP)
    rows: list[tuple[str, Callable[..., int], tuple[Arg, ...], int, Routes, str]] = [
        ("attr2uri", module.attr2uri, (Arg.AVP, Arg.STR), 1, request, "write the attribute into the Request-URI"),
        ("attr_destination", module.attr_destination, avp, 0, request, "send to the URI in the attribute"),
        ("xlset_destination", module.xlset_destination, (Arg.FORMAT,), 0, request, "send to this URI"),
        ("xlset_attr", module.xlset_attr, (Arg.AVP, Arg.FORMAT), 0, Routes.ALL, "add a value from a format string"),
        ("xlfix_attr", module.xlfix_attr, avp, 0, Routes.ALL, "expand the attribute's text as a format string"),
        ("set_attr", module.set_attr, (Arg.AVP, Arg.VALUE), 0, Routes.ALL, "add a text value"),
        ("set_iattr", module.set_iattr, (Arg.AVP, Arg.VALUE), 0, Routes.ALL, "add a number"),
        ("del_attr", module.del_attr, avp, 0, Routes.ALL, "delete the attribute"),
        ("del_attrs", module.del_attrs, (Arg.STR,), 0, Routes.ALL, "delete attributes by name or /expression/"),
        (
            "subst_attr",
            module.subst_attr,
            (Arg.AVP, Arg.SUBST),
            0,
            Routes.ALL,
            "/expression/replacement/ on the values",
        ),
        ("flags2attr", module.flags2attr, avp, 0, Routes.ALL, "put the message flags into the attribute"),
        (
            "hdr_body2attrs",
            module.hdr_body2attrs,
            (Arg.STR, Arg.STR),
            1,
            Routes.ALL,
            "attributes from name=value pairs",
        ),
        ("attr_equals", module.attr_equals, (Arg.AVP, Arg.VALUE), 0, Routes.ALL, "true when a value is this one"),
        ("attr_exists", module.attr_exists, avp, 0, Routes.ALL, "true when the attribute has a value"),
        ("dump_attrs", module.dump_attrs, (), 0, Routes.ALL, "log all attributes at debug level"),
        ("replace_attr_hf", module.replace_attr_hf, header, 0, edits, "replace a header by the attribute's value"),
        (
            "append_attr_hf",
            module.append_attr_hf,
            header,
            0,
            edits,
            "add a header with the attribute's value at the end",
        ),
        ("insert_attr_hf", module.insert_attr_hf, header, 0, edits, "add a header with the attribute's value on top"),
        (
            "attr_to_reply",
            module.attr_to_reply,
            header,
            0,
            request,
            "add a header with the attribute's value to replies",
        ),
    ]
    functions = [
        Function(
            name,
            call,
            args,
            optional=optional,
            routes=routes,
            summary=summary,
            prepare={0: name_pattern} if name == "del_attrs" else {},
        )
        for name, call, args, optional, routes, summary in rows
    ]
    return Exports("avp", module, functions=functions, take_environment=module.take_environment)
