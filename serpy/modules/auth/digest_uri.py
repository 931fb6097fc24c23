"""Were these credentials made for this request? The uri in them is compared with what is asked for.

Phones drop the port and the transport, gateways write To's URI: level 1 wants the same scheme, user and host and lets
the rest be. SIPp and some gateways name the server that they send to, without a user: right when that is us. A proxy before us may have rewritten the Request-URI; from one that is trusted To's URI is right, too.

Runs in: udp receiver. Locks: none. RFC: 7616 §3.4.6; 3261 §22.4 item 8, §19.1.4.
"""

from __future__ import annotations

from typing import Final

from serpy.api import ParseError
from serpy.sip.abnf import ascii_lower
from serpy.sip.equality import texts_equal
from serpy.sip.message import Request
from serpy.sip.uri import Uri, parse_uri, unescape

OFF: Final = 0
SAME_RESOURCE: Final = 1
SAME_URI: Final = 2
_SEPARATORS: Final = str.maketrans("", "", "-.()")  # of telephone numbers, for the eye only (RFC 3966 §5.1.1)


def is_for(claimed: str, request: Request, level: int, *, rewritten: bool) -> bool:
    """True when *claimed*, the uri of credentials, means what *request* asks for.

    *rewritten*: a proxy between may have changed the Request-URI.
    """
    asked = request.request_uri
    if claimed == asked or level == OFF:
        return True
    if level == SAME_URI:
        return texts_equal(claimed, asked)
    try:
        return _same_resource(parse_uri(claimed), parse_uri(asked), request, rewritten=rewritten)
    except ParseError:
        return False


def server_of(claimed: str) -> str:
    """The host of a uri that names a server and nobody there, "" for all others."""
    try:
        uri = parse_uri(claimed)
    except ParseError:
        return ""
    return uri.host if uri.is_sip and not uri.user else ""


def _same_resource(claimed: Uri, asked: Uri, request: Request, *, rewritten: bool) -> bool:
    if claimed.scheme == asked.scheme and _users_equal(claimed, asked) and _hosts_equal(claimed, asked):
        return True
    if request.method != "REGISTER" and not rewritten:
        return False
    to = request.to.uri
    if claimed.scheme != to.scheme or not _hosts_equal(claimed, to):
        return False
    if request.method == "REGISTER" and _users_equal(claimed, asked):  # none in either, as a rule
        return True
    return rewritten and _users_equal(claimed, to)


def _users_equal(left: Uri, right: Uri) -> bool:
    if left.user == right.user:
        return True
    if left.scheme == "tel":
        return ascii_lower(left.user.translate(_SEPARATORS)) == ascii_lower(right.user.translate(_SEPARATORS))
    return left.is_sip and unescape(left.user) == unescape(right.user)


def _hosts_equal(left: Uri, right: Uri) -> bool:
    if left.host == right.host:
        return True
    return left.normal_host != "" and left.normal_host == right.normal_host
