"""Which transaction is this? Keys of server transactions, and the values that our own branch parameters are made of.

How those look is said in ``ways``. The value of a stateless forward follows from the request alone, so that retransmissions
and the CANCEL get the same one (RFC 3261 §16.11). The loop value covers what routing depends on (RFC 5393 §4.2.2):
Request-URI and Route as received.

``hash()`` of a string is keyed per server start and the same in all children, so nobody outside can aim for a
collision; a value never has to be understood by another server start. Strings are hashed one by one and mixed,
because a string remembers its hash: most of these have been looked up in a cache before.

Runs in: udp receiver. Locks: none. RFC: 3261 §16.11, §17.1.3, §17.2.3, RFC 5393.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.sip.lines import ROUTE
from serpy.sip.message import Request
from serpy.sip.via import Via

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

MAGIC: Final = "z9hG4bK"
WORD: Final = 0xFFFFFFFF
LONG: Final = 0xFFFFFFFFFFFF


ServerKey = str
"""What a server transaction is known by: sent-by and branch, and behind a line end the method when it is not INVITE."""

Groups = frozenset[tuple[str, int]]
"""Addresses and ports of the multicast groups that we listen on."""
NO_GROUPS: Final[Groups] = frozenset()


def server_key(request: Request, method: str) -> ServerKey:
    """Key of the server transaction *request* belongs to; *method* is INVITE for ACK and CANCEL to find theirs."""
    via = request.via
    if has_cookie(via):
        return via.identity if method == "INVITE" else f"{via.identity}\n{method}"
    # RFC 2543 elements: everything that must not differ between a request and its repetition (§17.2.3). The To tag
    # is left out, an ACK carries the one of our answer; the CSeq method is our argument.
    return f"\n{request.request_uri} {request.from_tag} {request.call_id} {request.cseq.number} {method}\n{via}"


def has_cookie(via: Via) -> bool:
    """``via.has_cookie``, without its general case for a cookie that is written as usual."""
    branch = via.branch
    return (branch.startswith(MAGIC) and len(branch) > len(MAGIC)) or via.has_cookie


def loop_value(request: Request) -> int:
    """What must differ when a request passes here again for a good reason (a spiral), else it is a loop."""
    value: i64 = hash(request.request_uri)
    if not request.may_have(ROUTE):
        return value & WORD
    lines = request.lines
    for at, name in enumerate(request.names):
        if name == "route":
            value = (value & WORD) * 31 ^ hash(lines[at])
    return value & WORD


def is_loop(request: Request, sign: str, value: int) -> bool:
    """True when *request* carries a Via of the server with this *sign* made for the same *value* (RFC 5393 §4.2.1)."""
    mine = MAGIC + sign
    for text in request.values("via"):
        at = text.find(mine)
        if at < 0:
            continue
        parts = text[at:].split(".", 2)
        if len(parts) == 3 and parts[1] == str(value):
            return True
    return False


def stateless_value(request: Request) -> int:
    """What a stateless forward is known by: the same for each repetition, and for CANCEL and its request."""
    via: Via = request.via
    value: i64
    if has_cookie(via):
        value = hash(via.branch)
        value = (value & LONG) * 31 ^ hash(via.host)
    else:
        value = hash(
            f"{via} {request.to_tag} {request.from_tag} {request.call_id} {request.cseq.number} {request.request_uri}"
        )
    number: int = value & LONG
    return number
