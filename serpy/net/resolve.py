"""RFC 3263: where a SIP URI leads. /etc/hosts goes first, then the name servers; the handler parks, the receiver does not wait.

One ``resolve()`` takes ``dns_total_time`` at most, however many questions and servers it needs; those that do not
depend on each other are asked at once. Only what one of our listeners can reach counts.

Runs in: udp receiver, timer. Locks: none. RFC: 3263 §4; 2782.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serpy.errors import BackendError
from serpy.net.dnswire import Records
from serpy.net.loop import Loop
from serpy.net.nameservers import NameServers, read_resolv_conf, servers_of
from serpy.sip.address import default_port, plain_address
from serpy.sip.flow import Listener
from serpy.sip.uri import Uri

if TYPE_CHECKING:
    from serpy.config import Settings

Hop = tuple[str, str, int]  # (transport, address, port)

MAX_HOPS: Final = 32  # addresses tried for one URI; nobody waits for more
ASKED_AHEAD: Final = 3  # targets whose addresses are asked for together where one is enough
NAPTR_SERVICES: Final = {"SIP+D2U": "udp", "SIP+D2T": "tcp", "SIPS+D2T": "tls"}
SRV_PREFIX: Final = {"udp": "_sip._udp.", "tcp": "_sip._tcp.", "tls": "_sips._tcp."}
_ONLY_IPV4: Final = 1  # bits of dns_cache_flags
_ONLY_IPV6: Final = 2
_IPV6_FIRST: Final = 4


class Resolver:
    """Looks up names for one process. *listeners* are what we can send over, None: UDP to anywhere. *servers* replace
    resolv.conf, *hosts* /etc/hosts.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        *,
        listeners: list[Listener] | None = None,
        servers: list[tuple[str, int]] | None = None,
        hosts: dict[str, list[str]] | None = None,
    ) -> None:
        self._loop: Final = loop
        self._settings: Final = settings
        configured, self._search = read_resolv_conf()
        used = (servers_of(settings) or configured) if servers is None else list(servers)
        if settings.dns_servers_no > 0:
            del used[settings.dns_servers_no :]
        self.names: Final = NameServers(loop, settings, used)
        self._hosts: Final = read_hosts() if hosts is None else hosts
        self._kinds: Final = kinds_of(settings, listeners)
        self._transports: Final = [name for name in ("udp", "tcp", "tls") if self._kinds.get(name)]

    def resolve(self, uri: Uri) -> list[Hop]:
        """Where to send a request for *uri*, best first; one entry unless ``use_dns_failover``. May park.

        Raises BackendError when the name leads nowhere we can send to or no server answers in time, ResourceError when
        too many wait.
        """
        hops = self._hops(uri, self._deadline())
        if not hops:
            raise BackendError(f"{uri.host!r:.120} leads to no address we can send to")
        return hops[:MAX_HOPS] if self._settings.use_dns_failover else hops[:1]

    def naptr(self, name: str) -> list[tuple[int, int, str, str, str, str]]:
        """The NAPTR records of *name*: order, preference, flags, services, regexp, replacement. May park.

        Raises BackendError when no server answers in time, ResourceError.
        """
        return [
            (int(order), int(preference), str(flags), str(services), str(regexp), str(replacement))
            for order, preference, flags, services, regexp, replacement in self.names.lookup(
                name, "NAPTR", self._deadline()
            )
        ]

    def _deadline(self) -> float:
        return self._loop.now() + self._settings.dns_total_time

    # ------------------------------------------------------------------------------------------- RFC 3263 §4

    def _hops(self, uri: Uri, deadline: float) -> list[Hop]:
        secure = uri.scheme == "sips"
        wanted = (uri.param("transport") or "").lower()
        if secure and wanted in ("", "tcp"):
            wanted = "tls"
        host = uri.param("maddr") or uri.host
        if uri.port or _literal(host):  # §4.1, §4.2: no NAPTR, no SRV
            return self._at(host, wanted or "udp", uri.port, deadline)
        if wanted:
            transports = [wanted] if wanted in self._transports else []
            return self._by_srv(host, transports, wanted, deadline)
        for transport, name in self._naptr(host, deadline):
            hops = self._srv_hops(name, transport, deadline)
            if hops:
                return hops
        return self._by_srv(host, self._transports, "udp", deadline)

    def _naptr(self, host: str, deadline: float) -> list[tuple[str, str]]:
        """(transport, SRV name) in the order of the records, then of our own preference."""
        settings = self._settings
        if not settings.dns_try_naptr:
            return []
        preference = {"udp": settings.dns_udp_pref, "tcp": settings.dns_tcp_pref, "tls": settings.dns_tls_pref}
        usable: list[tuple[int, int, int, str, str]] = []
        for order, rank, flags, service, _, replacement in self.names.lookup(host, "NAPTR", deadline):
            transport = NAPTR_SERVICES.get(str(service).upper(), "")
            if str(flags).upper() == "S" and transport in self._transports and preference[transport] >= 0:
                usable.append((int(order), -preference[transport], int(rank), transport, str(replacement)))
        return [(transport, name) for _, _, _, transport, name in sorted(usable)]

    def _by_srv(self, host: str, transports: list[str], fallback: str, deadline: float) -> list[Hop]:
        """By the SRV records of *host* for the first of *transports* that has some, else its own addresses."""
        if transports and not self.names.knows(SRV_PREFIX[transports[0]] + host, "SRV"):
            for transport in transports:
                self.names.begin(SRV_PREFIX[transport] + host, "SRV")
            self._ask_ahead(host, fallback)
        for transport in transports:
            hops = self._srv_hops(SRV_PREFIX[transport] + host, transport, deadline)
            if hops:
                return hops
        return self._at(host, fallback, 0, deadline)

    def _at(self, host: str, transport: str, port: int, deadline: float) -> list[Hop]:
        """The addresses of *host* itself; *port* 0 is the usual one."""
        number = port or default_port(transport)
        return [(transport, address, number) for address in self._addresses(host, transport, deadline)]

    def _srv_hops(self, name: str, transport: str, deadline: float) -> list[Hop]:
        """Where the SRV records of *name* lead. One target that cannot be found out does not spoil the others."""
        hops: list[Hop] = []
        failed: BackendError | None = None
        targets = self._srv_order(self.names.lookup(name, "SRV", deadline))[:MAX_HOPS]
        for target, _ in targets if self._settings.use_dns_failover else targets[:ASKED_AHEAD]:
            self._ask_ahead(target, transport)  # so that a silent one costs the others nothing
        for target, port in targets:
            try:
                hops.extend((transport, address, port) for address in self._addresses(target, transport, deadline))
            except BackendError as exc:
                failed = exc
            if hops and (not self._settings.use_dns_failover or len(hops) >= MAX_HOPS):
                break
        if failed is not None and not hops:
            raise failed
        return hops

    def _srv_order(self, records: Records) -> list[tuple[str, int]]:
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

    # -------------------------------------------------------------------------------------------- addresses

    def _addresses(self, name: str, transport: str, deadline: float) -> list[str]:
        """The IP addresses of host *name* that we reach over *transport*, as the settings prefer them; [] for none.

        One kind that cannot be found out does not spoil the other. Raises BackendError when there is nothing else.
        """
        kinds = self._kinds.get(transport, [])
        known = self._known_addresses(name)
        if known:
            return [address for kind in kinds for address in known if (":" in address) == (kind == "AAAA")]
        found: list[str] = []
        failed: BackendError | None = None
        candidates = self._candidates(name)
        if self._settings.use_dns_failover:
            for kind in kinds:
                self.names.begin(candidates[0], kind)
        for candidate in candidates:
            for kind in kinds:
                try:
                    found.extend(str(record[0]) for record in self.names.lookup(candidate, kind, deadline))
                except BackendError as exc:
                    failed = exc
                if found and not self._settings.use_dns_failover:
                    return found  # no need to ask for what would come second
            if found:
                return found
        if failed is not None:
            raise failed
        return []

    def _known_addresses(self, name: str) -> list[str]:
        """What needs no question: *name* is an address, or stands in the hosts file."""
        literal = _literal(name)
        return [literal] if literal else self._hosts.get(name.lower().rstrip("."), [])

    def _ask_ahead(self, name: str, transport: str) -> None:
        """Have the addresses of *name* asked for, while something else is waited for."""
        kinds = self._kinds.get(transport, [])
        if not self._known_addresses(name):
            for kind in kinds if self._settings.use_dns_failover else kinds[:1]:
                self.names.begin(self._candidates(name)[0], kind)

    def _candidates(self, name: str) -> list[str]:
        if not self._settings.dns_use_search_list or "." in name:
            return [name]
        return [*(f"{name}.{domain}" for domain in self._search), name]


def _literal(host: str) -> str:
    """*host* when it is an address, else ""; names, most of which end in a letter, cost next to nothing."""
    return plain_address(host) if host[-1:].isdigit() or ":" in host else ""


def kinds_of(settings: Settings, listeners: list[Listener] | None) -> dict[str, list[str]]:
    """By transport, the types of the address records that are of use, in the order wanted."""
    flags = settings.dns_cache_flags
    wanted = [] if flags & _ONLY_IPV6 else ["A"]
    if flags & _ONLY_IPV6 or (settings.dns_try_ipv6 and not flags & _ONLY_IPV4):
        wanted.insert(0 if flags & _IPV6_FIRST else len(wanted), "AAAA")
    if listeners is None:
        return {"udp": wanted, "tcp": wanted, "tls": wanted}
    mine = {(each.transport, "AAAA" if each.ipv6 else "A") for each in listeners if not each.multicast}
    return {name: [kind for kind in wanted if (name, kind) in mine] for name, _ in mine}


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
