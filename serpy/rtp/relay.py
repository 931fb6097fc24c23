"""The media proxies of one module at work: a call's media goes through one of them.

``describe()`` hands a session description to the proxy of the call and puts what comes back into the message;
``end()`` tells it that the call is over. Questions park their handler until the answer or the documented timeout;
other calls go on. A proxy that does not answer is down for everybody until the timer process finds it again.

Runs in: udp receiver (script), timer (tests), ctl (RPC). Locks: none.
"""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from serpy.errors import ConfigError, ProtocolError, ResourceError, UsageError
from serpy.rtp import ng, rtpproxy
from serpy.rtp.flags import Flags
from serpy.rtp.link import ANSWERED, BUSY, Answer, Timeouts, UdpLink, UnixLink, ask_all, tell
from serpy.rtp.nodes import KNOWN, NG, REPACKETIZES, TAKES_CODECS, Node, NodeStates, call_hash, parse_nodes, pick
from serpy.rtp.session import Names, names_of, names_to_end
from serpy.sip.sdp import Sdp, Target, find_sdp, parse_sdp, rewrite, with_mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from serpy.api import Server
    from serpy.context.context import Context
    from serpy.net.loop import Loop
    from serpy.shm.counters import Counters

log = logging.getLogger(__name__)

_MOVED_MAX: Final = 20_000
_REFUSALS_TOLD: Final = 10
_NOTE: Final = "rtp"

# Counters, below the module's name.
_REQUESTS: Final = "rtp_requests"
_TIMEOUTS: Final = "rtp_timeouts"
_ERRORS: Final = "rtp_errors"
_BUSY: Final = "rtp_busy"
_STRAY: Final = "rtp_stray"
_DOWN: Final = "rtp_node_down"
_UP: Final = "rtp_node_up"
_COUNTERS: Final = (
    (_REQUESTS, "questions to media proxies, repetitions not counted"),
    (_TIMEOUTS, "questions that found no answer"),
    (_ERRORS, "questions that a media proxy refused or answered with nonsense"),
    (_BUSY, "questions not asked because too many were waiting for that proxy"),
    (_STRAY, "answers that came too late or with a wrong cookie"),
    (_DOWN, "times a media proxy was found down"),
    (_UP, "times one was found up again"),
)


class RelaySettings:
    """What the parameters say. *disabled*: all proxies are taken out until an administrator puts them in."""

    def __init__(
        self, name: str, protocol: str, sockets: list[str], timeouts: Timeouts, disable_s: float, *,
        disabled: bool = False, test_at_start: bool = True,
    ) -> None:  # fmt: skip
        self.name: Final = name
        self.protocol: Final = protocol
        self.sockets: Final = sockets
        self.timeouts: Final = timeouts
        self.disable_s: Final = disable_s
        self.disabled: Final = disabled
        self.test_at_start: Final = test_at_start


class RtpRelay:
    """The proxies of one module. Made in the master; sockets are opened by each process when it needs them."""

    def __init__(self, server: Server, settings: RelaySettings) -> None:
        self._server: Final = server
        self._settings: Final = settings
        self.nodes: Final = [_resolved(node) for node in parse_nodes(settings.sockets, settings.protocol)]
        segment = getattr(server, "segment", None)
        self.states: Final = NodeStates(segment, f"{settings.name}.rtp", len(self.nodes))
        self._links: Final[dict[int, UdpLink | UnixLink]] = {}
        # Calls that are not where their Call-ID says, because that proxy was down or taken out.
        self._moved: Final[OrderedDict[str, Node]] = OrderedDict()
        self._testing: Final[set[int]] = set()
        self._refusals: Final[dict[int, int]] = {}  # by node: how many in a row
        self._tested = not settings.test_at_start
        self._counters: Counters | None = getattr(server, "counters", None)
        self._ids: Final[dict[str, int]] = {}
        if self._counters is not None:
            for name, text in _COUNTERS:
                self._ids[name] = self._counters.declare(f"{settings.name}.{name}", text)
        if settings.disabled:
            for node in self.nodes:
                self.states.set_out(node, out=True)
        if self.nodes:
            server.hooks.on_tick.append(self.on_tick)

    @property
    def _loop(self) -> Loop:
        return self._server.loop

    def _count(self, what: str, amount: int = 1) -> None:
        if self._counters is not None:
            self._counters.add(self._ids[what], amount)

    # -- which proxy ----------------------------------------------------------------------------------------------

    def home(self, call_id: str) -> Node | None:
        """The proxy that has the call; None when there are no proxies at all."""
        moved = self._moved.get(call_id)
        if moved is not None:
            return moved
        return pick(self.nodes, call_hash(call_id)) if self.nodes else None

    def _candidates(self, call_id: str, flags: Flags, *, is_offer: bool, is_new: bool) -> list[Node]:
        """The proxies to try in this order. An answer must go where the offer went."""
        if 0 <= flags.node < len(self.nodes):
            chosen = self.nodes[flags.node]
            return [] if self.states.is_down(chosen) else [chosen]
        home = self.home(call_id)
        if home is None:
            return []
        states = self.states
        usable = [] if states.is_down(home) or (is_new and states.is_out(home)) else [home]
        if not is_offer or (usable and len(self.nodes) == 1):
            return usable
        left = [
            node for node in self.nodes if node is not home and not states.is_down(node) and not states.is_out(node)
        ]
        number = call_hash(call_id)
        while left:
            node = pick(left, number)
            usable.append(node)
            left.remove(node)
        if is_new and len(usable) > 1 and self._is_suspect(usable[0]):
            usable.append(usable.pop(0))  # do not let new calls wait to find out what others will know soon
        return usable

    def _is_suspect(self, node: Node) -> bool:
        link = self._links.get(node.index)
        return isinstance(link, UdpLink) and link.is_suspect

    def _remember(self, call_id: str, node: Node) -> None:
        self._moved.pop(call_id, None)
        if pick(self.nodes, call_hash(call_id)) is node:
            return
        self._moved[call_id] = node
        if len(self._moved) > _MOVED_MAX:
            self._moved.popitem(last=False)

    # -- a description --------------------------------------------------------------------------------------------

    def describe(self, ctx: Context, flags: Flags, media_address: str, *, is_offer: bool) -> bool:
        """Send the media of the message's description through a proxy; False when nothing was changed. May park.

        Raises ResourceError when too many handlers are parked.
        """
        message = ctx.message
        body = ctx.edits.body
        if body is None:
            body = message.body
        try:
            start, end = find_sdp(message.get("content-type") or "", body)
            names = names_of(message, is_answer=not is_offer)
            if start < 0 or names is None:
                return False
            sdp = parse_sdp(body[start:end])
        except ProtocolError as exc:
            log.debug("no description to relay: %s", exc)
            return False
        if (sdp.is_marked and not flags.force) or not _has_addresses(sdp):
            return False
        is_new = ctx.request is ctx.message and not message.to_tag
        for node in self._candidates(names.call_id, flags, is_offer=is_offer, is_new=is_new):
            try:
                text = self._through(node, ctx, flags, names, sdp, media_address, is_offer=is_offer)
            except ProtocolError as exc:
                self._refused(node, exc)
                continue
            if text:
                self._taken(node)
                if is_offer:
                    self._remember(names.call_id, node)
                _replace_body(ctx, body[:start] + text + body[end:])
                return True
        return False

    def _through(
        self, node: Node, ctx: Context, flags: Flags, names: Names, sdp: Sdp, media_address: str, *, is_offer: bool
    ) -> bytes:
        """The description as *node* wants it, b"" when it does not answer. Raises ProtocolError, ResourceError."""
        if node.protocol == NG:
            request = ng.description(flags, names, sdp.data, ctx.flow.host, media_address, is_offer=is_offer)
            answers = self.ask(node, [request])
            if not answers:
                return b""
            return with_mark(ng.parse_description(answers[0].data))
        commands: list[bytes] = []
        indexes: list[int] = []
        features = self.states.features(node)
        for index, media in enumerate(sdp.medias):
            if not media.is_relayed:
                continue
            written = media.connection
            host = written.host if written is not None and flags.trust else ctx.flow.host
            command = rtpproxy.media_command(
                flags, names, media, index + 1, host, is_offer=is_offer, features=features
            )  # fmt: skip
            commands.append(command.encode("utf-8", "surrogateescape"))
            indexes.append(index)
        if not commands:
            return b""
        answers = self.ask(node, commands)
        if not answers:
            return b""
        targets: dict[int, Target] = {}
        for index, answer in zip(indexes, answers, strict=True):
            target = rtpproxy.parse_media_answer(answer.data, ctx.flow.listener.host)
            if media_address:
                target = Target(media_address, target.port, ":" in media_address)
            targets[index] = target
        return rewrite(sdp, targets, session_connection=flags.session_connection, origin=flags.origin)

    def _refused(self, node: Node, why: ProtocolError) -> None:
        """*node* has refused a call, or answered nonsense. One call says nothing about it, many in a row do."""
        self._count(_ERRORS)
        log.debug("media proxy %s: %s", node, why)
        count = self._refusals[node.index] = self._refusals.get(node.index, 0) + 1
        if count == _REFUSALS_TOLD:
            log.warning("media proxy %s has refused %d calls in a row: %.200s", node, count, why)

    def _taken(self, node: Node) -> None:
        if self._refusals.pop(node.index, 0) >= _REFUSALS_TOLD:
            log.warning("media proxy %s takes calls again", node)

    # -- the end of a session, recording ---------------------------------------------------------------------------

    def end(self, ctx: Context) -> bool:
        """Tell the proxy that the call is over, without waiting for its answer; False when it cannot be told."""
        return self._tell(ctx, rtpproxy.delete_command, ng.delete, forget=True)

    def record(self, ctx: Context) -> bool:
        """Have the proxy record the call, likewise without waiting."""
        return self._tell(ctx, rtpproxy.record_command, ng.record, forget=False)

    def _tell(
        self, ctx: Context, command: Callable[[Names], str], request: Callable[[Names], bytes], *, forget: bool
    ) -> bool:
        try:
            names = names_to_end(ctx.message)
        except ProtocolError:
            return False
        node = self.home(names.call_id) if names is not None else None
        if names is None or node is None:
            return False
        if forget:
            self._moved.pop(names.call_id, None)
            _restore_body(ctx)
        if self.states.is_down(node):
            return False  # its sessions are gone, or end by themselves without packets
        payload = request(names) if node.protocol == NG else command(names).encode("utf-8", "surrogateescape")
        self._count(_REQUESTS)
        if tell(self.link(node), payload):
            return True
        self._count(_BUSY)
        return False

    # -- questions ------------------------------------------------------------------------------------------------

    def link(self, node: Node) -> UdpLink | UnixLink:
        """Our connection to *node*, made at the first use."""
        link = self._links.get(node.index)
        if link is None:
            timeouts = self._settings.timeouts
            most = max(1, self._loop.waiters.media.limit // min(2, len(self.nodes)))
            if node.path:
                link = UnixLink(self._loop, node, timeouts, most, self._silent)
            else:
                link = UdpLink(self._loop, node, timeouts, most, self._silent, lambda: self._count(_STRAY))
            self._links[node.index] = link
        return link

    def ask(self, node: Node, payloads: list[bytes]) -> list[Answer]:
        """The answers of *node* to all *payloads*; [] unless it answered every one. Raises ResourceError."""
        self._count(_REQUESTS, len(payloads))
        answers = ask_all(self._loop, self.link(node), payloads)
        for answer in answers:
            if answer.outcome != ANSWERED:
                self._count(_BUSY if answer.outcome == BUSY else _TIMEOUTS)
                return []
        return answers

    def _silent(self, node: Node) -> None:
        """*node* does not answer."""
        self._set_down(node, "does not answer")

    def _set_down(self, node: Node, why: str) -> None:
        # To be tested at the next tick: it may have been the question.
        if self.states.set_down(node, self._loop.now()):
            self._count(_DOWN)
            log.error("media proxy %s %s: calls go on without it", node, why)
        link = self._links.get(node.index)
        if isinstance(link, UdpLink):
            link.give_up()

    # -- tests, in the timer process ------------------------------------------------------------------------------

    def on_tick(self, now: float, _wall_now: float) -> None:
        """Test what is down and due; when all are down, all of them every time."""
        states = self.states
        at_start = not self._tested
        self._tested = True
        all_down = all(states.is_down(node) or states.is_out(node) for node in self.nodes)
        for node in self.nodes:
            due = at_start or (states.is_down(node) and (all_down or states.test_at(node) <= now))
            if due and node.index not in self._testing and not states.is_out(node):
                self._testing.add(node.index)
                states.test_later(node, now + self._settings.disable_s)
                self._loop.spawn(lambda node=node: self._test(node))  # type: ignore[misc]  # mypy cannot infer it

    def _test(self, node: Node) -> None:
        try:
            features = self._features(node)
        except ResourceError:
            features = 0
        finally:
            self._testing.discard(node.index)
        if features and self.states.set_up(node, features):
            self._count(_UP)
            log.warning("media proxy %s answers again", node)

    def _features(self, node: Node) -> int:
        """What *node* can; 0 when it does not answer or is of no use. Parks."""
        if node.protocol == NG:
            answers = self.ask(node, [ng.PING])
            if answers and not ng.is_pong(answers[0].data):
                self._set_down(node, "answers a ping with something else")
                return 0
            return KNOWN if answers else 0
        questions = (rtpproxy.VERSION, rtpproxy.BASIC, rtpproxy.REPACKETIZE, rtpproxy.CODECS)
        answers = []
        for question in questions:
            one = self.ask(node, [question.encode("ascii")])
            if not one:
                return 0
            answers.extend(one)
        said = [answer.data.strip(b" \t\r\n\0") for answer in answers]
        if said[0] != rtpproxy.VERSION_WANTED or said[1] != b"1":
            self._set_down(node, "does not speak the protocol of rtpproxy we need")
            return 0
        return KNOWN | (REPACKETIZES if said[2] == b"1" else 0) | (TAKES_CODECS if said[3] == b"1" else 0)

    # -- RPC ------------------------------------------------------------------------------------------------------

    def list_nodes(self) -> list[dict[str, object]]:
        """The media proxies: which are up, down or taken out, their weights and features."""
        rows: list[dict[str, object]] = []
        for node in self.nodes:
            features = self.states.features(node)
            state = "out" if self.states.is_out(node) else "down" if self.states.is_down(node) else "up"
            row: dict[str, object] = {
                "index": node.index,
                "socket": node.text,
                "protocol": node.protocol,
                "weight": node.weight,
                "state": state,
                "tested": "yes" if features else "no",
            }
            if state == "down":
                row["test_in"] = max(0, int(self.states.test_at(node) - self._loop.now()))
            rows.append(row)
        return rows

    def enable(self, node: str) -> int:
        """Put a media proxy (index, socket or all) back in; gives how many."""
        return self._switch(node, out=False)

    def disable(self, node: str) -> int:
        """Take a media proxy (index, socket or all) out: calls it has stay, new ones go elsewhere; gives how many."""
        return self._switch(node, out=True)

    def _switch(self, name: str, *, out: bool) -> int:
        chosen = [node for node in self.nodes if name in {"all", node.text, str(node.index)}]
        if not chosen:
            raise UsageError(f"no media proxy {name!r}: give an index, a socket as configured, or all")
        for node in chosen:
            self.states.set_out(node, out=out)
        return len(chosen)


class _Replaced:
    """A body we have put in, and what was there before (None: the one received)."""

    def __init__(self, before: bytes | None, after: bytes) -> None:
        self.before: Final = before
        self.after: Final = after


def _replace_body(ctx: Context, body: bytes) -> None:
    before = ctx.edits.body
    earlier = ctx.notes.get(_NOTE)
    if isinstance(earlier, _Replaced) and earlier.after is before:
        before = earlier.before
    ctx.notes[_NOTE] = _Replaced(before, body)
    ctx.edits.body = body


def _restore_body(ctx: Context) -> None:
    """Take our body out again: the next branch of a failure route must not offer ports of a session that has ended."""
    earlier = ctx.notes.pop(_NOTE, None)
    if isinstance(earlier, _Replaced) and earlier.after is ctx.edits.body:
        ctx.edits.body = earlier.before


def _has_addresses(sdp: Sdp) -> bool:
    """True when every media a proxy would carry has a c=."""
    return all(media.connection is not None for media in sdp.medias if media.is_relayed)


def _resolved(node: Node) -> Node:
    """*node* with an address instead of a name. Raises ConfigError."""
    if node.path:
        return node
    try:
        address = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_DGRAM)[0][4]
    except (OSError, UnicodeError):
        raise ConfigError(
            f"media proxy {node.text}: no address for {node.host!r}", hint="write its IP address"
        ) from None  # fmt: skip
    return Node(node.index, node.text, node.protocol, str(address[0]), node.port, "", node.weight)
