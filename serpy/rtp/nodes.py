"""The media proxies a module was given: their addresses, which one a call uses, which are up.

The state of each proxy stands in shared memory, so a process that finds one dead tells all others, and only it logs.
A call's proxy follows from its Call-ID and the weights; proxies that come and go do not move the calls of the others.

Runs in: master (parsing), udp receiver, timer, ctl. Locks: none; each state is one word, written whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serpy.errors import ConfigError

if TYPE_CHECKING:
    from serpy.shm.segment import Segment

RTPPROXY: Final = "rtpproxy"
NG: Final = "ng"
DEFAULT_PORT: Final = 22222
NODES_MAX: Final = 64
WEIGHT_MAX: Final = 1000
_PATH_MAX: Final = 107  # bytes of sun_path

# Words of a node's state.
_DOWN_UNTIL: Final = 0  # milliseconds of the monotonic clock, 0 = up
_BY_HAND: Final = 1  # 1 = an administrator has taken it out
_FEATURES: Final = 2
_WORDS: Final = 8  # one cache line

KNOWN: Final = 1  # it has told its features
REPACKETIZES: Final = 2
TAKES_CODECS: Final = 4


class Node:
    """One media proxy. *path* is that of its Unix socket, "" for UDP to *host* and *port*."""

    def __init__(self, index: int, text: str, protocol: str, host: str, port: int, path: str, weight: int) -> None:
        self.index: Final = index
        self.text: Final = text
        self.protocol: Final = protocol
        self.host: Final = host
        self.port: Final = port
        self.path: Final = path
        self.weight: Final = weight

    def __repr__(self) -> str:
        return self.text


def parse_nodes(texts: list[str], protocol: str) -> list[Node]:
    """The nodes of parameter values: words such as ``udp:host:port``, ``unix:/path``, ``ng:host:port``, each with
    ``=weight`` behind it. *protocol* is what ``udp:`` means. Raises ConfigError.
    """
    nodes: list[Node] = []
    for text in texts:
        for word in text.split():
            nodes.append(_parse(len(nodes), word, protocol))
    if len(nodes) > NODES_MAX:
        raise ConfigError(f"{len(nodes)} media proxies, at most {NODES_MAX} are possible")
    return nodes


def _parse(index: int, word: str, protocol: str) -> Node:
    address, equals, weight_text = word.rpartition("=")
    weight = 1
    if not equals:
        address = word
    elif (
        weight_text.isascii() and weight_text.isdigit() and len(weight_text) <= 4 and 0 < int(weight_text) <= WEIGHT_MAX
    ):
        weight = int(weight_text)
    else:
        raise ConfigError(f"media proxy {word!r}: the weight is a number from 1 to {WEIGHT_MAX}")
    scheme, colon, rest = address.partition(":")
    if address.startswith("/"):
        scheme, rest = "unix", address
    elif not colon:
        scheme, rest = "udp", address
    if scheme in {"unix", "cunix"}:
        if protocol == NG:
            raise ConfigError(f"media proxy {word!r}: rtpengine is controlled over UDP", hint="udp:HOST:PORT")
        if not 0 < len(rest.encode()) <= _PATH_MAX:
            raise ConfigError(f"media proxy {word!r}: the path of a socket has 1 to {_PATH_MAX} bytes")
        return Node(index, address, RTPPROXY, "", 0, rest, weight)
    if scheme in {"ng", "rtpengine", "ng6"}:
        protocol = NG
    elif scheme not in {"udp", "udp6"}:
        raise ConfigError(
            f"media proxy {word!r}: unknown kind {scheme!r}",
            hint="udp:HOST:PORT or unix:PATH for rtpproxy, ng:HOST:PORT for rtpengine",
        )
    host, port = _host_and_port(word, rest)
    return Node(index, address, protocol, host, port, "", weight)


def _host_and_port(word: str, text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, port_text = text[1:].partition("]")
        port_text = port_text.removeprefix(":")
    elif text.count(":") > 1:
        host, port_text = text, ""
    else:
        host, _, port_text = text.partition(":")
    if not host:
        raise ConfigError(f"media proxy {word!r} has no host")
    if not port_text:
        return host, DEFAULT_PORT
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 0 < int(port_text) <= 65535):
        raise ConfigError(f"media proxy {word!r}: bad port")
    return host, int(port_text)


class NodeStates:
    """Which of the nodes are up, for all processes. Instants are monotonic seconds, the same in all of them."""

    def __init__(self, segment: Segment | None, name: str, count: int) -> None:
        size = max(1, count) * _WORDS * 8
        area = memoryview(bytearray(size)) if segment is None else segment.allocate(name, size)
        self._words: Final = area.cast("q")

    def is_down(self, node: Node) -> bool:
        """True after a failure, until a test succeeds."""
        return self._words[node.index * _WORDS + _DOWN_UNTIL] != 0

    def is_out(self, node: Node) -> bool:
        """True when an administrator has taken it out: calls it has stay, new ones go elsewhere."""
        return self._words[node.index * _WORDS + _BY_HAND] != 0

    def test_at(self, node: Node) -> float:
        """When a node that is down shall be tested; 0 when it is up."""
        return float(self._words[node.index * _WORDS + _DOWN_UNTIL]) / 1000.0

    def set_down(self, node: Node, test_at: float) -> bool:
        """Say that it does not answer, to be tested at *test_at*; False when that is known, then nothing changes."""
        if self.is_down(node):
            return False
        self._words[node.index * _WORDS + _DOWN_UNTIL] = max(1, int(test_at * 1000.0))
        return True

    def test_later(self, node: Node, test_at: float) -> None:
        """Put off the next test of a node that is down."""
        if self.is_down(node):
            self._words[node.index * _WORDS + _DOWN_UNTIL] = max(1, int(test_at * 1000.0))

    def set_up(self, node: Node, features: int) -> bool:
        """Say that it answers and what it can; True when it was down so far."""
        was_down = self.is_down(node)
        self._words[node.index * _WORDS + _FEATURES] = features
        self._words[node.index * _WORDS + _DOWN_UNTIL] = 0
        return was_down

    def set_out(self, node: Node, out: bool) -> None:
        """Take it out, or back in."""
        self._words[node.index * _WORDS + _BY_HAND] = int(out)
        if not out and self.is_down(node):
            self._words[node.index * _WORDS + _DOWN_UNTIL] = 1  # to be tested at once

    def features(self, node: Node) -> int:
        """What it has told it can; 0 before it was asked."""
        return self._words[node.index * _WORDS + _FEATURES]


def call_hash(call_id: str) -> int:
    """What chooses the node: the sum of the bytes of the Call-ID, eight bits of it."""
    return sum(call_id.encode("utf-8", "surrogateescape")) & 0xFF


def pick(nodes: list[Node], number: int) -> Node:
    """The node of *nodes* (not empty) that *number* falls to by their weights."""
    total = 0
    for node in nodes:
        total += node.weight
    left = number % total
    for node in nodes:
        if left < node.weight:
            return node
        left -= node.weight
    return nodes[-1]
