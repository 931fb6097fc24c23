"""The SER 2.x tables, described once and rendered for every driver; create, check and upgrade them.

Lengths in the reference are advice: text columns have no limit here (but those of keys in MySQL), writers cut what they
want cut. ``location`` has no index on ``expires`` on purpose: PostgreSQL then updates a refreshed binding in place (HOT);
who looks for old rows walks the key (``usrloc/purge.py``). ``src_ip`` holds text.

Runs in: serpyctl and the store; the table descriptions everywhere. Locks: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from serpy.errors import BackendError, UsageError

if TYPE_CHECKING:
    from serpy.db.interface import Database, Operation, Row, Value

SCHEMA_VERSION: Final = 2
DEFAULT_DID: Final = "_default"  # the domain id where there are no domains
OWN_ROW: Final = "serpy"  # table_name of our own row in the version table

LOAD_SER: Final = 1
DISABLED: Final = 2
CANON: Final = 4
IS_TO: Final = 8
IS_FROM: Final = 16
FOR_SERWEB: Final = 32
PENDING: Final = 64
DELETED: Final = 128
MULTIVALUE: Final = 1024
REQUIRED: Final = 4096


class Column(NamedTuple):
    """One column. *kind*: text, int, uint, float, datetime, blob, auto (the table's own numbers)."""

    name: str
    kind: str = "text"
    null: bool = False
    default: str | int | float | None = None


class Table(NamedTuple):
    """One table: *version* as SER's tools expect it, *key* what an upsert conflicts on, *unique* and *indexes* further
    column groups.
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)


def _text(*names: str, null: bool = False, default: str | None = None) -> tuple[Column, ...]:
    return tuple(Column(name, "text", null, default) for name in names)


_FLAGS = Column("flags", "uint", default=0)
_ATTR = (
    Column("name"),
    Column("value", null=True),
    Column("type", "int", default=0),
    _FLAGS,
)


def _accounting(name: str, indexes: tuple[tuple[str, ...], ...], *more: Column) -> Table:
    columns = (
        Column("id", "auto"),
        Column("server_id", "int", default=0),
        *_text("from_uid", "to_uid", "to_did", "from_did", "sip_from", "sip_to", null=True),
        Column("sip_status", "int", null=True),
        *_text("sip_method", "in_ruri", "out_ruri", "from_uri", "to_uri", "sip_callid", null=True),
        Column("sip_cseq", "int", null=True),
        *_text("digest_username", "digest_realm", "from_tag", "to_tag", "src_ip", null=True),
        Column("src_port", "int", null=True),
        Column("request_timestamp", "datetime"),
        Column("response_timestamp", "datetime"),
        _FLAGS,
        Column("attrs", null=True),
        *more,
    )
    return Table(name, 4, columns, indexes=indexes)


_LOCATION = Table(
    "location",
    9,
    (
        *_text("uid", "aor", "contact"),
        Column("server_id", "int", default=0),
        Column("received", null=True),
        Column("expires", "datetime", default="1970-01-01 00:00:00"),
        Column("q", "float", default=1.0),
        Column("callid", null=True),
        Column("cseq", "uint", null=True),
        _FLAGS,
        *_text("user_agent", "instance", null=True),
    ),
    key=("uid", "contact"),
)

_ALL: Final = (
    Table("version", 1, (Column("table_name"), Column("table_version", "int", default=0)), key=("table_name",)),
    Table("domain", 2, (Column("did"), Column("domain"), _FLAGS), key=("domain",), indexes=(("did",),)),
    Table(
        "domain_attrs",
        1,
        (Column("did", null=True), *_ATTR),
        key=("did", "name", "value"),
        indexes=(("did", "flags"),),
    ),
    Table(
        "domain_settings",
        1,
        (
            *_text("did", "filename"),
            Column("version", "uint"),
            Column("timestamp", "uint", null=True),
            Column("content", "blob", null=True),
            _FLAGS,
        ),
        key=("did", "filename", "version"),
    ),
    Table(
        "credentials",
        7,
        (
            Column("auth_username"),
            Column("did", default=DEFAULT_DID),
            Column("realm"),
            Column("password", default=""),
            Column("flags", "int", default=0),
            Column("ha1"),
            Column("ha1b", default=""),
            Column("uid"),
        ),
        indexes=(("auth_username", "realm"), ("auth_username", "did"), ("uid",), ("did",)),
    ),
    Table(
        "uri",
        3,
        (*_text("uid", "did", "username"), _FLAGS, Column("scheme", default="sip")),
        indexes=(("username", "did", "scheme"), ("uid",)),
    ),
    Table("user_attrs", 3, (Column("uid"), *_ATTR), key=("uid", "name", "value")),
    Table(
        "uri_attrs",
        2,
        (*_text("username", "did"), *_ATTR, Column("scheme", default="sip")),
        key=("username", "did", "name", "value", "scheme"),
    ),
    Table("global_attrs", 1, _ATTR, key=("name", "value")),
    Table("contact_attrs", 1, (*_text("uid", "contact"), *_ATTR), key=("uid", "contact", "name")),
    Table(
        "attr_types",
        4,
        (
            Column("name"),
            Column("rich_type", default="string"),
            Column("raw_type", "int", default=2),
            *_text("type_spec", "description", null=True),
            Column("default_flags", "int", default=0),
            Column("flags", "int", default=0),
            Column("priority", "int", default=0),
            Column("access", "int", default=0),
            Column("ordering", "int", default=0),
            Column("grp", default="other"),
        ),
        key=("name",),
    ),
    _LOCATION,
    Table(
        "speed_dial",
        2,
        (Column("id", "auto"), *_text("uid", "dial_username", "dial_did", "new_uri")),
        key=("uid", "dial_did", "dial_username"),
        indexes=(("uid",),),
    ),
    Table("sd_attrs", 1, (Column("id"), *_ATTR), key=("id", "name", "value")),
    _accounting("acc", (("sip_callid",), ("from_uid",), ("to_uid",)), Column("duration", "int", null=True)),
    _accounting("missed_calls", (("sip_callid",), ("to_uid",))),
    # Ours: which batches with inserts are committed, so that one sent twice counts once.
    Table("store_progress", 1, (Column("sender"), Column("batch", "uint")), key=("sender", "batch")),
)

TABLES: Final[dict[str, Table]] = {table.name: table for table in _ALL}


def table_of(name: str) -> Table:
    """The description of *name*; one we do not know has the columns of ``location`` (``save("table")``)."""
    return TABLES.get(name, _LOCATION)


def key_of(name: str) -> tuple[str, ...]:
    """The columns an upsert into *name* conflicts on. Raises UsageError for a table without a key."""
    key = table_of(name).key
    if not key:
        raise UsageError(f"table {name!r} has no key to upsert on")
    return key


def is_datetime(table: str, column: str) -> bool:
    """True when *column* travels as Unix seconds."""
    found = table_of(table).column(column)
    return found is not None and found.kind == "datetime"


_FIRST: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_REST: Final = _FIRST | frozenset("0123456789")
_quoted: dict[str, str] = {}


def quoted(name: str) -> str:
    """Return *name* as a quoted SQL identifier; only letters, digits and underscores, at most 63. Raises UsageError."""
    text = _quoted.get(name)
    if text is None:
        if not name or len(name) > 63 or name[0] not in _FIRST or not _REST.issuperset(name):
            raise UsageError(f"{name[:80]!r} is not a usable table or column name")
        text = f'"{name}"'
        if len(_quoted) < 1000:
            _quoted[name] = text
    return text


# -- rendering ------------------------------------------------------------------------------------------------------

_TYPES: Final[dict[str, dict[str, str]]] = {
    "sqlite": {
        "text": "text", "int": "integer", "uint": "integer", "float": "real", "datetime": "text", "blob": "blob",
        "auto": "integer primary key autoincrement",
    },
    "postgres": {
        "text": "text", "int": "integer", "uint": "bigint", "float": "double precision",
        "datetime": "timestamp without time zone", "blob": "bytea",
        "auto": "bigint generated by default as identity primary key",
    },
    "mysql": {
        "text": "text", "int": "int", "uint": "bigint", "float": "double", "datetime": "datetime", "blob": "mediumblob",
        "auto": "bigint not null auto_increment primary key",
    },
}  # fmt: skip

# MySQL keys and defaults need texts with a length, and one key holds at most 768 characters of four bytes.
_MYSQL_LENGTHS: Final = {
    "uid": 200, "did": 128, "username": 128, "auth_username": 128, "dial_username": 128, "dial_did": 128,
    "id": 128, "name": 64, "table_name": 64, "scheme": 16, "value": 400, "sender": 64,
}  # fmt: skip
_MYSQL_LENGTH: Final = 255
_CONTACT_LENGTH: Final = 1024  # of a contact: in a key they only fit with one byte each, and a URI has no others
_MYSQL_CONTACT: Final = f"varchar({_CONTACT_LENGTH}) character set ascii collate ascii_bin"

_POSTGRES_FUNCTIONS: Final = (
    # The MySQL functions that published scripts use in db_query; ``unix_timestamp`` of a time without zone reads UTC.
    (
        "create or replace function utc_timestamp() returns timestamp without time zone language sql stable"
        " as $$ select now() at time zone 'utc' $$"
    ),
    (
        "create or replace function unix_timestamp(timestamp with time zone) returns bigint language sql immutable"
        " as $$ select extract(epoch from $1)::bigint $$"
    ),
    (
        "create or replace function unix_timestamp(timestamp without time zone) returns bigint language sql immutable"
        " as $$ select extract(epoch from $1)::bigint $$"
    ),
    (
        "create or replace function unix_timestamp() returns bigint language sql stable"
        " as $$ select extract(epoch from now())::bigint $$"
    ),
)

CHANNEL: Final = "serpy"  # of PostgreSQL's notices
CACHED: Final[dict[str, str]] = {
    "domain": "domain", "domain_attrs": "domain", "credentials": "credentials", "uri": "uri", "user_attrs": "user_attrs",
    "uri_attrs": "uri_attrs", "global_attrs": "global_attrs", "speed_dial": "speed_dial",
}  # fmt: skip
"""Tables whose rows the processes keep, and the generation number that makes them forget."""


def _postgres_triggers() -> list[str]:
    """Every change of a cached table is a notice with its name, once for each transaction."""
    statements = [
        (
            "create or replace function serpy_changed() returns trigger language plpgsql"
            f" as $$ begin perform pg_notify('{CHANNEL}', tg_table_name); return null; end $$"
        )
    ]
    for table in CACHED:
        statements.append(f"drop trigger if exists serpy_changed on {quoted(table)}")
        statements.append(
            f"create trigger serpy_changed after insert or update or delete or truncate on {quoted(table)}"
            " for each statement execute function serpy_changed()"
        )
    return statements


def _literal(value: str | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _type(dialect: str, table: Table, column: Column) -> str:
    """The type of *column*."""
    if dialect == "mysql" and column.kind == "text":
        if column.name == "contact":
            return _MYSQL_CONTACT
        known = _MYSQL_LENGTHS.get(column.name, 0)
        unique = {name for group in (table.key, *table.unique) for name in group}
        if known or column.name in unique or column.default is not None:
            return f"varchar({known or _MYSQL_LENGTH})"
    return _TYPES[dialect][column.kind]


def render_column(dialect: str, table: Table, column: Column) -> str:
    """One column definition."""
    text = f"{quoted(column.name)} {_type(dialect, table, column)}"
    if column.kind == "auto":
        return text
    if not column.null:
        text += " not null"
    if column.default is not None:
        text += f" default {_literal(column.default)}"
    return text


def render_table(dialect: str, table: Table) -> list[str]:
    """The statements that make *table* and its indexes unless they exist."""
    parts = [render_column(dialect, table, column) for column in table.columns]
    for group in ((table.key,) if table.key else ()) + table.unique:
        parts.append(f"unique ({', '.join(map(quoted, group))})")
    options = ""
    if dialect == "postgres" and table.name in ("location", "store_progress"):
        options = " with (fillfactor = 70)"  # room for the next refresh on the same page
    if dialect == "mysql":  # it has no "create index if not exists"
        parts.extend(f"key ({', '.join(_indexed(table, name) for name in group)})" for group in table.indexes)
        options = " engine=InnoDB row_format=dynamic default character set utf8mb4 collate utf8mb4_bin"
        return [f"create table if not exists {quoted(table.name)} ({', '.join(parts)}){options}"]
    statements = [f"create table if not exists {quoted(table.name)} ({', '.join(parts)}){options}"]
    for group in table.indexes:
        name = quoted(f"{table.name}_{'_'.join(group)}_idx")
        statements.append(
            f"create index if not exists {name} on {quoted(table.name)} ({', '.join(map(quoted, group))})"
        )
    return statements


def _indexed(table: Table, name: str) -> str:
    """A column of a plain index in MySQL: of a text without length the first characters."""
    column = table.column(name)
    whole = column is None or _type("mysql", table, column) != "text"
    return quoted(name) if whole else f"{quoted(name)}({_MYSQL_LENGTH})"


def render(dialect: str) -> list[str]:
    """Every statement of the whole schema, in order; running them again changes nothing."""
    statements = [statement for table in _ALL for statement in render_table(dialect, table)]
    if dialect == "postgres":
        statements.extend(_POSTGRES_FUNCTIONS)
        statements.extend(_postgres_triggers())
    return statements


# -- seed rows ------------------------------------------------------------------------------------------------------

_USER: Final = 256
_DOMAIN: Final = 65536
_GLOBAL: Final = 1073741824
# name, raw type, rich type, default flags, flags, priority
_ATTR_TYPES: Final[tuple[tuple[str, int, str, int, int, int], ...]] = (
    ("uid", 2, "string", 0, 1, 0),
    ("did", 2, "string", 0, 1, 0),
    ("datetime_created", 2, "string", 33, 0, 0),
    ("digest_realm", 2, "string", 33, REQUIRED, _DOMAIN),
    ("asserted_id", 2, "string", 33, 0, _USER),
    ("fr_timer", 0, "int", 33, 0, _USER | _DOMAIN | _GLOBAL),
    ("fr_inv_timer", 0, "int", 33, 0, _USER | _DOMAIN | _GLOBAL),
    ("gflags", 0, "int", 33, 0, _GLOBAL),
    ("acl", 2, "string", 33, MULTIVALUE, _USER | _DOMAIN),
    ("fwd_always_target", 2, "sip_adr", 33, 0, _USER),
    ("fwd_busy_target", 2, "sip_adr", 33, 0, _USER),
    ("fwd_noanswer_target", 2, "sip_adr", 33, 0, _USER),
    ("domain_data_version", 0, "int", 33, 0, _GLOBAL),
    ("gattr_timestamp", 0, "int", 33, 0, _GLOBAL),
    ("email", 2, "email_adr", 33, 0, _USER),
    ("first_name", 2, "string", 32, 0, _USER),
    ("last_name", 2, "string", 32, 0, _USER),
    ("phone", 2, "string", 32, 0, _USER),
    ("lang", 2, "lang", 33, 0, _USER | _DOMAIN | _GLOBAL),
    ("timezone", 2, "timezone", 32, 0, _USER | _DOMAIN | _GLOBAL),
    ("sw_domain_default_flags", 0, "int", 32, 0, _GLOBAL),
    ("sw_credential_default_flags", 0, "int", 32, 0, _GLOBAL),
    ("sw_uri_default_flags", 0, "int", 32, 0, _GLOBAL),
    ("uid_format", 2, "int", 32, 0, _GLOBAL),
    ("did_format", 2, "int", 32, 0, _GLOBAL),
    # Used by the Out-of-Box script, never seeded by SER: its administrators had to add them by hand.
    ("gw_ip", 2, "string", 33, MULTIVALUE, _GLOBAL),
    ("gw_port", 0, "int", 33, 0, _GLOBAL),
    ("gw_acl", 2, "string", 33, 0, _USER | _DOMAIN | _GLOBAL),
    ("call_limit", 0, "int", 33, 0, _USER | _DOMAIN | _GLOBAL),
    ("replicate", 2, "string", 33, MULTIVALUE, _GLOBAL),
)
# name, type, value, flags
_GLOBAL_ATTRS: Final[tuple[tuple[str, int, str, int], ...]] = (
    ("domain_data_version", 0, "0", 33),
    ("gattr_timestamp", 0, "0", 33),
    ("lang", 2, "en", 33),
    ("sw_domain_default_flags", 0, "33", 32),
    ("sw_credential_default_flags", 0, "33", 32),
    ("sw_uri_default_flags", 0, "57", 32),
    ("uid_format", 2, "0", 32),
    ("did_format", 2, "0", 32),
)


def _seed(database: Database) -> list[Operation]:
    """The seed rows that are not there yet; a row of that name changed by the administrator stays."""
    operations: list[Operation] = []
    types = {row[0] for row in database.select("attr_types", ("name",), {})}
    for name, raw, rich, default_flags, flags, priority in _ATTR_TYPES:
        if name not in types:
            row: dict[str, Value] = {"name": name, "raw_type": raw, "rich_type": rich, "priority": priority}
            operations.append(("insert", "attr_types", row | {"default_flags": default_flags, "flags": flags}))
    attrs = {row[0] for row in database.select("global_attrs", ("name",), {})}
    for name, kind, value, flags in _GLOBAL_ATTRS:
        if name not in attrs:
            operations.append(("insert", "global_attrs", {"name": name, "type": kind, "value": value, "flags": flags}))
    return operations


def _versions() -> list[Operation]:
    rows = [(table.name, table.version) for table in _ALL if table.name != "version"]
    rows.append((OWN_ROW, SCHEMA_VERSION))  # last: it says that everything before it is there
    return [("upsert", "version", {"table_name": name, "table_version": version}) for name, version in rows]


# -- the three verbs ------------------------------------------------------------------------------------------------


def create(database: Database) -> None:
    """Make every missing table, index, function and seed row. Running it again changes nothing. Raises BackendError."""
    for statement in render(database.dialect):
        database.execute(statement)
    database.write(_seed(database) + _versions())


def columns_of(database: Database, table: str) -> list[str]:
    """The columns *table* has in the database; [] when there is no such table."""
    if database.dialect == "sqlite":
        rows = database.execute("select name from pragma_table_info(?)", (table,))
    else:
        rows = database.execute(
            "select column_name from information_schema.columns"
            " where table_name = ? and table_schema = any(current_schemas(false))"
            if database.dialect == "postgres"
            else "select column_name from information_schema.columns where table_name = ? and table_schema = database()",
            (table,),
        )
    return [str(row[0]) for row in rows]


def _narrow_contacts(database: Database) -> list[str]:
    """The tables of a MySQL schema of an earlier version, whose contacts may have 500 characters only."""
    if database.dialect != "mysql":
        return []
    rows = database.execute(
        "select table_name from information_schema.columns where table_schema = database()"
        " and column_name = 'contact' and table_name = 'location' and character_maximum_length < ?",
        (_CONTACT_LENGTH,),
    )
    return [str(row[0]) for row in rows]


def check(database: Database) -> list[str]:
    """What is wrong with the schema, one sentence each; [] = usable. Raises BackendError when it cannot be read."""
    problems: list[str] = []
    for table in _ALL:
        present = columns_of(database, table.name)
        if not present:
            problems.append(f"table {table.name} is missing")
            continue
        missing = [column.name for column in table.columns if column.name not in present]
        if missing:
            problems.append(f"table {table.name} lacks {', '.join(missing)}")
    if not problems:
        problems.extend(
            f"contacts in {name} are cut below {_CONTACT_LENGTH} characters" for name in _narrow_contacts(database)
        )
        problems.extend(_check_version(database))
    return problems


def _check_version(database: Database) -> list[str]:
    rows: list[Row] = database.select("version", ("table_version",), {"table_name": OWN_ROW})
    found = rows[0][0] if rows else None
    if found == SCHEMA_VERSION:
        return []
    if isinstance(found, int) and found > SCHEMA_VERSION:
        return [f"the schema is version {found}, made by a newer serpy; this one knows {SCHEMA_VERSION}"]
    return [f"the schema is version {found if isinstance(found, int) else 0}, expected {SCHEMA_VERSION}"]


def upgrade(database: Database) -> list[str]:
    """Bring an older or partial schema up to date, keeping all rows; returns what was done. Raises BackendError."""
    done: list[str] = []
    for table in _ALL:
        present = columns_of(database, table.name)
        if not present:
            done.append(f"created table {table.name}")
            continue
        for column in table.columns:
            if column.name not in present:
                database.execute(_add_column(database.dialect, table, column))
                done.append(f"added {table.name}.{column.name}")
    for name in _narrow_contacts(database):
        database.execute(f"alter table {quoted(name)} modify {quoted('contact')} {_MYSQL_CONTACT} not null")
        done.append(f"widened {name}.contact")
    versions: Sequence[Row] = ()
    if columns_of(database, "version"):
        versions = database.select("version", ("table_version",), {"table_name": OWN_ROW})
    if versions and isinstance(versions[0][0], int) and versions[0][0] > SCHEMA_VERSION:
        raise BackendError(f"the schema is version {versions[0][0]}, made by a newer serpy")
    create(database)
    if not versions or versions[0][0] != SCHEMA_VERSION:
        done.append(f"schema version {SCHEMA_VERSION}")
    return done


def _add_column(dialect: str, table: Table, column: Column) -> str:
    if column.kind == "auto":
        raise BackendError(f"table {table.name} has no column {column.name}, which cannot be added to existing rows")
    added = column
    if not column.null and column.default is None:  # existing rows need a value
        blank: str | int = {"text": "", "blob": "", "datetime": "1970-01-01 00:00:00"}.get(column.kind, 0)
        added = column._replace(default=blank)
    return f"alter table {quoted(table.name)} add column {render_column(dialect, table, added)}"
