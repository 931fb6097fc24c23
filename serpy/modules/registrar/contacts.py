"""Which contacts a user may have: where nobody can be called is refused, and what is too long or too many.

Runs in: udp receiver. Locks: none. RFC: 3261 §10.3; 1122 §3.2.1.3; 4291 §2.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serpy.api import Binding
from serpy.errors import ParseError, ProtocolError
from serpy.sip.abnf import ascii_lower
from serpy.sip.address import default_port
from serpy.sip.host import normal_host
from serpy.sip.reach import HOST_NAME, LOOPBACK, NEVER, NO_HOST, NOWHERE, WILDCARD, kind_of
from serpy.sip.uri import Uri

IsMyself = Callable[[str, int], bool]


class TooManyContactsError(ProtocolError):
    """503; *retry_after* says in how many seconds one of the contacts expires, 0 = never."""

    def __init__(self, why: str, retry_after: int) -> None:
        super().__init__(why, status=503, reason="Too many registered contacts")
        self.retry_after: Final = retry_after


def check_address(uri: Uri, source: str, is_myself: IsMyself | None, *, is_reached: bool) -> None:
    """Raise ParseError when nobody can be called at *uri*, of a packet from *source*.

    *is_reached*: calls go elsewhere, to the address outside of its NAT.
    """
    if not uri.is_sip:
        return
    host = uri.param("maddr") or uri.host
    kind = kind_of(host)
    why = ""
    if kind == NO_HOST:
        why = "no host"
    elif kind == NEVER:
        why = "a multicast, broadcast or reserved address"
    elif kind == WILDCARD and not is_reached:
        why = "an unspecified address"
    elif kind == LOOPBACK and not is_reached and source and kind_of(source) != LOOPBACK:
        why = "a loopback address"
    elif kind not in (HOST_NAME, NOWHERE) and is_ours(host, uri, is_myself):
        why = "an address of this server"
    if why:
        raise ParseError(f"{why} is no contact", header="Contact", value=uri.text)


def is_ours(host: str, uri: Uri, is_myself: IsMyself | None) -> bool:
    """True when *host* with the port of *uri* is one of our sockets."""
    return is_myself is not None and is_myself(normal_host(host), uri.port or transport_port(uri))


def transport_of(uri: Uri) -> str:
    """The transport that *uri* names, "" for none."""
    return "tls" if uri.scheme == "sips" else ascii_lower(uri.transport)


def transport_port(uri: Uri) -> int:
    """The port that a URI without one means."""
    return default_port(transport_of(uri))


def make_room(
    current: list[Binding], working: dict[str, Binding], put: dict[str, Binding], limit: int, wall_now: float,
    dead: Callable[[Binding], bool] | None, *, replace: bool,
) -> list[Binding]:  # fmt: skip
    """The bindings that go from *working* so that no more than *limit* live ones are left, those in *put* never.

    Those of phones that do not answer go first, then the one refreshed longest ago; of these one with the User-Agent of
    the newcomer. Raises TooManyContactsError when that is not wanted or not enough, unless there are no more than before:
    a limit that was lowered does not lock out those who only refresh.
    """
    if limit <= 0 or len(working) <= limit:
        return []
    live = [binding for binding in working.values() if binding.is_live(wall_now)]
    excess = len(live) - limit
    if excess <= 0 or len(live) <= len([binding for binding in current if binding.is_live(wall_now)]):
        return []
    agents = {binding.user_agent for binding in put.values()}
    old = [binding for binding in live if binding.contact not in put and not binding.is_permanent]
    if not replace or len(old) < excess:
        raise TooManyContactsError("too many registered contacts", seconds_to_expiry(live, wall_now))

    def order(binding: Binding) -> tuple[int, int, float]:
        is_dead = dead is not None and dead(binding)
        return (0 if is_dead else 1, 0 if binding.user_agent in agents else 1, binding.modified_at)

    old.sort(key=order)
    return old[:excess]


def seconds_to_expiry(bindings: list[Binding], wall_now: float) -> int:
    """When the first of *bindings* expires, in whole seconds from now; 0 when none does."""
    times = [int(binding.expires_at - wall_now) + 1 for binding in bindings if not binding.is_permanent]
    return max(1, min(times)) if times else 0


def check_length(current: list[Binding], working: dict[str, Binding], limit: int, wall_now: float) -> None:
    """Raise TooManyContactsError when the contacts of a user have become longer than *limit* characters together."""
    if limit <= 0:
        return
    after = 0
    for binding in working.values():
        after += len(binding.contact)
    if after <= limit:
        return
    before = 0
    for binding in current:
        before += len(binding.contact)
    if after > before:
        raise TooManyContactsError("registered contacts are too long", seconds_to_expiry(current, wall_now))
