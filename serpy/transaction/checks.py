"""What every proxy owes a new request before it looks where to send it.

Runs in: udp receiver. Locks: none. RFC: 3261 §8.2.2, §16.3.
"""

from __future__ import annotations

from serpy.errors import ProtocolError
from serpy.sip.lines import PROXY_REQUIRE
from serpy.sip.message import Request


def check_request(request: Request, *, has_tls: bool) -> None:
    """RFC 3261 §16.3 items 1, 2 and 5, which every proxy owes a new request. Raises ProtocolError.

    A SIPS URI asks for TLS on the way to its user: who has none does not understand it (§26.2.2).
    """
    scheme = request.uri.scheme
    if scheme != "sip" and scheme != "tel" and (scheme != "sips" or not has_tls):  # noqa: PLR1714 - two compares beat a set
        raise ProtocolError(f"scheme {scheme!r:.40}", status=416)
    if (
        request.may_have(PROXY_REQUIRE)
        and request.find("proxy-require") >= 0
        and request.method not in {"ACK", "CANCEL"}
    ):
        raise ProtocolError("Proxy-Require", status=420)


def refusal_headers(request: Request, exc: ProtocolError) -> list[str]:
    """The headers the answer to *exc* must carry (§8.2.2.3)."""
    if exc.status != 420:
        return []
    return [f"Unsupported: {value}" for value in request.get_all("proxy-require")]
