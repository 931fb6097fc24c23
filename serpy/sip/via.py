"""Via: the path a response takes back.

Runs in: every process. Locks: none. RFC: 3261 §20.42, §18.2; 3581.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import ParseError
from serpy.sip.abnf import IPV6, ascii_lower, is_hostname, is_token
from serpy.sip.limits import PORT_MAX
from serpy.sip.nameaddr import parse_params, render_params, split_commas, without_empty_end
from serpy.sip.uri import parse_port

if TYPE_CHECKING:
    from mypy_extensions import i64  # a name for the compiler: 64 bits without an object

MAGIC_COOKIE: Final = "z9hG4bK"


class Via:
    """One Via value. *transport* is upper case, *host* as written (IPv6 in brackets), *port* 0 when absent.

    *branch* is "" when absent; *received* "" when absent; *rport* -1 when absent, 0 when present without a (usable) value.
    *params* None: there is a branch and maybe behind it a bare rport, no other parameter; then *usual* is the line, which
    says all this in the usual way.
    """

    def __init__(
        self, transport: str, host: str, port: int, branch: str, rport: int, received: str,
        params: dict[str, str] | None, usual: str = "",
    ) -> None:  # fmt: skip
        self.transport: Final = transport
        self.host: Final = host
        self.port: Final = port
        self.branch: Final = branch
        self.rport: Final = rport
        self.received: Final = received
        self._params = params
        self._usual: Final = usual

    @property
    def identity(self) -> str:
        """``host[:port];branch=value``: what the requests of one transaction have in common."""
        usual = self._usual
        if usual:
            return usual[_USUAL:-6] if self.rport >= 0 else usual[_USUAL:]
        return f"{self.host}:{self.port};branch={self.branch}" if self.port else f"{self.host};branch={self.branch}"

    def annotated(self, line: str, received: str, rport: int) -> str:
        """*line*, whose first value this is, as ``via_with_received`` has it."""
        usual = self._usual
        if not usual or not received or line is not usual:
            return via_with_received(line, received, rport)
        if self.rport >= 0:
            return f"{usual}={rport};received={received}" if rport else f"{usual};received={received}"
        return f"{usual};received={received};rport={rport}" if rport else f"{usual};received={received}"

    @property
    def params(self) -> dict[str, str]:
        """The parameters by lower-case name, "" for a bare one."""
        params = self._params
        if params is None:
            params = self._params = {"branch": self.branch} if self.rport < 0 else {"branch": self.branch, "rport": ""}
        return params

    @property
    def has_cookie(self) -> bool:
        """True when the branch starts with the magic cookie of RFC 3261 and something follows it."""
        branch = self.branch
        return len(branch) > 7 and (branch.startswith(MAGIC_COOKIE) or branch[:7].lower() == "z9hg4bk")

    @property
    def sent_by(self) -> str:
        """host[:port] as written, the host in lower case."""
        host = ascii_lower(self.host)
        return f"{host}:{self.port}" if self.port else host

    @property
    def address(self) -> str:
        """The host in lower case, without the brackets of an IPv6 reference."""
        host = ascii_lower(self.host)
        return host[1:-1] if host[:1] == "[" else host

    def param(self, name: str) -> str | None:
        """The parameter *name* (lower case) as written; "" for a bare one, None when absent."""
        return self.params.get(name)

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"SIP/2.0/{self.transport} {self.host}{port}{render_params(self.params)}"


def _with_params(transport: str, host: str, port: int, params: dict[str, str]) -> Via:
    text = params.get("rport")
    rport = -1 if text is None else _rport(text)
    return Via(transport, host, port, params.get("branch", ""), rport, params.get("received", ""), params)


def _rport(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        return 0
    port = int(text)
    return port if port <= PORT_MAX else 0


_USUAL: Final = 17  # length of "Via: SIP/2.0/UDP "
_PORT_DIGITS: Final = 5
_COLON: Final = 0x3A
_SEMICOLON: Final = 0x3B
_ZERO: Final = 0x30
_ASCII: Final = 0x7F
_HOST: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_"
_IN_HOST: Final = bytes(1 if byte in _HOST else 0 for byte in range(128))


def via_of_line(line: str) -> Via | None:
    """The Via of the whole header line *line*, which is written as nearly all are.

    None when ``parse_via`` has to look: at a list, a folded line, an unusual or malformed one.
    """
    transport = _usual_transport(line)
    if not transport:
        return None
    end: i64 = len(line)
    at: i64 = _USUAL
    while at < end:
        char: i64 = ord(line[at])
        if char > _ASCII or not _IN_HOST[char]:
            break
        at += 1
    if at == _USUAL:
        return None
    host = line[_USUAL:at]
    port: i64 = 0
    if at < end and ord(line[at]) == _COLON:
        at += 1
        most: i64 = at + _PORT_DIGITS
        if at < end and ord(line[at]) == _ZERO:
            return None
        while at < end and at < most:
            digit: i64 = ord(line[at]) - _ZERO
            if digit < 0 or digit > 9:
                break
            port = port * 10 + digit
            at += 1
        if port == 0 or port > PORT_MAX:
            return None
    if at >= end or ord(line[at]) != _SEMICOLON:
        return None
    return _usual_params(line, at, transport, host, port)


def _usual_transport(line: str) -> str:
    if line.startswith("Via: SIP/2.0/UDP "):
        return "UDP"
    if line.startswith("Via: SIP/2.0/TCP "):
        return "TCP"
    return "TLS" if line.startswith("Via: SIP/2.0/TLS ") else ""


def _usual_params(line: str, at: int, transport: str, host: str, port: int) -> Via | None:
    if line[at : at + 8] == ";branch=":
        stop = line.find(";", at + 8)
        branch = line[at + 8 :] if stop < 0 else line[at + 8 : stop]
        if branch.isalnum() or not ('"' in branch or " " in branch or "\t" in branch or "," in branch):
            if stop < 0:  # nothing else: the Via of a proxy
                return Via(transport, host, port, branch, -1, "", None, line)
            if line[stop:] == ";rport":
                return Via(transport, host, port, branch, 0, "", None, line)
    elif line[at : at + 14] == ";rport;branch=":
        branch = line[at + 14 :]
        if branch.isalnum():
            return Via(transport, host, port, branch, 0, "", {"rport": "", "branch": branch})
    if "," in line or "\n" in line:
        return None
    try:
        return _with_params(transport, host, port, parse_params(line, at))
    except ParseError:
        return None


def parse_via(text: str) -> Via:
    """The first Via value of *text*. Raises ParseError."""
    comma = text.find(",")
    if comma >= 0:
        if '"' in text:
            text = split_commas(text)[0]
        else:
            text = text[:comma].strip(" \t")
            if not text:
                raise ParseError("empty Via", header="Via", value=text)
    semicolon = text.find(";")
    head = text if semicolon < 0 else text[:semicolon]
    transport, host, port = _parse_head(head, text)
    return _with_params(transport, host, port, {} if semicolon < 0 else parse_params(text, semicolon))


def _parse_head(head: str, text: str) -> tuple[str, str, int]:
    """(transport, host, port) of what stands before the parameters."""
    transport = "UDP"
    sent_by = head[12:]
    if not head.startswith("SIP/2.0/UDP ") or " " in sent_by or "\t" in sent_by or not sent_by:
        transport, sent_by = _split_head(head, text)
    port = 0
    host = sent_by
    colon = sent_by.find(":")
    if colon >= 0:
        if sent_by[0] == "[":
            host, port = _split_ipv6(sent_by, text)
        else:
            host = sent_by[:colon].rstrip(" \t")
            port = _port(sent_by[colon + 1 :].strip(" \t"), text)
    if host[:1] != "[" and not is_hostname(host):
        raise ParseError("bad host in Via", header="Via", value=text)
    return transport, host, port


def _port(digits: str, text: str) -> int:
    try:
        return parse_port(digits, text)
    except ParseError as exc:
        raise ParseError("bad port in Via", header="Via", value=text) from exc


def _split_head(head: str, text: str) -> tuple[str, str]:
    """(transport, sent-by) of ``SIP / 2.0 / UDP host:port`` with white space wherever SLASH and LWS allow it."""
    name, _, rest = head.partition("/")
    version, _, rest = rest.partition("/")
    if ascii_lower(name.strip(" \t")) != "sip" or version.strip(" \t") != "2.0":
        raise ParseError("Via is not SIP/2.0", header="Via", value=text)
    rest = rest.strip(" \t").replace("\t", " ")
    transport, _, sent_by = rest.partition(" ")
    sent_by = sent_by.strip(" ")
    if not is_token(transport) or not sent_by:
        raise ParseError("bad Via", header="Via", value=text)
    return transport.upper(), sent_by


def _split_ipv6(sent_by: str, text: str) -> tuple[str, int]:
    bracket = sent_by.find("]")
    if bracket < 0 or IPV6.fullmatch(sent_by[1:bracket]) is None:
        raise ParseError("bad IPv6 reference in Via", header="Via", value=text)
    host = sent_by[: bracket + 1]
    rest = sent_by[bracket + 1 :].strip(" \t")
    if not rest:
        return host, 0
    if rest[0] != ":":
        raise ParseError("bad host in Via", header="Via", value=text)
    return host, _port(rest[1:].strip(" \t"), text)


def via_with_received(via: str, received: str, rport: int) -> str:
    """*via* (a line or a value, possibly with several values) with its first value annotated.

    *received* "" and *rport* 0 add nothing. A received parameter the sender put there is replaced; rport gets its
    value (RFC 3581 §4), or is added when absent. Never raises: what cannot be understood is returned unchanged.
    """
    if not received and not rport:
        return via
    comma = via.find(",")
    if comma < 0:
        return _annotate(via, received, rport)
    if '"' in via:
        try:
            first = split_commas(via)[0]
        except (ParseError, IndexError):
            return via
        comma = len(first)
        if via[:comma] != first or via[comma : comma + 1] not in {",", ""}:
            return via
    return _annotate(via[:comma], received, rport) + via[comma:]


def _annotate(value: str, received: str, rport: int) -> str:
    value = without_empty_end(value)
    if rport:
        at = value.find(";rport")
        end = at + 6
        if at > 0 and (end == len(value) or value[end] == ";"):  # what most phones write that write it
            lower = value.lower()
            if "received" not in lower and lower.find("rport", end) < 0 and lower.find("rport") == at + 1:
                tail = f";received={received}" if received else ""
                return f"{value[:at]};rport={rport}{value[end:]}{tail}"
    lower = value.lower()
    if "received" not in lower and "rport" not in lower:  # most phones, and all proxies
        if received and rport:
            return f"{value};received={received};rport={rport}"
        return f"{value};received={received}" if received else f"{value};rport={rport}"
    kept: list[str] = []
    placed = False
    for piece in value.split(";"):
        name = piece.partition("=")[0].strip(" \t\r\n").lower()
        if kept and name == "received" and received:
            continue
        if kept and name == "rport" and rport:
            kept.append(f"rport={rport}")
            placed = True
        else:
            kept.append(piece)
    if received:
        kept.append(f"received={received}")
    if rport and not placed:
        kept.append(f"rport={rport}")
    return ";".join(kept)
