"""Via: the path a response takes back.

Runs in: every process. Locks: none. RFC: 3261 §20.42, §18.2; 3581.
"""

from __future__ import annotations

from typing import Final

from serpy.errors import ParseError
from serpy.sip.abnf import IPV6, ascii_lower, is_hostname, is_token
from serpy.sip.nameaddr import parse_params, render_params, split_commas, without_empty_end
from serpy.sip.uri import parse_port

MAGIC_COOKIE: Final = "z9hG4bK"


class Via:
    """One Via value. *transport* is upper case, *host* as written (IPv6 in brackets), *port* 0 when absent.

    *branch* is "" when absent; *received* "" when absent; *rport* -1 when absent, 0 when present without a value.
    """

    def __init__(self, transport: str, host: str, port: int, params: dict[str, str]) -> None:
        self.transport: Final = transport
        self.host: Final = host
        self.port: Final = port
        self.params: Final = params
        self.branch: Final = params.get("branch", "")
        self.received: Final = params.get("received", "")

    @property
    def rport(self) -> int:
        """The rport parameter: -1 absent, 0 without a (usable) value."""
        text = self.params.get("rport")
        if text is None:
            return -1
        if not text.isascii() or not text.isdigit() or len(text) > 5:
            return 0
        port = int(text)
        return port if port <= 65535 else 0

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


# "SIP/2.0/UDP host:port" repeats in every message of a peer; here with what stands before it in the header line.
_CACHE_MAX: Final = 4096
_HEAD_CACHED: Final = 128  # characters
_heads: Final[dict[str, tuple[str, str, int]]] = {}


def via_of_line(line: str) -> Via | None:
    """The Via of the whole header line *line*.

    None when ``parse_via`` has to look: at a list, a folded line, a malformed one, and at a sent-by that
    ``remember_sent_by`` does not know.
    """
    semicolon = line.find(";")
    if semicolon < 0 or "," in line:
        return None
    known = _heads.get(line[:semicolon])
    if known is None:
        known = _usual_head(line, semicolon)
        if known is None:
            return None
    transport, host, port = known
    if line[semicolon : semicolon + 8] == ";branch=":
        branch = line[semicolon + 8 :]  # nothing else: the Via of a proxy
        if branch.isalnum() or not (";" in branch or '"' in branch or " " in branch or "\t" in branch):
            return Via(transport, host, port, {"branch": branch})
    if "\n" in line:
        return None
    try:
        return Via(transport, host, port, parse_params(line, semicolon))
    except ParseError:
        return None


def _usual_head(line: str, semicolon: int) -> tuple[str, str, int] | None:
    """What stands before the parameters when it is ``Via: SIP/2.0/UDP 192.0.2.1:5060`` with these spaces or names."""
    if not line.startswith("Via: SIP/2.0/UDP ") or semicolon > _HEAD_CACHED:
        return None
    sent_by = line[17:semicolon]
    colon = sent_by.find(":")
    host = sent_by if colon < 0 else sent_by[:colon]
    if not host.isascii() or not host.replace(".", "").isalnum():
        return None
    try:
        known = ("UDP", host, 0 if colon < 0 else parse_port(sent_by[colon + 1 :], line))
    except ParseError:
        return None
    _remember(line[:semicolon], known)
    return known


def remember_sent_by(line: str, via: Via) -> None:
    """*line* has been found to say *via*: what stands before its parameters says the same in other lines."""
    semicolon = line.find(";")
    head = line[:semicolon]
    if semicolon < 0 or semicolon > _HEAD_CACHED or "," in head or "\n" in head:
        return
    _remember(head, (via.transport, via.host, via.port))


def _remember(head: str, known: tuple[str, str, int]) -> None:
    if len(_heads) >= _CACHE_MAX:
        _heads.clear()
    _heads[head] = known


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
    return Via(transport, host, port, {} if semicolon < 0 else parse_params(text, semicolon))


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
