"""MySQL's idioms in SQL that an administrator wrote, so that the published scripts run on the other databases.

Only what those scripts use: ``utc_timestamp()``, ``unix_timestamp(…)``, ``cast(… as unsigned int)`` and names in backticks.
SQLite needs nothing: it takes such casts and backticks, and its driver defines the functions. For PostgreSQL they are
rewritten; a cast takes the digits a text begins with, as MySQL does, so a row that holds no number is no error. Strings
follow standard SQL in all three: a quote inside is doubled, a backslash is a backslash.

Runs in: every process that runs such SQL. Locks: none.
"""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<text>'(?:[^']|'')*'?)
      | (?P<name>"(?:[^"]|"")*"?)
      | (?P<tick>`[^`]*`?)
      | (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<word>[A-Za-z_][A-Za-z_0-9$]*)
      | (?P<blank>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_INTEGERS: Final = frozenset(
    f"{sign}{kind}" for sign in ("unsigned", "signed") for kind in ("", " int", " integer", " bigint")
)

Token = tuple[str, str]
"""(kind, text); the kinds are the names of the groups of the expression above."""

_kept: dict[tuple[str, str], str] = {}


def tokens_of(sql: str) -> list[Token]:
    """*sql* cut into tokens; together they are the text again."""
    return [(str(match.lastgroup), match.group()) for match in _TOKEN.finditer(sql)]


def portable(sql: str, dialect: str) -> str:
    """*sql* as the database *dialect* takes it."""
    if dialect != "postgres":
        return sql
    found = _kept.get((dialect, sql))
    if found is None:
        found = _postgres(tokens_of(sql))
        if len(_kept) < 500:
            _kept[(dialect, sql)] = found
    return found


def _postgres(tokens: list[Token]) -> str:
    out: list[str] = []
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        if kind == "tick":
            out.append('"' + text.strip("`").replace('"', '""') + '"')
        elif kind == "word" and text.lower() in ("utc_timestamp", "unix_timestamp", "cast"):
            call = _arguments(tokens, at + 1)
            if call is not None:
                inner, at = call
                out.append(_call(text, inner))
                continue
            out.append(text)
        else:
            out.append(text)
        at += 1
    return "".join(out)


def _arguments(tokens: list[Token], at: int) -> tuple[list[Token], int] | None:
    """The tokens between the parentheses that open at or after *at*, and what follows; None when none open."""
    while at < len(tokens) and tokens[at][0] == "blank":
        at += 1
    if at == len(tokens) or tokens[at][1] != "(":
        return None
    depth = 0
    for end in range(at, len(tokens)):
        kind, text = tokens[end]
        if kind == "other" and text in "()":
            depth += 1 if text == "(" else -1
            if not depth:
                return tokens[at + 1 : end], end + 1
    return None


def _call(name: str, inner: list[Token]) -> str:
    lower = name.lower()
    if lower == "utc_timestamp":
        return "(now() at time zone 'utc')"
    if lower == "unix_timestamp":
        return f"cast(extract(epoch from ({_postgres(inner).strip() or 'now()'})) as bigint)"
    depth = 0
    for index in range(len(inner) - 1, -1, -1):
        kind, text = inner[index]
        if kind == "other" and text in "()":
            depth += 1 if text == ")" else -1
        if kind == "word" and not depth and text.lower() == "as":
            wanted = " ".join("".join(part for _, part in inner[index + 1 :]).lower().split())
            if wanted in _INTEGERS:
                value = _postgres(inner[:index]).strip()
                return f"coalesce(cast(substring(cast(({value}) as text) from '^ *([+-]?[0-9]{{1,18}})') as bigint), 0)"
            break
    return f"{name}({_postgres(inner)})"
