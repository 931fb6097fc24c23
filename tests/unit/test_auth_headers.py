"""Authorization headers, odd and hostile ones: what becomes of each by the RFCs.

200: taken. 401: challenged again, "stale" when the user need not be asked. 400: no challenge would help.
"""

import pytest
from support.contexts import LISTENER, context, request_text
from support.credentials import NOW, REALM, Setup, challenge, credentials
from support.identity import Identity

from serpy.api import Flow
from serpy.context.authenticated import WRONG_PASSWORD
from serpy.sip import digest

STATUS = {1: 200, -1: 401, -3: 400, -2: 500}
BODY = "v=0\r\n"


class Phone:
    """Makes header lines for a nonce it was given."""

    def __init__(self, setup):
        self.setup = setup
        self.nonce = setup.nonce()

    def line(self, change=None, **fields):
        """The usual line, then *change*d: a function of the list of its (name, value) pairs, or of the text."""
        return credentials(fields.pop("nonce", self.nonce), **fields) if change is None else change(self.line(**fields))


@pytest.fixture
def phone(tmp_path):
    setup = Setup(Identity(tmp_path))
    for name in ("jörg", "o'hara", "white space", "a,b=c", 'quo"te', "%61lice", "x" * 300):
        setup.user(name, f"u-{len(name)}", "wonderland")
    return Phone(setup)


def judged(phone, *lines, flow=None, body="", wall_now=NOW):
    more = {} if flow is None else {"flow": flow}
    ctx = context(request_text(*lines, method="REGISTER", uri="sip:example.com", body=body), wall_now=wall_now, **more)
    status = STATUS[phone.setup.call(ctx)]
    if status == 200:
        assert challenge(ctx) is None
        assert ctx.authenticated.username
        return 200
    assert ctx.authenticated is None
    assert challenge(ctx).startswith(f'WWW-Authenticate: Digest realm="{REALM}", nonce="')
    return f"{status} stale" if "stale=true" in challenge(ctx) else status


def replaced(old, new):
    return lambda line: line.replace(old, new)


def without(name):
    return lambda line: "Digest ".join(
        [
            line.partition("Digest ")[0],
            ", ".join(part for part in line.partition("Digest ")[2].split(", ") if part.split("=")[0] != name),
        ]
    )


def added(text):
    return lambda line: line + text


def upside_down(line):
    head, _, rest = line.partition("Digest ")
    return head + "Digest " + ", ".join(reversed(rest.split(", ")))


def capitals(line):
    head, _, rest = line.partition("Digest ")
    parts = [part.split("=", 1) for part in rest.split(", ")]
    return head + "DIGEST " + ", ".join(f"{name.upper()}={value}" for name, value in parts)


def spaced(line):
    head, _, rest = line.partition("Digest ")
    parts = [part.split("=", 1) for part in rest.split(", ")]
    return f"{head}Digest \t" + "\t , ".join(f"{name} = {value}" for name, value in parts) + " \t"


def shouted_response(line):
    before, middle, after = line.partition('response="')
    return before + middle + after[:32].upper() + after[32:]


def session(phone):
    """MD5-sess: HA1 is hashed once more with both nonces (RFC 7616, 3.4.2)."""
    ha1 = digest.ha1_session(digest.ha1("alice", REALM, "wonderland"), phone.nonce, "cn")
    answer = digest.response(ha1, phone.nonce, "REGISTER", "sip:example.com", "auth", "00000001", "cn")
    return phone.line(algorithm="MD5-sess", response=f'"{answer}"')


def whole_body(phone):
    answer = digest.response(
        digest.ha1("alice", REALM, "wonderland"), phone.nonce, "REGISTER", "sip:example.com", "auth-int", "00000001", "cn",
        body=BODY.encode(),
    )  # fmt: skip
    return phone.line(response=f'"{answer}"').replace("qop=auth", "qop=auth-int")


def shouted_qop(phone):
    answer = digest.response(
        digest.ha1("alice", REALM, "wonderland"), phone.nonce, "REGISTER", "sip:example.com", "AUTH", "00000001", "cn"
    )
    return phone.line(response=f'"{answer}"').replace("qop=auth", "qop=AUTH")


def old_with_cnonce(phone):
    return phone.line(qop="") + ', nc=00000001, cnonce="cn"'


def long_cnonce(phone):
    long = "c" * 4000
    answer = digest.response(
        digest.ha1("alice", REALM, "wonderland"), phone.nonce, "REGISTER", "sip:example.com", "auth", "00000001", long
    )
    return phone.line(response=f'"{answer}"', cnonce=f'"{long}"')


TAKEN = [
    ("the-usual-one", lambda phone: phone.line()),
    ("names-in-capitals", lambda phone: phone.line(capitals)),
    ("spaces-and-tabs-around-everything", lambda phone: phone.line(spaced)),
    ("folded", lambda phone: phone.line(replaced(", ", ",\r\n "))),
    ("another-order", lambda phone: phone.line(upside_down)),
    ("no-spaces", lambda phone: phone.line(replaced(", ", ","))),
    ("qop-quoted", lambda phone: phone.line(replaced("qop=auth", 'qop="auth"'))),
    ("qop-in-capitals-hashed-as-sent", shouted_qop),
    ("nc-quoted", lambda phone: phone.line(replaced("nc=00000001", 'nc="00000001"'))),
    ("nc-in-capitals", lambda phone: phone.line(nc="0000000A")),
    ("nc-that-begins-high", lambda phone: phone.line(nc="fffffffe")),
    ("algorithm-named", lambda phone: phone.line(algorithm="MD5")),
    ("algorithm-quoted", lambda phone: phone.line(added(', algorithm="MD5"'))),
    ("algorithm-in-small-letters", lambda phone: phone.line(added(", algorithm=md5"))),
    ("algorithm-empty", lambda phone: phone.line(added(", algorithm="))),
    ("md5-sess", session),
    ("rfc-2069", lambda phone: phone.line(qop="")),
    ("rfc-2069-with-cnonce-and-nc", old_with_cnonce),
    ("qop-empty-is-none", lambda phone: phone.line(added(', qop=""'), qop="")),
    ("response-in-capitals", lambda phone: phone.line(shouted_response)),
    ("unknown-parameters", lambda phone: phone.line(added(', x-vendor=1, other="a"'))),
    ("opaque-that-we-never-sent", lambda phone: phone.line(added(', opaque=""'))),
    ("comma-quote-and-equals-inside-quotes", lambda phone: phone.line(added(r', opaque="a,b=\"c\",realm=\"x\""'))),
    ("empty-elements-of-the-list", lambda phone: phone.line(added(" , ,"))),
    ("quoted-pair-that-needs-none", lambda phone: phone.line(replaced('"alice"', r'"\al\ice"'))),
    ("quote-in-the-user-name", lambda phone: phone.line(replaced('"quo"te"', r'"quo\"te"'), user='quo"te')),
    ("user-name-that-is-no-ascii", lambda phone: phone.line(user="jörg")),
    ("user-name-with-a-comma", lambda phone: phone.line(user="a,b=c")),
    ("user-name-with-an-escape-is-no-uri", lambda phone: phone.line(user="%61lice")),
    ("user-name-of-300-characters", lambda phone: phone.line(user="x" * 300)),
    ("user-with-domain", lambda phone: phone.line(user=f"alice@{REALM}")),
    ("user-name-without-quotes", lambda phone: phone.line(replaced('"alice"', "alice"))),
    ("uri-without-quotes", lambda phone: phone.line(replaced('"sip:example.com"', "sip:example.com"))),
    ("uri-in-another-spelling", lambda phone: phone.line(uri="sip:EXAMPLE.com:5060;transport=udp")),
    ("huge-and-legal", lambda phone: phone.line(added(', opaque="' + "o" * 8000 + '"'))),
    ("cnonce-of-4000-characters", long_cnonce),
]  # fmt: skip


CHALLENGED = [
    ("wrong-password", lambda phone: phone.line(password="wrong")),
    ("empty-password", lambda phone: phone.line(password="")),
    ("unknown-user", lambda phone: phone.line(user="nobody")),
    ("user-in-capitals", lambda phone: phone.line(user="ALICE")),
    ("user-empty", lambda phone: phone.line(user="")),
    ("user-of-bytes-that-are-no-text", lambda phone: phone.line(user="\udcff\udcfe")),
    ("user-that-is-sql", lambda phone: phone.line(user="' or 1=1 --")),
    ("user-hashed", lambda phone: phone.line(added(", userhash=true"), user=digest.digest(f"alice:{REALM}"))),
    ("user-in-another-domain", lambda phone: phone.line(user="alice@elsewhere.example")),
    ("realm-in-capitals", lambda phone: phone.line(realm="EXAMPLE.COM")),
    ("realm-empty", lambda phone: phone.line(realm="")),
    ("realm-of-another", lambda phone: phone.line(realm="elsewhere.example")),
    ("response-empty", lambda phone: phone.line(response='""')),
    ("response-short", lambda phone: phone.line(response='"0"')),
    ("response-that-is-no-hex", lambda phone: phone.line(response='"' + "ü" * 32 + '"')),
    ("hashed-with-another-method", lambda phone: phone.line(method="INVITE")),
    ("algorithm-unknown", lambda phone: phone.line(added(", algorithm=SHA-512-256"))),
    ("algorithm-not-offered", lambda phone: phone.line(algorithm="SHA-256")),
    ("algorithm-that-is-a-list", lambda phone: phone.line(added(', algorithm="MD5,SHA-256"'))),
    ("auth-int-that-was-not-offered", whole_body),
    ("auth-int-of-another-body", lambda phone: phone.line(replaced("qop=auth", "qop=auth-int"))),
    ("basic", lambda _phone: "Authorization: Basic YWxpY2U6d29uZGVybGFuZA=="),
    ("bearer", lambda _phone: "Authorization: Bearer abc.def.ghi"),
    ("negotiate-without-anything", lambda _phone: "Authorization: Negotiate"),
    ("for-a-proxy", lambda phone: phone.line(name="Proxy-Authorization")),
]  # fmt: skip

STALE = [
    ("nonce-of-nobody", lambda phone: phone.line(nonce="A" * 28)),
    ("nonce-empty", lambda phone: phone.line(nonce="")),
    ("nonce-too-long", lambda phone: phone.line(nonce="A" * 4000)),
    ("nonce-of-the-release-before", lambda phone: phone.line(nonce="ZcgVYGXIFjRBQUFBQUFBQUFBQUFBQUFB")),
    ("nonce-with-a-tail", lambda phone: phone.line(nonce=phone.nonce + "A")),
    ("nonce-in-capitals", lambda phone: phone.line(nonce=phone.nonce.swapcase())),
    ("nonce-that-is-no-ascii", lambda phone: phone.line(nonce="ü" * 28)),
    ("nonce-too-old", lambda phone: phone.line(nonce=phone.setup.nonce(wall_now=NOW - 300))),
    ("nonce-of-another-network", lambda phone: phone.line(nonce=elsewhere(phone))),
]  # fmt: skip


def elsewhere(phone):
    return phone.setup.nonce(flow=Flow(LISTENER, "198.51.100.9", 5060))


REFUSED = [
    *(
        (f"{name}-missing", lambda phone, name=name: phone.line(without(name)))
        for name in ("username", "realm", "nonce", "uri", "response", "nc", "cnonce")
    ),
    *(
        (f"{name}-twice", lambda phone, name=name: phone.line(added(f', {name}="x"')))
        for name in ("username", "realm", "nonce", "uri", "response", "qop")
    ),
    ("name-twice-in-another-case", lambda phone: phone.line(added(', UserName="bob"'))),
    ("unknown-parameter-twice", lambda phone: phone.line(added(", x=1, x=2"))),
    ("quote-that-does-not-end", lambda phone: phone.line(added(', opaque="x'))),
    ("backslash-at-the-end", lambda phone: phone.line(added(', opaque="x\\'))),
    ("something-behind-a-quoted-string", lambda phone: phone.line(replaced('"alice"', '"alice"x'))),
    ("parameter-without-a-value", lambda phone: phone.line(added(", stale"))),
    ("parameter-without-a-name", lambda phone: phone.line(added(', ="x"'))),
    ("name-that-is-no-token", lambda phone: phone.line(added(", a b=c"))),
    ("semicolons-instead-of-commas", lambda phone: phone.line(replaced(", ", "; "))),
    ("two-credentials-in-one-line", lambda phone: phone.line() + ", " + phone.line().partition(": ")[2]),
    ("nothing-but-the-scheme", lambda _phone: "Authorization: Digest"),
    ("nothing-but-commas", lambda _phone: "Authorization: Digest ,,,"),
    ("nothing-at-all", lambda _phone: "Authorization: "),
    ("scheme-that-is-no-token", lambda _phone: 'Authorization: "Digest" username="alice"'),
    ("nc-zero", lambda phone: phone.line(nc="00000000")),
    ("nc-short", lambda phone: phone.line(nc="1")),
    ("nc-long", lambda phone: phone.line(nc="000000001")),
    ("nc-that-is-no-hex", lambda phone: phone.line(nc="0000000g")),
    ("nc-with-a-sign", lambda phone: phone.line(nc="+0000001")),
    ("nc-of-other-digits", lambda phone: phone.line(nc="0000000\u0661")),
    ("cnonce-empty", lambda phone: phone.line(cnonce='""')),
    ("qop-unknown", lambda phone: phone.line(qop="auth-conf")),
    ("qop-that-is-a-list", lambda phone: phone.line(replaced("qop=auth", 'qop="auth,auth-int"'))),
    ("username-of-rfc-5987-alone", lambda phone: phone.line(replaced('username="alice"', "username*=UTF-8''alice"))),
    ("uri-of-another-resource", lambda phone: phone.line(uri="sip:bob@example.com")),
    ("uri-of-another-host", lambda phone: phone.line(uri="sip:elsewhere.example")),
    ("uri-empty", lambda phone: phone.line(uri="")),
    ("uri-of-the-web", lambda phone: phone.line(uri="http://example.com/")),
    ("uri-star", lambda phone: phone.line(uri="*")),
    ("hundreds-of-parameters", lambda phone: phone.line(added("".join(f", x{n}=1" for n in range(300))))),
]  # fmt: skip

ROWS = (
    [pytest.param(make, 200, id=name) for name, make in TAKEN]
    + [pytest.param(make, 401, id=name) for name, make in CHALLENGED]
    + [pytest.param(make, "401 stale", id=name) for name, make in STALE]
    + [pytest.param(make, 400, id=name) for name, make in REFUSED]
)


@pytest.mark.parametrize(("make", "expected"), ROWS)
def test_what_becomes_of_a_header(phone, make, expected):
    assert judged(phone, make(phone), body=BODY) == expected


SEVERAL = [
    ("another-realm-first", lambda phone: [phone.line(realm="elsewhere.example"), phone.line()], 200),
    ("another-scheme-first", lambda phone: ["Authorization: Basic abc", phone.line()], 200),
    ("another-algorithm-first", lambda phone: [phone.line(algorithm="SHA-256"), phone.line()], 200),
    ("an-unreadable-one-first", lambda phone: ["Authorization: Digest x", phone.line()], 200),
    ("an-unreadable-one-beside-another-realm", lambda phone: ["Authorization: Digest x", phone.line(realm="x")], 400),
    ("the-first-of-two-for-one-realm-counts", lambda phone: [phone.line(password="wrong"), phone.line()], 401),
    ("forty-guesses-are-one", lambda phone: [*(phone.line(password=f"p{n}") for n in range(40)), phone.line()], 401),
    ("one-for-each-kind", lambda phone: [phone.line(name="Proxy-Authorization"), phone.line()], 200),
    ("a-compact-or-odd-name", lambda phone: [phone.line().replace("Authorization", "AUTHORIZATION  ")], 200),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected"), [pytest.param(make, expected, id=name) for name, make, expected in SEVERAL]
)
def test_what_becomes_of_several_headers(phone, make, expected):
    assert judged(phone, *make(phone)) == expected


def test_forty_guesses_in_one_request_are_looked_at_once(phone):
    told = []
    phone.setup.identity.server.hooks.on_credentials.append(lambda _ctx, who, outcome: told.append((who, outcome)))
    judged(phone, *(phone.line(password=f"p{n}") for n in range(40)))
    assert told == [(f"alice@{REALM}", WRONG_PASSWORD)]


@pytest.mark.parametrize("make", [make for name, make in TAKEN], ids=[name for name, _ in TAKEN])
def test_what_was_taken_is_not_taken_again(phone, make):
    line = make(phone)
    assert judged(phone, line, body=BODY) == 200
    assert judged(phone, line, body=BODY) == "401 stale"


@pytest.mark.parametrize("qop", ["auth-int", "AUTH-INT", "Auth-Int"])
@pytest.mark.parametrize("offer", ["auth-int", "auth,auth-int", "auth, auth-int"])
def test_what_protects_the_body_is_checked_over_the_body_however_it_is_written(tmp_path, qop, offer):
    """RFC 7616 section 3.4.3."""
    setup = Setup(Identity(tmp_path), qop=offer)
    phone = Phone(setup)

    def line(body):
        second = digest.digest(
            f"REGISTER:sip:example.com:{digest.digest(body)}" if body is not None else "REGISTER:sip:example.com"
        )
        first = digest.ha1("alice", REALM, "wonderland")
        answer = digest.digest(f"{first}:{phone.nonce}:00000001:cn:{qop}:{second}")
        return phone.line(response=f'"{answer}"').replace("qop=auth", f"qop={qop}")

    for body in (None, "", "v=1\r\n"):
        assert judged(phone, line(body), body=BODY) == 401
    assert judged(phone, line(BODY), body=BODY) == 200


def test_what_was_not_offered_is_no_answer_to_the_challenge(tmp_path):
    setup = Setup(Identity(tmp_path), qop="auth-int")
    assert judged(Phone(setup), Phone(setup).line(), body=BODY) == 401
