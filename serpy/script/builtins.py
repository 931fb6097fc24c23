"""What every script knows without loading a module: core functions and global parameters.

Functions that the generator writes out in place (flags, ``route``, ``force_send_socket`` …) are listed here by name
only.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from serpy.context.context import MAX_BRANCHES, Context, Target
from serpy.errors import ParseError
from serpy.limited_log import RateLimit
from serpy.script.exports import FALSE, TRUE, Arg, Function, Routes
from serpy.script.hooks import Hooks
from serpy.script.runtime import is_reply
from serpy.script.scalars import Scalar, to_int, to_str
from serpy.sip.flow import CLOSE, NO_CONNECT, Flow
from serpy.sip.uri import Uri, parse_uri

log = logging.getLogger("serpy.script")

LINES: Final = 100  # of one log() in LINES_S seconds: peers decide how often it runs
LINES_S: Final = 10.0
_lines: Final[dict[str, RateLimit]] = {}  # by text, which is a constant of the script

_LOG_LEVELS: Final = {0: logging.WARNING, 1: logging.INFO, 2: logging.INFO, 3: logging.DEBUG}

SYNONYMS: Final = {
    "sethost": "rewritehost", "seth": "rewritehost", "sethostport": "rewritehostport", "sethp": "rewritehostport",
    "setuser": "rewriteuser", "setu": "rewriteuser", "setuserpass": "rewriteuserpass", "setup": "rewriteuserpass",
    "setport": "rewriteport", "setp": "rewriteport", "seturi": "rewriteuri", "add_rport": "force_rport",
    "add_tcp_alias": "force_tcp_alias",
}  # fmt: skip


def log_text(ctx: Context, text: str) -> int:
    """``log("text")``."""
    return log_level(ctx, 0, text)


def log_level(ctx: Context, level: int, text: str) -> int:
    """``log(level, "text")``; the text is printed as it stands, so often and no more."""
    number = _LOG_LEVELS.get(level, logging.ERROR if level < 0 else logging.DEBUG)
    if not log.isEnabledFor(number):
        return TRUE
    limit = _lines.get(text)
    if limit is None:
        limit = _lines[text] = RateLimit(LINES, LINES_S)
    if limit.allows(ctx.clock.now()):
        left_out = limit.take_suppressed()
        more = f" ({left_out} more like this)" if left_out else ""
        log.log(number, "<script>: %s%s", text.rstrip("\r\n"), more)
    return TRUE


def append_branch(ctx: Context, uri: Scalar = None, q: Scalar = None) -> int:
    """Add a branch: the current Request-URI, which is then not tried twice, or *uri*."""
    if len(ctx.branches) >= MAX_BRANCHES:
        return FALSE
    number = ctx.q if q is None else _q_value(to_str(q))
    if uri is not None and uri != "":
        ctx.branches.append(Target(to_str(uri), "", ctx.send_listener, number))
        return TRUE
    ctx.branches.append(Target(ctx.request_uri, ctx.dst_uri, ctx.send_listener, number, ctx.target_flags))
    ctx.uri_consumed = True
    return TRUE


def _q_value(text: str) -> int:
    """0..1000 of ``0.5``; -1 when it is none."""
    whole, _, fraction = text.partition(".")
    if whole not in ("", "0", "1") or not (fraction or "0").isascii() or not (fraction or "0").isdigit():
        return -1
    return min(1000, int(whole or "0") * 1000 + int((fraction + "000")[:3]))


def force_rport(ctx: Context) -> int:
    """Answers go to the port the request came from."""
    ctx.reply_to_source = True
    return TRUE


# ---- Request-URI edits


def _edit(ctx: Context, change: Callable[[Uri], Uri]) -> int:
    if is_reply(ctx):
        return FALSE
    try:
        text = str(change(ctx.uri))
        parse_uri(text)  # an edit must not make what we could not read again
    except ParseError:
        return FALSE
    ctx.request_uri = text
    return TRUE


def rewritehost(ctx: Context, host: Scalar) -> int:
    """Replace the host; the port goes."""
    return _edit(ctx, lambda uri: uri.replaced(host=to_str(host), port=0))


def rewritehostport(ctx: Context, text: Scalar) -> int:
    """Replace host and port."""
    name, number = _split_port(to_str(text))
    if number < 0:
        return FALSE
    return _edit(ctx, lambda uri: uri.replaced(host=name, port=number))


def _split_port(text: str) -> tuple[str, int]:
    """(host, port or 0); port -1 when it is none."""
    end = text.rfind("]")
    colon = text.rfind(":")
    if colon <= end:
        return text, 0
    digits = text[colon + 1 :]
    if not digits.isascii() or not digits.isdigit() or len(digits) > 5:
        return text, -1
    return text[:colon], int(digits)


def rewriteport(ctx: Context, port: Scalar) -> int:
    """Replace the port."""
    return _edit(ctx, lambda uri: uri.replaced(port=to_int(port)))


def rewriteuser(ctx: Context, user: Scalar) -> int:
    """Replace the user."""
    return _edit(ctx, lambda uri: uri.replaced(user=to_str(user)))


def rewriteuserpass(ctx: Context, text: Scalar) -> int:
    """Replace user and password."""
    user, _, password = to_str(text).partition(":")
    return _edit(ctx, lambda uri: uri.replaced(user=user, password=password))


def rewriteuri(ctx: Context, text: Scalar) -> int:
    """Replace the whole Request-URI."""
    new = to_str(text)
    try:
        parse_uri(new)
    except ParseError:
        return FALSE
    ctx.request_uri = new
    return TRUE


def prefix(ctx: Context, text: Scalar) -> int:
    """Put *text* before the user."""
    return _edit(ctx, lambda uri: uri.replaced(user=to_str(text) + uri.user))


def strip(ctx: Context, count: int) -> int:
    """Cut *count* characters from the front of the user."""
    return _edit(ctx, lambda uri: uri.replaced(user=uri.user[max(0, count) :]))


def strip_tail(ctx: Context, count: int) -> int:
    """Cut *count* characters from the end of the user."""
    return _edit(ctx, lambda uri: uri.replaced(user=uri.user[: max(0, len(uri.user) - max(0, count))]))


def revert_uri(ctx: Context) -> int:
    """Back to the Request-URI as received."""
    if ctx.request is None:
        return FALSE
    ctx.request_uri = ctx.request.request_uri
    ctx.uri_changed = False
    return TRUE


def userphone(ctx: Context) -> int:
    """Add ``user=phone``."""
    return _edit(ctx, _with_phone)


def _with_phone(uri: Uri) -> Uri:
    if uri.param("user") is not None:
        return uri
    params = uri.params.rstrip(";")
    return uri.replaced(params=f"{params};user=phone" if params else "user=phone")


def set_reply_close(ctx: Context) -> int:
    """Close the connection after the answer."""
    _reply_option(ctx, CLOSE)
    return TRUE


def set_reply_no_connect(ctx: Context) -> int:
    """Do not open a connection for the answer."""
    _reply_option(ctx, NO_CONNECT)
    return TRUE


def set_forward_close(ctx: Context) -> int:
    """Close the connection after forwarding."""
    _forward_option(ctx, CLOSE)
    return TRUE


def set_forward_no_connect(ctx: Context) -> int:
    """Do not open a connection for forwarding."""
    _forward_option(ctx, NO_CONNECT)
    return TRUE


def _reply_option(ctx: Context, option: int) -> None:
    """Answers go where the request came from, so they inherit its options; a transaction that exists has its own."""
    flow = ctx.flow
    if flow.connection:
        ctx.flow = Flow(flow.listener, flow.host, flow.port, flow.connection, flow.options | option)


def _forward_option(ctx: Context, option: int) -> None:
    options = ctx.notes.get("forward_options")  # Forwarder reads it
    ctx.notes["forward_options"] = (options if isinstance(options, int) else 0) | option


_VALUE: Final = (Arg.VALUE,)
_PLACE: Final = Routes.REQUEST | Routes.FAILURE | Routes.BRANCH | Routes.EVENT

_FUNCTIONS: Final[tuple[Function, ...]] = (
    Function("log", log_text, (Arg.STR,), routes=Routes.ALL, summary="log constant text"),
    Function("log", log_level, (Arg.INT, Arg.STR), routes=Routes.ALL, summary="log constant text at a level"),
    Function("append_branch", append_branch, (Arg.VALUE, Arg.VALUE), 2, _PLACE, "add a branch"),
    Function("force_rport", force_rport, routes=Routes.ALL, summary="answer to the source port"),
    Function("rewritehost", rewritehost, _VALUE, routes=_PLACE, summary="replace the Request-URI's host"),
    Function("rewritehostport", rewritehostport, _VALUE, routes=_PLACE, summary="replace host and port"),
    Function("rewriteport", rewriteport, _VALUE, routes=_PLACE, summary="replace the Request-URI's port"),
    Function("rewriteuser", rewriteuser, _VALUE, routes=_PLACE, summary="replace the Request-URI's user"),
    Function("rewriteuserpass", rewriteuserpass, _VALUE, routes=_PLACE, summary="replace user and password"),
    Function("rewriteuri", rewriteuri, _VALUE, routes=_PLACE, summary="replace the Request-URI"),
    Function("prefix", prefix, _VALUE, routes=_PLACE, summary="put text before the user"),
    Function("strip", strip, (Arg.INT,), routes=_PLACE, summary="cut characters from the user's front"),
    Function("strip_tail", strip_tail, (Arg.INT,), routes=_PLACE, summary="cut characters from the user's end"),
    Function("revert_uri", revert_uri, routes=_PLACE, summary="back to the received Request-URI"),
    Function("userphone", userphone, routes=_PLACE, summary="add user=phone to the Request-URI"),
    Function("set_reply_close", set_reply_close, routes=Routes.ALL, summary="close the connection after the answer"),
    Function(
        "set_reply_no_connect", set_reply_no_connect, routes=Routes.ALL, summary="answer on open connections only"
    ),
    Function("set_forward_close", set_forward_close, routes=Routes.ALL, summary="close after forwarding"),
    Function(
        "set_forward_no_connect", set_forward_no_connect, routes=Routes.ALL, summary="forward on open connections"
    ),
)


def core_functions(hooks: Hooks) -> tuple[Function, ...]:
    """The functions that every script has, for a program with these *hooks*."""
    alias = Function("force_tcp_alias", hooks.force_tcp_alias, (Arg.INT,), 1, Routes.ALL, "alias this connection")
    return (*_FUNCTIONS, alias)


IN_PLACE: Final[dict[str, tuple[int, int]]] = {  # name -> fewest and most arguments
    "route": (1, 1), "setflag": (1, 1), "resetflag": (1, 1), "isflagset": (1, 1), "setavpflag": (2, 2),
    "resetavpflag": (2, 2), "isavpflagset": (2, 2), "force_send_socket": (1, 1), "forward": (0, 2),
    "forward_udp": (0, 2), "forward_tcp": (0, 2), "forward_tls": (0, 2),
}  # fmt: skip
PURE: Final = frozenset(("setflag", "resetflag", "isflagset", "setavpflag", "resetavpflag", "isavpflagset"))

_INTEGERS: Final = [
    "debug",
    "memdbg",
    "memlog",
    "mem_dbg",
    "mem_log",
    "server_id",
    "port",
    "children",
    "tcp_children",
    "open_files_limit",
    "real_time",
    "dns_retr_time",
    "dns_retr_no",
    "dns_servers_no",
    "dns_cache_flags",
    "dns_cache_negative_ttl",
    "dns_cache_min_ttl",
    "dns_cache_max_ttl",
    "dns_cache_mem",
    "dns_cache_gc_interval",
    "dns_udp_pref",
    "dns_tcp_pref",
    "dns_tls_pref",
    "dns_sctp_pref",
    "dst_blacklist_mem",
    "dst_blacklist_expire",
    "dst_blacklist_ttl",
    "dst_blacklist_gc_interval",
    "dst_blocklist_mem",
    "dst_blocklist_expire",
    "dst_blocklist_ttl",
    "dst_blocklist_gc_interval",
    "tcp_connection_lifetime",
    "tcp_max_connections",
    "tcp_connect_timeout",
    "tcp_send_timeout",
    "tcp_keepidle",
    "tcp_keepcnt",
    "tcp_keepintvl",
    "tls_max_connections",
    "tls_threads_mode",
    "mcast_ttl",
    "exit_timeout",
    "ser_kill_timeout",
    "max_while_loops",
    "advertised_port",
    "udp_receiver_mode",
    "tcp_accept_iplimit",
    "tcp_accept_no_cl",
    "max_len",
    "asize",
    "wait_timer",
]
_BOOLEANS: Final = [
    "log_stderror",
    "fork",
    "check_via",
    "dns",
    "rev_dns",
    "disable_core",
    "disable_core_dump",
    "mhomed",
    "disable_tcp",
    "tcp_accept_aliases",
    "phone2tel",
    "reply_to_via",
    "sip_warning",
    "mlock_pages",
    "shm_force_alloc",
    "dns_use_search_list",
    "dns_try_ipv6",
    "use_dns_cache",
    "use_dns_failover",
    "dns_try_naptr",
    "dns_srv_lb",
    "use_dst_blacklist",
    "use_dst_blocklist",
    "tcp_async",
    "tcp_buf_write",
    "tls_enable",
    "enable_tls",
    "disable_tls",
    "tls_disable",
    "enable_sctp",
    "disable_sctp",
    "mcast_loopback",
    "force_rport",
    "server_signature",
    "auto_aliases",
    "dns_cache_delete_nonexpired",
    "tcp_crlf_ping",
]
_STRINGS: Final = [
    "log_facility",
    "log_name",
    "log_prefix",
    "user",
    "uid",
    "group",
    "gid",
    "workdir",
    "wdir",
    "chroot",
    "advertised_address",
    "server_header",
    "user_agent_header",
    "tos",
    "pidfile",
]
SETTINGS: Final[dict[str, str]] = {
    **dict.fromkeys(_INTEGERS, "int"), **dict.fromkeys(_BOOLEANS, "bool"), **dict.fromkeys(_STRINGS, "str"),
    "listen": "list", "alias": "list",
}  # fmt: skip
IGNORED_PREFIXES: Final = ("stun_", "sctp_", "udp4_raw")
