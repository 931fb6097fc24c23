"""The auth module over a real credentials table, and requests with credentials made as a phone makes them."""

from __future__ import annotations

from support.contexts import FLOW, context, function, request_text

from serpy.context.avps import FROM_URI
from serpy.modules import auth, auth_db
from serpy.sip import digest

NOW = 1_700_000_000.0
REALM = "example.com"


class Setup:
    def __init__(self, identity, credentials=None, **params):
        self.identity = identity
        self.auth = identity.load(auth, **{"secret": "s3cret", **params})
        self.auth_db = identity.load(auth_db, **(credentials or {}))
        self.module = self.auth.module
        self.user("alice", "u-alice", "wonderland")
        identity.start()

    def user(self, name, uid, password, *, realm=REALM, flags=33, did="_default", ha1=None):
        self.identity.insert(
            "credentials", auth_username=name, did=did, realm=realm, password=password, flags=flags, uid=uid,
            ha1=digest.ha1(name, realm, password) if ha1 is None else ha1,
            ha1b=digest.ha1(f"{name}@{realm}", realm, password),
        )  # fmt: skip

    def call(self, ctx, name="www_authenticate", realm=REALM):
        return function(self.auth, name)(ctx, realm, "credentials")

    def nonce(self, **more):
        return self.module.build_nonce(register(**more))


def register(*headers, method="REGISTER", wall_now=NOW, flow=FLOW, uri="sip:example.com", **more):
    return context(request_text(*headers, method=method, uri=uri, **more), wall_now=wall_now, flow=flow)


def credentials(nonce, *, user="alice", password="wonderland", realm=REALM, qop="auth", nc="00000001", method="REGISTER",
                uri="sip:example.com", name="Authorization", algorithm="", **fields):  # fmt: skip
    kind = digest.known_algorithm(algorithm)
    response = digest.response(
        digest.ha1(user, realm, password, kind), nonce, method, uri, qop, nc if qop else "", "cn" if qop else "",
        algorithm=kind,
    )  # fmt: skip
    parts = {"username": f'"{user}"', "realm": f'"{realm}"', "nonce": f'"{nonce}"', "uri": f'"{uri}"',
             "response": f'"{response}"'}  # fmt: skip
    if qop:
        parts |= {"qop": qop, "nc": nc, "cnonce": '"cn"'}
    if algorithm:
        parts["algorithm"] = algorithm
    parts |= fields
    return f"{name}: Digest " + ", ".join(f"{key}={value}" for key, value in parts.items())


def challenge(ctx):
    found = ctx.avps.get(FROM_URI, "digest_challenge")
    assert len(found) <= 1
    return found[0].value if found else None
