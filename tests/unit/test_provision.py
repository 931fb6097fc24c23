"""serpyctl's database commands on SQLite: what they write, and what they refuse."""

from __future__ import annotations

import hashlib

import pytest

from serpy.db import schema
from serpy.errors import UsageError
from serpy.modules.db_sqlite import SqliteModule
from serpy.tools import attributes
from serpy.tools.provision import Provision, flag_text


@pytest.fixture
def provision(tmp_path):
    database = SqliteModule().open(f"sqlite:///{tmp_path}/x.db", read_only=False, create=True)
    schema.create(database)
    return Provision(database)


def test_domain_add_makes_the_realm(provision):
    assert provision.domain_add("Example.COM", ["example.org"]) == "example.com"
    assert provision.realm_of("example.com") == "example.com"
    assert [row["domain"] for row in provision.domain_show()] == ["example.com", "example.org"]


def test_user_add_makes_address_and_credentials(provision):
    provision.domain_add("example.com")
    assert provision.user_add("carol@example.com", "secret", ["sip:desk7@example.com"]) == "carol@example.com"
    assert [row["uri"] for row in provision.user_show("desk7@example.com")] == [
        "sip:carol@example.com", "sip:desk7@example.com",
    ]  # fmt: skip
    assert provision.user_credentials("carol@example.com")[0]["realm"] == "example.com"

    expected = hashlib.md5(b"carol:example.com:secret").hexdigest()
    rows = provision.database.select("credentials", ("ha1", "password"), {"uid": "carol@example.com"})
    assert rows == [(expected, "")]


def test_password_changes_the_digest(provision):
    provision.domain_add("example.com")
    provision.user_add("carol@example.com", "one")
    before = provision.database.select("credentials", ("ha1",), {"uid": "carol@example.com"})
    provision.password("carol@example.com", "two")
    assert provision.database.select("credentials", ("ha1",), {"uid": "carol@example.com"}) != before


def test_user_rm_leaves_nothing(provision):
    provision.domain_add("example.com")
    provision.user_add("carol@example.com", "one")
    provision.user_rm("carol@example.com")
    for table in ("uri", "credentials", "user_attrs"):
        assert provision.database.select(table, ("uid",), {}) == []


def test_attributes_are_typed_by_attr_types(provision):
    provision.domain_add("example.com")
    provision.user_add("carol@example.com", "one")
    attributes.attrs_set(provision, "carol@example.com", ["fr_inv_timer=20000", "fwd_busy_target=sip:bob@example.com"])
    rows = {row["name"]: (row["type"], row["value"]) for row in attributes.attrs_show(provision, "carol@example.com")}
    assert rows["fr_inv_timer"] == ("int", "20000")
    assert rows["fwd_busy_target"] == ("string", "sip:bob@example.com")


def test_import_makes_all_or_none(provision):
    provision.domain_add("example.com")
    with pytest.raises(UsageError, match="line 2"):
        provision.user_import(["a@example.com x", "b@example.com"])
    assert provision.user_show() == []
    assert provision.user_import(["# comment", "a@example.com x", "b@example.com y"]) == 2


@pytest.mark.parametrize(
    ("action", "message"),
    [
        pytest.param(lambda p: p.domain_add("example.com"), "domain exists: example.com", id="domain-twice"),
        pytest.param(lambda p: p.domain_add("bad name"), "not a domain name: bad name", id="bad-domain"),
        pytest.param(lambda p: p.user_add("x@nowhere.org", "s"), "no such domain: nowhere.org", id="no-domain"),
        pytest.param(lambda p: p.user_add("carol@example.com", "s"), "address exists", id="user-twice"),
        pytest.param(lambda p: p.user_add("dave@example.com", ""), "password is empty", id="empty-password"),
        pytest.param(lambda p: p.user_add("example.com", "s"), "user part is missing", id="no-user-part"),
        pytest.param(lambda p: p.user_rm("zoe@example.com"), "no such user: zoe@example.com", id="no-user"),
        pytest.param(lambda p: p.alias_rm(["carol@example.com"]), "canonical address", id="canonical"),
        pytest.param(lambda p: p.alias_rm(["zoe@example.com"]), "no such address", id="no-alias"),
        pytest.param(
            lambda p: attributes.attrs_set(p, "carol@example.com", ["colour=red"]), "no such attribute", id="no-type"
        ),
        pytest.param(
            lambda p: attributes.attrs_set(p, "carol@example.com", ["fr_timer=x"]), "takes a number", id="not-a-number"
        ),
        pytest.param(
            lambda p: attributes.attrs_set(p, "carol@example.com", ["novalue"]), "not name=value", id="no-equals"
        ),
    ],
)
def test_refusals_name_what_is_wrong(provision, action, message):
    provision.domain_add("example.com")
    provision.user_add("carol@example.com", "secret")
    with pytest.raises(UsageError, match=message):
        action(provision)


def test_flags_are_shown_in_words():
    assert flag_text(61) == "load canonical to from"
    assert flag_text(3) == "load DISABLED"


@pytest.mark.parametrize(
    ("owner", "assignment", "table", "cache"),
    [
        ("global", "gw_ip=192.0.2.9", "global_attrs", "global_attrs"),
        ("domain=example.com", "gw_acl=1", "domain_attrs", "domain"),
        ("uri=carol@example.com", "asserted_id=+4930123", "uri_attrs", "uri_attrs"),
        ("carol@example.com", "asserted_id=+4930123", "user_attrs", "user_attrs"),
    ],
    ids=["global", "domain", "uri", "user"],
)
def test_attributes_have_four_kinds_of_owner(provision, owner, assignment, table, cache):
    provision.domain_add("example.com")
    provision.user_add("carol@example.com", "one")
    name, _, value = assignment.partition("=")
    assert attributes.attrs_set(provision, owner, [assignment]) == cache
    assert (name, value) in provision.database.select(table, ("name", "value"), {})
    assert value in [row["value"] for row in attributes.attrs_show(provision, owner)]
    attributes.attrs_set(provision, owner, [f"{name}="])
    assert name not in [row["name"] for row in attributes.attrs_show(provision, owner)]


@pytest.mark.parametrize(
    ("owner", "stamp"),
    [("global", "gattr_timestamp"), ("domain=example.com", "domain_data_version")],
    ids=["global", "domain"],
)
def test_a_change_that_servers_look_for_once_a_minute_leaves_a_time_stamp(provision, owner, stamp):
    provision.domain_add("example.com")
    provision.database.write([("delete", "global_attrs", {"name": stamp})])
    attributes.attrs_set(provision, owner, ["fr_timer=1000"])
    assert int(provision.database.select("global_attrs", ("value",), {"name": stamp})[0][0]) > 1700000000


def test_speed_dials_are_replaced_listed_and_removed(provision):
    provision.domain_add("example.com")
    provision.user_add("carol@example.com", "one")
    attributes.speed_dial_add(provision, "carol@example.com", "22", "bob@example.com")
    attributes.speed_dial_add(provision, "carol@example.com", "22", "sip:alice@example.com")
    assert attributes.speed_dial_show(provision, "carol@example.com") == [
        {"dial": "22", "target": "sip:alice@example.com", "domain": "example.com"}
    ]
    attributes.speed_dial_rm(provision, "carol@example.com", "22")
    assert attributes.speed_dial_show(provision, "carol@example.com") == []
    with pytest.raises(UsageError, match="no such speed dial: 22"):
        attributes.speed_dial_rm(provision, "carol@example.com", "22")
