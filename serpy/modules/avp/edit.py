"""The pure parts of avp: URI parts by name, deleting and substituting values.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.context.avps import GLOBAL, Avp, AvpName, Avps
from serpy.errors import ParseError, UsageError
from serpy.script.patterns import Pattern, compile_pattern
from serpy.script.substitution import Substitution
from serpy.sip.abnf import parse_number
from serpy.sip.nameaddr import parse_nameaddr
from serpy.sip.uri import Uri, escape_user, parse_port, parse_uri

_STRIP_MAX: Final = 4096


def rewrite_uri(current: str, part: str, value: str) -> str:
    """*current* with *part* set to *value*. Raises ParseError (value does not fit), UsageError (unknown part)."""
    if part == "uri":
        return parse_nameaddr(value).uri_text if "<" in value else value
    uri = parse_uri(current)
    if part == "prefix":
        return str(uri.replaced(user=value + uri.user))
    if part in {"user", "username"}:
        return str(uri.replaced(user=escape_user(value)))
    if part == "userpass":
        user, _, password = value.partition(":")
        return str(uri.replaced(user=user, password=password))
    if part in {"host", "domain"}:
        return str(uri.replaced(host=value))
    if part in {"hostport", "domainport"}:
        return _with_host_port(uri, value)
    if part == "port":
        return str(uri.replaced(port=parse_port(value, value)))
    if part in {"strip", "strip_tail"}:
        count = parse_number(value, _STRIP_MAX)
        if count < 0:
            raise ParseError("not a number of characters", value=value)
        kept = uri.user[count:] if part == "strip" else uri.user[: max(0, len(uri.user) - count)]
        return str(uri.replaced(user=kept))
    raise UsageError(f"attr2uri: unknown part {part!r}")


def _with_host_port(uri: Uri, value: str) -> str:
    there = parse_uri(f"sip:{value}")
    if there.user or there.params:
        raise ParseError("not a host and port", value=value)
    return str(uri.replaced(host=there.host, port=there.port))


def name_pattern(text: str) -> Pattern:
    """What names ``/expression/`` or a plain name means. Raises BadExpressionError."""
    pattern = text.removeprefix("$")
    if len(pattern) >= 2 and pattern.startswith("/") and pattern.endswith("/"):
        return compile_pattern(pattern[1:-1])
    return compile_pattern(f"^{''.join(char if char.isalnum() else f'[{char}]' for char in pattern)}$")


def delete_matching(avps: Avps, expression: Pattern) -> bool:
    """Delete in all lists but the global one. False when nothing matched."""
    done = False
    for list_id in range(GLOBAL):
        for name in list(avps.attrs(list_id)):
            if expression.search(name):
                avps.delete(list_id, name)
                done = True
    return done


def subst_values(avps: Avps, name: AvpName, change: Substitution) -> bool:
    """Substitute in the text values of the first list that has *name*. False when nothing matched."""
    for list_id in name.lists:
        found = avps.get(list_id, name.name)
        if not found:
            continue
        done = False
        values: list[Avp] = []
        for avp in found:
            changed = change.apply(str(avp.value))
            values.append(avp if changed is None else Avp(changed, avp.flags))
            done = done or changed is not None
        if done:
            avps.set_values(list_id, name.name, values)
        return done
    return False
