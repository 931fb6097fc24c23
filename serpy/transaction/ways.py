"""Our branch parameters, with the way back sealed in them: who answers needs no transaction to find it, nobody forges it.

``z9hG4bK`` sign ``n`` start number ``.`` loop ``.`` index ``.`` way mac: in lower case, some 90 characters.
*Sign* is this server's, *start* this process's; ``s`` and a hash that follows from the request alone (RFC 3261 §16.11)
stand for ``n``, start and number where a request is forwarded without a transaction. *Way* is where its answers go: our
listener, time and port in one number, address (``_`` for dots and colons), connection, with ``-`` in between. *Mac* is a keyed hash of the way and the Call-ID; its key comes from a
secret that outlives processes and restarts and is the same in a farm, so a call that rings meanwhile gets its answer.

Runs in: udp receiver. Locks: none. RFC: 3261 §8.1.1.7, §16.6 item 8, §16.11.
"""

from __future__ import annotations

import ipaddress
from hashlib import blake2b, blake2s
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from serpy.sip.address import pack_address
from serpy.sip.flow import SEEN, Flow, Listener
from serpy.sip.message import Request
from serpy.transaction.matching import MAGIC, loop_value, stateless_value

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT: Final = 8192  # seals remembered, twice: those of the last minutes on a busy server, some 5 MB at most
CALL_ID_KEPT: Final = 128  # characters; longer ones would make the memory as large as strangers like
UNIT_BITS: Final = 7  # of the time in a way: units of 128 s
UNIT_S: Final = 128.0
# Without a transaction each repetition and the CANCEL must get the same branch, so the time in it hardly ever moves.
STEADY: Final = ~1023  # units: 36 hours
STEADY_S: Final = 2 * 1024 * UNIT_S
NO_WAY: Final = "0"  # in place of way and mac: there is no way to write that address

_SIGN: Final = 8
_MAC: Final = 16
# The number in a way: listener, units, port.
_LISTENER_AT: Final = 42
_UNITS_AT: Final = 16
_UNITS: Final = (1 << _LISTENER_AT - _UNITS_AT) - 1
_PORT: Final = 0xFFFF
_HEAD: Final = len(MAGIC) + _SIGN
_START: Final = 8
_BOOT: Final = 4


class Kept:
    """The sealed way of one caller and Call-ID."""

    def __init__(self, flow: Flow, units: int, text: str) -> None:
        self.host: Final = flow.host
        self.port: Final = flow.port
        self.listener: Final = flow.listener
        self.connection: Final = flow.connection
        self.units: Final = units
        self.text: Final = text


class Sealed:
    """What a branch of ours says, once its seal has been found right. *start* is "" for a stateless one."""

    def __init__(self, start: str, since: float, flow: Flow) -> None:
        self.start: Final = start
        self.since: Final = since  # Unix time, rounded down
        self.flow: Final = flow


class Ways:
    """Makes the branch parameters of one process and reads those of this server.

    *secret* and *name* are the same in all its processes and after a restart; *name* is another in each member of a farm.
    *start* (8 characters) tells this process from its predecessor, *boot* (4) this start of the server from the one before:
    connection ids mean something until the server ends.
    """

    def __init__(self, secret: bytes, name: str, start: str, boot: str, listeners: Sequence[Listener]) -> None:
        key = blake2s(secret, person=b"branch").digest()
        self._hash: Final = blake2b(key=key, digest_size=_MAC // 2)
        self._hash.update(b"w")  # behind the key, which is one block: that has been hashed, and not once for each copy
        self._listeners: Final = listeners
        self.sign: Final = blake2s(name.encode(), key=key, digest_size=_SIGN // 2, person=b"sign").hexdigest()
        self.start: Final = start
        self._boot: Final = boot
        self._ours: Final = MAGIC + self.sign
        self._stateful: Final = f"{MAGIC}{self.sign}n{start}"
        self._kept: dict[str, Kept] = {}  # by Call-ID: the way of its last request
        self._kept_before: dict[str, Kept] = {}

    # --- out

    def branch(self, number: int, loop: int, index: int, flow: Flow, call_id: str, at: float) -> str:
        """The parameter of branch *index* of transaction *number*, whose answers go to *flow*; *at* is Unix time."""
        units = int(at) >> UNIT_BITS
        return f"{self._stateful}{number}.{loop}.{index}.{self.seal(flow, call_id, units)}"

    def stateless_branch(self, request: Request, flow: Flow, at: float) -> str:
        """The same for a forward without a transaction: one for each repetition, and for CANCEL and its request."""
        # Nobody answers an ACK.
        seal = NO_WAY if request.method == "ACK" else self.seal(flow, request.call_id, (int(at) >> UNIT_BITS) & STEADY)
        return f"{self._ours}s{stateless_value(request)}.{loop_value(request)}.0.{seal}"

    def seal(self, flow: Flow, call_id: str, units: int) -> str:
        """Way and mac. *units* of 128 s tell how old it is when an answer comes."""
        kept = self._kept.get(call_id)
        if kept is None:
            kept = self._kept_before.get(call_id)
        if (
            kept is not None and kept.units == units and kept.host == flow.host and kept.port == flow.port
            and kept.connection == flow.connection and kept.listener is flow.listener
        ):  # fmt: skip
            return kept.text
        text = self._seal(flow, call_id, units)
        if len(call_id) > CALL_ID_KEPT:
            return text
        if len(self._kept) >= KEPT:
            self._kept_before = self._kept
            self._kept = {}
        self._kept[call_id] = Kept(flow, units, text)
        return text

    def _seal(self, flow: Flow, call_id: str, units: int) -> str:
        listener = flow.listener
        host = flow.host
        if not listener.ipv6 and host[:1].isdigit():
            host = host.replace(".", "_")
        elif pack_address(host):
            host = host.lower().replace(":", "_")
        else:
            return NO_WAY
        way = f"{listener.index << _LISTENER_AT | units << _UNITS_AT | flow.port}-{host}"
        if flow.connection:
            way += f"-{self._boot}{flow.connection:x}"
        return way + self._mac(way, call_id)

    def _mac(self, way: str, call_id: str) -> str:
        mac = self._hash.copy()
        mac.update(f"{way} {call_id}".encode("utf-8", "surrogateescape"))
        return mac.hexdigest()

    # --- in

    def is_ours(self, branch: str) -> bool:
        """True for a branch that looks like one that this server has made."""
        return folded(branch).startswith(self._ours)

    def open(self, branch: str, call_id: str) -> Sealed | None:
        """What *branch* says; None unless this server, or another with its secret, has made it for that Call-ID."""
        parts = folded(branch)[_HEAD:].split(".")
        if len(parts) != 4 or parts[0][:1] not in ("n", "s"):
            return None
        way, mac = parts[3][:-_MAC], parts[3][-_MAC:]
        fields = way.split("-")
        if len(fields) < 2 or not mac.isascii() or not compare_digest(mac, self._mac(way, call_id)):
            return None
        number, host = int(fields[0]), fields[1]
        if number >> _LISTENER_AT >= len(self._listeners):
            return None  # of before a restart with other listen addresses
        listener = self._listeners[number >> _LISTENER_AT]
        connection = fields[2][_BOOT:] if len(fields) > 2 and fields[2].startswith(self._boot) else ""
        host = host.replace("_", ":" if listener.ipv6 else ".")
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            return None  # of before such a restart, too: its listener was of the other family
        flow = Flow(listener, host, number & _PORT, int(connection, 16) if connection else 0, SEEN)
        start = parts[0][1 : 1 + _START] if parts[0][0] == "n" else ""
        return Sealed(start, float((number >> _UNITS_AT & _UNITS) << UNIT_BITS), flow)


def folded(branch: str) -> str:
    """*branch* as we write ours, whatever the case in which it comes back: some peers change it."""
    return MAGIC + branch[len(MAGIC) :].lower()
