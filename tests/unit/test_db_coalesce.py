"""Fewer operations with the same result."""

from __future__ import annotations

from random import Random

import pytest
from support.stores import acc, binding, delete, sql, upsert

from serpy.db import schema
from serpy.db.coalesce import coalesced
from serpy.modules.db_sqlite import SqliteModule


@pytest.fixture
def database(tmp_path):
    handle = SqliteModule().open(f"sqlite:///{tmp_path}/serpy.db", read_only=False, create=True)
    schema.create(handle)
    yield handle
    handle.close()


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        pytest.param([upsert(expires=1), upsert(expires=2)], [upsert(expires=2)], id="last-refresh-wins"),
        pytest.param([upsert(), delete()], [delete()], id="removed-after-a-refresh"),
        pytest.param([upsert("a"), delete("b"), upsert("c")], [delete("b"), upsert("a"), upsert("c")], id="grouped"),
        pytest.param(
            [delete(), upsert(q=1)], [delete(), upsert(q=1)], id="partial-row-after-delete-starts-from-defaults"
        ),
        pytest.param(
            [upsert(flags=1), upsert()], [("upsert", "location", {**binding(flags=1)})], id="partial-rows-are-merged"
        ),
        pytest.param(
            [upsert("a"), ("delete", "location", {"uid": "a"}), upsert("a")],
            [upsert("a"), ("delete", "location", {"uid": "a"}), upsert("a")],
            id="wide-delete-is-a-barrier",
        ),
        pytest.param([acc("1"), upsert(), acc("1")], [upsert(), acc("1"), acc("1")], id="inserts-all-stay"),
        pytest.param(
            [upsert("a"), acc("1"), sql("delete from location"), upsert("a"), delete("b")],
            [upsert("a"), acc("1"), sql("delete from location"), delete("b"), upsert("a")],
            id="statement-is-a-barrier",
        ),
    ],
)
def test_coalesced(operations, expected):
    assert coalesced(operations) == expected


def test_coalescing_never_changes_the_result(database):

    random = Random(7)
    plain = database
    for _ in range(60):
        operations = []
        for _ in range(random.randrange(1, 14)):
            uid, contact = random.choice("ab"), random.choice("xy")
            choice = random.randrange(6)
            if choice == 5:
                operations.append(sql("update location set flags = flags + ? where uid = ?", 1, uid))
            elif choice < 2:
                operations.append(upsert(uid, contact, random.randrange(9)))
            elif choice == 2:
                operations.append(("upsert", "location", {"uid": uid, "contact": contact, "aor": "", "flags": 3}))
            elif choice == 3:
                operations.append(delete(uid, contact))
            else:
                operations.append(("delete", "location", {"uid": uid}))
        results = []
        for variant in (operations, coalesced(operations)):
            plain.execute("delete from location")
            plain.write(variant)
            columns = ("uid", "contact", "aor", "expires", "flags", "q")
            results.append(plain.select("location", columns, {}, order="uid, contact"))
        assert results[0] == results[1], operations
