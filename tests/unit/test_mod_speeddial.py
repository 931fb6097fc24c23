"""speeddial: whose entry is used, what is written into the Request-URI, and when the caller is refused."""

import pytest
from support.contexts import FakeReplies, context, function, request_text
from support.identity import Identity

from serpy.api import REPLIES, Authenticated
from serpy.context.avps import FROM_USER, TO_DOMAIN
from serpy.modules import speeddial


@pytest.fixture
def identity(tmp_path):
    found = Identity(tmp_path)
    rows = (
        ("u-alice", "2", "d1", "sip:bob@example.com"),
        ("u-alice", "3", "d1", "carol@example.org"),
        ("u-alice", "4", "d1", "SIPS:dave@example.com"),
        ("u-alice", "5", "d2", "sip:other@example.net"),
        ("u-alice", "6", "d1", "sip:<>@"),
        ("u-alice", "7", "d1", ""),
        ("alice", "2", "d1", "sip:by-name@example.com"),
        ("carol", "2", "d1", "sip:by-digest@example.com"),
    )
    for uid, number, did, uri in rows:
        found.insert("speed_dial", uid=uid, dial_username=number, dial_did=did, new_uri=uri)
    found.replies = FakeReplies()
    found.server.provide(REPLIES, found.replies)
    return found


def load(identity):
    exports = identity.load(speeddial)
    identity.start()
    return function(exports, "sd_lookup")


def call(uri, *, uid="u-alice", did="d1", digest=""):
    ctx = context(request_text(uri=uri))
    if uid:
        ctx.avps.add(FROM_USER, "uid", uid)
    if did:
        ctx.avps.add(TO_DOMAIN, "did", did)
    if digest:
        ctx.authenticated = Authenticated(digest)
    return ctx


@pytest.mark.parametrize(
    ("uri", "options", "result"),
    [
        pytest.param("sip:2@example.com", {}, "sip:bob@example.com", id="an-entry"),
        pytest.param("sip:3@example.com", {}, "sip:carol@example.org", id="sip-is-put-in-front"),
        pytest.param("sip:4@example.com", {}, "SIPS:dave@example.com", id="sips-stays"),
        pytest.param("sip:%32@example.com", {}, "sip:bob@example.com", id="escapes-are-resolved"),
        pytest.param("sip:9@example.com", {}, None, id="no-entry"),
        pytest.param("sip:7@example.com", {}, None, id="an-empty-entry-is-none"),
        pytest.param("sip:5@example.com", {}, None, id="an-entry-of-another-domain"),
        pytest.param("sip:2@example.com", {"uid": "u-bob"}, None, id="an-entry-of-another-user"),
        pytest.param("sip:example.com", {}, None, id="no-user-part"),
        pytest.param("sip:2@example.com", {"did": ""}, None, id="a-foreign-domain"),
        pytest.param("sip:2@example.com", {"uid": "", "digest": "carol"}, "sip:by-digest@example.com", id="by-digest"),
        pytest.param("sip:2@example.com", {"uid": ""}, "sip:by-name@example.com", id="by-from"),
    ],
)
def test_whose_entry_leads_where(identity, uri, options, result):
    lookup = load(identity)
    ctx = call(uri, **options)
    assert lookup(ctx, "speed_dial") == (-1 if result is None else 1)
    assert ctx.request_uri == (result or uri)
    assert identity.replies.sent == []


def test_the_database_is_asked_once(identity):
    lookup = load(identity)
    for _ in range(3):
        assert lookup(call("sip:2@example.com"), "speed_dial") == 1
        assert lookup(call("sip:9@example.com"), "speed_dial") == -1
    assert identity.selects == 2


def test_a_change_is_seen_when_the_generation_moves(identity):
    lookup = load(identity)
    assert lookup(call("sip:9@example.com"), "speed_dial") == -1
    identity.insert("speed_dial", uid="u-alice", dial_username="9", dial_did="d1", new_uri="sip:new@example.com")
    identity.server.counters.bump("speed_dial")
    identity.server.loop.read_clocks()
    assert lookup(call("sip:9@example.com"), "speed_dial") == 1


def test_an_entry_that_is_no_uri_is_the_servers_fault(identity):
    lookup = load(identity)
    assert lookup(call("sip:6@example.com"), "speed_dial") == 0
    assert [reply.status for reply in identity.replies.sent] == [500]


def test_without_a_database_the_caller_hears_500_and_the_script_stops(identity):
    lookup = load(identity)
    identity.broken = True
    assert lookup(call("sip:2@example.com"), "speed_dial") == 0
    assert [reply.status for reply in identity.replies.sent] == [500]


def test_a_request_uri_that_cannot_be_read_is_400(identity):
    lookup = load(identity)
    ctx = call("sip:2@example.com")
    ctx.request_uri = "sip:<>@"
    assert lookup(ctx, "speed_dial") == 0
    assert [reply.status for reply in identity.replies.sent] == [400]
