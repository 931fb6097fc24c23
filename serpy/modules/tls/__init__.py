"""The parameters of SER's ``tls`` and its configuration file, read and checked at the start. There is no TLS transport yet.

So a script that tests ``@tls.peer.verified`` finds it undefined, as on any connection without TLS, the RPCs tell of no
connection, and a ``listen = tls:…`` is left out with a warning. What can be wrong with keys and certificates is told
now and not on the day the transport comes.

Runs in: master (init), ctl (RPC), udp receiver (selects). Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serpy.api import ConfigError, Context, Exports, Param, Rpc, Select, Server
from serpy.modules.tls.config import Domain, check, complete, parse

log = logging.getLogger(__name__)

FAMILIES: Final = ("cipher", "version", "desc", "description", "peer", "my", "me", "myself")
INERT: Final = (
    ("verify_depth", 9), ("session_cache", 0), ("handshake_timeout", 30), ("connection_timeout", 600),
    ("send_timeout", 30), ("tls_log", 3), ("tls_debug", 3), ("tls_disable_compression", 1), ("ssl_release_buffers", -1),
    ("ssl_freelist_max_len", -1), ("ssl_max_send_fragment", -1), ("ssl_read_ahead", 0), ("send_close_notify", 0),
    ("con_ct_wq_max", 65536), ("ct_wq_max", 10485760), ("ct_wq_blk_size", 4096), ("low_mem_threshold1", -1),
    ("low_mem_threshold2", -1), ("tls_force_run", 0), ("renegotiation", 0),
)  # fmt: skip
SECTION_PARAMS: Final = ("tls_method", "certificate", "private_key", "ca_list", "crl", "cipher_list")


class Tls:
    """The parameters, the RPCs and the selects."""

    def __init__(self) -> None:
        self.config = ""
        self.session_id = "serpy-tls"
        self.tls_method = "TLSv1.2+"
        self.certificate = ""
        self.private_key = ""
        self.ca_list = ""
        self.crl = ""
        self.cipher_list = ""
        self.verify_certificate = 0
        self.require_certificate = 0
        self.domains: list[Domain] = []
        self._folder = ""
        for name, value in INERT:
            setattr(self, name, value)

    def init(self, server: Server) -> None:
        """Read and check the file; without one, what the parameters say. Raises ConfigError."""
        self._folder = str(Path(getattr(server.program, "path", "") or ".").resolve().parent)
        if self.config or self.certificate:
            self.domains = self._read()
        if server.settings.tls_enable:
            log.warning("tls: the settings are checked, but there is no TLS transport: nothing listens for TLS")

    def _read(self) -> list[Domain]:
        domains: list[Domain] = []
        if self.config:
            path = Path(self._folder, self.config)
            try:
                domains = parse(path.read_text(encoding="utf-8", errors="replace"), str(path))
            except OSError as exc:
                raise ConfigError(f"cannot read {path}: {exc.strerror}") from None
        found = complete(domains, self._defaults())
        check(found, self._folder)
        return found

    def _defaults(self) -> dict[str, str]:
        values = {name.removeprefix("tls_"): str(getattr(self, name)) for name in SECTION_PARAMS}
        for name in ("verify_certificate", "require_certificate"):
            values[name] = "yes" if getattr(self, name) else "no"
        return values

    def resolve(self, parts: tuple[str | int, ...]) -> Callable[[Context], str | None]:
        """Reader of ``@tls.…``: undefined, for no message comes over TLS."""
        if not parts or parts[0] not in FAMILIES:
            raise ValueError(f"tls has {', '.join(FAMILIES)}")
        return _undefined

    # --- RPC

    def list_connections(self) -> list[object]:
        """The TLS connections."""
        return []

    def info(self) -> dict[str, object]:
        """How many TLS connections there are, and may be."""
        return {"max_connections": 0, "opened_connections": 0, "clear_text_write_queued_bytes": 0}

    def reload(self) -> str:
        """Read the file again; when it is not all right the old settings stay."""
        self.domains = self._read()
        return "Ok. TLS configuration reloaded."

    def options(self) -> dict[str, object]:
        """The settings in force: the parameters, and the sections with what they inherit."""
        values: dict[str, object] = {param.name: getattr(self, param.attribute) for param in PARAMS}
        values["domains"] = [domain.name for domain in self.domains]
        return values


def _undefined(_ctx: Context) -> str | None:
    return None


def _inert(name: str, default: int) -> Param:
    return Param(name, "int", default, "accepted, no effect while there is no TLS transport", attribute=name)


PARAMS: Final = (
    Param(
        "config", "str", "", "file with a section per TLS domain; beside the script unless absolute", attribute="config"
    ),
    Param("tls_method", "str", "TLSv1.2+", "versions to speak: TLSv1.2, TLSv1.2+ (or newer) …", attribute="tls_method"),
    Param("certificate", "str", "", "certificate chain, PEM", attribute="certificate"),
    Param("private_key", "str", "", "its key, PEM", attribute="private_key"),
    Param("ca_list", "str", "", "certificates of the authorities trusted, PEM", attribute="ca_list"),
    Param("crl", "str", "", "revoked certificates, PEM", attribute="crl"),
    Param("cipher_list", "str", "", "ciphers, as OpenSSL writes them", attribute="cipher_list"),
    Param("verify_certificate", "int", 0, "1: check the peer's certificate", attribute="verify_certificate"),
    Param("require_certificate", "int", 0, "1: refuse a peer without one", attribute="require_certificate"),
    Param("session_id", "str", "serpy-tls", "accepted, no effect", attribute="session_id"),
    *(_inert(name, default) for name, default in INERT),
)


def exports() -> Exports:
    """The export table of a fresh instance."""
    module = Tls()
    return Exports(
        "tls",
        module,
        params=PARAMS,
        selects=(Select("tls", module.resolve, "facts of a TLS connection; undefined without TLS"),),
        rpc=(
            Rpc("tls.list", module.list_connections),
            Rpc("tls.info", module.info),
            Rpc("tls.reload", module.reload, write=True),
            Rpc("tls.options", module.options),
        ),
        init=module.init,
    )
