"""Queries of the script: whatever stands in them or is sent by a caller, values stay values and errors are ValueError."""

import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st

from serpy.db.idioms import portable, tokens_of
from serpy.modules.db_ops.query import Query, RawQuery, parse_query
from serpy.script.formats import Format

SQL_PIECES = [
    "select ",
    "'",
    "''",
    '"',
    "`",
    "/",
    ",",
    " from t",
    "?",
    ";",
    "--",
    "/*",
    "*/",
    "%",
    "x",
    "\n",
    "(",
    ")",
    "cast(",
]
SQL_TEXT = st.lists(st.sampled_from(SQL_PIECES), max_size=14).map("".join)


def template(parts, value=""):
    """A format of constant texts with the same value between them."""
    joined = []
    for part in parts:
        joined += [part, lambda _ctx: value]
    return Format([part for part in joined[:-1] if part != ""])


@given(st.lists(SQL_TEXT, min_size=1, max_size=4))
def test_any_query_parses_or_is_refused(texts):
    try:
        found = parse_query(template(["select ", *texts]))
    except ValueError:
        return
    assert isinstance(found, Query | str)


@given(st.text(SQL_PIECES[1] + 'abc%\\"`;-/*,?\n\u20ac', max_size=20), st.text("ab '\\", max_size=5))
def test_a_value_comes_back_as_it_was(value, around):
    quoted = around.replace("'", "''")
    query = parse_query(template([f"select '{quoted}", f"{quoted}', ", ""], value))
    assert isinstance(query, RawQuery)
    database = sqlite3.connect(":memory:")
    row = database.execute(query.text, [piece.value(None) for piece in query.pieces]).fetchone()
    assert row == (around + value + around, value)


@given(SQL_TEXT)
@settings(max_examples=200)
def test_rewriting_for_postgresql_never_fails_and_leaves_texts_alone(text):
    assert "".join(part for _, part in tokens_of(text)) == text
    rewritten = portable(text, "postgres")
    texts = [part for kind, part in tokens_of(text) if kind == "text"]
    assert all(part in rewritten for part in texts)
