"""Domains, users, aliases and passwords in the database: what serpyctl changes. Attributes are in attributes.py.

Works with the server stopped. Every function raises UsageError with "text: argument" for a wrong wish and BackendError
when the database fails; nothing is changed then.

Runs in: serpyctl. Locks: none. Reference: the SER 2.x data model (serpy.db.schema).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from serpy.db import schema
from serpy.errors import ParseError, UsageError
from serpy.sip.digest import ha1
from serpy.sip.host import normal_host
from serpy.sip.uri import parse_uri

if TYPE_CHECKING:
    from serpy.db.interface import Database, Operation, Row, Value

DOMAIN_FLAGS = schema.LOAD_SER | schema.FOR_SERWEB
URI_FLAGS = DOMAIN_FLAGS | schema.IS_TO | schema.IS_FROM
STRING = 2
INTEGER = 0
IMPORT_CHUNK = 500  # users; far less work than the database's deadline allows


class UserUri(NamedTuple):
    """A URI given on the command line: user part, domain name and the did that the domain belongs to."""

    username: str
    domain: str
    did: str


def _usable(flags: Value) -> bool:
    return isinstance(flags, int) and flags & schema.LOAD_SER != 0 and flags & schema.DISABLED == 0


class Provision:
    """The high-level commands on one database handle."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._remembered: dict[object, list[Row]] | None = None  # rows about domains, during an import

    # ------------------------------------------------------------------------------------------------ domains

    def domain_add(self, name: str, aliases: Sequence[str] = ()) -> str:
        """Make domain *name* with further names; return its did. The digest realm is the first name."""
        names = [_host(one) for one in (name, *aliases)]
        for one in names:
            if self._rows("domain", ("did",), {"domain": one}):
                raise UsageError(f"domain exists: {one}")
        if len(set(names)) != len(names):
            raise UsageError(f"name given twice: {' '.join(names)}")
        did = names[0]
        operations: list[Operation] = [
            (
                "insert",
                "domain",
                {"did": did, "domain": one, "flags": DOMAIN_FLAGS | (schema.CANON if one == did else 0)},
            )
            for one in names
        ]
        if not self._rows("domain_attrs", ("value",), {"did": did, "name": "digest_realm"}):
            operations.append(
                ("insert", "domain_attrs",
                 {"did": did, "name": "digest_realm", "type": STRING, "value": did, "flags": DOMAIN_FLAGS})
            )  # fmt: skip
        self.database.write([*operations, *self._touched()])
        return did

    def domain_names(self, did: str, names: Sequence[str]) -> None:
        """Make sure that *did* exists and is known under all *names* that no other domain has."""
        if not self._rows("domain", ("did",), {"did": did}):
            self.domain_add(did)
        missing = [one for one in dict.fromkeys(_host(name) for name in names)
                   if not self._rows("domain", ("did",), {"domain": one})]  # fmt: skip
        if missing:
            added: list[Operation] = [
                ("insert", "domain", {"did": did, "domain": one, "flags": DOMAIN_FLAGS}) for one in missing
            ]
            self.database.write([*added, *self._touched()])

    def domain_rm(self, name: str) -> None:
        """Remove the domain that *name* belongs to, with its names, attributes, URIs and credentials."""
        did = self.did_of(name)
        realm = self.realm_of(did)
        self.database.write([
            ("delete", "uri", {"did": did}),
            ("delete", "credentials", {"realm": realm}),
            ("delete", "domain_attrs", {"did": did}),
            ("delete", "domain", {"did": did}),
            *self._touched(),
        ])  # fmt: skip

    def domain_show(self, name: str = "") -> list[dict[str, Value]]:
        """All domain names, or those of one domain."""
        where: dict[str, Value] = {"did": self.did_of(name)} if name else {}
        rows = self._rows("domain", ("did", "domain", "flags"), where, order="did, domain")
        return [{"did": did, "domain": domain, "flags": flag_text(flags)} for did, domain, flags in rows]

    def did_of(self, domain: str) -> str:
        """The did that *domain* belongs to. Raises UsageError."""
        for did, flags in self._rows("domain", ("did", "flags"), {"domain": _host(domain)}):
            if _usable(flags):
                return str(did)
        raise UsageError(f"no such domain: {domain} (serpyctl domain add {domain})")

    def realm_of(self, did: str) -> str:
        """The digest realm of *did*."""
        rows = self._rows("domain_attrs", ("value",), {"did": did, "name": "digest_realm"})
        if not rows:
            raise UsageError(f"domain has no digest_realm attribute, nobody can authenticate: {did}")
        return str(rows[0][0])

    # ------------------------------------------------------------------------------------------------ users

    def parse(self, text: str) -> UserUri:
        """``user@domain`` or ``sip:user@domain`` with a domain of ours. Raises UsageError."""
        try:
            uri = parse_uri(text if text.startswith(("sip:", "sips:")) else f"sip:{text}")
        except ParseError:
            raise UsageError(f"not a SIP address (user@domain): {text}") from None
        if not uri.user:
            raise UsageError(f"the user part is missing (user@domain): {text}")
        return UserUri(uri.user, uri.normal_host, self.did_of(uri.host))

    def uid_of(self, text: str) -> str:
        """The uid that address *text* belongs to. Raises UsageError."""
        user = self.parse(text)
        for uid, flags in self._rows("uri", ("uid", "flags"), _uri_key(user)):
            if _usable(flags):
                return str(uid)
        raise UsageError(f"no such user: {text}")

    def user_add(self, text: str, password: str, aliases: Sequence[str] = (), *, keep_clear: bool = False) -> str:
        """Make the user with their canonical URI, aliases and credentials; return the uid."""
        operations, uid = self._user_operations(text, password, keep_clear=keep_clear)
        for alias in aliases:
            operations.append(self._alias_operation(uid, alias))
        self.database.write(operations)
        return uid

    def user_import(self, lines: Sequence[str]) -> int:
        """Make many users; each line is ``user@domain password``. Return how many.

        Raises UsageError before anything is written when a line cannot be used. IMPORT_CHUNK users are one transaction.
        """
        users: list[list[Operation]] = []
        self._remembered = {}  # the lines name few domains
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2:
                raise UsageError(f"line {number} is not 'user@domain password': {line.strip()[:60]}")
            operations, uid = self._user_operations(words[0], words[1], keep_clear=False)
            if uid in seen:
                raise UsageError(f"line {number}: the user is there twice: {uid}")
            seen.add(uid)
            users.append(operations)
        for at in range(0, len(users), IMPORT_CHUNK):
            chunk = [operation for operations in users[at : at + IMPORT_CHUNK] for operation in operations]
            self.database.write(sorted(chunk, key=_table_of))  # neighbours of one table are one statement
        self._remembered = None
        return len(users)

    def _user_operations(self, text: str, password: str, *, keep_clear: bool) -> tuple[list[Operation], str]:
        if not password:
            raise UsageError(f"the password is empty: {text}")
        user = self.parse(text)
        uid = f"{user.username}@{user.did}"
        if self._rows("uri", ("uid",), _uri_key(user)):
            raise UsageError(f"address exists: {text}")
        if self._rows("credentials", ("auth_username",), {"uid": uid}):
            raise UsageError(f"user exists: {uid}")
        now = str(int(time.time()))
        return [
            ("insert", "user_attrs",
             {"uid": uid, "name": "datetime_created", "type": STRING, "value": now, "flags": DOMAIN_FLAGS}),
            ("insert", "credentials",
             {"auth_username": user.username, "did": user.did, "uid": uid, "flags": DOMAIN_FLAGS,
              **_secrets(user.username, self.realm_of(user.did), password, keep_clear=keep_clear)}),
            ("insert", "uri", {"uid": uid, **_uri_key(user), "flags": URI_FLAGS | schema.CANON}),
        ], uid  # fmt: skip

    def user_rm(self, text: str) -> str:
        """Remove the user that *text* belongs to, with everything of theirs; return the uid."""
        uid = self.uid_of(text)
        tables = ("uri", "credentials", "user_attrs", "location", "speed_dial")
        self.database.write([("delete", table, {"uid": uid}) for table in tables])
        return uid

    def user_show(self, text: str = "") -> list[dict[str, Value]]:
        """One row for each URI: all of them, or those of one user."""
        where: dict[str, Value] = {"uid": self.uid_of(text)} if text else {}
        rows = self._rows("uri", ("uid", "scheme", "username", "did", "flags"), where, order="uid, username")
        return [
            {"uid": uid, "uri": f"{scheme!s}:{username!s}@{did!s}", "flags": flag_text(flags)}
            for uid, scheme, username, did, flags in rows
        ]

    def user_credentials(self, text: str) -> list[dict[str, Value]]:
        """What the user authenticates with, without the secrets."""
        rows = self._rows("credentials", ("auth_username", "realm", "flags"), {"uid": self.uid_of(text)})
        return [{"auth username": name, "realm": realm, "flags": flag_text(flags)} for name, realm, flags in rows]

    def password(self, text: str, password: str, *, keep_clear: bool = False) -> None:
        """Set a new password for the user that *text* belongs to."""
        if not password:
            raise UsageError(f"the password is empty: {text}")
        uid = self.uid_of(text)
        rows = self._rows("credentials", ("auth_username", "did", "realm", "flags"), {"uid": uid})
        if not rows:
            raise UsageError(f"user has no credentials: {text}")
        operations: list[Operation] = [("delete", "credentials", {"uid": uid})]
        for name, did, realm, flags in rows:
            operations.append(
                ("insert", "credentials",
                 {"auth_username": name, "did": did, "uid": uid, "flags": flags,
                  **_secrets(str(name), str(realm), password, keep_clear=keep_clear)})
            )  # fmt: skip
        self.database.write(operations)

    # ------------------------------------------------------------------------------------------------ aliases

    def alias_add(self, text: str, aliases: Sequence[str]) -> None:
        """Give the user further addresses."""
        uid = self.uid_of(text)
        self.database.write([self._alias_operation(uid, alias) for alias in aliases])

    def _alias_operation(self, uid: str, alias: str) -> Operation:
        user = self.parse(alias)
        if self._rows("uri", ("uid",), _uri_key(user)):
            raise UsageError(f"address exists: {alias}")
        return ("insert", "uri", {"uid": uid, **_uri_key(user), "flags": URI_FLAGS})

    def alias_rm(self, aliases: Sequence[str]) -> None:
        """Take addresses away; a user keeps the canonical one."""
        operations: list[Operation] = []
        for alias in aliases:
            user = self.parse(alias)
            rows = self._rows("uri", ("flags",), _uri_key(user))
            if not rows:
                raise UsageError(f"no such address: {alias}")
            if any(isinstance(flags, int) and flags & schema.CANON for (flags,) in rows):
                raise UsageError(f"this is the user's canonical address; use 'user rm': {alias}")
            operations.append(("delete", "uri", _uri_key(user)))
        self.database.write(operations)

    # ------------------------------------------------------------------------------------------------ location

    def contacts(self, uid: str = "") -> list[dict[str, Value]]:
        """The bindings on disk: all, or those of *uid*."""
        rows = self._rows(
            "location", ("uid", "contact", "expires", "q", "user_agent", "received"), {"uid": uid} if uid else {},
            order="uid, contact",
        )  # fmt: skip
        now = time.time()
        return [
            {"uid": owner, "contact": contact, "expires": max(0, int(expires - now)), "q": q if q >= 0 else "",
             "user agent": agent, "received": received}
            for owner, contact, expires, q, agent, received in rows
            if isinstance(expires, int | float) and isinstance(q, int | float)
        ]  # fmt: skip

    # ------------------------------------------------------------------------------------------------ parts

    def _rows(self, table: str, columns: Sequence[str], where: dict[str, Value], order: str = "") -> list[Row]:
        if self._remembered is None or not table.startswith("domain"):
            return self.database.select(table, columns, where, order=order)
        question = (table, columns, *where.items())
        rows = self._remembered.get(question)
        if rows is None:
            rows = self._remembered[question] = self.database.select(table, columns, where, order=order)
        return rows

    def _touched(self) -> list[Operation]:
        """Tell the scripts that poll ``domain_data_version`` that domains have changed."""
        now = str(int(time.time()))
        return [
            ("delete", "global_attrs", {"name": "domain_data_version"}),
            ("insert", "global_attrs",
             {"name": "domain_data_version", "type": INTEGER, "value": now, "flags": DOMAIN_FLAGS}),
        ]  # fmt: skip


def _table_of(operation: Operation) -> str:
    return operation[1]


def _host(text: str) -> str:
    name = normal_host(text)
    if not name:
        raise UsageError(f"not a domain name: {text}")
    return name


def _uri_key(user: UserUri) -> dict[str, Value]:
    return {"username": user.username, "did": user.did, "scheme": "sip"}


def _secrets(username: str, realm: str, password: str, *, keep_clear: bool) -> dict[str, Value]:
    return {
        "realm": realm,
        "ha1": ha1(username, realm, password),
        "ha1b": ha1(f"{username}@{realm}", realm, password),
        "password": password if keep_clear else "",
    }


_FLAG_LETTERS = (
    (schema.LOAD_SER, "load"), (schema.DISABLED, "DISABLED"), (schema.CANON, "canonical"), (schema.IS_TO, "to"),
    (schema.IS_FROM, "from"), (schema.PENDING, "pending"), (schema.DELETED, "DELETED"),
)  # fmt: skip


def flag_text(flags: Value) -> str:
    """The flags word in words; provisioning's own bit is left out."""
    number = flags if isinstance(flags, int) else 0
    return " ".join(text for bit, text in _FLAG_LETTERS if number & bit)
