"""Core settings, each declared once.

``Settings`` holds the global parameters of the script (script-language §3) as attributes; the loader fills it, the
command line wins. What may change while the server runs is in ``shm/variables.py``.

Runs in: every process. Locks: none.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from serpy.errors import ConfigError

Scalar = int | str
HUGE: Final = 2**31 - 1
UNIX_PATH_MAX: Final = 107  # bytes of the path of a unix socket (unix(7))


@dataclass(frozen=True)
class Setting:
    """One core parameter. *kind*: "int", "bool" (int 0 or 1), "str" or "list" (values accumulate, list of str).

    *effect* is "" or why the parameter is accepted without doing anything. *check* takes a text and raises ConfigError.
    """

    name: str
    kind: str
    default: Scalar
    help: str
    aliases: tuple[str, ...] = ()
    minimum: int = -HUGE - 1
    maximum: int = HUGE
    effect: str = ""
    check: Callable[[str, str], None] | None = None  # (name, value)


def _int(name: str, default: int, text: str, low: int = -HUGE - 1, high: int = HUGE, *aliases: str) -> Setting:
    return Setting(name, "int", default, text, aliases, low, high)


def _bool(name: str, default: int, text: str, *aliases: str) -> Setting:
    return Setting(name, "bool", default, text, aliases)


def _str(name: str, default: str, text: str, *aliases: str) -> Setting:
    return Setting(name, "str", default, text, aliases)


def _inert(name: str, kind: str, default: Scalar, *aliases: str) -> Setting:
    return Setting(name, kind, default, "accepted for old configurations, no effect", aliases, effect="no effect here")


def _socket_path(name: str, path: str) -> None:
    if not path.startswith("/"):
        raise ConfigError(f"{name} takes the whole path of a socket, not {path[:60]!r}", hint='"/dev/log"')
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise ConfigError(f"{name}: the path of a unix socket has at most {UNIX_PATH_MAX} bytes")


def _one_of(*words: str) -> Callable[[str, str], None]:
    def check(name: str, value: str) -> None:
        if value not in words:
            raise ConfigError(f"{name} is one of {', '.join(words)}, not {value[:60]!r}")

    return check


def _network(name: str, value: str) -> None:
    for part in value.replace(",", " ").split():
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            raise ConfigError(f"{name} takes addresses and networks, not {part[:60]!r}", hint="192.0.2.0/24") from None


def name_server(text: str) -> tuple[str, int] | None:
    """(address, port) of a name server: an address, ``address:port`` or ``[address]:port``; None for anything else."""
    address, port = text, "53"
    if text[:1] == "[":
        address, _, rest = text[1:].partition("]")
        port = rest[1:] if rest[:1] == ":" else rest or "53"
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    try:
        literal = str(ipaddress.ip_address(address))
    except ValueError:
        return None
    is_port = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
    return (literal, int(port)) if is_port else None


def _name_server(name: str, value: str) -> None:
    if name_server(value) is None:
        raise ConfigError(f"{name}: {value[:60]!r} is no address", hint='"192.0.2.53" or "[2001:db8::53]:5353"')


SETTINGS: Final[tuple[Setting, ...]] = (
    # processes
    _int("debug", 0, "log threshold: -1 errors, 0 warnings, 1 notices, 2 lifecycle, 3 per message", -5, 9),
    _str("log_facility", "LOG_DAEMON", "syslog facility"),
    _bool("log_stderror", 0, "log to standard error instead of syslog"),
    Setting("log_socket", "str", "/dev/log", "syslog socket, datagram or stream", check=_socket_path),
    _str("log_name", "", "syslog name; empty: the program's"),
    _bool("fork", 1, "no: one receiver, in the foreground"),
    _int("children", 8, "receiver processes", 1, 256),
    _str("user", "", "user to become after start", "uid"),
    _str("group", "", "group to become after start", "gid"),
    _str("workdir", "", "working directory", "wdir"),
    _str("chroot", "", "directory to lock the server in"),
    _int("shm_mem", 32, "shared memory, MiB", 4, 1 << 20, "shm_mem_size"),
    _bool("shm_force_alloc", 0, "touch all shared memory at start"),
    _bool("mlock_pages", 0, "keep all memory in RAM"),
    _int("real_time", 0, "real-time scheduling: 4 all processes", 0, 7),
    _int("rt_prio", 0, "priority for real_time, 0 = normal", 0, 99),
    _bool("disable_core", 0, "write no core files", "disable_core_dump"),
    _int("open_files_limit", -1, "limit of open files, -1 leaves it", -1),
    _int("exit_timeout", 60, "seconds after which a stuck stop is forced; 0 never", 0, HUGE, "ser_kill_timeout"),
    _int("heartbeat_timeout", 10, "seconds of silence after which a process is replaced; 0 never", 0, 3600),
    _int("crash_limit", 50, "bugs after which a process makes room for a fresh one, if that may help; 0 = any number", 0),
    _int("max_parked", 1000, "messages per receiver that may wait at once, for whatever", 1, 100_000),
    _int("max_parked_dns", 0, "of these for name servers; 0: a fifth of max_parked", 0, 100_000),
    _int("max_parked_database", 0, "of these for database reads; 0: a fifth of max_parked", 0, 100_000),
    _int("max_parked_media", 0, "of these for media proxies; 0: a fifth of max_parked", 0, 100_000),
    _int("max_parked_store", 0, "of these for commits; 0: three tenths of max_parked", 0, 100_000),
    _int("coalesce_ms", 4, "milliseconds a busy receiver lets datagrams gather, which saves CPU; 0 never", 0, 50),
    _str("store_policy", "refuse", "a row somebody waits for while its database is down: refuse (answer 500) or journal (keep in a file)"),
    # identity and addresses
    _int("server_id", 0, "this server's number in a farm"),
    Setting("listen", "list", "", "[proto:]address[:port], repeatable; none: all interfaces"),
    Setting("alias", "list", "", "more names that are ourselves"),
    _bool("auto_aliases", 1, "names of our addresses found by reverse DNS are aliases, too"),
    _int("port", 5060, "port of listen addresses without one", 1, 65535),
    _str("advertised_address", "", "address put into Via and Record-Route"),
    _int("advertised_port", 0, "port put into Via and Record-Route", 0, 65535),
    _bool("mhomed", 0, "ask the kernel which of our addresses reaches a destination"),
    _bool("mcast_loopback", 0, "our multicast datagrams come back to this machine"),
    _int("mcast_ttl", -1, "hop limit of multicast datagrams, -1 leaves it", -1, 255),
    _int("tos", 0x10, "IP type of service of what we send; low delay", 0, 255),
    _int("udp_receive_buffer", 0, "bytes of the UDP receive buffers, 0: the -b option's value", 0),
    # SIP
    _bool("check_via", 0, "forward only replies whose top Via names us"),
    _bool("private_relay", 0, "let messages go from public addresses to private networks and this machine"),
    _bool("dns", 0, "compare Via and source address by DNS before adding received="),
    _bool("rev_dns", 0, "the same by reverse DNS"),
    _bool("phone2tel", 1, "a SIP URI with user=phone is looked up as a tel URI"),
    _bool("reply_to_via", 0, "replies go to the address in Via, not to the source"),
    _bool("force_rport", 0, "answer every request to its source port"),
    _bool("sip_warning", 0, "add a Warning header to our replies"),
    _bool("server_signature", 1, "add Server and User-Agent headers"),
    _str("server_header", "", "the whole Server header line"),
    _str("user_agent_header", "", "the whole User-Agent header line"),
    _int("max_while_loops", 100, "passes after which a while loop is ended", 0),
    _inert("onsend_route_reply", "str", ""),
    # trust
    Setting("trust_mode", "str", "on", "budgets of strangers: on, off, or watch: count, but refuse nothing", check=_one_of("off", "watch", "on")),
    Setting("trust_size", "str", "office", "how generous they are: office, isp or farm", check=_one_of("office", "isp", "farm")),
    Setting("trusted", "list", "", "addresses and networks without budgets of their own, repeatable", check=_network),
    _int("max_transactions", 0, "requests that one receiver works on at once, 0: as trust_size says", 0),
    _int("max_kept", 0, "MiB of messages it keeps for them, 0: as trust_size says", 0),
    # DNS
    _int("dns_retr_time", -1, "seconds until a DNS query is repeated, -1: 2", -1, 60),
    _int("dns_retr_no", -1, "repetitions of a DNS query, -1: 2", -1, 10),
    _int("dns_total_time", 4, "seconds one URI may take to look up, with all its questions and name servers", 1, 60),
    _int("dns_servers_no", -1, "name servers to use, -1: all", -1, 10),
    Setting("dns_servers", "list", "", "name servers, address[:port], repeatable; none: those of /etc/resolv.conf", check=_name_server),
    _bool("dns_use_search_list", 1, "try the search list of resolv.conf"),
    _inert("dns_search_full_match", "bool", 1, "dns_search_list_full_match"),
    _bool("dns_try_ipv6", 1, "look for IPv6 addresses, too"),
    _bool("dns_try_naptr", 0, "look for NAPTR records first"),
    _bool("dns_srv_lb", 0, "spread load by SRV weight"),
    _int("dns_udp_pref", 30, "NAPTR preference of UDP; negative never", -HUGE),
    _int("dns_tcp_pref", 20, "NAPTR preference of TCP; negative never", -HUGE),
    _int("dns_tls_pref", 10, "NAPTR preference of TLS; negative never", -HUGE),
    _int("dns_sctp_pref", 20, "NAPTR preference of SCTP, which we never use", -HUGE),
    _bool("use_dns_cache", 1, "remember DNS answers"),
    _bool("use_dns_failover", 0, "try the next address of a name when one fails"),
    _int("dns_cache_flags", 0, "1 IPv4 only, 2 IPv6 only, 4 IPv6 first", 0, 7),
    _int("dns_cache_negative_ttl", 60, "seconds a name that does not exist is remembered", 0),
    _int("dns_cache_min_ttl", 0, "shortest life of a DNS answer, seconds", 0),
    _int("dns_cache_max_ttl", HUGE, "longest life of a DNS answer, seconds", 1),
    _int("dns_cache_mem", 500, "KiB of remembered DNS answers, per process", 1),
    _inert("dns_cache_gc_interval", "int", 120),
    _inert("dns_cache_init", "bool", 1),
    _bool("use_dst_blacklist", 0, "avoid destinations that failed for a while", "use_dst_blocklist"),
    _int("dst_blacklist_expire", 60, "seconds a failed destination is avoided", 0, HUGE, "dst_blacklist_ttl", "dst_blocklist_expire"),
    _int("dst_blacklist_mem", 250, "KiB of avoided destinations, per process", 1, HUGE, "dst_blocklist_mem"),
    _inert("dst_blacklist_gc_interval", "int", 60, "dst_blocklist_gc_interval"),
    _inert("dst_blacklist_init", "bool", 1, "dst_blocklist_init"),
    # TCP
    _bool("disable_tcp", 0, "no TCP listeners"),
    _int("tcp_children", 0, "TCP processes, 0: as children", 0, 256),
    _bool("tcp_accept_aliases", 0, "honour ;alias in Via"),
    _int("tcp_connection_lifetime", 120, "seconds an idle TCP connection stays open", 0),
    _int("tcp_max_connections", 2048, "TCP connections at once", 0),
    _int("tcp_max_per_source", -1, "of them from one address whose users have not proved who they are, 0: no limit, -1: 5 %, at least 64", -1),
    _int("tcp_message_timeout", 10, "seconds from the first byte of a message over TCP to its last", 0),
    _int("tcp_wq_max", 67108864, "bytes that wait for slow readers in one TCP process", 0),
    _int("tcp_connect_timeout", 10, "seconds a TCP connect may take", 0),
    _int("tcp_send_timeout", 10, "seconds a TCP write may take", 0),
    _bool("tcp_async", 1, "queue TCP writes"),
    _bool("tls_enable", 0, "TLS listeners", "enable_tls"),
    *(
        _inert(name, kind, 0 if kind != "str" else "")
        for name, kind in (
            ("memdbg", "int"), ("memlog", "int"), ("mem_safety", "int"), ("mem_join", "int"), ("disable_sctp", "bool"),
            ("enable_sctp", "int"), ("sctp_children", "int"), ("tcp_poll_method", "str"), ("poll_method", "str"),
            ("tcp_syn_cnt", "int"), ("tcp_linger2", "int"), ("tcp_keepalive", "bool"), ("tcp_keepidle", "int"),
            ("tcp_keepintvl", "int"), ("tcp_keepcnt", "int"), ("tcp_crlf_ping", "bool"), ("tcp_defer_accept", "int"),
            ("tcp_delayed_ack", "bool"), ("tcp_conn_wq_max", "int"), ("tcp_rd_buf_size", "int"),
            ("tcp_no_connect", "bool"), ("tcp_source_ipv4", "str"), ("tcp_source_ipv6", "str"),
            ("tcp_buf_write", "bool"), ("tcp_connection_match", "int"), ("tcp_wq_blk_size", "int"),
            ("udp4_raw", "int"), ("udp4_raw_mtu", "int"), ("udp4_raw_ttl", "int"), ("pmtu_discovery", "bool"),
            ("stun_refresh_interval", "int"), ("stun_allow_stun", "bool"), ("stun_allow_fp", "bool"),
            ("syn_branch", "bool"), ("loop_checks", "bool"), ("corelog", "int"), ("children_per_socket", "int"),
        )
    ),
)  # fmt: skip

BY_NAME: Final[dict[str, Setting]] = {name: item for item in SETTINGS for name in (item.name, *item.aliases)}

KINDS: Final[dict[str, str]] = {name: item.kind for name, item in BY_NAME.items()}
"""Name or alias -> kind, what the script checker needs to know (``Environment.settings``)."""

_WORDS: Final[dict[str, int]] = {"yes": 1, "on": 1, "true": 1, "enable": 1, "no": 0, "off": 0, "false": 0, "disable": 0}


class Settings:
    """The core parameters by name, as attributes. Module-level code reads them; only the loader and daemon set."""

    # Declared for the readers and the type checker; the values come from SETTINGS, and a test compares the two.
    debug: int
    log_facility: str
    log_stderror: int
    log_socket: str
    log_name: str
    fork: int
    children: int
    user: str
    group: str
    workdir: str
    chroot: str
    shm_mem: int
    shm_force_alloc: int
    mlock_pages: int
    real_time: int
    rt_prio: int
    disable_core: int
    open_files_limit: int
    exit_timeout: int
    heartbeat_timeout: int
    crash_limit: int
    max_parked: int
    max_parked_dns: int
    max_parked_database: int
    max_parked_media: int
    max_parked_store: int
    coalesce_ms: int
    store_policy: str
    server_id: int
    listen: list[str]
    alias: list[str]
    auto_aliases: int
    port: int
    advertised_address: str
    advertised_port: int
    mhomed: int
    mcast_loopback: int
    mcast_ttl: int
    tos: int
    udp_receive_buffer: int
    check_via: int
    private_relay: int
    dns: int
    rev_dns: int
    phone2tel: int
    reply_to_via: int
    force_rport: int
    sip_warning: int
    server_signature: int
    server_header: str
    user_agent_header: str
    max_while_loops: int
    trust_mode: str
    trust_size: str
    trusted: list[str]
    max_transactions: int
    max_kept: int
    dns_retr_time: int
    dns_retr_no: int
    dns_total_time: int
    dns_servers_no: int
    dns_servers: list[str]
    dns_use_search_list: int
    dns_try_ipv6: int
    dns_try_naptr: int
    dns_srv_lb: int
    dns_udp_pref: int
    dns_tcp_pref: int
    dns_tls_pref: int
    dns_sctp_pref: int
    use_dns_cache: int
    use_dns_failover: int
    dns_cache_flags: int
    dns_cache_negative_ttl: int
    dns_cache_min_ttl: int
    dns_cache_max_ttl: int
    dns_cache_mem: int
    use_dst_blacklist: int
    dst_blacklist_expire: int
    dst_blacklist_mem: int
    disable_tcp: int
    tcp_children: int
    tcp_accept_aliases: int
    tcp_connection_lifetime: int
    tcp_max_connections: int
    tcp_max_per_source: int
    tcp_message_timeout: int
    tcp_wq_max: int
    tcp_connect_timeout: int
    tcp_send_timeout: int
    tcp_async: int
    tls_enable: int

    def __init__(self, values: Mapping[str, Scalar | Sequence[str]] | None = None) -> None:
        self.from_command_line: set[str] = set()
        for item in SETTINGS:
            setattr(self, item.name, [] if item.kind == "list" else item.default)
        for name, value in (values or {}).items():
            if isinstance(value, (int, str)):
                self.assign(name, value)
            else:
                for entry in value:
                    self.assign(name, entry)

    def get(self, name: str) -> Scalar | list[str]:
        """The value of the setting *name* (or alias). Raises ConfigError for an unknown one."""
        value: Scalar | list[str] = getattr(self, _find(name).name)
        return value

    def assign(self, name: str, value: Scalar, *, command_line: bool = False) -> None:
        """Set *name* (or alias), append for a list. What the command line has set, a file does not change.

        Raises ConfigError for an unknown name, a wrong type or a value out of range.
        """
        item = _find(name)
        checked = _convert(item, value)
        if command_line:
            self.from_command_line.add(item.name)
        elif item.name in self.from_command_line:
            return
        if item.kind == "list":
            getattr(self, item.name).append(str(checked))
        else:
            setattr(self, item.name, checked)


def _find(name: str) -> Setting:
    item = BY_NAME.get(name)
    if item is None:
        raise ConfigError(f"unknown parameter {name}")
    return item


def _convert(item: Setting, value: Scalar) -> Scalar:
    if item.kind in ("str", "list"):
        if item.check is not None:
            item.check(item.name, str(value))
        return str(value)
    number = _WORDS.get(value.lower()) if isinstance(value, str) else value
    if number is None and isinstance(value, str) and value.isascii() and value.lstrip("-").isdigit():
        number = int(value)
    if number is None:
        raise ConfigError(f"{item.name} takes {'yes or no' if item.kind == 'bool' else 'a number'}, not {value!r}")
    if item.kind == "bool":
        return 1 if number else 0
    if not item.minimum <= number <= item.maximum:
        raise ConfigError(f"{item.name} must be {item.minimum} to {item.maximum}, not {number}")
    return number
