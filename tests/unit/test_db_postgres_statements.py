"""Rows as the statements that PostgreSQL gets, without a server."""

from __future__ import annotations

import pytest

from serpy.db.frames import Fields, operation
from serpy.errors import BackendError
from serpy.modules.db_postgres.statements import array_of, arrays_of, execute_text, groups_of, literal_statement


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (["a"], '{"a"}'),
        (["a", "", "b,c"], '{"a","","b,c"}'),
        (["a", 'say "x"'], r'{"a","say \"x\""}'),
        (['"', '"'], r'{"\"","\""}'),
        (['a","b', "c"], r'{"a\",\"b","c"}'),
        ([r"a\b", "c"], r'{"a\\b","c"}'),
        (["a", None], '{"a",NULL}'),
        ([None, None], "{NULL,NULL}"),
        ([1, -2.5, None], "{1,-2.5,NULL}"),
        ([b"\x01\xff"], r'{"\\x01ff"}'),
        (["NULL", "{}"], '{"NULL","{}"}'),
    ],
)
def test_array(values, text):
    assert array_of(values) == text


def test_neighbours_of_one_shape_are_one_group_however_their_values_are_held():
    plain = {"sender": "1", "batch": 2}
    groups = groups_of(
        [
            ("upsert", "store_progress", plain),
            operation("upsert", "store_progress", Fields(("sender", "batch"), ("1", 3))),
            operation("upsert", "store_progress", Fields(("batch", "sender"), (4, "1"))),
            ("delete", "store_progress", plain),
        ]
    )
    assert [(group.kind, group.columns, group.rows) for group in groups] == [
        ("upsert", ("sender", "batch"), [("1", 2), ("1", 3)]),
        ("upsert", ("batch", "sender"), [(4, "1")]),
        ("delete", ("sender", "batch"), [("1", 2)]),
    ]


def test_unknown_operation_is_refused():
    with pytest.raises(BackendError):
        groups_of([("replace", "acc", {"id": 1})])


def test_arrays_hold_times_as_text_and_the_last_row_of_each_key():
    rows = [("a", "sip:a@h", 0), ("b", "sip:b@h", 60), ("a", "sip:a@h", None)]
    columns = ("uid", "contact", "expires")
    (group,) = groups_of([operation("upsert", "location", Fields(columns, row)) for row in rows])
    assert arrays_of(group) == ['{"a","b"}', '{"sip:a@h","sip:b@h"}', '{NULL,"1970-01-01 00:01:00"}']


def test_literal_statement_holds_times_as_text():
    (group,) = groups_of([("delete", "location", {"uid": "a", "contact": None, "expires <": 60})])
    text, values = literal_statement(group, group.rows[0])
    assert text == 'delete from "location" where "uid" = %s and "contact" is null and "expires" < %s'
    assert values == ["a", "1970-01-01 00:01:00"]


def test_execute_takes_arrays_as_they_are():
    arrays = [array_of(["it's", "100 %s", "$$", "$serpy", "serpy$"]), "{1,2}"]
    assert execute_text("s1", arrays) == (
        """execute s1 ($serpy${"it's","100 %s","$$","$serpy","serpy$"}$serpy$, $serpy${1,2}$serpy$)"""
    )


@pytest.mark.parametrize("text", ["$serpy$", "a$serpy$b", "$serpy$serpy$", "x$serpy$, $serpy$y"])
def test_execute_with_the_quotation_mark_in_a_value_is_left_to_the_driver(text):
    assert execute_text("s1", [array_of([text])]) == ""


def test_execute_refuses_what_would_end_the_statement():
    with pytest.raises(ValueError, match="NUL"):
        execute_text("s1", [array_of(["a\0b"])])
