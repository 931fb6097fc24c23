"""What compiled routes call: values and their coercions, core operands, hooks into the server.

Everything here is hot. The rules are those of script-language §8.2: the left operand's run-time type decides, an
undefined value (None) takes the type of the other side.

Runs in: udp receiver, timer. Locks: none.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from typing import Final

from serpy.context.avps import AvpName
from serpy.context.context import ONSEND, Context
from serpy.errors import ParseError
from serpy.sip.address import pack_address
from serpy.sip.flow import Listener

log = logging.getLogger("serpy.script")

MAX_DEPTH: Final = 100
_LOG_INTERVAL_S: Final = 1.0
_NETWORKS_KEPT: Final = 4096

Scalar = int | str | None


class Hooks:
    """What the rest of the server lends to the script. Set once per process by the pipeline and the loader."""

    def __init__(self) -> None:
        self.forward: Callable[[Context, str, int, str], int] = _no_forward  # (ctx, host, port, transport) -> code
        self.is_myself: Callable[[str, int], bool] = _never_myself
        self.is_my_address: Callable[[str], bool] = _never_my_address
        self.find_listener: Callable[[str, str, int], Listener | None] = _no_listener
        self.cfg_get: Callable[[str, str], int | str] | None = None
        self.server_id: Callable[[], int] = _zero
        self.resolve: Callable[[str], list[str]] = _no_names
        self.tcp_alias: Callable[[Context, int], int] = _no_alias  # force_tcp_alias: (ctx, port or 0) -> code
        self.max_while_loops = 100


def _no_forward(_ctx: Context, host: str, port: int, transport: str) -> int:
    log.error("cannot forward to %s:%s:%d: this process does not send", transport, host, port)
    return -1


def _never_myself(_host: str, _port: int) -> bool:
    return False


def _never_my_address(_host: str) -> bool:
    return False


def _no_listener(_transport: str, _host: str, _port: int) -> Listener | None:
    return None


def _zero() -> int:
    return 0


def _no_names(_name: str) -> list[str]:
    return []


def _no_alias(_ctx: Context, _port: int) -> int:
    return 1


HOOKS: Final = Hooks()
VARS: Final[dict[str, int | str]] = {}  # $var(name): of this process, survives the message


# ---- coercion


def to_int(value: Scalar) -> int:
    """Decimal text or a number -> int; anything else, undefined included, is 0."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    text = value.strip(" \t")
    digits = text[1:] if text[:1] in ("-", "+") else text
    if digits and len(digits) <= 18 and digits.isascii() and digits.isdigit():
        return int(text)
    return 0


def to_str(value: Scalar) -> str:
    """A value as text; undefined is empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return str(value)


def equal(left: Scalar, right: Scalar) -> bool:
    """``==`` by the left operand's type."""
    if left is None:
        return right is None or right == "" or right == 0  # noqa: PLR1714 - types differ
    if isinstance(left, int):
        return left == to_int(right)
    return left == to_str(right)


def equal_null(value: Scalar) -> bool:
    """``== $null``."""
    return value is None


def add(left: Scalar, right: Scalar) -> int | str:
    """``+``: a number on the left adds, text joins; undefined takes the type of the right side."""
    if isinstance(left, int):
        return left + to_int(right)
    if left is None and isinstance(right, int):
        return right
    return to_str(left) + to_str(right)


def divide(left: int, right: int) -> int:
    """``/``, towards zero; dividing by 0 gives 0."""
    if right == 0:
        return 0
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def modulo(left: int, right: int) -> int:
    """``mod`` with the sign of the left side; by 0 gives 0."""
    return left - divide(left, right) * right if right else 0


def same(value: str, lowered: str) -> bool:
    """Case-insensitive equality of a core operand; *lowered* is the constant in lower case."""
    return value == lowered or (len(value) == len(lowered) and value.lower() == lowered)


def search_dynamic(pattern: Scalar, value: Scalar) -> bool:
    """``=~`` with a pattern that is not a constant; a bad one matches nothing."""
    try:
        return re.search(posix_pattern(to_str(pattern)), to_str(value), REGEX_FLAGS) is not None
    except re.error:
        log.warning("bad regular expression made by the script")
        return False


REGEX_FLAGS: Final = int(re.IGNORECASE | re.MULTILINE | re.ASCII)
_CLASSES: Final = {
    "alpha": "A-Za-z", "digit": "0-9", "alnum": "A-Za-z0-9", "upper": "A-Z", "lower": "a-z", "space": r"\s",
    "blank": r" \t", "punct": r"!-/:-@\[-`{-~", "xdigit": "0-9A-Fa-f", "cntrl": r"\x00-\x1f\x7f",
    "print": r"\x20-\x7e", "graph": r"\x21-\x7e",
}  # fmt: skip


def posix_pattern(text: str) -> str:
    """A POSIX extended expression in Python's syntax: named classes are the difference that scripts meet."""
    if "[:" in text:
        for name, members in _CLASSES.items():
            text = text.replace(f"[:{name}:]", members)
    return text


def compile_regex(text: str) -> re.Pattern[str]:
    """A script's regular expression: extended, case-insensitive, multi-line. Raises re.error."""
    return re.compile(posix_pattern(text), REGEX_FLAGS)


class Anchored:
    """A pattern that begins with ``^``: on a single line it is tried at the start and nowhere else."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._search: Final = pattern.search
        self._match: Final = pattern.match

    def holds(self, text: str) -> bool:
        """What ``search`` would say."""
        return (self._search(text) if "\n" in text else self._match(text)) is not None


# ---- core operands


def is_reply(ctx: Context) -> bool:
    """True when the script works on a response; a failure route knows one but works on the request."""
    response = ctx.response
    return response is not None and ctx.message is response


def uri_or_status(ctx: Context) -> str:
    """``uri`` (of a request) and ``status`` (of a reply) are one operand."""
    response = ctx.response
    return ctx.request_uri if response is None or not is_reply(ctx) else str(response.status)


def uri_is_myself(ctx: Context) -> bool:
    """``uri == myself``; a reply and an unparsable URI are not."""
    if is_reply(ctx):
        return False
    try:
        uri = ctx.uri
    except ParseError:
        return False
    return HOOKS.is_myself(uri.host, uri.port)


def from_uri(ctx: Context) -> str:
    """The From URI; "" when it cannot be parsed."""
    try:
        return ctx.message.from_.uri_text
    except ParseError:
        return ""


def to_uri(ctx: Context) -> str:
    """The To URI; "" when it cannot be parsed."""
    try:
        return ctx.message.to.uri_text
    except ParseError:
        return ""


def header_uri_is_myself(ctx: Context, from_header: bool) -> bool:
    """``from_uri == myself``, ``to_uri == myself``."""
    try:
        address = ctx.message.from_ if from_header else ctx.message.to
        uri = address.uri
    except ParseError:
        return False
    return HOOKS.is_myself(uri.host, uri.port)


def message_length(ctx: Context) -> int:
    """``msg:len``: of what leaves in an onsend route, else of what came in."""
    return len(ctx.out_data) if ctx.kind == ONSEND else len(ctx.message.raw)


def out_host(ctx: Context) -> str:
    """``to_ip``."""
    flow = ctx.out_flow
    return "" if flow is None else flow.host


def out_port(ctx: Context) -> int:
    """``to_port``."""
    flow = ctx.out_flow
    return 0 if flow is None else flow.port


def out_listener_host(ctx: Context) -> str:
    """``snd_ip``."""
    flow = ctx.out_flow
    return "" if flow is None else flow.listener.host


def out_listener_port(ctx: Context) -> int:
    """``snd_port``."""
    flow = ctx.out_flow
    return 0 if flow is None else flow.listener.port


def out_transport(ctx: Context) -> str:
    """``snd_proto``."""
    flow = ctx.out_flow
    return "" if flow is None else flow.transport


# ---- addresses


def in_network(host: str, network: int, mask: int, size: int) -> bool:
    """True when *host* lies in network/mask of *size* bytes."""
    packed = pack_address(host)
    return len(packed) == size and (int.from_bytes(packed, "big") & mask) == network


class Networks:
    """The networks one condition compares an address with; the answer for an address is remembered."""

    def __init__(self, networks: list[tuple[int, int, int]]) -> None:
        self._networks: Final = networks
        self._known: Final[dict[str, bool]] = {}

    def holds(self, host: str) -> bool:
        """True when *host* lies in one of them."""
        known = self._known.get(host)
        if known is None:
            known = any(in_network(host, network, mask, size) for network, mask, size in self._networks)
            if len(self._known) >= _NETWORKS_KEPT:
                self._known.clear()
            self._known[host] = known
        return known


def parse_network(text: str) -> tuple[int, int, int]:
    """(network, mask, bytes) of ``ip``, ``ip/bits`` or ``ip/mask``. Raises ValueError."""
    address, slash, mask_text = text.partition("/")
    packed = pack_address(address)
    size = len(packed)
    if not size:
        raise ValueError(f"not an address: {text!r}")
    full = (1 << (8 * size)) - 1
    mask = full
    if slash and "." in mask_text:
        mask = int.from_bytes(pack_address(mask_text), "big")
    elif slash:
        if not mask_text.isascii() or not mask_text.isdigit() or int(mask_text) > 8 * size:
            raise ValueError(f"not a network mask: {text!r}; write it as 10.0.0.0/8")
        mask = full ^ (full >> int(mask_text))
    return int.from_bytes(packed, "big") & mask, mask, size


def address_equals(host: str, value: Scalar) -> bool:
    """``src_ip == $x``: an address, a network or a name; undefined and integers never match."""
    if value is None or isinstance(value, int) or not value:
        return False
    if value == host:
        return True
    try:
        network, mask, size = parse_network(value)
    except ValueError:
        return host in HOOKS.resolve(value)
    return in_network(host, network, mask, size)


# ---- running


_last_logged: Final[dict[str, float]] = {}


def log_limited(place: str, text: str, *details: object) -> None:
    """Log an ERROR about *place* at most once a second."""
    now = time.monotonic()
    last = _last_logged.get(place)
    if last is not None and now - last < _LOG_INTERVAL_S:
        return
    if len(_last_logged) > 1000:
        _last_logged.clear()
    _last_logged[place] = now
    log.error(text, *details)


def backend_failed(error: BaseException, function: str, file: str, line: int) -> int:
    """A helper (database, DNS …) failed inside a function: the call is false."""
    log_limited(f"{file}:{line}", "%s:%d: %s: %s", file, line, function, error)
    return -1


def too_deep(file: str, line: int) -> int:
    """A route calls itself for ever: the call is skipped."""
    log_limited(f"{file}:{line}", "%s:%d: more than %d nested route calls", file, line, MAX_DEPTH)
    return -1


def too_many_loops(file: str, line: int) -> None:
    """A while loop ran ``max_while_loops`` times: it ends."""
    log_limited(f"{file}:{line}", "%s:%d: while loop ended after %d rounds", file, line, HOOKS.max_while_loops)


def avp_flag_set(ctx: Context, name: AvpName, bits: int) -> bool:
    """``isavpflagset``: any matching value has the flag."""
    for avp in ctx.avps.find(name):  # noqa: SIM110 - no generator on the hot path
        if avp.flags & bits:
            return True
    return False


def method_of(ctx: Context) -> str:
    """The request's method, the CSeq method of a reply."""
    response = ctx.response
    if response is not None and is_reply(ctx):
        return response.method
    request = ctx.request
    return "" if request is None else request.method


_UNIQUE_START: Final = f"{int(time.time()) & 0xFFFFFFFF:08x}"


class _Unique:
    """Where ``unique`` stands in this process."""

    def __init__(self) -> None:
        self.pid = 0
        self.head = ""
        self.counter = 0


_UNIQUE: Final = _Unique()


def unique() -> str:
    """``@sys.unique``: pid, start time and a counter in hex."""
    here = _UNIQUE
    pid = os.getpid()
    if pid != here.pid:
        here.pid = pid
        here.head = f"{pid & 0xFFFF:04x}-{_UNIQUE_START}-"
    here.counter = (here.counter + 1) & 0xFFFFFFFF
    return here.head + hex(0x100000000 | here.counter)[3:]  # eight digits; a format string costs seven times as much
