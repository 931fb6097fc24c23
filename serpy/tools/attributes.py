"""Attributes of users, domains, addresses and the whole server, and speed dials: what serpyctl changes of them.

Whose attributes: ``user@domain`` (the user), ``domain=NAME``, ``uri=user@domain`` (one address of a user), ``global``.
Works with the server stopped. Raises UsageError ("text: argument") and BackendError; nothing is changed then.

Runs in: serpyctl. Locks: none. Reference: the SER 2.x data model (serpy.db.schema).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from serpy.errors import ParseError, UsageError
from serpy.sip.uri import parse_uri
from serpy.tools.provision import DOMAIN_FLAGS, INTEGER, flag_text

if TYPE_CHECKING:
    from serpy.db.interface import Operation, Value
    from serpy.tools.provision import Provision

GLOBAL: Final = "global"


class Owner(NamedTuple):
    """Where attributes are: their table, the columns that say whose, the cache a server keeps of them."""

    table: str
    key: dict[str, Value]
    cache: str


def owner_of(provision: Provision, text: str) -> Owner:
    """Whose attributes *text* means. Raises UsageError."""
    if text == GLOBAL:
        return Owner("global_attrs", {}, "global_attrs")
    kind, equals, name = text.partition("=")
    if equals and kind == "domain":
        return Owner("domain_attrs", {"did": provision.did_of(name)}, "domain")
    if equals and kind == "uri":
        user = provision.parse(name)
        return Owner("uri_attrs", {"username": user.username, "did": user.did, "scheme": "sip"}, "uri_attrs")
    return Owner("user_attrs", {"uid": provision.uid_of(text)}, "user_attrs")


def attrs_set(provision: Provision, text: str, assignments: Sequence[str]) -> str:
    """Set attributes from ``name=value``; an empty value removes. The name must be in attr_types. Returns the cache."""
    owner = owner_of(provision, text)
    operations: list[Operation] = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise UsageError(f"not name=value: {assignment}")
        kind, flags = _type_of(provision, name)
        if kind == INTEGER and value and not (value.isascii() and value.isdigit()):
            raise UsageError(f"this attribute takes a number: {assignment}")
        operations.append(("delete", owner.table, {**owner.key, "name": name}))
        if value:
            row: dict[str, Value] = {**owner.key, "name": name, "type": kind, "value": value, "flags": flags}
            operations.append(("insert", owner.table, row))
    provision.database.write(operations + _changed(owner.table))
    return owner.cache


def attrs_show(provision: Provision, text: str) -> list[dict[str, Value]]:
    """The attributes of *text*."""
    owner = owner_of(provision, text)
    rows = provision.database.select(owner.table, ("name", "type", "value", "flags"), owner.key, order="name")
    return [
        {"name": name, "type": "int" if kind == INTEGER else "string", "value": value, "flags": flag_text(flags)}
        for name, kind, value, flags in rows
    ]


def _type_of(provision: Provision, name: str) -> tuple[Value, Value]:
    rows = provision.database.select("attr_types", ("raw_type", "default_flags"), {"name": name})
    if not rows:
        known = provision.database.select("attr_types", ("name",), {}, order="name")
        raise UsageError(f"no such attribute type (known: {', '.join(str(row[0]) for row in known)}): {name}")
    return rows[0][0], rows[0][1]


def _changed(table: str) -> list[Operation]:
    """The time stamp that the scripts of other servers look at once a minute."""
    name = {"global_attrs": "gattr_timestamp", "domain_attrs": "domain_data_version"}.get(table)
    if name is None:
        return []
    row: dict[str, Value] = {"name": name, "type": INTEGER, "value": str(int(time.time())), "flags": DOMAIN_FLAGS}
    return [("delete", "global_attrs", {"name": name}), ("insert", "global_attrs", row)]


# ---- speed dials


def speed_dial_add(provision: Provision, text: str, number: str, target: str) -> None:
    """When the user *text* dials *number*, they mean *target*; an earlier meaning is replaced."""
    uid = provision.uid_of(text)
    if not number or any(char in number for char in " @<>\"'"):
        raise UsageError(f"not something to dial: {number}")
    uri = target if target.startswith(("sip:", "sips:", "tel:")) else f"sip:{target}"
    try:
        parse_uri(uri)
    except ParseError:
        raise UsageError(f"not a SIP address: {target}") from None
    key: dict[str, Value] = {"uid": uid, "dial_did": provision.parse(text).did, "dial_username": number}
    operations: list[Operation] = [("delete", "speed_dial", key), ("insert", "speed_dial", {**key, "new_uri": uri})]
    provision.database.write(operations)


def speed_dial_rm(provision: Provision, text: str, number: str) -> None:
    """Forget what *number* means for the user *text*."""
    key: dict[str, Value] = {"uid": provision.uid_of(text), "dial_username": number}
    if not provision.database.select("speed_dial", ("id",), key):
        raise UsageError(f"no such speed dial: {number}")
    provision.database.write([("delete", "speed_dial", key)])


def speed_dial_show(provision: Provision, text: str) -> list[dict[str, Value]]:
    """The speed dials of the user *text*."""
    columns = ("dial_username", "new_uri", "dial_did")
    rows = provision.database.select("speed_dial", columns, {"uid": provision.uid_of(text)}, order="dial_username")
    return [{"dial": number, "target": uri, "domain": did} for number, uri, did in rows]
