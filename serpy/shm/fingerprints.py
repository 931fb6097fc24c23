"""Texts of peers as numbers of 61 bits that nobody outside can aim at: what a record of a call compares.

The number of a text is its bytes, read as one big number, modulo a secret prime: two texts of n bytes that somebody has
chosen without knowing the prime are equal with a chance below n/2^55 (division hashing). It costs a tenth of a keyed
BLAKE2, and is the same in every process, after a restart, and on every member of a farm with the same secret. A number
must never be shown to a peer: some would betray the prime.

Runs in: every process. Locks: none. RFC: 3261 §19.1.4 for what of a URI is compared.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from serpy.errors import ParseError
from serpy.sip.abnf import ascii_lower
from serpy.sip.address import default_port
from serpy.sip.host import normal_host
from serpy.sip.uri import Uri, parse_uri, unescape

NONE: Final = 0  # no number is 0
SHORT: Final = (1 << 30) - 1  # mask of the short numbers, two of which share a word
_BITS: Final = 61
_ALL: Final = (1 << _BITS) - 1
_WITNESSES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # enough for every number below 2^64
_KEPT: Final = 4096
_KEPT_LENGTH: Final = 256


class Fingerprints:
    """The numbers that belong to one *secret*."""

    def __init__(self, secret: bytes) -> None:
        self.prime: Final = secret_prime(secret)
        self._factor: Final = int.from_bytes(blake2b(b"factor", digest_size=8, key=secret[:64]).digest(), "big") | 1
        self._tags: Final[dict[str, int]] = {}
        self._targets: Final[dict[str, int]] = {}
        self._endpoints: Final[dict[str, int]] = {}

    def of(self, text: str) -> int:
        """The number of *text*, never 0."""
        data = text.encode("ascii") if text.isascii() else text.encode("utf-8", "surrogateescape")
        return int.from_bytes(b"\1" + data, "big") % self.prime or 1

    def tag(self, text: str) -> int:
        """The same for a text that comes with every message of a call."""
        found = self._tags.get(text)
        if found is None:
            found = self.of(text)
            if len(text) <= _KEPT_LENGTH:
                if len(self._tags) >= _KEPT:
                    self._tags.clear()
                self._tags[text] = found
        return found

    def short(self, number: int) -> int:
        """*number* in 30 bits, never 0. Its own low bits would not do: texts that differ at their beginning share them."""
        return (number * self._factor & _ALL) >> (_BITS - 30) or 1

    def target(self, uri_text: str) -> int:
        """The number of where a URI leads: user (unescaped), host, port and maddr; NONE when it cannot be parsed."""
        found = self._targets.get(uri_text)
        if found is None:
            try:
                found = self._target(parse_uri(uri_text))
            except ParseError:
                found = NONE
            if len(uri_text) <= _KEPT_LENGTH:
                if len(self._targets) >= _KEPT:
                    self._targets.clear()
                self._targets[uri_text] = found
        return found

    def _target(self, uri: Uri) -> int:
        if not uri.is_sip:
            return self.of(uri.text)
        # maddr is where the request is sent, so it may not be ignored as other parameters are.
        maddr = uri.param("maddr") or ""
        return self.of(f"{unescape(uri.user)}@{_host(uri.host)}:{_port(uri)}{';' if maddr else ''}{maddr}")

    def endpoint_of(self, uri: Uri) -> int:
        """The short number of the host and port that a request to *uri* is sent to, NONE for none."""
        host = uri.param("maddr") or uri.host
        return self.endpoint(host, _port(uri)) if host else NONE

    def endpoint(self, host: str, port: int) -> int:
        """The short number of an address and port, or a name and port."""
        text = f"{host}:{port}"
        found = self._endpoints.get(text)
        if found is None:
            found = self.short(self.of(f"{_host(host)}:{port}"))
            if len(text) <= _KEPT_LENGTH:
                if len(self._endpoints) >= _KEPT:
                    self._endpoints.clear()
                self._endpoints[text] = found
        return found

    def host(self, host: str) -> int:
        """The short number of a host."""
        return self.endpoint(host, 0)


def _host(host: str) -> str:
    return normal_host(host) or ascii_lower(host)


def _port(uri: Uri) -> int:
    if uri.port:
        return uri.port
    return 5061 if uri.scheme == "sips" else default_port(uri.transport or "udp")


def secret_prime(secret: bytes) -> int:
    """The prime of 61 bits that belongs to *secret*."""
    counter = 0
    while True:
        digest = blake2b(b"fingerprints %d" % counter, digest_size=8, key=secret[:64]).digest()
        number = int.from_bytes(digest, "big") >> (64 - _BITS) | 1 << (_BITS - 1) | 1
        if is_prime(number):
            return number
        counter += 1


def is_prime(number: int) -> bool:
    """True for an odd prime below 2^64 (Miller and Rabin)."""
    if number < 41:
        return number in {3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37}
    odd = number - 1
    twos = 0
    while odd % 2 == 0:
        odd //= 2
        twos += 1
    return all(_is_no_witness(witness, odd, twos, number) for witness in _WITNESSES)


def _is_no_witness(witness: int, odd: int, twos: int, number: int) -> bool:
    value = pow(witness, odd, number)
    if value in {1, number - 1}:
        return True
    for _ in range(twos - 1):
        value = value * value % number
        if value == number - 1:
            return True
    return False
