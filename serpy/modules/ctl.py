"""Further RPC sockets for sercmd and kamcmd (BINRPC) and for Prometheus; the run directory's socket is always there.

Without ``binrpc`` nothing else is opened: SER's default in /tmp would be the same file for every server of a machine, and
kamcmd and sercmd work with ``-s unixs:RUN_DIR/ctl`` as well. ``fifo`` is taken from old files and ignored.

Runs in: the master while loading; the sockets belong to ctl. Locks: none.
"""

from __future__ import annotations

import grp
import logging
import pwd

from serpy.api import ConfigError, Exports, Param, Server
from serpy.rpc.addresses import parse_address
from serpy.rpc.listen import RPC_SETTINGS, RpcSettings

log = logging.getLogger(__name__)

_DIGITS = frozenset("0123456789")


class Ctl:
    """The parameters."""

    def __init__(self) -> None:
        self.binrpc: list[str] = []
        self.metrics: list[str] = []
        self.fifo: list[str] = []
        self.mode: int | str = 0o600
        self.user: int | str = ""
        self.group: int | str = ""

    def init(self, server: Server) -> None:
        """Check the parameters and hand them to the RPC server."""
        settings = RpcSettings()
        settings.addresses = [parse_address(text) for text in self.binrpc]
        settings.metrics = [parse_address(text) for text in self.metrics]
        settings.mode = _mode(self.mode)
        settings.uid = _owner(self.user, "user")
        settings.gid = _owner(self.group, "group")
        server.provide(RPC_SETTINGS, settings)
        if self.fifo:
            log.info("ctl: there is no fifo; %s is not made, binrpc and serpyctl do the same", self.fifo[0])


def _mode(value: int | str) -> int:
    if isinstance(value, int):
        return value & 0o777
    if not value or not frozenset("01234567").issuperset(value):
        raise ConfigError(f"ctl: mode {value!r} is no octal number", hint="write 0600")
    return int(value, 8) & 0o777


def _owner(value: int | str, kind: str) -> int:
    """The id of a user or group given by name or number, -1 for ""."""
    text = str(value)
    if not text:
        return -1
    if _DIGITS.issuperset(text):
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid if kind == "user" else grp.getgrnam(text).gr_gid
    except KeyError:
        raise ConfigError(f"ctl: there is no {kind} {text!r}") from None


def exports() -> Exports:
    """The module's export table."""
    module = Ctl()
    return Exports(
        name="ctl",
        module=module,
        params=(
            Param("binrpc", "str", "", "address to listen on: unixs:PATH unixd:PATH udp:HOST:PORT tcp:…", repeat=True),
            Param("metrics", "str", "", "address for GET /metrics: tcp:127.0.0.1:9100 or unixs:PATH", repeat=True),
            Param("fifo", "str", "", "ignored: the text protocol of SER 0.9; binrpc does the same", repeat=True),
            Param("mode", "int", 0o600, "permissions of the unix sockets"),
            Param("user", "str", "", "owner of the unix sockets"),
            Param("group", "str", "", "group of the unix sockets"),
        ),
        init=module.init,
    )
