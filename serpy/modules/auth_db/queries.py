"""The credentials query, and the HA1 values that its rows offer for one digest username.

Runs in: udp receiver. Locks: none. RFC: 7616 §3.4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.script.attribute_rows import is_usable
from serpy.sip.digest import MD5, SHA256, ha1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serpy.db.interface import Database, Row, Value

Key = tuple[str, str, str, str]
"""(table, user, realm, did)."""

_HA1_LENGTH: Final = {MD5: 32, SHA256: 64}


class Columns:
    """Which columns to read. *attributes* are (column, attribute name); *plain*: *secret* is a clear-text password."""

    def __init__(
        self, user: str, realm: str, did: str, flags: str, secret: str, secret_b: str,
        attributes: list[tuple[str, str]], *, plain: bool, use_did: bool,
    ) -> None:  # fmt: skip
        self.user: Final = user
        self.realm: Final = realm
        self.did: Final = did
        self.attributes: Final = attributes
        self.plain: Final = plain
        self.use_did: Final = use_did
        self.key: Final = (user, realm, did) if use_did else (user, realm)
        self.selected: Final = [flags, secret, *([] if plain else [secret_b]), *(column for column, _ in attributes)]


class Credential:
    """One usable row: *secret* is the HA1 (or the password), *secret_b* the HA1 for user@domain names."""

    def __init__(self, secret: str, secret_b: str, attributes: list[tuple[str, str]]) -> None:
        self.secret: Final = secret
        self.secret_b: Final = secret_b
        self.attributes: Final = attributes


def select_credentials(database: Database, columns: Columns, key: Key) -> list[Credential]:
    """The usable rows in the order of the database; rows with NULL in a selected column are skipped."""
    table, user, realm, did = key
    where: dict[str, Value] = {columns.user: user, columns.realm: realm}
    if columns.use_did:
        where[columns.did] = did
    return usable(database.select(table, columns.selected, where), columns, 0)


def page_of_credentials(
    database: Database, table: str, columns: Columns, after: Sequence[Value], limit: int
) -> list[Row]:
    """The next rows in the order of ``columns.key``: its values, then the selected columns."""
    return database.select_page(table, (*columns.key, *columns.selected), columns.key, after, limit)


def usable(rows: list[Row], columns: Columns, at: int) -> list[Credential]:
    """The usable ones of *rows*, whose selected columns begin at index *at*."""
    found: list[Credential] = []
    first = 2 if columns.plain else 3
    for row in rows:
        values = row[at:]
        if not is_usable(values[0]) or None in values:
            continue
        attributes = [(name, str(value)) for (_, name), value in zip(columns.attributes, values[first:], strict=True)]
        found.append(Credential(str(values[1]), "" if columns.plain else str(values[2]), attributes))
    return found


def same_secrets(some: list[Credential], others: list[Credential]) -> bool:
    """True when a response that fits none of *some* fits none of *others* either."""
    return some is others or [each.secret + each.secret_b for each in some] == [
        each.secret + each.secret_b for each in others
    ]


def candidates(
    rows: list[Credential], username: str, realm: str, algorithm: str, *, is_plain: bool
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(HA1, attributes) of *rows* for *username*, which may be user@domain; rows without a fitting HA1 are skipped."""
    if is_plain:
        if not rows:
            ha1(username, realm, "", algorithm)  # an unknown user costs what a known one costs
        return [(ha1(username, realm, row.secret, algorithm), row.attributes) for row in rows]
    length = _HA1_LENGTH.get(algorithm, 0)
    is_long = "@" in username
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for row in rows:
        stored = row.secret_b if is_long else row.secret
        if len(stored) == length:
            found.append((stored, row.attributes))
    return found
