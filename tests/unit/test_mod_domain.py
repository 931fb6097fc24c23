import pytest
from support.contexts import context, function, request_text
from support.identity import Identity, rpc

from serpy.api import DOMAINS
from serpy.context.avps import FROM_DOMAIN, TO_DOMAIN, parse_track
from serpy.errors import BackendError
from serpy.modules import domain


@pytest.fixture
def identity(tmp_path):
    found = Identity(tmp_path)
    found.domain("example.com", "d1", digest_realm="Example", acl="x")
    found.domain("www.example.com", "d1")
    found.domain("off.example", "d2", flags=35)
    found.domain("web.example", "d3", flags=32)
    return found


def load(identity, **params):
    exports = identity.load(domain, **{"load_domain_attrs": 1, **params})
    identity.start()
    return exports


def lookup(exports, name, track="$fd", ctx=None):
    ctx = ctx or context(request_text())
    return function(exports, "lookup_domain")(ctx, parse_track(track), name), ctx


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize(
    ("name", "result"),
    [
        pytest.param("example.com", 1, id="served"),
        pytest.param("EXAMPLE.com", 1, id="in-any-case"),
        pytest.param("Example.COM.", 1, id="with-a-final-dot"),
        pytest.param("www.example.com", 1, id="second-name"),
        pytest.param("other.example", -1, id="unknown"),
        pytest.param("off.example", -1, id="disabled"),
        pytest.param("web.example", -1, id="without-load-ser"),
        pytest.param("", -1, id="empty"),
        pytest.param(None, -1, id="undefined"),
        pytest.param(7, -1, id="a-number"),
        pytest.param("exampl\u00e9.com", -1, id="not-ascii"),
        pytest.param("example.com\udcff", -1, id="not-text"),
    ],
)
def test_domains_are_found_by_name(identity, mode, name, result):
    exports = load(identity, db_mode=mode)
    assert lookup(exports, name)[0] == result
    assert function(exports, "is_local")(context(request_text()), name) == result


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize(
    "asked", ["2001:DB8::1", "[2001:db8:0:0::1]", "192.0.2.9", "::ffff:192.0.2.9", "[::FFFF:C000:209]"]
)
def test_an_address_is_a_domain_however_it_is_written(identity, mode, asked):
    identity.domain("2001:db8::1", "d1")
    identity.domain("192.0.2.9", "d1")
    assert lookup(load(identity, db_mode=mode), asked)[0] == 1


@pytest.mark.parametrize(
    ("written", "asked"),
    [("Upper.Example.", "upper.example"), ("[2001:DB8:0::7]", "2001:db8::7"), ("::FFFF:192.0.2.8", "192.0.2.8")],
)
def test_a_name_in_the_table_may_be_written_in_any_way(identity, written, asked):
    identity.domain(written, "d4")
    assert lookup(load(identity, db_mode=1), asked)[0] == 1


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("192.0.2.100", 1),
        ("::ffff:192.0.2.100", 1),
        ("PROXY.example.org.", 1),
        ("127.0.0.9", 1),
        ("[::1]", 1),
        ("LocalHost.", 1),
        ("127.example.org", -1),
        ("192.0.2.101", -1),
        ("", -1),
        (None, -1),
    ],
)
def test_our_own_addresses_are_known_whatever_the_port(identity, host, own):
    exports = load(identity)
    identity.server.aliases = {("192.0.2.100", 18000), ("proxy.example.org", 0)}
    assert function(exports, "is_own_host")(context(request_text()), host) == own


def test_a_lookup_replaces_the_whole_domain_list_of_its_track(identity):
    exports = load(identity)
    ctx = context(request_text())
    ctx.avps.add(TO_DOMAIN, "old", "x")
    assert lookup(exports, "www.example.com", "$td", ctx)[0] == 1
    assert {name: avp.value for name, avp in ctx.avps.items(TO_DOMAIN)} == {
        "did": "d1", "digest_realm": "Example", "acl": "x",
    }  # fmt: skip
    assert not ctx.avps.items(FROM_DOMAIN)


def test_an_unknown_name_leaves_the_list_as_it_is(identity):
    exports = load(identity)
    _, ctx = lookup(exports, "example.com")
    assert lookup(exports, "other.example", ctx=ctx)[0] == -1
    assert ctx.avps.newest(FROM_DOMAIN, "did") == "d1"


def test_what_a_message_writes_is_not_seen_by_the_next(identity):
    exports = load(identity)
    _, ctx = lookup(exports, "example.com")
    ctx.avps.set(FROM_DOMAIN, "digest_realm", "changed")
    _, other = lookup(exports, "example.com")
    assert other.avps.newest(FROM_DOMAIN, "digest_realm") == "Example"


def test_without_attributes_there_is_still_the_did(identity):
    exports = load(identity, load_domain_attrs=0)
    _, ctx = lookup(exports, "example.com")
    assert [(name, avp.value) for name, avp in ctx.avps.items(FROM_DOMAIN)] == [("did", "d1")]


def test_the_table_is_loaded_before_the_fork_over_a_handle_that_is_closed(identity):
    exports = identity.load(domain)
    assert identity.open_handles == 0
    loaded = identity.selects
    identity.broken = True
    identity.start()
    assert lookup(exports, "example.com")[0] == 1
    assert identity.selects == loaded


def test_the_server_starts_without_a_database_and_loads_when_it_is_back(identity, monkeypatch):
    identity.broken = True
    exports = load(identity)
    clock = [100.0]
    monkeypatch.setattr("serpy.db.snapshot.time.monotonic", lambda: clock[0])
    assert lookup(exports, "example.com")[0] == -2
    identity.broken = False
    assert lookup(exports, "example.com")[0] == -2  # not more often than once a second
    clock[0] += 1.0
    assert lookup(exports, "example.com")[0] == 1


def test_a_bumped_generation_loads_the_new_rows_and_a_dead_database_keeps_the_old(identity, monkeypatch):
    exports = load(identity)
    clock = [100.0]
    monkeypatch.setattr("serpy.db.snapshot.time.monotonic", lambda: clock[0])
    identity.domain("new.example", "d9")
    assert lookup(exports, "new.example")[0] == -1
    identity.server.counters.bump("domain")
    identity.broken = True
    assert lookup(exports, "new.example")[0] == -1
    assert lookup(exports, "example.com")[0] == 1
    identity.broken = False
    clock[0] += 1.0
    assert lookup(exports, "new.example")[0] == 1


def test_reload_tells_every_process_and_reports_a_dead_database(identity):
    exports = load(identity)
    before = identity.server.counters.generation("domain")
    identity.domain("new.example", "d9")
    assert rpc(exports, "domain.reload")() == {"domains": 3}
    assert identity.server.counters.generation("domain") == before + 1
    assert lookup(exports, "new.example")[0] == 1
    identity.broken = True
    with pytest.raises(BackendError):
        rpc(exports, "domain.reload")()
    assert identity.server.counters.generation("domain") == before + 1


def test_while_the_table_is_being_loaded_others_ask_for_their_name_only(identity):
    identity.broken = True
    exports = load(identity)
    identity.broken = False
    module = exports.module
    module._snapshot.is_loading = True
    assert lookup(exports, "example.com")[0] == 1
    assert not module._snapshot.is_loaded


def test_dump_shows_each_did_with_its_names_and_attributes(identity):
    exports = load(identity)
    assert rpc(exports, "domain.dump")() == [
        {
            "did": "d1",
            "domains": ["example.com", "www.example.com"],
            "flags": [33, 33],
            "attributes": {"digest_realm": "Example", "acl": "x"},
        }
    ]


def test_other_modules_ask_through_the_service(identity):
    load(identity)
    service = identity.server.bind(DOMAINS)
    assert service.is_local("example.COM")
    assert not service.is_local("other.example")
    assert (service.did("www.example.com"), service.did("other.example")) == ("d1", "")
