import re

import pytest
from support.contexts import LISTENER, context, function, request_text, server
from support.credentials import NOW, REALM, Setup, challenge, credentials, register
from support.identity import Identity

from serpy.api import Flow
from serpy.context.avps import FROM_USER
from serpy.errors import ConfigError
from serpy.modules import auth
from serpy.modules.textops.functions import header_lines
from serpy.sip import digest
from serpy.sip.text import header_value


@pytest.fixture
def identity(tmp_path):
    return Identity(tmp_path)


# -- the outcomes


def test_without_credentials_a_challenge_with_its_line_end_is_made(identity):
    setup = Setup(identity)
    ctx = register()
    assert setup.call(ctx) == -1
    line = challenge(ctx)
    assert line.startswith('WWW-Authenticate: Digest realm="example.com", nonce="')
    assert line.endswith('", qop="auth"\r\n')
    assert "algorithm" not in line
    assert "stale" not in line


def test_the_right_password_authenticates_and_loads_the_uid(identity):
    setup = Setup(identity)
    ctx = register(credentials(setup.nonce()))
    assert setup.call(ctx) == 1
    assert ctx.avps.newest(FROM_USER, "uid") == "u-alice"
    assert challenge(ctx) is None


@pytest.mark.parametrize("qop", ["", "auth"])
def test_clients_with_and_without_qop_are_verified_whatever_was_offered(identity, qop):
    setup = Setup(identity, qop="")
    assert setup.call(register(credentials(setup.nonce(), qop=qop))) == 1
    refused = register(credentials(setup.nonce(), qop=qop, password="wrong"))
    assert setup.call(refused) == -1
    assert "qop" not in challenge(refused)


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        pytest.param({"password": "wrong"}, -1, id="wrong-password"),
        pytest.param({"user": "nobody"}, -1, id="unknown-user"),
        pytest.param({"realm": "other.example"}, -1, id="credentials-for-another-realm"),
        pytest.param({"uri": '"sip:example.com;a=b"'}, -1, id="uri-not-what-was-hashed"),
        pytest.param({"response": '"00"'}, -1, id="response-too-short"),
        pytest.param({"qop": "auth", "nc": "1"}, -3, id="nonce-count-not-eight-digits"),
        pytest.param({"qop": "other"}, -3, id="unknown-qop"),
        pytest.param({"cnonce": '""'}, -3, id="qop-without-cnonce"),
        pytest.param({"nonce": '"'}, -3, id="unreadable"),
        pytest.param({"algorithm": "SHA-512"}, -1, id="unknown-algorithm"),
        pytest.param({"algorithm": "SHA-256"}, -1, id="algorithm-that-was-not-offered"),
    ],
)
def test_what_is_not_right_is_refused_with_a_fresh_challenge(identity, fields, result):
    setup = Setup(identity)
    fields = dict(fields)
    built = {key: fields.pop(key) for key in ("password", "user", "realm") if key in fields}
    if fields.get("qop") == "other":
        built["qop"] = fields.pop("qop")
    ctx = register(_changed(setup, built, fields))
    assert setup.call(ctx) == result
    assert challenge(ctx) is not None
    assert ctx.avps.newest(FROM_USER, "uid") is None


def _changed(setup, built, fields):
    line = credentials(setup.nonce(), **built)
    head, _, rest = line.partition("Digest ")
    parts = dict(part.split("=", 1) for part in rest.split(", "))
    return f"{head}Digest " + ", ".join(f"{key}={value}" for key, value in (parts | fields).items())


def test_the_answer_to_an_unknown_user_is_that_to_a_wrong_password(identity):
    setup = Setup(identity)
    answers = []
    for _ in range(2):  # the second time from the cache
        for fields in ({"password": "wrong"}, {"user": "nobody"}):
            ctx = register(credentials(setup.nonce(), **fields))
            answers.append((setup.call(ctx), re.sub('nonce="[^"]*"', "", challenge(ctx))))
    assert len(set(answers)) == 1


def test_an_unknown_user_costs_the_arithmetic_of_a_known_one(identity, monkeypatch):
    setup = Setup(identity)
    counted = []
    real = digest._md5.md5
    monkeypatch.setattr(digest._md5, "md5", lambda *data, **how: (counted.append(1), real(*data, **how))[1])
    costs = []
    for fields in ({"password": "wrong"}, {"user": "nobody"}):
        line = credentials(setup.nonce(), **fields)
        counted.clear()
        setup.call(register(line))
        costs.append(len(counted))
    assert costs[0] == costs[1] > 0


@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_the_stand_in_for_an_unknown_user_is_no_password(identity, monkeypatch, user):
    setup = Setup(identity)
    monkeypatch.setattr(digest, "ha1", lambda *_, **__: "0" * 32)
    assert setup.call(register(credentials(setup.nonce(), user=user))) == -1


def test_a_wrong_password_asks_the_database_when_an_unknown_user_does(identity):
    setup = Setup(identity, {"cache_all_rows": 0})
    loop = identity.server.loop
    loop._now = 1000.0
    assert setup.call(register(credentials(setup.nonce()))) == 1  # alice is known from here on
    loop._now = 1006.0
    asked = {}
    for kind, fields in (("known", {"password": "wrong"}), ("unknown", {"user": "nobody"})):
        counts = []
        for at in (1006.0, 1007.0, 1012.0, 1013.0):
            loop._now = at
            identity.selects = 0
            assert setup.call(register(credentials(setup.nonce(), **fields))) == -1
            answered = identity.selects  # before the answer, and behind the back of it
            loop._run_soon()
            counts.append((answered, identity.selects - answered))
        asked[kind] = counts
    assert asked["known"] == asked["unknown"] == [(1, 0), (0, 0), (0, 1), (0, 0)]


def test_without_the_database_a_wrong_password_is_the_error_that_an_unknown_user_is(identity):
    setup = Setup(identity, {"cache_all_rows": 0})
    identity.server.loop._now = 1000.0
    assert setup.call(register(credentials(setup.nonce()))) == 1
    identity.server.loop._now = 1006.0
    identity.broken = True
    for _ in range(2):
        assert setup.call(register(credentials(setup.nonce(), password="wrong"))) == -2
        assert setup.call(register(credentials(setup.nonce(), user="nobody"))) == -2
    assert setup.call(register(credentials(setup.nonce()))) == 1  # the right one is still known


def test_a_password_changed_behind_our_back_counts_at_once(identity):
    setup = Setup(identity, {"cache_all_rows": 0})
    identity.server.loop._now = 1000.0
    assert setup.call(register(credentials(setup.nonce()))) == 1
    identity.admin.execute("update credentials set ha1 = ?", (digest.ha1("alice", REALM, "new"),))
    identity.server.loop._now = 1006.0
    assert setup.call(register(credentials(setup.nonce(), password="new"))) == 1
    assert setup.call(register(credentials(setup.nonce()))) == -1


def test_without_a_realm_there_is_no_challenge_and_an_old_one_goes(identity):
    setup = Setup(identity)
    ctx = register()
    setup.call(ctx)
    assert setup.call(ctx, realm=None) == -1
    assert challenge(ctx) is None


def test_a_second_failure_replaces_the_challenge(identity):
    setup = Setup(identity)
    ctx = register()
    setup.call(ctx)
    setup.call(ctx, name="proxy_authenticate")
    assert challenge(ctx).startswith("Proxy-Authenticate: ")


@pytest.mark.parametrize("method", ["PRACK", "UPDATE", "INFO", "BYE", "NOTIFY"])
def test_everything_else_is_challenged(identity, method):
    """RFC 3261 section 22.1 names two exceptions; RFC 3262 section 3: PRACK is a request like any other."""
    assert Setup(identity).call(register(method=method)) == -1


@pytest.mark.parametrize("method", ["ACK", "CANCEL"])
def test_what_cannot_be_challenged_passes(identity, method):
    setup = Setup(identity)
    assert setup.call(register(method=method)) == 1


def test_a_quote_in_the_realm_is_escaped(identity):
    setup = Setup(identity)
    ctx = register()
    setup.call(ctx, realm='a"b')
    assert 'realm="a\\"b"' in challenge(ctx)


def test_of_several_credentials_those_for_the_realm_count(identity):
    setup = Setup(identity)
    nonce = setup.nonce()
    lines = (credentials("x", realm="other.example"), "Authorization: Basic abc", credentials(nonce))
    ctx = register(*lines)
    assert setup.call(ctx) == 1


def test_a_database_that_is_down_is_an_error_unless_the_cache_knows(identity):
    setup = Setup(identity)
    assert setup.call(register(credentials(setup.nonce()))) == 1
    identity.broken = True
    assert setup.call(register(credentials(setup.nonce()))) == 1
    ctx = register(credentials(setup.nonce(), user="bob"))
    assert setup.call(ctx) == -2
    assert challenge(ctx) is not None


def test_a_forged_nonce_never_reaches_the_database(identity):
    setup = Setup(identity)
    nonce = auth.Auth()
    nonce.init(identity.server)
    assert setup.call(register(credentials(nonce.build_nonce(register())))) == -1
    assert identity.selects == 0


# -- consuming


def test_consumed_credentials_are_the_header_that_was_authenticated(identity):
    setup = Setup(identity)
    ctx = register(credentials(setup.nonce(), realm="other.example"), credentials(setup.nonce()), method="REGISTER")
    consume = function(setup.auth, "consume_credentials")
    assert consume(ctx) == -1
    assert setup.call(ctx) == 1
    assert consume(ctx) == 1
    assert [ctx.edits.is_removed(index) for index in ctx.message.indexes("authorization")] == [False, True]
    assert consume(ctx) == -1


# -- nonces and replay


@pytest.mark.parametrize(
    ("made_at", "stale"),
    [
        pytest.param(NOW - 299, False, id="within-its-lifetime"),
        pytest.param(NOW - 300, True, id="expired"),
        pytest.param(NOW + 3, False, id="a-little-from-the-future"),
        pytest.param(NOW + 10, True, id="far-from-the-future"),
        pytest.param(1_599_999_999.0, True, id="from-long-before-the-start-of-the-server"),
    ],
)
def test_an_old_nonce_is_stale_when_the_password_is_right(identity, made_at, stale):
    setup = Setup(identity)
    nonce = setup.nonce(wall_now=made_at)
    ctx = register(credentials(nonce))
    assert setup.call(ctx) == (-1 if stale else 1)
    if stale:
        assert challenge(ctx).endswith(", stale=true\r\n")
        assert ctx.authenticated is None
        wrong = register(credentials(nonce, password="wrong"))
        assert setup.call(wrong) == -1
        assert "stale" not in challenge(wrong)


def test_every_challenge_has_a_nonce_of_its_own(identity):
    setup = Setup(identity)
    assert len({setup.nonce() for _ in range(100)}) == 100


def test_a_nonce_count_may_be_used_once(identity):
    setup = Setup(identity)
    nonce = setup.nonce()
    assert setup.call(register(credentials(nonce, nc="00000001"))) == 1
    again = register(credentials(nonce, nc="00000001"))
    assert setup.call(again) == -1
    assert "stale=true" in challenge(again)
    assert again.authenticated is None
    assert setup.call(register(credentials(nonce, nc="00000002"))) == 1


def test_counts_may_come_in_any_order_and_begin_anywhere(identity):
    setup = Setup(identity)
    nonce = setup.nonce()
    for count in ("0000002A", "00000029", "0000000b"):
        assert setup.call(register(credentials(nonce, nc=count))) == 1
    assert setup.call(register(credentials(nonce, nc="00000029"))) == -1


def test_a_nonce_without_qop_is_good_once(identity):
    setup = Setup(identity)
    nonce = setup.nonce()
    assert setup.call(register(credentials(nonce, qop=""))) == 1
    again = register(credentials(nonce, qop=""))
    assert setup.call(again) == -1
    assert "stale=true" in challenge(again)
    assert setup.call(register(credentials(nonce, nc="00000003"))) == -1


def test_neither_nonces_nor_their_uses_are_forgotten_when_the_server_restarts(tmp_path):
    nonce, lines = "", []
    for run in range(2):
        folder = tmp_path / str(run)
        folder.mkdir()
        identity = Identity(folder)
        identity.server.run_dir = str(tmp_path / "run")
        setup = Setup(identity)
        if run == 0:
            nonce = setup.nonce()
            lines = [credentials(nonce), credentials(nonce, nc="00000002")]
            assert setup.call(register(lines[0])) == 1
        else:
            assert [setup.call(register(line)) for line in lines] == [-1, 1]
    assert (tmp_path / "run/nonces").stat().st_mode & 0o777 == 0o600


def test_without_counts_a_nonce_is_good_for_its_time(identity):
    setup = Setup(identity, nonce_count=0)
    nonce = setup.nonce()
    for qop in ("auth", "auth", "", ""):
        assert setup.call(register(credentials(nonce, qop=qop))) == 1


def test_a_one_time_nonce_is_accepted_once_and_not_spent_by_a_wrong_password(identity):
    setup = Setup(identity, nonce_count=0, one_time_nonce=1)
    nonce = setup.nonce()
    assert setup.call(register(credentials(nonce, password="wrong"))) == -1
    assert setup.call(register(credentials(nonce))) == 1
    assert setup.call(register(credentials(nonce, nc="00000002"))) == -1


def test_a_wrong_password_raises_no_count(identity):
    setup = Setup(identity)
    nonce = setup.nonce()
    assert setup.call(register(credentials(nonce, nc="00ffffff", password="wrong"))) == -1
    assert setup.call(register(credentials(nonce, nc="00000001"))) == 1


def test_credentials_of_another_network_are_stale_before_the_password_is_looked_at(identity):
    setup = Setup(identity)
    nonce = setup.nonce()
    answers = []
    for password in ("wonderland", "wrong"):
        ctx = register(credentials(nonce, password=password), flow=Flow(LISTENER, "198.51.100.9", 5062))
        assert setup.call(ctx) == -1
        answers.append("stale=true" in challenge(ctx))
    assert answers == [True, True]
    assert identity.selects == 0  # no oracle, no work
    assert setup.call(register(credentials(nonce))) == 1
    ctx = register(flow=Flow(LISTENER, "198.51.100.9", 5062))
    setup.call(ctx)
    fresh = challenge(ctx).split('nonce="')[1].split('"')[0]
    assert setup.call(register(credentials(fresh), flow=Flow(LISTENER, "198.51.100.200", 9))) == 1


@pytest.mark.parametrize(
    "params", [{"nonce_network": 0}, {"trusted_networks": "203.0.113.0/24, 198.51.100.9"}], ids=["off", "balancers"]
)
def test_a_nonce_goes_everywhere_when_that_is_wanted(identity, params):
    setup = Setup(identity, **params)
    ctx = register(credentials(setup.nonce()), flow=Flow(LISTENER, "198.51.100.9", 5062))
    assert setup.call(ctx) == 1


def test_a_nonce_of_a_balancer_is_good_from_balancers_only(identity):
    setup = Setup(identity, trusted_networks="203.0.113.0/24")
    ctx = register(credentials(setup.nonce()), flow=Flow(LISTENER, "198.51.100.9", 5062))
    assert setup.call(ctx) == -1


def test_a_nonce_that_is_not_ours_is_called_stale_and_nobody_is_asked(identity):
    setup = Setup(identity)
    ctx = register(credentials("A" * 28))
    assert setup.call(ctx) == -1
    assert "stale=true" in challenge(ctx)  # nothing says that the password is wrong (RFC 7616, 3.3)
    assert identity.selects == 0


@pytest.mark.parametrize(
    ("bit", "other"),
    [
        pytest.param(auth.CHECK_URI, {"uri": "sip:example.com;x=y"}, id="request-uri"),
        pytest.param(auth.CHECK_FROM_TAG, {"from_tag": "f2"}, id="from-tag"),
        pytest.param(auth.CHECK_SOURCE, {"flow": Flow(LISTENER, "203.0.113.99", 5062)}, id="source-address"),
    ],
)
def test_extra_checks_bind_a_nonce_to_its_request(identity, bit, other):
    setup = Setup(identity, auth_checks_register=bit)
    nonce = setup.nonce()
    assert len(nonce) == 44
    ctx = register(credentials(nonce), **other)
    assert setup.call(ctx) == -1
    assert "stale=true" in challenge(ctx)
    assert setup.call(register(credentials(nonce))) == 1
    # A nonce made for a request without checks lacks the second half.
    assert setup.call(register(credentials(setup.module.build_nonce(register(method="INVITE"))))) == -1


def test_in_dialog_requests_have_checks_of_their_own(identity):
    setup = Setup(identity, auth_checks_in_dlg=auth.CHECK_SOURCE)
    outside = setup.module.build_nonce(register(method="INVITE"))
    inside = setup.module.build_nonce(register(method="INVITE", to_tag="t"))
    assert (len(outside), len(inside)) == (28, 44)


def test_two_servers_with_one_secret_accept_each_others_nonces():
    first, second, stranger = (auth.Auth() for _ in range(3))
    for module, secret in ((first, "equal"), (second, "equal"), (stranger, "other")):
        module.secret = secret
        module.init(server())
    nonce = first.build_nonce(register())
    assert second.check_nonce(register(), nonce) == auth.nonces.VALID
    assert stranger.check_nonce(register(), nonce) == auth.nonces.INVALID


def test_a_clock_that_was_set_back_costs_one_challenge(identity):
    setup = Setup(identity)
    before = setup.nonce(wall_now=NOW + 3600)
    used = register(credentials(before), wall_now=NOW + 3600)
    assert setup.call(used) == 1
    late = register(credentials(before, nc="00000002"))
    assert setup.call(late) == -1
    assert "stale=true" in challenge(late)
    assert setup.call(register(credentials(setup.nonce()))) == 1


# -- made for this request


def test_credentials_for_another_request_are_a_bad_request(identity):
    setup = Setup(identity)
    ctx = register(credentials(setup.nonce(), uri="sip:elsewhere.example"))
    assert setup.call(ctx) == -3
    assert ctx.authenticated is None
    assert identity.selects == 0


@pytest.mark.parametrize(("uri", "level", "result"), [
    ("sip:192.0.2.1:5060", 1, 1), ("sip:192.0.2.1", 2, -3), ("sip:bob@192.0.2.1", 1, -3), ("sip:192.0.2.101", 1, -3),
])  # fmt: skip
def test_a_uri_that_names_this_server_and_no_user_is_right_as_sipp_writes_it(identity, uri, level, result):
    setup = Setup(identity, check_uri=level)
    assert setup.call(register(credentials(setup.nonce(), uri=uri))) == result


def test_the_uri_is_not_compared_when_that_is_wanted(identity):
    setup = Setup(identity, check_uri=0)
    assert setup.call(register(credentials(setup.nonce(), uri="sip:elsewhere.example"))) == 1


def test_the_uri_of_to_is_right_behind_a_proxy_that_is_trusted(identity):
    setup = Setup(identity, trusted_networks="203.0.113.7")
    line = credentials(setup.nonce(), method="INVITE", uri="sip:bob@example.com", name="Proxy-Authorization")
    ctx = context(request_text(line, uri="sip:bob@192.0.2.99:5070"), wall_now=NOW)
    assert setup.call(ctx, name="proxy_authenticate") == 1


def test_credentials_without_qop_are_refused_when_it_is_required(identity):
    setup = Setup(identity, qop_required=1)
    assert setup.call(register(credentials(setup.nonce(), qop=""))) == -3
    assert setup.call(register(credentials(setup.nonce()))) == 1


# -- parameters


def test_a_realm_with_line_ends_makes_no_header_lines(identity):
    ctx = register()
    Setup(identity).call(ctx, realm="a\r\nX: y")
    assert header_lines(header_value(challenge(ctx)))[0].startswith('WWW-Authenticate: Digest realm="a  X: y", nonce=')
    assert len(header_lines(challenge(ctx))) == 1


def test_sha_256_is_offered_first_when_configured_and_accepted(identity):
    setup = Setup(identity, {"calculate_ha1": 1}, algorithm="SHA-256,MD5")
    ctx = register()
    setup.call(ctx)
    lines = challenge(ctx).split("\r\n")
    assert [line.rpartition("algorithm=")[2] for line in lines[:2]] == ["SHA-256", "MD5"]
    assert header_lines(header_value(challenge(ctx))) == lines[:2]  # as append_to_reply("%$digest_challenge") adds them
    assert setup.call(register(credentials(setup.nonce(), algorithm="SHA-256"))) == 1
    assert setup.call(register(credentials(setup.nonce(), algorithm="MD5"))) == 1
    assert setup.call(register(credentials(setup.nonce()))) == 1


@pytest.mark.parametrize(
    "params",
    [
        {"algorithm": "SHA-1"},
        {"qop": "authentic"},
        {"challenge_attr": "$x.y.z"},
        {"trusted_networks": "10.0.0.0/33"},
        {"qop": "", "qop_required": 1},
    ],
    ids=["algorithm", "qop", "attribute", "network", "required-qop"],
)
def test_a_wrong_parameter_stops_the_start(identity, params):
    with pytest.raises(ConfigError):
        identity.load(auth, **params)


# -- auth_db


@pytest.mark.parametrize(
    ("params", "user", "result"),
    [
        pytest.param({}, "alice", 1, id="stored-ha1"),
        pytest.param({}, "alice@example.com", 1, id="stored-ha1b-for-user-at-domain"),
        pytest.param({"calculate_ha1": 1}, "alice", 1, id="from-the-password"),
        pytest.param({"calculate_ha1": 1}, "alice@example.com", 1, id="from-the-password-with-the-whole-name"),
        pytest.param({"use_did": 1}, "alice", 1, id="default-did"),
    ],
)
def test_ha1_comes_from_where_the_parameters_say(identity, params, user, result):
    setup = Setup(identity, params)
    assert setup.call(register(credentials(setup.nonce(), user=user))) == result


@pytest.mark.parametrize("flags", [32, 35, 0, 3], ids=["no-load-ser", "disabled", "none", "load-ser-and-disabled"])
def test_rows_switched_off_are_not_used(identity, flags):
    setup = Setup(identity)
    setup.user("carol", "u-carol", "pw", flags=flags)
    assert setup.call(register(credentials(setup.nonce(), user="carol", password="pw"))) == -1


def test_only_the_first_row_counts_unless_all_are_wanted(identity):
    setup = Setup(identity)
    setup.user("alice", "u-second", "other")
    assert setup.call(register(credentials(setup.nonce(), password="other"))) == -1
    setup.auth_db.module.check_all_ha1 = 1
    ctx = register(credentials(setup.nonce(), password="other"))
    assert setup.call(ctx) == 1
    assert ctx.avps.newest(FROM_USER, "uid") == "u-second"


def test_use_did_selects_by_the_domain_of_the_request(identity):
    setup = Setup(identity, {"use_did": 1})
    setup.user("dave", "u-dave", "pw", did="d7")
    ctx = register(credentials(setup.nonce(), user="dave", password="pw"))
    assert setup.call(ctx) == -1
    ctx.avps.set(5, "did", "d7")  # to-domain, as lookup_domain leaves it
    assert setup.call(ctx) == 1


def test_load_credentials_names_columns_and_attributes(identity):
    setup = Setup(identity, {"load_credentials": "uid, $account=realm"})
    ctx = register(credentials(setup.nonce()))
    assert setup.call(ctx) == 1
    assert ctx.avps.newest(FROM_USER, "account") == REALM


def test_a_changed_password_counts_after_the_cache_was_bumped(identity):
    setup = Setup(identity)
    assert setup.call(register(credentials(setup.nonce()))) == 1
    identity.admin.execute("update credentials set ha1 = ?", (digest.ha1("alice", REALM, "new"),))
    assert setup.call(register(credentials(setup.nonce(), password="new"))) == -1
    identity.server.counters.bump("credentials")
    identity.server.loop.read_clocks()
    assert setup.call(register(credentials(setup.nonce(), password="new"))) == 1
