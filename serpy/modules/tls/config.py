"""The TLS configuration file: sections of servers and clients, checked down to whether key and certificate match.

    [server:default]   [client:default]   [server:192.0.2.1:5061]   [client:[2001:db8::1]]
    name = value       # or ; starts a comment

A section takes what it does not say from the default one of its kind, and that one from the module's parameters.

Runs in: master (start), ctl (reload). Locks: none.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from serpy.api import ConfigError
from serpy.sip.address import bracketed

# Oldest version of each method, and whether newer ones may be used, too.
METHODS: Final = {
    "SSLv23": (ssl.TLSVersion.MINIMUM_SUPPORTED, True),
    "TLSv1": (ssl.TLSVersion.TLSv1, False),
    "TLSv1.0": (ssl.TLSVersion.TLSv1, False),
    "TLSv1.1": (ssl.TLSVersion.TLSv1_1, False),
    "TLSv1.2": (ssl.TLSVersion.TLSv1_2, False),
    "TLSv1.3": (ssl.TLSVersion.TLSv1_3, False),
    "TLSv1+": (ssl.TLSVersion.TLSv1, True),
    "TLSv1.0+": (ssl.TLSVersion.TLSv1, True),
    "TLSv1.1+": (ssl.TLSVersion.TLSv1_1, True),
    "TLSv1.2+": (ssl.TLSVersion.TLSv1_2, True),
    "TLSv1.3+": (ssl.TLSVersion.TLSv1_3, True),
}
OLD_METHODS: Final = ("SSLv2", "SSLv3")
SWITCHES: Final = {
    "yes": True,
    "on": True,
    "true": True,
    "1": True,
    "no": False,
    "off": False,
    "false": False,
    "0": False,
}
# Keys of a section -> kind: a file, a switch, a number, or a text.
KEYS: Final = {
    "method": "text", "tls_method": "text", "verify_certificate": "switch", "require_certificate": "switch",
    "verify_depth": "number", "private_key": "file", "certificate": "file", "ca_list": "file", "crl": "file",
    "cipher_list": "text", "ciphers": "text", "server_name": "text", "server_id": "text",
}  # fmt: skip
SYNONYMS: Final = {"tls_method": "method", "ciphers": "cipher_list"}


class Domain:
    """One section: *kind* is server or client, *host* "" for the default one. Values as written, by key."""

    def __init__(self, kind: str, host: str, port: int, place: str) -> None:
        self.kind: Final = kind
        self.host: Final = host
        self.port: Final = port
        self.place: Final = place  # where it stands, for messages
        self.values: dict[str, str] = {}

    @property
    def name(self) -> str:
        """As it is written in brackets."""
        if not self.host:
            return f"{self.kind}:default"
        host = bracketed(self.host)
        return f"{self.kind}:{host}:{self.port}"

    def is_on(self, key: str) -> bool:
        """The switch *key*, off when it is not set."""
        return SWITCHES.get(self.values.get(key, "no").lower(), False)


def parse(text: str, file: str) -> list[Domain]:
    """The sections of *text*. Raises ConfigError with every error."""
    domains: list[Domain] = []
    errors: list[str] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = _without_comment(raw).strip(" \t\r")
        if not line:
            continue
        place = f"{file}:{number}"
        try:
            if line.startswith("["):
                domain = _section(line, place)
                if any(domain.name == other.name for other in domains):
                    raise ConfigError(f"{place}: a second section [{domain.name}]")
                domains.append(domain)
            elif not domains:
                raise ConfigError(f"{place}: a value before the first section")
            else:
                _value(domains[-1], line, place)
        except ConfigError as exc:
            errors.append(str(exc))
    if errors:
        raise ConfigError("\n".join(errors))
    return domains


def _without_comment(line: str) -> str:
    quoted = False
    for at, char in enumerate(line):
        if char == '"':
            quoted = not quoted
        elif char in "#;" and not quoted:
            return line[:at]
    return line


def _section(line: str, place: str) -> Domain:
    kind, _, address = line[1:-1].partition(":")
    if not line.endswith("]") or kind not in ("server", "client") or not address:
        raise ConfigError(f"{place}: bad section {line[:60]!r}", hint="[server:default] or [client:ADDRESS:PORT]")
    if address == "default":
        return Domain(kind, "", 0, place)
    if address == "any":
        return Domain(kind, "any", 0, place)
    host, port = address, ""
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":")
    elif address.count(":") == 1:
        host, _, port = address.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ConfigError(f"{place}: bad port in {line[:60]!r}")
    return Domain(kind, host, int(port or "5061"), place)


def _value(domain: Domain, line: str, place: str) -> None:
    key, equals, value = line.partition("=")
    key, value = key.strip(" \t"), value.strip(' \t"')
    kind = KEYS.get(key)
    if not equals or kind is None:
        raise ConfigError(f"{place}: unknown setting {key[:40]!r}", hint=f"one of: {', '.join(sorted(KEYS))}")
    if kind == "switch" and value.lower() not in SWITCHES:
        raise ConfigError(f"{place}: {key} takes yes or no, not {value[:40]!r}")
    if kind == "number" and not (value.isascii() and value.isdigit() and len(value) < 4):
        raise ConfigError(f"{place}: {key} takes a number, not {value[:40]!r}")
    domain.values[SYNONYMS.get(key, key)] = value


def complete(domains: list[Domain], defaults: dict[str, str]) -> list[Domain]:
    """*domains* with a default server and client among them, and everything that is inherited filled in."""
    found = list(domains)
    for kind in ("server", "client"):
        default = next((domain for domain in found if domain.kind == kind and not domain.host), None)
        if default is None:
            default = Domain(kind, "", 0, "module parameters")
            found.append(default)
        for key, value in defaults.items():
            # A client that shows no certificate is the usual case: only a section of its own gives it one.
            if value and (kind == "server" or key not in ("certificate", "private_key")):
                default.values.setdefault(key, value)
        for domain in found:
            if domain.kind == kind and domain is not default:
                domain.values = {**default.values, **domain.values}
    return found


def check(domains: list[Domain], folder: str) -> None:
    """See that *domains* can work; relative file names start at *folder*. Raises ConfigError with every error."""
    errors: list[str] = []
    for domain in domains:
        try:
            context_of(domain, folder)
        except ConfigError as exc:
            errors.append(f"{domain.place}: [{domain.name}]: {exc}")
    if errors:
        raise ConfigError("\n".join(errors))


def context_of(domain: Domain, folder: str) -> ssl.SSLContext:
    """The TLS context of *domain*. Raises ConfigError."""
    is_server = domain.kind == "server"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _set_method(context, domain.values.get("method", "TLSv1.2+"))
    certificate, key = domain.values.get("certificate", ""), domain.values.get("private_key", "")
    if is_server and not certificate:
        raise ConfigError("a server needs a certificate", hint="certificate = FILE, private_key = FILE")
    if certificate:
        _load_pair(context, _file(folder, certificate), _file(folder, key) if key else "")
    try:
        if domain.values.get("cipher_list"):
            context.set_ciphers(domain.values["cipher_list"])
    except ssl.SSLError:
        raise ConfigError(f"cipher_list {domain.values['cipher_list'][:80]!r} selects no cipher") from None
    for key_name in ("ca_list", "crl"):
        if domain.values.get(key_name):
            _load_list(context, key_name, _file(folder, domain.values[key_name]))
    if domain.is_on("require_certificate") or domain.is_on("verify_certificate"):
        if not domain.values.get("ca_list"):
            raise ConfigError("verify_certificate needs a ca_list")
        required = domain.is_on("require_certificate") or not is_server
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    else:
        context.verify_mode = ssl.CERT_NONE
    return context


def _set_method(context: ssl.SSLContext, method: str) -> None:
    if method in OLD_METHODS:
        raise ConfigError(f"method {method} is broken and not built in", hint="TLSv1.2+")
    if method not in METHODS:
        raise ConfigError(f"unknown method {method[:40]!r}", hint=f"one of: {', '.join(METHODS)}")
    oldest, newer = METHODS[method]
    try:
        context.minimum_version = oldest
        if not newer:
            context.maximum_version = oldest
    except ValueError:
        raise ConfigError(f"method {method} is not in this build of OpenSSL") from None


def _file(folder: str, name: str) -> str:
    path = Path(folder, name)
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    return str(path)


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key or None, password=_no_password)
    except ssl.SSLError as exc:
        if "MISMATCH" in (exc.reason or "").upper():
            raise ConfigError(f"the private key {key} does not belong to the certificate {certificate}") from None
        raise ConfigError(f"cannot use {certificate} with key {key or certificate}: {exc.reason or exc}") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read {certificate} or {key or certificate}: {exc}") from None


def _no_password() -> str:
    """A key with a password cannot be used by a server that starts by itself."""
    raise ValueError("the key is protected by a password")


def _load_list(context: ssl.SSLContext, key: str, file: str) -> None:
    try:
        context.load_verify_locations(file)
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(f"cannot use {key} {file}: {getattr(exc, 'reason', '') or exc}") from None
    if key == "crl":
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
