"""Values that say where a message came from or goes to, never how it is moved.

Runs in: every process. Locks: none; all values are immutable by convention and shared freely.
RFC: 3261 §18.
"""

from __future__ import annotations

from typing import Final

from serpy.sip.address import bracketed
from serpy.sip.classes import address_class

# How a message leaves, and what becomes of its connection (``Flow.options``, bits).
CLOSE: Final = 1  # close it when the message has left
NO_CONNECT: Final = 2  # use one that is open, or do not send at all
AS_HTTP: Final = 4  # the message answers an HTTP request: its status line must say so
SEEN: Final = 16  # a message has come from there: what goes back to it is not held back (``net/guard.py``)
AS_IS: Final = 8  # the bytes are no SIP message, or a part of one: nothing is added to them


class Listener:
    """One listen address. *index* is the same in every process and names the socket to send from.

    ``sent_by`` is what goes into Via and Record-Route: ``host:port`` with IPv6 in brackets, the advertised address
    when one is set. A multicast listener receives only and is never a source.
    """

    def __init__(
        self,
        index: int,
        transport: str,
        host: str,
        port: int,
        *,
        advertised_host: str = "",
        advertised_port: int = 0,
        multicast: bool = False,
    ) -> None:
        self.index: Final = index
        self.transport: Final = transport  # lower case: udp tcp tls ws wss
        self.host: Final = host
        self.port: Final = port
        self.multicast: Final = multicast
        self.ipv6: Final = ":" in host
        self.scope: Final = address_class(host)  # who can reach us there
        name = advertised_host or host
        self.sent_by: Final = f"{bracketed(name)}:{advertised_port or port}"
        self.via_transport: Final = transport.upper()
        self.via_head: Final = f"Via: SIP/2.0/{self.via_transport} {self.sent_by};branch="

    def __repr__(self) -> str:
        return f"{self.transport}:{self.sent_by}"


class Flow:
    """The two ends a message travels between: our *listener* and the peer's *host* and *port*.

    ``host`` is the address as text without brackets. ``connection`` is 0 for UDP, else the connection id of the
    TCP receiver that holds it; where it is gone, or 0 over TCP, a connection to *host* and *port* is used or made.
    """

    def __init__(self, listener: Listener, host: str, port: int, connection: int = 0, options: int = 0) -> None:
        self.listener: Final = listener
        self.transport: Final = listener.transport
        self.host: Final = host
        self.port: Final = port
        self.connection: Final = connection
        self.options: Final = options

    def __repr__(self) -> str:
        return f"{self.transport}:{self.host}:{self.port}"


class Outgoing:
    """A rendered message and the flow it leaves by."""

    def __init__(self, data: bytes, flow: Flow) -> None:
        self.data: Final = data
        self.flow: Final = flow
