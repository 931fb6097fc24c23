"""What the configuration says to ``auth``.

Runs in: master, while loading. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.api import Param
from serpy.modules.auth import digest_uri

_CHECK_URI_HELP: Final = (
    "uri in credentials and Request-URI: 1 same scheme, user and host (REGISTER: To's host, too), or this server and no user "
    "(SIPp), 2 equal (RFC 3261 19.1.4), 0 not compared; else 400"
)
_TRUSTED_HELP: Final = (
    "networks of load balancers and proxies in front, such as 10.0.0.0/8,2001:db8::/32: a nonce made for one of them is "
    "good from all, and To's URI is as good as the Request-URI"
)


def _positive(value: object) -> str:
    return "" if isinstance(value, int) and value > 0 else "must be at least 1"


def _entries(value: object) -> str:
    return "" if isinstance(value, int) and 64 <= value <= 1 << 24 else "must be from 64 to 16777216"


def _level(value: object) -> str:
    return "" if value in (digest_uri.OFF, digest_uri.SAME_RESOURCE, digest_uri.SAME_URI) else "must be 0, 1 or 2"


PARAMS: Final = (
    Param("secret", "str", "", "signs the nonces; random at each start when empty; equal on all farm members"),
    Param("nonce_expire", "int", 300, "lifetime of a nonce in seconds", check=_positive),
    Param("nonce_auth_max_drift", "int", 3, "seconds a nonce may come from the future (clocks of a farm)"),
    Param("qop", "str", "auth", 'qop to offer: "auth", "auth-int", both with a comma, or "" for none'),
    Param("algorithm", "str", "", 'algorithms to offer, e.g. "SHA-256,MD5"; "" = MD5 without naming it'),
    Param("auth_checks_register", "int", 0, "bind REGISTER nonces to: 1 URI, 2 Call-ID, 4 From tag, 8 source"),
    Param("auth_checks_no_dlg", "int", 0, "the same for requests outside a dialog"),
    Param("auth_checks_in_dlg", "int", 0, "the same for requests inside a dialog"),
    Param("nonce_count", "int", 1, "1 refuse a nonce count that was used before, and a nonce without one (no qop)"),
    Param("one_time_nonce", "int", 0, "1 accept each nonce once"),
    Param(
        "nonce_entries",
        "int",
        65536,
        "used nonces remembered for the two above, 16 bytes each; the power of two below it",
        check=_entries,
    ),
    Param("nonce_network", "int", 1, "1 accept a nonce only from the network it was made for (/24, /48 for IPv6)"),
    Param("qop_required", "int", 0, "1 refuse credentials without qop (400): clients of RFC 2069"),
    Param("check_uri", "int", 1, _CHECK_URI_HELP, check=_level),
    Param("trusted_networks", "str", "", _TRUSTED_HELP),
    Param("challenge_attr", "avp", "$digest_challenge", "attribute that receives the challenge"),
    Param("www_challenge_header", "str", "WWW-Authenticate", "name of the 401 challenge header"),
    Param("proxy_challenge_header", "str", "Proxy-Authenticate", "name of the 407 challenge header"),
)
