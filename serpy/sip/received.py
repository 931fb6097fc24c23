"""The received URI: where a packet of a phone came from and by which of our sockets, as its binding keeps it.

    sip:HOST:PORT[;transport=T];dstip=HOST;dstport=PORT

The phone is called, and its NAT is kept open, from the socket named by dstip and dstport: the NAT lets in nobody else. It
is stored in databases that others write as well, so any SIP URI is read, with a name for a host and without a socket.

Runs in: udp receiver, timer. Locks: none. RFC: 3261 §19.1.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import ParseError
from serpy.sip.abnf import ascii_lower
from serpy.sip.address import bracketed, default_port, pack_address
from serpy.sip.uri import Uri, parse_port, parse_uri

if TYPE_CHECKING:
    from serpy.sip.flow import Flow

OPEN_CONNECTION: Final = "open"  # parameter of a next hop: by a connection that stands, or not at all

_KEPT: Final = 1024  # parameters, of which there is one text for each of our sockets
_LONGEST: Final = 256


class ReceivedUri:
    """*host* and *local_host* have no brackets, *transport* is lower case; without a socket *local_host* is "", *local_port* 0."""

    def __init__(self, host: str, port: int, transport: str = "udp", local_host: str = "", local_port: int = 0) -> None:
        self.host: Final = host
        self.port: Final = port
        self.transport: Final = transport
        self.local_host: Final = local_host
        self.local_port: Final = local_port

    def __str__(self) -> str:
        text = f"sip:{bracketed(self.host)}:{self.port}"
        if self.transport != "udp":
            text += f";transport={self.transport}"
        if self.local_port:
            text += f";dstip={bracketed(self.local_host)};dstport={self.local_port}"
        return text


def received_from(flow: Flow) -> ReceivedUri:
    """Where the packet of *flow* came from and where it arrived."""
    listener = flow.listener
    return ReceivedUri(flow.host, flow.port, ascii_lower(flow.transport), listener.host, listener.port)


def parse_received(text: str) -> ReceivedUri:
    """The received URI *text*. Raises ParseError."""
    head, _, params = text.partition(";")
    host, colon, digits = head[4:].rpartition(":")
    bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    if not colon or not head.startswith("sip:") or (":" in host) == (bare == host) or not pack_address(bare):
        return _parse_any(text)
    local = _local(params)
    return ReceivedUri(bare, parse_port(digits, text), local.transport, local.local_host, local.local_port)


def _parse_any(text: str) -> ReceivedUri:
    uri = parse_uri(text)
    if not uri.is_sip:
        raise ParseError("a received URI that is not SIP", value=text)
    local = _local_of(uri)
    host = uri.param("maddr") or uri.host_lower
    return ReceivedUri(
        host.strip("[]"),
        uri.port or default_port(local.transport),
        local.transport,
        local.local_host,
        local.local_port,
    )


_locals: Final[dict[str, ReceivedUri]] = {}


def _local(params: str) -> ReceivedUri:
    """What *params* say about the transport and our socket; the rest of it is empty."""
    found = _locals.get(params)
    if found is None:
        found = _local_of(parse_uri(f"sip:h;{params}" if params else "sip:h"))
        if len(params) <= _LONGEST:
            if len(_locals) >= _KEPT:
                _locals.clear()
            _locals[params] = found
    return found


def _local_of(uri: Uri) -> ReceivedUri:
    transport = uri.transport or ("tls" if uri.scheme == "sips" else "udp")
    host = (uri.param("dstip") or "").strip("[]")
    digits = uri.param("dstport") or ""
    if not host or not digits.isascii() or not digits.isdigit() or len(digits) > 5:
        return ReceivedUri("", 0, transport)
    return ReceivedUri("", 0, transport, host, int(digits))
