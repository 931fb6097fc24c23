"""How replication is set up: the parameters of the module ``replication``, checked and read.

Runs in: master (made), timer, ctl. Locks: none.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from serpy.api import Service
from serpy.errors import ConfigError

MAX_KEY_FILE: Final = 4096


class ReplicationSettings:
    """Filled by the module's ``init``; provided as a service under this class."""

    def __init__(self) -> None:
        self.key = b""
        self.interface = ""  # address or name; "" = chosen by listener
        self.port = 0  # of our own socket; 0 = any
        self.max_age_s = 30
        self.digest_interval_s = 5.0
        self.store_replicas = False
        self.trusted: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []

    def trusts(self, host: str) -> bool:
        """True when a bare (unsigned) replica from *host* is taken."""
        if not self.trusted:
            return False
        address = ipaddress.ip_address(host)
        return any(address in network for network in self.trusted)


def networks(texts: list[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Addresses and networks written as *texts*. Raises ConfigError."""
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(" \t"), strict=False))
        except ValueError:
            raise ConfigError(f"replication: trusted_source {text[:60]!r} is no address or network") from None
    return found


def read_key(path: str) -> bytes:
    """The key in the file *path*, without surrounding white space. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            key = file.read(MAX_KEY_FILE).strip(b" \t\r\n")
    except OSError as exc:
        raise ConfigError(f"replication: cannot read key_file {path}: {exc.strerror}") from None
    if not key:
        raise ConfigError(f"replication: key_file {path} is empty")
    return key


REPLICATION_SETTINGS: Final[Service[ReplicationSettings]] = Service("settings of replication")
