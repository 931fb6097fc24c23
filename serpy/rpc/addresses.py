"""Addresses of RPC sockets as they are written: ``unixs:PATH unixd:PATH udp:HOST:PORT tcp:HOST:PORT``.

The port may be left out (2049). The server listens there, sercmd calls there.

Runs in: master (read), ctl, sercmd. Locks: none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from serpy.errors import ConfigError

DEFAULT_PORT: Final = 2049
_DIGITS: Final = frozenset("0123456789")


class Address(NamedTuple):
    """One place to listen: *kind* is unixs, unixd, udp or tcp; *path* is a file or a host."""

    kind: str
    path: str
    port: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" + (f":{self.port}" if self.port else "")

    @property
    def is_stream(self) -> bool:
        """True for unixs and tcp."""
        return self.kind in ("unixs", "tcp")


def parse_address(text: str) -> Address:
    """The address written as *text*; without a protocol it is a path (unixs) or a host (udp). Raises ConfigError."""
    kind, colon, rest = text.partition(":")
    if kind in ("unix", "unixs", "unixd") and colon:
        if not rest:
            raise ConfigError(f"no path in RPC address {text!r}", hint="use unixs:/path")
        return Address("unixd" if kind == "unixd" else "unixs", rest)
    if kind not in ("udp", "tcp") or not colon:
        if text.startswith("/"):
            return Address("unixs", text)
        kind, rest = "udp", text
    host, port = _host_port(rest, text)
    return Address(kind, host, port)


def _host_port(rest: str, text: str) -> tuple[str, int]:
    host, port = rest, ""
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        port = tail.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if (
        not host
        or (":" in host and rest[0] != "[")
        or (port and not (_DIGITS.issuperset(port) and 0 < int(port[:6]) < 65536))
    ):
        raise ConfigError(f"malformed RPC address {text!r}", hint="use udp:127.0.0.1:2049, tcp:[::1]:2049, unixs:/path")
    return ("127.0.0.1" if host == "*" else host), int(port) if port else DEFAULT_PORT
