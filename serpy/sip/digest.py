"""The arithmetic of digest authentication: pure functions from texts to hexadecimal digests.

Making and checking nonces is the auth module's part.

Runs in: every process. Locks: none. RFC: 7616 §3.4, 8760; 2069 for clients without qop.
"""

from __future__ import annotations

import hashlib
from hmac import compare_digest
from typing import Final

from serpy.sip.abnf import ascii_lower

try:  # OpenSSL takes three times as long for texts as short as ours
    import _md5  # type: ignore[import-not-found]
except ImportError:  # a Python that was built without
    import hashlib as _md5

MD5: Final = "MD5"
SHA256: Final = "SHA-256"

_KNOWN: Final = {"": MD5, "MD5": MD5, "MD5-SESS": MD5, "SHA-256": SHA256, "SHA-256-SESS": SHA256}


def known_algorithm(algorithm: str) -> str:
    """The hash of the algorithm parameter *algorithm* ("" is MD5), "" when we do not know it."""
    found = _KNOWN.get(algorithm)
    if found is not None:
        return found
    return _KNOWN.get(algorithm.upper() if algorithm.isascii() else algorithm, "")


def digest(text: str, algorithm: str = MD5) -> str:
    """H(*text*) in lower-case hexadecimal digits; *algorithm* is MD5 or SHA256."""
    data = text.encode("utf-8", "surrogateescape")
    if algorithm == SHA256:
        return hashlib.sha256(data).hexdigest()
    digits: str = _md5.md5(data, usedforsecurity=False).hexdigest()
    return digits


def ha1(user: str, realm: str, password: str, algorithm: str = MD5) -> str:
    """H(user:realm:password): what a credentials table stores."""
    return digest(f"{user}:{realm}:{password}", algorithm)


def ha1_session(stored: str, nonce: str, cnonce: str, algorithm: str = MD5) -> str:
    """The HA1 of the -sess algorithms, from the *stored* one (RFC 7616 §3.4.2)."""
    return digest(f"{stored}:{nonce}:{cnonce}", algorithm)


def ha2(method: str, uri: str, qop: str = "", body: bytes = b"", algorithm: str = MD5) -> str:
    """H(method:uri), with the hash of *body* for qop "auth-int"."""
    if ascii_lower(qop) == "auth-int":
        hashed = hashlib.sha256(body) if algorithm == SHA256 else hashlib.md5(body, usedforsecurity=False)
        return digest(f"{method}:{uri}:{hashed.hexdigest()}", algorithm)
    return digest(f"{method}:{uri}", algorithm)


def response(
    ha1: str, nonce: str, method: str, uri: str, qop: str = "", nc: str = "", cnonce: str = "", *,
    algorithm: str = MD5, body: bytes = b"",
) -> str:  # fmt: skip
    """The response a client that knows *ha1* has to send; *qop* "" is the form of RFC 2069."""
    second = ha2(method, uri, qop, body, algorithm)
    if qop:
        return digest(f"{ha1}:{nonce}:{nc}:{cnonce}:{qop}:{second}", algorithm)
    return digest(f"{ha1}:{nonce}:{second}", algorithm)


def same(left: str, right: str) -> bool:
    """True when the two digests are equal, in any case; takes the same time wherever they differ."""
    if not (left.isascii() and right.isascii()):
        return False  # no digest at all
    return compare_digest(left.lower(), right.lower())
