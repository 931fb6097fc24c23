import pytest
from support.contexts import context, function, request_text
from support.identity import Identity

from serpy.context.avps import FROM_USER, TO_URI, parse_avp_name, parse_track
from serpy.modules import avp_db, domain
from serpy.script.attribute_rows import attribute_value


@pytest.fixture
def identity(tmp_path):
    found = Identity(tmp_path)
    found.domain("example.com", "d1")
    rows = (
        ("fr_timer", 0, "30", 33),
        ("asserted_id", 2, "+43", 33),
        ("acl", 2, "a", 33),
        ("acl", 2, "b", 33),
        ("email", 2, "x", 32),
        ("off", 2, "x", 35),
        ("empty", 2, None, 33),
    )
    for name, kind, value, flags in rows:
        found.insert("user_attrs", uid="u1", name=name, type=kind, value=value, flags=flags)
    found.insert("uri_attrs", username="bob", did="d1", scheme="sip", name="color", type=2, value="red", flags=33)
    return found


def load(identity):
    identity.load(domain)
    exports = identity.load(avp_db)
    identity.start()
    return exports


def load_attrs(exports, ctx, track, key):
    return function(exports, "load_attrs")(ctx, parse_track(track), key)


def test_the_usable_rows_of_a_user_become_attributes(identity):
    exports = load(identity)
    ctx = context(request_text())
    assert load_attrs(exports, ctx, "$fu", "u1") == 1
    found = {name: [avp.value for avp in ctx.avps.get(FROM_USER, name)] for name, _ in ctx.avps.items(FROM_USER)}
    assert sorted(found.pop("acl")) == ["a", "b"]
    assert found == {"fr_timer": [30], "asserted_id": ["+43"], "empty": [""]}


def test_attributes_are_added_to_what_is_there(identity):
    exports = load(identity)
    ctx = context(request_text())
    ctx.avps.add(FROM_USER, "uid", "u1")
    assert load_attrs(exports, ctx, "$fu", "u1") == 1
    assert load_attrs(exports, ctx, "$fu", "u1") == 1
    assert ctx.avps.newest(FROM_USER, "uid") == "u1"
    assert len(ctx.avps.get(FROM_USER, "fr_timer")) == 2
    assert ctx.avps.read(parse_avp_name("$fu.fr_timer")) == 30  # twice the same is not ambiguous
    ctx.avps.add(FROM_USER, "fr_timer", "30")
    assert ctx.avps.read(parse_avp_name("$fu.fr_timer")) is None


def test_what_a_message_writes_does_not_reach_the_cache(identity):
    exports = load(identity)
    ctx = context(request_text())
    load_attrs(exports, ctx, "$fu", "u1")
    ctx.avps.set(FROM_USER, "asserted_id", "changed")
    other = context(request_text())
    load_attrs(exports, other, "$fu", "u1")
    assert other.avps.newest(FROM_USER, "asserted_id") == "+43"


def test_a_uri_has_attributes_of_its_own(identity):
    exports = load(identity)
    ctx = context(request_text())
    assert load_attrs(exports, ctx, "$tr", "sip:bob@example.com") == 1
    assert ctx.avps.newest(TO_URI, "color") == "red"


@pytest.mark.parametrize(
    ("track", "key", "result"),
    [
        pytest.param("$fu", None, -1, id="undefined-uid"),
        pytest.param("$fu", "", -1, id="empty-uid"),
        pytest.param("$fr", "<<", -1, id="no-uri"),
        pytest.param("$fd", "d1", -1, id="a-list-that-is-not-loaded-here"),
        pytest.param("$fu", "nobody", 1, id="a-user-without-attributes"),
    ],
)
def test_what_cannot_be_looked_up_is_false(identity, track, key, result):
    assert load_attrs(load(identity), context(request_text()), track, key) == result


def test_a_warm_cache_needs_no_database(identity):
    exports = load(identity)
    ctx = context(request_text())
    load_attrs(exports, ctx, "$fu", "u1")
    load_attrs(exports, ctx, "$fu", "nobody")
    identity.broken = True
    assert load_attrs(exports, ctx, "$fu", "u1") == 1
    assert load_attrs(exports, ctx, "$fu", "nobody") == 1
    assert load_attrs(exports, ctx, "$fu", "u2") == -2


@pytest.mark.parametrize(
    ("kind", "value", "result"),
    [
        pytest.param(2, "x", "x", id="string"),
        pytest.param(2, None, "", id="null-string"),
        pytest.param(0, "42", 42, id="integer"),
        pytest.param(0, None, 0, id="null-integer"),
        pytest.param(0, "\u0664\u0662", 0, id="foreign-digits-are-no-number"),
        pytest.param(0, "-1", 0, id="integers-are-unsigned"),
    ],
)
def test_values_follow_their_type(kind, value, result):
    assert attribute_value(kind, value) == result
