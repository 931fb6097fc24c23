"""RFC 3263: where a SIP URI leads, asked over a DNS socket of our own; the handler parks, the receiver does not wait.

Questions and answers are dnspython's messages. Answers come in on one socket that is always registered and resume the
handler by query id. /etc/hosts goes first. Answers, also the negative ones, are kept for their TTL within the
settings' limits.

Runs in: udp receiver, timer. Locks: none. RFC: 3263 §4; 2782; 2308 (negative TTL is the setting's).
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from serpy.errors import BackendError, ConfigError
from serpy.net.loop import Loop, Ticket
from serpy.sip.address import default_port, plain_address
from serpy.sip.flow import Listener
from serpy.sip.uri import Uri

if TYPE_CHECKING:
    from serpy.config import Settings

log = logging.getLogger(__name__)

Hop = tuple[str, str, int]  # (transport, address, port)

DEFAULT_TIMEOUT_S: Final = 2.0
DEFAULT_RETRIES: Final = 2
ENTRY_BYTES: Final = 512  # an answer in memory, roughly: turns dns_cache_mem into a count
MAX_CNAMES: Final = 8
MAX_HOPS: Final = 32  # addresses tried for one URI; nobody waits for more
MAX_ANSWER: Final = 4096
NAPTR_SERVICES: Final = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}
SRV_PREFIX: Final = {"udp": "_sip._udp.", "tcp": "_sip._tcp.", "tls": "_sips._tcp."}


class Records:
    """What one question was answered: the rdata as plain tuples, and until when that holds."""

    def __init__(self, records: list[tuple[str | int, ...]], expires_at: float) -> None:
        self.records: Final = records
        self.expires_at: Final = expires_at


class Resolver:
    """Looks up names for one process. *transports* are those we can send over, *servers* replace resolv.conf."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        *,
        transports: tuple[str, ...] = ("udp",),
        servers: list[tuple[str, int]] | None = None,
        hosts: dict[str, list[str]] | None = None,
    ) -> None:
        self._loop: Final = loop
        self._settings: Final = settings
        self._transports: Final = transports
        configured, self._search = read_resolv_conf()
        self._servers: Final = (servers_of(settings) or configured) if servers is None else servers
        if settings.dns_servers_no > 0:
            del self._servers[settings.dns_servers_no :]
        self._hosts: Final = read_hosts() if hosts is None else hosts
        self._cache: Final[OrderedDict[tuple[str, str], Records]] = OrderedDict()
        self._capacity: Final = max(16, settings.dns_cache_mem * 1024 // ENTRY_BYTES)
        self._asked: Final[dict[tuple[int, int], Ticket]] = {}  # (fd, query id) -> who waits
        self._sockets: Final[dict[int, socket.socket]] = {}  # address family -> socket
        self.queries = 0

    def resolve(self, uri: Uri) -> list[Hop]:
        """Where to send a request for *uri*, best first; one entry unless ``use_dns_failover``. May park.

        Raises BackendError when the name leads nowhere or no server answers in time.
        """
        hops = self._hops(uri)
        if not hops:
            raise BackendError(f"{uri.host!r:.120} leads to no address we can send to")
        return hops[:MAX_HOPS] if self._settings.use_dns_failover else hops[:1]

    def addresses(self, name: str) -> list[str]:
        """The IP addresses of host *name*, as the settings prefer them; [] when it has none. May park."""
        literal = plain_address(name)
        if literal:
            return [literal]
        known = self._hosts.get(name.lower().rstrip("."))
        if known:
            return self._by_family(known)
        settings = self._settings
        flags = settings.dns_cache_flags
        kinds = [] if flags & 2 else ["A"]
        if (settings.dns_try_ipv6 and not flags & 1) or flags & 2:
            kinds.append("AAAA")
        found: list[str] = []
        for candidate in self._candidates(name):
            for kind in kinds:
                found.extend(str(record[0]) for record in self._lookup(candidate, kind))
                if found and kind == "A" and not flags & 4 and not settings.use_dns_failover:
                    return found  # no need to ask for what would come second
            if found:
                return self._by_family(found)
        return []

    def naptr(self, name: str) -> list[tuple[int, int, str, str, str, str]]:
        """The NAPTR records of *name*: order, preference, flags, services, regexp, replacement. May park.

        Raises BackendError when no server answers in time.
        """
        return [
            (int(order), int(preference), str(flags), str(services), str(regexp), str(replacement))
            for order, preference, flags, services, regexp, replacement in self._lookup(name, "NAPTR")
        ]

    # ------------------------------------------------------------------------------------------- RFC 3263 §4

    def _hops(self, uri: Uri) -> list[Hop]:
        secure = uri.scheme == "sips"
        wanted = (uri.param("transport") or "").lower()
        if secure and wanted in ("", "tcp"):
            wanted = "tls"
        host = uri.param("maddr") or uri.host
        literal = plain_address(host)
        if literal or uri.port:  # §4.1, §4.2: no NAPTR, no SRV
            transport = wanted or ("tls" if secure else "udp")
            port = uri.port or default_port(transport)
            return [(transport, address, port) for address in ([literal] if literal else self.addresses(host))]
        if wanted:
            return self._by_srv(host, SRV_PREFIX.get(wanted, "") + host, wanted)
        for transport, name in self._naptr(host, secure):
            hops = self._srv_hops(name, transport)
            if hops:
                return hops
        for transport in self._transports:
            if secure and transport != "tls":
                continue
            hops = self._srv_hops(SRV_PREFIX[transport] + host, transport)
            if hops:
                return hops
        transport = "tls" if secure else "udp"
        return [(transport, address, default_port(transport)) for address in self.addresses(host)]

    def _naptr(self, host: str, secure: bool) -> list[tuple[str, str]]:
        """(transport, SRV name) in the order of the records, then of our own preference."""
        settings = self._settings
        if not settings.dns_try_naptr:
            return []
        preference = {"udp": settings.dns_udp_pref, "tcp": settings.dns_tcp_pref, "tls": settings.dns_tls_pref}
        usable: list[tuple[int, int, int, str, str]] = []
        for order, rank, flags, service, _, replacement in self._lookup(host, "NAPTR"):
            transport = NAPTR_SERVICES.get(str(service).upper(), "")
            if str(flags).upper() != "S" or transport not in self._transports or preference[transport] < 0:
                continue
            if not secure or transport == "tls":
                usable.append((int(order), -preference[transport], int(rank), transport, str(replacement)))
        return [(transport, name) for _, _, _, transport, name in sorted(usable)]

    def _by_srv(self, host: str, name: str, transport: str) -> list[Hop]:
        if name != host and transport in self._transports:
            hops = self._srv_hops(name, transport)
            if hops:
                return hops
        return [(transport, address, default_port(transport)) for address in self.addresses(host)]

    def _srv_hops(self, name: str, transport: str) -> list[Hop]:
        hops: list[Hop] = []
        for target, port in self._srv_order(self._lookup(name, "SRV")):
            hops.extend((transport, address, port) for address in self.addresses(target))
            if hops and not self._settings.use_dns_failover:
                break
        return hops

    def _srv_order(self, records: list[tuple[str | int, ...]]) -> list[tuple[str, int]]:
        """Targets by priority; within one, at random by weight (RFC 2782) when the settings say so."""
        left = sorted(records, key=lambda record: (int(record[0]), -int(record[1])))
        if len(left) == 1 and left[0][3] == ".":
            return []  # "decidedly not available"
        ordered: list[tuple[str, int]] = []
        while left:
            first = [record for record in left if record[0] == left[0][0]]
            chosen = first[0]
            if self._settings.dns_srv_lb and len(first) > 1:
                chosen = random.choices(first, [int(record[1]) + 0.01 for record in first])[0]
            left.remove(chosen)
            ordered.append((str(chosen[3]), int(chosen[2])))
        return ordered

    # ----------------------------------------------------------------------------------------- one question

    def _lookup(self, name: str, kind: str) -> list[tuple[str | int, ...]]:
        """The records of *kind*, [] when there are none. Raises BackendError when nobody answers."""
        key = (name.lower().rstrip("."), kind)
        cached = self._cache.get(key)
        if cached is not None and cached.expires_at > self._loop.now():
            self._cache.move_to_end(key)
            return cached.records
        try:
            dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return []  # no such name can exist
        records, ttl = self._ask(key[0], kind)
        settings = self._settings
        ttl = max(settings.dns_cache_min_ttl, min(settings.dns_cache_max_ttl, ttl))
        if not records:
            ttl = settings.dns_cache_negative_ttl
        if settings.use_dns_cache and ttl > 0:
            self._cache[key] = Records(records, self._loop.now() + ttl)
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        return records

    def _ask(self, name: str, kind: str) -> tuple[list[tuple[str | int, ...]], int]:
        settings = self._settings
        timeout = float(settings.dns_retr_time) if settings.dns_retr_time > 0 else DEFAULT_TIMEOUT_S
        tries = 1 + (settings.dns_retr_no if settings.dns_retr_no >= 0 else DEFAULT_RETRIES)
        for attempt in range(tries * max(1, len(self._servers))):
            if not self._servers:
                break
            server = self._servers[attempt % len(self._servers)]
            answer = self._ask_server(server, name, kind, timeout)
            if answer is None or answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                continue
            return _records(answer, name, kind)
        raise BackendError(f"no DNS server answers for {name!r:.120}")

    def _ask_server(
        self, server: tuple[str, int], name: str, kind: str, timeout: float
    ) -> dns.message.Message | None:  # fmt: skip
        query = dns.message.make_query(name, kind, payload=MAX_ANSWER)
        query.id = random.SystemRandom().randrange(65536)
        sock = self._socket(server[0])
        key = (sock.fileno(), query.id)
        if key in self._asked:
            return None  # one in 65,536: the next attempt takes another number
        ticket = self._asked[key] = self._loop.new_ticket()
        self.queries += 1
        try:
            sock.sendto(query.to_wire(), server)
            data = self._loop.wait(ticket, self._loop.now() + timeout)
        except OSError:
            self._loop.drop(ticket)
            return None
        finally:
            self._asked.pop(key, None)
        if not isinstance(data, tuple):
            return None
        wire, source = data
        with contextlib.suppress(dns.exception.DNSException, ValueError):
            answer = dns.message.from_wire(wire)
            if source[:2] == server and query.is_response(answer):
                return answer
        return None

    def _socket(self, address: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self._sockets.get(family)
        if sock is None:
            # Its port is the kernel's random choice: with the random id that is what a forger has to guess.
            sock = self._sockets[family] = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind(("::" if family == socket.AF_INET6 else "", 0))
            ready = sock
            self._loop.add_reader(sock.fileno(), lambda: self._read(ready))
        return sock

    def _read(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, source = sock.recvfrom(65535)
                ticket = self._asked.get((sock.fileno(), int.from_bytes(data[:2], "big")))
                if ticket is not None and (str(source[0]), int(source[1])) in self._servers:
                    self._loop.resume(ticket.id, (data, (str(source[0]), int(source[1]))))

    def _candidates(self, name: str) -> list[str]:
        if not self._settings.dns_use_search_list or "." in name:
            return [name]
        return [*(f"{name}.{domain}" for domain in self._search), name]

    def _by_family(self, addresses: list[str]) -> list[str]:
        flags = self._settings.dns_cache_flags
        kept = [
            address
            for address in addresses
            if not (flags & 1 and ":" in address) and not (flags & 2 and ":" not in address)
        ]
        if not self._settings.dns_try_ipv6 and not flags & 2:
            kept = [address for address in kept if ":" not in address]
        return sorted(kept, key=lambda address: (":" in address) != bool(flags & 4))


def _records(answer: dns.message.Message, name: str, kind: str) -> tuple[list[tuple[str | int, ...]], int]:
    """The records of *kind* for *name* in *answer*, aliases followed, and their TTL."""
    wanted = dns.rdatatype.from_text(kind)
    owner = dns.name.from_text(name)
    ttl = 2**31 - 1
    for _ in range(MAX_CNAMES):
        for rrset in answer.answer:
            if rrset.name == owner and rrset.rdtype == wanted:
                return [_plain(rdata, kind) for rdata in rrset], min(ttl, rrset.ttl)
        alias = [rrset for rrset in answer.answer if rrset.name == owner and rrset.rdtype == dns.rdatatype.CNAME]
        if not alias:
            break
        owner = alias[0][0].target
        ttl = min(ttl, alias[0].ttl)
    return [], 0


def _plain(rdata: object, kind: str) -> tuple[str | int, ...]:
    fields = {
        "A": ("address",),
        "AAAA": ("address",),
        "SRV": ("priority", "weight", "port", "target"),
        "NAPTR": ("order", "preference", "flags", "service", "regexp", "replacement"),
    }[kind]
    values: list[str | int] = []
    for field in fields:
        value = getattr(rdata, field)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        elif isinstance(value, dns.name.Name):
            value = value.to_text() if value == dns.name.root else value.to_text(omit_final_dot=True)
        values.append(value)
    return tuple(values)


def transports_of(listeners: list[Listener]) -> tuple[str, ...]:
    """What those who listen on *listeners* can send over, UDP first."""
    mine = {listener.transport for listener in listeners}
    return tuple(name for name in ("udp", "tcp", "tls") if name in mine)


def servers_of(settings: Settings) -> list[tuple[str, int]]:
    """The name servers that ``dns_servers`` names, [] for those of resolv.conf. Raises ConfigError."""
    found: list[tuple[str, int]] = []
    for text in settings.dns_servers:
        address, port = text, "53"
        if text[:1] == "[":
            address, _, rest = text[1:].partition("]")
            port = rest[1:] if rest[:1] == ":" else rest or "53"
        elif text.count(":") == 1:
            address, _, port = text.partition(":")
        literal = plain_address(address)
        if not literal or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            raise ConfigError(f"dns_servers: {text[:60]!r} is no address", hint='"192.0.2.53" or "[2001:db8::53]:5353"')
        found.append((literal, int(port)))
    return found


def read_resolv_conf(path: str = "/etc/resolv.conf") -> tuple[list[tuple[str, int]], list[str]]:
    """(name servers, search list) of *path*; a missing file is an empty one."""
    servers: list[tuple[str, int]] = []
    search: list[str] = []
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver" and plain_address(words[1]):
                servers.append((words[1], 53))
            elif len(words) > 1 and words[0] in ("search", "domain"):
                search = words[1:]
    return servers, search


def read_hosts(path: str = "/etc/hosts") -> dict[str, list[str]]:
    """Addresses by lower-case name in *path*; a missing file is an empty one."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for line in Path(path).read_text(encoding="utf-8", errors="replace").split("\n"):
            words = line.partition("#")[0].split()
            if len(words) > 1 and plain_address(words[0]):
                for name in words[1:]:
                    found.setdefault(name.lower(), []).append(words[0])
    return found
