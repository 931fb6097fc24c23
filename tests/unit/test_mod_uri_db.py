import pytest
from support.contexts import context, function, request_text
from support.identity import Identity

from serpy.context.avps import FROM_URI, FROM_USER, TO_DOMAIN, TO_USER, parse_avp_name
from serpy.modules import domain, uri_db


@pytest.fixture
def identity(tmp_path):
    found = Identity(tmp_path)
    found.domain("example.com", "d1")
    rows = (
        ("u-bob", "d1", "bob", 61, "sip"),
        ("u-old", "d1", "carol", 35, "sip"),
        ("u-carol", "d1", "carol", 57, "sip"),
        ("u-to", "d1", "shared", 41, "sip"),
        ("u-from", "d1", "shared", 49, "sip"),
        ("u-web", "d1", "web", 56, "sip"),
        ("u-tel", "_default", "+431234", 57, "tel"),
        ("u-guest", "_default", "guest", 57, "sip"),
        ("u-77", "d1", "7701", 57, "sip"),
    )
    for uid, did, username, flags, scheme in rows:
        found.insert("uri", uid=uid, did=did, username=username, flags=flags, scheme=scheme)
    return found


def load(identity, **params):
    identity.load(domain)
    exports = identity.load(uri_db, **params)
    identity.start()
    return exports


def lookup(exports, uri, target="$tu.uid", ctx=None):
    ctx = ctx or context(request_text())
    result = function(exports, "lookup_user")(ctx, parse_avp_name(target), uri)
    return result, ctx


@pytest.mark.parametrize(
    ("uri", "target", "uid"),
    [
        pytest.param("sip:bob@example.com", "$tu.uid", "u-bob", id="a-user"),
        pytest.param(
            "sip:bob@EXAMPLE.com:5070;transport=tcp", "$tu.uid", "u-bob", id="port-and-parameters-do-not-count"
        ),
        pytest.param("sip:b%6fb@example.com", "$tu.uid", "u-bob", id="escapes-are-resolved"),
        pytest.param("sip:Bob@example.com", "$tu.uid", None, id="user-parts-are-case-sensitive"),
        pytest.param("sips:bob@example.com", "$tu.uid", None, id="another-scheme"),
        pytest.param("sip:carol@example.com", "$tu.uid", "u-carol", id="a-disabled-row-is-passed-over"),
        pytest.param("sip:shared@example.com", "$tu.uid", "u-to", id="callee-direction"),
        pytest.param("sip:shared@example.com", "$fr.uid", "u-from", id="caller-direction"),
        pytest.param("sip:web@example.com", "$tu.uid", None, id="without-load-ser"),
        pytest.param("tel:+431234", "$tu.uid", "u-tel", id="telephone-number"),
        pytest.param("tel:+43-(12).34", "$tu.uid", "u-tel", id="separators-are-no-part-of-a-number"),
        pytest.param("sip:+43-1234@example.com;user=phone", "$tu.uid", "u-tel", id="the-number-as-a-sip-uri"),
        pytest.param("sip:+431234@example.com", "$tu.uid", None, id="not-said-to-be-a-number"),
        pytest.param("tel:77-01;phone-context=EXAMPLE.com.", "$fr.uid", "u-77", id="a-number-of-a-domain"),
        pytest.param("sip:77.01@example.com;User=Phone", "$tu.uid", "u-77", id="number-with-separators"),
        pytest.param("sip:7701;ext=2@example.com;user=phone", "$tu.uid", "u-77", id="number-with-parameters"),
        pytest.param("tel:7701;phone-context=other.org", "$fr.uid", None, id="a-number-of-another-domain"),
        pytest.param("tel:7701;phone-context=+43", "$tu.uid", None, id="a-number-of-another-country"),
        pytest.param("tel:7701", "$tu.uid", None, id="a-number-of-no-domain"),
        pytest.param("sip:guest@elsewhere.example", "$tu.uid", "u-guest", id="default-domain"),
        pytest.param("sip:example.com", "$tu.uid", None, id="no-user"),
        pytest.param("urn:x:y", "$tu.uid", None, id="no-sip-uri"),
        pytest.param("<<", "$tu.uid", None, id="no-uri"),
        pytest.param(None, "$tu.uid", None, id="undefined"),
    ],
)
def test_a_uri_leads_to_its_uid(identity, uri, target, uid):
    exports = load(identity)
    result, ctx = lookup(exports, uri, target)
    assert result == (1 if uid else -1)
    name = parse_avp_name(target)
    assert ctx.avps.newest(name.write_list, "uid") == uid
    assert function(exports, "check_uri")(ctx, name, uri) == result


def test_a_telephone_number_is_looked_up_in_the_domain_the_request_is_about(identity):
    exports = load(identity)
    ctx = context(request_text())
    ctx.avps.add(TO_DOMAIN, "did", "d1")
    assert lookup(exports, "tel:77-01", "$tu.uid", ctx)[0] == 1
    assert lookup(exports, "tel:77-01", "$fr.uid", ctx)[0] == -1


@pytest.mark.parametrize(
    ("which", "list_id", "uid", "canonical"),
    [
        pytest.param("Request-URI", TO_USER, "u-bob", "1", id="request-uri"),
        pytest.param("To", TO_USER, "u-bob", "1", id="to"),
        pytest.param("From", FROM_USER, "u-from", None, id="from"),
    ],
)
def test_the_old_form_names_where_the_uri_is(identity, which, list_id, uid, canonical):
    exports = load(identity)
    text = request_text().replace("<sip:alice@", "<sip:shared@")
    ctx = context(text)
    assert function(exports, "lookup_user")(ctx, parse_avp_name(which)) == 1
    assert ctx.avps.newest(list_id, "uid") == uid
    assert ctx.avps.newest(TO_USER, "ruri_canonical") == canonical
    fresh = context(text)
    assert function(exports, "check_uri")(fresh, parse_avp_name(which)) == 1
    assert not fresh.avps


def test_a_second_lookup_adds_and_an_unknown_name_is_false(identity):
    exports = load(identity)
    _, ctx = lookup(exports, "sip:bob@example.com")
    lookup(exports, "sip:carol@example.com", ctx=ctx)
    assert [avp.value for avp in ctx.avps.get(TO_USER, "uid")] == ["u-carol", "u-bob"]
    assert function(exports, "lookup_user")(ctx, parse_avp_name("Contact")) == -1
    assert not ctx.avps.get(FROM_URI, "uid")


def test_what_was_asked_once_needs_no_database_found_or_not(identity):
    exports = load(identity)
    assert lookup(exports, "sip:bob@example.com")[0] == 1
    assert lookup(exports, "sip:nobody@example.com")[0] == -1
    identity.broken = True
    assert lookup(exports, "sip:bob@example.com")[0] == 1
    assert lookup(exports, "sip:nobody@example.com")[0] == -1
    assert lookup(exports, "sip:carol@example.com")[0] == -2


def test_a_bumped_generation_is_seen_at_the_next_message(identity):
    exports = load(identity)
    assert lookup(exports, "sip:new@example.com")[0] == -1
    identity.insert("uri", uid="u-new", did="d1", username="new", flags=57)
    assert lookup(exports, "sip:new@example.com")[0] == -1
    identity.server.counters.bump("uri")
    identity.server.loop.read_clocks()
    assert lookup(exports, "sip:new@example.com")[0] == 1
