"""Nonces: one for each challenge, signed and not stored, good from the network they were made for.

``since(32) serial(32) network(16) MAC(88)`` in base64 are 28 characters; a second MAC over parts of the request follows
when the challenge is bound to them (``auth_checks_*``). The network is a keyed hash of the /24 or /48 of the source.
No instant but *since* is looked at, so nonces outlive a restart, and a clock that is set back costs each phone one
challenge. The key is equal in all processes, and in all members of a farm that share the secret.

Runs in: udp receiver. Locks: none. RFC: 7616 §3.3, §5.4.
"""

from __future__ import annotations

import binascii
import hmac
import os
from hashlib import blake2s
from struct import Struct
from typing import Final

from serpy.script.networks import Networks
from serpy.sip.address import pack_address

VALID: Final = 0
STALE: Final = 1  # ours, too old or from the future
INVALID: Final = 2  # never ours
ELSEWHERE: Final = 3  # ours, made for another network or another request

_HEAD: Final = Struct("!IIH")
_HEAD_SIZE: Final = 10
_SIGNED_SIZE: Final = 21  # with an 88-bit MAC: no padding in base64
_LENGTH: Final = 28
_BOUND_LENGTH: Final = 44  # with the 96-bit MAC over parts of the request
_WORD: Final = 0xFFFFFFFF
_KEPT: Final = 4096
_NETWORK_MAX: Final = 6  # bytes; longer is no address
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"  # an IPv4 address in an IPv6 one
ANYWHERE: Final = 0  # the network of a nonce that is not bound to one


class Nonces:
    """Makes and checks them. Times are Unix times in whole seconds; *host* is the source address."""

    def __init__(self, secret: bytes, lifetime: int, drift: int, trusted: Networks | None, *, bound: bool) -> None:
        self._lifetime: Final = lifetime
        self._drift: Final = drift
        self._trusted: Final = trusted
        self._bound: Final = bound
        # The key is as long for every message, and with it each of them is one block.
        self._signer: Final = blake2s(_key(secret, b"serpy nonce"), digest_size=_SIGNED_SIZE - _HEAD_SIZE)
        self._binder: Final = blake2s(_key(secret, b"serpy nonce checks"), digest_size=12)
        self._network_key: Final = blake2s(_key(secret, b"serpy nonce network"), digest_size=4)
        self._numbers: Final[dict[str, int]] = {}
        self._networks: Final[dict[bytes, int]] = {}
        self._slot = 0
        self._slots = 1
        self._next = int.from_bytes(os.urandom(3), "big")

    def attach(self, slot: int, slots: int) -> None:
        """Hand out serials of *slot*, of *slots*, from now on. A random start keeps a respawned child off those in use."""
        self._slot = slot
        # A power of two, as the places in ``counts`` are: so no two processes ever want the same place.
        self._slots = 1 << (slots - 1).bit_length()
        self._next = int.from_bytes(os.urandom(3), "big")

    def make(self, now: int, host: str, parts: bytes = b"") -> str:
        """A nonce for a peer at *host*, bound to *parts* of its request when there are some."""
        self._next += 1
        serial = (self._next * self._slots + self._slot) & _WORD
        head = _HEAD.pack(now & _WORD, serial, self._network(host))
        signer = self._signer.copy()
        signer.update(head)
        raw: bytes = head + signer.digest()
        if parts:
            raw += self._binding(head, parts)
        return binascii.b2a_base64(raw, newline=False).decode("ascii")

    def check(self, text: str, now: int, host: str, parts: bytes = b"") -> tuple[int, int, int]:
        """(verdict, since, serial) of the nonce *text* that came from *host*; the last two count unless INVALID."""
        size = len(text)
        if size != _LENGTH and size != _BOUND_LENGTH:  # noqa: PLR1714 - two compares beat a set
            return INVALID, 0, 0
        try:
            raw = binascii.a2b_base64(text)
        except ValueError:  # also for text that is not ASCII
            return INVALID, 0, 0
        if len(raw) * 4 != size * 3:  # characters that were skipped
            return INVALID, 0, 0
        head = raw[:_HEAD_SIZE]
        signer = self._signer.copy()
        signer.update(head)
        if not hmac.compare_digest(signer.digest(), raw[_HEAD_SIZE:_SIGNED_SIZE]):
            return INVALID, 0, 0
        fields: tuple[int, int, int] = _HEAD.unpack(head)
        since, serial, network = fields
        if network != self._network(host) and self._bound:
            return ELSEWHERE, since, serial
        if parts and not hmac.compare_digest(self._binding(head, parts), raw[_SIGNED_SIZE:]):
            return ELSEWHERE, since, serial
        if since > now + self._drift or now >= since + self._lifetime:
            return STALE, since, serial
        return VALID, since, serial

    def latest(self, now: int) -> int:
        """When the youngest nonce that is good at *now* may have been made."""
        return now + self._drift

    def is_trusted(self, host: str) -> bool:
        """True for a proxy or load balancer whose requests come from phones elsewhere."""
        return self._trusted is not None and self._trusted.holds(host)

    def _binding(self, head: bytes, parts: bytes) -> bytes:
        binder = self._binder.copy()
        binder.update(head)
        binder.update(parts)
        return binder.digest()

    def _network(self, host: str) -> int:
        number = self._numbers.get(host)
        if number is None:
            if len(self._numbers) >= _KEPT:
                self._numbers.clear()
            number = self._numbers[host] = self._number(host)
        return number

    def _number(self, host: str) -> int:
        if not self._bound or self.is_trusted(host):
            return ANYWHERE
        network = network_of(host)
        number = self._networks.get(network)
        if number is None:
            hashed = self._network_key.copy()
            hashed.update(network)
            number = 1 + int.from_bytes(hashed.digest(), "big") % 0xFFFF
            if len(self._networks) >= _KEPT:
                self._networks.clear()
            if len(network) <= _NETWORK_MAX:
                self._networks[network] = number
        return number


def network_of(host: str) -> bytes:
    """The bytes that all addresses of the /24 (IPv4) or /48 (IPv6) of *host* begin with."""
    packed = pack_address(host)
    if packed[:12] == _MAPPED:
        packed = packed[12:]
    if len(packed) == 4:
        return packed[:3]
    return packed[:6] or host.encode("utf-8", "surrogateescape")


def _key(secret: bytes, purpose: bytes) -> bytes:
    return hmac.digest(secret, purpose, "sha256")
