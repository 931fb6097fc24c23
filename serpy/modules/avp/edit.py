"""The pure parts of avp: URI parts by name, deleting and substituting values.

Runs in: every process that runs the script. Locks: none.
"""

from __future__ import annotations

import re
from typing import Final

from serpy.context.avps import GLOBAL, Avp, AvpName, Avps
from serpy.errors import ParseError, UsageError
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


def delete_matching(avps: Avps, text: str) -> bool:
    """Delete in all lists but the global one: ``/expression/`` or a plain name. False when nothing matched."""
    pattern = text.removeprefix("$")
    if len(pattern) >= 2 and pattern.startswith("/") and pattern.endswith("/"):
        pattern = pattern[1:-1]
    else:
        pattern = f"^{re.escape(pattern)}$"
    try:
        expression = re.compile(pattern, re.IGNORECASE)
    except re.error as exc:
        raise UsageError(f"del_attrs: bad expression {text!r}: {exc}") from exc
    done = False
    for list_id in range(GLOBAL):
        for name in list(avps.attrs(list_id)):
            if expression.search(name) is not None:
                avps.delete(list_id, name)
                done = True
    return done


def subst_values(avps: Avps, name: AvpName, text: str) -> bool:
    """Substitute in the text values of the first list that has *name*. False when nothing matched."""
    expression, replacement, count = _parse(text)
    for list_id in name.lists:
        found = avps.get(list_id, name.name)
        if not found:
            continue
        done = False
        values: list[Avp] = []
        for avp in found:
            changed, number = expression.subn(replacement, str(avp.value), count)
            values.append(Avp(changed, avp.flags) if number else avp)
            done = done or number > 0
        if done:
            avps.set_values(list_id, name.name, values)
        return done
    return False


def _parse(text: str) -> tuple[re.Pattern[str], str, int]:
    parts = re.split(r"(?<!\\)" + re.escape(text[:1]), text) if text else []
    if len(parts) != 4 or parts[0]:
        raise UsageError(f"not of the form /expression/replacement/flags: {text!r}")
    try:
        expression = re.compile(parts[1], re.IGNORECASE if "i" in parts[3] else 0)
        expression.sub(parts[2], "")
    except (re.error, IndexError) as exc:
        raise UsageError(f"bad substitution {text!r}: {exc}") from exc
    return expression, parts[2], 0 if "g" in parts[3] else 1
