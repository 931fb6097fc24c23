"""Addresses compared with networks: ``src_ip == 10.0.0.0/8``.

Runs in: parsing in the master while loading, look-ups in the udp receiver. Locks: none.
"""

from __future__ import annotations

from typing import Final

from serpy.sip.address import pack_address

_KEPT: Final = 4096


def in_network(host: str, network: int, mask: int, size: int) -> bool:
    """True when *host* lies in network/mask of *size* bytes."""
    packed = pack_address(host)
    return len(packed) == size and (int.from_bytes(packed, "big") & mask) == network


class Networks:
    """The networks one condition compares an address with; the answer for an address is remembered."""

    def __init__(self, networks: list[tuple[int, int, int]]) -> None:
        self._networks: Final = networks
        self._known: Final[dict[str, bool]] = {}

    def holds(self, host: str) -> bool:
        """True when *host* lies in one of them."""
        known = self._known.get(host)
        if known is None:
            known = any(in_network(host, network, mask, size) for network, mask, size in self._networks)
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[host] = known
        return known


def parse_network(text: str) -> tuple[int, int, int]:
    """(network, mask, bytes) of ``ip``, ``ip/bits`` or ``ip/mask``. Raises ValueError."""
    address, slash, mask_text = text.partition("/")
    packed = pack_address(address)
    size = len(packed)
    if not size:
        raise ValueError(f"not an address: {text!r}")
    full = (1 << (8 * size)) - 1
    mask = full
    if slash and "." in mask_text:
        mask = int.from_bytes(pack_address(mask_text), "big")
    elif slash:
        if not mask_text.isascii() or not mask_text.isdigit() or int(mask_text) > 8 * size:
            raise ValueError(f"not a network mask: {text!r}; write it as 10.0.0.0/8")
        mask = full ^ (full >> int(mask_text))
    return int.from_bytes(packed, "big") & mask, mask, size
