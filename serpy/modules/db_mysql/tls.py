"""TLS to the database server over a Wire: OpenSSL works on memory, the Wire moves the bytes and waits.

``?ssl_mode=required`` encrypts and believes any certificate; ``?ssl_mode=verify`` wants one for the host's name that the
system's authorities, or those in ``ssl_ca``, have signed. Without either the connection is plain.

Runs in: every process that queries. Locks: none.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from serpy.errors import ConfigError
from serpy.modules.db_mysql.wire import Wire

MODES: Final = ("disabled", "required", "verify")
_CHUNK: Final = 65_536


class TlsWire:
    """What a Wire is to PyMySQL, encrypted."""

    def __init__(self, wire: Wire, context: ssl.SSLContext, host: str) -> None:
        self._wire = wire
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._data = bytearray()
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
        self._flush()

    def settimeout(self, seconds: float | None) -> None:
        """Nothing: the Wire's ``deadline`` counts."""

    def makefile(self, _mode: str) -> TlsWire:
        """The reading side."""
        return self

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises OSError, DeadlineError."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        self._flush()

    def read(self, size: int) -> bytes:
        """Exactly *size* bytes, fewer when the server has closed. Raises OSError, DeadlineError."""
        while len(self._data) < size:
            try:
                part = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                self._exchange()
                continue
            except ssl.SSLZeroReturnError:
                break
            if not part:
                break
            self._data += part
        found = bytes(self._data[:size])
        del self._data[:size]
        return found

    def close(self) -> None:
        """Close."""
        self._wire.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._wire.sendall(self._outgoing.read())

    def _exchange(self) -> None:
        """Send what OpenSSL has to say and read some of the answer."""
        self._flush()
        data = self._wire.read_some()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


class Context(ssl.SSLContext):
    """A client context whose sockets are Wires."""

    def wrap_socket(self, sock: Any, *_: object, server_hostname: Any = "", **__: object) -> Any:  # Any: see TlsWire
        """An encrypted Wire over *sock*. Raises OSError, DeadlineError."""
        return TlsWire(sock, self, str(server_hostname or ""))


def context_of(options: dict[str, str]) -> Context | None:
    """The context that the options of a URL ask for, None for a plain connection. Raises ConfigError."""
    mode = options.get("ssl_mode", "disabled").lower()
    if mode not in MODES:
        raise ConfigError(f"unknown ssl_mode {mode[:40]!r}", hint=f"use one of {', '.join(MODES)}")
    if mode == "disabled":
        return None
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    if mode == "required":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if options.get("ssl_ca"):
            context.load_verify_locations(options["ssl_ca"])
        else:
            context.load_default_certs()
    except OSError as exc:
        raise ConfigError(f"cannot read ssl_ca {options['ssl_ca']}: {exc.strerror or exc}") from None
    return context
